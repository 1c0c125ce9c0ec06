"""What a call may be given, checked."""

from __future__ import annotations

from typing import NamedTuple

from unpod_async._http.retry import RetryPolicy
from unpod_async._http.validate import check_seconds
from unpod_async.errors import ConfigurationError

__all__ = ["Options", "options_of"]


class Options(NamedTuple):
    """How requests are sent: see `UnpodClient.with_options`."""

    retry: RetryPolicy | None
    timeout: float
    deadline: float | None


def options_of(retry: object, timeout: object, deadline: object) -> Options:
    """Raises ConfigurationError where a value makes no sense."""
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise ConfigurationError(
            "retry must be a RetryPolicy, or None for a single attempt", argument="retry"
        )
    seconds = check_seconds("timeout", timeout, error=ConfigurationError)
    end = None if deadline is None else check_seconds("deadline", deadline, error=ConfigurationError)
    return Options(retry, seconds, end)
