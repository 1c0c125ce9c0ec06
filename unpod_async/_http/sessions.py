"""The two aiohttp sessions of a client, created on first use and closed once.

Reads share a connection pool, whose idle connections are dropped before the server drops them. Each create,
and each other request that changes something, uses a connection of its own: if the server is just closing a
kept-alive connection, a POST on it fails although nothing was processed, and the client cannot tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import Coroutine, Mapping
from types import MethodType, SimpleNamespace
from typing import Any, Final, TypedDict

import aiohttp
import aiohttp.client

from unpod_async._http.lifecycle import ClientLifecycle
from unpod_async.errors import ConfigurationError

__all__ = [
    "HEAD_LIMITS",
    "KEEP_ALIVE",
    "SENDING_METHODS",
    "SentFlag",
    "Sessions",
    "is_aiohttp_method",
    "is_mocked",
]

KEEP_ALIVE: Final = 4.0
"""Seconds for which an idle connection is kept. The server closes it after 5 to 6 without notice."""

_CLOSE_TIMEOUT: Final = 2.0
"""Seconds to wait for an event loop in another thread to close connections."""


class HeadLimits(TypedDict):
    """Arguments of `ClientSession` about the head of a response."""

    max_line_size: int
    max_field_size: int
    max_headers: int


HEAD_LIMITS: Final[HeadLimits] = {"max_line_size": 2**20, "max_field_size": 2**20, "max_headers": 1024}
"""The limits of the parser of a session. With aiohttp's defaults (8,190 bytes, 128 headers), a long cookie or
the headers of several proxies make a response unreadable and the outcome of a create unknown. `headers` has
the limits for reads."""


SENDING_METHODS: Final = ("_request", "request", "get", "post")
"""The methods of a session that send requests. Code that replaces one sees the responses, or creates them."""


class SentFlag:
    """Whether a request may have left this machine: set when it is handed to the socket."""

    sent = False


class Sessions:
    """The sessions of one client.

    The session for creates sets the `SentFlag` that is passed as the trace context of a request.

    Args:
        lifecycle: checked before a session is returned.
        headers: sent with every request over sessions created here; never the token.
        given: a session of the user for reads; it is never closed here.
        created_at: the source line that created the client, for the warning that it was not closed.
    """

    def __init__(
        self,
        lifecycle: ClientLifecycle,
        headers: Mapping[str, str],
        given: aiohttp.ClientSession | None,
        created_at: str,
    ) -> None:
        self.given = given
        self.reads: aiohttp.ClientSession | None = None
        self.creates: aiohttp.ClientSession | None = None
        self._lifecycle = lifecycle
        self._headers = headers
        self._created_at = created_at
        self._closed = False

    def for_read(self) -> aiohttp.ClientSession:
        """Return the session for reads.

        Raises:
            ConfigurationError: the client cannot be used here, or the given session is closed.
        """
        self._lifecycle.check()
        if self.given is not None and self.given.closed:
            raise ConfigurationError("the session passed as session= is closed", argument="session")
        if self.reads is None or self.reads.closed:
            self.reads = self.given or aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                **HEAD_LIMITS,
            )
        return self.reads

    def for_create(self) -> aiohttp.ClientSession:
        """Return the session for creates.

        Raises:
            ConfigurationError: the client cannot be used here.
        """
        self._lifecycle.check()
        if self.creates is None or self.creates.closed:
            self.creates = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                trace_configs=[_trace_sent()],
                **HEAD_LIMITS,
            )
        return self.creates

    async def aclose(self) -> None:
        """Close the sessions created here; a given one stays open. Closing twice has no effect."""
        if self._closed or self._lifecycle.forked:
            # In a forked process the connections still belong to the parent.
            self._closed = True
            return
        self._closed = True
        reads, creates = self._created_sessions()
        try:
            if reads is not None:
                await self._close(reads)
        finally:  # also when cancelled
            if creates is not None:
                await self._close(creates)

    async def _close(self, session: aiohttp.ClientSession) -> None:
        """Close a session. Its connections can only be closed in the event loop that they belong to."""
        closing = session.close()
        loop = self._lifecycle.loop
        if not asyncio.iscoroutine(closing):  # a mock replaces `aiohttp.ClientSession`
            return
        if loop is None or loop is asyncio.get_running_loop():
            await closing
        elif loop.is_closed():
            with warnings.catch_warnings():
                # Only the garbage collector closes the connections of a closed loop.
                warnings.filterwarnings("ignore", "unclosed ", ResourceWarning)
                _run_first_step(closing)
                gc.collect()
        elif loop.is_running():
            future = asyncio.run_coroutine_threadsafe(closing, loop)
            await asyncio.wait([asyncio.wrap_future(future)], timeout=_CLOSE_TIMEOUT)
        else:
            await asyncio.to_thread(loop.run_until_complete, closing)

    def _created_sessions(self) -> tuple[aiohttp.ClientSession | None, aiohttp.ClientSession | None]:
        return (None if self.reads is self.given else self.reads), self.creates

    def __del__(self) -> None:
        # The attribute is missing on a copy whose creation failed.
        lifecycle: ClientLifecycle | None = getattr(self, "_lifecycle", None)
        if lifecycle is None or lifecycle.loop is None or lifecycle.forked or self._closed:
            return
        unclosed = [
            session for session in self._created_sessions() if session is not None and not session.closed
        ]
        if unclosed:
            warnings.warn(
                f"the UnpodClient created at {self._created_at or 'an unknown place'} was never closed: use "
                "`async with UnpodClient() as unpod`, or `await unpod.aclose()`",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        for session in unclosed:
            closing = session.close()
            if lifecycle.loop.is_running() and asyncio._get_running_loop() is not lifecycle.loop:
                # The garbage collector runs in another thread.
                lifecycle.loop.call_soon_threadsafe(lifecycle.loop.create_task, closing)
            else:
                _run_first_step(closing)


def is_mocked(session: aiohttp.ClientSession) -> bool:
    """Return whether code outside aiohttp sends the requests of a session.

    Mocks, VCR and some tracing libraries replace methods of the session by functions of their own.
    """
    return not all(is_aiohttp_method(session, name) for name in SENDING_METHODS)


def is_aiohttp_method(session: aiohttp.ClientSession, name: str) -> bool:
    """Return whether aiohttp defines a method of a session. A wrapper does not have aiohttp's globals."""
    method = getattr(session, name, None)
    return type(method) is MethodType and getattr(method.__func__, "__globals__", None) is vars(
        aiohttp.client
    )


def _run_first_step(closing: Coroutine[Any, Any, None]) -> None:
    """Run the first step of closing a session. It drops the connections; further steps only wait for that."""
    with contextlib.suppress(StopIteration):
        closing.send(None)
    closing.close()


def _trace_sent() -> aiohttp.TraceConfig:
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(_record_sent)
    return tracing


async def _record_sent(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.sent = True
