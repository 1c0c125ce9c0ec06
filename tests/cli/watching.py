"""What the tests of `watch` share: a screen, and lines that are read as they come."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import struct
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import Terminal, settings, start
from tests.leaks import SANDBOX_SECRETS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from unpod_async.testing import Sandbox

__all__ = ["QUICK", "SPACE", "Reading", "Screenful", "last_table", "posix", "reading"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, pipes and terminals of POSIX")
QUICK = ("--interval", "0.05", "--resync", "0.2")
SPACE = "SPACEMAIN000000000000001"


class Screenful(Terminal):
    """A terminal whose size changes, and whose text is looked for without its colours."""

    async def until(self, pattern: str) -> None:
        """Wait until it has shown a line in which this is found."""
        try:
            async with asyncio.timeout(50):
                while not any(re.search(pattern, line) for line in self.lines()):
                    assert not self._over, f"it ended without {pattern!r}: {self.shown}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail("\n".join([f"no {pattern!r} in:", *last_table(self)]))

    def lines(self) -> list[str]:
        # A terminal shows ^C at the end of the line in which it is pressed.
        return [line.replace("^C", "") for line in super().lines() if line]

    def resize(self, columns: int, lines: int) -> None:
        import fcntl
        import termios

        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def last_table(terminal: Terminal) -> list[str]:
    """What stays on the terminal."""
    lines = terminal.lines()
    return lines[max((place for place, line in enumerate(lines) if line.startswith("●")), default=0) :]


class Reading:
    """A watch in a pipe, read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def until(self, event: str, **fields: object) -> dict[str, Any]:
        """Read on until there is such a line."""
        while True:
            line = await self.next_line()
            if {**line, **fields, "event": event} == line:
                return line

    async def next_line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, f"it ended: {self.lines}"
        assert not SANDBOX_SECRETS.search(line.decode())
        self.lines.append(json.loads(line))
        return self.lines[-1]

    async def until_all(self, tasks: set[str]) -> None:
        """Read on until each of these tasks has a line."""
        while not tasks <= {line.get("task") for line in self.lines}:
            await self.next_line()

    async def interrupted(self) -> str:
        """End it by Ctrl-C; what it said."""
        self.process.send_signal(signal.SIGINT)
        out, err = await self.process.communicate()
        self.lines += map(json.loads, out.splitlines())
        assert self.process.returncode == 130, err
        return err.decode()


@asynccontextmanager
async def reading(sandbox: Sandbox, *argv: str) -> AsyncIterator[Reading]:
    process = await start(settings(sandbox), "watch", SPACE, *QUICK, *argv)
    try:
        yield Reading(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
