"""What a watch does if the tasks of a space cannot be listed together, although those of each run can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.clock import pass_time, set_deadline_clock
from tests.watch.replay import Replay, held_by
from tests.watch.stepping import Stepper, stepping
from unpod_async import AuthenticationError, RunSeen, TaskRemoved, TaskSeen, UnpodClient
from unpod_async.testing import Fault, Sandbox, faults

FAILURES: dict[str, Callable[..., Fault]] = {
    "503": partial(faults.server_error, 503),
    "500": partial(faults.server_error, 500),
    "206": faults.upstream_error,
    "refused": faults.refusal,
    "403": partial(faults.rejected, 403),
    "404": partial(faults.rejected, 404),
    "reset": faults.reset_before_status,
    "no JSON": faults.no_json,
    "too slow": partial(faults.stall, 10_000),
}


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": None, **options})


def break_listing(sandbox: Sandbox, failure: str, times: int = 100_000) -> None:
    """Let every listing of the tasks of the space fail."""
    sandbox.script(FAILURES[failure](path=f"/spaces/{sandbox.space_token}/tasks/", times=times))


def tasks_of_space(sandbox: Sandbox, since: int = 0) -> int:
    return sum(
        request.path.endswith(f"/spaces/{sandbox.space_token}/tasks/") for request in sandbox.log[since:]
    )


@asynccontextmanager
async def broken_listing(sandbox: Sandbox, failure: str) -> AsyncIterator[None]:
    """Let every listing of the tasks of the space fail. A slow one takes all the time of its poll."""
    break_listing(sandbox, failure)

    async def pass_deadlines() -> None:
        seen = len(sandbox.log)
        while failure == "too slow":
            await sandbox.arrived(sandbox.requests + 1)
            if tasks_of_space(sandbox, seen):
                pass_time(20)
            seen = len(sandbox.log)

    passing = asyncio.create_task(pass_deadlines())
    await asyncio.sleep(0)  # it waits for the first request
    try:
        yield
    finally:
        passing.cancel()
        await asyncio.wait({passing})


@pytest.mark.parametrize("failure", FAILURES)
async def test_tasks_are_reported_although_the_listing_of_the_space_always_fails(failure: str) -> None:
    replay = Replay()
    async with (
        Sandbox(runs=30, tasks_per_run=2, idle_close=10_000) as sandbox,
        client(sandbox, deadline=20) as unpod,
        broken_listing(sandbox, failure),
    ):
        set_deadline_clock(unpod)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=120) as step:
            for _ in range(10):
                await step.poll()
            assert (replay.runs, replay.tasks) == held_by(sandbox)
            assert all(event.existing for event in replay.events if isinstance(event, TaskSeen | RunSeen))
            assert replay.connected
            # Later changes: those of settled runs are found, too.
            settled = sorted(
                replay.settled | {run for run, status in replay.runs.items() if status == "completed"}
            )
            lost, again, extended = (
                sandbox.task_ids(settled[0])[0],
                sandbox.task_ids(settled[1])[0],
                settled[2],
            )
            sandbox.delete_task(lost)
            sandbox.set_status(again, "scheduled")
            added = sandbox.insert_task(extended)
            new = sandbox.insert_run(3)
            for _ in range(18):
                await step.poll()
            assert (replay.runs, replay.tasks) == held_by(sandbox)
            assert {(settled[1], again), (extended, added)} <= replay.tasks.keys()
            assert [event.task_id for event in replay.events if isinstance(event, TaskRemoved)] == [lost]
            assert new in replay.runs
            assert replay.connected
            assert step.watch.resyncs == 0


def settle_all(sandbox: Sandbox) -> None:
    for row in list(sandbox.task_rows()):
        sandbox.set_status(row["task_id"], "completed")


async def requests_of_polls(step: Stepper, sandbox: Sandbox, polls: int) -> list[int]:
    requests: list[int] = []
    for _ in range(polls):
        before = sandbox.requests
        await step.poll()
        requests.append(sandbox.requests - before)
    return requests


async def test_settled_runs_are_read_run_by_run_a_few_in_each_poll() -> None:
    replay = Replay()
    async with Sandbox(runs=60, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=1000) as step:
            break_listing(sandbox, "404")
            step.time.now += 1000
            requests = await requests_of_polls(step, sandbox, 6)
            # The listing fails in the third poll of the resync. Then each poll reads 20 runs.
            assert requests == [1 + 1, 1, 1 + 1, 1 + 20, 1 + 20, 1 + 20]
            assert replay.connected
            assert step.watch.resyncs == 1


async def test_one_failure_of_the_listing_is_not_worth_reading_every_run() -> None:
    replay = Replay()
    async with Sandbox(runs=60, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        break_listing(sandbox, "503", times=1)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=1000) as step:
            assert replay.tasks == {}
            await step.poll()
            assert (replay.runs, replay.tasks) == held_by(sandbox)
            break_listing(sandbox, "503", times=3)
            step.time.now += 1000
            requests = await requests_of_polls(step, sandbox, 80)
            assert sum(requests) == 80 + 4 * 2  # four attempts at a resync of two pages
            assert step.watch.resyncs == 2
            assert "Disconnected" not in replay.kinds()


async def test_the_listing_is_used_again_once_it_works() -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        break_listing(sandbox, "404", times=1)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=300) as step:
            for _ in range(40):
                await step.poll()
            assert (replay.runs, replay.tasks) == held_by(sandbox)
            assert step.watch.resyncs == 1
            begun = len(sandbox.log)
            step.time.now += 300
            await requests_of_polls(step, sandbox, 8)
            assert step.watch.resyncs == 2
            assert tasks_of_space(sandbox, begun) == 1
            assert len(sandbox.log) - begun == 8 + 2


@pytest.mark.parametrize("failure", FAILURES)
async def test_the_tasks_of_active_runs_are_read_one_by_one_if_they_cannot_be_read_together(
    failure: str,
) -> None:
    replay = Replay()
    async with (
        Sandbox(runs=3, tasks_per_run=1, idle_close=10_000) as sandbox,
        client(sandbox, deadline=20) as unpod,
    ):
        set_deadline_clock(unpod)
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            runs = [sandbox.insert_run(1) for _ in range(12)]
            await step.poll()
            begun = len(sandbox.log)
            await step.poll()
            assert len(sandbox.log) - begun == 2  # the runs, and the tasks of all of them
            assert tasks_of_space(sandbox, begun) == 1
            for task in [sandbox.task_ids(run)[0] for run in runs]:
                sandbox.set_status(task, "completed")
            begun = len(sandbox.log)
            async with broken_listing(sandbox, failure):
                await step.poll()
                await step.poll()
            assert set(runs) <= replay.settled
            assert tasks_of_space(sandbox, begun) <= 12  # a walk looks for the row that makes a page fail
            assert replay.connected


async def test_tasks_are_read_run_by_run_if_only_a_later_page_of_the_listing_always_fails() -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=2) as sandbox, client(sandbox, page_size=20) as unpod:
        settle_all(sandbox)
        path = f"/spaces/{sandbox.space_token}/tasks/"
        sandbox.script(faults.server_error(503, path=path, page=2, times=100_000))
        async with stepping(unpod, sandbox.space_token, replay.add) as step:
            for _ in range(10):
                await step.poll()
            assert (replay.runs, replay.tasks) == held_by(sandbox)
            assert replay.connected


async def test_polls_try_the_listing_again_after_a_while() -> None:
    replay = Replay()
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            runs = [sandbox.insert_run(1) for _ in range(12)]
            await step.poll()
            break_listing(sandbox, "404", times=2)
            listed: list[int] = []
            for poll in range(26):
                for run in runs:  # so that each poll reads them
                    sandbox.set_status(sandbox.task_ids(run)[0], ("in_progress", "hold")[poll % 2])
                begun = len(sandbox.log)
                await step.poll()
                listed.append(tasks_of_space(sandbox, begun))
            # After the first failure 80 s pass, after the second 160 s; then it works.
            assert [poll for poll, count in enumerate(listed) if count] == [0, 8, 24, 25]


async def test_tasks_are_reported_although_the_listing_of_the_space_is_always_empty() -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        empty = b'{"count": 0, "status_code": 200, "message": "", "data": []}'
        sandbox.script(faults.no_json(empty, path=f"/spaces/{sandbox.space_token}/tasks/", times=100_000))
        async with stepping(unpod, sandbox.space_token, replay.add, resync=120) as step:
            for _ in range(3):
                await step.poll()
            assert (replay.runs, replay.tasks) == held_by(sandbox)
            settle_all(sandbox)
            lost = sandbox.task_ids()[-1]
            sandbox.delete_task(lost)
            for _ in range(25):
                await step.poll()
            assert (replay.runs, replay.tasks) == held_by(sandbox)
            assert [event.task_id for event in replay.events if isinstance(event, TaskRemoved)] == [lost]


async def test_a_refused_token_ends_the_watch_even_if_only_the_listing_of_tasks_refuses_it() -> None:
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.token_revoked(path=f"/spaces/{sandbox.space_token}/tasks/"))
        with pytest.raises(AuthenticationError):
            async with stepping(unpod, sandbox.space_token, Replay().add):
                pass
