"""Detect the behaviour of odd servers. Each check is a generator of requests that returns an enum.

Known odd servers ignore the page number, ignore the page size, send everything at once, repeat the last page
past the end, or answer a page past the end with an error.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from unpod_async._paging.commands import Fetch, PageFailure, PageRequest, PageResult, Steps
from unpod_async._paging.layout import PageLayout

__all__ = [
    "BehindEnd",
    "Liveness",
    "Repetition",
    "behind_end",
    "has_rows_behind",
    "is_everything",
    "liveness",
    "repetition",
]


_PAGES_BEHIND = 3
"""Number of pages to request after a failing one, if nothing else shows whether that is past the end."""


class BehindEnd(enum.Enum):
    """What the server sends for a page far past the end."""

    EMPTY = "no rows"
    REFUSED = "an error that names the page"
    FAILS = "an error like that of a row that cannot be read"
    REPEATS = "the last page again"
    ROWS = "other rows"
    ERROR = "an error that says nothing about the listing"


def behind_end(layout: PageLayout, last: Sequence[str] = ()) -> Steps[tuple[BehindEnd, int | None]]:
    """Request a page far past the end. Returns the kind of response, and its count.

    Args:
        last: keys of the last page, if there is one.
    """
    outcome = yield Fetch(layout.far)
    if isinstance(outcome, PageResult):
        keys = list(outcome.keys)
        if not keys:
            return BehindEnd.EMPTY, outcome.count
        return (BehindEnd.REPEATS if keys == list(last) else BehindEnd.ROWS), outcome.count
    if outcome.past_end:
        return BehindEnd.REFUSED, None
    return (BehindEnd.FAILS if outcome.unreadable else BehindEnd.ERROR), None


class Liveness(enum.Enum):
    """Whether other pages can be read while one page fails."""

    ALIVE = "other pages can be read, so only this page fails"
    FAILS_BEHIND_END = "other pages can be read, and a page past the end fails like this one"
    DOWN = "no page can be read"


def liveness(layout: PageLayout, page: int) -> Steps[tuple[Liveness, int | None]]:
    """Return whether pages other than `page` can be read, and the count of the listing if known.

    A page far past the end has no row that could make it fail. If the server fails there too, the pages next
    to this one and the first row are requested.
    """
    behind, count = yield from behind_end(layout)
    if behind not in (BehindEnd.FAILS, BehindEnd.ERROR):
        return Liveness.ALIVE, count
    size = layout.size
    before = [PageRequest(page - 1, size)] if page > 1 else []
    for request in [*before, PageRequest(page + 1, size), PageRequest(1, 1)]:
        outcome = yield Fetch(request)
        if isinstance(outcome, PageResult):
            fails = behind is BehindEnd.FAILS
            return (Liveness.FAILS_BEHIND_END if fails else Liveness.ALIVE), outcome.count
    return Liveness.DOWN, None


def has_rows_behind(layout: PageLayout, page: int) -> Steps[bool]:
    """Return whether one of the next pages or rows can be read, if a page past the end fails.

    One unreadable row makes a page fail, so the next rows are also requested one by one.
    """
    pages = [PageRequest(number, layout.size, single_out=True) for number in _next(page)]
    is_divisible = layout.is_honored and layout.size > 1
    last = page * layout.size
    rows = [PageRequest(number, 1, single_out=True) for number in _next(last)] if is_divisible else []
    for request in [*pages, *rows]:
        outcome = yield Fetch(request)
        if isinstance(outcome, PageResult) and outcome.keys:
            return True
    return False


def _next(page: int) -> range:
    return range(page + 1, page + 1 + _PAGES_BEHIND)


class Repetition(enum.Enum):
    """What it means that page 2 equals page 1, if there is no count."""

    ALL = "the page is the whole listing"
    STALL = "the server ignores the page number"
    UNCLEAR = "the rows have changed since"


def repetition(keys: Sequence[str], size: int) -> Steps[Repetition]:
    """Return whether a full page that was returned twice is the whole listing.

    A server that ignores the page size too sends everything at once, which is not a stall.
    """
    outcome = yield Fetch(PageRequest(2, 1) if size > 1 else PageRequest(1, 2))
    found = list(outcome.keys) if isinstance(outcome, PageResult) else []
    if len(found) > 1 if size == 1 else found == list(keys[:1]):
        return Repetition.STALL
    return Repetition.ALL if found in (list(keys), list(keys[1:2])) else Repetition.UNCLEAR


def is_everything(layout: PageLayout, head: Sequence[str], answer: PageResult | PageFailure) -> bool:
    """Return whether a later page is the whole listing: the server ignores page number and page size."""
    if isinstance(answer, PageFailure):
        return False
    rows = len(answer.keys)
    return rows == answer.count and rows > layout.size and not set(head).isdisjoint(answer.keys)
