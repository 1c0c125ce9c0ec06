"""`unpod-async export` in its own process, which the demo runs, kills and runs again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from unpod_async.testing.demos.sandbox_process import SandboxProcess

__all__ = [
    "ExportAttempt",
    "ExportProcess",
    "StagedRowCounter",
    "print_lines",
    "task_ids_on_disk",
    "task_ids_on_pages",
    "task_pages",
]

_WORK: Final = ".unpod-export"
_CHECK_INTERVAL: Final = 0.02
"""Seconds between two checks of the progress of the export."""

_LOOK_ROWS: Final = 10

_LATEST_KILL: Final = 0.9
"""The share of rows on disk at which the export is killed even if it has made no checkpoint."""


class ExportAttempt(NamedTuple):
    """The result of one run of the command.

    Attributes:
        seconds: its duration.
        requests: the requests that arrived at the sandbox.
        pages: the path and query of each page of tasks that it requested.
        fetched: the tasks that it read, by its own summary; None if it was killed.
    """

    seconds: float
    requests: int
    pages: list[str]
    fetched: int | None

    @property
    def killed(self) -> bool:
        """Whether it was killed before its end."""
        return self.fetched is None

    def __str__(self) -> str:
        end = "killed" if self.killed else "ran to its end"
        return f"{self.seconds:.1f} s, {self.requests:,} requests, {end}"


class StagedRowCounter:
    """Counts the task rows that a running export has on disk."""

    def __init__(self, target: Path) -> None:
        self._folder = target / _WORK
        self._read: dict[Path, int] = {}
        self.rows: int = 0

    def count(self) -> int:
        """Count the rows that were added since the last call, and return the number of all rows."""
        for path in self._folder.glob("rows-*"):
            # The export removes a file when its rows are in a part.
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                while piece := file.read(2**20):
                    self.rows += piece.count(b"\n")
                self._read[path] = file.tell()
        return self.rows


def task_ids_on_disk(target: Path) -> set[str]:
    """Return the ids of the tasks in the files of an export, complete or not."""
    ids: set[str] = set()
    for path in [*(target / _WORK).glob("rows-*"), *(target / "tasks").glob("*")]:
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):  # else the export was killed while it wrote the line
                ids.add(msgspec.json.decode(line, type=_TaskLine).task_id)
    return ids


class _TaskLine(msgspec.Struct):
    task_id: str


class _Summary(msgspec.Struct):
    fetched_tasks: int


class ExportProcess:
    """Runs one command, any number of times."""

    def __init__(self, sandbox: SandboxProcess, target: Path, page_size: int | None, out: IO[str]) -> None:
        self._sandbox = sandbox
        self._target = target
        self._out = out
        self._page_size = page_size
        info = sandbox.info
        self._space = info.space_token
        self._options = [] if page_size is None else ["--page-size", str(page_size)]
        # The token is in the environment, because other users of the machine can read arguments.
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("UNPOD_")},
            "UNPOD_PLATFORM_TOKEN": info.token,
            "UNPOD_ORG_HANDLE": info.org_handle,
            "UNPOD_BASE_URL": info.base_url,
        }

    async def run(self, *, kill_half_way: StagedRowCounter | None = None) -> ExportAttempt:
        """Run the command to its end, or kill it when half of the tasks are on disk.

        Args:
            kill_half_way: counts the rows on disk; None: do not kill the command.

        Raises:
            RuntimeError: the command ended with a status other than 0.
        """
        print_lines(
            self._out,
            f"$ unpod-async export {self._space} \\",
            *([f"    {' '.join(self._options)} \\"] if self._options else []),
            f"    {self._target}",
        )
        before = len(await self._sandbox.targets())
        began = time.monotonic()
        async with self._process() as process:
            killed = kill_half_way is not None and await self._kill(process, kill_half_way)
            summary, _ = await process.communicate()
        seconds = time.monotonic() - began
        # It may have ended just before the signal.
        status = process.returncode or 0
        killed = killed and (status < 0 or (sys.platform == "win32" and status != 0))
        if killed:
            _restore_terminal()
        elif status:
            raise RuntimeError(f"the export ended with status {status}.\nhint: see its output above")
        requests = (await self._sandbox.targets())[before:]
        fetched = None if killed else msgspec.json.decode(summary, type=_Summary).fetched_tasks
        return ExportAttempt(seconds, len(requests), task_pages(requests, self._page_size), fetched)

    async def _kill(self, process: asyncio.subprocess.Process, staged: StagedRowCounter) -> bool:
        first: list[tuple[str, int, int]] = []
        total = self._sandbox.info.tasks
        while process.returncode is None:
            rows = staged.count()
            state = self._catalog_files()
            if rows and not first:
                first = state
            # A checkpoint writes rows first and the catalog last.
            has_checkpoint = bool(first) and state != first
            if rows >= total * (0.5 if has_checkpoint else _LATEST_KILL) and rows:
                process.kill()
                return True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _CHECK_INTERVAL)
        return False

    def _catalog_files(self) -> list[tuple[str, int, int]]:
        """Return the files that an export changes at a checkpoint: names, times and sizes."""
        files: list[tuple[str, int, int]] = []
        for path in (self._target / _WORK).glob("state.sqlite3*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files.append((path.name, status.st_mtime_ns, status.st_size))
        return sorted(files)

    @asynccontextmanager
    async def _process(self) -> AsyncGenerator[asyncio.subprocess.Process, None]:
        # With the progress on this terminal, but in its own session: Ctrl-C goes to the demo only, which then
        # kills the export before the sandbox ends.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "unpod_async", "export"),
            *(self._space, *self._options, str(self._target)),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            self._sandbox.kill_at_exit(process.pid)
            yield process
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            _restore_terminal()
            raise
        finally:
            await process.wait()
            self._sandbox.kill_at_exit(None)


def task_pages(targets: Iterable[str], page_size: int | None) -> list[str]:
    """Return the requests for pages of tasks, without those that only look at the first rows of the space.

    An export reads tasks run by run, or page by page of the space. Before that it asks for at most ten rows
    of the space, to learn their size and number.
    """
    pages = [target for target in targets if "/tasks/?" in target]
    by_run = [target for target in pages if "/runs/" in target]
    if by_run:
        return by_run
    return [
        target
        for target in pages
        if (size := _page_of(target)[1]) == page_size or (page_size is None and size > _LOOK_ROWS)
    ]


def _page_of(target: str) -> tuple[int, int]:
    query = dict(parse_qsl(target.partition("?")[2]))
    return int(query["page"]), int(query["page_size"])


def task_ids_on_pages(pages: Iterable[str], tasks: Sequence[tuple[str, str]]) -> set[str]:
    """Return the ids of the tasks on pages of a data set that did not change.

    Args:
        pages: the path and query of each page.
        tasks: the run id and task id of each task, newest first.
    """
    ids: set[str] = set()
    for target in pages:
        page, size = _page_of(target)
        _, is_of_run, rest = target.partition("/runs/")
        run_id = rest.partition("/")[0]
        listed = [task for run, task in tasks if run == run_id or not is_of_run]
        ids.update(listed[(page - 1) * size : page * size])
    return ids


def _restore_terminal() -> None:
    """End the progress line that a killed command left, and show the cursor."""
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h\n")
        sys.stderr.flush()


def print_lines(out: IO[str], *lines: str) -> None:
    """Print and flush, because the export writes to the same terminal."""
    out.write("".join(f"{line}\n" for line in lines))
    out.flush()
