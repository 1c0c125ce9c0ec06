"""The token, from where the user has it, and the client."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from unpod_async._common import shorten
from unpod_async.cli._common import Common
from unpod_async.cli._output import is_terminal
from unpod_async.cli._running import Loop
from unpod_async.cli._status import USAGE, Stop

if TYPE_CHECKING:
    from unpod_async import UnpodClient

__all__ = ["TOKEN_VARIABLE", "client", "client_of", "read_secret_file", "token_of"]

TOKEN_VARIABLE: Final = "UNPOD_PLATFORM_TOKEN"  # noqa: S105 - its name
_LONGEST: Final = 65_536  # bytes; a token has some hundreds at most


@contextmanager
def client(common: Common, **options: Any) -> Generator[tuple[Loop, UnpodClient]]:
    """A loop and a client on it, which is closed at the end.

    Raises:
        Stop: there is no token.
        ConfigurationError: a setting is not accepted.
    """
    unpod = client_of(common, token_of(common), **options)
    with Loop() as loop:
        try:
            yield loop, unpod
        finally:
            loop.run_always(unpod.aclose())


def client_of(common: Common, token: str | None, **options: Any) -> UnpodClient:
    """A client with the shared options; `options` are further arguments of it."""
    from unpod_async import UnpodClient

    if common.timeout is not None:
        options["timeout"] = common.timeout
    return UnpodClient(
        token,
        common.org_handle,
        common.base_url,
        auth_scheme=common.auth_scheme or "Token",
        allow_http=common.allow_http,
        **options,
    )


def token_of(common: Common) -> str | None:
    """The token of the file, or typed in; None where the environment has it.

    Raises:
        Stop: there is none.
    """
    if common.token_file is not None:
        token = read_secret_file("--token-file", common.token_file).decode("utf-8", "replace").strip()
        if not token:
            raise Stop("--token-file: there is no token in it", USAGE)
        return token
    if os.environ.get(TOKEN_VARIABLE, "").strip():
        return None
    if is_terminal(sys.stdin) and is_terminal(sys.stderr):
        try:
            token = getpass.getpass("API key of the platform (it is not shown): ").strip()
        except EOFError:
            token = ""
        if token:
            return token
    raise Stop(f"no token: set {TOKEN_VARIABLE}, or use --token-file FILE (- for stdin)", USAGE)


def read_secret_file(option: str, name: str) -> bytes:
    """What a small file holds, or stdin for "-".

    Raises:
        Stop: it cannot be read, or is no small file.
    """
    try:
        if name == "-":
            content = sys.stdin.buffer.read(_LONGEST + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(_LONGEST + 1)
    except (OSError, ValueError) as fault:
        why = getattr(fault, "strerror", None) or type(fault).__name__
        raise Stop(f"{option}: cannot read {shorten(name, 80)}: {why}", USAGE) from None
    if len(content) > _LONGEST:
        raise Stop(f"{option}: {shorten(name, 80)} is too long to hold a key", USAGE)
    return content
