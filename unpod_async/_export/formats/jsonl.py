"""JSONL parts, plain or compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from io import BufferedIOBase, BufferedReader, FileIO
from pathlib import Path

from unpod_async._export.formats.columns import RowKind
from unpod_async._export.formats.writer import (
    CsvOptions,
    OutputFile,
    Range,
    TextWriter,
    copy_error,
    open_part,
)

__all__ = ["GzipJsonlWriter", "JsonlWriter"]

_CHUNK = 1 << 20  # bytes
_MANY = 1000  # rows
_LEVEL = 6
"""Compression level. For tasks of the sandbox, 9 is 6 % smaller and takes twice as long; 1 is 65 % larger."""


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
        with self._reading(source) as file:
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
    def _reading(self, source: Path) -> Generator[BufferedIOBase, None, None]:
        with BufferedReader(FileIO(open_part(source)), _CHUNK) as file:
            yield file


def _find_rows(chunk: bytes, start: int, most: int) -> tuple[int, int]:
    """Return where up to `most` rows from `start` end, and how many rows end in the chunk."""
    # `count` looks at the rest of the chunk, which is too slow for a few rows at a time.
    if most > _MANY:
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


class GzipJsonlWriter(JsonlWriter):
    """Writes compressed JSONL: one gzip member without name and time, so that equal rows give equal bytes."""

    def __init__(self, output: OutputFile, kind: RowKind, csv: CsvOptions | None = None) -> None:
        super().__init__(output, kind, csv)
        # 16 adds a gzip header. zlib sets its time to zero.
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def _out(self, data: bytes | bytearray) -> None:
        if packed := self._deflate.compress(data):
            self._output.write(packed)

    def _finish(self) -> None:
        self._flush()
        self._output.write(self._deflate.flush())

    @contextmanager
    def _reading(self, source: Path) -> Generator[BufferedIOBase, None, None]:
        problem = ""
        try:
            with super()._reading(source) as file, gzip.GzipFile(fileobj=file, mode="rb") as plain:
                yield plain
        except (EOFError, zlib.error) as error:
            problem = str(error)
        if problem:
            raise copy_error(source, f"the part is damaged ({problem})")
