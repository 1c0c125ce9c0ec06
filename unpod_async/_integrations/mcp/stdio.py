"""The transport over stdin and stdout: one JSON message per line.

The transport of the package `mcp` waits for the next line before it ends, so that Ctrl-C has no effect until
its client writes something. Here, the threads that read and write do not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server import Server
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from unpod_async._common import is_fault_of_disk, write_all

__all__ = ["serve_lines", "serve_stdio"]

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2
_CHUNK: Final = 65_536
_FLUSH: Final = 2.0
"""Seconds that the last messages have to be written after stdin was closed."""


async def serve_stdio(server: Server[Any]) -> None:
    """Serve until stdin is closed, or the reader of stdout exits.

    Until it returns, file descriptor 1 is stderr, so that nothing but the protocol reaches stdout.

    Raises:
        OSError: stdout is a file that cannot be written, because the disk is full or fails.
    """
    loop = asyncio.get_running_loop()
    wire = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()
    outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    written = asyncio.Event()
    faults: list[OSError] = []

    def post(call: Callable[..., object], *values: object) -> None:
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(call, *values)

    def write() -> None:
        try:
            _write_messages(wire, outgoing)
        except OSError as error:
            if is_fault_of_disk(error):  # otherwise the reader has exited
                faults.append(error)
        finally:
            post(lines.put_nowait, None)  # nobody reads the answers, so nothing is read any more
            post(written.set)

    def read() -> None:
        try:
            _read_lines(lambda line: post(lines.put_nowait, line))
        finally:
            post(lines.put_nowait, None)

    threading.Thread(target=read, name="mcp stdin", daemon=True).start()
    threading.Thread(target=write, name="mcp stdout", daemon=True).start()
    try:
        await serve_lines(server, lines, outgoing)
        outgoing.put(None)
        with anyio.move_on_after(_FLUSH):
            await written.wait()
    finally:
        outgoing.put(None)
        os.dup2(wire, _STDOUT)
    if faults:
        raise faults[0]


async def serve_lines(
    server: Server[Any], lines: asyncio.Queue[bytes | None], outgoing: queue.SimpleQueue[bytes | None]
) -> None:
    """Pass messages between the queues and the server until there is no next line.

    The package `mcp` raises BrokenResourceError when it is cancelled while it passes a line on to its own
    reader. This is then a cancellation and not a fault.
    """
    send_in, receive_in = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    send_out, receive_out = anyio.create_memory_object_stream[SessionMessage](0)

    async def pass_in(stream: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        # While everything is cancelled, the server may close its end first.
        async with stream:
            with suppress(anyio.BrokenResourceError):
                while (line := await lines.get()) is not None:
                    await stream.send(_parse(line))

    async def pass_out(stream: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with stream:
            async for message in stream:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                outgoing.put(text.encode() + b"\n")

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(pass_in, send_in)
            group.start_soon(pass_out, receive_out)
            async with send_out:
                await server.run(receive_in, send_out, server.create_initialization_options())
    except BaseExceptionGroup as errors:
        task = asyncio.current_task()
        _, others = errors.split(anyio.BrokenResourceError)
        if others is None and task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise


def _parse(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


def _read_lines(put: Callable[[bytes], None]) -> None:
    # os.read: at the end of the process, a lock of sys.stdin that a thread holds would be a fatal error.
    pending = b""
    while chunk := _read_chunk():
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                put(line)


def _read_chunk() -> bytes:
    try:
        return os.read(_STDIN, _CHUNK)
    except OSError:  # stdin is closed
        return b""


def _write_messages(wire: int, outgoing: queue.SimpleQueue[bytes | None]) -> None:
    while (message := outgoing.get()) is not None:
        write_all(wire, message)
