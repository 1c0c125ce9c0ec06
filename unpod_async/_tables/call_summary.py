"""The values of a call that people look at first, and totals of them over a run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from unpod_async._common import shorten
from unpod_async.errors import DecodeError

if TYPE_CHECKING:
    from unpod_async.models import Call, Task

__all__ = ["RunSummary", "call_of", "cost_of", "duration_of", "name_of", "number_of", "outcome_of"]

_MAX_TEXT: Final = 200
"""Maximum length of a string from the service."""


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


class RunSummary:
    """Totals over the calls of a run. The durations are in seconds, the costs in USD.

    Attributes:
        statuses: number of tasks per status.
        outcomes: number of calls per outcome.
        duration, cost: totals of the calls that have one; None if none has.
    """

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.duration: float | None = None
        self.cost: float | None = None

    def add(self, task: Task) -> None:
        self.statuses[task.status or ""] += 1
        if outcome := outcome_of(task):
            self.outcomes[outcome] += 1
        if (duration := duration_of(task)) is not None:
            self.duration = (self.duration or 0.0) + duration
        if (cost := cost_of(task)) is not None:
            self.cost = (self.cost or 0.0) + cost

    def fields(self) -> dict[str, Any]:
        return {
            "tasks": dict(self.statuses.most_common()),
            "outcomes": dict(self.outcomes.most_common()),
            "duration": self.duration,
            "cost": None if self.cost is None else round(self.cost, 6),
        }
