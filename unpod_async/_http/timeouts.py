"""Two time limits: `Deadline` for a whole call or listing, `AttemptTimeout` for one attempt of a request."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from unpod_async._common import ignore_error
from unpod_async.errors import TransportError

__all__ = ["AttemptTimeout", "AttemptTimer", "Deadline"]

T = TypeVar("T")


class Deadline:
    """The time by which a call or a listing must end: attempts, delays and waiting for a free slot.

    Args:
        seconds: seconds from the first request, or from `start`; None means no limit.
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

    async def run_in_thread(self, work: Callable[[], T], phase: str, *, sent: bool) -> T:
        """Run a function that would block the event loop, such as a slow import, and return its result.

        This starts the clock if it is not running yet. A function that has started continues after the
        deadline or a cancellation; its result is dropped.

        Raises:
            TransportError: the deadline ended first, in `phase`, as for `error`.
        """
        left = self.start()
        in_context = contextvars.copy_context().run  # as `asyncio.to_thread` does
        running = asyncio.get_running_loop().run_in_executor(None, in_context, work)
        running.add_done_callback(ignore_error)  # nobody may be waiting for it any more
        try:
            await asyncio.wait([running], timeout=None if left == inf else max(0.0, left))
            if not running.done():
                raise self.error(phase, sent=sent)
        finally:
            running.cancel()
        return running.result()


class AttemptTimer:
    """The one timer of all attempts that are under way in an event loop.

    When an attempt ends, the timer stays set. When it fires, it is set for the attempt that is due next, if
    there is one. A timer for each attempt takes 5 of the 116 us of a request.
    """

    __slots__ = ("_at", "_attempts", "_timer")

    def __init__(self) -> None:
        self._attempts: set[AttemptTimeout] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._at = inf

    def add(self, attempt: AttemptTimeout, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Watch an attempt, which is not due before `due`."""
        self._attempts.add(attempt)
        if due < self._at:
            self._set(loop, due)

    def remove(self, attempt: AttemptTimeout) -> None:
        """Forget an attempt that has ended."""
        self._attempts.discard(attempt)

    def _set(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = loop.call_at(at, self._on_timer, loop)

    def _on_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        now, self._at, self._timer = self._at, inf, None
        for attempt in [one for one in self._attempts if one.due <= now]:
            self._attempts.remove(attempt)
            attempt.expire()
        if self._attempts:
            self._set(loop, min(one.due for one in self._attempts))


class AttemptTimeout:
    """A block that raises TimeoutError after `seconds` in all, or `silence` seconds after the last `touch`.

    It works like `asyncio.timeout`, but has two limits and shares its timer with other attempts. aiohttp's
    `sock_read` sets a timer for each piece of the body, which takes 28 of the 290 us of a request.
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

    def __init__(self, seconds: float, silence: float, timer: AttemptTimer) -> None:
        self._seconds = seconds
        self._silence = silence
        self._timer = timer
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
        self._timer.add(self, self._loop, self.due)
        return self

    def touch(self) -> None:
        """Note that data arrived, which restarts the limit of silence."""
        self._last_touch = self._loop.time()

    @property
    def due(self) -> float:
        """The time of the event loop at which the block ends."""
        return min(self._end, self._last_touch + self._silence)

    def expire(self) -> None:
        """End the block."""
        self._expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.remove(self)
        # A cancellation from elsewhere that was requested meanwhile takes precedence.
        if self._expired and self._task.uncancel() <= self._cancellations and kind is asyncio.CancelledError:
            raise TimeoutError from error
