"""The rows of runs that a poll reads: the newest ones, and those of unsettled runs further back."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from unpod_async._watch.known import KnownRun
from unpod_async._watch.source import SpaceSource
from unpod_async.errors import IncompleteListing
from unpod_async.models import Run

__all__ = ["RunRows"]

_log = logging.getLogger("unpod_async")

_READINGS = 4
"""Readings of the newest runs before it is left to the next resync whether something slipped by."""


class RunRows:
    """Reads rows of runs, poll by poll.

    Attributes:
        met: the runs that were met in this poll.
    """

    def __init__(self, questions: SpaceSource) -> None:
        self.met: set[str] = set()
        self._questions = questions
        self._known = questions.known
        self._count: int | None = None
        self._step = questions.page_size  # rows per page, as the server cuts them

    async def read_head(self) -> bool:
        """Read the newest runs until one is met that is known; whether none can have slipped by."""
        self.met.clear()
        doubted: set[str] | None = None
        for _ in range(_READINGS):
            try:
                missing = await self._read_new_runs()
            except IncompleteListing as error:
                _log.warning("the newest runs of a space were not read to their end: %s", error)
                break
            if missing is None:
                continue
            self._known.unverified.clear()
            if missing and doubted is None:
                # One answer that lacks some is not enough to tell of them that they are gone.
                doubted = missing
                continue
            await self._questions.tell_gone_runs(missing & (doubted or set()))
            return True
        return False

    async def _read_new_runs(self) -> set[str] | None:
        """Read the runs until one is met that is known, with all behind it; None: one may have slipped by.

        Where that was all there is: the runs that were known, and were not met.
        """
        walk = self._questions.runs()
        before: int | None = 0
        place, steady, readable = 0, True, True
        there, self.met = set(self._known.runs), set()
        linked = there - self._known.unverified
        while (page := await walk.next_page()) is not None:
            # Where the count falls, a run behind this page may have come before it.
            steady = steady and before is not None and page.count is not None and page.count >= before
            readable = readable and not (page.rejected or page.unreadable)
            before = self._count = page.count
            rows = len(page.items) + len(page.rejected) + len(page.unreadable)
            is_first = page.number == 1
            is_all = readable and is_first and page.count == len(page.items) < self._questions.page_size
            if is_first and rows and page.count is not None and rows < page.count:
                self._step = rows
            is_met = any(row.run_id in linked for row in page.items)
            await self._questions.tell_runs(page.items)
            for number, row in enumerate(page.items, place + 1):
                self._note(row, None if page.count is None else page.count - number)
            place += rows
            if self._questions.chosen is not None or (is_met and not is_all):
                return set() if steady or is_first else None
        return there - self.met if readable else set()

    def _note(self, row: Run, depth: int | None) -> None:
        if row.run_id is not None:
            self.met.add(row.run_id)
            run = self._known.runs.get(row.run_id)
            if run is not None:
                run.depth = depth

    async def read_behind(self, runs: Mapping[str, KnownRun]) -> None:
        """Read the rows of these runs, where they were not met yet, by the page they should be on."""
        count = self._count
        pages: dict[int, set[str]] = {}
        for name, run in runs.items():
            if name not in self.met and run.depth is not None and count is not None:
                page = max(1, -(-(count - run.depth) // self._step))
                pages.setdefault(page, set()).add(name)
        for number in sorted(pages):
            # A page further on, too: that is where they are, when older runs have gone.
            for further in (number, number + 1):
                if pages[number] <= self.met:
                    break
                await self._read_page(further)

    async def _read_page(self, number: int) -> None:
        rows, count = await self._questions.page_of_runs(number)
        await self._questions.tell_runs(rows)
        for place, row in enumerate(rows, (number - 1) * self._step + 1):
            self._note(row, None if count is None else count - place)
