"""The directory on this machine that an export into an object store uses.

It has a folder `data`, which is a complete target of an export, and `store.json`, which names the manifests
in the store that the folder corresponds to. Whatever is lost here is downloaded from the store again.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
import shutil
from pathlib import Path
from typing import Final

import msgspec

from unpod_async._common import O_BINARY, close_locked, lock, path_text, replace_file, sha256_of
from unpod_async._export.manifest import MANIFEST, WORK
from unpod_async._export.object_store.address import StoreAddress
from unpod_async._export.object_store.store import Job
from unpod_async._export.storage import STATE_NAME, copy_state
from unpod_async.errors import ExportError, TargetLockedError

__all__ = ["LocalState"]

_STATE: Final = "store.json"
_LOCK: Final = "lock"
_DATA: Final = "data"
_RESTORING: Final = "restoring"
_UPLOAD: Final = "state.sqlite3.gz"
_COPY_BYTES: Final = 2**20


class _StateFile(msgspec.Struct):
    """The content of `store.json`.

    Attributes:
        holder: Identifies this directory in the lock of the store.
        published: The manifest in the store that `data` corresponds to; None before the first one.
        pending: A manifest that may have been written to the store before the export was killed.
    """

    target: str
    holder: str
    published: str | None = None
    pending: str | None = None


class LocalState:
    """The directory of one target on this machine. All methods block and may raise OSError.

    Args:
        job: What uses the directory.

    Attributes:
        data: The folder that an export writes to.
    """

    def __init__(self, directory: Path, address: StoreAddress, job: Job = "export") -> None:
        self.directory = directory
        self.data = directory / _DATA
        self._address = address
        self._job = job
        self._lock = -1
        self._is_locked = False
        self._file = _StateFile(str(address), "")

    @property
    def holder(self) -> str:
        return self._file.holder

    def open(self) -> None:
        """Create the directory if needed, and lock it.

        Raises:
            TargetLockedError: Another export on this machine uses it.
            ExportError: It contains other files, or belongs to another target.
        """
        path = self.directory / _STATE
        if not (self.directory / _LOCK).exists():
            self._refuse_other_files()  # before anything is written
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | O_BINARY, 0o600)
        if not lock(self._lock):
            raise TargetLockedError(
                f"another {self._job} is writing to {self._address}", hint="wait until it has ended"
            )
        self._is_locked = True
        if not path.exists():
            self._refuse_other_files()  # only now, because another export may have been creating them
        if path.exists():
            self._read(path)
        else:
            self._file.holder = secrets.token_hex(8)
            self._save()
        self.remove_folder()

    def _refuse_other_files(self) -> None:
        if not self.directory.exists():
            return
        if not self.directory.is_dir():
            raise ExportError(
                f"{path_text(self.directory)} is not a directory",
                hint="choose another directory for the state",
            )
        names = {found.name for found in self.directory.iterdir()}
        if names - {_LOCK} and (self._is_locked or _LOCK not in names):
            raise ExportError(
                f"{path_text(self.directory)} contains other files",
                hint="choose a directory for the state that is empty or does not exist",
            )

    def _read(self, path: Path) -> None:
        try:
            self._file = msgspec.json.decode(path.read_bytes(), type=_StateFile)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ExportError(
                f"{path_text(path)} is damaged",
                hint=f"remove {path_text(self.directory)}: the next export gets the state from the store",
            ) from None
        if self._file.target != str(self._address):
            raise ExportError(
                f"{path_text(self.directory)} has the state of another target: {self._file.target}",
                hint="choose another directory for the state",
            )

    def close(self) -> None:
        """Remove what was downloaded and not used, and unlock the directory."""
        if self._is_locked:
            self.remove_folder()
            self._is_locked = False
        if self._lock >= 0:
            close_locked(self._lock)
            self._lock = -1

    def corresponds_to(self, generation: str | None) -> bool:
        """Return whether `data` corresponds to a manifest in the store, or to a store without one."""
        if generation is None:
            return self._file.published is None
        return self.data.is_dir() and generation in (self._file.published, self._file.pending)

    def note_pending(self, generation: str) -> None:
        """Note that this manifest is about to be written to the store."""
        self._file.pending = generation
        self._save()

    def note_published(self, generation: str | None) -> None:
        """Note that `data` corresponds to this manifest in the store."""
        if (self._file.published, self._file.pending) != (generation, None):
            self._file.published, self._file.pending = generation, None
            self._save()

    def _save(self) -> None:
        replace_file(self.directory / _STATE, msgspec.json.encode(self._file))

    # -- what is uploaded ---------------------------------------------------------------------------------

    def read_manifest(self) -> bytes:
        """Return the manifest of `data`."""
        return (self.data / MANIFEST).read_bytes()

    def pack_state(self) -> tuple[Path, int, str]:
        """Make a compressed copy of the state in `data`, without the key of the hashes.

        Returns:
            Its path, its size, and its SHA-256 in hex.
        """
        copied, packed = self.directory / STATE_NAME, self.directory / _UPLOAD
        copied.unlink(missing_ok=True)
        try:
            copy_state(self.data / WORK / STATE_NAME, copied)
            with copied.open("rb") as source, gzip.open(packed, "wb", 6) as compressed:
                shutil.copyfileobj(source, compressed, _COPY_BYTES)
        finally:
            copied.unlink(missing_ok=True)
        return packed, packed.stat().st_size, sha256_of(packed)

    def remove_packed_state(self) -> None:
        (self.directory / _UPLOAD).unlink(missing_ok=True)

    # -- what is downloaded -------------------------------------------------------------------------------

    def begin_restoring(self) -> Path:
        """Return a folder for the files of the store, with empty folders for them."""
        folder = self.make_folder()
        for name in ("runs", "tasks", WORK):
            (folder / name).mkdir(mode=0o700)
        return folder

    def make_folder(self) -> Path:
        """Return an empty folder for files that are downloaded."""
        folder = self.directory / _RESTORING
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        return folder

    def remove_folder(self) -> None:
        """Remove what `make_folder` has made."""
        shutil.rmtree(self.directory / _RESTORING, ignore_errors=True)

    def end_restoring(self, manifest: bytes, generation: str) -> None:
        """Put the downloaded files in the place of `data`.

        Raises:
            ExportError: The state cannot be read.
        """
        folder = self.directory / _RESTORING
        packed = folder / WORK / _UPLOAD
        try:
            with gzip.open(packed) as source, (folder / WORK / STATE_NAME).open("xb") as target:
                shutil.copyfileobj(source, target, _COPY_BYTES)
        except (gzip.BadGzipFile, EOFError):
            raise ExportError(
                f"the state in {self._address} is damaged", hint="export to another prefix"
            ) from None
        packed.unlink()
        (folder / MANIFEST).write_bytes(manifest)
        self.discard()
        folder.rename(self.data)
        self.note_published(generation)

    def packed_state_path(self) -> Path:
        """Return where the state is downloaded to."""
        return self.directory / _RESTORING / WORK / _UPLOAD

    def discard(self) -> None:
        """Remove `data`. The next export starts anew."""
        self._file.published = self._file.pending = None
        self._save()
        if self.data.exists():
            doomed = self.directory / f"old-{secrets.token_hex(4)}"
            self.data.rename(doomed)
        for found in self.directory.glob("old-*"):
            with contextlib.suppress(OSError):
                shutil.rmtree(found)
