"""Time that passes at once: tests of timeouts then depend on events, not on the speed of the machine.

A test with a timeout of a few hundred milliseconds fails on a busy machine. Give the client a timeout that no
machine needs, and let the time pass when the request has arrived.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from unpod_async import UnpodClient
    from unpod_async.testing import Sandbox

__all__ = ["pass_time", "set_deadline_clock", "time_passes"]


def pass_time(seconds: float) -> None:
    """Move the clock of the running event loop forward. Timers that end by then fire in the next turn.

    The timeouts of attempts and all delays use this clock. Deadlines use `time.monotonic`, which stays,
    except after `set_deadline_clock`.
    """
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[method-assign]


def set_deadline_clock(unpod: UnpodClient, clock: Callable[[], float] | None = None) -> UnpodClient:
    """Let the deadlines of a client, and of views made later, use this clock. Returns the client.

    Args:
        clock: monotonic seconds. None, the default, is the clock that `pass_time` moves.
    """
    clock = clock or (lambda: asyncio.get_running_loop().time())
    msgspec.structs.force_setattr(unpod._context.executor, "clock", clock)
    return unpod


@asynccontextmanager
async def time_passes(sandbox: Sandbox, seconds: float, *, requests: int = 1) -> AsyncIterator[None]:
    """Let this time pass after the arrival of each of the next requests."""

    async def run() -> None:
        for _ in range(requests):
            await sandbox.arrived(sandbox.requests + 1)
            pass_time(seconds)

    passing = asyncio.ensure_future(run())
    try:
        await asyncio.sleep(0)  # it waits for the first request
        yield
    finally:
        passing.cancel()
        await asyncio.wait({passing})
