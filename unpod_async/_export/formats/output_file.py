"""A new file that knows how long it is and what its digest is. The only place that writes parts."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

__all__ = ["Sink", "open_part"]

# Absent where the system has no such thing.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)


class Sink:
    """A file made now, written front to back; has what pyarrow wants of a file object.

    Attributes:
        size: bytes written.

    Raises:
        OSError: also from every method that writes. After that the file is only good to be discarded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY, 0o600)
        self._hash = hashlib.sha256()
        self._is_discarded = False
        self.size = 0

    @property
    def closed(self) -> bool:
        return self._file < 0

    @property
    def sha256(self) -> str:
        """Of what is written so far, in hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        view = memoryview(data)
        length = view.nbytes
        if self._is_discarded:
            return length
        self._hash.update(view)
        while view:
            # Short when the disk fills: the next one then says so.
            view = view[os.write(self._file, view) :]
        self.size += length
        return length

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """Synced and closed; what the disk had no room for is known here at the latest."""
        if self._file < 0:
            return
        file, self._file = self._file, -1
        try:
            if not self._is_discarded:
                os.fsync(file)
        finally:
            os.close(file)

    def discard(self) -> None:
        """Take no more, close and remove the file; whatever happens meanwhile, it is of no use any more."""
        self._is_discarded = True
        with contextlib.suppress(OSError):
            self.close()
        with contextlib.suppress(OSError):
            self._path.unlink()


def open_part(path: Path) -> int:
    """A descriptor of an older part, to be read; OSError for what is no file of its own."""
    return os.open(path, os.O_RDONLY | _NO_FOLLOW | _BINARY)
