"""The only module that speaks HTTP with the API: one request in, one answer read whole out."""

from __future__ import annotations

import asyncio
import io
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias
from urllib.parse import quote_plus

import aiohttp
from yarl import URL

from unpod_async._http.lifecycle import ClientLifecycle
from unpod_async._http.prepared_requests import Prepared, prepare
from unpod_async._http.responses import Request, Response
from unpod_async._http.secret import Secret
from unpod_async._http.sessions import SentFlag, Sessions, reading
from unpod_async._http.settings import Settings
from unpod_async._http.timeouts import AttemptTimeout
from unpod_async._http.transport_errors import ConnectionLost, explain, spoke_otherwise
from unpod_async._http.validate import check_instance, check_str
from unpod_async._version import VERSION
from unpod_async.errors import ConfigurationError, TransportError

__all__ = ["TokenProvider", "Transport"]

CONNECT: Final = 10.0
SILENCE: Final = 30.0
"""Seconds for a connection, and between two pieces of an answer, within the time of the attempt."""

_SMALL: Final = 2**16
"""Bytes of an answer that is decoded in well under a millisecond."""

TokenProvider: TypeAlias = Callable[[], Awaitable[str]]
"""Gives a new token, without its scheme."""

_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Language": "en",
    # Said here, so that an installed brotli or zstd does not change what goes over the wire.
    "Accept-Encoding": "gzip, deflate",
    "User-Agent": f"unpod-async/{VERSION}",
}

_JSON: Final = {"Content-Type": "application/json"}

_TIMES: Final = aiohttp.ClientTimeout(
    total=None,  # this and `sock_read`: see `AttemptTimeout`
    connect=CONNECT,
    sock_connect=CONNECT,
    # Without it aiohttp rounds time-outs over 5 s up to the next whole second.
    ceil_threshold=float("inf"),
)

_log = logging.getLogger("unpod_async")


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
        lifetime: ClientLifecycle,
        *,
        session: aiohttp.ClientSession | None = None,
        token_provider: TokenProvider | None = None,
        max_response_bytes: int = 256 * 2**20,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        made_at: str = "",
    ) -> None:
        if session is not None:
            check_instance("session", session, aiohttp.ClientSession, error=ConfigurationError)
        if ssl_context is not None:  # False would switch the verification off
            check_instance("ssl_context", ssl_context, ssl.SSLContext, error=ConfigurationError)
        if proxy is not None:
            check_str("proxy", proxy, error=ConfigurationError)
        if token_provider is not None and not callable(token_provider):
            raise ConfigurationError("token_provider must be an async function", argument="token_provider")
        if proxy is not None and not proxy.startswith(("http://", "https://")):
            raise ConfigurationError(
                "proxy must be a URL that starts with http:// or https://", argument="proxy"
            )
        self.token = secret
        self._settings = settings
        self._root = URL(settings.base_url)
        headers = _HEADERS if settings.org_handle is None else {**_HEADERS, "Org-Handle": settings.org_handle}
        self.sessions = Sessions(lifetime, headers, session, made_at)
        # A session that was given has headers of its own.
        self._read_headers = None if session is None else headers
        self._prepared: Prepared | None = None
        self._provider = token_provider
        self._renewing: asyncio.Lock | None = None
        self._renewals = 0
        self._most = max_response_bytes
        self._turn = asyncio.Lock()
        self._proxy = proxy
        self._ssl = True if ssl_context is None else ssl_context

    def get(self, path: str, query: Mapping[str, str], timeout: float) -> Awaitable[Response]:
        """One GET, sent once and read whole within `timeout` seconds; any status.

        Raises:
            TransportError: no whole answer came.
            ConfigurationError: the client is closed or belongs to another event loop.
        """
        session = self.sessions.for_read()
        url = self._url(path, query)
        if self.sessions.given is not None:
            return self._exchange("GET", path, timeout, self._open(session, "GET", url), None)
        told = SentFlag()
        reading.set(told)
        return self._exchange("GET", path, timeout, self._open_prepared(session, url), told)

    def post(self, path: str, body: bytes, timeout: float, sent: SentFlag) -> Awaitable[Response]:
        """One POST over a connection of its own, sent at most once; any status.

        `sent` is set when the head of the request goes out.

        Raises:
            TransportError: no whole answer came; `sent` is False when the request certainly never left.
            ConfigurationError: the client is closed or belongs to another event loop.
        """
        session = self.sessions.for_create()
        opening = self._open(session, "POST", self._url(path, {}), body, sent)
        return self._exchange("POST", path, timeout, opening, sent)

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
        method: str,
        path: str,
        timeout: float,
        opening: Awaitable[aiohttp.ClientResponse],
        told: SentFlag | None,
    ) -> Response:
        try:
            response = await self._read(opening, timeout)
            if response is not None and len(response.body) > _SMALL:
                await self._take_turn()
        except asyncio.CancelledError as cancelled:
            # The frames below hold what has come of the answer, which may be anything.
            cancelled.__traceback__ = None
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as fault:
            # Its text, arguments and traceback can hold the request's headers, and so the token.
            error = explain(method, path, fault, sent=None if told is None else told.sent)
            if spoke_otherwise(fault) and self._root.scheme == "http":
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

    async def _read(self, opening: Awaitable[aiohttp.ClientResponse], timeout: float) -> Response | None:
        """The answer, or None when it is too long."""
        length = 0
        pieces: list[bytes] = []
        with AttemptTimeout(timeout, SILENCE) as expiry:
            async with await opening as response:
                expiry.touch()
                while piece := await response.content.readany():
                    expiry.touch()
                    length += len(piece)
                    if length > self._most:
                        response.close()
                        return None
                    pieces.append(piece)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status, headers, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    async def _take_turn(self) -> None:
        """Wait for a turn of the loop in which no other large answer is handed out.

        Those that come at the same time would all be decoded in one, and nobody could ask for more meanwhile.
        """
        await self._turn.acquire()
        asyncio.get_running_loop().call_soon(self._turn.release)

    def _url(self, path: str, query: Mapping[str, str]) -> URL:
        """Quoted here: by aiohttp (`params=`) the numbers of a page cost 16 us, like this 1 us."""
        return URL.build(
            scheme=self._root.scheme,
            authority=self._root.raw_authority,
            path=self._root.raw_path + path,
            query_string="&".join([f"{name}={_quoted(value)}" for name, value in query.items()]),
            encoded=True,
        )

    async def _open_prepared(self, session: aiohttp.ClientSession, url: URL) -> aiohttp.ClientResponse:
        if self._prepared is None or self._prepared.session is not session:
            self._prepared = await prepare(
                session, self._root, timeout=_TIMES, proxy=self._proxy, ssl=self._ssl
            )
        return await self._prepared.get(url, self._authorization)

    async def _open(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        body: bytes | None = None,
        told: SentFlag | None = None,
    ) -> aiohttp.ClientResponse:
        return await session.request(
            method,
            url,
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
        )

    async def _send_once(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """A middleware, run just before sending: the token comes in, and a lost connection is not retried.

        The token comes in here because what aiohttp is called with stays in its frames, and shows with them.
        """
        request.headers["Authorization"] = self._authorization(request.url)
        try:
            return await send(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as lost:
            if isinstance(lost, aiohttp.ClientConnectorError):
                raise
            name = type(lost).__name__
        raise ConnectionLost(name)

    def _authorization(self, url: URL) -> str:
        if (url.scheme, url.raw_authority) != (self._root.scheme, self._root.raw_authority):
            raise ConfigurationError("the request would not go to base_url; nothing was sent")
        return f"{self._settings.auth_scheme} {self.token.reveal()}"

    def request(self, method: str, path: str) -> Request:
        """What an error text may say of a request."""
        return Request(method, f"/{path}", self._settings.auth_scheme)


def _quoted(value: str) -> str:
    return value if value.isascii() and value.isalnum() else quote_plus(value, safe="/?:@!$'()*,")
