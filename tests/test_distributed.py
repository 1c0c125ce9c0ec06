"""`unpod_async.distributed.export`: the shards of a plan on a Dask cluster."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import unpod_async.distributed
from tests.export.dataset import assert_holds
from unpod_async import (
    AuthenticationError,
    ConfigurationError,
    ExportError,
    ExportPlan,
    ExportProgress,
    InvalidArgument,
    RateLimiter,
    TargetLockedError,
    Task,
    UnpodClient,
)
from unpod_async._common import locked
from unpod_async.distributed import rate
from unpod_async.testing import Sandbox, faults
from unpod_async.testing.demos.cluster import count_words, most_in_a_second

KILLS = int(os.environ.get("UNPOD_WORKER_KILLS", "1"))
"""`nox -s torture` sets it to 20."""

# --- the limit ---------------------------------------------------------------------------------------------


@given(
    st.integers(1, 100),
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 0.4), st.integers(1, 30)), min_size=1, max_size=80),
)
def test_no_second_has_more_starts_than_the_limit_and_one_burst(
    per_second: int, burst: int, asked: list[tuple[float, int]]
) -> None:
    limit, now, starts = rate.ClusterLimit(per_second, burst), 1000.0, list[float]()
    for passed, wanted in asked:
        now += passed
        lease = limit.lease(now, wanted)
        assert len(lease.delays) <= wanted
        assert all(0 <= delay <= rate.HORIZON for delay in lease.delays)
        assert lease.delays or 0 < lease.retry_after <= 1 / per_second + rate.HORIZON / 2
        starts += [now + delay for delay in lease.delays]
    assert starts == sorted(starts)
    assert most_in_a_second(starts) <= per_second + burst


@given(st.floats(0.1, 100), st.floats(0, 50), st.floats(0.01, 60))
def test_nothing_is_leased_during_a_pause(per_second: float, now: float, seconds: float) -> None:
    limit = rate.ClusterLimit(per_second, 10)
    limit.pause(now, seconds)
    limit.pause(now, seconds / 2)
    lease = limit.lease(now, 1)
    assert lease.delays == ([pytest.approx(seconds)] if seconds <= rate.HORIZON else [])
    assert lease.delays or 0 < lease.retry_after < seconds
    assert limit.lease(now + seconds + 1 / per_second, 1).delays == [0]


def test_without_a_limit_everything_starts_at_once_but_not_during_a_pause() -> None:
    limit = rate.ClusterLimit(None, 1)
    assert limit.lease(5.0, 30) == ([0.0] * 30, 0.0)
    limit.pause(5.0, 2.0)
    assert limit.lease(5.0, 30).delays == []


class Lender:
    """Leases from a limit in this process, as the scheduler does."""

    def __init__(self, limit: rate.ClusterLimit) -> None:
        self.limit = limit
        self.leases = 0
        self.now = 0.0

    async def lease(self, wanted: int) -> rate.Lease:
        self.leases += 1
        await asyncio.sleep(0)
        return self.limit.lease(self.now, wanted)

    def pause(self, seconds: float) -> None:
        self.limit.pause(self.now, seconds)


async def test_many_waiting_requests_share_a_lease_and_start_in_order() -> None:
    lender = Lender(rate.ClusterLimit(200, 1))
    limiter: RateLimiter = rate.LeasedLimiter(lender, clock=lambda: lender.now)
    delays = await asyncio.gather(*(limiter.reserve() for _ in range(40)))
    assert delays == [pytest.approx(number / 200) for number in range(40)]
    assert lender.leases == 2


async def test_what_was_leased_for_a_cancelled_request_is_not_used_much_later() -> None:
    lender = Lender(rate.ClusterLimit(1000, 1))
    limiter = rate.LeasedLimiter(lender, clock=lambda: lender.now)
    waiting = [asyncio.ensure_future(limiter.reserve()) for _ in range(10)]
    await asyncio.sleep(0)
    for task in waiting[1:]:
        task.cancel()
    await asyncio.wait(waiting)
    lender.now = 10.0
    await limiter.reserve()
    assert lender.leases == 2


def test_a_limit_that_is_changed_keeps_what_was_leased_and_a_pause() -> None:
    limit = rate.ClusterLimit(10, 1)
    assert limit.lease(0.0, 5).delays == [pytest.approx(delay) for delay in (0, 0.1, 0.2)]
    limit.set(2, 1)
    assert limit.lease(0.1, 5).delays == [pytest.approx(0.2)]
    assert limit.lease(0.5, 5).delays == [], "the next starts are at 0.8 and 1.3"
    limit.pause(0.5, 10)
    limit.set(None, 1)
    assert limit.lease(5.0, 5).delays == []


# --- a cluster ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # a killed worker is no news
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as made:
        yield made


@pytest.fixture
def dask(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


@pytest.fixture
def sandbox(dask: Client) -> Iterator[Sandbox]:
    with Sandbox(runs=31, tasks_per_run=(0, 6)) as made:
        set_environment(dask, made)
        yield made


def set_environment(dask: Client, sandbox: Sandbox, **more: str) -> None:
    variables = {
        "UNPOD_PLATFORM_TOKEN": sandbox.token,
        "UNPOD_ORG_HANDLE": sandbox.org_handle,
        "UNPOD_PLATFORM_BASE_URL": sandbox.base_url,
        **more,
    }
    dask.run(update_environment, variables)


def update_environment(variables: dict[str, str]) -> None:
    """Set variables of a worker. A method of `os.environ` would be sent with a copy of it."""
    os.environ.update(variables)


def forget_key() -> None:
    os.environ.pop("UNPOD_REDACT_KEY", None)


async def plan_of(sandbox: Sandbox, shards: int = 3, **options: Any) -> ExportPlan:
    async with sandbox.client() as unpod:
        return await unpod.plan_export(sandbox.space_token, shards=shards, **options)


async def words_of(sandbox: Sandbox) -> Counter[str]:
    async with sandbox.client() as unpod:
        tasks = await unpod.tasks.list(sandbox.space_token).collect()
    return Counter(
        json.dumps({"run_id": task.run_id, "task_id": task.task_id, **row})
        for task in tasks
        for row in count_words(task)
    )


def processed(target: Path) -> Counter[str]:
    lines = [line for path in (target / "processed").glob("*") for line in path.read_text().splitlines()]
    return Counter(json.dumps(json.loads(line)) for line in lines)


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "parquet"])
async def test_the_data_set_is_that_of_a_plain_export(
    tmp_path: Path, sandbox: Sandbox, dask: Client, form: Any
) -> None:
    plan = await plan_of(sandbox, format=form)
    events: list[tuple[int, ExportProgress]] = []
    target = tmp_path / "data"
    summary = await unpod_async.distributed.export(
        plan,
        target,
        dask,
        process=count_words,
        on_progress=lambda shard, progress: events.append((shard, progress)),
    )
    assert (summary.complete, summary.runs, summary.tasks) == (True, 31, sandbox.task_count)
    assert summary.seconds > 0
    assert_holds(target, sandbox, form)
    assert processed(target) == await words_of(sandbox)
    assert {shard for shard, _ in events} == {0, 1, 2}
    assert {shard for shard, progress in events if progress.phase == "done"} == {0, 1, 2}

    again = await unpod_async.distributed.export(plan, target, dask, process=count_words)
    assert again.tasks == summary.tasks
    assert again.fetched_runs < 10  # the runs that have not ended
    assert processed(target) == await words_of(sandbox)


async def test_the_summary_has_what_all_shards_fetched(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    """One of three exports, because a shard that Dask runs again counts its last run only."""
    found: set[tuple[int, int, int]] = set()
    for number in range(3):
        plan, earlier = await plan_of(sandbox), sandbox.requests
        summary = await unpod_async.distributed.export(plan, tmp_path / str(number), dask)
        lost = sandbox.requests - earlier - summary.requests
        found.add((summary.fetched_runs, summary.fetched_tasks, lost))
    assert (31, sandbox.task_count, 0) in found


async def test_an_asynchronous_client_of_dask_works_too(
    tmp_path: Path, sandbox: Sandbox, cluster: LocalCluster
) -> None:
    plan = await plan_of(sandbox)
    async with Client(cluster.scheduler_address, asynchronous=True) as dask:
        summary = await unpod_async.distributed.export(plan, tmp_path / "data", dask)
    assert summary.complete
    assert_holds(tmp_path / "data", sandbox)


async def test_all_workers_begin_with_the_same_number_of_shards(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    """Dask moves tasks from a worker with too many, but so slowly that others are idle for seconds."""
    url, token, folder = sandbox.base_url, sandbox.token, tmp_path / "workers"
    folder.mkdir()

    def client_of_sandbox(limit: RateLimiter) -> UnpodClient:
        (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        return UnpodClient(token, base_url=url, rate_limit=limit)

    await unpod_async.distributed.export(
        await plan_of(sandbox, shards=4), tmp_path / "data", dask, client=client_of_sandbox
    )
    started = Counter(int(path.name.partition("-")[0]) for path in folder.iterdir())
    assert started == dict.fromkeys(dask.run(os.getpid).values(), 2)


async def test_the_workers_share_the_limit(tmp_path: Path, dask: Client) -> None:
    with Sandbox(runs=40, rate_limit=30, burst=12) as sandbox:
        set_environment(dask, sandbox)
        plan = await plan_of(sandbox, shards=4)
        earlier = len(sandbox.log)
        await unpod_async.distributed.export(
            plan, tmp_path / "data", dask, rate_limit=30, burst=4, page_size=4
        )
        received = sandbox.log[earlier:]
        assert len(received) > 60
        assert {request.status for request in received} == {200}
        assert most_in_a_second([request.arrived for request in received]) <= 30 * 1.05 + 4
        assert_holds(tmp_path / "data", sandbox)


async def test_a_delay_that_the_server_asks_of_one_worker_holds_for_all(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    plan = await plan_of(sandbox, shards=4)
    earlier = len(sandbox.log)
    exporting = asyncio.ensure_future(
        unpod_async.distributed.export(plan, tmp_path / "data", dask, rate_limit=60, burst=2, page_size=3)
    )
    await sandbox.arrived(earlier + 12)
    sandbox.script(faults.rate_limited(1))
    await exporting
    received = sandbox.log[earlier:]
    (refused,) = [request.arrived for request in received if request.status == 429]
    # Requests that may start within the horizon were leased before the worker knew of the delay.
    during = [one for one in received if refused + rate.HORIZON + 0.1 < one.arrived < refused + 0.95]
    assert during == []
    assert_holds(tmp_path / "data", sandbox)


@pytest.mark.parametrize("kill", range(KILLS))
async def test_a_worker_that_is_killed_costs_no_row(tmp_path: Path, dask: Client, kill: int) -> None:
    with Sandbox(runs=60, tasks_per_run=(1, 5), seed=kill) as sandbox:
        set_environment(dask, sandbox)
        plan = await plan_of(sandbox, shards=4)
        pids: dict[str, int] = dask.run(os.getpid)
        fetching = asyncio.Event()

        def watch(_shard: int, progress: ExportProgress) -> None:
            if progress.runs_done > kill % 10:
                fetching.set()

        def client_of_sandbox(limit: RateLimiter) -> UnpodClient:
            # A new worker does not have the environment of the test.
            return UnpodClient(TOKEN, base_url=base_url, rate_limit=limit)

        base_url = sandbox.base_url
        exporting = asyncio.ensure_future(
            unpod_async.distributed.export(
                plan,
                tmp_path / "data",
                dask,
                client=client_of_sandbox,
                rate_limit=60,
                burst=2,
                process=count_words,
                on_progress=watch,
                page_size=4,
            )
        )
        await asyncio.wait({exporting, asyncio.ensure_future(fetching.wait())}, return_when="FIRST_COMPLETED")
        assert not exporting.done()
        busy = dask.processing()
        os.kill(pids[max(pids, key=lambda address: len(busy.get(address, ())))], signal.SIGKILL)
        summary = await exporting
        assert (summary.complete, summary.tasks) == (True, sandbox.task_count)
        assert_holds(tmp_path / "data", sandbox)
        assert processed(tmp_path / "data") == await words_of(sandbox)


TOKEN = Sandbox(runs=0).token


async def test_a_cancelled_export_stops_in_all_workers(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    plan = await plan_of(sandbox)
    earlier = sandbox.requests
    exporting = asyncio.ensure_future(
        unpod_async.distributed.export(plan, tmp_path / "data", dask, rate_limit=10, burst=1, page_size=2)
    )
    await sandbox.arrived(earlier + 3)
    exporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exporting
    after = sandbox.requests
    assert_nothing_is_left(dask)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):  # longer than between two heartbeats
            await sandbox.arrived(after + 1)
    summary = await unpod_async.distributed.export(plan, tmp_path / "data", dask, retries=0)
    assert summary.complete
    assert_holds(tmp_path / "data", sandbox)


def tasks_of_the_scheduler(dask_scheduler: Any) -> list[str]:
    return [key for key in dask_scheduler.tasks if key.startswith("unpod-")]


def left_in_the_scheduler(dask_scheduler: Any) -> dict[str, Any]:
    plugin = dask_scheduler.plugins["unpod-async"]
    clients = [name for name in dask_scheduler.clients if name != "fire-and-forget"]
    return {
        "tasks": tasks_of_the_scheduler(dask_scheduler),
        "topics": [topic for topic in dask_scheduler.get_events() if topic.startswith("unpod")],
        "exports": list(plugin._exports),
        "running": list(plugin._tasks),
        "clients": clients[1:],  # the first is that of the test
    }


def threads_of_a_worker() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("asyncio_")]


def assert_nothing_is_left(dask: Client) -> None:
    assert not any(dask.run_on_scheduler(left_in_the_scheduler).values())
    # A task tells the scheduler that it has ended, and then closes its event loop.
    deadline = time.monotonic() + 10
    while any(dask.run(threads_of_a_worker).values()):
        assert time.monotonic() < deadline


async def test_nothing_is_left_of_an_export(tmp_path: Path, sandbox: Sandbox, dask: Client) -> None:
    plan = await plan_of(sandbox)
    await unpod_async.distributed.export(
        plan, tmp_path / "data", dask, process=count_words, on_progress=lambda *_: None
    )
    assert_nothing_is_left(dask)
    set_environment(dask, sandbox, UNPOD_PLATFORM_TOKEN="wrong0000")
    with pytest.raises(AuthenticationError):
        await unpod_async.distributed.export(plan, tmp_path / "data", dask, full=True)
    assert_nothing_is_left(dask)
    assert not [path for path in (tmp_path / "data").rglob(".*") if path.name != ".unpod-export"]


async def test_a_function_that_never_stops_yielding_is_stopped(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    begun = tmp_path / "begun"

    def process(_task: Task) -> Iterator[dict[str, Any]]:
        begun.touch()
        while True:
            time.sleep(0.001)
            yield {}

    exporting = asyncio.ensure_future(
        unpod_async.distributed.export(await plan_of(sandbox), tmp_path / "data", dask, process=process)
    )
    await exists(begun)
    exporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exporting
    assert_nothing_is_left(dask)


async def exists(path: Path) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(path.exists):  # noqa: ASYNC110 - another process creates it
            await asyncio.sleep(0.02)


async def test_a_cancellation_waits_for_a_function_that_blocks(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    """Otherwise, it would still run while the next export processes the shard."""
    begun, release = tmp_path / "begun", tmp_path / "release"

    def process(_task: Task) -> list[dict[str, Any]]:
        begun.touch()
        while not release.exists():
            time.sleep(0.01)
        return []

    plan = await plan_of(sandbox, shards=1)
    exporting = asyncio.ensure_future(
        unpod_async.distributed.export(plan, tmp_path / "data", dask, process=process)
    )
    await exists(begun)
    exporting.cancel()
    done, _ = await asyncio.wait({exporting}, timeout=1)
    assert not done
    release.touch()
    with pytest.raises(asyncio.CancelledError):
        await exporting
    assert_nothing_is_left(dask)


@pytest.mark.parametrize("ending", ["complete", "cancel"])
async def test_a_merge_waits_for_the_lock_of_a_lost_worker(
    tmp_path: Path, sandbox: Sandbox, dask: Client, ending: str
) -> None:
    plan = await plan_of(sandbox)
    (tmp_path / "data" / "_shards").mkdir(parents=True)
    (tmp_path / "data" / "_plan.json").write_bytes(msgspec.json.encode({"digests": [plan.digest]}))
    finished = set[int]()
    with locked(tmp_path / "data" / "_shards" / "lock"):
        exporting = asyncio.ensure_future(
            unpod_async.distributed.export(
                plan,
                tmp_path / "data",
                dask,
                on_progress=lambda shard, progress: finished.add(shard) if progress.phase == "done" else None,
            )
        )
        async with asyncio.timeout(30):
            while len(finished) < plan.shards:  # noqa: ASYNC110 - a callback adds to it
                await asyncio.sleep(0.02)
        done, _ = await asyncio.wait({exporting}, timeout=1)
        assert not done
        if ending == "cancel":
            exporting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exporting
            assert_nothing_is_left(dask)
            return
    assert (await exporting).complete


async def test_only_one_export_into_a_target_runs_on_a_cluster(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    """The second one would get the rows of the function of the first."""
    plan, another = await plan_of(sandbox), await plan_of(sandbox, shards=2)
    earlier = sandbox.requests
    exporting = asyncio.ensure_future(
        unpod_async.distributed.export(plan, tmp_path / "data", dask, rate_limit=20, burst=1, page_size=4)
    )
    await sandbox.arrived(earlier + 3)
    for second in (plan, another):
        with pytest.raises(TargetLockedError) as caught:
            await unpod_async.distributed.export(second, tmp_path / "data", dask, process=count_words)
        assert caught.value.hint
    elsewhere = await unpod_async.distributed.export(another, tmp_path / "other", dask, process=count_words)
    assert (await exporting).complete
    assert elsewhere.complete
    assert_holds(tmp_path / "data", sandbox)
    assert not (tmp_path / "data" / "processed").exists()
    assert processed(tmp_path / "other") == await words_of(sandbox)


async def test_exports_at_the_same_time_share_the_lowest_limit(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    await unpod_async.distributed.export(await plan_of(sandbox), tmp_path / "data", dask)
    assert dask.run_on_scheduler(leases_of_several_exports) == [64, 3, 0, 0, 0]


def leases_of_several_exports(dask_scheduler: Any) -> list[int]:
    """Return how many starts are leased in turn to exports with other limits."""
    plugin = dask_scheduler.plugins["unpod-async"]

    def begin(name: str, per_second: float | None) -> None:
        assert plugin.begin(name, "caller", name, "http://service", per_second, 1, b"job")

    def leased(name: str) -> int:
        return len(plugin.lease(name, 64)[0])

    begin("first", None)
    found = [leased("first")]
    begin("second", 10)
    begin("third", 100)
    found += [leased("first"), leased("third")]
    plugin.end("second")
    found.append(leased("second"))
    plugin.remove_client(dask_scheduler, "caller")
    found.append(leased("first"))
    assert plugin._exports == {}
    return found


async def test_a_relative_target_is_that_of_the_caller(
    tmp_path: Path, sandbox: Sandbox, dask: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await unpod_async.distributed.export(await plan_of(sandbox), "data", dask)
    assert_holds(tmp_path / "data", sandbox)


async def test_a_callback_that_fails_does_not_stop_the_export(
    tmp_path: Path, sandbox: Sandbox, dask: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_shard: int, _progress: ExportProgress) -> None:
        raise ValueError("personal data")

    summary = await unpod_async.distributed.export(
        await plan_of(sandbox), tmp_path / "data", dask, on_progress=fail
    )
    assert summary.complete
    assert "on_progress failed with ValueError" in caplog.text
    assert "personal data" not in caplog.text


# --- errors ------------------------------------------------------------------------------------------------


async def test_an_error_of_the_server_is_raised_and_shows_no_secret(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    plan = await plan_of(sandbox)
    set_environment(dask, sandbox, UNPOD_PLATFORM_TOKEN="wrong0000")
    with pytest.raises(AuthenticationError) as caught:
        await unpod_async.distributed.export(plan, tmp_path / "data", dask, retries=0)
    assert "in shard 0 of an export on a cluster" in caught.value.__notes__
    assert "wrong0000" not in str(caught.value)


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_shard_that_fails_is_tried_again(
    tmp_path: Path, sandbox: Sandbox, dask: Client, retries: int
) -> None:
    plan, failed = await plan_of(sandbox, shards=1), tmp_path / "failed"

    def fail_once(limit: RateLimiter) -> UnpodClient:
        if not failed.exists():
            failed.touch()
            raise ValueError("personal data")
        return UnpodClient(rate_limit=limit)

    exporting = unpod_async.distributed.export(
        plan, tmp_path / "data", dask, client=fail_once, retries=retries
    )
    if retries:
        assert (await exporting).complete
        return
    with pytest.raises(ExportError, match=r"shard 0 failed in a worker \(ValueError\)") as caught:
        await exporting
    assert "personal data" not in str(caught.value)


async def test_the_cluster_shows_no_secret_and_no_personal_data(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    def process(task: Task) -> list[dict[str, Any]]:
        raise ValueError(str(task.input))

    plan, shown = await plan_of(sandbox), ""

    def look(_shard: int, _progress: ExportProgress) -> None:
        nonlocal shown
        shown += dask.run_on_scheduler(everything_the_scheduler_shows)

    await unpod_async.distributed.export(plan, tmp_path / "data", dask, process=process, on_progress=look)
    set_environment(dask, sandbox, UNPOD_PLATFORM_TOKEN="wrong0000")
    with pytest.raises(AuthenticationError):
        await unpod_async.distributed.export(plan, tmp_path / "data", dask, full=True)
    shown += dask.run_on_scheduler(everything_the_scheduler_shows)
    shown += repr((dask.get_scheduler_logs(), dask.get_worker_logs()))
    assert "unpod-shard" in shown
    for secret in (sandbox.token, "wrong0000", sandbox.space_token, *sandbox.run_ids()):
        assert secret not in shown
    for row in sandbox.task_rows():
        assert str(row["input"]) not in shown


def everything_the_scheduler_shows(dask_scheduler: Any) -> str:
    tasks = [(key, task.run_spec, task.exception_text) for key, task in dask_scheduler.tasks.items()]
    story = list(dask_scheduler.transition_log)
    return repr((tasks, story, dask_scheduler.get_events(), dask_scheduler.identity()))


async def test_a_function_that_fails_costs_the_rows_of_its_task(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    plan = await plan_of(sandbox)
    unlucky = sandbox.task_ids()[3]

    def process(task: Task) -> Iterator[dict[str, Any]]:
        yield {"first": 1}
        if task.task_id == unlucky:
            raise ValueError("personal data")
        yield {"second": 2}

    summary = await unpod_async.distributed.export(plan, tmp_path / "data", dask, process=process)
    assert summary.complete is False
    assert summary.reasons == (f"process failed for 1 task, such as {unlucky} with ValueError",)
    rows = processed(tmp_path / "data")
    assert rows.total() == 2 * (sandbox.task_count - 1)
    assert not [row for row in rows if unlucky in row]
    assert_holds(tmp_path / "data", sandbox)


async def test_rows_that_are_no_json_objects_are_failures_too(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    plan = await plan_of(sandbox, shards=1)
    for process in (lambda _: [{"a": object()}], lambda _: [1], lambda _: None):
        summary = await unpod_async.distributed.export(plan, tmp_path / "data", dask, process=process)
        assert summary.complete is False
        assert f"process failed for {sandbox.task_count} tasks" in summary.reasons[0]
        assert processed(tmp_path / "data").total() == 0


async def test_hashes_need_the_key_in_the_environment_of_the_workers(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    plan = await plan_of(sandbox, redact="hash", redact_key=b"0123456789")
    dask.run(forget_key)
    with pytest.raises(InvalidArgument, match="redact_key is missing"):
        await unpod_async.distributed.export(plan, tmp_path / "data", dask, retries=0)
    set_environment(dask, sandbox, UNPOD_REDACT_KEY="0123456789")
    summary = await unpod_async.distributed.export(plan, tmp_path / "data", dask)
    dask.run(forget_key)
    assert summary.complete


async def coroutine(_task: Task) -> list[dict[str, Any]]:
    return []


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"plan": 5}, "plan"),
        ({"dask_client": 5}, "dask_client"),
        ({"target": ""}, "target"),
        ({"target": 5}, "target"),
        ({"on_progress": 5}, "on_progress"),
        ({"client": 5}, "client"),
        ({"client": lambda _: LOCK}, "client"),
        ({"process": lambda _: LOCK}, "process"),
        ({"redact_key": b"0123456789"}, "redact_key"),
        ({"format": "csv"}, "format"),
        ({"concurrency": 0}, "concurrency"),
        ({"rate_limit": 0}, "rate_limit"),
        ({"burst": 0}, "burst"),
        ({"retries": -1}, "retries"),
        ({"process": coroutine}, "process"),
        ({"process": 5}, "process"),
        ({"process": count_words, "target": "s3://bucket/prefix"}, "process"),
        ({"target": "ftp://bucket/prefix"}, "target"),
        ({"target": Path("s3://bucket/prefix")}, "target"),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_is_sent(
    tmp_path: Path, sandbox: Sandbox, dask: Client, options: dict[str, Any], argument: str
) -> None:
    plan = await plan_of(sandbox)
    earlier = sandbox.requests
    arguments = {"plan": plan, "target": tmp_path / "data", "dask_client": dask, **options}
    with pytest.raises(InvalidArgument) as caught:
        await unpod_async.distributed.export(**arguments)
    assert caught.value.argument == argument
    assert sandbox.requests == earlier


async def test_a_client_that_is_closed_is_refused(
    tmp_path: Path, sandbox: Sandbox, cluster: LocalCluster
) -> None:
    with Client(cluster) as closed:
        pass
    with pytest.raises(InvalidArgument) as caught:
        await unpod_async.distributed.export(await plan_of(sandbox), tmp_path / "data", closed)
    assert caught.value.argument == "dask_client"


async def test_the_client_may_be_closed_during_the_export(
    tmp_path: Path, sandbox: Sandbox, dask: Client, cluster: LocalCluster
) -> None:
    plan = await plan_of(sandbox)
    earlier = sandbox.requests
    with Client(cluster) as closed:
        exporting = asyncio.ensure_future(
            unpod_async.distributed.export(plan, tmp_path / "data", closed, rate_limit=60, burst=1)
        )
        await sandbox.arrived(earlier + 1)
    assert (await exporting).complete
    assert_nothing_is_left(dask)


async def test_workers_that_cannot_import_something_stay_connected(
    tmp_path: Path, sandbox: Sandbox, dask: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask closes a worker that cannot import what a task consists of, with all that it is working on."""
    (tmp_path / "only_here.py").write_text("def process(task):\n    return []\n")
    monkeypatch.syspath_prepend(tmp_path)
    process = importlib.import_module("only_here").process
    plan, workers = await plan_of(sandbox), dask.run(os.getpid)
    with pytest.raises(ExportError, match=r"ModuleNotFoundError: No module named 'only_here'") as caught:
        await unpod_async.distributed.export(plan, tmp_path / "data", dask, process=process)
    assert "all that your functions import" in str(caught.value.hint)
    dask.run(hide_the_package)
    with pytest.raises(ExportError, match=r"shard 0 failed in a worker \(ModuleNotFoundError"):
        await unpod_async.distributed.export(plan, tmp_path / "data", dask)
    dask.run(show_the_package)
    assert dask.run(os.getpid) == workers
    assert_nothing_is_left(dask)


WORKER = "unpod_async.distributed.worker"


def hide_the_package() -> None:
    sys.modules[WORKER] = None  # type: ignore[assignment]


def show_the_package() -> None:
    del sys.modules[WORKER]


async def test_workers_with_another_version_are_refused(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    dask.run(set_version, "0.0.1")
    try:
        with pytest.raises(ConfigurationError, match=r"a worker has version 0\.0\.1 of unpod-async, and"):
            await unpod_async.distributed.export(await plan_of(sandbox), tmp_path / "data", dask)
    finally:
        dask.run(show_the_package)


def set_version(version: str) -> None:
    vars(importlib.import_module(WORKER))["VERSION"] = version


async def test_a_target_with_another_plan_is_refused(tmp_path: Path, sandbox: Sandbox, dask: Client) -> None:
    await unpod_async.distributed.export(await plan_of(sandbox), tmp_path / "data", dask)
    with pytest.raises(ExportError, match="belongs to another plan"):
        await unpod_async.distributed.export(
            await plan_of(sandbox, shards=2), tmp_path / "data", dask, retries=0
        )
    assert_holds(tmp_path / "data", sandbox)


async def test_tasks_that_others_cancel_are_an_error_not_a_cancellation(
    tmp_path: Path, sandbox: Sandbox, dask: Client
) -> None:
    plan = await plan_of(sandbox)
    earlier = sandbox.requests
    exporting = asyncio.ensure_future(
        unpod_async.distributed.export(plan, tmp_path / "data", dask, rate_limit=10, burst=1, page_size=2)
    )
    await sandbox.arrived(earlier + 2)
    await asyncio.to_thread(cancel_all, dask)
    with pytest.raises(ExportError, match="were cancelled in the cluster"):
        await exporting


def cancel_all(dask: Client) -> None:
    from distributed import Future

    keys = dask.run_on_scheduler(tasks_of_the_scheduler)
    dask.cancel([Future(key, dask) for key in keys], force=True)


def test_without_dask_the_hint_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['distributed'] = None\n"
        "import unpod_async.distributed\n"
        "try: unpod_async.distributed.export\n"
        "except unpod_async.ConfigurationError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - this test
    assert "dask.distributed" in shown.stdout
    assert "[dask]" in shown.stdout
    with pytest.raises(AttributeError):
        _ = unpod_async.distributed.nothing


def end_process(_task: Task) -> list[dict[str, Any]]:
    os._exit(1)


@pytest.mark.slow
async def test_a_shard_that_ends_its_workers_is_an_error(tmp_path: Path, dask: Client) -> None:
    with Sandbox(runs=2) as sandbox:
        plan, url = await plan_of(sandbox, shards=1), sandbox.base_url
        with pytest.raises(ExportError, match="shard 0 was lost together with 4 workers"):
            await unpod_async.distributed.export(
                plan,
                tmp_path / "data",
                dask,
                client=lambda limit: UnpodClient(TOKEN, base_url=url, rate_limit=limit),
                process=end_process,
            )
