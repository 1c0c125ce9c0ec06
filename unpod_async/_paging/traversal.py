"""The traversal of a listing: fetch a page, recover its rows, record and deliver them, and check for the end.

No I/O here. A driver runs the generator of `Walk.run`, executes its commands (see `commands`) and sends the
results back. Sequential and prefetched walks use the same code; a sequential one has `ahead=1`. `evidence`
proves that a walk is complete.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from unpod_async._paging.bisect import Segment, ServerLimitsPages, read_around
from unpod_async._paging.commands import (
    Deliver,
    Discard,
    Fetch,
    ListingPreview,
    PageFailure,
    PageRequest,
    PageResult,
    Prefetch,
    Steps,
    T,
)
from unpod_async._paging.evidence import (
    Complete,
    Evidence,
    Incomplete,
    PageLayout,
    RowTracker,
    incomplete_listing,
    is_whole_listing,
)
from unpod_async._paging.quirks import (
    Liveness,
    PastEnd,
    Repetition,
    check_liveness,
    classify_repetition,
    has_rows_after,
    is_complete_later_response,
    request_past_end,
)
from unpod_async.errors import IncompleteListing, ServerError, StalledListing, TransportError

__all__ = ["Walk", "deliver_whole_listing", "walk_unpaged"]


class Walk:
    """One walk over one paged listing.

    Args:
        page_size: number of rows to request per page, at least 1.
        start_page: number of the first page, counted from 1 in pages of `page_size`.
        ahead: maximum number of pages that are requested but not yet delivered; 1 is a sequential walk.
        tied: rows of equal `created` have no fixed order (tasks of an agent).
        keyed: rows are identified. If not, each page is read once, and only the number of rows is checked.
        preview: a preview of the listing. Its length says how many pages can be requested at once. It is only
            used if the walk starts at the first page.
        first: the result for the first page, if it was requested before.
    """

    def __init__(
        self,
        *,
        page_size: int,
        start_page: int = 1,
        ahead: int = 1,
        tied: bool = False,
        keyed: bool = True,
        preview: ListingPreview | None = None,
        first: PageResult | PageFailure | None = None,
    ) -> None:
        self.page = start_page
        """The page that is being read, at which the listing can be resumed after an error."""
        self._start = start_page
        self._ahead = ahead
        self._tied = tied
        self._keyed = keyed
        self._preview = preview if start_page == 1 and ahead > 1 and preview and preview.length else None
        self._layout = PageLayout(page_size)
        self._first = first  # until the first pass reads it
        self._prefetched = start_page - 1  # the last page that was prefetched
        self._fails_past_end: bool | None = None
        self._ignores_size = False
        self._requests = 0
        self._pages = 1
        self._size: tuple[int, int] = (0, page_size)  # rows and rows per page by which `_pages` was computed

    @functools.cached_property
    def _evidence(self) -> Evidence:
        # Most listings fit one page and need no evidence.
        return Evidence(self._layout, start_page=self._start, tied=self._tied, preview=self._preview)

    @property
    def passes(self) -> int:
        """Number of passes over the listing so far; 1 unless the first pass proved nothing."""
        return max(1, self._evidence.passes)

    @property
    def ahead(self) -> int:
        """Maximum number of pages that are requested but not yet delivered."""
        return self._ahead

    def set_ahead(self, pages: int) -> None:
        """Change `ahead` of a prefetched walk; at least 2."""
        self._ahead = pages

    def run(self) -> Steps[None]:
        """Return the commands of the walk; it ends when the listing is complete.

        Raises:
            IncompleteListing: all reachable rows were delivered, and rows may be missing.
            StalledListing: the server repeats one page.
            UnpodError: the error of a page that no single row can explain.
        """
        if not self._keyed:
            yield from self._read_once()
            return
        if self._preview is None:
            request = PageRequest(self._start, self._layout.size)
            if self._first is None:
                self._first = yield Fetch(request)
            deliver = deliver_whole_listing(request, self._first)
            if deliver is not None:
                yield deliver
                return
        evidence = self._evidence
        evidence.start_pass(self._layout)
        while True:
            yield from self._read_pass()
            has_prefetched = evidence.passes == 1 and self._prefetched > self.page
            if evidence.is_one_response_enough and not has_prefetched:
                return
            if not evidence.unpaged:
                yield from self._send_closing_requests()
            if has_prefetched:
                yield from self._keep_rows(self._fetch_prefetched())
            if evidence.kept_responses:
                yield from self._deliver_kept_rows()
            verdict = evidence.verdict(is_cheap=self._requests + self._pages < self._request_limit)
            if isinstance(verdict, Complete):
                return
            if isinstance(verdict, Incomplete):
                raise self._incomplete(verdict.reason)
            yield from self._restart()

    def _read_once(self) -> Steps[None]:
        """Read the rows of a listing that nothing identifies, each page once.

        It ends at an empty page, or when as many rows were delivered as the server counts. If the last page
        equals the one before, it reads another one: a server that ignores `page` sends the same rows again.

        Raises:
            IncompleteListing: the number of rows differs from the last count.
            StalledListing: the server repeats a page, without a count or when all rows it counts were read.
            UnpodError: the error of a page.
        """
        size, start = self._layout.size, self._start
        rows, skipped = 0, (start - 1) * size
        count: int | None = None
        last: Sequence[str] = ()
        while True:
            outcome, self._first = self._first, None
            if outcome is None:
                outcome = yield Fetch(PageRequest(self.page, size))
            if isinstance(outcome, PageFailure):
                if outcome.past_end and self.page > start:
                    break
                raise outcome.error
            keys = list(outcome.keys)
            count = outcome.count if outcome.count is not None else count
            is_repeated = bool(keys) and keys == last
            if is_repeated and (count is None or skipped + rows >= count):
                raise _stalled(self.page, rows, count)
            yield Deliver(self.page, [(outcome, range(len(keys)))])
            rows += len(keys)
            if self.page == start and _has_own_page_size(len(keys), size, count, skipped):
                skipped = (start - 1) * len(keys)
            excess = -1 if count is None else skipped + rows - count
            if not keys or excess > 0 or (excess == 0 and not is_repeated):
                break
            last = keys
            self.page += 1
        if count is not None and rows != max(0, count - skipped):
            self.page = start
            raise _miscounted(rows, max(0, count - skipped))

    def _incomplete(self, reason: str) -> IncompleteListing:
        self.page = self._start  # the missing rows may be on any page
        return self._evidence.incomplete(reason)

    # One pass

    def _read_pass(self) -> Steps[None]:
        """Read the pages from the first one to the end of the listing."""
        evidence = self._evidence
        self.page = self._start
        while True:
            if self._ahead > 1 and evidence.passes == 1:
                yield from self._prefetch()
            if self._is_over_limit():
                yield from self._deliver_kept_rows()
                raise self._incomplete(f"the end was not reached in {self._requests} requests")
            self._requests += 1
            outcome, self._first = self._first, None
            if outcome is None:
                outcome = yield Fetch(PageRequest(self.page, self._layout.size))
            # Generators of steps that most pages do not need are not created for them: 0.3 us each.
            segments: Sequence[Segment] | None
            if isinstance(outcome, PageResult):
                segments = [self._whole_page(outcome)]
                offset = segments[0].offset
            else:
                segments = yield from self._recover(outcome)
                offset = self._layout.offset(self.page)
            if segments is not None:
                yield evidence.observe(self.page, offset, segments)
                if self._preview is not None:
                    yield from self._check_preview(self._preview)
            if segments is None or evidence.unpaged or (yield from self._has_ended()):
                evidence.end_pass()
                return
            if self._is_another_pass_needed():
                return
            self.page += 1

    def _prefetch(self) -> Steps[None]:
        """Prefetch pages, at most up to the empty page that follows a full last page."""
        counts = self._evidence.counts
        count = self._preview.length if self._preview is not None else counts.count
        if count is None or not counts.count_trusted:
            return
        end = self._layout.pages_of(count) + 1 + (count % self._layout.effective_size == 0)
        for number in range(max(self._prefetched + 1, self.page), min(self.page + self._ahead, end)):
            yield Prefetch(PageRequest(number, self._layout.size))
            self._prefetched = number

    def _fetch_prefetched(self) -> Steps[None]:
        """Fetch the prefetched pages past the page where the pass ended.

        The listing looked longer when they were requested, so they may show rows that the pass has lost.
        """
        for number in range(self.page + 1, self._prefetched + 1):
            yield Fetch(PageRequest(number, self._layout.size))

    def _check_preview(self, preview: ListingPreview) -> Steps[None]:
        """Cancel the prefetched pages if the listing has changed since the preview."""
        self._preview = None
        counts, head = self._evidence.counts, self._evidence.head
        if (counts.first, head[:1]) != (preview.length, [preview.head]):
            yield Discard()
            self._prefetched = self.page

    def _is_over_limit(self) -> bool:
        """Return whether far more pages were requested than the listing has, so that it may not end."""
        counts, rows = self._evidence.counts, self._evidence.new_in_pass
        size = (max(rows, counts.count or 0), self._layout.effective_size)
        if size != self._size:
            self._size = size
            self._pages = max(self._pages, self._layout.pages_of(size[0]))
        return self._requests > self._request_limit

    @property
    def _request_limit(self) -> int:
        return 4 * self._pages + 60

    def _is_another_pass_needed(self) -> bool:
        """Return whether another pass is needed in any case: rows were removed from a long listing."""
        counts, end = self._evidence.counts, self._evidence.progress.end_offset
        left = (counts.count or 0) - end
        return counts.count_trusted and counts.count_dropped and left > 2 * self._layout.effective_size

    # Recovering a page

    def _whole_page(self, response: PageResult) -> Segment:
        """Return the segment of a page that was read completely, and learn the page size from it."""
        evidence, layout, page = self._evidence, self._layout, self.page
        rows, is_first = len(response.keys), page == self._start
        if (
            not is_first
            and rows > layout.size
            and is_complete_later_response(layout, evidence.head, response)
        ):
            evidence.mark_unpaged()
            return Segment(0, rows, response)
        is_new_place = rows and not layout.is_size_known and not is_first
        position = evidence.tracker.first_position(response.keys[0]) if is_new_place else None
        if not layout.learn(page, rows, response.count, position, is_first=is_first):
            evidence.distrust_positions()
        self._ignores_size = self._ignores_size or layout.ignores_size
        segment = Segment(layout.offset(page), layout.effective_size, response)
        if is_first and evidence.is_complete_first_response(response, layout.size):
            evidence.mark_unpaged()
        return segment

    def _recover(self, failure: PageFailure) -> Steps[Sequence[Segment] | None]:
        """Read a page that failed, in segments. Returns None for a page past the end."""
        is_prefetched = self._evidence.passes == 1 and self.page <= self._prefetched
        if failure.unreadable and is_prefetched and self._layout.effective_size == 1:
            # Larger pages are read again in blocks. This failure may be older than the last pages that were
            # read, and its row may have moved to a page that will be read.
            outcome = yield Fetch(PageRequest(self.page, self._layout.size, single_out=True))
            if isinstance(outcome, PageResult):
                return [self._whole_page(outcome)]
            failure = outcome
        try:
            return (yield from self._read_segments(failure))
        except (ServerError, TransportError):
            if not failure.is_internal_error:
                raise
        # Other pages fail too, so the cause is an outage and not a row of this page: retry the request.
        outcome = yield Fetch(PageRequest(self.page, self._layout.size, patient=True))
        if isinstance(outcome, PageResult):
            return [self._whole_page(outcome)]
        return (yield from self._read_segments(outcome))

    def _read_segments(self, outcome: PageFailure) -> Steps[Sequence[Segment] | None]:
        """Do what `_recover` does, but raise the error of the page if other pages fail too."""
        evidence, layout, page = self._evidence, self._layout, self.page
        if outcome.past_end and page > self._start:
            return None
        if not outcome.unreadable:
            raise outcome.error
        if self._ignores_size:
            yield from self._check_end(outcome)
            return None
        # With pages of a single row, the page before has shown it.
        alive = layout.effective_size == 1 and evidence.progress.is_readable
        while True:
            offset, size = layout.offset(page), layout.effective_size

            def check_alive() -> Steps[None]:
                return self._check_alive(outcome)

            blocks = read_around(
                offset,
                size,
                outcome,
                check_alive,
                is_size_known=layout.is_size_known,
                alive=alive,
                known=evidence.unreadable.positions,
            )
            try:
                # As long as the server may limit its pages, some blocks may be read for nothing.
                segments = yield from blocks if layout.is_size_known else self._keep_rows(blocks)
            except ServerLimitsPages as limit:
                layout.learn_limit(limit.rows)
            else:
                return (yield from self._strip_end(segments))

    def _check_end(self, failure: PageFailure) -> Steps[None]:
        """Check that a failing page is past the end, on a server that ignores the page size.

        Raises:
            UnpodError: the error of the page, which may have rows.
        """
        counts, offset = self._evidence.counts, self._layout.offset(self.page)
        is_past_end = not counts.count_trusted or offset >= (counts.count or 0)
        if self.page > self._start and is_past_end:
            past_end, _ = yield from self._keep_rows(request_past_end(self._layout))
            if past_end is PastEnd.FAILS:
                return
        raise failure.error

    def _check_alive(self, failure: PageFailure) -> Steps[None]:
        """Check that other pages can be read, so that rows of this page are the cause.

        Raises:
            UnpodError: the error of the page, because no other page can be read.
        """
        state, count = yield from self._keep_rows(check_liveness(self._layout, self.page))
        if state is Liveness.DOWN:
            raise failure.error
        self._fails_past_end = state is Liveness.FAILS_PAST_END
        if state is Liveness.ALIVE:
            self._evidence.observe_count(count)

    def _strip_end(self, segments: list[Segment]) -> Steps[list[Segment] | None]:
        """Remove the last positions of a page that fail because they are past the end."""
        if not segments or segments[-1].response is not None:
            return segments
        if self._fails_past_end is None:
            past_end, count = yield from self._keep_rows(request_past_end(self._layout))
            self._fails_past_end = past_end is PastEnd.FAILS
            self._evidence.observe_count(count)
        return segments if not self._fails_past_end else (yield from self._strip_failing_end(segments))

    def _strip_failing_end(self, segments: list[Segment]) -> Steps[list[Segment] | None]:
        """Remove positions past the end, on a server that fails there as it does for an unreadable row."""
        counts = self._evidence.counts
        if all(segment.response is None for segment in segments):
            is_past_end = not counts.is_usable or segments[0].offset >= (counts.count or 0)
            if is_past_end:
                if not (yield from self._keep_rows(has_rows_after(self._layout, self.page))):
                    return None
                self._evidence.distrust_counts()
                return segments
        counted = [one.response.count for one in segments if one.response is not None]
        count = max(counts.count or 0, *(count or 0 for count in counted), 0)
        if not counts.is_usable:
            self._evidence.mark_end_uncertain()
            return segments
        while segments:
            last = segments[-1]
            if last.response is not None or last.offset < count:
                break
            segments.pop()
            self._evidence.require_next_page()
        return segments or None

    # The end of a pass

    def _has_ended(self) -> Steps[bool]:
        """Return whether the page that was just read is the last one."""
        evidence, counts, progress = self._evidence, self._evidence.counts, self._evidence.progress
        if evidence.unpaged or progress.is_empty:
            return True
        if counts.count is None or not counts.count_trusted:
            return (yield from self._has_ended_without_count())
        if progress.repeats > 1 and progress.offset < counts.count:
            yield from self._deliver_kept_rows()
            raise evidence.stalled(f"page {self.page} has the same rows as the previous pages")
        if progress.end_offset < counts.count:
            return False
        if not progress.is_confirming:
            if (
                progress.is_short
                and not progress.ends_unreadable
                and not evidence.take_next_page_requirement()
            ):
                return True
            if not progress.is_short and not progress.ends_unreadable and evidence.leave_end_open():
                return True
            progress.expect_no_new_rows()
            return False
        if progress.end_offset > counts.count:
            # Known rows past the end: the server repeats the last page, or the count is wrong.
            past_end, count = yield from self._keep_rows(request_past_end(self._layout, progress.keys))
            if count is None or count <= counts.count:
                if past_end is PastEnd.REPEATS:
                    return True
                evidence.distrust_counts()
        return False

    def _has_ended_without_count(self) -> Steps[bool]:
        evidence, progress = self._evidence, self._evidence.progress
        if not progress.pages_without_new or progress.end_offset <= progress.end_of_new:
            return False
        if self._tied and not progress.is_short:
            # A full page of tied rows can repeat by chance, with other pages after it.
            return evidence.leave_end_open()
        if progress.repeats:
            past_end, _ = yield from self._keep_rows(request_past_end(self._layout, progress.keys))
            if past_end is PastEnd.REPEATS:
                evidence.accept_repetition()
                yield from self._rule_out_stall()
                return True
        return progress.pages_without_new > 1

    def _rule_out_stall(self) -> Steps[None]:
        """Find out what it means that page 2 equals page 1, if both are full and there is no count."""
        evidence, keys = self._evidence, self._evidence.progress.keys
        if evidence.progress.pages_with_new != 1 or keys != evidence.head or len(keys) != self._layout.size:
            return
        meaning = yield from self._keep_rows(classify_repetition(keys, self._layout.size))
        if meaning is Repetition.STALL:
            yield from self._deliver_kept_rows()
            raise evidence.stalled("every page has the same rows")
        if meaning is Repetition.UNCLEAR:
            evidence.mark_end_uncertain()

    def _send_closing_requests(self) -> Steps[None]:
        """Send the requests that can prove that the pass was complete."""
        for request in self._evidence.closing_requests():
            outcome = yield Fetch(request, self._evidence.tracker.are_known)
            deliver = self._evidence.observe_closing_response(request, outcome, self.page)
            if deliver is not None:
                yield deliver

    def _keep_rows(self, steps: Steps[T]) -> Steps[T]:
        """Run these steps, and keep the rows of their responses, which may be in no other response."""
        try:
            command = next(steps)
            while True:
                reply = yield command
                if isinstance(command, Fetch) and isinstance(reply, PageResult):
                    self._evidence.keep_response(command.request, reply)
                command = steps.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    def _deliver_kept_rows(self) -> Steps[None]:
        deliver = self._evidence.take_kept_rows(self.page)
        if deliver is not None:
            yield deliver

    def _restart(self) -> Steps[None]:
        """Begin a new pass, with larger pages if they can help."""
        yield Discard()
        self.page = self._start
        is_ordered = self._ahead == 1 or self._evidence.passes > 1
        if not is_ordered:
            _, count = yield from self._keep_rows(request_past_end(self._layout))
            self._evidence.observe_count(count)
            is_ordered = count is not None
        self._layout = PageLayout(self._evidence.next_page_size(self._layout))
        self._evidence.start_pass(self._layout, is_ordered=is_ordered)


def _has_own_page_size(rows: int, size: int, count: int | None, skipped: int) -> bool:
    """Return whether the first page that is read may show the page size of a server that ignores `page_size`.

    Args:
        rows: number of rows on the page.
        size: the page size that was requested.
        count: the number of rows of the listing, or None.
        skipped: number of rows before the page, if the server uses `size`.
    """
    return rows > size or bool(rows and count and skipped + rows < count)


def deliver_whole_listing(request: PageRequest, first: PageResult | PageFailure) -> Deliver | None:
    """Return the command that ends a walk after its first response, or None if there may be more rows.

    Most listings fit one page. They need no `Walk`, whose creation and use take 3 of 160 us.
    """
    if request.page > 1 or isinstance(first, PageFailure) or not is_whole_listing(first, request.size):
        return None
    rows = len(first.keys)
    return Deliver(1, [(first, range(rows))]) if len(set(first.keys)) == rows else None


def _stalled(page: int, rows: int, expected: int | None) -> StalledListing:
    return StalledListing(
        f"the listing stalls: page {page} has the same rows as the page before",
        hint="pass key=, or check whether a proxy drops the query",
        seen=rows,
        expected=expected,
    )


def _miscounted(rows: int, expected: int) -> IncompleteListing:
    return IncompleteListing(
        f"{rows} rows were read, and the server counts {expected}",
        hint="rows without a key cannot be told apart: pass key= to read all of them once",
        seen=rows,
        expected=expected,
    )


def walk_unpaged() -> Steps[None]:
    """Walk over a listing without pages, in one request.

    Raises:
        IncompleteListing: the response has fewer rows than its count.
        UnpodError: the error of the request.
    """
    outcome = yield Fetch(PageRequest(1, 0))
    if isinstance(outcome, PageFailure):
        raise outcome.error
    yield Deliver(1, [(outcome, RowTracker().observe(outcome.keys, 0).fresh)])
    if outcome.count is not None and outcome.count > len(outcome.keys):
        raise incomplete_listing(
            len(outcome.keys), outcome.count, "the response has fewer rows than its count"
        )
