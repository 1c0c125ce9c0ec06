"""wait: what it says while it waits and at the end, and the statuses."""

from __future__ import annotations

import json
import signal
import sys

import pytest
from rich.cells import cell_len

from tests.cli.harness import Ended, Terminal, here, settings, start
from tests.leaks import SANDBOX_SECRETS
from unpod_async.testing import Fault, Sandbox

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals of POSIX")
SPACE = "SPACEMAIN000000000000001"
QUICK = ("--interval", "0.05")


def held_run(sandbox: Sandbox) -> tuple[str, str]:
    """A run that a task in hold keeps from ending, and that task."""
    row = next(row for row in sandbox.task_rows() if row["status"] == "hold")
    return row["run_id"], row["task_id"]


async def wait(sandbox: Sandbox, *argv: str, **more: str | None) -> Ended:
    return await here(settings(sandbox, **more), "wait", SPACE, *argv)


async def test_runs_that_have_ended_are_told_in_the_order_asked() -> None:
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox:
        rows = [row for row in sandbox.run_rows() if row["status"] in {"completed", "failed"}]
        names = [row["run_id"] for row in rows[::-1]]
        before = sandbox.requests
        ended = await wait(sandbox, *names, names[0])

        assert (ended.status, ended.err) == (0, "")
        told = [json.loads(line) for line in ended.out.splitlines()]
        assert told == [
            {"run": row["run_id"], "status": row["status"], "settled": True, "tasks": {row["status"]: 3}}
            for row in rows[::-1]
        ]
        assert sandbox.requests - before == 1 + len(names)  # the runs are listed once


async def test_a_table_counts_the_tasks() -> None:
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox:
        row = next(row for row in sandbox.run_rows() if row["status"] == "partially_completed")
        ended = await wait(sandbox, row["run_id"], "--table", COLUMNS="60")

    assert ended.status == 0
    heads, line = ended.out.splitlines()
    assert heads.split() == ["RUN", "STATUS", "TASKS"]
    assert line.startswith(row["run_id"])
    assert max(map(len, (heads, line))) <= 60


async def test_what_does_not_end_in_time_is_told_with_what_holds_it() -> None:
    async with Sandbox(runs=40, tasks_per_run=3) as sandbox:
        run, task = held_run(sandbox)
        other = next(row["run_id"] for row in sandbox.run_rows() if row["status"] == "completed")
        ended = await wait(sandbox, run, other, *QUICK, "--deadline", "0.5s")

    assert ended.status == 5
    assert f"run {run} is in_progress, with open tasks {task} (hold)" in ended.err
    assert ended.err.startswith("unpod-async: the deadline of 0.5 s passed while waiting for 1 of 2 runs: ")
    assert ended.err.count("\n") == 1
    held, done = map(json.loads, ended.out.splitlines())
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
async def test_on_a_terminal_a_line_says_how_far_it_is_and_goes(columns: int) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox:
        run = sandbox.insert_run(2)
        other = sandbox.run_ids()[1]
        argv = ("wait", SPACE, run, *QUICK)
        async with Terminal(settings(sandbox), *argv, columns=columns) as terminal:
            await terminal.until("0 of 1 runs settled, 2 calls to go, 0:0")
            while next(sandbox.run_rows())["status"] not in {"completed", "failed", "partially_completed"}:
                sandbox.advance()
            assert await terminal.ended() == 0

    lines = [line for line in terminal.lines() if line]
    assert max(map(cell_len, lines)) <= columns
    assert lines[-2].split() == ["RUN", "STATUS", "TASKS"]
    assert lines[-1].startswith(run)
    assert other not in terminal.shown
    assert terminal.shown.rfind("\x1b[?25h") > terminal.shown.rfind("\x1b[?25l")  # the cursor is back
    assert not SANDBOX_SECRETS.search(terminal.shown)


@posix
async def test_in_a_pipe_the_line_is_on_the_terminal_and_the_result_in_the_pipe() -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox:
        run = sandbox.insert_run(2)
        async with Terminal(settings(sandbox), "wait", SPACE, run, *QUICK, stdout=False) as terminal:
            await terminal.until("0 of 1 runs settled, 2 calls to go")
            while next(sandbox.run_rows())["status"] not in {"completed", "failed", "partially_completed"}:
                sandbox.advance()
            assert terminal.process.stdout is not None
            told = json.loads(await terminal.process.stdout.read())
            assert await terminal.ended() == 0

    assert (told["run"], told["settled"]) == (run, True)
    assert '"run"' not in terminal.shown


async def test_an_outage_is_waited_out() -> None:
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox:
        row = next(row for row in sandbox.run_rows() if row["status"] == "completed")
        sandbox.script(Fault(status=503, times=5))
        ended = await wait(sandbox, row["run_id"], *QUICK)

    assert (ended.status, ended.err) == (0, "")
    assert json.loads(ended.out)["settled"]


@posix
async def test_ctrl_c_ends_it() -> None:
    async with Sandbox(runs=40, tasks_per_run=3) as sandbox:
        run, _ = held_run(sandbox)
        process = await start(settings(sandbox), "wait", SPACE, run, *QUICK)
        await sandbox.arrived(4)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    assert (process.returncode, out, err) == (130, b"", b"unpod-async: interrupted\n")


@pytest.mark.parametrize(
    ("argv", "environment", "status", "said"),
    [
        ((SPACE, "Rnone"), {}, 1, f"run Rnone is not listed in space {SPACE}"),
        ((SPACE, "Rnone", "Rnowhere"), {}, 1, "2 runs (Rnone, Rnowhere) are not listed"),
        (("NOSPACE", "R1"), {}, 1, "Invalid Space Token"),
        ((SPACE, "R1"), {"UNPOD_PLATFORM_TOKEN": "wrong"}, 4, "answered 401"),
        ((SPACE, "a/b"), {}, 2, "run_id"),
        ((SPACE, "R1", "--deadline", "0"), {}, 2, "--deadline: must be more than 0"),
        ((SPACE, "R1", "--deadline", "never"), {}, 2, "--deadline: 'never' is not seconds"),
        ((SPACE, "R1", "--interval", "-1"), {}, 2, "--interval: '-1' is not seconds"),
    ],
)
async def test_what_cannot_be_waited_for_is_one_line_and_a_status(
    argv: tuple[str, ...], environment: dict[str, str], status: int, said: str
) -> None:
    async with Sandbox(runs=1) as sandbox:
        ended = await here({**settings(sandbox), **environment}, "wait", *argv)

    assert (ended.status, ended.out) == (status, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1
