"""What a watch has told of a space so far. No I/O."""

from __future__ import annotations

import msgspec

from unpod_async._common import is_terminal, run_has_ended
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

__all__ = ["Known", "KnownRun"]


class KnownRun(msgspec.Struct):
    """A run that was told of.

    Attributes:
        status: the status told last; `before` is the one before that.
        tasks: the statuses of its tasks, by id.
        settled: it was told, or known from the start, that all of it has ended, and nothing changed since.
        backfilling: it was there when the watch began, and its tasks have not all been read: tasks that
            have ended may have ended long ago.
        read: its tasks were all read once, so that those which are not known yet are newer.
        pending_ended: tasks that were told to have ended, but for their `CallEnded`.
        depth: how many runs stood behind it when it was met last; None when not known.
        active: something in it was seen to change, or it is new.
        changed, due: when something in it changed last, as far as was seen, and when to look again; on the
            clock of the watch.
        failures: readings of its tasks that failed in a row.
    """

    status: str | None
    before: str | None = None
    tasks: dict[str, str | None] = msgspec.field(default_factory=dict[str, str | None])
    settled: bool = False
    backfilling: bool = False
    read: bool = False
    pending_ended: set[str] = msgspec.field(default_factory=set[str])
    depth: int | None = None
    active: bool = False
    changed: float = 0.0
    due: float = 0.0
    failures: int = 0

    @property
    def has_ended(self) -> bool:
        return run_has_ended(self.status, self.tasks.values(), all_tasks_read=True)


class Known:
    """The runs of one space by id. It changes with what is told, and with nothing else."""

    def __init__(self) -> None:
        self.runs: dict[str, KnownRun] = {}
        self.last_resync: float | None = None
        """When the last whole resync began, unix seconds. None: what is there has not all been told yet."""
        self.unverified: set[str] = set()
        """Runs told since the newest ones were last read down to known ones: there may be others behind."""

    def apply(self, event: Event, now: float) -> None:
        """`event` was told at `now` on the clock of the watch."""
        match event:
            case RunSeen():
                self.runs[event.run_id] = KnownRun(
                    event.new, backfilling=event.existing, active=not event.existing, changed=now
                )
                self.unverified.add(event.run_id)
            case RunRemoved():
                self.runs.pop(event.run_id, None)
                self.unverified.discard(event.run_id)
            case RunSettled():
                self.runs[event.run_id].settled = True
            case RunStatusChanged():
                run = self.runs[event.run_id]
                run.before, run.status = run.status, event.new
                self._touch(run, now)
            case TaskSeen() if event.existing:
                run = self.runs[event.run_id]
                run.tasks[event.task_id] = event.new
            case TaskSeen() | TaskStatusChanged():
                run = self.runs[event.run_id]
                run.tasks[event.task_id] = event.new
                if is_terminal(event.new):
                    run.pending_ended.add(event.task_id)
                else:
                    run.pending_ended.discard(event.task_id)
                self._touch(run, now)
            case CallEnded():
                self.runs[event.run_id].pending_ended.discard(event.task_id)
            case TaskRemoved():
                run = self.runs[event.run_id]
                run.tasks.pop(event.task_id, None)
                run.pending_ended.discard(event.task_id)
                self._touch(run, now)
            case _:
                pass

    @staticmethod
    def _touch(run: KnownRun, now: float) -> None:
        run.settled, run.active = False, True
        run.changed = run.due = now
