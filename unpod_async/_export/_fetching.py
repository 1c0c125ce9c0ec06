"""Fetching the tasks of runs: run by run with a few workers, or all at once from the space-wide listing."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from unpod_async import _paths
from unpod_async._caller import Reader
from unpod_async._deadline import Deadline
from unpod_async._decode import Page
from unpod_async._export._disk import Disk
from unpod_async._export._heads import has_ended, task_head
from unpod_async._export._lines import NoRow
from unpod_async._export._patience import Patience
from unpod_async._export._relist import FRESH, Prefix
from unpod_async._export._staging import Staging
from unpod_async._export._state import Progress, State, Wanted
from unpod_async._listing import Listing, run_tasks
from unpod_async._pager import SequentialWalk
from unpod_async._stream import run_workers
from unpod_async._text import shorten
from unpod_async.errors import (
    AuthenticationError,
    ConfigurationError,
    ExportError,
    UnpodError,
)
from unpod_async.models import Task

__all__ = ["Fetching", "fetch_flat", "fetch_runs", "raw_walk"]

FLAT_PAGE_SIZE = 500
"""Rows that a page of the space-wide listing is asked for: some 2 MB, decoded in a few milliseconds."""

_BATCH = 500

# What ends the whole job: no other run would fare better.
_ENDS_ALL = (AuthenticationError, ConfigurationError, ExportError)


class _Unattributable(Exception):
    """A row of the space-wide listing is or may be missing, and nobody can say of which run."""


@dataclass(frozen=True, slots=True)
class Fetching:
    """What fetching needs.

    Attributes:
        line_of: a row's line in the files; raises NoRow.
        recording_of: the address of a task's recording, None without one; None when none are wanted.
    """

    state: State
    disk: Disk
    staging: Staging
    patience: Patience
    deadline: Deadline
    page_size: int
    line_of: Callable[[bytes], bytes]
    recording_of: Callable[[bytes], str | None] | None

    def ends_all(self, error: UnpodError) -> bool:
        return isinstance(error, _ENDS_ALL) or self.patience.over is not None

    def walk(self, listing: Listing[Any], page_size: int, start_page: int = 1) -> SequentialWalk[bytes]:
        return raw_walk(self.patience, listing, page_size, self.deadline, start_page)

    def stage(self, space: int, run: int, rows: Sequence[bytes]) -> None:
        """Rows of one run."""
        lines: list[bytes] = []
        unsettled = 0
        for row in rows:
            try:
                lines.append(self.line_of(row))
            except NoRow as bad:
                self.staging.add_bad(space, run, None, bad.reason)
                continue
            head = task_head(row)
            unsettled += not has_ended(head.status)
            url = self.recording_of(row) if self.recording_of is not None else None
            if url is not None and isinstance(head.task_id, str):
                self.staging.add_recording(head.task_id, run, url)
        self.staging.add(run, lines, unsettled)


def raw_walk(
    reader: Reader, listing: Listing[Any], page_size: int, deadline: Deadline, start_page: int = 1
) -> SequentialWalk[bytes]:
    """A walk that gives each row's bytes, and bad rows with their page."""
    return SequentialWalk(
        reader,
        listing,
        page_size=page_size,
        start_page=start_page,
        on_bad_row="skip",
        raw=True,
        deadline=deadline,
    )


# -- run by run ---------------------------------------------------------------------------------------------


async def fetch_runs(job: Fetching, spaces: Sequence[tuple[int, str]], concurrency: int) -> None:
    """Fetch every wanted run; one that fails is noted as such.

    Raises:
        UnpodError: what ends the whole job.
    """
    source = _wanted(job, spaces)
    turn = anyio.Lock()

    async def work() -> None:
        while True:
            async with turn:
                found = await anext(source, None)
            if found is None:
                return
            space, token, run = found
            try:
                await _fetch_run(job, space, token, run)
            except UnpodError as error:
                if job.ends_all(error):
                    raise
                job.staging.fail(run.number, shorten(str(error)))
            await job.staging.checkpoint_if_due()

    try:
        await run_workers(concurrency, work)
    finally:
        await source.aclose()
    await job.staging.checkpoint()


async def _wanted(
    job: Fetching, spaces: Sequence[tuple[int, str]]
) -> AsyncGenerator[tuple[int, str, Wanted], None]:
    for space, token in spaces:
        last = 0
        while batch := await job.disk.run(job.state.wanted, space, last, _BATCH):
            for run in batch:
                yield space, token, run
            last = batch[-1].number


async def _fetch_run(job: Fetching, space: int, token: str, run: Wanted) -> None:
    listing = run_tasks(token, run.id, None)
    walk = job.walk(listing, job.page_size)
    while (page := await walk.next_page()) is not None:
        job.stage(space, run.number, page.items)
        for place in page.unreadable:
            job.staging.add_bad(space, run.number, place, "the server fails to send it")
        for row in page.rejected:
            job.staging.add_bad(space, run.number, None, row.reason)
        await job.staging.checkpoint_if_due()
    job.staging.finish(run.number)


# -- the space-wide listing ---------------------------------------------------------------------------------


async def fetch_flat(job: Fetching, space: int, token: str, page_size: int) -> bool:
    """Fetch the wanted runs of a space from its listing of all tasks; whether that came to its end.

    If not, nothing of it is kept, and the runs are still wanted. A walk that was killed is gone on with where
    it was, which is safe as long as the count has not fallen since: no row can then have slipped over the
    boundary between what was read and what was not.

    Raises:
        UnpodError: what ends the whole job.
    """
    done = job.staging.runs
    rows = job.staging.rows
    progress = await job.disk.run(job.state.flat, space)
    if progress is None or not (progress.page_size == page_size and 0 <= time.time() - progress.at < FRESH):
        await job.disk.run(job.state.drop_flat, space)
        progress = None
    try:
        await _walk_flat(job, space, token, page_size, progress)
    except (UnpodError, _Unattributable) as error:
        if isinstance(error, UnpodError) and job.ends_all(error):
            raise
        await job.staging.checkpoint()
        await job.disk.run(job.state.drop_flat, space)
        job.staging.runs, job.staging.rows = done, rows
        return False
    return True


async def _walk_flat(
    job: Fetching, space: int, token: str, page_size: int, progress: Progress | None
) -> None:
    listing = Listing(_paths.space_tasks(token), Task, ("task_id", "id"))
    walk = job.walk(listing, page_size, 1 if progress is None else progress.page + 1)
    known = set[str]() if progress is None else await job.disk.run(job.state.staged_tasks, space)
    prefix = Prefix() if progress is None else Prefix(progress.page, progress.length)
    done = job.staging.runs
    while (page := await walk.next_page()) is not None:
        if page.unreadable or page.rejected:
            raise _Unattributable
        prefix.page(page)
        if progress is not None and not (prefix.proven and walk.passes == 1):
            raise _Unattributable
        await _stage_flat(job, space, page, known)
        if prefix.proven and walk.passes == 1 and page.count is not None:
            job.staging.reach(space, Progress(page.number, page_size, page.count, time.time()))
        await job.staging.checkpoint_if_due()
    if progress is not None and walk.passes > 1:
        raise _Unattributable
    await job.staging.checkpoint()
    job.staging.runs = done + await job.disk.run(job.state.staged_flat, space, time.time())


async def _stage_flat(job: Fetching, space: int, page: Page[bytes], known: set[str]) -> None:
    groups: list[tuple[str, list[bytes]]] = []
    for row in page.items:
        head = task_head(row)
        if not isinstance(head.run_id, str) or not head.run_id:
            raise _Unattributable
        if known and head.task_id in known:
            continue
        if not groups or groups[-1][0] != head.run_id:
            groups.append((head.run_id, []))
        groups[-1][1].append(row)
    numbers = await job.disk.run(job.state.numbers, space, {run_id for run_id, _ in groups})
    for run_id, rows in groups:
        if run_id in numbers:
            job.stage(space, numbers[run_id], rows)
    job.staging.runs += len(numbers)  # about; those that go on on the next page are counted again
