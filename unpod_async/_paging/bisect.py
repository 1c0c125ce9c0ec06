"""Read a page without the rows that make it fail.

One malformed stored row makes its whole page fail every time. The same positions are read again in smaller
blocks, from the first to the last. Each block that fails is read in still smaller blocks, down to single rows
that fail. Only rows show where the listing ends: the search does not stop at a count.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection
from typing import NamedTuple

from unpod_async._paging.commands import Fetch, PageFailure, PageRequest, PageResult, Steps

__all__ = ["Segment", "ServerLimitsPages", "read_around", "split_plan"]


_SMALL_PAGE = 16
"""Maximum size of a page that is searched to its end before checking whether any other page can be read."""


class Segment(NamedTuple):
    """Positions of a page that were read at once: the response, or None for one unreadable row."""

    offset: int
    size: int
    response: PageResult | None


class ServerLimitsPages(Exception):
    """The server returns fewer rows per page than requested, so the positions of the blocks are wrong."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.rows = rows


def read_around(
    offset: int,
    size: int,
    failure: PageFailure,
    check_alive: Callable[[], Steps[None]],
    *,
    is_size_known: bool,
    alive: bool,
    known: Collection[int] = (),
) -> Steps[list[Segment]]:
    """Read the `size` rows at `offset` in smaller blocks, and return the segments in order.

    Args:
        failure: how the page failed.
        check_alive: checks that other pages can be read, or raises. It is called at most once, and only while
            no block has succeeded.
        is_size_known: the effective page size is known.
        alive: other pages can be read, so `check_alive` is not needed.
        known: positions that are known to be unreadable; the blocks of a page can begin before the page.

    Raises:
        ServerLimitsPages: the server limits its pages to fewer rows than a block.
        UnpodError: the first error that no row can explain, or the error of the page if the server does not
            support smaller pages.
    """
    if size == 1:
        if not alive:
            yield from check_alive()
        return [Segment(offset, 1, None)]
    sizes = split_plan(offset, size)
    segments: list[Segment] = []
    is_small = size <= _SMALL_PAGE
    # Blocks that are still to be read, the next one last: position, and index of the block's size.
    to_read = _blocks_between(offset, offset + size, sizes, 0)
    while to_read:
        position, level = to_read.pop()
        block = sizes[level]
        if all(not position <= bad < position + block for bad in known):
            outcome = yield Fetch(PageRequest(position // block + 1, block, single_out=True))
            if isinstance(outcome, PageResult):
                alive = True
                segments.append(_segment(position, block, outcome, failure, is_size_known=is_size_known))
                if len(outcome.keys) < block and (
                    is_size_known or outcome.count is not None or not outcome.keys
                ):
                    break  # the listing ends here
                continue
            if outcome.past_end:
                break
            if not outcome.unreadable:
                raise outcome.error
            if not alive and not is_small:
                yield from check_alive()
                alive = True
        if block == 1:
            segments.append(Segment(position, 1, None))
        else:
            to_read += _blocks_between(position, position + block, sizes, level + 1)
    if not alive and segments:
        yield from check_alive()
    return segments


def _segment(
    position: int, block: int, response: PageResult, failure: PageFailure, *, is_size_known: bool
) -> Segment:
    rows, count = len(response.keys), response.count
    if rows > block:
        raise failure.error
    if 0 < rows < block and not is_size_known and count is not None and position + rows < count:
        raise ServerLimitsPages(rows)
    return Segment(position, block, response)


def _blocks_between(start: int, end: int, sizes: tuple[int, ...], level: int) -> list[tuple[int, int]]:
    """Return the blocks that cover the positions from `start` to `end`, last one first."""
    block = sizes[level]
    return [(position, level) for position in range(start // block * block, end, block)][::-1]


@functools.lru_cache(maxsize=256)
def split_plan(offset: int, size: int) -> tuple[int, ...]:
    """Return the block sizes for a page, each a divisor of the one before; the last one is 1.

    One bad row costs at most 2 * log2(size) + 2 requests. For most sizes, the divisors of the size achieve
    this. A page of 97 rows would cost 97 requests, so its blocks have another size and begin before the page.
    """
    if size == 1:
        return (1,)
    steps = _block_sizes(size)
    if _count_reads(steps) <= 2 * math.log2(size) + 2:
        return steps[1:]
    plans = [_block_sizes(first) for first in range(2, size)]
    return min(plans, key=lambda steps: _max_requests(offset, size, steps))


def _count_reads(steps: tuple[int, ...]) -> int:
    """Return the number of blocks to read, from the failing block of the first size down to one row."""
    return sum(larger // smaller for larger, smaller in itertools.pairwise(steps))


def _max_requests(offset: int, size: int, steps: tuple[int, ...]) -> int:
    """Return the maximum number of requests for one bad row."""
    blocks = -(-(offset + size) // steps[0]) - offset // steps[0]
    return blocks + _count_reads(steps)


@functools.lru_cache(maxsize=4096)
def _block_sizes(size: int) -> tuple[int, ...]:
    """Divide a size by its prime factors, one after another: 50, 25, 5, 1."""
    steps, rest, factor = [size], size, 2
    while rest > 1:
        while rest % factor == 0:
            rest //= factor
            steps.append(rest)
        factor = factor + 1 if factor * factor <= rest else rest
    return tuple(steps)
