"""The approaches that are measured, by name, and the jobs that they do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = [
    "EXPORTS",
    "FORMATS",
    "GATE",
    "LARGE_PAGES",
    "LATENCIES",
    "ONE_PAGE",
    "REFERENCE",
    "RUNS",
    "SERIAL",
    "WALKS",
    "Approach",
    "fan_outs",
    "prefetches",
]


@dataclass(frozen=True, slots=True)
class Approach:
    """One way to do a job, with the arguments for `peers.harness`.

    Attributes:
        no_flat: it is to go run by run because the space has no listing of all its tasks.
        varied: the texts differ from row to row.
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
    varied: bool = False
    slow: bool = False
    extra_peer: bool = False
    extra: tuple[str, ...] = field(default=())

    def arguments(
        self, runs: int, tasks: int | None = None, latency: int = 0, row_time: int = 0
    ) -> list[str]:
        space = f"r{runs}"
        if tasks is not None:
            space += f"t{tasks}"
        if latency:
            space += f"l{latency}"
        if row_time:
            space += f"q{row_time}"
        if self.varied:
            space += "v"
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

DLT_PARQUET = Approach(
    "dlt REST source, run by run, Parquet", "dlt_rest", slow=True, extra=("--format", "parquet")
)
COPY_PARQUET = Approach("unpod_async JSONL, then DuckDB COPY, Parquet", "duckdb_copy", mode="flat")


_NAMES = {"jsonl": "JSONL", "jsonl.gz": "JSONL with gzip", "csv": "CSV", "parquet": "Parquet"}


def exported(to: str, *, redact: bool = False) -> Approach:
    """Return an export of ours from the space-wide listing to a format."""
    name = f"unpod_async, {_NAMES[to]}{', redacted' if redact else ''}"
    extra = ("--format", to, *(["--redact"] if redact else []))
    return Approach(name, "unpod_export", mode="flat", extra=extra)


JSONL = exported("jsonl")


def varied(one: Approach) -> Approach:
    """Return the same approach for data whose texts differ from row to row."""
    return replace(one, name=f"{one.name}, varied texts", varied=True)


_SAME_TEXTS = (
    JSONL,
    exported("jsonl.gz"),
    exported("csv"),
    exported("parquet"),
    exported("jsonl", redact=True),
    exported("csv", redact=True),
    exported("parquet", redact=True),
    COPY_PARQUET,
    Approach("unpod_async JSONL, then Polars, Parquet", "polars_parquet", mode="flat"),
    DLT_PARQUET,
    Approach(
        "dlt REST source, space-wide, Parquet",
        "dlt_rest",
        mode="flat",
        slow=True,
        extra=("--format", "parquet"),
    ),
)
FORMATS = (
    *_SAME_TEXTS,
    *map(varied, (JSONL, exported("jsonl.gz"), exported("csv"), exported("parquet"), COPY_PARQUET)),
)
"""All runs and tasks in each format. Exports of ours read the space-wide listing.

The texts of the usual data repeat, so compression and the dictionaries of Parquet cost little. With varied
texts they cost about what they cost with real data.
"""

GATE = (
    EXPORT_RUNS,
    EXPORT_FLAT,
    WALKS[1],
    WALKS[5],
    exported("csv"),
    exported("parquet"),
    exported("jsonl", redact=True),
)
"""The approaches of the gate, one of each kind, because counting instructions takes up to 20 s each."""

TASKS_LIST = Approach("unpod_async tasks.list", "unpod_walk", mode="flat", ahead=1)
PREFETCH = Approach("unpod_async tasks.list, prefetch(4)", "unpod_walk", mode="flat", ahead=4)
EXPORT_PAGES = Approach("unpod_async export, page size given", "unpod_export", mode="pages")
AIOHTTP_PAGES = Approach("aiohttp + msgspec.Raw, page by page", "aiohttp_raw", mode="flat")
HTTPX_PAGES = Approach("httpx + json, page by page", "httpx_json", mode="flat")

SERIAL = (
    TASKS_LIST,
    PREFETCH,
    EXPORT_PAGES,
    AIOHTTP_PAGES,
    Approach("aiohttp + msgspec typed, 4 pages ahead", "aiohttp_typed", mode="flat", ahead=4),
    HTTPX_PAGES,
    Approach("dlt REST source, page by page", "dlt_rest", mode="flat"),
)
"""Readers of the tasks of a space from a service that answers one request after another."""

LARGE_PAGES = tuple(
    replace(one, page_size=1_000) for one in (TASKS_LIST, PREFETCH, EXPORT_PAGES, AIOHTTP_PAGES)
)
"""Readers of pages of the size that suits the service, at its real speed."""

ONE_PAGE = (TASKS_LIST, PREFETCH, AIOHTTP_PAGES, HTTPX_PAGES)
"""Readers of a listing that fits one page, from the same service."""

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
