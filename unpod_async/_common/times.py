"""The times of the API as timezone-aware datetimes, and times and durations as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from unpod_async._common.text import counted

__all__ = ["clock", "is_before", "local_time", "parse_time", "parse_usual_times", "zone_name"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)

# fromisoformat also accepts bare digits ("20260115100"), which are unix seconds here, week dates, any
# character between date and time, and a NUL at the end.
_ISO_START = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T t][^\x00]*)?$", re.ASCII)
# ASCII only: float() also accepts digits of other scripts, underscores, "inf" and "nan".
_UNIX_SECONDS = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)
# Lengths of the usual times of the service, which have no zone: without and with microseconds.
_NO_ZONE = frozenset({19, 26})


def parse_time(value: object) -> datetime | None:
    """Return `value` as a timezone-aware datetime in UTC, or None if it is not a time. Never raises.

    These values are times:

    - ISO 8601 strings with `T` or a space between date and time. A fraction is truncated to microseconds. A
      time without `Z` or an offset is in UTC.
    - Dates, which mean midnight in UTC.
    - Unix seconds, as a number or a string of digits.

    For everything else the result is None: "", "N/A", "NULL", "None", null, booleans, NaN, times that do not
    exist, and numbers outside the years 1 to 9999.
    """
    try:
        if isinstance(value, str):
            return _parse_text(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_USUAL_NO_ZONE = frozenset(
    f"0000-00-00{separator}00:00:00{fraction}".encode() for separator in "T " for fraction in ("", ".000000")
)
_USUAL_UTC = frozenset(
    f"0000-00-00{separator}00:00:00{fraction}Z".encode()
    for separator in "T "
    for fraction in ("", ".000", ".000000")
)


def parse_usual_times(values: Sequence[Any]) -> list[datetime | None] | None:
    """Return `parse_time` of each value, in a quarter of the time, if all have the same usual form.

    The usual forms of the service are dates with times, without a zone or with `Z`. None and "" are accepted,
    and their time is None. Returns None if any value has another form.
    """
    if 0 in values:
        return None  # unix seconds, which are false like None and ""
    present: list[Any] = [value for value in values if value]
    try:
        text = "\n".join(present)
        forms = set(text.encode().translate(_DIGITS).split(b"\n"))
        if forms <= _USUAL_NO_ZONE:
            present = (text.replace("\n", "Z\n") + "Z").split("\n")
        elif not forms <= _USUAL_UTC:
            return None
        times = map(datetime.fromisoformat, present)
        return [next(times) if value else None for value in values]
    except (TypeError, ValueError):
        return None  # a value that is not a string, or a time that does not exist


def is_before(created: datetime, bound: datetime) -> bool:
    """Return whether a time that the server sent is before a lower bound. Both need a time zone.

    The server truncates times to whole seconds. So the real time may be up to a second later than a time
    without a fraction, and such a time is not before a bound within that second.
    """
    # Two datetimes of one zone compare by wall clock, which is ambiguous for an hour in autumn, and
    # astimezone() overflows at the ends of the calendar. Differences to the epoch have neither problem.
    earliest = bound - _EPOCH
    if not created.microsecond:
        earliest -= earliest % _SECOND
    return created - _EPOCH < earliest


def clock(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss, or in days from 100 hours on."""
    minutes, rest = divmod(int(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return counted(hours // 24, "day")
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def local_time(at: datetime, zone: tzinfo | None) -> datetime:
    """Return a time in a zone; None is the zone of this machine."""
    try:
        return at.astimezone(zone)
    except (OSError, OverflowError, ValueError):  # a year that the platform cannot convert
        return at


def zone_name(at: datetime) -> str:
    """Return the short name of the zone of a time, such as CET, or its offset if it has no short name."""
    name = at.tzname() or ""
    # Windows has long names, such as "Central European Standard Time".
    return name if 0 < len(name) <= 6 and " " not in name else f"{at:%z}"


def _parse_text(text: str) -> datetime | None:
    if not _ISO_START.match(text):
        text = text.strip()
        if _UNIX_SECONDS.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        if not _ISO_START.match(text):
            return None
    try:
        # Four times as fast as adding the zone afterwards.
        moment = datetime.fromisoformat(f"{text}Z" if len(text) in _NO_ZONE else text)
    except ValueError:
        # RFC 3339 allows "t" and "z", which fromisoformat refuses, as it refuses surrounding whitespace.
        moment = datetime.fromisoformat(text.strip().upper())
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
