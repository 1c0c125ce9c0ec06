"""Rows on their way: written to the disk as they come, and put together into parts later.

What was appended has its place at once; it is in the file when `write` has returned, and there to stay when
`sync` has. Files are never gone on with: each export opens new ones, so what a killed one left half written
is simply not referred to. The rows of a run are in one file, so that a file can become a part as it is.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from unpod_async._common import write_all

__all__ = ["Extent", "Spool", "SpoolFile", "SpoolReader", "Written", "spool_path", "sync"]

_PIECE = 2**20

_MOST_OPEN = 32
"""Files that are open at the same time. Parts may be small, and a process may have 256 on some systems."""


class Extent(NamedTuple):
    """Rows that stand one after the other in a spool file, each with its newline."""

    file: int
    start: int
    length: int
    rows: int


class Written(NamedTuple):
    """What `Spool.write` is to write: lines of one file, without their newlines, at most about a megabyte."""

    file: int
    start: int
    lines: list[bytes]


class Spool:
    """The files of one export.

    Args:
        folder: where they are.
        first: number of the first file; greater than that of any file already there.
        file_bytes: size of a file, about; one whose rows have gone into parts is removed.
        hashes: know the digests of files, so that nobody has to read them for it.
    """

    def __init__(self, folder: Path, first: int, file_bytes: int, *, hashes: bool = False) -> None:
        self._folder = folder
        self._hashes = hashes
        self._digests: dict[int, str] = {}  # of closed files
        self._file_bytes = file_bytes
        self._file = first
        self._ends = {first: 0}  # of the files in which something may come
        self._file_of: dict[int, int] = {}  # of the runs of which something may come
        self._waiting: list[Written] = []
        self._ended: list[int] = []
        self._files: dict[int, SpoolFile] = {}  # that were written to and may grow; the last written last
        self.pending = 0
        """Bytes appended and not yet taken to be written."""

    @property
    def open_files(self) -> Collection[int]:
        """Files that may still grow."""
        return self._files.keys()

    def append(self, run: int, lines: Sequence[bytes]) -> Extent:
        """Give lines of a run their place."""
        file = self._file_of.get(run)
        if file is None:
            file = self._file_of[run] = self._next_file()
        end = self._ends[file]
        last = self._waiting[-1] if self._waiting else None
        if last is None or last.file != file or end - last.start >= _PIECE:
            last = Written(file, end, [])
            self._waiting.append(last)
        last.lines.extend(lines)
        extent = Extent(file, end, sum(map(len, lines)) + len(lines), len(lines))
        self._ends[file] += extent.length
        self.pending += extent.length
        return extent

    def _next_file(self) -> int:
        if self._ends[self._file] >= self._file_bytes:
            full = self._file
            self._file += 1
            self._ends[self._file] = 0
            self._end_unless_needed(full)
        return self._file

    def release(self, run: int) -> None:
        """Nothing more of a run comes, or it may as well be in another file."""
        file = self._file_of.pop(run, None)
        if file is not None and file != self._file:
            self._end_unless_needed(file)

    def _end_unless_needed(self, file: int) -> None:
        if file not in self._file_of.values():
            del self._ends[file]
            self._ended.append(file)

    def take(self) -> list[Written]:
        """What `write` is to write."""
        waiting, self._waiting, self.pending = self._waiting, [], 0
        return waiting

    def take_ended(self) -> list[int]:
        """Files that may be closed when what was taken is written and synced."""
        ended, self._ended = self._ended, []
        return ended

    def write(self, waiting: Iterable[Written]) -> list[SpoolFile]:
        """The files of which `sync` makes all that was written last. Blocks. Raises OSError."""
        for number, _, lines in waiting:
            file = self._files.pop(number, None) or SpoolFile(spool_path(self._folder, number))
            self._files[number] = file
            for idle in itertools.islice(reversed(self._files.values()), _MOST_OPEN, _MOST_OPEN + 1):
                idle.sync()
                idle.close()
            lines.append(b"")
            file.write(b"\n".join(lines), hashes=self._hashes)
        return list(self._files.values())

    def close(self, numbers: Iterable[int] | None = None) -> None:
        """Close files into which nothing comes any more; all of them by default."""
        for number in list(self._files) if numbers is None else numbers:
            if (file := self._files.pop(number, None)) is not None:
                file.close()
                if self._hashes:
                    self._digests[number] = file.digest.hexdigest()

    def digest(self, number: int) -> str | None:
        """SHA-256 in hex of a closed file, where it is known."""
        return self._digests.get(number)


class SpoolFile:
    """A file that grows. Blocks. Raises OSError.

    It is synced by another thread than the one that writes and closes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._closing = threading.Lock()
        self.digest = hashlib.sha256()
        self._open(os.O_EXCL | os.O_CREAT)

    def _open(self, flags: int) -> int:
        flags |= os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self._path, flags, 0o600)
        return self._descriptor

    def write(self, data: bytes, *, hashes: bool) -> None:
        """At its end; `hashes` keeps `digest` up to date."""
        write_all(self._open(0) if self._descriptor is None else self._descriptor, data)
        if hashes:
            self.digest.update(data)

    def sync(self) -> None:
        with self._closing:
            if self._descriptor is not None:
                os.fsync(self._descriptor)

    def close(self) -> None:
        """The next `write` opens it again."""
        with self._closing:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def sync(files: Iterable[SpoolFile]) -> None:
    """What was written is on the disk, to stay. Blocks. Raises OSError."""
    for file in files:
        file.sync()


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
