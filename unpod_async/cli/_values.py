"""Times, durations and sizes as people write them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from unpod_async._common import shorten
from unpod_async.cli._status import USAGE, Stop

__all__ = ["between", "duration", "moment", "seconds"]

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def moment(option: str, text: str, *, or_date: bool = True) -> datetime:
    """A time with its zone; or a date, which is its midnight in UTC.

    Raises:
        Stop: it is neither.
    """
    is_date = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is not None
    date_too = "no date such as 2030-01-31 and " if or_date else ""
    try:
        if is_date and not or_date:
            raise ValueError
        if is_date:
            return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Stop(
            f"{option}: {shorten(text, 40)!r} is {date_too}no time such as 2030-01-31T10:00Z", USAGE
        ) from None
    if found.utcoffset() is None:
        raise Stop(f"{option}: say the zone of {text!r}, as in {text}Z or {text}+05:30", USAGE)
    return found


def duration(option: str, text: str, *, bare: Literal["d", "s"] = "d") -> timedelta:
    """A number with its unit (7d, 12h, 90m, 30s), or without one in `bare`: days, or seconds.

    Raises:
        Stop: it is none.
    """
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([dhms]?)", text)
    if found is None:
        usual = (
            "days, as in 7, nor 12h, 90m or 30s" if bare == "d" else "seconds, as in 30, nor 10m, 2h or 1d"
        )
        raise Stop(f"{option}: {shorten(text, 40)!r} is not {usual}", USAGE)
    return timedelta(**{_UNITS[found[2] or bare]: float(found[1])})


def seconds(option: str, text: str) -> float:
    """Seconds above 0, with a unit or without one: 30, 0.5s, 10m, 1h.

    Raises:
        Stop: it is none.
    """
    found = duration(option, text, bare="s").total_seconds()
    if not found:
        raise Stop(f"{option}: must be more than 0", USAGE)
    return found


def between(option: str, text: str) -> tuple[int, int]:
    """`5`, or `1..20`.

    Raises:
        Stop: it is neither, or does not go upwards.
    """
    found = re.fullmatch(r"([0-9]{1,6})(?:\.\.([0-9]{1,6}))?", text)
    if found is None:
        raise Stop(f"{option}: {shorten(text, 40)!r} is neither a number nor two of them as in 1..20", USAGE)
    low, high = int(found[1]), int(found[2] or found[1])
    if low > high:
        raise Stop(f"{option}: {text!r} does not go upwards", USAGE)
    return low, high
