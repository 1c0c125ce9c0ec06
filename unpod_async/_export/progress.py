"""Report the progress of an export to the caller's `on_progress`."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from unpod_async._export.results import ExportProgress
from unpod_async._http import Stats

__all__ = ["ProgressReporter"]

Phase: TypeAlias = Literal["listing", "fetching", "recordings", "writing", "done"]

_log = logging.getLogger("unpod_async")

_RATE_SECONDS = 10.0
"""The rate is measured over this time."""


class ProgressReporter:
    """Counts requests, runs and rows, and emits `ExportProgress` events.

    Args:
        on_progress: Called with each event. Its first exception is logged.
        stats: Counters of the client.
        waiting: Returns the seconds since the service stopped responding.

    Attributes:
        rows_total: Number of rows at the end, if it is known.
        counts: Returns the runs done, the runs failed and the rows so far.
    """

    def __init__(
        self,
        on_progress: Callable[[Any], object] | None,
        stats: Stats,
        waiting: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_progress = on_progress
        self._stats = stats
        self._waiting = waiting
        self._clock = clock
        self._started = clock()
        self._attempts_before = stats.attempts
        self._retries_before = sum(stats.retries.values())
        self._bytes_before = stats.bytes
        self._recent: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])
        self._failed = False
        self.phase: Phase = "listing"
        self.runs_seen = 0
        self.runs_total: int | None = None
        self.rows_total: int | None = None
        self.counts: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    @property
    def requests(self) -> int:
        return self._stats.attempts - self._attempts_before

    @property
    def retries(self) -> int:
        return sum(self._stats.retries.values()) - self._retries_before

    def enter(self, phase: Phase) -> None:
        """Begin a phase and emit an event."""
        self.phase = phase
        self.emit()

    def emit(self) -> None:
        """Call `on_progress` with an event."""
        if self._on_progress is None:
            return
        event = self._event()
        try:
            self._on_progress(event)
        except Exception as error:  # noqa: BLE001 - an error of the callback does not stop the export
            if not self._failed:
                self._failed = True
                _log.warning("on_progress raised %s; the export continues", type(error).__name__)

    def _event(self) -> ExportProgress:
        now = self._clock()
        done, failed, rows = self.counts()
        self._recent.append((now, rows, done + failed))
        while len(self._recent) > 2 and self._recent[1][0] < now - _RATE_SECONDS:
            self._recent.popleft()
        since, rows_then, runs_then = self._recent[0]
        seconds = max(now - since, 1e-9)
        if self.rows_total is not None:
            speed = (rows - rows_then) / seconds
            left = self.rows_total - rows
        else:
            speed = (done + failed - runs_then) / seconds
            left = 0 if self.runs_total is None else self.runs_total - done - failed
        return ExportProgress(
            phase=self.phase,
            runs_seen=self.runs_seen,
            runs_total=self.runs_total,
            runs_done=done,
            runs_failed=failed,
            rows=rows,
            bytes=self._stats.bytes - self._bytes_before,
            requests=self.requests,
            retries=self.retries,
            waiting=self._waiting(),
            seconds=self.seconds,
            rate=(rows - rows_then) / seconds,
            remaining=self._remaining(left, speed),
        )

    def _remaining(self, left: int, speed: float) -> float | None:
        if self.phase == "done":
            return 0.0
        is_known = self.rows_total is not None or self.runs_total is not None
        return max(0, left) / speed if is_known and speed else None
