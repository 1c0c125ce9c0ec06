"""Page geometry: the positions at which each page of a listing begins and ends."""

from __future__ import annotations

from unpod_async._paging.commands import PageRequest

__all__ = ["PageLayout"]

_FAR = 10**9
"""A position past the end of every listing."""


class PageLayout:
    """Maps pages to positions in the listing, which are counted from 0.

    Args:
        size: number of rows to request per page, at least 1. The server may return fewer or more: see
            `effective_size`.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.effective_size = size
        """Number of rows per page that the server actually returns."""
        self.is_known = False
        """A response has shown the effective page size."""

    @property
    def far(self) -> PageRequest:
        """A page far past the end: it has no rows, but shows that the listing can be read."""
        return PageRequest(_FAR // self.size, self.size, single_out=True)

    @property
    def is_honored(self) -> bool:
        """Whether the server returns as many rows per page as requested, as far as known."""
        return self.effective_size == self.size

    @property
    def ignores_size(self) -> bool:
        """Whether the server returns more rows than requested, so that smaller pages are not available."""
        return self.effective_size > self.size

    def offset(self, page: int) -> int:
        """Return the position of the first row of a page."""
        return (page - 1) * self.effective_size

    def pages_of(self, rows: int) -> int:
        """Return the number of pages for this many rows."""
        return -(-rows // self.effective_size)

    def learn(self, page: int, rows: int, count: int | None, place: int | None, *, is_first: bool) -> bool:
        """Learn the effective page size from a page that was read completely.

        Args:
            rows: number of rows of the page.
            count: length of the listing according to this response.
            place: position where the first row of the page was seen before, or None.
            is_first: the page is the first one of its pass.

        Returns:
            Whether the positions of the previous pages were correct.
        """
        was_known, self.is_known = self.is_known, True
        if rows > self.effective_size:
            self.effective_size = rows
            return is_first
        if was_known or not rows or rows == self.effective_size:
            return True
        if count is not None and self.offset(page) + rows == count:
            return True  # the last page
        if is_first:
            self.effective_size = rows
        elif place is not None and place < self.offset(page):
            # The pages before were read in blocks. This one repeats rows of them, which shows its position.
            self.effective_size = place // (page - 1) or rows
        return True

    def learn_limit(self, rows: int) -> None:
        """Note that the server returns at most `rows` rows per page, fewer than requested."""
        self.effective_size = rows
        self.is_known = True
