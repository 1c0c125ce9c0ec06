"""Iterations that end at any item, or are cancelled at any suspension point, leave nothing open."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.cancel import cancel_everywhere
from tests.raw_server import RawConnection, RawServer, json_response
from unpod_async import UnpodClient
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Use = Callable[[UnpodClient, Sandbox], Awaitable[object]]

# Few slots: if a cancellation loses one, the next run hangs.
SLOTS = 2
DOCUMENTS = [{"name": "Ann Example", "contact_number": "+490000000"}]


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    async with (
        Sandbox(runs=3, tasks_per_run=3) as sandbox,
        UnpodClient(
            sandbox.jwt,
            sandbox.org_handle,
            sandbox.base_url,
            auth_scheme="JWT",
            page_size=2,
            max_concurrency=SLOTS,
            retry=None,
        ) as unpod,
    ):
        yield sandbox, unpod


def in_use(unpod: UnpodClient) -> list[Any]:
    held = unpod._context.executor.transport.sessions
    sessions = (held.reads, held.creates)
    connectors = [session.connector for session in sessions if session is not None]
    return [held for connector in connectors if connector is not None for held in connector._acquired]


def tasks_of_client() -> set[asyncio.Task[Any]]:
    """Return all tasks except those in which asyncio and aiohttp serve the sandbox."""
    of_server = ("RequestHandler.", "BaseSelectorEventLoop._accept")
    return {
        task
        for task in asyncio.all_tasks()
        if not getattr(task.get_coro(), "__qualname__", "").startswith(of_server)
    }


# --- every item --------------------------------------------------------------------------------------------


async def by_items(unpod: UnpodClient, sandbox: Sandbox, at: int) -> int:
    seen = 0
    async for _ in unpod.tasks.list(sandbox.space_token):
        seen += 1
        if seen == at:
            break
    return seen


async def by_pages(unpod: UnpodClient, sandbox: Sandbox, at: int) -> int:
    seen = 0
    async for _ in unpod.tasks.list(sandbox.space_token).pages():
        seen += 1
        if seen == at:
            break
    return seen


async def by_raw(unpod: UnpodClient, sandbox: Sandbox, at: int) -> int:
    seen = 0
    async for _ in unpod.tasks.list(sandbox.space_token).raw():
        seen += 1
        if seen == at:
            break
    return seen


async def by_prefetch(unpod: UnpodClient, sandbox: Sandbox, at: int) -> int:
    seen = 0
    async with unpod.tasks.list(sandbox.space_token).prefetch(3) as stream:
        async for _ in stream:
            seen += 1
            if seen == at:
                break
    return seen


async def by_tasks_for(unpod: UnpodClient, sandbox: Sandbox, at: int) -> int:
    seen = 0
    async with unpod.runs.tasks_for(sandbox.space_token, concurrency=2) as stream:
        async for _ in stream:
            seen += 1
            if seen == at:
                break
    return seen


async def by_tasks_for_ordered(unpod: UnpodClient, sandbox: Sandbox, at: int) -> int:
    seen = 0
    async with unpod.runs.tasks_for(sandbox.space_token, concurrency=2, ordered=True) as stream:
        async for _ in stream:
            seen += 1
            if seen == at:
                break
    return seen


async def by_tasks_for_with_errors(unpod: UnpodClient, sandbox: Sandbox, at: int) -> int:
    seen = 0
    async with unpod.runs.tasks_for(sandbox.space_token, concurrency=2, errors="yield") as stream:
        async for _ in stream:
            seen += 1
            if seen == at:
                break
    return seen


EACH = [by_items, by_raw, by_pages, by_prefetch, by_tasks_for, by_tasks_for_ordered, by_tasks_for_with_errors]


@pytest.mark.parametrize("walk", EACH)
async def test_a_break_at_any_item_leaves_nothing_open(
    walk: Callable[[UnpodClient, Sandbox, int], Awaitable[int]],
) -> None:
    items = 5 if walk is by_pages else 9
    async with serving() as (sandbox, unpod):
        before = tasks_of_client()
        for at in range(1, items + 1):
            assert await walk(unpod, sandbox, at) == at
            assert tasks_of_client() == before
            assert in_use(unpod) == []
        assert await walk(unpod, sandbox, items + 1) == items


# --- every suspension point --------------------------------------------------------------------------------


async def collect(unpod: UnpodClient, sandbox: Sandbox) -> None:
    assert len(await unpod.tasks.list(sandbox.space_token).collect()) == 9


async def items(unpod: UnpodClient, sandbox: Sandbox) -> None:
    assert await by_items(unpod, sandbox, 99) == 9


async def pages(unpod: UnpodClient, sandbox: Sandbox) -> None:
    assert await by_pages(unpod, sandbox, 99) == 5


async def raw(unpod: UnpodClient, sandbox: Sandbox) -> None:
    assert await by_raw(unpod, sandbox, 99) == 9


async def first(unpod: UnpodClient, sandbox: Sandbox) -> None:
    assert await unpod.runs.list(sandbox.space_token).first() is not None


async def count(unpod: UnpodClient, sandbox: Sandbox) -> None:
    assert await unpod.runs.list(sandbox.space_token).count() == 3


async def prefetch(unpod: UnpodClient, sandbox: Sandbox) -> None:
    assert await by_prefetch(unpod, sandbox, 99) == 9


async def tasks_for(unpod: UnpodClient, sandbox: Sandbox) -> None:
    assert await by_tasks_for(unpod, sandbox, 99) == 9


async def tasks_for_ordered(unpod: UnpodClient, sandbox: Sandbox) -> None:
    assert await by_tasks_for_ordered(unpod, sandbox, 99) == 9


async def tasks_for_and_break(unpod: UnpodClient, sandbox: Sandbox) -> None:
    # Leaving the block also suspends: it waits for the tasks.
    assert await by_tasks_for_ordered(unpod, sandbox, 4) == 4


async def tasks_for_of_a_generator(unpod: UnpodClient, sandbox: Sandbox) -> None:
    async def given() -> AsyncIterator[str]:
        for run_id in sandbox.run_ids():
            await asyncio.sleep(0)
            yield run_id

    async with unpod.runs.tasks_for(sandbox.space_token, given(), concurrency=2) as stream:
        assert len([task async for task in stream]) == 9


async def get_space(unpod: UnpodClient, sandbox: Sandbox) -> None:
    assert (await unpod.spaces.get(sandbox.space_token)).token == sandbox.space_token


async def waiting_for_a_slot(unpod: UnpodClient, sandbox: Sandbox) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(2 * SLOTS + 1):
            group.create_task(get_space(unpod, sandbox))


async def create(unpod: UnpodClient, sandbox: Sandbox) -> None:
    created = await unpod.tasks.create(
        sandbox.space_token, pilot=sandbox.agent_handle, documents=DOCUMENTS, context="c"
    )
    assert created.run_id is not None


USES: list[Use] = [
    collect,
    items,
    pages,
    raw,
    first,
    count,
    prefetch,
    tasks_for,
    tasks_for_ordered,
    tasks_for_and_break,
    tasks_for_of_a_generator,
    get_space,
    waiting_for_a_slot,
]


@pytest.mark.parametrize("late", [False, True], ids=["", "late"])
@pytest.mark.parametrize("use", USES)
async def test_a_cancellation_at_any_point_leaves_nothing_open(use: Use, late: bool) -> None:
    async with serving() as (sandbox, unpod):
        before = tasks_of_client()

        def nothing_left(point: int) -> None:
            assert tasks_of_client() == before, f"point {point}"
            assert in_use(unpod) == [], f"point {point}"

        points = await cancel_everywhere(lambda: use(unpod, sandbox), late=late, after_each=nothing_left)
        assert points >= 1
        nothing_left(points + 1)


@pytest.mark.parametrize("late", [False, True], ids=["", "late"])
@pytest.mark.parametrize("use", [collect, prefetch, tasks_for, get_space])
async def test_a_cancelled_first_use_of_a_client_leaves_nothing_open(use: Use, late: bool) -> None:
    async with Sandbox(runs=3, tasks_per_run=3) as sandbox:

        async def first_use() -> None:
            async with UnpodClient(
                sandbox.jwt, sandbox.org_handle, sandbox.base_url, auth_scheme="JWT", page_size=2, retry=None
            ) as unpod:
                await use(unpod, sandbox)

        before = tasks_of_client()

        def nothing_left(point: int) -> None:
            assert tasks_of_client() == before, f"point {point}"

        assert await cancel_everywhere(first_use, late=late, after_each=nothing_left) >= 1


@pytest.mark.parametrize("late", [False, True], ids=["", "late"])
async def test_a_create_cancelled_at_any_point_is_sent_once_at_most(late: bool) -> None:
    async with serving() as (sandbox, unpod):
        before = tasks_of_client()
        seen = [0]

        def once_at_most(point: int) -> None:
            assert tasks_of_client() == before, f"point {point}"
            assert in_use(unpod) == [], f"point {point}"
            assert sandbox.requests - seen[-1] <= 1, f"point {point}"
            seen.append(sandbox.requests)

        points = await cancel_everywhere(lambda: create(unpod, sandbox), late=late, after_each=once_at_most)
        assert points >= 3
        # Requests that arrived after their cancellation also arrived once.
        assert len(sandbox.ledger) <= sandbox.requests <= points + 1


@pytest.mark.parametrize("late", [False, True], ids=["", "late"])
async def test_closing_that_is_cancelled_still_closes(late: bool) -> None:
    async with Sandbox(runs=3, tasks_per_run=3) as sandbox:
        clients: list[UnpodClient] = []

        async def use_and_close() -> None:
            unpod = UnpodClient(
                sandbox.jwt, sandbox.org_handle, sandbox.base_url, auth_scheme="JWT", retry=None
            )
            clients.append(unpod)
            try:
                await get_space(unpod, sandbox)
                await create(unpod, sandbox)
            finally:
                await unpod.aclose()

        def all_closed(point: int) -> None:
            held = clients[-1]._context.executor.transport.sessions
            for session in (held.reads, held.creates):
                assert session is None or session.closed, f"point {point}"

        try:
            await cancel_everywhere(use_and_close, late=late, after_each=all_closed)
        finally:
            for unpod in clients:
                await unpod.aclose()


async def test_closing_ends_requests_in_flight() -> None:
    arrived = asyncio.Event()

    async def never(connection: RawConnection) -> None:
        while await connection.read_request():
            arrived.set()
            await asyncio.get_running_loop().create_future()

    async with RawServer(never) as server:
        unpod = UnpodClient("t0ken", "acme", server.base_url, retry=None)
        reading = asyncio.ensure_future(unpod.spaces.get("S"))
        await arrived.wait()
        await unpod.aclose(grace=0)
        await asyncio.wait({reading})
        assert type(reading.exception()).__name__ == "TransportError"


async def test_a_request_that_waits_for_a_slot_is_not_sent_once_the_client_is_closed() -> None:
    arrived, answers = asyncio.Event(), asyncio.Event()

    async def hold(connection: RawConnection) -> None:
        while await connection.read_request():
            arrived.set()
            await answers.wait()
            await connection.send(json_response({"data": {"token": "S"}}))

    async with RawServer(hold) as server:
        unpod = UnpodClient("t0ken", "acme", server.base_url, max_concurrency=1, retry=None)
        sent = asyncio.ensure_future(unpod.spaces.get("S"))
        await arrived.wait()
        waiting = asyncio.ensure_future(unpod.spaces.get("S"))
        await asyncio.sleep(0)
        await unpod.aclose(grace=0)
        answers.set()
        await asyncio.wait({sent, waiting})
        await unpod.aclose()
        assert type(sent.exception()).__name__ == "TransportError"
        assert type(waiting.exception()).__name__ == "TransportError"
        assert len(server.requests) == 1
