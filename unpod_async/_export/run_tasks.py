"""Fetching the tasks of runs, run by run with a few workers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

import anyio

from unpod_async._common import run_workers, shorten
from unpod_async._export.outage import OutageRetrier
from unpod_async._export.row_header import has_ended
from unpod_async._export.row_line import InvalidRow
from unpod_async._export.row_pages import RowPages
from unpod_async._export.rows import Row, decoder
from unpod_async._export.storage import Catalog, Disk, Staging, Wanted
from unpod_async._http import Deadline
from unpod_async._paging import Decode, run_tasks
from unpod_async.errors import (
    AuthenticationError,
    ConfigurationError,
    ExportError,
    UnpodError,
)

__all__ = ["Fetching", "fetch_runs"]

_BATCH = 500

# What ends the whole job: no other run would fare better.
_ENDS_ALL = (AuthenticationError, ConfigurationError, ExportError)


@dataclass(frozen=True, slots=True)
class Fetching:
    """What fetching needs.

    Attributes:
        page_size: rows per page of the tasks of a run.
        concurrency: requests that may be under way.
        keep_user_token: rows keep the access tokens of users.
        redact: makes of a line the one that is written; None where it stays as it is.
        recording_of: the address of a task's recording, None without one; None when none are wanted.
    """

    state: Catalog
    disk: Disk
    staging: Staging
    patience: OutageRetrier
    deadline: Deadline
    page_size: int
    concurrency: int
    keep_user_token: bool
    redact: Callable[[bytes], bytes] | None
    recording_of: Callable[[bytes], str | None] | None

    def ends_all(self, error: UnpodError) -> bool:
        return isinstance(error, _ENDS_ALL) or self.patience.over is not None

    def stage(self, space: int, run: int, rows: Sequence[Row]) -> None:
        """Rows of one run."""
        lines: list[bytes] = []
        unsettled = 0
        for row in rows:
            if isinstance(line := row.line, InvalidRow):
                self.staging.add_bad(space, run, None, line.reason)
                continue
            lines.append(line if self.redact is None else self.redact(line))
            unsettled += not has_ended(row.head.status)
            url = self.recording_of(line) if self.recording_of is not None else None
            if url is not None and isinstance(row.head.task_id, str):
                self.staging.add_recording(row.head.task_id, run, url)
        self.staging.add(run, lines, unsettled)


async def fetch_runs(job: Fetching, spaces: Sequence[tuple[int, str]]) -> None:
    """Fetch every wanted run; one that fails is noted as such.

    Raises:
        UnpodError: what ends the whole job.
    """
    source = _wanted(job, spaces)
    turn = anyio.Lock(fast_acquire=True)
    decode = decoder(keep_user_token=job.keep_user_token)

    async def work() -> None:
        while True:
            async with turn:
                found = await anext(source, None)
            if found is None:
                return
            space, token, run = found
            try:
                await _fetch_run(job, space, token, run, decode)
            except UnpodError as error:
                if job.ends_all(error):
                    raise
                job.staging.fail(run.number, shorten(str(error)))
            await job.staging.flush_if_due()

    try:
        await run_workers(job.concurrency, work)
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


async def _fetch_run(job: Fetching, space: int, token: str, run: Wanted, decode: Decode) -> None:
    pages = RowPages(job.patience, run_tasks(token, run.id, None), job.page_size, job.deadline, decode)
    walk = pages.one_by_one()
    while (page := await walk.next_page()) is not None:
        job.stage(space, run.number, page.items)
        for place in page.unreadable:
            job.staging.add_bad(space, run.number, place, "the server fails to send it")
        for row in page.rejected:
            job.staging.add_bad(space, run.number, None, row.reason)
        await job.staging.flush_if_due()
    job.staging.finish(run.number)
