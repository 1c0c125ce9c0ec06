"""Finding the rows that make a page fail.

One malformed stored row makes its whole page fail, for ever. The page is read again in smaller pages of the
same place, through the divisors of its size, down to the rows that fail alone.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, TypeAlias

from unpod_async._paging.commands import Fetch, PageFailure, PageRequest, PageResult

__all__ = ["Part", "Splitting", "split"]


class Part(NamedTuple):
    """A piece of a page: rows that came, or (answer None) one row that cannot be read."""

    offset: int
    size: int
    answer: PageResult | None


Splitting: TypeAlias = Generator[Fetch, PageResult | PageFailure, list[Part]]


def split(offset: int, size: int, count: int | None, failure: PageFailure) -> Splitting:
    """Read the `size` rows at `offset` in smaller pages; the parts, in order.

    `count` is the listing's length where it can be believed: places beyond it are not asked for.

    Raises:
        UnpodError: the first connection fault, time-out, 429 or other error that is not about a row; the
            page's own error when the server does not honour smaller pages.
    """
    smaller = size // _smallest_prime_factor(size)
    parts: list[Part] = []
    for place in range(offset, offset + size, smaller):
        if count is not None and place >= count:
            break
        outcome = yield Fetch(PageRequest(place // smaller + 1, smaller, single_out=True))
        if isinstance(outcome, PageResult):
            if len(outcome.keys) > smaller:
                raise failure.error
            parts.append(Part(place, smaller, outcome))
            if count is not None and outcome.count is not None:
                count = outcome.count
        elif outcome.past_end:
            break
        elif not outcome.unreadable:
            raise outcome.error
        elif smaller == 1:
            parts.append(Part(place, 1, None))
        else:
            pieces = yield from split(place, smaller, count, failure)
            for piece in pieces:
                if count is not None and piece.answer is not None and piece.answer.count is not None:
                    count = piece.answer.count
            parts += pieces
    return parts


def _smallest_prime_factor(number: int) -> int:
    """100 → 2, 25 → 5, 1 → 1 (a page of one row cannot be made smaller, only read once more)."""
    factor = 2
    while factor * factor <= number:
        if number % factor == 0:
            return factor
        factor += 1
    return number
