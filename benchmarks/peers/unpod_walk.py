"""unpod_async: tasks for a loop to use, in each of its ways.

Modes: "flat" (`tasks.list`, with `prefetch` when more than one request is in flight), "pages" and "raw" (the
same listing page by page, and as bytes), "runs" and "ordered" (`runs.tasks_for`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

from peers.harness import TOKEN, Counted, Job, main
from unpod_async import Task, UnpodClient

__all__ = ["run"]


async def run(job: Job) -> Counted:
    async with UnpodClient(
        TOKEN, "example.org", job.origin, max_concurrency=job.ahead, page_size=job.page_size
    ) as unpod:
        listing = unpod.tasks.list(job.space)
        rows = mark = 0
        if job.mode == "pages":
            async for page in listing.pages():
                for task in page.items:
                    rows += 1
                    mark ^= hash(task.task_id)
            return Counted(rows, mark)
        if job.mode == "raw":
            async for row in listing.raw():
                rows += 1
                at = row.index(b'"task_id":"') + 11
                mark ^= hash(row[at : at + 33].decode())
            return Counted(rows, mark)
        if job.mode == "flat" and job.ahead == 1:
            return await count(listing, job)
        if job.mode == "flat":
            stream = listing.prefetch(job.ahead)
        else:
            stream = unpod.runs.tasks_for(job.space, concurrency=job.ahead, ordered=job.mode == "ordered")
        async with stream:
            return await count(stream, job)


async def count(tasks: AsyncIterable[Task], job: Job) -> Counted:
    rows = mark = 0
    if job.slow:
        async for task in tasks:
            rows += 1
            mark ^= hash(task.task_id)
            if rows % job.page_size == 0:
                await asyncio.sleep(job.slow)
        return Counted(rows, mark)
    async for task in tasks:
        rows += 1
        mark ^= hash(task.task_id)
    return Counted(rows, mark)


if __name__ == "__main__":
    main(run)
