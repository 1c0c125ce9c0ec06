"""The one thread in which an export touches the disk, and what is said when that fails."""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

from unpod_async.errors import ExportError

__all__ = ["Disk"]

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """Runs blocking work, one piece at a time; a cancellation waits for the piece under way."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._turn = anyio.CapacityLimiter(1)

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Raises ExportError where the system refuses."""
        try:
            return await anyio.to_thread.run_sync(
                functools.partial(work, *args, **options), limiter=self._turn
            )
        except sqlite3.Error as fault:
            reason = str(fault)
        except OSError as fault:
            reason = os.strerror(fault.errno) if fault.errno else str(fault)
        raise ExportError(
            f"{self._target} cannot be written: {reason}. What was there is as it was; when the cause is "
            "removed, the same export goes on where this one ended"
        )
