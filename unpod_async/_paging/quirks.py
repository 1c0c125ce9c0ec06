"""Detect servers that do not follow the documented paging.

Such servers ignore the page number, ignore the page size, send everything at once, repeat the last page
past the end, or answer a page past the end with an error. Each check is a generator of requests that returns
an enum.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from unpod_async._paging.commands import Fetch, PageFailure, PageRequest, PageResult, Steps
from unpod_async._paging.evidence import PageLayout

__all__ = [
    "Liveness",
    "PastEnd",
    "Repetition",
    "check_liveness",
    "classify_repetition",
    "has_rows_after",
    "is_complete_later_response",
    "request_past_end",
]


_PAGES_AFTER = 3
"""Number of pages to request after a failing one, if nothing else shows whether that is past the end."""


class PastEnd(enum.Enum):
    """The response of the server to a request for a page far past the end."""

    EMPTY = "no rows"
    REFUSED = "an error that names the page"
    FAILS = "an error like that of a row that cannot be read"
    REPEATS = "the last page again"
    ROWS = "other rows"
    ERROR = "an error that says nothing about the listing"


def request_past_end(layout: PageLayout, last: Sequence[str] = ()) -> Steps[tuple[PastEnd, int | None]]:
    """Request a page far past the end. Returns the kind of response, and its count.

    Args:
        last: keys of the last page, if there is one.
    """
    outcome = yield Fetch(layout.far_page)
    if isinstance(outcome, PageResult):
        keys = list(outcome.keys)
        if not keys:
            return PastEnd.EMPTY, outcome.count
        return (PastEnd.REPEATS if keys == list(last) else PastEnd.ROWS), outcome.count
    if outcome.past_end:
        return PastEnd.REFUSED, None
    return (PastEnd.FAILS if outcome.unreadable else PastEnd.ERROR), None


class Liveness(enum.Enum):
    """Whether other pages can be read while one page fails."""

    ALIVE = "other pages can be read, so only this page fails"
    FAILS_PAST_END = "other pages can be read, and a page past the end fails like this one"
    DOWN = "no page can be read"


def check_liveness(layout: PageLayout, page: int) -> Steps[tuple[Liveness, int | None]]:
    """Return whether pages other than `page` can be read, and the count of the listing if known.

    A page far past the end has no row that could make it fail. If the server fails there too, the pages next
    to this one and the first row are requested.
    """
    past_end, count = yield from request_past_end(layout)
    if past_end not in (PastEnd.FAILS, PastEnd.ERROR):
        return Liveness.ALIVE, count
    size = layout.size
    before = [PageRequest(page - 1, size)] if page > 1 else []
    for request in [*before, PageRequest(page + 1, size), PageRequest(1, 1)]:
        outcome = yield Fetch(request)
        if isinstance(outcome, PageResult):
            fails = past_end is PastEnd.FAILS
            return (Liveness.FAILS_PAST_END if fails else Liveness.ALIVE), outcome.count
    return Liveness.DOWN, None


def has_rows_after(layout: PageLayout, page: int) -> Steps[bool]:
    """Return whether one of the next pages or rows can be read, if a page past the end fails.

    One unreadable row makes a page fail, so the next rows are also requested one by one.
    """
    pages = [PageRequest(number, layout.size, single_out=True) for number in _next_numbers(page)]
    is_divisible = layout.is_honored and layout.size > 1
    last = page * layout.size
    rows = [PageRequest(number, 1, single_out=True) for number in _next_numbers(last)] if is_divisible else []
    for request in [*pages, *rows]:
        outcome = yield Fetch(request)
        if isinstance(outcome, PageResult) and outcome.keys:
            return True
    return False


def _next_numbers(page: int) -> range:
    return range(page + 1, page + 1 + _PAGES_AFTER)


class Repetition(enum.Enum):
    """The reason why page 2 equals page 1, if there is no count."""

    ALL = "the page is the whole listing"
    STALL = "the server ignores the page number"
    UNCLEAR = "the rows have changed since"


def classify_repetition(keys: Sequence[str], size: int) -> Steps[Repetition]:
    """Return whether a full page that was returned twice is the whole listing.

    A server that ignores the page size too sends everything at once, which is not a stall.
    """
    outcome = yield Fetch(PageRequest(2, 1) if size > 1 else PageRequest(1, 2))
    found = list(outcome.keys) if isinstance(outcome, PageResult) else []
    if len(found) > 1 if size == 1 else found == list(keys[:1]):
        return Repetition.STALL
    return Repetition.ALL if found in (list(keys), list(keys[1:2])) else Repetition.UNCLEAR


def is_complete_later_response(
    layout: PageLayout, head: Sequence[str], response: PageResult | PageFailure
) -> bool:
    """Return whether a later page is the whole listing: the server ignores page number and page size."""
    if isinstance(response, PageFailure):
        return False
    rows = len(response.keys)
    return rows == response.count and rows > layout.size and not set(head).isdisjoint(response.keys)
