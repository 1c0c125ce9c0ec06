"""`watch`: the table on a terminal, the lines in a pipe, outages, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len
from rich.text import Text

from tests.cli.harness import PROGRAM, clean_environment, run_cli, settings
from tests.cli.watching import QUICK, SPACE, WatchTerminal, last_table, posix, watch_process
from tests.leaks import SANDBOX_SECRETS
from unpod_async.cli.output import Screen
from unpod_async.testing import Sandbox, faults
from unpod_async.testing.demos.watch import choose_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.harness import Terminal


def with_fixed_port() -> Sandbox:
    """Return a sandbox that listens on the same port after a restart."""
    return Sandbox(runs=2, port=choose_port())


# --- on a terminal -----------------------------------------------------------------------------------------


def check_screen(terminal: Terminal, columns: int) -> None:
    assert max(cell_len(line) for line in terminal.lines()) <= columns
    assert not SANDBOX_SECRETS.search(terminal.shown)
    assert "Traceback" not in terminal.shown
    assert "Person" not in terminal.shown
    assert terminal.shown.rfind("\x1b[?25h") > terminal.shown.rfind(
        "\x1b[?25l"
    )  # the cursor is visible again


@posix
async def test_an_error_before_the_first_event_leaves_no_empty_table() -> None:
    async with (
        Sandbox(runs=2) as sandbox,
        WatchTerminal(settings(sandbox), "watch", "NOSUCHSPACE", columns=80) as terminal,
    ):
        assert await terminal.wait() == 4
    table, error = terminal.shown.rfind("RUNS"), terminal.shown.find("Invalid Space Token")
    lines_of_table = terminal.shown[:error].count("\n", terminal.shown.rfind("unpod-async watch", 0, table))
    erased = terminal.shown[table:error].count("\x1b[2K")
    assert erased >= lines_of_table >= 5


@posix
@pytest.mark.parametrize("is_selected", [False, True])
async def test_the_table_shows_when_the_service_has_answered(*, is_selected: bool) -> None:
    """The first poll of a large space takes minutes, in which "connecting" would look like a failure."""
    async with Sandbox(runs=300, tasks_per_run=1) as sandbox:
        # A selected run may be so old that no row of the first page is reported.
        chosen = ("--run", sandbox.run_ids()[-1]) if is_selected else ()
        sandbox.script(faults.stall(page=2))
        async with WatchTerminal(settings(sandbox), "watch", SPACE, *QUICK, *chosen, columns=80) as terminal:
            await terminal.until(f"{SPACE}  connecting")
            await terminal.until(f"{SPACE}  reading")
            terminal.type("\x03")
            assert await terminal.wait() == 130


@pytest.mark.slow
@posix
@pytest.mark.parametrize("columns", [60, 120])
async def test_a_table_is_updated_and_stays_after_ctrl_c(columns: int) -> None:
    ended = r"^{}…  R\S+  .* \d\d:\d\d:\d\d$"
    async with (
        Sandbox(runs=12, tasks_per_run=2) as sandbox,
        WatchTerminal(settings(sandbox), "watch", SPACE, *QUICK, columns=columns) as terminal,
    ):
        await terminal.until("polled ")
        run = sandbox.insert_run(2)
        await terminal.until("^RUNS  13")
        first, second = (task[:9] for task in sandbox.task_ids(run))
        sandbox.advance()
        await terminal.until(f"^{first}…  .* 0:0[0-9]$")  # in progress
        sandbox.advance()
        await terminal.until(ended.format(first))
        await terminal.until(ended.format(second))
        counts = Counter(row["status"] for row in sandbox.run_rows())
        for status, count in counts.items():
            await terminal.until(f"^{status} +{count} +[<>]?[0-9]+%( |$)")
        terminal.type("\x03")
        assert await terminal.wait() == 130

    check_screen(terminal, columns)
    lines = last_table(terminal)
    assert lines[0].split()[:4] == ["●", SPACE, "connected", "polled"]
    shown = {tuple(line.split()[:2]) for line in lines[lines.index("RUNS  13") + 1 :][: len(counts)]}
    assert shown == {(status, str(count)) for status, count in counts.items()}
    calls = next(index for index, line in enumerate(lines) if line.startswith("CALLS ENDED  "))
    assert lines[calls + 1].split() == ["CALL", "RUN", "OUTCOME", "DURATION", "ENDED"]
    assert "interrupted" not in terminal.shown  # Ctrl-C is how a watch ends
    end = " ".join(terminal.shown.split())
    assert end.endswith("With --state FILE, the next watch continues where this one ended.")


@pytest.mark.slow
@posix
async def test_the_table_shows_an_outage_and_its_end(tmp_path: Path) -> None:
    sandbox = with_fixed_port()
    async with sandbox:
        environment = settings(sandbox)
    argv = ("watch", SPACE, *QUICK, "--state", str(tmp_path / "state"))
    async with sandbox, WatchTerminal(environment, *argv, columns=120) as terminal:
        await terminal.until("polled ")
        await sandbox.__aexit__(None, None, None)
        await terminal.until("disconnected since ")
        await sandbox.__aenter__()
        terminal.shown = ""
        await terminal.until(f"● {SPACE}  connected")
        terminal.type("\x03")
        assert await terminal.wait() == 130

    check_screen(terminal, 120)
    assert "connected" in last_table(terminal)[0]
    assert "Run the same command again to resume." in " ".join(terminal.lines())


@posix
@pytest.mark.parametrize(("columns", "lines"), [(200, 50), (40, 12), (3, 2)])
async def test_the_table_fits_after_a_resize(columns: int, lines: int) -> None:
    async with (
        Sandbox(runs=12, tasks_per_run=2) as sandbox,
        WatchTerminal(settings(sandbox), "watch", SPACE, *QUICK) as terminal,
    ):
        await terminal.until("polled ")
        terminal.resize(columns, lines)
        while "\x1b[2J" not in terminal.shown:
            await sandbox.arrived(sandbox.requests + 1)
        before = terminal.shown.index("\x1b[2J")
        terminal.type("\x03")
        assert await terminal.wait() == 130

    terminal.shown = terminal.shown[before:].partition("With")[0]
    check_screen(terminal, columns)
    assert len(last_table(terminal)) < lines


@posix
async def test_nothing_is_written_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    own_end, terminal_end = os.openpty()
    os.set_blocking(own_end, False)

    def shown() -> str:
        """Return what was written since the last call."""
        pieces: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                pieces.append(os.read(own_end, 65536))
        return b"".join(pieces).decode()

    text = "first"
    with (
        os.fdopen(terminal_end, "w", encoding="utf-8") as stream,
        Screen(stream, lambda *_: [Text(text)]) as screen,
    ):
        assert "first" in shown()
        screen.refresh()
        assert not shown()
        text = "second"
        screen.refresh()
        assert "second" in shown()
    os.close(own_end)


@pytest.mark.slow
@posix
async def test_a_dumb_terminal_gets_plain_lines() -> None:
    async with Sandbox(runs=2) as sandbox:
        environment = {**settings(sandbox), "TERM": "dumb"}
        async with WatchTerminal(
            environment, "watch", SPACE, *QUICK, "--changes-only", columns=200
        ) as terminal:
            await sandbox.arrived(20)
            run = sandbox.insert_run(1)
            await terminal.until(f"run {run}: pending .new.$")
            sandbox.delete_run(run)
            await terminal.until(f"run {run}: pending → removed$")
            terminal.type("\x03")
            assert await terminal.wait() == 130
    assert "\x1b" not in terminal.shown


# --- in a pipe -------------------------------------------------------------------------------------------


@posix
async def test_each_event_is_a_line_immediately() -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, watch_process(sandbox) as watch:
        oldest = sandbox.run_ids()[-1]
        await watch.until_all(set(sandbox.task_ids()))
        assert all(line["existing"] for line in watch.lines)
        # Further polls, so that the watch knows that it has reported everything.
        await sandbox.arrived(sandbox.requests + 10)
        run = sandbox.insert_run(1)
        await watch.until("RunSeen", run=run, existing=False)
        (task_id,) = sandbox.task_ids(run)
        await watch.until("TaskSeen", task=task_id, new="pending")
        sandbox.advance()
        await watch.until("TaskStatusChanged", task=task_id, old="pending", new="in_progress")
        sandbox.advance()
        ended = await watch.until("CallEnded", task=task_id, old="in_progress")
        await watch.until("RunSettled", run=run, new=ended["new"], tasks={ended["new"]: 1})
        sandbox.delete_run(oldest)
        await watch.until("RunRemoved", run=oldest, new=None)
        assert await watch.interrupt() == "unpod-async: interrupted\n"

    kinds = Counter(line["event"] for line in watch.lines)
    assert (kinds["RunSeen"], kinds["RunRemoved"]) == (4, 1)
    assert {"outcome", "duration", "end_reason", "cost"} < ended.keys()
    assert "Person" not in json.dumps(watch.lines)
    assert "90000" not in json.dumps(watch.lines)


@posix
async def test_an_outage_and_its_end_are_reported_once() -> None:
    sandbox = with_fixed_port()
    async with sandbox, watch_process(sandbox, "--changes-only") as watch:
        await sandbox.arrived(10)
        await sandbox.__aexit__(None, None, None)
        down = await watch.until("Disconnected")
        assert "connect" in down["reason"]
        await sandbox.__aenter__()
        assert (await watch.until("Reconnected"))["after"] >= 0
        run = sandbox.insert_run(1)
        await watch.until("TaskSeen", run=run)
        await watch.interrupt()
    assert [line["event"] for line in watch.lines] == ["Disconnected", "Reconnected", "RunSeen", "TaskSeen"]


@posix
async def test_chosen_runs_alone_are_watched() -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        chosen = sandbox.run_ids()[:2]
        texts = (chosen[0], chosen[1][:9])  # one of them by the start of its id
        async with watch_process(sandbox, *(part for run in texts for part in ("--run", run))) as watch:
            await watch.until_all({task_id for run in chosen for task_id in sandbox.task_ids(run)})
            sandbox.advance()
            await watch.until("TaskStatusChanged")
            await watch.interrupt()
    assert {line["run"] for line in watch.lines} == set(chosen)


@posix
async def test_a_closed_pipe_ends_an_idle_watch() -> None:
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox:
        reading_end, writing_end = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *(*PROGRAM, "watch", SPACE, "--interval", "60"),
            env={**clean_environment(), **settings(sandbox)},
            stdout=writing_end,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(writing_end)
        assert await asyncio.to_thread(os.read, reading_end, 10) == b'{"event":"'
        os.close(reading_end)
        _, err = await process.communicate()

    assert (process.returncode, err) == (141, b"")


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "environment", "status", "message"),
    [
        (("NOSPACE",), {}, 4, "Invalid Space Token"),
        ((SPACE, "--run", "Rnone"), {}, 1, f"space {SPACE} has no run Rnone\nhint: `unpod-async runs "),
        ((SPACE,), {"UNPOD_PLATFORM_TOKEN": "wrong"}, 4, "answered 401"),
        (("../x",), {}, 2, "SPACE"),
        ((SPACE, "--interval", "0"), {}, 2, "must be greater than 0"),
        ((SPACE, "--interval", "soon"), {}, 2, "'soon' is not a duration"),
        ((SPACE, "--resync", "5"), {}, 2, "resync"),
        ((SPACE, "--state", "/no/such/folder/x"), {}, 2, "--state: cannot write /no/such/folder/x: No such"),
        ((SPACE, "OTHER", "--run", "R1"), {}, 2, "--run cannot be used with several spaces"),
        ((), {}, 2, "SPACE"),
    ],
)
async def test_an_error_has_a_message_and_an_exit_status(
    argv: tuple[str, ...], environment: dict[str, str], status: int, message: str
) -> None:
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli({**settings(sandbox), **environment}, "watch", *argv)

    assert (result.status, result.out) == (status, "")
    assert message in result.err
    assert "Traceback" not in result.err


@posix
async def test_several_spaces_are_watched_at_once() -> None:
    other = "SPACEPOISON0000000000004"
    async with Sandbox(runs=1) as sandbox, watch_process(sandbox, other, "--no-tasks") as watch:
        await watch.until("RunSeen", space=SPACE)
        if all(line["space"] == SPACE for line in watch.lines):
            await watch.until("RunSeen", space=other)
        await watch.interrupt()
    assert {line["event"] for line in watch.lines} == {"RunSeen"}
