"""Waiting for what must have ended before anything else may happen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio

__all__ = ["cancel_and_wait", "join_shielded"]


async def join_shielded(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until `future` is done, whatever it came to.

    Returns the cancellation that was asked for meanwhile: the caller raises it when nothing is left.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            # A scope asks again in every turn of the loop; a task, as often as somebody cancels it.
            with anyio.CancelScope(shield=True):
                await asyncio.wait([future])
        except asyncio.CancelledError as asked:
            cancelled = asked
    return cancelled


async def cancel_and_wait(tasks: Sequence[asyncio.Task[Any]]) -> asyncio.CancelledError | None:
    """Cancel tasks and wait until all have ended; what one failed with, only who wanted it has to know.

    Returns the cancellation that was asked for meanwhile, as `join_shielded` does.
    """
    cancelled: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    for task in tasks:
        cancelled = await join_shielded(task) or cancelled
        if not task.cancelled():
            task.exception()  # else the loop would say that nobody asked for it
    return cancelled
