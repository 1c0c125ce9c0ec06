"""Where the token is read from, and where it never appears."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import run_cli, run_process, settings
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from pathlib import Path


async def test_from_the_environment() -> None:
    async with Sandbox(runs=2) as sandbox:
        result = await run_cli(settings(sandbox), "runs", sandbox.space_token)

    assert (result.status, result.err) == (0, "")
    assert result.out.count("\n") == 2


@pytest.mark.parametrize("where", ["before", "after"])
async def test_from_a_file_before_or_after_the_command(tmp_path: Path, where: str) -> None:
    async with Sandbox(runs=2) as sandbox:
        file = tmp_path / "token"
        file.write_text(f"{sandbox.token}\n")
        option, command = ["--token-file", str(file)], ["runs", sandbox.space_token]
        argv = [*option, *command] if where == "before" else [*command, *option]
        result = await run_cli(settings(sandbox, UNPOD_PLATFORM_TOKEN="not-this-one"), *argv)

    assert (result.status, result.err) == (0, "")


async def test_from_stdin() -> None:
    async with Sandbox(runs=2) as sandbox:
        environment = settings(sandbox, UNPOD_PLATFORM_TOKEN=None)
        argv = ("runs", sandbox.space_token, "--token-file", "-")
        result = await run_cli(environment, *argv, typed=f"{sandbox.token}\n".encode())

    assert (result.status, result.err) == (0, "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "contains no token"),
        (b"Token abc", "scheme"),
        (b"two\nlines", ""),
        (b"\xff\xfe", ""),
        (b"x" * 70_000, "too long"),
    ],
)
async def test_a_file_without_a_valid_token_is_a_usage_error(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    result = await run_cli({}, "runs", "x", "--token-file", str(file))

    assert (result.status, result.out) == (2, "")
    assert message in result.err


async def test_without_a_token_and_without_a_terminal() -> None:
    result = await run_cli({"UNPOD_PLATFORM_TOKEN": "  "}, "runs", "x")

    assert (result.status, result.out) == (2, "")
    assert result.err == (
        "unpod-async: there is no token\nhint: set UNPOD_PLATFORM_TOKEN or use --token-file FILE\n"
    )


@pytest.mark.parametrize("argv", [("--token", "s3cret", "runs", "x"), ("runs", "x", "--token=s3cret")])
async def test_the_token_is_never_an_argument(argv: tuple[str, ...]) -> None:
    result = await run_cli({}, *argv)

    assert result.status == 2
    assert "the token cannot be an argument" in result.err
    assert "s3cret" not in result.out + result.err


async def test_neither_the_log_nor_a_traceback_shows_the_token() -> None:
    async with Sandbox(runs=2) as sandbox:
        environment = settings(sandbox, UNPOD_PLATFORM_TOKEN="k3y-that-is-wrong")
        result = await run_process(environment, "-vv", "runs", sandbox.space_token)

    assert result.status == 4
    assert "Traceback" in result.err
    assert "AuthenticationError" in result.err
    assert "DEBUG GET spaces/{space_token}/runs/: 401" in result.err
    assert "k3y" not in result.out + result.err
