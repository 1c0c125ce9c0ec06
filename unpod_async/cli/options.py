"""Options that several commands have, and the parsers of their values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final

import typer

from unpod_async._common import shorten

__all__ = [
    "GlobalOptions",
    "JsonLines",
    "Limit",
    "Space",
    "Statuses",
    "parse_age",
    "parse_range",
    "parse_seconds",
    "parse_time",
    "refuse_token",
]


@dataclass(slots=True, kw_only=True)
class GlobalOptions:
    """The options of `unpod-async` itself, which every command has. None means: use the environment.

    Attributes:
        token_file: a path, or "-" for stdin.
        timeout: seconds for one attempt of a request.
        verbose: 1 shows the log, 2 all of it and tracebacks.
        argv: the whole command line, to be shown. It contains no secret.
    """

    token_file: str | None = None
    org_handle: str | None = None
    base_url: str | None = None
    auth_scheme: str | None = None
    allow_http: bool = False
    timeout: float | None = None
    verbose: int = 0
    argv: tuple[str, ...] = ()

    def override(self, name: str, value: object) -> None:
        """Set an option that is given after the command. It overrides the one before; -v is added to -v."""
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


Space = Annotated[str, typer.Argument(metavar="SPACE", show_default=False, help="Token of the space.")]
Limit = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        show_default=False,
        help="Maximum number of rows; 0 means all. By default a table has 50 rows, JSON has all.",
    ),
]
JsonLines = Annotated[
    bool | None,
    typer.Option(
        "--json/--table",
        show_default=False,
        help="JSON, one object per line, or a table. Default: a table on a terminal, otherwise JSON.",
    ),
]
Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status", metavar="STATUS", show_default=False, help="Only rows with this status. Repeatable."
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
