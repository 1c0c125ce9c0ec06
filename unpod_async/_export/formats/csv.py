r"""CSV parts.

The files are RFC 4180 in UTF-8. Lines end with \n, and the first line has the names of the columns. Strings
and JSON are always quoted; numbers and times are never quoted. So "" is an empty string, and an
empty cell is null. Polars distinguishes the two by default, DuckDB with `allow_quoted_nulls=false`, pyarrow
with `null_values=[""]`, `strings_can_be_null=True` and `quoted_strings_can_be_null=False`. Times look like
`2026-01-15T10:00:00.000000Z`. NUL characters are removed, because some readers do not accept them.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from unpod_async._call_output import is_empty
from unpod_async._export.formats.writer import (
    BATCH_ROWS,
    Columns,
    ColumnWriter,
    CsvOptions,
    OutputFile,
    Range,
    TextWriter,
    copy_error,
    open_part,
    part_error,
)
from unpod_async._tables import COLUMNS, ColumnType, RowKind, split_into_columns

__all__ = ["CsvWriter", "escape_formula", "read_csv"]

_CHUNK = 1 << 20  # bytes
_SHORT = 64
"""Mean length of strings, up to which a column is faster as one text than cell by cell."""
# The start of a cell that a spreadsheet runs as a formula, after the whitespace that it skips.
_FORMULA = re.compile(r"[\s\ufeff\u200b]*[=+\-@\t\r\n＝＋－＠]")
# A phone number or a number. It has no letters, so it cannot call a function or refer to a cell.
_NUMBER_LIKE = re.compile(
    r"\s*[+\-]?\(?[0-9][0-9 ().\-/]*|\s*[+\-]?[0-9]*\.?[0-9]+(?:[eE][+\-]?[0-9]+)?", re.ASCII
)


def escape_formula(text: str) -> str:
    """Put `'` before a string that a spreadsheet would run as a formula, and return it.

    A number or a phone number does not change, even if it begins with a plus sign.
    """
    if _FORMULA.match(text) and _NUMBER_LIKE.fullmatch(text) is None:
        return f"'{text}"
    return text


def _unescape_formula(text: str) -> str:
    """Undo `escape_formula`."""
    return text[1:] if text.startswith("'") and escape_formula(text[1:]) == text else text


def _json(cells: list[bytes]) -> list[bytes]:
    return [b'"%b"' % cell.replace(b'"', b'""') for cell in cells]  # JSON has no NUL


def _text(cells: list[str]) -> list[bytes]:
    text = "\0".join(cells)
    if text.count("\0") >= len(cells):
        cells = [cell.replace("\0", "") for cell in cells]
        text = "\0".join(cells)
    if len(text) > _SHORT * len(cells):
        return [b'"%b"' % cell.encode().replace(b'"', b'""') for cell in cells]
    # One pass over the whole column, with NUL between the cells.
    quoted = text.encode().replace(b'"', b'""').replace(b"\0", b'"\0"')
    return (b'"%b"' % quoted).split(b"\0")


def _safe_text(cells: list[str]) -> list[bytes]:
    # Remove NUL first, so that the character after it is checked as the first one.
    return _text([escape_formula(cell.replace("\0", "")) for cell in cells])


def _integer(cells: list[int]) -> list[bytes]:
    return [b"%d" % cell for cell in cells]


def _number(cells: list[float]) -> list[bytes]:
    return [repr(cell).encode() for cell in cells]


def _timestamp(cells: list[str]) -> list[bytes]:
    return list(map(str.encode, cells))


_FORMAT: Mapping[ColumnType, Callable[[list[Any]], list[bytes]]] = {
    "text": _text,
    "json": _json,
    "integer": _integer,
    "number": _number,
    "timestamp": _timestamp,
}
# JSON never begins like a formula, except for a negative number, which does not change.
_FORMAT_SAFE = {**_FORMAT, "text": _safe_text}


def _format_column(format_cells: Callable[[list[Any]], list[bytes]], column: list[Any]) -> list[bytes]:
    """Return the cells of a column as they are written. An empty one is null."""
    if is_empty(column):
        return [b""] * len(column)
    if all(column) or None not in column:
        return format_cells(column)
    cells = iter(format_cells([cell for cell in column if cell is not None]))
    return [b"" if cell is None else next(cells) for cell in column]


class CsvWriter(ColumnWriter, TextWriter):
    """Writes CSV."""

    def __init__(self, output: OutputFile, kind: RowKind, csv: CsvOptions | None = None) -> None:
        super().__init__(output, kind, csv)
        options = csv or CsvOptions()
        self._kind: RowKind = kind
        functions = _FORMAT_SAFE if options.safe else _FORMAT
        self._formats = [functions[column.kind] for column in COLUMNS[kind]]
        encoding = "utf-8-sig" if options.byte_order_mark else "utf-8"
        self._header = ",".join(column.name for column in COLUMNS[kind]).encode(encoding) + b"\n"
        self._put(self._header)

    def _write_lines(self, lines: list[bytes]) -> None:
        columns = map(_format_column, self._formats, split_into_columns(self._kind, lines))
        # Row by row: a text of all rows takes four times as long, because the processor's cache is smaller.
        for row in map(b",".join, zip(*columns, strict=True)):
            self._buffer += row
            self._buffer += b"\n"
        self._put(b"")

    def _finish(self) -> None:
        self._write_pending()
        super()._finish()

    def _copy(self, source: Path, ranges: Sequence[Range]) -> None:
        self._write_pending()
        with os.fdopen(open_part(source), "rb", buffering=_CHUNK) as file:
            if file.readline(len(self._header) + 1) != self._header:
                raise copy_error(source, "the part has different columns")
            wanted = iter(ranges)
            start, stop = next(wanted)
            at = quotes = 0
            for line in file:
                if at >= start:
                    self._put(line)
                # A row ends outside quotes. Quotes inside a cell are doubled.
                quotes += line.count(b'"')
                if quotes % 2 == 0 and line.endswith(b"\n"):
                    at += 1
                    if at == stop:
                        following = next(wanted, None)
                        if following is None:
                            return
                        start, stop = following
            raise copy_error(source, f"the part ends after {at} rows")


def read_csv(path: Path, kind: RowKind, names: Sequence[str], options: CsvOptions) -> Iterator[Columns]:
    """Yield the rows of a part; see `Format.read`. An empty string is read as None."""
    kinds: dict[str, ColumnType] = {column.name: column.kind for column in COLUMNS[kind]}
    parsers = [_PARSE[kinds[name]] for name in names]
    problem = ""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, list[str]())
            if missing := set(names).difference(header):
                raise part_error(path, f"it has no column {min(missing)}")
            positions = [header.index(name) for name in names]
            while True:
                with _field_size_limit.lifted():
                    # Only the cells that are needed are kept: a transcript may have megabytes.
                    cells = [
                        [row[position] for position in positions]
                        for row in itertools.islice(rows, BATCH_ROWS)
                        if _has_length(row, header)
                    ]
                if not cells:
                    return
                columns = [
                    [parse(cell) if cell else None for cell in column]
                    for parse, column in zip(parsers, zip(*cells, strict=True), strict=True)
                ]
                if options.safe:
                    columns = [
                        [_unescape_formula(cell) if type(cell) is str else cell for cell in column]
                        for column in columns
                    ]
                yield columns
    except csv.Error as error:
        problem = str(error)
    except ValueError:  # also UnicodeDecodeError; the message may quote the row
        problem = "a cell has a value that no export writes"
    if problem:
        raise part_error(path, f"it is damaged ({problem})")


_PARSE: Mapping[ColumnType, Callable[[str], Any]] = {
    "text": str,
    "integer": int,
    "number": float,
    "timestamp": datetime.fromisoformat,
    "json": str,
}


def _has_length(row: Sequence[str], header: Sequence[str]) -> bool:
    """Return True, or raise csv.Error if a row has more or fewer cells than the header."""
    if len(row) != len(header):
        raise csv.Error("a row has more or fewer cells than the header")
    return True


class _FieldSizeLimit:
    """The limit of `csv`, which is that of the whole process. The last reader restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._usual = 0

    @contextmanager
    def lifted(self) -> Generator[None]:
        with self._lock:
            if not self._readers:
                self._usual = csv.field_size_limit(2**31 - 1)
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers:
                    csv.field_size_limit(self._usual)


_field_size_limit = _FieldSizeLimit()
