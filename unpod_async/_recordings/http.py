"""The HTTP of recordings. A second module that speaks it, because it shares nothing with the API's.

A recording's URL leads to any host that a server names. So its sessions have no token, no Org-Handle, no
cookies, no proxy and no certificate of the client's. One of them connects to public addresses only; the other
is for the hosts that the caller named.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeAlias

import aiohttp

from unpod_async._recordings.responses import Failed, Pace, check_head, check_length, check_whole, refuse
from unpod_async._recordings.urls import EXCEPT_IT, RecordingHosts, RecordingUrl, is_public
from unpod_async._version import VERSION
from unpod_async.errors import ConfigurationError, RecordingError

__all__ = ["Fetched", "RecordingHttp", "public_socket"]

CONNECT: Final = 10.0
STALL: Final = 30.0
"""Seconds for a connection, and without a single byte of an answer."""

KEEP_ALIVE: Final = 4.0
MOST_REDIRECTS: Final = 3

_HEADERS: Final = {
    "Accept": "*/*",
    # What comes is counted and kept as it is.
    "Accept-Encoding": "identity",
    "User-Agent": f"unpod-async/{VERSION}",
}

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

Write: TypeAlias = Callable[[bytes], Awaitable[None]]

Address: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` gives it."""


class Fetched(NamedTuple):
    """What was fetched: its content type, "" without one, and the path it was at in the end."""

    content_type: str
    path: str


class _NotPublic(OSError):
    """The text is always the same, so that of several addresses refused one error comes out."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "not a public address")


class _ConnectionLost(aiohttp.ClientError):
    """A lost connection as a class that aiohttp does not answer by sending the request once more."""


class RecordingHttp:
    """Fetches recordings, one attempt at a time.

    Args:
        hosts: which URLs may be asked.
        head_within: seconds until the head of each answer must have come.
        ssl_context: for stores whose certificate is of a private CA.
        clock: monotonic seconds, to measure how fast bytes come.
    """

    def __init__(
        self,
        hosts: RecordingHosts,
        *,
        head_within: float,
        ssl_context: ssl.SSLContext | None,
        clock: Callable[[], float],
    ) -> None:
        self._hosts = hosts
        self._head_within = head_within
        self._ssl = True if ssl_context is None else ssl_context
        self._clock = clock
        self._public: aiohttp.ClientSession | None = None
        self._named: aiohttp.ClientSession | None = None
        self._closed = False

    async def aclose(self) -> None:
        """Drop the connections; nothing can be fetched any more."""
        self._closed = True
        try:
            if self._public is not None:
                await self._public.close()
        finally:  # when cancelled, too
            if self._named is not None:
                await self._named.close()

    async def fetch(self, url: RecordingUrl, most: int, write: Write) -> Fetched:
        """Hand the bytes of a recording on as they come; they count only when this returns.

        Raises:
            Failed: it did not come, did not come whole, or is none.
            ConfigurationError: closed.
        """
        if self._closed:
            raise ConfigurationError("the loader of recordings is closed: make a new one")
        try:
            return await self._follow(url, most, write)
        except asyncio.CancelledError as cancelled:
            # The frames below hold the URL.
            cancelled.__traceback__ = None
            raise
        except Failed as fault:
            failed = fault
        except RecordingError as refused:  # the target of a redirect
            failed = Failed(refused.with_traceback(None))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as fault:
            # Its text and arguments can hold the URL.
            failed = _explain(url, fault)
        raise failed

    async def _follow(self, url: RecordingUrl, most: int, write: Write) -> Fetched:
        for _ in range(1 + MOST_REDIRECTS):
            found = await self._ask(url, most, write)
            if isinstance(found, Fetched):
                return found
            url = found
        raise RecordingError(f"{url}: more than {MOST_REDIRECTS} redirects", permanent=True)

    async def _ask(self, url: RecordingUrl, most: int, write: Write) -> Fetched | RecordingUrl:
        async with (
            asyncio.timeout(self._head_within) as limit,
            self._session(url).get(
                url.reveal(),
                headers=_HEADERS,
                middlewares=(_send_once,),
                # No total: how long a recording takes says nothing; see `Pace`.
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=CONNECT,
                    sock_connect=CONNECT,
                    sock_read=STALL,
                    ceil_threshold=float("inf"),
                ),
                ssl=self._ssl,
                allow_redirects=False,
                raise_for_status=False,
            ) as response,
        ):
            limit.reschedule(None)
            if response.status in _REDIRECTS:
                return self._hosts.follow(url, response.headers.get("Location", ""))
            # A header sent twice shows as such: no length is "5, 5".
            names = {name.lower() for name in response.headers}
            headers = {name: ", ".join(response.headers.getall(name)) for name in names}
            head = check_head(url, response.status, headers, most)
            length = await self._pass_on(url, response.content, most, write)
            check_whole(url, length, head.length)
            return Fetched(head.content_type, url.path)

    async def _pass_on(self, url: RecordingUrl, body: aiohttp.StreamReader, most: int, write: Write) -> int:
        length = 0
        pace = Pace()
        while True:
            began = self._clock()
            piece = await body.readany()
            if not piece:
                return length
            length += len(piece)
            check_length(url, length, most)
            if pace.is_too_slow(len(piece), self._clock() - began):
                refuse(url, f"less than {Pace.LEAST} bytes a second came", 200, again=True)
            await write(piece)

    def _session(self, url: RecordingUrl) -> aiohttp.ClientSession:
        if url.is_named:
            if self._named is None:
                self._named = _bare_session(None)
            return self._named
        if self._public is None:
            self._public = _bare_session(public_socket)
        return self._public


def public_socket(address: Address) -> socket.socket:
    """A socket for an address about to be connected to: the place that no name and no redirect gets round.

    Raises:
        OSError: the address is not public.
    """
    family, kind, protocol, _, where = address
    if not is_public(str(where[0])):
        raise _NotPublic
    return socket.socket(family, kind, protocol)


def _bare_session(factory: Callable[[Address], socket.socket] | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE, socket_factory=factory),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


async def _send_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """A middleware: a lost connection is not retried behind our back."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as lost:
        if isinstance(lost, aiohttp.ClientConnectorError):
            raise
        name = type(lost).__name__
    raise _ConnectionLost(name)


def _explain(url: RecordingUrl, fault: Exception) -> Failed:
    """Our words for a fault of aiohttp: its class, and of its text only what the system said."""
    name = str(fault) if isinstance(fault, _ConnectionLost) else type(fault).__name__
    permanent = False
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        reason = getattr(fault.certificate_error, "verify_message", "") or "not trusted"
        what, permanent = f"the certificate is refused: {reason}", True
    elif isinstance(fault, aiohttp.ClientConnectorDNSError):
        what = "the host name cannot be resolved"
    elif isinstance(fault, aiohttp.ClientConnectorError) and isinstance(fault.os_error, _NotPublic):
        what, permanent = f"the host has no public address; {EXCEPT_IT}", True
    elif isinstance(fault, aiohttp.ClientConnectorError):
        what = f"no connection: {fault.os_error.strerror or 'refused'}"
    elif isinstance(fault, TimeoutError):
        what = "no answer in time, or a stall in it"
    elif isinstance(fault, aiohttp.ClientPayloadError):
        what = "the answer was cut short or damaged"
    elif isinstance(fault, aiohttp.InvalidURL):
        what, permanent = "the URL is not one", True
    elif isinstance(fault, aiohttp.ClientResponseError):
        what = "the answer is not valid HTTP"
    else:
        what = "the connection was lost"
    return Failed(RecordingError(f"{url}: {what} ({name})", permanent=permanent))
