"""Where the pages of a listing begin and end, as the server cuts them."""

from __future__ import annotations

from unpod_async._paging.commands import PageRequest

__all__ = ["PageLayout"]

_FAR = 10**9
"""A place that is past the end of every listing."""


class PageLayout:
    """Places of a listing, counted from 0, by page.

    Args:
        size: rows per page that are asked for. A server may cut its pages otherwise: `step`.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.step = size
        self.is_known = False
        """The server has shown how it cuts."""
        self.far = PageRequest(_FAR // size, size, single_out=True)

    def offset(self, page: int) -> int:
        return (page - 1) * self.step

    def pages_of(self, rows: int) -> int:
        return -(-rows // self.step)
