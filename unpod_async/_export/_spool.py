"""Rows on their way: written to the disk as they come, and put together into parts later.

What was appended has its place at once; it is in the file when `write` has returned, and there to stay when
`sync` has. Files are never gone on with: each export opens new ones, so what a killed one left half written
is simply not referred to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from unpod_async._files import write_all

__all__ = ["Extent", "Spool", "SpoolReader", "Written"]

_FILE = 64 * 2**20
"""Bytes of one file, about; a file whose rows have gone into parts is removed."""

_PIECE = 2**20


class Extent(NamedTuple):
    """Rows that stand one after the other in a spool file, each with its newline."""

    file: int
    start: int
    length: int
    rows: int


class Written(NamedTuple):
    """What `Spool.write` is to write: lines of one file, without their newlines, about a megabyte."""

    file: int
    start: int
    lines: list[bytes]


class Spool:
    """The files of one export.

    Args:
        folder: where they are.
        first: number of the first file; greater than that of any file already there.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self._folder = folder
        self.file = first
        self._end = 0
        self._waiting: list[Written] = []
        self._descriptor = self._opened = -1
        self.pending = 0
        """Bytes appended and not yet taken to be written."""

    def append(self, lines: Sequence[bytes]) -> Extent:
        """Give lines their place."""
        if self._end >= _FILE:
            self.file, self._end = self.file + 1, 0
        last = self._waiting[-1] if self._waiting else None
        if last is None or last.file != self.file or self._end - last.start >= _PIECE:
            last = Written(self.file, self._end, [])
            self._waiting.append(last)
        last.lines.extend(lines)
        extent = Extent(self.file, self._end, sum(map(len, lines)) + len(lines), len(lines))
        self._end += extent.length
        self.pending += extent.length
        return extent

    def take(self) -> list[Written]:
        """What `write` is to write."""
        waiting, self._waiting, self.pending = self._waiting, [], 0
        return waiting

    def write(self, waiting: Iterable[Written]) -> None:
        """Blocks. Raises OSError."""
        for number, _, lines in waiting:
            if number != self._opened:
                self.sync()
                self.close()
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
                self._descriptor = os.open(spool_path(self._folder, number), flags, 0o600)
                self._opened = number
            lines.append(b"")
            write_all(self._descriptor, b"\n".join(lines))

    def sync(self) -> None:
        """What was written is on the disk. Blocks. Raises OSError."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file that is being written."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = self._opened = -1


def spool_path(folder: Path, number: int) -> Path:
    return folder / f"rows-{number:06d}"


class SpoolReader:
    """Reads extents, as they follow one another at best. Enter it. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._number = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, extent: Extent) -> Iterator[bytes]:
        """Whole lines with their newlines, about a megabyte at a time."""
        if extent.file != self._number or self._file is None:
            if self._file is not None:
                self._file.close()
            self._file = spool_path(self._folder, extent.file).open("rb", buffering=_PIECE)
            self._number = extent.file
        self._file.seek(extent.start)
        left, rest = extent.length, b""
        while left:
            piece = self._file.read(min(left, _PIECE))
            if not piece:
                raise OSError(f"{self._file.name} was cut short by something else")
            left -= len(piece)
            if left or rest:
                whole, newline, rest = (rest + piece).rpartition(b"\n")
                piece = whole + newline
            if piece:
                yield piece
