"""Recordings on disk: their file names, and files that appear only when they are complete and synced.

Blocking calls run in threads. A thread cannot be stopped, so a cancelled task first waits for the thread that
it started: no file is closed or removed while a thread uses it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from unpod_async._common import (
    O_BINARY,
    close_locked,
    join_shielded,
    lock,
    os_error_advice,
    os_error_reason,
    path_text,
    sync_file,
    sync_folder,
    write_all,
)
from unpod_async.errors import ExportError

__all__ = ["EXTENSIONS", "PartialFile", "RecordingFolder", "extension_of", "safe_name"]

T = TypeVar("T")

BUFFER_SIZE: Final = 2**20
"""Bytes per write: one thread call for each network read would cost more than the write itself."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)
_HASHED: Final = re.compile(r"x-[0-9a-f]{32}")

_BY_TYPE: Final = {
    "audio/aac": ".aac",
    "audio/amr": ".amr",
    "audio/basic": ".au",
    "audio/flac": ".flac",
    "audio/m4a": ".m4a",
    "audio/mp3": ".mp3",
    "audio/mp4": ".m4a",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
    "audio/opus": ".opus",
    "audio/vnd.wave": ".wav",
    "audio/wav": ".wav",
    "audio/wave": ".wav",
    "audio/webm": ".webm",
    "audio/x-flac": ".flac",
    "audio/x-m4a": ".m4a",
    "audio/x-wav": ".wav",
    "video/mp4": ".mp4",
    "video/ogg": ".ogv",
    "video/webm": ".webm",
}
_UNKNOWN_EXTENSION: Final = ".bin"

EXTENSIONS: Final = (*sorted(set(_BY_TYPE.values())), _UNKNOWN_EXTENSION)
"""Every extension that `extension_of` returns."""

_LEFTOVER: Final = re.compile(r"\.([A-Za-z0-9_-]+)\.[0-9a-f]{16}\.part")
_NO_LINK: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_NEW: Final[int] = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK


def safe_name(task_id: str) -> str:
    """Return a file name without extension for a task id; it is safe on every file system.

    A plain id is its own name; any other id becomes "x-" and 32 hex digits. A plain id has 1 to 100 ASCII
    letters, digits, "-" and "_", starts with a letter or digit, and is not the name of a Windows device. It
    is written as the service writes ids: in lower case, possibly with a capital "T" in front. So of all ids
    that differ only in case, at most one is plain. Therefore no two ids share a file on a case-insensitive
    file system.
    """
    usual = task_id.lower()
    if usual.startswith("t"):
        usual = f"T{usual[1:]}"
    if (
        task_id == usual
        and _PLAIN.fullmatch(task_id)
        and not _DEVICE.fullmatch(task_id)
        and not _HASHED.fullmatch(task_id)  # otherwise one id could be the hashed name of another
    ):
        return task_id
    return f"x-{hashlib.sha256(task_id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def extension_of(content_type: str, *paths: str) -> str:
    """Return the file extension for a recording.

    Args:
        content_type: the content type of the response. It decides if it is a known one.
        paths: URL paths. If the content type is not known, the first known extension among them decides,
            otherwise ".bin".
    """
    known = _BY_TYPE.get(content_type)
    if known is not None:
        return known
    for path in paths:
        _, dot, last = path.rpartition("/")[2].rpartition(".")
        if f"{dot}{last.lower()}" in EXTENSIONS:
            return f".{last.lower()}"
    return _UNKNOWN_EXTENSION


class RecordingFolder:
    """A directory of recordings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._leftovers: defaultdict[str, list[Path]] | None = None
        self._preparing = threading.Lock()

    async def find(self, name: str) -> Path | None:
        """Return the recording with this name and any extension, or None.

        Creates the directory if it does not exist, and removes partial files of this recording that killed
        processes left.

        Raises:
            ExportError: the directory cannot be created or read.
        """
        try:
            return await _run_in_thread(self._find, name)
        except OSError as fault:
            reason = os_error_reason(fault)
            advice = os_error_advice(fault, "correct the path")
        raise ExportError(
            f"cannot create or read the directory {path_text(self._path)}: {reason}",
            hint=f"{advice} and try again, or choose another directory",
        )

    def partial_file(self, name: str) -> PartialFile:
        """Return a new hidden file for this recording; use it with `async with`."""
        return PartialFile(self._path, name)

    def _find(self, name: str) -> Path | None:
        with self._preparing:
            if self._leftovers is None:
                self._leftovers = self._prepare()
            for leftover in self._leftovers.pop(name, ()):
                _remove_if_unused(leftover)
        for extension in EXTENSIONS:
            path = self._path / f"{name}{extension}"
            if path.is_file():
                return path
        return None

    def _prepare(self) -> defaultdict[str, list[Path]]:
        """Create the directory, and return all partial files in it by name.

        The directory is listed only once, because an export puts all its recordings here.
        """
        if not self._path.exists():
            self._path.mkdir(parents=True, exist_ok=True)
            sync_folder(self._path.parent)
        found = defaultdict[str, list[Path]](list)
        with os.scandir(self._path) as entries:
            for entry in entries:
                if leftover := _LEFTOVER.fullmatch(entry.name):
                    found[leftover[1]].append(self._path / entry.name)
        return found


class PartialFile:
    """A recording that is being downloaded. It is removed at the end of the block unless it was published.

    The file is created with the first write, so a refused request leaves no file.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._path = directory
        self._exists = False
        self._file = -1
        self._buffer: list[bytes] = []
        self._buffered = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._exists:
            await _run_in_thread(self._discard)

    async def write(self, data: bytes) -> None:
        """Append bytes; they are buffered until there are enough for a write.

        Raises:
            ExportError: the file cannot be written, for example because the disk is full.
        """
        self._buffer.append(data)
        self._buffered += len(data)
        if self._buffered >= BUFFER_SIZE:
            await self._on_disk(self._flush)

    async def publish(self, extension: str) -> Path:
        """Write and sync everything, and rename the file to the name of the recording.

        Raises:
            ExportError: the file cannot be written.
        """
        path = self._directory / f"{self._name}{extension}"
        await self._on_disk(self._publish, path)
        return path

    def _open(self) -> None:
        while not self._exists or not self._path.exists():
            # Repeat if a cleanup removed the file between its creation and the lock.
            self._close()
            self._path = self._directory / f".{self._name}.{secrets.token_hex(8)}.part"
            self._file = os.open(self._path, _NEW | O_BINARY, 0o600)
            self._exists = True
            # The lock shows that a file is in use, not left over: the lock ends with its process. Where there
            # are no locks, no file is taken for left over.
            with suppress(OSError):
                lock(self._file)

    def _flush(self) -> None:
        if self._file < 0:
            self._open()
        data = b"".join(self._buffer)
        self._buffer, self._buffered = [], 0
        write_all(self._file, data)

    def _publish(self, path: Path) -> None:
        self._flush()
        sync_file(self._file)
        self._close()
        self._path.replace(path)
        self._exists = False
        sync_folder(self._directory)

    def _discard(self) -> None:
        # An earlier error says more, and the next download removes what remains here.
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            self._path.unlink()
        self._exists = False

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            close_locked(file)

    async def _on_disk(self, function: Callable[..., None], *arguments: Path) -> None:
        try:
            return await _run_in_thread(function, *arguments)
        except OSError as fault:
            reason, advice = os_error_reason(fault), os_error_advice(fault)
        raise ExportError(
            f"cannot write the recording {self._name} in {path_text(self._directory)}: {reason}",
            hint=f"{advice} and try again: complete recordings are kept",
        )


def _remove_if_unused(path: Path) -> None:
    with suppress(OSError):  # the file is gone or is not ours, and does no harm
        if os.name != "posix":
            path.unlink()  # other systems refuse to remove an open file
            return
        file = os.open(path, os.O_RDWR | _NO_LINK | O_BINARY, 0o600)
        try:
            if lock(file):
                path.unlink()
        finally:
            close_locked(file)


async def _run_in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call `function` in a thread and return its result. A cancellation is raised after it has ended."""
    work = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    cancelled = await join_shielded(work)
    if cancelled is None:
        return work.result()
    work.exception()  # mark it as retrieved, or asyncio would log it
    try:
        raise cancelled
    finally:
        del cancelled
