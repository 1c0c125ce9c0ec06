"""What an error says on the command line, and the exit status it means."""

from __future__ import annotations

import re
from typing import Final

from unpod_async._common import printable
from unpod_async.errors import (
    AuthenticationError,
    ConfigurationError,
    DecodeError,
    IncompleteListing,
    InvalidArgument,
    PermissionDeniedError,
    TargetLockedError,
    UnpodError,
    WaitTimeout,
)

__all__ = [
    "AUTHENTICATION",
    "COMPLETE",
    "ERROR",
    "INCOMPLETE",
    "INTERRUPTED",
    "LOCKED",
    "NOT_SETTLED",
    "PIPE_CLOSED",
    "STATUSES",
    "USAGE",
    "Stop",
    "status_of",
    "text_of",
]

COMPLETE: Final = 0
ERROR: Final = 1
USAGE: Final = 2
INCOMPLETE: Final = 3
AUTHENTICATION: Final = 4
NOT_SETTLED: Final = 5
LOCKED: Final = 75
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

STATUSES: Final = """\
Exit status:
    0  complete
    1  an error
    2  usage: an argument or a setting is missing or wrong
    3  incomplete: rows are missing, the others are there
    4  the token is refused (401), or may not (403)
    5  not settled in time: runs that are waited for go on
   75  another export is writing to the target
  130  interrupted (Ctrl-C)
  141  the reader of stdout has gone (| head)"""


class Stop(Exception):
    """Ends the command with a text and an exit status."""

    def __init__(self, text: str, status: int = ERROR) -> None:
        super().__init__(text)
        self.status = status


def status_of(error: UnpodError) -> int:
    """The exit status that an error means."""
    if isinstance(error, TargetLockedError):
        return LOCKED
    if isinstance(error, AuthenticationError | PermissionDeniedError):
        return AUTHENTICATION
    if isinstance(error, InvalidArgument | ConfigurationError):
        return USAGE
    if isinstance(error, WaitTimeout):
        return NOT_SETTLED
    if isinstance(error, IncompleteListing):
        return INCOMPLETE
    if isinstance(error, DecodeError) and (error.rejected or error.unreadable):
        return INCOMPLETE
    return ERROR


_OPTIONS: Final = "auth_scheme|org_handle|base_url|allow_http|page_size|timeout|concurrency|redact_key"
# The library speaks to those who call it, `auth_scheme='Token'`; here it is an option.
_ARGUMENT: Final = re.compile(rf"\b({_OPTIONS})\b(=True\b|=(?=['\"\w])|=)?")
_LIBRARY_ONLY: Final = re.compile(r"; on_bad_row='skip' logs such rows and goes on")


def text_of(error: UnpodError) -> str:
    """The error on one line, with options in place of the library's arguments."""
    text = " ".join([str(error), *getattr(error, "__notes__", ())])
    return printable(_ARGUMENT.sub(_option, _LIBRARY_ONLY.sub("", text)))


def _option(found: re.Match[str]) -> str:
    name = "redact-key-file" if found[1] == "redact_key" else found[1].replace("_", "-")
    followed = found[2] == "=" and found.string[found.end() : found.end() + 1] not in ("", " ", ",", ")", ":")
    return f"--{name}{' ' if followed else ''}"
