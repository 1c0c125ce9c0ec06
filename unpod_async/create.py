"""The body of "Create a Task in a Space" (Tasks API): schedules, and the checks made before calls are placed.

A create cannot be taken back and cannot be repeated safely, and some bodies leave an empty run behind. So
everything known to be refused or misread by the server is refused here, before anything is sent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Final, Literal, NamedTuple, TypeAlias, cast

import msgspec

from unpod_async._common import shorten
from unpod_async._http import check_id
from unpod_async.errors import InvalidArgument

__all__ = ["EncodedCreate", "Schedule", "ScheduleAuto", "ScheduleCustom", "ScheduleNow", "encode_create"]

_DEEPEST: Final = 100
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_HOUR: Final = r"(?:[01][0-9]|2[0-3])"
_TIME: Final = re.compile(
    rf"(?:{_HOUR}:[0-5][0-9](?::[0-5][0-9])?(?:[+-]{_HOUR}:[0-5][0-9])?"
    r"|(?:0[1-9]|1[0-2]):[0-5][0-9](?::[0-5][0-9])? (?:[AaPp][Mm]))"
)
_UNSENDABLE: Final = re.compile("[\x00\ud800-\udfff]")
# A key that is shown in an error is a field's name; any other may be somebody's number or name.
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


class ScheduleNow(msgspec.Struct, frozen=True, tag="now"):
    """Call as soon as possible: `{"type": "now"}`."""


class ScheduleAuto(msgspec.Struct, frozen=True, tag="auto"):
    """Let the platform choose the time: `{"type": "auto"}`."""


class ScheduleCustom(msgspec.Struct, frozen=True, tag="custom"):
    """Call at a time: `{"type": "custom", "calling_date": "2030-01-01", "calling_time": "10:00"}`.

    Use `at` when the moment is at hand as a datetime.

    Attributes:
        calling_date: "YYYY-MM-DD" or a `date`; kept as text.
        calling_time: "HH:MM" or "HH:MM:SS", with an offset ("10:00+05:30") or followed by " AM" or " PM", or
            a `time` of whole seconds; kept as text. Without an offset the server reads it as its own time,
            which is UTC.

    Raises:
        InvalidArgument: not such a date or time. Whether it is in the future is for the server to say.
    """

    calling_date: str | date
    calling_time: str | time

    def __post_init__(self) -> None:
        # The attributes hold what is sent, so equal schedules compare equal however they were written.
        msgspec.structs.force_setattr(self, "calling_date", _date_text(self.calling_date))
        msgspec.structs.force_setattr(self, "calling_time", _time_text(self.calling_time))

    @classmethod
    def at(cls, moment: datetime) -> ScheduleCustom:
        """The schedule for an aware datetime, sent with its offset; part of a second counts as a whole one.

        Raises:
            InvalidArgument: `moment` is no datetime, has no zone, or lies at the very end of the calendar.
        """
        offset = moment.utcoffset() if _is_datetime(moment) else None
        if offset is None:
            raise InvalidArgument("moment must be a datetime with a zone")
        # An offset with seconds, as zones had before 1972, cannot be written as +HH:MM.
        whole = timedelta(minutes=offset // timedelta(minutes=1))
        try:
            local = moment.astimezone(UTC) + whole
            if local.microsecond:
                # Rounded up: never earlier than asked for.
                local = local.replace(microsecond=0) + timedelta(seconds=1)
        except OverflowError:
            raise InvalidArgument("moment is too near the end of the calendar") from None
        return cls(local.date(), local.time().replace(tzinfo=timezone(whole)))


Schedule: TypeAlias = ScheduleNow | ScheduleAuto | ScheduleCustom | Literal["now", "auto"]


class EncodedCreate(NamedTuple):
    """A create ready to be sent.

    Attributes:
        body: the JSON of the request.
        document_ids: ids of the documents that have one, in order; they come back as `ref_id` of the tasks.
    """

    body: bytes
    document_ids: tuple[str, ...]


def encode_create(
    *,
    pilot: str,
    documents: Iterable[Mapping[str, object]],
    context: str,
    schedule: Schedule = "now",
    make_id: Callable[[], str] | None = None,
) -> EncodedCreate:
    """A create checked and encoded.

    The caller's objects are copied, never changed. See "Create a Task in a Space" of the Tasks API.

    Args:
        pilot: handle of the agent that calls. The server does not check that there is one.
        documents: one mapping per call, with `name` and `contact_number` as text; further keys hold JSON.
            `id`, or else `document_id`, comes back as `ref_id` of the task.
        context: what the calls are about. Documented as optional, but the server refuses a body without it.
        schedule: a `ScheduleNow`, `ScheduleAuto` or `ScheduleCustom`, or "now" or "auto".
        make_id: makes the `document_id` of a document that has no id; None leaves it without.

    Raises:
        InvalidArgument: the text says where ("documents[3].age") and what is accepted, and shows no value.
    """
    copies = _documents(documents)
    if make_id is not None:
        for copy in copies:
            if not (copy.get("id") or copy.get("document_id")):
                copy["document_id"] = make_id()
    body = {
        "pilot": check_id("pilot", pilot),
        "documents": copies,
        "context": _filled("context", context),
        "schedule": _schedule(schedule),
    }
    return EncodedCreate(msgspec.json.encode(body), _ids(copies))


def _schedule(value: object) -> ScheduleNow | ScheduleAuto | ScheduleCustom:
    if isinstance(value, ScheduleNow | ScheduleAuto | ScheduleCustom):
        return value
    if isinstance(value, str) and value in {"now", "auto"}:
        return ScheduleNow() if value == "now" else ScheduleAuto()
    raise InvalidArgument(
        "schedule must be 'now', 'auto', ScheduleNow(), ScheduleAuto(), ScheduleCustom(date, time) "
        "or ScheduleCustom.at(datetime)"
    )


def _documents(value: object) -> list[dict[str, object]]:
    kind = type(value).__name__
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidArgument(f"documents must be a sequence of mappings, not {kind}")
    copies: list[dict[str, object]] = []
    for index, document in enumerate(cast("Iterable[object]", value)):
        where = f"documents[{index}]"
        if not isinstance(document, Mapping):
            raise InvalidArgument(f"{where} must be a mapping, not {type(document).__name__}")
        copy = cast("dict[str, object]", _json(where, cast("object", document), 1))
        for key in ("name", "contact_number"):
            if key not in copy:
                raise InvalidArgument(f"{where} must have {key!r}, as non-empty text")
            _filled(f"{where}.{key}", copy[key])
        for key in ("id", "document_id"):
            if copy.get(key) is not None:
                _text(f"{where}.{key}", copy[key])
        copies.append(copy)
    if not copies:
        raise InvalidArgument("documents must hold at least one mapping: each is one call")
    return copies


def _ids(documents: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    places: dict[str, int] = {}
    for index, document in enumerate(documents):
        # An empty id is none: exports write one for every row that lacks it.
        identity = document.get("id") or document.get("document_id")
        if not isinstance(identity, str) or not identity:
            continue
        if identity in places:
            raise InvalidArgument(
                f"documents[{index}] has the same id as documents[{places[identity]}]: "
                "ids must differ, or their tasks cannot be told apart"
            )
        places[identity] = index
    return tuple(places)


def _json(where: str, value: object, depth: int) -> object:
    """A copy of `value` out of plain JSON types."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(where, value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidArgument(f"{where} must be within signed 64 bits; write a longer number as text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidArgument(f"{where} must be a finite number: JSON has no NaN and no infinity")
        return float(value)
    if not isinstance(value, Mapping | list | tuple):
        kind = type(value).__name__
        raise InvalidArgument(
            f"{where} must be JSON: text, number, bool, None, mapping, list, tuple; not {kind}"
        )
    if depth > _DEEPEST:
        raise InvalidArgument(f"{shorten(where, 120)} must be nested at most {_DEEPEST} deep")
    if isinstance(value, list | tuple):
        items = enumerate(cast("Sequence[object]", value))
        return [_json(f"{where}[{index}]", item, depth + 1) for index, item in items]
    copy: dict[str, object] = {}
    for index, (key, item) in enumerate(cast("Mapping[object, object]", value).items()):
        field = _text(f"key {index} of {where}", key)
        inner = f"{where}.{field}" if _FIELD.fullmatch(field) else f"{where}.<key {index}>"
        copy[field] = _json(inner, item, depth + 1)
    return copy


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"{where} must be text, not {type(value).__name__}")
    text = str.__str__(value)
    if _UNSENDABLE.search(text):
        raise InvalidArgument(f"{where} must hold no NUL character and no lone surrogate")
    return text


def _filled(where: str, value: object) -> str:
    text = _text(where, value)
    if not text.strip():
        raise InvalidArgument(f"{where} must be text that is not blank")
    return text


def _date_text(value: object) -> str:
    if _is_datetime(value):
        raise InvalidArgument("calling_date must be a date: use ScheduleCustom.at() for a datetime")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str) and _DATE.fullmatch(value):
        with suppress(ValueError):
            return date.fromisoformat(value).isoformat()
    raise InvalidArgument("calling_date must be a date of the calendar as YYYY-MM-DD")


def _time_text(value: object) -> str:
    if isinstance(value, time):
        if value.tzinfo is not None and value.utcoffset() is None:
            # isoformat() would drop such a zone without a word.
            raise InvalidArgument(
                "calling_time has a zone whose offset depends on the date: use ScheduleCustom.at()"
            )
        value = value.isoformat("minutes" if not (value.second or value.microsecond) else "auto")
    if isinstance(value, str) and _TIME.fullmatch(value):
        return str.__str__(value)
    raise InvalidArgument(
        "calling_time must be HH:MM or HH:MM:SS, alone, with an offset (10:00+05:30) or AM or PM (10:00 PM)"
    )


def _is_datetime(value: object) -> bool:
    return isinstance(value, datetime)
