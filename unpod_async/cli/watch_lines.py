"""An event of a watch as one line, of JSON or of text. Neither contains data about people."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from unpod_async._common import printable, shorten
from unpod_async.cli.output import clock
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

__all__ = ["duration_of", "json_line", "outcome_of", "text_line"]

_MAX_TEXT: Final = 200
"""Characters of a text of the service."""


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
            line |= _call_fields(event.task)
        case Disconnected():
            line["reason"] = event.reason
        case Reconnected():
            line["after"] = round(event.after, 3)
        case _:
            pass
    return msgspec.json.encode(line)


def _call_fields(task: Task) -> dict[str, Any]:
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


def duration_of(task: Task) -> float | None:
    """Return the duration of a call in seconds, from its start and end if needed; None if unknown."""
    try:
        call = task.call
    except DecodeError:
        return None
    if call is None:
        return None
    if call.duration is not None or call.started_at is None or call.ended_at is None:
        return call.duration
    return max((call.ended_at - call.started_at).total_seconds(), 0.0)


def outcome_of(task: Task) -> str | None:
    """Return the outcome of a call on one line; None if the service does not state it."""
    try:
        outcome = task.call and task.call.outcome
    except DecodeError:
        return "(unreadable)"
    return shorten(outcome, _MAX_TEXT) if outcome else None


def text_line(event: Event) -> str:
    """Return the event as text, with the local time."""
    return printable(f"{event.seen_at.astimezone():%H:%M:%S}  {_description(event)}")


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
