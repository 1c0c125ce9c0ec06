"""One export from beginning to end: list the runs, fetch what is wanted, write it, say what there is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from unpod_async._common import join_shielded
from unpod_async._export.early_pages import HeadStart
from unpod_async._export.formats import FORMATS
from unpod_async._export.outage import OutageRetrier, passes
from unpod_async._export.progress import ProgressReporter
from unpod_async._export.recordings import load_recordings, recording_url
from unpod_async._export.redaction import Redactor
from unpod_async._export.results import ExportProgress, ExportSummary
from unpod_async._export.row_pages import RowPages
from unpod_async._export.rows import decoder
from unpod_async._export.run_sync import PAGE_SIZE, RunReader, RunSync
from unpod_async._export.run_tasks import Fetching, fetch_runs
from unpod_async._export.scan_plan import FEW_REQUESTS, Plan, Samples, plan_for
from unpod_async._export.space_scan import fetch_flat
from unpod_async._export.spec import ExportSpec
from unpod_async._export.storage import (
    MANIFEST,
    Contents,
    DataSet,
    Disk,
    Publisher,
    RunState,
    Staging,
    contents,
    manifest,
)
from unpod_async._paging import ClientContext, PageFailure, PageRequest, fetch, space_runs
from unpod_async.errors import ExportError, IncompleteListing

__all__ = ["Job"]

_TELL_EVERY = 0.2
"""Seconds between two events of the progress."""


class Job:
    """One export. `run` is called once."""

    def __init__(
        self,
        context: ClientContext,
        spec: ExportSpec,
        target: Path,
        on_progress: Callable[[ExportProgress], object] | None = None,
    ) -> None:
        FORMATS[spec.format].check()
        self._context = context
        self._spec = spec
        self._dataset_options = spec.dataset_options(context.settings.base_url)
        self._set = DataSet(target, spec, self._dataset_options)
        self._disk = Disk(str(target))
        self._started = datetime.now(UTC)
        self._deadline = context.executor.deadline()
        self._patience = OutageRetrier(
            context.executor, self._probe, self._deadline, repeats=context.executor.options.retry is not None
        )
        self._samples = Samples(self._patience, self._deadline)
        self._decode = decoder(keep_user_token=spec.keep_user_tokens)
        self._head_start = HeadStart(
            self._patience,
            self._deadline,
            self._samples,
            self._decode,
            page_size=spec.page_size,
            concurrency=spec.concurrency,
        )
        self._meter = ProgressReporter(on_progress, context.executor.stats, lambda: self._patience.waiting)
        self._reasons: list[str] = []
        self._publisher: Publisher
        self._staging: Staging
        self._redactor: Redactor | None = None

    async def run(self) -> ExportSummary:
        self._deadline.start()
        ticking: asyncio.Task[None] | None = None
        try:
            await self._disk.run(self._open)
            ticking = asyncio.create_task(self._tick())
            for space, token in self._set.spaces:
                await self._list(space, token)
            await self._fetch()
            if self._spec.recordings:
                await self._load_recordings()
            self._meter.enter("writing")
            found = await self._disk.run(self._finish)
        finally:
            cancelled = await self._head_start.aclose()
            cancelled = await self._samples.aclose() or cancelled
            if ticking is not None:
                ticking.cancel()
                cancelled = await join_shielded(ticking) or cancelled
                cancelled = await self._staging.finish_noting() or cancelled
            self._disk.close()
            self._set.close()
            if cancelled is not None:
                raise cancelled
        self._meter.enter("done")
        return self._summary(found)

    async def _tick(self) -> None:
        while True:
            self._meter.tell()
            await asyncio.sleep(_TELL_EVERY)
            if self._patience.waiting:
                with contextlib.suppress(ExportError):  # the next checkpoint of the job raises it as well
                    await self._staging.flush_if_due()

    def _open(self) -> None:
        """Blocks."""
        self._set.open()
        self._publisher = Publisher(
            self._set.state, self._set.work, self._set.parts, self._set.spool, self._spec.part_bytes
        )
        # While there is a whole data set, it stays as it is until all of the next one has come.
        is_first = self._set.store.size(MANIFEST) is None
        self._staging = Staging(
            self._set.state,
            self._set.spool,
            self._disk,
            self._publisher.publish_full_parts if is_first else lambda: None,
        )
        self._meter.counts = lambda: (self._staging.runs, self._staging.failed, self._staging.rows)
        if self._spec.redact is not None:
            self._redactor = Redactor(self._spec.redact, self._set.redact_key())

    # -- listing ------------------------------------------------------------------------------------------

    async def _list(self, space: int, token: str) -> None:
        noted = RunSync(self._set.state, space, self._set.round, since=self._set.since, now=time.time())
        stable = await self._disk.run(self._forget_bad_runs, space)
        pages = RowPages(
            self._patience,
            space_runs(token),
            self._spec.page_size or PAGE_SIZE,
            self._deadline,
            self._decode,
        )

        def on_bad(place: int | None, reason: str) -> None:
            self._staging.add_bad(space, None, place, reason)

        wants_all = self._spec.selects_all_runs and self._spec.concurrency > 1

        def on_page(count: int | None, runs: int) -> None:
            self._meter.runs_seen += runs
            # A first export fetches all of them, so what it asks next can be asked beside the listing.
            if reading.is_first and wants_all and (count or 0) > FEW_REQUESTS:
                self._samples.ask(token)
                if len(self._set.spaces) == 1:  # else its pages would lie about while others are listed
                    self._head_start.begin(token, count or 0)

        reading = RunReader(
            noted,
            self._spec,
            self._disk,
            self._redactor,
            on_bad,
            on_page,
            stable=stable,
        )
        try:
            await reading.read(pages)
        except IncompleteListing as error:
            self._reasons.append(f"runs may be missing: {error}")
        if noted.disturbed:
            await self._disk.run(self._set.state.drop_flat, space)
        if self._spec.runs is not None:
            missing = await self._disk.run(self._not_listed, space)
            if missing:
                self._reasons.append(
                    f"{len(missing)} runs that were asked for are not in the listing, such as {missing[0]}"
                )

    def _forget_bad_runs(self, space: int) -> bool:
        """Whether there were none."""
        return self._set.state.run("DELETE FROM bad WHERE space = ? AND run IS NULL", (space,)).rowcount == 0

    def _not_listed(self, space: int) -> list[str]:
        listed = {
            name
            for (name,) in self._set.state.run(
                "SELECT id FROM run WHERE space = ? AND listed = ?", (space, self._set.round)
            )
        }
        return [name for name in self._spec.runs or () if name not in listed]

    # -- fetching -----------------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        self._meter.runs_total = await self._disk.run(
            self._set.state.value, "SELECT count(*) FROM run WHERE state = ?", (RunState.WANTED,)
        )
        self._meter.enter("fetching")
        job = Fetching(
            state=self._set.state,
            disk=self._disk,
            staging=self._staging,
            patience=self._patience,
            deadline=self._deadline,
            page_size=self._context.page_size(self._spec.page_size),
            concurrency=self._spec.concurrency,
            keep_user_token=self._spec.keep_user_tokens,
            redact=self._redactor,
            recording_of=recording_url if self._spec.recordings else None,
        )
        for space, token in self._set.spaces:
            plan = await self._flat_plan(job, space, token)
            if plan is not None:
                await fetch_flat(job, space, token, plan, self._head_start.pages)
            else:
                await self._disk.run(self._set.state.drop_flat, space)
            self._meter.rows_total = None
        await fetch_runs(job, self._set.spaces)

    async def _flat_plan(self, job: Fetching, space: int, token: str) -> Plan | None:
        """How to read the space-wide listing; None where it takes no fewer requests than the runs."""
        begun = await self._disk.run(self._set.state.flat, space)
        if begun is not None:
            self._meter.rows_total = begun.length
            return Plan(self._spec.page_size or begun.page_size, None)
        one_by_one = await self._disk.run(self._set.state.requests_for, space, job.page_size)
        if one_by_one <= FEW_REQUESTS:
            return None
        answer = await self._samples.get(token)
        if isinstance(answer, PageFailure):
            if job.ends_all(answer.error):
                raise answer.error
            return None
        plan = plan_for(answer, self._spec.page_size, one_by_one)
        self._meter.rows_total = None if plan is None else answer.count
        return plan

    async def _load_recordings(self) -> None:
        self._meter.enter("recordings")
        await load_recordings(
            self._context.executor,
            self._set.state,
            self._disk,
            self._set.work.target / "recordings",
            hosts=self._spec.recording_hosts,
            concurrency=self._spec.concurrency,
            deadline=self._deadline,
        )

    async def _probe(self) -> None:
        """Ask something that no bad row can spoil, once."""
        executor = self._context.executor
        once = executor.with_options(executor.options._replace(retry=None), None)
        listing = space_runs(self._spec.spaces[0])
        failure: object = None
        for read in (PageRequest(1, 1), PageRequest(10**9, 1)):
            failure = await fetch(once, listing, read, self._deadline, raw=True)
            if not isinstance(failure, PageFailure) or not failure.unreadable:
                break
        if isinstance(failure, PageFailure) and (passes(failure.error) or not failure.past_end):
            raise failure.error

    # -- the end ------------------------------------------------------------------------------------------

    def _finish(self) -> Contents:
        self._gone = int(
            self._set.state.value("SELECT count(*) FROM run WHERE state = ?", (RunState.GONE,)) or 0
        )
        self._set.spool.close()
        self._publisher.publish()
        found = contents(self._set.state, self._set.parts)
        made = self._set.work.write(
            MANIFEST, manifest(self._dataset_options, found, self._started, self._reasons)
        )
        self._set.store.put(made, MANIFEST)
        self._set.state["complete"] = int(found.is_whole and not self._reasons)
        self._set.clear_spool()
        return found

    def _summary(self, found: Contents) -> ExportSummary:
        return ExportSummary(
            target=str(self._set.work.target),
            complete=found.is_whole and not self._reasons,
            runs=found.runs,
            tasks=found.tasks,
            files=len(found.parts),
            bytes=found.bytes,
            fetched_runs=self._staging.runs,
            fetched_tasks=self._staging.rows,
            unchanged_runs=max(0, found.runs - self._staging.runs - found.failed_runs),
            gone_runs=self._gone,
            failed_runs=found.failed_runs,
            failed=tuple(found.failed[:100]),
            bad_rows=found.bad_rows,
            bad=tuple(found.bad[:100]),
            recordings=found.recordings,
            failed_recordings=found.failed_recordings,
            reasons=tuple(self._reasons),
            requests=self._meter.requests,
            retries=self._meter.retries,
            seconds=self._meter.seconds,
        )
