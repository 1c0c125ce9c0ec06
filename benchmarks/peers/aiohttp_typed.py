"""aiohttp and msgspec with every field typed, tuned by hand: tasks for a loop to use.

"runs": a fixed number of workers over one iterator of runs. "flat": the space-wide listing page by page, or
with `ahead` pages under way in a sliding window. No retries, no check of completeness.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import aiohttp
import msgspec

from peers.harness import HEADERS, Counted, Job, main
from peers.typed_rows import Runs, Tasks, TypedTask

__all__ = ["run"]


async def run(job: Job) -> Counted:
    runs, tasks = msgspec.json.Decoder(Runs), msgspec.json.Decoder(Tasks)
    root, size = job.root, job.page_size
    rows = mark = 0
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=job.ahead),
        headers=HEADERS,
        timeout=aiohttp.ClientTimeout(total=60),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:

        async def get(url: str, page: int) -> bytes:
            async with session.get(f"{url}?page={page}&page_size={size}") as response:
                response.raise_for_status()
                return await response.read()

        async def pages(url: str) -> AsyncIterator[list[TypedTask]]:
            page = 1
            while True:
                data = tasks.decode(await get(url, page)).data
                yield data
                if len(data) < size:
                    return
                page += 1

        async def pages_ahead(url: str) -> AsyncIterator[list[TypedTask]]:
            first = tasks.decode(await get(url, 1))
            last = -(-first.count // size)
            coming = deque(
                asyncio.create_task(get(url, page)) for page in range(2, min(last, job.ahead + 1) + 1)
            )
            page = len(coming) + 2
            yield first.data
            while coming:
                body = await coming.popleft()
                if page <= last:
                    coming.append(asyncio.create_task(get(url, page)))
                    page += 1
                yield tasks.decode(body).data

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

        if job.mode == "flat":
            walk = pages if job.ahead == 1 else pages_ahead
            async for data in walk(f"{root}/tasks/"):
                for task in data:
                    rows += 1
                    mark ^= hash(task.task_id)
            return Counted(rows, mark)

        listed, turn = list_runs(), asyncio.Lock()

        async def work() -> None:
            nonlocal rows, mark
            while True:
                async with turn:
                    name = await anext(listed, None)
                if name is None:
                    return
                async for data in pages(f"{root}/runs/{name}/tasks/"):
                    for task in data:
                        rows += 1
                        mark ^= hash(task.task_id)

        async with asyncio.TaskGroup() as group:
            for _ in range(job.ahead):
                group.create_task(work())
    return Counted(rows, mark)


if __name__ == "__main__":
    main(run)
