"""The common parts of all formats: `Format`, the base class of the writers, the file that they write, and
what their readers share.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from unpod_async._common import O_BINARY, sync_file
from unpod_async._tables import RowKind

__all__ = [
    "BATCH_BYTES",
    "BATCH_ROWS",
    "ColumnWriter",
    "Columns",
    "CsvOptions",
    "Format",
    "OutputFile",
    "Range",
    "TextWriter",
    "Writer",
    "copy_error",
    "open_part",
    "part_error",
]

Range: TypeAlias = tuple[int, int]

Columns: TypeAlias = Sequence[Sequence[Any]]
"""The cells of some rows, a sequence for each column: str, int, float, UTC datetime, or None."""

_BUFFER_BYTES = 1 << 20

# What is decoded from more lines does not fit into the processor's cache, which takes longer. So do fewer
# lines, because each batch has up to 46 columns.
BATCH_ROWS = 160
BATCH_BYTES = 768 << 10

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # not every system has it


class OutputFile:
    """A new file that computes its size and digest. pyarrow accepts it as a file object.

    Attributes:
        size: Bytes written.

    Raises:
        OSError: From the constructor and every method that writes. Discard the file after such an error.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | O_BINARY, 0o600)
        self._hash = hashlib.sha256()
        self._is_discarded = False
        self.size = 0

    @property
    def closed(self) -> bool:
        return self._file < 0

    @property
    def sha256(self) -> str:
        """Digest of what was written so far, in hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        view = memoryview(data)
        length = view.nbytes
        if self._is_discarded:
            return length
        self._hash.update(view)
        while view:
            # A write is short when the disk becomes full. The next one fails.
            view = view[os.write(self._file, view) :]
        self.size += length
        return length

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def close(self) -> None:
        """Sync and close the file. If the disk is full, OSError is raised here at the latest."""
        if self._file < 0:
            return
        file, self._file = self._file, -1
        try:
            if not self._is_discarded:
                sync_file(file)
        finally:
            os.close(file)

    def discard(self) -> None:
        """Close and remove the file, and ignore further writes. Does not raise."""
        self._is_discarded = True
        with contextlib.suppress(OSError):
            self.close()
        with contextlib.suppress(OSError):
            self._path.unlink()


def open_part(path: Path) -> int:
    """Open an existing part for reading. Raises OSError for a symbolic link."""
    return os.open(path, os.O_RDONLY | _NO_FOLLOW | O_BINARY)


class CsvOptions(NamedTuple):
    """Options that apply to CSV parts only.

    Attributes:
        safe: Change strings that a spreadsheet would run as formulas.
        byte_order_mark: Begin the file with a byte order mark.
    """

    safe: bool = False
    byte_order_mark: bool = False


class Writer(ABC):
    """Writes one new part. All methods block. Memory does not depend on the size of the part.

    Attributes:
        rows: Rows written.
        size: Bytes of the file, final after `close`.
        sha256: Digest of the file in hex, final after `close`.

    Raises:
        OSError: From every method but `abort`. Abort the part after such an error.
    """

    def __init__(self, output: OutputFile, kind: RowKind, csv: CsvOptions | None = None) -> None:
        self._output = output
        self.rows = 0

    @property
    def size(self) -> int:
        return self._output.size

    @property
    def sha256(self) -> str:
        return self._output.sha256

    @abstractmethod
    def write(self, lines: Iterable[bytes]) -> None:
        """Append rows: lines as `row_line` makes them, without newlines."""

    def write_block(self, block: bytes, rows: int) -> None:
        """Append rows: a block of lines, each with its newline.

        Args:
            rows: Number of the lines.
        """
        self.write(_lines_in(block))

    def copy(self, source: Path, ranges: Sequence[Range]) -> None:
        """Append rows of an existing part of the same format and kind, unchanged.

        Args:
            ranges: (first row, row after the last) from 0, ascending.

        Raises:
            OSError: The part is damaged or too short, or has different columns.
            ValueError: The ranges overlap or do not ascend.
        """
        at = 0
        for start, stop in ranges:
            if not at <= start <= stop:
                raise ValueError("ranges must ascend and not overlap")
            at = stop
        wanted = [(start, stop) for start, stop in ranges if start < stop]
        if wanted:
            self._copy(source, wanted)
            self.rows += sum(stop - start for start, stop in wanted)

    @abstractmethod
    def _copy(self, source: Path, ranges: Sequence[Range]) -> None: ...

    def close(self) -> None:
        """Write what is buffered, sync and close the file."""
        self._finish()
        self._output.close()

    @abstractmethod
    def _finish(self) -> None: ...

    def abort(self) -> None:
        """Close and remove the file. Does not raise."""
        self._output.discard()


def _lines_in(block: bytes) -> list[bytes]:
    # `split` looks at each byte by itself, which takes 2 us for a row; `find` takes 0.3.
    lines: list[bytes] = []
    start = 0
    while (end := block.find(b"\n", start)) >= 0:
        lines.append(block[start:end])
        start = end + 1
    return lines


class ColumnWriter(Writer):
    """A writer that writes rows column by column, some rows at a time, even if they are added one by one."""

    def __init__(self, output: OutputFile, kind: RowKind, csv: CsvOptions | None = None) -> None:
        super().__init__(output, kind, csv)
        self._lines: list[bytes] = []
        self._lines_bytes = 0

    def write(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self._lines.append(line)
            self._lines_bytes += len(line)
            self.rows += 1
            if len(self._lines) >= BATCH_ROWS or self._lines_bytes >= BATCH_BYTES:
                self._write_pending()

    def write_block(self, block: bytes, rows: int) -> None:
        self._lines += _lines_in(block)
        self._lines_bytes += len(block)
        self.rows += rows
        if len(self._lines) >= BATCH_ROWS or self._lines_bytes >= BATCH_BYTES:
            self._write_pending()

    def _write_pending(self) -> None:
        """Write the rows that were added and not yet written."""
        lines, self._lines, self._lines_bytes = self._lines, [], 0
        if lines:
            self._write_lines(lines)

    @abstractmethod
    def _write_lines(self, lines: list[bytes]) -> None: ...


class TextWriter(Writer):
    """A writer that buffers text and writes it in large blocks."""

    def __init__(self, output: OutputFile, kind: RowKind, csv: CsvOptions | None = None) -> None:
        super().__init__(output, kind, csv)
        self._buffer = bytearray()

    def _put(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        buffer, self._buffer = self._buffer, bytearray()
        self._write_out(buffer)

    def _write_out(self, data: bytes | bytearray) -> None:
        self._output.write(data)

    def _finish(self) -> None:
        self._flush()


def part_error(source: Path, problem: str) -> OSError:
    """Return the error for a part that cannot be read."""
    return OSError(errno.EIO, problem, str(source))


def copy_error(source: Path, problem: str) -> OSError:
    """Return the error for a part that rows cannot be copied from."""
    return part_error(source, f"{problem}, so its rows cannot be kept")


@dataclass(frozen=True, slots=True)
class Format:
    """A format of part files.

    Attributes:
        suffix: Suffix of the files, with its dot.
        make: Returns a writer for (file, kind, CSV options).
        read: Returns the rows of (file, kind, names of columns, CSV options), some at a time. Memory does not
            depend on the size of the part. JSON is a str or bytes. Raises OSError if the part is
            damaged or does not have a column.
        check: Raises ConfigurationError if a package that the format needs is missing.
        is_lines: A part consists of the lines that `row_line` makes and nothing else.
    """

    suffix: str
    make: Callable[[OutputFile, RowKind, CsvOptions | None], Writer]
    read: Callable[[Path, RowKind, Sequence[str], CsvOptions], Iterator[Columns]]
    check: Callable[[], object] = tuple
    is_lines: bool = False

    def create(self, path: Path, kind: RowKind, csv: CsvOptions | None = None) -> Writer:
        """Create a part file, readable by its owner only, and return its writer.

        Raises:
            ConfigurationError: See `check`. No file was created.
            OSError: The file cannot be created, or exists.
        """
        self.check()
        output = OutputFile(path)
        try:
            return self.make(output, kind, csv)
        except BaseException:
            output.discard()
            raise
