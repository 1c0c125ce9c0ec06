"""The part files of a data set.

A part is written and synced in the work folder. One transaction of the catalog stores what it holds and that
its file is moving. Then the file gets its name. After a kill in between, the next export finishes the move.
So a part never differs from what the catalog has of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from unpod_async._export.formats import FORMATS, RowKind, Writer
from unpod_async._export.storage.catalog import Catalog, FinishedPart
from unpod_async._export.storage.spool import spool_path
from unpod_async._export.storage.target import Target
from unpod_async.errors import ExportError

__all__ = ["Parts", "finished_part"]

T = TypeVar("T")


def finished_part(writer: Writer, json_bytes: int) -> FinishedPart:
    """Return the part that a closed writer made."""
    return FinishedPart(writer.rows, writer.size, writer.sha256, json_bytes)


class Parts:
    """The part files of one target. All methods block.

    Attributes:
        are_lines: Whether a spool file can become a part as it is.

    Raises:
        OSError, sqlite3.Error: The disk cannot be written. The data set stays as it was.
    """

    def __init__(self, catalog: Catalog, target: Target, *, form: str, csv_safe: bool) -> None:
        self._catalog = catalog
        self._target = target
        self._format = FORMATS[form]
        self._csv_safe = csv_safe
        self.are_lines = self._format.is_lines

    def name(self, kind: str, number: int) -> str:
        """Return the path of a part in the target."""
        return f"{kind}/part-{number:05d}{self._format.suffix}"

    def recover(self) -> None:
        """Finish the moves of a killed export, and check the size of every part.

        Raises:
            ExportError: A part was changed or removed.
        """
        for kind, number, adopted_file in self._catalog.moving_parts():
            self.move(kind, number, adopted_file)
        for kind, number, size in self._catalog.part_sizes():
            name = self.name(kind, number)
            if self._target.size(name) != size:
                raise ExportError(
                    f"{name} was changed or removed after the export",
                    hint=f"restore the file of {size} bytes, or export to another directory",
                )

    def write(self, kind: RowKind, number: int, fill: Callable[[Writer], T]) -> tuple[Writer, T]:
        """Write the file of a part, new or again, but do not move it.

        Args:
            fill: Writes the rows. Its result is returned after the closed writer.
        """
        path = self._target.create(self.name(kind, number))
        writer = self._format.create(path, kind, csv_safe=self._csv_safe)
        try:
            filled = fill(writer)
            writer.close()
        except BaseException:
            writer.abort()
            raise
        return writer, filled

    def move(self, kind: str, number: int, adopted_file: int | None = None) -> None:
        """Give the file of a part its name. The catalog must have the part."""
        name = self.name(kind, number)
        work = self._target.work
        finished = self._target.finished(name) if adopted_file is None else spool_path(work, adopted_file)
        if finished.exists():
            self._target.put(finished, name)
        self._catalog.part_moved(kind, number)
