"""The help and what it imports, the version, and the missing extra."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version

import pytest

from tests.cli.harness import run_cli, run_process

COMMANDS = (
    *("runs", "tasks", "agents", "spaces", "organizations"),
    *("export", "create", "watch", "wait", "sandbox", "doctor"),
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


async def test_help_names_every_command_and_every_exit_status() -> None:
    result = await run_cli({}, "--help")

    for word in (*COMMANDS, " 0 ", " 1 ", " 2 ", " 3 ", " 4 ", " 5 ", " 75 ", " 130 ", " 141 "):
        assert f" {word.strip()} " in result.out
    assert "--token " not in result.out  # there is no such option


async def test_no_command_shows_the_help() -> None:
    result = await run_cli({})

    assert result.status == 2
    assert "Commands:" in result.out + result.err


async def test_version() -> None:
    result = await run_process({}, "--version")

    assert result == (0, f"unpod-async {version('unpod-async')}\n", "")


@pytest.mark.parametrize("name", ["typer", "rich"])
async def test_a_missing_extra_is_explained(name: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; from unpod_async.cli import main; sys.exit(main())"
    result = await run_process({}, "runs", "x", program=(sys.executable, "-c", code))

    assert result.status == 1
    assert result.err == (
        f"unpod-async: the command line needs {name}\nhint: pip install 'unpod-async[cli]'\n"
    )
