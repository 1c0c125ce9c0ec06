"""When each read of a watch is due. Decisions only: the clock and the randomness are passed in."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import anyio

__all__ = ["Clock", "Schedule"]

_AGEING: Final = 10.0
"""A run that has not changed for this many seconds may be reported one second late."""

_LONGEST_PAUSE: Final = 60.0
"""Maximum of seconds between two polls during an outage, unless the interval is longer."""

_LONGEST_RETRY_AFTER: Final = 900.0
"""Maximum of seconds to wait for a server that asks for a delay; it may ask for years."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Clock:
    """The clocks and the randomness of a watch. A test replaces them.

    Attributes:
        monotonic: returns seconds that never go back.
        utc_now: returns the time of day as a timezone-aware datetime in UTC.
        sleep: sleeps for a number of seconds.
        random: returns a number from 0 to 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    utc_now: Callable[[], datetime] = _utc_now
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    random: Callable[[], float] = random.random  # noqa: S311 - it only spreads requests


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often the parts of a space are read.

    Attributes:
        interval: seconds from the end of one poll to the start of the next, on average.
        resync: seconds from the start of one resync to the start of the next.
        random: returns a number from 0 to 1.
    """

    interval: float
    resync: float
    random: Callable[[], float]

    def pause(self, failures: int, retry_after: float | None) -> float:
        """Return the seconds until the next poll.

        The pause varies by a fifth, so that watches that start together do not keep polling together.

        Args:
            failures: how many polls failed in a row. Each one after the first doubles the pause, up to a
                minute or to the interval if that is longer.
            retry_after: seconds that the server asked to wait, or None. Up to 15 minutes are respected.
        """
        longest = max(self.interval, _LONGEST_PAUSE)
        pause = min(self.interval * 2.0 ** min(max(failures - 1, 0), 30), longest)
        pause *= 0.8 + 0.4 * self.random()
        return max(pause, min(retry_after or 0.0, max(self.interval, _LONGEST_RETRY_AFTER)))

    def resync_retry(self, failures: int) -> float:
        """Return the seconds until the next resync after this many incomplete ones in a row."""
        return min(self.resync, self.interval * 2.0 ** min(failures + 2, 30))

    def is_resync_overdue(self, age: float) -> bool:
        """Return whether a resync that another process started `age` seconds ago must be repeated now.

        It must also be repeated if it seems to lie in the future, because the clock was set back.
        """
        return not 0 <= age < self.resync

    def next_read(self, now: float, changed_at: float, failures: int) -> float:
        """Return when to read an unsettled run again.

        The longer a run has not changed, the less often it is read, but at least as often as a resync.

        Args:
            now: the current time.
            changed_at: when the run last changed.
            failures: how many times in a row the run could not be read.
        """
        pause = (now - changed_at) / _AGEING
        if failures:
            pause = max(pause, self.interval * 2.0 ** min(failures, 30))
        return now + min(pause, self.resync)

    def resync_pages_per_poll(self, pages: int) -> int:
        """Return how many pages of a resync each poll reads, so that it takes half the time to the next."""
        polls = max(1.0, self.resync / 2 / self.interval)
        return max(1, math.ceil(pages / polls))
