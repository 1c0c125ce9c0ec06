"""requests in a pool of threads, a session per thread: gather everything, then write it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from peers.harness import HEADERS, Job, Written, main

__all__ = ["run"]


def run(job: Job) -> Written:
    local = threading.local()

    def walk(url: str) -> list[dict[str, Any]]:
        if not hasattr(local, "session"):
            local.session = requests.Session()
            local.session.headers.update(HEADERS)
        rows: list[dict[str, Any]] = []
        page = 1
        while True:
            query = {"page": page, "page_size": job.page_size}
            response = local.session.get(url, params=query, timeout=60)
            response.raise_for_status()
            data = response.json()["data"]
            rows.extend(data)
            if len(data) < job.page_size:
                return rows
            page += 1

    runs = walk(f"{job.root}/runs/")
    path = job.folder / "tasks.jsonl"
    with ThreadPoolExecutor(job.ahead) as pool:
        found = list(pool.map(walk, [f"{job.root}/runs/{run['run_id']}/tasks/" for run in runs]))
    with path.open("w", encoding="utf-8") as file:
        for rows in found:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return Written([path])


if __name__ == "__main__":
    main(run)
