r"""CSV parts.

The files are RFC 4180 in UTF-8. Lines end with \n, and the first line has the names of the columns. Strings
and JSON are always quoted; numbers and times are never quoted. So "" is an empty string, and an
empty cell is null. Polars distinguishes the two by default, DuckDB with `allow_quoted_nulls=false`, pyarrow
with `null_values=[""]`, `strings_can_be_null=True` and `quoted_strings_can_be_null=False`. Times look like
`2026-01-15T10:00:00.000000Z`. NUL characters are removed, because some readers do not accept them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from unpod_async._export.formats.cells import cells
from unpod_async._export.formats.columns import COLUMNS, ColumnType, RowKind
from unpod_async._export.formats.writer import (
    CsvOptions,
    OutputFile,
    Range,
    TextWriter,
    copy_error,
    open_part,
)

__all__ = ["CsvWriter", "safe"]

_CHUNK = 1 << 20  # bytes
# The start of a cell that a spreadsheet runs as a formula, after the whitespace that it skips.
_FORMULA = re.compile(r"[\s\ufeff\u200b]*[=+\-@\t\r\n＝＋－＠]")
# A phone number or a number. It has no letters, so it cannot call a function or refer to a cell.
_HARMLESS = re.compile(
    r"\s*[+\-]?\(?[0-9][0-9 ().\-/]*|\s*[+\-]?[0-9]*\.?[0-9]+(?:[eE][+\-]?[0-9]+)?", re.ASCII
)


def safe(text: str) -> str:
    """Put `'` before a string that a spreadsheet would run as a formula, and return it.

    A number or a phone number stays as it is, also with a plus sign.
    """
    if _FORMULA.match(text) and _HARMLESS.fullmatch(text) is None:
        return f"'{text}"
    return text


def _text(value: str) -> str:
    if '"' in value:
        value = value.replace('"', '""')
    if "\0" in value:
        value = value.replace("\0", "")
    return f'"{value}"'


def _safe_text(value: str) -> str:
    # Remove NUL first, so that the character after it is checked as the first one.
    return _text(safe(value.replace("\0", "")))


def _timestamp(value: datetime) -> str:
    return f"{value.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


_FORMAT_CELL: Mapping[ColumnType, Callable[[Any], str]] = {
    "text": _text,
    "json": _text,
    "integer": str,
    "number": repr,
    "timestamp": _timestamp,
}
_FORMAT_CELL_SAFE = {**_FORMAT_CELL, "text": _safe_text, "json": _safe_text}


class CsvWriter(TextWriter):
    """Writes CSV."""

    def __init__(self, output: OutputFile, kind: RowKind, csv: CsvOptions | None = None) -> None:
        super().__init__(output, kind, csv)
        options = csv or CsvOptions()
        self._kind: RowKind = kind
        functions = _FORMAT_CELL_SAFE if options.safe else _FORMAT_CELL
        self._columns = [functions[column.kind] for column in COLUMNS[kind]]
        encoding = "utf-8-sig" if options.byte_order_mark else "utf-8"
        self._header = ",".join(column.name for column in COLUMNS[kind]).encode(encoding) + b"\n"
        self._put(self._header)

    def write(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            row = [
                "" if cell is None else format_cell(cell)
                for format_cell, cell in zip(self._columns, cells(self._kind, line), strict=True)
            ]
            self._put((",".join(row) + "\n").encode())
            self.rows += 1

    def _copy(self, source: Path, ranges: Sequence[Range]) -> None:
        with os.fdopen(open_part(source), "rb", buffering=_CHUNK) as file:
            if file.readline(len(self._header) + 1) != self._header:
                raise copy_error(source, "the part has other columns")
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
