"""`unpod-async export` as a process of its own, which the demo runs, kills and runs again."""

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
_LOOK_EVERY: Final = 0.02
"""Seconds between two looks at how far the export is."""

_NOTED_AFTER: Final = 2
"""Requests after which an export has noted what it had on the disk: it asks for a page or two ahead."""


class ExportAttempt(NamedTuple):
    """One run of the command."""

    seconds: float
    requests: int
    pages: list[str]
    """Path and query of each page of tasks that it asked for."""
    killed: bool

    def __str__(self) -> str:
        end = "killed" if self.killed else "ran to its end"
        return f"{self.seconds:.1f} s, {self.requests:,} requests, {end}"


class StagedRowCounter:
    """Counts the rows of tasks that an export under way has on the disk."""

    def __init__(self, target: Path) -> None:
        self._folder = target / _WORK
        self._read: dict[Path, int] = {}
        self.rows = 0

    def look(self) -> int:
        """Count what has come since the last look; all rows so far."""
        for path in self._folder.glob("rows-*"):
            # A file whose rows have gone into a part is removed.
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                while piece := file.read(2**20):
                    self.rows += piece.count(b"\n")
                self._read[path] = file.tell()
        return self.rows


class ExportProcess:
    """Runs the command, always the same one."""

    def __init__(self, sandbox: SandboxProcess, target: Path, page_size: int | None, out: IO[str]) -> None:
        self._sandbox = sandbox
        self._target = target
        self._out = out
        self._page_size = page_size
        where = sandbox.where
        self._space = where.space_token
        self._more = [] if page_size is None else ["--page-size", str(page_size)]
        # The token goes by the environment: other users of the machine can read arguments.
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("UNPOD_")},
            "UNPOD_PLATFORM_TOKEN": where.token,
            "UNPOD_ORG_HANDLE": where.org_handle,
            "UNPOD_BASE_URL": where.base_url,
        }

    async def run(self, *, kill_half_way: StagedRowCounter | None = None) -> ExportAttempt:
        """Run it to its end, or until half of the tasks are on the disk.

        Raises:
            RuntimeError: it ended with another status than 0.
        """
        print_lines(
            self._out,
            f"$ unpod-async export {self._space} \\",
            *([f"    {' '.join(self._more)} \\"] if self._more else []),
            f"    {self._target}",
        )
        before = len(await self._sandbox.targets())
        began = time.monotonic()
        async with self._started() as process:
            killed = kill_half_way is not None and await self._kill(process, kill_half_way)
            status = await process.wait()
        seconds = time.monotonic() - began
        # It may have ended by itself just before.
        killed = killed and (status < 0 or (sys.platform == "win32" and status != 0))
        if killed and sys.stderr.isatty():
            # What was killed has left its progress unfinished and the cursor hidden.
            sys.stderr.write("\x1b[?25h\n")
            sys.stderr.flush()
        if status and not killed:
            raise RuntimeError(f"the export ended with status {status};\nwhat it said stands above")
        asked = (await self._sandbox.targets())[before:]
        return ExportAttempt(
            seconds, len(asked), [target for target in asked if self._is_page(target)], killed
        )

    def _is_page(self, target: str) -> bool:
        """Whether tasks were asked for, and not just how many there are, which takes a page of one row."""
        path, _, query = target.partition("?")
        return path.endswith("/tasks/") and (self._page_size == 1 or "page_size=1" not in query.split("&"))

    async def _kill(self, process: asyncio.subprocess.Process, staged: StagedRowCounter) -> bool:
        due: float = math.inf
        while process.returncode is None:
            is_half = staged.look() * 2 >= self._sandbox.where.tasks
            arrived = await self._sandbox.requests()
            if arrived >= due and process.returncode is None:
                process.kill()
                return True
            if is_half and due == math.inf:
                due = arrived + _NOTED_AFTER
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _LOOK_EVERY)
        return False

    @asynccontextmanager
    async def _started(self) -> AsyncGenerator[asyncio.subprocess.Process, None]:
        # On this terminal, but in a session of its own: Ctrl-C is passed on once, and the export has said its
        # last word before the sandbox goes.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "unpod_async", "export"),
            *(self._space, *self._more, str(self._target)),
            env=self._environment,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            self._sandbox.take_along(process.pid)
            yield process
        except BaseException:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)
            raise
        finally:
            await process.wait()
            self._sandbox.take_along(None)


def print_lines(out: IO[str], *lines: str) -> None:
    """At once: the export writes to the same terminal."""
    out.write("".join(f"{line}\n" for line in lines))
    out.flush()
