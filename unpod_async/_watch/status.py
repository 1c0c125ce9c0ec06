"""When a run has ended."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["has_ended", "run_has_ended"]

_ENDED = frozenset({"completed", "failed"})


def has_ended(status: str | None) -> bool:
    """Whether a task with this status has ended. Not for ever: a failed one may be tried again."""
    return status in _ENDED


def run_has_ended(status: str | None, tasks: Iterable[str | None]) -> bool:
    """Whether a run with this status, and tasks with these, has settled.

    "partially_completed" is what some failed tasks among completed ones make of it.
    """
    return (has_ended(status) or status == "partially_completed") and all(map(has_ended, tasks))
