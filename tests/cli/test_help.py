"""Help, version, the missing extra, and how little a help imports."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version

import pytest

from tests.cli.harness import here, there

COMMANDS = (
    *("runs", "tasks", "agents", "spaces", "organizations"),
    *("export", "create", "watch", "wait", "sandbox", "doctor"),
)
_SEE_MODULES = """\
import sys
from unpod_async.cli import main
sys.argv[1:] = {arguments!r}
assert main() == 0
print(*sorted({{"aiohttp", "pyarrow", "rich.console"}} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["watch", "--help"]])
async def test_help_imports_no_http_client_and_no_pyarrow(arguments: list[str]) -> None:
    code = _SEE_MODULES.format(arguments=arguments)
    ended = await there({}, program=(sys.executable, "-c", code))

    assert (ended.status, ended.err) == (0, "\n")
    assert ended.out.startswith("Usage: unpod-async ")


@pytest.mark.parametrize("command", ["", *COMMANDS])
@pytest.mark.parametrize("columns", [60, 100])
async def test_help_fits_the_terminal(command: str, columns: int) -> None:
    ended = await here({"COLUMNS": str(columns)}, *command.split(), "--help")

    assert ended.status == 0
    assert max(len(line) for line in ended.out.splitlines()) <= columns
    several = re.compile(r"(?:\[ARGS\]|\{[A-Z]+\})\.\.\.")
    assert "..." not in several.sub("", ended.out)  # nothing is cut off


async def test_help_names_every_command_and_every_exit_status() -> None:
    ended = await here({}, "--help")

    for word in (*COMMANDS, " 0 ", " 1 ", " 2 ", " 3 ", " 4 ", " 5 ", " 75 ", " 130 ", " 141 "):
        assert f" {word.strip()} " in ended.out
    assert "--token " not in ended.out  # there is no such option


async def test_no_command_shows_the_help() -> None:
    ended = await here({})

    assert ended.status == 2
    assert "Commands:" in ended.out + ended.err


async def test_version() -> None:
    ended = await there({}, "--version")

    assert ended == (0, f"unpod-async {version('unpod-async')}\n", "")


@pytest.mark.parametrize("name", ["typer", "rich"])
async def test_without_the_extra_it_says_how_to_get_it(name: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; from unpod_async.cli import main; sys.exit(main())"
    ended = await there({}, "runs", "x", program=(sys.executable, "-c", code))

    assert ended.status == 1
    assert ended.err == (
        f"unpod-async: the command line needs {name}, not installed here: pip install 'unpod-async[cli]'\n"
    )
