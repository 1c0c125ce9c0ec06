"""A typed view of the output of a task. No I/O, and nothing here raises.

The service sends the output of a call in one of two forms: in snake_case (call_id, start_time,
post_call_data, transcript as a list) or in camelCase (id, startedAt, analysis, transcript as a string).
`read_call` accepts both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar, cast

import msgspec

from unpod_async._common import is_value_too_deep, parse_time

__all__ = ["Call", "Record", "TranscriptMessage", "read_call"]

# Placeholders of the server for a missing value.
_PLACEHOLDERS = frozenset({"", "N/A", "NULL", "None"})
_NUMBER = re.compile(r"[+-]?[0-9]{1,300}(\.[0-9]{0,300})?([eE][+-]?[0-9]{1,4})?", re.ASCII)
_DIRECTIONS = {
    "inbound": "inbound",
    "inboundphonecall": "inbound",
    "outbound": "outbound",
    "outboundphonecall": "outbound",
}
_REPR_TEXT = 80


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """Base class of the models: a short repr that is safe to log, and a hash consistent with equality."""

    # The only fields that are shown and hashed: names and plain values, never personal data, and never a
    # list or a dict.
    _brief: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._shown())})"

    # Without this, msgspec's own __rich_repr__ would show every field.
    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(self._shown())

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self._brief))

    def _shown(self) -> Iterator[tuple[str, Any]]:
        for name in self._brief:
            value = getattr(self, name)
            if isinstance(value, str) and len(value) > _REPR_TEXT:
                value = f"{value[:_REPR_TEXT]}…"
            yield name, value


class TranscriptMessage(Record, kw_only=True, frozen=True, gc=False, rename="camel"):
    """One message of the transcript of a call. Documented in "Tasks API" and "Get Tasks by Space Token".

    The service sends `{role, content}`, `{role, content, user_id, timestamp}` or `{role, time, endTime,
    message, secondsFromStart, duration}`. Fields that are not sent are None.

    Attributes:
        role: agent, assistant, bot, user, customer or another value of the server.
        content, message: the spoken text, as sent; `text` returns whichever is present.
        user_id: id of the speaker.
        timestamp: time of the message, as sent; see `timestamp_at`.
        time, end_time: start and end as numbers of the telephony provider, whose unit is not documented.
        seconds_from_start: seconds since the start of the call.
        duration: length of the message, in the provider's unit.
    """

    _brief: ClassVar[tuple[str, ...]] = ("role", "timestamp")

    role: str | None = None
    content: str | None = None
    message: str | None = None
    user_id: str | None = msgspec.field(name="user_id", default=None)
    timestamp: int | float | str | None = None
    time: float | None = None
    end_time: float | None = None
    seconds_from_start: float | None = None
    duration: float | None = None

    @property
    def text(self) -> str | None:
        """The spoken text: `content`, or else `message`; None if there is neither."""
        return self.content or self.message

    @property
    def timestamp_at(self) -> datetime | None:
        """`timestamp` as a timezone-aware datetime in UTC, or None if it is missing or not a time."""
        return parse_time(self.timestamp)


class Call(Record, kw_only=True, frozen=True, gc=False):
    """The result of a phone call, from either of the two forms that the service sends.

    Documented as the output object of a task in "Tasks API", "Runs API", "Get Tasks by Agent Handle",
    "Get Tasks by Space Token" and "Get Detailed Tasks for a Specific Run". A field is None if the
    server sent no value for it ("", "N/A", "NULL", "None", null) or a value of another type; lists are then
    empty.

    Attributes:
        call_id: id of the call.
        direction: "inbound" or "outbound"; other values of the server are returned unchanged ("webCall").
        status: status of the call ("completed", "ended"), not of the task.
        started_at, ended_at: timezone-aware datetimes in UTC.
        duration: seconds; the time from start to end if the server sent no duration.
        recording_url: URL of the recording. It is often a signed URL: treat it as a secret.
        messages: the messages of the transcript, if the server sent a list.
        transcript: the transcript as one string: as the server sent it, or built from `messages` as lines
            "role: text".
        summary: the written summary of the call.
        outcome: result of the call ("Interested", "Callback"); `tasks.list(outcome=)` filters by it.
        labels: the labels of the classification.
        sentiment: "positive", "negative" or another string that the server sent.
        cost: USD.
        customer: name of the customer.
        customer_number: phone number of the customer.
        end_reason: reason why the call ended.
        structured_data: data extracted from the call, as a JSON value. A string that contains JSON is
            parsed; any other string is returned unchanged.
        error: reason why there was no call.
    """

    _brief: ClassVar[tuple[str, ...]] = ("call_id", "direction", "status", "started_at")

    call_id: str | None = None
    direction: str | None = None
    status: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration: float | None = None
    recording_url: str | None = None
    messages: list[TranscriptMessage] = msgspec.field(default_factory=list[TranscriptMessage])
    transcript: str | None = None
    summary: str | None = None
    outcome: str | None = None
    labels: list[str] = msgspec.field(default_factory=list[str])
    sentiment: str | None = None
    cost: float | None = None
    customer: str | None = None
    customer_number: str | None = None
    end_reason: str | None = None
    structured_data: Any = None
    error: str | None = None


def read_call(output: object) -> Call | None:
    """Return the call described by the decoded `output` of a task, or None if it is empty or not an object.

    Never raises: a value of another type than documented counts as missing.
    """
    data = _object(output)
    if not data:
        return None
    post_call = _object(data.get("post_call_data"))
    result = _object(post_call.get("summary"))
    classification = _object(post_call.get("classification"))
    analysis = _object(data.get("analysis"))
    metadata = _object(data.get("metadata"))
    customer = _object(data.get("customer"))
    direction = _text(data, "call_type", "type") or _text(metadata, "type")
    messages = _messages(data.get("transcript")) or _messages(data.get("messages"))
    cost = _number(data.get("cost"))
    structured = _structured(post_call.get("structured_data"))
    started_at = parse_time(data.get("start_time")) or parse_time(data.get("startedAt"))
    ended_at = parse_time(data.get("end_time")) or parse_time(data.get("endedAt"))
    duration = _number(data.get("duration"))
    return Call(
        call_id=_text(data, "call_id", "id"),
        direction=_DIRECTIONS.get(direction.strip().lower(), direction) if direction else None,
        status=_text(data, "call_status", "status"),
        started_at=started_at,
        ended_at=ended_at,
        duration=_seconds_between(started_at, ended_at) if duration is None else duration,
        recording_url=_text(data, "recording_url", "recordingUrl"),
        messages=messages,
        transcript=_text(data, "transcript") or _join(messages),
        summary=_text(data, "call_summary", "summary")
        or _text(post_call, "summary")
        or _text(result, "summary")
        or _text(classification, "summary")
        or _text(analysis, "summary"),
        outcome=_text(result, "status") or _text(post_call, "outcome"),
        labels=_texts(classification.get("labels"))
        or _texts(post_call.get("labels"))
        or _texts(data.get("labels")),
        sentiment=_text(post_call, "sentiment"),
        cost=_number(metadata.get("cost")) if cost is None else cost,
        customer=_text(data, "customer") or _text(customer, "name"),
        customer_number=_text(customer, "number") or _text(data, "contact_number"),
        end_reason=_text(data, "call_end_reason", "endedReason"),
        structured_data=_structured(analysis.get("structuredData")) if structured is None else structured,
        error=_error(data.get("error")),
    )


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _items(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _non_empty(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() not in _PLACEHOLDERS else None


def _text(data: dict[str, Any], *names: str) -> str | None:
    for name in names:
        if (text := _non_empty(data.get(name))) is not None:
            return text
    return None


def _texts(value: object) -> list[str]:
    return [text for item in _items(value) if (text := _non_empty(item)) is not None]


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        number = float(value) if _NUMBER.fullmatch(value := value.strip()) else math.nan
    elif isinstance(value, (int, float)):
        try:
            number = float(value)
        except OverflowError:
            return None
    else:
        return None
    return number if math.isfinite(number) else None


def _seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds from start to end, or None if one is missing or the end is before the start."""
    if start is None or end is None or end < start:
        return None
    return (end - start).total_seconds()


def _messages(value: object) -> list[TranscriptMessage]:
    items = _items(value)
    try:
        return msgspec.convert(items, list[TranscriptMessage])
    except msgspec.ValidationError:
        # Ten times slower, but a single field of another type must not lose the whole transcript.
        return [_message(cast("dict[str, Any]", item)) for item in items if isinstance(item, dict)]


def _message(item: dict[str, Any]) -> TranscriptMessage:
    stamp = item.get("timestamp")
    return TranscriptMessage(
        role=_as_sent(item.get("role")),
        content=_as_sent(item.get("content")),
        message=_as_sent(item.get("message")),
        user_id=_as_sent(item.get("user_id")),
        timestamp=stamp if isinstance(stamp, (int, float, str)) and not isinstance(stamp, bool) else None,
        time=_number(item.get("time")),
        end_time=_number(item.get("endTime")),
        seconds_from_start=_number(item.get("secondsFromStart")),
        duration=_number(item.get("duration")),
    )


def _as_sent(value: object) -> str | None:
    # A person may say "None": spoken text is never taken for a placeholder.
    return value if isinstance(value, str) else None


def _join(messages: list[TranscriptMessage]) -> str | None:
    lines = [
        f"{message.role}: {text}" if message.role else text for message in messages if (text := message.text)
    ]
    return "\n".join(lines) or None


def _structured(value: object) -> Any:
    if not isinstance(value, str):
        return value
    if (text := _non_empty(value)) is None:
        return None
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text
    return text if is_value_too_deep(data) else data


def _error(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return _non_empty(value)
    if text := _text(_object(value), "message", "detail"):
        return text
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return type(value).__name__
