"""The events that a watch must report, computed from the rows of the sandbox before and after a change.

It uses nothing of the library's watch: with the same code on both sides, the comparison would prove nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from unpod_async.testing.sandbox import Sandbox

__all__ = ["EventKey", "Snapshot", "change_events", "initial_events", "removals_with_runs"]

_ENDED: Final = frozenset({"completed", "failed"})
_SETTLED: Final = _ENDED | {"partially_completed"}


class EventKey(NamedTuple):
    """The identity of an event. The old status of a settled run is left out: it depends on the polls."""

    event: str
    run: str | None = None
    task: str | None = None
    old: str | None = None
    new: str | None = None


class Snapshot(NamedTuple):
    """The statuses of runs, and of the tasks of each run, by id."""

    runs: dict[str, str]
    tasks: dict[str, dict[str, str]]

    @classmethod
    def of(cls, sandbox: Sandbox) -> Snapshot:
        """Return the current contents of the main space of a sandbox."""
        runs = {row["run_id"]: row["status"] for row in sandbox.run_rows()}
        tasks: dict[str, dict[str, str]] = {run: {} for run in runs}
        for row in sandbox.task_rows():
            tasks[row["run_id"]][row["task_id"]] = row["status"]
        return cls(runs, tasks)


def initial_events(now: Snapshot) -> Counter[EventKey]:
    """Return the events of a watch that starts: one for each run and task, and none for what has ended."""
    events = [EventKey("RunSeen", run, new=status) for run, status in now.runs.items()]
    for run, tasks in now.tasks.items():
        events += [EventKey("TaskSeen", run, task, new=status) for task, status in tasks.items()]
    return Counter(events)


def change_events(before: Snapshot, after: Snapshot) -> Counter[EventKey]:
    """Return the events of a watch for the changes from `before` to `after`."""
    events: list[EventKey] = []
    for run, old in before.runs.items():
        if run not in after.runs:
            # Its tasks are removed with it, without events.
            events.append(EventKey("RunRemoved", run, old=old))
    for run, status in after.runs.items():
        changes = list(_changes(run, before, after))
        if changes and status in _SETTLED and _ENDED.issuperset(after.tasks[run].values()):
            changes.append(EventKey("RunSettled", run, new=status))
        events += changes
    return Counter(events)


def removals_with_runs(before: Snapshot, after: Snapshot) -> set[EventKey]:
    """Return the events that are optional: removed tasks, if they are read before their run."""
    return {
        EventKey("TaskRemoved", run, task, old=status)
        for run in before.runs.keys() - after.runs.keys()
        for task, status in before.tasks[run].items()
    }


def _changes(run: str, before: Snapshot, after: Snapshot) -> Iterator[EventKey]:
    old, new = before.runs.get(run), after.runs[run]
    if old is None:
        yield EventKey("RunSeen", run, new=new)
    elif old != new:
        yield EventKey("RunStatusChanged", run, old=old, new=new)
    old_tasks, new_tasks = before.tasks.get(run, {}), after.tasks[run]
    for task in old_tasks.keys() - new_tasks.keys():
        yield EventKey("TaskRemoved", run, task, old=old_tasks[task])
    for task, now in new_tasks.items():
        before_status = old_tasks.get(task)
        if before_status == now:
            continue
        kind = "TaskSeen" if before_status is None else "TaskStatusChanged"
        yield EventKey(kind, run, task, before_status, now)
        if now in _ENDED:
            yield EventKey("CallEnded", run, task, before_status, now)
