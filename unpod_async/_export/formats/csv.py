r"""Parts as CSV.

RFC 4180 in UTF-8 without a byte order mark; lines end with \n, and the first names the columns. Texts and
JSON are always in quotes, numbers and times never: "" is an empty text, and nothing between commas is null.
Polars tells the two apart by itself, DuckDB with `allow_quoted_nulls=false`, pyarrow with `null_values=[""]`,
`strings_can_be_null=True` and `quoted_strings_can_be_null=False`. Times are `2026-01-15T10:00:00.000000Z`.
NUL characters, which not every reader takes, are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from unpod_async._export.formats.cells import cells
from unpod_async._export.formats.columns import COLUMNS, Kind, Rows
from unpod_async._export.formats.jsonl import TextWriter
from unpod_async._export.formats.output_file import Sink, open_part
from unpod_async._export.formats.writer import Range, damaged

__all__ = ["CsvWriter", "safe"]

_CHUNK = 1 << 20  # bytes
# What makes a spreadsheet take a cell for a formula, after white space that it skips.
_FORMULA = re.compile(r"[\s\ufeff\u200b]*[=+\-@\t\r\n＝＋－＠]")
# A phone number or a number: digits and marks, nothing that can be called or refer to a cell.
_HARMLESS = re.compile(
    r"\s*[+\-]?\(?[0-9][0-9 ().\-/]*|\s*[+\-]?[0-9]*\.?[0-9]+(?:[eE][+\-]?[0-9]+)?", re.ASCII
)


def safe(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: with `'` before it when it looks like one.

    A cell that is wholly a number or a phone number, also with a plus sign, stays as it is.
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
    # Without NUL first: what comes after it must not become the first character.
    return _text(safe(value.replace("\0", "")))


def _timestamp(value: datetime) -> str:
    return f"{value.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


_PRINT: Mapping[Kind, Callable[[Any], str]] = {
    "text": _text,
    "json": _text,
    "integer": str,
    "number": repr,
    "timestamp": _timestamp,
}
_PRINT_SAFE = {**_PRINT, "text": _safe_text, "json": _safe_text}


class CsvWriter(TextWriter):
    """A part as CSV; with `csv_safe`, see `safe`."""

    def __init__(self, sink: Sink, kind: Rows, *, csv_safe: bool) -> None:
        super().__init__(sink)
        self._kind: Rows = kind
        printers = _PRINT_SAFE if csv_safe else _PRINT
        self._columns = [printers[column.kind] for column in COLUMNS[kind]]
        self._header = ",".join(column.name for column in COLUMNS[kind]).encode() + b"\n"
        self._put(self._header)

    def write(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            row = [
                "" if cell is None else text_of(cell)
                for text_of, cell in zip(self._columns, cells(self._kind, line), strict=True)
            ]
            self._put((",".join(row) + "\n").encode())
            self.rows += 1

    def _copy(self, source: Path, ranges: Sequence[Range]) -> None:
        with os.fdopen(open_part(source), "rb", buffering=_CHUNK) as file:
            if file.readline(len(self._header) + 1) != self._header:
                raise damaged(source, "the part has other columns")
            wanted = iter(ranges)
            start, stop = next(wanted)
            at = quotes = 0
            for line in file:
                if at >= start:
                    self._put(line)
                # A row ends where no quote is open; quotes inside a cell are doubled.
                quotes += line.count(b'"')
                if quotes % 2 == 0 and line.endswith(b"\n"):
                    at += 1
                    if at == stop:
                        following = next(wanted, None)
                        if following is None:
                            return
                        start, stop = following
            raise damaged(source, f"the part ends after {at} rows")
