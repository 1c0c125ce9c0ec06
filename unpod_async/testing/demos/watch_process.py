"""`unpod-async watch` in its own process, which the demo reads, kills and starts again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from unpod_async.testing.demos.snapshots import EventKey

__all__ = ["WatchProcess"]

_LINE_TIMEOUT: Final = 30.0
"""Seconds without a line after which the expected events count as missing."""
_CHECK_INTERVAL: Final = 0.02
"""Seconds between two checks of the state file."""


class _EventLine(msgspec.Struct):
    event: str
    run: str | None = None
    task: str | None = None
    old: str | None = None
    new: str | None = None


class WatchProcess:
    """Runs one command, any number of times. Leaving the block ends it.

    Attributes:
        command: its arguments.
        received: the events of all its runs.
    """

    def __init__(self, environment: dict[str, str], space: str, state: Path, *options: str) -> None:
        self.command: tuple[str, ...] = ("watch", space, *options, "--json", "--state", str(state))
        self.received: Counter[EventKey] = Counter()
        self._state = state
        # The token is in the environment, because other users of the machine can read arguments.
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("UNPOD_")},
            **environment,
        }
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start the command."""
        # In its own session: Ctrl-C in the terminal goes to the demo only, which ends this process.
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "unpod_async", *self.command),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    async def wait_for(self, expected: Counter[EventKey]) -> bool:
        """Read until all of these events have arrived. Return False if no more lines arrive in time.

        Raises:
            RuntimeError: the command ended.
        """
        while not expected <= self.received:
            try:
                line = await asyncio.wait_for(self._stdout.readline(), _LINE_TIMEOUT)
            except TimeoutError:
                return False
            if not line:
                raise RuntimeError("the watch ended.\nhint: see its output above")
            self._count_event(line)
        return True

    async def wait_until_saved(self) -> None:
        """Wait until the state file contains all received events. The watch saves it from time to time."""
        # One save may have started before the last line arrived, the next one cannot.
        times = {self._state_time()}
        while len(times) < 3:
            await asyncio.sleep(_CHECK_INTERVAL)
            times.add(self._state_time())

    def _state_time(self) -> int:
        try:
            return self._state.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    async def kill(self) -> None:
        """Kill the command if it runs, and read the lines that it wrote before."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        while line := await self._stdout.readline():
            self._count_event(line)
        await self._process.wait()
        self._process = None

    def _count_event(self, line: bytes) -> None:
        line_event = msgspec.json.decode(line, type=_EventLine)
        old = None if line_event.event == "RunSettled" else line_event.old
        self.received[EventKey(line_event.event, line_event.run, line_event.task, old, line_event.new)] += 1

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the watch is not running: call start() first")
        return self._process

    @property
    def _stdout(self) -> asyncio.StreamReader:
        stdout = self._running.stdout
        if stdout is None:
            raise RuntimeError("the watch has no pipe for stdout")
        return stdout
