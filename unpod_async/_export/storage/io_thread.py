"""The threads in which an export touches the disk, and what is said when that fails."""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from unpod_async._common import join_shielded
from unpod_async._export.storage.spool import SpoolFile, sync
from unpod_async.errors import ExportError

__all__ = ["Disk"]

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """Runs blocking work, one piece at a time, and syncs beside it. A cancellation waits for them.

    It has to: what they work on is closed next. Once a piece has failed nothing more is done, whether or not
    anybody was left to be told: what it was to do is missing from what others would go on with.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._thread = ThreadPoolExecutor(1, "unpod-export")
        self._syncing = ThreadPoolExecutor(1, "unpod-export-sync")
        self._refused: BaseException | None = None

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Raises ExportError where the system refuses, or has done so before."""
        return await self._do(self._thread, functools.partial(work, *args, **options))

    async def sync(self, files: Sequence[SpoolFile]) -> None:
        """Until what was written to these is on the disk. 60 MB take 0.1 s, in which others may `run`.

        Raises as `run` does.
        """
        await self._do(self._syncing, functools.partial(sync, files))

    def check(self) -> None:
        """Raises as `run` does, where it has refused before."""
        if self._refused is not None:
            raise self._refused

    async def _do(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        self.check()
        piece = asyncio.get_running_loop().run_in_executor(thread, work)
        try:
            return await asyncio.shield(piece)
        except asyncio.CancelledError as asked:
            cancelled = await join_shielded(piece) or asked
            fault = piece.exception()
            if fault is not None:
                self._note_failure(fault)
            raise cancelled from None
        except BaseException as fault:
            self._note_failure(fault)
            self.check()
            raise

    def _note_failure(self, fault: BaseException) -> None:
        if self._refused is None:
            self._refused = self._refusal(fault)

    def _refusal(self, fault: BaseException) -> BaseException:
        if isinstance(fault, sqlite3.Error):
            reason = str(fault)
        elif isinstance(fault, OSError):
            reason = os.strerror(fault.errno) if fault.errno else str(fault)
        else:
            return fault
        return ExportError(
            f"{self._target} cannot be written: {reason}. What was there is as it was; when the cause is "
            "removed, the same export goes on where this one ended"
        )

    def close(self) -> None:
        self._thread.shutdown()
        self._syncing.shutdown()
