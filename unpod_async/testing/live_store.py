"""The data set of a live sandbox: the runs of the model and those that requests created, at one time."""

from __future__ import annotations

from array import array
from datetime import datetime
from typing import Final

from unpod_async.testing import accounts
from unpod_async.testing.data import SECOND
from unpod_async.testing.live import CallTimeline, LiveModel, StatusChange
from unpod_async.testing.store import AddedTask, DataStore, TaskState, microseconds, run_status

__all__ = ["LiveStore"]

_HISTORY: Final = 500
"""The number of runs, besides those of the start, after which the oldest ones are removed."""
_BLOCK: Final = 100
"""The number of runs that are removed at once."""

# The ordinals of run number n of the model, and of its tasks, begin at n << _SHIFT. Those of runs and tasks
# that are added later, and before run n + 1, follow. So each row has the same id whatever else was added.
_SHIFT: Final = 24
_MASK: Final = (1 << _SHIFT) - 1

_DAY: Final = 86_400 * SECOND


class LiveStore(DataStore):
    """A data set whose rows follow from the time of the last `sync`.

    Args:
        runs: the number of runs at the start.
        tasks_per_run: the number of tasks of each run, or a range (lowest, highest).
        seed: the same seed, speed and time give the same runs of the model.
        speed: how many times faster than usual the model goes.
        start: the time of the start.
    """

    def __init__(
        self, runs: int, tasks_per_run: int | tuple[int, int], seed: int, *, speed: float, start: datetime
    ) -> None:
        super().__init__(0, tasks_per_run, seed)
        sizes = (tasks_per_run, tasks_per_run) if isinstance(tasks_per_run, int) else tasks_per_run
        if runs < 0:
            raise ValueError("runs must be 0 or more")
        self._model = LiveModel(seed, sizes, speed)
        self._kept_runs = runs + _HISTORY
        newest_run = self._model.newest_run(microseconds(start))
        self._next_number = self._oldest = newest_run - runs + 1
        if self._oldest <= 0:
            raise ValueError("the clock of a live sandbox must be later than 1970")
        self._calls: dict[int, CallTimeline] = {}
        # The status of each run whose tasks no longer change, and when the last of them changed.
        self._final: dict[int, tuple[str, int | None]] = {}
        # Rows that are added before `begin` were created a day before the start.
        self.first: int = microseconds(start) - _DAY
        self.newest: int = self.first
        self._start = start

    def begin(self) -> None:
        """Add the runs of the start. Rows that are added before are never removed."""
        self._next_run = self._next_task = ((self._oldest - 1) << _SHIFT) + 1
        self.sync(self._start)

    # -- time ---------------------------------------------------------------------------------------------

    def sync(self, now: datetime) -> None:
        """Add the runs that started until now, and remove the oldest. An earlier time is ignored."""
        self.newest = max(self.newest, microseconds(now))
        newest_run = self._model.newest_run(self.newest)
        if newest_run < self._next_number:
            return
        oldest = max(self._oldest, (newest_run - self._kept_runs) // _BLOCK * _BLOCK)
        for number in range(max(self._next_number, oldest), newest_run + 1):
            self._start_run(number)
        self._next_number = newest_run + 1
        if oldest > self._oldest:
            self._oldest = oldest
            self._forget(oldest)

    def _start_run(self, number: int) -> None:
        plan = self._model.run(number)
        self._next_run = self._next_task = number << _SHIFT
        run = self._add_run(accounts.MAIN_SPACE.token, plan.created, None)
        added = AddedTask(
            run, plan.created, accounts.MAIN_AGENT.handle, accounts.ACCOUNTS[0], scheduled=plan.scheduled
        )
        for place in range(plan.size):
            task = self._add_task(added)
            self._calls[task] = self._model.call(
                task, plan.created, place=place, scheduled=plan.scheduled, may_hold=True
            )

    def _forget(self, oldest: int) -> None:
        """Remove the runs of the model before the oldest one to keep, and what ended before it began."""
        since = self._model.run(oldest).created
        gone = [run for run in self._added_runs if 0 < run >> _SHIFT < oldest and self._is_over(run, since)]
        tasks = {task for run in gone for task in self.tasks_of_run(run)}
        for listings, removed in (
            (self._space_runs, set(gone)),
            (self._space_tasks, tasks),
            (self._agent_tasks, tasks),
        ):
            for name, ordinals in listings.items():
                listings[name] = array("q", (one for one in ordinals if one not in removed))
        for run in gone:
            del self._added_runs[run]
            self._run_tasks.pop(run, None)
            self._final.pop(run, None)
            self._last_status.pop(run, None)
            self._counted.discard(run)
        for task in tasks:
            del self.added[task], self._calls[task]

    def _is_over(self, run: int, since: int) -> bool:
        is_of_model = not run & _MASK
        last = (self._calls[task].changes[-1].moment for task in self.tasks_of_run(run))
        return is_of_model or all(moment < since for moment in last)

    # -- content ------------------------------------------------------------------------------------------

    def number_of(self, task: int) -> int:
        """Return the number of a task in names and references: unique among 10,000 runs."""
        return (task >> _SHIFT) % 10_000 * 100 + (task & _MASK)

    def find_task(self, task_id: str) -> int | None:
        """Return the task with this id, or None if there is none."""
        task = self.ids.ordinal("T", task_id)
        return task if task in self.added else None

    def auto_delay(self) -> int:
        """Return the delay of the schedule "auto" in whole seconds."""
        return self._model.auto_delay()

    def call_of(self, task: int) -> CallTimeline:
        """Return the timeline of a task."""
        return self._calls[task]

    # -- statuses -----------------------------------------------------------------------------------------

    def status_of(self, task: int) -> str:
        """Return the status of a task."""
        return self._calls[task].at(self.newest).status

    def state_of(self, task: int) -> TaskState:
        """Return the state of a task."""
        call = self._calls[task]
        change = call.at(self.newest)
        modified = None if change is call.changes[0] else change.moment
        return TaskState(change.status, change.failures, change.retries, modified)

    def status_of_run(self, run: int) -> str:
        """Return the status of a run, which follows from those of its tasks."""
        return self._summary(run)[0]

    def run_moved(self, run: int) -> int | None:
        """Return when a task of a run last changed, in microseconds; None if none ever did."""
        return self._summary(run)[1]

    def _summary(self, run: int) -> tuple[str, int | None]:
        known = self._final.get(run)
        if known is not None:
            return known
        calls = [self._calls[task] for task in self.tasks_of_run(run)]
        if not calls:
            return "pending", None
        changes = [call.at(self.newest) for call in calls]
        moved = max(change.moment for change in changes)
        is_new = all(change is call.changes[0] for change, call in zip(changes, calls, strict=True))
        summary = run_status({change.status for change in changes}), None if is_new else moved
        if all(change is call.changes[-1] for change, call in zip(changes, calls, strict=True)):
            self._final[run] = summary
        return summary

    def advance(self) -> None:
        """Raise RuntimeError: the statuses follow from the time."""
        raise RuntimeError(
            "the statuses of a live sandbox follow its clock\nhint: pass now=ManualClock() and advance that"
        )

    def set_status(self, task: int, status: str) -> None:
        """Set the status of a task from now on. A task that is pending is called again."""
        if status == "pending":
            call = self._model.call(task ^ self.newest, self.newest)
        else:
            call = CallTimeline.constant(self.newest, status)
        self._calls[task] = CallTimeline(
            (StatusChange(self.task_created(task), "pending"), *call.changes), call.answered, call.ended
        )
        self._final.pop(self.run_of(task), None)

    # -- changes ------------------------------------------------------------------------------------------

    def insert_run(self, space: str, created: int | None = None, batch_count: int | None = None) -> int:
        """Add an empty run, created now."""
        return self._add_run(space, self.tick(), batch_count)

    def insert_task(self, added: AddedTask, status: str | None = "pending") -> int:
        """Add a task. Its call follows its schedule. With status None, it is one that completed long ago."""
        place = len(self.tasks_of_run(added.run))
        task = self._add_task(added)
        self._final.pop(added.run, None)
        if status is None:
            self._calls[task] = CallTimeline.constant(added.created + 300 * SECOND, "completed")
        else:
            self._calls[task] = self._model.call(task, added.created, place=place, scheduled=added.scheduled)
        return task

    def tick(self) -> int:
        """Return the time, in whole milliseconds."""
        return self.newest

    def delete_task(self, task: int) -> None:
        """Remove a task from every listing. A run that loses its last task keeps its status."""
        run = self.run_of(task)
        summary = self._summary(run)
        super().delete_task(task)
        del self.added[task], self._calls[task]
        self._final.pop(run, None)
        if not self.tasks_of_run(run):
            self._final[run] = summary[0], self.newest
