"""Arguments of `tasks.create` and `tasks.create_many`: schedules, and the requests of a batch job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any, Final, Literal, TypeAlias

import msgspec

from unpod_async.errors import InvalidArgument

__all__ = ["CreateRequest", "Schedule", "ScheduleAuto", "ScheduleCustom", "ScheduleNow"]

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_HOUR: Final = r"(?:[01][0-9]|2[0-3])"
_TIME: Final = re.compile(
    rf"(?:{_HOUR}:[0-5][0-9](?::[0-5][0-9])?(?:[+-]{_HOUR}:[0-5][0-9])?"
    r"|(?:0[1-9]|1[0-2]):[0-5][0-9](?::[0-5][0-9])? (?:[AaPp][Mm]))"
)


class ScheduleNow(msgspec.Struct, frozen=True, tag="now"):
    """Call as soon as possible: `{"type": "now"}`."""


class ScheduleAuto(msgspec.Struct, frozen=True, tag="auto"):
    """Let the platform choose the time: `{"type": "auto"}`."""


class ScheduleCustom(msgspec.Struct, frozen=True, tag="custom"):
    """Call at a given time: `{"type": "custom", "calling_date": "2030-01-01", "calling_time": "10:00"}`.

    Use `ScheduleCustom.at` to create one from a datetime.

    Attributes:
        calling_date: the date as "YYYY-MM-DD". A `date` is accepted and converted to this form.
        calling_time: the time as "HH:MM" or "HH:MM:SS", optionally with an offset ("10:00+05:30") or
            followed by " AM" or " PM". A `time` of whole seconds is accepted and converted to this form.
            The server reads a time without an offset as UTC.

    Raises:
        InvalidArgument: the date or the time does not have this form. Only the server checks that the
            moment is in the future.
    """

    calling_date: str | date
    calling_time: str | time

    def __post_init__(self) -> None:
        # Store the text that is sent, so that equal schedules compare equal however they were created.
        msgspec.structs.force_setattr(self, "calling_date", _date_text(self.calling_date))
        msgspec.structs.force_setattr(self, "calling_time", _time_text(self.calling_time))

    @classmethod
    def at(cls, moment: datetime) -> ScheduleCustom:
        """Return the schedule for a timezone-aware datetime.

        The time is sent with its offset. A fraction of a second is rounded up, so that no call is early.

        Raises:
            InvalidArgument: `moment` is not a timezone-aware datetime, or is within a day of the first or
                the last moment that a datetime can hold.
        """
        offset = moment.utcoffset() if _is_datetime(moment) else None
        if offset is None:
            raise InvalidArgument(
                "moment must be a timezone-aware datetime",
                argument="moment",
                hint="add a time zone, as in datetime(2030, 1, 1, 10, tzinfo=UTC)",
            )
        # An offset with seconds, which time zones had before 1972, cannot be written as +HH:MM.
        whole = timedelta(minutes=offset // timedelta(minutes=1))
        try:
            local = moment.astimezone(UTC) + whole
            if local.microsecond:
                local = local.replace(microsecond=0) + timedelta(seconds=1)
        except OverflowError:
            raise InvalidArgument(
                "moment is too close to the first or last datetime", argument="moment"
            ) from None
        return cls(local.date(), local.time().replace(tzinfo=timezone(whole)))


Schedule: TypeAlias = ScheduleNow | ScheduleAuto | ScheduleCustom | Literal["now", "auto"]
"""What `schedule=` accepts."""


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of `tasks.create_many`.

    Attributes:
        pilot: see `tasks.create`.
        documents: one mapping for each call; see `tasks.create`.
        context: see `tasks.create`.
        schedule: see `tasks.create`; "now" by default.
    """

    pilot: str
    documents: Sequence[Mapping[str, Any]]
    context: str
    schedule: Schedule = "now"


def _date_text(value: object) -> str:
    if _is_datetime(value):
        raise InvalidArgument(
            "calling_date must be a date, not a datetime",
            argument="calling_date",
            hint="use ScheduleCustom.at(moment) for a datetime",
        )
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str) and _DATE.fullmatch(value):
        with suppress(ValueError):
            return date.fromisoformat(value).isoformat()
    raise InvalidArgument("calling_date must be a date as YYYY-MM-DD", argument="calling_date")


def _time_text(value: object) -> str:
    if isinstance(value, time):
        if value.tzinfo is not None and value.utcoffset() is None:
            # time.isoformat() drops such a time zone silently.
            raise InvalidArgument(
                "calling_time has a time zone whose offset depends on the date",
                argument="calling_time",
                hint="use ScheduleCustom.at(moment) with a timezone-aware datetime",
            )
        value = value.isoformat("minutes" if not (value.second or value.microsecond) else "auto")
    if isinstance(value, str) and _TIME.fullmatch(value):
        return str.__str__(value)
    raise InvalidArgument(
        "calling_time must be HH:MM or HH:MM:SS",
        argument="calling_time",
        hint="an offset (10:00+05:30) or AM or PM (10:00 PM) may follow",
    )


def _is_datetime(value: object) -> bool:
    return isinstance(value, datetime)
