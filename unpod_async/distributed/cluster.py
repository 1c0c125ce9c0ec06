"""`export`: submit the shards of a plan to a Dask cluster, merge them, and wait for the data set."""

from __future__ import annotations

import asyncio
import importlib
import logging
import operator
import os
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

import msgspec
from distributed import Client
from distributed.scheduler import KilledWorker

from unpod_async import (
    ExportError,
    ExportPlan,
    ExportProgress,
    ExportSummary,
    InvalidArgument,
    TargetLockedError,
    UnpodError,
)
from unpod_async._common import cancel_and_wait, join_shielded, path_text
from unpod_async._export import Process, StoreAddress, check_directory, check_plan, check_process, shard_spec
from unpod_async._http import check_integer, check_number
from unpod_async._version import VERSION
from unpod_async.distributed.scheduler import PLUGIN, ExportPlugin
from unpod_async.distributed.worker import ClientFactory, Job

__all__ = ["export"]

OnProgress: TypeAlias = Callable[[int, ExportProgress], object]

_log = logging.getLogger("unpod_async")

# They are where Dask is, and have no types.
_cloudpickle: Any = importlib.import_module("cloudpickle")
_toolz: Any = importlib.import_module("toolz")

_WORKER: Final = "unpod_async.distributed.worker"

_REPORT: Final = 0.5
"""Seconds between two questions to the scheduler about the progress."""

_NO_WORKER: Final = 10.0
"""Seconds without a worker after which a warning is logged."""

_STOPPING: Final = 15.0
"""Seconds to wait until cancelled tasks have stopped."""

_STOP_CHECK: Final = 0.1

_SUMS: Final = ("fetched_runs", "fetched_tasks", "unchanged_runs", "requests", "retries")
"""Fields of the summary that are sums of the summaries of the shards."""


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

    If it is cancelled, it waits up to 15 seconds until the workers have stopped.

    Example:
        ```python
        async with Client("tcp://scheduler:8786", asynchronous=True) as dask:
            summary = await export(plan, "/shared/data", dask, rate_limit=20)
        ```

    Args:
        plan: See `UnpodClient.plan_export`.
        target: A directory that all workers see under the same path, or the URL of an object store.
        dask_client: Connected to the cluster, asynchronous or not. `export` makes another connection to the
            same scheduler. The scheduler and the workers need this package.
        client: Function that is called in the worker with a `RateLimiter`, and returns an `UnpodClient` with
            it as `rate_limit`. Default: a client with the token in the environment of the worker. Do not put
            a token into the function: functions are sent through the scheduler.
        rate_limit: Requests per second of all workers together; None (default) means no limit. If the server
            asks one worker for a delay, all wait. Exports from one service that run at the same time share
            the lowest limit.
        burst: Number of requests that may start at once after a time in which fewer were sent. Default: 10.
        retries: How often a task that has failed is tried again, on any worker. Default: 2. A lost worker
            does not count: see the setting `distributed.scheduler.allowed-failures` of Dask.
        process: Function that is called in the worker with each `Task`, and returns rows (dicts). They
            become a second table in the folder `processed` of the target, as JSON lines with the `run_id`
            and `task_id` of the task. Only with a directory as target.
        on_progress: Function that is called with the number of a shard and its `ExportProgress`, with the
            newest one at most twice a second.
        options: Fields of `ExportSpec` that the plan does not decide, such as `concurrency`. With
            `redact="hash"`, the key is UNPOD_REDACT_KEY in the environment of each worker.

    Returns:
        A summary of the whole data set. What was fetched and requested is that of all shards; a shard that
        was tried again counts its last try only.

    Raises:
        InvalidArgument: an option is not accepted, or a function cannot be sent to the workers.
        TargetLockedError: another export into the target is running on the cluster.
        ConfigurationError: a worker has another version of this package.
        ExportError: a shard failed, the scheduler or too many workers were lost.
        UnpodError: the error of a shard. The other shards have been exported.
    """
    check_integer("burst", burst)
    check_integer("retries", retries, minimum=0)
    if on_progress is not None and not callable(on_progress):
        raise InvalidArgument("on_progress must be a function", argument="on_progress")
    interval = 0.0 if rate_limit is None else 1 / check_number("rate_limit", rate_limit)
    job = _make_job(plan, target, client, process, interval, options)
    async with _connected(dask_client) as connection:
        return await _Export(job, connection, retries, on_progress).run(rate_limit, burst)


@asynccontextmanager
async def _connected(client: Any) -> AsyncGenerator[Any, None]:
    """Connect to the cluster of a Dask client. The connection belongs to this event loop.

    When it is closed, the scheduler drops its tasks.
    """
    scheduler = client.scheduler if isinstance(client, Client) else None
    if scheduler is None:
        raise InvalidArgument(
            "dask_client must be a Client of dask.distributed that is connected",
            argument="dask_client",
            hint="use it with `with` or `async with`",
        )
    new: Any = Client
    connection = new(scheduler.address, security=client.security, asynchronous=True, set_as_default=False)
    try:
        try:
            await connection
        except OSError as error:
            raise _interrupted(f"the scheduler cannot be reached ({type(error).__name__})") from error
        yield connection
    finally:
        await _uninterrupted(connection.close())


def _make_job(
    plan: ExportPlan,
    target: str | os.PathLike[str],
    client: ClientFactory | None,
    process: Process | None,
    interval: float,
    options: dict[str, Any],
) -> Job:
    plan = check_plan(plan)
    directory = check_directory("target", target)
    is_store = StoreAddress.parse(target) is not None
    if "redact_key" in options:
        raise InvalidArgument(
            "redact_key must not be sent to the workers",
            argument="redact_key",
            hint="set UNPOD_REDACT_KEY in the environment of each worker",
        )
    # The workers check the key: it is not in this process.
    without_key = msgspec.structs.replace(plan, options={**plan.options, "redact": None, "redact_key": None})
    shard_spec(without_key, options)
    if client is not None and not callable(client):
        raise InvalidArgument("client must be a function that returns an UnpodClient", argument="client")
    if process is not None:
        check_process(process)
        if is_store:
            raise InvalidArgument(
                "process needs a directory as target",
                argument="process",
                hint="export to a directory, or process the data set afterwards",
            )
    for name, function in (("client", client), ("process", process)):
        try:
            _cloudpickle.dumps(function)
        except Exception as error:
            raise InvalidArgument(
                f"{name} cannot be sent to the workers ({type(error).__name__})",
                argument=name,
                hint="a function should not use open files, connections or locks of this process",
            ) from error
    return Job(
        id=secrets.token_hex(8),
        plan=plan,
        # The workers may have other working directories.
        target=directory if is_store else str(Path(directory).absolute()),
        options=options,
        interval=interval,
        client=client,
        process=process,
    )


class _Export:
    """One export, with a Dask client of its own."""

    def __init__(self, job: Job, client: Any, retries: int, on_progress: OnProgress | None) -> None:
        self._job = job
        self._client = client
        self._retries = retries
        self._on_progress = on_progress
        self._began = self._had_worker = time.monotonic()
        self._futures: list[Any] = []

    async def run(self, rate_limit: float | None, burst: int) -> ExportSummary:
        await self._begin(rate_limit, burst)
        try:
            exported = await self._call("shard", "export_one_shard", range(self._job.plan.shards))
            [summary] = await self._call("merge", "merge_all_shards", [0])
        finally:
            await _uninterrupted(self._stop())
        sums = {name: sum(getattr(one, name) for one in exported) for name in _SUMS}
        return msgspec.structs.replace(summary, seconds=time.monotonic() - self._began, **sums)

    async def _begin(self, rate_limit: float | None, burst: int) -> None:
        target = path_text(self._job.target)
        try:
            await self._client.register_plugin(ExportPlugin(), name=PLUGIN)
            has_begun = await self._client.scheduler.unpod_begin(
                export=self._job.id,
                caller=self._client.id,
                target=target,
                platform=self._job.plan.platform,
                rate=rate_limit,
                burst=burst,
                job=_cloudpickle.dumps(self._job),
            )
        except Exception as error:  # it has any type
            raise ExportError(
                f"the scheduler cannot serve this export ({type(error).__name__}: {error})",
                hint="install the same version of unpod-async where the scheduler and the workers run",
            ) from error
        if not has_begun:
            raise TargetLockedError(
                f"another export into {target} is running on this cluster", hint="wait until it has ended"
            )

    async def _call(self, what: str, function: str, numbers: Sequence[int]) -> list[ExportSummary]:
        """Call a function of the module `worker` in a task for each number, and return the results.

        The task imports the module itself. A worker that cannot import what a task consists of loses its
        connection to the scheduler, and with it everything that it is working on.
        """
        plan, export = self._job.plan.digest[:16], self._job.id
        keys = [f"unpod-{what}-{plan}-{export}-{number}" for number in numbers]
        calls = [
            operator.methodcaller(function, VERSION, export, key, number)
            for key, number in zip(keys, numbers, strict=True)
        ]
        pipe = ([_WORKER] * len(keys), [importlib.import_module] * len(keys), calls)
        futures: list[Any] = self._client.map(_toolz.pipe, *pipe, key=keys, retries=self._retries)
        self._futures += futures
        ending = asyncio.ensure_future(_errors(futures))
        try:
            while not ending.done():
                await asyncio.wait({ending}, timeout=_REPORT)
                await self._report()
        finally:
            await cancel_and_wait([ending])
        if any(future.cancelled() for future in futures):
            raise _interrupted("the tasks of the export were cancelled in the cluster")
        for number, error in zip(numbers, ending.result(), strict=True):
            if error is not None:
                _raise(error, f"shard {number}" if what == "shard" else "the merge")
        summaries: list[ExportSummary] = await self._client.gather(futures)
        return summaries

    async def _report(self) -> None:
        """Pass the progress on, and warn if there has been no worker for some time."""
        lost = _interrupted("the connection to the scheduler was lost")
        if self._client.status != "running":
            raise lost
        try:
            events, workers = await self._client.scheduler.unpod_report(export=self._job.id)
        except Exception as error:  # it has any type
            raise lost from error
        for shard, progress in events:
            try:
                if self._on_progress is not None:
                    self._on_progress(shard, ExportProgress(**progress))
            except Exception as error:  # noqa: BLE001 - an error of the callback does not stop the export
                _log.warning("on_progress failed with %s", type(error).__name__)
        now = time.monotonic()
        if workers:
            self._had_worker = now
        elif now - self._had_worker > _NO_WORKER:
            self._had_worker = inf  # warn once
            _log.warning("the Dask cluster has no workers; the export waits for one")

    async def _stop(self) -> None:
        """Drop the tasks, and wait until those that are still running have noticed it."""
        if self._client.status != "running":
            return  # the scheduler drops the tasks of a client that it has lost
        try:
            async with asyncio.timeout(_STOPPING):
                await self._client.cancel(self._futures)
                while await self._client.scheduler.unpod_end(export=self._job.id):  # noqa: ASYNC110 - RPC
                    await asyncio.sleep(_STOP_CHECK)
        except Exception as error:  # noqa: BLE001 - must not replace the result or the error of the export
            _log.warning("some tasks of the export may still be running (%s)", type(error).__name__)


async def _uninterrupted(work: Awaitable[None]) -> None:
    """Wait for work also if this task is cancelled meanwhile."""
    working = asyncio.ensure_future(work)
    cancelled = await join_shielded(working)
    working.result()
    if cancelled is not None:
        raise cancelled


async def _errors(futures: Sequence[Any]) -> list[BaseException | None]:
    """Wait until tasks have ended or were cancelled, and return their errors."""
    return [await future.exception() for future in futures]


def _interrupted(what: str) -> ExportError:
    return ExportError(what, hint="call export again: it resumes")


def _raise(error: BaseException, what: str) -> NoReturn:
    """Raise the error of a task."""
    if isinstance(error, UnpodError):
        error.add_note(f"in {what} of an export on a cluster")
        raise error
    if isinstance(error, KilledWorker):
        raise ExportError(
            f"{what} was lost together with {error.allowed_failures + 1} workers",
            hint="see the logs of the workers: a worker may have too little memory",
        )
    # The text of other errors may contain personal data.
    text = f": {error}" if isinstance(error, ImportError) else ""
    raise ExportError(
        f"{what} failed in a worker ({type(error).__name__}{text})",
        hint="see the log of the worker; workers need this package, and all that your functions import",
    ) from error
