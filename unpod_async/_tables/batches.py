"""The cells of many lines at once, column by column.

Usual lines, whose values all fit their columns, are decoded as structs. Other lines that have the same keys
in the same order form a group, and a column of a group is decoded at once. Every other line is split by
`split_into_cells`, and so is every value that its column cannot hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, cast

import msgspec

from unpod_async._call_output import (
    CallOutput,
    TranscriptMessage,
    WrittenMessages,
    read_call_columns,
    read_output,
    write_messages,
)
from unpod_async._common import time_text, usual_time_texts
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


class _SnakeMessage(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """A message of an output in snake_case, with the same names when it is encoded."""

    message: ClassVar[None] = None
    """As in other messages; a message that has it is none of these."""

    role: str | None = None
    content: str | None = None
    user_id: str | None = None
    timestamp: int | float | str | None = None


class _Output(CallOutput, gc=False):
    # Type checkers accept no other type, because a field could be assigned. These are only decoded.
    transcript: str | list[_Message] | None = None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]
    messages: list[_Message] | None = None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]


class _SnakeOutput(_Output, gc=False):
    """An output in snake_case."""

    transcript: str | list[_SnakeMessage] | None = None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]


def _row_decoder(kind: RowKind) -> msgspec.json.Decoder[Any]:
    text: tuple[Any, Any] = (str | None | msgspec.UnsetType, msgspec.UNSET)
    types = {"text": text, "timestamp": text}
    fields: list[tuple[str, Any, Any]] = []
    for number, (key, (_, kind_of_cell)) in enumerate(row_columns(kind).items()):
        type_of, default = types.get(kind_of_cell, (msgspec.Raw, _MISSING))
        fields.append((f"field_{number}", type_of, msgspec.field(name=key, default=default)))
    return msgspec.json.Decoder(msgspec.defstruct("Row", fields, gc=False))


_MISSING = msgspec.Raw(b"")
_USUAL_ROWS: Mapping[RowKind, msgspec.json.Decoder[Any]] = {kind: _row_decoder(kind) for kind in COLUMNS}
_ROWS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_USUAL_OUTPUTS, _OUTPUTS = msgspec.json.Decoder(_SnakeOutput), msgspec.json.Decoder(_Output)
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

    Each cell equals that of `split_into_cells`, but as it is written: JSON as bytes in UTF-8, and times as
    strings such as `2026-01-15T10:00:00.000000Z`. No format needs datetimes, which are slow to write.

    Args:
        lines: Lines as `row_line` makes them.
    """
    if (usual := _usual(kind, lines)) is not None:
        return usual
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
            cells.append(_written(column.kind, cell))
    return columns


def _written(kind: ColumnType, cell: Any) -> Any:
    """Return a cell of `split_into_cells` as it is in a column."""
    if cell is None:
        return None
    if kind == "json":
        return cell.encode()
    return time_text(cell) if kind == "timestamp" else cell


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
    columns[-1] = extra.cells(count)
    return _completed(kind, columns, count)


def _completed(kind: RowKind, columns: list[Any], count: int) -> list[list[Any]]:
    """Return the columns of rows with those of their calls, and with empty columns instead of None."""
    if kind == "tasks" and (outputs := columns[_OUTPUT_COLUMN]) is not None:
        for index, cells in _call_columns(outputs):
            columns[index] = cells
    return [[None] * count if column is None else column for column in columns]


# -- usual lines --------------------------------------------------------------------------------------------


def _usual(kind: RowKind, lines: Sequence[bytes]) -> list[list[Any]] | None:
    """Return the columns, or None if any value does not fit its column or belongs to `extra`."""
    try:
        rows = [msgspec.structs.astuple(row) for row in map(_USUAL_ROWS[kind].decode, lines)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    columns: list[Any] = [None] * len(COLUMNS[kind])
    # A line has at least this length. It is longer if it has other keys, a repeated key, whitespace around
    # values, or an escape in a key or a string.
    length = len(lines)
    sent = zip(*rows, strict=True)
    for (key, (index, kind_of_cell)), column in zip(row_columns(kind).items(), sent, strict=False):
        values = _USUAL[kind_of_cell](column)
        if values is None:
            return None
        columns[index] = values.cells
        length += values.sent * (len(key) + 4) + values.length
    return _completed(kind, columns, len(lines)) if sum(map(len, lines)) == length else None


class _Values(NamedTuple):
    """A column of usual lines.

    Attributes:
        cells: None if all cells are None.
        sent: how many of the lines have a value, null included.
        length: the length of these values as JSON without escapes.
    """

    cells: list[Any] | None
    sent: int
    length: int


def _usual_texts(column: Sequence[Any]) -> _Values:
    count, first = len(column), column[0]
    if type(first) is not str and column.count(first) == count:
        return _Values(None, 0, 0) if first is msgspec.UNSET else _Values(None, count, count * len(_NULL))
    cells, nulls = cast("list[str | None]", list(column)), 0
    try:
        text = "".join(column)
    except TypeError:
        cells = [None if value is msgspec.UNSET else value for value in column]
        texts = [value for value in cells if value is not None]
        nulls = column.count(None)
        count, text = len(texts), "".join(texts)
    length = len(text) if text.isascii() else len(text.encode())
    return _Values(cells, count + nulls, length + 2 * count + nulls * len(_NULL))


def _usual_times(column: Sequence[Any]) -> _Values | None:
    texts = _usual_texts(column)
    if texts.cells is None:
        return texts
    times = usual_time_texts(texts.cells)
    return None if times is None else texts._replace(cells=times)


def _usual_jsons(column: Sequence[msgspec.Raw]) -> _Values:
    lengths = list(map(len, column))
    missing = lengths.count(0)
    if missing == len(lengths):
        return _Values(None, 0, 0)
    cells: list[bytes | None] = list(map(bytes, column))
    if missing or _NULL in cells:
        cells = [None if not cell or cell == _NULL else cell for cell in cells]
    return _Values(cells, len(lengths) - missing, sum(lengths))


def _usual_integers(column: Sequence[msgspec.Raw]) -> _Values | None:
    values = _usual_jsons(column)
    if values.cells is None:
        return values
    try:
        cells = [None if value is None else cell_of("integer", value) for value in values.cells]
    except CellError:
        return None
    return values._replace(cells=cells)


_USUAL: Mapping[ColumnType, Callable[[Sequence[Any]], _Values | None]] = {
    "text": _usual_texts,
    "timestamp": _usual_times,
    "json": _usual_jsons,
    "integer": _usual_integers,
}


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


def _timestamps(key: str, column: Sequence[msgspec.Raw], extra: _Extra) -> list[str | None]:
    try:
        times = usual_time_texts(_TEXTS.decode(b"[%b]" % b",".join(column)))
    except msgspec.ValidationError:
        times = None
    if times is not None:
        return times
    return [_written("timestamp", moment) for moment in _one_by_one("timestamp", key, column, extra)]


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
    """Return the fields of an output. Its messages are written as they will be in the cells.

    The messages of one output fit into the fastest cache of the processor. Those of all lines do not, so it
    takes longer to write them later.
    """
    if output[0] != _BRACE:
        return _NO_OUTPUT
    try:
        found: CallOutput = _USUAL_OUTPUTS.decode(output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = _unusual_output(output)
    write_messages(found, _json_of_messages)
    return found


def _unusual_output(output: bytes) -> CallOutput:
    try:
        return _OUTPUTS.decode(output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = output_in(output.decode())
        return read_output(cast("dict[str, Any]", decoded)) if isinstance(decoded, dict) else CallOutput()


def _json_of_messages(messages: list[Any]) -> bytes | None:
    first: object = messages[0]
    if type(first) is _SnakeMessage:
        return _ENCODER.encode(messages)
    if type(first) is not _Message:
        return json_of(messages)
    # A quote inside a string is escaped, so each of these is a key.
    return (
        _ENCODER
        .encode(messages)
        .replace(b'"endTime":', b'"end_time":')
        .replace(b'"secondsFromStart":', b'"seconds_from_start":')
    )


_ENCODER = msgspec.json.Encoder()


def _jsons_of(values: Sequence[Any]) -> list[bytes | None]:
    return list(map(json_of, values))


def _jsons_of_messages(column: Sequence[WrittenMessages | None]) -> list[bytes | None]:
    return [None if messages is None else messages.json for messages in column]


_JSON_COLUMN = {"labels": _jsons_of, "structured_data": _jsons_of, "messages": _jsons_of_messages}
