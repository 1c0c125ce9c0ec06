"""Signals, closed pipes, full disks, and the `sandbox` command."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.cli.harness import (
    PROGRAM,
    Result,
    clean_environment,
    run_cli,
    run_process,
    settings,
    start_process,
)
from tests.leaks import SANDBOX_SECRETS
from unpod_async.testing import Fault, Sandbox

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes of POSIX")

STDOUT_HINT = "hint: check where the output goes; > /dev/null discards it\n"


async def read_start(sandbox: Sandbox, unbuffered: str, *argv: str) -> tuple[bytes, int | None, bytes]:
    """Run a command whose reader exits after a few bytes. Returns these, the exit status and stderr."""
    reading_end, writing_end = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(*PROGRAM, *argv),
        env={**clean_environment(), **settings(sandbox), "PYTHONUNBUFFERED": unbuffered},
        stdout=writing_end,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing_end)
    start = await asyncio.to_thread(os.read, reading_end, 10)
    os.close(reading_end)
    _, err = await process.communicate()
    return start, process.returncode, err


@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_a_closed_pipe_ends_the_program_silently(unbuffered: str) -> None:
    async with Sandbox(runs=300, tasks_per_run=5) as sandbox:
        start, status, err = await read_start(sandbox, unbuffered, "tasks", sandbox.space_token)

        assert start.startswith(b"{")
        assert (status, err) == (141, b"")
        assert sandbox.requests < 15  # the other pages were not requested


@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_a_pipe_that_closes_while_a_table_is_written(unbuffered: str) -> None:
    """The table is one write, and does not fit into the pipe. Its write ends with a part of it."""
    async with Sandbox(runs=300, tasks_per_run=5) as sandbox:
        argv = ("tasks", sandbox.space_token, "--table", "--limit", "0")
        start, status, err = await read_start(sandbox, unbuffered, *argv)

    assert start
    assert (status, err) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "argv", [("runs", "SPACEMAIN000000000000001"), ("--version",), ("--help",), ("runs", "--help")]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_a_full_disk(argv: tuple[str, ...], unbuffered: str) -> None:
    async with Sandbox(runs=2) as sandbox:
        with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - a device
            process = await asyncio.create_subprocess_exec(
                *(*PROGRAM, *argv),
                env={**clean_environment(), **settings(sandbox), "PYTHONUNBUFFERED": unbuffered},
                stdout=full,
                stderr=asyncio.subprocess.PIPE,
            )
            _, err = await process.communicate()

    assert process.returncode == 1
    assert err.decode() == (
        "unpod-async: cannot write to stdout: no space is left on the disk\n"
        "hint: free space on the disk or write the output elsewhere\n"
    )


def open_broken(kind: str) -> int:
    """Return a descriptor that cannot be written: of a full disk, or a pipe whose reader has exited."""
    if kind == "full":
        return os.open("/dev/full", os.O_WRONLY)
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    return writing_end


async def run_broken(
    sandbox: Sandbox, *argv: str, stdout: int = asyncio.subprocess.PIPE, stderr: int = asyncio.subprocess.PIPE
) -> Result:
    """Run the program with these streams, and close them."""
    process = await asyncio.create_subprocess_exec(
        *(*PROGRAM, *argv),
        env={**clean_environment(), **settings(sandbox)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )
    for descriptor in (stdout, stderr):
        if descriptor >= 0:
            os.close(descriptor)
    out, err = await process.communicate()
    assert process.returncode is not None
    return Result(process.returncode, (out or b"").decode(), (err or b"").decode())


CREATE = ("--name", "A", "--number", "9000000001", "--context", "x", "--yes")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", ["full", "pipe"])
@pytest.mark.parametrize("option", ["--json", "--table"])
@pytest.mark.parametrize("is_lost", [False, True])
async def test_calls_that_were_placed_are_reported_although_stdout_is_broken(
    kind: str, option: str, is_lost: bool
) -> None:
    """Otherwise the exit status looks as if nothing had been placed, and people are called twice."""
    async with Sandbox(runs=1) as sandbox:
        if is_lost:
            sandbox.script(Fault(method="POST", status=502, processed=True))
        argv = ("create", sandbox.space_token, "--agent", sandbox.agent_handle, *CREATE, option)
        result = await run_broken(sandbox, *argv, stdout=open_broken(kind))

        (call,) = sandbox.ledger
        assert result.status == (141 if kind == "pipe" else 1)
        assert f"run {call.run_id}: 1 call queued; do not send it again\n" in result.err
        assert ("cannot write to stdout" in result.err) is (kind == "full")
        assert "Traceback" not in result.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", ["full", "pipe"])
@pytest.mark.parametrize("verbose", [(), ("-vv",)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_a_broken_stderr_changes_nothing_else(
    kind: str, verbose: tuple[str, ...], unbuffered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox:
        space = sandbox.space_token
        agent = ("--agent", sandbox.agent_handle)
        for argv, status, lines in (
            (("runs", space), 0, 2),
            (("runs", "NOSUCHSPACE"), 4, 0),
            (("runs", "a/b"), 2, 0),
            (("export", space, str(tmp_path / "data")), 0, 1),
            (("create", space, *agent, *CREATE), 0, 1),
        ):
            result = await run_broken(sandbox, *verbose, *argv, stderr=open_broken(kind))
            assert (argv[0], result.status, len(result.out.splitlines())) == (argv[0], status, lines)
        assert len(sandbox.ledger) == 1


async def test_a_closed_stdout_is_an_error_before_anything_is_done() -> None:
    async with Sandbox(runs=2) as sandbox:
        for redirections, err in (
            (">&-", f"unpod-async: cannot write to stdout: it is closed\n{STDOUT_HINT}"),
            (">&- 2>&-", ""),
        ):
            program = ("sh", "-c", f'exec "$@" {redirections}', "sh", *PROGRAM)
            result = await run_process(settings(sandbox), "runs", sandbox.space_token, program=program)

            assert result == (1, "", err)
        assert sandbox.requests == 0


async def run_without_stdout(sandbox: Sandbox, *argv: str, also: str = "") -> Result:
    program = ("sh", "-c", f'exec "$@" >&- {also}', "sh", *PROGRAM)
    return await run_process(settings(sandbox), *argv, program=program)


@pytest.mark.slow
async def test_without_a_stdout_nothing_is_called_and_an_export_ends_as_usual(tmp_path: Path) -> None:
    """As started by some daemons and schedulers."""
    closed = f"unpod-async: cannot write to stdout: it is closed\n{STDOUT_HINT}"
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox:
        sandbox.advance(50)
        space, run = sandbox.space_token, sandbox.run_ids()[-1]
        person = ("--name", "A", "--number", "9000000001", "--context", "x", "--yes")
        for argv in (
            ("create", space, "--agent", sandbox.agent_handle, *person),
            ("export", space, str(tmp_path / "x"), "--json"),
            ("wait", space, run, "--json"),
            ("watch", space),
            ("doctor",),
            ("--help",),
            ("--version",),
        ):
            assert await run_without_stdout(sandbox, *argv) == (1, "", closed)
        assert sandbox.requests == 0

        target = tmp_path / "out"
        exported = await run_without_stdout(sandbox, "export", space, str(target))
        assert exported.status == 0
        assert "Traceback" not in exported.err
        assert sum(len(file.read_bytes().splitlines()) for file in target.glob("tasks/*")) == 2
        waited = await run_without_stdout(sandbox, "wait", space, run, "--deadline", "9s")
        assert (waited.status, waited.err) == (0, "")
        # A file that is opened later must not become stdout or stderr.
        silent = await run_without_stdout(sandbox, "export", space, str(tmp_path / "y"), also="2>&- <&-")
        assert silent.status == 0
        files = [one.read_text() for one in (tmp_path / "y").glob("*/*.jsonl")]
        rows = [json.loads(line) for text in files for line in text.splitlines()]
        assert len(rows) == 4

        sandbox.poison(sandbox.task_ids()[0])
        partial = await run_without_stdout(sandbox, "export", space, str(tmp_path / "z"))
        assert partial.status == 3
        assert "left out: " in partial.err


async def test_it_runs_without_the_metadata_of_its_package() -> None:
    """As in a zip file, or in a frozen program."""
    code = (
        "import importlib.metadata as metadata, sys\n"
        "def gone(*args, **more): raise metadata.PackageNotFoundError('gone')\n"
        "metadata.version = metadata.distribution = metadata.metadata = gone\n"
        "metadata.entry_points = metadata.distributions = lambda **more: []\n"
        "from unpod_async.cli import main\n"
        "sys.exit(main())"
    )
    async with Sandbox(runs=2) as sandbox:
        for argv in (("--version",), ("runs", sandbox.space_token)):
            result = await run_process(settings(sandbox), *argv, program=(sys.executable, "-c", code))
            assert (result.status, result.err) == (0, "")


async def test_closed_stdin_and_stderr_are_empty() -> None:
    async with Sandbox(runs=2) as sandbox:
        program = ("sh", "-c", 'exec "$@" <&- 2>&-', "sh", *PROGRAM)
        result = await run_process(settings(sandbox), "runs", sandbox.space_token, program=program)
        failed = await run_process(settings(sandbox), "runs", "NOSUCHSPACE", program=program)

    assert (result.status, result.out.count("\n")) == (0, 2)
    assert failed == (4, "", "")


@pytest.mark.slow
async def test_ctrl_c_ends_a_listing() -> None:
    async with Sandbox(runs=2) as sandbox:
        sandbox.script(Fault(stall=60))
        process = await start_process(settings(sandbox), "runs", sandbox.space_token)
        await sandbox.arrived(1)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    assert (process.returncode, out, err) == (130, b"", b"unpod-async: interrupted\n")


_INTERRUPTED_IMPORT = """\
import os, signal, sys
def interrupt(event, args):
    if event == "import" and args[0] == "{module}" and not sent:
        sent.append(args[0])
        os.kill(os.getpid(), signal.SIGINT)
sent = []
sys.addaudithook(interrupt)
from unpod_async.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "module",
    [
        "unpod_async._common",
        "unpod_async.cli.app",
        "typer",
        "unpod_async.cli.runner",
        "unpod_async.cli.tables",  # by the module of the command, which the parser imports
        "aiohttp",  # while the command runs
    ],
)
async def test_ctrl_c_while_modules_are_imported(module: str, unbuffered: str) -> None:
    """An interruption before `main` is called, about 0.05 seconds after the start, cannot be caught."""
    program = (sys.executable, "-c", _INTERRUPTED_IMPORT.format(module=module))
    async with Sandbox(runs=1) as sandbox:
        environment = settings(sandbox, PYTHONUNBUFFERED=unbuffered)
        result = await run_process(environment, "runs", sandbox.space_token, program=program)
    assert result == (130, "", "unpod-async: interrupted\n")


@pytest.mark.slow
async def test_an_interrupted_create_reports_what_may_have_been_queued() -> None:
    async with Sandbox(runs=1) as sandbox:
        sandbox.script(Fault(stall=60, method="POST"))
        argv = ("create", sandbox.space_token, "--agent", sandbox.agent_handle, "--context", "x", "--yes")
        process = await start_process(settings(sandbox), *argv, "--name", "A", "--number", "9000000001")
        await sandbox.arrived(2)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()

    assert process.returncode == 130
    message, hint = err.decode().splitlines()[-2:]
    assert message.startswith("unpod-async: a create was cancelled after it was sent: calls may be queued; ")
    assert "(" not in message  # no Python code
    assert hint.startswith(f"hint: `unpod-async tasks {sandbox.space_token} --from 20")
    assert len(sandbox.ledger) <= 1


_STUBBORN = """\
import asyncio, sys
from unpod_async.cli.runner import InterruptibleRunner

async def stubborn():
    print("ready", flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("not yet", flush=True)

with InterruptibleRunner() as runner:
    runner.run(stubborn())
"""


@pytest.mark.slow
async def test_the_second_signal_ends_the_program_at_once() -> None:
    process = await start_process({}, program=(sys.executable, "-c", _STUBBORN))
    assert process.stdout is not None
    for line in (b"ready\n", b"not yet\n"):
        assert await process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    _, err = await process.communicate()

    assert (process.returncode, err) == (130, b"\nunpod-async: ended at once\n")


_IGNORING = """\
import asyncio, os, signal, sys
from unpod_async.cli.runner import InterruptibleRunner

async def signalled():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(10):
        await asyncio.sleep(0)
    return 7

signal.signal(signal.SIGINT, signal.SIG_IGN)
with InterruptibleRunner() as runner:
    sys.exit(runner.run(signalled()))
"""


async def test_a_signal_that_is_ignored_at_the_start_stays_ignored() -> None:
    process = await start_process({}, program=(sys.executable, "-c", _IGNORING))
    _, err = await process.communicate()

    assert (process.returncode, err) == (7, b"")


async def printed_variables(process: asyncio.subprocess.Process) -> dict[str, str]:
    """Return what the sandbox printed for the shell, as the shell reads it."""
    assert process.stdout is not None
    async with asyncio.timeout(200):
        lines = [(await process.stdout.readline()).decode() for _ in range(6)]
    words = (shlex.split(line) for line in lines)
    return dict(word.split("=", 1) for export, word in words if export == "export")


async def test_a_live_sandbox_starts_soon_and_its_calls_are_watched_and_waited_for() -> None:
    process = await start_process({}, "sandbox", "--live", "--speed", "20", "--port", "0", "--runs", "20")
    names = await printed_variables(process)
    try:
        async with asyncio.timeout(200):
            watch = await start_process(names, "watch", names["SPACE"], "--interval", "1", "--json")
            assert watch.stdout is not None
            while b"CallEnded" not in (line := await watch.stdout.readline()):
                assert line, (await watch.communicate())[1]
            watch.send_signal(signal.SIGINT)
            await watch.communicate()
            person = ("--name", "A", "--number", "9000000001", "--context", "x", "--agent", names["AGENT"])
            created = await run_cli(names, "create", names["SPACE"], *person, "--yes", "--json")
            run = json.loads(created.out)["run_id"]
            waited = await run_cli(names, "wait", names["SPACE"], run, "--interval", "1", "--json")
            with_jwt = {**names, "UNPOD_PLATFORM_TOKEN": names["JWT"]}
            spaces = await run_cli(with_jwt, "spaces", "--auth-scheme", "JWT")
    finally:
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (created.status, waited.status, waited.err) == (0, 0, "")
    assert run in waited.out
    assert names["SPACE"] in spaces.out
    assert b"It is live" in err
    assert b"Traceback" not in err


async def test_a_speed_needs_a_live_sandbox() -> None:
    result = await run_cli({}, "sandbox", "--speed", "2")

    assert result.status == 2
    assert "--speed: needs --live" in result.err


@pytest.mark.slow
async def test_the_sandbox_prints_its_variables_and_ends_with_ctrl_c() -> None:
    argv = ("sandbox", "--port", "0", "--runs", "3", "--tasks-per-run", "2..2", "--seed", "5")
    process = await start_process({}, *argv)
    assert process.stdout is not None
    names = await printed_variables(process)
    listed = await run_cli(names, "tasks", names["SPACE"])
    of_agent = await run_cli(names, "tasks", "--agent", names["AGENT"])
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()

    expected = [row["task_id"] for row in Sandbox(runs=3, tasks_per_run=2, seed=5).task_rows()]
    assert [line.split('"task_id":"')[1][:33] for line in listed.out.splitlines()] == expected
    assert of_agent.out.count("\n") == 6
    assert (process.returncode, out) == (0, b"")
    assert b"3 runs and 6 tasks" in err
    assert b"Traceback" not in err
    assert not SANDBOX_SECRETS.search(err.decode())  # its tokens are in the lines on stdout only


async def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = await run_cli({}, "sandbox", "--port", str(port), "--runs", "1")

    assert (result.status, result.out) == (1, "")
    assert result.err == (
        f"unpod-async: port {port} of 127.0.0.1 is in use\n"
        "hint: choose another with --port; 0 picks a free one\n"
    )


@pytest.mark.parametrize("text", ["x", "5..", "9..2", "-1"])
async def test_invalid_tasks_per_run(text: str) -> None:
    result = await run_cli({}, "sandbox", f"--tasks-per-run={text}")

    assert result.status == 2
    assert "--tasks-per-run" in result.err
