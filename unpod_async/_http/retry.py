"""Whether an attempt is repeated, and after how long. Plain functions: no clock, no I/O, no sleeping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import backoff
import msgspec

from unpod_async._http.responses import retry_after
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
    "RetryPolicy",
    "backoff_delays",
    "is_retryable_create",
    "is_retryable_get",
    "retry_after_of",
    "wait_for",
]

Jitter: TypeAlias = Callable[[float], float]
"""Turns a longest wait into a wait, both in seconds."""

_REPEATS_OF_UPSTREAM = 2
_REPEATS_OF_UNREADABLE = 1


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How failed attempts are repeated; retry=None instead of a policy switches repeating off.

    ==================================================  ================  ==============================
    What happened                                       reads             `tasks.create`
    ==================================================  ================  ==============================
    never left: refused, DNS, TLS, connect time-out     repeated          repeated
    reset, time-out, body cut short                     repeated          `OutcomeUnknown`
    429                                                 repeated [1]_     repeated [1]_
    408                                                 repeated          raised
    5xx                                                 repeated [1]_     `OutcomeUnknown`
    206 with a string in `errors`                       twice, then split `OutcomeUnknown`
    an answer that cannot be read                       once, then split  `OutcomeUnknown`
    401                                                 once, if a `token_provider` has another token
    206 refusal or validation, 3xx, other 4xx           raised            raised
    a certificate that is not trusted                   raised            raised
    ==================================================  ================  ==============================

    .. [1] Not before the time it asks for (429, 503), in which no request of the client starts; at once an
       error when that is longer than `max_retry_after`.

    Attributes:
        attempts: sends of one request at most, the first included.
        base: the first wait is drawn from 0 to this many seconds; each further one from twice as much.
        cap: no drawn wait is longer, in seconds.
        max_retry_after: a server that asks for a longer wait, in seconds, is not waited for.
        budget: what all calls of a client may spend on repeats: 5 each, 10 after a time-out, given back by
            success. An outage so costs little more than one request per call.

    Raises:
        ConfigurationError: a value makes no sense.
    """

    attempts: int = 4
    base: float = 0.5
    cap: float = 20
    max_retry_after: float = 60
    budget: int = 500

    def __post_init__(self) -> None:
        if not all(_is_number(time) for time in (self.base, self.cap, self.max_retry_after)):
            raise ConfigurationError("RetryPolicy: base, cap and max_retry_after are numbers of seconds")
        if type(self.budget) is not int:
            raise ConfigurationError("RetryPolicy: budget must be a whole number")
        if type(self.attempts) is not int or self.attempts < 1:
            raise ConfigurationError("RetryPolicy: attempts must be a whole number, 1 or more")
        if not 0 < self.base <= self.cap < float("inf"):
            raise ConfigurationError("RetryPolicy: 0 < base <= cap, in seconds")
        if not self.max_retry_after >= 0 or self.budget < 0:
            raise ConfigurationError("RetryPolicy: max_retry_after and budget must be 0 or more")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


DEFAULT_RETRY = RetryPolicy()


def is_retryable_get(error: UnpodError, made: int) -> bool:
    """Whether a GET that failed like this after `made` sends may be sent once more, policy apart."""
    if isinstance(error, TransportError):
        return not error.permanent
    if isinstance(error, UpstreamError):
        return made <= _REPEATS_OF_UPSTREAM
    if isinstance(error, DecodeError):
        return made <= _REPEATS_OF_UNREADABLE
    return isinstance(error, RateLimitedError | ServerError) or (
        isinstance(error, APIError) and error.status == 408
    )


def is_retryable_create(error: UnpodError, made: int) -> bool:
    """Whether a create may be sent again: only when it certainly never left, or was turned away by a 429."""
    if isinstance(error, TransportError):
        return not error.sent and not error.permanent
    return isinstance(error, RateLimitedError)


def retry_after_of(error: UnpodError) -> float | None:
    """Seconds the server asked to wait: with a 429, and with a 503 that says so."""
    if isinstance(error, RateLimitedError):
        return error.retry_after
    if isinstance(error, ServerError) and error.status == 503:
        return retry_after(error.headers)
    return None


def backoff_delays(policy: RetryPolicy, jitter: Jitter) -> Iterator[float]:
    """The drawn waits before the second send, the third, and so on."""
    longest = backoff.expo(base=2, factor=policy.base, max_value=policy.cap)
    next(longest)  # by protocol the first value is none
    for seconds in longest:
        yield jitter(seconds)


def wait_for(drawn: float, hint: float | None, jitter: Jitter) -> float:
    """The wait before the next send: never shorter than asked, and spread by up to a tenth on top."""
    if hint is None:
        return drawn
    return max(drawn, hint) + min(jitter(hint / 10), hint / 10)
