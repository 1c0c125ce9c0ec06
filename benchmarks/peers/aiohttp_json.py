"""aiohttp and json with a task per run, as one writes it in an hour: gather everything, then write it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

from peers.harness import HEADERS, Job, Written, main

__all__ = ["run"]


async def run(job: Job) -> Written:
    limit = asyncio.Semaphore(job.ahead)
    async with aiohttp.ClientSession(headers=HEADERS) as session:

        async def walk(url: str) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = []
            page = 1
            while True:
                query = {"page": page, "page_size": job.page_size}
                async with limit, session.get(url, params=query) as response:
                    response.raise_for_status()
                    data = (await response.json())["data"]
                rows.extend(data)
                if len(data) < job.page_size:
                    return rows
                page += 1

        runs = await walk(f"{job.root}/runs/")
        found = await asyncio.gather(*(walk(f"{job.root}/runs/{run['run_id']}/tasks/") for run in runs))
    path = job.folder / "tasks.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for rows in found:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return Written([path])


if __name__ == "__main__":
    main(run)
