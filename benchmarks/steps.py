"""What each step costs, one by one: of a request, from bare aiohttp up to a walk, and of a row of an export.

    python benchmarks/steps.py

Microseconds of processor time, the best of several rounds. The requests are for an empty page, so that only
what a request costs is seen; the rows are those of a page of 500 tasks of about 3.9 kB. Steps are of the
inside of the package, and move when it does.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
from dataset import data_set
from measuring import Origin, cpus
from peers.harness import HEADERS, TOKEN

from unpod_async import Task, UnpodClient, _paths
from unpod_async._decode import decode_raw, decode_rows
from unpod_async._export._lines import line_of
from unpod_async._fetch import fetch
from unpod_async._listing import Listing, run_tasks
from unpod_async._pager import SequentialWalk
from unpod_async._wire import Read

_REQUESTS = 400
_ROWS = 500


async def of_requests(port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    url = f"{base}/api/v2/platform/spaces/r20/runs/none/tasks/?page=1&page_size=100"
    before = 0.0

    async def step(name: str, work: Callable[[], Awaitable[Any]]) -> None:
        nonlocal before
        best = float("inf")
        for _ in range(6):
            began = time.process_time()
            for _ in range(_REQUESTS):
                await work()
            best = min(best, (time.process_time() - began) / _REQUESTS * 1e6)
        print(f"{name:58}{best:9.1f}{best - before:+9.1f}")
        before = best

    print(f"{'per request':58}{'us':>9}{'more':>9}")
    async with aiohttp.ClientSession(headers=HEADERS, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def bare() -> None:
            async with session.get(url) as response:
                await response.read()

        await step("aiohttp: get and read", bare)
    async with UnpodClient(TOKEN, "example.org", base, max_concurrency=32) as unpod:
        caller = unpod._core.caller
        listing = run_tasks("r20", "none", None)
        query = {"page": "1", "page_size": "100"}
        await step("Transport.get", lambda: caller.transport.get(listing.endpoint.path, query, 60))
        await step(
            "Caller.read: limits, retries, budget",
            lambda: caller.read(listing.endpoint, query, lambda _, answer: answer, caller.deadline()),
        )
        await step(
            "fetch: status and envelope",
            lambda: fetch(caller, listing, Read(1, 100), caller.deadline(), raw=True),
        )

        async def walk() -> None:
            pages: SequentialWalk[Task] = SequentialWalk(
                caller, run_tasks("r20", "none", None), page_size=100, raw=True
            )
            while await pages.next_page() is not None:
                pass

        await step("a walk: its state machine, its listing", walk)


def of_rows() -> None:
    body = b'{"count":%d,"status_code":200,"message":"","data":[%b]}' % (
        _ROWS,
        data_set(200).task_rows(0, _ROWS),
    )
    listing = Listing(_paths.space_tasks("r20"), Task, ("task_id", "id"))
    rows = [bytes(row) for row in decode_raw(listing, body, 1, {}).rows]

    class Envelope(msgspec.Struct):
        data: list[msgspec.Raw]

    scan = msgspec.json.Decoder(Envelope)
    steps: dict[str, Callable[[], object]] = {
        "msgspec: the page as a list of Raw (lower bound)": lambda: scan.decode(body),
        "decode_raw": lambda: decode_raw(listing, body, 1, {}),
        "line_of": lambda: [line_of(row, keep_user_token=False) for row in rows],
        "join": lambda: b"\n".join(rows),
        "sha256": lambda: hashlib.sha256(body),
        "decode_rows, typed": lambda: decode_rows(listing, body, 1, {}),
    }
    print(f"\n{'per row':58}{'us':>9}")
    for name, work in steps.items():
        best = float("inf")
        for _ in range(40):
            began = time.process_time()
            work()
            best = min(best, (time.process_time() - began) / _ROWS * 1e6)
        print(f"{name:58}{best:9.2f}")


def main() -> None:
    client, service = cpus()
    with Origin(service) as origin:
        if client is not None:
            os.sched_setaffinity(0, {client})
        asyncio.run(of_requests(origin.port))
    of_rows()


if __name__ == "__main__":
    main()
