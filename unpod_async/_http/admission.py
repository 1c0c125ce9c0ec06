"""A place for each request: the client's concurrency limit, a view's share of it, and the gate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import anyio

from unpod_async._http.deadline import Deadline
from unpod_async._http.rate_gate import RateGate
from unpod_async._http.stats import Stats

__all__ = ["RequestLimiter", "Slots"]


class Slots:
    """At most `limit` requests at once. The first use binds it to the running loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._semaphore: anyio.Semaphore | None = None

    @property
    def semaphore(self) -> anyio.Semaphore:
        if self._semaphore is None:
            self._semaphore = anyio.Semaphore(self.limit, fast_acquire=True)
        return self._semaphore


class RequestLimiter:
    """Lets requests start, one place each; the place is taken before the attempt's own clock runs."""

    def __init__(self, gate: RateGate, stats: Stats, clock: Callable[[], float] = time.monotonic) -> None:
        self._gate = gate
        self._stats = stats
        self._clock = clock
        self._probe_is_back: anyio.Event | None = None

    async def enter(self, slots: Sequence[Slots], deadline: Deadline) -> bool:
        """Wait for a place; returns whether this request is the probe, which `leave` wants to know.

        Raises:
            TransportError: the deadline ends before there is one; nothing was sent.
        """
        while True:
            if not self._take_at_once(slots):
                await self._take(slots, deadline)
            left = deadline.left()
            wait = self._gate.ask(self._clock()) if left > 0 else left
            if wait == 0:
                return self._gate.probing
            self._give_back(slots)
            if left <= 0:
                raise deadline.over("before the request was sent", sent=False)
            if left < wait < float("inf"):
                raise deadline.over(
                    "before a request may start (rate_limit, or the server asked for a pause)", sent=False
                )
            if self._probe_is_back is None:
                self._probe_is_back = anyio.Event()
            began = self._clock()
            with anyio.move_on_after(min(wait, left)):
                await self._probe_is_back.wait()
            self._stats.waited += self._clock() - began

    def leave(self, slots: Sequence[Slots], *, probe: bool, answered: bool) -> None:
        self._give_back(slots)
        if probe:
            self._gate.settle(answered=answered)
            if self._probe_is_back is not None:
                self._probe_is_back.set()
                self._probe_is_back = None

    def close(self, seconds: float) -> bool:
        """The server asked every request to wait; whether that is news."""
        return self._gate.close(self._clock(), seconds)

    def _take_at_once(self, slots: Sequence[Slots]) -> bool:
        taken = 0
        try:
            for slot in slots:
                slot.semaphore.acquire_nowait()
                taken += 1
        except anyio.WouldBlock:
            self._give_back(slots[:taken])
            return False
        return True

    async def _take(self, slots: Sequence[Slots], deadline: Deadline) -> None:
        taken: list[Slots] = []
        try:
            for slot in slots:
                try:
                    slot.semaphore.acquire_nowait()
                except anyio.WouldBlock:
                    left = deadline.left()
                    with anyio.move_on_after(left) as scope:
                        await slot.semaphore.acquire()
                    if scope.cancelled_caught:
                        raise deadline.over("waiting for a free place", sent=False) from None
                taken.append(slot)
        except BaseException:
            self._give_back(taken)
            raise

    @staticmethod
    def _give_back(slots: Sequence[Slots]) -> None:
        for slot in slots:
            slot.semaphore.release()
