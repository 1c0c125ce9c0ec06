"""What runs in the scheduler of the cluster: the exports, the limit on their requests, and their progress."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from distributed.diagnostics.plugin import SchedulerPlugin

from unpod_async.distributed.rate import ClusterLimit

__all__ = ["PLUGIN", "ExportPlugin"]

PLUGIN: Final = "unpod-async"

_SILENCE: Final = 30.0
"""Seconds without a call after which an export, or a task in a worker, does not run any more."""


@dataclass(kw_only=True, slots=True)
class _Export:
    """A running export.

    Attributes:
        caller: Id of the Dask client that started it.
        job: The pickled `Job`.
        heard: When its caller was heard of last, in monotonic seconds.
        progress: That of each shard, unless its caller has received it.
    """

    caller: str
    target: str
    platform: str
    rate: float | None
    burst: int
    job: bytes
    heard: float
    progress: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])


class ExportPlugin(SchedulerPlugin):
    """Answers the workers and the callers of `export`. One serves all exports of a cluster."""

    name = PLUGIN
    idempotent = True

    def __init__(self) -> None:
        self._exports: dict[str, _Export] = {}
        self._limits: dict[str, ClusterLimit] = {}
        self._tasks: dict[tuple[str, str, str], float] = {}
        """When a task was heard of last, by export, key and address of the worker, in monotonic seconds."""

    async def start(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        calls = (
            self.begin,
            self.report,
            self.end,
            self.job,
            self.lease,
            self.pause,
            self.heartbeat,
            self.ended,
        )
        scheduler.handlers.update({f"unpod_{call.__name__}": call for call in calls})

    # -- calls of `export` --------------------------------------------------------------------------------

    def begin(
        self, export: str, caller: str, target: str, platform: str, rate: float | None, burst: int, job: bytes
    ) -> bool:
        """Begin an export. Returns False if another one into this target is running."""
        now = time.monotonic()
        if any(other.target == target and now - other.heard < _SILENCE for other in self._exports.values()):
            return False
        self._exports[export] = _Export(
            caller=caller, target=target, platform=platform, rate=rate, burst=burst, job=job, heard=now
        )
        self._set_limit(platform)
        return True

    def report(self, export: str) -> tuple[list[tuple[int, dict[str, Any]]], int]:
        """Return the new progress of an export, by shard, and the number of workers."""
        running = self._exports.get(export)
        if running is None:
            return [], len(self._scheduler.workers)
        running.heard = time.monotonic()
        progress = list(running.progress.items())
        running.progress.clear()
        return progress, len(self._scheduler.workers)

    def end(self, export: str) -> int:
        """End an export. Returns how many of its tasks still run in a worker."""
        ended = self._exports.pop(export, None)
        if ended is not None:
            self._set_limit(ended.platform)
        now = time.monotonic()
        self._tasks = {
            task: heard
            for task, heard in self._tasks.items()
            if task[2] in self._scheduler.workers and now - heard < _SILENCE
        }
        return sum(task[0] == export for task in self._tasks)

    def remove_client(self, scheduler: Any, client: str) -> None:
        for export in [name for name, running in self._exports.items() if running.caller == client]:
            self.end(export)

    def _set_limit(self, platform: str) -> None:
        """Set the limit for a service: the lowest of the exports from it. The last one stays."""
        exports = [running for running in self._exports.values() if running.platform == platform]
        limits = [(running.rate, running.burst) for running in exports if running.rate is not None]
        limit = self._limits.setdefault(platform, ClusterLimit(None, 1))
        if exports:
            limit.set(*min(limits, default=(None, 1)))

    # -- calls of the workers -----------------------------------------------------------------------------

    def job(self, export: str, key: str, worker: str) -> bytes:
        """Note that a task has started. Returns the pickled `Job`; nothing if the export has ended."""
        running = self._exports.get(export)
        if running is None:
            return b""
        self._tasks[export, key, worker] = time.monotonic()
        return running.job

    def lease(self, export: str, wanted: int) -> tuple[list[float], float]:
        """Lease starting times; none if the export has ended."""
        running = self._exports.get(export)
        if running is None:
            return [], _SILENCE
        return self._limits[running.platform].lease(time.monotonic(), wanted)

    def pause(self, export: str, seconds: float) -> None:
        running = self._exports.get(export)
        if running is not None:
            self._limits[running.platform].pause(time.monotonic(), seconds)

    def heartbeat(
        self, export: str, key: str, worker: str, number: int, progress: dict[str, Any] | None
    ) -> bool:
        """Note that a task runs, and its progress. Returns whether this worker should continue."""
        self._tasks[export, key, worker] = time.monotonic()
        running = self._exports.get(export)
        if running is not None and progress is not None:
            running.progress[number] = progress
        task = self._scheduler.tasks.get(key)
        at = None if task is None else task.processing_on
        return running is not None and at is not None and bool(at.address == worker)

    def ended(self, export: str, key: str, worker: str) -> None:
        """Note that a task has ended in a worker."""
        self._tasks.pop((export, key, worker), None)
