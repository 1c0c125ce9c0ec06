"""The bulk export as a user sees it: killed half way, run again, and compared with what the service has.

    python -m unpod_async.testing.demos.export --runs 2000 --tasks-per-run 1..20

starts a sandbox in a process of its own and runs `unpod-async export` against it, on this terminal. When half
of the tasks are on the disk the export is killed (SIGKILL); the very same command is then run again to its
end. After that every row in `tasks/` and `runs/` is compared with the data set: each must be there
once, saying what the server said, save the user tokens, which an export leaves out. Ends with status 0 if it
is so, 1 if not or if something failed, 130 after Ctrl-C.

Needs the extra `cli`.
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
"""Stands in a directory that a demo has made: no other is removed, whatever `--out` names."""


class RowDifferences(NamedTuple):
    """How files differ from the data set; in lines."""

    missing: int
    foreign: int
    repeated: int

    def __str__(self) -> str:
        return f"missing {self.missing:,}, foreign {self.foreign:,}, repeated {self.repeated:,}"


def compare(paths: Iterable[Path], expected: set[str]) -> RowDifferences:
    """The lines of the files against the fingerprints of the data set."""
    met: set[str] = set()
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
                elif found in met:
                    repeated += 1
                met.add(found)
    return RowDifferences(len(expected - met), foreign, repeated)


def files_of(target: Path, kind: str) -> list[Path]:
    """All files of a kind, as one finds them who knows nothing of the manifest."""
    return sorted((target / kind).iterdir())


def spoil(path: Path) -> None:
    """Cut the last line off."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))


def make_room(target: Path) -> None:
    """A directory with nothing in it but the mark; one that an earlier demo has made is removed first.

    Raises:
        OSError: it cannot be made, or there is something else that a demo has not made.
    """
    if (target / _MARK).exists():
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise FileExistsError(f"no demo has made what is in\n{target}\nName another directory with --out.")
    (target / _MARK).touch()


async def run(options: argparse.Namespace, out: IO[str]) -> int:
    """The whole demonstration; the exit status."""
    target: Path = options.out
    make_room(target)
    sandbox = SandboxProcess(
        runs=options.runs, tasks_per_run=options.tasks_per_run, latency=options.latency, seed=options.seed
    )
    async with sandbox:
        where = sandbox.where
        print_lines(
            out,
            f"A sandbox with {where.runs:,} runs and {where.tasks:,} tasks",
            f"listens on {where.base_url}",
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
                f"KILLED, with {staged.look():,} of {where.tasks:,} tasks on the disk.",
                "The same again:",
                "",
            )
            second = await exporter.run()
        parts = {kind: files_of(target, kind) for kind in ("runs", "tasks")}
        if options.spoil and parts["tasks"]:
            spoil(parts["tasks"][-1])
        wrong = {
            "runs": compare(parts["runs"], await sandbox.fingerprints("runs")),
            "tasks": compare(parts["tasks"], await sandbox.fingerprints("tasks")),
        }
    print_lines(out, "", f"First export:  {first}")
    if second is None:
        print_lines(out, "It was done before it could be killed: try a greater", "--latency, or more --runs.")
    else:
        print_lines(out, f"Second export: {second}", *_spared(first, second))
    files = [*parts["runs"], *parts["tasks"]]
    size = sum(path.stat().st_size for path in files)
    print_lines(
        out,
        f"Data set: {where.tasks:,} tasks, {where.runs:,} runs",
        f"Files:    {len(files):,}, {size / 1e6:,.1f} MB",
    )
    if any(map(any, wrong.values())):
        print_lines(out, "WRONG: rows of the files differ from the data set.")
        print_lines(out, *(f"{kind}: {difference}" for kind, difference in wrong.items() if any(difference)))
        print_lines(out, str(target))
        return 1
    print_lines(out, "The files equal the data set, each row once:", str(target))
    return 0


def _spared(first: ExportAttempt, second: ExportAttempt) -> list[str]:
    """What the second export did not have to fetch."""
    pages, again = set(first.pages), set(second.pages)
    both = len(pages & again)
    told = [f"Pages of tasks: {len(pages):,} by the first, {len(again):,} by the second,"]
    if both == len(pages):
        return [*told, "those of the first again: none had been kept yet."]
    on_their_way = f"{both:,} by both: on their way when it was killed." if both else "none by both."
    return [*told, on_their_way, "What was on the disk was not fetched again."]


def _missing() -> list[str]:
    """What of the extra `cli` is not installed."""
    missing: list[str] = []
    for name in ("typer", "rich"):
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    return missing


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
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return seconds


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m unpod_async.testing.demos.export",
        description="Export a sandbox's space, kill the export half way, run it again; compare the rows.",
        epilog="Ends with 0 if the files equal the data set, 1 if not or on an error, 130 after Ctrl-C.",
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
        default=Path("demo-output", "data-set"),
        metavar="DIRECTORY",
        help="where to export to (%(default)s); one of an earlier demo is removed first",
    )
    parser.add_argument(
        "--latency", type=_seconds, default=0.05, help="seconds the server waits per request (%(default)s)"
    )
    parser.add_argument("--page-size", type=_rows, help="rows asked for per page (the export's own choice)")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another data set (0)")
    parser.add_argument(
        "--spoil", action="store_true", help="cut a line off before the comparison, to see that it notices"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; the exit status."""
    options = _options(arguments)
    if missing := _missing():
        print_lines(
            sys.stdout,
            f"FAILED: the command line needs {' and '.join(missing)}, not",
            "installed here: pip install 'unpod-async[cli]'",
        )
        return 1
    try:
        return asyncio.run(run(options, sys.stdout))
    except KeyboardInterrupt:
        print_lines(
            sys.stdout,
            "Interrupted. The sandbox has gone, so this cannot be",
            "gone on with; the next demo replaces it:",
            str(options.out),
        )
        return 130
    except (OSError, RuntimeError) as error:
        print_lines(sys.stdout, f"FAILED: {type(error).__name__}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
