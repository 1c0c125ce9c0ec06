"""Whether an error is that of one run, or of all there is."""

from __future__ import annotations

from unpod_async.errors import (
    APIError,
    AuthenticationError,
    DecodeError,
    IncompleteListing,
    InvalidArgument,
    TransportError,
    UnpodError,
)

__all__ = ["is_of_one_run"]


def is_of_one_run(error: UnpodError) -> bool:
    """Whether others may fare better than the run whose tasks were asked for.

    Not when the service cannot be reached, or the token is refused. That an id cannot be asked for is the
    matter of its run, and so is an answer that is too long.
    """
    if isinstance(error, TransportError):
        return error.permanent
    if isinstance(error, AuthenticationError):
        return False
    return isinstance(error, APIError | DecodeError | IncompleteListing | InvalidArgument)
