"""One approach, run once, in this process: what it cost, and whether every row came through.

    python -m peers.aiohttp_raw --port 8000 --space r2000 --mode runs        # prints one line of JSON

What is measured begins after all imports and a first turn with three runs, which imports what is imported
late, and ends with the work; checking the rows comes after that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import gc
import gzip
import http.client
import inspect
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dataset import data_set, space_of, task_id

from peers.sampler import Sampler

__all__ = ["Counted", "Job", "Received", "Told", "Written", "main"]

TOKEN = "benchmark-key-0123456789"
_EMAIL = "alice@"
"""The beginning of an address that is in every row of the data."""
HEADERS = {"Authorization": f"Token {TOKEN}", "Org-Handle": "example.org", "Accept": "application/json"}


class Job(NamedTuple):
    """The job of an approach.

    Attributes:
        mode: "runs" asks for the tasks run by run, "flat" for the space-wide listing.
        ahead: requests in flight; 1 is one after another.
        folder: where files may be written.
        slow: seconds that the consumer of rows takes for each page.
        format: of the files: "jsonl", "jsonl.gz", "csv" or "parquet".
        redact: the export hashes personal data.
    """

    port: int
    space: str
    mode: str
    page_size: int
    ahead: int
    folder: Path
    slow: float
    format: str
    redact: bool

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def root(self) -> str:
        return f"{self.origin}/api/v2/platform/spaces/{self.space}"


class Written(NamedTuple):
    """The rows are in files of JSONL, compressed JSONL, CSV or Parquet, and have a `task_id`.

    Attributes:
        columns: names and types of Arrow that Parquet files must have; None if any will do.
    """

    files: list[Path]
    columns: Sequence[tuple[str, str]] | None = None


class Counted(NamedTuple):
    """The rows went by: how many, and the ids hashed and XORed (`hash` of each)."""

    rows: int
    mark: int


class Received(NamedTuple):
    """Nothing was looked at: bytes of bodies."""

    length: int


class Told(NamedTuple):
    """Something else was measured, and this is it."""

    values: dict[str, float]


def expected_tasks(space: str) -> int:
    properties = space_of(space)
    total = data_set(properties.runs).tasks
    return total if properties.tasks is None else min(total, properties.tasks)


def check(result: Any, job: Job) -> tuple[int, int]:
    """(rows, bytes written); ends the process when rows are missing, repeated or others."""
    tasks = expected_tasks(job.space)
    if isinstance(result, Received | Told):
        return 0, 0
    if isinstance(result, Counted):
        mark = 0
        for task in range(tasks):
            mark ^= hash(task_id(task))
        if (result.rows, result.mark) != (tasks, mark):
            sys.exit(f"{result.rows} rows came, {tasks} were expected, or they are others")
        return result.rows, 0
    left = {task_id(task) for task in range(tasks)}
    rows = length = 0
    for path in result.files:
        length += path.stat().st_size
        for name in _ids_in(path, result.columns, job):
            left.remove(name)  # KeyError: it came twice
            rows += 1
    if left:
        sys.exit(f"{len(left)} of {tasks} rows did not come")
    return rows, length


def _ids_in(path: Path, columns: Sequence[tuple[str, str]] | None, job: Job) -> Iterator[str]:
    """Yield the ids of the rows of a file; ends the process if it has other columns or holds no rows."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        schema = pyarrow.parquet.read_schema(path)
        found = [(field.name, str(field.type)) for field in schema]
        if columns is not None and found != list(columns):
            sys.exit(f"{path.name} has the columns {found}, expected {list(columns)}")
        yield from pyarrow.parquet.read_table(path, columns=["task_id"])["task_id"].to_pylist()
        return
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        if path.suffix == ".csv":
            csv.field_size_limit(2**24)
            for row in csv.DictReader(file):
                if job.redact and _EMAIL in row["user_info"]:
                    sys.exit(f"{path.name} is not redacted")
                yield row["task_id"]
            return
        for number, line in enumerate(file):
            match = re.search(r'"task_id":\s*"(T[0-9a-f]{32})"', line)
            if match is None or not line.rstrip().endswith("}"):
                sys.exit(f"{path.name}, line {number + 1} is no row")
            if job.redact and _EMAIL in line:
                sys.exit(f"{path.name} is not redacted")
            if number % 500 == 0:
                json.loads(line)
            yield match[1]


# -- measuring ----------------------------------------------------------------------------------------------


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status; 0 where there is none."""
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    return _status("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _busy(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def _counting(on: bool) -> Iterator[None]:
    """Let callgrind, under which this process runs, count what is inside; imports would take it a minute."""

    def switch(state: str) -> None:
        control = shutil.which("callgrind_control") or ""
        command = [control, f"--instr={state}", str(os.getpid())]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - callgrind_control from PATH

    if on:
        switch("on")
    yield
    if on:
        switch("off")


def _counters(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/_stats")
    counters: dict[str, Any] = json.load(connection.getresponse())
    connection.close()
    return counters


class Ticker:
    """How long the event loop was held at most: between two turns 1 ms apart, by this thread's own clock."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.longest_wall = 0.0

    async def run(self) -> None:
        while True:
            busy, wall = time.thread_time(), time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.thread_time() - busy)
            self.longest_wall = max(self.longest_wall, time.perf_counter() - wall - 0.001)


def _run(run: Callable[[Job], Any], job: Job, ticker: Ticker | None) -> Any:
    return asyncio.run(_awaited(run, job, ticker)) if inspect.iscoroutinefunction(run) else run(job)


async def _awaited(run: Callable[[Job], Any], job: Job, ticker: Ticker | None) -> Any:
    if ticker is None:
        return await run(job)
    ticking = asyncio.create_task(ticker.run())
    await asyncio.sleep(0.01)
    ticker.longest = ticker.longest_wall = 0.0
    try:
        return await run(job)
    finally:
        await asyncio.sleep(0)
        ticking.cancel()


def main(run: Callable[[Job], Any]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--space", default="r2000")
    parser.add_argument("--mode", default="runs")
    parser.add_argument("--page-size", type=int, default=100)
    parser.add_argument("--ahead", type=int, default=32)
    parser.add_argument("--slow", type=float, default=0.0, help="seconds the consumer takes per page")
    parser.add_argument("--format", default="jsonl", help="of the files that are written")
    parser.add_argument("--redact", action="store_true", help="an export hashes personal data")
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--idle", action="store_true", help="do nothing: what imports and set-up cost")
    parser.add_argument("--cold", action="store_true", help="without a first turn with three runs")
    parser.add_argument("--tick", action="store_true", help="measure how long the event loop is held")
    parser.add_argument("--count", action="store_true", help="let callgrind count what is measured, only")
    parser.add_argument("--sample", help="write a profile by sampling to this file")
    options = parser.parse_args()
    if options.cpu is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.cpu})
    folder = Path(tempfile.mkdtemp(prefix="unpod-bench-"))
    try:
        job = Job(
            *(options.port, options.space, options.mode, options.page_size, options.ahead),
            *(folder, options.slow, options.format, options.redact),
        )
        warm = job._replace(space="r3", folder=folder / "warm", slow=0.0)
        if not options.cold:
            warm.folder.mkdir()
            _run(run, warm, None)
        print(json.dumps(_measured(run, job, options)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(run: Callable[[Job], Any], job: Job, options: argparse.Namespace) -> dict[str, Any]:
    ticker = Ticker() if options.tick else None
    if options.idle:
        with _counting(options.count):
            return {"idle": True}
    before = _counters(job.port)
    sampler = Sampler() if options.sample else contextlib.nullcontext()
    gc.collect()
    _forget_peak()
    base = _status("VmRSS:")
    thread = _busy(resource.RUSAGE_THREAD)
    busy, children, wall = _busy(resource.RUSAGE_SELF), _busy(resource.RUSAGE_CHILDREN), time.perf_counter()
    with sampler, _counting(options.count):
        result = _run(run, job, ticker)
    wall = time.perf_counter() - wall
    thread = _busy(resource.RUSAGE_THREAD) - thread
    busy = _busy(resource.RUSAGE_SELF) - busy + _busy(resource.RUSAGE_CHILDREN) - children
    peak = _peak() - base
    after = _counters(job.port)
    requests = after["requests"] - before["requests"]
    received = after["bytes"] - before["bytes"]
    rows, written = check(result, job)
    if isinstance(sampler, Sampler):
        sampler.write(Path(options.sample))
    return {
        **(result.values if isinstance(result, Told) else {}),
        "wall": wall,
        "cpu": busy,
        "main_thread": thread,
        "peak": peak,
        "rows": rows,
        "written": written,
        "requests": requests,
        "received": received,
        "origin_cpu": after["cpu"] - before["cpu"],
        "origin_work": after["work"] - before["work"],
        "held": None if ticker is None else ticker.longest,
        "held_wall": None if ticker is None else ticker.longest_wall,
    }
