"""Examples under the conditions that they are written for: lost responses, outages, restarts, bad rows."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import unpod_async
from tests.docs.pages import DOCS, ROOT, Block, blocks, pages
from tests.docs.running import environment
from unpod_async import UnpodClient
from unpod_async.testing import Fault, Sandbox

WITHOUT_DELAYS = """
import runpy, sys
from unpod_async import RetryPolicy, UnpodClient

UnpodClient.__init__.__kwdefaults__["retry"] = RetryPolicy(base=0.001)  # its delays are tested elsewhere
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def python(page: str, having: str = "") -> str:
    """Return the first Python block of a page that contains a text."""
    return next(
        block.text for block in blocks(DOCS / page) if block.language == "python" and having in block.text
    )


async def outcome(text: str, sandbox: Sandbox, folder: Path) -> tuple[int, str, str]:
    """Run a block as a program. Returns its exit status, stdout and stderr."""
    script = folder / "block.py"
    script.write_text(text, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", WITHOUT_DELAYS, str(script)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment(sandbox),
    )
    output, diagnostics = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), diagnostics.decode()


async def output_of(text: str, sandbox: Sandbox, folder: Path) -> str:
    """Run a block that has to succeed. Returns its stdout."""
    status, output, diagnostics = await outcome(text, sandbox, folder)
    assert (status, diagnostics) == (0, "")
    return output


async def test_a_watch_that_is_started_again_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []

    async def until(sandbox: Sandbox, *wanted: str) -> list[str]:
        """Run the block until it has printed these words in this order. Returns its output."""
        for name, value in environment(sandbox).items():
            monkeypatch.setenv(name, value)
        names: dict[str, Any] = {"__name__": "block"}
        exec(compile(python("howto/watch.md", "WatchState.load"), "watch.md", "exec"), names)  # noqa: S102
        printed.clear()
        enough = asyncio.Event()

        def note(text: str) -> None:
            printed.append(text)
            if [word for word in wanted if any(word in line for line in printed)] == [*wanted]:
                enough.set()

        names["print"] = note
        watch = asyncio.create_task(names["main"](interval=0.02))
        async with asyncio.timeout(200):
            await asyncio.wait([watch, asyncio.create_task(enough.wait())], return_when="FIRST_COMPLETED")
        watch.cancel()
        await asyncio.wait([watch])
        assert watch.cancelled() or watch.exception() is None, watch.exception()
        return list(printed)

    async with Sandbox(runs=6, tasks_per_run=3) as sandbox:

        async def advance(steps: int) -> None:
            await sandbox.arrived(sandbox.requests + 25)
            sandbox.advance(steps)

        run = sandbox.insert_run(1)
        (task,) = sandbox.task_ids(run)
        moving = asyncio.create_task(advance(6))
        lines = await until(sandbox, f"call {task} ", f"run {run} ")
        await moving
        assert any(line.startswith(f"run {run} ") for line in lines)
        # It reports calls that ended in between, and repeats no earlier report.
        (late,) = sandbox.task_ids(sandbox.insert_run(1))
        sandbox.set_status(late, "completed")
        sandbox.script(Fault(status=503, times=8, path="/runs/"))
        expected = ("the service cannot be read", "the service can be read again", f"call {late} ")
        lines = await until(sandbox, *expected)
        assert not [line for line in lines if task in line]


async def test_a_call_is_placed_and_waited_for(tmp_path: Path) -> None:
    async with Sandbox(live=True, speed=20, runs=3) as sandbox:
        output = await output_of(python("howto/wait.md"), sandbox, tmp_path)
        assert re.fullmatch(r"(completed|failed) [\w ]+\n", output)
        assert len(sandbox.ledger) == 1


async def test_one_failing_run_of_many_does_not_end_the_job(tmp_path: Path) -> None:
    async with Sandbox(runs=8, tasks_per_run=4) as sandbox:
        active = [row["run_id"] for row in sandbox.run_rows() if row["status"] in {"pending", "in_progress"}]
        assert len(active) > 1
        sandbox.script(Fault(status=404, path=active[0]))
        failed, *statuses = (await output_of(python("howto/scripts.md"), sandbox, tmp_path)).splitlines()
        assert failed.startswith(f"{active[0]}: ")
        assert sum(int(line.split()[1]) for line in statuses) == 4 * (len(active) - 1)


async def test_a_create_whose_response_is_lost_is_looked_up(tmp_path: Path) -> None:
    create = python("howto/place-calls.md")
    async with Sandbox(runs=2) as sandbox:
        assert await output_of(create, sandbox, tmp_path) == "1 call is scheduled\n"
        assert len(sandbox.ledger) == 1
        sandbox.script(Fault(status=502, method="POST", processed=True))
        output = await output_of(create, sandbox, tmp_path)
        assert output == f"the response was lost: created, run {sandbox.run_ids()[0]}\n"
        assert len(sandbox.ledger) == 2


async def test_many_calls_are_each_placed_once(tmp_path: Path) -> None:
    create_many = python("howto/place-calls.md", "create_many")
    everyone = [f"90000000{number:02}" for number in range(6)]
    done = "0 created 2\n1 created 2\n2 created 2\n"
    async with Sandbox(runs=2) as sandbox:
        sandbox.script(Fault(status=502, method="POST", processed=True))
        status, _, diagnostics = await outcome(create_many, sandbox, tmp_path)
        assert status == 1
        assert diagnostics.endswith("run this program again\n")
        assert len(sandbox.ledger) == 2
        for _ in range(2):
            assert await output_of(create_many, sandbox, tmp_path) == done
        assert sorted(call.document["contact_number"] for call in sandbox.ledger) == everyone

    (tmp_path / "calls.journal").unlink()
    async with Sandbox(runs=2) as sandbox:
        sandbox.script(Fault(status=502, method="POST"))
        assert (await outcome(create_many, sandbox, tmp_path))[0] == 1
        output = await output_of(create_many, sandbox, tmp_path)
        assert output == "0 not_found 0\n1 created 2\n2 created 2\n"
        assert sorted(call.document["contact_number"] for call in sandbox.ledger) == everyone[2:]


def test_the_fastapi_example_is_the_one_that_is_tested_under_a_server() -> None:
    example = ROOT / "tests" / "examples" / "fastapi_app.py"
    assert python("howto/web-apps.md") == example.read_text(encoding="utf-8")


APPLICATIONS = {"aiohttp_app": "from aiohttp import web", "litestar_app": "from litestar import"}
SERVE = """
import runpy, sys, uvicorn
from aiohttp import web

app = runpy.run_path(sys.argv[1])["app"]
if isinstance(app, web.Application):
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]))
else:
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]))
"""


@pytest.mark.parametrize("name", APPLICATIONS)
async def test_a_short_application_sends_what_it_names(name: str, tmp_path: Path, free_tcp_port: int) -> None:
    script = tmp_path / f"{name}.py"
    script.write_text(python("howto/web-apps.md", APPLICATIONS[name]), encoding="utf-8")
    async with Sandbox(runs=2, tasks_per_run=3) as sandbox, aiohttp.ClientSession() as session:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", SERVE, str(script), str(free_tcp_port)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment(sandbox), "PYTHONUNBUFFERED": "1"},
        )
        try:
            assert process.stdout is not None
            printed = b""
            while b"unning on http" not in printed:
                line = await process.stdout.readline()
                assert line, printed.decode()
                printed += line
            run = sandbox.run_ids()[0]
            url = f"http://127.0.0.1:{free_tcp_port}/spaces/{sandbox.space_token}/runs/{run}/calls"
            async with session.get(url) as response:
                rows = await response.json()
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()
        expected = [{"task_id": row["task_id"], "status": row["status"]} for row in sandbox.task_rows(run)]
        assert rows == expected


# -- the sandbox in a second terminal -----------------------------------------------------------------------

SECOND_TERMINAL = DOCS / "start" / "sandbox.md"


async def bash(text: str, folder: Path, variables: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *("bash", "-euc", text),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=variables,
        start_new_session=True,  # so that Ctrl-C reaches only the processes that it starts
    )


@asynccontextmanager
async def first_terminal(serve: Block, folder: Path, variables: dict[str, str]) -> AsyncIterator[str]:
    """Start the sandbox as the page says, yield the lines it prints, and end it with Ctrl-C."""
    page = SECOND_TERMINAL.read_text(encoding="utf-8")
    (otherwise,) = re.findall(r"port\s+is\s+in\s+use,\s+`(unpod-async sandbox [^`]+)`", page)
    for command in (serve.text, otherwise):
        process = await bash(command, folder, variables)
        assert process.stdout is not None
        first = await process.stdout.readline()
        if first:
            break
        diagnostics = (await process.communicate())[1].decode()
        assert "port 8765 of 127.0.0.1 is in use" in diagnostics, diagnostics
    try:
        lines = [first, *[await process.stdout.readline() for _ in range(5)]]
        yield b"".join(lines).decode()
    finally:
        os.killpg(process.pid, signal.SIGINT)
        output, errors = await process.communicate()
    assert (process.returncode, output) == (0, b"")
    (counts,) = re.findall(r"simulates (\d+ runs and [\d,]+ tasks)", page)
    assert f"Sandbox with {counts} at " in errors.decode()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="its shell is bash")
async def test_the_sandbox_in_a_second_terminal_leads_to_a_query(tmp_path: Path) -> None:
    async with Sandbox(runs=1) as unused:
        variables = environment(unused)
    for name in ("UNPOD_PLATFORM_TOKEN", "UNPOD_ORG_HANDLE", "UNPOD_BASE_URL", "SPACE", "AGENT", "JWT"):
        del variables[name]
    text = SECOND_TERMINAL.read_text(encoding="utf-8")
    live = text[: text.index("## See calls happen")].count("\n")
    _, _, serve, pasted, *rest = (block for block in blocks(SECOND_TERMINAL) if block.line < live)
    assert serve.text == "unpod-async sandbox\n"
    output, ran = "", []
    async with first_terminal(serve, tmp_path, variables) as lines:
        assert re.sub(r":\d+$", ":8765", lines, flags=re.MULTILINE) == pasted.text
        for block in rest:
            if block.language == "text":
                assert output == block.text
                continue
            command = block.text
            if block.language == "python":
                (tmp_path / "block.py").write_text(block.text, encoding="utf-8")
                command = "python block.py\n"
            process = await bash(lines + command, tmp_path, variables)
            stdout, stderr = await process.communicate()
            output = stdout.decode()
            assert process.returncode == 0, stderr.decode()
            assert "Traceback" not in stderr.decode()
            ran.append(block.language)
    assert ran == ["shell", "shell", "python", "shell"]


# -- tables -------------------------------------------------------------------------------------------------


def first_column(page: str, heading: str = "") -> set[str]:
    text = (DOCS / page).read_text(encoding="utf-8").partition(heading)[2]
    return set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))


def test_the_table_of_errors_is_complete() -> None:
    kinds = {name: getattr(unpod_async, name) for name in unpod_async.__all__}
    errors = {
        name
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, unpod_async.UnpodError)
    }
    assert errors - {"UnpodError"} == first_column("howto/errors.md", "| Raised |")


def test_the_table_of_settings_is_complete() -> None:
    names = unpod_async.UnpodClient.__init__.__annotations__.keys() - {"return"}
    assert names == first_column("start/account.md", "## Settings")


# -- names --------------------------------------------------------------------------------------------------


def used_names() -> set[str]:
    """Return every name, attribute and argument in the Python blocks of the hand-written pages."""
    found: set[str] = set()
    for page in pages():
        for block in blocks(page):
            if block.language != "python" or page.parent.name == "reference":
                continue
            for node in ast.walk(compile(block.text, str(page), "exec", ast.PyCF_ONLY_AST | FLAGS)):
                match node:
                    case ast.Name(id=name) | ast.alias(name=name) | ast.MatchClass(cls=ast.Name(id=name)):
                        found.add(name)
                    # Users write the methods of a protocol such as RateLimiter.
                    case (
                        ast.Attribute(attr=name)
                        | ast.FunctionDef(name=name)
                        | ast.AsyncFunctionDef(name=name)
                    ):
                        found.add(name)
                    case _:
                        pass
    return found


FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


# Without an underscore, but called by the package itself: nothing that users need.
FOR_THE_PACKAGE = {"locate", "masked", "covers", "dataset_options", "selects_all_runs", "window"}


def public_names() -> set[str]:
    """Return the names of the package, and the public methods and properties of its classes."""
    kinds = {name: getattr(unpod_async, name) for name in unpod_async.__all__}
    client = UnpodClient("0" * 40)
    groups = (
        client.runs,
        client.tasks,
        client.agents,
        client.spaces,
        client.organizations,
        client.recordings,
    )
    kinds |= {type(group).__name__: type(group) for group in groups}
    found = set(unpod_async.__all__)
    for name, kind in kinds.items():
        if isinstance(kind, type):
            found |= {f"{name}.{member}" for member in members(kind) - FOR_THE_PACKAGE}
    return found


def members(kind: type) -> set[str]:
    """Return the public methods and properties that a class of this package defines."""
    return {
        name
        for base in kind.__mro__
        if base.__module__.startswith("unpod_async")
        for name, value in vars(base).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, (property, classmethod)))
    }


def test_every_public_name_has_an_example() -> None:
    used = used_names()
    assert sorted(name for name in public_names() if name.rpartition(".")[2] not in used) == []
