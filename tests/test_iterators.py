"""A cancelled step of an iterator loses no item and repeats none; an iterator leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest

from tests.cancel import cancel_step
from tests.raw_server import RawConnection, RawServer, json_response
from tests.tables import each_row
from unpod_async import (
    ConfigurationError,
    DecodeError,
    IncompleteListing,
    Page,
    PermissionDeniedError,
    ServerError,
    UnpodClient,
    UnpodError,
)
from unpod_async.testing import Fault, Oddities, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Open = Callable[[UnpodClient, str, AsyncExitStack], Awaitable[AsyncIterator[Any]]]

SPACE = "SPACEMAIN000000000000001"


# --- the kinds of iterators --------------------------------------------------------------------------------


async def rows(unpod: UnpodClient, space: str, _: AsyncExitStack) -> AsyncIterator[Any]:
    return aiter(unpod.runs.list(space))


async def pages(unpod: UnpodClient, space: str, _: AsyncExitStack) -> AsyncIterator[Any]:
    return unpod.runs.list(space).pages()


async def raw(unpod: UnpodClient, space: str, _: AsyncExitStack) -> AsyncIterator[Any]:
    return unpod.runs.list(space).raw()


async def unpaged(unpod: UnpodClient, space: str, _: AsyncExitStack) -> AsyncIterator[Any]:
    return aiter(unpod.organizations.list())


async def prefetch(unpod: UnpodClient, space: str, stack: AsyncExitStack) -> AsyncIterator[Any]:
    return aiter(await stack.enter_async_context(unpod.runs.list(space).prefetch(3)))


async def prefetch_one(unpod: UnpodClient, space: str, stack: AsyncExitStack) -> AsyncIterator[Any]:
    return aiter(await stack.enter_async_context(unpod.runs.list(space).prefetch(1)))


async def tasks_for(unpod: UnpodClient, space: str, stack: AsyncExitStack) -> AsyncIterator[Any]:
    return aiter(await stack.enter_async_context(unpod.runs.tasks_for(space, concurrency=2)))


async def tasks_in_order(unpod: UnpodClient, space: str, stack: AsyncExitStack) -> AsyncIterator[Any]:
    stream = unpod.runs.tasks_for(space, concurrency=2, ordered=True, errors="yield")
    return aiter(await stack.enter_async_context(stream))


LISTINGS: list[Open] = [rows, pages, raw, unpaged]
STREAMS: list[Open] = [prefetch, prefetch_one, tasks_for, tasks_in_order]


def items_of(got: list[Any]) -> list[str]:
    """Return all rows of what an iterator yielded, sorted: rows of several runs come in any order."""
    return sorted(repr(row) for one in got for row in (one.items if isinstance(one, Page) else [one]))


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    async with (
        Sandbox(runs=5, tasks_per_run=3) as sandbox,
        UnpodClient(
            sandbox.jwt,
            sandbox.org_handle,
            sandbox.base_url,
            auth_scheme="JWT",
            **{"page_size": 2, "max_concurrency": 2, "retry": None, **options},
        ) as unpod,
    ):
        yield sandbox, unpod


def in_use(unpod: UnpodClient) -> list[Any]:
    session = unpod._context.executor.transport.sessions.reads
    return [] if session is None or session.connector is None else [*session.connector._acquired]


def tasks_of_client() -> set[asyncio.Task[Any]]:
    """Return all tasks except those in which asyncio, aiohttp and the raw server serve."""
    of_server = ("RequestHandler.", "BaseSelectorEventLoop._accept", "RawServer.")
    return {
        task
        for task in asyncio.all_tasks()
        if not getattr(task.get_coro(), "__qualname__", "").startswith(of_server)
    }


async def settle() -> None:
    """Run the event loop until nothing else can continue without the test; no time has to pass."""
    for _ in range(50):
        await asyncio.sleep(0)


# --- cancelled steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True], ids=["", "late"])
@pytest.mark.parametrize("kind", [*LISTINGS, *STREAMS])
async def test_steps_cancelled_at_any_point_lose_nothing(kind: Open, late: bool) -> None:
    async with serving() as (sandbox, unpod):
        async with AsyncExitStack() as stack:
            everything = [one async for one in await kind(unpod, sandbox.space_token, stack)]
        requests = sandbox.requests
        before = tasks_of_client()
        for point in range(1, 100):
            sandbox.log.clear()
            got: list[Any] = []
            cancelled = 0
            async with AsyncExitStack() as stack:
                iterator = await kind(unpod, sandbox.space_token, stack)
                while True:  # every step is cancelled that has so many suspension points
                    step = await cancel_step(anext(iterator), point, late=late)
                    if step.cancelled():
                        cancelled += 1
                    elif isinstance(step.exception(), StopAsyncIteration):
                        break
                    else:
                        got.append(step.result())
            del iterator, step
            assert items_of(got) == items_of(everything), f"point {point}"
            # Only the first cancelled step of an iterator drops its request.
            assert requests <= len(sandbox.log) + cancelled
            assert len(sandbox.log) <= requests + (1 if kind in LISTINGS and cancelled else 0)
            assert tasks_of_client() == before, f"point {point}"
            assert in_use(unpod) == [], f"point {point}"
            if not cancelled:
                assert len(sandbox.log) == requests
                break
        assert point > 1


class Steps:
    """Ways to end a step while it waits for a response. `interrupt` is called when the request arrived."""

    def __init__(self) -> None:
        self.interrupt: Callable[[], object] = lambda: None

    async def by_cancel(self, step: Awaitable[Any]) -> bool:
        task = asyncio.ensure_future(step)
        self.interrupt = task.cancel
        await asyncio.wait([task])
        return task.cancelled()

    async def by_timeout(self, step: Awaitable[Any]) -> bool:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                self.interrupt = lambda: limit.reschedule(loop.time())
                await step
        except TimeoutError:
            return True
        return False

    async def by_scope(self, step: Awaitable[Any]) -> bool:
        with anyio.CancelScope() as scope:
            self.interrupt = scope.cancel
            await step
        return scope.cancelled_caught

    async def by_wait_for(self, step: Awaitable[Any]) -> bool:
        async def waiting() -> bool:
            try:
                await asyncio.wait_for(step, 3600)
            except asyncio.CancelledError:
                return True
            return False

        task = asyncio.create_task(waiting())
        self.interrupt = task.cancel
        return await task


class Holding:
    """A server of ten runs. A test can hold its responses back and cancel the steps that wait for them."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.hold = asyncio.Event()
        self.hold.set()
        self.requested: list[int] = []

    async def __call__(self, connection: RawConnection) -> None:
        while (request := await connection.read_request()) is not None:
            query = parse_qs(urlsplit(request.split(b" ")[1].decode()).query)
            page, size = int(query["page"][0]), int(query["page_size"][0])
            self.requested.append(page)
            if not self.hold.is_set():
                self.steps.interrupt()
                await self.hold.wait()
            runs = [{"run_id": f"r{number}", "created": "2026-01-01T00:00:00"} for number in range(10)]
            shown = runs[(page - 1) * size : page * size]
            await connection.send(json_response({"status_code": 200, "count": 10, "data": shown}))


@asynccontextmanager
async def holding() -> AsyncIterator[tuple[Holding, UnpodClient]]:
    handler = Holding()
    async with (
        RawServer(handler) as server,
        UnpodClient("t0ken", "acme", server.base_url, page_size=4, max_concurrency=1, retry=None) as unpod,
    ):
        yield handler, unpod


WAYS = [Steps.by_cancel, Steps.by_timeout, Steps.by_scope, Steps.by_wait_for]


@each_row("way", WAYS)
@each_row("times", [1, 2, 5])
@each_row("kind", [rows, pages, raw])
async def test_steps_shorter_than_a_response_make_progress(
    kind: Open, times: int, way: Callable[[Steps, Awaitable[Any]], Awaitable[bool]]
) -> None:
    async with holding() as (server, unpod), AsyncExitStack() as stack:
        everything = [one async for one in await kind(unpod, SPACE, stack)]
        requests = len(server.requested)
        iterator = await kind(unpod, SPACE, stack)
        got: list[Any] = [await anext(iterator) for _ in range(1 if kind is pages else 4)]
        server.hold.clear()
        for number in range(times):
            if number > 1:  # the request of the step before is still in flight
                asyncio.get_running_loop().call_later(0, lambda: server.steps.interrupt())
            assert await way(server.steps, anext(iterator))
        assert server.requested.count(2) == 1 + min(times, 2)
        server.hold.set()
        got += [one async for one in iterator]
        assert items_of(got) == items_of(everything)
        # The first cancelled step dropped its request. Those after it did not.
        assert len(server.requested) == 2 * requests + 1
        del iterator


async def test_a_response_that_arrived_between_two_steps_is_used() -> None:
    async with holding() as (server, unpod):
        iterator = aiter(unpod.runs.list(SPACE))
        before = tasks_of_client()
        server.hold.clear()
        for _ in range(2):
            assert await server.steps.by_cancel(anext(iterator))
        requests = len(server.requested)
        server.hold.set()
        await asyncio.wait(tasks_of_client() - before)
        step = anext(iterator)
        with pytest.raises(StopIteration):  # otherwise it waits for something
            step.send(None)
        assert len(server.requested) == requests


@each_row("closes", [False, True])
@each_row("cancelled", [0, 1, 2, 3])
@each_row("kind", [rows, pages, raw])
async def test_an_iterator_that_is_dropped_leaves_nothing(kind: Open, cancelled: int, closes: bool) -> None:
    async with holding() as (server, unpod), AsyncExitStack() as stack:
        reports: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        before = tasks_of_client()
        iterator: Any = await kind(unpod, SPACE, stack)
        server.hold.clear()
        for number in range(cancelled):
            if number > 1:
                asyncio.get_running_loop().call_later(0, lambda: server.steps.interrupt())
            assert await server.steps.by_cancel(anext(iterator))
        assert len(tasks_of_client() - before) == (cancelled > 1)
        server.steps.interrupt = lambda: None  # it refers to the last step
        gone = weakref.ref(iterator)
        if closes:
            await iterator.aclose()
            assert tasks_of_client() == before
            assert in_use(unpod) == []
            with pytest.raises(StopAsyncIteration):
                await anext(iterator)
            await iterator.aclose()
        del iterator
        if sys.version_info >= (3, 14):
            gc.collect()  # the error of the cancelled step, with its frames, lives until then
        assert gone() is None  # without the garbage collector on older versions
        await settle()
        assert tasks_of_client() == before
        assert in_use(unpod) == []
        server.hold.set()
        assert len(await unpod.runs.list(SPACE).collect()) == 10  # the only slot is free
        gc.collect()
        assert reports == []


@each_row("cancelled", [0, 1, 2])
@each_row("kind", [rows, pages, raw])
async def test_an_iterator_can_be_closed_while_a_step_waits(kind: Open, cancelled: int) -> None:
    async with holding() as (server, unpod), AsyncExitStack() as stack:
        before = tasks_of_client()
        iterator: Any = await kind(unpod, SPACE, stack)
        server.hold.clear()
        for number in range(cancelled):
            if number > 1:
                asyncio.get_running_loop().call_later(0, lambda: server.steps.interrupt())
            assert await server.steps.by_cancel(anext(iterator))
        server.steps.interrupt = lambda: None
        step = asyncio.ensure_future(anext(iterator))
        await settle()
        await iterator.aclose()
        server.hold.set()
        await asyncio.wait([step])
        assert isinstance(step.exception(), StopAsyncIteration)
        with pytest.raises(StopAsyncIteration):
            await anext(iterator)
        assert tasks_of_client() == before


async def test_an_iterator_in_aclosing_ends_with_the_block() -> None:
    async with serving() as (sandbox, unpod):
        for open_iterator in (rows, pages, raw):
            async with (
                AsyncExitStack() as stack,
                aclosing(
                    await open_iterator(unpod, sandbox.space_token, stack)  # type: ignore[type-var]
                ) as iterator,
            ):
                await anext(iterator)
            assert [one async for one in iterator] == []


async def test_the_background_request_of_a_closed_client_raises_its_error() -> None:
    async with holding() as (server, unpod):
        iterator = aiter(unpod.runs.list(SPACE))
        server.hold.clear()
        for _ in range(2):
            assert await server.steps.by_cancel(anext(iterator))
        await unpod.aclose(grace=0)
        for _ in range(3):
            with pytest.raises(UnpodError, match="closed"):
                await anext(iterator)


async def test_a_background_request_that_other_code_cancels_is_sent_again() -> None:
    async with holding() as (server, unpod):
        iterator = aiter(unpod.runs.list(SPACE))
        before = tasks_of_client()
        server.hold.clear()
        for _ in range(2):
            assert await server.steps.by_cancel(anext(iterator))
        for task in tasks_of_client() - before:
            task.cancel()
        server.hold.set()
        assert len([row async for row in iterator]) == 10


# --- one reader at a time ----------------------------------------------------------------------------------


@each_row("kind", [*LISTINGS, *STREAMS])
async def test_two_tasks_cannot_wait_for_the_next_item_of_one_iterator(kind: Open) -> None:
    async with serving() as (sandbox, unpod), AsyncExitStack() as stack:
        everything = [one async for one in await kind(unpod, sandbox.space_token, stack)]
        iterator = await kind(unpod, sandbox.space_token, stack)
        first = asyncio.ensure_future(anext(iterator))
        await asyncio.sleep(0)
        with pytest.raises(ConfigurationError, match="another task waits for the next") as refused:
            await anext(iterator)
        assert refused.value.hint is not None
        got = [await first]
        got += [one async for one in iterator]
        assert items_of(got) == items_of(everything)


# --- the end, and errors -----------------------------------------------------------------------------------


@each_row("kind", [*LISTINGS, *STREAMS])
async def test_an_iterator_at_its_end_stays_there(kind: Open) -> None:
    async with serving() as (sandbox, unpod), AsyncExitStack() as stack:
        iterator = await kind(unpod, sandbox.space_token, stack)
        assert [one async for one in iterator] != []
        requests = sandbox.requests
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await anext(iterator)
        assert sandbox.requests == requests
        await stack.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(iterator)


@each_row("kind", [rows, pages, raw, prefetch, prefetch_one, tasks_for])
@each_row(
    ("fault", "error"),
    [
        (Fault(page=2, status=502, times=99), ServerError),
        (Fault(page=2, status=403, times=99), PermissionDeniedError),
        (Fault(page=1, status=403, times=99), PermissionDeniedError),
    ],
)
async def test_an_error_is_raised_by_every_further_step(
    kind: Open, fault: Fault, error: type[UnpodError]
) -> None:
    async with serving() as (sandbox, unpod), AsyncExitStack() as stack:
        sandbox.script(fault)
        await _check_error(sandbox, await kind(unpod, sandbox.space_token, stack), error, stack)


async def _check_error(
    sandbox: Sandbox, iterator: AsyncIterator[Any], expected: type[UnpodError], stack: AsyncExitStack
) -> None:
    with pytest.raises(expected) as first:
        async for _ in iterator:
            pass
    requests = sandbox.requests
    for _ in range(3):
        with pytest.raises(expected) as again:
            await anext(iterator)
        assert again.value is first.value
    assert sandbox.requests == requests
    await stack.aclose()  # leaves the block of a stream
    with pytest.raises(expected):
        await anext(iterator)


@each_row("kind", [rows, pages, raw, prefetch])
@each_row("error", [DecodeError, IncompleteListing])
async def test_the_error_at_the_end_of_a_listing_is_raised_again(kind: Open, error: type[UnpodError]) -> None:
    async with serving() as (sandbox, unpod), AsyncExitStack() as stack:
        if error is DecodeError:
            sandbox.poison(sandbox.run_ids()[2])
        else:
            sandbox.page_oddly(Oddities(count="high"))
        await _check_error(sandbox, await kind(unpod, sandbox.space_token, stack), error, stack)


# --- watches -----------------------------------------------------------------------------------------------


@each_row("way", WAYS)
async def test_a_watch_survives_quiet_steps(
    way: Callable[[Steps, Awaitable[Any]], Awaitable[bool]],
) -> None:
    async with serving() as (sandbox, unpod), unpod.runs.watch(sandbox.space_token, interval=0.01) as watch:
        events = aiter(watch)
        seen = [await anext(events) for _ in range(5 + 15)]
        steps = Steps()
        for _ in range(3):
            asyncio.get_running_loop().call_later(0, lambda: steps.interrupt())
            assert await way(steps, anext(events))
        run = sandbox.insert_run(1)
        seen += [await anext(events) for _ in range(2)]
        assert [type(event).__name__ for event in seen[20:]] == ["RunSeen", "TaskSeen"]
        assert {run} == {event.run_id for event in seen[20:]}  # type: ignore[attr-defined]
        assert len(set(map(repr, seen))) == len(seen)


async def test_a_watch_counts_an_event_as_reported_when_a_step_returns_it() -> None:
    async with serving() as (sandbox, unpod), unpod.runs.watch(sandbox.space_token, interval=0.01) as watch:
        events = aiter(watch)
        taken: list[Any] = []
        while len(taken) < 20:
            step = await cancel_step(anext(events), 1, late=True)
            if not step.cancelled():
                taken.append(step.result())
            runs = watch.state.spaces[sandbox.space_token].runs.values()
            reported = sum(len(task_ids) for run in runs for task_ids in run.tasks.values())
            assert reported == sum(type(event).__name__ == "TaskSeen" for event in taken)


async def test_a_watch_raises_its_error_again() -> None:
    async with serving() as (sandbox, unpod), AsyncExitStack() as stack:
        sandbox.script(Fault(status=403, times=99))
        watch = await stack.enter_async_context(unpod.runs.watch(sandbox.space_token, interval=0.01))
        await _check_error(sandbox, aiter(watch), PermissionDeniedError, stack)
