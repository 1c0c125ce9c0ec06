"""What runs in the workers of the cluster: the export of a shard, and the merge, in the thread of a task.

The exporter has an event loop of its own in this thread. Calls to the scheduler go through the event loop of
the worker.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from distributed import get_worker

from unpod_async import (
    ConfigurationError,
    ExportPlan,
    ExportProgress,
    ExportSummary,
    RateLimiter,
    TargetLockedError,
    UnpodClient,
    merge_shards,
)
from unpod_async._common import cancel_and_wait, run_stoppable
from unpod_async._export import (
    Process,
    merge_processed,
    process_shard,
    redact_key_of,
    shard_directory,
)
from unpod_async._version import VERSION
from unpod_async.distributed.rate import Lease, LeasedLimiter

__all__ = ["ClientFactory", "Job", "export_one_shard", "merge_all_shards"]

T = TypeVar("T")

_HEARTBEAT: Final = 0.5
"""Seconds between two heartbeats of a task."""

_LOCK_EXPIRES: Final = 180.0
"""Seconds after which nothing of a lost worker holds a lock any more."""

_LOCK_CHECK: Final = 2.0

ClientFactory: TypeAlias = Callable[[RateLimiter], UnpodClient]
"""Makes the client of a shard. It gets the limit of the cluster as `rate_limit`."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What all tasks of an export have in common.

    Attributes:
        id: Different for each call of `export`.
        options: Fields of `ExportSpec` that the plan does not decide.
        interval: Seconds between two requests of the cluster; 0 without a limit.
        client: None makes a client from the environment of the worker.
        process: Applied to each task; None if there is no second table.
    """

    id: str
    plan: ExportPlan
    target: str
    options: Mapping[str, Any]
    interval: float
    client: ClientFactory | None
    process: Process | None


def export_one_shard(version: str, export: str, key: str, number: int) -> ExportSummary:
    """Export a shard, and process it. Runs as a task of the cluster.

    Args:
        version: That of the package where `export` was called.
        export: Id of the job.
        key: Key of this task.
        number: Number of the shard.
    """
    return asyncio.run(_run(version, Scheduler(export, key, number), _export_shard))


def merge_all_shards(version: str, export: str, key: str, number: int) -> ExportSummary:
    """Merge the shards. Runs as a task of the cluster, because the workers see the target."""
    return asyncio.run(_run(version, Scheduler(export, key, number), _merge))


class Scheduler:
    """Calls the scheduler from the thread of a task.

    Attributes:
        number: Number of the shard.
        progress: What the next heartbeat reports.
    """

    def __init__(self, export: str, key: str, number: int) -> None:
        worker: Any = get_worker()
        self._loop: asyncio.AbstractEventLoop = worker.loop.asyncio_loop
        self._rpc: Any = worker.scheduler
        self._task = {"export": export, "key": key, "worker": worker.address}
        self.number = number
        self.progress: ExportProgress | None = None

    async def _call(self, operation: Callable[..., Coroutine[Any, Any, T]], **arguments: Any) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(operation(**arguments), self._loop))

    async def job(self) -> Job:
        """Return the job of the export."""
        pickled: bytes = await self._call(self._rpc.unpod_job, **self._task)
        if not pickled:
            raise _Unwanted
        job: Job = pickle.loads(pickled)  # noqa: S301 - from the caller of `export`, as every task
        return job

    async def lease(self, wanted: int) -> Lease:
        return Lease(*await self._call(self._rpc.unpod_lease, export=self._task["export"], wanted=wanted))

    def pause(self, seconds: float) -> None:
        pausing = self._rpc.unpod_pause(export=self._task["export"], seconds=seconds)
        asyncio.run_coroutine_threadsafe(pausing, self._loop)

    async def heartbeat(self) -> bool:
        progress, self.progress = self.progress, None
        fields = None if progress is None else msgspec.structs.asdict(progress)
        return await self._call(self._rpc.unpod_heartbeat, number=self.number, progress=fields, **self._task)

    async def ended(self) -> None:
        await self._call(self._rpc.unpod_ended, **self._task)


class _Unwanted(Exception):
    """The export was cancelled, or another worker has the task."""


async def _run(
    version: str, scheduler: Scheduler, work: Callable[[Job, Scheduler], Coroutine[Any, Any, T]]
) -> T:
    """Work as long as the scheduler wants it."""
    if version != VERSION:
        raise ConfigurationError(
            f"a worker has version {VERSION} of unpod-async, and the export was started with {version}",
            hint="install the same version on all machines",
        )
    try:
        return await _while_wanted(scheduler, work(await scheduler.job(), scheduler))
    finally:
        await scheduler.ended()


async def _while_wanted(scheduler: Scheduler, work: Coroutine[Any, Any, T]) -> T:
    working = asyncio.ensure_future(work)
    is_wanted = True
    try:
        while not working.done():
            await asyncio.wait({working}, timeout=_HEARTBEAT)
            if not await scheduler.heartbeat() and is_wanted:
                is_wanted = False
                working.cancel()  # heartbeats continue until it has stopped: the caller waits for that
        if not is_wanted:
            raise _Unwanted
        return working.result()
    finally:
        await cancel_and_wait([working])


async def _export_shard(job: Job, scheduler: Scheduler) -> ExportSummary:
    def note(progress: ExportProgress) -> None:
        scheduler.progress = progress

    number, options = scheduler.number, _options_here(job.plan, job.options)
    make_client = job.client or _client_from_environment
    async with make_client(LeasedLimiter(scheduler, job.interval)) as unpod:
        summary = await _when_unlocked(
            lambda: unpod.export_shard(job.plan, number, job.target, on_progress=note, **options)
        )
    if (process := job.process) is not None:
        directory = shard_directory(Path(job.target), number)
        await _when_unlocked(
            lambda: run_stoppable(lambda stopped: process_shard(directory, process, job.id, stopped))
        )
    return summary


async def _merge(job: Job, _scheduler: Scheduler) -> ExportSummary:
    plan, target = job.plan, job.target
    state = job.options.get("state_dir")
    summary = await _when_unlocked(lambda: merge_shards(plan, target, state_dir=state))
    if job.process is None:
        return summary
    table = await _when_unlocked(
        lambda: run_stoppable(lambda stopped: merge_processed(plan, Path(target), stopped))
    )
    return msgspec.structs.replace(
        summary,
        complete=summary.complete and not table.reasons,
        reasons=(*summary.reasons, *table.reasons),
    )


async def _when_unlocked(work: Callable[[], Awaitable[T]]) -> T:
    """Do work that needs a lock. A worker that was lost may hold it for some time."""
    began = time.monotonic()
    while True:
        try:
            return await work()
        except TargetLockedError:
            if time.monotonic() - began > _LOCK_EXPIRES:
                raise
        await asyncio.sleep(_LOCK_CHECK)


def _client_from_environment(rate_limit: RateLimiter) -> UnpodClient:
    return UnpodClient(rate_limit=rate_limit)


def _options_here(plan: ExportPlan, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the key of the hashes, which is read from the environment of the worker."""
    if plan.options["redact"] != "hash":
        return dict(options)
    return {**options, "redact_key": redact_key_of(os.environ)}
