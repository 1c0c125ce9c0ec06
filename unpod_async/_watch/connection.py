"""Whether a space can be reached, told when it changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from unpod_async._paging import SendBatch
from unpod_async._watch.clock import Clock
from unpod_async.errors import UnpodError
from unpod_async.events import Disconnected, Event, Reconnected

__all__ = ["ConnectionState"]

_log = logging.getLogger("unpod_async")


_BROKEN_OFF = 3
"""Polls in a row that were broken off, though answers came, before the space counts as disconnected."""


class ConnectionState:
    """The line to one space.

    It is down when a poll gets no answer at all, and up with the next answer. It is down, too, when several
    polls in a row get answers and do not come to their end, and then up when one does.
    """

    def __init__(self, space_token: str, put: SendBatch[Event], clock: Clock) -> None:
        self._space = space_token
        self._put = put
        self._clock = clock
        self._down_since: float | None = None
        self._broken_off = 0
        self._silent = True  # no answer has come in this poll

    async def tell(self, events: Sequence[Event]) -> None:
        """An answer came, and this is what it tells; it may be nothing."""
        self._silent = False
        if self._broken_off < _BROKEN_OFF:
            await self._up()
        await self._put(events)

    async def succeeded(self) -> None:
        """A poll came to its end."""
        self._broken_off, self._silent = 0, True
        await self._up()

    async def failed(self, error: UnpodError) -> None:
        """A poll was broken off."""
        if not self._silent:
            self._broken_off += 1
            if self._broken_off == 1:
                _log.warning("a poll of space %s was broken off: %s", self._space, error)
        if (self._silent or self._broken_off >= _BROKEN_OFF) and self._down_since is None:
            self._down_since = self._clock.monotonic()
            _log.warning("space %s cannot be read, and is asked for again: %s", self._space, error)
            told = Disconnected(
                space_token=self._space,
                seen_at=self._clock.utc_now(),
                old="connected",
                new="disconnected",
                reason=str(error),
            )
            await self._put([told])
        self._silent = True

    async def _up(self) -> None:
        if self._down_since is None:
            return
        after, self._down_since = self._clock.monotonic() - self._down_since, None
        _log.warning("space %s can be read again, after %.0f s", self._space, after)
        told = Reconnected(
            space_token=self._space,
            seen_at=self._clock.utc_now(),
            old="disconnected",
            new="connected",
            after=after,
        )
        await self._put([told])
