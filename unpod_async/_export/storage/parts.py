"""The directory of an export and its part files.

A target has a folder of parts for each kind of row, the manifest, and `.unpod-export/` with the catalog, the
spool, the lock and unfinished files.

A part is written and synced in the work folder. One transaction of the catalog stores what it holds and that
its file is moving. Then the file gets its name. After a kill in between, the next export finishes the move.
So a part never differs from what the catalog has of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from unpod_async._common import lock, sync_folder, write_all
from unpod_async._export.formats import FORMATS, RowKind, Writer
from unpod_async._export.storage.catalog import Catalog, FinishedPart
from unpod_async._export.storage.spool import spool_path
from unpod_async.errors import ExportError, TargetLockedError

__all__ = ["MANIFEST", "Parts", "Target", "finished_part"]

T = TypeVar("T")

MANIFEST = "_manifest.json"
"""Tools that read a directory skip names with an underscore."""

_WORK = ".unpod-export"

_PART_FOLDERS = ("tasks", "runs")

_OLD_FILES = ("tasks-*", "runs-*", "manifest.json")
"""What earlier versions wrote into the target itself."""

_HINT = "export to a directory that is empty or does not exist"


class Target:
    """The directory of a data set. All methods block and may raise OSError.

    Attributes:
        work: The folder of the catalog, the spool and unfinished files.
        catalog: The file of the catalog.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.work = directory / _WORK
        self.catalog = self.work / "state.sqlite3"
        self._lock = -1

    def open(self) -> None:
        """Create the target if needed and lock it.

        Raises:
            TargetLockedError: Another export is writing to it.
            ExportError: It contains other files and no export.
        """
        if not self.work.is_dir():
            self._refuse_other_files()
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.work.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self.work / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not lock(self._lock):
            self.close()
            raise TargetLockedError(
                f"another export is writing to {self.directory}", hint="wait until it has ended"
            )

    def _refuse_other_files(self) -> None:
        directory = self.directory
        if directory.exists() and not directory.is_dir():
            raise ExportError(f"{directory} is not a directory", hint=_HINT)
        for name in (*_PART_FOLDERS, MANIFEST):
            if (directory / name).exists():
                raise ExportError(f"{directory} contains {name}, but no export to resume", hint=_HINT)
        for pattern in _OLD_FILES:
            for found in directory.glob(pattern):
                raise ExportError(f"{directory} contains {found.name}, a file of an older export", hint=_HINT)

    def close(self) -> None:
        """Release the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def create_folders(self) -> None:
        """Create the folders of the parts."""
        for name in _PART_FOLDERS:
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        # Also if they exist: a killed export may have created them without this.
        sync_folder(self.directory)

    def size(self, name: str) -> int | None:
        """Return the bytes of a file of the data set; None without the file."""
        try:
            return (self.directory / name).stat().st_size
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove a file of the data set if it exists."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        sync_folder(path.parent)

    def put(self, finished: Path, name: str) -> None:
        """Give a finished and synced file its name, in one step that survives a power loss."""
        path = self.directory / name
        finished.replace(path)
        sync_folder(path.parent)

    def finished(self, name: str) -> Path:
        """Return where a file of the data set is written before `put`."""
        return self.work / f"new-{name.replace('/', '-')}"

    def create(self, name: str) -> Path:
        """Return where to write a file of the data set. Removes what a killed export left there."""
        path = self.finished(name)
        path.unlink(missing_ok=True)
        return path

    def write(self, name: str, content: bytes) -> None:
        """Write a small file of the data set."""
        path = self.create(name)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        self.put(path, name)


def finished_part(writer: Writer, json_bytes: int) -> FinishedPart:
    """Return the part that a closed writer made."""
    return FinishedPart(writer.rows, writer.size, writer.sha256, json_bytes)


class Parts:
    """The part files of one target. All methods block.

    Attributes:
        are_lines: A spool file can become a part as it is.

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
