"""A watch that polls when a test asks it to, on a clock that the test controls."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from unpod_async import UnpodClient, Watch, WatchState
from unpod_async._watch import Clock, Known, PollSchedule, restore_known
from unpod_async._watch import Watch as WatchOf
from unpod_async.events import Event

__all__ = ["Stepper", "Time", "stepping"]


class Time:
    """A clock that advances when something sleeps, and when a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._booted = 0.0

    def reboot(self) -> None:
        """Simulate another process: its monotonic clock is not related to the current one."""
        self._booted = 1e6 if self._booted == 0.0 else 0.0

    def monotonic(self) -> float:
        return self.now + self._booted

    def utc_now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.now)


class Stepper:
    """A watch whose polls are started one by one."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.watch: Watch
        self._asleep = asyncio.Event()
        self._go = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def sleep(self, seconds: float) -> None:
        self.time.now += seconds
        self._asleep.set()
        await self._go.wait()
        self._go.clear()

    async def poll(self) -> None:
        """Let it poll once, and wait until all events of the poll were received."""
        self._asleep.clear()
        self._go.set()
        await self._until_asleep()

    async def _until_asleep(self) -> None:
        asleep = asyncio.ensure_future(self._asleep.wait())
        reader = self._reader
        assert reader is not None
        try:
            await asyncio.wait([asleep, reader], return_when=asyncio.FIRST_COMPLETED)
        finally:
            asleep.cancel()
        if reader.done():
            reader.result()

    async def first_poll(self, take: Callable[[Event], object]) -> None:
        async def read() -> None:
            async for event in self.watch:
                taken = take(event)
                if inspect.isawaitable(taken):
                    await taken
                if taken is False:
                    break
            self._asleep.set()

        self._reader = asyncio.create_task(read())
        await self._until_asleep()

    async def stop(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    @property
    def left(self) -> bool:
        """Whether the iteration has ended."""
        return self._reader is not None and self._reader.done()


@asynccontextmanager
async def stepping(
    unpod: UnpodClient,
    space: str | Iterable[str],
    take: Callable[[Event], object],
    *,
    time: Time | None = None,
    interval: float = 10,
    resync: float = 3600,
    tasks: bool = True,
    runs: Iterable[str] | None = None,
    state: WatchState | None = None,
) -> AsyncIterator[Stepper]:
    """Yield a watch after its first poll.

    `take` receives each event. It returns False to stop there, or an awaitable that takes time for the event.
    """
    stepper = Stepper(time or Time())
    if state is not None:
        stepper.time.reboot()
    clock = Clock(stepper.time.monotonic, stepper.time.utc_now, stepper.sleep, lambda: 0.5)
    chosen = None if runs is None else frozenset(runs)
    known = {token: Known() for token in ([space] if isinstance(space, str) else space)}
    if state is not None:
        now = clock.monotonic()
        known = {token: restore_known(state, token, chosen, tasks=tasks, now=now) for token in known}
    watch = WatchOf(unpod._context, known, PollSchedule(interval, resync), clock, tasks=tasks, run_ids=chosen)
    async with watch as stepper.watch:
        try:
            await stepper.first_poll(take)
            yield stepper
        finally:
            await stepper.stop()
