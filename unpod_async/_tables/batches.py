"""The cells of many lines at once, column by column.

Lines that have the same keys in the same order form a group. A column of a group is decoded at once. Every
other line is split by `split_into_cells`, and so is every value that its column cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, cast

import msgspec

from unpod_async._call_output import CallOutput, TranscriptMessage, read_call_columns, read_output
from unpod_async._common import parse_usual_times
from unpod_async._tables.columns import (
    COLUMNS,
    CellError,
    ColumnType,
    RowKind,
    cell_of,
    json_of,
    member,
    output_in,
    row_columns,
    split_into_cells,
)

__all__ = ["split_into_columns"]

_MIN_GROUP = 4
"""Smaller groups take as long as their lines one by one."""

_NULL = b"null"
_BRACE = b"{"[0]


class _Message(TranscriptMessage, omit_defaults=True, kw_only=True, frozen=True, gc=False):
    """A message that omits unknown fields when it is encoded."""


class _Output(CallOutput, gc=False):
    # Type checkers accept no other type, because a field could be assigned. These are only decoded.
    transcript: str | list[_Message] | None = None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]
    messages: list[_Message] | None = None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]


_ROWS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OUTPUTS = msgspec.json.Decoder(_Output)
_TEXTS = msgspec.json.Decoder(list[str | None])

_CALL = [(index, column.source) for index, column in enumerate(COLUMNS["tasks"]) if column.of == "call"]
_NO_OUTPUT = CallOutput()
_OUTPUT_COLUMN = row_columns("tasks")["output"][0]


class _Extra:
    """The values that the columns of a group cannot hold, by line."""

    def __init__(self) -> None:
        self._members: dict[int, list[bytes]] = {}

    def add(self, line: int, key: str, value: bytes) -> None:
        self._members.setdefault(line, []).append(member(key, value))

    def cells(self, lines: int) -> list[bytes | None]:
        cells: list[bytes | None] = [None] * lines
        for line, members in self._members.items():
            cells[line] = b"{%b}" % b",".join(members)
        return cells


def split_into_columns(kind: RowKind, lines: Sequence[bytes]) -> list[list[Any]]:
    """Return the cells of lines, a list for each column.

    Each cell equals that of `split_into_cells`, except that JSON is bytes in UTF-8.

    Args:
        lines: Lines as `row_line` makes them.
    """
    try:
        rows = list(map(_ROWS.decode, lines))
    except RecursionError:
        return _line_by_line(kind, lines)
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, keys in enumerate(map(tuple, rows)):
        groups.setdefault(keys, []).append(index)
    if len(groups) == 1:
        return _group(kind, next(iter(groups)), lines, rows)
    columns: list[list[Any]] = [[] for _ in COLUMNS[kind]]
    order: list[int] = []
    others: list[int] = []
    for keys, members in groups.items():
        if len(members) < _MIN_GROUP:
            others += members
            continue
        found = _group(kind, keys, [lines[index] for index in members], [rows[index] for index in members])
        _extend(columns, found)
        order += members
    _extend(columns, _line_by_line(kind, [lines[index] for index in others]))
    return _sorted(columns, order + others)


def _extend(columns: list[list[Any]], more: list[list[Any]]) -> None:
    for column, cells in zip(columns, more, strict=True):
        column += cells


def _sorted(columns: list[list[Any]], order: list[int]) -> list[list[Any]]:
    """Return the columns in the order of the lines. `order` has the line of each cell."""
    if len(order) < 2:
        return columns
    positions = [0] * len(order)
    for position, line in enumerate(order):
        positions[line] = position
    in_order = itemgetter(*positions)
    return [list(in_order(column)) for column in columns]


def _line_by_line(kind: RowKind, lines: Iterable[bytes]) -> list[list[Any]]:
    columns: list[list[Any]] = [[] for _ in COLUMNS[kind]]
    for line in lines:
        for cells, column, cell in zip(columns, COLUMNS[kind], split_into_cells(kind, line), strict=True):
            cells.append(cell.encode() if column.kind == "json" and cell is not None else cell)
    return columns


def _group(
    kind: RowKind, keys: tuple[str, ...], lines: Sequence[bytes], rows: Sequence[dict[str, msgspec.Raw]]
) -> list[list[Any]]:
    """Return the columns of lines that have these keys."""
    count = len(lines)
    values: list[tuple[msgspec.Raw, ...]] = list(zip(*[row.values() for row in rows], strict=True))
    # The lines have at least this length if no key is repeated. If they are longer, one may be.
    length = sum(sum(map(len, column)) for column in values) + count * (
        sum(map(len, keys)) + 4 * len(keys) + 1
    )
    if sum(map(len, lines)) != length:
        return _line_by_line(kind, lines)
    columns: list[Any] = [None] * len(COLUMNS[kind])
    known, extra = row_columns(kind), _Extra()
    for key, column in zip(keys, values, strict=True):
        if key in known:
            index, kind_of_cell = known[key]
            columns[index] = _COLUMN[kind_of_cell](key, column, extra)
        else:
            for line, value in enumerate(column):
                extra.add(line, key, bytes(value))
    if kind == "tasks" and (outputs := columns[_OUTPUT_COLUMN]) is not None:
        for index, cells in _call_columns(outputs):
            columns[index] = cells
    columns[-1] = extra.cells(count)
    return [[None] * count if column is None else column for column in columns]


# -- columns of a row ---------------------------------------------------------------------------------------


def _one_by_one(kind: ColumnType, key: str, column: Sequence[msgspec.Raw], extra: _Extra) -> list[Any]:
    cells: list[Any] = []
    for line, value in enumerate(map(bytes, column)):
        cell = None
        if value != _NULL:
            try:
                cell = cell_of(kind, value)
            except CellError as problem:
                cell = problem.cell
                extra.add(line, key, value)
        cells.append(cell)
    return cells


def _texts(key: str, column: Sequence[msgspec.Raw], extra: _Extra) -> list[str | None]:
    try:
        return _TEXTS.decode(b"[%b]" % b",".join(column))
    except msgspec.ValidationError:
        return _one_by_one("text", key, column, extra)


def _integers(key: str, column: Sequence[msgspec.Raw], extra: _Extra) -> list[int | None]:
    return _one_by_one("integer", key, column, extra)


def _timestamps(key: str, column: Sequence[msgspec.Raw], extra: _Extra) -> list[datetime | None]:
    try:
        times = parse_usual_times(_TEXTS.decode(b"[%b]" % b",".join(column)))
    except msgspec.ValidationError:
        times = None
    return _one_by_one("timestamp", key, column, extra) if times is None else times


def _jsons(_key: str, column: Sequence[msgspec.Raw], _extra: _Extra) -> list[bytes | None]:
    cells: list[bytes | None] = list(map(bytes, column))
    return [None if cell == _NULL else cell for cell in cells] if _NULL in cells else cells


_COLUMN: Mapping[ColumnType, Callable[[str, Sequence[msgspec.Raw], _Extra], list[Any]]] = {
    "text": _texts,
    "integer": _integers,
    "timestamp": _timestamps,
    "json": _jsons,
}


# -- columns of a call --------------------------------------------------------------------------------------


def _call_columns(outputs: Sequence[bytes | None]) -> list[tuple[int, list[Any]]]:
    """Return the index and the cells of each column of the calls."""
    fields = read_call_columns([_NO_OUTPUT if output is None else _output(output) for output in outputs])
    return [(index, _JSON_COLUMN.get(source, list)(fields[source])) for index, source in _CALL]


def _output(output: bytes) -> CallOutput:
    if output[0] != _BRACE:
        return _NO_OUTPUT
    try:
        return _OUTPUTS.decode(output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = output_in(output.decode())
        return read_output(cast("dict[str, Any]", decoded)) if isinstance(decoded, dict) else _NO_OUTPUT


def _jsons_of(values: Sequence[Any]) -> list[bytes | None]:
    return [None if (text := json_of(value)) is None else text.encode() for value in values]


def _json_of_messages(messages: list[TranscriptMessage] | None) -> bytes | None:
    if messages is None or type(messages[0]) is _Message:
        return _jsons_of_messages([messages])[0]
    return _jsons_of([messages])[0]


def _jsons_of_messages(column: Sequence[list[TranscriptMessage] | None]) -> list[bytes | None]:
    if any(messages and type(messages[0]) is not _Message for messages in column):
        return list(map(_json_of_messages, column))
    text = msgspec.json.Encoder().encode_lines(column)
    # A quote inside a string is escaped, so each of these is a key.
    for sent, name in _RENAMED:
        text = text.replace(sent, name)
    return [None if line == _NULL else line for line in text[:-1].split(b"\n")]


_RENAMED = ((b'"endTime":', b'"end_time":'), (b'"secondsFromStart":', b'"seconds_from_start":'))

_JSON_COLUMN = {"labels": _jsons_of, "structured_data": _jsons_of, "messages": _jsons_of_messages}
