"""Waiting for what must have ended before anything else may happen."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio

__all__ = ["wait_out"]


async def wait_out(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
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
