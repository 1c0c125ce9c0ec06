"""What tests of locks need: the lock of Windows on Linux, and copies of locked files as after a fork."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

fcntl = pytest.importorskip("fcntl", reason="the tests were not run on Windows")

__all__ = ["WindowsRegions", "copies_of_locked_files"]


class WindowsRegions:
    """Does what `msvcrt.locking` does: it locks bytes at the position of the file, for one open file.

    It uses the locks of Linux that belong to an open file. As on Windows, the position has 31 bits, and a
    lock of another open file is reported as EACCES.
    """

    LK_UNLCK, LK_LOCK, LK_NBLCK = 0, 1, 2

    def locking(self, file: int, mode: int, count: int, /) -> None:
        start = os.lseek(file, 0, os.SEEK_CUR)
        if start + count >= 2**31:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        kind = fcntl.F_UNLCK if mode == self.LK_UNLCK else fcntl.F_WRLCK
        if mode == self.LK_UNLCK and not self._is_locked_here(file, start, count):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, self._region(kind, start, count))
        except BlockingIOError:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES)) from None

    def _is_locked_here(self, file: int, start: int, count: int) -> bool:
        other = os.open(f"/proc/self/fd/{file}", os.O_RDWR)
        try:
            found = fcntl.fcntl(other, fcntl.F_OFD_GETLK, self._region(fcntl.F_WRLCK, start, count))
        finally:
            os.close(other)
        return bool(struct.unpack_from("h", found)[0] != fcntl.F_UNLCK)

    def _region(self, kind: int, start: int, count: int) -> bytes:
        return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, count, 0)


@contextlib.contextmanager
def copies_of_locked_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Copy each descriptor that is locked in the block; the copies stay open until its end.

    A process that is forked in the block has such copies. They keep the lock if a file is only closed.
    """
    copies: list[int] = []
    flock = fcntl.flock

    def lock(file: int, operation: int) -> None:
        flock(file, operation)
        if operation & fcntl.LOCK_EX:
            copies.append(os.dup(file))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lock)
        try:
            yield copies
        finally:
            for file in copies:
                os.close(file)
