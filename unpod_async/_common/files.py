"""Files that must survive a crash, and locks that vanish with their process."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where two jobs on one file are not told apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock", "sync_folder", "write_all"]


def lock(file: int) -> bool:
    """Take the lock of an open file, kept until it is closed; False when another opening of it has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """A new, renamed or removed file is so for good only when the directory that names it is synced."""
    if os.name == "posix":
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_all(file: int, data: bytes) -> None:
    """Write all of `data`: a system may take less at a time, on a disk that is nearly full for one."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
