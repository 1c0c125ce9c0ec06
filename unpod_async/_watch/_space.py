"""One poll of one space: what is asked, in which order. What the answers tell is handed on as they come."""

from __future__ import annotations

import logging

from unpod_async._policy import may_repeat_read
from unpod_async._stream import run_workers
from unpod_async._watch._compare import task_name
from unpod_async._watch._known import KnownRun
from unpod_async._watch._questions import Questions
from unpod_async._watch._schedule import Schedule
from unpod_async._watch._sweep import Sweep
from unpod_async.errors import (
    IncompleteListing,
    InvalidArgument,
    RunNotFound,
    TransportError,
    UnpodError,
)
from unpod_async.models import Run

__all__ = ["SpacePoll"]

_log = logging.getLogger("unpod_async")

_READERS = 4
"""Runs whose tasks are read at the same time; the service gains nothing by more."""

_IDLE_PER_POLL = 20
"""Unsettled runs in which nothing was seen to change yet that are read in one poll; others come later."""

_READINGS = 3
"""Readings of the head before it is left to the next sweep whether something slipped by."""


class SpacePoll:
    """Polls of one space. `poll` is called again and again; what it needs from one to the next is here.

    Args:
        tasks: watch tasks, too.
    """

    def __init__(self, questions: Questions, schedule: Schedule, *, tasks: bool) -> None:
        self.sweeps = 0
        self._questions = questions
        self._known = questions.known
        self._clock = questions.clock
        self._schedule = schedule
        self._tasks = tasks
        self._unmet = {name for name in questions.chosen or () if name not in self._known.runs}
        self._sweep: Sweep | None = None
        self._sweep_due = self._first_sweep()
        self._in_a_hurry = self._known.swept is None or bool(self._unmet)
        self._suspects: set[str] = set()
        self._count: int | None = None
        self._met: set[str] = set()

    def _first_sweep(self) -> float:
        now = self._clock.monotonic()
        if self._known.swept is None or self._unmet:
            return now
        ago = self._clock.utc_now().timestamp() - self._known.swept
        return now + min(max(self._schedule.sweep - ago, 0.0), self._schedule.sweep)

    async def poll(self) -> None:
        """Ask once for all that is due.

        Raises:
            UnpodError: it broke off; what had come was told. The next poll asks again for the rest.
        """
        self._questions.deadline.restart()
        self._met.clear()
        if self._known.swept is not None:
            await self._read_head()
            await self._read_rows_behind()
        await self._go_on_sweeping()
        if self._known.swept is not None:
            await self._read_due()

    # The newest runs

    async def _read_head(self) -> None:
        for _ in range(_READINGS):
            try:
                if await self._reads_new_runs():
                    return
            except IncompleteListing as error:
                _log.warning("the newest runs of a space were not read to their end: %s", error)
        self._sweep_due, self._in_a_hurry = self._clock.monotonic(), True

    async def _reads_new_runs(self) -> bool:
        """Read the runs until one is met that was known; whether no other can have slipped by."""
        walk = self._questions.runs()
        before: int | None = 0
        place, steady, readable = 0, True, True
        there, self._met = set(self._known.runs), set()
        while (page := await walk.next_page()) is not None:
            # Where the count falls, a run behind this page may have come before it.
            steady = steady and before is not None and page.count is not None and page.count >= before
            readable = readable and not (page.rejected or page.unreadable)
            before = self._count = page.count
            is_all = (
                readable and page.number == 1 and page.count == len(page.items) < self._questions.page_size
            )
            is_met = any(row.run_id in there for row in page.items)
            await self._questions.tell_runs(page.items)
            for number, row in enumerate(page.items, place + 1):
                self._note(row, None if page.count is None else page.count - number)
            place += len(page.items) + len(page.rejected) + len(page.unreadable)
            if self._questions.chosen is not None or (is_met and not is_all):
                return steady or page.number == 1
        if readable:
            await self._questions.tell_gone_runs(there - self._met)
        return True

    def _note(self, row: Run, depth: int | None) -> None:
        if row.run_id is not None:
            self._met.add(row.run_id)
            run = self._known.runs.get(row.run_id)
            if run is not None:
                run.depth = depth

    # The rows of unsettled runs further back

    async def _read_rows_behind(self) -> None:
        count = self._count
        wanted = {
            name: run.depth
            for name, run in self._due()
            if name not in self._met and run.depth is not None and count is not None
        }
        # A page further on, too: that is where they are, when older runs have gone.
        pages: dict[int, set[str]] = {}
        for name, depth in wanted.items():
            page = max(1, -(-((count or 0) - depth) // self._questions.page_size))
            pages.setdefault(page, set()).add(name)
        for number in sorted(pages):
            for further in (number, number + 1):
                if pages[number] <= self._met:
                    break
                await self._read_page(further)

    async def _read_page(self, number: int) -> None:
        rows, count = await self._questions.page_of_runs(number)
        await self._questions.tell_runs(rows)
        for place, row in enumerate(rows, (number - 1) * self._questions.page_size + 1):
            self._note(row, None if count is None else count - place)

    # The tasks of unsettled runs

    def _due(self) -> list[tuple[str, KnownRun]]:
        """Unsettled runs to be read now: all that stir, and some of those that may lie there for ever."""
        now = self._clock.monotonic()
        due = [(name, run) for name, run in self._known.runs.items() if not run.settled and run.due <= now]
        idle = [each for each in due if not each[1].stirred]
        idle.sort(key=lambda each: (each[1].due, -(each[1].depth or 0)))
        return [each for each in due if each[1].stirred] + idle[:_IDLE_PER_POLL]

    async def _read_due(self) -> None:
        names = {name for name, _ in self._due()} | self._suspects
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
            await self._questions.tell_whole(name, await self._tasks_of(name) if self._tasks else set())
        except UnpodError as error:
            if not _is_of_one_run(error):
                raise
            if run.failures == 0:
                _log.warning("the tasks of run %s cannot be read, and are asked for again: %s", name, error)
            run.failures += 1
        else:
            run.failures = 0
        run.due = self._schedule.look_again(self._clock.monotonic(), run.changed, run.failures)

    async def _tasks_of(self, name: str) -> set[str] | None:
        """The tasks of a run, told as they come; None where there may be others."""
        met: set[str] = set()
        readable = True
        walk = self._questions.tasks_of(name)
        while (page := await walk.next_page()) is not None:
            readable = readable and not (page.rejected or page.unreadable)
            met.update(task for row in page.items if (task := task_name(row)) is not None)
            await self._questions.tell_tasks(page.items, name)
        return met if readable else None

    # All the rest

    async def _go_on_sweeping(self) -> None:
        if self._sweep is None:
            now = self._clock.monotonic()
            if now < self._sweep_due:
                return
            self._sweep = Sweep(self._questions, tasks=self._tasks)
            self._sweep_due = now + self._schedule.sweep
        sweep, read = self._sweep, 0
        try:
            while await sweep.read_page():
                read += 1
                is_enough = not self._in_a_hurry and read >= self._schedule.pages_at_once(sweep.pages)
                if is_enough or self._questions.is_late():
                    return
        except UnpodError:
            self._sweep, self._sweep_due = None, self._clock.monotonic()
            raise
        self._end(sweep)

    def _end(self, sweep: Sweep) -> None:
        first = self._known.swept is None
        self._sweep, self._in_a_hurry = None, not sweep.whole
        self._suspects |= sweep.suspects
        if sweep.whole or first:
            self._known.swept = sweep.began
        if not sweep.whole:
            soon = self._clock.monotonic() + 10 * self._schedule.interval
            self._sweep_due = min(self._sweep_due, soon)
        self.sweeps += sweep.whole
        if sweep.whole:
            unmet = self._unmet - self._known.runs.keys()
            self._unmet.clear()
            if unmet:
                raise RunNotFound(self._questions.space_token, sorted(unmet))


def _is_of_one_run(error: UnpodError) -> bool:
    """Whether others may fare better: not when the service cannot be reached, or does not let us in."""
    if isinstance(error, TransportError):
        return error.permanent
    return isinstance(error, IncompleteListing | InvalidArgument) or may_repeat_read(error, 1)
