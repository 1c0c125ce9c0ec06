"""Measure the cost of each step: of a request, of a row of an export, and of a run of a whole export.

    python benchmarks/steps.py

Microseconds of processor time, the best of several rounds. The requests are for an empty page, so that only
what a request costs is seen; the rows are those of a page of 500 tasks of about 3.9 kB; the runs are 2,000
with 10.7 such tasks each. The formats need pyarrow. Steps are of the inside of the package, and move with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp
import msgspec
from dataset import data_set
from measuring import Origin, cpus
from peers.harness import HEADERS, TOKEN

from unpod_async import Task, UnpodClient
from unpod_async._export import FetchContext, Row, row_decoder, row_header, row_lines
from unpod_async._export.formats import FORMATS
from unpod_async._export.redaction import Redactor
from unpod_async._http import endpoints as _paths
from unpod_async._paging import (
    Listing,
    PageRequest,
    SequentialWalk,
    decode_raw,
    decode_rows,
    fetch,
    run_tasks,
    scan_page,
)
from unpod_async._tables import split_into_columns

_REQUESTS = 400
_ROWS = 500


async def of_requests(port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    url = f"{base}/api/v2/platform/spaces/r20/runs/none/tasks/?page=1&page_size=100"
    before = 0.0

    async def step(name: str, work: Callable[[], Awaitable[Any]]) -> None:
        nonlocal before
        best = float("inf")
        for _ in range(6):
            began = time.process_time()
            for _ in range(_REQUESTS):
                await work()
            best = min(best, (time.process_time() - began) / _REQUESTS * 1e6)
        print(f"{name:58}{best:9.1f}{best - before:+9.1f}")
        before = best

    print(f"{'per request':58}{'us':>9}{'more':>9}")
    async with aiohttp.ClientSession(headers=HEADERS, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def bare() -> None:
            async with session.get(url) as response:
                await response.read()

        await step("aiohttp: get and read", bare)
    async with UnpodClient(TOKEN, "example.org", base, max_concurrency=32) as unpod:
        executor = unpod._context.executor
        listing = run_tasks("r20", "none", None)
        query = {"page": "1", "page_size": "100"}
        await step("Transport.get", lambda: executor.transport.get(listing.endpoint.path, query, 60))
        await step(
            "RequestExecutor.read: limits, retries, budget",
            lambda: executor.read(listing.endpoint, query, lambda _, answer: answer, executor.deadline()),
        )
        await step(
            "fetch: status and envelope",
            lambda: fetch(executor, listing, PageRequest(1, 100), executor.deadline(), decode=decode_raw),
        )

        async def walk() -> None:
            pages: SequentialWalk[Task] = SequentialWalk(
                executor, run_tasks("r20", "none", None), page_size=100, decode=decode_raw
            )
            while await pages.next_page() is not None:
                pass

        await step("SequentialWalk: state machine, collector", walk)


def of_rows() -> None:
    body = b'{"count":%d,"status_code":200,"message":"","data":[%b]}' % (
        _ROWS,
        data_set(200).task_rows(0, _ROWS),
    )
    listing = Listing(_paths.space_tasks("r20"), Task, ("task_id", "id"))
    decode = row_decoder(keep_user_token=False)
    raws = scan_page(body, 1, {}).raws
    heads = [row_header(raw) for raw in raws]

    class Envelope(msgspec.Struct):
        data: list[msgspec.Raw]

    scan = msgspec.json.Decoder(Envelope)
    steps: dict[str, Callable[[], object]] = {
        "msgspec: the page as a list of Raw (lower bound)": lambda: scan.decode(body),
        "row_header: what an export has to know of a row": lambda: [row_header(raw) for raw in raws],
        "both, with keys, as a walk of an export takes them": lambda: decode(listing, body, 1, {}),
        "row_lines: the user's token out, UTF-8, one line": lambda: row_lines(
            body, raws, heads, keep_user_token=False
        ),
        "lines joined": lambda: b"\n".join(raws),
        "sha256": lambda: hashlib.sha256(body),
        "decode_raw, for raw()": lambda: decode_raw(listing, body, 1, {}),
        "decode_rows, typed": lambda: decode_rows(listing, body, 1, {}),
    }
    _print_best(steps)


def of_formats() -> None:
    """Print what the parts of an export cost per row, beyond its lines."""
    lines = data_set(200).task_rows(0, _ROWS).replace(b'},{"space_id', b'}\n{"space_id').split(b"\n")
    batches = [lines[start : start + 160] for start in range(0, _ROWS, 160)]
    redact = Redactor("hash", b"benchmarks")

    def part(name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            writer = FORMATS[name].create(Path(folder, "part"), "tasks")
            writer.write(lines)
            writer.close()

    def only_arrow() -> None:
        with patch.object(FORMATS["parquet"].make, "_flush", lambda writer: writer._pending.clear()):
            part("parquet")

    _print_best({
        "lines as columns": lambda: [split_into_columns("tasks", batch) for batch in batches],
        "Parquet: columns, and Arrow": only_arrow,
        "Parquet: both, compressed and written": lambda: part("parquet"),
        "CSV: columns, text, written and hashed": lambda: part("csv"),
        "JSONL with gzip: compressed, written and hashed": lambda: part("jsonl.gz"),
        "redaction": lambda: [redact(line) for line in lines],
    })


def _print_best(steps: dict[str, Callable[[], object]]) -> None:
    print(f"\n{'per row':58}{'us':>9}")
    for name, work in steps.items():
        best = float("inf")
        for _ in range(40):
            began = time.process_time()
            work()
            best = min(best, (time.process_time() - began) / _ROWS * 1e6)
        print(f"{name:58}{best:9.2f}")


async def of_runs(port: int) -> None:
    """Compare an export run by run with exports that discard the rows, or the lines made from them."""

    def only_fetch(*_: object) -> None:
        pass

    def only_lines(_: FetchContext, _space: int, _run: int, rows: Sequence[Row]) -> None:
        for row in rows:
            row.line  # noqa: B018 - a property that makes the line on first access

    steps = {
        "requests, walks, rows found and their heads read": only_fetch,
        "lines made of them": only_lines,
        "written, hashed, noted, made into parts": FetchContext.stage_rows,
    }
    best = dict.fromkeys(steps, float("inf"))
    async with UnpodClient(TOKEN, "example.org", f"http://127.0.0.1:{port}", max_concurrency=32) as unpod:
        for _ in range(9):
            for name, stage in steps.items():
                with tempfile.TemporaryDirectory() as folder, patch.object(FetchContext, "stage_rows", stage):
                    began = time.process_time()
                    await unpod.export("r2000n", folder, concurrency=32, page_size=100)
                    best[name] = min(best[name], (time.process_time() - began) / 2000 * 1e6)
    print(f"\n{'per run of an export run by run':58}{'us':>9}{'more':>9}")
    before = 0.0
    for name, cost in best.items():
        print(f"{name:58}{cost:9.1f}{cost - before:+9.1f}")
        before = cost


def main() -> None:
    client, service = cpus()
    with Origin(service) as origin:
        if client is not None:
            os.sched_setaffinity(0, {client})
        asyncio.run(of_requests(origin.port))
        of_rows()
        of_formats()
        asyncio.run(of_runs(origin.port))


if __name__ == "__main__":
    main()
