"""Resync: reads everything in a space again, a few pages in each poll, to find changes that polls miss."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TypeVar

from unpod_async._paging import Page, SequentialWalk
from unpod_async._watch.diff import task_key
from unpod_async._watch.source import SpaceSource, is_readable
from unpod_async.errors import IncompleteListing
from unpod_async.models import Run, Task

__all__ = ["Resync"]

T = TypeVar("T")

_log = logging.getLogger("unpod_async")


class Resync:
    """One resync: the listing of the runs, then the listing of the tasks of the space.

    Polls report the runs and tasks that are created meanwhile. If known runs are missing, the runs are listed
    a second time before they are reported as removed. If tasks of a settled run are missing, the next polls
    read the tasks of that run separately. They read every settled run separately if only some runs are
    watched, or if the tasks of the space cannot be listed.

    Args:
        tasks: whether to read the tasks too.

    Attributes:
        started_at: when it started, in Unix seconds.
        started: when it started, on the monotonic clock of the watch.
        complete: whether certainly nothing was skipped.
        tasks_failed: whether the tasks of the space could not be listed, so polls must read them run by run.
        readable: whether every row could be read.
        pages: the number of pages of the current listing, as far as known.
        recheck: after the end: settled runs whose tasks must be read separately.
        maybe_removed: after the end: runs that were not listed, but may be in rows that cannot be read.
    """

    def __init__(self, source: SpaceSource, *, tasks: bool) -> None:
        self.started_at = source.clock.utc_now().timestamp()
        self.started = source.clock.monotonic()
        self.complete = True
        self.tasks_failed = False
        self.readable = True
        self.pages = 1
        self.recheck: list[str] = []
        self.maybe_removed: set[str] = set()
        self._source = source
        self._known = source.known
        self._expected = set(self._known.runs)
        self._reads_tasks = tasks
        self._runs: SequentialWalk[Run] | None = source.runs()
        self._tasks: SequentialWalk[Task] | None = None
        self._listed: set[str] = set()
        self._position = 0
        self._is_second_listing = False
        self._batch_counts: dict[str, int] = {}
        self._task_counts: Counter[str] = Counter()

    async def read_page(self) -> bool:
        """Read the next page. Returns False if there is none left."""
        if self._runs is not None:
            await self._read_runs(self._runs)
        elif self._tasks is not None:
            await self._read_tasks(self._tasks)
        return self._runs is not None or self._tasks is not None

    async def _read_runs(self, walk: SequentialWalk[Run]) -> None:
        page = None if self._all_chosen_listed() else await self._next_page(walk)
        if page is not None:
            await self._source.emit_runs(page.items)
            for row in page.items:
                self._record(row, page.count)
            self._position += len(page.rejected) + len(page.unreadable)
            return
        self._runs = None
        missing: set[str] = set() if self._all_chosen_listed() else self._expected - self._listed
        if self.complete and missing and not self._is_second_listing:
            # One listing without some runs is not enough to report them as removed.
            self._is_second_listing, self._position = True, 0
            self._runs = self._source.runs()
            return
        if self.complete:
            await self._end_runs(missing)
        self._expected = (self._expected | self._listed) & self._known.runs.keys()
        if not self._reads_tasks:
            self._finish()
        elif self._source.run_ids is None:
            self._tasks = self._source.tasks()
        else:
            self.recheck = self._settled_runs()

    @property
    def lists_tasks(self) -> bool:
        """Whether the tasks of the space are being listed."""
        return self._tasks is not None

    def give_up_tasks(self) -> None:
        """End the listing of the tasks. Polls then read the tasks of each run separately."""
        self._tasks, self.tasks_failed = None, True
        self.recheck = self._settled_runs()

    def _settled_runs(self) -> list[str]:
        runs = self._known.runs.items()
        return [run_id for run_id, run in runs if run_id in self._expected and run.settled]

    async def _end_runs(self, missing: set[str]) -> None:
        if self.readable:
            await self._source.emit_removed_runs(missing)
        else:
            self.maybe_removed = missing

    def _all_chosen_listed(self) -> bool:
        chosen = self._source.run_ids
        return chosen is not None and chosen <= self._listed

    def _record(self, row: Run, count: int | None) -> None:
        self._position += 1
        if row.run_id is None:
            self.readable = False
            return
        self._listed.add(row.run_id)
        if row.batch_count is not None:
            self._batch_counts[row.run_id] = row.batch_count
        run = self._known.runs.get(row.run_id)
        if run is not None:
            run.depth = None if count is None else count - self._position

    async def _read_tasks(self, walk: SequentialWalk[Task]) -> None:
        page = await self._next_page(walk)
        if page is not None:
            await self._source.emit_tasks(page.items)
            for row in page.items:
                if row.run_id and task_key(row):
                    self._task_counts[row.run_id] += 1
                else:
                    self.readable = False
            return
        self._tasks = None
        self._finish()

    def _finish(self) -> None:
        for run_id, run in self._known.runs.items():
            if run_id not in self._expected:
                continue
            count = self._task_counts[run_id]
            all_listed = count == len(run.tasks)
            batch = self._batch_counts.get(run_id, 0)
            # A run that was created with more tasks is read separately: the listing may lack some.
            is_whole = count >= batch and (self.readable or count == batch)
            if run.backfilling and all_listed and self.complete and is_whole:
                run.backfilling, run.tasks_read, run.settled = False, True, run.has_ended()
            elif run.settled and not all_listed:
                self.recheck.append(run_id)

    async def _next_page(self, walk: SequentialWalk[T]) -> Page[T] | None:
        try:
            page = await walk.next_page()
        except IncompleteListing as error:
            _log.warning("a resync was incomplete and will be repeated: %s", error.summary)
            self.complete = False
            return None
        if page is not None:
            if not is_readable(page):
                self.readable = False
            self.pages = -(-(page.count or 0) // page.page_size)
        return page
