"""Two parts of a poll: reading rows of runs, and reading the tasks of many runs together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from unpod_async._watch.diff import task_key
from unpod_async._watch.source import SpaceSource, count_fell, is_readable
from unpod_async._watch.state import ReportedRun
from unpod_async.errors import IncompleteListing
from unpod_async.models import Run

__all__ = ["RunListReader", "read_tasks_together"]

_log = logging.getLogger("unpod_async")

_MAX_READS: Final = 4
"""Maximum number of attempts to read the newest runs without a gap. After them, a resync reads the runs."""

_MIN_RUNS: Final = 10
"""Minimum number of runs whose tasks are read together."""


class RunListReader:
    """Reads rows of runs: those of the newest runs, and those of older runs that have not settled.

    Attributes:
        listed: the ids of the runs that were listed in this poll.
    """

    def __init__(self, source: SpaceSource) -> None:
        self.listed: set[str] = set()
        self._source = source
        self._known = source.known
        self._count: int | None = None
        self._rows_per_page = source.page_size

    async def read_newest(self) -> bool:
        """Read the newest runs, up to the first known one, and emit the changes.

        Returns:
            Whether every new run was read. If False, the next resync must start earlier.
        """
        self.listed.clear()
        missing_before: set[str] | None = None
        for _ in range(_MAX_READS):
            try:
                missing = await self._read_down_to_known()
            except IncompleteListing as error:
                _log.warning("the newest runs of a space could not be read completely: %s", error.summary)
                break
            if missing is None:
                continue
            self._known.unverified.clear()
            if missing and missing_before is None:
                # One response without some runs is not enough to report them as removed.
                missing_before = missing
                continue
            await self._source.emit_removed_runs(missing & (missing_before or set()))
            return True
        return False

    async def _read_down_to_known(self) -> set[str] | None:
        """Read runs, newest first, until a page has a known run behind which all runs are known too.

        Returns:
            None if a new run may have been skipped. If the whole listing was read, the known runs that are
            not in it. Otherwise an empty set.
        """
        known_before, self.listed = set(self._known.runs), set()
        verified = known_before - self._known.unverified
        walk = self._source.runs()
        count_before: int | None = 0
        position, steady, readable = 0, True, True
        while (page := await walk.next_page()) is not None:
            steady = steady and not count_fell(count_before, page.count)
            readable = readable and is_readable(page) and all(row.run_id for row in page.items)
            count_before = self._count = page.count
            is_first = page.number == 1
            is_everything = page.count == len(page.items) < self._source.page_size
            rows = len(page.items) + len(page.rejected) + len(page.unreadable)
            if is_first:
                self._learn_page_size(rows, page.count)
            reached_known = any(row.run_id in verified for row in page.items)
            await self._source.emit_runs(page.items)
            self._record_depths(page.items, position, page.count)
            position += rows
            if self._source.run_ids is not None or (reached_known and not is_everything):
                return set() if steady or is_first else None
        return known_before - self.listed if readable else set()

    def _learn_page_size(self, rows: int, count: int | None) -> None:
        """Learn the number of rows per page from the first page, which may have fewer rows than requested."""
        if rows and count is not None:
            self._rows_per_page = rows if rows < count else self._source.page_size

    def _record_depths(self, rows: list[Run], position: int, count: int | None) -> None:
        """Record, for each of these rows, how many older runs follow it. The first row is at `position`."""
        for index, row in enumerate(rows, position + 1):
            if row.run_id is not None:
                self.listed.add(row.run_id)
                run = self._known.runs.get(row.run_id)
                if run is not None:
                    run.depth = None if count is None else count - index

    async def read_older(self, runs: Mapping[str, ReportedRun]) -> None:
        """Read the rows of the given runs, except those that this poll has already listed.

        The page of a run follows from the number of runs that are older than it.
        """
        count = self._count
        pages: dict[int, set[str]] = {}
        for run_id, run in runs.items():
            if run_id not in self.listed and run.depth is not None and count is not None:
                number = max(1, -(-(count - run.depth) // self._rows_per_page))
                pages.setdefault(number, set()).add(run_id)
        for number in sorted(pages):
            # If older runs were removed, these runs are on the next page.
            for candidate in (number, number + 1):
                if pages[number] <= self.listed:
                    break
                await self._read_page(candidate)

    async def is_listed(self, run_id: str) -> bool:
        """Read the row of a known run again. Return whether it is listed now.

        The result is also False if its row cannot be read or has moved by more than a page.
        """
        run = self._known.runs.get(run_id)
        if run is None:
            return False
        self.listed.discard(run_id)
        if run.depth is not None and self._count is not None:
            await self.read_older({run_id: run})
        else:
            await self._read_down_to(run_id)
        return run_id in self.listed

    async def _read_down_to(self, run_id: str) -> None:
        """Read the listing of the runs from its start until this run is found."""
        walk, position = self._source.runs(), 0
        while run_id not in self.listed and (page := await walk.next_page()) is not None:
            await self._source.emit_runs(page.items)
            self._record_depths(page.items, position, page.count)
            position += len(page.items) + len(page.rejected) + len(page.unreadable)

    async def _read_page(self, number: int) -> None:
        rows, count = await self._source.page_of_runs(number)
        await self._source.emit_runs(rows)
        self._record_depths(rows, (number - 1) * self._rows_per_page, count)


async def read_tasks_together(source: SpaceSource, run_ids: set[str]) -> list[str]:
    """Read the tasks of many runs from the listing of the space, if that takes fewer requests.

    Runs with one call each are common. The tasks of 1,000 such runs are on ten pages, so ten requests replace
    1,000. New tasks are listed first. So once all known tasks of a run have been listed, and the count has
    not fallen, all its tasks have been read. The maximum number of pages is half the number of runs.

    Args:
        run_ids: the runs. All tasks of each were read before.

    Returns:
        The ids of the runs whose tasks have all been read now.

    Raises:
        UnpodError: the listing could not be read to its end.
    """
    known = source.known.runs
    remaining = {
        run_id: set(run.tasks) for run_id in run_ids if (run := known.get(run_id)) is not None and run.tasks
    }
    max_pages = len(remaining) // 2
    expected_pages = sum(map(len, remaining.values())) / source.page_size
    if len(remaining) < _MIN_RUNS or expected_pages > max_pages:
        return []
    complete: list[str] = []
    await _read_tasks(source, remaining, max_pages, complete)
    return complete


async def _read_tasks(
    source: SpaceSource, remaining: dict[str, set[str]], max_pages: int, complete: list[str]
) -> None:
    """Read tasks. Move a run from `remaining` to `complete` when all its known tasks have been read.

    Args:
        remaining: the known tasks of each run that have not been read yet.
        max_pages: maximum number of pages to read.
        complete: receives the ids of the runs that are complete.
    """
    walk = source.tasks()
    count_before: int | None = 0
    while remaining and max_pages and (page := await walk.next_page()) is not None:
        if count_fell(count_before, page.count) or not is_readable(page):
            return
        count_before, max_pages = page.count, max_pages - 1
        await source.emit_tasks(page.items)
        for row in page.items:
            run_id = row.run_id or ""
            unread = remaining.get(run_id)
            if unread is not None:
                unread.discard(task_key(row) or "")
                if not unread:
                    del remaining[run_id]
                    complete.append(run_id)
