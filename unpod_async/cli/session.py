"""Find the token of the user, and create the client."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unpod_async._common import os_error_reason, shorten
from unpod_async.cli.errors import USAGE, CliError
from unpod_async.cli.options import GlobalOptions
from unpod_async.cli.output import write_err
from unpod_async.cli.runner import InterruptibleRunner

if TYPE_CHECKING:
    from unpod_async import UnpodClient

__all__ = ["PROXY_VARIABLE", "TOKEN_VARIABLE", "find_token", "make_client", "open_client", "read_secret_file"]

PROXY_VARIABLE: Final = "UNPOD_PROXY"
TOKEN_VARIABLE: Final = "UNPOD_PLATFORM_TOKEN"  # noqa: S105 - its name
_MAX_SECRET: Final = 65_536  # bytes; a token has a few hundred


@contextmanager
def open_client(
    options: GlobalOptions, **client_options: Any
) -> Generator[tuple[InterruptibleRunner, UnpodClient]]:
    """Yield an event loop and a client, which is closed at the end.

    Raises:
        CliError: there is no token.
        ConfigurationError: a setting is not accepted.
    """
    client = make_client(options, find_token(options), **client_options)
    with InterruptibleRunner() as runner:
        try:
            yield runner, client
        finally:
            runner.run_cleanup(client.aclose())


def make_client(options: GlobalOptions, token: str | None, **client_options: Any) -> UnpodClient:
    """Return a client. It reads settings that are None from the environment."""
    from unpod_async import UnpodClient
    from unpod_async._http import decompress_with_isal

    decompress_with_isal()
    if options.timeout is not None:
        client_options["timeout"] = options.timeout
    if options.rate_limit is not None:
        client_options["rate_limit"] = options.rate_limit
    return UnpodClient(
        token,
        options.org_handle,
        options.base_url,
        auth_scheme=options.auth_scheme or "Token",
        allow_http=options.allow_http,
        proxy=options.proxy,
        **client_options,
    )


def find_token(options: GlobalOptions) -> str | None:
    """Return the token from --token-file or from a prompt; None if it is in the environment.

    Raises:
        CliError: there is none.
    """
    if options.token_file is not None:
        content = read_secret_file("--token-file", options.token_file)
        return _decode_token(content, {"-": "stdin"}.get(options.token_file, "the file"))
    if os.environ.get(TOKEN_VARIABLE, "").strip():
        return None
    if sys.stdin.isatty() and sys.stderr.isatty():
        import getpass

        try:
            token = getpass.getpass("API key (not shown while you type): ").strip()
        except EOFError:
            write_err("\n")  # the cursor is behind the prompt
            token = ""
        if token:
            return token
    hint = f"set {TOKEN_VARIABLE} or use --token-file; `unpod-async sandbox` needs none"
    raise CliError("there is no token", hint=hint, status=USAGE)


def _decode_token(content: bytes, source: str) -> str:
    """Return the token in a file. Editors and PowerShell may write UTF-16.

    Raises:
        CliError: the file is not text, or contains no token.
    """
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        token = content.decode("utf-16" if is_utf_16 else "utf-8-sig").strip()
    except UnicodeDecodeError:
        token = None
    if token is None or "\0" in token:
        raise CliError(
            f"--token-file: {source} is neither UTF-8 nor UTF-16 with a byte order mark",
            hint="save the API key alone, as UTF-8",
            status=USAGE,
        )
    if not token:
        raise CliError(f"--token-file: {source} contains no token", status=USAGE)
    return token


def read_secret_file(option: str, name: str) -> bytes:
    """Return the content of a small file, or of stdin for "-".

    Raises:
        CliError: it cannot be read or is too long.
    """
    try:
        if name == "-":
            content = sys.stdin.buffer.read(_MAX_SECRET + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(_MAX_SECRET + 1)
    except (OSError, ValueError) as error:
        raise CliError(
            f"{option}: cannot read {shorten(name, 80)}: {os_error_reason(error)}", status=USAGE
        ) from None
    if len(content) > _MAX_SECRET:
        raise CliError(f"{option}: {shorten(name, 80)} is too long to be a key", status=USAGE)
    return content
