"""What a watch has to tell of a sandbox, worked out from the sandbox's own rows before and after.

Nothing of the library's watch is used here: a demo that asked it what to expect would prove nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from unpod_async.testing.sandbox import Sandbox

__all__ = ["EventKey", "Snapshot", "differences", "gone_with_runs", "there"]

_ENDED: Final = frozenset({"completed", "failed"})
_SETTLED: Final = _ENDED | {"partially_completed"}


class EventKey(NamedTuple):
    """What an event says. A settled run's old status is left out: which one it was is a matter of polls."""

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
        """What the main space of a sandbox holds now."""
        runs = {row["run_id"]: row["status"] for row in sandbox.run_rows()}
        tasks: dict[str, dict[str, str]] = {run: {} for run in runs}
        for row in sandbox.task_rows():
            tasks[row["run_id"]][row["task_id"]] = row["status"]
        return cls(runs, tasks)


def there(now: Snapshot) -> Counter[EventKey]:
    """What a watch tells that begins: all that is there, and nothing of what has ended."""
    told = [EventKey("RunSeen", run, new=status) for run, status in now.runs.items()]
    for run, tasks in now.tasks.items():
        told += [EventKey("TaskSeen", run, task, new=status) for task, status in tasks.items()]
    return Counter(told)


def differences(before: Snapshot, after: Snapshot) -> Counter[EventKey]:
    """What a watch tells that knows `before` and comes to know `after`."""
    told: list[EventKey] = []
    for run, old in before.runs.items():
        if run not in after.runs:
            # Its tasks have gone with it, which needs no telling.
            told.append(EventKey("RunRemoved", run, old=old))
    for run, status in after.runs.items():
        changes = list(_changes(run, before, after))
        if changes and status in _SETTLED and _ENDED.issuperset(after.tasks[run].values()):
            changes.append(EventKey("RunSettled", run, new=status))
        told += changes
    return Counter(told)


def gone_with_runs(before: Snapshot, after: Snapshot) -> set[EventKey]:
    """What may be told besides: that tasks are gone, where they are looked for before their run is."""
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
    had, has = before.tasks.get(run, {}), after.tasks[run]
    for task in had.keys() - has.keys():
        yield EventKey("TaskRemoved", run, task, old=had[task])
    for task, now in has.items():
        was = had.get(task)
        if was == now:
            continue
        yield EventKey("TaskSeen" if was is None else "TaskStatusChanged", run, task, was, now)
        if now in _ENDED:
            yield EventKey("CallEnded", run, task, was, now)
