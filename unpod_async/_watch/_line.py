"""Whether a space can be reached, told when it changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from unpod_async._stream import Put
from unpod_async._watch._clock import Clock
from unpod_async.errors import UnpodError
from unpod_async.events import Disconnected, Event, Reconnected

__all__ = ["Line"]

_log = logging.getLogger("unpod_async")


class Line:
    """The line to one space. It is down when a poll gets no answer at all, and up with the next answer."""

    def __init__(self, space_token: str, put: Put[Event], clock: Clock) -> None:
        self._space = space_token
        self._put = put
        self._clock = clock
        self._down_since: float | None = None
        self.listening = True
        """No answer has come in this poll."""

    async def tell(self, events: Sequence[Event]) -> None:
        """An answer came, and this is what it tells; it may be nothing."""
        self.listening = False
        if self._down_since is not None:
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
        await self._put(events)

    async def failed(self, error: UnpodError) -> None:
        """A poll was broken off."""
        if not self.listening:
            _log.warning("a poll of space %s was broken off: %s", self._space, error)
        elif self._down_since is None:
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
