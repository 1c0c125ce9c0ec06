"""The HTTP server of the sandbox: real sockets, scripted faults, and no open connection after it stops."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from urllib.parse import parse_qsl
from weakref import WeakSet

from aiohttp import ClientConnectionError, web

from unpod_async.testing.answers import ApiResponse, json_response
from unpod_async.testing.script import Fault, FaultScript
from unpod_async.testing.views import ApiRequest, FakeApi

__all__ = ["Received", "RequestLimit", "Server"]

# SO_LINGER with a time of 0: close() sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Received:
    """A request that arrived.

    Attributes:
        method: upper-case.
        path: as received, percent-encoded, without the query.
        query: decoded; the last value of a repeated name.
        headers: the names are lower-case; `authorization` has the scheme only, never the secret.
        status: the status of the response; None before it is sent, and if the connection was reset.
        arrived: when it arrived, in seconds of `time.monotonic()`.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int | None = None
    arrived: float = field(default_factory=time.monotonic)


class RequestLimit:
    """A limit on requests per second, as a bucket of permits that is refilled. The clock is passed in.

    Args:
        rate: permits added per second.
        burst: permits when the bucket is full, as it is at the start.

    Raises:
        ValueError: no request would ever be within the limit.
    """

    def __init__(self, rate: float, burst: int) -> None:
        if not rate > 0 or burst < 1:
            raise ValueError("rate_limit must be greater than 0, and burst at least 1")
        self._rate = rate
        self._burst = burst
        self._permits = float(burst)
        self._now = -math.inf

    def refuse(self, now: float) -> ApiResponse | None:
        """Return the response to a request that exceeds the limit; None if the request is within it."""
        elapsed = now - self._now
        self._permits = min(float(self._burst), self._permits + elapsed * self._rate)
        self._now = now
        if self._permits >= 1:
            self._permits -= 1
            return None
        delay = math.ceil((1 - self._permits) / self._rate)
        response = json_response(429, {"message": "Request was throttled.", "status_code": 429})
        return replace(response, headers={"Retry-After": str(delay)})


class Server:
    """Serves a `FakeApi` on `host`:`port`.

    Attributes:
        lock: held while a request reads or changes the data. Code in another thread takes it too.
    """

    def __init__(
        self,
        service: FakeApi,
        now: Callable[[], datetime],
        *,
        latency: float,
        host: str,
        port: int,
        idle_close: float,
        log_limit: int | None = None,
        limit: RequestLimit | None = None,
    ) -> None:
        self.script: FaultScript = FaultScript()
        self.log: list[Received] = []
        self.requests: int = 0
        self.lock: threading.RLock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._log_limit = log_limit
        self._limit = limit
        self.port: int = 0
        self._service = service
        self._now = now
        self._latency = latency
        self._address = (host, port)
        self._idle_close = idle_close
        self._closing = asyncio.Event()  # a new one at each start, because it belongs to one event loop
        self._arrival = asyncio.Event()
        self._transports: WeakSet[asyncio.Transport] = WeakSet()
        # Tasks that handle requests. aiohttp forgets one whose client has disconnected.
        self._busy: set[asyncio.Task[None]] = set()
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Start to listen, and set `port`. Raises OSError if the port is in use."""
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
        self._loop = asyncio.get_running_loop()
        self.port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening, end stalled responses and close every connection."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._closing.set()
        for transport in list(self._transports):
            transport.abort()
        await runner.cleanup()
        if self._busy:
            await asyncio.wait(self._busy)
        self._loop = None
        # A closed transport closes its socket in the next turn of the event loop.
        await asyncio.sleep(0)

    async def arrived(self, count: int) -> None:
        """Wait until `count` requests have arrived since the sandbox was made."""
        loop = self._loop
        if loop is None or loop is asyncio.get_running_loop():
            await self._wait_for_arrival(count)
        else:
            waiting = asyncio.run_coroutine_threadsafe(self._wait_for_arrival(count), loop)
            await asyncio.wrap_future(waiting)

    async def _wait_for_arrival(self, count: int) -> None:
        while self.requests < count:
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
        with self.lock:
            self.log.append(received)
            if self._log_limit is not None and len(self.log) > self._log_limit:
                del self.log[: self._log_limit // 2]
            self.requests += 1
            number = self.requests
            refused = None if self._limit is None else self._limit.refuse(received.arrived)
            fault = self.script.take(request.method, path, query) if refused is None else None
        self._arrival.set()
        try:
            # `request.read()` has a limit, which the service does not have.
            body = await request.content.read()
        except (ClientConnectionError, ConnectionError, web.RequestPayloadError):
            return web.Response()  # the client disconnected, so nobody reads a response
        if self._latency:
            await self._pause(self._latency)
        response = fault.response() if fault is not None else refused
        with self.lock:
            now = self._now()
            if response is None or (fault is not None and fault.processed):
                call = ApiRequest(request.method, path, raw_query, query, headers, body, number, now)
                normal = self._service.response(call)
                response = response or normal
        return await self._reply(request, received, fault, response, now)

    async def _reply(
        self,
        request: web.BaseRequest,
        received: Received,
        fault: Fault | None,
        response: ApiResponse,
        now: datetime,
    ) -> web.StreamResponse:
        if fault is not None and fault.stall is not None:
            await self._pause(fault.stall)
        if fault is not None and fault.writes_bytes:
            await self._write(request, received, fault, response)
            return web.Response()  # aiohttp finds the connection closed and sends nothing
        received.status = response.status
        date = format_datetime(now.astimezone(UTC), usegmt=True)
        headers = {"Content-Type": response.content_type, "Date": date, **response.headers}
        return web.Response(status=response.status, body=response.body, headers=headers)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than the server runs."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return

    async def _write(
        self, request: web.BaseRequest, received: Received, fault: Fault, response: ApiResponse
    ) -> None:
        """Write the bytes of a response, and end the connection."""
        transport = request.transport
        if not isinstance(transport, asyncio.Transport):
            return  # closed already
        whole = _bytes(response, head_only=request.method == "HEAD") if fault.raw is None else fault.raw
        ends = [end for end in (fault.reset_at, fault.close_at) if end is not None]
        sent = whole[: min(ends)] if ends else whole
        if fault.reset_at is None and fault.raw is None and len(sent) == len(whole):
            received.status = response.status
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


def _bytes(response: ApiResponse, *, head_only: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {_reason(response.status)}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head if head_only else head + response.body


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers to record: of Authorization only the scheme, or nothing if there is none."""
    shown = dict(headers)
    if "authorization" in shown:
        scheme, space, _ = shown["authorization"].partition(" ")
        shown["authorization"] = scheme if space else ""
    return shown
