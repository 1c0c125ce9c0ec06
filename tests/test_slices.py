"""A large page decoded in slices equals the page decoded at once, and other tasks run in between."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.raw_server import RawConnection, RawServer, http_response
from unpod_async import UnpodClient
from unpod_async._export import InvalidRow, row_decoder
from unpod_async._paging import (
    MAX_WHOLE_BYTES,
    SLICE_BYTES,
    Decode,
    DecodedPage,
    Listing,
    decode_in_slices,
    decode_raw,
    decode_rows,
    run_tasks,
    scan_page,
)

LISTING = run_tasks("S", "R1", None)
TIED = msgspec.structs.replace(LISTING, tied=True)

good = st.integers(0, 10**6).map(
    lambda n: b'{"task_id":"T%d","run_id":"R1","created":"2025-01-01T00:00:00Z"}' % n
)
odd = st.sampled_from([
    b"17",
    b"null",
    b"{}",
    b'{"task_id":7,"run_id":"R1"}',
    b'{"task_id":"T1","run_id":"other"}',
    b'{"task_id":"T2","run_id":"R1","name":"\xff"}',
    b'{"task_id":"T3","run_id":"R1","input":{"a":[{"b":1},{"c":"],\\"data\\":["}]}}',
])


def plain(rows: DecodedPage) -> list[Any]:
    """Return the comparable parts of a page with rows of any kind."""
    made = [getattr(row, "line", row) for row in rows.rows]
    made = [repr(row) if isinstance(row, InvalidRow) else row for row in made]
    return [
        made,
        list(rows.keys),
        rows.count,
        list(rows.created),
        rows.headers,
        rows.status_code,
        rows.message,
    ]


@pytest.mark.parametrize("listing", [LISTING, TIED], ids=["", "tied"])
@pytest.mark.parametrize("decode", [decode_rows, decode_raw, row_decoder(keep_user_token=False)])
@given(rows=st.lists(st.one_of(good, odd), min_size=1, max_size=12), size=st.integers(1, 300))
def test_decoding_in_slices_equals_decoding_at_once(
    listing: Listing[Any], decode: Decode, rows: list[bytes], size: int
) -> None:
    body = b'{"count":12,"status_code":200,"message":"m","data":[%b]}' % b", ".join(rows)
    headers = {"date": "today"}
    whole = decode(listing, body, 1, headers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unpod_async._paging.decode.SLICE_BYTES", size)
        sliced = asyncio.run(decode_in_slices(scan_page(body, 1, headers), listing, 1, decode))
    assert plain(sliced) == plain(whole)


@pytest.mark.parametrize("body", [b'{"count":0,"data":[]}', b'{"count":0,"data":null}'])
async def test_an_empty_page_has_no_slices(body: bytes) -> None:
    rows = await decode_in_slices(scan_page(body, 1, {}), LISTING, 1, decode_rows)
    assert (list(rows.rows), list(rows.keys), rows.count) == ([], [], 0)


def large_page() -> tuple[bytes, int]:
    """Return a page of twice `MAX_WHOLE_BYTES`, and its number of rows."""
    number = 2 * MAX_WHOLE_BYTES // 4_000
    rows = [b'{"task_id":"T%d","run_id":"R1","context":"%b"}' % (n, b"x" * 4_000) for n in range(number)]
    return b'{"count":%d,"status_code":200,"data":[%b]}' % (number, b",".join(rows)), number


async def test_other_tasks_run_before_each_slice() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await asyncio.sleep(0)
    body, number = large_page()
    rows = await decode_in_slices(scan_page(body, 1, {}), LISTING, 1, decode_rows)
    task.cancel()
    assert len(rows.rows) == number
    assert turns >= len(body) // SLICE_BYTES


async def test_a_large_page_over_the_wire() -> None:
    body, number = large_page()

    async def answer(connection: RawConnection) -> None:
        while await connection.read_request():
            await connection.send(http_response(body, 200, [("Content-Type", "application/json")]))

    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += unpod.stats.bytes > 0  # the whole response has arrived
            await asyncio.sleep(0)

    async with RawServer(answer) as server, UnpodClient("t", "org", server.base_url) as unpod:
        task = asyncio.create_task(others())
        tasks = await unpod.runs.tasks("S", "R1", page_size=number + 1).collect()
        task.cancel()
    assert [task.task_id for task in tasks] == [f"T{n}" for n in range(number)]
    assert turns >= len(body) // SLICE_BYTES
