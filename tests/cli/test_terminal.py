"""The program on a terminal of 60 columns: prompts, progress and Ctrl-C."""

from __future__ import annotations

import json
import re
import shlex
import sys
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from tests.cli.harness import Terminal, settings
from tests.leaks import SANDBOX_SECRETS
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

PERSON = ("--name", "A. Example", "--number", "9000000001", "--context", "Ask whether Tuesday suits.")


def check_screen(terminal: Terminal, columns: int = 60) -> None:
    assert max(cell_len(line) for line in terminal.lines()) <= columns
    assert not SANDBOX_SECRETS.search(terminal.shown)
    assert "Traceback" not in terminal.shown


async def test_a_table_fits_and_shortens_the_ids() -> None:
    async with Sandbox(runs=60) as sandbox:
        async with Terminal(settings(sandbox, TZ="UTC"), "runs", sandbox.space_token) as terminal:
            assert await terminal.wait() == 0
        ids = sandbox.run_ids()[:50]

    check_screen(terminal)
    lines = [line for line in terminal.lines() if line]
    assert lines[0].split() == ["RUN", "STATUS", "CREATED", "(UTC)", "TASKS"]
    assert [line.split()[0] for line in lines[1:51]] == [f"{one[:9]}…" for one in ids]
    assert lines[51].startswith("The first 50 of 60 runs")
    assert "\x1b[1m" in terminal.shown  # the headings


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}])
async def test_without_colour_there_are_no_control_sequences(variable: dict[str, str]) -> None:
    async with Sandbox(runs=2) as sandbox:
        environment = {**settings(sandbox), **variable}
        async with Terminal(environment, "doctor", sandbox.space_token) as terminal:
            assert await terminal.wait() == 0

    check_screen(terminal)
    assert "\x1b" not in terminal.shown


async def test_the_prompt_for_the_token_does_not_show_it() -> None:
    async with Sandbox(runs=2) as sandbox:
        environment = settings(sandbox, UNPOD_PLATFORM_TOKEN=None)
        async with Terminal(environment, "runs", sandbox.space_token, columns=100) as terminal:
            await terminal.until("not shown while you type): ")
            terminal.type(f"{sandbox.token}\n")
            assert await terminal.wait() == 0
            assert sandbox.run_ids()[0][:9] in terminal.shown

    check_screen(terminal, 100)


@pytest.mark.parametrize(
    ("typed", "status", "calls"), [("y\n", 0, 1), ("\n", 1, 0), ("\x03", 130, 0), ("\x04", 1, 0)]
)
async def test_calls_are_placed_only_after_a_yes(typed: str, status: int, calls: int) -> None:
    async with Sandbox(runs=1) as sandbox:
        argv = ("create", sandbox.space_token, "--agent", sandbox.agent_handle, *PERSON)
        async with Terminal(settings(sandbox), *argv) as terminal:
            await terminal.until("Place this call? [y/N] ")
            terminal.type(typed)
            assert await terminal.wait() == status

        assert len(sandbox.ledger) == calls
        assert sum(received.method == "POST" for received in sandbox.log) == calls
    check_screen(terminal)
    assert "9000000001  A. Example" in terminal.shown
    lines = terminal.lines()
    assert status != 1 or "unpod-async: nothing was sent" in lines, lines  # on a line of its own


async def test_the_calls_to_confirm_are_aligned(tmp_path: Path) -> None:
    file = tmp_path / "calls.csv"
    file.write_text("name,contact_number\nA. Example,+91 90000 00001\nB,9000000002\n")
    text = "Ask whether Tuesday suits, and offer Wednesday if it does not."
    async with Sandbox(runs=1) as sandbox:
        argv = ("--agent", sandbox.agent_handle, "--documents", str(file), "--context", text)
        async with Terminal(settings(sandbox), "create", sandbox.space_token, *argv) as terminal:
            await terminal.until("Place these 2 calls? [y/N] ")
            terminal.type("n\n")
            assert await terminal.wait() == 1

    check_screen(terminal)
    assert [line for line in terminal.lines() if line][:7] == [
        f"2 calls in space {sandbox.space_token}:",
        "  +91 90000 00001  A. Example",
        "  9000000002       B",
        f"agent:    {sandbox.agent_handle}",
        "schedule: now",
        "context:  Ask whether Tuesday suits, and offer Wednesday if",
        "          it does not.",
    ]


async def test_a_long_command_to_repeat_can_be_copied(tmp_path: Path) -> None:
    """Its lines end between arguments, and a shell reads them as the same arguments."""
    argv = ("export", "SPACEMAIN000000000000001", str(tmp_path / "two  spaces" / "it's"), "--format", "csv")
    async with Sandbox(runs=2) as sandbox:
        sandbox.script(Fault(stall=60))
        async with Terminal(settings(sandbox), *argv, "--page-size", "7", "--full") as terminal:
            await terminal.until("Listing runs")
            terminal.type("\x03")
            assert await terminal.wait() == 130

    command = terminal.shown.partition("run the same command")[2].replace("\r", "").partition(":\n")[2]
    assert command.count(" \\\n") == len(command.splitlines()) - 1 >= 2
    assert shlex.split(command.replace("\\\n", "")) == ["unpod-async", *argv, "--page-size", "7", "--full"]
    assert "--format csv" in command
    assert "--page-size 7" in command


async def test_an_export_shows_its_progress(tmp_path: Path) -> None:
    async with Sandbox(runs=30, tasks_per_run=3) as sandbox:
        argv = ("export", sandbox.space_token, str(tmp_path / "out"))
        async with Terminal(settings(sandbox), *argv) as terminal:
            assert await terminal.wait() == 0

    check_screen(terminal)
    text = "\n".join(terminal.lines())
    assert "Done: 30 of 30 runs" in text
    assert "100%" in text
    assert "Complete  yes" in text
    assert "Data set  30 runs, 90 tasks" in text
    assert terminal.shown.rfind("\x1b[?25h") > terminal.shown.rfind(
        "\x1b[?25l"
    )  # the cursor is visible again
    # Coloured as the statuses are: red would be a failure.
    assert "\x1b[32m" + "━" * 30 in terminal.shown
    assert not set(re.findall("\x1b\\[([0-9;]+)m━", terminal.shown)) & {"31", "35", "91", "95"}


@pytest.mark.parametrize("kind", ["dumb", "unknown", ""])
async def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path, kind: str) -> None:
    async with Sandbox(runs=3, tasks_per_run=3) as sandbox:
        argv = ("export", sandbox.space_token, str(tmp_path / "out"))
        async with Terminal({**settings(sandbox), "TERM": kind}, *argv) as terminal:
            assert await terminal.wait() == 0
        sandbox.advance(50)
        waiting = ("wait", sandbox.space_token, sandbox.run_ids()[-1], "--deadline", "9s")
        async with Terminal({**settings(sandbox), "TERM": kind}, *waiting) as waited:
            assert await waited.wait() == 0
        watching = ("watch", sandbox.space_token)
        async with Terminal({**settings(sandbox), "TERM": kind}, *watching) as watched:
            await watched.until(sandbox.run_ids()[0])
            watched.type("\x03")
            assert await watched.wait() == 130

    check_screen(terminal)
    assert "\x1b" not in terminal.shown + waited.shown + watched.shown
    assert "Done: 3 of 3 runs; 9 tasks" in terminal.shown


@pytest.mark.slow
async def test_the_same_command_completes_an_export_after_ctrl_c(tmp_path: Path) -> None:
    target = tmp_path / "out"
    async with Sandbox(runs=12, tasks_per_run=20) as sandbox:
        argv = ("export", sandbox.space_token, str(target), "--page-size", "20")
        # The response with the second page stalls.
        sandbox.script(Fault(stall=60, page=2, path="/tasks/"))
        async with Terminal(settings(sandbox), *argv, columns=300) as terminal:
            await terminal.until("Fetching")
            while not any(
                received.path.endswith("/tasks/") and received.query.get("page") == "2"
                for received in sandbox.log
            ):
                await sandbox.arrived(sandbox.requests + 1)
            terminal.type("\x03")
            assert await terminal.wait() == 130
        command = " ".join(["unpod-async", *argv])
        assert f"What was fetched is kept in {target}, except for about the last second." in terminal.shown
        assert command in terminal.shown
        check_screen(terminal, 300)

        async with Terminal(settings(sandbox), *argv, columns=300) as terminal:
            assert await terminal.wait() == 0
        rows = [
            json.loads(line) for file in target.glob("tasks/*") for line in file.read_bytes().splitlines()
        ]
        assert sorted(row["task_id"] for row in rows) == sorted(sandbox.task_ids())
