"""Read the tasks of many runs with a fixed number of workers, each of which reads one run at a time.

The workers take runs from one iterator, so there is never a task per run. Each worker holds one page until
the reader has processed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Sequence,
)
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import anyio

from unpod_async._common import cancel_and_wait, run_workers
from unpod_async._paging.page import Page
from unpod_async._paging.pager import ListingIterator, Pager, SequentialWalk
from unpod_async._paging.stream import SendBatch
from unpod_async.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidArgument,
    UnpodError,
)
from unpod_async.models import Run, Task

__all__ = ["Failed", "Lookahead", "Ok", "OnRunError", "fan_out"]

T = TypeVar("T")
OnRunError: TypeAlias = Literal["raise", "yield"]


class Ok(NamedTuple):
    """A task that `runs.tasks_for` read with errors="yield".

    Attributes:
        run_id: id of the task's run.
        task: the task.
    """

    run_id: str
    task: Task


class Failed(NamedTuple):
    """A run that `runs.tasks_for` could not read completely, with errors="yield".

    Tasks of the run may have been yielded before as `Ok`.

    Attributes:
        run_id: id of the run; "" for a `Run` without one.
        error: the error that ended the run's listing.
    """

    run_id: str
    error: UnpodError


_FATAL = (AuthenticationError, ConfigurationError)
"""Errors that end the whole job even with errors="yield", because every other run would fail the same way."""


async def fan_out(
    runs: Iterable[str | Run] | AsyncIterable[str | Run],
    walk_of: Callable[[str], SequentialWalk[Task]],
    send: SendBatch[Any],
    *,
    concurrency: int,
    ordered: bool,
    yields_errors: bool,
) -> None:
    """Read the tasks of many runs and send them page by page.

    Args:
        runs: the runs, as ids or `Run`s.
        walk_of: starts the walk over the tasks of a run; raises InvalidArgument for an invalid id.
        send: receives each batch of rows.
        concurrency: number of workers.
        ordered: send the rows in the order of the runs.
        yields_errors: send `Ok` and `Failed` instead of tasks.

    Raises:
        UnpodError: listing the runs failed, after the runs listed before have been read; or, unless
            `yields_errors`, reading a run failed.
    """
    queue = _RunQueue(runs)
    turns = _Turns() if ordered else None

    async def work() -> None:
        while (entry := await queue.get()) is not None:
            number, run_id = entry
            try:
                walk = walk_of(run_id)
                while (page := await walk.next_page()) is not None:
                    items = page.items
                    rows = [Ok(run_id, task) for task in items] if yields_errors else items
                    await deliver(number, rows, last=turns is not None and walk.at_end)
            except UnpodError as error:
                if not yields_errors or isinstance(error, _FATAL):
                    raise
                await deliver(number, [Failed(run_id, error)], last=True)
            else:
                await deliver(number, (), last=True)

    async def deliver(number: int, rows: Sequence[Any], *, last: bool) -> None:
        if turns is not None:
            await turns.wait_for(number)
            if last:  # the next runs can queue their pages before the reader has processed this one
                turns.finish(number)
        await send(rows)  # queues the rows before any other task runs

    try:
        await run_workers(concurrency, work)
    finally:
        await queue.aclose()
    if queue.error is not None:
        raise queue.error


class Lookahead(Generic[T]):
    """Rows of a `Pager`. The next page is requested when the first row of a page is taken.

    Without it, all workers of a fan-out wait for each page of runs: with 2,000 runs and 50 ms per response,
    20 times 50 ms. The iterator runs a background task, so the code that creates the iterator must close it.
    """

    def __init__(self, pager: Pager[T]) -> None:
        self._pager = pager

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        pages = self._pager.pages()
        coming = asyncio.create_task(_next_page(pages))
        try:
            while (page := await coming) is not None:
                coming = asyncio.create_task(_next_page(pages))
                for row in page.items:
                    yield row
        finally:
            cancelled = await cancel_and_wait([coming])
            await pages.aclose()
            if cancelled is not None:
                raise cancelled


async def _next_page(pages: ListingIterator[Page[T]]) -> Page[T] | None:
    return await anext(pages, None)


class _RunQueue:
    """Hands out the runs one by one. If listing them fails, the runs handed out before are still read.

    Attributes:
        error: the error that ended the listing of runs, or None.
    """

    def __init__(self, runs: Iterable[str | Run] | AsyncIterable[str | Run]) -> None:
        self._runs: AsyncIterator[str | Run] = (
            aiter(runs) if isinstance(runs, AsyncIterable) else _AsyncIterator(runs)
        )
        # An iterator that was passed in belongs to the caller; one that was created here is closed here.
        own: object = None if self._runs is runs else self._runs
        self._close_own: Callable[[], Awaitable[object]] | None = getattr(own, "aclose", None)
        self._number = 0
        self._lock = anyio.Lock(fast_acquire=True)  # otherwise each run takes two turns of the event loop
        self._ended = False
        self.error: UnpodError | None = None

    async def get(self) -> tuple[int, str] | None:
        """Return the number, counted from 0, and the id of the next run; None at the end."""
        async with self._lock:
            if self._ended:
                return None
            try:
                run = await anext(self._runs)
            except StopAsyncIteration:
                self._ended = True
                return None
            except UnpodError as error:
                self._ended = True
                if isinstance(error, _FATAL):
                    raise
                self.error = error
                return None
            number, self._number = self._number, self._number + 1
            return number, _run_id(run)

    async def aclose(self) -> None:
        """Close the iterator if it was created here."""
        if self._close_own is not None:
            await self._close_own()


class _Turns:
    """Makes the workers of later runs wait until all earlier runs are finished.

    Each waiting worker has an event of its own. With one event for all, 31 workers would wake up after every
    run to find that it is not their turn, which took 2.5 ms per run instead of 0.05 ms.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._waiting: dict[int, anyio.Event] = {}

    async def wait_for(self, number: int) -> None:
        """Wait until all runs before run `number` are finished."""
        if number > self._turn:
            event = self._waiting[number] = anyio.Event()
            await event.wait()

    def finish(self, number: int) -> None:
        """Let the next run continue. Does nothing if run `number` was finished before."""
        if number == self._turn:
            self._turn += 1
            following = self._waiting.pop(self._turn, None)
            if following is not None:
                following.set()


def _run_id(run: object) -> str:
    if isinstance(run, Run):
        return run.run_id or ""  # refused like an invalid id: one bad run does not end the job
    if not isinstance(run, str):
        raise InvalidArgument("runs must contain run ids or Run objects only", argument="runs")
    return run


class _AsyncIterator(AsyncIterator[str | Run]):
    """An iterable as an async iterator."""

    def __init__(self, runs: Iterable[str | Run]) -> None:
        self._runs = iter(runs)

    async def __anext__(self) -> str | Run:
        for run in self._runs:
            return run
        raise StopAsyncIteration
