"""`runs.wait` and `runs.find`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from unpod_async._common import is_terminal, printable, replace_user_tokens, run_has_ended, run_workers
from unpod_async._http import Deadline, is_retryable_get
from unpod_async._paging import ClientContext, OnBadRow, SequentialWalk, run_tasks, space_runs
from unpod_async._watch.schedule import Clock, PollDelays
from unpod_async._watch.source import concerns_one_run, is_readable
from unpod_async.errors import (
    IncompleteListing,
    InvalidArgument,
    RunNotFound,
    TransportError,
    UnpodError,
    WaitTimeout,
)
from unpod_async.models import Run, Task

__all__ = ["Until", "WatchedRun", "find_run", "wait_for_runs"]

_log = logging.getLogger("unpod_async")

_CONCURRENCY: Final = 4
_MAX_LISTED_NAMES: Final = 5
"""Maximum number of runs, and of tasks of each run, that an error message names."""


class WatchedRun(msgspec.Struct, frozen=True):
    """A run and its tasks as `runs.wait` last read them. The run is read before its tasks.

    Attributes:
        run: the row of the run.
        tasks: its tasks, newest first.
        unreadable: the number of further tasks that could not be read.
        error: why the tasks could not be read this time; None if they could.
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
        """Whether the run has ended.

        Its status is "completed", "failed" or "partially_completed", all its tasks were read, and each of
        them is "completed" or "failed".
        """
        return run_has_ended(
            self.run.status,
            (task.status for task in self.tasks),
            all_tasks_read=not self.unreadable and self.error is None,
        )


Until: TypeAlias = Literal["settled"] | Callable[[WatchedRun], object]
"""The condition of `runs.wait`: "settled", or a function that returns a true value when it is met."""


async def find_run(context: ClientContext, space_token: str, run_id: str, deadline: Deadline) -> Run | None:
    """Return the run with this id, or None if the complete listing does not contain it."""
    walk = _run_listing(context, space_token, deadline, "raise")
    while (page := await walk.next_page()) is not None:
        for row in page.items:
            if row.run_id == run_id:
                return row
    return None


async def wait_for_runs(
    context: ClientContext,
    space_token: str,
    run_ids: Sequence[str],
    until: Until,
    *,
    deadline: Deadline,
    interval: float,
    clock: Clock,
) -> list[WatchedRun]:
    """Poll until each run meets the condition.

    Args:
        deadline: the time limit of the whole wait.
        interval: seconds between two polls, on average.

    Raises:
        WaitTimeout: the deadline passed first.
        RunNotFound: a run is not listed.
        UnpodError: an error that a retry cannot fix.
    """
    waiter = _RunWaiter(context, space_token, run_ids, until, deadline)
    delays = PollDelays(interval, clock.random)
    is_last = False
    last_error: UnpodError | None = None
    while True:
        try:
            runs = await waiter.poll()
        except UnpodError as error:
            if not (is_retryable_get(error, 1) or isinstance(error, IncompleteListing)):
                raise
            _log.warning("runs could not be read for runs.wait and will be retried: %s", error.summary)
            if waiter.seconds_left() > 0:
                last_error = error  # otherwise the error only says that the deadline passed
            delay = delays.after_failure(error)
        else:
            last_error = None
            if waiter.all_met(runs):
                return waiter.results()
            delay = delays.after_success()
        left = waiter.seconds_left()
        if is_last or left <= 0:
            raise waiter.timeout(last_error)
        if delay >= left:
            # Poll one last time, with enough time left for it.
            delay, is_last = 0.9 * left, True
        await clock.sleep(delay)


class _RunWaiter:
    """Reads runs in polls until each of them has met a condition."""

    def __init__(
        self,
        context: ClientContext,
        space_token: str,
        run_ids: Sequence[str],
        until: Until,
        deadline: Deadline,
    ) -> None:
        self._context = context
        self._space = space_token
        self._is_met: Callable[[WatchedRun], object] = _is_settled if until == "settled" else until
        self._deadline = deadline
        self._run_ids = tuple(run_ids)
        self._open = dict.fromkeys(run_ids)
        self._last: dict[str, WatchedRun] = {}

    async def poll(self) -> list[WatchedRun]:
        """Read every run that has not met the condition yet. Returns those that could be read.

        Raises:
            RunNotFound: a run is not listed.
            UnpodError: nothing could be read.
        """
        found = await self._list_open_runs()
        rows = iter(found.items())
        read: list[WatchedRun] = []

        async def work() -> None:
            for run_id, row in rows:
                try:
                    self._last[run_id] = await self._read(run_id, row)
                except UnpodError as error:
                    if self._deadline.left() <= 0 or not concerns_one_run(error):
                        raise
                    _log.warning(
                        "the tasks of run %s cannot be read and will be retried: %s",
                        printable(run_id),
                        error.summary,
                    )
                    last = self._last.get(run_id)
                    self._last[run_id] = WatchedRun(row, last.tasks if last else [], error=error.summary)
                else:
                    read.append(self._last[run_id])

        await run_workers(min(_CONCURRENCY, len(found)), work)
        return read

    async def _list_open_runs(self) -> dict[str, Run]:
        found: dict[str, Run] = {}
        readable = True
        walk = _run_listing(self._context, self._space, self._deadline, "skip")
        while len(found) < len(self._open) and (page := await walk.next_page()) is not None:
            found |= {row.run_id: row for row in page.items if row.run_id in self._open and row.run_id}
            readable = readable and is_readable(page)
        missing = [run_id for run_id in self._open if run_id not in found]
        if missing and readable:
            raise RunNotFound(self._space, missing)
        return found

    async def _read(self, run_id: str, row: Run) -> WatchedRun:
        tasks: list[Task] = []
        unreadable = 0
        walk = SequentialWalk(
            self._context.executor,
            run_tasks(self._space, run_id, None),
            page_size=self._context.settings.page_size,
            on_bad_row="skip",
            deadline=self._deadline,
        )
        while (page := await walk.next_page()) is not None:
            tasks += page.items
            unreadable += len(page.rejected) + len(page.unreadable)
        return WatchedRun(row, tasks, unreadable)

    def all_met(self, runs: Sequence[WatchedRun]) -> bool:
        """Check the condition for these runs. Returns whether every run has met it by now."""
        for run in runs:
            met = self._is_met(run)
            if inspect.isawaitable(met):
                if inspect.iscoroutine(met):
                    met.close()
                raise InvalidArgument(
                    "until must be a plain function, not one that returns an awaitable", argument="until"
                )
            if met:
                self._open.pop(run.run.run_id or "", None)
        return not self._open

    def results(self) -> list[WatchedRun]:
        """Return each run as it was when it met the condition, in the order of the request."""
        return [self._last[run_id] for run_id in self._run_ids]

    def seconds_left(self) -> float:
        """Return the seconds until the deadline."""
        self._deadline.start()
        return self._deadline.left()

    def timeout(self, error: UnpodError | None) -> WaitTimeout:
        """Return the exception for a deadline that passed.

        Args:
            error: the error that interrupted the last poll, or None.
        """
        last = {run_id: _without_user_tokens(run) for run_id, run in self._last.items()}
        waiting = [last[run_id] for run_id in self._open if run_id in last]
        reasons = [_describe(run) for run in waiting[:_MAX_LISTED_NAMES]]
        if len(waiting) > _MAX_LISTED_NAMES:
            reasons.append(f"and {len(waiting) - _MAX_LISTED_NAMES} more")
        if len(self._open) > len(waiting):
            reasons.append(f"{len(self._open) - len(waiting)} could not be read")
        total = len(set(self._run_ids))
        open_runs = f"{len(self._open)} of {total} {'run' if total == 1 else 'runs'}"
        text = f"the deadline passed while waiting for {open_runs}: "
        text += "; ".join(reasons)
        if error is not None:
            text += f". The last poll failed: {error.summary}"
        hint = "the runs continue; wait again with a longer deadline"
        if isinstance(error, TransportError) and not error.sent:
            hint = error.hint or "check base_url and the network"
        return WaitTimeout(
            text,
            runs=[last[run_id] for run_id in dict.fromkeys(self._run_ids) if run_id in last],
            holding=[task for run in waiting for task in run.open_tasks],
            hint=hint,
        )


def _run_listing(
    context: ClientContext, space_token: str, deadline: Deadline, on_bad_row: OnBadRow
) -> SequentialWalk[Run]:
    return SequentialWalk(
        context.executor,
        space_runs(space_token),
        page_size=context.settings.page_size,
        on_bad_row=on_bad_row,
        deadline=deadline,
    )


def _without_user_tokens(run: WatchedRun) -> WatchedRun:
    """Remove the access tokens of users: exceptions are pickled and sent around."""
    return msgspec.structs.replace(run, tasks=[_without_user_token(task) for task in run.tasks])


def _without_user_token(task: Task) -> Task:
    output = msgspec.Raw(replace_user_tokens(bytes(task.output_json), b"null"))
    return msgspec.structs.replace(task, user_info=None, output_json=output)


def _is_settled(run: WatchedRun) -> bool:
    return run.settled


def _describe(run: WatchedRun) -> str:
    """Return the reason why a run has not settled."""
    open_tasks = run.open_tasks
    names = [f"{task.task_id or task.id} ({task.status})" for task in open_tasks[:_MAX_LISTED_NAMES]]
    if len(open_tasks) > _MAX_LISTED_NAMES:
        names.append(f"and {len(open_tasks) - _MAX_LISTED_NAMES} more")
    text = f"run {run.run.run_id} is {run.run.status}"
    if names:
        text += f", with open tasks {', '.join(names)}"
    if run.unreadable:
        text += f", {run.unreadable} of its tasks cannot be read"
    if run.error is not None:
        text += f", its tasks could not be read: {run.error}"
    return text
