"""Which errors are retried, when, and at what cost. No I/O, no sleeping; jitter and clock are passed in.

`RetryPolicy` holds the settings of a client. `RetrySchedule` makes the decisions of one retry loop and
`RetryBudget` limits the retries of all loops of a client.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from math import inf
from typing import Final, TypeAlias

import backoff
import msgspec

from unpod_async._http.responses import retry_after
from unpod_async._http.timeouts import Deadline
from unpod_async.errors import (
    APIError,
    ConfigurationError,
    DecodeError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnpodError,
    UpstreamError,
)

__all__ = [
    "DEFAULT_RETRY",
    "Jitter",
    "RetryBudget",
    "RetryPolicy",
    "RetrySchedule",
    "backoff_delays",
    "delay_before_retry",
    "has_unknown_outcome",
    "is_internal_error",
    "is_retryable_create",
    "is_retryable_get",
    "is_retryable_write",
    "policy_in_effect",
    "retry_after_of",
    "without_retries",
]

Jitter: TypeAlias = Callable[[float], float]
"""Turns the longest delay into the delay to use, both in seconds."""

_RETRIES_OF_UPSTREAM_ERROR: Final = 2
_RETRIES_OF_DECODE_ERROR: Final = 1

_RETRY_COST: Final = 5
_RETRY_COST_AFTER_TIMEOUT: Final = 10
_SUCCESS_DEPOSIT: Final = 1


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How failed attempts are retried. Pass retry=None instead of a policy to switch retries off.

    ==================================================  ================  ==============================
    Failure                                             reads             `tasks.create`
    ==================================================  ================  ==============================
    never sent: refused, DNS, TLS, connect timeout      retried           retried
    reset, timeout, body cut short                      retried           `OutcomeUnknown`
    429                                                 retried [1]_      retried [1]_
    408                                                 retried           raised
    5xx                                                 retried [1]_      `OutcomeUnknown`
    206 with a string in `errors`                       retried [2]_      `OutcomeUnknown`
    response that cannot be read                        retried [2]_      `OutcomeUnknown`
    401                                                 once, if a `token_provider` has another token
    206 refusal or validation, 3xx, other 4xx           raised            raised
    untrusted certificate                               raised            raised
    no TLS at an https:// address                       raised            raised
    a header over 64 KiB, more than 256 headers         raised            the response is read
    ==================================================  ================  ==============================

    .. [1] If the server asks for a delay (429, 503), no request of the client starts before it is over. A
       delay longer than `max_retry_after` raises the error at once.

    .. [2] At most twice after a 206, and once after a response that cannot be read. After that, a listing
       requests smaller pages, to isolate the bad row.

    A POST, PUT, PATCH or DELETE of `UnpodClient.request` is treated like a create, but a 429 is raised.

    Attributes:
        attempts: maximum number of attempts of one request, including the first.
        base: the first delay is random between 0 and this many seconds; the range doubles for each retry.
        cap: upper limit of that range, in seconds.
        max_retry_after: longest delay in seconds to accept from the server.
        budget: number of tokens for the retries of all calls of a client. A retry costs 5 tokens, or 10 after
            a timeout. A request that succeeds returns the tokens of its retries, or 1 if it had none. During
            an outage, this limits the load to little more than one attempt per call.

    Raises:
        ConfigurationError: a value is not accepted.
    """

    attempts: int = 4
    base: float = 0.5
    cap: float = 20
    max_retry_after: float = 60
    budget: int = 500

    def __post_init__(self) -> None:
        if not all(_is_number(seconds) for seconds in (self.base, self.cap, self.max_retry_after)):
            raise ConfigurationError("RetryPolicy: base, cap and max_retry_after must be numbers of seconds")
        if type(self.budget) is not int:
            raise ConfigurationError("RetryPolicy: budget must be an integer")
        if type(self.attempts) is not int or self.attempts < 1:
            raise ConfigurationError("RetryPolicy: attempts must be an integer of at least 1")
        if not 0 < self.base <= self.cap < inf:
            raise ConfigurationError("RetryPolicy: base and cap must satisfy 0 < base <= cap, in seconds")
        if not self.max_retry_after >= 0 or self.budget < 0:
            raise ConfigurationError("RetryPolicy: max_retry_after and budget must be at least 0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


DEFAULT_RETRY: Final = RetryPolicy()

_is_disabled = False


@contextmanager
def without_retries() -> Generator[None, None, None]:
    """Make all clients of this process behave as with retry=None during the block."""
    global _is_disabled
    was_disabled, _is_disabled = _is_disabled, True
    try:
        yield
    finally:
        _is_disabled = was_disabled


def policy_in_effect(policy: RetryPolicy | None) -> RetryPolicy | None:
    """Return the policy of a client, or None within `without_retries`."""
    return None if _is_disabled else policy


class RetryBudget:
    """Limits the retries of all calls of a client.

    A retry withdraws tokens from the budget, and a success deposits tokens. When the budget is used up,
    nothing is retried. After an outage the budget grows by one token for each success, so retries resume
    gradually.

    Attributes:
        left: what can still be withdrawn.
        is_full: whether a deposit has no effect.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.left: float = size
        self.is_full: bool = True

    def withdraw(self, *, timed_out: bool) -> int:
        """Withdraw the tokens for one retry. Returns their number, or 0 if the budget does not suffice."""
        cost = _RETRY_COST_AFTER_TIMEOUT if timed_out else _RETRY_COST
        if cost > self.left:
            return 0
        self.left -= cost
        self.is_full = False
        return cost

    def deposit(self, cost: int) -> None:
        """Deposit tokens after a success. `cost` is what its retries cost, or 0 for a first attempt."""
        self.left = min(self._size, self.left + (cost or _SUCCESS_DEPOSIT))
        self.is_full = self.left == self._size


class RetrySchedule:
    """The decisions of one retry loop: whether to try again, and after which delay.

    A loop looks like this::

        schedule = RetrySchedule.from_policy(policy, jitter=jitter, deadline=deadline)
        while True:
            try:
                return await attempt()
            except UnpodError as error:
                delay = schedule.next_delay(
                    retryable=is_retryable_get(error, schedule.failures + 1),
                    retry_after=retry_after_of(error),
                )
                if delay is None:
                    raise
            await anyio.sleep(delay)

    A loop that polls indefinitely uses `attempts=None` and calls `reset` after each success.

    Args:
        attempts: maximum number of attempts, including the first; None is no limit.
        base: longest delay before the second attempt, in seconds; it doubles for each further attempt.
        cap: upper limit of the longest delay, in seconds.
        jitter: takes the longest delay and returns the delay to use.
        max_retry_after: if the server asks for a longer delay, in seconds, the loop gives up.
        deadline: the loop gives up if a delay does not fit.
        budget: the loop gives up if the budget does not suffice.

    Attributes:
        failures: failed attempts since the start or the last `reset`.
        cost: tokens that were withdrawn from the budget. Pass this to `RetryBudget.deposit` after a success.
    """

    __slots__ = (
        "_attempts",
        "_base",
        "_budget",
        "_cap",
        "_deadline",
        "_delays",
        "_jitter",
        "_max_retry_after",
        "cost",
        "failures",
    )

    def __init__(
        self,
        *,
        attempts: int | None,
        base: float,
        cap: float,
        jitter: Jitter = backoff.full_jitter,
        max_retry_after: float = inf,
        deadline: Deadline | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        self._attempts = attempts
        self._base = base
        self._cap = cap
        self._jitter = jitter
        self._max_retry_after = max_retry_after
        self._deadline = deadline
        self._budget = budget
        self._delays: Iterator[float] | None = None
        self.failures = 0
        self.cost = 0

    @classmethod
    def from_policy(
        cls,
        policy: RetryPolicy | None,
        *,
        jitter: Jitter = backoff.full_jitter,
        deadline: Deadline | None = None,
        budget: RetryBudget | None = None,
    ) -> RetrySchedule:
        """Return a schedule with the settings of `policy`; None allows a single attempt."""
        policy = policy_in_effect(policy)
        settings = policy or DEFAULT_RETRY
        return cls(
            attempts=1 if policy is None else policy.attempts,
            base=settings.base,
            cap=settings.cap,
            jitter=jitter,
            max_retry_after=settings.max_retry_after,
            deadline=deadline,
            budget=budget,
        )

    def next_delay(
        self, *, retryable: bool = True, retry_after: float | None = None, timed_out: bool = False
    ) -> float | None:
        """Count a failed attempt and return the seconds until the next one, or None to give up.

        Args:
            retryable: False if another attempt cannot help.
            retry_after: seconds that the server asked to wait; the delay is never shorter.
            timed_out: True if the attempt timed out, which makes a retry cost more of the budget.
        """
        self.failures += 1
        if not retryable or (self._attempts is not None and self.failures >= self._attempts):
            return None
        if retry_after is not None and retry_after > self._max_retry_after:
            return None
        if self._delays is None:
            self._delays = backoff_delays(self._base, self._cap, self._jitter)
        delay = delay_before_retry(next(self._delays), retry_after, self._jitter)
        if self._deadline is not None and delay > self._deadline.left():
            return None
        if self._budget is not None:
            cost = self._budget.withdraw(timed_out=timed_out)
            if not cost:
                return None
            self.cost += cost
        return delay

    def retry_at_once(self) -> None:
        """Count a failed attempt after which the next one needs no delay, as with a renewed token."""
        self.failures += 1

    def reset(self) -> None:
        """Start again after a success: no failures, and the first delay is next."""
        self._delays = None
        self.failures = 0
        self.cost = 0


def backoff_delays(base: float, cap: float, jitter: Jitter) -> Iterator[float]:
    """Yield the delays before the second attempt, the third, and so on, in seconds."""
    longest = backoff.expo(base=2, factor=base, max_value=cap)
    next(longest)  # the generator's protocol: its first value is None
    for seconds in longest:
        yield jitter(seconds)


def delay_before_retry(delay: float, retry_after: float | None, jitter: Jitter) -> float:
    """Return the delay, extended to `retry_after` plus a random tenth if the server asked to wait."""
    if retry_after is None:
        return delay
    return max(delay, retry_after) + min(jitter(retry_after / 10), retry_after / 10)


def is_retryable_get(error: UnpodError, attempts: int) -> bool:
    """Return whether to retry a GET whose last of `attempts` attempts failed with `error`."""
    if isinstance(error, TransportError):
        return not error.permanent
    if isinstance(error, UpstreamError):
        return attempts <= _RETRIES_OF_UPSTREAM_ERROR
    if isinstance(error, DecodeError):
        return attempts <= _RETRIES_OF_DECODE_ERROR
    return isinstance(error, RateLimitedError | ServerError) or (
        isinstance(error, APIError) and error.status == 408
    )


def is_internal_error(error: UnpodError) -> bool:
    """Return whether the server answered 500, which it does for a row that it cannot encode."""
    return isinstance(error, ServerError) and error.status == 500


def is_retryable_create(error: UnpodError, attempts: int) -> bool:
    """Return whether a create may be retried: only if it was certainly not sent, or refused with a 429."""
    if isinstance(error, TransportError):
        return not error.sent and not error.permanent
    return isinstance(error, RateLimitedError)


def is_retryable_write(error: UnpodError, attempts: int) -> bool:
    """Return whether a write other than a create may be retried: only if it certainly was not sent."""
    return isinstance(error, TransportError) and not error.sent and not error.permanent


def has_unknown_outcome(error: UnpodError, *, sent: bool) -> bool:
    """Return whether a create or another write may have taken effect although it failed with `error`.

    Args:
        sent: whether an attempt may have left this machine.
    """
    if isinstance(error, TransportError):
        return error.sent or sent
    return isinstance(error, ServerError | UpstreamError | DecodeError)


def retry_after_of(error: UnpodError) -> float | None:
    """Return the seconds that the server asked to wait, with a 429 or a 503, or None."""
    if isinstance(error, RateLimitedError):
        return error.retry_after
    if isinstance(error, ServerError) and error.status == 503:
        return retry_after(error.headers)
    return None
