"""A recording on disk: a hidden file while it comes in, under its name once it is whole and synced.

What blocks runs in threads. A thread cannot be stopped, so whoever is cancelled waits for the one it has
started: no file is closed or removed under it.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import anyio

from unpod_async._common import lock, sync_folder, write_all
from unpod_async._recordings.filenames import EXTENSIONS
from unpod_async.errors import ExportError

__all__ = ["PartFile", "RecordingFolder"]

T = TypeVar("T")

PIECE: Final = 2**20
"""Bytes written at a time: a thread for each piece off the network would cost more than the writing."""

_LEFTOVER: Final = re.compile(r"\.([A-Za-z0-9_-]+)\.[0-9a-f]{16}\.part")
_NO_LINK: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_NEW: Final[int] = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | getattr(os, "O_BINARY", 0)


class RecordingFolder:
    """A directory of recordings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._leftovers: defaultdict[str, list[Path]] | None = None
        self._preparing = threading.Lock()

    async def find(self, name: str) -> Path | None:
        """The recording of this name, with any extension.

        Makes the directory when it is missing, and removes what killed processes left of this recording.

        Raises:
            ExportError: the directory cannot be made or read.
        """
        try:
            return await _to_its_end(self._find, name)
        except OSError as fault:
            reason = _reason(fault)
        raise ExportError(f"cannot make or read the directory {self._path}: {reason}")

    def part(self, name: str) -> PartFile:
        """A new hidden file for this recording, to be used in an `async with`."""
        return PartFile(self._path, name)

    def _find(self, name: str) -> Path | None:
        with self._preparing:
            if self._leftovers is None:
                self._leftovers = self._prepare()
            for leftover in self._leftovers.pop(name, ()):
                _remove_if_left(leftover)
        for extension in EXTENSIONS:
            path = self._path / f"{name}{extension}"
            if path.is_file():
                return path
        return None

    def _prepare(self) -> defaultdict[str, list[Path]]:
        """All that looks left over, by name: listed once, for an export puts all its recordings here."""
        if not self._path.exists():
            self._path.mkdir(parents=True, exist_ok=True)
            sync_folder(self._path.parent)
        found = defaultdict[str, list[Path]](list)
        with os.scandir(self._path) as entries:
            for entry in entries:
                if leftover := _LEFTOVER.fullmatch(entry.name):
                    found[leftover[1]].append(self._path / entry.name)
        return found


class PartFile:
    """A recording that is coming in. What there is of it is removed at the end, unless it was kept.

    The file is made when there is something to write, so that a refused request costs none.

    Raises:
        ExportError: no room, no rights, or another fault of the disk.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._path = directory
        self._exists = False
        self._file = -1
        self._pieces: list[bytes] = []
        self._held = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        if self._exists:
            await _to_its_end(self._discard)

    async def add(self, data: bytes) -> None:
        """Take the next bytes; they are written when there are enough of them."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= PIECE:
            await self._on_disk(self._write)

    async def keep(self, extension: str) -> Path:
        """Write what is left, sync it, and give the file its name: from now on it is the recording."""
        path = self._directory / f"{self._name}{extension}"
        await self._on_disk(self._keep, path)
        return path

    def _open(self) -> None:
        while not self._exists or not self._path.exists():
            # The second time, because one who cleans up has looked between the opening and the lock.
            self._close()
            self._path = self._directory / f".{self._name}.{secrets.token_hex(8)}.part"
            self._file = os.open(self._path, _NEW, 0o600)
            self._exists = True
            # Tells a file that is being written from one that was left: it vanishes with its process.
            lock(self._file)

    def _write(self) -> None:
        if self._file < 0:
            self._open()
        data = b"".join(self._pieces)
        self._pieces, self._held = [], 0
        write_all(self._file, data)

    def _keep(self, path: Path) -> None:
        self._write()
        os.fsync(self._file)
        self._close()
        self._path.replace(path)
        self._exists = False
        sync_folder(self._directory)

    def _discard(self) -> None:
        # What went wrong before says more; and what is left here, the next download removes.
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            self._path.unlink()
        self._exists = False

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    async def _on_disk(self, function: Callable[..., None], *arguments: Path) -> None:
        try:
            return await _to_its_end(function, *arguments)
        except OSError as fault:
            reason = _reason(fault)
        raise ExportError(f"cannot write the recording {self._name} in {self._directory}: {reason}")


def _remove_if_left(path: Path) -> None:
    with suppress(OSError):  # gone by now, or not ours: it hinders nothing
        if os.name != "posix":
            path.unlink()  # there, a file that is open cannot be removed
            return
        file = os.open(path, os.O_RDWR | _NO_LINK)
        try:
            if lock(file):
                path.unlink()
        finally:
            os.close(file)


async def _to_its_end(function: Callable[..., T], *arguments: Any) -> T:
    """What `function` gives, run in a thread. A cancellation comes out too, but not before it has ended."""
    work = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    cancelled: asyncio.CancelledError | None = None
    # Shielded, or a cancelled scope would cancel each wait again.
    with anyio.CancelScope(shield=True):
        while not work.done():
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        return work.result()
    work.exception()  # nobody asks any more
    try:
        raise cancelled
    finally:
        del cancelled


def _reason(fault: OSError) -> str:
    return fault.strerror or type(fault).__name__
