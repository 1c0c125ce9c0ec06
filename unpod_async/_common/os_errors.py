"""Errors of the operating system in words: what happened, and what the user can do."""

from __future__ import annotations

import errno
from typing import Final

__all__ = ["is_fault_of_disk", "os_error_advice", "os_error_reason"]

_REASONS: Final = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
}
"""Plain words. For other errors, the words of the system are used."""

_TOO_MANY_FILES: Final = "raise the limit of open files (ulimit -n), or close other files,"
_PERMISSIONS: Final = "correct the permissions"
_ADVICE: Final = {
    errno.ENOSPC: "free space on the disk",
    errno.EDQUOT: "remove files, or have the quota raised,",
    errno.EROFS: "make the file system writable",
    errno.EFBIG: "raise the limit of the size of a file (ulimit -f)",
    errno.EMFILE: _TOO_MANY_FILES,
    errno.ENFILE: _TOO_MANY_FILES,
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
}

_FAULTS_OF_DISK: Final = frozenset(_ADVICE) - {errno.EACCES, errno.EPERM} | {errno.EIO}


def os_error_reason(error: Exception) -> str:
    """Return why an operation on a file or a socket failed, without its path: "no space is left on the disk".

    Args:
        error: An OSError. For an error of another class, such as the ValueError for a path with a NUL
            character, and for errors of pyarrow without a number, the result is the name of its class.
    """
    known = _REASONS.get(getattr(error, "errno", None) or 0)
    return known or getattr(error, "strerror", None) or type(error).__name__


def os_error_advice(error: BaseException | None, otherwise: str = "fix the cause") -> str:
    """Return what the user can do, such as "free space on the disk". The caller appends "and …".

    Args:
        otherwise: The result for an error without advice of its own.
    """
    return _ADVICE.get(getattr(error, "errno", None) or 0, otherwise)


def is_fault_of_disk(error: BaseException | None) -> bool:
    """Return whether the disk, or a limit of the system, is the cause, and not the path that was given."""
    return isinstance(error, OSError) and error.errno in _FAULTS_OF_DISK
