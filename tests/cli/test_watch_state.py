"""watch --state: what is kept, and a watch that goes on from there."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import PROGRAM, clean, here, settings
from tests.cli.watching import QUICK, SPACE, Screenful, last_table, posix, reading
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from pathlib import Path


def statuses(sandbox: Sandbox) -> dict[str, str]:
    return {row["task_id"]: row["status"] for row in sandbox.task_rows()}


def holds_all(file: Path, sandbox: Sandbox) -> bool:
    """Whether all the tasks, and that there were no others, are in the state that is kept."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return '"last_resync":1' in text and all(task in text for task in sandbox.task_ids())


@posix
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
async def test_a_watch_goes_on_from_its_state(tmp_path: Path, by: signal.Signals) -> None:
    file = tmp_path / "state.json"
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox:
        async with reading(sandbox, "--state", str(file)) as watch:
            await watch.until_all(set(sandbox.task_ids()))
            # Further polls, so that the watch has noticed that it has told all.
            await sandbox.arrived(sandbox.requests + 10)
            if by == signal.SIGINT:
                assert "the same command goes on from there" in await watch.interrupted()
                assert os.listdir(tmp_path) == [file.name]  # noqa: PTH208 - it does not block for long
            else:
                # It is saved now and then by itself.
                while not holds_all(file, sandbox):
                    await sandbox.arrived(sandbox.requests + 1)
                watch.process.kill()
                await watch.process.communicate()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "Person" not in file.read_text(encoding="utf-8")

        before = statuses(sandbox)
        sandbox.advance()
        other = sandbox.insert_run(1)
        changed = {name for name, status in statuses(sandbox).items() if before.get(name) != status}
        async with reading(sandbox, "--state", str(file)) as watch:
            await watch.until_all(changed)
            await watch.interrupted()

    assert not any(line.get("existing") for line in watch.lines)
    assert [line["run"] for line in watch.lines if line["event"] == "RunSeen"] == [other]
    assert {line["task"] for line in watch.lines if "task" in line} == changed
    assert (
        max(Counter(tuple(map(line.get, ("event", "run", "task", "new"))) for line in watch.lines).values())
        == 1
    )


@posix
async def test_the_table_of_a_watch_that_goes_on_knows_what_was_told_before(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox:
        async with reading(sandbox, "--state", str(file)) as watch:
            await watch.until_all(set(sandbox.task_ids()))
            await sandbox.arrived(sandbox.requests + 10)
            await watch.interrupted()
        argv = ("watch", SPACE, *QUICK, "--state", str(file))
        async with Screenful(settings(sandbox), *argv) as terminal:
            await terminal.until("polled ")
            terminal.type("\x03")
            assert await terminal.ended() == 130
        going = [
            name for name, status in statuses(sandbox).items() if status in {"in_progress", "processing"}
        ]

    lines = last_table(terminal)
    assert "RUNS  4" in lines
    assert going
    assert f"CALLS IN PROGRESS  {len(going)}" in lines


@posix
async def test_a_state_that_cannot_be_kept_any_more_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with (
        Sandbox(runs=1) as sandbox,
        reading(sandbox, "--state", str(folder / "state")) as watch,
    ):
        run = sandbox.insert_run(1)
        await watch.until("RunSeen", run=run)
        shutil.rmtree(folder)
        assert watch.process.stderr is not None
        said = await watch.process.stderr.readline()
        assert said.startswith(b"unpod-async: --state: cannot write ")
        assert said.endswith(b"No such file or directory; it is tried again\n")
        watch.process.send_signal(signal.SIGINT)
        _, err = await watch.process.communicate()

    assert watch.process.returncode == 1
    assert b"--state: cannot write" in err
    assert b"Traceback" not in err


@posix
async def test_what_a_reader_did_not_take_is_told_again(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox:
        ours, theirs = os.pipe()
        os.close(ours)
        process = await asyncio.create_subprocess_exec(
            *(*PROGRAM, "watch", SPACE, "--state", str(file)),
            env={**clean(), **settings(sandbox)},
            stdout=theirs,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(theirs)
        _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")
    assert not file.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no state of a watch"),
        (b'{"tasks":true,"spaces":[]}', "is no state of a watch"),
        (b'{"tasks":true,"spaces":{"OTHER":{"last_resync":null,"runs":{}}}}', "knows space OTHER"),
    ],
)
async def test_a_file_that_is_no_state_for_this_watch_is_left_alone(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "state.json"
    file.write_bytes(content)
    async with Sandbox(runs=1) as sandbox:
        ended = await here(settings(sandbox), "watch", SPACE, "--state", str(file))

        assert (ended.status, ended.out) == (2, "")
        assert said in ended.err
        assert file.read_bytes() == content
        assert sandbox.requests == 0
