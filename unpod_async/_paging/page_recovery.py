"""What one page of a walk brings: its rows as they came, or in pieces around rows that break it.

No I/O, like the walk itself.
"""

from __future__ import annotations

from unpod_async._paging.bisect import Part, split
from unpod_async._paging.commands import Fetch, PageFailure, PageRequest, PageResult, Steps
from unpod_async._paging.layout import PageLayout
from unpod_async._paging.row_tracker import RowTracker
from unpod_async._paging.scan_pass import Pass

__all__ = ["PageParts"]


class PageParts:
    """The pages of one walk, each as parts.

    Args:
        start: page with which each pass begins.
    """

    def __init__(self, cut: PageLayout, sightings: RowTracker, start: int) -> None:
        self._cut = cut
        self._sightings = sightings
        self._start = start
        self._errs_far: bool | None = None

    def of(self, now: Pass, page: int, outcome: PageResult | PageFailure) -> Steps[list[Part]]:
        """The parts of a page; raises the error of one that is not worth splitting."""
        if isinstance(outcome, PageResult):
            now.whole = self._is_whole(now, page, outcome)
            if now.whole:
                return [Part(0, len(outcome.keys), outcome)]
            self._learn_step(now, page, outcome)
            return [Part(self._cut.offset(page), self._cut.step, outcome)]
        if not outcome.unreadable:
            raise outcome.error
        count = yield from self._see_it_alive(page, outcome)
        if count is not None:
            before = now.count or 0
            now.fell = now.fell or now.falls_to(count)
            now.hear(count)
            count = max(count, before)
        if not now.believed:
            count = None
        parts = yield from split(self._cut.offset(page), self._cut.step, count, outcome)
        if parts and parts[-1].answer is None and (yield from self._fails_past_the_end(now)):
            if count is None and all(part.answer is None for part in parts):
                now.believed = False  # no row was read and no count says that there is one: the end
                return []
            now.adds_up = False  # the last places may be behind the end
        return parts

    def _is_whole(self, now: Pass, page: int, answer: PageResult) -> bool:
        """A server that ignores page and size sends all its rows on page 2 as well."""
        rows = len(answer.keys)
        whole = page > self._start and rows == answer.count and rows > self._cut.size
        return whole and not set(now.head).isdisjoint(answer.keys)

    def _learn_step(self, now: Pass, page: int, answer: PageResult) -> None:
        """Rows per page as the server cuts them, from the first page that comes whole."""
        cut, rows = self._cut, len(answer.keys)
        known, cut.is_known = cut.is_known, True
        if rows > cut.step:
            cut.step = rows
            now.believed = now.believed and not known  # the places so far were wrong
        elif not known and 0 < rows < cut.step:
            if page > self._start:
                # The pages before came in pieces; this one may repeat rows of them, and so tell its place.
                place = self._sightings.place(answer.keys[0])
                cut.step = cut.step if place is None else place // (page - 1) or rows
            elif answer.count is None or cut.offset(page) + rows != answer.count:
                cut.step = rows

    def _see_it_alive(self, page: int, failure: PageFailure) -> Steps[int | None]:
        """The listing answers elsewhere, so it is this page that fails; else its own error is raised."""
        size = self._cut.size
        elsewhere = [PageRequest(page - 1, size)] if page > 1 else []
        for read in [*elsewhere, PageRequest(page + 1, size), PageRequest(1, 1)]:
            outcome = yield Fetch(read)
            if isinstance(outcome, PageResult):
                count, rows = outcome.count, len(outcome.keys)
                return count if count is None or self._cut.offset(read.page) + rows <= count else None
        raise failure.error

    def _fails_past_the_end(self, now: Pass) -> Steps[bool]:
        """Whether this server answers a page behind the end as if a row of it could not be read."""
        if self._errs_far is None:
            far = yield Fetch(self._cut.far)
            self._errs_far = isinstance(far, PageFailure) and far.unreadable
            if isinstance(far, PageResult) and far.count is not None:
                now.fell = now.fell or now.falls_to(far.count)
        return self._errs_far
