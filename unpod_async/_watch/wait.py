"""`runs.find` and `runs.wait`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from unpod_async._common import is_terminal, printable, run_has_ended, run_workers
from unpod_async._http import Deadline, is_retryable_get, retry_after_of
from unpod_async._paging import ClientContext, OnBadRow, SequentialWalk, run_tasks, space_runs
from unpod_async._watch.clock import Clock
from unpod_async._watch.error_scope import is_of_one_run
from unpod_async._watch.schedule import Schedule
from unpod_async.errors import (
    IncompleteListing,
    InvalidArgument,
    RunNotFound,
    UnpodError,
    WaitTimeout,
)
from unpod_async.models import Run, Task

__all__ = ["Until", "WatchedRun", "find_run", "wait_for_runs"]

_log = logging.getLogger("unpod_async")

_READERS: Final = 4
_NAMED: Final = 5


class WatchedRun(msgspec.Struct, frozen=True):
    """A run and its tasks, read one after the other.

    Attributes:
        run: its row.
        tasks: its tasks, newest first.
        unreadable: how many further tasks cannot be read or used.
        error: why its tasks could not be read at all this time, or None.
    """

    run: Run
    tasks: list[Task]
    unreadable: int = 0
    error: str | None = None

    @property
    def open_tasks(self) -> list[Task]:
        """The tasks that are neither completed nor failed."""
        return [task for task in self.tasks if not is_terminal(task.status)]

    @property
    def settled(self) -> bool:
        """The run is completed, failed or partially_completed, and each task completed or failed."""
        return run_has_ended(
            self.run.status,
            (task.status for task in self.tasks),
            all_tasks_read=not self.unreadable and self.error is None,
        )


Until: TypeAlias = Literal["settled"] | Callable[[WatchedRun], object]


async def find_run(context: ClientContext, space_token: str, run_id: str) -> Run | None:
    """The run with this id, or None once the whole listing was read."""
    walk = _runs(context, space_token, context.executor.deadline(), "raise")
    while (page := await walk.next_page()) is not None:
        for row in page.items:
            if row.run_id == run_id:
                return row
    return None


class Waiting:
    """Asks for runs again and again until each of them is as it is waited for."""

    def __init__(
        self, context: ClientContext, space_token: str, run_ids: Sequence[str], until: Until, deadline: float
    ) -> None:
        self._context = context
        self._space = space_token
        self._is_met: Callable[[WatchedRun], object] = _is_settled if until == "settled" else until
        self._seconds = deadline
        self._deadline = Deadline(deadline)
        self._open = dict.fromkeys(run_ids)
        self._seen: dict[str, WatchedRun] = {}
        self._asked = tuple(run_ids)

    async def poll(self) -> list[WatchedRun]:
        """Ask once for all that are still waited for; those that could be read.

        Raises:
            RunNotFound: one of them is not listed.
            UnpodError: nothing could be read.
        """
        found: dict[str, Run] = {}
        readable = True
        walk = _runs(self._context, self._space, self._deadline, "skip")
        while len(found) < len(self._open) and (page := await walk.next_page()) is not None:
            found |= {row.run_id: row for row in page.items if row.run_id in self._open and row.run_id}
            readable = readable and not (page.rejected or page.unreadable)
        missing = [name for name in self._open if name not in found]
        if missing and readable:
            raise RunNotFound(self._space, missing)
        rows = iter(found.items())
        read: list[WatchedRun] = []

        async def work() -> None:
            for name, run in rows:
                try:
                    self._seen[name] = await self._read(name, run)
                except UnpodError as error:
                    if self._deadline.left() <= 0 or not is_of_one_run(error):
                        raise
                    told = printable(name)
                    _log.warning(
                        "the tasks of run %s cannot be read, and are asked for again: %s", told, error
                    )
                    last = self._seen.get(name)
                    self._seen[name] = WatchedRun(run, last.tasks if last else [], error=str(error))
                else:
                    read.append(self._seen[name])

        await run_workers(min(_READERS, len(found)), work)
        return read

    def judge(self, read: Sequence[WatchedRun]) -> bool:
        """Whether none is left to wait for, after these were read."""
        for run in read:
            met = self._is_met(run)
            if inspect.isawaitable(met):
                if inspect.iscoroutine(met):
                    met.close()
                raise InvalidArgument("until must be a plain function: this one returned an awaitable")
            if met:
                self._open.pop(run.run.run_id or "", None)
        return not self._open

    async def _read(self, name: str, run: Run) -> WatchedRun:
        tasks: list[Task] = []
        unreadable = 0
        walk = SequentialWalk(
            self._context.executor,
            run_tasks(self._space, name, None),
            page_size=self._context.settings.page_size,
            on_bad_row="skip",
            deadline=self._deadline,
        )
        while (page := await walk.next_page()) is not None:
            tasks += page.items
            unreadable += len(page.rejected) + len(page.unreadable)
        return WatchedRun(run, tasks, unreadable)

    def too_late(self, error: UnpodError | None) -> WaitTimeout:
        """What is said when the deadline is over; `error` is what the last poll met."""
        seen = {name: _without_users(run) for name, run in self._seen.items()}
        waiting = [seen[name] for name in self._open if name in seen]
        reasons = [_state_of(run) for run in waiting[:_NAMED]]
        if len(waiting) > _NAMED:
            reasons.append(f"and {len(waiting) - _NAMED} more")
        if len(self._open) > len(waiting):
            reasons.append(f"{len(self._open) - len(waiting)} could not be read")
        left = f"{len(self._open)} of {len(set(self._asked))} runs"
        text = (
            f"the deadline of {self._seconds:g} s is over with {left} still waited for: {'; '.join(reasons)}"
        )
        if error is not None:
            text += f". The last poll was broken off: {error}"
        return WaitTimeout(
            text,
            runs=[seen[name] for name in dict.fromkeys(self._asked) if name in seen],
            holding=[task for run in waiting for task in run.open_tasks],
        )

    def result(self) -> list[WatchedRun]:
        """The runs as they were when each was as waited for, in the order asked."""
        return [self._seen[name] for name in self._asked]

    def left(self) -> float:
        self._deadline.start()
        return self._deadline.left()


async def wait_for_runs(
    context: ClientContext,
    space_token: str,
    run_ids: Sequence[str],
    until: Until,
    *,
    deadline: float,
    interval: float,
    clock: Clock,
) -> list[WatchedRun]:
    """Poll until all runs are as waited for.

    Raises:
        WaitTimeout: they are not, after `deadline` seconds.
        RunNotFound: one of them is not listed.
        UnpodError: of those that asking again does not help.
    """
    waiting = Waiting(context, space_token, run_ids, until, deadline)
    schedule = Schedule(interval, interval, clock.draw)
    failures = 0
    is_last = False
    told: UnpodError | None = None
    while True:
        try:
            read = await waiting.poll()
        except UnpodError as error:
            if not (is_retryable_get(error, 1) or isinstance(error, IncompleteListing)):
                raise
            _log.warning("runs that are waited for could not be read, and are asked for again: %s", error)
            if waiting.left() > 0:
                told = error  # else it is only that the time is over
            failures += 1
        else:
            failures, told = 0, None
            if waiting.judge(read):
                return waiting.result()
        pause = schedule.pause(failures, None if told is None else retry_after_of(told))
        left = waiting.left()
        if is_last or left <= 0:
            raise waiting.too_late(told)
        if pause >= left:
            # A last look, with time enough for it.
            pause, is_last = 0.9 * left, True
        await clock.sleep(pause)


def _runs(
    context: ClientContext, space_token: str, deadline: Deadline, on_bad_row: OnBadRow
) -> SequentialWalk[Run]:
    return SequentialWalk(
        context.executor,
        space_runs(space_token),
        page_size=context.settings.page_size,
        on_bad_row=on_bad_row,
        deadline=deadline,
    )


def _without_users(run: WatchedRun) -> WatchedRun:
    """For an exception, which is pickled and mailed around: `user_info` holds an access token."""
    tasks = [msgspec.structs.replace(task, user_info=None) for task in run.tasks]
    return msgspec.structs.replace(run, tasks=tasks)


def _is_settled(run: WatchedRun) -> bool:
    return run.settled


def _state_of(run: WatchedRun) -> str:
    holding = run.open_tasks
    names = [f"{task.task_id or task.id} ({task.status})" for task in holding[:_NAMED]]
    if len(holding) > _NAMED:
        names.append(f"and {len(holding) - _NAMED} more")
    text = f"run {run.run.run_id} is {run.run.status}"
    if names:
        text += f", held by tasks {', '.join(names)}"
    if run.unreadable:
        text += f", {run.unreadable} of its tasks cannot be read"
    if run.error is not None:
        text += f", its tasks could not be read: {run.error}"
    return text
