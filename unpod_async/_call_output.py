"""One typed view over both shapes of a task's output. Pure: no I/O, and nothing here raises.

The service sends the output of a call in snake_case (call_id, start_time, post_call_data, transcript as a
list) or in camelCase (id, startedAt, analysis, transcript as a text). `read_call` reads either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar, cast

import msgspec

from unpod_async._common import parse_time

__all__ = ["Call", "Record", "TranscriptMessage", "read_call"]

# What the server writes where it has nothing to say.
_NOTHING = frozenset({"", "N/A", "NULL", "None"})
_NUMBER = re.compile(r"[+-]?[0-9]{1,300}(\.[0-9]{0,300})?([eE][+-]?[0-9]{1,4})?", re.ASCII)
_DIRECTIONS = {
    "inbound": "inbound",
    "inboundphonecall": "inbound",
    "outbound": "outbound",
    "outboundphonecall": "outbound",
}
_REPR_TEXT = 80


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """Base of the models: a short repr that is safe to log, and a hash that agrees with equality."""

    # The only fields that are shown and hashed: names and plain values, never what people said, wrote
    # or own, and never a list or a dict.
    _brief: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._shown())})"

    # msgspec has its own, with every field.
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
    """One thing said in a call. Documented in "Tasks API" and "Get Tasks by Space Token".

    The service sends `{role, content}`, `{role, content, user_id, timestamp}` or `{role, time, endTime,
    message, secondsFromStart, duration}`; fields an item does not have are None.

    Attributes:
        role: agent, assistant, bot, user, customer or another text of the server.
        content, message: what was said, as sent; `text` is whichever there is.
        user_id: the speaker's id.
        timestamp: when it was said, as sent; `timestamp_at` is the parsed form.
        time, end_time: start and end as numbers of the telephony provider, whose unit is not documented.
        seconds_from_start: seconds since the call began.
        duration: length of the utterance, in the provider's unit.
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
        """What was said: `content`, or else `message`; None when the item has neither."""
        return self.content or self.message

    @property
    def timestamp_at(self) -> datetime | None:
        """`timestamp` as an aware datetime in UTC, or None when it is missing or not a time."""
        return parse_time(self.timestamp)


class Call(Record, kw_only=True, frozen=True, gc=False):
    """What became of a phone call, whichever of its two shapes the service sent.

    Documented as the output object of a task in "Tasks API", "Runs API", "Get Tasks by Agent Handle",
    "Get Tasks by Space Token" and "Get Detailed Tasks for a Specific Run". A field is None where the server
    said nothing ("", "N/A", "NULL", "None", null), or something of another type; the lists are then empty.

    Attributes:
        call_id: the call's id.
        direction: "inbound" or "outbound"; another text of the server is passed as it is ("webCall").
        status: the call's status ("completed", "ended"), not the task's.
        started_at, ended_at: aware datetimes in UTC.
        duration: seconds.
        recording_url: where the recording is. Often a signed URL: treat it as a secret.
        messages: the transcript item by item, when it was sent so.
        transcript: the transcript as one text: as sent, or "role: text" lines made of `messages`.
        summary: the written summary of the call.
        outcome: how the call went ("Interested", "Callback"); what the `status` filter of a listing matches.
        labels: the labels of the classification.
        sentiment: "positive", "negative" or another text of the server.
        cost: USD.
        customer: the customer's name.
        customer_number: the customer's phone number.
        end_reason: why the call ended.
        structured_data: what was extracted from the call: the JSON value, parsed when it was sent as a text
            of JSON; a text that is not JSON stays a text.
        error: why there was no call, as a text.
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
    """The call that a task's decoded `output` tells of; None when it is empty or not an object.

    Never raises: what has another type than documented is taken as not said.
    """
    told = _object(output)
    if not told:
        return None
    after = _object(told.get("post_call_data"))
    verdict = _object(after.get("summary"))
    classification = _object(after.get("classification"))
    analysis = _object(told.get("analysis"))
    metadata = _object(told.get("metadata"))
    customer = _object(told.get("customer"))
    direction = _text(told, "call_type", "type") or _text(metadata, "type")
    messages = _messages(told.get("transcript")) or _messages(told.get("messages"))
    cost = _number(told.get("cost"))
    structured = _structured(after.get("structured_data"))
    return Call(
        call_id=_text(told, "call_id", "id"),
        direction=_DIRECTIONS.get(direction.strip().lower(), direction) if direction else None,
        status=_text(told, "call_status", "status"),
        started_at=parse_time(told.get("start_time")) or parse_time(told.get("startedAt")),
        ended_at=parse_time(told.get("end_time")) or parse_time(told.get("endedAt")),
        duration=_number(told.get("duration")),
        recording_url=_text(told, "recording_url", "recordingUrl"),
        messages=messages,
        transcript=_text(told, "transcript") or _join(messages),
        summary=_text(told, "call_summary", "summary")
        or _text(after, "summary")
        or _text(verdict, "summary")
        or _text(classification, "summary")
        or _text(analysis, "summary"),
        outcome=_text(verdict, "status") or _text(after, "outcome"),
        labels=_texts(classification.get("labels"))
        or _texts(after.get("labels"))
        or _texts(told.get("labels")),
        sentiment=_text(after, "sentiment"),
        cost=_number(metadata.get("cost")) if cost is None else cost,
        customer=_text(told, "customer") or _text(customer, "name"),
        customer_number=_text(customer, "number") or _text(told, "contact_number"),
        end_reason=_text(told, "call_end_reason", "endedReason"),
        structured_data=_structured(analysis.get("structuredData")) if structured is None else structured,
        error=_error(told.get("error")),
    )


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _items(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _said(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() not in _NOTHING else None


def _text(told: dict[str, Any], *names: str) -> str | None:
    for name in names:
        if (text := _said(told.get(name))) is not None:
            return text
    return None


def _texts(value: object) -> list[str]:
    return [text for item in _items(value) if (text := _said(item)) is not None]


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


def _messages(value: object) -> list[TranscriptMessage]:
    items = _items(value)
    try:
        return msgspec.convert(items, list[TranscriptMessage])
    except msgspec.ValidationError:
        # Ten times slower, but one field of another type must not lose the whole transcript.
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
    # A person may well say "None": what was spoken is never taken for the server's word for nothing.
    return value if isinstance(value, str) else None


def _join(messages: list[TranscriptMessage]) -> str | None:
    lines = [
        f"{message.role}: {text}" if message.role else text for message in messages if (text := message.text)
    ]
    return "\n".join(lines) or None


def _structured(value: object) -> Any:
    if not isinstance(value, str):
        return value
    if (text := _said(value)) is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text


def _error(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return _said(value)
    if text := _text(_object(value), "message", "detail"):
        return text
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return type(value).__name__
