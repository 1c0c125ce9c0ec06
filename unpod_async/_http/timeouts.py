"""Two time limits: `Deadline` for a whole call or listing, `AttemptTimeout` for one attempt of a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import Any, Final, Self

from unpod_async.errors import TransportError

__all__ = ["AttemptTimeout", "Deadline"]


class Deadline:
    """The time by which a call or a listing must end: attempts, delays and waiting for a free slot.

    Args:
        seconds: time from the first request; None is no limit.
        clock: monotonic seconds.

    Attributes:
        seconds: as the argument.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds: Final = seconds
        self._clock = clock
        self._end: float | None = None

    def start(self) -> float:
        """Start the clock if it is not running yet, and return the seconds left, as `left` does."""
        if self.seconds is None:
            return inf
        now = self._clock()
        if self._end is None:
            self._end = now + self.seconds
        return self._end - now

    def restart(self) -> None:
        """Restart the clock with the next request."""
        self._end = None

    def left(self) -> float:
        """Return the seconds left: 0 or less if it is over, infinity if there is no limit."""
        return inf if self._end is None else self._end - self._clock()

    def error(self, phase: str, *, sent: bool) -> TransportError:
        """Return the error of a deadline that ends in `phase`, such as "before the request was sent"."""
        return TransportError(f"the deadline of {self.seconds:g} s ended {phase}", sent=sent, timed_out=True)


class AttemptTimeout:
    """A block that raises TimeoutError after `seconds` in all, or `silence` seconds after the last `touch`.

    It works like `asyncio.timeout`, but one timer serves both limits: when the timer fires, it checks the
    time of the last `touch`. aiohttp's `sock_read` sets a timer for each piece of the body, which takes 28 of
    the 290 us of a request.
    """

    __slots__ = (
        "_cancellations",
        "_end",
        "_expired",
        "_last_touch",
        "_loop",
        "_seconds",
        "_silence",
        "_task",
        "_timer",
    )

    def __init__(self, seconds: float, silence: float) -> None:
        self._seconds = seconds
        self._silence = silence
        self._expired = False

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] | None = asyncio.current_task()
        if task is None:
            raise RuntimeError("requests must be sent from a task")
        self._task = task
        self._cancellations = task.cancelling()
        self._last_touch = self._loop.time()
        self._end = self._last_touch + self._seconds
        self._timer = self._loop.call_at(self._due(), self._on_timer)
        return self

    def touch(self) -> None:
        """Note that data arrived, which restarts the limit of silence."""
        self._last_touch = self._loop.time()

    def _due(self) -> float:
        return min(self._end, self._last_touch + self._silence)

    def _on_timer(self) -> None:
        due = self._due()
        if due > self._timer.when():
            self._timer = self._loop.call_at(due, self._on_timer)
        else:
            self._expired = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # A cancellation from elsewhere that was requested meanwhile takes precedence.
        if self._expired and self._task.uncancel() <= self._cancellations and kind is asyncio.CancelledError:
            raise TimeoutError from error
