"""Read the tasks of a space from its space-wide listing instead of run by run.

This takes a tenth of the requests or fewer. Pages are requested ahead, so their responses arrive in any order
and prove completeness only together. Nothing entered or left the listing if two conditions hold: every
response has the same count, and at the end the listing still begins with the same row. `Walk` checks the end.
An interrupted scan resumes only if both conditions still hold.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Container, Coroutine, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast

import msgspec

from unpod_async._common import cancel_and_wait, shorten
from unpod_async._export.rows import Row, RowHeader, RowPages, row_headers
from unpod_async._export.run_sync import FRESH
from unpod_async._export.run_tasks import FetchContext
from unpod_async._export.storage import ReadingCost, ScanProgress
from unpod_async._http import Deadline, Reader, TimeWindow, endpoints
from unpod_async._paging import (
    Decode,
    DecodedPage,
    Listing,
    ListingPreview,
    Page,
    PageFailure,
    PageRequest,
    PrefetchedPages,
    Walk,
    decode_raw,
    decode_with,
    fetch,
)
from unpod_async.errors import UnpodError
from unpod_async.models import Task

__all__ = [
    "FEW_REQUESTS",
    "EarlyRequests",
    "PrefetchWindow",
    "RunsWithoutRow",
    "ScanPlan",
    "find_runs_without_row",
    "plan_scan",
    "scan_space",
    "space_tasks",
]

T = TypeVar("T")

FEW_REQUESTS = 4
"""If reading run by run takes at most this many requests, an export does not consider a scan."""

_ROWS_PER_REQUEST: Final = 25.0
"""Number of rows that take as long as a request, if no rate limit makes requests slower.

The service needs 1 ms for a request and 0.24 ms for a row, one after another. With a latency of 50 ms and 8
requests in flight, a request takes 6 ms.
"""

_ROW_SECONDS: Final = 0.24e-3
"""Time that the service needs for a row."""

_SAMPLE_ROWS = 10
_MAX_PAGE_ROWS = 500
_PAGE_BYTES = 2 * 2**20
"""Target size of a page. Decoding it blocks the event loop for 5 ms, and making its lines for another 5."""

_MIN_WINDOW = 4
_MAX_WINDOW = 12
"""Minimum and maximum number of pages to request ahead; a page has 2 MB."""

_BUSY = 0.8
"""The window grows if the processor is busy for less than this share of the time."""


def space_tasks(space_token: str) -> Listing[Task]:
    """Return the listing of all tasks of a space."""
    return Listing(endpoints.space_tasks(space_token), Task, ("task_id", "id"))


# -- whether and how to scan --------------------------------------------------------------------------------


class ScanPlan(NamedTuple):
    """Rows per page, and what was seen of the listing just before the scan."""

    page_size: int
    preview: ListingPreview | None


def plan_scan(
    sample: DecodedPage,
    page_size: int | None,
    by_run: ReadingCost,
    interval: float = 0.0,
) -> ScanPlan | None:
    """Return how to scan a space, or None if reading run by run is cheaper.

    A scan takes fewer requests, but it reads the tasks of all runs, also of those that are not wanted.

    Args:
        sample: The first rows of the space-wide listing.
        page_size: The page size that the caller wants; None derives it from the size of the sampled rows.
        by_run: What reading run by run takes.
        interval: Seconds between two requests by the rate limit of the client; 0 without one.
    """
    rows, count = len(sample.keys), sample.count
    # The length is unknown if the server counts only the rows of the page.
    if count is None or (count <= rows and rows >= _SAMPLE_ROWS):
        return None
    page_size = page_size or _page_size_for(sample.rows)
    requests = count // page_size + 2
    more_rows = 0 if by_run.rows is None else max(0, count - by_run.rows)
    rows_per_request = max(_ROWS_PER_REQUEST, interval / _ROW_SECONDS)
    if (by_run.requests - requests) * rows_per_request <= more_rows:
        return None
    return ScanPlan(page_size, ListingPreview(count, sample.keys[0]) if sample.keys else None)


def _page_size_for(rows: Sequence[object]) -> int:
    """Return the page size for rows like these. It is limited because the newest rows are often short."""
    sizes = [len(row) for row in rows if isinstance(row, bytes)]
    mean = sum(sizes) // len(sizes) if sizes else 0
    return max(1, min(_MAX_PAGE_ROWS, _PAGE_BYTES // max(1, mean)))


# -- requests that are sent early ---------------------------------------------------------------------------

_Sample: TypeAlias = "DecodedPage | PageFailure"


class EarlyRequests:
    """Requests for scans that are sent while the runs are still being listed. Call `aclose` at the end.

    They are a sample of each space-wide listing and, in an export of one space, the first pages of the scan.
    Listing 2,000 runs takes three round trips, one after the other, in which the processor is idle. With a
    latency of 50 ms this saves 0.1 s of 0.9 s.

    Args:
        page_size: The page size that the caller wants, or None.
        concurrency: Maximum number of requests in flight.
        decode: The decoder of the scan that takes the pages.

    Attributes:
        pages: Pages that were requested and that no scan has taken yet.
    """

    def __init__(
        self, reader: Reader, deadline: Deadline, decode: Decode, *, page_size: int | None, concurrency: int
    ) -> None:
        self._reader = reader
        self._deadline = deadline
        self._decode = decode
        self._page_size = page_size
        self._max_pages = initial_window(concurrency)
        self._samples: dict[str, asyncio.Task[_Sample]] = {}
        self._tasks: set[asyncio.Task[Any]] = (
            set()
        )  # in flight; a finished task would keep its page in memory
        self._requested_pages = False
        self.pages: PrefetchedPages = {}

    async def aclose(self) -> None:
        """Cancel all requests and wait for them."""
        cancelled = await cancel_and_wait([*self._tasks, *self._samples.values()])
        if cancelled is not None:
            raise cancelled

    def request_sample(self, space_token: str) -> asyncio.Task[_Sample]:
        """Request the first rows of the space-wide listing, unless this was done before."""
        sample = self._samples.get(space_token)
        if sample is None:
            read = PageRequest(1, _SAMPLE_ROWS, patient=True)
            request = fetch(self._reader, space_tasks(space_token), read, self._deadline, decode=decode_raw)
            sample = self._samples[space_token] = asyncio.create_task(request)
        return sample

    def request_pages(self, space_token: str, runs: int) -> None:
        """Request the first pages of the scan if the sample shows that it is cheaper than `runs` requests.

        Only the first call has an effect.
        """
        if not self._requested_pages:
            self._requested_pages = True
            self._start(self._request_pages(space_token, runs))

    async def _request_pages(self, space_token: str, runs: int) -> None:
        sample = await self.request_sample(space_token)
        plan = (
            plan_scan(sample, self._page_size, ReadingCost(runs)) if isinstance(sample, DecodedPage) else None
        )
        if plan is None or plan.preview is None:
            return
        listing = space_tasks(space_token)
        for number in range(1, min(self._max_pages, -(-plan.preview.length // plan.page_size)) + 1):
            read = PageRequest(number, plan.page_size)
            page = fetch(self._reader, listing, read, self._deadline, decode=self._decode)
            self.pages[read] = self._start(page)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the scan that takes the page raises it; without one it does not matter


# -- how many pages to request ahead ------------------------------------------------------------------------


def initial_window(max_pages: int) -> int:
    """Return the number of pages to request ahead while the latency is unknown."""
    return max(1, min(max_pages, _MIN_WINDOW))


class PrefetchWindow:
    """The number of pages to request ahead: as many as keep the processor busy.

    Without latency, more pages only cost memory, so the window starts small. With a latency of 50 ms and
    10 ms of work per page, nine pages hide the latency: 2,000 runs take 0.98 s, against 1.14 s with four.

    Args:
        max_pages: Upper limit.
        now: Seconds of a monotonic clock.
        busy: Processor seconds that this process has used.
    """

    def __init__(self, max_pages: int, now: float, busy: float) -> None:
        self._max = max(1, min(max_pages, _MAX_WINDOW))
        self.pages = initial_window(max_pages)
        self._since = now, busy
        self._handled = 0

    def page_handled(self, now: float, busy: float) -> int:
        """Note that a page was handled, and return the size of the window."""
        self._handled += 1
        if self._handled >= self.pages:
            passed, worked = now - self._since[0], busy - self._since[1]
            if 0 < worked < _BUSY * passed:
                self.pages = min(self._max, math.ceil(self.pages * passed / worked))
            self._since, self._handled = (now, busy), 0
        return self.pages


# -- runs whose own row cannot be read ----------------------------------------------------------------------


class RunsWithoutRow(NamedTuple):
    """Runs that are known only through their tasks.

    Attributes:
        ids: Their ids.
        tasks: The server's count of the tasks of the space; None if it is unknown or only a part was listed.
        error: Why some runs may be missing; None if none is missing.
        read_all: True if the whole listing was read. Then a higher count does not mean that tasks are
            missing.
    """

    ids: list[str]
    tasks: int | None
    error: str | None
    read_all: bool = False


async def find_runs_without_row(
    context: FetchContext,
    space: int,
    token: str,
    *,
    page_size: int | None,
    window: TimeWindow | None,
    ignored: Container[str],
) -> RunsWithoutRow:
    """Find the runs of a space that have tasks and whose own row cannot be read.

    The server's count is compared with the number of known tasks, to decide whether there can be such runs.
    Reading stops as soon as the number of remaining rows equals that of the remaining known tasks.

    Args:
        page_size: The page size that the caller wants, or None.
        window: Creation times to search; None searches all.
        ignored: Ids of runs that were listed and not selected.

    Raises:
        UnpodError: an error that ends the export.
    """
    listing = space_tasks(token)
    if window is not None:
        bounds = endpoints.unix_bounds(window.created_from, window.created_to)
        listing = msgspec.structs.replace(listing, query=bounds)
    sample = await fetch(
        context.retrier, listing, PageRequest(1, _SAMPLE_ROWS), context.deadline, decode=decode_raw
    )
    tasks = sample.count if isinstance(sample, DecodedPage) and window is None else None
    known = None if tasks is None else await context.io.run(context.catalog.expected_tasks, space)
    if tasks is not None and tasks == known:
        return RunsWithoutRow([], tasks, None)
    rows = sample.rows if isinstance(sample, DecodedPage) else ()
    pages = RowPages(
        context.retrier, listing, page_size or _page_size_for(rows), context.deadline, _decode_headers
    )
    search = _RunsWithoutRowSearch(context, space, known)
    error: str | None = None
    try:
        await search.read(pages)
    except UnpodError as failure:
        if context.is_fatal(failure):
            raise
        error = shorten(failure.summary)
    else:
        if search.has_bad_rows:
            error = "rows of the space-wide listing cannot be read"
    return RunsWithoutRow(
        [name for name in search.found if name not in ignored],
        tasks,
        error,
        error is None and not search.stopped_early,
    )


class _RunsWithoutRowSearch:
    """Searches a space-wide listing for tasks of runs that are not known.

    Args:
        known: Number of its tasks that are known; None if the count cannot be used.

    Attributes:
        found: Ids of the unknown runs, newest first.
        has_bad_rows: True if the run of a row is unknown.
    """

    def __init__(self, context: FetchContext, space: int, known: int | None) -> None:
        self._context = context
        self._space = space
        self._known_after_page = known
        self._rows_after_page: int | None = None  # rows after the page
        self.found: dict[str, None] = {}
        self.has_bad_rows = False
        self.stopped_early = False

    async def read(self, pages: RowPages) -> None:
        """Read to the end, or until all remaining tasks are known."""
        walk = pages.sequential()
        while not self.stopped_early and (page := await walk.next_page()) is not None:
            await self._add_page(page)

    async def _add_page(self, page: Page[Any]) -> None:
        names = [header.run_id for header in cast("list[RowHeader]", page.items)]
        valid = [name for name in names if isinstance(name, str) and name]
        catalog = self._context.catalog
        known = await self._context.io.run(catalog.known_runs, self._space, list(set(valid)))
        self.found.update((name, None) for name in valid if name not in known)
        self.has_bad_rows = self.has_bad_rows or bool(page.unreadable) or len(valid) < len(names)
        if self._rows_after_page is None:
            self._rows_after_page = page.count  # rows that are added later are not after any page
        if self._rows_after_page is None or self._known_after_page is None:
            return
        self._rows_after_page -= len(names)
        self._known_after_page -= sum(name in known for name in valid)
        self.stopped_early = self._rows_after_page == self._known_after_page and not self.has_bad_rows


def _header_rows(body: bytes, raws: Sequence[msgspec.Raw], headers: Sequence[RowHeader]) -> list[Any]:
    return list(headers)


_decode_headers: Decode = functools.partial(decode_with, heads_of=row_headers, rows_of=_header_rows)
"""Decodes pages into the headers of their rows."""


# -- the scan -----------------------------------------------------------------------------------------------


class _UnattributableRow(Exception):
    """A row of the space-wide listing is missing, or may be, and its run is unknown."""


async def scan_space(
    context: FetchContext, space: int, token: str, plan: ScanPlan, early_pages: PrefetchedPages
) -> None:
    """Read the tasks of all wanted runs of a space from its space-wide listing.

    If the scan does not reach its end, nothing of it is kept, and the runs are still wanted.

    Args:
        early_pages: Pages that were requested after `plan.preview`.

    Raises:
        UnpodError: an error that ends the export.
    """
    staging = context.staging
    runs_before, rows_before = staging.runs, staging.rows
    progress = await context.io.run(context.catalog.scan_progress, space)
    try:
        if progress is None or not await _can_resume(context, token, plan.page_size, progress):
            await context.io.run(context.catalog.discard_scan, space)
            progress = None
        await _SpaceScan(context, space, token, plan, progress).run(early_pages if progress is None else None)
    except (UnpodError, _UnattributableRow) as error:
        if isinstance(error, UnpodError) and context.is_fatal(error):
            raise
        await staging.checkpoint()
        await context.io.run(context.catalog.discard_scan, space)
        staging.runs, staging.rows = runs_before, rows_before
        return
    staging.runs = runs_before + await context.io.run(context.catalog.finish_scan, space, time.time())


async def _can_resume(context: FetchContext, token: str, page_size: int, progress: ScanProgress) -> bool:
    """Return whether the listing is as it was when the interrupted scan began."""
    if progress.page_size != page_size or not 0 <= time.time() - progress.at < FRESH:
        return False
    first = await fetch(
        context.retrier, space_tasks(token), PageRequest(1, 1, patient=True), context.deadline
    )
    if isinstance(first, PageFailure):
        raise first.error
    return (list(first.keys), first.count) == ([progress.head], progress.length)


class _SpaceScan:
    """One scan of a space-wide listing."""

    def __init__(
        self, context: FetchContext, space: int, token: str, plan: ScanPlan, resumed: ScanProgress | None
    ) -> None:
        self._context = context
        self._space = space
        self._listing = space_tasks(token)
        self._resumed = resumed
        self._page_size = plan.page_size
        self._window = PrefetchWindow(context.concurrency, time.monotonic(), time.process_time())
        self._machine = Walk(
            page_size=plan.page_size,
            start_page=1 if resumed is None else resumed.page + 1,
            ahead=self._window.pages,
            preview=plan.preview,
        )
        self._last_page = 0 if resumed is None else resumed.page
        self._first_key = None if resumed is None else resumed.head
        self._length = None if resumed is None else resumed.length
        self._is_unchanged = True  # all pages so far may be of one unchanged listing
        self._staged_tasks: set[str] = set()  # by the interrupted scan
        self._run: int | None = None  # the run of the last staged row
        self._runs_begun: set[int] = set()

    async def run(self, early_pages: PrefetchedPages | None) -> None:
        """Scan to the end.

        Raises:
            UnpodError, _UnattributableRow: the scan did not reach its end.
        """
        context = self._context
        if self._resumed is not None:
            self._staged_tasks = await context.io.run(context.staging.scanned_tasks, self._space)
            context.on_resume(f"{len(self._staged_tasks):,} of {self._resumed.length:,} tasks")
        pages = RowPages(context.retrier, self._listing, self._page_size, context.deadline, context.decode)
        try:
            await pages.prefetch(self._machine, self._add_page, early_pages)
        finally:
            if self._run is not None:
                context.staging.release(self._run)
        if self._resumed is not None and self._machine.passes > 1:
            raise _UnattributableRow  # the earlier pages are of a listing that has changed since
        await context.staging.checkpoint()

    async def _add_page(self, page: Page[Task]) -> None:
        rows = cast("list[Row]", page.items)  # the decoder makes these
        if page.unreadable or page.rejected:
            raise _UnattributableRow
        self._compare(page, rows)
        await self._stage(rows, left=max(0, (page.count or 0) - page.number * self._page_size))
        staging = self._context.staging
        if self._is_unchanged and self._first_key is not None and self._length is not None:
            reached = ScanProgress(page.number, self._page_size, self._first_key, self._length, time.time())
            staging.save_progress(self._space, reached)
        # After the last page, the disk works while the walk checks the end of the listing.
        is_last = page.number * self._page_size >= (page.count or 0)
        await staging.flush_if_due(at_once=is_last)
        self._machine.set_ahead(self._window.page_handled(time.monotonic(), time.process_time()))

    def _compare(self, page: Page[Task], rows: Sequence[Row]) -> None:
        """Note whether all pages up to this one may be of one unchanged listing."""
        if page.number == 1 and self._machine.passes == 1 and rows:
            self._first_key, self._length = self._listing.key_of(rows[0].header), page.count
        follows = page.number == self._last_page + 1 and page.count == self._length
        self._is_unchanged = self._is_unchanged and follows and self._machine.passes == 1
        self._last_page = page.number
        if self._resumed is not None and not self._is_unchanged:
            raise _UnattributableRow

    async def _stage(self, rows: Sequence[Row], *, left: int) -> None:
        context = self._context
        groups: list[tuple[str, list[Row]]] = []
        for row in rows:
            run_id, task_id = row.header.run_id, row.header.task_id
            if not isinstance(run_id, str) or not run_id:
                raise _UnattributableRow
            if isinstance(task_id, str) and task_id in self._staged_tasks:
                continue
            if not groups or groups[-1][0] != run_id:
                groups.append((run_id, []))
            groups[-1][1].append(row)
        names = list({run_id for run_id, _ in groups})
        numbers = await context.io.run(context.catalog.wanted_numbers, self._space, names)
        context.on_scan(len(rows), left)  # an event has either both counts of a page or neither
        for run_id, rows_of_run in groups:
            if (run := numbers.get(run_id)) is None:
                continue
            if self._run is not None and self._run != run:
                context.staging.release(self._run)
            self._run = run
            context.stage_rows(self._space, run, rows_of_run)
        # A run counts as soon as its first task is read. Its other tasks may be on later pages.
        new = set(numbers.values()) - self._runs_begun
        self._runs_begun |= new
        context.staging.runs += len(new)
