"""A server that sends exactly the bytes of a test: truncated, stalled, reset, or not HTTP at all."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    Handler = Callable[["RawConnection"], Awaitable[object]]

__all__ = ["RawConnection", "RawServer", "answering_in_turn", "http_response", "json_response"]


def http_response(
    body: bytes = b"",
    status: int = 200,
    headers: Iterable[tuple[str, str]] = (),
    *,
    reason: str | None = None,
) -> bytes:
    """Return a complete response. Content-Length is added unless `headers` describe the length of the
    body."""
    headers = list(headers)
    if not {"content-length", "transfer-encoding"} & {name.lower() for name, _ in headers}:
        headers.append(("Content-Length", str(len(body))))
    if reason is None:
        reason = next((known.phrase for known in HTTPStatus if known == status), "Unknown")
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("utf-8") + body


def json_response(content: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A JSON response of an object, or of bytes that are sent as they are (broken JSON, for one)."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = list(headers)
    if "content-type" not in {name.lower() for name, _ in headers}:
        headers.insert(0, ("Content-Type", "application/json"))
    return http_response(body, status, headers)


class RawConnection:
    """One accepted connection. It is closed when the handler returns."""

    def __init__(self, server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        self.number = server.connections  # 1 for the first

    async def read_request(self) -> bytes | None:
        """Head and body (by Content-Length) of the next request; None when the client has hung up."""
        try:
            request = await self._reader.readuntil(b"\r\n\r\n")
            for line in request.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.strip().lower() == b"content-length":
                    request += await self._reader.readexactly(int(value))
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self._server.requests.append(request)
        return request

    async def send(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    def reset(self) -> None:
        """Close the connection with RST: the client sees "connection reset by peer", not an end of file."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """Close the connection in order, after the sent bytes."""
        self._writer.close()


class RawServer:
    """`async with RawServer(handler) as server:` serves 127.0.0.1 on a free port, one handler per connection.

    What a handler raises (a failed assertion, say) is raised again when the block ends. Clients that hang up
    are no error, and handlers that still run then are cancelled.
    """

    def __init__(self, handler: Handler, ssl_context: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._ssl = ssl_context
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[Exception] = []
        self.connections = 0
        self.requests: list[bytes] = []

    @property
    def base_url(self) -> str:
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        # A plain function, so that this object creates the tasks and can wait for them.
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._ssl)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Shielded: a cancelled test, too, must leave no task and no socket.
        with anyio.CancelScope(shield=True):
            self._server.close()
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                # Cancel again after a while: a handler may have caught the first cancellation.
                await asyncio.wait(self._tasks, timeout=0.5)
            await self._server.wait_closed()
            # 3.11's wait_closed() waits for nothing. A connection accepted in the last turn takes one to get
            # its task, its transport, its callback above and its close each.
            for _ in range(6):
                await anyio.lowlevel.checkpoint()
        for raised in self._errors:
            if error is None:
                raise raised
            error.add_note(f"RawServer's handler raised {raised!r}")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._server.is_serving():  # accepted in the turn in which the block ended
            writer.transport.abort()
            return
        self.connections += 1
        task = asyncio.ensure_future(self._serve(RawConnection(self, reader, writer), writer))
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            # Here, not in a finally of the task's: one cancelled before its first step runs none. The abort
            # does nothing after a close in order; after a cancellation it drops what the client did not read.
            writer.transport.abort()
            self._tasks.discard(task)

        task.add_done_callback(done)

    async def _serve(self, connection: RawConnection, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handler(connection)
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            pass
        except Exception as error:  # noqa: BLE001  # raised again where the test can see it
            self._errors.append(error)


def answering_in_turn(*answers: bytes, get: bytes, post: bytes) -> Callable[[RawConnection], Awaitable[None]]:
    """Return a handler that sends these answers in turn, then `get` or `post`; b"" closes the connection."""
    left = iter(answers)

    async def handle(connection: RawConnection) -> None:
        while (request := await connection.read_request()) is not None:
            answer = next(left, post if request.startswith(b"POST") else get)
            if not answer:
                return
            await connection.send(answer)

    return handle
