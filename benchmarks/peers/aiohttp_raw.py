"""The reference: aiohttp and msgspec.Raw, tuned by hand, lines of JSON out.

A fixed number of workers over one iterator of runs; pages until one is short; the envelope scanned, rows
never decoded; one write per page. No retries, no check of completeness, no journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import msgspec

from peers.harness import HEADERS, Job, Written, main

__all__ = ["run"]


class RunHead(msgspec.Struct, gc=False):
    run_id: str


class Runs(msgspec.Struct, gc=False):
    data: list[RunHead]


class Tasks(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


async def run(job: Job) -> Written:
    runs, tasks = msgspec.json.Decoder(Runs), msgspec.json.Decoder(Tasks)
    path = job.folder / "tasks.jsonl"
    connector = aiohttp.TCPConnector(limit=job.ahead)
    timeout = aiohttp.ClientTimeout(total=60)
    root, size = job.root, job.page_size
    async with aiohttp.ClientSession(
        connector=connector, headers=HEADERS, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:

        async def get(url: str, page: int) -> bytes:
            async with session.get(f"{url}?page={page}&page_size={size}") as response:
                response.raise_for_status()
                return await response.read()

        async def list_runs() -> AsyncIterator[str]:
            page, more = 1, True
            coming = asyncio.create_task(get(f"{root}/runs/", page))
            while more:
                found = runs.decode(await coming).data
                more, page = len(found) == size, page + 1
                if more:
                    coming = asyncio.create_task(get(f"{root}/runs/", page))
                for one in found:
                    yield one.run_id

        with path.open("wb", buffering=0) as file:

            async def fetch(url: str) -> None:
                page = 1
                while True:
                    rows = tasks.decode(await get(url, page)).data
                    full = len(rows) == size
                    if rows:
                        rows.append(msgspec.Raw(b""))
                        file.write(b"\n".join(rows))
                    if not full:
                        return
                    page += 1

            listed, turn = list_runs(), asyncio.Lock()

            async def work() -> None:
                while True:
                    async with turn:
                        name = await anext(listed, None)
                    if name is None:
                        return
                    await fetch(f"{root}/runs/{name}/tasks/")

            if job.mode == "flat":
                await fetch(f"{root}/tasks/")
            else:
                async with asyncio.TaskGroup() as group:
                    for _ in range(job.ahead):
                        group.create_task(work())
    return Written([path])


if __name__ == "__main__":
    main(run)
