"""The listings: lines of JSON, tables, and exit statuses."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len

from tests.cli.harness import run_cli, run_process, settings
from tests.tables import each_row
from unpod_async.testing import Fault, Oddities, Sandbox, faults

if TYPE_CHECKING:
    from collections.abc import Iterable


def without_tokens(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        info = row.get("user_info")
        found.append({**row, "user_info": {**info, "user_token": None}} if info else row)
    return found


def short(row_id: str) -> str:
    return f"{row_id[:9]}…"


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


async def test_call_logs_and_executions() -> None:
    async with Sandbox(runs=9, tasks_per_run=7) as sandbox:
        logs = list(sandbox.call_log_rows())
        lines = await run_cli(settings(sandbox), "call-logs")
        missed = await run_cli(
            settings(sandbox), "call-logs", "--status", "missed", "--call-type", "outbound", "--limit", "2"
        )
        none = await run_cli(settings(sandbox), "call-logs", "--to", "2020-01-01", "--table")
        executions = await run_cli(settings(sandbox), "executions", sandbox.agent_handle)
        unknown = await run_cli(settings(sandbox), "executions", "nobody")
        found = list(sandbox.execution_rows())

    assert (lines.status, lines.err) == (0, "")
    assert rows_of(lines.out) == logs
    kinds = [(row["call_status"], row["call_type"]) for row in logs]
    assert (
        rows_of(missed.out)
        == [row for row, kind in zip(logs, kinds, strict=True) if kind == ("missed", "outbound")][:2]
    )
    assert (none.status, none.out, none.err) == (0, "", "There are no calls with these filters.\n")
    assert rows_of(executions.out) == found
    assert (unknown.status, unknown.out) == (1, "")
    assert "the server may not offer executions of agents" in unknown.err


async def test_tables_of_calls_and_executions_fit_60_columns() -> None:
    async with Sandbox(runs=3, tasks_per_run=7) as sandbox:
        for argv in (("call-logs",), ("executions", sandbox.agent_handle)):
            result = await run_cli(settings(sandbox, COLUMNS="60"), *argv, "--table", "--utc")
            assert result.status == 0
            assert max(map(cell_len, result.out.splitlines())) <= 60
            assert "…" not in re.sub(r"^R\w{8}…", "", result.out, flags=re.MULTILINE)  # only ids are cut
        broad = await run_cli(settings(sandbox, COLUMNS="120"), "call-logs", "--table", "--utc")

    heading = broad.out.splitlines()[0].split()
    assert heading == ["CREATED", "(UTC)", "TYPE", "STATUS", "DURATION", "FROM", "TO", "END"]


async def test_columns_stand_closer_before_a_text_is_cut() -> None:
    async with Sandbox(runs=1) as sandbox:
        narrow, broad = [
            (await run_cli(settings(sandbox, COLUMNS=columns), "agents", "--table")).out
            for columns in ("60", "80")
        ]

    assert "…" not in narrow
    assert max(map(cell_len, narrow.splitlines())) <= 60
    assert "  Spaceless Agent  " in broad
    assert " Spaceless Agent published" in narrow


@pytest.mark.parametrize(
    ("command", "field"), [("agents", "handle"), ("spaces", "token"), ("organizations", "domain_handle")]
)
async def test_a_long_handle_is_shown_whole(command: str, field: str) -> None:
    """It is needed for other commands."""
    handle = "-".join(["a-handle-that-is-longer-than-a-line"] * 2)
    rows = [{field: handle, "name": "N"}, {field: "short", "name": "M"}]
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(Fault(body=json.dumps({"count": 2, "status_code": 200, "data": rows}).encode()))
        result = await run_cli(settings(sandbox, COLUMNS="60"), command, "--table")

    assert result.status == 0
    _, *lines = result.out.splitlines()
    assert "".join(line.split()[0] for line in lines) == f"{handle}short"
    assert max(map(len, lines)) <= 60
    assert lines[0].split()[1] == "N"


async def test_a_server_that_requires_a_product() -> None:
    async with Sandbox(runs=1, product_id="P1") as sandbox:
        without = await run_cli(settings(sandbox), "call-logs")
        option = await run_cli(settings(sandbox), "call-logs", "--product-id", "P1")
        variable = await run_cli(settings(sandbox, UNPOD_PRODUCT_ID="P1"), "call-logs")
        wrong = await run_cli(settings(sandbox), "call-logs", "--product-id", "P 1")

    assert (without.status, without.out) == (1, "")
    assert without.err.endswith("hint: use --product-id ID, or set UNPOD_PRODUCT_ID\n")
    assert option.out == variable.out != ""
    assert (wrong.status, wrong.err.startswith("unpod-async: --product-id ")) == (2, True)


async def test_a_table_has_the_first_rows_and_counts_the_others() -> None:
    async with Sandbox(runs=60) as sandbox:
        result = await run_cli(settings(sandbox), "runs", sandbox.space_token, "--table")
        whole = await run_cli(
            settings(sandbox), "runs", sandbox.space_token, "--limit", "0", "--table", "--wide"
        )
        ids = sandbox.run_ids()

    assert [line.split()[0] for line in result.out.splitlines()] == ["RUN", *map(short, ids[:50])]
    assert result.err == "The first 50 of 60 runs. --limit N shows more, --limit 0 shows all.\n"
    assert [line.split()[0] for line in whole.out.splitlines()] == ["RUN", *ids]  # --wide
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


async def test_a_table_says_if_columns_do_not_fit() -> None:
    async with Sandbox(runs=1, tasks_per_run=3) as sandbox:
        argv = ("tasks", sandbox.space_token, "--table")
        narrow = await run_cli(settings(sandbox, COLUMNS="60"), *argv)
        cut = await run_cli(settings(sandbox, COLUMNS="60"), *argv, "--limit", "2")
        broad = await run_cli(settings(sandbox, COLUMNS="140"), *argv)
        wide = await run_cli(settings(sandbox, COLUMNS="60"), *argv, "--wide")

    assert "NAME" not in narrow.out
    assert narrow.err == "Some columns do not fit. --wide shows all columns.\n"
    assert cut.err.splitlines()[0] == "Some columns do not fit. --wide shows all columns."
    assert cut.err.splitlines()[1].startswith("The first 2 of 3 tasks.")
    assert "NAME" in broad.out
    assert "NAME" in wide.out
    assert (broad.err, wide.err) == ("", "")


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
            assert [line.split()[0][:9] for line in lines[1:]] == [wide[:9], narrow[:9]]
            assert "完了" in lines[1]
            assert "…" in lines[1]


@pytest.mark.parametrize("form", ["--json", "--table"])
async def test_an_unreadable_row_is_left_out_and_reported(form: str) -> None:
    async with Sandbox(runs=1, tasks_per_run=4) as sandbox:
        tasks = sandbox.task_ids()
        sandbox.poison(tasks[1])
        result = await run_cli(settings(sandbox), "tasks", sandbox.space_token, form, "--wide")

    assert result.status == 3
    for task in (tasks[0], tasks[2], tasks[3]):
        assert task in result.out
    assert (
        "1 row of tasks of space SPACEMAIN000000000000001 cannot be used: the row at position 2 is "
        "unreadable (GET /spaces/SPACEMAIN000000000000001/tasks/ answered 206: "
    ) in result.err
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
        result = await run_cli(settings(sandbox), "runs", sandbox.space_token, form, "--wide")
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
        (("--rate-limit", "0", "runs", "x"), 2, "--rate-limit must be a finite number greater than 0"),
        (("runs", "x", "--rate-limit", "nan"), 2, "--rate-limit must be a finite number greater than 0"),
        (
            ("tasks", "x", "--from", "2030-02-01", "--to", "2030-01-31"),
            2,
            "unpod-async: --from is after --to\n",
        ),
        (
            ("call-logs", "--from", "2030-02-01", "--to", "2030-01-31"),
            2,
            "unpod-async: --from is after --to\n",
        ),
        (("nonsense",), 2, "unpod-async: no such command 'nonsense'\nhint: see `unpod-async --help`\n"),
        (("runs", "x", "--limit", "many"), 2, "hint: see `unpod-async runs --help`"),
    ],
)
async def test_an_error_has_a_message_and_an_exit_status(
    argv: tuple[str, ...], status: int, message: str
) -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli(settings(sandbox), *argv)
        assert sandbox.requests == 0 or status != 2

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


VALIDATION = b'{"status_code": 206, "message": "Failed", "errors": {"page": ["Not a number."]}, "data": {}}'


@each_row(
    "answer, command, status",
    [
        (faults.refusal(), "runs", 4),
        (faults.refusal(), "agents", 4),
        (Fault(status=206, body=VALIDATION, times=99), "runs", 1),
        (Fault(status=206, body=VALIDATION, times=99), "agents", 1),
        (faults.upstream_error(times=99), "runs", 1),
        (faults.upstream_error(times=99), "agents", 1),
        (Fault(status=206, body=b"<html>Partial</html>", times=99), "runs", 1),
        (Fault(status=206, body=b"", times=99), "agents", 1),
    ],
)
async def test_a_206_gives_the_status_of_missing_rights_only_if_it_is_a_refusal(
    answer: Fault, command: str, status: int
) -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(answer)
        space = (sandbox.space_token,) if command == "runs" else ()
        result = await run_cli(settings(sandbox), command, *space)

    assert (result.status, result.out) == (status, "")
    assert "206" in result.err


async def test_an_unreachable_service() -> None:
    async with Sandbox(runs=1) as sandbox:
        environment = settings(sandbox)
    result = await run_cli({**environment, "TZ": "UTC"}, "-v", "runs", sandbox.space_token)

    assert result.status == 1
    assert "no connection" in result.err
    # -v shows the retries, at times whose zone is named.
    assert re.search(
        r"^\d\d:\d\d:\d\d \S+ WARNING GET spaces/{space_token}/runs/: ", result.err, re.MULTILINE
    )


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


@pytest.mark.parametrize("form", ["--json", "--table"])
async def test_an_empty_result_says_why(form: str) -> None:
    async with Sandbox(runs=40, tasks_per_run=3) as sandbox:
        space, agent, run = sandbox.space_token, sandbox.agent_handle, sandbox.run_ids()[0]
        statuses = Counter(row["status"] for row in sandbox.run_rows())
        expected = [
            (
                ("runs", space, "--status", "done"),
                "no runs match --status done; 40 in the space; known statuses: "
                + ", ".join(status for status, _ in statuses.most_common())
                + "\n",
            ),
            (
                ("tasks", space, "--outcome", "interested"),
                "no tasks match --outcome interested; 120 in the space; known outcomes: ",
            ),
            (
                ("tasks", space, "--search", "nobody", "--call-type", "inbound"),
                "no tasks match --search nobody --call-type inbound; 120 in the space\n",
            ),
            (
                ("tasks", space, "--from", "2040-01-01"),
                "no tasks match --from 2040-01-01T00:00:00+00:00; 120 in the space\n",
            ),
            (
                ("tasks", space, "--run", run, "--status", "done"),
                "no tasks match --status done; 3 in the run; known statuses: ",
            ),
            (
                ("tasks", "--agent", agent, "--search", "nobody"),
                f"no tasks match --search nobody; 120 of agent {agent}\n",
            ),
        ]
        for argv, message in expected:
            result = await run_cli(settings(sandbox), *argv, form)
            assert (result.status, result.out) == (0, ""), argv
            assert result.err.startswith(message), argv
            assert "Interested" in result.err or "outcomes" not in message

    async with Sandbox(runs=0) as sandbox:
        result = await run_cli(settings(sandbox), "runs", sandbox.space_token, "--status", "done", form)
    assert result == (0, "", "There are no runs in the space.\n")


@pytest.mark.parametrize("form", ["--json", "--table"])
async def test_filters_keep_the_same_tasks_wherever_they_are_applied(form: str) -> None:
    """The service filters the tasks of a space; those of a run or an agent are filtered here."""
    async with Sandbox(runs=12, tasks_per_run=60) as sandbox:
        run = next(row["run_id"] for row in sandbox.run_rows() if row["status"] == "completed")
        rows = {row["task_id"]: row for row in sandbox.task_rows(run)}
        middle = rows[sandbox.task_ids(run)[30]]["created"]
        options = [
            ("--outcome", "Interested"),
            ("--outcome", "Interested", "--outcome", "Voicemail"),
            ("--call-type", "outbound"),
            ("--search", "PERSON .*1$"),
            ("--from", f"{middle}Z"),
            ("--to", f"{middle}Z"),
            ("--status", "completed", "--outcome", "No Answer"),
        ]
        for chosen in options:
            shown = []
            for source in (("--run", run), ()):
                argv = ("tasks", sandbox.space_token, *source, *chosen, form, "--wide", "--limit", "0")
                result = await run_cli(settings(sandbox), *argv)
                assert (result.status, result.err) == (0, ""), chosen
                shown.append(rows.keys() & re.findall(r"T[0-9a-f]{32}", result.out))
            assert shown[0] == shown[1], chosen
            assert shown[0], chosen


@pytest.mark.parametrize("option", ["--search"])
async def test_a_pattern_that_is_no_regular_expression_is_refused(option: str) -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli(settings(sandbox), "tasks", sandbox.space_token, option, "[")
        sent = sandbox.requests

    assert (result.status, sent) == (2, 0)
    assert "invalid value for '--search': '[' is not a regular expression" in result.err


async def test_a_table_of_tasks_shows_the_call() -> None:
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox:
        (task,) = sandbox.task_ids()
        output = {
            "call_id": "c",
            "contact_number": "9000000001",
            "duration": 87,
            "cost": 0.1291,
            "post_call_data": {"summary": {"status": "No Answer"}},
        }
        row = {
            "task_id": task,
            "status": "completed",
            "created": "2026-01-15T13:16:00",
            "input": {"name": "A. Person"},
            "output": output,
        }
        sandbox.malform(task, json.dumps(row).encode())
        found = {}
        for columns, zone in ((60, "Asia/Kolkata"), (80, "Asia/Kolkata"), (120, "Asia/Kolkata")):
            environment = settings(sandbox, COLUMNS=str(columns), TZ=zone)
            argv = ("tasks", sandbox.space_token, "--table")
            found[columns] = (await run_process(environment, *argv)).out
            utc = (await run_process(environment, *argv, "--utc", "--wide")).out

    for columns, text in found.items():
        assert max(map(len, text.splitlines())) <= columns
        for value in (f"{task[:9]}…", "completed", "No Answer", "1:27", "9000000001"):
            assert value in text, columns
    assert "$0.129" in found[80]
    assert "CREATED (IST)" in found[120]
    assert "2026-01-15 18:46" in found[120]
    assert "A. Person" in found[120]
    assert ("CREATED (UTC)" in utc, "2026-01-15 13:16" in utc, task in utc) == (True, True, True)


async def test_whole_listings_use_pages_of_500() -> None:
    async with Sandbox(runs=3) as sandbox:
        space = sandbox.space_token
        for argv in (
            ("runs", space),
            ("runs", space, "--table", "--limit", "0"),
            ("runs", space, "--status", "failed", "--table"),
            ("tasks", space),
            ("run", space, sandbox.run_ids()[0]),
            ("recordings", space, sandbox.task_ids()[0]),
        ):
            await run_cli(settings(sandbox), *argv)
        await run_cli(settings(sandbox), "runs", space, "--limit", "5", "--table")

        sizes = [received.query["page_size"] for received in sandbox.log]
    assert set(sizes[:-1]) == {"500"}
    assert sizes[-1] == "6"


async def test_ids_are_longer_where_short_ones_would_be_equal() -> None:
    async with Sandbox(runs=1) as sandbox:
        row = next(iter(sandbox.run_rows()))
        ids = ["R0123456789a", "R0123456789b", "Rother000000"]
        body = {
            "count": 3,
            "status_code": 200,
            "message": "",
            "data": [{**row, "run_id": one} for one in ids],
        }
        sandbox.script(Fault(status=200, body=json.dumps(body).encode(), times=9))
        result = await run_cli(settings(sandbox), "runs", sandbox.space_token, "--table")

    assert [line.split()[0] for line in result.out.splitlines()[1:]] == ids


@each_row(
    ("argv", "hint"),
    [
        (("spaces",), "the server asks for a JWT here: pass one with --auth-scheme JWT"),
        (
            ("agents", "--auth-scheme", "JWT"),
            "check that the token is complete; an API key needs --auth-scheme Token",
        ),
        (("agents", "--org-handle", "nobody"), "check the handle or id and --org-handle"),
        (
            ("runs", "SPACEFOREIGN000000000006"),
            "the space may not exist, belong to another account, or need a higher role",
        ),
    ],
)
async def test_hints_name_options_instead_of_python_arguments(argv: tuple[str, ...], hint: str) -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli(settings(sandbox), *argv)

    assert " ".join(result.err.splitlines()[1:]) == f"hint: {hint}"
    assert "while reading" not in result.err  # the path names the listing


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (401, "check that the API key is complete and not expired; a JWT needs --auth-scheme JWT"),
        (403, "the account of the token needs a role there"),
        (404, "check the handle or id and --org-handle"),
        (429, "the service limits requests"),
        (503, "the service has a problem"),
    ],
)
async def test_an_error_has_two_lines(answer: int, hint: str) -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(
            Fault(status=answer, body=b'{"message": "No."}', headers={"Retry-After": "0"}, times=99)
        )
        result = await run_cli(settings(sandbox), "runs", sandbox.space_token)

    assert result.status in {1, 4}
    first, second = result.err.splitlines()
    assert first.startswith("unpod-async: GET ")
    assert second.startswith(f"hint: {hint}")
