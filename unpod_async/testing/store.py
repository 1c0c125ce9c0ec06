"""The data set: which runs and tasks exist, their order, and how their statuses change.

It stores ordinals, never whole rows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

from unpod_async.testing import accounts
from unpod_async.testing.data import SECOND, Ids, mix
from unpod_async.testing.live import CallTimeline

__all__ = ["FIRST_RUN", "AddedTask", "DataStore", "TaskState", "microseconds", "run_status"]

# 2026-01-15T10:00:00. One run per minute; its tasks are created in batches of ten with the same `created`.
FIRST_RUN = 1_768_471_200 * SECOND
_RUN_STEP = 60 * SECOND
_BATCH = 10
_BATCH_STEP = SECOND // 20
_MOVING_RUNS = 3

_AUTO_DELAY = 600  # seconds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_TASKS: Sequence[int] = range(0)

_MAX_FAILURES = 2
_UNDER_WAY = {"in_progress", "processing", "hold"}
_KINDS = (*["completed"] * 10, *["partially_completed"] * 3, "failed", "in_progress", "scheduled")


def microseconds(moment: datetime) -> int:
    """Return a time in microseconds since 1970, in whole milliseconds as on the service."""
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1) * 1000


@dataclass(slots=True)
class TaskState:
    """The state of a task that has changed or can change. `modified` is in microseconds or None."""

    status: str
    failures: int = 0
    retries: int = 0
    modified: int | None = None


def _advance(state: TaskState, bits: int, moment: int) -> bool:
    """Advance a state by one step, and return whether it can change again.

    pending -> in_progress -> completed or failed. A failed call may go back to pending, twice at most.
    """
    chance = mix(bits, 3 * state.failures + state.retries)
    match state.status:
        case "pending":
            state.status = "in_progress"
        case "in_progress" | "processing":
            state.status = "failed" if chance % 4 == 0 else "completed"
            state.failures += state.status == "failed"
        case "failed" if state.retries < _MAX_FAILURES and chance % 3:
            state.status = "pending"
            state.retries += 1
        case _:
            return False
    state.modified = moment
    return state.status != "completed"


def _run_kind(seed: int, run: int, size: int) -> str:
    """Return the status of an old run, from which those of its tasks follow (see `_settled_status`)."""
    kind = _KINDS[mix(seed + 1, run) % len(_KINDS)]
    return "completed" if size < 2 and kind in {"partially_completed", "in_progress"} else kind


def _settled_status(kind: str, index: int) -> str:
    """Return the status of task number `index` of an old run. A task on hold keeps its run in progress."""
    if kind == "in_progress":
        return "hold" if index == 0 else "completed"
    if kind == "partially_completed":
        return "completed" if index % 3 else "failed"
    return kind


def run_status(statuses: AbstractSet[str]) -> str:
    """Return the status of a run whose tasks have these statuses. A run without tasks is pending."""
    if not statuses:
        return "pending"
    if len(statuses) == 1:
        (only,) = statuses
        return "in_progress" if only in _UNDER_WAY else only
    return "partially_completed" if statuses <= {"completed", "failed"} else "in_progress"


@dataclass(frozen=True, slots=True)
class AddedTask:
    """A task added after the start: by POST (with `document`) or by `Sandbox.insert_*` (without)."""

    run: int
    created: int
    assignee: str
    account: accounts.FakeAccount
    objective: str = "Call the lead"
    document: dict[str, Any] | None = None
    scheduled: int | None = None  # unix seconds


@dataclass(frozen=True, slots=True)
class _AddedRun:
    space: str
    created: int
    batch_count: int | None = None


class DataStore:
    """The runs and tasks of every space, by ordinal. A greater ordinal is a newer row."""

    def __init__(self, runs: int, tasks_per_run: int | tuple[int, int], seed: int) -> None:
        low, high = (tasks_per_run, tasks_per_run) if isinstance(tasks_per_run, int) else tasks_per_run
        if runs < 0 or low < 0 or high < low:
            raise ValueError("runs and tasks_per_run must be 0 or more, and a range must be ascending")
        self.seed = seed
        self.ids: Ids = Ids(seed)
        spread = high - low + 1
        sizes = (low + (mix(seed, ~run) % spread if spread > 1 else 0) for run in range(runs))
        self._firsts = array("q", accumulate(sizes, initial=0))
        self._initial_runs = runs
        self.initial_tasks: int = self._firsts[-1]
        self._next_run = runs
        self._next_task = self.initial_tasks
        self._space_runs = {token: array("q") for token in accounts.SPACES}
        self._space_tasks = {token: array("q") for token in accounts.SPACES}
        self._agent_tasks = {handle: array("q") for handle in accounts.AGENTS}
        main = accounts.MAIN_SPACE.token
        self._space_runs[main].extend(range(runs))
        self._space_tasks[main].extend(range(self.initial_tasks))
        self._agent_tasks[accounts.MAIN_AGENT.handle].extend(range(self.initial_tasks))
        self._added_runs: dict[int, _AddedRun] = {}
        self.added: dict[int, AddedTask] = {}
        # The tasks of runs whose ordinals are not one contiguous range.
        self._run_tasks: dict[int, list[int]] = {}
        self._states: dict[int, TaskState] = {}
        self._moving: set[int] = set()
        # Runs whose status follows from their tasks, and not from their kind.
        self._counted: set[int] = set()
        # The status of a run whose last task was removed. It no longer changes.
        self._last_status: dict[int, str] = {}
        # When the first rows were created, and the last ones, in microseconds.
        self.first = FIRST_RUN
        self.newest: int = FIRST_RUN + max(runs, 1) * _RUN_STEP
        for run in range(max(0, runs - _MOVING_RUNS), runs):
            self._counted.add(run)
            age = runs - 1 - run
            for task in self.tasks_of_run(run):
                # The newest run has not started; the two before it are in progress.
                stage = (task + age) % 3 if age else 0
                self._set(task, TaskState(("pending", "in_progress", "processing")[stage]))

    def sync(self, now: datetime) -> None:
        """Update the rows to a time. The rows of this data set do not depend on the time."""

    # -- content ------------------------------------------------------------------------------------

    def number_of(self, task: int) -> int:
        """Return the number of a task in names and references."""
        return task

    def auto_delay(self) -> int:
        """Return the delay of the schedule "auto" in seconds."""
        return _AUTO_DELAY

    def call_of(self, task: int) -> CallTimeline | None:
        """Return the timeline of the call of a task, or None if it has none."""
        return None

    def runs_of_space(self, token: str) -> Sequence[int]:
        """Return the runs of a space, oldest first."""
        return self._space_runs[token]

    def tasks_of_space(self, token: str) -> Sequence[int]:
        """Return the tasks of a space, oldest first."""
        return self._space_tasks[token]

    def tasks_of_agent(self, handle: str) -> Sequence[int]:
        """Return the tasks of an agent, oldest first."""
        return self._agent_tasks[handle]

    def tasks_of_run(self, run: int) -> Sequence[int]:
        """Return the tasks of a run, oldest first."""
        known = self._run_tasks.get(run)
        if known is not None:
            return known
        return range(self._firsts[run], self._firsts[run + 1]) if run < self._initial_runs else _NO_TASKS

    def find_run(self, run_id: str) -> int | None:
        """Return the run with this id, or None if there is none."""
        run = self.ids.ordinal("R", run_id)
        if run is None or run >= self._next_run:
            return None
        return run if _holds(self._space_runs[self.space_of(run)], run) else None

    def find_task(self, task_id: str) -> int | None:
        """Return the task with this id, or None if there is none."""
        task = self.ids.ordinal("T", task_id)
        if task is None or task >= self._next_task:
            return None
        return task if _holds(self._space_tasks[self.space_of(self.run_of(task))], task) else None

    def space_of(self, run: int) -> str:
        """Return the token of the space of a run."""
        added = self._added_runs.get(run)
        return accounts.MAIN_SPACE.token if added is None else added.space

    def run_of(self, task: int) -> int:
        """Return the run of a task."""
        if task < self.initial_tasks:
            return bisect_right(self._firsts, task) - 1
        return self.added[task].run

    def run_created(self, run: int) -> int:
        """Return when a run was created, in microseconds."""
        added = self._added_runs.get(run)
        return FIRST_RUN + run * _RUN_STEP if added is None else added.created

    def batch_count(self, run: int) -> int:
        """Return the number of tasks that the row of a run shows."""
        added = self._added_runs.get(run)
        if added is None or added.batch_count is None:
            return len(self.tasks_of_run(run))
        return added.batch_count

    def task_created(self, task: int) -> int:
        """Return when a task was created, in microseconds. Newer tasks of a space are never earlier."""
        if task >= self.initial_tasks:
            return self.added[task].created
        run = self.run_of(task)
        batch = (task - self._firsts[run]) // _BATCH
        return FIRST_RUN + run * _RUN_STEP + min(batch * _BATCH_STEP, _RUN_STEP - SECOND)

    # -- statuses -----------------------------------------------------------------------------------------

    def status_of(self, task: int) -> str:
        """Return the status of a task."""
        state = self._states.get(task)
        if state is not None:
            return state.status
        if task >= self.initial_tasks:
            return "completed"
        run = self.run_of(task)
        first = self._firsts[run]
        return _settled_status(_run_kind(self.seed, run, self._firsts[run + 1] - first), task - first)

    def status_of_run(self, run: int) -> str:
        """Return the status of a run. It follows from the statuses of its tasks while it has any."""
        tasks = self.tasks_of_run(run)
        if not tasks and run in self._last_status:
            return self._last_status[run]
        if run in self._counted or run >= self._initial_runs:
            return run_status({self.status_of(task) for task in tasks})
        return _run_kind(self.seed, run, self._firsts[run + 1] - self._firsts[run])

    def state_of(self, task: int) -> TaskState | None:
        """Return the state of a task that has changed or can change; None for one that cannot."""
        return self._states.get(task)

    def run_moved(self, run: int) -> int | None:
        """Return when a task of a run last changed, in microseconds; None if none ever did."""
        if run not in self._counted:
            return None
        states = (self._states.get(task) for task in self.tasks_of_run(run))
        return max((state.modified for state in states if state and state.modified), default=None)

    def advance(self) -> None:
        """Advance every task that has not ended by one step."""
        self.newest += SECOND
        for task in sorted(self._moving):
            self._counted.add(self.run_of(task))
            if not _advance(self._states[task], mix(self.seed, task), self.newest):
                self._moving.discard(task)

    def set_status(self, task: int, status: str) -> None:
        """Set the status of a task, as after a redial. The status of its run follows."""
        self.newest += SECOND
        self._counted.add(self.run_of(task))
        self._set(task, TaskState(status, modified=self.newest))

    def _set(self, task: int, state: TaskState) -> None:
        self._states[task] = state
        if state.status != "scheduled":
            self._moving.add(task)

    # -- changes ------------------------------------------------------------------------------------------

    def insert_run(self, space: str, created: int | None = None, batch_count: int | None = None) -> int:
        """Add an empty run at the start of the listing.

        Args:
            space: the token of its space.
            created: when it was created, in microseconds; later if another run is newer.
            batch_count: the number of tasks in its row, even if fewer could be stored. None: the number of
                tasks that it has.
        """
        self.newest = max(self.newest + SECOND, created or 0)
        return self._add_run(space, self.newest, batch_count)

    def _add_run(self, space: str, created: int, batch_count: int | None) -> int:
        run = self._next_run
        self._next_run += 1
        self._added_runs[run] = _AddedRun(space, created, batch_count)
        self._run_tasks[run] = []
        self._space_runs[space].append(run)
        return run

    def insert_task(self, added: AddedTask, status: str | None = "pending") -> int:
        """Add a task at the start of the listings. With status None, it is one that completed long ago."""
        task = self._add_task(added)
        if status is not None:
            self._set(task, TaskState(status))
        return task

    def _add_task(self, added: AddedTask) -> int:
        task = self._next_task
        self._next_task += 1
        self.added[task] = added
        run = added.run
        if run not in self._run_tasks:
            self._run_tasks[run] = list(self.tasks_of_run(run))
        self._run_tasks[run].append(task)
        self._counted.add(run)
        self._space_tasks[self.space_of(run)].append(task)
        if added.assignee in self._agent_tasks:
            self._agent_tasks[added.assignee].append(task)
        return task

    def tick(self) -> int:
        """Return a time one second after all others, in microseconds."""
        self.newest += SECOND
        return self.newest

    def delete_task(self, task: int) -> None:
        """Remove a task from every listing. A run that loses its last task keeps its status."""
        run = self.run_of(task)
        if len(self.tasks_of_run(run)) == 1:
            self._last_status[run] = self.status_of_run(run)
        self._run_tasks[run] = [other for other in self.tasks_of_run(run) if other != task]
        self._counted.add(run)
        _remove(self._space_tasks[self.space_of(run)], task)
        for tasks in self._agent_tasks.values():
            _remove(tasks, task)
        self._states.pop(task, None)
        self._moving.discard(task)

    def delete_run(self, run: int) -> None:
        """Remove a run and its tasks from every listing."""
        for task in self.tasks_of_run(run):
            self.delete_task(task)
        _remove(self._space_runs[self.space_of(run)], run)


def _holds(ordinals: array[int], ordinal: int) -> bool:
    place = bisect_left(ordinals, ordinal)
    return place < len(ordinals) and ordinals[place] == ordinal


def _remove(ordinals: array[int], ordinal: int) -> None:
    if _holds(ordinals, ordinal):
        del ordinals[bisect_left(ordinals, ordinal)]
