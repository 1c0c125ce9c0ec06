"""Exports on a Dask cluster within one rate limit, through the loss of a worker; and shards without Dask.

    python -m unpod_async.testing.demos.cluster

starts a sandbox with a limit on requests and a cluster of two worker processes. It exports once, and measures
the requests at the server. Then it exports again to another directory, and kills a worker in the middle
(SIGKILL). At last it exports the same plan with four processes of `unpod-async export --shard`, kills one and
runs it again. Each data set is compared with the rows of the sandbox.

The exit status is 0 if all is as it must be, 1 if not or after an error, 130 after Ctrl-C. The demo needs the
extras `cli` and `dask`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from unpod_async import ExportPlan, ExportProgress, ExportSummary, Task, merge_shards
from unpod_async.testing.demos.export_process import print_lines
from unpod_async.testing.demos.running import run_demo
from unpod_async.testing.sandbox import Sandbox

__all__ = ["count_words", "main"]

_BURST: Final = 5
"""Requests of the cluster that may start at once. The sandbox allows twice as many."""
_SLOWEST: Final = 1.25
"""Times the ideal time that the export may take."""
_EXCESS: Final = 1.05
"""Times the limit that may arrive in a second, beside one burst."""


def count_words(task: Task) -> Iterator[dict[str, Any]]:
    """Yield the number of words of a transcript, for the second table."""
    call = task.call
    text = (call.transcript or "") if call is not None else ""
    yield {"words": len(text.split())}


class Expected:
    """What a data set of the sandbox must contain."""

    def __init__(self, sandbox: Sandbox, words: Counter[tuple[str, int]]) -> None:
        self.runs: list[str] = sorted(sandbox.run_ids())
        self.tasks: list[str] = sorted(sandbox.task_ids())
        self.words: Counter[tuple[str, int]] = words

    def problems(self, target: Path, summary: ExportSummary) -> list[str]:
        """Return what is wrong with a data set."""
        problems: list[str] = []
        if not summary.complete or (summary.runs, summary.tasks) != (len(self.runs), len(self.tasks)):
            problems.append(f"the summary says {summary.runs} runs and {summary.tasks} tasks")
        for kind, key, ids in (("runs", "run_id", self.runs), ("tasks", "task_id", self.tasks)):
            found = sorted(row[key] for row in _rows(target / kind))
            if found != ids:
                problems.append(f"{kind} has {len(found)} rows, and {len(ids)} are expected")
        return problems

    def problems_of_words(self, target: Path) -> list[str]:
        """Return what is wrong with the second table."""
        found = Counter((row["task_id"], row["words"]) for row in _rows(target / "processed"))
        return [] if found == self.words else [f"processed has {found.total()} rows, or wrong ones"]


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


class Demo:
    """A sandbox with a limit, a plan for it, and what was wrong so far."""

    def __init__(
        self, sandbox: Sandbox, plan: ExportPlan, expected: Expected, rate: float, out: IO[str]
    ) -> None:
        self.problems: list[str] = []
        self._sandbox = sandbox
        self._plan = plan
        self._expected = expected
        self._rate = rate
        self._out = out

    # -- on a cluster -------------------------------------------------------------------------------------

    async def on_cluster(self, folder: Path) -> None:
        dask: Any = importlib.import_module("distributed")
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # a killed worker is part of the demo
        began = time.monotonic()
        async with (
            dask.LocalCluster(
                n_workers=2, threads_per_worker=2, processes=True, asynchronous=True, dashboard_address=":0"
            ) as cluster,
            dask.Client(cluster, asynchronous=True) as client,
        ):
            seconds = time.monotonic() - began
            self._print(f"a cluster of 2 worker processes has started in {seconds:.1f} s", "")
            await self._measure(folder / "first", client)
            await self._kill_a_worker(folder / "second", client)

    async def _measure(self, target: Path, dask: Any) -> None:
        """Export, and compare the requests with the limit."""
        earlier = len(self._sandbox.log)
        began = time.monotonic()
        summary = await self._export(target, dask)
        seconds = time.monotonic() - began
        received = self._sandbox.log[earlier:]
        ideal = len(received) / self._rate
        most = most_in_a_second([request.arrived for request in received])
        allowed = self._rate * _EXCESS + _BURST
        refused = sum(request.status == 429 for request in received)
        self._print(
            f"exported {summary.runs:,} runs and {summary.tasks:,} tasks",
            f"  requests                   {len(received):>8,}",
            f"  seconds                    {seconds:>8.1f}",
            f"  seconds of an ideal one    {ideal:>8.1f}   ratio {seconds / ideal:.2f}, at most {_SLOWEST}",
            f"  most in one second         {most:>8}   at most {allowed:.0f}",
            f"  refused with 429           {refused:>8}",
        )
        if seconds > ideal * _SLOWEST:
            self.problems.append("the export took too long")
        if most > allowed:
            self.problems.append("too many requests arrived in one second")
        if refused:
            self.problems.append("the server refused requests")
        self._check(target, summary, processed=True)

    async def _kill_a_worker(self, target: Path, dask: Any) -> None:
        """Export, kill a worker that has a shard, and check that nothing is missing."""
        pids: Mapping[str, int] = await dask.run(os.getpid)
        fetching = asyncio.Event()

        def watch(_shard: int, progress: ExportProgress) -> None:
            if progress.phase == "fetching" and progress.runs_done:
                fetching.set()

        exporting = asyncio.ensure_future(self._export(target, dask, watch))
        await asyncio.wait({exporting, asyncio.ensure_future(fetching.wait())}, return_when="FIRST_COMPLETED")
        if exporting.done():
            self.problems.append("the export ended before a worker was killed")
            await exporting
            return
        busy: Mapping[str, Sequence[str]] = await dask.processing()
        worker = max(pids, key=lambda address: len(busy.get(address, ())))
        os.kill(pids[worker], signal.SIGKILL)
        lost = len(busy[worker])
        self._print("", f"A WORKER IS KILLED (SIGKILL) with {lost} {'shard' if lost == 1 else 'shards'}")
        summary = await exporting
        self._print(f"exported {summary.runs:,} runs and {summary.tasks:,} tasks")
        self._check(target, summary, processed=True)

    async def _export(self, target: Path, dask: Any, on_progress: Any = None) -> ExportSummary:
        from unpod_async.distributed import export

        return await export(
            self._plan,
            target,
            dask,
            rate_limit=self._rate,
            burst=_BURST,
            process=count_words,
            on_progress=on_progress,
            page_size=_PAGE_SIZE,
        )

    # -- without a cluster --------------------------------------------------------------------------------

    async def with_processes(self, folder: Path) -> None:
        """Export each shard with a process, of which one is killed and run again."""
        plan, target = folder / "plan.json", folder / "third"
        self._plan.save(plan)
        processes = [await self._start(plan, shard, target) for shard in range(self._plan.shards)]
        state = target / "_shards" / "00000" / ".unpod-export"
        async with asyncio.timeout(60):
            while not state.exists():  # noqa: ASYNC110 - another process creates it
                await asyncio.sleep(0.02)
        if processes[0].returncode is None:
            processes[0].kill()
        statuses = [await process.wait() for process in processes]
        killed = statuses[0] != 0
        self._print(
            "", f"{len(processes)} processes, each with a shard: statuses {', '.join(map(str, statuses))}"
        )
        if not killed:
            self.problems.append("shard 0 ended before it was killed")
        again = await self._start(plan, 0, target)
        self._print(f"shard 0 again: status {await again.wait()}")
        summary = await merge_shards(self._plan, target)
        self._print(f"merged {summary.runs:,} runs and {summary.tasks:,} tasks")
        self._check(target, summary, processed=False)

    async def _start(self, plan: Path, shard: int, target: Path) -> asyncio.subprocess.Process:
        command = ("-m", "unpod_async", "export", "--plan", str(plan), "--shard", str(shard), str(target))
        return await asyncio.create_subprocess_exec(
            sys.executable, *command, "--page-size", str(_PAGE_SIZE), stdout=DEVNULL, stderr=DEVNULL
        )

    # -- results ------------------------------------------------------------------------------------------

    def _check(self, target: Path, summary: ExportSummary, *, processed: bool) -> None:
        problems = self._expected.problems(target, summary)
        if processed:
            problems += self._expected.problems_of_words(target)
        self._print(*(f"WRONG: {problem}" for problem in problems))
        if not problems:
            second = ", and their second table" if processed else ""
            self._print(f"exact: each run and each task is in the data set once{second}")
        self.problems += problems

    def _print(self, *lines: str) -> None:
        print_lines(self._out, *lines)


_PAGE_SIZE: Final = 5
"""Rows per request. Small, so that there are many requests."""


def most_in_a_second(arrivals: Sequence[float]) -> int:
    """Return the largest number of arrivals, which are sorted, in any window of one second."""
    return max(
        (bisect_left(arrivals, arrival + 1) - index for index, arrival in enumerate(arrivals)), default=0
    )


async def run(options: argparse.Namespace, out: IO[str]) -> int:
    """Run the demo, and return its exit status."""
    sandbox = Sandbox(
        runs=options.runs, tasks_per_run=(1, 8), seed=options.seed, rate_limit=options.rate, burst=2 * _BURST
    )
    with sandbox, tempfile.TemporaryDirectory(prefix="unpod-demo-") as folder:
        # The processes of the cluster and of the shards read the key from their environment.
        os.environ["UNPOD_PLATFORM_TOKEN"] = sandbox.token
        os.environ["UNPOD_ORG_HANDLE"] = sandbox.org_handle
        os.environ["UNPOD_PLATFORM_BASE_URL"] = sandbox.base_url
        async with sandbox.client() as unpod:
            plan = await unpod.plan_export(sandbox.space_token, shards=4)
            tasks = await unpod.tasks.list(sandbox.space_token).collect()
        words = Counter((task.task_id or "", row["words"]) for task in tasks for row in count_words(task))
        print_lines(
            out,
            f"a sandbox with {options.runs:,} runs, {len(tasks):,} tasks and a limit of {options.rate:g} "
            "requests per second",
            f"a plan with {plan.shards} shards",
        )
        demo = Demo(sandbox, plan, Expected(sandbox, words), options.rate, out)
        await demo.on_cluster(Path(folder))
        await demo.with_processes(Path(folder))
    print_lines(out, "", *(f"FAILED: {problem}" for problem in demo.problems))
    if not demo.problems:
        print_lines(out, "All data sets are exact, and the limit was kept.")
    return int(bool(demo.problems))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m unpod_async.testing.demos.cluster",
        description="Export on a Dask cluster within a limit on requests, and kill a worker.",
        epilog="Exit status: 0 if all is as it must be, 1 if not or on an error, 130 after Ctrl-C.",
    )
    parser.add_argument("--runs", type=int, default=250, help="runs of the sandbox (%(default)s)")
    parser.add_argument("--rate", type=float, default=50, help="requests per second (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the sandbox (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, and return its exit status."""
    options = _options(arguments)
    return run_demo(lambda out: run(options, out), {"cli": ("typer",), "dask": ("distributed",)})


if __name__ == "__main__":
    sys.exit(main())
