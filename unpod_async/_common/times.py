"""The times of the API as timezone-aware datetimes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["is_before", "parse_time"]

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

    Accepted are ISO 8601 strings with `T` or a space, with or without a fraction (truncated to microseconds),
    with `Z`, an offset, or neither (then UTC); dates (midnight UTC); and unix seconds as a number or a string
    of digits. Everything else gives None: "", "N/A", "NULL", "None", null, booleans, NaN, times that do not
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
