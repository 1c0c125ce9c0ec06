"""How the status of a task changes, and how that of a run follows from its tasks."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from unpod_async.testing.data import mix

__all__ = ["TaskState", "move", "run_kind", "run_status", "settled_status"]

_MAX_FAILURES = 2
_UNDER_WAY = {"in_progress", "processing", "hold"}
_KINDS = (*["completed"] * 10, *["partially_completed"] * 3, "failed", "in_progress", "scheduled")


@dataclass(slots=True)
class TaskState:
    """The state of a task that has changed or can change. `modified` is in microseconds or None."""

    status: str
    failures: int = 0
    retries: int = 0
    modified: int | None = None


def move(state: TaskState, bits: int, moment: int) -> bool:
    """Advance a state by one step, and return whether it can change again.

    pending -> in_progress -> completed or failed. A failed call may go back to pending, twice at most.
    """
    chance = mix(bits, 3 * state.failures + state.retries)
    match state.status:
        case "pending":
            state.status = "in_progress"
        case "in_progress" | "processing":
            state.status = "failed" if chance % 4 == 0 else "completed"
            state.failures += state.status == "failed"
        case "failed" if state.retries < _MAX_FAILURES and chance % 3:
            state.status = "pending"
            state.retries += 1
        case _:
            return False
    state.modified = moment
    return state.status != "completed"


def run_kind(seed: int, run: int, size: int) -> str:
    """Return the status of an old run, from which those of its tasks follow (see `settled_status`)."""
    kind = _KINDS[mix(seed + 1, run) % len(_KINDS)]
    return "completed" if size < 2 and kind in {"partially_completed", "in_progress"} else kind


def settled_status(kind: str, index: int) -> str:
    """Return the status of task number `index` of an old run. A task on hold keeps its run in progress."""
    if kind == "in_progress":
        return "hold" if index == 0 else "completed"
    if kind == "partially_completed":
        return "completed" if index % 3 else "failed"
    return kind


def run_status(statuses: AbstractSet[str]) -> str:
    """Return the status of a run whose tasks have these statuses. A run without tasks is pending."""
    if not statuses:
        return "pending"
    if len(statuses) == 1:
        (only,) = statuses
        return "in_progress" if only in _UNDER_WAY else only
    return "partially_completed" if statuses <= {"completed", "failed"} else "in_progress"
