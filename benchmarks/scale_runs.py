"""Real exports of a few seconds, which `scale.py --check` compares with its simulation."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import json
import math
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unpod_async import ExportPlan, UnpodClient, merge_shards
from unpod_async.testing.demos.sandbox_process import SandboxProcess

SHARDS, CONCURRENCY = 4, 4
WAYS = ("one process", "4 shards", "Dask, 2 workers")
_ROW_TIME = 0.00024
"""Seconds for a row from `origin.py`, which answers one request after another."""


class Service(NamedTuple):
    """A server with one space, whose runs have `tasks` tasks each. Times are in seconds.

    Attributes:
        is_serial: It answers one request after another, as the real one: `origin.py`, whose runs have about
            eleven tasks. The others are sandboxes, which answer requests at the same time.
    """

    name: str
    runs: int
    tasks: int
    page_size: int | None = None
    latency: float = 0.0
    rate: float | None = None
    is_serial: bool = False


SERVICES = (
    Service("latency of 0.1 s, pages of 20", 150, 10, page_size=20, latency=0.1),
    Service("latency of 0.3 s, usual pages", 300, 20, latency=0.3),
    Service("40 requests per second", 150, 10, page_size=20, latency=0.02, rate=40),
    Service("one request after another", 300, 11, page_size=100, is_serial=True),
)


class Measured(NamedTuple):
    """A real export: the requests that the server received, and the seconds that it took.

    Attributes:
        setting: The fields of `Setting`, in `scale_model.py`, that describe it.
    """

    service: str
    way: str
    requests: int
    seconds: float
    setting: dict[str, Any]


class Server(NamedTuple):
    """A running server. `requests` returns how many it has received."""

    url: str
    token: str
    org: str
    space: str
    requests: Callable[[], Awaitable[int]]

    def client(self, rate: float | None = None) -> UnpodClient:
        return UnpodClient(self.token, self.org, self.url, rate_limit=rate)


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncGenerator[Server, None]:
    """Run the server of a service in a process of its own."""
    if service.is_serial:
        async with _origin(f"r{service.runs}q{_ROW_TIME * 1e6:.0f}") as server:
            yield server
        return
    limit: dict[str, object] = {} if service.rate is None else {"rate_limit": service.rate, "burst": 30}
    async with SandboxProcess(
        runs=service.runs, tasks_per_run=service.tasks, latency=service.latency, **limit
    ) as sandbox:
        info = sandbox.info
        yield Server(info.base_url, info.token, info.org_handle, info.space_token, sandbox.requests)


@contextlib.asynccontextmanager
async def _origin(space: str) -> AsyncGenerator[Server, None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("origin.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process has no pipes")
    port = int(await process.stdout.readline())

    def received() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        with contextlib.closing(connection):
            connection.request("GET", "/_stats")
            return int(json.loads(connection.getresponse().read())["requests"])

    try:
        url = f"http://127.0.0.1:{port}"
        yield Server(url, "benchmark-key", "example.org", space, lambda: asyncio.to_thread(received))
    finally:
        process.stdin.close()
        await process.wait()


# -- the ways to export -------------------------------------------------------------------------------------


async def export(service: Service, server: Server, way: str, target: Path, dask: Any) -> ExportPlan | None:
    """Export in one of the `WAYS`. Returns the plan, if there is one."""
    options: dict[str, Any] = {"page_size": service.page_size, "concurrency": CONCURRENCY}
    async with server.client(service.rate) as unpod:
        if way == "one process":
            await unpod.export(server.space, target, **options)
            return None
        plan = await unpod.plan_export(server.space, shards=SHARDS, page_size=service.page_size)
    if way == "4 shards":
        rate = None if service.rate is None else service.rate / SHARDS

        async def export_shard(number: int) -> None:
            async with server.client(rate) as unpod:
                await unpod.export_shard(plan, number, target, **options)

        async with asyncio.TaskGroup() as shards:
            for number in range(SHARDS):
                shards.create_task(export_shard(number))
        await merge_shards(plan, target)
    else:
        distributed = importlib.import_module("unpod_async.distributed")
        await distributed.export(plan, target, dask, rate_limit=service.rate, **options)
    return plan


@contextlib.asynccontextmanager
async def cluster(server: Server) -> AsyncGenerator[Any, None]:
    """Run a Dask cluster of two processes, whose clients connect to the server."""
    dask: Any = importlib.import_module("distributed")
    environment = {
        "UNPOD_PLATFORM_TOKEN": server.token,
        "UNPOD_ORG_HANDLE": server.org,
        "UNPOD_BASE_URL": server.url,
    }
    async with (
        dask.LocalCluster(
            n_workers=2, threads_per_worker=1, env=environment, asynchronous=True, dashboard_address=":0"
        ) as workers,
        dask.Client(workers, asynchronous=True) as client,
    ):
        await client.wait_for_workers(2)
        yield client


# -- measuring ----------------------------------------------------------------------------------------------


async def costs_here() -> dict[str, float]:
    """Return what a request, a row, and an export cost on this machine, as fields of `Setting`.

    The time of the sandbox and that of the client are not separated. Both count as the time of the server.
    """
    best: dict[int, tuple[float, int]] = {}
    tasks = 6_000
    many = Service("without latency", tasks // 20, 20)
    async with running(many) as server, running(Service("one page", 1, 1)) as small:
        for page_size in (500, 20, 1) * 3:
            source = small if page_size == 1 else server
            one = many._replace(page_size=None if page_size == 1 else page_size)
            found = await _measure(one, source, WAYS[0], None, [])
            best[page_size] = min(best.get(page_size, (math.inf, 0)), (found.seconds, found.requests))
    start = best[1][0]
    (large_pages, few), (small_pages, more) = best[500], best[20]
    request = max(0.0, (small_pages - large_pages) / (more - few))
    row = max(0.0, (large_pages - start - few * request) / tasks)
    costs = {"start": start, "request_time": request, "row_time": row}
    return {**costs, "request_cpu": 0.0, "row_cpu": 0.0, "skip_cpu": 0.0}


async def measure(
    service: Service, costs: Mapping[str, float], ways: Sequence[str] = WAYS, times: int = 1
) -> list[Measured]:
    """Export in each way, `times` times. Other programs only make an export slower, so the fastest counts.

    Args:
        costs: Those of `costs_here`, or nothing if only the requests are of interest.
    """
    async with running(service) as server, contextlib.AsyncExitStack() as stack:
        dask = await stack.enter_async_context(cluster(server)) if WAYS[-1] in ways else None
        async with server.client() as unpod:
            runs = await unpod.runs.list(server.space, page_size=1000).collect()
        sizes = tuple(run.batch_count or 0 for run in runs)
        measured: list[Measured] = []
        for way in ways:
            turns = [
                await _measure(service, server, way, dask, [run.run_id or "" for run in runs])
                for _ in range(times)
            ]
            fastest = min(turns, key=lambda turn: turn.seconds)
            known = {"row_time": _ROW_TIME, "start": costs["start"]} if service.is_serial and costs else costs
            measured.append(fastest._replace(setting={**fastest.setting, "sizes": sizes, **known}))
    return measured


async def _measure(service: Service, server: Server, way: str, dask: Any, ids: list[str]) -> Measured:
    with tempfile.TemporaryDirectory(prefix="unpod-scale-") as folder:
        earlier, began = await server.requests(), time.monotonic()
        plan = await export(service, server, way, Path(folder, "data"), dask)
        seconds = time.monotonic() - began
        requests = await server.requests() - earlier
    setting: dict[str, Any] = {
        "latency": service.latency,
        "rate": service.rate,
        "page_size": service.page_size,
        "concurrency": CONCURRENCY,
    }
    if plan is not None:
        [listing] = plan.listings
        is_dask = way == WAYS[-1]
        setting |= {
            "shards": SHARDS,
            "workers": 2 if is_dask else SHARDS,
            "shared_limit": is_dask,
            "shard_of": tuple(map(listing.shard_of, ids)),
        }
    return Measured(service.name, way, requests, seconds, setting)
