"""Where a data set is kept. Object stores come later: what they have to do stands in `Store`.

The state and the rows on their way are always on this machine, in a folder that readers of `runs/` and
`tasks/` do not meet.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from unpod_async._common import lock, sync_folder, write_all
from unpod_async.errors import ExportError, TargetLockedError

__all__ = ["FOLDERS", "MANIFEST", "Directory", "Store", "Workplace"]

WORK = ".unpod-export"

MANIFEST = "_manifest.json"
"""Readers of a directory of files skip a name with an underscore."""

FOLDERS = ("tasks", "runs")
"""One folder of parts for each kind of row."""

_OLD_FILES = ("tasks-*", "runs-*", "manifest.json")
"""What earlier versions wrote into the target itself."""

_HINT = "export to a directory that is empty or does not exist"


class Store(Protocol):
    """The files of a data set, by name. Everything blocks and raises OSError."""

    def put(self, made: Path, name: str) -> None:
        """Let `made`, a synced file, be the file of this name, in one step that survives a power cut."""
        ...

    def path(self, name: str) -> Path:
        """Where the file can be read."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of the file, None when there is none."""
        ...

    def remove(self, name: str) -> None:
        """Remove the file, if it is there."""
        ...


class Directory:
    """A data set in a directory of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Make the folders of the parts."""
        for name in FOLDERS:
            (self._folder / name).mkdir(mode=0o700, exist_ok=True)
        # Also if they exist: a killed export may have made them without this.
        sync_folder(self._folder)

    def put(self, made: Path, name: str) -> None:
        path = self._folder / name
        made.replace(path)
        sync_folder(path.parent)

    def path(self, name: str) -> Path:
        return self._folder / name

    def size(self, name: str) -> int | None:
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        path = self._folder / name
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


class Workplace:
    """The target's own folder, locked while an export has it open."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target / WORK
        self._lock = -1

    def open(self) -> None:
        """Blocks.

        Raises:
            TargetLockedError: another export has it open.
            ExportError: there are files in the way that no export made.
            OSError: it cannot be made or written.
        """
        if not self.folder.is_dir():
            self._refuse_strangers()
            self.target.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not lock(self._lock):
            self.close()
            raise TargetLockedError(f"another export is writing to {self.target}: wait for its end")

    def _refuse_strangers(self) -> None:
        if self.target.exists() and not self.target.is_dir():
            raise ExportError(f"{self.target} is not a directory", hint=_HINT)
        for pattern in (*FOLDERS, MANIFEST):
            for found in self.target.glob(pattern):
                raise ExportError(f"{self.target} contains {found.name}, but no export to resume", hint=_HINT)
        for pattern in _OLD_FILES:
            for found in self.target.glob(pattern):
                raise ExportError(
                    f"{self.target} contains {found.name}, a file of an older export", hint=_HINT
                )

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def state(self) -> Path:
        return self.folder / "state.sqlite3"

    def new(self, name: str) -> Path:
        """Return where to make a file of the data set. Removes what a killed export left there."""
        path = self.made(name)
        path.unlink(missing_ok=True)
        return path

    def made(self, name: str) -> Path:
        """Return the path that `new` returned for a file."""
        return self.folder / f"new-{name.replace('/', '-')}"

    def write(self, name: str, data: bytes) -> Path:
        """A small file of the data set, made and synced."""
        path = self.new(name)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        return path
