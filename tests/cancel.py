"""Cancel a coroutine at each of its suspension points, and check that it ends and leaves nothing open. Or
destroy it at one."""

from __future__ import annotations

import asyncio
import types
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

__all__ = ["cancel_everywhere", "cancel_step", "destroy"]


class _CancelAt:
    """Await `awaitable`, and cancel its task while it is suspended for the `point`-th time.

    An awaitable is a generator underneath, and everything it waits for passes through send() and throw():
    that is where suspensions can be counted without touching what is being tested.
    """

    def __init__(self, awaitable: Awaitable[Any], point: int, *, late: bool) -> None:
        self._steps: Generator[Any, Any, Any] = awaitable.__await__()
        self._point, self._late = point, late
        self.suspensions = 0
        self.cancelled = False  # cancellation was requested

    def __await__(self) -> _CancelAt:
        return self

    def __iter__(self) -> _CancelAt:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._suspended(self._steps.send(value))

    def throw(self, *error: Any) -> Any:
        # An await in an except or finally block suspends here.
        return self._suspended(self._steps.throw(*error))

    def close(self) -> None:
        self._steps.close()

    def _suspended(self, waits_for: Any) -> Any:
        self.suspensions += 1
        if self.suspensions == self._point:
            task = asyncio.current_task()
            assert task is not None
            if self._late and asyncio.isfuture(waits_for):
                # Registered before the wake-up of the task, so it runs first: the result is there, and the
                # cancellation arrives in the same turn. This is how a connection just acquired gets lost.
                waits_for.add_done_callback(lambda _: self._cancel(task))
            else:
                # Not at once: the task is suspended only after this returns.
                asyncio.get_running_loop().call_soon(self._cancel, task)
        return waits_for

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        self.cancelled = task.cancel()


async def cancel_everywhere(
    make_coroutine: Callable[[], Awaitable[Any]],
    *,
    at_most: int = 500,
    late: bool = False,
    after_each: Callable[[int], object] | None = None,
) -> int:
    """Run `make_coroutine()` in fresh tasks, cancelled at suspension point 1, 2, 3, ... until one is not.

    Each cancelled run must end in a bare CancelledError; `after_each(point)`, an ordinary function, may check
    what else has to hold then. With `late`, the request comes when what the point waits for is already done.
    What the uncancelled run raises is raised. Returns the number of points, at most `at_most`.

    Points are those of the coroutine itself: tasks it starts are suspended on their own account.
    """
    for point in range(1, at_most + 2):
        driver, task = await _run(make_coroutine(), point, late=late)
        if driver.suspensions < point:
            task.result()
            return point - 1
        if driver.cancelled:  # False if, with `late`, the task was done before the future it waited for
            _judge(task, point)
        if after_each is not None:
            after_each(point)
    raise AssertionError(f"still not through after {at_most} suspension points")


async def cancel_step(step: Awaitable[Any], point: int, *, late: bool = False) -> asyncio.Task[Any]:
    """Run `step` in a fresh task that is cancelled at this suspension point; return the task, which is done.

    A step with fewer points ends as it would without a cancellation.
    """
    driver, task = await _run(step, point, late=late)
    if driver.cancelled:
        _judge(task, point)
    return task


@types.coroutine
def destroy(
    coroutine: Coroutine[Any, Any, Any], *, when: Callable[[], bool], elsewhere: bool = False
) -> Generator[Any, Any, None]:
    """Run a coroutine in this task. When it is suspended and `when()` is true, close it.

    The garbage collector does this to a task that nobody refers to. With `elsewhere`, it happens in another
    context.
    """
    value = None
    while True:
        waits_for = coroutine.send(value)
        if when():
            if elsewhere:
                copy_context().run(coroutine.close)
            else:
                coroutine.close()
            return
        value = yield waits_for


async def _run(awaitable: Awaitable[Any], point: int, *, late: bool) -> tuple[_CancelAt, asyncio.Task[Any]]:
    driver = _CancelAt(awaitable, point, late=late)

    async def run() -> Any:
        return await driver

    task = asyncio.ensure_future(run())
    try:
        # wait() instead of `await task`: it must be clear whose CancelledError is raised.
        await asyncio.wait({task})
    finally:
        if not task.done():  # the caller was cancelled
            task.cancel()
            await asyncio.wait({task})
    return driver, task


def _judge(task: asyncio.Task[Any], point: int) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        raise AssertionError(f"cancelled at point {point}, and went on to return {task.result()!r}")
    if isinstance(error, BaseExceptionGroup) and error.subgroup(asyncio.CancelledError):
        raise AssertionError(f"cancelled at point {point}: CancelledError came out in a group") from error
    raise AssertionError(f"cancelled at point {point}: {error!r} came out instead") from error
