"""What runs in the workers of the cluster: the export of a shard, in the thread of its task.

The exporter has an event loop of its own in this thread. Calls to the scheduler go through the event loop of
the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from distributed import get_worker

from unpod_async import (
    ExportPlan,
    ExportProgress,
    ExportSummary,
    RateLimiter,
    TargetLockedError,
    UnpodClient,
    merge_shards,
)
from unpod_async._export import (
    Process,
    merge_processed,
    process_shard,
    redact_key_of,
    shard_directory,
)
from unpod_async.distributed.rate import Lease, LeasedLimiter

__all__ = ["ClientFactory", "Job", "export_one_shard", "merge_all_shards"]

T = TypeVar("T")

_HEARTBEAT: Final = 0.5
"""Seconds between two heartbeats of a shard."""

_LOCK_EXPIRES: Final = 180.0
"""Seconds after which nothing of a lost worker holds a lock any more."""

_LOCK_CHECK: Final = 2.0

ClientFactory: TypeAlias = Callable[[RateLimiter], UnpodClient]
"""Makes the client of a shard. It gets the limit of the cluster as `rate_limit`."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What all shards of an export have in common.

    Attributes:
        id: Different for each call of `export`.
        options: Fields of `ExportSpec` that the plan does not decide.
        interval: Seconds between two requests of the cluster; 0 without a limit.
        client: None makes a client from the environment of the worker.
        process: Applied to each task; None if there is no second table.
    """

    id: str
    target: str
    options: Mapping[str, Any]
    interval: float
    client: ClientFactory | None = None
    process: Process | None = None


class ShardResult(msgspec.Struct, frozen=True):
    """The result of a shard, or its merge."""

    summary: ExportSummary
    reasons: tuple[str, ...] = ()


class Scheduler:
    """Calls the scheduler from the thread of a task.

    Args:
        key: Key of the task.
        platform: Root URL of the service.
    """

    def __init__(self, key: str, platform: str) -> None:
        worker: Any = get_worker()
        self._loop: asyncio.AbstractEventLoop = worker.loop.asyncio_loop
        self._rpc: Any = worker.scheduler
        self._address: str = worker.address
        self._key = key
        self._platform = platform

    async def _call(self, operation: Callable[..., Coroutine[Any, Any, T]], **arguments: Any) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(operation(**arguments), self._loop))

    async def lease(self, wanted: int) -> Lease:
        return Lease(*await self._call(self._rpc.unpod_lease, platform=self._platform, wanted=wanted))

    def pause(self, seconds: float) -> None:
        pausing = self._rpc.unpod_pause(platform=self._platform, seconds=seconds)
        asyncio.run_coroutine_threadsafe(pausing, self._loop)

    async def heartbeat(self, job: str, event: Mapping[str, Any] | None) -> bool:
        return await self._call(
            self._rpc.unpod_heartbeat, key=self._key, worker=self._address, job=job, event=event
        )

    async def ended(self) -> None:
        await self._call(self._rpc.unpod_ended, key=self._key, worker=self._address)


class _Unwanted(Exception):
    """The export was cancelled, or another worker has the shard."""


def export_one_shard(plan: ExportPlan, job: Job, number: int, key: str) -> ShardResult:
    """Export a shard, and process it. Runs as a task of the cluster.

    Args:
        key: Key of this task.
    """
    return asyncio.run(_ShardTask(plan, job, number, key).run())


class _ShardTask:
    def __init__(self, plan: ExportPlan, job: Job, number: int, key: str) -> None:
        self._plan = plan
        self._job = job
        self._number = number
        self._scheduler = Scheduler(key, plan.platform)
        self._progress: ExportProgress | None = None
        self._is_stopped = False

    async def run(self) -> ShardResult:
        exporting = asyncio.ensure_future(self._export())
        try:
            while not exporting.done():
                await asyncio.wait({exporting}, timeout=_HEARTBEAT)
                if not await self._scheduler.heartbeat(self._job.id, self._take_event()):
                    raise _Unwanted
            return await exporting
        finally:
            self._is_stopped = True
            exporting.cancel()
            with contextlib.suppress(BaseException):
                await exporting
            await self._scheduler.ended()

    def _take_event(self) -> Mapping[str, Any] | None:
        progress, self._progress = self._progress, None
        if progress is None:
            return None
        return {"shard": self._number, "progress": msgspec.structs.asdict(progress)}

    def _note(self, progress: ExportProgress) -> None:
        self._progress = progress

    async def _export(self) -> ShardResult:
        make_client = self._job.client or _client_from_environment
        async with make_client(LeasedLimiter(self._scheduler, self._job.interval)) as unpod:
            summary = await _when_unlocked(
                lambda: unpod.export_shard(
                    self._plan,
                    self._number,
                    self._job.target,
                    on_progress=self._note,
                    **options_on_worker(self._plan, self._job.options),
                )
            )
        if self._job.process is None:
            return ShardResult(summary)
        directory = shard_directory(Path(self._job.target), self._number)
        table = await asyncio.to_thread(
            process_shard, directory, self._job.process, self._job.id, lambda: self._is_stopped
        )
        return ShardResult(summary, () if table is None else table.reasons)


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


def options_on_worker(plan: ExportPlan, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with the key of the hashes, which is read from the environment of the worker."""
    if plan.options["redact"] != "hash":
        return dict(options)
    return {**options, "redact_key": redact_key_of(os.environ)}


def merge_all_shards(plan: ExportPlan, job: Job, results: list[ShardResult]) -> ExportSummary:
    """Merge the shards. Runs as a task of the cluster, which also sees the target."""
    state = job.options.get("state_dir")
    summary = asyncio.run(_when_unlocked(lambda: merge_shards(plan, job.target, state_dir=state)))
    reasons: tuple[str, ...] = ()
    if job.process is not None:
        reasons = merge_processed(plan, Path(job.target)).reasons
    exported = [result.summary for result in results]
    return msgspec.structs.replace(
        summary,
        complete=summary.complete and not reasons,
        reasons=(*summary.reasons, *reasons),
        fetched_runs=sum(one.fetched_runs for one in exported),
        fetched_tasks=sum(one.fetched_tasks for one in exported),
        unchanged_runs=sum(one.unchanged_runs for one in exported),
    )
