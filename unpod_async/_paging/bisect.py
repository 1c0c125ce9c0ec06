"""Read a page around the rows that make it fail.

One malformed stored row makes its whole page fail, for ever. The same places are read again in smaller
blocks, from the first to the last, and each block that fails in still smaller ones, down to the rows that
fail alone. Where the end of the listing is, only rows tell: no count stops the search.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

from unpod_async._paging.commands import Fetch, PageFailure, PageRequest, PageResult, Steps

__all__ = ["Segment", "ServerLimitsPages", "read_around", "split_plan"]


class Segment(NamedTuple):
    """Places of a page that were read at once: the answer, or None for one row that cannot be read."""

    offset: int
    size: int
    answer: PageResult | None


class ServerLimitsPages(Exception):
    """The server gives fewer rows per page than requested, so the blocks were not where they seemed."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows


def read_around(
    offset: int,
    size: int,
    failure: PageFailure,
    is_alive: Callable[[], Steps[None]],
    *,
    is_known: bool,
) -> Steps[list[Segment]]:
    """Read the `size` rows at `offset` in smaller blocks; return the segments, in order.

    Args:
        failure: how the page failed.
        is_alive: makes sure that the listing answers elsewhere, or raises; called once, before the first row
            is taken for a bad one while no block has succeeded.
        is_known: how the server cuts its pages is known.

    Raises:
        ServerLimitsPages: the server limits its pages to fewer rows than a block.
        UnpodError: the first error that no row can explain; the error of the page if the server does not
            honor smaller pages.
    """
    sizes = split_plan(offset, size)
    segments: list[Segment] = []
    alive = False
    # Blocks that are still to be read, the next one last: place, and index of the block's size.
    todo = _blocks(offset, offset + size, sizes, 0)
    while todo:
        place, level = todo.pop()
        block = sizes[level]
        outcome = yield Fetch(PageRequest(place // block + 1, block, single_out=True))
        if isinstance(outcome, PageResult):
            alive, rows = True, len(outcome.keys)
            if rows > block:
                raise failure.error
            if (
                0 < rows < block
                and not is_known
                and outcome.count is not None
                and place + rows < outcome.count
            ):
                raise ServerLimitsPages(rows)
            segments.append(Segment(place, block, outcome))
            if rows < block and (is_known or outcome.count is not None or not rows):
                break  # the listing ends here
        elif outcome.past_end:
            break
        elif not outcome.unreadable:
            raise outcome.error
        else:
            if not alive:
                yield from is_alive()
                alive = True
            if block == 1:
                segments.append(Segment(place, 1, None))
            else:
                todo += _blocks(place, place + block, sizes, level + 1)
    return segments


def _blocks(start: int, end: int, sizes: tuple[int, ...], level: int) -> list[tuple[int, int]]:
    """The blocks that cover the places from `start` to `end`, last one first."""
    block = sizes[level]
    return [(place, level) for place in range(start // block * block, end, block)][::-1]


@functools.lru_cache(maxsize=256)
def split_plan(offset: int, size: int) -> tuple[int, ...]:
    """Sizes of the blocks to read a page in, each a divisor of the one before, the last one 1.

    One bad row costs at most 2 * log2(size) + 2 requests. Blocks along the divisors of the size do that
    for most
    sizes; a page of 97 rows would cost 97, so its blocks have another size and begin before the page.
    """
    if size == 1:
        return (1,)
    steps = _steps(size)
    if _reads(steps) <= 2 * math.log2(size) + 2:
        return steps[1:]
    plans = [_steps(first) for first in range(2, size)]
    return min(plans, key=lambda steps: _cost(offset, size, steps))


def _reads(steps: tuple[int, ...]) -> int:
    """Blocks to read, from the failing block of the first size down to one row."""
    return sum(larger // smaller for larger, smaller in itertools.pairwise(steps))


def _cost(offset: int, size: int, steps: tuple[int, ...]) -> int:
    """Requests that one bad row costs at most."""
    blocks = -(-(offset + size) // steps[0]) - offset // steps[0]
    return blocks + _reads(steps)


@functools.lru_cache(maxsize=4096)
def _steps(size: int) -> tuple[int, ...]:
    """A size, divided by its prime factors one after another: 50, 25, 5, 1."""
    steps, rest, factor = [size], size, 2
    while rest > 1:
        while rest % factor == 0:
            rest //= factor
            steps.append(rest)
        factor = factor + 1 if factor * factor <= rest else rest
    return tuple(steps)
