"""One export: list the runs, read their tasks, publish the files, and summarise. Report the progress."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from unpod_async._common import cancel_and_wait, path_text
from unpod_async._export.missing import FailedDownloads
from unpod_async._export.outage import OutageRetrier, probe_service
from unpod_async._export.plan import Shard
from unpod_async._export.recordings import download_recordings, recording_url
from unpod_async._export.redaction import Redactor
from unpod_async._export.results import ExportProgress, ExportSummary
from unpod_async._export.rows import RowPages, row_decoder
from unpod_async._export.run_sync import PAGE_SIZE, RunReader, RunSync
from unpod_async._export.run_tasks import FetchContext, WantedRuns, fetch_runs
from unpod_async._export.space_scan import (
    FEW_REQUESTS,
    EarlyRequests,
    ScanPlan,
    find_runs_without_row,
    plan_scan,
    scan_space,
)
from unpod_async._export.spec import ExportSpec, check_target
from unpod_async._export.storage import (
    Contents,
    ReadingCost,
    RunState,
    ScanProgress,
    Workspace,
    open_workspace,
)
from unpod_async._http import Deadline, Stats
from unpod_async._paging import ClientContext, PageFailure, space_runs
from unpod_async.errors import ExportError, IncompleteListing

if TYPE_CHECKING:
    from unpod_async._export.object_store import StoreAddress

__all__ = ["run_export"]

Phase: TypeAlias = Literal["listing", "fetching", "recordings", "writing", "uploading", "done"]

_log = logging.getLogger("unpod_async")

_RATE_SECONDS = 10.0
"""Seconds over which the rate is measured."""

_EMIT_SECONDS = 0.2
"""Seconds between two progress events."""

_MAX_EXAMPLES = 100
"""Maximum number of failed runs, and of bad rows, that the summary names."""


_PossibleScan: TypeAlias = tuple[int, str, ReadingCost, ScanProgress | None]
"""Number and token of a space, what reading run by run takes, and how far an interrupted scan came."""


async def run_export(
    client: ClientContext,
    spec: ExportSpec,
    target: Path | StoreAddress,
    deadline: Deadline,
    on_progress: Callable[[ExportProgress], object] | None = None,
    *,
    shard: Shard | None = None,
) -> ExportSummary:
    """Run an export; see `UnpodClient.export`.

    Args:
        shard: Export only the runs of this shard.
    """
    check_target(spec, is_directory=isinstance(target, Path))
    retrier = OutageRetrier(
        client.executor, lambda: probe_service(client.executor, spec.spaces[0], deadline), deadline
    )
    progress = ProgressReporter(on_progress, client.executor.stats, retrier)
    dataset_options = spec.dataset_options(client.settings.base_url)
    if shard is not None:
        dataset_options |= {"plan": shard.plan, "shard": shard.number}

    async def export_to(directory: Path) -> ExportSummary:
        async with open_workspace(directory, spec, dataset_options, deadline) as workspace:
            return await _ExportJob(client, spec, shard, workspace, deadline, retrier, progress).run()

    if isinstance(target, Path):
        summary = await export_to(target)
    else:
        from unpod_async._export.object_store import export_to_store

        summary = await export_to_store(target, spec, dataset_options, deadline, progress, export_to)
        summary = msgspec.structs.replace(
            summary, seconds=progress.seconds, requests=progress.requests, retries=progress.retries
        )
    progress.enter("done")
    return summary


@contextlib.asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None, None]:
    """Run `work` during the block."""
    running = asyncio.create_task(work)
    try:
        yield
    finally:
        cancelled = await cancel_and_wait([running])
        if cancelled is not None:
            raise cancelled


class _ExportJob:
    """One export into an open workspace."""

    def __init__(
        self,
        client: ClientContext,
        spec: ExportSpec,
        shard: Shard | None,
        workspace: Workspace,
        deadline: Deadline,
        retrier: OutageRetrier,
        progress: ProgressReporter,
    ) -> None:
        self._client = client
        self._spec = spec
        self._shard = shard
        self._workspace = workspace
        self._catalog = workspace.catalog
        self._io = workspace.io
        self._staging = workspace.staging
        self._deadline = deadline
        self._retrier = retrier
        self._progress = progress
        self._started = datetime.now(UTC)
        self._reasons: list[str] = []
        self._failed_downloads: list[FailedDownloads] = []
        self._unlisted_runs = 0  # planned runs of a shard that no longer exist
        self._has_unreadable_runs = False
        # The spaces with runs that are known only through their tasks.
        self._spaces_with_runs_without_row: list[tuple[int, str, RunReader, RunSync]] = []
        self._redact = (
            None
            if spec.redact is None or workspace.redact_key is None
            else Redactor(spec.redact, workspace.redact_key)
        )
        self._context = FetchContext(
            catalog=workspace.catalog,
            io=workspace.io,
            staging=workspace.staging,
            retrier=retrier,
            deadline=deadline,
            decode=row_decoder(keep_user_token=spec.keep_user_tokens),
            page_size=spec.page_size or client.settings.page_size,
            concurrency=spec.concurrency,
            redact=self._redact,
            recording_url=recording_url if spec.recordings else None,
            on_resume=progress.resume,
            on_scan=progress.scan,
        )
        self._resources = contextlib.AsyncExitStack()
        progress.counts = lambda: (self._staging.runs, self._staging.failed, self._staging.rows)

    @functools.cached_property
    def _early_requests(self) -> EarlyRequests:
        """Requests for scans. A small export sends none, so the object is created on first use."""
        early = EarlyRequests(
            self._retrier,
            self._deadline,
            self._context.decode,
            page_size=self._spec.page_size,
            concurrency=self._spec.concurrency,
        )
        self._resources.push_async_callback(early.aclose)
        return early

    async def run(self) -> ExportSummary:
        """Run the export up to its end."""
        async with _in_background(self._tick()), self._resources:
            for space, token in self._workspace.spaces:
                await self._list_runs(space, token)
            await self._fetch_tasks()
            for arguments in self._spaces_with_runs_without_row:
                await self._fetch_runs_without_row(*arguments)
            if self._spec.recordings:
                await self._download_recordings()
            self._progress.enter("writing")
            gone, found = await self._io.run(
                self._workspace.publish,
                self._started,
                self._reasons,
                self._unlisted_runs,
                self._failed_downloads,
            )
            runs = found.runs
            if self._has_unreadable_runs:
                runs += await self._io.run(self._catalog.count_runs_without_row)
        return self._summarise(found, gone, runs)

    async def _tick(self) -> None:
        while True:
            self._progress.emit()
            await asyncio.sleep(_EMIT_SECONDS)
            if self._retrier.waiting:
                with contextlib.suppress(ExportError):  # the next checkpoint of the job raises it too
                    await self._staging.flush_if_due()

    # -- listing the runs ---------------------------------------------------------------------------------

    def _selected_runs(self, token: str) -> Set[str] | None:
        """Return the ids of the runs of a space to export; None for all."""
        if self._shard is not None:
            return self._shard.runs.get(token, frozenset())
        return None if self._spec.runs is None else frozenset(self._spec.runs)

    async def _list_runs(self, space: int, token: str) -> None:
        selected = self._selected_runs(token)
        if selected is not None and not selected:
            return
        sync = RunSync(
            self._catalog,
            space,
            self._workspace.listing,
            resumed_since=self._workspace.resumed_since,
            now=time.time(),
        )

        def on_bad(position: int | None, reason: str) -> None:
            self._staging.add_bad(space, None, position, reason)

        def on_page(count: int | None, runs: int) -> None:
            self._progress.runs_seen += runs
            if reader.is_first:
                self._request_early(token, count or 0)

        reader = RunReader(sync, self._spec, self._io, self._redact, on_bad, on_page, selected)
        page_size = self._spec.page_size or PAGE_SIZE
        listing = space_runs(token)
        try:
            await reader.read(
                RowPages(self._retrier, listing, page_size, self._deadline, self._context.decode)
            )
        except IncompleteListing as error:
            self._reasons.append(f"runs may be missing: {error.summary}")
            await self._io.run(sync.end_incomplete)
            reader.readable = False
        self._has_unreadable_runs = self._has_unreadable_runs or not reader.readable
        if reader.missing and self._shard is not None and reader.readable:
            # They were listed when the plan was made, so they were deleted since.
            self._unlisted_runs += len(reader.missing)
        elif reader.missing:
            missing = sorted(reader.missing)
            verb = "run is" if len(missing) == 1 else "runs are"
            self._reasons.append(f"{len(missing):,} selected {verb} not listed, such as {missing[0]}")
            if not reader.readable:
                await self._io.run(sync.add_runs_without_row, missing)
        elif reader.missing is None and reader.unidentified:
            self._spaces_with_runs_without_row.append((space, token, reader, sync))

    def _request_early(self, token: str, runs: int) -> None:
        """Send requests for a scan while the runs of a first export are still being listed."""
        if (
            runs > FEW_REQUESTS
            and self._spec.concurrency > 1
            and self._shard is None
            and self._spec.selects_all_runs
        ):
            self._early_requests.request_sample(token)
            # With several spaces, the pages would stay in memory while the other spaces are listed.
            if len(self._workspace.spaces) == 1:
                self._early_requests.request_pages(token, runs)

    # -- reading the tasks --------------------------------------------------------------------------------

    async def _fetch_tasks(self) -> None:
        wanted = WantedRuns(self._context, self._workspace.spaces)
        total, scans = await self._io.run(self._plan_fetching, wanted)
        self._progress.runs_total = total
        if self._workspace.resumed_since is not None:
            stored = await self._io.run(self._catalog.count_runs, RunState.STAGED, RunState.DONE)
            if stored:
                self._progress.resume(f"{stored:,} of {stored + total:,} runs")
        self._progress.enter("fetching")
        for space, token, by_run, interrupted in scans:
            plan = await self._scan_plan(token, by_run, interrupted)
            if plan is not None:
                await scan_space(self._context, space, token, plan, self._early_requests.pages)
            else:
                await self._io.run(self._catalog.discard_scan, space)
            self._progress.rows_left = None
        await fetch_runs(self._context, wanted)

    def _plan_fetching(self, wanted: WantedRuns) -> tuple[int, list[_PossibleScan]]:
        """Return what there is to fetch, and load the first wanted runs unless scans come first. Blocks.

        Returns:
            The number of wanted runs, and the spaces that a scan may suit, each with what reading run by run
            takes, and how far an interrupted scan came.
        """
        scans: list[_PossibleScan] = []
        for space, token in self._workspace.spaces:
            interrupted = self._catalog.scan_progress(space)
            cost = self._catalog.cost_by_run(space, self._context.page_size)
            if interrupted is not None or cost.requests > FEW_REQUESTS:
                scans.append((space, token, cost, interrupted))
            else:
                self._catalog.discard_scan(space)
        total = self._catalog.count_runs(RunState.WANTED)
        if not scans:
            wanted.load()
        return total, scans

    async def _scan_plan(
        self, token: str, by_run: ReadingCost, interrupted: ScanProgress | None
    ) -> ScanPlan | None:
        """Return how to scan the space-wide listing, or None if reading run by run is cheaper."""
        if interrupted is not None:
            self._progress.rows_left = interrupted.length - interrupted.page * interrupted.page_size
            return ScanPlan(self._spec.page_size or interrupted.page_size, None)
        sample = await self._early_requests.request_sample(token)
        if isinstance(sample, PageFailure):
            if self._context.is_fatal(sample.error):
                raise sample.error
            return None
        interval = self._client.executor.limiter.interval
        plan = plan_scan(sample, self._spec.page_size, by_run, interval)
        self._progress.rows_left = None if plan is None else sample.count
        return plan

    async def _fetch_runs_without_row(self, space: int, token: str, reader: RunReader, sync: RunSync) -> None:
        """Read the tasks of runs whose own row cannot be read, or record how many are missing."""
        found = await find_runs_without_row(
            self._context,
            space,
            token,
            page_size=self._spec.page_size,
            window=self._spec.window,
            ignored=reader.unselected,
        )
        if found.ids:
            await self._io.run(sync.add_runs_without_row, found.ids)
            self._progress.runs_total = (self._progress.runs_total or 0) + len(found.ids)
            await fetch_runs(self._context, WantedRuns(self._context, [(space, token)]))
        if found.read_all and found.tasks is not None:
            await self._io.run(self._catalog.accept_count, space, found.tasks)
        if found.error is None:
            return
        missing = ""
        if found.tasks is not None:
            known = await self._io.run(self._catalog.count_tasks, space)
            if known >= found.tasks:
                return
            missing = f"{found.tasks - known} "
        self._reasons.append(
            f"{missing}tasks of {reader.unidentified} unreadable runs may be missing: {found.error}"
        )

    async def _download_recordings(self) -> None:
        total = await self._io.run(self._catalog.count_pending_recordings)
        self._progress.begin_recordings(total)
        self._failed_downloads = await download_recordings(
            self._client.executor,
            self._catalog,
            self._io,
            self._workspace.directory / "recordings",
            hosts=self._spec.recording_hosts,
            concurrency=self._spec.concurrency,
            deadline=self._deadline,
            on_recording=self._progress.count_recording,
        )

    # -- the end ------------------------------------------------------------------------------------------

    def _summarise(self, found: Contents, gone: int, runs: int) -> ExportSummary:
        """Return the summary.

        Args:
            runs: Number of runs in the data set, including those whose own row could not be read.
        """
        return ExportSummary(
            target=path_text(self._workspace.directory),
            complete=found.is_complete and not self._reasons,
            runs=found.runs,
            tasks=found.tasks,
            files=len(found.parts),
            bytes=found.bytes,
            fetched_runs=self._staging.runs,
            fetched_tasks=self._staging.rows,
            unchanged_runs=max(0, runs - self._staging.runs - found.failed_runs),
            gone_runs=gone,
            failed_runs=found.failed_runs,
            failed=tuple(found.failed[:_MAX_EXAMPLES]),
            bad_rows=found.bad_rows,
            bad=tuple(found.bad[:_MAX_EXAMPLES]),
            recordings=found.recordings,
            failed_recordings=found.failed_recordings,
            reasons=found.all_reasons(self._reasons),
            hints=found.hints,
            requests=self._progress.requests,
            retries=self._progress.retries,
            seconds=self._progress.seconds,
        )


class ProgressReporter:
    """Counts requests, runs and rows, and emits `ExportProgress` events.

    Args:
        on_progress: Called with each event. Its first exception is logged.
        stats: Counters of the client.
        retrier: Knows whether the service responds.

    Attributes:
        rows_left: Number of rows that a scan has still to read; None if tasks are read run by run. A scan
            also reads rows that are stored already, which `counts` does not count.
        counts: Returns the runs done, the runs failed and the rows so far.
    """

    def __init__(
        self,
        on_progress: Callable[[Any], object] | None,
        stats: Stats,
        retrier: OutageRetrier,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_progress = on_progress
        self._stats = stats
        self._retrier = retrier
        self._clock = clock
        self._started = clock()
        self._attempts_before = stats.attempts
        self._retries_before = sum(stats.retries.values())
        self._bytes_before = stats.bytes
        self._recent: deque[tuple[float, int, int, int]] = deque([(self._started, 0, 0, 0)])
        self._failed = False
        self._resumed: str | None = None
        self._uploads = 0
        self._uploads_total: int | None = None
        self._recordings_done = 0
        self._recordings_failed = 0
        self._recordings_total: int | None = None
        self._recordings_began = self._started
        self.phase: Phase = "listing"
        self.runs_seen = 0
        self.runs_total: int | None = None
        self.rows_left: int | None = None
        self._scanned = 0
        self.counts: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0)

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    @property
    def requests(self) -> int:
        return self._stats.attempts - self._attempts_before

    @property
    def retries(self) -> int:
        return sum(self._stats.retries.values()) - self._retries_before

    def enter(self, phase: Phase) -> None:
        """Begin a phase and emit an event."""
        self.phase = phase
        self.emit()

    def resume(self, stored: str) -> None:
        """Note what an interrupted export has stored, and emit an event."""
        self._resumed = stored
        self.emit()

    def scan(self, rows: int, left: int) -> None:
        """Note that a scan has read this number of rows, and that `left` rows are after them."""
        self._scanned += rows
        self.rows_left = left

    @contextlib.asynccontextmanager
    async def uploading(self, total: int) -> AsyncGenerator[None, None]:
        """Emit events while files are uploaded; `total` is their number."""
        self._uploads_total = total
        self.enter("uploading")
        async with _in_background(self._emit_regularly()):
            yield

    async def _emit_regularly(self) -> None:
        while True:
            await asyncio.sleep(_EMIT_SECONDS)
            self.emit()

    def begin_recordings(self, total: int) -> None:
        """Begin the download of recordings; `total` is their number."""
        self._recordings_total = total
        self._recordings_began = self._clock()
        self.enter("recordings")

    def count_recording(self, is_downloaded: bool) -> None:
        """Count a recording that was downloaded or that failed."""
        if is_downloaded:
            self._recordings_done += 1
        else:
            self._recordings_failed += 1

    def count_upload(self) -> None:
        """Count an uploaded file."""
        self._uploads += 1

    def emit(self) -> None:
        """Call `on_progress` with an event."""
        if self._on_progress is None:
            return
        event = self._event()
        try:
            self._on_progress(event)
        except Exception as error:  # noqa: BLE001 - an error of the callback does not stop the export
            if not self._failed:
                self._failed = True
                _log.warning("on_progress raised %s; the export continues", type(error).__name__)

    def _event(self) -> ExportProgress:
        now = self._clock()
        done, failed, rows = self.counts()
        self._recent.append((now, rows, done + failed, self._scanned))
        while self._recent[1][0] < now - _RATE_SECONDS:
            self._recent.popleft()
        since, rows_then, runs_then, scanned_then = self._recent[0]
        seconds = max(now - since, 1e-9)
        if self.phase == "recordings":
            finished = self._recordings_done + self._recordings_failed
            # Over the whole phase, because a single recording can take longer than the rate is measured.
            speed = finished / max(now - self._recordings_began, 1e-9)
            left = (self._recordings_total or 0) - finished
        elif self.rows_left is not None:
            speed = (self._scanned - scanned_then) / seconds
            left = self.rows_left
        else:
            speed = (done + failed - runs_then) / seconds
            left = 0 if self.runs_total is None else self.runs_total - done - failed
        return ExportProgress(
            phase=self.phase,
            runs_seen=self.runs_seen,
            # Runs can be found while their tasks are read.
            runs_total=None if self.runs_total is None else max(self.runs_total, done + failed),
            runs_done=done,
            runs_failed=failed,
            rows=rows,
            bytes=self._stats.bytes - self._bytes_before,
            requests=self.requests,
            retries=self.retries,
            waiting=self._retrier.waiting,
            outage=self._retrier.outage,
            resumed=self._resumed,
            seconds=now - self._started,  # of the same moment as the rate
            rate=(rows - rows_then) / seconds,
            remaining=self._remaining(left, speed),
            recordings_done=self._recordings_done,
            recordings_failed=self._recordings_failed,
            recordings_total=self._recordings_total,
            uploads=self._uploads,
            uploads_total=self._uploads_total,
        )

    def _remaining(self, left: int, speed: float) -> float | None:
        if self.phase == "done":
            return 0.0
        return max(0, left) / speed if speed else None
