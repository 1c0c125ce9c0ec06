"""Run the command line in a thread of this process, in a process of its own, or on a terminal."""

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
from unpod_async.cli.app import run

if TYPE_CHECKING:
    from types import TracebackType

    from unpod_async.testing import Sandbox

__all__ = [
    "PROGRAM",
    "Result",
    "Terminal",
    "clean_environment",
    "run_cli",
    "run_process",
    "settings",
    "start_process",
]

PROGRAM = (sys.executable, "-m", "unpod_async")
_VARIABLES = ("UNPOD_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Result(NamedTuple):
    """The exit status of a command, and what it wrote."""

    status: int
    out: str
    err: str


def settings(sandbox: Sandbox, **more: str | None) -> dict[str, str]:
    """Return the environment variables for a sandbox. A variable that is None is left out."""
    found: dict[str, str | None] = {
        "UNPOD_PLATFORM_TOKEN": sandbox.token,
        "UNPOD_ORG_HANDLE": sandbox.org_handle,
        "UNPOD_BASE_URL": sandbox.base_url,
        **more,
    }
    return {name: value for name, value in found.items() if value is not None}


def clean_environment() -> dict[str, str]:
    """Return the environment without the variables that the program reads."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_VARIABLES) and name.upper() not in _PROXIES
    }


async def run_cli(environment: dict[str, str], *argv: str, typed: bytes = b"") -> Result:
    """Run a command in a thread of this process. Its stdout is not a terminal."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(clean_environment()):
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), "utf-8"))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = await asyncio.to_thread(run, argv)
    result = Result(status, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined] # made above
    return _check_secrets(result)


async def start_process(
    environment: dict[str, str], *argv: str, program: tuple[str, ...] = PROGRAM
) -> asyncio.subprocess.Process:
    """Start the program in a process of its own, with pipes."""
    return await asyncio.create_subprocess_exec(
        *program,
        *argv,
        env={**clean_environment(), **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run_process(environment: dict[str, str], *argv: str, program: tuple[str, ...] = PROGRAM) -> Result:
    """Run the program in a process of its own to its end."""
    process = await start_process(environment, *argv, program=program)
    out, err = await process.communicate()
    assert process.returncode is not None
    return _check_secrets(Result(process.returncode, out.decode(), err.decode()))


def _check_secrets(result: Result) -> Result:
    assert not SANDBOX_SECRETS.search(result.out + result.err), "a token was shown"
    return result


# Makes stdin the controlling terminal of the process, so that Ctrl-C and /dev/tty work.
_WITH_TERMINAL = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """The program on a terminal: `async with Terminal(environment, "runs", ..., columns=60) as terminal`.

    Attributes:
        shown: everything it has written, including control sequences.
    """

    def __init__(
        self, environment: dict[str, str], *argv: str, columns: int = 60, stdout: bool = True
    ) -> None:
        self._environment = {**clean_environment(), "TERM": "xterm", **environment}
        self._argv = argv
        self._columns = columns
        self._stdout = stdout
        self.shown = ""
        # A read can end inside a character of several bytes.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._output = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        import fcntl
        import pty
        import termios

        self._own_end, other_end = pty.openpty()
        fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, self._columns, 0, 0))
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-IS", "-c", _WITH_TERMINAL, *PROGRAM, *self._argv),
            env=self._environment,
            stdin=other_end,
            stdout=other_end if self._stdout else asyncio.subprocess.PIPE,
            stderr=other_end,
            start_new_session=True,
        )
        os.close(other_end)
        asyncio.get_running_loop().add_reader(self._own_end, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._own_end)
        os.close(self._own_end)

    def _read(self) -> None:
        try:
            new = os.read(self._own_end, 65536)
        except OSError:  # on Linux: no process has it open
            new = b""
        self.shown += self._decoder.decode(new)
        if not new:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._own_end)
        self._output.set()

    async def until(self, text: str) -> None:
        """Wait until this text was written."""
        while text not in self.shown:
            assert not self._closed, f"the program ended without {text!r}: {self.shown}"
            self._output.clear()
            await self._output.wait()

    def type(self, text: str) -> None:
        """Press keys. "\\x03" is Ctrl-C."""
        os.write(self._own_end, text.encode())

    async def wait(self) -> int:
        """Wait for the end of the program and return its exit status."""
        while not self._closed:
            self._output.clear()
            await self._output.wait()
        return await self.process.wait()

    def lines(self) -> list[str]:
        """Return the lines that were written, without control sequences."""
        return [line.rstrip() for line in _CONTROL.sub("", self.shown).replace("\r", "\n").split("\n")]
