"""HTTP for recordings, separate from the HTTP of the API.

The URL of a recording comes from a server and can name any host. So the sessions here have no token, no
Org-Handle, no cookies, no proxy and no client certificate. One session connects to public addresses only, the
other one to the hosts that the caller named.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import aiohttp

from unpod_async._common import printable
from unpod_async._http import (
    HEAD_LIMITS,
    MOCK_HINT,
    MockFailed,
    describe_fault,
    is_mocked,
    is_plain,
    retry_after,
    send_once,
)
from unpod_async._recordings.urls import NAME_HOST, RecordingHosts, RecordingUrl, is_public
from unpod_async._version import VERSION
from unpod_async.errors import ConfigurationError, RecordingError, UnpodError

__all__ = [
    "DownloadFailed",
    "Fetched",
    "RecordingHttp",
    "ThroughputCheck",
    "check_complete",
    "new_session",
    "public_socket",
]

CONNECT_TIMEOUT: Final = 10.0
READ_TIMEOUT: Final = 30.0
"""Seconds to wait for a connection, and for the next byte of a response."""

KEEP_ALIVE: Final = 4.0
MAX_REDIRECTS: Final = 3

_HEADERS: Final = {
    "Accept": "*/*",
    # The bytes are counted and stored as they arrive.
    "Accept-Encoding": "identity",
    "User-Agent": f"unpod-async/{VERSION}",
}

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_NOT_FOUND: Final = 404
_GONE: Final = frozenset({401, 403, 410})
_RETRYABLE: Final = frozenset({408, 425, 429})
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_RECORDING_TYPE: Final = re.compile(r"(?:audio|video)/[^/]+|(?:application|binary)/octet-stream|")
_LIST_AGAIN: Final = "list the task again to get a fresh URL"

Write: TypeAlias = Callable[[bytes], Awaitable[None]]

Address: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""One result of `socket.getaddrinfo`."""


class Fetched(NamedTuple):
    """A recording that was fetched.

    Attributes:
        content_type: in lower case and without parameters; "" if there was none.
        path: the path of the URL after redirects.
    """

    content_type: str
    path: str


class DownloadFailed(Exception):
    """An attempt to download a recording failed.

    Attributes:
        error: the error to raise if there is no further attempt.
        status: the HTTP status of the response, or None if there was none.
        retry_after: seconds that the server asked to wait, or None.
    """

    def __init__(
        self, error: RecordingError, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__()
        self.error = error
        self.status = status
        self.retry_after = retry_after


class _ResponseHead(NamedTuple):
    """The checked head of a response.

    Attributes:
        content_type: in lower case and without parameters; "" if there was none.
        length: the length of the body in bytes; None for a chunked body, which marks its own end.
    """

    content_type: str
    length: int | None


class _NotPublicError(OSError):
    """An address is refused. The constant message lets aiohttp report several such addresses as one error."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "not a public address")


class ThroughputCheck:
    """Detects a body that arrives too slowly: less than 1,024 bytes per second over 10 seconds of waiting."""

    MIN_BYTES_PER_SECOND: Final = 1024
    SPAN: Final = 10.0

    def __init__(self) -> None:
        self._bytes = 0
        self._waited = 0.0

    def is_too_slow(self, count: int, waited: float) -> bool:
        """Count `count` further bytes, and return whether the body is too slow.

        Args:
            waited: seconds spent waiting for these bytes. Other time, such as writing, does not count.
        """
        self._bytes += count
        self._waited += waited
        if self._waited < self.SPAN:
            return False
        is_slow = self._bytes < self.MIN_BYTES_PER_SECOND * self._waited
        self._bytes, self._waited = 0, 0.0
        return is_slow


class RecordingHttp:
    """Fetches recordings, one attempt per call.

    Args:
        hosts: decides which URLs may be requested.
        head_timeout: seconds to wait for the head of each response.
        ssl_context: for stores with a certificate of a private CA; None for the default.
        clock: returns monotonic seconds, to measure the throughput.
    """

    def __init__(
        self,
        hosts: RecordingHosts,
        *,
        head_timeout: float,
        ssl_context: ssl.SSLContext | None,
        clock: Callable[[], float],
    ) -> None:
        self._hosts = hosts
        self._head_timeout = head_timeout
        self._ssl = True if ssl_context is None else ssl_context
        self._clock = clock
        self._public: aiohttp.ClientSession | None = None
        self._named_hosts_session: aiohttp.ClientSession | None = None
        self._closed = False

    async def aclose(self) -> None:
        """Close the connections. Nothing can be fetched afterwards."""
        self._closed = True
        try:
            if self._public is not None:
                await self._public.close()
        finally:  # also if the first close was cancelled
            if self._named_hosts_session is not None:
                await self._named_hosts_session.close()

    async def fetch(self, url: RecordingUrl, max_bytes: int, write: Write) -> Fetched:
        """Pass the bytes of a recording to `write` as they arrive.

        The bytes are a complete recording only if this returns.

        Raises:
            DownloadFailed: the recording is missing, incomplete, too long, or not a recording.
            ConfigurationError: the connections are closed.
        """
        if self._closed:
            raise ConfigurationError(
                "this recording loader is closed", hint="create a new one for further recordings"
            )
        try:
            return await self._follow_redirects(url, max_bytes, write)
        except asyncio.CancelledError as cancelled:
            # The frames below contain the URL.
            cancelled.__traceback__ = None
            raise
        except DownloadFailed as fault:
            failed = fault
        except RecordingError as refused:  # the target of a redirect
            failed = DownloadFailed(refused.with_traceback(None))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as fault:
            # Its message and arguments may contain the URL.
            failed = _to_download_failed(url, fault)
        except Exception as fault:
            if isinstance(fault, UnpodError) or not is_mocked(self._session(url)):
                raise
            failed = _to_download_failed(url, MockFailed(type(fault).__name__))
        raise failed

    async def _follow_redirects(self, url: RecordingUrl, max_bytes: int, write: Write) -> Fetched:
        for _ in range(1 + MAX_REDIRECTS):
            result = await self._request(url, max_bytes, write)
            if isinstance(result, Fetched):
                return result
            url = result
        raise url.error(f"more than {MAX_REDIRECTS} redirects")

    async def _request(self, url: RecordingUrl, max_bytes: int, write: Write) -> Fetched | RecordingUrl:
        """Send one request. Returns the target if the response is a redirect."""
        async with (
            asyncio.timeout(self._head_timeout) as head_timeout,
            self._session(url).get(
                url.reveal(),
                headers=_HEADERS,
                middlewares=(send_once,),
                # No total: the size of a recording is not known in advance. See `ThroughputCheck`.
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=CONNECT_TIMEOUT,
                    sock_connect=CONNECT_TIMEOUT,
                    sock_read=READ_TIMEOUT,
                    ceil_threshold=float("inf"),
                ),
                ssl=self._ssl,
                allow_redirects=False,
                raise_for_status=False,
            ) as response,
        ):
            head_timeout.reschedule(None)
            if response.status in _REDIRECTS:
                return self._hosts.follow(url, response.headers.get("Location", ""))
            # Join repeated headers, so that they are noticed: "5, 5" is not a length.
            names = {name.lower() for name in response.headers}
            headers = {name: ", ".join(response.headers.getall(name)) for name in names}
            head = _check_head(url, response.status, headers, max_bytes)
            length = await self._pass_body(url, response.content, max_bytes, write)
            check_complete(url, length, head.length)
            return Fetched(head.content_type, url.path)

    async def _pass_body(
        self, url: RecordingUrl, body: aiohttp.StreamReader, max_bytes: int, write: Write
    ) -> int:
        """Pass the body to `write` and return its length in bytes."""
        length = 0
        throughput = ThroughputCheck()
        while True:
            began = self._clock()
            data = await body.readany()
            if not data:
                return length
            length += len(data)
            _check_size(url, length, max_bytes)
            if throughput.is_too_slow(len(data), self._clock() - began):
                minimum = ThroughputCheck.MIN_BYTES_PER_SECOND
                _raise_download_failed(
                    url, f"less than {minimum} bytes per second arrived", 200, retryable=True
                )
            await write(data)

    def _session(self, url: RecordingUrl) -> aiohttp.ClientSession:
        if url.is_named:
            if self._named_hosts_session is None:
                self._named_hosts_session = new_session(None)
            return self._named_hosts_session
        if self._public is None:
            self._public = new_session(public_socket)
        return self._public


def public_socket(address: Address) -> socket.socket:
    """Return a socket for an address that aiohttp is about to connect to.

    The check is made here because neither a host name nor a redirect can avoid it.

    Raises:
        OSError: the address is not public.
    """
    family, kind, protocol, _, where = address
    if not is_public(str(where[0])):
        raise _NotPublicError
    return socket.socket(family, kind, protocol)


def new_session(factory: Callable[[Address], socket.socket] | None) -> aiohttp.ClientSession:
    """Return a session without cookies, proxies or credentials.

    Args:
        factory: creates the socket for an address; None for aiohttp's default.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE, socket_factory=factory),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        **HEAD_LIMITS,
    )


def _check_head(url: RecordingUrl, status: int, headers: Mapping[str, str], max_bytes: int) -> _ResponseHead:
    """Return the checked head of a response that is not a redirect; `headers` have lower-case names.

    Raises:
        DownloadFailed: the response is not a recording, or is too long, or its length cannot be verified.
    """
    if status == _NOT_FOUND:
        problem = f"the server answered {status}: the recording is not ready yet or was deleted"
        _raise_download_failed(
            url, problem, status, hint=f"a recording may appear some time after its call; {_LIST_AGAIN}"
        )
    if status in _GONE:
        problem = f"the server answered {status}: the recording is gone or its signed URL has expired"
        _raise_download_failed(url, problem, status, hint=_LIST_AGAIN)
    if status != 200:
        retryable = status in _RETRYABLE or status >= 500
        wait = retry_after(headers) if status in (429, 503) else None
        _raise_download_failed(url, f"the server answered {status}", status, wait, retryable=retryable)
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not _RECORDING_TYPE.fullmatch(content_type):
        problem = f"the response is not a recording but {printable(content_type)[:60]!r}"
        hint = f"the signed URL may have expired; {_LIST_AGAIN}"
        _raise_download_failed(url, problem, status, hint=hint)
    coding = headers.get("content-encoding", "").strip().lower()
    if not is_plain(coding):
        problem = f"the response is compressed ({printable(coding)[:40]!r}), which was not requested"
        _raise_download_failed(url, problem, status)
    return _ResponseHead(content_type, _announced_length(url, headers, max_bytes))


def _announced_length(url: RecordingUrl, headers: Mapping[str, str], max_bytes: int) -> int | None:
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.strip().lower() != "chunked":
            _raise_download_failed(url, "the response has a transfer encoding other than chunked", 200)
        return None
    announced = headers.get("content-length", "")
    if not _LENGTH.fullmatch(announced):
        _raise_download_failed(
            url, "the response has no length, so a missing part could not be detected", 200
        )
    length = int(announced)
    _check_size(url, length, max_bytes)
    return length


def _check_size(url: RecordingUrl, length: int, max_bytes: int) -> None:
    if length > max_bytes:
        hint = "raise max_bytes= to accept it"
        _raise_download_failed(url, f"the recording is longer than {max_bytes} bytes", 200, hint=hint)


def check_complete(url: RecordingUrl, length: int, expected: int | None) -> None:
    """Raise `DownloadFailed` if the `length` bytes that arrived are not the whole body."""
    if length == 0:
        _raise_download_failed(url, "the response is empty", 200, retryable=True)
    if expected not in (None, length):
        _raise_download_failed(url, f"only {length} of {expected} bytes arrived", 200, retryable=True)


def _raise_download_failed(
    url: RecordingUrl,
    problem: str,
    status: int | None = None,
    wait: float | None = None,
    *,
    retryable: bool = False,
    hint: str | None = None,
) -> NoReturn:
    raise DownloadFailed(url.error(problem, permanent=not retryable, hint=hint), status, wait)


def _to_download_failed(url: RecordingUrl, fault: Exception) -> DownloadFailed:
    """Describe an exception of aiohttp without its own message, which may contain the URL."""
    text, permanent = describe_fault(fault)
    hint: str | None = None
    if isinstance(fault, aiohttp.ClientConnectorError) and isinstance(fault.os_error, _NotPublicError):
        text, permanent, hint = "the host has no public address", True, NAME_HOST
    elif isinstance(fault, MockFailed):
        hint = MOCK_HINT
    elif isinstance(fault, aiohttp.ClientConnectorCertificateError):
        hint = "pass ssl_context= if the store has a private CA"
    return DownloadFailed(url.error(text, permanent=permanent, hint=hint))
