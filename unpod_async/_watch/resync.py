"""A resync: everything in a space read again, some pages at a time, for what a poll does not look at."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TypeVar

from unpod_async._paging import Page, SequentialWalk
from unpod_async._watch.diff import task_name
from unpod_async._watch.source import SpaceSource
from unpod_async.errors import IncompleteListing
from unpod_async.models import Run, Task

__all__ = ["Resync"]

T = TypeVar("T")

_log = logging.getLogger("unpod_async")


class Resync:
    """One resync: the listing of runs, then that of the tasks of the space.

    Runs and tasks that enter meanwhile are the polls' to tell. Runs that were not met are looked for a second
    time before they are gone. A settled run of which some tasks were not met is suspected only: the poll
    reads its tasks by themselves, and that decides.

    Args:
        tasks: read the tasks, too.
    """

    def __init__(self, questions: SpaceSource, *, tasks: bool) -> None:
        self.began = questions.clock.utc_now().timestamp()
        self.whole = True
        """Whether nothing can have slipped by."""
        self.readable = True
        """Whether all rows could be used."""
        self.pages = 1
        """Pages that the listing being read has, as far as is known."""
        self.suspects: set[str] = set()
        """Settled runs whose tasks are to be read by themselves, at the end."""
        self.doubtful: set[str] = set()
        """Runs that were not met, and may be rows that cannot be read, at the end."""
        self._questions = questions
        self._known = questions.known
        self._there = set(self._known.runs)
        self._reads_tasks = tasks
        self._runs: SequentialWalk[Run] | None = questions.runs()
        self._tasks: SequentialWalk[Task] | None = None
        self._met: set[str] = set()
        self._place = 0
        self._looks_again = False
        self._sizes: dict[str, int] = {}
        self._counts: Counter[str] = Counter()

    async def read_page(self) -> bool:
        """Read one page more; False when there is none."""
        if self._runs is not None:
            await self._read_runs(self._runs)
        elif self._tasks is not None:
            await self._read_tasks(self._tasks)
        return self._runs is not None or self._tasks is not None

    async def _read_runs(self, walk: SequentialWalk[Run]) -> None:
        page = None if self._has_met_all() else await self._next(walk)
        if page is not None:
            await self._questions.tell_runs(page.items)
            for row in page.items:
                self._note(row, page.count)
            self._place += len(page.rejected) + len(page.unreadable)
            return
        self._runs = None
        missing: set[str] = set() if self._has_met_all() else self._there - self._met
        if self.whole and missing and not self._looks_again:
            # One answer that is empty, or lacks some, is not enough to tell of runs that they are gone.
            self._looks_again, self._place = True, 0
            self._runs = self._questions.runs()
            return
        if self.whole:
            await self._end_runs(missing)
        self._there = (self._there | self._met) & self._known.runs.keys()
        if not self._reads_tasks:
            self._close()
        elif self._questions.chosen is None:
            self._tasks = self._questions.tasks()
        else:
            self.suspects = {name for name in self._there if self._known.runs[name].settled}

    async def _end_runs(self, missing: set[str]) -> None:
        if self.readable:
            await self._questions.tell_gone_runs(missing)
        else:
            self.doubtful = missing

    def _has_met_all(self) -> bool:
        chosen = self._questions.chosen
        return chosen is not None and chosen <= self._met

    def _note(self, row: Run, count: int | None) -> None:
        self._place += 1
        if row.run_id is None:
            self.readable = False
            return
        self._met.add(row.run_id)
        if row.batch_count is not None:
            self._sizes[row.run_id] = row.batch_count
        run = self._known.runs.get(row.run_id)
        if run is not None:
            run.depth = None if count is None else count - self._place

    async def _read_tasks(self, walk: SequentialWalk[Task]) -> None:
        page = await self._next(walk)
        if page is not None:
            await self._questions.tell_tasks(page.items)
            for row in page.items:
                if row.run_id and task_name(row):
                    self._counts[row.run_id] += 1
                else:
                    self.readable = False
            return
        self._tasks = None
        self._close()

    def _close(self) -> None:
        for name in self._there & self._known.runs.keys():
            run, met = self._known.runs[name], self._counts[name]
            met_all = met == len(run.tasks)
            if run.backfilling and met_all and self.whole and (self.readable or met == self._sizes.get(name)):
                run.backfilling, run.read, run.settled = False, True, run.has_ended
            elif run.settled and not met_all:
                self.suspects.add(name)

    async def _next(self, walk: SequentialWalk[T]) -> Page[T] | None:
        try:
            page = await walk.next_page()
        except IncompleteListing as error:
            _log.warning("a resync was disturbed, and is repeated: %s", error)
            self.whole = False
            return None
        if page is not None:
            if page.rejected or page.unreadable:
                self.readable = False
            self.pages = max(1, -(-(page.count or 0) // page.page_size))
        return page
