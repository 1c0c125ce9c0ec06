"""The flat columns of CSV, Parquet and data frames, and the cells of a line, one for each column.

`COLUMNS` is the one table of their names, types and sources. Nothing in a line is lost, and no line is an
error.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from unpod_async._call_output import TranscriptMessage, read_call
from unpod_async._common import object_members, parse_time

__all__ = [
    "COLUMNS",
    "SCHEMA_VERSION",
    "CellError",
    "ColumnType",
    "FlatColumn",
    "RowKind",
    "arrow_schema",
    "cell_of",
    "describe",
    "join_cells",
    "json_of",
    "member",
    "output_in",
    "row_columns",
    "row_names",
    "split_into_cells",
]

SCHEMA_VERSION = 1
"""Increases when a column is added, removed or renamed, or gets another type or meaning."""

RowKind: TypeAlias = Literal["runs", "tasks"]
ColumnType: TypeAlias = Literal["text", "integer", "number", "timestamp", "json"]
"""Strings; 64-bit integers; floating-point numbers; UTC times in microseconds; JSON as a string."""


class FlatColumn(NamedTuple):
    """A column.

    Attributes:
        source: The key of the row, or the attribute of its `CallOutput`.
        of: Whether `source` belongs to the row or to its call. "rest" is what no other column has.
    """

    name: str
    kind: ColumnType
    source: str
    meaning: str
    of: Literal["row", "call", "rest"] = "row"


_CREATED = FlatColumn("created", "timestamp", "created", "time of its creation")
_MODIFIED = FlatColumn("modified", "timestamp", "modified", "time of its last change")
_EXTRA = FlatColumn(
    "extra",
    "json",
    "",
    "an object with the keys that have no column, the values that do not fit their column, and all but the"
    " last value of a repeated key; null if there are none",
    "rest",
)

_RUNS = (
    FlatColumn("run_id", "text", "run_id", "id of the run"),
    FlatColumn("space_id", "text", "space_id", "id of its space"),
    FlatColumn("id", "text", "_id", "the document's id, `_id`; most listings do not send it"),
    FlatColumn("status", "text", "status", "status of the run"),
    FlatColumn("batch_count", "integer", "batch_count", "number of its tasks"),
    _CREATED,
    _MODIFIED,
    FlatColumn("run_mode", "text", "run_mode", "mode of the run"),
    FlatColumn("user", "text", "user", "id of the user who created it"),
    FlatColumn("thread_id", "text", "thread_id", "id of the thread"),
    FlatColumn("collection_ref", "text", "collection_ref", "reference of the collection"),
    _EXTRA,
)

_TASKS = (
    FlatColumn("task_id", "text", "task_id", "id of the task"),
    FlatColumn("run_id", "text", "run_id", "id of its run"),
    FlatColumn("space_id", "text", "space_id", "id of its space"),
    FlatColumn("id", "text", "_id", "the document's id, `_id`; most listings do not send it"),
    FlatColumn("ref_id", "text", "ref_id", "the `id` or `document_id` of the document it was created with"),
    FlatColumn("assignee", "text", "assignee", "handle of the agent"),
    FlatColumn("execution_type", "text", "execution_type", "type of the task (`call`)"),
    FlatColumn("status", "text", "status", "status of the task, not of the call"),
    _CREATED,
    _MODIFIED,
    FlatColumn("run_mode", "text", "run_mode", "mode of the run; always `dev` in listings of a space"),
    FlatColumn("user", "text", "user", "id of the user who created it"),
    FlatColumn("user_org_id", "text", "user_org_id", "id of that user's organization"),
    FlatColumn("thread_id", "text", "thread_id", "id of the thread"),
    FlatColumn("collection_ref", "text", "collection_ref", "reference of the collection"),
    FlatColumn("failure_count", "integer", "failure_count", "failures so far; agent listings only"),
    FlatColumn(
        "last_failure_reason",
        "text",
        "last_failure_reason",
        "reason of the last failure; agent listings only",
    ),
    FlatColumn("provider", "text", "provider", "telephony provider; agent listings only"),
    FlatColumn("retry_attempt", "integer", "retry_attempt", "retries so far; agent listings only"),
    FlatColumn(
        "last_status_change", "timestamp", "last_status_change", "last change of status; agent listings only"
    ),
    FlatColumn(
        "scheduled_timestamp",
        "timestamp",
        "scheduled_timestamp",
        "time at which the task is due; agent listings only",
    ),
    FlatColumn("call_id", "text", "call_id", "id of the call", "call"),
    FlatColumn(
        "call_direction", "text", "direction", "`inbound`, `outbound` or another value of the server", "call"
    ),
    FlatColumn("call_status", "text", "status", "status of the call", "call"),
    FlatColumn("call_started_at", "timestamp", "started_at", "start of the call", "call"),
    FlatColumn("call_ended_at", "timestamp", "ended_at", "end of the call", "call"),
    FlatColumn(
        "call_duration_s",
        "number",
        "duration",
        "duration of the call in seconds, as sent; or else from start to end",
        "call",
    ),
    FlatColumn("call_recording_url", "text", "recording_url", "URL of the recording", "call"),
    FlatColumn("call_transcript", "text", "transcript", "transcript as one string", "call"),
    FlatColumn("call_summary", "text", "summary", "written summary of the call", "call"),
    FlatColumn("call_outcome", "text", "outcome", "outcome of the call (`Interested`)", "call"),
    FlatColumn(
        "call_labels", "json", "labels", "labels of the classification; null if there are none", "call"
    ),
    FlatColumn(
        "call_sentiment", "text", "sentiment", "`positive`, `negative` or another value of the server", "call"
    ),
    FlatColumn("call_cost_usd", "number", "cost", "cost of the call in USD", "call"),
    FlatColumn("call_customer", "text", "customer", "name of the customer", "call"),
    FlatColumn("call_customer_number", "text", "customer_number", "phone number of the customer", "call"),
    FlatColumn("call_end_reason", "text", "end_reason", "reason for the end of the call", "call"),
    FlatColumn("call_structured_data", "json", "structured_data", "data extracted from the call", "call"),
    FlatColumn("call_error", "text", "error", "reason why there was no call", "call"),
    FlatColumn(
        "call_messages",
        "json",
        "messages",
        "the messages of the transcript: objects with the known ones of role, content, message, user_id,"
        " timestamp, time, end_time, seconds_from_start and duration; null if there are none",
        "call",
    ),
    FlatColumn("task", "json", "task", "the instructions for the agent, as sent"),
    FlatColumn("input", "json", "input", "the document it was created with, as sent"),
    FlatColumn("output", "json", "output", "the result, as sent; the `call_` columns are read from it"),
    FlatColumn("attachments", "json", "attachments", "attachments, as sent"),
    FlatColumn("user_info", "json", "user_info", "the user who created it, as sent"),
    _EXTRA,
)

COLUMNS: Mapping[RowKind, tuple[FlatColumn, ...]] = {"runs": _RUNS, "tasks": _TASKS}


def describe(kind: RowKind) -> list[tuple[str, ColumnType, str]]:
    """Return (name, type, meaning) of each column, in order."""
    return [(column.name, column.kind, column.meaning) for column in COLUMNS[kind]]


@functools.cache
def arrow_schema(arrow: Any, kind: RowKind) -> Any:
    """Return the schema of the columns.

    Args:
        arrow: the module pyarrow.
    """
    types = {
        "text": arrow.string(),
        "json": arrow.string(),
        "integer": arrow.int64(),
        "number": arrow.float64(),
        "timestamp": arrow.timestamp("us", tz="UTC"),
    }
    return arrow.schema(
        [(column.name, types[column.kind]) for column in COLUMNS[kind]],
        metadata={"unpod_async.schema_version": str(SCHEMA_VERSION), "unpod_async.rows": kind},
    )


class _Message(msgspec.Struct, omit_defaults=True, gc=False):
    """`TranscriptMessage` that omits unknown fields when it is encoded."""

    role: str | None = None
    content: str | None = None
    message: str | None = None
    user_id: str | None = None
    timestamp: int | float | str | None = None
    time: float | None = None
    end_time: float | None = None
    seconds_from_start: float | None = None
    duration: float | None = None


class CellError(Exception):
    """A value that its column cannot hold exactly.

    Attributes:
        cell: The part of the value that the column can hold.
    """

    def __init__(self, cell: object = None) -> None:
        super().__init__()
        self.cell = cell


def _keys(columns: Iterable[FlatColumn]) -> dict[str, tuple[int, ColumnType]]:
    return {column.source: (index, column.kind) for index, column in enumerate(columns) if column.of == "row"}


_VALUES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KEYS = {kind: _keys(columns) for kind, columns in COLUMNS.items()}
_CALL = [(index, column) for index, column in enumerate(COLUMNS["tasks"]) if column.of == "call"]
_OUTPUT = _KEYS["tasks"]["output"][0]
_INTEGER = re.compile(rb"-?[0-9]{1,19}")
_SECONDS = re.compile(rb"-?[0-9]{1,12}(?:\.[0-9]{1,6})?")
# Digits of a time below a microsecond.
_FINER_THAN_MICROSECONDS = re.compile(r"[.,][0-9]{6}0*[1-9]")
_QUOTE = b'"'[0]


def split_into_cells(kind: RowKind, line: bytes) -> list[Any]:
    """Return the cells of a line in the order of the columns: str, int, float, UTC datetime, or None.

    JSON is a str, unchanged from the line. null, a missing key and an empty time are None. A value that its
    column cannot hold is in `extra`. A value that its column holds less exactly, such as a time with
    nanoseconds, is in both. The `call_` columns are read from `output`. In them, numbers of more than 64 bits
    are strings. They are None if `output` is nested too deeply to be decoded.
    """
    row: list[Any] = [None] * len(COLUMNS[kind])
    keys, extra = _KEYS[kind], list[bytes]()
    for key, raw in _split(line, extra):
        place = keys.get(key)
        if place is None:
            extra.append(member(key, raw))
        elif raw != b"null":
            index, kind_of_cell = place
            try:
                row[index] = cell_of(kind_of_cell, raw)
            except CellError as problem:
                row[index] = problem.cell
                extra.append(member(key, raw))
    if (
        kind == "tasks"
        and (output := row[_OUTPUT]) is not None
        and (call := read_call(output_in(output))) is not None
    ):
        for index, column in _CALL:
            value = getattr(call, column.source)
            row[index] = value if column.kind != "json" else _decoded(json_of(value))
    if extra:
        row[-1] = (b"{%b}" % b",".join(extra)).decode()
    return row


def _split(line: bytes, extra: list[bytes]) -> list[tuple[str, bytes]]:
    """Return the keys and values of a row. Adds all but the last value of a repeated key to `extra`."""
    try:
        values = [(key, bytes(raw)) for key, raw in _VALUES.decode(line).items()]
    except RecursionError:
        values = []
    # The line has at least this length if no key is repeated. If it is longer, one may be.
    if len(line) == sum(len(key) + len(raw) for key, raw in values) + 4 * len(values) + 1:
        return values
    last: dict[str, bytes] = {}
    for key, start, end in object_members(line):
        if key in last:
            extra.append(member(key, last[key]))
        last[key] = line[start:end]
    return list(last.items())


def member(key: str, raw: bytes) -> bytes:
    """Return a member of a JSON object."""
    return b"%b:%b" % (msgspec.json.encode(key), raw)


def _text(raw: bytes) -> str:
    if raw[0] != _QUOTE:
        raise CellError
    return msgspec.json.decode(raw, type=str)


def _integer(raw: bytes) -> int:
    if _INTEGER.fullmatch(raw) is None or not -(2**63) <= (number := int(raw)) < 2**63:
        raise CellError
    return number


def _timestamp(raw: bytes) -> object:
    if raw[0] != _QUOTE:
        if _SECONDS.fullmatch(raw) is None or (moment := parse_time(msgspec.json.decode(raw))) is None:
            raise CellError
        return moment
    text = msgspec.json.decode(raw, type=str)
    moment = parse_time(text)
    if (moment is None and text) or _FINER_THAN_MICROSECONDS.search(text):
        raise CellError(moment)
    return moment


def _json_text(raw: bytes) -> str:
    return raw.decode()


_CELLS: Mapping[ColumnType, Callable[[bytes], object]] = {
    "text": _text,
    "integer": _integer,
    "timestamp": _timestamp,
    "json": _json_text,
}


def cell_of(kind: ColumnType, raw: bytes) -> object:
    """Return the cell of a value that is not null. Raises CellError if the column cannot hold it exactly."""
    return _CELLS[kind](raw)


def row_columns(kind: RowKind) -> Mapping[str, tuple[int, ColumnType]]:
    """Return the index and type of each column that is a value of the row, by the key of the row."""
    return _KEYS[kind]


def row_names(kind: RowKind) -> list[str]:
    """Return the names of the columns that a line is made of again: see `join_cells`."""
    return [column.name for column in COLUMNS[kind] if column.of != "call"]


def join_cells(kind: RowKind, cells: Sequence[Any]) -> bytes:
    """Return a line with the values of a row, the reverse of `split_into_cells`.

    Keys whose value is null are left out. Times have at most microseconds.

    Args:
        cells: The cells of the columns that `row_names` returns, in that order. JSON is a str or bytes.
    """
    *values, extra = zip(_JOINED[kind], cells, strict=True)
    members = [] if extra[1] is None else [_utf8(extra[1])[1:-1]]
    for column, cell in values:
        if cell is not None:
            raw = _utf8(cell) if column.kind == "json" else msgspec.json.encode(cell)
            members.append(member(column.source, raw))
    # Of a repeated key, `extra` has the values before the last, so they stand first.
    return b"{%b}" % b",".join(members)


def _utf8(json_text: str | bytes) -> bytes:
    return json_text.encode() if isinstance(json_text, str) else json_text


_JOINED: Mapping[RowKind, list[FlatColumn]] = {
    kind: [column for column in columns if column.of != "call"] for kind, columns in COLUMNS.items()
}


def output_in(output: str) -> object:
    """Return the decoded output of a task; None if it is nested too deeply to be decoded."""
    try:
        try:
            return msgspec.json.decode(output)
        except msgspec.DecodeError:
            return json.loads(output, parse_int=_number, parse_float=_number)
    except RecursionError:
        return None


def _number(text: str) -> object:
    """Return a number, or its text if it does not fit into 64 bits."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _decoded(cell: bytes | None) -> str | None:
    return None if cell is None else cell.decode()


def json_of(value: Any) -> bytes | None:
    """Return the JSON of a value; None for None and for an empty list."""
    if value is None or value == []:
        return None
    try:
        if type(value) is list and isinstance(value[0], TranscriptMessage):
            value = msgspec.convert(value, list[_Message], from_attributes=True)
        return msgspec.json.encode(value)
    except RecursionError:
        return None
