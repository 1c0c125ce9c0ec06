"""Errors as texts for the model: what happened, and a hint."""

from __future__ import annotations

from typing import Final

from unpod_async._common import printable, shorten
from unpod_async.errors import InvalidArgument, RunNotFound, UnpodError

__all__ = ["ToolProblem", "explain"]

_ARGUMENTS: Final = {
    "pilot": "agent",
    "run_id": "run",
    "run_ids": "run",
    "space_token": "space",
    "deadline": "timeout_seconds",
}
"""Arguments of the library that have another name in the tools."""
_LONGEST: Final = 1_000
_MOST_PROBLEMS: Final = 10


class ToolProblem(Exception):
    """A tool call failed.

    Attributes:
        message: what happened.
        hint: what the model or its user can do, or "".
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def explain(error: UnpodError, setting_hint: str) -> ToolProblem:
    """Return an error of the library with the names of the tools' arguments.

    Args:
        setting_hint: the hint in the words of the program that runs the server, or "".
    """
    message = error.summary
    if isinstance(error, InvalidArgument):
        argument = error.argument or ""
        if argument in _ARGUMENTS and message.startswith(argument):
            message = _ARGUMENTS[argument] + message[len(argument) :]
        problems = [str(problem) for problem in error.problems]
        more = len(problems) - _MOST_PROBLEMS
        details = problems[:_MOST_PROBLEMS] + ([f"and {more:,} more"] if more > 0 else [])
        message = "; ".join([message, *(one for one in details if one not in message)])
        hint = "check the arguments of the tool"
    elif isinstance(error, RunNotFound):
        hint = "list_runs lists the runs of the space"
    else:
        hint = setting_hint
    return ToolProblem(shorten(printable(message), _LONGEST), shorten(printable(hint), _LONGEST))
