"""Count the modules that the client passes through for one page, and for one small export.

    python benchmarks/call_path.py                        # both jobs, checked against their limits
    python benchmarks/call_path.py page                   # one page in the middle of `runs.tasks`
    python benchmarks/call_path.py export --verbose       # also print the sequence of modules
    python benchmarks/call_path.py export --modules       # also print how often each module is entered

A profiler (`sys.setprofile`) records every Python function of `unpod_async` that is entered or resumed, in
every thread. The sandbox that serves the data runs in a process of its own and is not counted; neither are
other libraries. The columns of the table:

* packages: packages directly below `unpod_async` that were entered. Single modules such as `models` and
  `errors` lie in none.
* modules: distinct modules that were entered.
* switches: how often the next recorded call is in another module than the one before it, counted for each
  thread by itself. Returning to the caller is not counted until the caller enters the next function.

The exit status is 1 if a number is above its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import unpod_async
from unpod_async import UnpodClient

ROOT = Path(unpod_async.__file__).resolve().parent
TASKS = 10
PAGE_SIZE = 4


class Limits(NamedTuple):
    """The highest number of each that is accepted."""

    packages: int
    modules: int
    switches: int


LIMITS = {"page": Limits(5, 14, 30), "export": Limits(9, 35, 300)}


class Visit(NamedTuple):
    """One function call, or one resumption of a coroutine or generator."""

    module: str
    function: str


class Recorder:
    """Records the functions of the client that are entered between `start` and `stop`, in every thread."""

    def __init__(self) -> None:
        self.by_thread: dict[int, list[Visit]] = collections.defaultdict(list)
        self._modules: dict[str, str | None] = {}

    def start(self) -> None:
        """Start to record in this thread, and in every thread that starts from now on."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def stop(self) -> None:
        """Stop recording in this thread, and in threads that start from now on."""
        sys.setprofile(None)
        threading.setprofile(None)

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        try:
            module = self._modules[code.co_filename]
        except KeyError:
            module = self._modules[code.co_filename] = module_of(code.co_filename)
        if module is not None:
            self.by_thread[threading.get_ident()].append(Visit(module, code.co_qualname))


def module_of(filename: str) -> str | None:
    """Return the name of a module of the client, relative to `unpod_async`; None for all other code."""
    try:
        path = Path(filename).resolve().relative_to(ROOT)
    except ValueError:
        return None
    return None if path.parts[0] == "testing" else ".".join(path.with_suffix("").parts)


class CallPath:
    """What a `Recorder` found."""

    def __init__(self, recorder: Recorder) -> None:
        self.threads = [visits for visits in recorder.by_thread.values() if visits]

    def runs(self, visits: list[Visit]) -> Iterator[tuple[str, list[str]]]:
        """Yield each module in turn, with the functions that were entered before the next one."""
        for module, group in itertools.groupby(visits, key=lambda visit: visit.module):
            yield module, [visit.function for visit in group]

    @property
    def entries(self) -> collections.Counter[str]:
        """How often each module was switched to."""
        return collections.Counter(module for visits in self.threads for module, _ in self.runs(visits))

    @property
    def measured(self) -> Limits:
        """The numbers to hold against the limits."""
        entries = self.entries
        packages = {module.partition(".")[0] for module in entries if "." in module}
        switches = sum(entries.values()) - len(self.threads)
        return Limits(len(packages), len(entries), switches)


@contextlib.asynccontextmanager
async def serve() -> AsyncIterator[tuple[str, str, str]]:
    """Run a sandbox with one run in a process of its own; yield its address, token and space token."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--serve"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the sandbox has no pipes")
    try:
        base_url, token, space = (await process.stdout.readline()).decode().split()
        yield base_url, token, space
    finally:
        process.stdin.close()
        await process.wait()


async def run_sandbox() -> None:
    """Serve one run of ten tasks until stdin is closed."""
    from unpod_async.testing import Sandbox

    async with Sandbox(runs=1, tasks_per_run=TASKS, seed=1, idle_close=60) as sandbox:
        print(sandbox.base_url, sandbox.token, sandbox.space_token, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def page(client: UnpodClient, space: str) -> Recorder:
    """Read the second page of three. The client has read the same pages before."""
    (run,) = await client.runs.list(space).collect()
    pager = client.runs.tasks(space, run.run_id or "", page_size=PAGE_SIZE)
    await pager.collect()
    pages = pager.pages()
    await anext(pages)
    recorder = Recorder()
    recorder.start()
    second = await anext(pages)
    recorder.stop()
    await pages.aclose()
    if len(second.items) != PAGE_SIZE:
        raise RuntimeError(f"{len(second.items)} tasks instead of {PAGE_SIZE}")
    return recorder


async def export(client: UnpodClient, space: str) -> Recorder:
    """Export one run into an empty directory. The client has exported it into another one before."""
    with tempfile.TemporaryDirectory() as folder:
        await client.export(space, Path(folder, "first"))
        # Only threads that start after the recorder are recorded: replace those of the first export.
        loop = asyncio.get_running_loop()
        await loop.shutdown_default_executor()
        with ThreadPoolExecutor() as threads:
            loop.set_default_executor(threads)
            recorder = Recorder()
            recorder.start()
            summary = await client.export(space, Path(folder, "second"))
            recorder.stop()
        if summary.tasks != TASKS:
            raise RuntimeError(f"{summary.tasks} tasks instead of {TASKS}")
    return recorder


JOBS = {"page": page, "export": export}


async def record(name: str) -> CallPath:
    """Run one job against a fresh sandbox."""
    async with serve() as (base_url, token, space), UnpodClient(token, base_url=base_url) as client:
        return CallPath(await JOBS[name](client, space))


def show_sequence(path: CallPath) -> None:
    for number, visits in enumerate(path.threads, 1):
        print(f"  thread {number}")
        for module, functions in path.runs(visits):
            print(f"    {module:32} {', '.join(functions)}")


def main() -> int:
    parser = argparse.ArgumentParser(description="modules that one page and one export pass through")
    parser.add_argument("jobs", nargs="*", choices=[[], *JOBS], help="the jobs to record (default: all)")
    parser.add_argument("--verbose", action="store_true", help="print the sequence of modules and functions")
    parser.add_argument("--modules", action="store_true", help="print how often each module is switched to")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(run_sandbox())
        return 0
    good = True
    print(f"{'job':8}  {'packages':>12}  {'modules':>12}  {'switches':>12}")
    for name in options.jobs or JOBS:
        path = asyncio.run(record(name))
        limits = LIMITS[name]
        good = good and all(number <= limit for number, limit in zip(path.measured, limits, strict=True))
        cells = [f"{number} of {limit}" for number, limit in zip(path.measured, limits, strict=True)]
        print(f"{name:8}  " + "  ".join(f"{cell:>12}" for cell in cells))
        if options.modules:
            for module, times in path.entries.most_common():
                print(f"  {times:5}  {module}")
        if options.verbose:
            show_sequence(path)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
