"""The only module that speaks HTTP: one request in, one answer read whole out, under the client's limits.

Reads share a pool whose connections are dropped before the server drops them. A create goes over a
connection of its own: on a kept-alive one that the server is just closing, a POST fails although nothing was
processed, and one cannot tell. Both sessions are made on the loop of the first request.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import ssl
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Final, TypeAlias

import aiohttp

from unpod_async._response import Request, Response
from unpod_async._secret import Secret
from unpod_async._settings import Settings
from unpod_async.errors import ConfigurationError, TransportError

__all__ = ["SentFlag", "TokenProvider", "Transport"]

CONNECT: Final = 10.0
READ: Final = 30.0
"""Seconds for a connection, and between two pieces of an answer, within the time of the attempt."""

KEEP_ALIVE: Final = 4.0
"""Seconds an idle connection is kept; the server closes it after 5 to 6 without a word."""

TokenProvider: TypeAlias = Callable[[], Awaitable[str]]
"""Gives a new token, without its scheme."""

_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Language": "en",
    # Said here, so that an installed brotli or zstd does not change what goes over the wire.
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": f"unpod-async/{importlib.metadata.version('unpod-async')}",
}


class _ConnectionLost(aiohttp.ClientError):
    """A lost connection as a class that aiohttp does not answer by sending the request once more."""


async def _send_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as lost:
        if isinstance(lost, aiohttp.ClientConnectorError):
            raise
        name = type(lost).__name__
    raise _ConnectionLost(name)


class Transport:
    """Requests under one base URL and token.

    Args:
        session: a session of the caller's for reads; it is never closed here.
        token_provider: asked for a new token when the one in use is not accepted.
        max_response_bytes: an answer longer than this, decompressed, is given up while it comes in.
        proxy, ssl_context: as aiohttp takes them; verification cannot be switched off.
    """

    def __init__(
        self,
        settings: Settings,
        secret: Secret,
        *,
        session: aiohttp.ClientSession | None = None,
        token_provider: TokenProvider | None = None,
        max_response_bytes: int = 256 * 2**20,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.token = secret
        self._settings = settings
        self._given = session
        self._provider = token_provider
        self._renewing: asyncio.Lock | None = None
        self._most = max_response_bytes
        self._proxy = proxy
        self._ssl = True if ssl_context is None else ssl_context
        self._reads: aiohttp.ClientSession | None = None
        self._creates: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def get(self, path: str, query: Mapping[str, str], timeout: float) -> Response:
        """One GET, sent once and read whole within `timeout` seconds; any status.

        Raises:
            TransportError: no whole answer came.
            ConfigurationError: the client is closed or belongs to another event loop.
        """
        self._bind()
        if self._reads is None or self._reads.closed:
            self._reads = self._given or aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(_send_once,),
            )
        return await self._exchange(self._reads, "GET", path, timeout, query=query)

    async def post(self, path: str, body: bytes, timeout: float, sent: SentFlag) -> Response:
        """One POST over a connection of its own, sent at most once; any status.

        `sent` is set when the head of the request goes out.

        Raises:
            TransportError: no whole answer came; `sent` is False when the request certainly never left.
            ConfigurationError: the client is closed or belongs to another event loop.
        """
        self._bind()
        if self._creates is None or self._creates.closed:
            tracing = aiohttp.TraceConfig()
            tracing.on_request_headers_sent.append(_note_sent)
            self._creates = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[tracing],
            )
        return await self._exchange(self._creates, "POST", path, timeout, body=body, told=sent)

    async def renew(self, refused: Secret) -> bool:
        """After a 401 for `refused`: whether there is another token to try. The provider is asked once."""
        if self._provider is None:
            return False
        if self._renewing is None:
            self._renewing = asyncio.Lock()
        async with self._renewing:
            if self.token is refused:
                self.token = Secret((await self._provider()).strip())
        return self.token != refused

    async def aclose(self) -> None:
        """Close our sessions; a given one stays open. Closing twice does nothing."""
        self._closed = True
        for session in (self._reads, self._creates):
            if session is not None and session is not self._given:
                await session.close()

    def _bind(self) -> None:
        if self._closed:
            raise ConfigurationError("the client is closed: make a new UnpodClient, or keep this one open")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError(
                "the client belongs to another event loop, where its first request was made: make one "
                "UnpodClient per event loop (per asyncio.run)"
            )

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        timeout: float,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        told: SentFlag | None = None,
    ) -> Response:
        token = self.token
        too_long = False
        try:
            async with session.request(
                method,
                self._settings.base_url + path,
                params=query or None,
                data=body,
                headers=self._headers(body),
                # Without the threshold aiohttp rounds time-outs over 5 s up to the next whole second.
                timeout=aiohttp.ClientTimeout(
                    total=timeout,
                    connect=CONNECT,
                    sock_connect=CONNECT,
                    sock_read=READ,
                    ceil_threshold=float("inf"),
                ),
                proxy=self._proxy,
                ssl=self._ssl,
                allow_redirects=False,
                raise_for_status=False,
                trace_request_ctx=told,
            ) as response:
                pieces: list[bytes] = []
                length = 0
                async for piece in response.content.iter_any():
                    length += len(piece)
                    if length > self._most:
                        too_long = True
                        response.close()
                        break
                    pieces.append(piece)
                headers = {name.lower(): value for name, value in response.headers.items()}
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as fault:
            # Its text, arguments and traceback can hold the request's headers, and so the token.
            error = _explain(method, path, fault, sent=None if told is None else told.sent)
        else:
            if not too_long:
                read = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                if status != 200:
                    read = token.redact_bytes(read)
                    headers = {name: token.redact(value) for name, value in headers.items()}
                return Response(status, headers, read)
            error = TransportError(
                f"{method} /{path}: the answer is longer than max_response_bytes ({self._most}); ask for "
                "smaller pages (page_size=), or raise the limit",
                sent=True,
                permanent=True,
            )
        raise error

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {
            **_HEADERS,
            "Authorization": f"{self._settings.auth_scheme} {self.token.reveal()}",
        }
        if self._settings.org_handle is not None:
            headers["Org-Handle"] = self._settings.org_handle
        if body is not None:
            headers["Content-Type"] = "application/json"
        return headers

    def request(self, method: str, path: str) -> Request:
        """What an error text may say of a request."""
        return Request(method, f"/{path}", self._settings.auth_scheme)


class SentFlag:
    """Whether the head of a request was handed to the socket."""

    sent = False


async def _note_sent(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.sent = True


_NEVER_LEFT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


def _explain(method: str, path: str, fault: Exception, *, sent: bool | None) -> TransportError:
    """Our words for a fault of aiohttp: its class, and of its text only what the system said."""
    if sent is None:
        sent = not isinstance(fault, _NEVER_LEFT)
    name = str(fault) if isinstance(fault, _ConnectionLost) else type(fault).__name__
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        what = "the server's certificate is not trusted or not for this host; check base_url and the CAs"
    elif isinstance(fault, aiohttp.ClientConnectorDNSError):
        what = "the host name cannot be resolved; check base_url and the network"
    elif isinstance(fault, aiohttp.ClientConnectorError):
        what = f"no connection: {fault.os_error.strerror or 'refused'}; check base_url and the network"
    elif isinstance(fault, TimeoutError):
        what = "no connection in time" if not sent else "no answer in time"
    elif isinstance(fault, aiohttp.ClientPayloadError):
        what = "the answer was cut short or damaged"
    elif isinstance(fault, aiohttp.ClientResponseError):
        what = "the answer is not valid HTTP"
    else:
        what = "the connection was lost before an answer"
    left = "" if sent else "; nothing was sent"
    return TransportError(
        f"{method} /{path}: {what} ({name}){left}",
        sent=sent,
        timed_out=isinstance(fault, TimeoutError),
        permanent=isinstance(fault, aiohttp.ClientConnectorCertificateError | aiohttp.InvalidURL),
    )
