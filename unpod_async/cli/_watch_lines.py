"""An event of a watch on one line: of JSON, or for people. Nothing about people is in either."""

from __future__ import annotations

from typing import Any

import msgspec

from unpod_async._common import printable, shorten
from unpod_async.errors import DecodeError
from unpod_async.events import (
    CallEnded,
    Disconnected,
    Event,
    Reconnected,
    RunEvent,
    RunSeen,
    RunSettled,
    TaskEvent,
    TaskSeen,
)
from unpod_async.models import Task

__all__ = ["clock", "json_line", "length_of", "outcome_of", "text_line"]

_LONGEST = 200
"""Characters of a text of the service."""


def json_line(event: Event) -> bytes:
    """The event as a line of JSON; of a call's end its outcome, length in seconds, reason and cost in USD."""
    told: dict[str, Any] = {"event": type(event).__name__, "space": event.space_token}
    if isinstance(event, RunEvent):
        told["run"] = event.run_id
    if isinstance(event, TaskEvent):
        told["task"] = event.task_id
    told |= {"old": event.old, "new": event.new, "seen_at": event.seen_at}
    match event:
        case RunSeen() | TaskSeen():
            told["existing"] = event.existing
        case RunSettled():
            told["tasks"] = event.tasks
        case CallEnded():
            told |= _end_of(event.task)
        case Disconnected():
            told["reason"] = event.reason
        case Reconnected():
            told["after"] = round(event.after, 3)
        case _:
            pass
    return msgspec.json.encode(told)


def _end_of(task: Task) -> dict[str, Any]:
    try:
        call = task.call
    except DecodeError:
        # Its text would show some of the output.
        return {"outcome": None, "duration": None, "end_reason": None, "cost": None, "unreadable": True}
    return {
        "outcome": call and call.outcome,
        "duration": length_of(task),
        "end_reason": call and call.end_reason,
        "cost": call and call.cost,
    }


def length_of(task: Task) -> float | None:
    """Seconds that a call took, as stated or else from its start to its end; None when not known."""
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
    """How a call went, as one line; None when the service does not say."""
    try:
        outcome = task.call and task.call.outcome
    except DecodeError:
        return "(cannot be read)"
    return shorten(outcome, _LONGEST) if outcome else None


def clock(seconds: float) -> str:
    """A length of time as m:ss, or h:mm:ss."""
    minutes, rest = divmod(int(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def text_line(event: Event) -> str:
    """The event for people who read lines; the time is local."""
    return printable(f"{event.seen_at.astimezone():%H:%M:%S}  {_said(event)}")


def _said(event: Event) -> str:
    match event:
        case Disconnected():
            return f"space {event.space_token} disconnected: {event.reason}"
        case Reconnected():
            return f"space {event.space_token} connected again after {clock(event.after)}"
        case CallEnded():
            told = [outcome_of(event.task) or event.new or "-"]
            if (length := length_of(event.task)) is not None:
                told.append(clock(length))
            return f"task {event.task_id} ended: {', '.join(told)}"
        case RunSettled():
            counts = ", ".join(f"{status} {count:,}" for status, count in event.tasks.items())
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
    # Only rows that are gone have nothing new.
    return (
        f"{event.old or '-'} → {event.new or ('gone' if type(event).__name__.endswith('Removed') else '-')}"
    )
