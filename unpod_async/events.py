"""What a watch tells: frozen structs, one per change, in the order in which the changes were seen.

Each says what changed (`old` and `new`: statuses of the run or task), where, and when it was seen. Told one
by one they lead from nothing, or from the state that a watch was started with, to what the server holds.

    RunSeen RunStatusChanged RunSettled RunRemoved     a run
    TaskSeen TaskStatusChanged CallEnded TaskRemoved   a task of a run
    Disconnected Reconnected                        the service cannot be reached, and can again

`match` them, or ask `isinstance`. They encode with `msgspec.json` (`{"event": "RunSeen", …}`), and then hold
all that is in their rows: names, numbers, an access token in `user_info`. Log their reprs, which do not.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from unpod_async._call_output import Call, Record
from unpod_async.models import Run, Task

__all__ = [
    "CallEnded",
    "Disconnected",
    "Event",
    "Reconnected",
    "RunEvent",
    "RunRemoved",
    "RunSeen",
    "RunSettled",
    "RunStatusChanged",
    "TaskEvent",
    "TaskRemoved",
    "TaskSeen",
    "TaskStatusChanged",
]


class Event(Record, kw_only=True, frozen=True, tag=True, tag_field="event"):
    """Something that was seen.

    Attributes:
        space_token: the space it was seen in.
        seen_at: when, as an aware datetime in UTC; it happened at some time after the poll before.
        old, new: the status before and after. None: not known before; gone.
    """

    _brief: ClassVar[tuple[str, ...]] = ("space_token", "old", "new")

    space_token: str
    seen_at: datetime
    old: str | None = None
    new: str | None = None


class RunEvent(Event, kw_only=True, frozen=True):
    """Something about the run `run_id`."""

    _brief: ClassVar[tuple[str, ...]] = ("run_id", "old", "new")

    run_id: str


class RunSeen(RunEvent, kw_only=True, frozen=True):
    """A run that was not known.

    Attributes:
        run: its row.
        existing: it was met before the first resync had come to its end, or was not asked for before.
    """

    run: Run
    existing: bool = False


class RunStatusChanged(RunEvent, kw_only=True, frozen=True):
    """A run's status is another one. It does not only go forward.

    Attributes:
        run: its row.
    """

    run: Run


class RunSettled(RunEvent, kw_only=True, frozen=True):
    """A run and all its tasks have ended. Told again when something in it changed afterwards.

    Its status is completed, failed or partially_completed, and each task is completed or failed; with
    `tasks=False` the status alone decides. `old` is the run's status before the last change.

    Attributes:
        tasks: how many tasks have each status; empty with `tasks=False`.
    """

    tasks: dict[str, int]


class RunRemoved(RunEvent, kw_only=True, frozen=True):
    """A run is no longer listed, and neither are its tasks."""


class TaskEvent(RunEvent, kw_only=True, frozen=True):
    """Something about the task `task_id` of the run `run_id`."""

    _brief: ClassVar[tuple[str, ...]] = ("task_id", "run_id", "old", "new")

    task_id: str


class TaskSeen(TaskEvent, kw_only=True, frozen=True):
    """A task that was not known.

    Attributes:
        task: its row.
        existing: it was met when the tasks of a run that was there at the start were first read.
    """

    task: Task
    existing: bool = False


class TaskStatusChanged(TaskEvent, kw_only=True, frozen=True):
    """A task's status is another one. It does not only go forward: failed tasks are tried again.

    Attributes:
        task: its row.
    """

    task: Task


class CallEnded(TaskEvent, kw_only=True, frozen=True):
    """A task came to be completed or failed. Not told of tasks that had ended when the watch began.

    After a restart `old` may be None: the change was told before, and its end was not.

    Attributes:
        task: its row.
    """

    task: Task

    @property
    def call(self) -> Call | None:
        """What became of the call, as `Task.call`; None when the server sent no output.

        Raises `DecodeError` when the output is not JSON that can be read.
        """
        return self.task.call


class TaskRemoved(TaskEvent, kw_only=True, frozen=True):
    """A task is no longer listed. Its run is, or was a moment before."""


class Disconnected(Event, kw_only=True, frozen=True):
    """The space cannot be read, or not to its end: an outage, told once. The watch goes on asking.

    Attributes:
        reason: the error's text.
    """

    reason: str


class Reconnected(Event, kw_only=True, frozen=True):
    """The space can be read again.

    Attributes:
        after: seconds since `Disconnected`.
    """

    after: float
