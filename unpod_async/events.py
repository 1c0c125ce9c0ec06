"""Events of `runs.watch`: frozen structs, one for each change, in the order in which changes are detected.

Each event says what changed (the status before and after), where, and when it was seen. Applying the events
in order to the state at the start of the watch (by default empty) gives the current state of the server.

    RunSeen RunStatusChanged RunSettled RunRemoved     a run
    TaskSeen TaskStatusChanged CallEnded TaskRemoved   a task of a run
    Disconnected Reconnected                           the connection to a space

Use `match` or `isinstance` to tell them apart. `event.to_dict()` and `event.to_json()` return
`{"event": "RunSeen", ...}` with the complete rows: names and phone numbers, but not the access token in
`user_info`, which `msgspec.json.encode` includes. Their `repr` contains none of these and is safe to log.
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
    """Base class of all events.

    Attributes:
        space_token: token of the space in which something changed.
        seen_at: when the change was seen, as a timezone-aware datetime in UTC. The change itself
            happened earlier, at some time since the previous read.
        old: the status before the change; None if it is not known.
        new: the status after the change; None if there is none, as after a removal.
    """

    _brief: ClassVar[tuple[str, ...]] = ("space_token", "old", "new")

    space_token: str
    seen_at: datetime
    old: str | None = None
    new: str | None = None


class RunEvent(Event, kw_only=True, frozen=True):
    """Base class of the events of runs and tasks.

    Attributes:
        run_id: the id of the run.
    """

    _brief: ClassVar[tuple[str, ...]] = ("run_id", "old", "new")

    run_id: str


class RunSeen(RunEvent, kw_only=True, frozen=True):
    """A run was seen for the first time.

    Attributes:
        run: the row of the run.
        existing: True if the run may have existed before the watch: it was seen before the first resync
            was complete, or the watch resumed and the earlier watch did not include the run.
    """

    run: Run
    existing: bool = False


class RunStatusChanged(RunEvent, kw_only=True, frozen=True):
    """The status of a run changed. A status can also return to an earlier value.

    Attributes:
        run: the row of the run.
    """

    run: Run


class RunSettled(RunEvent, kw_only=True, frozen=True):
    """A run and all its tasks have ended.

    The status of the run is "completed", "failed" or "partially_completed", and each of its tasks is
    "completed" or "failed". With `tasks=False`, only the status of the run counts. If something in the run
    changes later, this event is reported again once the run has ended again. `old` is the status of the run
    before its last change.

    Attributes:
        tasks: the number of tasks by status; empty with `tasks=False`.
    """

    tasks: dict[str, int]


class RunRemoved(RunEvent, kw_only=True, frozen=True):
    """A run is no longer listed, and neither are its tasks."""


class TaskEvent(RunEvent, kw_only=True, frozen=True):
    """Base class of the events of tasks.

    Attributes:
        task_id: the id of the task.
    """

    _brief: ClassVar[tuple[str, ...]] = ("task_id", "run_id", "old", "new")

    task_id: str


class TaskSeen(TaskEvent, kw_only=True, frozen=True):
    """A task was seen for the first time.

    Attributes:
        task: the row of the task.
        existing: True if the task was seen when the tasks of an existing run were first read.
    """

    task: Task
    existing: bool = False


class TaskStatusChanged(TaskEvent, kw_only=True, frozen=True):
    """The status of a task changed. A status can also return to an earlier value: failed tasks are retried.

    Attributes:
        task: the row of the task.
    """

    task: Task


class CallEnded(TaskEvent, kw_only=True, frozen=True):
    """A call ended: the status of its task became "completed" or "failed".

    It is not reported for tasks that ended before the watch started. After a restart, `old` is None if the
    earlier watch reported the change of status but not this event.

    Attributes:
        task: the row of the task.
    """

    task: Task

    @property
    def call(self) -> Call | None:
        """The result of the call, as `Task.call`; None if the server sent no output.

        Raises:
            DecodeError: the output is not valid JSON.
        """
        return self.task.call


class TaskRemoved(TaskEvent, kw_only=True, frozen=True):
    """A task is no longer listed, although its run was still listed when the task was found missing."""


class Disconnected(Event, kw_only=True, frozen=True):
    """A space cannot be read completely. Reported once for each outage; polling continues.

    Attributes:
        reason: the message of the error.
    """

    reason: str


class Reconnected(Event, kw_only=True, frozen=True):
    """A space can be read again.

    Attributes:
        after: seconds since `Disconnected`.
    """

    after: float
