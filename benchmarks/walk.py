"""How fast whole listings come through, against aiohttp and json by hand.

    python benchmarks/walk.py                     # in an environment with unpod-async installed; no network
    python benchmarks/walk.py --latency 0.02      # a server 20 ms away

The server is the package's sandbox in a process of its own. Two jobs, each done by the client and by hand:
one long listing page by page (`tasks.list`), and the tasks of many runs, four at a time (`tasks_for`). Each
way is run several times, taking turns; a line gives the best of them:

    rows/s       rows that came through per second
    ms/page      time per request, requests at the same time counted one by one
    client ms    processor time of this process per request: what the client costs, whatever the server takes
    x            that processor time against the hand-written way of the same job; 1.1 is a tenth more
    requests     what the server really received

By hand means: no completeness check, no types, no bad rows, no limits; `json.loads` and a loop. Without
latency `ms/page` is mostly the sandbox's own time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import aiohttp

from unpod_async import UnpodClient
from unpod_async.testing._process import SandboxProcess


class Measured(NamedTuple):
    rows: int
    requests: int
    seconds: float
    busy: float


class ByHand:
    """What one would write without a client."""

    def __init__(self, session: aiohttp.ClientSession, space: str, page_size: int) -> None:
        self._session = session
        self._space = space
        self._page_size = page_size

    async def page(self, path: str, number: int) -> list[Any]:
        query = {"page": str(number), "page_size": str(self._page_size)}
        async with self._session.get(f"spaces/{self._space}/{path}", params=query) as response:
            response.raise_for_status()
            rows: list[Any] = json.loads(await response.read())["data"]
            return rows

    async def walk(self, path: str) -> list[Any]:
        rows: list[Any] = []
        number = 1
        while page := await self.page(path, number):
            rows += page
            number += 1
            if len(page) < self._page_size:
                break
        return rows

    async def listing(self) -> int:
        return len(await self.walk("tasks/"))

    async def runs(self) -> int:
        left: Iterator[Any] = iter(await self.walk("runs/"))
        counts: list[int] = []

        async def work() -> None:
            for run in left:
                rows = await self.walk(f"runs/{run['run_id']}/tasks/")
                counts.append(len(rows))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(work())
        return sum(counts)


class ByClient:
    """The same with unpod_async."""

    def __init__(self, unpod: UnpodClient, space: str) -> None:
        self._unpod = unpod
        self._space = space

    async def listing(self) -> int:
        rows = 0
        async for _ in self._unpod.tasks.list(self._space):
            rows += 1
        return rows

    async def prefetched(self) -> int:
        rows = 0
        async with self._unpod.tasks.list(self._space).prefetch(4) as stream:
            async for _ in stream:
                rows += 1
        return rows

    async def runs(self) -> int:
        rows = 0
        async with self._unpod.runs.tasks_for(self._space, concurrency=4) as stream:
            async for _ in stream:
                rows += 1
        return rows


async def measure(sandbox: SandboxProcess, run: Callable[[], Awaitable[int]]) -> Measured:
    before = await sandbox.requests()
    busy, started_at = time.process_time(), time.perf_counter()
    rows = await run()
    seconds, busy = time.perf_counter() - started_at, time.process_time() - busy
    return Measured(rows, await sandbox.requests() - before, seconds, busy)


async def compare(options: argparse.Namespace) -> None:
    arguments = {"runs": options.runs, "tasks_per_run": 10, "latency": options.latency}
    async with SandboxProcess(**arguments) as sandbox:
        where = sandbox.where
        headers = {"Authorization": f"Token {where.token}", "Org-Handle": where.org_handle}
        async with (
            aiohttp.ClientSession(f"{where.base_url}/api/v2/platform/", headers=headers) as session,
            UnpodClient(where.token, where.org_handle, where.base_url) as unpod,
        ):
            hand = ByHand(session, where.space_token, 100)
            client = ByClient(unpod, where.space_token)
            jobs: dict[str, dict[str, Callable[[], Awaitable[int]]]] = {
                f"one listing of {where.tasks:,} tasks": {
                    "by hand, page by page": hand.listing,
                    "tasks.list": client.listing,
                    "tasks.list, prefetch(4)": client.prefetched,
                },
                f"the tasks of {where.runs:,} runs": {
                    "by hand, 4 workers": hand.runs,
                    "tasks_for, concurrency=4": client.runs,
                },
            }
            print(f"pages of 100 rows, latency {options.latency * 1e3:g} ms, best of {options.rounds}")
            for title, ways in jobs.items():
                await report(sandbox, title, ways, options.rounds, where.tasks)


async def report(
    sandbox: SandboxProcess,
    title: str,
    ways: dict[str, Callable[[], Awaitable[int]]],
    rounds: int,
    expected: int,
) -> None:
    results: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            results[name].append(await measure(sandbox, way))
    print(f"\n{title:30}{'rows/s':>9}{'ms/page':>9}{'client ms':>11}{'x':>6}{'requests':>10}")
    base = 0.0
    for name, measured in results.items():
        assert all(one.rows == expected for one in measured), name  # noqa: S101 - else it is no walk
        fast, busy = min(one.seconds for one in measured), min(one.busy for one in measured)
        requests = measured[0].requests
        base = base or busy
        print(
            f"{name:30}{expected / fast:9,.0f}{fast / requests * 1e3:9.2f}{busy / requests * 1e3:11.2f}"
            f"{busy / base:6.2f}{requests:10,}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="rows/s and ms per page of walks, against aiohttp by hand")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds the server waits per request (0)")
    parser.add_argument("--runs", type=int, default=1000, help="runs of 10 tasks each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="times each way is run (%(default)s)")
    asyncio.run(compare(parser.parse_args()))


if __name__ == "__main__":
    main()
