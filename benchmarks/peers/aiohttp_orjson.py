"""aiohttp and orjson, tuned by hand: pages into dicts, each row dumped as a line, one write per page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from peers.harness import HEADERS, Job, Written, main

__all__ = ["run"]


async def run(job: Job) -> Written:
    path = job.folder / "tasks.jsonl"
    root, size = job.root, job.page_size
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=job.ahead),
        headers=HEADERS,
        timeout=aiohttp.ClientTimeout(total=60),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:

        async def get(url: str, page: int) -> list[Any]:
            async with session.get(f"{url}?page={page}&page_size={size}") as response:
                response.raise_for_status()
                data: list[Any] = orjson.loads(await response.read())["data"]
                return data

        async def list_runs() -> AsyncIterator[str]:
            page, more = 1, True
            coming = asyncio.create_task(get(f"{root}/runs/", page))
            while more:
                found = await coming
                more, page = len(found) == size, page + 1
                if more:
                    coming = asyncio.create_task(get(f"{root}/runs/", page))
                for one in found:
                    yield one["run_id"]

        with path.open("wb", buffering=0) as file:
            listed, turn = list_runs(), asyncio.Lock()

            async def work() -> None:
                while True:
                    async with turn:
                        name = await anext(listed, None)
                    if name is None:
                        return
                    page, full = 1, True
                    while full:
                        rows = await get(f"{root}/runs/{name}/tasks/", page)
                        if rows:
                            file.write(
                                b"".join([
                                    orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows
                                ])
                            )
                        full, page = len(rows) == size, page + 1

            async with asyncio.TaskGroup() as group:
                for _ in range(job.ahead):
                    group.create_task(work())
    return Written([path])


if __name__ == "__main__":
    main(run)
