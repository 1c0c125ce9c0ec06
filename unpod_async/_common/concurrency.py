"""Run workers and stoppable threads, limit the time of a block, wait for tasks, know whom they work for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from math import inf
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

__all__ = [
    "CallerContext",
    "Stopped",
    "TimeLimit",
    "caller_context",
    "cancel_and_wait",
    "ignore_error",
    "join_shielded",
    "run_stoppable",
    "run_workers",
]

T = TypeVar("T")

_caller: ContextVar[CallerContext | None] = ContextVar("unpod_async_caller", default=None)


class CallerContext:
    """The context variables of the code that waits for background tasks, such as the span of its trace.

    A task has the context in which it was created. A task that serves a reader for a long time works for
    whatever the reader does now.

    Attributes:
        current: the context of the caller at the last `update`.
    """

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.update()

    def update(self) -> None:
        """Note the context of this code as that of the caller."""
        outer = caller_context()
        self.current: Context = copy_context() if outer is None else outer

    def adopt(self) -> None:
        """Make this the caller for the current task and the tasks that it creates from now on."""
        _caller.set(self)


def caller_context() -> Context | None:
    """Return the context of the caller, or None if this code runs in the task of the caller itself."""
    caller = _caller.get()
    return None if caller is None else caller.current


class TimeLimit:
    """`async with TimeLimit(seconds) as limit:` ends the block after some seconds, without an error.

    `anyio.move_on_after` does the same. But before anyio 4.16, if the task is cancelled in the turn of the
    event loop in which the time ends, the cancellation is lost and the task continues.

    Attributes:
        passed: Whether the time ended the block.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._timeout = asyncio.timeout(None if seconds == inf else seconds)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            self.passed = True
        return self.passed


async def join_shielded(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until `future` is done, even if this task is cancelled. The result of `future` is not retrieved.

    Returns:
        The cancellation that was requested meanwhile, or None. The caller raises it after its cleanup.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            # A cancelled scope cancels again in each iteration of the loop, so it is shielded. A task can be
            # cancelled any number of times, so this is a loop.
            with anyio.CancelScope(shield=True):
                await asyncio.wait([future])
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    return cancelled


async def cancel_and_wait(tasks: Sequence[asyncio.Task[Any]]) -> asyncio.CancelledError | None:
    """Cancel tasks and wait until all have ended. Their errors are discarded.

    Returns:
        The cancellation of this task that was requested meanwhile, or None, as `join_shielded`.
    """
    cancelled: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    for task in tasks:
        cancelled = await join_shielded(task) or cancelled
        ignore_error(task)
    return cancelled


def ignore_error(future: asyncio.Future[Any]) -> None:
    """Retrieve the error of a future that is done. Otherwise the loop logs that it was never retrieved."""
    if not future.cancelled():
        future.exception()


class Stopped(Exception):
    """A blocking function was asked to stop; see `run_stoppable`."""


async def run_stoppable(work: Callable[[Callable[[], bool]], T]) -> T:
    """Run a blocking function in a thread. If the caller is cancelled, wait until it has stopped.

    Args:
        work: Gets a function that returns whether to stop. It asks it often, and raises `Stopped`.
    """
    stop = threading.Event()
    running = asyncio.get_running_loop().run_in_executor(None, work, stop.is_set)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await join_shielded(running)
        ignore_error(running)
        raise


async def run_workers(n: int, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` in `n` concurrent tasks until all of them have ended.

    Raises:
        Exception: the first error of a worker, not wrapped in a group; it cancels the other workers.
    """
    if n == 1:
        await work()
        return
    errors: list[Exception] = []

    async def guarded() -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - raised below, outside the group that would wrap it
            errors.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for _ in range(n):
            tasks.start_soon(guarded)
    if errors:
        raise errors[0]
