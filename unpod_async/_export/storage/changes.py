"""What one checkpoint notes, beside the rows in the spool."""

from __future__ import annotations

from typing import NamedTuple

from unpod_async._export.storage.spool import Extent

__all__ = ["Changes", "Progress"]


class Progress(NamedTuple):
    """How far the walk over a space-wide listing has come; all up to this page is staged.

    Attributes:
        page, page_size: the page read last.
        head: key of the first row of the listing.
        length: rows of the listing, the same in each answer so far.
        at: unix seconds.
    """

    page: int
    page_size: int
    head: str
    length: int
    at: float


class Changes:
    """See above."""

    def __init__(self) -> None:
        self.extents: list[tuple[int, Extent]] = []
        self.open: dict[int, int] = {}
        self.bad: list[tuple[int, int | None, int | None, str]] = []
        self.recordings: list[tuple[str, int, str]] = []
        self.staged: list[tuple[int, float]] = []
        self.failed: list[tuple[int, str]] = []
        self.scans: dict[int, Progress] = {}

    def __bool__(self) -> bool:
        return bool(self.extents or self.bad or self.staged or self.failed or self.scans)
