"""`unpod_async.distributed.export`: the shards of a plan on a Dask cluster."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import unpod_async.distributed
from tests.export.dataset import assert_holds
from unpod_async import (
    AuthenticationError,
    ExportError,
    ExportPlan,
    ExportProgress,
    InvalidArgument,
    RateLimiter,
    Task,
    UnpodClient,
)
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
    assert (summary.fetched_runs, summary.fetched_tasks) == (31, sandbox.task_count)
    assert_holds(target, sandbox, form)
    assert processed(target) == await words_of(sandbox)
    assert {shard for shard, _ in events} == {0, 1, 2}
    assert {shard for shard, progress in events if progress.phase == "done"} == {0, 1, 2}

    again = await unpod_async.distributed.export(plan, target, dask, process=count_words)
    assert again.tasks == summary.tasks
    assert again.fetched_runs < 10  # the runs that have not ended
    assert processed(target) == await words_of(sandbox)


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
    assert dask.run_on_scheduler(tasks_of_the_scheduler) == []
    after = sandbox.requests
    summary = await unpod_async.distributed.export(plan, tmp_path / "data", dask)
    assert summary.complete
    assert sandbox.requests > after
    assert_holds(tmp_path / "data", sandbox)


def tasks_of_the_scheduler(dask_scheduler: Any) -> list[str]:
    return [key for key in dask_scheduler.tasks if key.startswith("unpod-shard")]


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


async def test_the_scheduler_never_sees_the_token(tmp_path: Path, sandbox: Sandbox, dask: Client) -> None:
    plan = await plan_of(sandbox)
    await unpod_async.distributed.export(
        plan, tmp_path / "data", dask, process=count_words, on_progress=lambda *_: None
    )
    assert sandbox.token not in dask.run_on_scheduler(everything_the_scheduler_shows)


def everything_the_scheduler_shows(dask_scheduler: Any) -> str:
    tasks = [(key, task.run_spec, task.exception_text) for key, task in dask_scheduler.tasks.items()]
    return repr((tasks, dask_scheduler.get_events(), dask_scheduler.identity()))


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


@pytest.mark.parametrize(
    ("options", "argument"),
    [
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

    futures = [Future(key, dask) for key in list(dask.futures)]
    dask.cancel(futures, force=True)


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
