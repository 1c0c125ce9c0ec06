"""Options that several commands have, and the parsers of their values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Final, get_args, get_origin

import typer

from unpod_async._common import shorten

__all__ = [
    "FILTERS",
    "OUTPUT",
    "Deadline",
    "GlobalOptions",
    "JsonLines",
    "Limit",
    "Space",
    "Statuses",
    "SummaryAsJson",
    "Utc",
    "Wide",
    "convert_without_pydantic",
    "parse_age",
    "parse_pattern",
    "parse_range",
    "parse_seconds",
    "parse_time",
    "refuse_nan",
    "refuse_password",
    "refuse_token",
]


@dataclass(slots=True, kw_only=True)
class GlobalOptions:
    """The options of `unpod-async` itself, which every command has. None means: use the environment.

    Attributes:
        token_file: a path, or "-" for stdin.
        proxy: URL of an HTTP proxy, without a password.
        timeout: seconds for one attempt of a request.
        rate_limit: requests per second.
        verbose: 1 shows the log from INFO on, 2 also DEBUG records and tracebacks.
        argv: the whole command line, to be shown. It contains no secret.
    """

    token_file: str | None = None
    org_handle: str | None = None
    base_url: str | None = None
    auth_scheme: str | None = None
    allow_http: bool = False
    proxy: str | None = None
    timeout: float | None = None
    rate_limit: float | None = None
    verbose: int = 0
    argv: tuple[str, ...] = ()

    def override(self, name: str, value: object) -> None:
        """Set an option that is given after the command.

        It overrides the same option before the command, except that the numbers of -v are added.
        """
        if name == "verbose":
            value = self.verbose + int(str(value))
        if value is not None and value is not False:
            setattr(self, name, value)


def refuse_token(value: str | None) -> None:
    """Reject --token and --api-key.

    Raises:
        typer.BadParameter: one was given.
    """
    if value is not None:
        raise typer.BadParameter(
            "the token cannot be an argument: other users of this machine can read arguments, and the shell "
            "stores them. Set UNPOD_PLATFORM_TOKEN or use --token-file (- reads stdin)"
        )


FILTERS: Final = "Filters"
OUTPUT: Final = "Output"
"""Groups of options in the help."""


def refuse_password(proxy: str | None) -> str | None:
    """Return the URL of a proxy.

    Raises:
        typer.BadParameter: it contains a user name or password.
    """
    if proxy is not None and "@" in proxy:
        raise typer.BadParameter(
            "a user name and password cannot be an argument: other users of this machine can read arguments, "
            "and the shell stores them. Set UNPOD_PROXY to the whole URL"
        )
    return proxy


Space = Annotated[str, typer.Argument(metavar="SPACE", show_default=False, help="Token of the space.")]
Limit = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        show_default=False,
        rich_help_panel=OUTPUT,
        help="Maximum number of rows; 0 means all. By default a table has 50 rows, JSON has all.",
    ),
]
JsonLines = Annotated[
    bool | None,
    typer.Option(
        "--json/--table",
        show_default=False,
        rich_help_panel=OUTPUT,
        help="JSON, one object per line, or a table. Default: a table on a terminal, otherwise JSON.",
    ),
]
Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        metavar="STATUS",
        show_default=False,
        rich_help_panel=FILTERS,
        help="Only rows with this status, such as completed, failed, in_progress, pending or hold. "
        "Repeatable.",
    ),
]
Wide = Annotated[
    bool,
    typer.Option(
        "--wide",
        show_default=False,
        rich_help_panel=OUTPUT,
        help="In tables: whole ids, every column, and nothing cut off.",
    ),
]
Utc = Annotated[
    bool,
    typer.Option(
        "--utc",
        show_default=False,
        rich_help_panel=OUTPUT,
        help="Times in UTC. Default: the time zone of this machine. JSON has the times as the service sends "
        "them, in UTC.",
    ),
]


# -- parsers ------------------------------------------------------------------------------------------------
# typer calls them for defaults too, which are parsed values already.

_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_DURATION: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([dhms]?)")


def parse_time(text: str | datetime) -> datetime:
    """Parse a time with a time zone, or a date, which means midnight UTC."""
    if isinstance(text, datetime):
        return text
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{shorten(text, 40)!r} is not a date such as 2030-01-31 or a time such as 2030-01-31T10:00Z"
        ) from None
    if found.utcoffset() is None:
        raise typer.BadParameter(f"{text!r} has no time zone; write {text}Z for UTC, or {text}+05:30")
    return found


def parse_pattern(text: str) -> str:
    """Check a regular expression and return it."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise typer.BadParameter(f"{shorten(text, 40)!r} is not a regular expression: {error}") from None
    return text


def parse_age(text: str | timedelta) -> timedelta:
    """Parse a duration such as 7d, 12h, 90m or 30s. A number without a unit is days."""
    if isinstance(text, timedelta):
        return text
    return _duration(text, "d", "'7' (days), '12h', '90m' or '30s'")


def parse_seconds(text: str | float) -> float:
    """Parse a duration above 0 such as 30, 0.5s, 10m or 1h. Returns seconds, which are the default unit."""
    if isinstance(text, int | float):
        return float(text)
    seconds = _duration(text, "s", "'30' (seconds), '10m', '2h' or '1d'").total_seconds()
    if not seconds:
        raise typer.BadParameter("the duration must be greater than 0")
    return seconds


def refuse_nan(value: float | None) -> float | None:
    """Refuse NaN, which passes the range checks of older versions of typer."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("'nan' is not a number")
    return value


def parse_range(text: str | tuple[int, int]) -> tuple[int, int]:
    """Parse a number such as 5, or a range such as 1..20."""
    if isinstance(text, tuple):
        return text
    found = re.fullmatch(r"([0-9]{1,6})(?:\.\.([0-9]{1,6}))?", text)
    if found is None:
        raise typer.BadParameter(f"{shorten(text, 40)!r} is neither a number nor a range such as 1..20")
    low, high = int(found[1]), int(found[2] or found[1])
    if low > high:
        raise typer.BadParameter(f"the range {text!r} is empty: its start is greater than its end")
    return low, high


def _duration(text: str, default_unit: str, examples: str) -> timedelta:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{shorten(text, 40)!r} is not a duration such as {examples}")
    return timedelta(**{_UNITS[found[2] or default_unit]: float(found[1])})


# Values

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_UNKNOWN: Final = object()


def convert_without_pydantic(param: Any) -> None:
    """Make a parameter of typer convert simple values itself.

    typer converts every value, even a plain string, with pydantic, whose import takes a fifth of the time of
    a short command. The values that commands get almost always need no more than `int`. Everything else, and
    every value that is not accepted, is left to typer, which also writes the message.
    """
    described = getattr(param, "type_descriptor", None)  # older versions of typer have no pydantic either
    if described is not None and "process_value" not in vars(param):
        param.process_value = partial(_process, param, described, param.process_value)


def _process(param: Any, described: Any, by_typer: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    converted = _convert(param, described, value)
    if converted is _UNKNOWN or (param.required and param.value_is_missing(converted)):
        return by_typer(ctx, value)
    return converted if param.callback is None else param.callback(ctx, param, converted)


def _convert(param: Any, described: Any, value: Any) -> Any:
    is_list = param.multiple or param.nargs == -1
    if value is None:
        return () if is_list else None
    info, annotation = described.parameter_info, described.annotation
    if info.parser is not None:
        return _UNKNOWN
    if is_list:
        is_strings = get_origin(annotation) is list and get_args(annotation) == (str,)
        return list(value) if is_strings and all(type(one) is str for one in value) else _UNKNOWN
    if annotation is int:
        return _convert_integer(info, value)
    return value if annotation in (str, bool) and type(value) is annotation else _UNKNOWN


def _convert_integer(info: Any, value: Any) -> Any:
    if type(value) is not int and not (type(value) is str and _INTEGER.fullmatch(value)):
        return _UNKNOWN
    number = int(value)
    is_small = info.min is not None and number < info.min
    is_large = info.max is not None and number > info.max
    return _UNKNOWN if is_small or is_large else number


Deadline = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        show_default=False,
        parser=parse_seconds,
        rich_help_panel="Requests",
        help="Stop after this many seconds, or after a duration such as 10m or 2h.",
    ),
]
SummaryAsJson = Annotated[
    bool | None,
    typer.Option(
        "--json/--table",
        show_default=False,
        rich_help_panel=OUTPUT,
        help="The summary as JSON or as text. Default: text on a terminal, otherwise JSON.",
    ),
]
