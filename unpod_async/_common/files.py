"""Writing files so that they survive a crash, and locks that end with their process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import logging
import os
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, Protocol

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # on Windows
    fcntl = None

__all__ = [
    "O_BINARY",
    "FileLock",
    "FlockLock",
    "RegionLock",
    "check_replaceable",
    "close_locked",
    "find_write_error",
    "lock",
    "locked",
    "path_text",
    "replace_file",
    "sha256_of",
    "sync_file",
    "sync_folder",
    "write_all",
]

_log = logging.getLogger("unpod_async")

_NOT_SUPPORTED: Final = frozenset({
    errno.EBADF,
    errno.EINVAL,
    errno.EISDIR,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
})
"""Errors of a file system that cannot open or sync directories. EIO and ENOSPC are real failures."""


O_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
"""A flag that every `os.open` needs: without it, Windows translates line endings. 0 on other systems."""


def path_text(path: str | os.PathLike[str]) -> str:
    r"""Return a path as text. Bytes that are not UTF-8 appear as escapes, such as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def write_all(file: int, data: bytes | memoryview) -> None:
    """Write all of `data`. A single `os.write` may write less, for example if the disk is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


# Syncing


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(file: int) -> None:
    """Make what was written to a file survive a power loss."""
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        # On macOS, `fsync` leaves data in the memory of the disk. Some file systems know only `fsync`.
        with contextlib.suppress(OSError):
            fcntl.fcntl(file, full_sync)
            return
    os.fsync(file)


_unsynced_file_systems: set[int] = set()
"""Device numbers of the file systems for which `sync_folder` has logged a warning."""


def sync_folder(folder: Path) -> None:
    """Sync a directory, so that new, renamed and removed files in it survive a power loss.

    Some network file systems and shared folders cannot do that. In this case a warning is logged, once for
    each file system.
    """
    if os.name != "posix":
        return
    try:
        directory = os.open(folder, os.O_RDONLY)
        try:
            sync_file(directory)
        finally:
            os.close(directory)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        device = folder.stat().st_dev
        if device not in _unsynced_file_systems:
            _unsynced_file_systems.add(device)
            _log.warning(
                "the file system of %s cannot sync directories (%s): the newest files may be missing "
                "after a power loss",
                path_text(folder),
                os.strerror(error.errno or 0),
            )


# Replacing


def replace_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file completely or not at all. Afterwards only its owner can read it.

    If `path` is a symbolic link, the file that it points to is replaced.

    Raises:
        OSError: the file cannot be replaced; it is unchanged.
        ValueError: the path contains a NUL character.
    """
    target = _replaceable(path)
    temporary = _write_temporary(target, data)
    try:
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(target.parent)


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Check that `replace_file` works, without changing the content of the file or creating it.

    Raises:
        OSError, ValueError: as `replace_file`.
    """
    target = _replaceable(path)
    try:
        data = target.read_bytes()
    except FileNotFoundError:
        _write_temporary(target, b" ").unlink()  # an empty file can be created on a full disk
    else:
        replace_file(target, data)


def find_write_error(folder: Path, size: int) -> OSError | None:
    """Write a new file to a folder and remove it. Returns the error, or None if that works."""
    try:
        _write_temporary(folder / "probe", bytes(size)).unlink()
    except OSError as error:
        return error
    return None


def _replaceable(path: str | os.PathLike[str]) -> Path:
    """Return the path without symbolic links. Raises OSError for a directory, a device or a pipe."""
    target = Path(os.path.realpath(path))
    with contextlib.suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(target))
    return target


def _write_temporary(target: Path, data: bytes) -> Path:
    """Write and sync a file in the folder of `target`, readable by its owner only."""
    file, name = tempfile.mkstemp(prefix=f".{target.name[:100]}-", dir=target.parent)
    try:
        write_all(file, data)
        sync_file(file)
    except BaseException:  # also Ctrl-C
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    finally:
        os.close(file)
    return Path(name)


# Locks


class FileLock(Protocol):
    """A lock on an open file. Only one descriptor can hold it, even within one process."""

    def acquire(self, file: int) -> bool:
        """Lock a file without waiting. Returns False if it is locked through another descriptor.

        Raises:
            OSError: The file system has no locks, or the file is not open.
        """
        raise NotImplementedError

    def release(self, file: int) -> None:
        """Unlock a file. Raises OSError if it is not locked."""


class FlockLock:
    """A lock through `flock`, for POSIX."""

    def acquire(self, file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES):
                return False
            raise
        return True

    def release(self, file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


class RegionLock:
    """A lock through `msvcrt.locking`, for Windows.

    It locks one byte far past the end of the file, because other processes cannot read a locked byte.

    Args:
        functions: The module `msvcrt`.
    """

    _AT = 2**31 - 2
    """`locking` accepts positions of 31 bits."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions

    def acquire(self, file: int) -> bool:
        try:
            self._call(file, self._functions.LK_NBLCK)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                return False
            raise
        return True

    def release(self, file: int) -> None:
        self._call(file, self._functions.LK_UNLCK)

    def _call(self, file: int, mode: int) -> None:
        position = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, self._AT, os.SEEK_SET)
        try:
            self._functions.locking(file, mode, 1)
        finally:
            os.lseek(file, position, os.SEEK_SET)


def _lock_of_system() -> FileLock:
    if fcntl is None:
        return RegionLock(importlib.import_module("msvcrt"))
    return FlockLock()


_locks: Final = _lock_of_system()

_locked: set[int] = set()
"""The descriptors that this process has locked."""


def lock(file: int) -> bool:
    """Lock an open file until `close_locked`, or until the process ends.

    A forked process does not keep the lock: its copy of the descriptor can neither be read nor written.

    Returns:
        False if the file is locked through another descriptor.

    Raises:
        OSError: The file system has no locks.
    """
    if not _locks.acquire(file):
        return False
    _locked.add(file)
    return True


def close_locked(file: int) -> None:
    """Close a file, and unlock it if it is locked."""
    if file in _locked:
        _locked.discard(file)
        # A process that was forked a moment ago may still have a copy of the descriptor and so of the lock.
        with contextlib.suppress(OSError):  # closing the file also unlocks it
            _locks.release(file)
    os.close(file)


@contextlib.contextmanager
def locked(path: Path) -> Generator[bool, None, None]:
    """Hold the lock of a file during the block. The file is created if it does not exist.

    The block gets False if another descriptor holds the lock.

    Raises:
        OSError: The file cannot be opened, or its file system has no locks.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | O_BINARY, 0o600)
    try:
        yield lock(file)
    finally:
        close_locked(file)


def _forget_locks() -> None:
    """Drop the locks of the parent in a forked process."""
    if _locked:
        # The descriptors stay open. If they were closed, new files of this process would get their numbers,
        # and its copies of our objects would write to those files.
        nothing = os.open(os.devnull, os.O_RDONLY)
        for file in _locked:
            os.dup2(nothing, file, inheritable=False)
        os.close(nothing)
        _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
