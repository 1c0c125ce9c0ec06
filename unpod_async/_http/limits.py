"""When a request may start: the concurrency limits of a client and its views, and the rate gate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from math import inf, isfinite
from typing import Final, NamedTuple, Protocol, cast

import anyio

from unpod_async._common import TimeLimit
from unpod_async._http.hooks import MeasuredWait, NoteWait, WaitReason
from unpod_async._http.stats import Stats
from unpod_async._http.timeouts import Deadline
from unpod_async._http.validate import check_number
from unpod_async.errors import ConfigurationError, TransportError, UnpodError

__all__ = ["AFTER_PROBE", "Permit", "RateGate", "RateLimiter", "RequestLimiter", "check_rate_limit"]

_log = logging.getLogger("unpod_async")

AFTER_PROBE: Final = inf
"""Returned instead of a delay if a request has to wait until the probe has returned."""


class RateGate:
    """Decides whether a request may start now, for the whole client. The clock is passed in.

    A 429, or a 503 that asks for a delay, closes the gate for that time. Then the gate is half open: one
    request starts as a probe, and the others wait until it has returned. If the server accepted it, the gate
    is open again.

    Args:
        rate: requests that may start per second, evenly spaced; None means no limit.

    Attributes:
        interval: seconds between the starts of two requests; 0 if there is no limit.
    """

    def __init__(self, rate: float | None = None) -> None:
        self.interval: Final = 0.0 if rate is None else 1 / rate
        self._next_start = -inf
        self._closed_until = -inf
        self._half_open = False
        self._probe_in_flight = False

    @property
    def half_open(self) -> bool:
        """Whether a request that starts now is the probe."""
        return self._half_open

    def delay(self, now: float) -> float:
        """Return the seconds until a request may start; 0 means now."""
        if now < self._closed_until:
            return self._closed_until - now
        if self._probe_in_flight:
            return AFTER_PROBE
        return max(0.0, self._next_start - now)

    def try_start(self, now: float) -> float:
        """Return the seconds until a request may start. 0 means now, and counts the request as started."""
        delay = self.delay(now)
        if delay == 0:
            self._next_start = now + self.interval
            self._probe_in_flight = self._half_open
        return delay

    def close(self, now: float, seconds: float) -> bool:
        """Close the gate for `seconds`, as the server asked. Returns whether it was open."""
        was_open = now >= self._closed_until and not self._half_open
        self._closed_until = max(self._closed_until, now + seconds)
        self._half_open = True
        return was_open

    def probe_returned(self, *, accepted: bool) -> None:
        """Note the end of the probe. `accepted` is False if it was refused with a delay, or lost."""
        self._probe_in_flight = False
        if accepted:
            self._half_open = False


class RateLimiter(Protocol):
    """Limits the requests of several clients together, such as those of the processes of a cluster.

    Pass one as `rate_limit` of each client. Its methods are called in the event loop of the client. It may
    have an attribute `interval`, the seconds between the starts of two requests. Then exports know what a
    request costs, as they do with a number as `rate_limit`.

    Example:
        ```python
        class OnePerSecond:
            def __init__(self):
                self.next_start = 0.0

            async def reserve(self):
                self.next_start = max(self.next_start, time.monotonic()) + 1
                return self.next_start - 1 - time.monotonic()

            def pause(self, seconds):
                self.next_start = max(self.next_start, time.monotonic() + seconds)


        limit = OnePerSecond()
        first, second = UnpodClient(rate_limit=limit), UnpodClient(rate_limit=limit)
        ```
    """

    async def reserve(self) -> float:
        """Reserve the start of a request, and return the seconds until then.

        It is called once before each attempt. If the attempt is cancelled, the reserved start is not used.
        """
        ...

    def pause(self, seconds: float) -> None:
        """Note that the server asks for a delay. No request should start for that time. Does not block."""
        ...


def check_rate_limit(limit: float | RateLimiter | None) -> tuple[float | None, RateLimiter | None]:
    """Return the requests per second of a client, and the limiter that it shares with others.

    Raises:
        ConfigurationError: `limit` is neither a number greater than 0, nor a `RateLimiter`, nor None.
    """
    if limit is None:
        return None, None
    is_limiter = all(callable(getattr(limit, name, None)) for name in ("reserve", "pause"))
    if is_limiter and not isinstance(limit, type):
        return None, cast("RateLimiter", limit)
    return check_number("rate_limit", limit, error=ConfigurationError), None


class Permit(NamedTuple):
    """The permission to start a request now.

    Attributes:
        is_probe: the request is the probe of a half-open gate.
        seconds_left: time until the deadline; infinity if there is none.
    """

    is_probe: bool
    seconds_left: float


class RequestLimiter:
    """Lets requests start within the concurrency limits and the rate gate.

    A request waits here before the clock of its attempt starts. A semaphore is acquired first and the gate
    checked second, so that requests pass the gate in the order in which they can really be sent.

    Args:
        shared: limits this client together with others; None if it has no such limit.
    """

    def __init__(
        self,
        gate: RateGate,
        stats: Stats,
        clock: Callable[[], float] = time.monotonic,
        shared: RateLimiter | None = None,
    ) -> None:
        self._gate = gate
        self._shared = shared
        self._stats = stats
        self._clock = clock
        self._probe_returned: anyio.Event | None = None

    @property
    def interval(self) -> float:
        """Seconds between the starts of two requests by the rate limit; 0 if none is known."""
        shared: object = getattr(self._shared, "interval", 0.0)  # limiters of users need not have it
        return max(self._gate.interval, shared if isinstance(shared, int | float) else 0.0)

    async def acquire(
        self, semaphores: Sequence[anyio.Semaphore], deadline: Deadline, note_wait: NoteWait | None = None
    ) -> Permit:
        """Wait until a request may start. Starts the clock of `deadline` if it is not running yet.

        Pass `is_probe` of the permit on to `release`.

        Args:
            note_wait: called after each wait, also if it was cancelled.

        Raises:
            TransportError: the deadline ended first; nothing was sent.
        """
        while True:
            left = inf if deadline.seconds is None else deadline.start()
            if not self._acquire_nowait(semaphores):
                with MeasuredWait("concurrency", note_wait, self._clock):
                    await self._acquire(semaphores, deadline)
                left = deadline.left()
            if left <= 0:
                _release(semaphores)
                raise deadline.error("before the request was sent", sent=False)
            if self._shared is not None and self._gate.delay(self._clock()) == 0:
                try:
                    await self._wait_for_turn(self._shared, deadline, note_wait)
                except BaseException:
                    _release(semaphores)
                    raise
                left = deadline.left()
            delay = self._gate.try_start(self._clock())
            if delay == 0:
                return Permit(self._gate.half_open, left)
            _release(semaphores)
            if left < delay < inf:
                raise _too_late(deadline)
            if self._probe_returned is None:
                self._probe_returned = anyio.Event()
            reason: WaitReason = "server_delay" if self._gate.half_open else "rate_limit"
            wait = MeasuredWait(reason, note_wait, self._clock)
            try:
                with wait:
                    async with TimeLimit(min(delay, left)):
                        await self._probe_returned.wait()
            finally:
                self._stats.waited += wait.seconds

    async def _wait_for_turn(
        self, shared: RateLimiter, deadline: Deadline, note_wait: NoteWait | None
    ) -> None:
        """Wait until the shared limiter lets a request start.

        Raises:
            TransportError: the deadline ends first, or the limiter failed; nothing was sent.
        """
        wait = MeasuredWait("rate_limit", note_wait, self._clock)
        try:
            with wait:
                async with TimeLimit(deadline.left()) as limit:
                    delay = await _reserve(shared)
                    if deadline.left() < delay:
                        raise _too_late(deadline)
                    await anyio.sleep(delay)
        finally:
            self._stats.waited += wait.seconds
        if limit.passed:
            raise _too_late(deadline)

    def release(self, semaphores: Sequence[anyio.Semaphore], *, is_probe: bool, accepted: bool) -> None:
        """Note that a request has returned. `accepted` is False if it was refused with a delay, or lost."""
        _release(semaphores)
        if is_probe:
            self._gate.probe_returned(accepted=accepted)
            if self._probe_returned is not None:
                self._probe_returned.set()
                self._probe_returned = None

    def close_gate(self, seconds: float) -> bool:
        """Let no request start for `seconds`. Returns whether the gate was open."""
        if self._shared is not None:
            try:
                self._shared.pause(seconds)
            except Exception as error:  # noqa: BLE001 - code of the user; the call raises its own error
                _log.warning("pause() of the rate limiter failed with %s", type(error).__name__)
        return self._gate.close(self._clock(), seconds)

    def _acquire_nowait(self, semaphores: Sequence[anyio.Semaphore]) -> bool:
        acquired = 0
        try:
            for semaphore in semaphores:
                semaphore.acquire_nowait()
                acquired += 1
        except anyio.WouldBlock:
            _release(semaphores[:acquired])
            return False
        return True

    async def _acquire(self, semaphores: Sequence[anyio.Semaphore], deadline: Deadline) -> None:
        acquired: list[anyio.Semaphore] = []
        try:
            for semaphore in semaphores:
                try:
                    semaphore.acquire_nowait()
                except anyio.WouldBlock:
                    async with TimeLimit(deadline.left()) as limit:
                        await semaphore.acquire()
                    if limit.passed:
                        raise deadline.error("while waiting for a free slot", sent=False) from None
                acquired.append(semaphore)
        except BaseException:
            _release(acquired)
            raise


def _release(semaphores: Sequence[anyio.Semaphore]) -> None:
    for semaphore in semaphores:
        semaphore.release()


async def _reserve(shared: RateLimiter) -> float:
    try:
        delay = await shared.reserve()
        if isfinite(delay) and delay >= 0:
            return delay
        cause = f"returned {delay!r}"
    except UnpodError:
        raise
    except Exception as error:
        cause = f"failed with {type(error).__name__}"
        raise _limiter_failed(cause) from error
    raise _limiter_failed(cause)


def _limiter_failed(cause: str) -> TransportError:
    return TransportError(
        f"reserve() of the rate limiter {cause}; nothing was sent",
        hint="make reserve() return the seconds until a request may start, 0 or more",
        sent=False,
        permanent=True,
    )


def _too_late(deadline: Deadline) -> TransportError:
    return deadline.error(
        "before a request may start (rate_limit, or a delay requested by the server)", sent=False
    )
