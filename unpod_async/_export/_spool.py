"""Rows on their way: written to the disk as they come, and put together into parts later.

What was appended has its place at once; it is on the disk when `write` has returned. Files are never gone
on with: each export opens new ones, so what a killed one left half written is simply not referred to.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unpod_async._files import write_all

__all__ = ["Extent", "Spool", "read_extent"]

_FILE = 64 * 2**20
"""Bytes of one file, about; a file whose rows have gone into parts is removed."""

_PIECE = 2**20


class Extent(NamedTuple):
    """Rows that stand one after the other in a spool file, each with its newline."""

    file: int
    start: int
    length: int
    rows: int


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
        self._chunks: list[tuple[int, bytes]] = []
        self._descriptor = self._opened = -1
        self.pending = 0
        """Bytes appended and not yet taken to be written."""

    def append(self, chunk: bytes, rows: int) -> Extent:
        """Give `chunk` its place."""
        if self._end >= _FILE:
            self.file, self._end = self.file + 1, 0
        extent = Extent(self.file, self._end, len(chunk), rows)
        self._chunks.append((self.file, chunk))
        self._end += len(chunk)
        self.pending += len(chunk)
        return extent

    def take(self) -> list[tuple[int, bytes]]:
        """What `write` is to write."""
        chunks, self._chunks, self.pending = self._chunks, [], 0
        return chunks

    def write(self, chunks: list[tuple[int, bytes]]) -> None:
        """Write and sync; blocks. Raises OSError."""
        for number, group in itertools.groupby(chunks, lambda chunk: chunk[0]):
            if number != self._opened:
                self.close()
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
                self._descriptor = os.open(spool_path(self._folder, number), flags, 0o600)
                self._opened = number
            write_all(self._descriptor, b"".join(data for _, data in group))
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file that is being written."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = self._opened = -1


def spool_path(folder: Path, number: int) -> Path:
    return folder / f"rows-{number:06d}"


def read_extent(folder: Path, extent: Extent) -> Iterator[list[bytes]]:
    """Lines without their newline, about a megabyte at a time.

    Raises:
        OSError: the file cannot be read, or is shorter than what is known to be in it.
    """
    with spool_path(folder, extent.file).open("rb") as file:
        file.seek(extent.start)
        left, rest = extent.length, b""
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                raise OSError(f"{file.name} was cut short by something else")
            left -= len(piece)
            whole, newline, rest = (rest + piece).rpartition(b"\n")
            if newline:
                yield whole.split(b"\n")
