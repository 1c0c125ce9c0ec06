"""JSONL parts, plain or compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from io import BufferedIOBase, BufferedReader, FileIO
from pathlib import Path
from typing import Any, Protocol

import msgspec

from unpod_async._export.formats.writer import (
    BATCH_BYTES,
    BATCH_ROWS,
    Columns,
    CsvOptions,
    OutputFile,
    Range,
    TextWriter,
    copy_error,
    open_part,
    part_error,
)
from unpod_async._tables import COLUMNS, FlatColumn, RowKind, split_into_columns

__all__ = ["GzipJsonlWriter", "JsonlWriter", "read_gzip_jsonl", "read_jsonl"]

_CHUNK = 1 << 20  # bytes
_MIN_ROWS_TO_COUNT = 1000  # rows
_ZLIB_LEVEL = 6
"""Compression level. For tasks of the sandbox, level 9 gives files that are 6 % smaller and takes twice as
long; level 1 gives files that are 65 % larger."""
_ZLIB_NG_LEVEL = 7
"""Files are 2 to 5 % smaller than with level 6 of zlib, in 0.6 to 0.7 of the time. Level 6 of zlib-ng is
faster, but its files are up to 26 % larger."""
_ISAL_LEVEL = 2
"""Takes a sixth of the time of zlib-ng. Files are 13 % larger than with level 6 of zlib if few texts are
equal, and up to 90 % larger if many are. Level 3 is slower, and its files are not smaller."""
_MAX_SIZE_RATIO = 1.2
"""How many times as large the files of isal may be as those of zlib-ng or zlib."""
_BLOCK = 256 << 10
"""Bytes. The files of isal depend on the blocks that it gets, so all but the last are of this size."""


class JsonlWriter(TextWriter):
    r"""Writes each row as a line that ends with \n."""

    def write(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self._put(line + b"\n")
            self.rows += 1

    def write_block(self, block: bytes, rows: int) -> None:
        self._put(block)
        self.rows += rows

    def _copy(self, source: Path, ranges: Sequence[Range]) -> None:
        with self._open_source(source) as file:
            at = 0
            chunk, position = b"", 0
            for start, stop in ranges:
                for goal, is_kept in ((start, False), (stop, True)):
                    while at < goal:
                        if position == len(chunk):
                            chunk, position = file.read(_CHUNK), 0
                            if not chunk:
                                raise copy_error(source, f"the part ends after {at} rows")
                        end, rows = _find_rows(chunk, position, goal - at)
                        if is_kept:
                            self._put(chunk[position:end])
                        at, position = at + rows, end

    @contextmanager
    def _open_source(self, source: Path) -> Generator[BufferedIOBase, None, None]:
        with BufferedReader(FileIO(open_part(source)), _CHUNK) as file:
            yield file


def _find_rows(chunk: bytes, start: int, most: int) -> tuple[int, int]:
    """Return where up to `most` rows from `start` end, and how many rows end in the chunk."""
    # `count` looks at the rest of the chunk, which is too slow for a few rows at a time.
    if most > _MIN_ROWS_TO_COUNT:
        rows = chunk.count(b"\n", start)
        if rows < most or (rows == most and chunk.endswith(b"\n")):
            return len(chunk), rows
    rows = 0
    while rows < most:
        end = chunk.find(b"\n", start)
        if end < 0:
            return len(chunk), rows
        start = end + 1
        rows += 1
    return start, rows


class Compressor(Protocol):
    """What zlib, zlib-ng and isal have in common."""

    def compress(self, data: bytes | bytearray, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _new_compressor(sample: bytes | bytearray) -> Compressor:
    """Return the fastest installed compressor whose files are not much larger than others.

    Args:
        sample: The beginning of the rows. It is compressed to compare sizes.
    """
    gzip_format = 16 + zlib.MAX_WBITS  # the time in its header is zero

    def new(module: str, level: int) -> Compressor:
        library: Any = zlib if module == "zlib" else import_module(module)  # not all have complete types
        compressor: Compressor = library.compressobj(level, zlib.DEFLATED, gzip_format)
        return compressor

    small = ("zlib_ng.zlib_ng", _ZLIB_NG_LEVEL) if find_spec("zlib_ng") else ("zlib", _ZLIB_LEVEL)
    fast = ("isal.isal_zlib", _ISAL_LEVEL)
    if find_spec("isal") and _size(new(*fast), sample) <= _MAX_SIZE_RATIO * _size(new(*small), sample):
        return new(*fast)
    return new(*small)


def _size(compressor: Compressor, data: bytes | bytearray) -> int:
    return len(compressor.compress(data)) + len(compressor.flush())


class GzipJsonlWriter(JsonlWriter):
    """Writes compressed JSONL: one gzip member without name and time, so that equal rows give equal bytes.

    The bytes also depend on the library that compresses, see `_new_compressor`.
    """

    def __init__(self, output: OutputFile, kind: RowKind, csv: CsvOptions | None = None) -> None:
        super().__init__(output, kind, csv)
        self._deflate: Compressor | None = None

    def _flush(self) -> None:
        while len(self._buffer) >= _BLOCK:
            block = self._buffer[:_BLOCK]
            del self._buffer[:_BLOCK]
            self._write_out(block)

    def _write_out(self, data: bytes | bytearray) -> None:
        if self._deflate is None:
            self._deflate = _new_compressor(data)
        if packed := self._deflate.compress(data):
            self._output.write(packed)

    def _finish(self) -> None:
        self._flush()
        self._write_out(self._buffer)
        if self._deflate is not None:
            self._output.write(self._deflate.flush())

    @contextmanager
    def _open_source(self, source: Path) -> Generator[BufferedIOBase, None, None]:
        problem = ""
        try:
            with super()._open_source(source) as file, gzip.GzipFile(fileobj=file, mode="rb") as plain:
                yield plain
        except (EOFError, zlib.error) as error:
            problem = str(error)
        if problem:
            raise copy_error(source, f"the part is damaged ({problem})")


def read_jsonl(path: Path, kind: RowKind, names: Sequence[str], _csv: CsvOptions) -> Iterator[Columns]:
    """Yield the rows of a part; see `Format.read`."""
    with path.open("rb") as file:
        yield from _read(file, path, kind, names)


def read_gzip_jsonl(path: Path, kind: RowKind, names: Sequence[str], _csv: CsvOptions) -> Iterator[Columns]:
    """Yield the rows of a compressed part; see `Format.read`."""
    with gzip.open(path, "rb") as file:
        yield from _read(file, path, kind, names)


def _read(file: Iterable[bytes], path: Path, kind: RowKind, names: Sequence[str]) -> Iterator[Columns]:
    positions = [[column.name for column in COLUMNS[kind]].index(name) for name in names]
    problem = ""
    try:
        for lines in _batches(file):
            columns = split_into_columns(kind, lines)
            yield [_read_cells(COLUMNS[kind][position], columns[position]) for position in positions]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = str(error)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        problem = "a line is not a JSON object"  # the message of the error may quote the row
    if problem:
        raise part_error(path, f"it is damaged ({problem})")


def _read_cells(column: FlatColumn, cells: list[Any]) -> list[Any]:
    if column.kind != "timestamp":
        return cells
    return [None if cell is None else datetime.fromisoformat(cell) for cell in cells]


def _batches(file: Iterable[bytes]) -> Iterator[list[bytes]]:
    lines: list[bytes] = []
    size = 0
    for line in file:
        lines.append(line.rstrip(b"\n"))
        size += len(line)
        if len(lines) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines
