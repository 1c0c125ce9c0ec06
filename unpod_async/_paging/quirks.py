"""How odd servers behave: each question is a small generator of requests that returns an enum.

The servers met so far ignore the page number, ignore the page size, send everything at once, repeat the
last page behind the end, or answer a page behind the end with an error.
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
"""Pages to request behind one that fails, where nothing else shows whether it is behind the end."""


class BehindEnd(enum.Enum):
    """What the server sends for a page far behind the end."""

    EMPTY = "no rows"
    REFUSED = "an error that names the page"
    FAILS = "an error like that of a row that cannot be read"
    REPEATS = "the last page again"
    ROWS = "other rows"
    ERROR = "an error that says nothing of the listing"


def behind_end(layout: PageLayout, last: Sequence[str] = ()) -> Steps[tuple[BehindEnd, int | None]]:
    """Request a page far behind the end; return what came, and its count.

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
    """Whether the listing answers while one of its pages fails."""

    ALIVE = "other pages answer, so it is this page that fails"
    FAILS_BEHIND_END = "other pages answer, and a page behind the end fails like this one"
    DOWN = "nothing answers"


def liveness(layout: PageLayout, page: int) -> Steps[tuple[Liveness, int | None]]:
    """Whether the listing answers apart from `page`; and its count, where the answer shows one.

    A page far behind the end has no row that could make it fail. Servers that fail there all the same are
    asked for
    the pages next to this one, and for the first row.
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
    """Whether one of the next pages has rows, where a page behind the end fails like one that cannot be
    read.
    """
    for number in range(page + 1, page + 1 + _PAGES_BEHIND):
        outcome = yield Fetch(PageRequest(number, layout.size, single_out=True))
        if isinstance(outcome, PageResult) and outcome.keys:
            return True
    return False


class Repetition(enum.Enum):
    """What it means that page 2 is page 1, while no count says how long the listing is."""

    ALL = "the page is the whole listing"
    STALL = "the server ignores the page number"
    UNCLEAR = "the rows have changed meanwhile"


def repetition(keys: Sequence[str], size: int) -> Steps[Repetition]:
    """Whether a full page that came twice is all there is.

    A server that ignores the size as well sends everything at once, which is no stall.
    """
    outcome = yield Fetch(PageRequest(2, 1) if size > 1 else PageRequest(1, 2))
    found = list(outcome.keys) if isinstance(outcome, PageResult) else []
    if len(found) > 1 if size == 1 else found == list(keys[:1]):
        return Repetition.STALL
    return Repetition.ALL if found in (list(keys), list(keys[1:2])) else Repetition.UNCLEAR


def is_everything(layout: PageLayout, head: Sequence[str], answer: PageResult | PageFailure) -> bool:
    """Whether a later page is the whole listing: the server ignores page number and size."""
    if isinstance(answer, PageFailure):
        return False
    rows = len(answer.keys)
    return rows == answer.count and rows > layout.size and not set(head).isdisjoint(answer.keys)
