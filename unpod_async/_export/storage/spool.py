"""The spool: rows are written to files as they arrive, and published as parts later.

Appended rows get their position at once. They are in the file once `write` returns, and survive a power loss
once `sync` returns. Each export writes new files, so nothing refers to what a killed export left half
written. All rows of a run are in one file, so that a file can become a part as it is.
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

_BLOCK_BYTES = 2**20

_MAX_OPEN = 32
"""Files that are open at the same time. There may be many small ones; some systems allow 256 per process."""


class Extent(NamedTuple):
    """Consecutive rows in a spool file, each with its newline."""

    file: int
    start: int
    length: int
    rows: int


class Written(NamedTuple):
    """Lines of one file for `Spool.write`, without their newlines; about a megabyte at most."""

    file: int
    start: int
    lines: list[bytes]


class Spool:
    """The spool files of one export.

    `append`, `release` and the `take` methods belong to the event loop, `write` and `close` to a thread.

    Args:
        folder: Directory of the files.
        first: Number of the first file, greater than that of every existing file.
        file_bytes: Approximate size of a file.
        hashes: Compute the digests of the files while they are written.

    Attributes:
        open_files: Numbers of the files that may still grow.
        digests: SHA-256 in hex of the closed files, by their number, if computed.
        pending: Bytes that were appended and not taken yet.
    """

    def __init__(self, folder: Path, first: int, file_bytes: int, *, hashes: bool = False) -> None:
        self._folder = folder
        self._hashes = hashes
        self._file_bytes = file_bytes
        self._file = first
        self._ends = {first: 0}  # of the files that may get more rows
        self._file_of: dict[int, int] = {}  # of the runs that may get more rows
        self._waiting: list[Written] = []
        self._ended: list[int] = []
        self._files: dict[int, SpoolFile] = {}  # files that may grow; the last written is the last
        self.open_files: Collection[int] = self._files.keys()
        self.digests: dict[int, str] = {}
        self.pending = 0

    def append(self, run: int, lines: Sequence[bytes]) -> Extent:
        """Append lines of a run. Returns where they will be."""
        file = self._file_of.get(run)
        if file is None:
            file = self._file_of[run] = self._next_file()
        end = self._ends[file]
        last = self._waiting[-1] if self._waiting else None
        if last is None or last.file != file or end - last.start >= _BLOCK_BYTES:
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
        """Stop keeping the file of a run for it: its next rows, if any, may be in another file."""
        file = self._file_of.pop(run, None)
        if file is not None and file != self._file:
            self._end_unless_needed(file)

    def _end_unless_needed(self, file: int) -> None:
        if file not in self._file_of.values():
            del self._ends[file]
            self._ended.append(file)

    def take(self) -> list[Written]:
        """Take the lines that `write` has to write."""
        waiting, self._waiting, self.pending = self._waiting, [], 0
        return waiting

    def take_ended(self) -> list[int]:
        """Take the files to close once what was taken is written and synced."""
        ended, self._ended = self._ended, []
        return ended

    def write(self, waiting: Iterable[Written]) -> list[SpoolFile]:
        """Write lines. Returns the files that `sync` has to sync. Blocks. Raises OSError."""
        for number, _, lines in waiting:
            file = self._files.pop(number, None) or SpoolFile(spool_path(self._folder, number))
            self._files[number] = file
            for idle in itertools.islice(reversed(self._files.values()), _MAX_OPEN, _MAX_OPEN + 1):
                idle.sync()
                idle.close()
            lines.append(b"")
            file.write(b"\n".join(lines), hashes=self._hashes)
        return list(self._files.values())

    def close(self, numbers: Iterable[int] | None = None) -> None:
        """Close files that do not grow any more, by default all. Blocks. Raises OSError."""
        for number in list(self._files) if numbers is None else numbers:
            if (file := self._files.pop(number, None)) is not None:
                file.close()
                if self._hashes:
                    self.digests[number] = file.digest.hexdigest()


class SpoolFile:
    """A growing file. One thread writes and closes it while another one syncs it.

    All methods block and raise OSError.
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
        """Append data; with `hashes`, update `digest`."""
        write_all(self._open(0) if self._descriptor is None else self._descriptor, data)
        if hashes:
            self.digest.update(data)

    def sync(self) -> None:
        """Sync the file if it is open; it was synced before it was closed."""
        with self._closing:
            if self._descriptor is not None:
                os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file. The next `write` opens it again."""
        with self._closing:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def sync(files: Iterable[SpoolFile]) -> None:
    """Make what was written survive a power loss. Blocks. Raises OSError."""
    for file in files:
        file.sync()


def spool_path(folder: Path, number: int) -> Path:
    """Return the path of a spool file."""
    return folder / f"rows-{number:06d}"


class SpoolReader:
    """Reads extents, fastest in the order of the file. Use it with `with`. Raises OSError."""

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
        """Yield the lines with their newlines, about a megabyte at a time."""
        if extent.file != self._number or self._file is None:
            if self._file is not None:
                self._file.close()
            self._file = spool_path(self._folder, extent.file).open("rb", buffering=_BLOCK_BYTES)
            self._number = extent.file
        self._file.seek(extent.start)
        left, rest = extent.length, b""
        while left:
            block = self._file.read(min(left, _BLOCK_BYTES))
            if not block:
                raise OSError(f"{self._file.name} was truncated by another program")
            left -= len(block)
            if left or rest:
                whole, newline, rest = (rest + block).rpartition(b"\n")
                block = whole + newline
            if block:
                yield block
