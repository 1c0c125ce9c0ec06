"""Send one HTTP request to the API and read the response completely.

This is the only module that sends requests to the API. Each call of `get` and `write` sends exactly one.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import logging
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.util import find_spec
from operator import attrgetter
from typing import Any, Final, TypeAlias, cast
from urllib.parse import quote_plus

import aiohttp
from aiohttp.compression_utils import HAS_BROTLI, HAS_ZSTD, BrotliDecompressor
from yarl import URL

from unpod_async._common import shorten
from unpod_async._http.extra_headers import ExtraHeaders
from unpod_async._http.headers import (
    MAX_FIELD_SIZE,
    MAX_HEADERS,
    combine_headers,
    describe_conflict,
    describe_excess,
    gunzip,
    is_undecodable,
    is_undecoded_gzip,
)
from unpod_async._http.lifecycle import ClientLifecycle
from unpod_async._http.responses import Response
from unpod_async._http.secret import Secret
from unpod_async._http.sessions import SENDING_METHODS, SentFlag, Sessions, is_aiohttp_method, is_mocked
from unpod_async._http.settings import Settings, renewed_token
from unpod_async._http.timeouts import AttemptTimeout, AttemptTimer
from unpod_async._http.transport_errors import (
    HeadTooLong,
    InvalidHead,
    MockFailed,
    UndecodableBody,
    name_fault,
    send_once,
    to_transport_error,
)
from unpod_async._http.validate import check_instance
from unpod_async._version import VERSION
from unpod_async.errors import ConfigurationError, TransportError, UnpodError

__all__ = ["TokenProvider", "Transport", "decompress_with_isal"]

CONNECT: Final = 10.0
"""Seconds for establishing a connection, within the timeout of the attempt."""

SILENCE: Final = 30.0
"""Seconds without a byte of the response, within the timeout of the attempt."""

_LARGE_BODY: Final = 2**16
"""Maximum size in bytes of a response that is decoded in well under a millisecond."""

_EMPTY_BROTLI: Final = b"\x06"
"""An empty text, compressed."""

TokenProvider: TypeAlias = Callable[[], Awaitable[str]]
"""Returns a new token, without its scheme."""


def _accepted_codings() -> str:
    """Return the content codings that aiohttp decodes here, as the value of Accept-Encoding."""
    codings = ["gzip", "deflate"]
    if HAS_BROTLI:
        # Brotli before 1.2 cannot stop at a length, so aiohttp fails with it.
        with contextlib.suppress(TypeError):
            BrotliDecompressor().decompress_sync(_EMPTY_BROTLI, max_length=1)
            codings.append("br")
    if HAS_ZSTD:
        codings.append("zstd")
    return ", ".join(codings)


_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Language": "en",
    "Accept-Encoding": _accepted_codings(),
}
_USER_AGENT: Final = f"unpod-async/{VERSION}"

_NO_HEADERS: Final[Mapping[str, str]] = {}

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_JSON: Final = {"Content-Type": "application/json"}
_AUTHORIZATION: Final = "Authorization"

_TIMEOUT: Final = aiohttp.ClientTimeout(
    total=None,  # `AttemptTimeout` is used for this and for `sock_read`
    connect=CONNECT,
    sock_connect=CONNECT,
    # By default aiohttp rounds timeouts over 5 s up to the next whole second.
    ceil_threshold=float("inf"),
)

_READ_SENDING_METHODS: Final = attrgetter(*SENDING_METHODS)

_log = logging.getLogger("unpod_async")


def decompress_with_isal() -> None:
    """Have aiohttp decompress gzip with isal, if it is installed.

    This changes all of aiohttp in the process, so only a program may call it, not a library.
    """
    if find_spec("isal") is not None:
        from isal import isal_zlib

        aiohttp.set_zlib_backend(cast("Any", isal_zlib))


class Transport:
    """Sends requests under one base URL with one token.

    Args:
        settings: base URL, organization and scheme.
        secret: the token.
        lifecycle: the lifecycle of the client, which is checked before anything is sent.
        session: a session of the user for reads. It is never closed here, and its middlewares are not used:
            one attempt is one request.
        token_provider: called for a new token when the server does not accept the current one.
        max_response_bytes: a longer response, after decompression, is aborted while it is read.
        proxy: URL of the proxy.
        ssl_context: TLS settings; certificate verification cannot be switched off otherwise.
        created_at: the source line that created the client, for the warning that it was not closed.

    Attributes:
        token: the token in use.
        auth_scheme: first word of the Authorization header.
        sessions: the aiohttp sessions.
        renewal_problem: why the last call of the `token_provider` gave no token; None if it gave one.

    Raises:
        ConfigurationError: an argument is not accepted.
    """

    def __init__(
        self,
        settings: Settings,
        secret: Secret,
        lifecycle: ClientLifecycle,
        *,
        session: aiohttp.ClientSession | None = None,
        token_provider: TokenProvider | None = None,
        max_response_bytes: int = 256 * 2**20,
        proxy: Secret | None = None,
        ssl_context: ssl.SSLContext | None = None,
        created_at: str = "",
    ) -> None:
        if session is not None:
            check_instance("session", session, aiohttp.ClientSession, error=ConfigurationError)
        if ssl_context is not None:  # False would switch the verification off
            check_instance("ssl_context", ssl_context, ssl.SSLContext, error=ConfigurationError)
        if token_provider is not None and not callable(token_provider):
            raise ConfigurationError("token_provider must be an async function", argument="token_provider")
        self.token: Secret = secret
        self.auth_scheme: str = settings.auth_scheme
        self._root = URL(settings.base_url)
        name = settings.app_name
        # The application comes first: RFC 9110 orders products by importance.
        headers = {**_HEADERS, "User-Agent": _USER_AGENT if name is None else f"{name} {_USER_AGENT}"}
        if settings.org_handle is not None:
            headers["Org-Handle"] = settings.org_handle
        self.sessions: Sessions = Sessions(lifecycle, headers, session, created_at)
        # A given session has its own default headers, so each request brings ours.
        self._read_headers = None if session is None else headers
        self._prepared: _PreparedGet | None = None
        self._aiohttp_methods: tuple[object, ...] | None = None
        self._token_provider = token_provider
        self._renewing: asyncio.Lock | None = None
        self._renewals = 0
        self.renewal_problem: str | None = None
        self._max_bytes = max_response_bytes
        self._timer = AttemptTimer()
        self._large_response_turn = asyncio.Lock()
        self._proxy = proxy
        self._ssl = True if ssl_context is None else ssl_context

    def get(
        self,
        path: str,
        query: Mapping[str, str],
        timeout: float,
        extra: ExtraHeaders | None = None,
        trace: Mapping[str, str] = _NO_HEADERS,
    ) -> Awaitable[Response]:
        """Send one GET and read the response within `timeout` seconds, whatever its status.

        Args:
            extra: headers of the user.
            trace: headers of the trace that the request belongs to.

        Raises:
            TransportError: no complete response arrived.
            ConfigurationError: the client is closed or belongs to another event loop.
        """
        session = self.sessions.reads
        if session is None or session.closed:
            session = self.sessions.for_read()
        url = self._url(path, query)
        if extra is not None or not self._can_be_prepared(session):
            opening = self._open(session, "GET", url, self._read_headers, extra=extra, trace=trace)
            return self._exchange("GET", path, timeout, opening, None, mocked=is_mocked(session))
        sent = SentFlag()
        return self._exchange("GET", path, timeout, self._open_prepared(session, url, sent, trace), sent)

    def write(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        timeout: float,
        sent: SentFlag,
        extra: ExtraHeaders | None = None,
        trace: Mapping[str, str] = _NO_HEADERS,
    ) -> Awaitable[Response]:
        """Send one POST, PUT, PATCH or DELETE over a connection of its own, and read the response.

        Args:
            body: JSON, or None.
            sent: set when the head of the request is sent.
            extra: headers of the user.
            trace: headers of the trace that the request belongs to.

        Raises:
            TransportError: no complete response arrived; `sent` is False if the request certainly never left.
            ConfigurationError: the client is closed or belongs to another event loop.
        """
        session = self.sessions.for_create()
        headers = None if body is None else _JSON
        opening = self._open(session, method, self._url(path, query), headers, body, sent, extra, trace)
        mocked = is_mocked(session)
        return self._exchange(method, path, timeout, opening, sent, mocked=mocked)

    def _can_be_prepared(self, session: aiohttp.ClientSession) -> bool:
        """Return whether only aiohttp handles the requests of a session, so that they can be prepared.

        Mocks and recorders can change between requests, so this is checked for each request.
        """
        if self.sessions.given is not None or session.trace_configs:
            return False
        methods = _get_sending_methods(type(session))
        if methods != self._aiohttp_methods:
            if is_mocked(session):
                return False
            self._aiohttp_methods = methods
        return True

    @property
    def can_renew(self) -> bool:
        """Whether there is a `token_provider`."""
        return self._token_provider is not None

    async def renew(self, refused: Secret) -> bool:
        """Get a new token after a 401 for `refused`. Returns whether there is another token to try.

        The provider is called once for all requests that wait for it at the same time, even if it fails.
        """
        if self._token_provider is None:
            return False
        if self._renewing is None:
            self._renewing = asyncio.Lock()
        renewals = self._renewals
        async with self._renewing:
            if self.token is refused and renewals == self._renewals:
                await self._call_provider(self._token_provider)
                self._renewals += 1
        return self.token != refused

    async def _call_provider(self, provider: TokenProvider) -> None:
        """Call the `token_provider` and use its token. Its failure is noted: the call ends with the 401."""
        self.renewal_problem = None
        try:
            pending = cast("object", provider())
            value = await cast("Awaitable[object]", pending) if isinstance(pending, Awaitable) else pending
        except Exception as fault:  # noqa: BLE001 - the 401 is raised; this text may contain a token
            self.renewal_problem = f"the token_provider failed: {type(fault).__name__}"
        else:
            try:
                self.token = renewed_token(value)
            except ConfigurationError as refusal:
                self.renewal_problem = str(refusal).replace("\nhint: ", "; ")
        if self.renewal_problem is not None:
            _log.warning("%s", self.renewal_problem)

    async def _exchange(
        self,
        method: str,
        path: str,
        timeout: float,
        opening: Awaitable[aiohttp.ClientResponse],
        sent: SentFlag | None,
        *,
        mocked: bool = False,
    ) -> Response:
        """Open a request and read its response.

        Args:
            mocked: whether code outside aiohttp, such as a mock, opens the request.
        """
        try:
            response = await self._read(method, opening, timeout, sent, mocked=mocked)
            if response is not None and len(response.body) > _LARGE_BODY:
                await self._wait_for_large_response_turn()
        except asyncio.CancelledError as cancelled:
            # The frames of the traceback hold parts of the response, and with it personal data.
            cancelled.__traceback__ = None
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as fault:
            error = self._error(method, path, fault, sent)
        except Exception as fault:
            if not mocked or isinstance(fault, UnpodError):
                raise
            error = self._error(method, path, MockFailed(self.token.redact(name_fault(fault))), sent)
        else:
            if response is not None:
                return response
            error = TransportError(
                f"{method} /{path}: the response is longer than max_response_bytes ({self._max_bytes})",
                sent=True,
                permanent=True,
                hint="use a smaller page_size, or raise max_response_bytes",
            )
        # Outside the except block: the error of aiohttp can contain the token, and must not be its context.
        raise error

    def _error(self, method: str, path: str, fault: Exception, sent: SentFlag | None) -> TransportError:
        return to_transport_error(
            method,
            path,
            fault,
            root=self._root,
            proxied=self._proxy is not None,
            sent=None if sent is None else sent.sent,
        )

    async def _read(
        self,
        method: str,
        opening: Awaitable[aiohttp.ClientResponse],
        timeout: float,
        sent: SentFlag | None,
        *,
        mocked: bool,
    ) -> Response | None:
        """Return the response, or None if it is too long."""
        length = 0
        pieces: list[bytes] = []
        with AttemptTimeout(timeout, SILENCE, self._timer) as attempt:
            async with await opening as response:
                if sent is not None:
                    sent.sent = True
                headers = self._headers(method, response, mocked=mocked)
                attempt.touch()
                if mocked and not _can_be_streamed(response):
                    body = await _read_mocked_body(response, self._max_bytes)
                    return None if body is None else Response(response.status, headers, body)
                while piece := await response.content.readany():
                    attempt.touch()
                    length += len(piece)
                    if length > self._max_bytes:
                        response.close()
                        return None
                    pieces.append(piece)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        coding = headers.get("content-encoding")
        if coding is not None and body:
            if is_undecoded_gzip(coding, body):
                decoded = await _gunzip_in_thread(body, self._max_bytes)
                if decoded is None:
                    return None
                body = decoded
            elif response.ok and is_undecodable(coding):
                raise UndecodableBody(shorten(coding, 60))
        return Response(response.status, headers, body.removeprefix(_BYTE_ORDER_MARK))

    def _headers(self, method: str, response: aiohttp.ClientResponse, *, mocked: bool) -> Mapping[str, str]:
        """Return the headers of a response, with names in lower case.

        Raises:
            InvalidHead, HeadTooLong: the response cannot be used.
        """
        if mocked:
            _check_head(response)
        raw = response.headers
        # Not `zip(raw, ...)`: a repeated name occurs only once in `iter(raw)`.
        headers = {name.lower(): value for name, value in raw.items()}
        if len(headers) != len(raw):
            headers = combine_headers(raw)
            if (problem := describe_conflict(headers)) is not None:
                response.close()
                raise InvalidHead(problem)
        # The response to a create is always read, and a session of the caller has limits of its own.
        if (
            (len(raw) > MAX_HEADERS or sum(map(len, headers.values())) > MAX_FIELD_SIZE)
            and (method == "GET" and self.sessions.given is None)
            and (problem := describe_excess(raw)) is not None
        ):
            response.close()
            raise HeadTooLong(self.token.redact(problem))
        return headers

    async def _wait_for_large_response_turn(self) -> None:
        """Wait for an iteration of the event loop in which no other large response is returned.

        Otherwise responses that arrive together are all decoded in one iteration, and no request is sent
        meanwhile.
        """
        await self._large_response_turn.acquire()
        asyncio.get_running_loop().call_soon(self._large_response_turn.release)

    def _url(self, path: str, query: Mapping[str, str]) -> URL:
        """Return the URL of a request. For a page this takes 1 us; aiohttp's `params=` takes 16 us."""
        return URL.build(
            scheme=self._root.scheme,
            authority=self._root.raw_authority,
            path=self._root.raw_path + path,
            query_string="&".join([f"{name}={_quote(value)}" for name, value in query.items()]),
            encoded=True,
        )

    def _proxy_url(self) -> str | None:
        return None if self._proxy is None else self._proxy.reveal()

    async def _open_prepared(
        self, session: aiohttp.ClientSession, url: URL, sent: SentFlag, trace: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        if self._prepared is None or self._prepared.session is not session:
            self._prepared = await _PreparedGet.capture(
                session, self._root, timeout=_TIMEOUT, proxy=self._proxy_url(), ssl=self._ssl
            )
        return await self._prepared.open(url, self._authorization, sent, trace)

    async def _open(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        headers: Mapping[str, str] | None,
        body: bytes | None = None,
        sent: SentFlag | None = None,
        extra: ExtraHeaders | None = None,
        trace: Mapping[str, str] = _NO_HEADERS,
    ) -> aiohttp.ClientResponse:
        authorize = self._authorize if extra is None else partial(self._authorize_with, extra)
        return await _get_send_function(session, method)(
            url,
            # A large body as bytes would make aiohttp warn, and a warning may be an error.
            data=None if body is None else io.BytesIO(body),
            # Other tracing libraries replace headers of the same name, because their spans are below ours.
            headers={**(headers or {}), **trace} if trace else headers,
            middlewares=(authorize, send_once),
            timeout=_TIMEOUT,
            proxy=self._proxy_url(),
            ssl=self._ssl,
            allow_redirects=False,
            raise_for_status=False,
            trace_request_ctx=sent,
        )

    async def _authorize(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Middleware that adds the token.

        The token is not an argument of the call, because arguments stay in the frames of aiohttp, which
        tracebacks show.
        """
        request.headers[_AUTHORIZATION] = self._authorization(request.url)
        return await send(request)

    async def _authorize_with(
        self, extra: ExtraHeaders, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Middleware that adds headers of the user, and the token last."""
        extra.add_to(request.headers)
        return await self._authorize(request, send)

    def _authorization(self, url: URL) -> str:
        if (url.scheme, url.raw_authority) != (self._root.scheme, self._root.raw_authority):
            raise ConfigurationError("the request would not go to base_url; nothing was sent")
        return f"{self.auth_scheme} {self.token.reveal()}"


async def _gunzip_in_thread(body: bytes, max_bytes: int) -> bytes | None:
    """Return a decompressed body, or None if it is too long."""
    with contextlib.suppress(zlib.error, EOFError):
        # In a thread, because a short body can take a second to decompress.
        return await asyncio.to_thread(gunzip, body, max_bytes)
    raise aiohttp.ClientPayloadError


def _get_sending_methods(kind: type[object]) -> tuple[object, ...]:
    """Return the methods that send requests, as the class of a session has them now."""
    try:
        return _READ_SENDING_METHODS(kind)
    except AttributeError:  # a mock replaces the whole class
        return ()


def _get_send_function(
    session: aiohttp.ClientSession, method: str
) -> Callable[..., Awaitable[aiohttp.ClientResponse]]:
    """Return the function of a session that sends a request: `get` or `post` if a mock replaces it."""
    name = method.lower()
    if name not in SENDING_METHODS or is_aiohttp_method(session, name):
        return partial(session.request, method)
    return cast("Callable[..., Awaitable[aiohttp.ClientResponse]]", getattr(session, name))


def _can_be_streamed(response: object) -> bool:
    """Return whether the body of a response can be read in chunks."""
    return (
        isinstance(response, aiohttp.ClientResponse)
        and hasattr(response.content, "readany")
        # A recorder may have read the body already and kept it for `read`.
        and not response.content.at_eof()
    )


async def _read_mocked_body(response: Any, max_bytes: int) -> bytes | None:
    """Return the body of a response that a mock or a recorder made, or None if it is too long.

    Raises:
        AttributeError, TypeError: the response does not behave like one of aiohttp.
    """
    if hasattr(response, "read"):
        body = _check_body(await response.read())
        return body if len(body) <= max_bytes else None
    pieces: list[bytes] = []
    left = max_bytes  # limits a mock that returns the same chunk forever
    content = response.content
    while piece := _check_body(await content.readany()):
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            return None
    return b"".join(pieces)


def _check_head(response: Any) -> None:
    if not isinstance(response.status, int) or not isinstance(response.headers, Mapping):
        raise TypeError("the response has no status and headers")


def _check_body(body: object) -> bytes:
    if not isinstance(body, bytes):
        raise TypeError(f"the body of the response must be bytes, not {type(body).__name__}")
    return body


def _quote(value: str) -> str:
    """Return `value` percent-encoded for the query of a URL."""
    return value if value.isascii() and value.isalnum() else quote_plus(value, safe="/?:@!$'()*,")


class _PreparedGet:
    """Sends GET requests of one session to one origin. aiohttp prepares only the first one.

    `ClientSession.get` builds headers, cookies, proxy and TLS settings, and prepares for redirects and
    retries: 60 of the 290 us of a small response. A middleware receives the built request and the function
    that sends it, and may call that function any number of times. So one request is built and captured, and
    then sent with other URLs. Each is sent once and not redirected.
    """

    def __init__(self, model: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> None:
        self.session: Final = model.session
        self._model = model
        self._send = send
        self._idle: list[aiohttp.ClientRequest] = []

    @classmethod
    async def capture(cls, session: aiohttp.ClientSession, root: URL, **options: Any) -> _PreparedGet:
        """Let aiohttp build a GET to the origin of `root`. Nothing is sent.

        Args:
            session: a session without cookies and trace configs, whose methods are aiohttp's: headers that
                other code adds to this request would be sent with every request. Middlewares are not used.
            root: any URL of the origin.
            options: further arguments of `ClientSession.request`.
        """
        captured: list[_PreparedGet] = []

        async def capture(
            request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            captured.append(cls(request, send))
            raise _Captured

        with contextlib.suppress(_Captured):
            await session.request("GET", root, middlewares=(capture,), **options)
        return captured[0]

    async def open(
        self, url: URL, authorization: Callable[[URL], str], sent: SentFlag, trace: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Send a GET and return the response when its head has arrived. The caller reads and closes it.

        Args:
            url: the URL, of the same origin.
            authorization: returns the value of the header, so that no frame holds it.
            sent: set when the request was handed to a connection.
            trace: headers of the trace that the request belongs to.

        Raises:
            aiohttp.ClientError, OSError: as the connection raises them; nothing is sent again.
        """
        request = self._idle.pop() if self._idle else self._copy()
        request.url = request.original_url = url
        headers = request.headers
        if trace:
            request.headers = headers.copy()
            request.headers.update(trace)
        request.headers[_AUTHORIZATION] = authorization(url)
        try:
            response = await self._send(request)
        finally:
            # aiohttp creates the response object when it sends the request.
            sent.sent = request.response is not None
            # Tools that dump objects would show the token of a request that is kept.
            del request.headers[_AUTHORIZATION]
            request.headers = headers
        request.response = None
        self._idle.append(request)
        return response

    def _copy(self) -> aiohttp.ClientRequest:
        request = copy.copy(self._model)
        request.headers = self._model.headers.copy()
        return request


class _Captured(Exception):
    """The request was captured and not sent."""
