"""The times of the API as timezone-aware datetimes, and times and durations as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from unpod_async._common.text import counted

__all__ = ["clock", "is_before", "local_time", "parse_time", "time_text", "usual_time_texts", "zone_name"]

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


def time_text(moment: datetime) -> str:
    """Return a UTC datetime as a string: `2026-01-15T10:00:00.000000Z`."""
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
# The end of the string of a time, by the length of the time without its zone.
_ENDS = {19: ".000000Z", 23: "000Z", 26: "Z"}
_USUAL = frozenset(
    f"0000-00-00{separator}00:00:00{end}".encode()
    for separator in "T "
    for end in ("", ".000000", "Z", ".000Z", ".000000Z")
)


def usual_time_texts(values: Sequence[Any]) -> list[str | None] | None:
    """Return `time_text` of the time of each value, in a fifth of the time, if all have a usual form.

    The usual forms of the service are dates with times, without a zone or with `Z`. None and "" are accepted,
    and their string is None. Returns None if any value has another form.
    """
    present: list[Any] = list(filter(None, values))
    has_gaps = len(present) < len(values)
    if has_gaps and 0 in values:
        return None  # unix seconds, which are false like None and ""
    try:
        texts = _completed("\n".join(present))
        # A value with a line break is several times. A time that does not exist may have a usual form.
        if texts is None or len(texts) != len(present) or not all(map(datetime.fromisoformat, texts)):
            return None
    except (TypeError, ValueError):
        return None  # a value that is not a string, or a time that does not exist
    if not has_gaps:
        return list(texts)
    following = iter(texts)
    return [next(following) if value else None for value in values]


def _completed(text: str) -> list[str] | None:
    """Return `time_text` of each line, or None if one has another form. Looks at all of them at once."""
    if not text:
        return []
    digits = text.encode().translate(_DIGITS) + b"\n"
    line = digits[: digits.index(b"\n") + 1]
    is_uniform = line * (len(digits) // len(line)) == digits
    forms = {line[:-1]} if is_uniform else set(digits[:-1].split(b"\n"))
    if not forms <= _USUAL:
        return None
    if any(b" " in form for form in forms):
        text = text.replace(" ", "T")
    if any(form.endswith(b"Z") for form in forms):
        text = text.replace("Z", "")
    lengths = {len(form.removesuffix(b"Z")) for form in forms}
    if len(lengths) > 1:
        return [time + _ENDS[len(time)] for time in text.split("\n")]
    end = _ENDS[lengths.pop()]
    return (text.replace("\n", f"{end}\n") + end).split("\n")


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
