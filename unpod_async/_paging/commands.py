"""The commands of a walk to its driver, which does the I/O, and the results that the driver sends back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from unpod_async._http import is_internal_error
from unpod_async.errors import UnpodError

__all__ = [
    "Command",
    "Deliver",
    "Discard",
    "Fetch",
    "ListingPreview",
    "PageFailure",
    "PageRequest",
    "PageResult",
    "Prefetch",
    "Steps",
]


class PageRequest(NamedTuple):
    """One page of the listing, as the server numbers it."""

    page: int
    size: int
    single_out: bool = False
    """The request looks for a row that breaks its page: a failure is a useful result and is not retried."""

    patient: bool = False
    """Retry a 500 like a 502. By default the walk splits the page instead, because one row may be the
    cause."""


class PageResult(msgspec.Struct, frozen=True):
    """A page that was received.

    Attributes:
        keys: the key of each row, in the server's order.
        count: size of the whole listing according to this response, or None if the server does not say.
        created: creation time of each row; only for listings with tied rows.
        body_size: size of the response body in bytes; 0 if unknown.
    """

    keys: Sequence[str]
    count: int | None
    created: Sequence[datetime | None] = ()
    body_size: int = 0

    def __repr__(self) -> str:
        # Tracebacks with local variables must not show rows, which contain user tokens.
        return f"{type(self).__name__}({len(self.keys)} rows)"


class PageFailure(NamedTuple):
    """A page that failed.

    Attributes:
        unreadable: one row may be the cause, so smaller pages of the same rows may succeed.
        past_end: the page may be past the end of the listing; some servers send this error there.
    """

    error: UnpodError
    unreadable: bool = False
    past_end: bool = False

    @property
    def is_internal_error(self) -> bool:
        """Whether the server answered 500, as it does for a row that it cannot encode."""
        return is_internal_error(self.error)


class ListingPreview(NamedTuple):
    """The length of a listing and the key of its first row, from a response before the walk."""

    length: int
    head: str


class Prefetch(NamedTuple):
    """Start this request; a `Fetch` follows soon. No reply."""

    request: PageRequest


class Fetch(NamedTuple):
    """Reply with the result of this request, prefetched or not."""

    request: PageRequest
    are_known: Callable[[Sequence[str]], bool] | None = None
    """Returns whether the rows with these keys are known. Then no row of the response will be delivered: only
    its keys and its count are needed."""


class Discard:
    """Cancel all prefetched requests that were not fetched. No reply."""


class Deliver(NamedTuple):
    """Deliver rows of page `number`: for each result, the rows at these indices. No reply."""

    number: int
    parts: Sequence[tuple[PageResult, Sequence[int]]]
    unreadable: Sequence[int] = ()  # positions in the listing, counted from 1


Command = Prefetch | Fetch | Discard | Deliver

T = TypeVar("T")
Steps: TypeAlias = Generator[Command, PageResult | PageFailure, T]
"""A generator of commands. The driver sends the reply of each one back in."""
