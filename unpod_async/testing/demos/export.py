"""The bulk export: killed halfway, run again, and compared with the data set of the sandbox.

`unpod-async demo` starts a sandbox in its own process and runs `unpod-async export` against it, on this
terminal. When half of the tasks are on disk, it kills the export with SIGKILL, then runs the same command
again to its end. Then it compares every row of all `tasks` and `runs` files with the data set: each row must
be there once, as the server sent it, except for user tokens, which an export leaves out. It also checks that
three counts from three sources agree: the tasks in the files at the kill, the tasks that the second export
reused (from its summary), and the tasks that it requested again (from the log of the sandbox).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec

from unpod_async.testing.demos.export_process import (
    ExportAttempt,
    ExportProcess,
    StagedRowCounter,
    print_lines,
    task_ids_on_disk,
    task_ids_on_pages,
)
from unpod_async.testing.demos.sandbox_process import SandboxProcess, fingerprint

__all__ = ["ExportDemo", "run_export_demo"]

_MARK: Final = ".unpod-demo"
"""The file that marks a directory as made by a demo. Directories without it are never removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportDemo:
    """The options of the demo.

    Attributes:
        out: the directory to export to. That of an earlier demo is removed first.
        runs: the number of runs in the data set.
        tasks_per_run: the number of tasks of each run, or a range (lowest, highest).
        latency: seconds that the server waits per request.
        page_size: rows per page; None: chosen by the export.
        seed: the seed of the data set.
        truncate: remove a line of the files before the comparison, to see that it is noticed.
    """

    out: Path = Path("demo-output", "data-set")
    runs: int = 2000
    tasks_per_run: tuple[int, int] = (1, 20)
    latency: float = 0.1
    page_size: int | None = None
    seed: int = 0
    truncate: bool = False


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


def prepare_target(target: Path) -> list[Path]:
    """Create a directory that contains only the marker. The directory of an earlier demo is removed first.

    Returns:
        The directories that were created, the target first.

    Raises:
        OSError: the directory cannot be created, or was not created by a demo.
    """
    if (target / _MARK).exists():
        shutil.rmtree(target)
    created = [path for path in (target, *target.parents) if not path.exists()]
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise FileExistsError(
            f"{target} was not created by a demo, and has files\nhint: choose another directory with --out"
        )
    (target / _MARK).touch()
    return created


def remove_target(target: Path, created: list[Path]) -> None:
    """Remove the files of the demo and the directories that it created, unless they have other content."""
    shutil.rmtree(target)
    if target not in created:
        target.mkdir()
    for path in created[1:]:
        if any(path.iterdir()):
            break
        path.rmdir()


async def run_export_demo(demo: ExportDemo, out: IO[str]) -> bool:
    """Run the demo, and return whether everything is correct. If it does not end, it removes its files.

    Raises:
        OSError: the directory cannot be used.
        RuntimeError: the sandbox or an export failed.
    """
    created = prepare_target(demo.out)
    try:
        return await _run(demo, out)
    except BaseException:
        remove_target(demo.out, created)
        raise


async def _run(demo: ExportDemo, out: IO[str]) -> bool:
    target = demo.out
    sandbox = SandboxProcess(
        runs=demo.runs, tasks_per_run=demo.tasks_per_run, latency=demo.latency, seed=demo.seed
    )
    async with sandbox:
        info = sandbox.info
        print_lines(
            out,
            f"A sandbox with {info.runs:,} runs and {info.tasks:,} tasks",
            f"listens on {info.base_url}",
            "",
        )
        exporter = ExportProcess(sandbox, target, demo.page_size, out)
        first = await exporter.run(kill_half_way=StagedRowCounter(target))
        second: ExportAttempt | None = None
        resumption = Resumption(0, 0, 0)
        if first.killed:
            on_disk = task_ids_on_disk(target)
            print_lines(
                out,
                "",
                f"KILLED with {len(on_disk):,} of {info.tasks:,} tasks on disk.",
                "The same command again:",
                "",
            )
            second = await exporter.run()
            again = task_ids_on_pages(second.pages, await sandbox.tasks()) & on_disk
            taken_over = info.tasks - (second.fetched or 0)
            resumption = Resumption(len(on_disk), taken_over, len(again))
        parts = {kind: files_of(target, kind) for kind in ("runs", "tasks")}
        if demo.truncate and parts["tasks"]:
            truncate(parts["tasks"][-1])
        differences = {
            "runs": compare(parts["runs"], await sandbox.fingerprints("runs")),
            "tasks": compare(parts["tasks"], await sandbox.fingerprints("tasks")),
        }
    print_lines(out, "", f"First export:  {first}")
    if second is None:
        print_lines(out, "It ended before it could be killed: use a higher", "--latency or more --runs.")
    else:
        print_lines(out, f"Second export: {second}", "", *resumption.lines())
    files = [*parts["runs"], *parts["tasks"]]
    size = sum(path.stat().st_size for path in files)
    print_lines(
        out,
        "",
        f"Data set: {info.tasks:,} tasks, {info.runs:,} runs",
        f"Files:    {len(files):,}, {size / 1e6:,.1f} MB",
    )
    if any(map(any, differences.values())):
        print_lines(out, "WRONG: rows of the files differ from the data set.")
        print_lines(out, *(f"{kind}: {found}" for kind, found in differences.items() if any(found)))
        print_lines(out, str(target))
        return False
    print_lines(out, "The files have each row of the data set once:", str(target))
    return resumption.is_consistent


class Resumption(NamedTuple):
    """How many tasks the second export reused, and how many it fetched again.

    Attributes:
        on_disk: the tasks in the files of the killed export.
        checkpointed: the tasks that the second export did not fetch, by its own summary.
        again: the tasks on disk that were on pages that the second export requested.
    """

    on_disk: int
    checkpointed: int
    again: int

    @property
    def is_consistent(self) -> bool:
        """Whether each task on disk was either reused or fetched again."""
        return self.on_disk == self.checkpointed + self.again

    def lines(self) -> list[str]:
        """Return the lines to print."""
        lines = [
            f"Tasks on disk at the kill:      {self.on_disk:>9,}",
            f"Saved by the last checkpoint:   {self.checkpointed:>9,}",
            f"Fetched again by the second:    {self.again:>9,}",
            "Rows up to the last checkpoint are not fetched again.",
            "Later ones are: at most about one second of work.",
        ]
        if not self.is_consistent:
            lines.append("WRONG: the last two numbers do not add up to the first.")
        return lines
