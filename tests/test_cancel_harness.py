"""The cancellation harness finds every suspension point and every kind of cancellation error."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import anyio
import pytest

from tests.cancel import cancel_everywhere
from tests.raw_server import RawConnection, RawServer, json_response


async def points(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
async def test_every_point_is_found(count: int, late: bool) -> None:
    assert await cancel_everywhere(lambda: points(count), late=late) == count


async def test_each_run_is_cancelled_where_it_should_be() -> None:
    reached: list[int] = []
    seen: list[int] = []

    async def steps() -> None:
        reached.append(0)
        for number in range(1, 4):
            await asyncio.sleep(0)
            reached[-1] = number

    assert await cancel_everywhere(steps, after_each=seen.append) == 3
    assert reached == [0, 1, 2, 3]  # one run each, which reached that point
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("late", [False, True])
async def test_futures_timers_and_scopes(late: bool) -> None:
    async def mixed() -> str:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "done")
        with anyio.fail_after(30):
            assert await future == "done"
            await asyncio.sleep(0.001)
        async with anyio.create_task_group() as group:
            group.start_soon(points, 3)
        try:
            await points(1)
        finally:
            await points(1)  # suspended from throw() when cancelled before
        return "through"

    assert await cancel_everywhere(mixed, late=late) >= 5


async def test_late_comes_with_the_result() -> None:
    lost: list[object] = []

    async def acquire(late: bool) -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def connect() -> None:
            if not future.done():  # on a slow machine, it may have been cancelled in this turn
                future.set_result("connection")

        timer = asyncio.get_running_loop().call_later(0.001, connect)
        try:
            await future
        except asyncio.CancelledError:
            timer.cancel()
            lost.append(future.result() if not future.cancelled() else None)
            raise

    assert await cancel_everywhere(lambda: acquire(False)) == 1
    assert await cancel_everywhere(lambda: acquire(True), late=True) == 1
    assert lost == [None, "connection"]


async def test_swallowed() -> None:
    async def swallows() -> str:
        await points(1)
        with contextlib.suppress(asyncio.CancelledError):
            await points(1)
        return "all well"

    with pytest.raises(AssertionError, match="cancelled at point 2, and went on to return 'all well'"):
        await cancel_everywhere(swallows)


async def test_in_a_group() -> None:
    async def groups() -> None:
        try:
            await points(1)
        except asyncio.CancelledError as error:
            raise BaseExceptionGroup("both", [error]) from None

    with pytest.raises(AssertionError, match="point 1: CancelledError came out in a group"):
        await cancel_everywhere(groups)


async def test_turned_into_something_else() -> None:
    async def turns() -> None:
        try:
            await points(1)
        except asyncio.CancelledError:
            raise KeyError("else") from None

    with pytest.raises(AssertionError, match=r"point 1: KeyError\('else'\) came out instead"):
        await cancel_everywhere(turns)


async def test_what_the_uncancelled_run_raises_is_raised() -> None:
    async def fails() -> None:
        await points(2)
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        await cancel_everywhere(fails)


async def test_at_most() -> None:
    assert await cancel_everywhere(lambda: points(3), at_most=3) == 3
    with pytest.raises(AssertionError, match="after 2 suspension points"):
        await cancel_everywhere(lambda: points(3), at_most=2)


async def test_cancelling_the_harness_ends_the_run() -> None:
    task = asyncio.create_task(cancel_everywhere(asyncio.Event().wait, late=True))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


@pytest.mark.parametrize("late", [False, True])
async def test_real_sockets(late: bool) -> None:
    async def answer(connection: RawConnection) -> None:
        while await connection.read_request():
            await connection.send(json_response([1, 2]))

    async with RawServer(answer) as server:

        async def fetch() -> None:
            async with aiohttp.ClientSession(server.base_url) as session, session.get("/") as response:
                assert await response.json() == [1, 2]

        assert await cancel_everywhere(fetch, late=late) >= 2
