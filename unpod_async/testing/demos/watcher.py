"""`unpod-async watch` as a process of its own, which the demo reads, kills and starts again."""

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

_PATIENCE: Final = 30.0
"""Seconds without a line after which what is still expected counts as missing."""
_LOOK_EVERY: Final = 0.02
"""Seconds between two looks at the file of the state."""


class _EventLine(msgspec.Struct):
    event: str
    run: str | None = None
    task: str | None = None
    old: str | None = None
    new: str | None = None


class WatchProcess:
    """Runs the command, always the same one; leaving the block ends it.

    Attributes:
        command: its arguments.
        received: what it told, all in all.
    """

    def __init__(self, environment: dict[str, str], space: str, state: Path, *options: str) -> None:
        self.command = ("watch", space, *options, "--json", "--state", str(state))
        self.received: Counter[EventKey] = Counter()
        self._state = state
        # The token goes by the environment: other users of the machine can read arguments.
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
        """Start it, or start it again."""
        # A session of its own: a Ctrl-C in the terminal is for the demo, which then ends this process.
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "unpod_async", *self.command),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    async def until(self, expected: Counter[EventKey]) -> bool:
        """Read until it has told all of these; False when it tells nothing more for long.

        Raises:
            RuntimeError: it ended.
        """
        while not expected <= self.received:
            try:
                line = await asyncio.wait_for(self._stdout.readline(), _PATIENCE)
            except TimeoutError:
                return False
            if not line:
                raise RuntimeError("the watch ended by itself;\nwhat it said stands above")
            self._take(line)
        return True

    async def saved(self) -> None:
        """Wait until its state holds all that was received, which it saves now and then."""
        # One saving may have begun before the last line came, the one after it cannot.
        marks = {self._mark()}
        while len(marks) < 3:
            await asyncio.sleep(_LOOK_EVERY)
            marks.add(self._mark())

    def _mark(self) -> int:
        try:
            return self._state.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    async def kill(self) -> None:
        """Kill it if it runs; what it has told before counts."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        while line := await self._stdout.readline():
            self._take(line)
        await self._process.wait()
        self._process = None

    def _take(self, line: bytes) -> None:
        told = msgspec.json.decode(line, type=_EventLine)
        old = None if told.event == "RunSettled" else told.old
        self.received[EventKey(told.event, told.run, told.task, old, told.new)] += 1

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the watch is not running: start it first")
        return self._process

    @property
    def _stdout(self) -> asyncio.StreamReader:
        stdout = self._running.stdout
        if stdout is None:
            raise RuntimeError("the watch has no pipe")
        return stdout
