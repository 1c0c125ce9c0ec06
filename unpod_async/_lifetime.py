"""The life of a client: the loop and the process it belongs to, the calls under way, and its end.

Calls are counted here and nowhere else. A call is one request with its repeats and waits, or one create; of
a walk it is the page being asked for, since between two pages nothing is open.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import anyio

from unpod_async.errors import ConfigurationError

__all__ = ["GRACE", "Lifetime"]

GRACE: Final = 5.0
"""Seconds that calls under way are given when the client is closed."""


class Lifetime:
    """From the first call, on whose loop the client lives, to its end."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._ending = False
        self._over = False
        self._under_way: set[anyio.CancelScope] = set()
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

    @contextmanager
    def call(self) -> Generator[anyio.CancelScope]:
        """One call, for as long as the block lasts. `end` may cancel the scope; then the block is left.

        Raises:
            ConfigurationError: as `check`, and when the client is being closed.
        """
        if self._ending:
            raise _closed()
        self.check()
        scope = anyio.CancelScope()
        self._under_way.add(scope)
        try:
            with scope:
                yield scope
        finally:
            self._under_way.discard(scope)
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
                for scope in self._under_way:
                    scope.cancel()


def _closed() -> ConfigurationError:
    return ConfigurationError("the client is closed: make a new UnpodClient, or keep this one open")
