"""`Stream`: rows made ahead by tasks, owned by an `async with` block.

Tasks inside a bare generator outlive a `break`; so whatever owns tasks is entered. On leaving, the tasks are
cancelled first and waited for, whatever happened in the block, and what the block raised goes on as it is.
Errors of the tasks come out where the next row is asked for, bare.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, Self, TypeAlias, TypeVar

from unpod_async._common import join_shielded
from unpod_async.errors import ConfigurationError

__all__ = ["SendBatch", "Stream"]

T = TypeVar("T")

SendBatch: TypeAlias = Callable[[Sequence[T]], Awaitable[None]]
"""Hands a batch of rows to the reader; returns when the reader is done with them."""


class Stream(Generic[T]):
    """Rows from concurrent requests: `async with ... as stream: async for row in stream`.

    Leaving the block, by its end, `break`, an exception or cancellation, stops all requests and waits for
    them: no task and no connection is left.
    """

    def __init__(self, name: str, produce: Callable[[SendBatch[T]], Awaitable[None]]) -> None:
        self._name = name
        self._produce = produce
        self._task: asyncio.Task[None] | None = None
        # A memory stream and an event per batch would cost 60 us more for each.
        self._batches: dict[asyncio.Future[None], Sequence[T]] = {}
        self._arrived = asyncio.Event()
        self._batch: tuple[Iterator[T], asyncio.Future[None]] | None = None
        self._error: Exception | None = None
        self._ended = False
        self._complete = False
        self._left = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    async def __aenter__(self) -> Self:
        if self._task is not None or self._left:
            raise ConfigurationError(f"{self._name} was entered before: make a new one")
        # A task of its own, so that no cancel scope is open around the caller's block.
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task, self._left = self._task, None, True
        if task is None:
            return
        task.cancel()
        cancelled = await join_shielded(task)
        self._end()  # one that was cancelled before it began has not
        self._error = None  # its traceback holds this stream
        if cancelled is not None:
            raise cancelled
        if not task.cancelled():
            task.result()

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        if self._task is None:
            raise ConfigurationError(
                f"{self._name} owns tasks, so it is entered first: `async with ... as stream: "
                "async for row in stream`"
            )
        while True:
            while self._batch is None and not (self._batches or self._ended):
                self._arrived.clear()
                await self._arrived.wait()
            if self._batch is None:
                if not self._batches:
                    break
                done = next(iter(self._batches))
                self._batch = self._handed_out(self._batches.pop(done)), done
            # The rows left by a `break` are there for the next `async for`.
            batch, done = self._batch
            for row in batch:
                yield row
            self._finish(done)
        if self._error is not None:
            raise self._error
        if not self._complete:
            raise ConfigurationError(f"{self._name} was left before its end: read it inside its `async with`")

    def _handed_out(self, rows: Sequence[T]) -> Iterator[T]:
        """The rows of a batch, each as it is taken."""
        return iter(rows)

    def _finish(self, done: asyncio.Future[None]) -> None:
        if self._batch is not None and self._batch[1] is done:  # else another reader was quicker
            self._batch = None
        if not done.done():  # by another reader, or cancelled
            done.set_result(None)

    def _end(self) -> None:
        self._ended = True
        self._arrived.set()

    async def _run(self) -> None:
        try:
            await self._produce(self._put)
            self._complete = True
        except Exception as error:  # noqa: BLE001 - raised where the reader asks for the next row
            self._error = error
        finally:
            self._end()

    async def _put(self, rows: Sequence[T]) -> None:
        if rows:
            done = asyncio.get_running_loop().create_future()
            self._batches[done] = rows
            self._arrived.set()
            try:
                await done
            finally:
                self._batches.pop(done, None)
