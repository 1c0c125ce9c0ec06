"""What rows tell that was not known, as events. No I/O, and nothing is noted here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from unpod_async._common import is_terminal
from unpod_async._watch.known import Known, KnownRun
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

__all__ = ["Compare"]


class Compare:
    """Answers of one space compared with what is known of it.

    Args:
        chosen: the runs that are watched; None for all.
    """

    def __init__(self, space_token: str, known: Known, chosen: frozenset[str] | None) -> None:
        self._space = space_token
        self._known = known
        self._chosen = chosen

    def runs(self, rows: Iterable[Run], at: datetime) -> list[Event]:
        """Of rows of the listing of runs. Rows without an id cannot be told apart, and are left out."""
        each = {row.run_id: row for row in rows}  # a page read by its number may repeat a row
        return [event for row in each.values() for event in self._run(row, at)]

    def _run(self, row: Run, at: datetime) -> Iterator[Event]:
        name = row.run_id
        if not name or (self._chosen is not None and name not in self._chosen):
            return
        run, new = self._known.runs.get(name), row.status or None
        if run is None:
            existing = self._known.last_resync is None
            yield RunSeen(
                space_token=self._space, seen_at=at, new=new, run_id=name, run=row, existing=existing
            )
        elif run.status != new:
            yield RunStatusChanged(
                space_token=self._space, seen_at=at, old=run.status, new=new, run_id=name, run=row
            )

    def tasks(self, rows: Iterable[Task], at: datetime, run_id: str | None = None) -> list[Event]:
        """Of rows of a listing of tasks; `run_id` where it is that of one run, whose rows may not say so.

        Tasks of runs that are not known are left out: they are read when their run has been met.
        """
        return [event for row in rows for event in self._task(row, run_id or row.run_id, at)]

    def _task(self, row: Task, run_id: str | None, at: datetime) -> Iterator[Event]:
        name = task_name(row)
        run = self._known.runs.get(run_id or "")
        if run_id is None or run is None or name is None:
            return
        new, space = row.status or None, self._space
        known = name in run.tasks
        old = run.tasks.get(name)
        if not known:
            yield TaskSeen(
                space_token=space,
                seen_at=at,
                new=new,
                run_id=run_id,
                task_id=name,
                task=row,
                existing=run.backfilling,
            )
        elif old != new:
            yield TaskStatusChanged(
                space_token=space, seen_at=at, old=old, new=new, run_id=run_id, task_id=name, task=row
            )
        elif name in run.pending_ended:
            old = None  # what it was before was told, and is not known any more
        else:
            return
        if is_terminal(new) and (known or not run.backfilling):
            yield CallEnded(
                space_token=space, seen_at=at, old=old, new=new, run_id=run_id, task_id=name, task=row
            )

    def gone_runs(self, names: Iterable[str], at: datetime) -> list[Event]:
        """Of runs that should have been met, and were not."""
        return [
            RunRemoved(space_token=self._space, seen_at=at, old=run.status, run_id=name)
            for name in names
            if (run := self._known.runs.get(name)) is not None
        ]

    def gone_tasks(self, run_id: str, met: Collection[str], at: datetime) -> list[Event]:
        """Of tasks of a run that was read whole; `met` are those that are there."""
        run = self._known.runs.get(run_id)
        if run is None:
            return []
        return [
            TaskRemoved(space_token=self._space, seen_at=at, old=status, run_id=run_id, task_id=name)
            for name, status in run.tasks.items()
            if name not in met
        ]

    def settled(self, run_id: str, run: KnownRun, at: datetime) -> list[Event]:
        """Of a run that was read whole; nothing when that is known, or when it has not ended."""
        if run.settled or not run.has_ended:
            return []
        counts = Counter(status or "" for status in run.tasks.values())
        return [
            RunSettled(
                space_token=self._space,
                seen_at=at,
                old=run.before,
                new=run.status,
                run_id=run_id,
                tasks=dict(counts),
            )
        ]


def task_name(row: Task) -> str | None:
    """What tells a task from others: its `task_id`, else the document's id."""
    return row.task_id or row.id
