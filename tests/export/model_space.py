"""A space whose listings a test controls row by row: their order, their counts, and what cannot be read.

It is a server of its own, so that a mistake of the sandbox does not hide the same mistake of the client.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from unpod_async import RetryPolicy, UnpodClient

__all__ = ["LONG_AGO", "SPACE", "ModelSpace", "model_space", "run_id", "written"]

SPACE = "SPACEMODEL00000000000001"
LONG_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)


def run_id(number: int) -> str:
    return f"R{number:032x}"


def written(target: Path, kind: str) -> Counter[str]:
    """Return how often each run or task is in the files of a target."""
    name = "run_id" if kind == "runs" else "task_id"
    return Counter(
        str(json.loads(line).get(name))
        for path in (target / kind).iterdir()
        for line in path.read_bytes().splitlines()
    )


def _seconds(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(row["created"] + "+00:00").timestamp() if "created" in row else 0.0


def _id(row: dict[str, Any]) -> str:
    return row.get("task_id") or row.get("run_id") or ""


class ModelSpace:
    """The rows of one space.

    Attributes:
        runs: the rows of the runs, newest first.
        tasks: by run id, the rows of its tasks, newest first.
        unreadable: ids of the runs and tasks that make every page with their row fail.
        raw: by id of a run or task, the bytes to send as its row.
        surplus: by listing ("runs", "tasks" or a run id), how much its count is too high.
        no_count: the server sends no counts.
        has_space_tasks: the listing of all tasks of the space can be read.
        log: path and query of each request.
        before: called with each request; may return another response.
    """

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.tasks: dict[str, list[dict[str, Any]]] = {}
        self.unreadable: set[str] = set()
        self.raw: dict[str, bytes] = {}
        self.surplus: Counter[str] = Counter()
        self.no_count = False
        self.has_space_tasks = True
        self.log: list[str] = []
        self.before: Callable[[web.Request], web.Response | None] = lambda request: None
        self.url = ""

    def add_run(self, number: int, tasks: int, *, status: str = "completed", created: object = None) -> str:
        """Add a run at the start of the listings."""
        name = run_id(number)
        at = LONG_AGO + timedelta(seconds=number)
        stamp = at.strftime("%Y-%m-%dT%H:%M:%S") if created is None else created
        self.runs.insert(
            0, {"run_id": name, "status": status, "created": stamp, "modified": stamp, "batch_count": tasks}
        )
        self.tasks[name] = [
            {"task_id": f"T{number:016x}{index:016x}", "run_id": name, "status": status, "created": stamp}
            for index in reversed(range(tasks))
        ]
        return name

    def remove_run(self, name: str) -> None:
        self.runs = [row for row in self.runs if row["run_id"] != name]
        self.tasks.pop(name, None)

    def move_to_front(self, name: str) -> None:
        """List a run first, as if it had been created again."""
        self.runs.sort(key=lambda row: row["run_id"] != name)

    def requests(self, part: str = "") -> int:
        """Return the number of requests whose path contains `part`."""
        return sum(part in path for path in self.log)

    @property
    def task_ids(self) -> set[str]:
        """The tasks of all runs that the server can send."""
        return {task["task_id"] for rows in self.tasks.values() for task in rows if self._is_readable(task)}

    def _is_readable(self, row: dict[str, Any]) -> bool:
        return _id(row) not in self.unreadable

    async def answer(self, request: web.Request) -> web.Response:
        self.log.append(request.path_qs)
        instead = self.before(request)
        if instead is not None:
            return instead
        *_, listing = parts = request.path.strip("/").split("/")
        rows: list[dict[str, Any]]
        if listing == "runs":
            rows, name = self.runs, "runs"
        elif parts[-2] == SPACE:
            if not self.has_space_tasks:
                return web.json_response({"status_code": 206, "message": "No", "data": {}}, status=206)
            rows, name = [task for tasks in self.tasks.values() for task in tasks], "tasks"
            rows.sort(key=lambda row: row.get("task_id", ""), reverse=True)
            start, end = request.query.get("from_ts", "0"), request.query.get("to_ts", "inf")
            rows = [row for row in rows if float(start) <= _seconds(row) <= float(end)]
        else:
            rows, name = self.tasks.get(parts[-2], []), parts[-2]
        page, size = int(request.query["page"]), int(request.query["page_size"])
        shown = rows[(page - 1) * size : page * size]
        if not all(map(self._is_readable, shown)):
            error = {"status_code": 206, "message": "Failed", "errors": "Internal Server Error"}
            return web.json_response(error | {"data": {"errors": "Internal Server Error"}}, status=206)
        count = None if self.no_count else len(rows) + self.surplus[name]
        data = b",".join(self.raw.get(_id(row)) or json.dumps(row).encode() for row in shown)
        body = b'{"count":%b,"status_code":200,"data":[%b]}' % (json.dumps(count).encode(), data)
        return web.Response(body=body, content_type="application/json")

    def client(self, **options: Any) -> UnpodClient:
        policy = RetryPolicy(attempts=2, base=0.001, cap=0.002)
        return UnpodClient("k" * 40, base_url=self.url, **{"retry": policy, **options})


@asynccontextmanager
async def model_space() -> AsyncIterator[ModelSpace]:
    """Serve an empty space."""
    space = ModelSpace()
    app = web.Application()
    app.router.add_get("/{path:.*}", space.answer)
    async with TestServer(app) as server:
        space.url = str(server.make_url("/"))
        yield space
