"""httpx and json, a semaphore and gather; rows are written as they come.

In the mode "flat" it reads the space-wide listing, one page after another.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from peers.harness import HEADERS, Job, Written, main

__all__ = ["run"]


async def run(job: Job) -> Written:
    limit = asyncio.Semaphore(job.ahead)
    path = job.folder / "tasks.jsonl"
    async with httpx.AsyncClient(headers=HEADERS, timeout=60) as client:

        async def page_of(url: str, page: int) -> list[dict[str, Any]]:
            async with limit:
                response = await client.get(url, params={"page": page, "page_size": job.page_size})
            response.raise_for_status()
            data: list[dict[str, Any]] = response.json()["data"]
            return data

        runs: list[dict[str, Any]] = []
        page = 1
        while job.mode != "flat" and (found := await page_of(f"{job.root}/runs/", page)):
            runs.extend(found)
            page += 1

        with path.open("w", encoding="utf-8") as file:

            async def fetch(url: str) -> None:
                page = 1
                while True:
                    rows = await page_of(url, page)
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                    if len(rows) < job.page_size:
                        return
                    page += 1

            if job.mode == "flat":
                await fetch(f"{job.root}/tasks/")
            await asyncio.gather(*(fetch(f"{job.root}/runs/{run['run_id']}/tasks/") for run in runs))
    return Written([path])


if __name__ == "__main__":
    main(run)
