"""`Stream`: rows that background tasks read, owned by an `async with` block.

Tasks started inside a bare async generator would survive a `break`. Therefore the owner of the tasks is an
async context manager: leaving it cancels the tasks and waits for them, whatever happened in the block.
Exceptions of the tasks are raised to the reader, not wrapped in a group.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, Self, TypeAlias, TypeVar

from unpod_async._common import AsyncOnly, CallerContext, join_shielded
from unpod_async.errors import ConfigurationError

__all__ = ["SendBatch", "Stream", "StreamIterator", "received_rows"]

T = TypeVar("T")

SendBatch: TypeAlias = Callable[[Sequence[T]], Awaitable[None]]
"""Sends a batch of rows to the reader; returns when the reader has processed them."""


class Stream(AsyncOnly, Generic[T]):
    """Rows that background tasks read with concurrent requests.

    Use it with `async with`. Leaving the block, in whatever way, cancels all requests and waits for them; no
    task and no connection stays open. A stream can be entered once.

    If an `anext()` is cancelled, the next one continues: no row is lost or repeated. So you can call
    `asyncio.wait_for(anext(rows), seconds)` until a row arrives: see `StreamIterator`.

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

    _instead_of_for = "write `async with ... as stream`, and in it `async for row in stream`"
    _instead_of_await = _instead_of_for
    _instead_of_with = _instead_of_for

    def __init__(self, name: str, produce: Callable[[SendBatch[T]], Awaitable[None]]) -> None:
        self._name = name
        self._produce = produce
        self._task: asyncio.Task[None] | None = None
        # A memory object stream and an event per batch would take 60 us longer for each batch.
        self._batches: dict[asyncio.Future[None], Sequence[T]] = {}
        self._arrived = asyncio.Event()
        self._caller = CallerContext()
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
        self._caller.update()
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

    def __aiter__(self) -> StreamIterator[T]:
        if self._task is None:
            raise ConfigurationError(
                f"{self._name} is iterated outside its `async with`",
                hint="use `async with ... as stream: async for row in stream`",
            )
        return StreamIterator(repr(self), self._next_batch, self._finish)

    async def _next_batch(self) -> tuple[Iterator[T], asyncio.Future[None]] | None:
        """Return the rows of the next batch, or None at the end.

        After a `break`, these are the remaining rows of the batch that was being iterated. The reader passes
        the future to `_finish` when it has processed the rows.

        Raises:
            ConfigurationError: the `async with` was left before the end of the stream.
            UnpodError: the error of the stream.
        """
        # Requests that are sent from now on belong to what the reader does now, such as the span of a trace.
        self._caller.update()
        while self._batch is None and not (self._batches or self._ended):
            self._arrived.clear()
            await self._arrived.wait()
        if self._batch is None and self._batches:
            done = next(iter(self._batches))
            self._batch = self._iterate(self._batches.pop(done)), done
        if self._batch is not None:
            return self._batch
        if self._error is not None:
            raise self._error
        if not self._complete:
            raise ConfigurationError(
                f"the `async with` of {self._name} ended before the stream did",
                hint="iterate the stream inside its `async with`",
            )
        return None

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
        self._caller.adopt()
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


class StreamIterator(AsyncOnly, AsyncIterator[T]):
    """An iterator over the rows of a `Stream`: what `aiter(stream)` returns.

    Only one task at a time can wait for its next row; a stream can have several iterators, which share its
    rows. If an `anext()` is cancelled, as by `asyncio.wait_for(anext(rows), 5)` after 5 seconds, no row is
    lost or repeated, and the background tasks of the stream continue.

    Raises:
        ConfigurationError: another task waits for the next row of this iterator.
        UnpodError: as for iterating over the `Stream`. Each further `anext()` raises the same error.
    """

    _instead_of_for = "write `async for`, or `[row async for row in iterator]` for a list"
    _instead_of_await = "write `await anext(iterator)` for the next row, or `async for`"
    _instead_of_with = "write `async for`, without a `with`"

    def __init__(
        self,
        name: str,
        next_batch: Callable[[], Awaitable[tuple[Iterator[T], asyncio.Future[None]] | None]],
        finish_batch: Callable[[asyncio.Future[None]], None],
    ) -> None:
        self._name = name
        self._receive = next_batch
        self._finish = finish_batch
        self._rows: Iterator[T] = iter(())
        self._done: asyncio.Future[None] | None = None  # of the batch that `_rows` iterates
        self._error: Exception | None = None
        self._is_waiting = False
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._name}>"

    async def __anext__(self) -> T:
        while True:
            for row in self._rows:
                return row
            await self._next_batch()

    async def aclose(self) -> None:
        """End this iterator. The rows that it has not returned stay in the stream."""
        self._is_closed = True
        self._rows, self._done = iter(()), None

    async def _next_batch(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)  # otherwise it would grow each time
        if self._is_waiting:
            raise ConfigurationError(
                "another task waits for the next row of this iterator",
                hint="use an iterator in one task at a time, or create one for each task",
            )
        if self._done is not None:
            self._finish(self._done)
            self._done = None
        self._is_waiting = True
        try:
            batch = None if self._is_closed else await self._receive()
        except Exception as error:
            self._error = error
            raise
        finally:
            self._is_waiting = False
        if batch is None or self._is_closed:
            raise StopAsyncIteration
        self._rows, self._done = batch


def received_rows(iterator: StreamIterator[T]) -> list[T]:
    """Return the rows of an iterator that were received and not yet returned."""
    return list(iterator._rows)  # pyright: ignore[reportPrivateUsage]
