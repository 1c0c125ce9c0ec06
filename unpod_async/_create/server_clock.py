"""When a create was sent, by the server's clock. Every comparison of two clocks for a create is here.

The runs of a create are found by their `created`, which comes from the server's clock. A search that starts
too late misses calls that were placed, and they are placed again. So each estimate here is a lower bound, and
a search that cannot be sure of its start says so.

The wall clock of this machine may be wrong, and may be set between the create and the search. Only two facts
are independent of it: the `Date` header of a response near the create, and the time that has passed since, by
a clock that is never set (see `Instant`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from unpod_async._http import parse_http_date

__all__ = ["Instant", "SearchWindow", "SentAt", "ServerClock", "read_clocks", "search_window"]

CLOCK_SKEW: Final = timedelta(minutes=2)
"""How long before the create a search starts. The `Date` header and `created` may come from two machines."""

_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_LONGEST_UPTIME: Final = 10.0**10  # seconds
_ZERO: Final = timedelta()


class Instant(NamedTuple):
    """A moment, by the clocks of this machine.

    Attributes:
        wall: the wall clock, in UTC.
        uptime: seconds of a clock that runs from an unknown moment and is never set. It includes the time in
            which the machine slept, if the system has a clock that counts it.
        boot: names the clock of `uptime`. Two uptimes can be compared only if it is equal.
    """

    wall: datetime
    uptime: float
    boot: str


def read_clocks() -> Instant:
    """Return the current moment."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    uptime = time.monotonic() if clock is None else time.clock_gettime(clock)
    return Instant(datetime.now(UTC), uptime, _boot())


@cache
def _boot() -> str:
    """Return an id of this boot of the machine, or of this process if the system has no id of a boot."""
    with suppress(OSError, ValueError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        # Containers may have an uptime of their own.
        return f"{boot} {Path('/proc/self/ns/time').readlink()}"
    return uuid.uuid4().hex


class SentAt(NamedTuple):
    """When a create was sent.

    Attributes:
        wall: by the wall clock of the machine that sent it, in UTC.
        uptime: as in `Instant`; None if it is not known.
        boot: as in `Instant`; None if it is not known.
        server: by the server's clock: the create was sent then or later. None if no response near the create
            had a `Date` header.
    """

    wall: datetime
    uptime: float | None = None
    boot: str | None = None
    server: datetime | None = None

    @property
    def search_start(self) -> datetime:
        """Where a search begins: by the server's clock, or by the wall clock if the server's is not known."""
        return _add(self.server or self.wall, -CLOCK_SKEW)

    def elapsed(self, now: Instant) -> timedelta | None:
        """Return the time since then, or None if it is known by the wall clock only."""
        if self.uptime is None or self.boot != now.boot:
            return None
        seconds = now.uptime - self.uptime
        return timedelta(seconds=seconds) if 0 <= seconds < _LONGEST_UPTIME else None


class ServerClock:
    """The server's clock, as the last response with a `Date` header showed it."""

    def __init__(self) -> None:
        self._noted: tuple[datetime, Instant] | None = None

    def update(self, date: str | None, now: Instant | None = None) -> None:
        """Record the `Date` header of a response that arrives now, or None if it has none."""
        server = parse_http_date(date or "")
        if server is not None:
            self._noted = server, now or read_clocks()

    def at(self, moment: Instant) -> datetime | None:
        """Return the server's time at a moment, or None if no response had a `Date` header.

        The server's time was this or later. The header has whole seconds and is written before the response
        arrives. Of the two clocks of this machine, the one that gives the earlier time counts, because a
        paused machine stops one of them, and the other may have been set.
        """
        if self._noted is None:
            return None
        server, noted = self._noted
        by_wall = moment.wall - noted.wall
        by_uptime = timedelta(seconds=moment.uptime - noted.uptime)
        passed = min(by_wall, by_uptime)
        return _add(server, passed if by_uptime < _ZERO else max(passed, _ZERO))

    def sent_at(self, moment: Instant) -> SentAt:
        """Return the `SentAt` of a create that is sent at this moment."""
        return SentAt(*moment, self.at(moment))


class SearchWindow(NamedTuple):
    """Which runs can belong to a create, by their `created`.

    Attributes:
        start: a run created then or later belongs to the create if its tasks have the ids of the create.
        earliest: a run created between this time and `start` may belong to the create, or to an earlier one
            that had the same ids. No older run belongs to it. None if no lower bound is known.
    """

    start: datetime
    earliest: datetime | None


def search_window(
    sent: SentAt, now: Instant, server_now: datetime | None, listed: Iterable[datetime]
) -> SearchWindow:
    """Return which runs must be searched for the calls of a create.

    Args:
        sent: when the create was sent.
        now: when the listing of runs was read.
        server_now: the server's time at `now`, or None if it is not known.
        listed: the `created` of the newest runs.
    """
    if sent.server is not None:
        return SearchWindow(sent.search_start, sent.search_start)
    by_wall = max(now.wall - sent.wall, _ZERO)
    by_uptime = sent.elapsed(now)
    start = _add(server_now or now.wall, -(by_wall if by_uptime is None else by_uptime) - CLOCK_SKEW)
    # The server's time is not before that of its newest run. A run of the future has a wrong time.
    proven = server_now or max((created for created in listed if created <= now.wall), default=None)
    if by_uptime is None or proven is None:
        return SearchWindow(start, None)
    return SearchWindow(start, _add(proven, -max(by_wall, by_uptime) - CLOCK_SKEW))


def _add(moment: datetime, span: timedelta) -> datetime:
    """Return the sum, or the first or last moment of the calendar if it is beyond that."""
    try:
        return moment + span
    except OverflowError:
        return _FIRST if span < _ZERO else _LAST
