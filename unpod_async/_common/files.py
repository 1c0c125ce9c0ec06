"""Writing files so that they survive a crash, and locks that end with their process."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows, where two jobs on one file are not detected
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock", "sync_folder", "write_all"]


def lock(file: int) -> bool:
    """Lock an open file until it is closed. Returns False if it is locked through another descriptor."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Sync a directory, so that new, renamed and removed files in it survive a crash."""
    if os.name == "posix":
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_all(file: int, data: bytes) -> None:
    """Write all of `data`. A single `os.write` may write less, for example if the disk is nearly full."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
