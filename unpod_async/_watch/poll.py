"""One poll of one space: what is read, and in which order."""

from __future__ import annotations

import logging
from collections.abc import Collection
from itertools import islice
from typing import Final

from unpod_async._common import printable, run_workers
from unpod_async._watch.diff import task_key
from unpod_async._watch.readers import RunListReader, read_tasks_together
from unpod_async._watch.resync import Resync
from unpod_async._watch.schedule import PollSchedule, SharedListing
from unpod_async._watch.source import SpaceSource, concerns_one_run, is_readable
from unpod_async._watch.state import ReportedRun
from unpod_async.errors import AuthenticationError, RunNotFound, UnpodError

__all__ = ["SpacePoll"]

_log = logging.getLogger("unpod_async")

_CONCURRENCY: Final = 4
"""Runs whose tasks are read at the same time. The service is not faster with more."""

_IDLE_RUNS_PER_POLL: Final = 20
"""Number of unsettled, so far unchanged runs that one poll reads. Later polls read the others.

A poll also reads at least this many of the settled runs that a resync could not decide about.
"""


class SpacePoll:
    """Polls one space. It keeps what a poll needs from earlier polls.

    Args:
        tasks: whether to watch tasks too.

    Attributes:
        polls: the number of completed polls.
        resyncs: the number of completed resyncs.
    """

    def __init__(self, source: SpaceSource, schedule: PollSchedule, *, tasks: bool) -> None:
        self.polls = 0
        self.resyncs = 0
        self._source = source
        self._run_list = RunListReader(source)
        self._known = source.known
        self._clock = source.clock
        self._schedule = schedule
        self._tasks = tasks
        self._unlisted = {run_id for run_id in source.run_ids or () if run_id not in self._known.runs}
        self._resync: Resync | None = None
        self._resync_failures = 0
        self._resync_due, self._resync_at_once = self._first_resync()
        self._recheck: dict[str, None] = {}
        self._rechecks_per_poll = _IDLE_RUNS_PER_POLL
        self._poll_listing = SharedListing(schedule)
        self._resync_listing = SharedListing(schedule)

    def _first_resync(self) -> tuple[float, bool]:
        """Return when the first resync is due, and whether one poll reads all of it."""
        now = self._clock.monotonic()
        if self._known.last_resync is None or self._unlisted:
            return now, True
        age = self._clock.utc_now().timestamp() - self._known.last_resync
        if self._schedule.is_resync_overdue(age):
            return now, True
        return now + self._schedule.resync - age, False

    async def poll(self) -> None:
        """Read everything that is due.

        Raises:
            UnpodError: the poll was interrupted. Changes found before that were emitted; the next poll reads
                the rest.
        """
        self._source.deadline.restart()
        is_first = self._known.last_resync is None
        if not is_first:
            if not await self._run_list.read_newest():
                soon = self._clock.monotonic() + self._schedule.interval
                self._resync_due = min(self._resync_due, soon)
            await self._run_list.read_older(dict(self._due_runs()))
            await self._read_due_runs()
        await self._continue_resync()
        if is_first and self._known.last_resync is not None:
            await self._read_runs([run_id for run_id, run in self._due_runs() if run.backfilling])
        self.polls += 1

    # Tasks of unsettled runs

    def _due_runs(self) -> list[tuple[str, ReportedRun]]:
        """Return the unsettled runs to read now: all active ones, and some that may never change again."""
        now = self._clock.monotonic()
        runs = self._known.runs.items()
        due = [(run_id, run) for run_id, run in runs if not run.settled and run.due_at <= now]
        idle = [each for each in due if not each[1].active]
        idle.sort(key=lambda each: each[1].due_at)
        return [each for each in due if each[1].active] + idle[:_IDLE_RUNS_PER_POLL]

    async def _read_due_runs(self) -> None:
        due = self._due_runs()
        run_ids = dict.fromkeys(run_id for run_id, _ in due)
        if self._tasks and self._source.run_ids is None:
            complete = await self._read_together({run_id for run_id, run in due if run.tasks_read})
            for run_id in complete:
                await self._end_run(run_id)
                del run_ids[run_id]
        await self._read_runs(run_ids | dict.fromkeys(islice(self._recheck, self._rechecks_per_poll)))

    async def _read_together(self, run_ids: set[str]) -> list[str]:
        """Read the tasks of many runs from the listing of the space. Return the runs that are complete."""
        if not self._poll_listing.may_read(self._clock.monotonic()):
            return []
        try:
            complete = await read_tasks_together(self._source, run_ids)
        except UnpodError as error:
            self._record_listing_failure(self._poll_listing, error)
            return []
        self._poll_listing.record_success()
        return complete

    def _record_listing_failure(self, listing: SharedListing, error: UnpodError) -> bool:
        """Record that the tasks of the space could not be listed. Return whether to read run by run now."""
        if isinstance(error, AuthenticationError):
            raise error
        _log.warning(
            "the tasks of space %s cannot be listed together: %s", self._source.space_token, error.summary
        )
        return listing.record_failure(error, self._clock.monotonic())

    async def _end_run(self, run_id: str) -> None:
        """Record that all tasks of a run were read."""
        await self._source.emit_settled(run_id)
        run = self._known.runs.get(run_id)
        if run is not None:
            run.failures = 0
            run.due_at = self._schedule.next_read(self._clock.monotonic(), run.changed_at, 0)

    async def _read_runs(self, run_ids: Collection[str]) -> None:
        """Read the tasks of runs, in this order, a few runs at a time.

        After an error, the runs that are being read are read to their end. If they were cancelled, the next
        poll would find changes again that the caller is just receiving.
        """
        remaining = iter(run_ids)
        errors: list[UnpodError] = []

        async def work() -> None:
            for run_id in remaining:
                if errors:
                    return
                try:
                    await self._read_run(run_id)
                except UnpodError as error:
                    errors.append(error)
                    return
                self._recheck.pop(run_id, None)

        await run_workers(min(_CONCURRENCY, len(run_ids)), work)
        if errors:
            raise errors[0]

    async def _read_run(self, run_id: str) -> None:
        run = self._known.runs.get(run_id)
        if run is None:
            return
        try:
            is_complete = not self._tasks or await self._read_tasks(run_id, run)
            if is_complete:
                await self._source.emit_settled(run_id)
        except UnpodError as error:
            if not concerns_one_run(error):
                raise
            if run.failures == 0:
                _log.warning(
                    "the tasks of run %s cannot be read and will be retried: %s",
                    printable(run_id),
                    error.summary,
                )
            run.failures += 1
        else:
            if is_complete:
                run.failures = 0
            run.backfilling = False
        run.due_at = self._schedule.next_read(self._clock.monotonic(), run.changed_at, run.failures)

    async def _read_tasks(self, run_id: str, run: ReportedRun) -> bool:
        """Read the tasks of a run. Returns whether all of them were read."""
        listed = await self._list_tasks(run_id)
        if listed is not None and run.tasks.keys() - listed:
            # One listing without some tasks is not enough to report them as removed.
            again = await self._list_tasks(run_id)
            listed = None if again is None else listed | again
        if listed is None:
            return False
        if run.tasks and not listed:
            # A removed run has no tasks either. Its tasks were removed only if the run is still listed.
            if await self._run_list.is_listed(run_id):
                await self._source.emit_removed_tasks(run_id, listed)
            run.failures += 1
            return False
        await self._source.emit_removed_tasks(run_id, listed)
        return True

    async def _list_tasks(self, run_id: str) -> set[str] | None:
        """List the tasks of a run and emit the changes. Returns None if some may have been left out."""
        listed: set[str] = set()
        readable = True
        walk = self._source.tasks_of(run_id)
        while (page := await walk.next_page()) is not None:
            keys = [task_key(row) for row in page.items]
            readable = readable and is_readable(page) and None not in keys
            listed.update(key for key in keys if key is not None)
            await self._source.emit_tasks(page.items, run_id)
        return listed if readable else None

    # The resync

    async def _continue_resync(self) -> None:
        """Read the next pages of the current resync, or of a new one if it is due."""
        if self._resync is None:
            if self._clock.monotonic() < self._resync_due:
                return
            self._resync = Resync(self._source, tasks=self._tasks)
        resync, pages_read = self._resync, 0
        try:
            while await self._read_page(resync):
                pages_read += 1
                limit = self._schedule.resync_pages_per_poll(resync.pages)
                if (not self._resync_at_once and pages_read >= limit) or self._source.is_late():
                    return
            await self._check_removed(resync.maybe_removed)
        except UnpodError:
            self._resync = None
            self._schedule_retry()
            raise
        self._end_resync(resync)

    async def _read_page(self, resync: Resync) -> bool:
        """Read the next page of a resync. Return False if there is none left."""
        lists_tasks = resync.lists_tasks
        try:
            is_unfinished = await resync.read_page()
        except UnpodError as error:
            if not (lists_tasks and self._record_listing_failure(self._resync_listing, error)):
                raise
            resync.give_up_tasks()
            return False
        if not is_unfinished:
            self._resync_listing.record_success()
        return is_unfinished

    async def _check_removed(self, run_ids: set[str]) -> None:
        """Report which of these runs were removed; the others may be rows that cannot be read.

        A run that had tasks and has none now was removed.
        """
        for run_id in sorted(run_ids):
            run = self._known.runs.get(run_id)
            try:
                if run is not None and run.tasks and not await self._source.has_tasks(run_id):
                    await self._source.emit_removed_runs({run_id})
            except UnpodError as error:
                if not concerns_one_run(error):
                    raise

    def _schedule_retry(self) -> None:
        """Schedule the next attempt after an incomplete resync. The next poll repeats the very first one."""
        if self._known.last_resync is not None:
            self._resync_failures += 1
            self._resync_due = self._clock.monotonic() + self._schedule.resync_retry(self._resync_failures)
            self._resync_at_once = self._resync_failures == 1

    def _end_resync(self, resync: Resync) -> None:
        self._resync, self._resync_at_once = None, False
        self._recheck |= dict.fromkeys(resync.recheck)
        self._rechecks_per_poll = max(
            _IDLE_RUNS_PER_POLL, self._schedule.resync_pages_per_poll(len(self._recheck))
        )
        if self._known.last_resync is None:
            self._known.unverified.clear()
            self._known.last_resync = resync.started_at
        if not resync.complete:
            self._schedule_retry()
            return
        self._resync_failures = 0
        self._resync_due = resync.started + self._schedule.resync
        if resync.tasks_failed:
            return  # polls must read the tasks first
        self.resyncs += 1
        self._known.last_resync = resync.started_at
        unlisted = self._unlisted - self._known.runs.keys()
        if unlisted and resync.readable:
            raise RunNotFound(self._source.space_token, sorted(unlisted))
        self._unlisted.clear()
