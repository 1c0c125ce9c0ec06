"""The fields of a call that the output shows, and the colours of statuses and outcomes.

Statuses and outcomes are strings from the service, which may add others. Unknown ones have no colour.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from unpod_async._common import shorten
from unpod_async.errors import DecodeError

if TYPE_CHECKING:
    from unpod_async import Call, Task

__all__ = [
    "call_of",
    "cost_of",
    "duration_of",
    "name_of",
    "number_of",
    "outcome_of",
    "outcome_style",
    "status_style",
]

_MAX_TEXT: Final = 200
"""Maximum length of a string from the service."""

_GOOD: Final = "green"
_PARTIAL: Final = "yellow"
"""The call did not reach the person, or a run is completed in part."""
_BAD: Final = "red"
_ACTIVE: Final = "cyan"
_WAITING: Final = "blue"
"""A call is planned for later."""
_HELD: Final = "magenta"
"""The call is not placed until someone acts."""

_STATUSES: Final = {
    "completed": _GOOD,
    "partially_completed": _PARTIAL,
    "failed": _BAD,
    "in_progress": _ACTIVE,
    "processing": _ACTIVE,
    "running": _ACTIVE,
    "pending": _WAITING,
    "scheduled": _WAITING,
    "hold": _HELD,
}

# A call that ended with "Not Interested" is neither a success nor a failure, so it has no colour.
_OUTCOMES: Final = (
    (re.compile(r"fail|error|wrong number|invalid|do not call|dnd"), _BAD),
    (
        re.compile(
            r"no.?answer|not answered|unanswered|no response|voice ?mail|busy|reachable|not reached"
            r"|switched off|missed|hung up|disconnected|dropped|abandoned|cancell?ed|unknown"
        ),
        _PARTIAL,
    ),
    (re.compile(r"call.?back|follow.?up|re.?scheduled?|later|pending"), _WAITING),
    (re.compile(r"\b(not|no|un\w+|declined|rejected|refused)\b"), ""),
    (
        re.compile(
            r"interested|qualified|confirmed|booked|appointment|accepted|agreed|success|completed|converted"
            r"|\bsold\b"
        ),
        _GOOD,
    ),
)
"""The first pattern that is found in an outcome decides."""


def call_of(task: Task) -> Call | None:
    """Return the call of a task; None if it has none or its output cannot be read."""
    try:
        return task.call
    except DecodeError:
        # Its message would show some of the output.
        return None


def outcome_of(task: Task) -> str | None:
    """Return the outcome of a call on one line; None if the service does not state it."""
    try:
        outcome = task.call and task.call.outcome
    except DecodeError:
        return "(unreadable)"
    return shorten(outcome, _MAX_TEXT) if outcome else None


def duration_of(task: Task) -> float | None:
    """Return the duration of a call in seconds, from its start and end if needed; None if unknown."""
    call = call_of(task)
    if call is None:
        return None
    if call.duration is not None or call.started_at is None or call.ended_at is None:
        return call.duration
    return max((call.ended_at - call.started_at).total_seconds(), 0.0)


def cost_of(task: Task) -> float | None:
    """Return the cost of a call in USD; None if unknown."""
    call = call_of(task)
    return None if call is None else call.cost


def number_of(task: Task) -> object:
    """Return the phone number of the person: from the call, or else from the document."""
    document, call = task.input or {}, call_of(task)
    return (call and call.customer_number) or document.get("contact_number") or document.get("phone")


def name_of(task: Task) -> object:
    """Return the name of the person: from the document, or else from the call."""
    call = call_of(task)
    return (task.input or {}).get("name") or (call and call.customer)


def status_style(status: object) -> str:
    """Return the colour of a status of a run or task, or "" for an unknown one."""
    return _STATUSES.get(status, "") if isinstance(status, str) else ""


def outcome_style(outcome: object) -> str:
    """Return the colour of the outcome of a call, or "" for an unknown or neutral one."""
    if not isinstance(outcome, str):
        return ""
    words = re.sub(r"[\s_-]+", " ", outcome[:200]).casefold()
    return next((style for pattern, style in _OUTCOMES if pattern.search(words)), "")
