"""What writes one part of a data set, whatever its format."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from unpod_async._export.formats.output_file import Sink

__all__ = ["Range", "Writer", "damaged"]

Range: TypeAlias = tuple[int, int]


class Writer(ABC):
    """One new part. Blocking; memory does not depend on the size of the part.

    Attributes:
        rows: rows written.
        size: bytes of the file; sha256: its digest in hex. Both are final after `close`.

    Raises:
        OSError: from every method but `abort`. The part is then only good to be aborted.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.rows = 0

    @property
    def size(self) -> int:
        return self._sink.size

    @property
    def sha256(self) -> str:
        return self._sink.sha256

    @abstractmethod
    def write(self, lines: Iterable[bytes]) -> None:
        """Append rows: lines as `line_of` makes them."""

    def write_block(self, block: bytes, rows: int) -> None:
        """Append rows: so many lines, each with its newline."""
        self.write(block[:-1].split(b"\n"))

    def copy(self, source: Path, ranges: Sequence[Range]) -> None:
        """Append rows of an older part of the same format and kind, as they are.

        `ranges` are rows [start, stop) from 0, ascending. OSError when the part is damaged or shorter, or has
        other columns; ValueError when the ranges are no such ranges.
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
        """Write what is held back, and sync."""
        self._finish()
        self._sink.close()

    @abstractmethod
    def _finish(self) -> None: ...

    def abort(self) -> None:
        """Close without complaint, and remove the file."""
        self._sink.discard()


def damaged(source: Path, what: str) -> OSError:
    """The error for an older part that cannot be copied from."""
    return OSError(errno.EIO, f"{what}, so its rows cannot be kept", str(source))
