"""What a client holds open: its two sessions, made on first use and closed once.

Reads share a pool whose connections are dropped before the server drops them. A create goes over a
connection of its own: on a kept-alive one that the server is just closing, a POST fails although nothing was
processed, and one cannot tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from unpod_async._http.lifecycle import ClientLifecycle
from unpod_async.errors import ConfigurationError

__all__ = ["KEEP_ALIVE", "SentFlag", "Sessions", "reading"]

KEEP_ALIVE: Final = 4.0
"""Seconds an idle connection is kept; the server closes it after 5 to 6 without a word."""


class SentFlag:
    """Whether the head of a request was handed to the socket."""

    sent = False


reading: Final[ContextVar[SentFlag]] = ContextVar("unpod_async_reading")
"""The flag of the read that a task is sending."""


class Sessions:
    """The sessions of one client. Ours set a request's `SentFlag`: of a read the one in `reading`, when there
    is a connection for it; of a create its trace context, when its head goes out.

    Args:
        lifetime: asked before a session is handed out.
        headers: of every request over our sessions; never the token.
        given: a session of the caller's for reads; it is never closed here.
        made_at: the line where the client was made, for the warning when it is never closed.
    """

    def __init__(
        self,
        lifetime: ClientLifecycle,
        headers: Mapping[str, str],
        given: aiohttp.ClientSession | None,
        made_at: str,
    ) -> None:
        self.given = given
        self.reads: aiohttp.ClientSession | None = None
        self.creates: aiohttp.ClientSession | None = None
        self._lifetime = lifetime
        self._headers = headers
        self._made_at = made_at
        self._closed = False

    def for_read(self) -> aiohttp.ClientSession:
        """Raises ConfigurationError when the client cannot be used here (any more)."""
        self._lifetime.check()
        if self.given is not None and self.given.closed:
            raise ConfigurationError("the session that was given as session= is closed")
        if self.reads is None or self.reads.closed:
            self.reads = self.given or aiohttp.ClientSession(
                connector=_Pool(limit=0, keepalive_timeout=KEEP_ALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
            )
        return self.reads

    def for_create(self) -> aiohttp.ClientSession:
        """Raises ConfigurationError when the client cannot be used here (any more)."""
        self._lifetime.check()
        if self.creates is None or self.creates.closed:
            self.creates = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                trace_configs=[_tracing()],
            )
        return self.creates

    async def aclose(self) -> None:
        """Close our sessions; a given one stays open. Closing twice does nothing."""
        if self._closed or self._lifetime.forked:
            # In a forked process the connections are still those of its parent.
            self._closed = True
            return
        self._closed = True
        reads, creates = self._own()
        try:
            if reads is not None:
                await reads.close()
        finally:  # when cancelled, too
            if creates is not None:
                await creates.close()

    def _own(self) -> tuple[aiohttp.ClientSession | None, aiohttp.ClientSession | None]:
        return (None if self.reads is self.given else self.reads), self.creates

    def __del__(self) -> None:
        lifetime: ClientLifecycle | None = getattr(
            self, "_lifetime", None
        )  # missing on a copy that failed half-way
        if lifetime is None or lifetime.loop is None or lifetime.forked or self._closed:
            return
        left = [session for session in self._own() if session is not None and not session.closed]
        if left:
            warnings.warn(
                f"the UnpodClient made at {self._made_at or 'an unknown place'} was never closed: use "
                "`async with UnpodClient() as unpod`, or `await unpod.aclose()`",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        for session in left:
            closing = session.close()
            if lifetime.loop.is_running() and asyncio._get_running_loop() is not lifetime.loop:
                # Collected in another thread.
                lifetime.loop.call_soon_threadsafe(lifetime.loop.create_task, closing)
            else:
                # Its first step drops the connections; the rest would only wait for that.
                with contextlib.suppress(StopIteration):
                    closing.send(None)
                closing.close()


class _Pool(aiohttp.TCPConnector):
    """Connections of reads. Tracing tells the same, and more exactly, for 10 % of the cost of a request."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        reading.get().sent = True
        return connection


def _tracing() -> aiohttp.TraceConfig:
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(_note_sent)
    return tracing


async def _note_sent(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.sent = True
