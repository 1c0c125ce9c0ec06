"""The bulk export: killed half way, run again, and compared with the data of the service.

    python -m unpod_async.testing.demos.export --runs 2000 --tasks-per-run 1..20

starts a sandbox in its own process and runs `unpod-async export` against it, on this terminal. When half of
the tasks are on disk, it kills the export with SIGKILL, then runs the same command again to its end. Then it
compares every row of all `tasks` and `runs` files with the data set: each row must be there once, as the
server sent it, except for user tokens, which an export leaves out.

The exit status is 0 if all rows are correct, 1 if not or after an error, 130 after Ctrl-C. The demo needs the
extra `cli`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec

from unpod_async.testing.demos.exporter import ExportAttempt, ExportProcess, StagedRowCounter, print_lines
from unpod_async.testing.demos.process import SandboxProcess, fingerprint

__all__ = ["main"]

_MARK: Final = ".unpod-demo"
"""The file that marks a directory as made by a demo. Directories without it are never removed."""


class RowDifferences(NamedTuple):
    """How files differ from the data set, in lines."""

    missing: int
    foreign: int
    repeated: int

    def __str__(self) -> str:
        return f"missing {self.missing:,}, foreign {self.foreign:,}, repeated {self.repeated:,}"


def compare(paths: Iterable[Path], expected: set[str]) -> RowDifferences:
    """Compare the lines of the files with the fingerprints of the data set."""
    seen: set[str] = set()
    foreign = repeated = 0
    for path in paths:
        with path.open("rb") as file:
            for line in file:
                try:
                    found = fingerprint(msgspec.json.decode(line))
                except msgspec.DecodeError:
                    found = ""
                if found not in expected:
                    foreign += 1
                elif found in seen:
                    repeated += 1
                seen.add(found)
    return RowDifferences(len(expected - seen), foreign, repeated)


def files_of(target: Path, kind: str) -> list[Path]:
    """Return all files of a kind, found by their names instead of through the manifest."""
    return sorted((target / kind).iterdir())


def truncate(path: Path) -> None:
    """Remove the last line of a file."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))


def prepare_target(target: Path) -> None:
    """Create a directory that contains only the marker. The directory of an earlier demo is removed first.

    Raises:
        OSError: the directory cannot be created, or was not created by a demo.
    """
    if (target / _MARK).exists():
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise FileExistsError(
            f"this directory was not created by a demo:\n{target}\nhint: choose another one with --out"
        )
    (target / _MARK).touch()


async def run(options: argparse.Namespace, out: IO[str]) -> int:
    """Run the demo, and return its exit status."""
    target: Path = options.out
    prepare_target(target)
    sandbox = SandboxProcess(
        runs=options.runs, tasks_per_run=options.tasks_per_run, latency=options.latency, seed=options.seed
    )
    async with sandbox:
        info = sandbox.info
        print_lines(
            out,
            f"A sandbox with {info.runs:,} runs and {info.tasks:,} tasks",
            f"listens on {info.base_url}",
            "",
        )
        exporter = ExportProcess(sandbox, target, options.page_size, out)
        staged = StagedRowCounter(target)
        first = await exporter.run(kill_half_way=staged)
        second: ExportAttempt | None = None
        if first.killed:
            print_lines(
                out,
                "",
                f"KILLED with {staged.count():,} of {info.tasks:,} tasks on disk.",
                "The same command again:",
                "",
            )
            second = await exporter.run()
        parts = {kind: files_of(target, kind) for kind in ("runs", "tasks")}
        if options.truncate and parts["tasks"]:
            truncate(parts["tasks"][-1])
        differences = {
            "runs": compare(parts["runs"], await sandbox.fingerprints("runs")),
            "tasks": compare(parts["tasks"], await sandbox.fingerprints("tasks")),
        }
    print_lines(out, "", f"First export:  {first}")
    if second is None:
        print_lines(out, "It ended before it could be killed: use a higher", "--latency or more --runs.")
    else:
        print_lines(out, f"Second export: {second}", *_saved_requests(first, second))
    files = [*parts["runs"], *parts["tasks"]]
    size = sum(path.stat().st_size for path in files)
    print_lines(
        out,
        f"Data set: {info.tasks:,} tasks, {info.runs:,} runs",
        f"Files:    {len(files):,}, {size / 1e6:,.1f} MB",
    )
    if any(map(any, differences.values())):
        print_lines(out, "WRONG: rows of the files differ from the data set.")
        print_lines(out, *(f"{kind}: {found}" for kind, found in differences.items() if any(found)))
        print_lines(out, str(target))
        return 1
    print_lines(out, "The files have each row of the data set once:", str(target))
    return 0


def _saved_requests(first: ExportAttempt, second: ExportAttempt) -> list[str]:
    """Return lines about the pages that the second export did not have to fetch."""
    pages, second_pages = set(first.pages), set(second.pages)
    both = len(pages & second_pages)
    lines = [f"Pages of tasks: {len(pages):,} by the first, {len(second_pages):,} by the second."]
    if both == len(pages):
        return [*lines, "The second fetched all again: no rows were saved yet."]
    again = f"Fetched by both: {both:,}, not yet saved when killed." if both else "Fetched by both: none."
    return [*lines, again, "The rows on disk were not fetched again."]


def _missing_packages() -> list[str]:
    """Return the packages of the extra `cli` that are not installed."""
    missing: list[str] = []
    for name in ("typer", "rich"):
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    return missing


def _tasks_per_run(text: str) -> tuple[int, int]:
    """Parse `5` or `1..20`."""
    low, dots, high = text.partition("..")
    try:
        bounds = int(low), int(high if dots else low)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a range such as 1..20") from None
    if not 0 <= bounds[0] <= bounds[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not an ascending range of 0 or more")
    return bounds


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _rows(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("a page has at least 1 row")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of 0 or more")
    return seconds


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m unpod_async.testing.demos.export",
        description="Export the space of a sandbox, kill the export half way, run it again, compare rows.",
        epilog="Exit status: 0 if the files equal the data set, 1 if not or on an error, 130 after Ctrl-C.",
    )
    parser.add_argument("--runs", type=_count, default=2000, help="runs in the data set (%(default)s)")
    parser.add_argument(
        "--tasks-per-run",
        type=_tasks_per_run,
        default=(1, 20),
        help="a number or a range (1..20)",
        metavar="N",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-output", "data-set"),
        metavar="DIRECTORY",
        help="the directory to export to (%(default)s); that of an earlier demo is removed first",
    )
    parser.add_argument(
        "--latency",
        type=_seconds,
        default=0.05,
        help="seconds that the server waits per request (%(default)s)",
    )
    parser.add_argument("--page-size", type=_rows, help="rows per page (default: chosen by the export)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the data set (%(default)s)")
    parser.add_argument(
        "--truncate",
        action="store_true",
        help="remove a line before the comparison, to see that it is noticed",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, and return its exit status."""
    options = _options(arguments)
    if missing := _missing_packages():
        print_lines(
            sys.stdout,
            f"FAILED: not installed: {' and '.join(missing)}",
            "hint: pip install 'unpod-async[cli]'",
        )
        return 1
    try:
        return asyncio.run(run(options, sys.stdout))
    except KeyboardInterrupt:
        print_lines(
            sys.stdout,
            "Interrupted. The sandbox is gone, so this export cannot be",
            "resumed. The next demo replaces it:",
            str(options.out),
        )
        return 130
    except (OSError, RuntimeError) as error:
        print_lines(sys.stdout, f"FAILED: {type(error).__name__}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
