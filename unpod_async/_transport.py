"""The only module that speaks HTTP with the API: one request in, one answer read whole out."""

from __future__ import annotations

import asyncio
import importlib.metadata
import io
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias
from urllib.parse import quote_plus

import aiohttp
from yarl import URL

from unpod_async._lifetime import Lifetime
from unpod_async._response import Request, Response
from unpod_async._secret import Secret
from unpod_async._sessions import SentFlag, Sessions, reading
from unpod_async._settings import Settings
from unpod_async.errors import ConfigurationError, TransportError

__all__ = ["TokenProvider", "Transport"]

CONNECT: Final = 10.0
READ: Final = 30.0
"""Seconds for a connection, and between two pieces of an answer, within the time of the attempt."""

TokenProvider: TypeAlias = Callable[[], Awaitable[str]]
"""Gives a new token, without its scheme."""

_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Language": "en",
    # Said here, so that an installed brotli or zstd does not change what goes over the wire.
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": f"unpod-async/{importlib.metadata.version('unpod-async')}",
}

_JSON: Final = {"Content-Type": "application/json"}

_TIMES: Final = aiohttp.ClientTimeout(
    total=None,  # kept here: by aiohttp it costs three times as much
    connect=CONNECT,
    sock_connect=CONNECT,
    sock_read=READ,
    # Without it aiohttp rounds time-outs over 5 s up to the next whole second.
    ceil_threshold=float("inf"),
)

_log = logging.getLogger("unpod_async")


class _ConnectionLost(aiohttp.ClientError):
    """A lost connection as a class that aiohttp does not answer by sending the request once more."""


class Transport:
    """Requests under one base URL and token.

    Args:
        lifetime: of the client; asked before anything is sent.
        session: a session of the caller's for reads; it is never closed here, and its middlewares are left
            out: one attempt is one send.
        token_provider: asked for a new token when the one in use is not accepted.
        max_response_bytes: an answer longer than this, decompressed, is given up while it comes in.
        proxy, ssl_context: as aiohttp takes them; verification cannot be switched off.
        made_at: the line where the client was made, for the warning when it is never closed.
    """

    def __init__(
        self,
        settings: Settings,
        secret: Secret,
        lifetime: Lifetime,
        *,
        session: aiohttp.ClientSession | None = None,
        token_provider: TokenProvider | None = None,
        max_response_bytes: int = 256 * 2**20,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        made_at: str = "",
    ) -> None:
        _check("session", session, aiohttp.ClientSession)
        # False and its kind would switch the verification off.
        _check("ssl_context", ssl_context, ssl.SSLContext)
        _check("proxy", proxy, str)
        if token_provider is not None and not callable(token_provider):
            raise ConfigurationError("token_provider must be an async function")
        if proxy is not None and not proxy.startswith(("http://", "https://")):
            raise ConfigurationError("proxy must be a URL that starts with http:// or https://")
        self.token = secret
        self._settings = settings
        root = URL(settings.base_url)
        self._origin = (root.scheme, root.host_port_subcomponent)
        headers = _HEADERS if settings.org_handle is None else {**_HEADERS, "Org-Handle": settings.org_handle}
        self.sessions = Sessions(lifetime, headers, session, made_at)
        # A session that was given has headers of its own.
        self._read_headers = None if session is None else headers
        self._provider = token_provider
        self._renewing: asyncio.Lock | None = None
        self._renewals = 0
        self._most = max_response_bytes
        self._proxy = proxy
        self._ssl = True if ssl_context is None else ssl_context

    def get(self, path: str, query: Mapping[str, str], timeout: float) -> Awaitable[Response]:
        """One GET, sent once and read whole within `timeout` seconds; any status.

        Raises:
            TransportError: no whole answer came.
            ConfigurationError: the client is closed or belongs to another event loop.
        """
        session = self.sessions.for_read()
        told = None
        if self.sessions.given is None:
            told = SentFlag()
            reading.set(told)
        return self._exchange(session, "GET", path, timeout, query=query, told=told)

    def post(self, path: str, body: bytes, timeout: float, sent: SentFlag) -> Awaitable[Response]:
        """One POST over a connection of its own, sent at most once; any status.

        `sent` is set when the head of the request goes out.

        Raises:
            TransportError: no whole answer came; `sent` is False when the request certainly never left.
            ConfigurationError: the client is closed or belongs to another event loop.
        """
        session = self.sessions.for_create()
        return self._exchange(session, "POST", path, timeout, body=body, told=sent)

    async def renew(self, refused: Secret) -> bool:
        """After a 401 for `refused`: whether there is another token to try.

        The provider is asked once for all who wait for its answer, also when it has none.
        """
        if self._provider is None:
            return False
        if self._renewing is None:
            self._renewing = asyncio.Lock()
        asked = self._renewals
        async with self._renewing:
            if self.token is refused and asked == self._renewals:
                try:
                    self.token = Secret((await self._provider()).strip())
                except Exception as fault:  # noqa: BLE001 - the 401 is what is raised; this may tell of a token
                    _log.warning("the token_provider failed: %s", type(fault).__name__)
                self._renewals += 1
        return self.token != refused

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
        try:
            response = await self._send(session, method, path, timeout, query, body, told)
        except asyncio.CancelledError as cancelled:
            # The frames below hold what has come of the answer, which may be anything.
            cancelled.__traceback__ = None
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as fault:
            # Its text, arguments and traceback can hold the request's headers, and so the token.
            error = _explain(method, path, fault, sent=None if told is None else told.sent)
            if isinstance(fault, _SPOKE_OTHERWISE) and self._settings.base_url.startswith("http:"):
                error.args = (f"{error.args[0]}; if the server wants https, say so in base_url",)
        else:
            if response is not None:
                return response
            error = TransportError(
                f"{method} /{path}: the answer is longer than max_response_bytes ({self._most}); ask for "
                "smaller pages (page_size=), or raise the limit",
                sent=True,
                permanent=True,
            )
        raise error

    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        timeout: float,
        query: Mapping[str, str] | None,
        body: bytes | None,
        told: SentFlag | None,
    ) -> Response | None:
        """The answer, or None when it is too long."""
        length = 0
        pieces: list[bytes] = []
        async with (
            asyncio.timeout(timeout),
            session.request(
                method,
                self._url(path, query),
                # As bytes, a large body would make aiohttp warn, and a warning may be an error.
                data=None if body is None else io.BytesIO(body),
                headers=self._read_headers if body is None else _JSON,
                middlewares=(self._send_once,),
                timeout=_TIMES,
                proxy=self._proxy,
                ssl=self._ssl,
                allow_redirects=False,
                raise_for_status=False,
                trace_request_ctx=told,
            ) as response,
        ):
            while piece := await response.content.readany():
                length += len(piece)
                if length > self._most:
                    response.close()
                    return None
                pieces.append(piece)
            headers = {name.lower(): value for name, value in response.headers.items()}
            read = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            return Response(response.status, headers, read)

    def _url(self, path: str, query: Mapping[str, str] | None) -> URL:
        """Quoted here: by aiohttp (`params=`) the numbers of a page cost 16 us, like this 3 us."""
        url = self._settings.base_url + path
        if query:
            url += "?" + "&".join([f"{name}={_quoted(value)}" for name, value in query.items()])
        return URL(url, encoded=True)

    async def _send_once(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """A middleware, run just before sending: the token comes in, and a lost connection is not retried.

        The token comes in here because what aiohttp is called with stays in its frames, and shows with them.
        """
        url = request.url
        if (url.scheme, url.host_port_subcomponent) != self._origin:
            raise ConfigurationError("the request would not go to base_url; nothing was sent")
        request.headers["Authorization"] = f"{self._settings.auth_scheme} {self.token.reveal()}"
        try:
            return await send(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as lost:
            if isinstance(lost, aiohttp.ClientConnectorError):
                raise
            name = type(lost).__name__
        raise _ConnectionLost(name)

    def request(self, method: str, path: str) -> Request:
        """What an error text may say of a request."""
        return Request(method, f"/{path}", self._settings.auth_scheme)


def _quoted(value: str) -> str:
    return value if value.isascii() and value.isalnum() else quote_plus(value, safe="/?:@!$'()*,")


def _check(name: str, value: object, kind: type[object]) -> None:
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, not a {type(value).__name__}")


_SPOKE_OTHERWISE = (_ConnectionLost, aiohttp.ServerDisconnectedError, aiohttp.ClientResponseError)
"""What a server that expects TLS makes of a plain request."""

_NEVER_LEFT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


def _explain(method: str, path: str, fault: Exception, *, sent: bool | None) -> TransportError:
    """Our words for a fault of aiohttp: its class, and of its text only what the system said."""
    if sent is None:
        sent = not isinstance(fault, _NEVER_LEFT)
    name = str(fault) if isinstance(fault, _ConnectionLost) else type(fault).__name__
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        reason = getattr(fault.certificate_error, "verify_message", "") or "not trusted"
        what = f"the certificate of {fault.host} is refused: {reason}; check base_url and the CAs"
    elif isinstance(fault, aiohttp.ClientConnectorDNSError):
        what = "the host name cannot be resolved; check base_url and the network"
    elif isinstance(fault, aiohttp.ClientConnectorError):
        what = f"no connection: {fault.os_error.strerror or 'refused'}; check base_url and the network"
    elif isinstance(fault, TimeoutError):
        what = "no connection in time" if not sent else "no answer in time"
    elif isinstance(fault, aiohttp.ClientPayloadError):
        what = "the answer was cut short or damaged"
    elif isinstance(fault, aiohttp.ClientHttpProxyError):
        what = f"the proxy does not let it through: it answered {fault.status}; check proxy="
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
