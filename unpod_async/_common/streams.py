"""Streams of text that write all of it."""

from __future__ import annotations

import io
from typing import TextIO

__all__ = ["buffered"]


def buffered(stream: TextIO) -> TextIO:
    """Return the stream, or one over the same file that writes all of a text or raises OSError.

    With PYTHONUNBUFFERED or `python -u`, stdout and stderr have no buffer. A write may then be short, if the
    disk becomes full or the reader of a pipe exits, and Python reports no error. A buffer writes the rest.
    The writer has to flush.
    """
    raw = getattr(stream, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        return stream
    # As Python opens stdout and stderr otherwise.
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=True,
    )
