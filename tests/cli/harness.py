"""The program as its users run it: in a process of its own, on a terminal, or here for speed."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import os
import re
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest

from tests.leaks import SANDBOX_SECRETS
from unpod_async.cli._app import run

if TYPE_CHECKING:
    from types import TracebackType

    from unpod_async.testing import Sandbox

__all__ = ["PROGRAM", "Ended", "Terminal", "clean", "here", "settings", "start", "there"]

PROGRAM = (sys.executable, "-m", "unpod_async")
_OURS = ("UNPOD_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def settings(sandbox: Sandbox, **more: str | None) -> dict[str, str]:
    """What the environment says of a sandbox; a setting that is None is not there."""
    found: dict[str, str | None] = {
        "UNPOD_PLATFORM_TOKEN": sandbox.token,
        "UNPOD_ORG_HANDLE": sandbox.org_handle,
        "UNPOD_BASE_URL": sandbox.base_url,
        **more,
    }
    return {name: value for name, value in found.items() if value is not None}


def clean() -> dict[str, str]:
    """The environment without anything that concerns the program."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


async def here(environment: dict[str, str], *argv: str, typed: bytes = b"") -> Ended:
    """Run a command in a thread of this process; its stdout is no terminal."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(clean()):
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), "utf-8"))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = await asyncio.to_thread(run, argv)
    ended = Ended(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined] # made above
    return _looked_at(ended)


async def start(
    environment: dict[str, str], *argv: str, program: tuple[str, ...] = PROGRAM
) -> asyncio.subprocess.Process:
    """The program in a process of its own, with pipes."""
    return await asyncio.create_subprocess_exec(
        *program,
        *argv,
        env={**clean(), **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def there(environment: dict[str, str], *argv: str, program: tuple[str, ...] = PROGRAM) -> Ended:
    """Run a command in a process of its own to its end."""
    process = await start(environment, *argv, program=program)
    out, err = await process.communicate()
    assert process.returncode is not None
    return _looked_at(Ended(process.returncode, out.decode(), err.decode()))


def _looked_at(ended: Ended) -> Ended:
    assert not SANDBOX_SECRETS.search(ended.out + ended.err), "a token was shown"
    return ended


# Makes its stdin the terminal that the process belongs to, so that Ctrl-C and /dev/tty work.
_ON_ITS_TERMINAL = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """The program on a terminal of so many columns: `async with Terminal(env, "runs", ...) as terminal`.

    Attributes:
        shown: all that it has shown, control sequences included.
    """

    def __init__(
        self, environment: dict[str, str], *argv: str, columns: int = 60, stdout: bool = True
    ) -> None:
        self._environment = {**clean(), "TERM": "xterm", **environment}
        self._argv = argv
        self._columns = columns
        self._stdout = stdout
        self.shown = ""
        # A read can end inside a character of several bytes.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._news = asyncio.Event()
        self._over = False

    async def __aenter__(self) -> Self:
        import fcntl
        import pty
        import termios

        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, self._columns, 0, 0))
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-IS", "-c", _ON_ITS_TERMINAL, *PROGRAM, *self._argv),
            env=self._environment,
            stdin=theirs,
            stdout=theirs if self._stdout else asyncio.subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)

    def _read(self) -> None:
        try:
            new = os.read(self._ours, 65536)
        except OSError:  # Linux says so when nobody has it open any more
            new = b""
        self.shown += self._decoder.decode(new)
        if not new:
            self._over = True
            asyncio.get_running_loop().remove_reader(self._ours)
        self._news.set()

    async def until(self, text: str) -> None:
        """Wait until it has shown this."""
        while text not in self.shown:
            assert not self._over, f"it ended without {text!r}: {self.shown}"
            self._news.clear()
            await self._news.wait()

    def type(self, text: str) -> None:
        """Press keys; "\\x03" is Ctrl-C."""
        os.write(self._ours, text.encode())

    async def ended(self) -> int:
        """Wait for the end; the status."""
        while not self._over:
            self._news.clear()
            await self._news.wait()
        return await self.process.wait()

    def lines(self) -> list[str]:
        """What was shown, without control sequences."""
        return [line.rstrip() for line in _CONTROL.sub("", self.shown).replace("\r", "\n").split("\n")]
