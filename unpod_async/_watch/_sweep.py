"""A sweep: everything in a space read again, some pages at a time, for what a poll does not look at."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from unpod_async._decode import Page
from unpod_async._pager import SequentialWalk
from unpod_async._watch._compare import task_name
from unpod_async._watch._questions import Questions
from unpod_async.errors import IncompleteListing
from unpod_async.models import Run, Task

__all__ = ["Sweep"]

T = TypeVar("T")

_log = logging.getLogger("unpod_async")


class Sweep:
    """One sweep: the listing of runs, then that of the tasks of the space.

    Runs and tasks that enter meanwhile are the polls' to tell. A settled run of which something was not met
    is suspected only: the poll reads its tasks by themselves, and that decides what is gone.

    Args:
        tasks: read the tasks, too.
    """

    def __init__(self, questions: Questions, *, tasks: bool) -> None:
        self.began = questions.clock.utc_now().timestamp()
        self.whole = True
        """Whether nothing can have slipped by."""
        self.pages = 1
        """Pages that the listing being read has, as far as is known."""
        self.suspects: set[str] = set()
        """Settled runs whose tasks are to be read by themselves, at the end."""
        self._questions = questions
        self._known = questions.known
        self._there = set(self._known.runs)
        self._reads_tasks = tasks
        self._runs: SequentialWalk[Run] | None = questions.runs()
        self._tasks: SequentialWalk[Task] | None = None
        self._met: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._readable = True

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
                self._note_depth(row.run_id, page.count)
            return
        self._runs = None
        if self.whole and self._readable and not self._has_met_all():
            await self._questions.tell_gone_runs(self._there - self._met)
        self._there = (self._there | self._met) & self._known.runs.keys()
        if not self._reads_tasks:
            self._close({})
        elif self._questions.chosen is None:
            self._tasks = self._questions.tasks()
        else:
            self.suspects = {name for name in self._there if self._known.runs[name].settled}

    def _has_met_all(self) -> bool:
        chosen = self._questions.chosen
        return chosen is not None and chosen <= self._met

    def _note_depth(self, run_id: str | None, count: int | None) -> None:
        if run_id is None:
            return
        self._met.add(run_id)
        run = self._known.runs.get(run_id)
        if run is not None:
            run.depth = None if count is None else count - len(self._met)

    async def _read_tasks(self, walk: SequentialWalk[Task]) -> None:
        page = await self._next(walk)
        if page is not None:
            await self._questions.tell_tasks(page.items)
            self._counts.update(row.run_id for row in page.items if row.run_id and task_name(row))
            return
        self._tasks = None
        self._close(self._counts)

    def _close(self, counts: Mapping[str, int]) -> None:
        for name in self._there & self._known.runs.keys():
            run = self._known.runs[name]
            met_all = counts.get(name, 0) == len(run.tasks)
            if run.quiet and met_all and self.whole and self._readable:
                run.quiet, run.settled = False, run.has_ended
            elif run.settled and not met_all:
                self.suspects.add(name)

    async def _next(self, walk: SequentialWalk[T]) -> Page[T] | None:
        try:
            page = await walk.next_page()
        except IncompleteListing as error:
            _log.warning("a sweep was disturbed, and is repeated: %s", error)
            self.whole = False
            return None
        if page is not None:
            if page.rejected or page.unreadable:
                self._readable = False
            self.pages = max(1, -(-(page.count or 0) // page.page_size))
        return page
