"""`watch --state`: what is saved, and how a watch resumes."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import stat
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import PROGRAM, clean_environment, run_cli, settings
from tests.cli.watching import (
    QUICK,
    SPACE,
    WatchTerminal,
    identity,
    last_table,
    mounting,
    needs_mounts,
    posix,
    watch_process,
)
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable


def statuses(sandbox: Sandbox) -> dict[str, str]:
    return {row["task_id"]: row["status"] for row in sandbox.task_rows()}


def holds_all(file: Path, sandbox: Sandbox) -> bool:
    """Return True if the state has all tasks and is that of a completed resync."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return '"last_resync":1' in text and all(task in text for task in sandbox.task_ids())


@pytest.mark.slow
@posix
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
async def test_a_watch_resumes_from_its_state(tmp_path: Path, by: signal.Signals) -> None:
    file = tmp_path / "state.json"
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox:
        async with watch_process(sandbox, "--state", str(file)) as watch:
            await watch.until_all(set(sandbox.task_ids()))
            # Further polls, so that the watch knows that it has reported everything.
            await sandbox.arrived(sandbox.requests + 10)
            if by == signal.SIGINT:
                assert "Run the same command again to resume." in await watch.interrupt()
                assert os.listdir(tmp_path) == [file.name]  # noqa: PTH208 - it does not block for long
            else:
                # The state is also saved while the watch runs.
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
        async with watch_process(sandbox, "--state", str(file)) as watch:
            await watch.until_all(changed)
            await watch.interrupt()

    assert not any(line.get("existing") for line in watch.lines)
    assert [line["run"] for line in watch.lines if line["event"] == "RunSeen"] == [other]
    assert {line["task"] for line in watch.lines if "task" in line} == changed
    assert (
        max(Counter(tuple(map(line.get, ("event", "run", "task", "new"))) for line in watch.lines).values())
        == 1
    )


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_an_event_that_cannot_be_written_is_not_in_the_state(tmp_path: Path) -> None:
    """The disk of the lines is full, and that of the state is not."""
    file = tmp_path / "state.json"
    argv = ("watch", SPACE, *QUICK, "--json", "--state", str(file))
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox:
        with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - a device
            process = await asyncio.create_subprocess_exec(
                *(*PROGRAM, *argv),
                env={**clean_environment(), **settings(sandbox)},
                stdout=full,
                stderr=asyncio.subprocess.PIPE,
            )
            _, err = await process.communicate()
        assert process.returncode == 1
        message, hint = err.splitlines()
        assert message == b"unpod-async: cannot write to stdout: no space is left on the disk"
        assert hint.startswith(b"hint: ")
        async with watch_process(sandbox, "--state", str(file)) as watch:
            await watch.until_all(set(sandbox.task_ids()))
            await watch.interrupt()

    assert {line["run"] for line in watch.lines if line["event"] == "RunSeen"} == set(sandbox.run_ids())


@pytest.mark.slow
@posix
async def test_the_table_of_a_resumed_watch_has_what_was_reported_before(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox:
        async with watch_process(sandbox, "--state", str(file)) as watch:
            await watch.until_all(set(sandbox.task_ids()))
            await sandbox.arrived(sandbox.requests + 10)
            await watch.interrupt()
        argv = ("watch", SPACE, *QUICK, "--state", str(file))
        async with WatchTerminal(settings(sandbox), *argv) as terminal:
            await terminal.until("polled ")
            terminal.type("\x03")
            assert await terminal.wait() == 130
        active = [
            name for name, status in statuses(sandbox).items() if status in {"in_progress", "processing"}
        ]

    lines = last_table(terminal)
    assert "RUNS  4" in lines
    assert active
    assert f"CALLS IN PROGRESS  {len(active)}" in lines


@pytest.mark.slow
@posix
async def test_a_state_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with (
        Sandbox(runs=1) as sandbox,
        watch_process(sandbox, "--state", str(folder / "state")) as watch,
    ):
        run = sandbox.insert_run(1)
        await watch.until("RunSeen", run=run)
        shutil.rmtree(folder)
        assert watch.process.stderr is not None
        line = await watch.process.stderr.readline()
        assert line.startswith(b"unpod-async: --state: cannot write ")
        assert line.endswith(b"No such file or directory; retrying every second\n")
        watch.process.send_signal(signal.SIGINT)
        _, err = await watch.process.communicate()

    assert watch.process.returncode == 1
    assert b"--state: cannot write" in err
    assert b"Traceback" not in err


@posix
async def test_events_that_were_not_read_are_not_in_the_state(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox:
        reading_end, writing_end = os.pipe()
        os.close(reading_end)
        process = await asyncio.create_subprocess_exec(
            *(*PROGRAM, "watch", SPACE, "--state", str(file)),
            env={**clean_environment(), **settings(sandbox)},
            stdout=writing_end,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(writing_end)
        _, err = await process.communicate()
    assert (process.returncode, err) == (141, b"")
    assert not file.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "is not the state of a watch"),
        (b'{"tasks":true,"spaces":{}', "is not the state of a watch"),
        (b'{"tasks":true,"spaces":[]}', "is not the state of a watch"),
        (b'{"tasks":true,"spaces":{"OTHER":{"last_resync":null,"runs":{}}}}', "has the state of space OTHER"),
        (b'{"tasks":true,"spaces":{},"version":1}', "state has format 1"),
    ],
)
async def test_a_file_that_is_not_the_state_of_this_watch_is_not_changed(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "state.json"
    file.write_bytes(content)
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli(settings(sandbox), "watch", SPACE, "--state", str(file))

        assert (result.status, result.out) == (2, "")
        assert message in result.err
        assert file.read_bytes() == content
        assert sandbox.requests == 0


# -- files that are not simply there ------------------------------------------------------------------------


def named_like_a_state(folder: Path) -> list[Path]:
    return list(folder.rglob("*state*"))


def empty(file: Path) -> Path:
    file.touch()
    return file


def link_to_nothing(file: Path) -> Path:
    link = file.with_name("link")
    link.symlink_to(file)
    return link


def link_from_elsewhere(file: Path) -> Path:
    link = file.parent.parent / "link"
    link.symlink_to(Path(file.parent.name, empty(file).name))
    return link


@pytest.mark.slow
@posix
@pytest.mark.parametrize("prepare", [empty, link_to_nothing, link_from_elsewhere])
async def test_an_empty_file_and_a_link_keep_the_state(
    tmp_path: Path, prepare: Callable[[Path], Path]
) -> None:
    file = tmp_path / "folder" / "state.json"
    file.parent.mkdir()
    given = prepare(file)
    is_link = given.is_symlink()
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox:
        for known in (False, True):
            async with watch_process(sandbox, "--state", str(given)) as watch:
                if known:
                    run = sandbox.insert_run(1)
                    await watch.until("RunSeen", run=run)
                else:
                    await watch.until_all(set(sandbox.task_ids()))
                await sandbox.arrived(sandbox.requests + 10)
                await watch.interrupt()
            assert holds_all(file, sandbox) or known
            assert given.is_symlink() == is_link
            assert not file.is_symlink()
            assert known == (not any(line.get("existing") for line in watch.lines))
        assert [line["run"] for line in watch.lines if line["event"] == "RunSeen"] == [run]
    assert named_like_a_state(tmp_path) == [file]


def a_device(file: Path) -> None:
    file.symlink_to(os.devnull)


@posix
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, a_device])
async def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    file = tmp_path / "state.json"
    make(file)
    before = identity(file)
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli(settings(sandbox), "watch", SPACE, "--state", str(file))
        assert (result.status, sandbox.requests) == (2, 0)
    assert "is not a regular file" in result.err
    assert "hint:" in result.err
    assert identity(file) == before


@posix
async def test_a_loop_of_links_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.symlink_to(file)
    async with Sandbox(runs=1) as sandbox:
        result = await run_cli(settings(sandbox), "watch", SPACE, "--state", str(file))
        assert (result.status, sandbox.requests) == (2, 0)
    assert "--state: cannot read" in result.err


@pytest.mark.parametrize("content", [b"", b'{"tasks":true,"spaces":{}}'])
async def test_a_file_that_cannot_be_replaced_is_refused_at_once(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is a mount point, as in a container, can be written but not replaced."""
    file = tmp_path / "state.json"
    file.write_bytes(content)

    def busy(*names: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    async with Sandbox(runs=1) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", busy)
            result = await run_cli(settings(sandbox), "watch", SPACE, "--state", str(file))
        assert (result.status, sandbox.requests) == (2, 0)
    assert os.strerror(errno.EBUSY) in result.err
    assert "mount its folder" in " ".join(result.err.split())
    assert os.listdir(tmp_path) == [file.name]  # noqa: PTH208 - it does not block for long
    assert file.read_bytes() == content


@posix
@needs_mounts
async def test_a_real_mount_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside.json", tmp_path / "inside.json"
    outside.touch()
    inside.touch()
    async with Sandbox(runs=1) as sandbox:
        process = await asyncio.create_subprocess_exec(
            *(*mounting(outside, inside), *PROGRAM, "watch", SPACE, "--state", str(inside)),
            env={**os.environ, **clean_environment(), **settings(sandbox)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
        if process.returncode != 2 and b"unpod-async" not in err:
            pytest.skip("this user may not mount")
        assert (process.returncode, sandbox.requests) == (2, 0)
    assert b"mount its folder" in b" ".join(err.split())
