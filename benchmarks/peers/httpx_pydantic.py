"""httpx and pydantic, the stack of the vendor's own package: rows into models, models out as lines."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pydantic

from peers.harness import HEADERS, Job, Written, main

__all__ = ["run"]


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Run(Model):
    run_id: str
    space_id: str | None = None
    user: str | None = None
    collection_ref: str | None = None
    run_mode: str | None = None
    status: str | None = None
    batch_count: int | None = None
    created: str | None = None
    modified: str | None = None


class UserInfo(Model):
    id: str | None = None
    email: str | None = None
    full_name: str | None = None
    user_token: str | None = None
    location: dict[str, Any] | None = None


class Task(Model):
    task_id: str
    run_id: str
    space_id: str | None = None
    user: str | None = None
    user_org_id: str | None = None
    user_info: UserInfo | None = None
    thread_id: str | None = None
    collection_ref: str | None = None
    execution_type: str | None = None
    task: dict[str, Any] | None = None
    input: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    attachments: list[Any] | None = None
    ref_id: str | None = None
    assignee: str | None = None
    run_mode: str | None = None
    status: str | None = None
    created: str | None = None
    modified: str | None = None


class Runs(Model):
    count: int
    data: list[Run]


class Tasks(Model):
    count: int
    data: list[Task]


async def run(job: Job) -> Written:
    limit = asyncio.Semaphore(job.ahead)
    path = job.folder / "tasks.jsonl"
    async with httpx.AsyncClient(headers=HEADERS, timeout=60) as client:

        async def get(url: str, page: int) -> Any:
            async with limit:
                response = await client.get(url, params={"page": page, "page_size": job.page_size})
            response.raise_for_status()
            return response.json()

        runs: list[Run] = []
        page = 1
        while found := Runs.model_validate(await get(f"{job.root}/runs/", page)).data:
            runs.extend(found)
            page += 1

        with path.open("w", encoding="utf-8") as file:

            async def fetch(name: str) -> None:
                page = 1
                while True:
                    rows = Tasks.model_validate(await get(f"{job.root}/runs/{name}/tasks/", page)).data
                    file.writelines(row.model_dump_json() + "\n" for row in rows)
                    if len(rows) < job.page_size:
                        return
                    page += 1

            await asyncio.gather(*(fetch(run.run_id) for run in runs))
    return Written([path])


if __name__ == "__main__":
    main(run)
