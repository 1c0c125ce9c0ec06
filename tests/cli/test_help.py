"""The help and what it imports, the version, and the missing extra."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.harness import run_cli, run_process, settings
from unpod_async import cli
from unpod_async._version import install_command
from unpod_async.testing import Sandbox

COMMANDS = (
    *("runs", "run", "tasks", "task", "recordings", "call-logs", "agents", "executions", "spaces"),
    "organizations",
    *("export", "plan", "merge", "report", "mcp", "create", "watch", "wait", "sandbox", "demo", "doctor"),
)
_PRINT_MODULES = """\
import sys
from unpod_async.cli import main
sys.argv[1:] = {arguments!r}
assert main() == 0
print(*sorted({{"aiohttp", "pyarrow", "rich.console"}} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["watch", "--help"]])
async def test_help_imports_no_http_client_and_no_pyarrow(arguments: list[str]) -> None:
    code = _PRINT_MODULES.format(arguments=arguments)
    result = await run_process({}, program=(sys.executable, "-c", code))

    assert (result.status, result.err) == (0, "\n")
    assert result.out.startswith("Usage: unpod-async ")


@pytest.mark.parametrize("command", ["", *COMMANDS])
@pytest.mark.parametrize("columns", [60, 100])
async def test_help_fits_the_terminal(command: str, columns: int) -> None:
    result = await run_cli({"COLUMNS": str(columns)}, *command.split(), "--help")

    assert result.status == 0
    assert max(len(line) for line in result.out.splitlines()) <= columns
    repeated = re.compile(r"(?:\[ARGS\]|SPACE|RUN)\.\.\.")
    assert "..." not in repeated.sub("", result.out)  # nothing is cut off
    # Most of a line is left for the text of an option, also beside a long name.
    assert max(len(line) - len(line.lstrip()) for line in result.out.splitlines()) <= columns / 3 + 4
    assert "[[" not in result.out


async def test_help_names_every_command_and_every_exit_status() -> None:
    result = await run_cli({}, "--help")

    for word in (*COMMANDS, " 0 ", " 1 ", " 2 ", " 3 ", " 4 ", " 5 ", " 75 ", " 130 ", " 141 "):
        assert f" {word.strip()} " in result.out
    assert "--token " not in result.out  # there is no such option


async def test_no_command_shows_the_help() -> None:
    result = await run_cli({})

    assert result.status == 2
    assert "List the runs of a space" in result.out


async def test_version() -> None:
    result = await run_process({}, "--version")

    assert result == (0, f"unpod-async {version('unpod-async')}\n", "")


@pytest.mark.parametrize("name", ["typer", "rich"])
async def test_a_missing_extra_is_explained(name: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; from unpod_async.cli import main; sys.exit(main())"
    result = await run_process({}, "runs", "x", program=(sys.executable, "-c", code))

    assert result.status == 1
    assert result.err == (f"unpod-async: the command line needs {name}\nhint: {install_command('cli')}\n")


_PRINT_ALL_MODULES = """\
import gc, sys
from unpod_async.cli import main
sys.argv[1:] = {arguments!r}
assert main() == 0
print(gc.isenabled(), *sorted(sys.modules), file=sys.stderr)
"""
_NOT_FOR_A_LISTING = {
    *("pydantic", "rich.console", "rich.text", "rich.table", "rich.live"),
    *("pyarrow", "sqlite3", "csv", "importlib.metadata"),
    *("unpod_async._watch", "unpod_async._export.job", "unpod_async._export.storage", "unpod_async.testing"),
    *(f"unpod_async.cli.commands.{name}" for name in ("create", "details", "doctor", "export", "watch")),
    *("unpod_async.cli.watch_table", "unpod_async.cli.export_progress"),
}


@pytest.mark.parametrize("form", ["--json", "--table"])
async def test_a_listing_imports_no_more_than_it_needs(form: str) -> None:
    """The processor time of a listing is that of its imports: see benchmarks/cli_start.py."""
    async with Sandbox(runs=3) as sandbox:
        arguments = ["runs", sandbox.space_token, "--limit", "5", "--status", "completed", form]
        code = _PRINT_ALL_MODULES.format(arguments=arguments)
        result = await run_process(settings(sandbox), program=(sys.executable, "-c", code))

    collects, *modules = result.err.splitlines()[-1].split()
    assert collects == "True"  # the garbage collector rests only until the command starts
    assert _NOT_FOR_A_LISTING.isdisjoint(modules), sorted(_NOT_FOR_A_LISTING.intersection(modules))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "x", "--limit", "1.5"], "'--limit': .*integer"),
        (["runs", "x", "--limit", "-1"], "'--limit': .*(greater than or equal to 0|x>=0)"),
        (["runs", "x", "--limit"], "requires an argument\nhint: see `unpod-async runs --help`"),
        (["tasks", "x", "--call-type", "sideways"], "'--call-type': "),
        (["tasks", "x", "--from", "yesterday"], "'--from': 'yesterday' is not a date"),
        (["sandbox", "--port", "70000"], "'--port': .*65535"),
        (["run", "x"], "missing argument 'RUN'"),
        (["tsaks"], r"no such command 'tsaks'\. Did you mean `tasks`"),
    ],
)
async def test_a_value_that_is_not_accepted_is_explained(arguments: list[str], message: str) -> None:
    result = await run_cli({"UNPOD_PLATFORM_TOKEN": "key"}, *arguments)

    assert (result.status, result.out) == (2, "")
    # The words for numbers are those of typer, and differ between its versions.
    assert re.search(message, result.err)
    assert result.err.count("\n") == 2


@pytest.mark.parametrize("command", COMMANDS)
async def test_help_has_an_example_that_is_accepted(command: str) -> None:
    result = await run_cli({"COLUMNS": "100"}, command, "--help")
    examples = result.out.partition("\nExample")[2]

    assert f"unpod-async {command}" in examples
    assert result.out.startswith(f"Usage: unpod-async {command} [OPTIONS]")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_the_shell_completes_commands_and_options(shell: str) -> None:
    words = {"COMP_WORDS": "unpod-async ta", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "unpod-async ta"}
    variables = {**words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    result = await run_process({**variables, "_UNPOD_ASYNC_COMPLETE": f"complete_{shell}"})

    assert "tasks" in result.out
    assert "runs" not in result.out
    assert result.err == ""


def test_every_error_of_a_command_has_a_hint() -> None:
    """Errors of usage need none: `run_command` adds one."""
    without = []
    for file in sorted(Path(cli.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "CliError":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if "hint" not in given and given.get("status") != "USAGE":
                    without.append(f"{file.name}:{node.lineno}")
    assert without == []
