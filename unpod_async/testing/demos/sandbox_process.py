"""A sandbox in its own process, so that server and client share neither event loop nor GIL.

`SandboxProcess` starts `python -m unpod_async.testing.demos.sandbox_process` and communicates with it over
its standard input and output. Each request and each reply is one line of JSON. The process sends the first
reply when its server listens; the reply has the address. The process exits when its standard input ends,
which also happens if the parent process is killed.
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

_EXIT_TIMEOUT: Final = 5.0
"""Seconds that the process has to end after its input ends, before it is killed."""

_MAX_REPLY: Final = 2**30
"""The largest reply in bytes. A row takes 32 hex digits and 3 other characters."""


class SandboxInfo(msgspec.Struct, frozen=True):
    """The address and credentials of the sandbox, and the size of its data set."""

    base_url: str
    token: str
    org_handle: str
    space_token: str
    runs: int
    tasks: int


def fingerprint(row: object) -> str:
    """Return a hash of a row as 32 hex digits, independent of the order of its keys.

    A key with null equals a missing key, as in the models.
    """
    content = msgspec.json.encode(_without_nulls(row), order="deterministic")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _exported(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row as an export has it, without user tokens."""
    info = row.get("user_info")
    if not isinstance(info, dict):
        return row
    return {**row, "user_info": {**cast("dict[str, object]", info), "user_token": None}}


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {name: _without_nulls(inner) for name, inner in items if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in cast("list[object]", value)]
    return value


class SandboxProcess:
    """A `Sandbox` in another process: `async with SandboxProcess(runs=2000) as sandbox: sandbox.info`.

    It takes the arguments of `Sandbox` that are JSON values. Leaving the block ends the process.
    """

    info: SandboxInfo

    def __init__(self, **arguments: object) -> None:
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        # In its own session, or process group on Windows: Ctrl-C in the terminal goes to the parent only,
        # which ends this process after the client.
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, msgspec.json.encode(self._arguments).decode()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=_MAX_REPLY,
            start_new_session=True,
            creationflags=group,
        )
        try:
            self.info = msgspec.convert(await self._reply(), SandboxInfo)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def requests(self) -> int:
        """Return the number of requests received."""
        return cast("int", await self._request("requests"))

    async def targets(self) -> list[str]:
        """Return the path and query of each request received, oldest first."""
        return cast("list[str]", await self._request("targets"))

    async def fingerprints(self, kind: Literal["runs", "tasks"] = "tasks") -> set[str]:
        """Return the `fingerprint` of each run or task of the main space, as in an export: without tokens."""
        return set(cast("list[str]", await self._request(kind)))

    async def tasks(self) -> list[tuple[str, str]]:
        """Return the run id and the task id of each task of the main space, newest first."""
        return [(run, task) for run, task in cast("list[list[str]]", await self._request("ids"))]

    def kill_at_exit(self, pid: int | None) -> None:
        """Kill a process when the sandbox ends, so that it does not wait for the sandbox. None: kill none."""
        self._send(pid)

    async def _request(self, request: str) -> Any:
        self._send(request)
        return await self._reply()

    def _send(self, message: str | int | None) -> None:
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the process is not running: use `async with SandboxProcess() as sandbox`")
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")

    async def _reply(self) -> Any:
        if self._process is None or self._process.stdout is None:
            raise RuntimeError("the process is not running: use `async with SandboxProcess() as sandbox`")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of the sandbox ended.\nhint: see its output above")
        return msgspec.json.decode(line)

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _EXIT_TIMEOUT)
        except BaseException as error:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if not isinstance(error, TimeoutError):
                raise


async def _serve(arguments: dict[str, Any]) -> None:
    """Serve in the child process, and reply to requests until the standard input ends."""
    if isinstance(each := arguments.get("tasks_per_run"), list):
        arguments["tasks_per_run"] = tuple(cast("list[int]", each))
    async with Sandbox(**arguments) as sandbox:
        _send(
            SandboxInfo(
                sandbox.base_url,
                sandbox.token,
                sandbox.org_handle,
                sandbox.space_token,
                len(sandbox.run_ids()),
                sandbox.task_count,
            )
        )
        kill_pid: int | None = None
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            match msgspec.json.decode(line, type=str | int | None):
                case "requests":
                    _send(sandbox.requests)
                case "targets":
                    _send([f"{one.path}?{urlencode(one.query)}" for one in sandbox.log])
                case "ids":
                    _send([(row["run_id"], row["task_id"]) for row in sandbox.task_rows()])
                case "runs":
                    _send([fingerprint(_exported(row)) for row in sandbox.run_rows()])
                case "tasks":
                    _send([fingerprint(_exported(row)) for row in sandbox.task_rows()])
                case str(request):
                    raise ValueError(f"unknown request: {request!r}")
                case pid:
                    kill_pid = pid
        if kill_pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(kill_pid, getattr(signal, "SIGKILL", signal.SIGTERM))


def _send(reply: object) -> None:
    # With PYTHONUNBUFFERED, a write to sys.stdout.buffer can be short.
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(msgspec.json.encode(reply) + b"\n")


if __name__ == "__main__":
    asyncio.run(_serve(msgspec.json.decode(sys.argv[1])))
