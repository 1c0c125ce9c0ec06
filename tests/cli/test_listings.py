"""runs, tasks, agents, spaces and organizations: lines for programs, tables for people, exit statuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len

from tests.cli.harness import here, settings, there
from unpod_async.testing import Fault, Oddities, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterable


def without_token(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    told = []
    for row in rows:
        info = row.get("user_info")
        told.append({**row, "user_info": {**info, "user_token": None}} if info else row)
    return told


def rows_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


async def test_lines_are_the_rows_as_the_service_sent_them_without_user_tokens() -> None:
    async with Sandbox(runs=30, tasks_per_run=7) as sandbox:
        runs = await there(settings(sandbox), "runs", sandbox.space_token)
        tasks = await here(settings(sandbox), "tasks", sandbox.space_token, "--json")
        run_id = sandbox.run_ids()[3]
        of_run = await here(settings(sandbox), "tasks", sandbox.space_token, "--run", run_id)

        assert (runs.status, runs.err, tasks.err, of_run.err) == (0, "", "", "")
        assert rows_of(runs.out) == list(sandbox.run_rows())
        assert rows_of(tasks.out) == without_token(sandbox.task_rows())
        assert rows_of(of_run.out) == without_token(sandbox.task_rows(run_id))


async def test_limit_and_status_hold_for_lines_too() -> None:
    async with Sandbox(runs=40) as sandbox:
        limited = await here(settings(sandbox), "runs", sandbox.space_token, "--limit", "3")
        failed = [row for row in sandbox.run_rows() if row["status"] in {"failed", "pending"}]
        argv = ("runs", sandbox.space_token, "--status", "failed", "--status", "pending")
        chosen = await here(settings(sandbox), *argv)
        table = await here(settings(sandbox), *argv, "--table", "--limit", "2")

        assert rows_of(limited.out) == list(sandbox.run_rows())[:3]
        assert rows_of(chosen.out) == failed
        assert 2 < len(failed) < 40
        assert table.out.count("\n") == 3
        assert table.err == "The first 2 runs; --limit N shows more, --limit 0 all of them.\n"


async def test_what_an_organization_has() -> None:
    async with Sandbox(runs=1) as sandbox:
        agents = await here(settings(sandbox), "agents")
        of_agent = await here(settings(sandbox), "tasks", "--agent", sandbox.agent_handle, "--limit", "2")
        with_jwt = settings(sandbox, UNPOD_PLATFORM_TOKEN=sandbox.jwt)
        spaces = await here(with_jwt, "spaces", "--auth-scheme", "JWT")
        organizations = await here(with_jwt, "organizations", "--auth-scheme", "Bearer", "--table")

    assert sandbox.agent_handle in [row["handle"] for row in rows_of(agents.out)]
    assert len(rows_of(of_agent.out)) == 2
    assert sandbox.space_token in [row["token"] for row in rows_of(spaces.out)]
    assert organizations.out.split() == ["HANDLE", "NAME", "ROLE", "acme.example", "Acme", "Example", "owner"]


async def test_a_table_has_the_first_rows_and_says_that_there_are_more() -> None:
    async with Sandbox(runs=60) as sandbox:
        ended = await here(settings(sandbox), "runs", sandbox.space_token, "--table")
        whole = await here(settings(sandbox), "runs", sandbox.space_token, "--table", "--limit", "0")
        ids = sandbox.run_ids()

    assert [line.split()[0] for line in ended.out.splitlines()] == ["RUN", *ids[:50]]
    assert ended.err == "The first 50 of 60 runs; --limit N shows more, --limit 0 all of them.\n"
    assert [line.split()[0] for line in whole.out.splitlines()] == ["RUN", *ids]
    assert whole.err == ""


async def test_control_and_direction_marks_are_shown_as_escapes() -> None:
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox:
        (task,) = sandbox.task_ids()
        row = {"task_id": task, "status": "x\x1b[2J", "input": {"name": "evil\u202e[bold]\nmark\x07"}}
        sandbox.malform(task, json.dumps(row).encode())
        ended = await here({**settings(sandbox), "COLUMNS": "100"}, "tasks", sandbox.space_token, "--table")

    assert "\x1b" not in ended.out
    assert r"x\x1b[2J" in ended.out
    assert r"evil\u202e[bold] mark\x07" in ended.out


async def test_wide_characters_are_counted_as_the_terminal_shows_them() -> None:
    async with Sandbox(runs=1, tasks_per_run=2) as sandbox:
        wide, narrow = sandbox.task_ids()
        row = {"task_id": wide, "status": "完了" * 20, "input": {"name": "山田" * 40}}
        sandbox.malform(wide, json.dumps(row).encode())
        for columns in (30, 60, 100):
            environment = {**settings(sandbox), "COLUMNS": str(columns)}
            ended = await here(environment, "tasks", sandbox.space_token, "--table")
            lines = ended.out.splitlines()

            assert max(cell_len(line) for line in lines) <= columns
            assert [line.split()[0][:10] for line in lines[1:]] == [wide[:10], narrow[:10]]
            assert "完了" in lines[1]
            assert "…" in lines[1]


@pytest.mark.parametrize("form", ["--json", "--table"])
async def test_a_row_that_cannot_be_read_costs_that_row_and_is_told(form: str) -> None:
    async with Sandbox(runs=1, tasks_per_run=4) as sandbox:
        tasks = sandbox.task_ids()
        sandbox.poison(tasks[1])
        ended = await here(settings(sandbox), "tasks", sandbox.space_token, form)

    assert ended.status == 3
    for task in (tasks[0], tasks[2], tasks[3]):
        assert task in ended.out
    assert "1 rows of tasks of space" in ended.err
    assert "on_bad_row" not in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_a_row_that_is_no_object_is_left_out_of_the_lines() -> None:
    async with Sandbox(runs=1, tasks_per_run=3) as sandbox:
        sandbox.malform(sandbox.task_ids()[1], b'["no row"]')
        ended = await here(settings(sandbox), "tasks", sandbox.space_token)

    assert ended.status == 3
    assert len(rows_of(ended.out)) == 2
    assert "1 rows that cannot be read are left out" in ended.err
    assert "no row" not in ended.err


@pytest.mark.parametrize("form", ["--json", "--table"])
async def test_an_incomplete_listing_shows_what_came_and_ends_with_3(form: str) -> None:
    async with Sandbox(runs=3, oddities=Oddities(count="high")) as sandbox:
        ended = await here(settings(sandbox), "runs", sandbox.space_token, form)
        ids = sandbox.run_ids()

    assert ended.status == 3
    for run_id in ids:
        assert run_id in ended.out
    assert ended.err.startswith("unpod-async: ")


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (("runs", "NOSUCHSPACE"), 1, "answered 206"),
        (("runs", "../x"), 2, "is not a valid id"),
        (("runs",), 2, "Missing argument"),
        (("runs", "x", "--limit", "-1"), 2, "--limit"),
        (("tasks",), 2, "name a space, or --agent HANDLE"),
        (("tasks", "x", "--agent", "y"), 2, "and not both"),
        (("tasks", "--agent", "y", "--run", "z"), 2, "--run goes with the space"),
        (("tasks", "--agent", "nobody"), 1, "answered 404"),
        (("runs", "x", "--base-url", "http://example.com"), 2, "--allow-http"),
        (("runs", "x", "--auth-scheme", "No Scheme"), 2, "--auth-scheme must be one word"),
        (("agents", "--org-handle", "nobody.example"), 1, "answered 404"),
        (("runs", "x", "--timeout", "0"), 2, "--timeout"),
        (("nonsense",), 2, "No such command"),
    ],
)
async def test_what_is_wrong_is_said_in_a_line_with_its_status(
    argv: tuple[str, ...], status: int, said: str
) -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await here(settings(sandbox), *argv)

    assert (ended.status, ended.out) == (status, "")
    assert said in ended.err
    assert "Traceback" not in ended.err


async def test_the_organization_that_is_not_known_is_asked_for_as_an_option() -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await here(settings(sandbox, UNPOD_ORG_HANDLE=None), "agents")

    assert ended.status == 2
    assert "pass --org-handle or set UNPOD_ORG_HANDLE" in ended.err


@pytest.mark.parametrize(("answer", "status"), [(401, 4), (403, 4), (404, 1), (400, 1)])
async def test_refusals_of_the_token_have_a_status_of_their_own(answer: int, status: int) -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(Fault(status=answer, body=b'{"message": "No."}'))
        ended = await here(settings(sandbox), "runs", sandbox.space_token)

    assert ended.status == status
    assert f"answered {answer}: No." in ended.err


async def test_a_service_that_is_not_there() -> None:
    async with Sandbox(runs=1) as sandbox:
        environment = settings(sandbox)
    ended = await here(environment, "-v", "runs", sandbox.space_token)

    assert ended.status == 1
    assert "no connection" in ended.err
    assert "WARNING GET spaces/{space_token}/runs/: " in ended.err  # what it waited for, with -v
