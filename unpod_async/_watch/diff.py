"""Compare rows with the known state, and return the differences as events. No I/O, no changes of state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from unpod_async._common import is_terminal
from unpod_async._watch.state import Known, ReportedRun
from unpod_async.events import (
    CallEnded,
    Event,
    RunRemoved,
    RunSeen,
    RunSettled,
    RunStatusChanged,
    TaskRemoved,
    TaskSeen,
    TaskStatusChanged,
)
from unpod_async.models import Run, Task

__all__ = ["Diff", "task_key"]


class Diff:
    """Compares rows of one space with what is known about it.

    Args:
        run_ids: the runs that are watched; None for all.
    """

    def __init__(self, space_token: str, known: Known, run_ids: frozenset[str] | None) -> None:
        self._space = space_token
        self._known = known
        self._run_ids = run_ids

    def runs(self, rows: Iterable[Run], at: datetime) -> list[Event]:
        """Return the changes that rows of runs show. Rows without an id are ignored."""
        unique = {row.run_id: row for row in rows}  # a page that is read by its number may repeat a row
        return [event for row in unique.values() for event in self._run(row, at)]

    def _run(self, row: Run, at: datetime) -> Iterator[Event]:
        run_id = row.run_id
        if not run_id or (self._run_ids is not None and run_id not in self._run_ids):
            return
        run, new = self._known.runs.get(run_id), row.status or None
        if run is None:
            existing = self._known.last_resync is None
            yield RunSeen(
                space_token=self._space, seen_at=at, new=new, run_id=run_id, run=row, existing=existing
            )
        elif run.status != new:
            yield RunStatusChanged(
                space_token=self._space, seen_at=at, old=run.status, new=new, run_id=run_id, run=row
            )

    def tasks(self, rows: Iterable[Task], at: datetime, run_id: str | None = None) -> list[Event]:
        """Return the changes that rows of tasks show.

        Tasks of unknown runs are ignored: they are read once their run has been reported.

        Args:
            run_id: the run whose tasks were listed; the rows may not contain it. None, the default, for the
                listing of a space.
        """
        return [event for row in rows for event in self._task(row, run_id or row.run_id, at)]

    def _task(self, row: Task, run_id: str | None, at: datetime) -> Iterator[Event]:
        task_id = task_key(row)
        run = self._known.runs.get(run_id or "")
        if run_id is None or run is None or task_id is None:
            return
        new, space = row.status or None, self._space
        is_known = task_id in run.tasks
        old = run.tasks.get(task_id)
        if not is_known:
            yield TaskSeen(
                space_token=space,
                seen_at=at,
                new=new,
                run_id=run_id,
                task_id=task_id,
                task=row,
                existing=run.backfilling,
            )
        elif old != new:
            yield TaskStatusChanged(
                space_token=space, seen_at=at, old=old, new=new, run_id=run_id, task_id=task_id, task=row
            )
        elif task_id in run.pending_ended:
            old = None  # the status before the change was reported already and is no longer known
        else:
            return
        if is_terminal(new) and (is_known or not run.backfilling):
            yield CallEnded(
                space_token=space, seen_at=at, old=old, new=new, run_id=run_id, task_id=task_id, task=row
            )

    def removed_runs(self, run_ids: Iterable[str], at: datetime) -> list[Event]:
        """Return the events for runs that are no longer listed."""
        return [
            RunRemoved(space_token=self._space, seen_at=at, old=run.status, run_id=run_id)
            for run_id in sorted(run_ids)
            if (run := self._known.runs.get(run_id)) is not None
        ]

    def removed_tasks(self, run_id: str, listed: Collection[str], at: datetime) -> list[Event]:
        """Return the events for known tasks of a run that are not among all its `listed` tasks."""
        run = self._known.runs.get(run_id)
        if run is None:
            return []
        return [
            TaskRemoved(space_token=self._space, seen_at=at, old=status, run_id=run_id, task_id=task_id)
            for task_id, status in run.tasks.items()
            if task_id not in listed
        ]

    def settled(self, run_id: str, run: ReportedRun, at: datetime) -> list[Event]:
        """Return the event for a run whose tasks have all been read, if it has newly settled."""
        if run.settled or not run.has_ended():
            return []
        counts = Counter(status or "" for status in run.tasks.values())
        return [
            RunSettled(
                space_token=self._space,
                seen_at=at,
                old=run.previous_status,
                new=run.status,
                run_id=run_id,
                tasks=dict(counts),
            )
        ]


def task_key(row: Task) -> str | None:
    """Return what identifies a task: its `task_id`, or else the id of its document."""
    return row.task_id or row.id
