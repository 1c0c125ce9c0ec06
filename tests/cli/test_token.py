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
        (b"\xff\xfe", "contains no token"),
        (b"\xff\xfe\0", "neither UTF-8 nor UTF-16 with a byte order mark"),
        (b"k\xff", "neither UTF-8 nor UTF-16 with a byte order mark"),
        ("k3y".encode("utf-16-le"), "neither UTF-8 nor UTF-16 with a byte order mark"),
        ("k3y".encode("utf-32"), "neither UTF-8 nor UTF-16 with a byte order mark"),
        (b'"k3y"', "must not be in quotes"),
        (b"\xef\xbb\xbf'k3y'", "must not be in quotes"),
        ("“k3y”".encode(), "must not be in quotes"),
        (b'k3"y', "must not contain a quote"),
        (b"UNPOD_PLATFORM_TOKEN=k3y", "must not be a whole line NAME=value"),
        (b'export UNPOD_PLATFORM_TOKEN="k3y"\nexport B=2\n', "must not be a whole line NAME=value"),
        (b"$env:UNPOD_PLATFORM_TOKEN = 'k3y'", "must not be a whole line NAME=value"),
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
    assert "k3y" not in result.err
    assert "hint: " in result.err or content in (None, b"", b"\xff\xfe") or message == "too long"


WRITTEN = {
    "UTF-8 with a mark": lambda token: b"\xef\xbb\xbf" + token.encode() + b"\r\n",
    "UTF-16 of PowerShell": lambda token: f"{token}\r\n".encode("utf-16"),
    "UTF-16, big-endian": lambda token: b"\xfe\xff" + token.encode("utf-16-be"),
    "two line breaks": lambda token: f"\n{token}\n\n".encode(),
}


@pytest.mark.parametrize("name", WRITTEN)
async def test_a_mark_and_line_breaks_of_editors_are_taken_off(tmp_path: Path, name: str) -> None:
    async with Sandbox(runs=2) as sandbox:
        content = WRITTEN[name](sandbox.token)
        (tmp_path / "token").write_bytes(content)
        argv = ("runs", sandbox.space_token, "--token-file")
        environment = settings(sandbox, UNPOD_PLATFORM_TOKEN=None)
        by_file = await run_cli(environment, *argv, str(tmp_path / "token"))
        by_stdin = await run_cli(environment, *argv, "-", typed=content)

    assert (by_file.status, by_file.err) == (by_stdin.status, by_stdin.err) == (0, "")


@pytest.mark.parametrize(
    ("variable", "option"),
    [("UNPOD_PLATFORM_TOKEN", ""), ("UNPOD_ORG_HANDLE", ""), ("UNPOD_BASE_URL", "--base-url")],
)
async def test_a_setting_in_quotes_is_named_and_not_sent(variable: str, option: str) -> None:
    async with Sandbox(runs=2) as sandbox:
        value = settings(sandbox)[variable]
        for given in (f'"{value}"', f"'{value}", f"{value}\u201d", f"{variable}={value}"):
            result = await run_cli(settings(sandbox, **{variable: given}), "agents")
            reason = "must not be a whole line NAME=value" if "=" in given else "must not be in quotes"
            assert (result.status, result.out) == (2, "")
            assert f"the environment variable {variable} {reason}\n" in result.err
            doctor = await run_cli(settings(sandbox, **{variable: given}), "doctor")
            assert doctor.status == 1
            assert reason in doctor.out
            assert "new key" not in doctor.out
        assert sandbox.requests == 0


async def test_without_a_token_and_without_a_terminal() -> None:
    result = await run_cli({"UNPOD_PLATFORM_TOKEN": "  "}, "runs", "x")

    assert (result.status, result.out) == (2, "")
    assert result.err == (
        "unpod-async: there is no token\n"
        "hint: set UNPOD_PLATFORM_TOKEN or use --token-file; `unpod-async sandbox` needs none\n"
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


@pytest.mark.parametrize("before", [True, False])
async def test_the_password_of_a_proxy_is_no_argument(before: bool) -> None:
    option, command = ("--proxy", "http://user:5ecret@127.0.0.1:9"), ("runs", "SPACE")
    argv = (*option, *command) if before else (*command, *option)
    result = await run_cli({"UNPOD_PLATFORM_TOKEN": "key"}, *argv)

    assert (result.status, result.out) == (2, "")
    assert "Set UNPOD_PROXY to the whole URL" in result.err
    assert "5ecret" not in result.err


@pytest.mark.parametrize(
    ("environment", "hint"),
    [
        ({"HTTPS_PROXY": "http://user:5ecret@127.0.0.1:9"}, "HTTPS_PROXY is set but not read; "),
        (
            {"UNPOD_PROXY": "http://user:5ecret@127.0.0.1:9"},
            "check --proxy or UNPOD_PROXY, and that the proxy runs",
        ),
        ({"UNPOD_PROXY": "ftp://user:5ecret@127.0.0.1:9"}, "write it as http://host:port; "),
        ({}, "check --base-url and the network"),
    ],
)
async def test_a_failed_connection_says_what_to_do_about_proxies(
    environment: dict[str, str], hint: str
) -> None:
    settings = {"UNPOD_PLATFORM_TOKEN": "key", "UNPOD_BASE_URL": "https://unpod.invalid", **environment}
    # One attempt is enough: the name is never found.
    result = await run_cli(settings, "doctor", "--json")
    listed = await run_cli(
        settings,
        "create",
        "S",
        "--agent",
        "a",
        "--context",
        "c",
        "--name",
        "n",
        "--number",
        "9000000001",
        "--yes",
    )

    assert "5ecret" not in result.out + result.err + listed.err
    assert f"hint: {hint}" in listed.err
