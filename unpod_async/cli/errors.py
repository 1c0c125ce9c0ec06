"""Errors of the command line: messages, hints and exit statuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from unpod_async._common import is_fault_of_disk, printable
from unpod_async.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    DecodeError,
    IncompleteListing,
    InvalidArgument,
    OutcomeUnknown,
    PermissionDeniedError,
    RateLimitedError,
    RefusedError,
    RunNotFound,
    ServerError,
    TargetLockedError,
    TransportError,
    UnpodError,
    UpstreamError,
    WaitTimeout,
)

__all__ = [
    "AUTHENTICATION",
    "BROKEN_PIPE",
    "ERROR",
    "EXIT_STATUSES",
    "INCOMPLETE",
    "INTERRUPTED",
    "SUCCESS",
    "USAGE",
    "CliError",
    "exit_status",
    "hint_of",
    "message_of",
    "option_name",
    "with_option_names",
]

SUCCESS: Final = 0
ERROR: Final = 1
USAGE: Final = 2
INCOMPLETE: Final = 3
AUTHENTICATION: Final = 4
TIMEOUT: Final = 5
LOCKED: Final = 75
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

EXIT_STATUSES: Final = """\
Exit status:
    0  success
    1  error
    2  usage: an argument or setting is missing or invalid
    3  incomplete: some rows or recordings are missing
    4  token rejected, or no permission (401, 403, 206)
    5  timeout: some runs have not ended
   75  another export is writing to the target
  130  interrupted (Ctrl-C)
  141  the reader of stdout has exited (| head)"""

_OPTION_NAMES: Final = {
    "created_from": "--from",
    "created_to": "--to",
    "moment": "--schedule",
    "part_bytes": "--part-size",
    "pilot": "--agent",
    "recording_hosts": "--recording-host",
    "redact_key": "--redact-key-file",
    "run_id": "RUN",
    "run_ids": "RUN",
    "runs": "--run",
    "agent_handle": "HANDLE",
    "space_token": "SPACE",
    "spaces": "SPACE",
    "target": "TARGET",
    "token": "token",
}
"""The options of library arguments whose names do not follow the rule of `option_name`."""

_HTTP_HINT: Final = "check --base-url or UNPOD_BASE_URL; --allow-http permits http://"
_TOKEN_HINT: Final = "give only the API key, in UNPOD_PLATFORM_TOKEN or with --token-file FILE"  # noqa: S105
_ORG_HINT: Final = "set UNPOD_ORG_HANDLE or use --org-handle HANDLE"
_PRODUCT_HINT: Final = "write the id without spaces, in UNPOD_PRODUCT_ID or --product-id ID"
_PROXY_HINT: Final = "write it as http://host:port; a user name and password only in UNPOD_PROXY"
_SETTING_HINTS: Final = {
    "auth_scheme": "use --auth-scheme Token, JWT or Bearer",
    "base_url": _HTTP_HINT,
    "UNPOD_BASE_URL": _HTTP_HINT,
    "UNPOD_PLATFORM_BASE_URL": _HTTP_HINT,
    "org_handle": _ORG_HINT,
    "UNPOD_ORG_HANDLE": _ORG_HINT,
    "token": _TOKEN_HINT,
    "UNPOD_PLATFORM_TOKEN": _TOKEN_HINT,
    "product_id": _PRODUCT_HINT,
    "UNPOD_PRODUCT_ID": _PRODUCT_HINT,
    "proxy": _PROXY_HINT,
    "UNPOD_PROXY": _PROXY_HINT,
}
"""Hints for the settings of the client, by argument or variable. The library's own hints show Python code."""
_IN_HINTS: Final = {
    "base_url": "--base-url",
    "org_handle": "--org-handle",
    "auth_scheme='JWT' or 'Bearer'": "--auth-scheme JWT or Bearer",
    "auth_scheme='JWT'": "--auth-scheme JWT",
    "auth_scheme='Token'": "--auth-scheme Token",
    ", or pass token_provider= to renew it": "",
    "pass proxy= or set UNPOD_PROXY": "use --proxy URL or set UNPOD_PROXY",
    "in proxy=http": "in UNPOD_PROXY=http",
    "proxy=": "--proxy",
    "pass ssl_context=": "set SSL_CERT_FILE",
    "allow_http=True": "--allow-http",
    "pass product_id=, or": "use --product-id ID, or",
    "add the host to recording_hosts=": "use --recording-host HOST",
    "raise max_bytes= to accept it": "the command line does not download longer recordings",
}
"""Python code in the hints of the library, and what the user of the command line writes."""


_GENERAL_HINTS: Final[dict[type[UnpodError], str]] = {
    RateLimitedError: "the service limits requests: try again later",
    ServerError: "the service has a problem: try again later, or run `unpod-async doctor`",
    UpstreamError: "the service has a problem: try again later, or run `unpod-async doctor`",
    IncompleteListing: "rows changed while they were read: run the command again",
    TransportError: "check the network and --base-url, or run `unpod-async doctor`",
    InvalidArgument: "see --help for the values that are accepted",
    ConfigurationError: "see --help for the values that are accepted",
}
"""Hints for errors of the library that have none."""


class CliError(Exception):
    """End the command with a message, a hint and an exit status.

    Attributes:
        message: what happened.
        details: more lines about it, such as one for each document that is refused.
        hint: what the user can do about it, or "".
        status: the exit status.
    """

    def __init__(
        self, message: str, *, details: Sequence[str] = (), hint: str = "", status: int = ERROR
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.hint = hint
        self.status = status


def exit_status(error: UnpodError) -> int:
    """Return the exit status for an error of the library."""
    if isinstance(error, TargetLockedError):
        return LOCKED
    if isinstance(error, AuthenticationError | PermissionDeniedError | RefusedError):
        return AUTHENTICATION
    if isinstance(error, InvalidArgument | ConfigurationError):
        # A full disk under a journal or a state is no fault of the arguments.
        return ERROR if is_fault_of_disk(error.__context__) else USAGE
    if isinstance(error, WaitTimeout):
        return TIMEOUT
    if isinstance(error, IncompleteListing):
        return INCOMPLETE
    if isinstance(error, DecodeError) and (error.rejected or error.unreadable):
        return INCOMPLETE
    return ERROR


def option_name(argument: str) -> str:
    """Return how an argument of the library is named on the command line: `page_size` is `--page-size`."""
    return _OPTION_NAMES.get(argument) or f"--{argument.replace('_', '-')}"


def message_of(error: UnpodError) -> str:
    """Return what happened, on one line, with the name of an option instead of that of an argument."""
    text = error.summary
    if isinstance(error, APIError | TransportError) and error.page == 1:
        # The path of the request says which listing it is.
        text = text.replace(f" [while reading {error.listing}, page 1]", "")
    argument = _argument_of(error)
    if argument and not argument.isupper() and text.startswith(argument):
        text = option_name(argument) + text[len(argument) :]
        before, is_after, bound = text.partition(" is after ")
        if is_after:  # an error about a range names both of its bounds
            text = f"{before}{is_after}{option_name(bound)}"
    return printable(" ".join([text, *getattr(error, "__notes__", ())]))


def hint_of(error: UnpodError) -> str:
    """Return what the user can do about an error, or ""."""
    match error:
        case RunNotFound():
            return "`unpod-async runs SPACE` lists the runs"
        case OutcomeUnknown():
            return "do not send the calls again before you know whether they were queued"
        case TransportError() if "ssl_context=" in (error.hint or ""):
            return "check --base-url; for a private certificate authority, set SSL_CERT_FILE"
        case DecodeError() if error.rejected or error.unreadable:
            return "all other rows were shown; report these rows to the support of the service"
        case _:
            hint = with_option_names(error.hint or "")
            return _SETTING_HINTS.get(_argument_of(error)) or hint or _general_hint(error)


def with_option_names(hint: str) -> str:
    """Return a hint of the library on one line, with options instead of Python code."""
    text = " ".join(hint.split())
    for python, option in _IN_HINTS.items():
        text = text.replace(python, option)
    return printable(text)


def _general_hint(error: UnpodError) -> str:
    """Return the hint for an error whose cause is known by its class only."""
    return next((hint for kind, hint in _GENERAL_HINTS.items() if isinstance(error, kind)), "")


def _argument_of(error: UnpodError) -> str:
    """Return the argument or the variable with which the message of an error begins, or ""."""
    if not isinstance(error, ConfigurationError | InvalidArgument):
        return ""
    named = error.summary.removeprefix("the environment variable ").partition(" ")[0]
    return error.argument or (named if named in _SETTING_HINTS else "")
