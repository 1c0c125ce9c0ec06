"""Fetching the tasks of a space's runs from its space-wide listing: a tenth of the requests, or fewer.

Pages are asked for ahead, so their answers come in any order, and prove something only together: as long as
all have the same count, and the listing begins with the same row afterwards, nothing was added and nothing
went meanwhile (see `_walk`). The walk looks at its end; one that was broken off is gone on with when that
holds then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from unpod_async._export.prefetch_window import Window
from unpod_async._export.row_pages import RowPages
from unpod_async._export.rows import Row, decoder
from unpod_async._export.run_sync import FRESH
from unpod_async._export.run_tasks import Fetching
from unpod_async._export.scan_plan import Plan, space_tasks
from unpod_async._export.storage import Progress
from unpod_async._paging import Page, PageFailure, PageRequest, PrefetchedPages, Walk, fetch
from unpod_async.errors import UnpodError
from unpod_async.models import Task

__all__ = ["fetch_flat"]


class _Unattributable(Exception):
    """A row of the space-wide listing is or may be missing, and nobody can say of which run."""


async def fetch_flat(job: Fetching, space: int, token: str, plan: Plan, started: PrefetchedPages) -> bool:
    """Fetch the wanted runs of a space from its listing of all tasks; whether that came to its end.

    If not, nothing of it is kept, and the runs are still wanted.

    Args:
        started: pages that were asked for already, after `plan.glance`.

    Raises:
        UnpodError: what ends the whole job.
    """
    done = job.staging.runs
    rows = job.staging.rows
    progress = await job.disk.run(job.state.flat, space)
    try:
        if progress is None or not await _goes_on(job, token, plan.page_size, progress):
            await job.disk.run(job.state.drop_flat, space)
            progress = None
        await _Flat(job, space, token, plan, progress).walk(started if progress is None else None)
    except (UnpodError, _Unattributable) as error:
        if isinstance(error, UnpodError) and job.ends_all(error):
            raise
        await job.staging.checkpoint()
        await job.disk.run(job.state.drop_flat, space)
        job.staging.runs, job.staging.rows = done, rows
        return False
    job.staging.runs = done + await job.disk.run(job.state.staged_flat, space, time.time())
    return True


async def _goes_on(job: Fetching, token: str, page_size: int, progress: Progress) -> bool:
    """Whether the listing is what it was when the walk began."""
    if progress.page_size != page_size or not 0 <= time.time() - progress.at < FRESH:
        return False
    first = await fetch(job.patience, space_tasks(token), PageRequest(1, 1), job.deadline)
    if isinstance(first, PageFailure):
        raise first.error
    return (list(first.keys), first.count) == ([progress.head], progress.length)


class _Flat:
    """One walk over the space-wide listing."""

    def __init__(self, job: Fetching, space: int, token: str, plan: Plan, progress: Progress | None) -> None:
        self._job = job
        self._space = space
        self._listing = space_tasks(token)
        self._progress = progress
        self._page_size = plan.page_size
        self._window = Window(job.concurrency, time.monotonic(), time.process_time())
        self._machine = Walk(
            page_size=plan.page_size,
            start_page=1 if progress is None else progress.page + 1,
            ahead=self._window.pages,
            glance=plan.glance,
        )
        self._last = 0 if progress is None else progress.page
        self._head = None if progress is None else progress.head
        self._length = None if progress is None else progress.length
        self._is_one_picture = True
        self._known: set[str] = set()
        self._run: int | None = None  # whose rows were staged last

    async def walk(self, started: PrefetchedPages | None) -> None:
        """To its end.

        Raises:
            UnpodError, _Unattributable: it did not come to its end.
        """
        job = self._job
        if self._progress is not None:
            self._known = await job.disk.run(job.state.staged_tasks, self._space)
        decode = decoder(keep_user_token=job.keep_user_token)
        pages = RowPages(job.patience, self._listing, self._page_size, job.deadline, decode)
        try:
            await pages.ahead(self._machine, self._take, started)
        finally:
            if self._run is not None:
                job.staging.release(self._run)
        if self._progress is not None and self._machine.passes > 1:
            raise _Unattributable  # what was read before is of another listing
        await job.staging.checkpoint()

    async def _take(self, page: Page[Task]) -> None:
        rows = cast("list[Row]", page.items)  # as the decoder makes them
        if page.unreadable or page.rejected:
            raise _Unattributable
        self._look(page, rows)
        await self._stage(rows)
        if self._is_one_picture and self._head is not None and self._length is not None:
            reached = Progress(page.number, self._page_size, self._head, self._length, time.time())
            self._job.staging.reach(self._space, reached)
        # So that the disk is busy while the walk takes its closing look.
        is_last = page.number * self._page_size >= (page.count or 0)
        await self._job.staging.flush_if_due(at_once=is_last)
        self._machine.ahead = self._window.handled(time.monotonic(), time.process_time())

    def _look(self, page: Page[Task], rows: Sequence[Row]) -> None:
        """Whether all pages up to this one may be of one unchanged listing."""
        if page.number == 1 and self._machine.passes == 1 and rows:
            self._head, self._length = self._listing.key_of(rows[0].head), page.count
        follows = page.number == self._last + 1 and page.count == self._length
        self._is_one_picture = self._is_one_picture and follows and self._machine.passes == 1
        self._last = page.number
        if self._progress is not None and not self._is_one_picture:
            raise _Unattributable

    async def _stage(self, rows: Sequence[Row]) -> None:
        job = self._job
        groups: list[tuple[str, list[Row]]] = []
        for row in rows:
            run_id = row.head.run_id
            if not isinstance(run_id, str) or not run_id:
                raise _Unattributable
            if self._known and isinstance(row.head.task_id, str) and row.head.task_id in self._known:
                continue
            if not groups or groups[-1][0] != run_id:
                groups.append((run_id, []))
            groups[-1][1].append(row)
        names = list({run_id for run_id, _ in groups})
        numbers = await job.disk.run(job.state.numbers, self._space, names)
        for run_id, of_run in groups:
            if (run := numbers.get(run_id)) is None:
                continue
            if self._run is not None and self._run != run:
                job.staging.release(self._run)
            self._run = run
            job.stage(self._space, run, of_run)
        job.staging.runs += len(numbers)  # about; those that go on on the next page are counted again
