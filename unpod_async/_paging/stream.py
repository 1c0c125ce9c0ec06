"""`Stream`: rows that background tasks read, owned by an `async with` block.

Tasks started inside a bare async generator would survive a `break`. Therefore the owner of the tasks is an
async context manager: leaving it cancels the tasks and waits for them, whatever happened in the block.
Exceptions of the tasks are raised to the reader, not wrapped in a group.
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
"""Sends a batch of rows to the reader; returns when the reader has processed them."""


class Stream(Generic[T]):
    """Rows that background tasks read with concurrent requests.

    Use it with `async with`. Leaving the block, in whatever way, cancels all requests and waits for them; no
    task and no connection stays open. A stream can be entered once.

    Example:
        ```python
        async with unpod.runs.tasks_for(space_token) as stream:
            async for task in stream:
                print(task.task_id)
        ```

    Raises:
        ConfigurationError: the stream is iterated outside its `async with`, or entered twice.
        UnpodError: while iterating: a request failed. Rows that were received before are yielded first.
    """

    def __init__(self, name: str, produce: Callable[[SendBatch[T]], Awaitable[None]]) -> None:
        self._name = name
        self._produce = produce
        self._task: asyncio.Task[None] | None = None
        # A memory object stream and an event per batch would take 60 us longer for each batch.
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
            raise ConfigurationError(f"{self._name} was entered before", hint="create a new stream")
        # A separate task, so that no cancel scope is open around the caller's block.
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
        self._end()  # a task that is cancelled before its first step does not run its `finally`
        self._error = None  # its traceback refers to this stream
        if cancelled is not None:
            raise cancelled
        if not task.cancelled():
            task.result()

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        if self._task is None:
            raise ConfigurationError(
                f"{self._name} is iterated outside its `async with`",
                hint="use `async with ... as stream: async for row in stream`",
            )
        while True:
            while self._batch is None and not (self._batches or self._ended):
                self._arrived.clear()
                await self._arrived.wait()
            if self._batch is None:
                if not self._batches:
                    break
                done = next(iter(self._batches))
                self._batch = self._iterate(self._batches.pop(done)), done
            # After a `break`, the next `async for` continues with the remaining rows of the batch.
            batch, done = self._batch
            for row in batch:
                yield row
            self._finish(done)
        if self._error is not None:
            raise self._error
        if not self._complete:
            raise ConfigurationError(
                f"the `async with` of {self._name} ended before the stream did",
                hint="iterate the stream inside its `async with`",
            )

    def _iterate(self, rows: Sequence[T]) -> Iterator[T]:
        """Return an iterator over the rows of a batch. Subclasses can observe each row as it is taken."""
        return iter(rows)

    def _finish(self, done: asyncio.Future[None]) -> None:
        if self._batch is not None and self._batch[1] is done:  # else another reader was faster
            self._batch = None
        if not done.done():  # else another reader finished it, or it was cancelled
            done.set_result(None)

    def _end(self) -> None:
        self._ended = True
        self._arrived.set()

    async def _run(self) -> None:
        try:
            await self._produce(self._send)
            self._complete = True
        except Exception as error:  # noqa: BLE001 - raised when the reader asks for the next row
            self._error = error
        finally:
            self._end()

    async def _send(self, rows: Sequence[T]) -> None:
        if rows:
            done = asyncio.get_running_loop().create_future()
            self._batches[done] = rows
            self._arrived.set()
            try:
                await done
            finally:
                self._batches.pop(done, None)
