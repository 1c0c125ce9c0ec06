"""What runs in the scheduler of the cluster: the limit on requests, and which shards are still wanted."""

from __future__ import annotations

import time
from typing import Any, Final

from distributed.diagnostics.plugin import SchedulerPlugin

from unpod_async.distributed.rate import ClusterLimit

__all__ = ["PLUGIN", "ExportPlugin", "topic_of"]

PLUGIN: Final = "unpod-async"

_SILENCE: Final = 30.0
"""Seconds without a heartbeat after which a shard does not run any more."""


def topic_of(job: str) -> str:
    """Return the topic under which the scheduler publishes the progress of a job."""
    return f"{PLUGIN}-{job}"


class ExportPlugin(SchedulerPlugin):
    """Answers the workers and the callers of `export`. One serves all exports of a cluster."""

    name = PLUGIN
    idempotent = True

    def __init__(self) -> None:
        self._limits: dict[str, ClusterLimit] = {}
        self._running: dict[tuple[str, str], float] = {}
        """When a worker was heard of last, by key and address, in monotonic seconds."""

    async def start(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        scheduler.handlers.update(
            unpod_set_limit=self.set_limit,
            unpod_lease=self.lease,
            unpod_pause=self.pause,
            unpod_heartbeat=self.heartbeat,
            unpod_ended=self.ended,
            unpod_running=self.running,
        )

    # -- the limit ----------------------------------------------------------------------------------------

    def set_limit(self, platform: str, rate: float | None, burst: int) -> None:
        """Set the limit for a service. It applies to all exports from this service."""
        known = self._limits.get(platform)
        if known is None or known.options != (rate, burst):
            self._limits[platform] = ClusterLimit(rate, burst)

    def lease(self, platform: str, wanted: int) -> tuple[list[float], float]:
        return self._limits[platform].lease(time.monotonic(), wanted)

    def pause(self, platform: str, seconds: float) -> None:
        self._limits[platform].pause(time.monotonic(), seconds)

    # -- shards -------------------------------------------------------------------------------------------

    def heartbeat(self, key: str, worker: str, job: str, event: dict[str, Any] | None) -> bool:
        """Publish the progress of a shard. Returns whether the scheduler still wants it from this worker."""
        self._running[key, worker] = time.monotonic()
        if event is not None:
            self._scheduler.log_event(topic_of(job), event)
        task = self._scheduler.tasks.get(key)
        return task is not None and task.processing_on is not None and task.processing_on.address == worker

    def ended(self, key: str, worker: str) -> None:
        self._running.pop((key, worker), None)

    def running(self, keys: list[str]) -> int:
        """Return how many of these shards still run in a worker, wanted or not."""
        now = time.monotonic()
        alive = {worker.address for worker in self._scheduler.workers.values()}
        self._running = {
            (key, worker): heard
            for (key, worker), heard in self._running.items()
            if worker in alive and now - heard < _SILENCE
        }
        return sum(key in keys for key, _ in self._running)
