"""A sandbox in a process of its own, so that server and client share neither event loop nor GIL.

`SandboxProcess` starts `python -m unpod_async.testing.demos.process` and talks to it over its standard input
and output: each request is one line of JSON, and so is each reply. The first reply names the address of the
server, so no caller has to sleep until it listens. The process exits when its standard input ends, also if
the parent process was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any, Final, Literal, Self, cast
from urllib.parse import urlencode

import msgspec

from unpod_async.testing.sandbox import Sandbox

__all__ = ["SandboxProcess", "fingerprint"]

_PATIENCE: Final = 5.0
"""Seconds the process has to end when its input ends, before it is killed."""

_LONGEST: Final = 2**30
"""Bytes of an answer: 32 hex digits and 3 signs per row of the data set."""


class SandboxInfo(msgspec.Struct, frozen=True):
    """How to reach the sandbox, and how much is in it."""

    base_url: str
    token: str
    org_handle: str
    space_token: str
    runs: int
    tasks: int


def fingerprint(row: object) -> str:
    """What tells rows apart: 32 hex digits of all that a row says, whatever the order of its keys.

    A key with null and a key that is not there say the same, as they do in the models.
    """
    said = msgspec.json.encode(_said(row), order="deterministic")
    return hashlib.blake2b(said, digest_size=16).hexdigest()


def _exported(row: dict[str, Any]) -> dict[str, Any]:
    """The row as an export has it, which keeps no user tokens."""
    info = row.get("user_info")
    if not isinstance(info, dict):
        return row
    return {**row, "user_info": {**cast("dict[str, object]", info), "user_token": None}}


def _said(value: object) -> object:
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {name: _said(inner) for name, inner in items if inner is not None}
    if isinstance(value, list):
        return [_said(inner) for inner in cast("list[object]", value)]
    return value


class SandboxProcess:
    """A `Sandbox` in another process: `async with SandboxProcess(runs=2000) as sandbox: sandbox.where`.

    Takes those arguments of `Sandbox` that are JSON. Leaving the block ends the process and waits for it.
    """

    where: SandboxInfo

    def __init__(self, **arguments: object) -> None:
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        # A session, or on Windows a process group, of its own: a Ctrl-C in the terminal is for the parent,
        # which then ends this process after the client has left.
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, msgspec.json.encode(self._arguments).decode()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=_LONGEST,
            start_new_session=True,
            creationflags=group,
        )
        try:
            self.where = msgspec.convert(await self._answer(), SandboxInfo)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def requests(self) -> int:
        """How many requests have arrived."""
        return cast("int", await self._ask("requests"))

    async def targets(self) -> list[str]:
        """Path and query of each request that has arrived, oldest first."""
        return cast("list[str]", await self._ask("targets"))

    async def fingerprints(self, kind: Literal["runs", "tasks"] = "tasks") -> set[str]:
        """`fingerprint` of each run or task of the main space as an export has it: without user tokens."""
        return set(cast("list[str]", await self._ask(kind)))

    def take_along(self, pid: int | None) -> None:
        """Kill this process when the sandbox ends, so that none is left that would wait for it; or none."""
        self._tell(pid)

    async def _ask(self, question: str) -> Any:
        self._tell(question)
        return await self._answer()

    def _tell(self, what: str | int | None) -> None:
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the process is not running: use `async with SandboxProcess() as sandbox`")
        self._process.stdin.write(msgspec.json.encode(what) + b"\n")

    async def _answer(self) -> Any:
        if self._process is None or self._process.stdout is None:
            raise RuntimeError("the process is not running: use `async with SandboxProcess() as sandbox`")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the sandbox's process ended; what it said stands above")
        return msgspec.json.decode(line)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _PATIENCE)
        except BaseException as error:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if not isinstance(error, TimeoutError):
                raise


async def _serve(arguments: dict[str, Any]) -> None:
    """The other side: answer until the standard input ends."""
    if isinstance(each := arguments.get("tasks_per_run"), list):
        arguments["tasks_per_run"] = tuple(cast("list[int]", each))
    async with Sandbox(**arguments) as sandbox:
        _tell(
            SandboxInfo(
                sandbox.base_url,
                sandbox.token,
                sandbox.org_handle,
                sandbox.space_token,
                len(sandbox.run_ids()),
                sandbox.task_count,
            )
        )
        taken_along: int | None = None
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            match msgspec.json.decode(line, type=str | int | None):
                case "requests":
                    _tell(sandbox.requests)
                case "targets":
                    _tell([f"{one.path}?{urlencode(one.query)}" for one in sandbox.log])
                case "runs":
                    _tell([fingerprint(_exported(row)) for row in sandbox.run_rows()])
                case "tasks":
                    _tell([fingerprint(_exported(row)) for row in sandbox.task_rows()])
                case str(question):
                    raise ValueError(f"nobody answers {question!r} here")
                case pid:
                    taken_along = pid
        if taken_along is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(taken_along, getattr(signal, "SIGKILL", signal.SIGTERM))


def _tell(answer: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(_serve(msgspec.json.decode(sys.argv[1])))
