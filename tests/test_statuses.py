"""One rule says when a run has ended; exports, watches and waits use it."""

from __future__ import annotations

from typing import get_args

from tests.tables import each_row
from unpod_async._common import RunStatus, TaskStatus, is_terminal, is_terminal_run, run_has_ended

ACTIVE = [
    "pending",
    "scheduled",
    "in_progress",
    "processing",
    "hold",
    "running",
    "",
    "Completed",
    "new",
    None,
]


@each_row("status", [*ACTIVE, "partially_completed", 1, True, ["completed"], {}])
def test_other_statuses_of_a_task_are_not_terminal(status: object) -> None:
    assert not is_terminal(status)


@each_row("status", [*ACTIVE, 1, ["completed"], {}])
def test_other_statuses_of_a_run_are_not_terminal(status: object) -> None:
    assert not is_terminal_run(status)
    assert not run_has_ended(status, [], all_tasks_read=True)


@each_row("status", ["completed", "failed", "partially_completed"])
@each_row(
    ("tasks", "all_tasks_read", "ended"),
    [
        ([], True, True),
        ([], False, False),
        (["completed"], True, True),
        (["failed", "completed"], True, True),
        (["failed", "completed"], False, False),
        (["completed", "partially_completed"], True, False),
        (["completed", "hold"], True, False),
        (["in_progress"], True, False),
        (["completed", None], True, False),
        (["completed", ""], True, False),
    ],
)
def test_a_run_has_ended_when_it_and_all_its_tasks_have(
    status: str, tasks: list[str | None], all_tasks_read: bool, ended: bool
) -> None:
    assert is_terminal_run(status)
    assert run_has_ended(status, iter(tasks), all_tasks_read=all_tasks_read) is ended


def test_terminal_statuses_of_a_task() -> None:
    assert is_terminal("completed")
    assert is_terminal("failed")


def test_the_statuses_that_editors_suggest_include_all_that_end_a_task_or_a_run() -> None:
    assert {status for status in get_args(TaskStatus) if is_terminal(status)} == {"completed", "failed"}
    ended = {status for status in get_args(RunStatus) if is_terminal_run(status)}
    assert ended == {"completed", "failed", "partially_completed"}
    assert set(get_args(TaskStatus)) <= set(get_args(RunStatus))
