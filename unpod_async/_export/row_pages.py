"""The pages of a listing with what an export wants of their rows: one after the other, or asked for ahead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from unpod_async._export.rows import Row
from unpod_async._http import Deadline, Reader
from unpod_async._paging import (
    Collector,
    Decode,
    Listing,
    Page,
    PrefetchedPages,
    SequentialWalk,
    Walk,
    prefetch_pages,
)

__all__ = ["RowPages"]


class RowPages(NamedTuple):
    """Pages whose items are `Row`s; what could not be read is told with its page."""

    reader: Reader
    listing: Listing[Any]
    page_size: int
    deadline: Deadline
    decode: Decode

    def one_by_one(self) -> SequentialWalk[Row]:
        return SequentialWalk(
            self.reader,
            self.listing,
            page_size=self.page_size,
            on_bad_row="skip",
            decode=self.decode,
            deadline=self.deadline,
        )

    async def ahead(
        self,
        machine: Walk,
        put: Callable[[Page[Any]], Awaitable[object]],
        started: PrefetchedPages | None = None,
    ) -> None:
        """Hand on all pages, as `prefetch_pages` does; raises what the walk or `put` raises."""
        await prefetch_pages(
            self.reader,
            self.listing,
            machine,
            Collector(self.listing, page_size=self.page_size, on_bad_row="skip", stats=self.reader.stats),
            put,
            self.deadline,
            self.decode,
            started,
        )
