"""Responses that arrive at the same time are not all decoded in one turn of the event loop."""

from __future__ import annotations

import asyncio

from tests.raw_server import RawConnection, RawServer, json_response
from unpod_async import UnpodClient

PAGES = 9


def page(number: int, row_bytes: int) -> bytes:
    rows = [
        b'{"task_id":"T%d","context":"%b"}' % (n, b"x" * row_bytes)
        for n in range(number * 10, number * 10 + 10)
    ]
    return b'{"count":%d,"status_code":200,"data":[%b]}' % (PAGES * 10, b",".join(rows))


async def most_in_a_turn(row_bytes: int, *, leave_after: int = PAGES) -> tuple[int, int]:
    """Return the most bytes decoded in one turn of the event loop, and the rows that came in order.

    All pages but the first are answered at once.
    """
    all_asked = asyncio.Event()

    async def answer(connection: RawConnection) -> None:
        while request := await connection.read_request():
            number = int(request.partition(b"?page=")[2].partition(b"&")[0])
            if number > 1:
                if len(server.requests) == PAGES:
                    all_asked.set()
                await all_asked.wait()
            await connection.send(json_response(page(number - 1, row_bytes)))

    async with RawServer(answer) as server, UnpodClient("t", "org", server.base_url, page_size=10) as unpod:
        steps = [0]

        async def watch() -> None:
            last = 0
            while True:
                steps.append(unpod.stats.bytes - last)
                last += steps[-1]
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        try:
            async with unpod.tasks.list("S").prefetch(PAGES) as stream:
                names = []
                async for task in stream:
                    names.append(task.task_id)
                    if len(names) == leave_after * 10:
                        break
        finally:
            watching.cancel()
    assert names == [f"T{n}" for n in range(len(names))]
    return max(steps), len(names)


async def test_large_pages_take_one_turn_each() -> None:
    most, rows = await most_in_a_turn(10_000)
    assert rows == PAGES * 10
    assert most < 1.5 * len(page(0, 10_000))


async def test_small_pages_share_a_turn() -> None:
    most, rows = await most_in_a_turn(10)
    assert rows == PAGES * 10
    assert most > 1.5 * len(page(0, 10))


async def test_leaving_while_pages_wait_for_their_turn() -> None:
    assert (await most_in_a_turn(10_000, leave_after=2))[1] == 20
