"""What a call may be given, checked."""

from __future__ import annotations

import sys
from typing import NamedTuple

from unpod_async._http.retry import RetryPolicy
from unpod_async.errors import ConfigurationError

__all__ = ["Options", "not_negative_option", "options_of", "positive_option", "whole_option"]


class Options(NamedTuple):
    """How requests are sent: see `UnpodClient.with_options`."""

    retry: RetryPolicy | None
    timeout: float
    deadline: float | None


def options_of(retry: object, timeout: object, deadline: object) -> Options:
    """Raises ConfigurationError where a value makes no sense."""
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise ConfigurationError("retry must be a RetryPolicy, or None to send everything once")
    ends = None if deadline is None else positive_option("deadline", deadline)
    return Options(retry, positive_option("timeout", timeout), ends)


def positive_option(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise ConfigurationError(f"{name} must be a number greater than 0")
    return float(value)


def not_negative_option(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ConfigurationError(f"{name} must be a number, 0 or greater")
    return float(value)


def whole_option(name: str, value: object) -> int:
    if type(value) is not int or not 1 <= value < 2**31:
        raise ConfigurationError(f"{name} must be a whole number from 1 to {2**31 - 1}")
    return value
