"""Apply the events of a watch one by one, and check that none of them reports what is known already."""

from __future__ import annotations

from typing import Any

from unpod_async import (
    CallEnded,
    Disconnected,
    Reconnected,
    RunRemoved,
    RunSeen,
    RunSettled,
    RunStatusChanged,
    TaskRemoved,
    TaskSeen,
    TaskStatusChanged,
)
from unpod_async.events import Event
from unpod_async.testing import Sandbox

__all__ = ["Replay", "held_by"]

ENDED = {"completed", "failed"}


class Replay:
    """The runs and tasks that follow from the events alone."""

    def __init__(self) -> None:
        self.runs: dict[str, str | None] = {}
        self.tasks: dict[tuple[str, str], str | None] = {}
        self.settled: set[str] = set()
        self.pending_ended: set[tuple[str, str]] = set()
        """Tasks that have ended and whose `CallEnded` has not been reported yet."""
        self.connected = True
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        self.events.append(event)
        assert event.old != event.new or isinstance(event, RunSettled), event
        match event:
            case RunSeen():
                assert event.run_id not in self.runs, event
                assert event.run.status == event.new
                self.runs[event.run_id] = event.new
            case RunStatusChanged():
                assert self.runs[event.run_id] == event.old, event
                self.runs[event.run_id] = event.new
                self.settled.discard(event.run_id)
            case RunSettled():
                assert event.run_id not in self.settled, event
                assert self.runs[event.run_id] in ENDED | {"partially_completed"}, event
                assert all(status in ENDED for (run, _), status in self.tasks.items() if run == event.run_id)
                assert sum(event.tasks.values()) == sum(run == event.run_id for run, _ in self.tasks)
                self.settled.add(event.run_id)
            case RunRemoved():
                assert self.runs.pop(event.run_id) == event.old, event
                self.settled.discard(event.run_id)
                for key in [key for key in self.tasks if key[0] == event.run_id]:
                    del self.tasks[key]
                    self.pending_ended.discard(key)
            case TaskSeen():
                assert event.run_id in self.runs, event
                assert (event.run_id, event.task_id) not in self.tasks, event
                self._task(event.run_id, event.task_id, event.new, ends=not event.existing)
            case TaskStatusChanged():
                assert self.tasks[event.run_id, event.task_id] == event.old, event
                self._task(event.run_id, event.task_id, event.new)
            case CallEnded():
                key = event.run_id, event.task_id
                assert key in self.pending_ended, event
                assert self.tasks[key] == event.new
                self.pending_ended.remove(key)
            case TaskRemoved():
                assert self.tasks.pop((event.run_id, event.task_id)) == event.old, event
                self.settled.discard(event.run_id)
                self.pending_ended.discard((event.run_id, event.task_id))
            case Disconnected():
                assert self.connected
                self.connected = False
            case Reconnected():
                assert not self.connected
                self.connected = True
            case _:
                raise AssertionError(event)

    def _task(self, run_id: str, task_id: str, status: str | None, *, ends: bool = True) -> None:
        self.tasks[run_id, task_id] = status
        self.settled.discard(run_id)
        if status in ENDED and ends:
            self.pending_ended.add((run_id, task_id))
        else:
            self.pending_ended.discard((run_id, task_id))

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


def held_by(sandbox: Sandbox) -> tuple[dict[str, Any], dict[tuple[str, str], Any]]:
    """Return the runs and tasks of the main space with their statuses."""
    runs = {row["run_id"]: row["status"] for row in sandbox.run_rows()}
    tasks = {(row["run_id"], row["task_id"]): row["status"] for row in sandbox.task_rows()}
    return runs, tasks
