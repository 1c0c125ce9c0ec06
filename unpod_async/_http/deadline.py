"""One clock for all that a call or a walk does."""

from __future__ import annotations

import time
from collections.abc import Callable

from unpod_async.errors import TransportError

__all__ = ["Deadline"]


class Deadline:
    """Seconds from the first request to the end of everything; None has no end. Monotonic."""

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._end: float | None = None

    def start(self) -> None:
        """The first request is about to be made; later calls do nothing."""
        if self._end is None and self._seconds is not None:
            self._end = self._clock() + self._seconds

    def restart(self) -> None:
        """The next request is the first one again."""
        self._end = None

    def left(self) -> float:
        """Seconds left, 0 or less when it is over; infinite without a deadline."""
        return float("inf") if self._end is None else self._end - self._clock()

    def over(self, doing: str, *, sent: bool) -> TransportError:
        """The error of a deadline that ended while `doing` something."""
        return TransportError(f"the deadline of {self._seconds:g} s ended {doing}", sent=sent, timed_out=True)
