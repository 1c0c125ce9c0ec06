"""Read the tasks of the wanted runs, run by run, with a few workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import anyio

from unpod_async._common import count_active, run_workers, shorten
from unpod_async._export.outage import OutageRetrier
from unpod_async._export.rows import InvalidRow, Row, RowPages
from unpod_async._export.storage import Catalog, Disk, Staging, Wanted
from unpod_async._http import Deadline
from unpod_async._paging import Decode, run_tasks
from unpod_async.errors import (
    AuthenticationError,
    ConfigurationError,
    ExportError,
    IncompleteListing,
    UnpodError,
)

__all__ = ["FetchContext", "WantedRuns", "fetch_runs"]

_BATCH = 500

_FATAL = (AuthenticationError, ConfigurationError, ExportError)
"""Errors that end the export, because every other run would fail in the same way."""

UNREADABLE = "the server fails to send it"


@dataclass(frozen=True, slots=True)
class FetchContext:
    """The settings and functions that are needed to read tasks.

    Attributes:
        page_size: Rows per page of the tasks of a run.
        concurrency: Maximum number of requests in flight.
        redact: Returns the line to write for a line; None writes lines as they are.
        recording_url: Returns the URL of a task's recording, or None without one; None exports no recordings.
        on_resume: Called with what an interrupted export has stored, such as "65 of 300 runs".
        on_scan: Called with the number of rows of a page of the space-wide listing, and of those after it.
    """

    catalog: Catalog
    io: Disk
    staging: Staging
    retrier: OutageRetrier
    deadline: Deadline
    decode: Decode
    page_size: int
    concurrency: int
    redact: Callable[[bytes], bytes] | None
    recording_url: Callable[[bytes], str | None] | None
    on_resume: Callable[[str], None]
    on_scan: Callable[[int, int], None]

    def is_fatal(self, error: UnpodError) -> bool:
        """Return whether an error ends the export."""
        return isinstance(error, _FATAL) or self.retrier.gave_up is not None

    def stage_rows(self, space: int, run: int, rows: Sequence[Row]) -> None:
        """Stage rows of one run.

        The run has ended (see `run_has_ended`) if all its tasks were staged, none of them is active, and no
        row is invalid. So active tasks and invalid rows are counted.
        """
        made = Row.lines(rows)
        if self.redact is None and self.recording_url is None and InvalidRow not in set(map(type, made)):
            # Most pages. This takes 15 us for 100 rows, the loop below 27 us.
            valid = cast("list[bytes]", made)
            self.staging.add(run, valid, count_active([row.header.status for row in rows]))
            return
        lines: list[bytes] = []
        statuses: list[object] = []
        for row, line in zip(rows, made, strict=True):
            if isinstance(line, InvalidRow):
                self.staging.add_bad(space, run, None, line.reason)
                continue
            lines.append(line if self.redact is None else self.redact(line))
            statuses.append(row.header.status)
            url = self.recording_url(line) if self.recording_url is not None else None
            if url is not None and isinstance(row.header.task_id, str):
                self.staging.add_recording(row.header.task_id, run, url)
        self.staging.add(run, lines, count_active(statuses))


async def fetch_runs(context: FetchContext, wanted: WantedRuns) -> None:
    """Read the tasks of every wanted run.

    A run that fails does not stop the others: the rows that were read are kept, and the failure is recorded.

    Raises:
        UnpodError: an error that ends the export.
    """
    workers = min(context.concurrency, await wanted.count_loaded())

    async def work() -> None:
        while (found := await wanted.take()) is not None:
            space, token, run = found
            await _fetch_run(context, space, token, run)

    if workers:
        await run_workers(workers, work)
    await context.staging.checkpoint()


class WantedRuns:
    """The wanted runs of some spaces, loaded batch by batch.

    Args:
        spaces: Number and token of each space.
    """

    def __init__(self, context: FetchContext, spaces: Sequence[tuple[int, str]]) -> None:
        self._context = context
        self._spaces = deque(spaces)
        self._runs: deque[tuple[int, str, Wanted]] = deque()
        self._last = 0  # number of the last run that was loaded
        self._turn = anyio.Lock()

    async def take(self) -> tuple[int, str, Wanted] | None:
        """Return the next run with the number and token of its space, or None if there is none left."""
        while not self._runs and self._spaces:  # other workers may take all runs before this one does
            async with self._turn:
                await self.count_loaded()
        return self._runs.popleft() if self._runs else None

    async def count_loaded(self) -> int:
        """Return the number of runs that are loaded; load some first if there are none."""
        if not self._runs and self._spaces:
            await self._context.io.run(self.load)
        return len(self._runs)

    def load(self) -> None:
        """Load enough runs for all workers, or the rest. Blocks."""
        while self._spaces and len(self._runs) < self._context.concurrency:
            space, token = self._spaces[0]
            batch = self._context.catalog.wanted(space, self._last, _BATCH)
            self._runs.extend((space, token, run) for run in batch)
            if len(batch) < _BATCH:
                self._spaces.popleft()
                self._last = 0
            else:
                self._last = batch[-1].number


async def _fetch_run(context: FetchContext, space: int, token: str, run: Wanted) -> None:
    staging, count = context.staging, None
    if run.id.startswith("#"):
        staging.fail(run.number, None, "the run has no valid id")
        return
    try:
        listing = run_tasks(token, run.id, None)
        pages = RowPages(context.retrier, listing, context.page_size, context.deadline, context.decode)
        walk = pages.sequential()
        while (page := await walk.next_page()) is not None:
            count = page.count
            context.stage_rows(space, run.number, page.items)
            for position in page.unreadable:
                staging.add_bad(space, run.number, position, UNREADABLE)
            for row in page.rejected:
                staging.add_bad(space, run.number, None, row.reason)
            await staging.flush_if_due()
    except UnpodError as error:
        if context.is_fatal(error):
            raise
        expected = error.expected if isinstance(error, IncompleteListing) else count
        staging.fail(run.number, expected, shorten(error.summary))
    else:
        staging.finish(run.number)
