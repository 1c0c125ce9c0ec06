"""Page geometry: at which places of a listing each page begins and ends, as the server cuts its pages."""

from __future__ import annotations

from unpod_async._paging.commands import PageRequest

__all__ = ["PageLayout"]

_FAR = 10**9
"""A place behind the end of every listing."""


class PageLayout:
    """Places of a listing, counted from 0, by page.

    Args:
        size: rows to ask for per page, >= 1. A server may give fewer or more: see `effective_size`.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.effective_size = size
        """Rows per page as the server cuts its pages."""
        self.is_known = False
        """An answer has shown how the server cuts its pages."""

    @property
    def far(self) -> PageRequest:
        """A page far behind the end: it has no rows, but shows that the listing answers."""
        return PageRequest(_FAR // self.size, self.size, single_out=True)

    @property
    def is_honored(self) -> bool:
        """Whether the server gives as many rows per page as requested, as far as is known."""
        return self.effective_size == self.size

    @property
    def ignores_size(self) -> bool:
        """Whether the server gives more rows than requested: it cannot be asked for smaller pages."""
        return self.effective_size > self.size

    def offset(self, page: int) -> int:
        """The place of the first row of a page."""
        return (page - 1) * self.effective_size

    def pages_of(self, rows: int) -> int:
        """Pages that hold so many rows."""
        return -(-rows // self.effective_size)

    def learn(self, page: int, rows: int, count: int | None, place: int | None, *, is_first: bool) -> bool:
        """Learn the size of pages from a page that came whole.

        Args:
            rows: rows of the page.
            count: length of the listing, as this answer counts it.
            place: where the first row of the page was seen before, or None.
            is_first: the page is the first one of its pass.

        Returns:
            Whether the places of the pages before were right.
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
            # The pages before came in pieces; this one repeats rows of them, and so shows its place.
            self.effective_size = place // (page - 1) or rows
        return True

    def learn_limit(self, rows: int) -> None:
        """The server gives at most `rows` rows per page, fewer than requested."""
        self.effective_size = rows
        self.is_known = True
