"""One limit on the requests of all workers of a cluster: the scheduler leases starting times to the workers.

A lease is a list of delays, so the clocks of the machines need not agree. Nothing has to be returned: a
worker that dies has lost at most the starting times of the next quarter of a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

__all__ = ["ClusterLimit", "Lease", "LeasedLimiter", "Lender"]

HORIZON: Final = 0.25
"""Seconds that a lease may reach into the future. So long, a worker may not know of a pause that another
worker has asked for."""

_MAX_LEASE: Final = 64


class Lease(NamedTuple):
    """What the scheduler answers.

    Attributes:
        delays: Seconds until each of the requests may start.
        retry_after: Seconds after which to ask again if there are no delays.
    """

    delays: list[float]
    retry_after: float


class ClusterLimit:
    """Decides when the requests of a cluster start. The clock is passed in.

    Args:
        rate: Requests per second, evenly spaced; None is no limit.
        burst: Number of requests that may start at once after a time in which fewer were sent.
    """

    def __init__(self, rate: float | None, burst: int) -> None:
        self.set(rate, burst)
        self._next_start = 0.0
        self._paused_until = 0.0

    def set(self, rate: float | None, burst: int) -> None:
        """Change the limit. What has been leased and a pause stay as they are."""
        self._interval = 0.0 if rate is None else 1 / rate
        self._credit = (burst - 1) * self._interval

    def lease(self, now: float, wanted: int) -> Lease:
        """Return up to `wanted` starting times."""
        start = max(self._next_start, now - self._credit, self._paused_until)
        delays: list[float] = []
        while len(delays) < min(wanted, _MAX_LEASE) and start <= now + HORIZON:
            delays.append(max(0.0, start - now))
            start += self._interval
        self._next_start = start
        return Lease(delays, max(0.0, start - now - HORIZON / 2))

    def pause(self, now: float, seconds: float) -> None:
        """Lease no starting time within the next `seconds`, as the server asked."""
        self._paused_until = max(self._paused_until, now + seconds)


class Lender(Protocol):
    """Connection to the `ClusterLimit`."""

    async def lease(self, wanted: int) -> Lease: ...
    def pause(self, seconds: float) -> None: ...


class LeasedLimiter:
    """The `RateLimiter` of the clients of one worker. Belongs to one event loop.

    Attributes:
        interval: Seconds between two requests of the cluster; 0 without a limit.
    """

    def __init__(
        self, lender: Lender, interval: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.interval = interval
        self._lender = lender
        self._clock = clock
        self._lock = asyncio.Lock()
        self._starts: deque[float] = deque()
        self._waiting = 0

    async def reserve(self) -> float:
        self._waiting += 1
        try:
            async with self._lock:
                return await self._next_delay()
        finally:
            self._waiting -= 1

    def pause(self, seconds: float) -> None:
        self._starts.clear()
        self._lender.pause(seconds)

    async def _next_delay(self) -> float:
        while True:
            now = self._clock()
            while self._starts:
                start = self._starts.popleft()
                if start > now - HORIZON:  # else it was leased for a request that was cancelled
                    return max(0.0, start - now)
            lease = await self._lender.lease(self._waiting)
            now = self._clock()
            self._starts.extend(now + delay for delay in lease.delays)
            if not lease.delays:
                await asyncio.sleep(lease.retry_after)
