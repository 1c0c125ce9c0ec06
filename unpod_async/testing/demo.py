"""The client's main job on real input: every task of every run of a space, into a JSONL file.

    python -m unpod_async.testing.demo --runs 2000 --tasks-per-run 1..20

starts a sandbox in a process of its own, streams its tasks through `runs.tasks_for` into the file, and then
compares the file with the data set: it must hold every task once, saying what the server said. Ends with
status 0 if it does, 1 if it does not or something failed, 130 after Ctrl-C.

The lines are written from the decoded tasks, because that is how most programs use the client. They say what
the server said, but not byte for byte: the fields of `Task` that a row did not have stand there as null, and
a key that `Task` does not know would be missing. An export that needs the very bytes takes them from
`runs.tasks(space_token, run_id).raw()`.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec

from unpod_async import UnpodClient, UnpodError
from unpod_async.testing._process import SandboxProcess, fingerprint

__all__ = ["main"]

_BUFFER: Final = 2**20
"""Bytes gathered before they go to the disk: small writes would be the loop's longest waits."""


class Export(NamedTuple):
    """What came through, and how long it took."""

    rows: int
    runs: int
    size: int
    seconds: float


class Difference(NamedTuple):
    """How a file differs from the data set; in lines."""

    missing: int
    foreign: int
    repeated: int

    def __str__(self) -> str:
        return f"missing {self.missing:,}, not in the data set {self.foreign:,}, repeated {self.repeated:,}"


class Progress:
    """One line that is overwritten on a terminal; elsewhere a line for each tenth of the work."""

    def __init__(self, out: IO[str], tasks: int, runs: int) -> None:
        self._out = out
        self._tasks = tasks
        self._runs = runs
        self._terminal = out.isatty()
        self._last = 0, 0
        self._step = max(tasks / 10, 1)
        self._started_at = time.monotonic()
        # On a terminal a time, elsewhere a number of rows.
        self._due = 0.0 if self._terminal else self._step

    def show(self, rows: int, runs: int) -> None:
        """Called for every row; writes when there is something new for the eye."""
        self._last = rows, runs
        now = time.monotonic()
        if self._terminal:
            if now < self._due:
                return
            self._due = now + 0.1
        else:
            if rows < self._due:
                return
            self._due += self._step
        self._write()

    def _write(self) -> None:
        rows, runs = self._last
        rate = rows / max(time.monotonic() - self._started_at, 1e-9)
        text = (
            f"{rows / max(self._tasks, 1):4.0%} | {rows:,}/{self._tasks:,} tasks"
            f" | {runs:,}/{self._runs:,} runs | {rate:,.0f}/s"
        )

        if self._terminal:
            # One column less: some terminals wrap when the last one is written to.
            width = shutil.get_terminal_size().columns - 1
            self._out.write("\r" + text[:width].ljust(width))
        else:
            self._out.write(text.strip() + "\n")
        self._out.flush()

    def end(self) -> None:
        """Bring the line up to date and leave it there."""
        if self._terminal:
            self._write()
            self._out.write("\n")
            self._out.flush()


async def export(unpod: UnpodClient, space_token: str, path: Path, progress: Progress) -> Export:
    """Write each task of the space as a line of JSON."""
    rows = size = 0
    runs: set[str | None] = set()
    buffer = bytearray()
    started_at = time.monotonic()
    with path.open("wb") as file:
        async with unpod.runs.tasks_for(space_token) as stream:
            async for task in stream:
                buffer += msgspec.json.encode(task) + b"\n"
                rows += 1
                runs.add(task.run_id)
                progress.show(rows, len(runs))
                if len(buffer) >= _BUFFER:
                    size += file.write(buffer)
                    buffer.clear()
        size += file.write(buffer)
    return Export(rows, len(runs), size, time.monotonic() - started_at)


def compare(path: Path, expected: set[str]) -> Difference:
    """The lines of the file against the fingerprints of the data set."""
    met: set[str] = set()
    foreign = repeated = 0
    with path.open("rb") as file:
        for line in file:
            try:
                found = fingerprint(msgspec.json.decode(line))
            except msgspec.DecodeError:
                found = ""
            if found not in expected:
                foreign += 1
            elif found in met:
                repeated += 1
            met.add(found)
    return Difference(len(expected - met), foreign, repeated)


def spoil(path: Path) -> None:
    """Cut the last line off."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))


async def run(options: argparse.Namespace, out: IO[str]) -> int:
    """The whole demonstration; the exit status."""
    path: Path = options.out
    part = _part(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sandbox = SandboxProcess(
        runs=options.runs, tasks_per_run=options.tasks_per_run, latency=options.latency, seed=options.seed
    )
    async with sandbox:
        where = sandbox.where
        out.write(f"A sandbox with {where.runs:,} runs listens on {where.base_url}\n")
        out.flush()
        async with UnpodClient(
            where.token, where.org_handle, where.base_url, page_size=options.page_size
        ) as unpod:
            tasks = await unpod.tasks.list(where.space_token).count()
            runs = await unpod.runs.list(where.space_token).count()
            before = await sandbox.requests()
            progress = Progress(out, tasks, runs)
            try:
                done = await export(unpod, where.space_token, part, progress)
            finally:
                progress.end()
        requests = await sandbox.requests() - before
        if options.spoil:
            spoil(part)
        difference = compare(part, await sandbox.fingerprints())
    rate = done.rows / max(done.seconds, 1e-9)
    megabytes = done.size / 1e6
    out.write(
        f"{done.rows:,} tasks of {done.runs:,} runs, {megabytes:,.1f} MB, "
        f"in {done.seconds:.1f} s\n"
        f"{rate:,.0f} rows/s, {megabytes / max(done.seconds, 1e-9):,.1f} MB/s, {requests:,} requests\n"
    )
    if any(difference):
        out.write(
            f"WRONG: the lines differ from the {where.tasks:,} tasks of the data set:\n{difference}\n{part}\n"
        )
        return 1
    # Only a file that was found whole gets the name; one of an earlier demo is replaced in one step.
    part.replace(path)
    out.write(f"The file equals the data set, each task once:\n{path}\n")
    return 0


def _part(path: Path) -> Path:
    """Where the lines go until they are known to be whole."""
    return path.with_name(path.name + ".part")


def _tasks_per_run(text: str) -> tuple[int, int]:
    """`5` or `1..20`."""
    low, dots, high = text.partition("..")
    try:
        bounds = int(low), int(high if dots else low)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number nor two of them as in 1..20"
        ) from None
    if not 0 <= bounds[0] <= bounds[1]:
        raise argparse.ArgumentTypeError(f"{text!r} does not go upwards from 0 or more")
    return bounds


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m unpod_async.testing.demo",
        description="Stream every task of every run of a sandbox's space into a JSONL file; compare them.",
        epilog="Ends with 0 if the file equals the data set, 1 if not or on an error, 130 after Ctrl-C.",
    )
    parser.add_argument("--runs", type=_count, default=2000, help="runs in the data set (%(default)s)")
    parser.add_argument(
        "--tasks-per-run",
        type=_tasks_per_run,
        default=(1, 20),
        help="as 5 or 1..20, the default",
        metavar="N",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-output", "tasks.jsonl"),
        metavar="PATH",
        help="the file (%(default)s)",
    )
    parser.add_argument("--latency", type=float, default=0.0, help="seconds the server waits per request (0)")
    parser.add_argument("--page-size", type=_count, default=100, help="rows asked for per page (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another data set (0)")
    parser.add_argument(
        "--spoil", action="store_true", help="cut a line off before the comparison, to see that it notices"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; the exit status."""
    options = _options(arguments)
    try:
        return asyncio.run(run(options, sys.stdout))
    except KeyboardInterrupt:
        sys.stdout.write(f"Interrupted. What had come:\n{_part(options.out)}\n")
        return 130
    except (UnpodError, OSError, RuntimeError) as error:
        sys.stdout.write(f"FAILED: {type(error).__name__}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
