"""Wait out outages: an export needs complete data, not a response within seconds.

The client's own retries come first. When they or their budget are used up, one small request, the probe,
finds out whether the service responds at all. If it does not, all requests wait, and one probe at a time is
sent until it succeeds or the deadline ends. If it does, the failure belongs to the request, which gets a few
more rounds of attempts.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn, TypeVar

import anyio
import msgspec

from unpod_async._http import (
    Deadline,
    Endpoint,
    Reader,
    Request,
    RequestExecutor,
    Response,
    RetrySchedule,
    is_internal_error,
    policy_in_effect,
    retry_after_of,
)
from unpod_async._paging import PageFailure, PageRequest, decode_raw, fetch, space_runs
from unpod_async.errors import (
    APIError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnpodError,
    UpstreamError,
)

__all__ = ["OutageRetrier", "probe_service"]

T = TypeVar("T")

_log = logging.getLogger("unpod_async")

ROUNDS = 3
"""Rounds of attempts for a request that fails while the service responds to others."""

RATE_LIMITED_ROUNDS = 10
"""Rounds if the server asks to wait: a busy service may serve others first."""

MAX_OUTAGE = 3600.0
"""Seconds after which an export without a deadline gives up."""

_FIRST_DELAY = 0.5
_MAX_DELAY = 30.0


class OutageRetrier:
    """Sends requests like `RequestExecutor`, and waits out outages and rate limits.

    Args:
        executor: The executor of the client, which has its own retries. With `retry=None`, nothing is waited
            for. The log has one warning for each outage, and those of single retries only at DEBUG.
        probe: Sends one small request, and raises its error.
        deadline: Deadline of the export.

    Attributes:
        gave_up: The error after which the export sends no more requests, or None.
        outage: Why all requests wait, and for how long at most; None if they do not.
    """

    def __init__(
        self,
        executor: RequestExecutor,
        probe: Callable[[], Awaitable[object]],
        deadline: Deadline,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor: Reader = msgspec.structs.replace(executor, retry_level=logging.DEBUG)
        self.count_page = executor.count_page
        self.count_drift = executor.count_drift
        self.redact = executor.redact
        self._policy = executor.options.retry
        self._probe = probe
        self._deadline = deadline
        self._clock = clock
        self._turn = anyio.Lock()  # held by the request that finds out whether the service responds
        self._responses = 0
        self._down_since: float | None = None
        self._is_reported = False
        self.outage: str | None = None
        self._resume_at = float("-inf")
        self.gave_up: UnpodError | None = None

    @property
    def waiting(self) -> float:
        """Seconds since the service stopped responding; 0 if it responds."""
        return 0.0 if self._down_since is None else self._clock() - self._down_since

    def deadline(self) -> Deadline:
        return self._deadline

    async def read(
        self,
        endpoint: Endpoint,
        query: Mapping[str, str],
        parse: Callable[[Request, Response], T],
        deadline: Deadline,
        *,
        single_out: bool = False,
        can_split: bool = False,
    ) -> T:
        """Send a GET; see `RequestExecutor.read`.

        Raises:
            UnpodError: waiting does not help. It is `gave_up` if the export sends no more requests.
        """
        schedule: RetrySchedule | None = None
        began = self._clock()
        while True:
            if self._down_since is not None:
                async with self._turn:  # another request finds out whether the service is back
                    pass
            responses = self._responses
            try:
                result = await self._executor.read(
                    endpoint, query, parse, deadline, single_out=single_out, can_split=can_split
                )
            except UnpodError as error:
                if policy_in_effect(self._policy) is None or not is_transient(error):
                    self._note_response()
                    raise
                failure = error
            else:
                self._note_response()
                return result
            if await self._was_outage(failure, responses):
                continue
            schedule = schedule or RetrySchedule(attempts=None, base=_FIRST_DELAY, cap=_MAX_DELAY)
            has_rounds = schedule.failures + 1 < _max_rounds(
                failure, single_out=single_out, can_split=can_split
            )
            delay = schedule.next_delay(retryable=has_rounds and self._clock() - began <= MAX_OUTAGE)
            if delay is None:
                raise failure
            if not is_rate_limited(failure):  # else it has waited already
                await self._sleep(delay, failure)

    def _note_response(self) -> None:
        self._responses += 1
        if self._down_since is None:
            return
        if self._is_reported:
            _log.warning("the service responds again after %.0f s", self.waiting)
        self._down_since = self.outage = None
        self._is_reported = False

    async def _was_outage(self, error: UnpodError, responses: int) -> bool:
        """Wait until another attempt makes sense. Returns True if the service did not respond at all."""
        if is_rate_limited(error):
            # Noted before the lock is taken, so that all rate-limited requests wait at the same time.
            self._resume_at = max(self._resume_at, self._clock() + (retry_after_of(error) or _FIRST_DELAY))
        async with self._turn:
            left = self._resume_at - self._clock()
            if left > 0:
                await self._wait_while_down(left, error)
            if self._deadline.left() <= 0:
                self._give_up(error)
            return self._responses == responses and await self._wait_for_service(error)

    async def _wait_for_service(self, error: UnpodError) -> bool:
        """Probe until the service responds. Returns False if the first probe succeeds."""
        schedule = RetrySchedule(
            attempts=None, base=_FIRST_DELAY, cap=_MAX_DELAY, jitter=_equal_jitter, deadline=self._deadline
        )
        while True:
            try:
                await self._probe()
            except UnpodError as probe_error:
                if not is_transient(probe_error):
                    raise
                error = probe_error
            else:
                self._note_response()
                return schedule.failures > 0
            delay = schedule.next_delay(retry_after=retry_after_of(error))
            if delay is None:
                self._give_up(error)
            await self._wait_while_down(delay, error, report=True)

    async def _wait_while_down(self, seconds: float, error: UnpodError, *, report: bool = False) -> None:
        """Sleep while all other requests wait too.

        Args:
            report: log a warning, unless this outage has one. A rate limit has its own.
        """
        if self._down_since is None:
            self._down_since = self._clock()
            left = self._deadline.left()
            longest = _duration(MAX_OUTAGE if left == float("inf") else left)
            self.outage = f"{_cause(error)}; retrying for up to {longest}"
        if report and not self._is_reported:
            self._is_reported = True
            _log.warning("%s", self.outage)
        if self._deadline.left() == float("inf") and self.waiting + seconds > MAX_OUTAGE:
            self._give_up(error)
        await self._sleep(seconds, error)

    async def _sleep(self, seconds: float, error: UnpodError) -> None:
        if seconds > self._deadline.left():
            self._give_up(error)
        await anyio.sleep(seconds)

    def _give_up(self, error: UnpodError) -> NoReturn:
        self.gave_up = error
        raise error


def _cause(error: UnpodError) -> str:
    """Return in a few words why a request failed, without its method and path."""
    if isinstance(error, UpstreamError):
        return f"a service behind the server fails ({error.status})"
    if isinstance(error, APIError):
        return f"the service answers {error.status}"
    message = str(error.args[0])
    return (message.partition(": ")[2] or message).removesuffix("; nothing was sent")


def _duration(seconds: float) -> str:
    return f"{math.ceil(seconds)} s" if seconds < 100 else f"{math.ceil(seconds / 60)} min"


def _equal_jitter(longest: float) -> float:
    """Return a delay between half of `longest` and `longest`, so that probes are not sent too often."""
    return random.uniform(longest / 2, longest)  # noqa: S311 - no secret


async def probe_service(executor: RequestExecutor, space_token: str, deadline: Deadline) -> None:
    """Send one request that no unreadable row can break, without retries. Raises its error."""
    once = executor.with_options(executor.options._replace(retry=None), None)
    failure: object = None
    for read in (PageRequest(1, 1), PageRequest(10**9, 1)):
        failure = await fetch(once, space_runs(space_token), read, deadline, decode=decode_raw)
        if not isinstance(failure, PageFailure) or not failure.unreadable:
            break
    if isinstance(failure, PageFailure) and (is_transient(failure.error) or not failure.past_end):
        raise failure.error


def _max_rounds(error: UnpodError, *, single_out: bool, can_split: bool) -> int:
    if is_rate_limited(error):
        return RATE_LIMITED_ROUNDS
    # The cause may be one bad row, which the walk finds.
    if isinstance(error, UpstreamError) or (single_out and not isinstance(error, TransportError)):
        return 1
    if can_split and is_internal_error(error):
        return 1
    return ROUNDS


def is_rate_limited(error: UnpodError) -> bool:
    """Return whether the server asks to wait."""
    return isinstance(error, RateLimitedError) or retry_after_of(error) is not None


def is_transient(error: UnpodError) -> bool:
    """Return whether the service, or the connection to it, may be down or busy."""
    if isinstance(error, TransportError):
        return not error.permanent
    return isinstance(error, RateLimitedError | ServerError | UpstreamError) or (
        isinstance(error, APIError) and error.status == 408
    )
