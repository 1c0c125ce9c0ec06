"""One poll of one space: what is asked, in which order. What the answers tell is handed on as they come."""

from __future__ import annotations

import logging

from unpod_async._common import printable, run_workers
from unpod_async._watch.batch_read import read_together
from unpod_async._watch.diff import task_name
from unpod_async._watch.error_scope import is_of_one_run
from unpod_async._watch.known import KnownRun
from unpod_async._watch.resync import Resync
from unpod_async._watch.run_rows import RunRows
from unpod_async._watch.schedule import Schedule
from unpod_async._watch.source import SpaceSource
from unpod_async.errors import RunNotFound, UnpodError

__all__ = ["SpacePoll"]

_log = logging.getLogger("unpod_async")

_READERS = 4
"""Runs whose tasks are read at the same time; the service gains nothing by more."""

_IDLE_PER_POLL = 20
"""Unsettled runs in which nothing was seen to change yet that are read in one poll; others come later."""


class SpacePoll:
    """Polls of one space. `poll` is called again and again; what it needs from one to the next is here.

    Args:
        tasks: watch tasks, too.
    """

    def __init__(self, questions: SpaceSource, schedule: Schedule, *, tasks: bool) -> None:
        self.polls = 0
        self.resyncs = 0
        self._questions = questions
        self._rows = RunRows(questions)
        self._known = questions.known
        self._clock = questions.clock
        self._schedule = schedule
        self._tasks = tasks
        self._unmet = {name for name in questions.chosen or () if name not in self._known.runs}
        self._resync: Resync | None = None
        self._resync_failures = 0
        self._resync_due, self._resync_at_once = self._first_resync()
        self._resync_began = self._resync_due
        self._suspects: set[str] = set()

    def _first_resync(self) -> tuple[float, bool]:
        """When the first resync is due, and whether it is not to be spread over the polls."""
        now = self._clock.monotonic()
        if self._known.last_resync is None or self._unmet:
            return now, True
        ago = self._clock.utc_now().timestamp() - self._known.last_resync
        if self._schedule.is_overdue(ago):
            return now, True
        return now + self._schedule.resync - ago, False

    async def poll(self) -> None:
        """Ask once for all that is due.

        Raises:
            UnpodError: it broke off; what had come was told. The next poll asks again for the rest.
        """
        self._questions.deadline.restart()
        is_first = self._known.last_resync is None
        if not is_first:
            if not await self._rows.read_head():
                self._resync_due = min(self._resync_due, self._clock.monotonic() + self._schedule.interval)
            await self._rows.read_behind(dict(self._due()))
            await self._read_due()
        await self._continue_resync()
        if is_first and self._known.last_resync is not None:
            await self._read_runs({name for name, run in self._due() if run.backfilling})
        self.polls += 1

    # The tasks of unsettled runs

    def _due(self) -> list[tuple[str, KnownRun]]:
        """Unsettled runs to be read now: all that stir, and some of those that may lie there for ever."""
        now = self._clock.monotonic()
        due = [(name, run) for name, run in self._known.runs.items() if not run.settled and run.due <= now]
        idle = [each for each in due if not each[1].active]
        idle.sort(key=lambda each: (each[1].due, -(each[1].depth or 0)))
        return [each for each in due if each[1].active] + idle[:_IDLE_PER_POLL]

    async def _read_due(self) -> None:
        due = self._due()
        names = {name for name, _ in due}
        if self._tasks and self._questions.chosen is None:
            whole = await read_together(self._questions, {name for name, run in due if run.read})
            for name in whole:
                await self._note_whole(name)
            names -= whole
        await self._read_runs(names | self._suspects)

    async def _note_whole(self, name: str) -> None:
        await self._questions.tell_settled(name)
        run = self._known.runs.get(name)
        if run is not None:
            run.failures = 0
            run.due = self._schedule.look_again(self._clock.monotonic(), run.changed, 0)

    async def _read_runs(self, names: set[str]) -> None:
        waiting = iter(names)

        async def work() -> None:
            for name in waiting:
                await self._read_run(name)
                self._suspects.discard(name)

        await run_workers(min(_READERS, len(names)), work)

    async def _read_run(self, name: str) -> None:
        run = self._known.runs.get(name)
        if run is None:
            return
        try:
            is_whole = not self._tasks or await self._read_tasks(name, run)
            if is_whole:
                await self._questions.tell_settled(name)
        except UnpodError as error:
            if not is_of_one_run(error):
                raise
            if run.failures == 0:
                told = printable(name)
                _log.warning("the tasks of run %s cannot be read, and are asked for again: %s", told, error)
            run.failures += 1
        else:
            if is_whole:
                run.failures = 0
            run.backfilling = False
        run.due = self._schedule.look_again(self._clock.monotonic(), run.changed, run.failures)

    async def _read_tasks(self, name: str, run: KnownRun) -> bool:
        """Read the tasks of a run; whether that was all of it."""
        met = await self._tasks_of(name)
        if met is not None and run.tasks.keys() - met:
            again = await self._tasks_of(name)
            met = None if again is None else met | again
        if met is None:
            return False
        if run.tasks and not met:
            # So it is with a run that is gone, too, which its row or the next resync tells.
            if name in self._rows.met:
                await self._questions.tell_gone_tasks(name, met)
            run.failures += 1
            return False
        await self._questions.tell_gone_tasks(name, met)
        return True

    async def _tasks_of(self, name: str) -> set[str] | None:
        """The tasks of a run, told as they come; None where there may be others."""
        met: set[str] = set()
        readable = True
        walk = self._questions.tasks_of(name)
        while (page := await walk.next_page()) is not None:
            names = [task_name(row) for row in page.items]
            readable = readable and not (page.rejected or page.unreadable or None in names)
            met.update(task for task in names if task is not None)
            await self._questions.tell_tasks(page.items, name)
        return met if readable else None

    # All the rest

    async def _continue_resync(self) -> None:
        if self._resync is None:
            if self._clock.monotonic() < self._resync_due:
                return
            self._resync = Resync(self._questions, tasks=self._tasks)
            self._resync_began = self._clock.monotonic()
        resync, read = self._resync, 0
        try:
            while await resync.read_page():
                read += 1
                is_enough = not self._resync_at_once and read >= self._schedule.pages_at_once(resync.pages)
                if is_enough or self._questions.is_late():
                    return
            await self._look_for(resync.doubtful)
        except UnpodError:
            self._resync = None
            self._put_off()
            raise
        self._end(resync)

    async def _look_for(self, names: set[str]) -> None:
        """Runs that may be rows which cannot be read: those that had tasks, and have none, are gone."""
        for name in sorted(names):
            run = self._known.runs.get(name)
            try:
                if run is not None and run.tasks and not await self._questions.has_tasks(name):
                    await self._questions.tell_gone_runs({name})
            except UnpodError as error:
                if not is_of_one_run(error):
                    raise

    def _put_off(self) -> None:
        """A resync was not whole. The first of all is made up for by the next poll."""
        if self._known.last_resync is not None:
            self._resync_failures += 1
            self._resync_due = self._clock.monotonic() + self._schedule.resync_again(self._resync_failures)
            self._resync_at_once = self._resync_failures == 1

    def _end(self, resync: Resync) -> None:
        self._resync, self._resync_at_once = None, False
        self._suspects |= resync.suspects
        if self._known.last_resync is None:
            self._known.unverified.clear()
            self._known.last_resync = resync.began
        if not resync.whole:
            self._put_off()
            return
        self._resync_failures = 0
        self._resync_due = self._resync_began + self._schedule.resync
        self.resyncs += 1
        self._known.last_resync = resync.began
        unmet = self._unmet - self._known.runs.keys()
        if unmet and resync.readable:
            raise RunNotFound(self._questions.space_token, sorted(unmet))
        self._unmet.clear()
