"""`wait`: its progress, its results, and its exit statuses."""

from __future__ import annotations

import json
import signal
import sys

import pytest
from rich.cells import cell_len

from tests.cli.harness import Result, Terminal, run_cli, settings, start_process
from tests.leaks import SANDBOX_SECRETS
from unpod_async.testing import Fault, Sandbox

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals of POSIX")
SPACE = "SPACEMAIN000000000000001"
QUICK = ("--interval", "0.05")


def held_run(sandbox: Sandbox) -> tuple[str, str]:
    """Return a run that cannot end because of a task on hold, and that task."""
    row = next(row for row in sandbox.task_rows() if row["status"] == "hold")
    return row["run_id"], row["task_id"]


async def wait(sandbox: Sandbox, *argv: str, **more: str | None) -> Result:
    return await run_cli(settings(sandbox, **more), "wait", SPACE, *argv)


async def test_ended_runs_are_reported_in_the_order_of_the_arguments() -> None:
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox:
        rows = [row for row in sandbox.run_rows() if row["status"] in {"completed", "failed"}]
        names = [row["run_id"] for row in rows[::-1]]
        before = sandbox.requests
        result = await wait(sandbox, *names, names[0])

        assert (result.status, result.err) == (0, "")
        lines = [json.loads(line) for line in result.out.splitlines()]
        assert lines == [
            {"run": row["run_id"], "status": row["status"], "settled": True, "tasks": {row["status"]: 3}}
            for row in rows[::-1]
        ]
        assert sandbox.requests - before == 1 + len(names)  # the runs are listed once


async def test_a_run_may_be_given_by_the_start_of_its_id() -> None:
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox:
        rows = [row for row in sandbox.run_rows() if row["status"] in {"completed", "failed"}]
        first, second = (row["run_id"] for row in rows[:2])
        result = await wait(sandbox, second, f"{first[:9]}…", second[:12])
        unknown = await wait(sandbox, first[:9], "Rnone")
        too_short = await wait(sandbox, "R")

    assert (result.status, result.err) == (0, "")
    assert [json.loads(line)["run"] for line in result.out.splitlines()] == [second, first]
    assert (unknown.status, unknown.out) == (1, "")
    assert (too_short.status, too_short.out) == (2, "")
    assert "hint: give at least its first 4 characters" in too_short.err


async def test_a_table_counts_the_tasks() -> None:
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox:
        row = next(row for row in sandbox.run_rows() if row["status"] == "partially_completed")
        result = await wait(sandbox, row["run_id"], "--table", COLUMNS="60")

    assert result.status == 0
    heads, line = result.out.splitlines()
    assert heads.split() == ["RUN", "STATUS", "TASKS"]
    assert line.startswith(f"{row['run_id'][:9]}…")
    assert max(map(len, (heads, line))) <= 60


async def test_a_timeout_names_the_tasks_that_have_not_ended() -> None:
    async with Sandbox(runs=40, tasks_per_run=3) as sandbox:
        run, task = held_run(sandbox)
        other = next(row["run_id"] for row in sandbox.run_rows() if row["status"] == "completed")
        result = await wait(sandbox, run, other, *QUICK, "--deadline", "3s")
        alone = await wait(sandbox, run, *QUICK, "--deadline", "0.2s")

    assert alone.err.startswith("unpod-async: the deadline passed while waiting for 1 of 1 run: ")
    assert result.status == 5
    assert f"run {run} is in_progress, with open tasks {task} (hold)" in result.err
    assert result.err.startswith("unpod-async: the deadline passed while waiting for 1 of 2 runs: ")
    held, done = map(json.loads, result.out.splitlines())
    assert held == {
        "run": run,
        "status": "in_progress",
        "settled": False,
        "tasks": {"completed": 2, "hold": 1},
        "open": {task: "hold"},
    }
    assert done["settled"]


@posix
@pytest.mark.parametrize("columns", [60, 120])
async def test_a_terminal_has_a_progress_line_that_disappears(columns: int) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox:
        run = sandbox.insert_run(2)
        other = sandbox.run_ids()[1]
        argv = ("wait", SPACE, run, *QUICK)
        async with Terminal(settings(sandbox), *argv, columns=columns) as terminal:
            await terminal.until("0 of 1 run ended, 2 calls left, 0:")
            while next(sandbox.run_rows())["status"] not in {"completed", "failed", "partially_completed"}:
                sandbox.advance()
            assert await terminal.wait() == 0

    lines = [line for line in terminal.lines() if line]
    assert max(map(cell_len, lines)) <= columns
    assert lines[-2].split() == ["RUN", "STATUS", "TASKS"]
    assert lines[-1].startswith(f"{run[:9]}…")
    assert other not in terminal.shown
    assert terminal.shown.rfind("\x1b[?25h") > terminal.shown.rfind(
        "\x1b[?25l"
    )  # the cursor is visible again
    assert not SANDBOX_SECRETS.search(terminal.shown)


@posix
async def test_the_progress_line_is_on_stderr_and_the_result_on_stdout() -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox:
        run = sandbox.insert_run(2)
        async with Terminal(settings(sandbox), "wait", SPACE, run, *QUICK, stdout=False) as terminal:
            await terminal.until("0 of 1 run ended, 2 calls left")
            while next(sandbox.run_rows())["status"] not in {"completed", "failed", "partially_completed"}:
                sandbox.advance()
            assert terminal.process.stdout is not None
            line = json.loads(await terminal.process.stdout.read())
            assert await terminal.wait() == 0

    assert (line["run"], line["settled"]) == (run, True)
    assert '"run"' not in terminal.shown


async def test_wait_continues_after_an_outage() -> None:
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox:
        row = next(row for row in sandbox.run_rows() if row["status"] == "completed")
        sandbox.script(Fault(status=503, times=5))
        result = await wait(sandbox, row["run_id"], *QUICK)

    assert (result.status, result.err) == (0, "")
    assert json.loads(result.out)["settled"]


@pytest.mark.slow
@posix
async def test_ctrl_c_ends_the_wait() -> None:
    async with Sandbox(runs=40, tasks_per_run=3) as sandbox:
        run, _ = held_run(sandbox)
        process = await start_process(settings(sandbox), "wait", SPACE, run, *QUICK)
        await sandbox.arrived(4)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    message = (
        b"unpod-async: interrupted\nhint: the calls go on; run the same command again to wait for their end\n"
    )
    assert (process.returncode, out, err) == (130, b"", message)


@pytest.mark.parametrize(
    ("argv", "environment", "status", "message"),
    [
        ((SPACE, "Rnone"), {}, 1, f"space {SPACE} has no run Rnone\nhint: `unpod-async runs "),
        ((SPACE, "Rnone", "Rnowhere"), {}, 1, f"space {SPACE} has no runs Rnone, Rnowhere"),
        (("NOSPACE", "R1"), {}, 4, "Invalid Space Token"),
        ((SPACE, "R1"), {"UNPOD_PLATFORM_TOKEN": "wrong"}, 4, "answered 401"),
        ((SPACE, "a/b"), {}, 2, "RUN 'a/b' is not a valid id"),
        ((SPACE, "R1", "--deadline", "0"), {}, 2, "must be greater than 0"),
        ((SPACE, "R1", "--deadline", "never"), {}, 2, "'never' is not a duration"),
        ((SPACE, "R1", "--interval", "-1"), {}, 2, "'-1' is not a duration"),
    ],
)
async def test_an_error_has_a_message_and_an_exit_status(
    argv: tuple[str, ...], environment: dict[str, str], status: int, message: str
) -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli({**settings(sandbox), **environment}, "wait", *argv)

    assert (result.status, result.out) == (status, "")
    assert message in result.err
    assert "Traceback" not in result.err
