"""The README: it stays short, its program prints what it shows, and everything that it refers to exists."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import unpod_async
from unpod_async import UnpodClient
from unpod_async._paging import Pager

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP = "python -m pip install nox && python -m nox -s "


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table of a chapter, without its head."""
    chapter = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in chapter.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_it_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    assert len(README.split()) <= 1800
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_its_program_prints_what_it_shows(tmp_path: Path) -> None:
    (program,), (output,) = blocks("python"), blocks("text")
    assert len([line for line in program.splitlines() if line]) <= 10
    # Nothing of the environment is needed: neither a token nor a space.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("UNPOD_")}
    package = str(Path(unpod_async.__file__).parents[1])
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**ours, "PYTHONPATH": package},
    )
    assert (done.stdout, done.stderr) == (output, "")


def test_the_calls_of_its_table_exist() -> None:
    client = UnpodClient("0" * 40, "acme.example")
    pager: Pager[unpod_async.Run] = client.runs.list("SPACEMAIN000000000000001")
    known = {"unpod": client, "pager": pager, "run": unpod_async.Run, "UnpodClient": UnpodClient}
    checked = 0
    for _, cell in table("Call this"):
        for code in re.findall(r"`([^`]+)`", cell):
            text = code.replace("async for row in ", "").replace("async with ", "").partition(" as ")[0]
            call = ast.parse(text.replace("…", "..."), mode="eval").body
            if isinstance(call, ast.Await):
                call = call.value
            if isinstance(call, ast.Call):
                call = call.func
            path = ast.unparse(call).split(".")
            found: object = known[path[0]]
            for name in path[1:]:
                found = getattr(found, name)
            checked += 1
    assert checked > 20


def test_its_commands_exist() -> None:
    chapter = README.partition("\n## Command line\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(?:unpod-async )?([a-z]+(?:-[a-z]+)*)[^`]*`", chapter))
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    commands = re.findall(r"^## (.+)$", reference, re.MULTILINE)
    assert len(commands) > 10
    assert set(commands) <= named


def test_its_figures_are_the_measured_ones() -> None:
    page = (ROOT / "docs" / "explain" / "performance.md").read_text(encoding="utf-8")
    measured = {
        name.strip("* "): float(cpu)
        for name, cpu in re.findall(r"^\| (.+?) \| ([\d.]+) \|", page, re.MULTILINE)
    }
    names = {
        "aiohttp + `msgspec.Raw`, by hand": "aiohttp + msgspec.Raw, JSONL out",
        "`unpod.export`, space-wide": "unpod_async export, space-wide",
        "`unpod.runs.tasks_for`, typed rows": "unpod_async tasks_for, typed",
        "`unpod.export`, run by run": "unpod_async export, run by run",
        "httpx + pydantic": "httpx + pydantic",
        "dlt REST source": "dlt REST source",
    }
    shown = {row[0]: row[1] for row in table("How fast is it?")}
    assert shown.keys() == names.keys()
    for name, text in shown.items():
        assert float(text) == round(measured[names[name]], 1 if "." in text else None), name


@pytest.mark.parametrize("session", ["demo", "tests"])
def test_set_up_is_one_command_each(session: str) -> None:
    assert README.count(f"\n    {SETUP}{session}\n") == 1
    assert f"\ndef {session}(session: nox.Session)" in (ROOT / "noxfile.py").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_test_command_then_the_rest() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    first, second = f"{SETUP}tests".split(" && ")
    install = script.index(first.replace("python", '"$PYTHON"', 1).replace("install", "install --quiet"))
    tests = script.index(second.replace("python", '"$PYTHON"', 1))
    slow, rest = script.index("-m nox -s tests-slow"), script.index("-m nox -s gate docs")
    assert install < tests < slow < rest


def test_all_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    files = [link for link in links if not link.startswith("https://")]
    assert len(files) > 6
    assert [name for name in files if not (ROOT / name).is_file()] == []
    assert len(re.findall(r"!\[", README)) == 1
