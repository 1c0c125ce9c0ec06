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

from unpod_async._http import RetrySchedule, is_retryable_get, retry_after_of
from unpod_async.errors import UnpodError

__all__ = ["Clock", "PollDelays", "PollSchedule", "SharedListing"]

_AGEING: Final = 10.0
"""A run that has not changed for this many seconds may be reported one second late."""

_LONGEST_PAUSE: Final = 60.0
"""Maximum number of seconds between two polls during an outage, unless the interval is longer."""

_MAX_LISTING_FAILURES: Final = 4
"""Number of consecutive failures to list the tasks of a space, after which tasks are read run by run.

Reading run by run takes many more requests, so it is not worth it for a short outage.
"""

_LONGEST_RETRY_AFTER: Final = 900.0
"""Maximum number of seconds to wait for a server that asks for a delay; it may ask for years."""


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


class PollDelays:
    """The delays between the polls of a watch or a wait.

    They vary by a fifth, so that watches that start together do not keep polling together.

    Args:
        interval: seconds from the end of one poll to the start of the next, on average.
        random: returns a number from 0 to 1.
    """

    def __init__(self, interval: float, random: Callable[[], float]) -> None:
        self._interval = interval
        self._random = random
        self._longest_retry_after = max(interval, _LONGEST_RETRY_AFTER)
        self._schedule = RetrySchedule(
            attempts=None, base=interval, cap=max(interval, _LONGEST_PAUSE), jitter=self._vary
        )

    def after_success(self) -> float:
        """Return the seconds until the poll after one that completed."""
        self._schedule.reset()
        return self._vary(self._interval)

    def after_failure(self, error: UnpodError) -> float:
        """Return the seconds until the poll after one that an error interrupted.

        The delay starts at the interval and doubles with each failure in a row, up to a minute, or to the
        interval if that is longer. If the server asked for a delay, the poll waits that long, up to 15
        minutes.
        """
        retry_after = retry_after_of(error)
        if retry_after is not None:
            retry_after = min(retry_after, self._longest_retry_after)
        delay = self._schedule.next_delay(retry_after=retry_after)
        assert delay is not None  # noqa: S101 - the schedule has no limit of attempts
        return delay

    def _vary(self, seconds: float) -> float:
        return seconds * (0.8 + 0.4 * self._random())


@dataclass(frozen=True, slots=True)
class PollSchedule:
    """How often the parts of a space are read.

    Attributes:
        interval: seconds from the end of one poll to the start of the next, on average.
        resync: seconds from the start of one resync to the start of the next.
    """

    interval: float
    resync: float

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


class SharedListing:
    """Decides whether the tasks of a space are read from the listing of the space, or run by run.

    The listing of the space takes fewer requests. But it is longer, and one row can make it fail, even if the
    tasks of each run can be listed.
    """

    def __init__(self, schedule: PollSchedule) -> None:
        self._schedule = schedule
        self._failures = 0
        self._due = -math.inf

    def may_read(self, now: float) -> bool:
        """Return whether a poll may read from the listing. This is False for a while after a failure."""
        return now >= self._due

    def record_success(self) -> None:
        """Record that the listing was read."""
        self._failures, self._due = 0, -math.inf

    def record_failure(self, error: UnpodError, now: float) -> bool:
        """Record that the listing could not be read.

        Returns:
            Whether to read the tasks run by run now. False if the whole service may have failed.
        """
        self._failures += 1
        self._due = now + self._schedule.resync_retry(self._failures)
        return self._failures >= _MAX_LISTING_FAILURES or not is_retryable_get(error, 1)
