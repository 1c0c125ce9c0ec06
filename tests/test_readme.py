"""The README: every block runs unchanged, and everything that it refers to exists."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import unpod_async
from unpod_async.cli.errors import EXIT_STATUSES
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN = """
import runpy, sys
from unpod_async import RetryPolicy, UnpodClient

UnpodClient.__init__.__kwdefaults__["retry"] = RetryPolicy(base=0.001)  # what it waits is tested elsewhere
runpy.run_path(sys.argv[1], run_name="__main__")
"""
SETUP = "python -m pip install nox && python -m nox -s "


CHAPTER = "Bulk export"
"""The chapter whose blocks depend on each other, in more than one language."""


class Block(NamedTuple):
    """A block of the chapter."""

    language: str
    text: str


def chapter() -> list[Block]:
    text = README.partition(f"\n## {CHAPTER}\n")[2].partition("\n## ")[0]
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def blocks() -> dict[str, str]:
    """The Python blocks of the other chapters, by heading."""
    found: dict[str, str] = {}
    heading = ""
    for part in re.split(r"^(#+ [^\n]*\n|```python\n.*?^```$)", README, flags=re.MULTILINE | re.DOTALL):
        if part.startswith("#"):
            heading = part.strip("# \n")
        elif part.startswith("```python") and heading != CHAPTER:
            assert heading not in found, f"two blocks under {heading!r}"
            found[heading] = part.removeprefix("```python\n").removesuffix("```")
    return found


BLOCKS = blocks()


def environment(sandbox: Sandbox) -> dict[str, str]:
    return {
        "UNPOD_PLATFORM_TOKEN": sandbox.token,
        "UNPOD_ORG_HANDLE": sandbox.org_handle,
        "UNPOD_BASE_URL": sandbox.base_url,
        "SPACE": sandbox.space_token,
        "AGENT": sandbox.agent_handle,
    }


async def run_script(heading: str, sandbox: Sandbox, folder: Path) -> str:
    """Run a block as a program, with warnings as errors. Returns its output."""
    script = folder / "block.py"
    script.write_text(BLOCKS[heading], encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", RUN, str(script)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={
            **os.environ,
            **environment(sandbox),
            "PYTHONIOENCODING": "utf-8",
            # The package that is tested here, whichever else is installed.
            "PYTHONPATH": str(Path(unpod_async.__file__).parents[1]),
        },
    )
    said, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    assert complaints.decode() == ""
    return said.decode()


def load(heading: str, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> dict[str, Any]:
    """Return the names that a block defines when it is imported."""
    for name, value in environment(sandbox).items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {"__name__": "block"}
    exec(compile(BLOCKS[heading], f"README.md: {heading}", "exec"), names)  # noqa: S102
    return names


async def first_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox(runs=120) as sandbox:
        lines = (await run_script("Install", sandbox, folder)).splitlines()
        assert [line.split()[0] for line in lines] == sandbox.run_ids()
        assert len(BLOCKS["Install"].split("async def main", 1)[1].splitlines()) <= 10


async def web_app(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Run under a real server in tests/examples.
    example = ROOT / "tests" / "examples" / "fastapi_app.py"
    assert BLOCKS["In a web application"] == example.read_text(encoding="utf-8")


async def monitoring(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    printed: list[str] = []

    async def until(sandbox: Sandbox, *wanted: str) -> list[str]:
        """Run the block until it has printed these words in this order. Returns its output."""
        names = load("Monitoring", monkeypatch, sandbox)
        printed.clear()
        enough = asyncio.Event()

        def note(text: str) -> None:
            printed.append(text)
            if [word for word in wanted if any(word in line for line in printed)] == [*wanted]:
                enough.set()

        names["print"] = note
        watch = asyncio.create_task(names["main"](interval=0.02))
        async with asyncio.timeout(20):
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
        told = await until(sandbox, f"call {task} ", f"run {run} ")
        await moving
        assert any(line.startswith(f"run {run} ") for line in told)
        # When started again it resumes: it reports calls that ended in between, and repeats no earlier
        # report.
        (late,) = sandbox.task_ids(sandbox.insert_run(1))
        sandbox.set_status(late, "completed")
        sandbox.script(Fault(status=503, times=8, path="/runs/"))
        told = await until(sandbox, "the service cannot be read", "it can be read again", f"call {late} ")
        assert not [line for line in told if task in line]


async def waiting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox:
        run = sandbox.insert_run(2)
        for task in sandbox.task_ids(run):
            sandbox.set_status(task, "completed")
        said = await run_script("Waiting for runs", sandbox, folder)
        first, second = sandbox.task_ids(run)
        assert said == f"completed {first} completed {second} completed\n"


async def many_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox(runs=8, tasks_per_run=4) as sandbox:
        active = [row["run_id"] for row in sandbox.run_rows() if row["status"] in {"pending", "in_progress"}]
        assert len(active) > 1
        bad = active[0]
        sandbox.script(Fault(status=404, path=bad))
        *failed, statuses = (await run_script("Many runs at once", sandbox, folder)).splitlines()
        assert [line.partition(":")[0] for line in failed] == [bad]
        assert sum(ast.literal_eval(statuses).values()) == 4 * (len(active) - 1)


async def placing_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox(runs=2) as sandbox:
        run_id = (await run_script("Placing calls", sandbox, folder)).strip()
        assert run_id == sandbox.run_ids()[0]
        assert len(sandbox.ledger) == 1
        sandbox.script(Fault(status=502, method="POST", processed=True))
        said = await run_script("Placing calls", sandbox, folder)
        assert said == f"the answer was lost: created {sandbox.run_ids()[0]}\n"
        assert len(sandbox.ledger) == 2


async def placing_many_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heading = "Placing many calls"
    everyone = [f"90000000{number:02}" for number in range(6)]
    async with Sandbox(runs=2) as sandbox:
        sandbox.script(Fault(status=502, method="POST", processed=True))
        said = await run_script(heading, sandbox, folder)
        assert said == "run me again; a batch is created, without a task: ()\n"
        assert len(sandbox.ledger) == 2
        said = await run_script(heading, sandbox, folder)
        assert said == "0 created 2\n1 created 2\n2 created 2\n"
        assert await run_script(heading, sandbox, folder) == said
        assert sorted(call.document["contact_number"] for call in sandbox.ledger) == everyone

    (folder / "calls.journal").unlink()
    async with Sandbox(runs=2) as sandbox:
        sandbox.script(Fault(status=502, method="POST"))
        said = await run_script(heading, sandbox, folder)
        assert said.startswith("run me again; a batch is not_found, ")
        said = await run_script(heading, sandbox, folder)
        assert said == "0 not_found 0\n1 created 2\n2 created 2\n"
        assert sorted(call.document["contact_number"] for call in sandbox.ledger) == everyone[2:]


async def bad_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox(runs=2, tasks_per_run=20) as sandbox:
        ids = sandbox.task_ids()
        sandbox.malform(ids[3], b'{"task_id": 7}')
        sandbox.poison(ids[11])
        first, *lines = (await run_script("Bad rows", sandbox, folder)).splitlines()
        assert first == "page 1: 38 of 40 tasks"
        assert lines[0].startswith("  $.data[3].task_id: ")
        assert lines[0].endswith(", 14 bytes")
        assert lines[1] == "  row 12 of the listing: the server fails to send it"


async def own_tests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox() as unused:
        assert await run_script("Testing your own code", unused, folder) == ""
        assert unused.requests == 0


RUNS: dict[str, Callable[[Path, pytest.MonkeyPatch], Awaitable[None]]] = {
    "Install": first_example,
    "Monitoring": monitoring,
    "Waiting for runs": waiting,
    "Many runs at once": many_runs,
    "In a web application": web_app,
    "Placing calls": placing_calls,
    "Placing many calls": placing_many_calls,
    "Bad rows": bad_rows,
    "Testing your own code": own_tests,
}


def test_no_block_is_left_out() -> None:
    assert BLOCKS.keys() == RUNS.keys()
    assert len(BLOCKS) + len(chapter()) == README.count("```") / 2


@pytest.mark.parametrize("heading", RUNS)
async def test_the_block_runs(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await RUNS[heading](tmp_path, monkeypatch)


# -- the chapter on exports ---------------------------------------------------------------------------------


def as_installed(folder: Path) -> dict[str, str]:
    """An environment in which the programs are those of this interpreter and of the package tested here."""
    programs = folder / "programs"
    programs.mkdir()
    for name, started in {"python": "", "unpod-async": " -m unpod_async"}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -W error{started} "$@"\n')
        program.chmod(0o700)
    ours = ("UNPOD_", "SPACE", "AGENT", "FORCE_COLOR")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": str(Path(unpod_async.__file__).parents[1]),
    }


async def bash(text: str, folder: Path, environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *("bash", "-euc", text),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment,
        start_new_session=True,  # so that Ctrl-C reaches only the processes that it starts
    )


@asynccontextmanager
async def first_terminal(block: str, folder: Path, environment: dict[str, str]) -> AsyncIterator[str]:
    """The sandbox, started as the README says and ended by Ctrl-C; the lines it prints."""
    # If its port is in use, use the command that the README gives for this case.
    (otherwise,) = re.findall(r"port\s+is\s+in\s+use,\s+`(unpod-async sandbox [^`]+)`", README)
    for words in (block, otherwise):
        process = await bash(words, folder, environment)
        assert process.stdout is not None
        first = await process.stdout.readline()
        if first:
            break
        complaints = (await process.communicate())[1].decode()
        assert "port 8765 of 127.0.0.1 is in use" in complaints, complaints
    try:
        lines = [first, *[await process.stdout.readline() for _ in range(4)]]
        yield b"".join(lines).decode()
    finally:
        os.killpg(process.pid, signal.SIGINT)
        said, complaints = await process.communicate()
    assert (process.returncode, said) == (0, b"")
    (counts,) = re.findall(r"simulates (\d+ runs and [\d,]+ tasks)", README)
    assert f"Sandbox with {counts} at " in complaints.decode()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="its shell is bash")
async def test_the_chapter_on_exports_runs_from_the_sandbox_to_the_query(tmp_path: Path) -> None:
    environment = as_installed(tmp_path)
    folder = tmp_path / "home"
    folder.mkdir()
    serve, pasted, *rest = chapter()
    assert serve == Block("shell", "unpod-async sandbox\n")
    assert rest[-2].language == "python"
    assert "'data/tasks/*.parquet'" in rest[-2].text
    said = complaints = ""
    ran: list[str] = []
    async with first_terminal(serve.text, folder, environment) as lines:
        assert re.sub(r":\d+$", ":8765", lines, flags=re.MULTILINE) == pasted.text
        for block in rest:
            if block.language == "text":
                assert said == block.text
                continue
            command = block.text
            if block.language == "python":
                (folder / "block.py").write_text(block.text, encoding="utf-8")
                command = "python block.py\n"
            process = await bash(lines + command, folder, environment)
            out, err = await process.communicate()
            said, complaints = out.decode(), err.decode()
            assert process.returncode == 0, complaints
            assert "Traceback" not in complaints
            if "unpod-async export" in block.text:
                summary = json.loads(said)
                assert (summary["complete"], summary["runs"], summary["tasks"]) == (True, 200, 2244)
            elif "on_progress" in block.text:
                assert complaints.splitlines()[-1] == "done: 27 of 27 runs, 368 tasks"
            ran.append(block.language)
    assert ran == ["shell", "shell", "python", "python"]


def test_the_exit_statuses_are_those_of_the_help() -> None:
    table = README.partition("| Exit status |")[2].partition("\n\n")[0]
    told = re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)
    assert told == re.findall(r"^ +(\d+)  ", EXIT_STATUSES, flags=re.MULTILINE)


@pytest.mark.parametrize("session", ["demo", "demo-watch", "tests"])
def test_set_up_is_one_command_each(session: str) -> None:
    assert README.count(f"\n    {SETUP}{session}\n") == 1
    function = session.replace("-", "_")
    assert f"\ndef {function}(session: nox.Session)" in (ROOT / "noxfile.py").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_test_command_then_the_rest() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    first, second = f"{SETUP}tests".split(" && ")
    install = script.index(first.replace("python", '"$PYTHON"', 1).replace("install", "install --quiet"))
    tests = script.index(second.replace("python", '"$PYTHON"', 1))
    slow, rest = script.index("-m nox -s tests-slow"), script.index("-m nox -s lint types wheel gate")
    assert install < tests < slow < rest


def test_all_links_and_files_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    headings = re.findall(r"^#+ (.+)$", README, flags=re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert [link for link in links if link.startswith("#") and link not in anchors] == []
    files = {link for link in links if not link.startswith(("https://", "#"))}
    files |= set(re.findall(r"\b(?:tests|benchmarks|unpod_async)/[\w/]+\.py", README))
    assert len(files) > 6
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_table_of_errors_is_complete() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", README.partition("## Errors")[2], flags=re.MULTILINE))
    raised = {
        name
        for name in unpod_async.__all__
        if isinstance(kind := getattr(unpod_async, name), type) and issubclass(kind, unpod_async.UnpodError)
    }
    assert raised - {"UnpodError"} <= told


def test_the_table_of_settings_is_complete() -> None:
    arguments = set(re.findall(r"^\| `(\w+)` \|", README.partition("## Configuration")[2], re.MULTILINE))
    names = unpod_async.UnpodClient.__init__.__annotations__.keys() - {"return"}
    assert names == arguments & names
