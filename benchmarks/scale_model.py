"""A simulation of exports by one process, by shards, and on a Dask cluster.

It simulates each request: the limit on requests, the network, the server, which answers one request after
another, and the processor of the client. The same setting gives the same result. docs/explain/scaling.md says
what it leaves out. `scale.py` is its command line.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, TypeAlias

RUNS_PAGE, RUN_TASKS_PAGE, SPACE_PAGE = 1000, 100, 500
"""Rows per page of the runs, of the tasks of a run, and of all tasks of a space, as in the package."""
SAMPLE, FEW_REQUESTS, AHEAD, MAX_WINDOW = 10, 4, 4, 12
"""Rows of a sample, and what limits the requests of an export, as in the package (`space_scan`)."""
ROWS_PER_REQUEST, ROW_SECONDS = 25.0, 0.00024
"""What decides whether the space-wide listing is cheaper, as in the package (`plan_scan`)."""
CHUNK = 1000
"""Tasks that are processed, or whose recordings are downloaded, between two checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is exported, from which service, and by which machines. Times are in seconds."""

    tasks: Annotated[int, "of all hosts together"] = 10_000_000
    runs: Annotated[int, "of all hosts together"] = 1_000_000
    hosts: Annotated[int, "servers, each with an equal part of the tasks"] = 1
    rate: Annotated[float | None, "requests per second that each host allows"] = None
    latency: Annotated[float, "of the network, there and back"] = 0.05
    request_time: Annotated[float, "of the server, for a request without its rows"] = 0.001
    row_time: Annotated[float, "of the server, for a row"] = 0.00024
    page_size: Annotated[int | None, "of every listing; None: those of the package"] = None
    concurrency: Annotated[int, "requests in flight of an export"] = 4
    request_cpu: Annotated[float, "processor time of the client, for a request"] = 0.00035
    row_cpu: Annotated[float, "for a task that is written"] = 0.000028
    skip_cpu: Annotated[float, "for a run, or a task that another shard writes"] = 0.000007
    start: Annotated[float, "to begin and to end an export, or a shard"] = 0.0
    process: Annotated[float, "processor time of your function, for a task"] = 0.0
    recording: Annotated[float, "to download the recording of a task"] = 0.0
    losses: Annotated[float, "of a machine, per hour"] = 0.0
    restart: Annotated[float, "until a lost machine is replaced"] = 300.0
    growing: Annotated[bool, "new tasks: a listing that was interrupted is read from its start"] = False
    # The way to export
    shards: Annotated[int, "for each host; 0: a plain export"] = 0
    workers: Annotated[int, "processes, each on a machine of its own"] = 1
    pool: Annotated[int, "processes that call your function after a plain export"] = 1
    shared_limit: Annotated[bool, "as on a Dask cluster; else each worker has its part of the limit"] = False
    local: Annotated[bool, "the files are lost with the machine"] = False
    seed: Annotated[int, "of random shards and losses"] = 0
    # Of a real export
    sizes: tuple[int, ...] | None = None  # the tasks of each run, newest first
    shard_of: tuple[int, ...] | None = None  # the shard of each run; None: at random


class Result(NamedTuple):
    """The outcome of a simulation; `busy` is the share of the time in which each resource was busy."""

    seconds: float
    requests: int
    busy: dict[str, float]

    @property
    def bottleneck(self) -> str:
        name = max(self.busy, key=self.busy.__getitem__)
        return name if self.busy[name] > 0.5 else "latency"


# -- simulated time -----------------------------------------------------------------------------------------

Steps: TypeAlias = "Generator[float | list[Steps], None, None]"
"""Yields the time at which to go on, or steps that run at the same time and have to end first."""


class Task:
    """Steps that run, and the task that waits for them."""

    __slots__ = ("parent", "pending", "steps")

    def __init__(self, steps: Steps, parent: Task | None) -> None:
        self.steps, self.parent, self.pending = steps, parent, 0


class Clock:
    """Runs `Steps` in simulated time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Task]] = []
        self._numbers = itertools.count()

    def run(self, steps: Steps) -> None:
        self._advance(Task(steps, None))
        while self._events:
            self.now, _, task = heapq.heappop(self._events)
            self._advance(task)

    def _advance(self, task: Task) -> None:
        for wanted in task.steps:
            if not isinstance(wanted, list):
                heapq.heappush(self._events, (max(wanted, self.now), next(self._numbers), task))
                return
            task.pending = len(wanted) + 1
            for steps in wanted:
                self._advance(Task(steps, task))
            task.pending -= 1
            if task.pending:
                return
        if task.parent is not None:
            task.parent.pending -= 1
            if not task.parent.pending:
                self._advance(task.parent)


class Queue:
    """Does one thing after another, as a server or a processor."""

    def __init__(self) -> None:
        self.busy = self._free = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """Return when something is done that arrives now and takes `seconds`."""
        self.busy += seconds
        self._free = max(self._free, now) + seconds
        return self._free


class Limit:
    """Lets requests start evenly spaced, and `burst` at once after a time in which fewer were sent."""

    def __init__(self, rate: float | None, burst: int) -> None:
        self._interval = 0.0 if rate is None else 1 / rate
        self._credit = (burst - 1) * self._interval
        self._next = 0.0

    def start(self, now: float) -> float:
        start = max(self._next, now - self._credit)
        self._next = start + self._interval
        return max(start, now)


# -- hosts and machines -------------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """The runs of an export or a shard: the tasks of each, and the last position in the listing."""

    sizes: Sequence[int]
    last: int


class Host:
    """A server, its limit, and its runs."""

    def __init__(self, setting: Setting) -> None:
        self.server = Queue()
        self.limit = Limit(setting.rate, 10 if setting.shared_limit else 1)
        runs, tasks = setting.runs // setting.hosts, setting.tasks // setting.hosts
        self.sizes = setting.sizes or [tasks // runs + (run < tasks % runs) for run in range(runs)]
        self.tasks = sum(self.sizes)

    def shards(self, setting: Setting) -> list[Wanted]:
        """Return the runs of each shard, or all runs for a plain export."""
        if not setting.shards:
            return [Wanted(self.sizes, len(self.sizes) - 1)]
        chosen = random.Random(setting.seed)
        shard_of = setting.shard_of or [chosen.randrange(setting.shards) for _ in self.sizes]
        sizes: list[list[int]] = [[] for _ in range(setting.shards)]
        last = [-1] * setting.shards
        for run, shard in enumerate(shard_of):
            sizes[shard].append(self.sizes[run])
            last[shard] = run
        return list(map(Wanted, sizes, last))


class Worker:
    """A process on a machine, which may be lost."""

    def __init__(self, setting: Setting, number: int) -> None:
        self.processor = Queue()
        of_a_host = max(1, setting.workers // setting.hosts)
        self.limit = Limit(None if setting.rate is None else setting.rate / of_a_host, 1)
        self._random = random.Random(f"{setting.seed}, {number}")
        self._losses = setting.losses / 3600
        self.start(0.0)

    def start(self, now: float) -> None:
        """Begin with a machine."""
        self.lost_at = now + self._random.expovariate(self._losses) if self._losses else math.inf


# -- exports ------------------------------------------------------------------------------------------------


@functools.cache
def pages(rows: int, size: int) -> list[int]:
    """Return the rows of each response to a complete reading of a listing.

    A listing of several pages ends with a page that is not full. Then its first page is read again.
    """
    full, rest = divmod(rows, size)
    return [rows] if rows <= size else [size] * full + [rest, size]


class Export:
    """A plain export of a host, or a shard of it, and what of it is saved.

    Args:
        spent: Number of requests, and seconds by what took them, of all exports.
    """

    def __init__(
        self, setting: Setting, clock: Clock, host: Host, wanted: Wanted, spent: dict[str, float]
    ) -> None:
        self._setting, self._clock, self._host, self._spent = setting, clock, host, spent
        self._wanted = wanted
        self._tasks = sum(wanted.sizes)
        self._saved: Counter[str] = Counter()  # steps of each phase
        self._is_resumed = self.is_done = False

    def attempt(self, worker: Worker) -> Steps:
        """Export up to the end, or until the machine is lost."""
        setting = self._setting
        if setting.local:
            self._saved.clear()
        yield self._clock.now + setting.start
        yield from self._list_runs(worker)
        yield from self._read_tasks(worker)
        yield from self._chunks(worker, "recordings", setting.concurrency, setting.recording)
        seconds = setting.process / setting.pool
        yield from self._chunks(worker, "processing", 1, seconds, worker.processor)
        self.is_done = self._clock.now < worker.lost_at
        self._is_resumed = not setting.local

    def plan(self, worker: Worker) -> Steps:
        """List the runs for a plan, before there are shards."""
        listing, row_cpu = self._run_pages(), self._setting.skip_cpu
        yield from self._read(worker, "plan", [listing[:1]], 1, row_cpu)
        yield from self._read_ahead(worker, "plan", listing, AHEAD, row_cpu)

    # Listing the runs

    def _run_pages(self) -> list[int]:
        return pages(len(self._host.sizes), self._setting.page_size or RUNS_PAGE)

    def _list_runs(self, worker: Worker) -> Steps:
        setting, listing = self._setting, self._run_pages()
        self._saved["listing"] = 0
        if setting.shards:  # one page after the other, up to the last wanted run
            listing = listing[: self._wanted.last // (setting.page_size or RUNS_PAGE) + 1]
        if setting.shards or self._is_resumed:
            chains = [[rows] for rows in listing]
            yield from self._read(worker, "listing", chains, 1, setting.skip_cpu)
            return
        yield from self._read(worker, "listing", [listing[:1]], 1, setting.skip_cpu)
        yield [
            self._read_ahead(worker, "listing", listing, AHEAD, setting.skip_cpu),
            self._read_early(worker),
        ]

    def _read_early(self, worker: Worker) -> Steps:
        """Read a sample of the tasks, and the first pages, while the runs are being listed."""
        if len(self._wanted.sizes) > FEW_REQUESTS and self._setting.concurrency > 1:
            yield from self._read_sample(worker)
            if self._scans:
                listing = pages(self._host.tasks, self._page_size)
                early = [[rows] for rows in listing[:-1] or listing][:AHEAD]
                yield from self._read(worker, "scan", early, AHEAD, self._row_cpu)

    # Reading the tasks

    @property
    def _page_size(self) -> int:
        return self._setting.page_size or SPACE_PAGE

    @functools.cached_property
    def _requests_by_run(self) -> int:
        size = self._setting.page_size or RUN_TASKS_PAGE
        return sum(tasks // size + 1 for tasks in self._wanted.sizes)

    @property
    def _scans(self) -> bool:
        """Whether reading the space-wide listing is cheaper than reading run by run: see `plan_scan`."""
        by_run = self._requests_by_run
        fewer_requests = by_run - self._host.tasks // self._page_size - 2
        more_rows = self._host.tasks - sum(self._wanted.sizes)
        return by_run > FEW_REQUESTS and fewer_requests * self._rows_per_request > more_rows

    @property
    def _rows_per_request(self) -> float:
        setting = self._setting
        if setting.rate is None:
            return ROWS_PER_REQUEST
        # Without a shared limit, each worker has its part of the limit.
        parts = 1 if setting.shared_limit else max(1, setting.workers // setting.hosts)
        return max(ROWS_PER_REQUEST, parts / setting.rate / ROW_SECONDS)

    @property
    def _row_cpu(self) -> float:
        """Processor time for a row of the space-wide listing."""
        share = self._tasks / max(1, self._host.tasks)
        return share * self._setting.row_cpu + (1 - share) * self._setting.skip_cpu

    def _read_tasks(self, worker: Worker) -> Steps:
        setting = self._setting
        if self._requests_by_run > FEW_REQUESTS:
            yield from self._read_sample(worker)
        if self._scans:
            listing = pages(self._host.tasks, self._page_size)
            if setting.growing and self._is_resumed and self._saved["scan"] < len(listing):
                self._saved["scan"] = 0
            window = min(setting.concurrency, MAX_WINDOW)
            yield from self._read_ahead(worker, "scan", listing, window, self._row_cpu)
        else:
            chains = [pages(tasks, setting.page_size or RUN_TASKS_PAGE) for tasks in self._wanted.sizes]
            yield from self._read(worker, "runs", chains, setting.concurrency, setting.row_cpu)

    def _read_sample(self, worker: Worker) -> Steps:
        rows = min(SAMPLE, self._host.tasks)
        yield from self._read(worker, "sample", [[rows]], 1, self._setting.skip_cpu)

    def _read_ahead(
        self, worker: Worker, phase: str, listing: list[int], window: int, row_cpu: float
    ) -> Steps:
        """Read a listing, `window` pages at a time. At its end, the first page is read again."""
        chains = [[rows] for rows in listing]
        yield from self._read(worker, phase, chains[:-1] or chains, window, row_cpu)
        yield from self._read(worker, phase, chains, 1, row_cpu)

    def _read(
        self, worker: Worker, phase: str, chains: Sequence[list[int]], window: int, row_cpu: float
    ) -> Steps:
        """Read the chains that are not saved, `window` at a time; the pages of a chain follow one another."""
        left = iter(chains[self._saved[phase] :])
        checkpoint, done = self._clock.now, self._saved[phase]

        def read_chains() -> Steps:
            nonlocal checkpoint, done
            for chain in left:
                for rows in chain:
                    yield from self._request(worker, rows, row_cpu)
                    if worker.lost_at <= self._clock.now:
                        return
                done += 1
                if done == len(chains) or self._clock.now >= checkpoint + 1:
                    self._saved[phase], checkpoint = done, self._clock.now

        yield [read_chains() for _ in range(min(window, len(chains) - done))]

    def _request(self, worker: Worker, rows: int, row_cpu: float) -> Steps:
        setting, clock = self._setting, self._clock
        if worker.lost_at <= clock.now:
            return
        yield (self._host.limit if setting.shared_limit else worker.limit).start(clock.now)
        self._spent["requests"] += 1
        work = setting.request_time + rows * setting.row_time
        yield self._host.server.serve(clock.now + setting.latency / 2, work) + setting.latency / 2
        seconds = setting.request_cpu + rows * row_cpu
        self._spent["client"] += seconds
        yield worker.processor.serve(clock.now, seconds)

    # After the export

    def _chunks(
        self, worker: Worker, phase: str, window: int, seconds: float, processor: Queue | None = None
    ) -> Steps:
        """Spend seconds on each task, chunk by chunk, `window` chunks at a time."""
        chunks = -(-self._tasks // CHUNK) if seconds else 0

        def work(numbers: Iterator[int]) -> Steps:
            for number in numbers:
                spent = seconds * min(CHUNK, self._tasks - number * CHUNK)
                now = self._clock.now
                yield now + spent if processor is None else processor.serve(now, spent)
                if worker.lost_at <= self._clock.now:
                    return
                self._spent[phase] += spent
                self._saved[phase] += 1

        left = iter(range(self._saved[phase], chunks))
        yield [work(left) for _ in range(window)]


def simulate(setting: Setting) -> Result:
    """Simulate one export of all hosts."""
    clock, spent = Clock(), defaultdict[str, float](float)
    hosts = [Host(setting) for _ in range(setting.hosts)]
    workers = [Worker(setting, number) for number in range(setting.workers)]
    exports: list[Export] = [
        Export(setting, clock, host, wanted, spent) for host in hosts for wanted in host.shards(setting)
    ]
    # A worker takes one shard after the other. A plain export of several hosts reads all of them at once.
    batches: deque[list[Export]] = deque(
        [[one] for one in exports]
        if setting.shards
        else [exports[number :: setting.workers] for number in range(setting.workers)]
    )

    def work(worker: Worker) -> Steps:
        while batches:
            batch = batches.popleft()
            while batch:
                if worker.lost_at <= clock.now:
                    yield worker.lost_at + setting.restart
                    worker.start(clock.now)
                yield [one.attempt(worker) for one in batch]
                batch = [one for one in batch if not one.is_done]

    def run() -> Steps:
        if setting.shards:
            yield [
                one.plan(Worker(replace(setting, losses=0, workers=1), -1))
                for one in exports[:: setting.shards]
            ]
        yield [work(worker) for worker in workers]

    clock.run(run())
    requests = int(spent["requests"])
    busy = {
        "server": sum(host.server.busy for host in hosts) / setting.hosts,
        "limit": requests / setting.hosts / setting.rate if setting.rate else 0.0,
        "client": spent["client"] / setting.workers,
        "processing": spent["processing"] / setting.workers,
        "recordings": spent["recordings"] / setting.workers / setting.concurrency,
    }
    return Result(clock.now, requests, {name: seconds / clock.now for name, seconds in busy.items()})
