"""`unpod-async export` in its own process, which the demo runs, kills and runs again."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

from unpod_async.testing.demos.process import SandboxProcess

__all__ = ["ExportAttempt", "ExportProcess", "StagedRowCounter", "print_lines"]

_WORK: Final = ".unpod-export"
_CHECK_INTERVAL: Final = 0.02
"""Seconds between two checks of the progress of the export."""

_CHECKPOINT_REQUESTS: Final = 2
"""Requests after which an export has saved its progress. It prefetches one or two pages."""


class ExportAttempt(NamedTuple):
    """The result of one run of the command."""

    seconds: float
    requests: int
    pages: list[str]
    """The path and query of each page of tasks that it requested."""
    killed: bool

    def __str__(self) -> str:
        end = "killed" if self.killed else "ran to its end"
        return f"{self.seconds:.1f} s, {self.requests:,} requests, {end}"


class StagedRowCounter:
    """Counts the task rows that a running export has on disk."""

    def __init__(self, target: Path) -> None:
        self._folder = target / _WORK
        self._read: dict[Path, int] = {}
        self.rows = 0

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
            RuntimeError: the command ended with another status than 0.
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
            status = await process.wait()
        seconds = time.monotonic() - began
        # It may have ended just before the signal.
        killed = killed and (status < 0 or (sys.platform == "win32" and status != 0))
        if killed and sys.stderr.isatty():
            # The killed command left a progress line without an end, and the cursor hidden.
            sys.stderr.write("\x1b[?25h\n")
            sys.stderr.flush()
        if status and not killed:
            raise RuntimeError(f"the export ended with status {status}.\nhint: see its output above")
        requests = (await self._sandbox.targets())[before:]
        return ExportAttempt(
            seconds, len(requests), [target for target in requests if self._is_page(target)], killed
        )

    def _is_page(self, target: str) -> bool:
        """Return whether a request was for tasks, and not for their number, which takes a page of one row."""
        path, _, query = target.partition("?")
        return path.endswith("/tasks/") and (self._page_size == 1 or "page_size=1" not in query.split("&"))

    async def _kill(self, process: asyncio.subprocess.Process, staged: StagedRowCounter) -> bool:
        kill_at: float = math.inf
        while process.returncode is None:
            is_half = staged.count() * 2 >= self._sandbox.info.tasks
            requests = await self._sandbox.requests()
            if requests >= kill_at and process.returncode is None:
                process.kill()
                return True
            if is_half and kill_at == math.inf:
                kill_at = requests + _CHECKPOINT_REQUESTS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _CHECK_INTERVAL)
        return False

    @asynccontextmanager
    async def _process(self) -> AsyncGenerator[asyncio.subprocess.Process, None]:
        # On this terminal, but in its own session: the demo passes Ctrl-C on, and the export ends before the
        # sandbox does.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "unpod_async", "export"),
            *(self._space, *self._options, str(self._target)),
            env=self._environment,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            self._sandbox.kill_at_exit(process.pid)
            yield process
        except BaseException:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)
            raise
        finally:
            await process.wait()
            self._sandbox.kill_at_exit(None)


def print_lines(out: IO[str], *lines: str) -> None:
    """Print and flush, because the export writes to the same terminal."""
    out.write("".join(f"{line}\n" for line in lines))
    out.flush()
