"""The words between a walk and whoever does its I/O: what it asks, and what it is told."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

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
    """Looks for a row that breaks its page: failing is an answer, not worth repeating."""


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
    """A page that did not come."""

    error: UnpodError
    unreadable: bool = False  # one row may be to blame: the page is worth splitting
    past_end: bool = False  # some servers say so of a page behind the last one


class ListingPreview(NamedTuple):
    """What an answer told of a listing before its walk: how many rows it has, and the key of the first."""

    length: int
    head: str


class Prefetch(NamedTuple):
    """Start this read; it will be taken soon. No reply."""

    read: PageRequest


class Fetch(NamedTuple):
    """Reply with the outcome of this read, asked for before or not."""

    read: PageRequest


class Discard:
    """Forget every read that was asked for and not taken. No reply."""


class Deliver(NamedTuple):
    """Hand on rows of page `number`: of each answer the rows with these indices. No reply."""

    number: int
    parts: Sequence[tuple[PageResult, Sequence[int]]]
    unreadable: Sequence[int] = ()  # places in the listing, counted from 1


Command = Prefetch | Fetch | Discard | Deliver

T = TypeVar("T")
Steps: TypeAlias = Generator[Command, PageResult | PageFailure, T]
"""Commands, each answered by what it replies with; and what comes of them."""
