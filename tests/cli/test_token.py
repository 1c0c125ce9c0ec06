"""Where the token comes from, and where it never goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import here, settings, there
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from pathlib import Path


async def test_from_the_environment() -> None:
    async with Sandbox(runs=2) as sandbox:
        ended = await here(settings(sandbox), "runs", sandbox.space_token)

    assert (ended.status, ended.err) == (0, "")
    assert ended.out.count("\n") == 2


@pytest.mark.parametrize("where", ["before", "after"])
async def test_from_a_file_before_or_after_the_command(tmp_path: Path, where: str) -> None:
    async with Sandbox(runs=2) as sandbox:
        file = tmp_path / "token"
        file.write_text(f"{sandbox.token}\n")
        option, command = ["--token-file", str(file)], ["runs", sandbox.space_token]
        argv = [*option, *command] if where == "before" else [*command, *option]
        ended = await here(settings(sandbox, UNPOD_PLATFORM_TOKEN="not-this-one"), *argv)

    assert (ended.status, ended.err) == (0, "")


async def test_from_stdin() -> None:
    async with Sandbox(runs=2) as sandbox:
        environment = settings(sandbox, UNPOD_PLATFORM_TOKEN=None)
        argv = ("runs", sandbox.space_token, "--token-file", "-")
        ended = await here(environment, *argv, typed=f"{sandbox.token}\n".encode())

    assert (ended.status, ended.err) == (0, "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        (b"", "there is no token in it"),
        (b"Token abc", "carries its scheme"),
        (b"two\nlines", "holds a blank"),
        (b"\xff\xfe", "outside ASCII"),
        (b"x" * 70_000, "too long"),
    ],
)
async def test_a_file_without_a_token_is_a_matter_of_usage(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    ended = await here({}, "runs", "x", "--token-file", str(file))

    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_without_a_token_and_without_a_terminal() -> None:
    ended = await here({"UNPOD_PLATFORM_TOKEN": "  "}, "runs", "x")

    assert (ended.status, ended.out) == (2, "")
    assert ended.err == (
        "unpod-async: no token: set UNPOD_PLATFORM_TOKEN, or use --token-file FILE (- for stdin)\n"
    )


@pytest.mark.parametrize("argv", [("--token", "s3cret", "runs", "x"), ("runs", "x", "--token=s3cret")])
async def test_it_is_never_an_argument(argv: tuple[str, ...]) -> None:
    ended = await here({}, *argv)

    assert ended.status == 2
    assert "a token is not taken as an argument" in ended.err
    assert "s3cret" not in ended.out + ended.err


async def test_neither_log_nor_traceback_shows_it() -> None:
    async with Sandbox(runs=2) as sandbox:
        environment = settings(sandbox, UNPOD_PLATFORM_TOKEN="k3y-that-is-wrong")
        ended = await there(environment, "-vv", "runs", sandbox.space_token)

    assert ended.status == 4
    assert "Traceback" in ended.err
    assert "AuthenticationError" in ended.err
    assert "DEBUG GET spaces/{space_token}/runs/: 401" in ended.err
    assert "k3y" not in ended.out + ended.err
