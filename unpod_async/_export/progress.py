"""The progress of an export, as a stream of plain events to a hook that may fail as it likes."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from unpod_async._export.results import ExportProgress
from unpod_async._http import Stats

__all__ = ["Phase", "ProgressReporter"]

Phase: TypeAlias = Literal["listing", "fetching", "recordings", "writing", "done"]

_log = logging.getLogger("unpod_async")

_WINDOW = 10.0
"""Seconds over which the rate is taken."""


class ProgressReporter:
    """Counts, and tells.

    Args:
        hook: called with each `ExportProgress`; what it raises is logged, once.
        waiting: seconds that the service has been waited for just now.
    """

    def __init__(
        self,
        hook: Callable[[Any], object] | None,
        stats: Stats,
        waiting: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hook = hook
        self._stats = stats
        self._waiting = waiting
        self._clock = clock
        self._started = clock()
        self._first = stats.attempts, sum(stats.retries.values()), stats.bytes
        self._recent: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])
        self._failed = False
        self.phase: Phase = "listing"
        self.runs_seen = 0
        self.runs_total: int | None = None
        self.rows_total: int | None = None
        """Rows that will have been met at the end, where the service says how many."""
        self.counts: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)
        """Runs done, runs failed and rows, so far."""

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    @property
    def requests(self) -> int:
        return self._stats.attempts - self._first[0]

    @property
    def retries(self) -> int:
        return sum(self._stats.retries.values()) - self._first[1]

    def enter(self, phase: Phase) -> None:
        self.phase = phase
        self.tell()

    def tell(self) -> None:
        if self._hook is None:
            return
        event = self._event()
        try:
            self._hook(event)
        except Exception as fault:  # noqa: BLE001 - whatever a hook does, the export goes on
            if not self._failed:
                self._failed = True
                _log.warning("the progress hook raised %s; the export goes on", type(fault).__name__)

    def _event(self) -> ExportProgress:
        now = self._clock()
        done, failed, rows = self.counts()
        self._recent.append((now, rows, done + failed))
        while len(self._recent) > 2 and self._recent[1][0] < now - _WINDOW:
            self._recent.popleft()
        since, rows_then, runs_then = self._recent[0]
        spent = max(now - since, 1e-9)
        if self.rows_total is not None:
            speed = (rows - rows_then) / spent
            left = self.rows_total - rows
        else:
            speed = (done + failed - runs_then) / spent
            left = 0 if self.runs_total is None else self.runs_total - done - failed
        return ExportProgress(
            phase=self.phase,
            runs_seen=self.runs_seen,
            runs_total=self.runs_total,
            runs_done=done,
            runs_failed=failed,
            rows=rows,
            bytes=self._stats.bytes - self._first[2],
            requests=self.requests,
            retries=self.retries,
            waiting=self._waiting(),
            seconds=self.seconds,
            rate=(rows - rows_then) / spent,
            remaining=self._remaining(left, speed),
        )

    def _remaining(self, left: int, speed: float) -> float | None:
        if self.phase == "done":
            return 0.0
        is_known = self.rows_total is not None or self.runs_total is not None
        return max(0, left) / speed if is_known and speed else None
