"""When a task or a run has ended: one rule for exports, watches and waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

__all__ = ["RunStatus", "TaskStatus", "count_active", "is_terminal", "is_terminal_run", "run_has_ended"]

TaskStatus: TypeAlias = Literal[
    "pending", "scheduled", "hold", "in_progress", "processing", "completed", "failed"
]
"""The statuses of tasks that the service documents or sends. It may add others."""

RunStatus: TypeAlias = Literal[
    "pending",
    "scheduled",
    "hold",
    "in_progress",
    "processing",
    "running",
    "completed",
    "partially_completed",
    "failed",
]
"""The statuses of runs that the service documents or sends. It may add others."""

_TERMINAL: Final = frozenset({"completed", "failed"})
# The service sets "partially_completed" when some tasks of a run failed and the others completed.
_TERMINAL_RUN: Final = _TERMINAL | {"partially_completed"}


def is_terminal(status: object) -> bool:
    """Return whether a task with this status has ended: the status is "completed" or "failed".

    A task can leave a terminal status: the service retries failed calls. Any value is accepted; a value
    that is not a string is not terminal.
    """
    return isinstance(status, str) and status in _TERMINAL


def count_active(statuses: Iterable[object]) -> int:
    """Return how many of the statuses of tasks are not terminal."""
    return len([status for status in statuses if not (isinstance(status, str) and status in _TERMINAL)])


def is_terminal_run(status: object) -> bool:
    """Return whether a run's own status is "completed", "failed" or "partially_completed".

    This says nothing about the tasks of the run: see `run_has_ended`.
    """
    return isinstance(status, str) and status in _TERMINAL_RUN


def run_has_ended(status: object, task_statuses: Iterable[object], *, all_tasks_read: bool) -> bool:
    """Return whether a run has ended: its status is terminal, and so is the status of each of its tasks.

    Args:
        status: the status of the run.
        task_statuses: the statuses of its tasks.
        all_tasks_read: whether these are all tasks of the run. A run with a task that could not be read
            has not ended, because that task may still be active.
    """
    return all_tasks_read and is_terminal_run(status) and all(map(is_terminal, task_statuses))
