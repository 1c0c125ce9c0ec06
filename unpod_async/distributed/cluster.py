"""`export`: submit the shards of a plan to a Dask cluster, and wait for the data set."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import distributed
import msgspec
from distributed.scheduler import KilledWorker

from unpod_async import (
    ExportError,
    ExportPlan,
    ExportProgress,
    ExportSummary,
    InvalidArgument,
    UnpodError,
)
from unpod_async._common import ignore_error, join_shielded
from unpod_async._export import Process, StoreAddress, check_process, shard_spec
from unpod_async._http import check_integer, check_number
from unpod_async.distributed.scheduler import PLUGIN, ExportPlugin, topic_of
from unpod_async.distributed.worker import ClientFactory, Job, export_one_shard, merge_all_shards

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["export"]

T = TypeVar("T")
OnProgress: TypeAlias = Callable[[int, ExportProgress], object]

_log = logging.getLogger("unpod_async")

_STOPPING: Final = 15.0
"""Seconds to wait until cancelled shards have stopped."""

_STOP_CHECK: Final = 0.1


async def export(
    plan: ExportPlan,
    target: str | os.PathLike[str],
    dask_client: Client,
    *,
    client: ClientFactory | None = None,
    rate_limit: float | None = None,
    burst: int = 10,
    retries: int = 2,
    process: Process | None = None,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> ExportSummary:
    """Export the shards of a plan on the workers of a Dask cluster, and merge them.

    Each shard is a task of the cluster. If a worker is lost, another one resumes its shard. Call it again
    after a failure: shards that have ended are only brought up to date.

    Example:
        ```python
        async with Client("tcp://scheduler:8786", asynchronous=True) as dask:
            summary = await export(plan, "/shared/data", dask, rate_limit=20)
        ```

    Args:
        plan: See `UnpodClient.plan_export`.
        target: A directory that all workers see under the same path, or the URL of an object store.
        dask_client: Connected to the cluster, asynchronous or not. The scheduler and the workers need this
            package.
        client: Function that is called in the worker with a `RateLimiter`, and returns an `UnpodClient` with
            it as `rate_limit`. Default: a client with the token in the environment of the worker. Do not put
            a token into the function: functions are sent through the scheduler.
        rate_limit: Requests per second of all workers together; None (default) means no limit. If the server
            asks one worker for a delay, all wait.
        burst: Number of requests that may start at once after a time in which fewer were sent. Default: 10.
        retries: How often a shard that has failed is tried again, on any worker. Default: 2. A lost worker
            does not count: see the setting `distributed.scheduler.allowed-failures` of Dask.
        process: Function that is called in the worker with each `Task`, and returns rows (dicts). They
            become a second table in the folder `processed` of the target, as JSON lines with the `run_id`
            and `task_id` of the task. Only with a directory as target.
        on_progress: Function that is called with the number of a shard and its `ExportProgress`.
        options: Fields of `ExportSpec` that the plan does not decide, such as `concurrency`. With
            `redact="hash"`, the key is UNPOD_REDACT_KEY in the environment of each worker.

    Returns:
        A summary of the whole data set, as `merge_shards` returns it. Its `requests` and `fetched_tasks` are
        0, because the shards sent the requests and fetched the tasks. `on_progress` has the numbers of each.

    Raises:
        InvalidArgument: an option is not accepted.
        ExportError: a shard failed, or too many workers were lost.
        UnpodError: the error of a shard. The other shards have been exported.
    """
    _check_arguments(plan, target, process, rate_limit, burst, retries, options)
    job = Job(
        id=secrets.token_hex(8),
        target=str(target),
        options=options,
        interval=0.0 if rate_limit is None else 1 / rate_limit,
        client=client,
        process=process,
    )
    cluster = _Cluster(plan, job, dask_client)
    callback = None if on_progress is None else _in_this_loop(on_progress)
    dask_loop: Any = dask_client.loop
    return await _run_in(dask_loop.asyncio_loop, cluster.run(rate_limit, burst, retries, callback))


def _check_arguments(
    plan: ExportPlan,
    target: str | os.PathLike[str],
    process: Process | None,
    rate_limit: float | None,
    burst: int,
    retries: int,
    options: dict[str, Any],
) -> None:
    if "redact_key" in options:
        raise InvalidArgument(
            "redact_key must not be sent to the workers",
            argument="redact_key",
            hint="set UNPOD_REDACT_KEY in the environment of each worker",
        )
    # The workers check the key: it is not in this process.
    without_key = msgspec.structs.replace(plan, options={**plan.options, "redact": None, "redact_key": None})
    shard_spec(without_key, options)
    if rate_limit is not None:
        check_number("rate_limit", rate_limit)
    check_integer("burst", burst)
    if retries != 0:
        check_integer("retries", retries)
    if process is not None:
        check_process(process)
        if StoreAddress.parse(target) is not None:
            raise InvalidArgument(
                "process needs a directory as target",
                argument="process",
                hint="export to a directory, or process the data set afterwards",
            )


class _Cluster:
    """One export. All methods run in the event loop of the Dask client."""

    def __init__(self, plan: ExportPlan, job: Job, client: Any) -> None:
        self._plan = plan
        self._job = job
        self._client = client

    async def run(
        self, rate_limit: float | None, burst: int, retries: int, on_progress: OnProgress | None
    ) -> ExportSummary:
        await self._prepare(rate_limit, burst)
        with self._progress_to(on_progress):
            futures = await self._submit(retries)
            try:
                await _wait_for_all(futures)
                for number, future in enumerate(futures):
                    await _check(future, f"shard {number}" if number < self._plan.shards else "the merge")
                summary: ExportSummary = await futures[-1]
                return summary
            finally:
                stopping = asyncio.ensure_future(self._stop(futures))
                cancelled = await join_shielded(stopping)
                stopping.result()
                if cancelled is not None:
                    raise cancelled

    async def _prepare(self, rate_limit: float | None, burst: int) -> None:
        reason = ""
        try:
            await self._client.register_plugin(ExportPlugin(), name=PLUGIN)
            await self._client.scheduler.unpod_set_limit(
                platform=self._plan.platform, rate=rate_limit, burst=burst
            )
        except Exception as error:  # noqa: BLE001 - the error of the scheduler has any type
            reason = f"{type(error).__name__}: {error}"
        if reason:
            raise ExportError(
                f"the scheduler cannot serve this export ({reason})",
                hint="install the same version of unpod-async where the scheduler and the workers run",
            )

    async def _submit(self, retries: int) -> list[Any]:
        """Submit the shards and their merge, which is the last."""
        name = hashlib.sha256(f"{self._plan.digest} {self._job.target}".encode()).hexdigest()[:16]
        # One task has the plan, so that it is sent once, and again if its worker is lost.
        plan = self._client.submit(_same, self._plan, key=f"unpod-plan-{name}")
        await self._copy_to_all_workers(plan)
        keys = [f"unpod-shard-{name}-{number}" for number in range(self._plan.shards)]
        shards = [
            self._client.submit(export_one_shard, plan, self._job, number, key, key=key, retries=retries)
            for number, key in enumerate(keys)
        ]
        merge = self._client.submit(merge_all_shards, plan, self._job, shards, key=f"unpod-merge-{name}")
        return [*shards, merge]

    async def _copy_to_all_workers(self, plan: Any) -> None:
        """Wait until all workers have the plan.

        Dask gives a task to a worker that has its arguments. If only one worker had the plan, it would get
        all shards of a small plan, and the others would have to steal them, at most one in a second.
        """
        try:
            await self._client.replicate([plan])
        except Exception as error:  # noqa: BLE001 - the error of the scheduler has any type
            _log.warning("workers may start late: the plan was not copied (%s)", type(error).__name__)

    @contextmanager
    def _progress_to(self, on_progress: OnProgress | None) -> Generator[None, None, None]:
        if on_progress is None:
            yield
            return

        def receive(event: tuple[float, dict[str, Any]]) -> None:
            _, content = event
            on_progress(content["shard"], ExportProgress(**content["progress"]))

        topic = topic_of(self._job.id)
        self._client.subscribe_topic(topic, receive)
        try:
            yield
        finally:
            self._client.unsubscribe_topic(topic)

    async def _stop(self, futures: Sequence[Any]) -> None:
        """Drop the tasks, and wait until those that are still running have noticed it."""
        keys = [future.key for future in futures]
        was_running = any(future.status == "pending" for future in futures)
        await self._client.cancel(list(futures))
        for _ in range(int(_STOPPING / _STOP_CHECK) if was_running else 0):
            if not await self._client.scheduler.unpod_running(keys=keys):
                return
            await asyncio.sleep(_STOP_CHECK)
        if was_running:
            _log.warning("some shards did not stop within %.0f s", _STOPPING)


def _same(plan: ExportPlan) -> ExportPlan:
    return plan


async def _wait_for_all(futures: Sequence[Any]) -> None:
    try:
        wait: Any = distributed.wait  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        await wait(futures)
    except concurrent.futures.CancelledError:  # another class than that of asyncio
        raise ExportError(
            "the tasks of the export were cancelled in the cluster",
            hint="call export again: it resumes",
        ) from None


async def _check(future: Any, what: str) -> None:
    """Raise the error of a task."""
    if future.status != "error":
        return
    error: BaseException = await future.exception()
    if isinstance(error, UnpodError):
        error.add_note(f"in {what} of an export on a cluster")
        raise error
    if isinstance(error, KilledWorker):
        raise ExportError(
            f"{what} was lost together with {error.allowed_failures + 1} workers",
            hint="see the logs of the workers: a worker may have too little memory",
        )
    raise ExportError(
        f"{what} failed in a worker ({type(error).__name__})", hint="see the log of the worker"
    ) from error


def _in_this_loop(on_progress: OnProgress) -> OnProgress:
    """Return a function for any thread that calls `on_progress` in the event loop of the caller."""
    loop = asyncio.get_running_loop()

    def call(shard: int, progress: ExportProgress) -> None:
        try:
            on_progress(shard, progress)
        except Exception as error:  # noqa: BLE001 - an error of the callback does not stop the export
            _log.warning("on_progress failed with %s", type(error).__name__)

    def forward(shard: int, progress: ExportProgress) -> None:
        loop.call_soon_threadsafe(call, shard, progress)

    return forward


async def _run_in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop, which may be that of another thread.

    A cancellation waits until the coroutine has ended.
    """
    if loop is asyncio.get_running_loop():
        return await work
    outcome = concurrent.futures.Future[T]()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        tasks.append(loop.create_task(work))
        tasks[0].add_done_callback(finish)

    def finish(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            outcome.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(task.result())

    loop.call_soon_threadsafe(start)
    waiting = asyncio.wrap_future(outcome)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        loop.call_soon_threadsafe(lambda: tasks[0].cancel())
        await join_shielded(waiting)
        ignore_error(waiting)
        raise
