"""The sandbox's HTTP server: a real socket, faults on request, and nothing left behind when it stops."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from urllib.parse import parse_qsl
from weakref import WeakSet

from aiohttp import ClientConnectionError, web

from unpod_async.testing.answers import ApiResponse
from unpod_async.testing.script import Fault, FaultScript
from unpod_async.testing.views import ApiRequest, FakeApi

__all__ = ["Received", "Server"]

# SO_LINGER with no time: close() sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Received:
    """A request as it arrived.

    Attributes:
        method: upper-case.
        path: as on the wire, still percent-encoded, without the query.
        query: decoded; of a repeated name the last value.
        headers: names in lower case; of `authorization` only the scheme, never the secret.
        status: of the answer; None while there is none yet, and when the connection was reset.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int | None = None


class Server:
    """Serves a `Service` on `host`:`port`."""

    def __init__(
        self,
        service: FakeApi,
        now: Callable[[], datetime],
        *,
        latency: float,
        host: str,
        port: int,
        idle_close: float,
    ) -> None:
        self.script = FaultScript()
        self.log: list[Received] = []
        self.port = 0
        self._service = service
        self._now = now
        self._latency = latency
        self._address = (host, port)
        self._idle_close = idle_close
        self._closing = asyncio.Event()  # a new one at each start: it belongs to one event loop
        self._arrival = asyncio.Event()
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        # Tasks that are answering: one whose client has gone is no longer known to aiohttp.
        self._busy: set[asyncio.Task[None]] = set()
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Listen; `port` is known afterwards. Raises OSError when the port is taken."""
        server = web.Server(self._handle, keepalive_timeout=self._idle_close, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=1)
        self._closing = asyncio.Event()
        self._arrival = asyncio.Event()
        await runner.setup()
        try:
            await web.TCPSite(runner, *self._address).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening, end what is stalled and close every connection."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._closing.set()
        for transport in list(self._transports):
            transport.abort()
        await runner.cleanup()
        if self._busy:
            await asyncio.wait(self._busy)
        # A closed transport gives its socket back in the next turn of the loop.
        await asyncio.sleep(0)

    async def arrived(self, count: int) -> None:
        """Wait until `count` requests have arrived since the sandbox was made."""
        while len(self.log) < count:
            self._arrival.clear()
            await self._arrival.wait()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is None:
            return await self._receive(request)
        self._busy.add(task)
        try:
            return await self._receive(request)
        finally:
            self._busy.discard(task)

    async def _receive(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.transport, asyncio.Transport):
            self._transports.add(request.transport)
        path, _, raw_query = request.raw_path.partition("?")
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(request.method, path, query, _shown(headers))
        self.log.append(received)
        self._arrival.set()
        number = len(self.log)
        fault = self.script.take(request.method, path, query)
        try:
            # Not `request.read()`: that has a limit, the service has none.
            body = await request.content.read()
        except (ClientConnectionError, ConnectionError, web.RequestPayloadError):
            return web.Response()  # the client left half-way; there is nobody to answer
        if self._latency:
            await self._pause(self._latency)
        answer = fault.answer() if fault is not None else None
        if answer is None or (fault is not None and fault.processed):
            call = ApiRequest(request.method, path, raw_query, query, headers, body, number, self._now())
            normal = self._service.answer(call)
            answer = answer or normal
        return await self._reply(request, received, fault, answer)

    async def _reply(
        self, request: web.BaseRequest, received: Received, fault: Fault | None, answer: ApiResponse
    ) -> web.StreamResponse:
        if fault is not None and fault.stall is not None:
            await self._pause(fault.stall)
        if fault is not None and fault.by_hand:
            await self._write(request, received, fault, answer)
            return web.Response()  # aiohttp finds the connection gone and sends nothing
        received.status = answer.status
        headers = {"Content-Type": answer.content_type, **answer.headers}
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    async def _pause(self, seconds: float) -> None:
        """Wait, but never longer than the server lives."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return

    async def _write(
        self, request: web.BaseRequest, received: Received, fault: Fault, answer: ApiResponse
    ) -> None:
        """Write the bytes of an answer, and end the connection."""
        transport = request.transport
        if not isinstance(transport, asyncio.Transport):
            return  # gone already
        whole = _bytes(answer, head_only=request.method == "HEAD") if fault.raw is None else fault.raw
        ends = [end for end in (fault.reset_at, fault.close_at) if end is not None]
        sent = whole[: min(ends)] if ends else whole
        if fault.reset_at is None and fault.raw is None and len(sent) == len(whole):
            received.status = answer.status
        if fault.drip is None:
            transport.write(sent)
        else:
            for byte in sent:
                await self._pause(fault.drip)
                if transport.is_closing() or self._closing.is_set():
                    break
                transport.write(bytes([byte]))
        while transport.get_write_buffer_size() and not transport.is_closing():
            await self._pause(0.001)
            if self._closing.is_set():
                break
        if fault.reset_at is None:
            transport.close()
            return
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()


def _bytes(answer: ApiResponse, *, head_only: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {_reason(answer.status)}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
    ]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head if head_only else head + answer.body


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers fit to be kept: of Authorization only the scheme, and nothing where there is no scheme."""
    shown = dict(headers)
    if "authorization" in shown:
        scheme, space, _ = shown["authorization"].partition(" ")
        shown["authorization"] = scheme if space else ""
    return shown
