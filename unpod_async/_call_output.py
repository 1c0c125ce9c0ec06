"""A typed view of the output of a task, and the base class of all models. No I/O.

The service sends the output of a call in one of two forms: in snake_case (call_id, start_time,
post_call_data, transcript as a list) or in camelCase (id, startedAt, analysis, transcript as a string).
`CallOutput` has the fields of both. `read_call` accepts any decoded output.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import msgspec

from unpod_async._common import (
    html_table,
    is_too_deep,
    is_value_too_deep,
    parse_time,
    replace_user_tokens,
    time_text,
    usual_time_texts,
)
from unpod_async.errors import DecodeError

__all__ = [
    "Call",
    "CallOutput",
    "Record",
    "TranscriptMessage",
    "WrittenMessages",
    "is_empty",
    "parse_duration",
    "read_call",
    "read_call_columns",
    "read_output",
    "write_messages",
]

S = TypeVar("S", bound=msgspec.Struct)

# Placeholders of the server for a missing value.
_PLACEHOLDERS = frozenset({"", "N/A", "NULL", "None"})
_NUMBER = re.compile(r"[+-]?[0-9]{1,300}(\.[0-9]{0,300})?([eE][+-]?[0-9]{1,4})?", re.ASCII)
# Hours, minutes and seconds, and the days before them as Python or Django writes them.
_CLOCK = re.compile(
    r"(?:([0-9]{1,6})(?: days?,)? )?([0-9]{1,6}):([0-5][0-9]):([0-5][0-9](?:\.[0-9]{1,9})?)", re.ASCII
)
_DIRECTIONS = {
    "inbound": "inbound",
    "inboundphonecall": "inbound",
    "outbound": "outbound",
    "outboundphonecall": "outbound",
}
_REPR_TEXT = 80


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """Base class of the models: a short repr that is safe to log, a hash, and conversions to plain data."""

    # The only fields that are shown and hashed: names and plain values, never personal data, and never a
    # list or a dict.
    _brief: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._shown())})"

    def _repr_html_(self) -> str:
        """Return the HTML that notebooks show: a table of the same fields as `repr`."""
        shown = dict(self._shown())
        return html_table([*shown], [[*shown.values()]], type(self).__name__)

    # Without this, msgspec's own __rich_repr__ would show every field.
    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(self._shown())

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self._brief))

    def to_dict(self, *, keep_user_tokens: bool = False) -> dict[str, Any]:
        """Return all fields as a dict that consists of standard types, as `json.loads` returns them.

        The keys are the names of the attributes, and the `output` of a task is decoded. Fields that were not
        sent are None. Structs, such as `user_info`, become dicts, and datetimes become ISO 8601 strings.

        The result contains names and phone numbers. The access tokens of users are left out: `user_info` has
        no `user_token`, and every value of such a key inside `input`, `output` and the other fields is None.

        Args:
            keep_user_tokens: include the access tokens of users. False by default.

        Raises:
            DecodeError: the output of the task is not valid JSON or nested too deeply, as for `task.output`.
        """
        fault = ""
        try:
            data: dict[str, Any] = msgspec.json.decode(self._encode(keep_user_tokens=keep_user_tokens))
        except RecursionError:
            fault = "it is nested too deeply"
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            fault = str(error)
        else:
            return data
        # Outside the handlers: otherwise the context of the exception would keep and show the row.
        raise DecodeError(f"{self!r} cannot be converted: {fault}")

    def to_json(self, *, keep_user_tokens: bool = False) -> str:
        """Return the result of `to_dict` as one line of JSON.

        Numbers in the `output` of a task are exactly as the service sent them.

        Args:
            keep_user_tokens: include the access tokens of users. False by default.

        Raises:
            DecodeError: the row is nested too deeply.
        """
        return self._encode(keep_user_tokens=keep_user_tokens).decode()

    def _encode(self, *, keep_user_tokens: bool) -> bytes:
        row = _encode(self, keeps_tokens=keep_user_tokens is True)  # no other value may disclose a token
        if row is None:
            raise DecodeError(f"{self!r} cannot be converted: it is nested too deeply")
        return row

    def _shown(self) -> Iterator[tuple[str, Any]]:
        for name in self._brief:
            value = getattr(self, name)
            if isinstance(value, str) and len(value) > _REPR_TEXT:
                value = f"{value[:_REPR_TEXT]}…"
            yield name, value


def _encode(record: Record, *, keeps_tokens: bool) -> bytes | None:
    """Return a record as JSON in one line, or None if it is nested too deeply."""
    try:
        row = msgspec.json.encode(_members(record, keeps_tokens=keeps_tokens))
    except RecursionError:
        return None
    if is_too_deep(row):
        return None
    if not keeps_tokens:
        row = replace_user_tokens(row, b"null")
    # The output of a task has the line breaks of the server. A string contains none: they are escaped.
    return row.replace(b"\n", b" ").replace(b"\r", b" ")


def _members(record: Record, *, keeps_tokens: bool) -> dict[str, Any]:
    """Return the fields of a record by the names of the attributes, ready to be encoded as JSON."""
    tag = record.__struct_config__
    members: dict[str, Any] = {} if tag.tag_field is None else {tag.tag_field: tag.tag}
    # Not `msgspec.structs.fields`, which evaluates the annotations for 0.5 ms.
    for name, sent_name in zip(record.__struct_fields__, record.__struct_encode_fields__, strict=True):
        if name == "user_token" and not keeps_tokens:
            continue
        value = getattr(record, name)
        # The output of a task is JSON that is not decoded: `output_json`, sent as `output`.
        key = sent_name if type(value) is msgspec.Raw else name
        members[key] = _without_records(value, keeps_tokens=keeps_tokens)
    return members


def _without_records(value: object, *, keeps_tokens: bool) -> object:
    if isinstance(value, Record):
        return _members(value, keeps_tokens=keeps_tokens)
    if type(value) is list:
        items = cast("list[object]", value)
        return [_without_records(item, keeps_tokens=keeps_tokens) for item in items]
    return value


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


# -- the two forms of an output -----------------------------------------------------------------------------


class _Summary(msgspec.Struct, gc=False):
    """`summary` of `post_call_data`, if it is an object."""

    status: Any = None
    summary: Any = None


class _Classification(msgspec.Struct, gc=False):
    labels: Any = None
    summary: Any = None


class _PostCall(msgspec.Struct, gc=False):
    summary: str | _Summary | None = None
    classification: _Classification | None = None
    outcome: Any = None
    labels: Any = None
    sentiment: Any = None
    structured_data: Any = None


class _Analysis(msgspec.Struct, gc=False, rename="camel"):
    summary: Any = None
    structured_data: Any = None


class _Metadata(msgspec.Struct, gc=False):
    cost: Any = None
    type: Any = None


class _Customer(msgspec.Struct, gc=False):
    name: Any = None
    number: Any = None


class CallOutput(msgspec.Struct, gc=False):
    """The fields of both forms that a `Call` is read from.

    Objects and transcripts have types. Every other field may have any type: it is checked later.
    """

    call_id: Any = None
    id: Any = None
    call_type: Any = None
    type: Any = None
    call_status: Any = None
    status: Any = None
    start_time: Any = None
    started_at: Any = msgspec.field(name="startedAt", default=None)
    end_time: Any = None
    ended_at: Any = msgspec.field(name="endedAt", default=None)
    duration: Any = None
    recording_url: Any = None
    recording_url_camel: Any = msgspec.field(name="recordingUrl", default=None)
    transcript: str | list[TranscriptMessage] | None = None
    messages: list[TranscriptMessage] | None = None
    call_summary: Any = None
    summary: Any = None
    labels: Any = None
    cost: Any = None
    contact_number: Any = None
    call_end_reason: Any = None
    ended_reason: Any = msgspec.field(name="endedReason", default=None)
    error: Any = None
    post_call_data: _PostCall | None = None
    analysis: _Analysis | None = None
    metadata: _Metadata | None = None
    customer: str | _Customer | None = None


_NO_POST_CALL, _NO_SUMMARY, _NO_CLASSIFICATION = _PostCall(), _Summary(), _Classification()
_NO_ANALYSIS, _NO_METADATA, _NO_CUSTOMER = _Analysis(), _Metadata(), _Customer()


class _Parts(NamedTuple):
    """An output and the objects in it."""

    output: CallOutput
    post_call: _PostCall
    result: _Summary
    classification: _Classification
    analysis: _Analysis
    metadata: _Metadata
    customer: _Customer


def _parts(
    output: CallOutput,
) -> tuple[CallOutput, _PostCall, _Summary, _Classification, _Analysis, _Metadata, _Customer]:
    """Return the values of `_Parts`. An object that was not sent has no values."""
    post_call = output.post_call_data or _NO_POST_CALL
    return (
        output,
        post_call,
        post_call.summary if isinstance(post_call.summary, _Summary) else _NO_SUMMARY,
        post_call.classification or _NO_CLASSIFICATION,
        output.analysis or _NO_ANALYSIS,
        output.metadata or _NO_METADATA,
        output.customer if isinstance(output.customer, _Customer) else _NO_CUSTOMER,
    )


class _Values:
    """Reads the fields of one call. Each method returns the first of its values that is valid, or None."""

    def text(self, *values: Any) -> Any:
        return _first(_non_empty, values)

    def time(self, *values: Any) -> Any:
        return _first(parse_time, values)

    def number(self, *values: Any) -> Any:
        return _first(_number, values)

    def structured(self, *values: Any) -> Any:
        return _first(_structured, values)

    def labels(self, *values: Any) -> Any:
        return _first(_labels, values)

    def messages(self, *values: Any) -> Any:
        return _first(_message_list, values)

    def transcript(self, text: Any, messages: Any) -> Any:
        return text or (_join(messages) if messages else None)

    def duration(self, sent: Any, start: Any, end: Any) -> Any:
        return _seconds_between(start, end) if sent is None else sent

    def apply(self, function: Callable[..., Any], *values: Any) -> Any:
        """Return what the function returns for these values."""
        return function(*values)


def _first(function: Callable[[Any], Any], values: Iterable[Any]) -> Any:
    for value in values:
        if value is not None and (found := function(value)) is not None:
            return found
    return None


class _Columns(_Values):
    """Reads the fields of many calls at once. Each field is a column, with a value for each call.

    Messages are WrittenMessages, and times are those of `time_text`: files get them as strings.
    """

    def text(self, *values: Any) -> Any:
        return _first_cells(_texts_of, values)

    def time(self, *values: Any) -> Any:
        return _first_cells(_times_of, values)

    def number(self, *values: Any) -> Any:
        return _first_cells(_each(_number), values)

    def structured(self, *values: Any) -> Any:
        return _first_cells(_each(_structured), values)

    def labels(self, *values: Any) -> Any:
        return _first_cells(_each(_labels), values)

    def messages(self, *values: Any) -> Any:
        return values[1]

    def transcript(self, text: Any, messages: Any) -> Any:
        return [one or (sent and sent.text) for one, sent in zip(text, messages, strict=True)]

    def duration(self, sent: Any, start: Any, end: Any) -> Any:
        return [
            _seconds_between(*map(datetime.fromisoformat, (begun, ended)))
            if seconds is None and begun and ended
            else seconds
            for seconds, begun, ended in zip(sent, start, end, strict=True)
        ]

    def apply(self, function: Callable[..., Any], *values: Any) -> Any:
        return list(map(function, *values))


def _each(function: Callable[[Any], Any]) -> Callable[[Sequence[Any]], list[Any]]:
    return lambda column: [None if value is None else function(value) for value in column]


def _first_cells(
    function: Callable[[Sequence[Any]], Sequence[Any]], columns: Sequence[Sequence[Any]]
) -> Sequence[Any]:
    """Return the first valid value of each call."""
    sent = [column for column in columns if not is_empty(column)]
    if not sent:
        return [None] * len(columns[0])
    cells = function(sent[0])
    for column in sent[1:]:
        if all(cells):
            break
        found = function(column)
        cells = [one if one is not None else other for one, other in zip(cells, found, strict=True)]
    return cells


def is_empty(column: Sequence[Any]) -> bool:
    """Return whether all cells are None. `any` ends early, and most columns are not empty."""
    return not any(column) and column.count(None) == len(column)


def _times_of(column: Sequence[Any]) -> list[str | None]:
    texts = usual_time_texts(column)
    if texts is not None:
        return texts
    return [None if moment is None else time_text(moment) for moment in map(parse_time, column)]


def _texts_of(column: Sequence[Any]) -> Sequence[str | None]:
    try:
        present: Iterable[Any] = filter(None, column)
        if _PLACEHOLDERS.isdisjoint(map(str.strip, present)):
            return column if all(column) else [value or None for value in column]
    except TypeError:
        pass  # one of them is not a string
    return [_non_empty(value) for value in column]


def _read(read: _Values, parts: _Parts) -> dict[str, Any]:
    """Return the fields of a `Call`. This function alone says which value of an output each field has."""
    output, post_call, result, classification, analysis, metadata, customer = parts
    started_at = read.time(output.start_time, output.started_at)
    ended_at = read.time(output.end_time, output.ended_at)
    messages = read.messages(output.transcript, output.messages)
    return {
        "call_id": read.text(output.call_id, output.id),
        "direction": read.apply(_direction, read.text(output.call_type, output.type, metadata.type)),
        "status": read.text(output.call_status, output.status),
        "started_at": started_at,
        "ended_at": ended_at,
        "duration": read.duration(read.number(output.duration), started_at, ended_at),
        "recording_url": read.text(output.recording_url, output.recording_url_camel),
        "messages": messages,
        "transcript": read.transcript(read.text(output.transcript), messages),
        "summary": read.text(
            output.call_summary,
            output.summary,
            post_call.summary,
            result.summary,
            classification.summary,
            analysis.summary,
        ),
        "outcome": read.text(result.status, post_call.outcome),
        "labels": read.labels(classification.labels, post_call.labels, output.labels),
        "sentiment": read.text(post_call.sentiment),
        "cost": read.number(output.cost, metadata.cost),
        "customer": read.text(output.customer, customer.name),
        "customer_number": read.text(customer.number, output.contact_number),
        "end_reason": read.text(output.call_end_reason, output.ended_reason),
        "structured_data": read.structured(post_call.structured_data, analysis.structured_data),
        "error": read.apply(_error, output.error),
    }


_VALUES, _COLUMNS = _Values(), _Columns()


def read_call(output: object) -> Call | None:
    """Return the call described by the decoded `output` of a task, or None if it is empty or not an object.

    Never raises: a value of a type other than documented counts as missing.
    """
    data = _object(output)
    if not data:
        return None
    fields = _read(_VALUES, _Parts(*_parts(read_output(data))))
    fields["messages"] = fields["messages"] or []
    fields["labels"] = fields["labels"] or []
    return Call(**fields)


class WrittenMessages(msgspec.Struct, gc=False):
    """The messages of a call as they are written.

    Attributes:
        text: Lines "role: text"; None if there are none, or if the server sent the transcript as a string.
    """

    json: bytes | None
    text: str | None


def write_messages(output: Any, to_json: Callable[[list[TranscriptMessage]], bytes | None]) -> None:
    """Replace the messages of an output by WrittenMessages."""
    messages: list[Any] | None = _items(output.transcript) or output.messages
    if not isinstance(output.transcript, str):
        output.transcript = None
    if messages:
        text = _join(messages) if _non_empty(output.transcript) is None else None
        output.messages = WrittenMessages(to_json(messages), text)
    else:
        output.messages = None


def read_call_columns(outputs: Sequence[CallOutput]) -> dict[str, Sequence[Any]]:
    """Return the fields of the calls described by outputs, each as a column.

    Missing lists are None. Messages are those of `write_messages`, and times those of `time_text`.
    """
    # A struct of columns instead of a list of structs.
    parts: Iterable[tuple[Any, ...]] = zip(*map(_parts, outputs), strict=True)
    columns = (
        kind(*zip(*map(msgspec.structs.astuple, structs), strict=True))
        for kind, structs in zip(_PART_TYPES, parts, strict=True)
    )
    return _read(_COLUMNS, _Parts(*columns)) if outputs else {}


def read_output(data: dict[str, Any]) -> CallOutput:
    """Return the fields of a decoded output. A value that does not fit its field counts as missing."""
    try:
        return msgspec.convert(data, CallOutput)
    except (msgspec.ValidationError, RecursionError):
        # Ten times slower, but a single field of another type must not lose the whole call.
        return _fields(CallOutput, data)


_PART_TYPES: tuple[type[Any], ...] = (
    CallOutput,
    _PostCall,
    _Summary,
    _Classification,
    _Analysis,
    _Metadata,
    _Customer,
)

_OBJECTS: dict[tuple[type[msgspec.Struct], str], type[msgspec.Struct]] = {
    (CallOutput, "post_call_data"): _PostCall,
    (CallOutput, "analysis"): _Analysis,
    (CallOutput, "metadata"): _Metadata,
    (CallOutput, "customer"): _Customer,
    (_PostCall, "summary"): _Summary,
    (_PostCall, "classification"): _Classification,
    (CallOutput, "transcript"): TranscriptMessage,
    (CallOutput, "messages"): TranscriptMessage,
}
"""The fields that have an object, or a list of messages."""

_MAY_BE_TEXT = frozenset({"customer", "summary", "transcript"})
"""The names of those fields that may have a string instead."""


def _fields(kind: type[S], data: dict[str, Any]) -> S:
    """Return the fields of an object. A value that does not fit its field counts as missing."""
    fields = kind()
    for name, sent_name in zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True):
        value = data.get(sent_name)
        if value is None:
            continue
        inner = _OBJECTS.get((kind, name))
        if inner is TranscriptMessage and isinstance(value, list):
            value = _messages(cast("list[object]", value))
        elif inner is not None and inner is not TranscriptMessage and isinstance(value, dict):
            value = _fields(inner, cast("dict[str, Any]", value))
        elif inner is not None and not (name in _MAY_BE_TEXT and isinstance(value, str)):
            continue
        setattr(fields, name, value)
    return fields


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _items(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _non_empty(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() not in _PLACEHOLDERS else None


def _texts(value: object) -> list[str]:
    return [text for item in _items(value) if (text := _non_empty(item)) is not None]


def _labels(value: object) -> list[str] | None:
    return _texts(value) or None


def _message_list(value: object) -> list[TranscriptMessage] | None:
    return cast("list[TranscriptMessage]", value) if isinstance(value, list) and value else None


def _direction(text: str | None) -> str | None:
    return _DIRECTIONS.get(text.strip().lower(), text) if text else None


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


def parse_duration(value: object) -> float | None:
    """Return a number, or a string such as "325" or "0:05:25", in seconds; None for other values."""
    clock = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if clock is None:
        return _number(value)
    days, hours, minutes, seconds = clock.groups("0")
    return ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60 + float(seconds)


def _seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds from start to end, or None if one is missing or the end is before the start."""
    if start is None or end is None or end < start:
        return None
    return (end - start).total_seconds()


def _messages(items: list[object]) -> list[TranscriptMessage]:
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
    # Not `message.text`: a property takes as long as the rest of the loop.
    lines = [
        f"{role}: {text}" if (role := message.role) else text
        for message in messages
        if (text := message.content or message.message)
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
    error = _object(value)
    if text := _non_empty(error.get("message")) or _non_empty(error.get("detail")):
        return text
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return type(value).__name__
