"""Helpers for the tests of `watch`: a terminal with a table, and a process whose lines are read."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import struct
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import Terminal, settings, start_process
from tests.leaks import SANDBOX_SECRETS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from unpod_async.testing import Sandbox

__all__ = [
    "QUICK",
    "SPACE",
    "WatchProcess",
    "WatchTerminal",
    "identity",
    "last_table",
    "mounting",
    "needs_mounts",
    "posix",
    "watch_process",
]

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, pipes and terminals of POSIX")
needs_mounts = pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
QUICK = ("--interval", "0.05", "--resync", "0.2")
SPACE = "SPACEMAIN000000000000001"


class WatchTerminal(Terminal):
    """A terminal that can be resized, and whose text is searched without control sequences."""

    async def until(self, pattern: str) -> None:
        """Wait until a line matches the pattern."""
        try:
            async with asyncio.timeout(200):
                while not any(re.search(pattern, line) for line in self.lines()):
                    assert not self._closed, f"the program ended without {pattern!r}: {self.shown}"
                    self._output.clear()
                    await self._output.wait()
        except TimeoutError:
            pytest.fail("\n".join([f"no {pattern!r} in:", *last_table(self)]))

    def lines(self) -> list[str]:
        # A terminal shows ^C at the end of the current line.
        return [line.replace("^C", "") for line in super().lines() if line]

    def resize(self, columns: int, lines: int) -> None:
        import fcntl
        import termios

        fcntl.ioctl(self._own_end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def identity(file: Path) -> tuple[object, ...]:
    """What changes if a file is replaced or written to. Reading a link or a folder may change its times."""
    found = file.lstat()
    return (found.st_dev, found.st_ino, found.st_mode, found.st_size, os.path.realpath(file))


_MOUNT = """
mount --bind "$1" "$2" || exit 77
shift 2
exec "$@"
"""


def mounting(outside: Path, inside: Path) -> tuple[str, ...]:
    """Return the start of a command for which `inside` is a mount point, which shows the file `outside`.

    It exits with 77 if this user may not mount.
    """
    return ("unshare", "-m", "sh", "-c", _MOUNT, "sh", str(outside), str(inside))


def last_table(terminal: Terminal) -> list[str]:
    """Return the table that stays on the terminal."""
    lines = terminal.lines()
    return lines[max((index for index, line in enumerate(lines) if line.startswith("●")), default=0) :]


class WatchProcess:
    """A watch that writes to a pipe, read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def until(self, event: str, **fields: object) -> dict[str, Any]:
        """Read until there is a line of this event with these fields."""
        while True:
            line = await self.next_line()
            if {**line, **fields, "event": event} == line:
                return line

    async def next_line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, f"the watch ended: {self.lines}"
        assert not SANDBOX_SECRETS.search(line.decode())
        self.lines.append(json.loads(line))
        return self.lines[-1]

    async def until_all(self, tasks: set[str]) -> None:
        """Read until each of these tasks has a line."""
        while not tasks <= {line.get("task") for line in self.lines}:
            await self.next_line()

    async def interrupt(self) -> str:
        """End the watch with SIGINT and return what it wrote to stderr."""
        self.process.send_signal(signal.SIGINT)
        out, err = await self.process.communicate()
        self.lines += map(json.loads, out.splitlines())
        assert self.process.returncode == 130, err
        return err.decode()


@asynccontextmanager
async def watch_process(sandbox: Sandbox, *argv: str) -> AsyncIterator[WatchProcess]:
    process = await start_process(settings(sandbox), "watch", SPACE, *QUICK, *argv)
    try:
        yield WatchProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
