"""Many tasks share one client, and a bulk job with `max_concurrency` takes only its share of the slots."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from unpod_async import UnpodClient
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from unpod_async.testing import Received

PLACES, SHARE = 4, 2
ALL_STAND_STILL = Fault(stall=3600, path="/runs/R", times=1000)
"""The requests for the tasks of runs, which an export sends with the full concurrency."""


@asynccontextmanager
async def served(**data: Any) -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    async with (
        asyncio.timeout(200),
        Sandbox(**data) as sandbox,
        UnpodClient(
            sandbox.jwt,
            sandbox.org_handle,
            sandbox.base_url,
            auth_scheme="JWT",
            max_concurrency=PLACES,
            retry=None,
        ) as unpod,
    ):
        yield sandbox, unpod


@asynccontextmanager
async def exporting(sandbox: Sandbox, unpod: UnpodClient, target: Path) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a bulk job that wants more slots than there are; cancel the rest of it at the end."""
    # Without the space-wide listing, the export reads run by run.
    sandbox.script(Fault(status=403, path=f"{sandbox.space_token}/tasks/", times=1000))
    export = unpod.export(sandbox.space_token, target, concurrency=2 * PLACES)
    job = asyncio.ensure_future(export)
    try:
        yield job
    finally:
        job.cancel()
        await asyncio.wait({job})


async def view(sandbox: Sandbox, unpod: UnpodClient) -> None:
    """The interactive request: its path differs from all requests of an export."""
    assert (await unpod.spaces.get(sandbox.space_token)).token == sandbox.space_token


def is_view(request: Received) -> bool:
    return request.path.count("/") == 6  # /api/v2/platform/spaces/{space}/


def unanswered(sandbox: Sandbox, before: int | None = None) -> list[Received]:
    return [request for request in sandbox.log[:before] if request.status is None]


async def until_unanswered(sandbox: Sandbox, count: int) -> None:
    while len(unanswered(sandbox)) < count:
        await sandbox.arrived(sandbox.requests + 1)


async def settle() -> None:
    """Run the event loop until nothing else can continue without the test; no time has to pass."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_a_request_waits_for_at_most_the_share_of_the_bulk_job(tmp_path: Path) -> None:
    """The service answers one request after another, so a request waits for those ahead of it."""
    ahead: list[int] = []
    most = 0

    async def look_on(sandbox: Sandbox) -> None:
        nonlocal most
        seen = sandbox.requests
        while True:
            await sandbox.arrived(seen + 1)
            new = range(seen, sandbox.requests)
            ahead.extend(len(unanswered(sandbox, one)) for one in new if is_view(sandbox.log[one]))
            most = max(most, len(unanswered(sandbox)))
            seen = sandbox.requests

    async with served(runs=60, tasks_per_run=5, latency=0.1) as (sandbox, unpod):
        looking_on = asyncio.ensure_future(look_on(sandbox))
        bulk = unpod.with_options(max_concurrency=SHARE)
        async with exporting(sandbox, bulk, tmp_path / "data") as job:
            while not job.done():
                await view(sandbox, unpod)
            assert (await job).complete
        looking_on.cancel()
        await asyncio.wait({looking_on})
        assert len(ahead) == sum(map(is_view, sandbox.log)) > 10
        # At most: a slow machine sees fewer at a time. That the job uses its share is tested below.
        assert max(ahead) <= SHARE
        assert 1 <= most <= SHARE + 1


async def test_a_request_is_answered_while_the_whole_bulk_job_hangs(tmp_path: Path) -> None:
    async with served(runs=20) as (sandbox, unpod):
        sandbox.script(ALL_STAND_STILL)
        bulk = unpod.with_options(max_concurrency=SHARE)
        async with exporting(sandbox, bulk, tmp_path / "data") as job:
            await until_unanswered(sandbox, SHARE)
            for _ in range(10):
                await view(sandbox, unpod)
            await asyncio.gather(*(view(sandbox, unpod) for _ in range(20)))
            assert len(unanswered(sandbox)) == SHARE
            assert not job.done()


async def test_without_a_share_the_bulk_job_takes_all_slots(tmp_path: Path) -> None:
    """Shows what the share is for, and that the test above would fail without it."""
    async with served(runs=20) as (sandbox, unpod):
        sandbox.script(ALL_STAND_STILL)
        async with exporting(sandbox, unpod, tmp_path / "data") as job:
            await until_unanswered(sandbox, PLACES)
            before = sandbox.requests
            waiting = asyncio.ensure_future(view(sandbox, unpod))
            await settle()
            assert not waiting.done()
            assert sandbox.requests == before
            job.cancel()
            await waiting  # its slots are released


async def test_all_calls_of_a_view_use_the_same_share(tmp_path: Path) -> None:
    async with served(runs=20) as (sandbox, unpod):
        sandbox.script(ALL_STAND_STILL)
        bulk = unpod.with_options(max_concurrency=SHARE)
        async with (
            exporting(sandbox, bulk, tmp_path / "one"),
            exporting(sandbox, bulk.with_options(deadline=60), tmp_path / "two"),
        ):
            await until_unanswered(sandbox, SHARE)
            await view(sandbox, unpod)
            await settle()
            assert len(unanswered(sandbox)) == SHARE


async def test_200_tasks_use_one_client_and_each_gets_its_own_response() -> None:
    async with served(runs=50, tasks_per_run=(1, 5)) as (sandbox, unpod):
        runs = sandbox.run_ids()

        async def use(number: int) -> None:
            mine = runs[number % len(runs)]
            user = unpod if number % 2 else unpod.with_options(page_size=2, deadline=30)
            if number % 4:
                tasks = await user.runs.tasks(sandbox.space_token, mine).collect()
            else:
                async with user.runs.tasks(sandbox.space_token, mine).prefetch(2) as stream:
                    tasks = [task async for task in stream]
            assert [task.task_id for task in tasks] == sandbox.task_ids(mine)

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(use(number))
