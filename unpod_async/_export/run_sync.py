"""Bring the stored runs of a space up to date with the server's listing.

A run is *settled* when it has ended (see `run_has_ended`) and is older than `settle_after`. Later exports do
not read a settled run again. The age is measured by the server's clock, the `Date` header of each
response, so a wrong local clock settles no run too early. A response without a `Date` settles no run.

The listing shows runs newest first and keeps their order. So reading can stop early, at a settled run that is
older than every unsettled run. No run is missed, because of three conditions:

- No count has dropped. After a drop, a run may have moved to a page that was read before.
- The server's count equals the number of rows up to this run plus the number of stored runs that follow it.
  Otherwise a run may have moved to the front, and the runs between its old position and this run would be
  missed.
- If reading stops after a later page than the first, the start of the listing is read again and has not
  changed. Otherwise a deletion may be missed: if a run is deleted after the server has read the rows of the
  first page and before it counts, all counts are equal.

A stored run that should have appeared by then and did not was deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime
from typing import Any

from unpod_async._common import is_terminal_run
from unpod_async._export.rows import InvalidRow, Row, RowPages
from unpod_async._export.run_tasks import UNREADABLE
from unpod_async._export.spec import ExportSpec
from unpod_async._export.storage import Catalog, Disk, KnownRun, ListedRun, RunState
from unpod_async._http import parse_http_date
from unpod_async._paging import Page, Walk

__all__ = ["RunReader", "RunSync", "StablePrefix"]

PAGE_SIZE = 1000
"""Rows per page of the listing of runs, whose rows are short."""

_AHEAD = 4
"""Number of pages requested at a time if all pages have to be read."""

FRESH = 3600.0
"""Seconds for which a resumed export keeps the tasks of a run whose row has not changed."""


class StablePrefix:
    """Determines whether the pages so far contain every run that was listed all the time."""

    def __init__(self) -> None:
        self.proven = True
        self._number = 0
        self._count = 0

    def add_page(self, page: Page[Any]) -> None:
        follows = page.number == self._number + 1 and page.count is not None and page.count >= self._count
        self.proven = self.proven and follows and not (page.rejected or page.unreadable)
        self._number, self._count = page.number, page.count or 0


class RunSync:
    """Stores one listing of the runs of a space, page by page. All methods block.

    Args:
        listing: Number of this listing, greater than that of every earlier one.
        resumed_since: Unix time at which the resumed export began; None for a new export.
        now: Unix time.
    """

    def __init__(
        self, catalog: Catalog, space: int, listing: int, *, resumed_since: float | None, now: float
    ) -> None:
        self._catalog = catalog
        self._space = space
        self._listing = listing
        self._resumed_since = resumed_since
        self._now = now
        self._seen = 0
        self._rows = 0  # rows of the listing so far, selected or not
        self._last_selected = 0  # number of the last row whose run is selected
        self._last_known = 0  # number of the last row whose run is stored
        self._count: int | None = None  # the server's count when the listing began
        self._oldest_rank: int | None = None  # previous rank of the last known run that appeared
        self._in_order = True
        self._was_read_to_end = False
        self._rest_is_known = False
        self._changed = False  # other runs are wanted than when the space was scanned

    def begin(self) -> tuple[bool, bool]:
        """Start the listing.

        Returns:
            Whether no run of the space is known, and whether all rows of the previous listing were readable.
        """
        # Until this listing ends, there may be unknown runs between the known ones.
        self._was_read_to_end = self._catalog.begin_listing(self._space)
        had_bad_rows = self._catalog.forget_bad_runs(self._space)
        return not self._catalog.has_runs(self._space), not had_bad_rows

    def add_page(self, rows: Sequence[ListedRun | None], count: int | None) -> bool:
        """Store a page. Return True if all runs after it are known, in the known order, and settled.

        Args:
            rows: The rows of the page in their order; None for a run that is not selected.
            count: The server's count of all runs.
        """
        if not self._rows:
            self._count = count
        selected = [row for row in rows if row is not None]
        stored = self._catalog.known_runs(self._space, [row.id for row in selected])
        new: list[tuple[int, ListedRun]] = []
        known: list[tuple[int, ListedRun, KnownRun]] = []
        wanted: list[int] = []
        for number, row in enumerate(rows, self._rows + 1):
            if row is None:
                continue
            self._seen += 1
            self._last_selected = number
            # Newer than every run of an earlier listing, older than the runs of this one so far.
            rank = (self._listing << 32) - self._seen
            if (run := stored.get(row.id)) is None:
                new.append((rank, row))
                continue
            known.append((rank, row, run))
            self._in_order = self._in_order and (self._oldest_rank is None or run.rank < self._oldest_rank)
            self._oldest_rank, self._last_known = run.rank, number
            is_same = run.digest == row.digest
            self._changed = self._changed or not is_same
            if run.state != RunState.WANTED and not (is_same and self._is_up_to_date(run)):
                wanted.append(run.number)
        self._rows += len(rows)
        self._catalog.store_listed(self._space, self._listing, new, known, wanted)
        self._changed = self._changed or bool(new or wanted)
        self._rest_is_known = self._is_rest_known()
        return self._rest_is_known

    def _is_rest_known(self) -> bool:
        if self._oldest_rank is None or not (self._in_order and self._was_read_to_end):
            return False
        runs, are_settled = self._catalog.runs_after(self._space, self._listing, self._oldest_rank)
        after_last_selected = runs + self._catalog.rows_after(self._space)
        return are_settled and self._count == self._last_known + after_last_selected

    def _is_up_to_date(self, run: KnownRun) -> bool:
        """Return whether the stored tasks of a run, whose row has not changed, need not be read again."""
        return bool(run.settled) or (
            run.state in (RunState.STAGED, RunState.DONE)
            and self._resumed_since is not None
            and run.fetched is not None
            and run.fetched >= self._resumed_since
            and 0 <= self._now - run.fetched < FRESH
            and bool(run.fully_read)
        )

    def end(self, *, read_to_end: bool, readable: bool) -> None:
        """Finish the listing and mark the runs that did not appear as gone.

        If anything has changed, an interrupted scan of the space is of no use, and is discarded.

        Args:
            read_to_end: False if reading stopped where the rest is known.
            readable: False if some rows could not be read. Then no run is gone: it may be one of those rows.
        """
        if not readable:
            self._mark_missing_for_reading()
        oldest = -1 if read_to_end or self._oldest_rank is None else self._oldest_rank
        self._catalog.end_listing(
            self._space,
            self._listing,
            oldest,
            after_last_selected=self._rows - self._last_selected if read_to_end and readable else None,
            mark_gone=readable and (read_to_end or self._rest_is_known),
            discard_scan=self._changed,
        )

    def end_incomplete(self) -> None:
        """Finish a listing that did not reach its end. No run is marked as gone."""
        self._mark_missing_for_reading()
        if self._changed:
            self._catalog.discard_scan(self._space)

    def _mark_missing_for_reading(self) -> None:
        """Mark known runs that did not appear, so that their tasks are read: their rows may be unreadable."""
        runs = [
            run.number
            for run in self._catalog.runs_not_in_listing(self._space, self._listing)
            if run.state != RunState.WANTED and not self._is_up_to_date(run)
        ]
        self._catalog.mark_for_reading(runs)
        self._changed = self._changed or bool(runs)

    def add_runs_without_row(self, ids: Sequence[str]) -> None:
        """Add runs whose rows cannot be read, and mark them so that their tasks are read."""
        self._catalog.add_runs_without_row(self._space, self._listing, ids)


class RunReader:
    """Reads the listing of the runs of a space.

    Args:
        redact: Returns the line to write for a line.
        on_bad: Called with the position and the reason of a row that cannot be read.
        on_page: Called with the count of the listing and the number of selected runs of a page, before they
            are stored.
        selected: Ids of the runs to export; None for all.

    Attributes:
        is_first: True if no run of the space was known when reading began.
        missing: Selected runs that have not appeared; None if the export does not select runs by id.
        readable: False if some rows so far could not be read.
        unidentified: Number of rows so far whose run is unknown because they cannot be read.
        unselected: Ids of runs outside the window.
    """

    def __init__(
        self,
        sync: RunSync,
        spec: ExportSpec,
        io: Disk,
        redact: Callable[[bytes], bytes] | None,
        on_bad: Callable[[int | None, str], None],
        on_page: Callable[[int | None, int], None],
        selected: Set[str] | None,
    ) -> None:
        self._sync = sync
        self._prefix = StablePrefix()
        self._window = spec.window
        self.missing = None if selected is None else set(selected)
        self._io = io
        self._redact = redact
        self._on_bad = on_bad
        self._on_page = on_page
        self._may_stop_early = False
        self._ahead = min(_AHEAD, spec.concurrency)
        self._settle_after = spec.settle_after
        self.readable = True
        self.is_first = False
        self.unidentified = 0
        self.unselected: set[str] = set()

    async def read(self, pages: RowPages) -> None:
        """Read to the end of the listing, or to where the rest is known.

        Raises:
            UnpodError: the end was not reached; no run is marked as gone.
        """
        self.is_first, self._may_stop_early = await self._io.run(self._sync.begin)
        read_to_end = True
        if self.is_first and self.missing is None:
            await pages.prefetch(Walk(page_size=pages.page_size, ahead=self._ahead), self._add_page)
        else:
            walk = pages.sequential()
            first_runs: list[object] = []
            while read_to_end and (page := await walk.next_page()) is not None:
                first_runs = first_runs or [row.header.run_id for row in page.items]
                if await self._add_page(page):
                    may_stop = (
                        page.number == 1 or self.missing is not None or await _still_lists(pages, first_runs)
                    )
                    self._may_stop_early, read_to_end = may_stop, not may_stop
        await self._io.run(self._sync.end, read_to_end=read_to_end, readable=self.readable)

    async def _add_page(self, page: Page[Row]) -> bool:
        """Store a page. Returns True if the rest of the listing need not be read."""
        self._prefix.add_page(page)
        self.readable = self.readable and not (page.unreadable or page.rejected)
        self.unidentified += len(page.unreadable)
        for position in page.unreadable:
            self._on_bad(position, UNREADABLE)
        for rejected in page.rejected:
            self._on_bad(None, rejected.reason)
        settled_before = self._settled_before(page)
        rows = [self._listed_run(row, settled_before) for row in page.items]
        self._on_page(page.count, len(rows) - rows.count(None))
        rest_is_known = await self._io.run(self._sync.add_page, rows, page.count)
        if self.missing is not None:
            return not self.missing
        return rest_is_known and self._may_stop_early and self._prefix.proven

    def _settled_before(self, page: Page[Row]) -> datetime:
        """Return the time before which a run was created if it is old enough to be settled."""
        now = parse_http_date(page.headers.get("date", ""))
        earliest = datetime.min.replace(tzinfo=UTC)
        if now is None or now - earliest < self._settle_after:
            return earliest
        return now - self._settle_after

    def _listed_run(self, row: Row, settled_before: datetime) -> ListedRun | None:
        """Return the run to store, or None if it is not selected, or is invalid and has no id."""
        header = row.header
        run_id = header.run_id if isinstance(header.run_id, str) and header.run_id else None
        created = header.created_at
        if self.missing is not None and run_id not in self.missing:
            if run_id is None:  # it may be a selected run
                self.readable = False
            return None
        if self._window is not None and not self._window.contains(created):
            self.unselected.add(run_id or "")
            return None
        if run_id is None:  # it may be a known run, or one that is known only through its tasks
            self.readable = False
            self.unidentified += 1
        line: bytes | None = None
        if isinstance(row.line, InvalidRow):
            self.readable = False
            self._on_bad(None, row.line.reason)
            if run_id is None:
                return None
        else:
            line = row.line if self._redact is None else self._redact(row.line)
        digest = hashlib.blake2b(row.raw, digest_size=16).digest()
        name = run_id or f"#{digest.hex()}"
        if self.missing is not None:
            self.missing.discard(name)
        can_settle = created is not None and created < settled_before and is_terminal_run(header.status)
        return ListedRun(name, line, digest, can_settle, header.expected_tasks)


async def _still_lists(pages: RowPages, first_runs: Sequence[object]) -> bool:
    """Read the start of the listing again. Return whether it still has all runs of the first page, in a row.

    The server reads the rows of a page before it counts. If a run of the first page is deleted between the
    two, all counts are equal although a run has moved from the second page to the first and was not read.
    """
    walk, run_ids = pages.sequential(), list[object]()
    for _ in range(2):  # runs that were added since move the end of the first page to the second
        page = await walk.next_page()
        if page is None:
            break
        run_ids += [row.header.run_id for row in page.items]
        start = run_ids.index(first_runs[0]) if first_runs[0] in run_ids else len(run_ids)
        if run_ids[start : start + len(first_runs)] == first_runs:
            return True
    return False
