"""The approaches that are measured, by name, and the jobs that they do."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["EXPORTS", "LATENCIES", "REFERENCE", "RUNS", "WALKS", "Approach", "fan_outs", "prefetches"]


@dataclass(frozen=True, slots=True)
class Approach:
    """One way to do a job, with the arguments for `peers.harness`.

    Attributes:
        no_flat: it is to go run by run because the space has no listing of all its tasks.
        slow: under callgrind it runs into its own time-outs.
        extra_peer: no target speaks of it: left out of the quick benchmark.
        extra: further arguments.
    """

    name: str
    module: str
    mode: str = "runs"
    page_size: int = 100
    ahead: int = 32
    no_flat: bool = False
    slow: bool = False
    extra_peer: bool = False
    extra: tuple[str, ...] = field(default=())

    def arguments(self, runs: int, tasks: int | None = None, latency: int = 0) -> list[str]:
        space = f"r{runs}"
        if tasks is not None:
            space += f"t{tasks}"
        if latency:
            space += f"l{latency}"
        if self.no_flat:
            space += "n"
        return [
            *("-m", f"peers.{self.module}", "--space", space, "--mode", self.mode),
            *("--page-size", str(self.page_size), "--ahead", str(self.ahead), *self.extra),
        ]


REFERENCE = Approach("aiohttp + msgspec.Raw, JSONL out", "aiohttp_raw")
TYPED = Approach("aiohttp + msgspec typed", "aiohttp_typed")
EXPORT_RUNS = Approach("unpod_async export, run by run", "unpod_export", no_flat=True)
EXPORT_FLAT = Approach("unpod_async export, space-wide", "unpod_export", mode="flat")

EXPORTS = (
    Approach("read the bytes only (limit)", "bytes_only"),
    Approach("raw sockets, same work", "raw_sockets"),
    REFERENCE,
    EXPORT_FLAT,
    EXPORT_RUNS,
    TYPED,
    Approach("unpod_async tasks_for, typed", "unpod_walk"),
    Approach("aiohttp + orjson", "aiohttp_orjson"),
    Approach("aiohttp + json, task per run", "aiohttp_json", slow=True),
    Approach("requests + threads", "requests_threads", slow=True),
    Approach("httpx + pydantic", "httpx_pydantic", slow=True),
    Approach("httpx + json, semaphore and gather", "httpx_json", slow=True),
    Approach("dlt REST source", "dlt_rest", slow=True),
    Approach("dlt REST source, a paginator of ours", "dlt_rest", mode="short", slow=True, extra_peer=True),
)
"""All runs and tasks, 32 requests in flight, pages of 100."""

WALKS = (
    Approach("typed peer, page by page", "aiohttp_typed", mode="flat", ahead=1),
    Approach("tasks.list", "unpod_walk", mode="flat", ahead=1),
    Approach("tasks.list, pages()", "unpod_walk", mode="pages", ahead=1),
    Approach("tasks.list, raw()", "unpod_walk", mode="raw", ahead=1),
    TYPED,
    Approach("tasks_for", "unpod_walk", mode="runs"),
    Approach("tasks_for, ordered", "unpod_walk", mode="ordered"),
)
"""Approaches that read tasks for use in a loop."""

RUNS = (
    REFERENCE,
    EXPORT_FLAT,
    EXPORT_RUNS,
    Approach("unpod_async tasks_for, typed", "unpod_walk"),
)
"""Approaches that are measured with 200, 2,000 and 20,000 runs."""

LATENCIES = (REFERENCE, EXPORT_FLAT, EXPORT_RUNS, Approach("unpod_async tasks_for, typed", "unpod_walk"))
"""Approaches that are measured with increasing latency."""


def prefetches(ahead: int) -> tuple[Approach, Approach]:
    """Return walks that request this many pages ahead: the peer's and ours."""
    return (
        Approach(f"typed peer, {ahead} pages ahead", "aiohttp_typed", mode="flat", ahead=ahead),
        Approach(f"prefetch({ahead})", "unpod_walk", mode="flat", ahead=ahead),
    )


def fan_outs(ahead: int) -> tuple[Approach, Approach, Approach]:
    """Return readers of the tasks of all runs, this many at a time: the peer's, ours, and ours in order."""
    return (
        Approach(f"typed peer, {ahead} runs at a time", "aiohttp_typed", ahead=ahead),
        Approach(f"tasks_for, concurrency={ahead}", "unpod_walk", ahead=ahead),
        Approach(f"tasks_for, concurrency={ahead}, ordered", "unpod_walk", mode="ordered", ahead=ahead),
    )
