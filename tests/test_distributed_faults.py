"""`unpod_async.distributed.export`, while the scheduler or a worker does not respond, is lost or comes late.

The scheduler and the workers are processes of their own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import Client

from tests.export.dataset import assert_holds
from tests.test_distributed import plan_of, processed, words_of
from unpod_async import ExportError, ExportPlan, Task
from unpod_async.distributed import export
from unpod_async.testing import Sandbox
from unpod_async.testing.demos.cluster import count_words

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="needs SIGSTOP")]

WORKER_TTL = 3
"""Seconds without a heartbeat of Dask after which the tasks of a worker are given to another one."""


class Machines:
    """A scheduler and its workers."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{WORKER_TTL}s",
            "UNPOD_PLATFORM_TOKEN": sandbox.token,
            "UNPOD_ORG_HANDLE": sandbox.org_handle,
            "UNPOD_PLATFORM_BASE_URL": sandbox.base_url,
        }
        self._folder = folder
        self._log = (folder / "log").open("wb")
        self._processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--host", self.address, "--dashboard-address", ":0")

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self._start("worker", self.address, "--nthreads", "2", "--no-nanny", "--no-dashboard")

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments]
        process = subprocess.Popen(  # noqa: S603 - this test
            command, env=self._environment, cwd=self._folder, stdout=self._log, stderr=self._log
        )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._log.close()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with Sandbox(runs=60, tasks_per_run=(1, 4)) as made:
        yield made


@pytest.fixture
def machines(tmp_path: Path, sandbox: Sandbox) -> Iterator[Machines]:
    started = Machines(tmp_path, sandbox)
    yield started
    started.stop()


def begin(plan: ExportPlan, target: Path, client: Client, **options: Any) -> asyncio.Task[Any]:
    """Begin an export that takes seconds."""
    slow = {"rate_limit": 20, "burst": 1, "page_size": 4}
    return asyncio.ensure_future(export(plan, target, client, **{**slow, **options}))


async def test_an_export_without_workers_waits_for_them_and_says_so(
    tmp_path: Path, sandbox: Sandbox, machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(machines.address, asynchronous=True) as client:
        exporting = begin(await plan_of(sandbox), tmp_path / "data", client, rate_limit=None)
        done, _ = await asyncio.wait({exporting}, timeout=12)
        assert not done
        assert caplog.text.count("the Dask cluster has no workers; the export waits for one") == 1
        machines.start_worker()
        assert (await exporting).complete
    assert_holds(tmp_path / "data", sandbox)


async def test_a_scheduler_that_does_not_respond_stops_the_requests_and_not_the_caller(
    tmp_path: Path, sandbox: Sandbox, machines: Machines
) -> None:
    machines.start_worker()
    plan = await plan_of(sandbox)
    async with Client(machines.address, asynchronous=True) as client:
        earlier = sandbox.requests
        exporting = begin(plan, tmp_path / "data", client)
        await sandbox.arrived(earlier + 5)
        machines.scheduler.send_signal(signal.SIGSTOP)
        await asyncio.wait({exporting}, timeout=1)
        stopped = sandbox.requests
        began = time.monotonic()
        exporting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exporting
        assert time.monotonic() - began < 25
        assert sandbox.requests == stopped
        machines.scheduler.send_signal(signal.SIGCONT)
        machines.start_worker()  # the scheduler gives up the other one
        assert (await begin(plan, tmp_path / "data", client, rate_limit=None)).complete
    assert_holds(tmp_path / "data", sandbox)


async def test_the_loss_of_the_scheduler_is_an_error(
    tmp_path: Path, sandbox: Sandbox, machines: Machines
) -> None:
    machines.start_worker()
    async with Client(machines.address, asynchronous=True) as client:
        earlier = sandbox.requests
        exporting = begin(await plan_of(sandbox), tmp_path / "data", client)
        await sandbox.arrived(earlier + 5)
        machines.scheduler.kill()
        with pytest.raises(ExportError, match="the connection to the scheduler was lost") as caught:
            await exporting
        assert caught.value.hint
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "3s"}),
            pytest.raises(ExportError, match="the scheduler cannot be reached"),
        ):
            await begin(await plan_of(sandbox), tmp_path / "data", client)


CALLER = """
import asyncio, sys
from distributed import Client
from unpod_async import ExportPlan
from unpod_async.distributed import export

async def main():
    async with Client(sys.argv[1], asynchronous=True) as client:
        plan = ExportPlan.load(sys.argv[2])
        await export(plan, sys.argv[3], client, rate_limit=20, burst=1, page_size=4)

asyncio.run(main())
"""


async def test_the_workers_stop_if_the_program_is_lost(
    tmp_path: Path, sandbox: Sandbox, machines: Machines
) -> None:
    machines.start_worker()
    plan, target = await plan_of(sandbox), tmp_path / "data"
    plan.save(tmp_path / "plan.json")
    earlier = sandbox.requests
    command = [sys.executable, "-c", CALLER, machines.address, str(tmp_path / "plan.json"), str(target)]
    program = await asyncio.create_subprocess_exec(*command)
    await sandbox.arrived(earlier + 5)
    program.kill()
    await program.wait()
    async with Client(machines.address, asynchronous=True) as client:
        # A request after this one would be of a task of the lost export.
        assert (await begin(plan, target, client, rate_limit=None, retries=0)).complete
        assert_holds(target, sandbox)
        after = sandbox.requests
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await sandbox.arrived(after + 1)


def count_slowly(task: Task) -> list[dict[str, Any]]:
    time.sleep(0.1)
    return list(count_words(task))


@pytest.mark.parametrize("stage", ["export", "process"])
async def test_a_suspended_worker_that_resumes_does_not_write_into_a_shard_of_another_one(
    tmp_path: Path, sandbox: Sandbox, machines: Machines, stage: str
) -> None:
    workers = [machines.start_worker(), machines.start_worker()]
    done = asyncio.Event()
    async with Client(machines.address, asynchronous=True) as client:
        await client.wait_for_workers(2)  # type: ignore[no-untyped-call]
        exporting = begin(
            await plan_of(sandbox, shards=2),
            tmp_path / "data",
            client,
            rate_limit=20 if stage == "export" else None,
            process=count_words if stage == "export" else count_slowly,
            on_progress=lambda _, progress: done.set() if progress.phase == "done" else None,
        )
        if stage == "export":
            await sandbox.arrived(10)
        else:
            await done.wait()
        workers[0].send_signal(signal.SIGSTOP)
        async with asyncio.timeout(30):
            while len((await client.scheduler.identity())["workers"]) == 2:  # noqa: ASYNC110 - of Dask
                await asyncio.sleep(0.1)
        await asyncio.wait({exporting}, timeout=3)
        workers[0].send_signal(signal.SIGCONT)
        assert (await exporting).complete
    assert_holds(tmp_path / "data", sandbox)
    assert processed(tmp_path / "data") == await words_of(sandbox)
