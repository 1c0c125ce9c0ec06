"""An event of a watch as one line, of JSON or of text. Neither contains data about people."""

from __future__ import annotations

from datetime import tzinfo
from typing import Any

import msgspec

from unpod_async._common import printable
from unpod_async._tables import duration_of, outcome_of
from unpod_async.cli.output import clock, local_time, zone_name
from unpod_async.errors import DecodeError
from unpod_async.events import (
    CallEnded,
    Disconnected,
    Event,
    Reconnected,
    RunEvent,
    RunRemoved,
    RunSeen,
    RunSettled,
    TaskEvent,
    TaskRemoved,
    TaskSeen,
)
from unpod_async.models import Task

__all__ = ["json_line", "text_line"]


def json_line(event: Event) -> bytes:
    """Return the event as JSON. For the end of a call it has the duration in seconds and the cost in USD."""
    line: dict[str, Any] = {"event": type(event).__name__, "space": event.space_token}
    if isinstance(event, RunEvent):
        line["run"] = event.run_id
    if isinstance(event, TaskEvent):
        line["task"] = event.task_id
    line |= {"old": event.old, "new": event.new, "seen_at": event.seen_at}
    match event:
        case RunSeen() | TaskSeen():
            line["existing"] = event.existing
        case RunSettled():
            line["tasks"] = event.tasks
        case CallEnded():
            line |= _fields_of(event.task)
        case Disconnected():
            line["reason"] = event.reason
        case Reconnected():
            line["after"] = round(event.after, 3)
        case _:
            pass
    return msgspec.json.encode(line)


def _fields_of(task: Task) -> dict[str, Any]:
    try:
        call = task.call
    except DecodeError:
        # Its message would show some of the output.
        return {"outcome": None, "duration": None, "end_reason": None, "cost": None, "unreadable": True}
    return {
        "outcome": call and call.outcome,
        "duration": duration_of(task),
        "end_reason": call and call.end_reason,
        "cost": call and call.cost,
    }


def text_line(event: Event, zone: tzinfo | None = None) -> str:
    """Return the event as text, with the time in a zone; None is the zone of this machine."""
    at = local_time(event.seen_at, zone)
    return printable(f"{at:%H:%M:%S} {zone_name(at)}  {_description(event)}")


def _description(event: Event) -> str:
    match event:
        case Disconnected():
            return f"space {event.space_token} disconnected: {event.reason}"
        case Reconnected():
            return f"space {event.space_token} reconnected after {clock(event.after)}"
        case CallEnded():
            parts = [outcome_of(event.task) or event.new or "-"]
            if (duration := duration_of(event.task)) is not None:
                parts.append(clock(duration))
            return f"task {event.task_id} ended: {', '.join(parts)}"
        case RunSettled():
            counts = ", ".join(f"{count:,} {status}" for status, count in event.tasks.items())
            return f"run {event.run_id} settled: {event.new}{f' ({counts})' if counts else ''}"
        case TaskEvent():
            return f"task {event.task_id} of run {event.run_id}: {_change(event)}"
        case RunEvent():
            return f"run {event.run_id}: {_change(event)}"
        case _:
            return type(event).__name__


def _change(event: Event) -> str:
    if isinstance(event, RunSeen | TaskSeen):
        return f"{event.new or '-'}{'' if event.existing else ' (new)'}"
    removed = isinstance(event, RunRemoved | TaskRemoved)
    return f"{event.old or '-'} → {'removed' if removed else event.new or '-'}"
