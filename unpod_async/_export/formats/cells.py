"""Split a line into cells, one for each column. Nothing in the line is lost, and no line is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from unpod_async._call_output import Call, TranscriptMessage, read_call
from unpod_async._common import object_members, parse_time
from unpod_async._export.formats.columns import COLUMNS, ColumnType, FlatColumn, RowKind

__all__ = ["cells"]


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


class _Misfit(Exception):
    """A value that its column cannot hold exactly.

    Attributes:
        cell: What the column can hold of it.
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
_FINER = re.compile(r"[.,][0-9]{6}0*[1-9]")
_QUOTE = b'"'[0]


def cells(kind: RowKind, line: bytes) -> list[Any]:
    """Return the cells of a line in the order of the columns: str, int, float, UTC datetime, or None.

    JSON is a str, unchanged from the line. null, a missing key and an empty time are None. What a column
    cannot hold is in `extra`. What it holds less exactly (a time with nanoseconds) is in both. The `call_`
    columns are read from `output`. Numbers of more than 64 bits are strings in them. They are None if
    `output` is nested too deeply to be decoded.
    """
    row: list[Any] = [None] * len(COLUMNS[kind])
    keys, extra = _KEYS[kind], list[bytes]()
    for key, raw in _split(line, extra):
        place = keys.get(key)
        if place is None:
            extra.append(_member(key, raw))
        elif raw != b"null":
            index, kind_of_cell = place
            try:
                row[index] = _CELLS[kind_of_cell](raw)
            except _Misfit as misfit:
                row[index] = misfit.cell
                extra.append(_member(key, raw))
    if kind == "tasks" and (output := row[_OUTPUT]) is not None and (call := _call(output)) is not None:
        for index, column in _CALL:
            value = getattr(call, column.source)
            row[index] = value if column.kind != "json" else _json(value)
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
            extra.append(_member(key, last[key]))
        last[key] = line[start:end]
    return list(last.items())


def _member(key: str, raw: bytes) -> bytes:
    return b"%b:%b" % (msgspec.json.encode(key), raw)


def _text(raw: bytes) -> str:
    if raw[0] != _QUOTE:
        raise _Misfit
    return msgspec.json.decode(raw, type=str)


def _integer(raw: bytes) -> int:
    if _INTEGER.fullmatch(raw) is None or not -(2**63) <= (number := int(raw)) < 2**63:
        raise _Misfit
    return number


def _timestamp(raw: bytes) -> object:
    if raw[0] != _QUOTE:
        if _SECONDS.fullmatch(raw) is None or (moment := parse_time(msgspec.json.decode(raw))) is None:
            raise _Misfit
        return moment
    text = msgspec.json.decode(raw, type=str)
    moment = parse_time(text)
    if (moment is None and text) or _FINER.search(text):
        raise _Misfit(moment)
    return moment


def _unchanged(raw: bytes) -> str:
    return raw.decode()


_CELLS: Mapping[ColumnType, Callable[[bytes], object]] = {
    "text": _text,
    "integer": _integer,
    "timestamp": _timestamp,
    "json": _unchanged,
}


def _call(output: str) -> Call | None:
    try:
        try:
            decoded = msgspec.json.decode(output)
        except msgspec.DecodeError:
            decoded = json.loads(output, parse_int=_number, parse_float=_number)
        return read_call(decoded)
    except RecursionError:
        return None


def _number(text: str) -> object:
    """Return a number, or its text if it does not fit into 64 bits."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _json(value: Any) -> str | None:
    """Return the JSON of a value; None for None and for an empty list."""
    if value is None or value == []:
        return None
    try:
        if type(value) is list and isinstance(value[0], TranscriptMessage):
            value = msgspec.convert(value, list[_Message], from_attributes=True)
        return msgspec.json.encode(value).decode()
    except RecursionError:
        return None
