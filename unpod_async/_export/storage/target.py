"""The directory of an export: the names of its files, its lock, and files that get their name in one step.

A target has a folder of parts for each kind of row, the manifest, and `.unpod-export/` with the catalog, the
spool, the lock and files that are not finished.
"""

from __future__ import annotations

import os
from pathlib import Path

from unpod_async._common import lock, sync_folder, write_all
from unpod_async.errors import ExportError, TargetLockedError

__all__ = ["MANIFEST", "Target"]

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
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.work = directory / _WORK
        self._lock = -1

    @property
    def catalog(self) -> Path:
        return self.work / "state.sqlite3"

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
