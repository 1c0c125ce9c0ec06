"""The life of a client: the loop and the process it belongs to, the calls under way, and its end.

Calls are counted here and nowhere else. A call is one request with its repeats and waits, or one create; of
a walk it is the page being asked for, since between two pages nothing is open.
"""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Any, Final, Self

import anyio

from unpod_async.errors import ConfigurationError

__all__ = ["GRACE", "ClientLifecycle", "InFlightRequest"]

GRACE: Final = 5.0
"""Seconds that calls under way are given when the client is closed."""


class ClientLifecycle:
    """From the first call, on whose loop the client lives, to its end."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._ending = False
        self._over = False
        self._under_way: set[InFlightRequest] = set()
        self._all_done: anyio.Event | None = None

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process in which the client was used."""
        return self.loop is not None and os.getpid() != self._process

    def check(self) -> None:
        """To be asked before anything is opened or sent; the first time binds the client to this loop.

        Raises:
            ConfigurationError: the client is closed, or belongs to another process or loop.
        """
        if self._over:
            raise _closed()
        if self.forked:
            raise ConfigurationError(
                "the client was in use before this process was forked, and its connections belong to the "
                "parent: make a new UnpodClient in each process"
            )
        loop = asyncio.get_running_loop()
        if self.loop is None:
            self.loop, self._process = loop, os.getpid()
        elif self.loop is not loop:
            raise ConfigurationError(
                "the client belongs to another event loop, where its first request was made: make one "
                "UnpodClient per event loop (per asyncio.run)"
            )

    def call(self) -> InFlightRequest:
        """One call, for as long as its block lasts.

        Raises (on entering):
            ConfigurationError: as `check`, and when the client is being closed.
        """
        return InFlightRequest(self)

    def enter(self, call: InFlightRequest) -> None:
        if self._ending:
            raise _closed()
        self.check()
        self._under_way.add(call)

    def leave(self, call: InFlightRequest) -> None:
        self._under_way.discard(call)
        if self._all_done is not None and not self._under_way:
            self._all_done.set()

    async def end(self, grace: float) -> None:
        """Let no call begin, wait up to `grace` seconds for those under way, and cancel the others.

        Cancelled, it does not wait any longer. Calls of another process or loop are neither waited for nor
        cancelled.
        """
        self._ending = True
        ours = not self.forked and self.loop is asyncio.get_running_loop()
        try:
            if ours and self._under_way:
                if self._all_done is None:
                    self._all_done = anyio.Event()
                with anyio.move_on_after(grace):
                    await self._all_done.wait()
        finally:
            self._over = True
            if ours:
                for call in self._under_way:
                    call.end()


class InFlightRequest:
    """A call under way, as a block. When the lifetime ends it, the block is cancelled and left.

    Like an `anyio.CancelScope`, which costs 15 us, except that it asks once.
    """

    __slots__ = ("_cancelled", "_lifetime", "_others", "_task", "ended")

    def __init__(self, lifetime: ClientLifecycle) -> None:
        self.ended = False
        self._lifetime = lifetime
        self._task: asyncio.Task[Any] | None = None
        self._others = 0
        self._cancelled = False

    def __enter__(self) -> Self:
        self._lifetime.enter(self)
        self._task = asyncio.current_task()
        self._others = 0 if self._task is None else self._task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._lifetime.leave(self)
        task, self._task = self._task, None
        if task is None or not self._cancelled:
            return False
        # Whoever else asked for a cancellation gets it.
        return task.uncancel() <= self._others and kind is asyncio.CancelledError

    def end(self) -> None:
        self.ended = True
        if self._task is asyncio.current_task():
            # Cancelled by itself, a task may hear of it behind the block only.
            asyncio.get_running_loop().call_soon(self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()


def _closed() -> ConfigurationError:
    return ConfigurationError("the client is closed: make a new UnpodClient, or keep this one open")
