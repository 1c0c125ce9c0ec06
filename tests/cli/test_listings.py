"""The listings: lines of JSON, tables, and exit statuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len

from tests.cli.harness import run_cli, run_process, settings
from unpod_async.testing import Fault, Oddities, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterable


def without_tokens(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        info = row.get("user_info")
        found.append({**row, "user_info": {**info, "user_token": None}} if info else row)
    return found


def rows_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


async def test_lines_are_the_rows_of_the_service_without_user_tokens() -> None:
    async with Sandbox(runs=30, tasks_per_run=7) as sandbox:
        runs = await run_process(settings(sandbox), "runs", sandbox.space_token)
        tasks = await run_cli(settings(sandbox), "tasks", sandbox.space_token, "--json")
        run_id = sandbox.run_ids()[3]
        of_run = await run_cli(settings(sandbox), "tasks", sandbox.space_token, "--run", run_id)

        assert (runs.status, runs.err, tasks.err, of_run.err) == (0, "", "", "")
        assert rows_of(runs.out) == list(sandbox.run_rows())
        assert rows_of(tasks.out) == without_tokens(sandbox.task_rows())
        assert rows_of(of_run.out) == without_tokens(sandbox.task_rows(run_id))


async def test_limit_and_status_also_apply_to_lines() -> None:
    async with Sandbox(runs=40) as sandbox:
        limited = await run_cli(settings(sandbox), "runs", sandbox.space_token, "--limit", "3")
        failed = [row for row in sandbox.run_rows() if row["status"] in {"failed", "pending"}]
        argv = ("runs", sandbox.space_token, "--status", "failed", "--status", "pending")
        chosen = await run_cli(settings(sandbox), *argv)
        table = await run_cli(settings(sandbox), *argv, "--table", "--limit", "2")

        assert rows_of(limited.out) == list(sandbox.run_rows())[:3]
        assert rows_of(chosen.out) == failed
        assert 2 < len(failed) < 40
        assert table.out.count("\n") == 3
        assert table.err == "The first 2 runs. --limit N shows more, --limit 0 shows all.\n"


async def test_the_listings_of_an_organization() -> None:
    async with Sandbox(runs=1) as sandbox:
        agents = await run_cli(settings(sandbox), "agents")
        of_agent = await run_cli(settings(sandbox), "tasks", "--agent", sandbox.agent_handle, "--limit", "2")
        with_jwt = settings(sandbox, UNPOD_PLATFORM_TOKEN=sandbox.jwt)
        spaces = await run_cli(with_jwt, "spaces", "--auth-scheme", "JWT")
        organizations = await run_cli(with_jwt, "organizations", "--auth-scheme", "Bearer", "--table")

    assert sandbox.agent_handle in [row["handle"] for row in rows_of(agents.out)]
    assert len(rows_of(of_agent.out)) == 2
    assert sandbox.space_token in [row["token"] for row in rows_of(spaces.out)]
    assert organizations.out.split() == ["HANDLE", "NAME", "ROLE", "acme.example", "Acme", "Example", "owner"]


async def test_a_table_has_the_first_rows_and_counts_the_others() -> None:
    async with Sandbox(runs=60) as sandbox:
        result = await run_cli(settings(sandbox), "runs", sandbox.space_token, "--table")
        whole = await run_cli(settings(sandbox), "runs", sandbox.space_token, "--table", "--limit", "0")
        ids = sandbox.run_ids()

    assert [line.split()[0] for line in result.out.splitlines()] == ["RUN", *ids[:50]]
    assert result.err == "The first 50 of 60 runs. --limit N shows more, --limit 0 shows all.\n"
    assert [line.split()[0] for line in whole.out.splitlines()] == ["RUN", *ids]
    assert whole.err == ""


async def test_control_and_bidi_characters_are_escaped() -> None:
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox:
        (task,) = sandbox.task_ids()
        row = {"task_id": task, "status": "x\x1b[2J", "input": {"name": "evil\u202e[bold]\nmark\x07"}}
        sandbox.malform(task, json.dumps(row).encode())
        result = await run_cli(
            {**settings(sandbox), "COLUMNS": "100"}, "tasks", sandbox.space_token, "--table"
        )

    assert "\x1b" not in result.out
    assert r"x\x1b[2J" in result.out
    assert r"evil\u202e[bold] mark\x07" in result.out


async def test_wide_characters_take_two_cells() -> None:
    async with Sandbox(runs=1, tasks_per_run=2) as sandbox:
        wide, narrow = sandbox.task_ids()
        row = {"task_id": wide, "status": "完了" * 20, "input": {"name": "山田" * 40}}
        sandbox.malform(wide, json.dumps(row).encode())
        for columns in (30, 60, 100):
            environment = {**settings(sandbox), "COLUMNS": str(columns)}
            result = await run_cli(environment, "tasks", sandbox.space_token, "--table")
            lines = result.out.splitlines()

            assert max(cell_len(line) for line in lines) <= columns
            assert [line.split()[0][:10] for line in lines[1:]] == [wide[:10], narrow[:10]]
            assert "完了" in lines[1]
            assert "…" in lines[1]


@pytest.mark.parametrize("form", ["--json", "--table"])
async def test_an_unreadable_row_is_left_out_and_reported(form: str) -> None:
    async with Sandbox(runs=1, tasks_per_run=4) as sandbox:
        tasks = sandbox.task_ids()
        sandbox.poison(tasks[1])
        result = await run_cli(settings(sandbox), "tasks", sandbox.space_token, form)

    assert result.status == 3
    for task in (tasks[0], tasks[2], tasks[3]):
        assert task in result.out
    assert "1 rows of tasks of space" in result.err
    assert "on_bad_row" not in result.err
    assert result.err.splitlines()[1].startswith("hint: ")
    assert len(result.err.splitlines()) == 2


async def test_a_row_that_is_not_an_object_is_left_out_of_the_lines() -> None:
    async with Sandbox(runs=1, tasks_per_run=3) as sandbox:
        sandbox.malform(sandbox.task_ids()[1], b'["no row"]')
        result = await run_cli(settings(sandbox), "tasks", sandbox.space_token)

    assert result.status == 3
    assert len(rows_of(result.out)) == 2
    assert "1 unreadable row left out" in result.err
    assert "no row" not in result.err


@pytest.mark.parametrize("form", ["--json", "--table"])
async def test_an_incomplete_listing_shows_its_rows_and_gives_status_3(form: str) -> None:
    async with Sandbox(runs=3, oddities=Oddities(count="high")) as sandbox:
        result = await run_cli(settings(sandbox), "runs", sandbox.space_token, form)
        ids = sandbox.run_ids()

    assert result.status == 3
    for run_id in ids:
        assert run_id in result.out
    assert result.err.startswith("unpod-async: ")


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (("runs", "NOSUCHSPACE"), 4, "answered 206"),
        (("runs", "../x"), 2, "is not a valid id"),
        (("runs",), 2, "missing argument 'SPACE'"),
        (("runs", "x", "--limit", "-1"), 2, "--limit"),
        (("tasks",), 2, "either a SPACE or --agent HANDLE"),
        (("tasks", "x", "--agent", "y"), 2, "either a SPACE or --agent HANDLE"),
        (("tasks", "--agent", "y", "--run", "z"), 2, "--run needs the SPACE"),
        (("tasks", "--agent", "nobody"), 1, "answered 404"),
        (("runs", "x", "--base-url", "http://example.com"), 2, "--allow-http"),
        (("runs", "x", "--auth-scheme", "No Scheme"), 2, "--auth-scheme "),
        (("agents", "--org-handle", "nobody.example"), 1, "answered 404"),
        (("runs", "x", "--timeout", "0"), 2, "--timeout"),
        (("nonsense",), 2, "unpod-async: no such command 'nonsense'\nhint: see `unpod-async --help`\n"),
        (("runs", "x", "--limit", "many"), 2, "hint: see `unpod-async runs --help`"),
    ],
)
async def test_an_error_has_a_message_and_an_exit_status(
    argv: tuple[str, ...], status: int, message: str
) -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli(settings(sandbox), *argv)

    assert (result.status, result.out) == (status, "")
    assert message in result.err
    assert "Traceback" not in result.err


async def test_a_missing_organization_is_explained_with_the_option() -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli(settings(sandbox, UNPOD_ORG_HANDLE=None), "agents")

    assert result.status == 2
    assert "hint: set UNPOD_ORG_HANDLE or use --org-handle HANDLE" in result.err


@pytest.mark.parametrize(("answer", "status"), [(401, 4), (403, 4), (404, 1), (400, 1)])
async def test_a_rejected_token_has_its_own_exit_status(answer: int, status: int) -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(Fault(status=answer, body=b'{"message": "No."}'))
        result = await run_cli(settings(sandbox), "runs", sandbox.space_token)

    assert result.status == status
    assert f"answered {answer}: No." in result.err


async def test_an_unreachable_service() -> None:
    async with Sandbox(runs=1) as sandbox:
        environment = settings(sandbox)
    result = await run_cli(environment, "-v", "runs", sandbox.space_token)

    assert result.status == 1
    assert "no connection" in result.err
    assert "WARNING GET spaces/{space_token}/runs/: " in result.err  # -v shows the retries


async def test_an_option_after_the_command_overrides_the_one_before_it() -> None:
    async with Sandbox(runs=1) as sandbox:
        environment = settings(sandbox, UNPOD_BASE_URL=None)
        before, after = ("--base-url", "http://127.0.0.1:1"), ("--base-url", sandbox.base_url)
        result = await run_cli(environment, *before, "runs", sandbox.space_token, *after)
        quiet = await run_cli(settings(sandbox), "runs", sandbox.space_token, "-v")
        verbose = await run_cli(settings(sandbox), "-v", "runs", sandbox.space_token, "-v")

    assert (result.status, result.err) == (0, "")
    assert "DEBUG" not in quiet.err
    assert "DEBUG" in verbose.err  # -v before and after the command is -vv
