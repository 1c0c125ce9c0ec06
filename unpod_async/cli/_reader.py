"""Noticing that nobody reads stdout any more, also while there is nothing to write."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from typing import IO

__all__ = ["reader_gone"]


async def reader_gone(stream: IO[str]) -> None:
    """Wait until nobody reads the pipe that `stream` is; for ever where that cannot be seen.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    pipe: int | None = None
    # No file at all, or Windows, whose loop cannot do that: then a write will tell.
    with suppress(OSError, ValueError, NotImplementedError):
        if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            # Nothing can be read from this end of a pipe: what comes is the news that the other was closed.
            loop.add_reader(stream.fileno(), gone.set)
            pipe = stream.fileno()
    try:
        await gone.wait()
    finally:
        if pipe is not None:
            loop.remove_reader(pipe)
    raise BrokenPipeError
