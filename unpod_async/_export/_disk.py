"""The threads in which an export touches the disk, and what is said when that fails."""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from unpod_async._export._spool import sync
from unpod_async._waiting import wait_out
from unpod_async.errors import ExportError

__all__ = ["Disk"]

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """Runs blocking work, one piece at a time, and syncs beside it. A cancellation waits for them.

    It has to: what they work on is closed next.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._thread = ThreadPoolExecutor(1, "unpod-export")
        self._syncing = ThreadPoolExecutor(1, "unpod-export-sync")

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Raises ExportError where the system refuses."""
        return await self._do(self._thread, functools.partial(work, *args, **options))

    async def sync(self, descriptors: Sequence[int]) -> None:
        """Until what was written to these is on the disk. 60 MB take 0.1 s, in which others may `run`.

        Raises ExportError where the system refuses.
        """
        await self._do(self._syncing, functools.partial(sync, descriptors))

    async def _do(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        piece = asyncio.get_running_loop().run_in_executor(thread, work)
        cancelled = await wait_out(piece)
        if cancelled is not None:
            piece.exception()  # looked at, so that nobody complains
            raise cancelled
        try:
            return piece.result()
        except sqlite3.Error as fault:
            reason = str(fault)
        except OSError as fault:
            reason = os.strerror(fault.errno) if fault.errno else str(fault)
        raise ExportError(
            f"{self._target} cannot be written: {reason}. What was there is as it was; when the cause is "
            "removed, the same export goes on where this one ended"
        )

    def close(self) -> None:
        self._thread.shutdown()
        self._syncing.shutdown()
