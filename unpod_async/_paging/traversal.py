"""The state machine of a walk: which page next, which rows are new, and whether the listing is complete.

No I/O here. A driver runs the generator of `Walk.run`, does what each command says (`_wire`) and sends the
outcomes back; sequential and prefetched walks are the same machine, sequential is `ahead=1`.

Why a pass is complete. Rows enter at the head and keep their relative order. Between two answers I rows
enter and D go, so a row moves up by at most D - I places. While the count does not fall, D - I <= 0: no row
that was behind the page boundary slips over it, and the pass meets every row that stays. A pass in which
the count falls proves nothing: the next one starts from page 1 and yields what is new. Where that argument
does not hold (no usable count, tied rows in no fixed order), `RowTracker.prove` decides instead.

Prefetched pages are answered in any order. They are one picture of the listing when every answer has the
same count and page 1, read again at the end, has the same head: an inserted row would stand above it, and a
row that had gone would have lowered the count. What is asked together with page 1 may be answered before it;
it belongs to the picture where page 1 is as it was seen before all of them (`ListingPreview`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from unpod_async._paging.bisect import Part
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
)
from unpod_async._paging.layout import PageLayout
from unpod_async._paging.outcomes import incomplete, stalled
from unpod_async._paging.page_recovery import PageParts
from unpod_async._paging.row_tracker import RowTracker
from unpod_async._paging.scan_pass import Pass
from unpod_async.errors import IncompleteListing, StalledListing

__all__ = ["RESTARTS", "Walk"]

RESTARTS = 3
"""New passes from the first page after the first one."""

_IN_ONE_PIECE = 10
"""Pages that one request may stand for where nothing else can prove that a listing is complete."""


class Walk:
    """One walk over one paged listing.

    Args:
        page_size: rows to ask for per page, >= 1.
        start_page: page to begin with, counted from 1 in pages of `page_size`.
        ahead: pages that may be asked for and not yet handed on; 1 is a sequential walk. While it
            goes on, `ahead` may be set to another number greater than 1.
        tied: rows of equal `created` have no fixed order (agent tasks).
        glance: what was seen of the listing before, so that as many pages can be asked for at once; used
            from the first page only.
    """

    def __init__(
        self,
        *,
        page_size: int,
        start_page: int = 1,
        ahead: int = 1,
        tied: bool = False,
        glance: ListingPreview | None = None,
    ) -> None:
        self.page = start_page
        """The page being read: where to go on after an error."""
        self._cut = PageLayout(page_size)
        self._start = start_page
        self.ahead = ahead
        self._tied = tied
        self._glance = glance if start_page == 1 else None
        self._sightings = RowTracker()
        self._parts = PageParts(self._cut, self._sightings, start_page)
        self._passes: list[Pass] = []
        self._reported_unreadable = 0
        self._requests = 0
        self._pages = 1
        self._head_created: datetime | None = None
        self._elders = 0  # rows that, by their time, existed at the first answer

    @property
    def passes(self) -> int:
        """Passes over the listing so far; 1 as long as nothing gave rise to doubt."""
        return len(self._passes)

    def run(self) -> Steps[None]:
        """The commands of the walk; returns when the listing is complete.

        Raises:
            IncompleteListing: everything reachable was emitted and rows may be missing.
            StalledListing: the server repeats one page.
            UnpodError: the error of a page that is neither past the end nor worth splitting.
        """
        while True:
            now = Pass(self._sightings.answers)
            now.believed = not any(done.overrun for done in self._passes)
            self._passes.append(now)
            self._sightings.start_pass()
            yield from self._read_pages(now)
            if self._is_complete(now):
                return
            if self._is_last_pass or (len(self._passes) > 1 and now.same_dead_end(self._passes[-2])):
                raise self._incomplete(now, f"{len(self._passes)} passes over it do not add up")
            yield Discard()

    @property
    def _is_last_pass(self) -> bool:
        return len(self._passes) > RESTARTS

    # Reading the pages of one pass

    def _read_pages(self, now: Pass) -> Steps[None]:
        optimistic = self.ahead > 1 and len(self._passes) == 1
        asked = self.page = self._start
        glance = self._glance if optimistic else None
        if glance is not None and glance.length:
            asked = yield from self._ask_ahead(glance.length, asked)
        while True:
            if optimistic and now.count is not None:
                asked = yield from self._ask_ahead(now.count, asked)
            if self._requests > 4 * self._pages + 60:
                raise self._incomplete(now, f"no end was met in {self._requests} requests")
            self._requests += 1
            outcome = yield Fetch(PageRequest(self.page, self._cut.size))
            if isinstance(outcome, PageFailure) and self.page > self._start:
                if outcome.past_end and not optimistic:
                    self._sightings.mark((), self._cut.offset(self.page), None)
                    if now.stopped_at is not None:  # and nothing has told since how long the listing is
                        head = yield Fetch(PageRequest(1, 1))
                        if isinstance(head, PageResult) and head.count is not None:
                            now.hear(head.count)
                    now.finished = now.confirming or not now.believed
                    return
                if optimistic and (outcome.past_end or outcome.unreadable):
                    return
            parts = yield from self._parts.of(now, self.page, outcome)
            yield self._take_down(now, parts)
            if glance is not None:
                if (now.first_count, now.head[:1]) != (glance.length, [glance.head]):
                    yield Discard()
                    asked = self.page + 1
                glance = None
            if optimistic and not now.one_picture:
                if self.page > self._start:
                    return
                optimistic = False
            if now.fell and not now.whole and not self._is_last_pass:
                return
            if (yield from self._has_ended(now)):
                break
            self.page += 1
        now.finished = True
        if optimistic and self.page > self._start:
            now.finished = yield from self._holds_still(now)

    def _ask_ahead(self, count: int, asked: int) -> Steps[int]:
        """From page `asked` to the last; where that is full, to the one behind it, which is to be empty."""
        end = self._cut.pages_of(count) + 1 + (count % self._cut.step == 0)
        for number in range(max(asked, self.page), min(self.page + self.ahead, end)):
            yield Prefetch(PageRequest(number, self._cut.size))
            asked = number + 1
        return asked

    def _take_down(self, now: Pass, parts: Sequence[Part]) -> Deliver:
        emitted: list[tuple[PageResult, Sequence[int]]] = []
        unreadable: list[int] = []
        keys: list[str] = []
        news = filled = 0
        reach = self._cut.offset(self.page)
        before = now.count
        for part in parts:
            if part.answer is None:
                reach, filled = part.offset + 1, filled + 1
                now.meet_unreadable(part.offset, self._sightings.answers)
                if now.unreadable > self._reported_unreadable:
                    self._reported_unreadable = now.unreadable
                    unreadable.append(part.offset + 1)
                continue
            rows, count = len(part.answer.keys), part.answer.count
            number = self._sightings.answers
            mark = self._sightings.mark(part.answer.keys, part.offset, count)
            now.judge(
                offset=part.offset, size=part.size, rows=rows, news=mark.news, count=count, answer=number
            )
            if self._tied:
                self._note_elders(part.answer, mark.fresh, first=number == 0)
            # A last page repeated behind the end stands there by claim only.
            repeated = not mark.news and (count is None or part.offset >= count)
            now.adds_up = now.adds_up and (mark.adds_up or repeated)
            now.found += mark.news
            now.fresh += len(mark.fresh)
            news += mark.news
            keys += part.answer.keys
            reach, filled = part.offset + rows, filled + rows
            emitted.append((part.answer, mark.fresh))
        grown = before is not None and now.count is not None and now.count > before
        now.split = len(parts) != 1
        now.stopped_at = reach if parts and parts[-1].answer is None else None
        now.close_page(keys, reach=reach, filled=filled, news=news + len(unreadable), grown=grown)
        if self.page == self._start:
            now.head = keys
        self._pages = max(self._pages, self._cut.pages_of(max(now.found, now.count or 0)))
        return Deliver(self.page, emitted, unreadable)

    def _note_elders(self, answer: PageResult, fresh: Sequence[int], *, first: bool) -> None:
        if first:
            self._elders = len(fresh)
            self._head_created = answer.created[0] if answer.created else None
        elif self._head_created is not None:
            times = (answer.created[index] for index in fresh)
            self._elders += sum(1 for time in times if time is not None and time < self._head_created)

    # The end of a pass

    def _has_ended(self, now: Pass) -> Steps[bool]:
        if not now.believed or now.count is None:
            if not (now.quiet and now.keys):
                return now.quiet > 1
            if self._tied and now.filled >= self._cut.step:
                # Of tied rows a full page can come again by chance, with others behind it.
                now.whole = yield from self._is_in_one_piece(now)
                if now.whole:
                    return True
            elif now.repeats and (yield from self._repeats_last_page(now)):
                yield from self._rule_out_stall(now)
                now.end_answer = now.last_news
                return True
            now.adds_up = False  # rows were pushed on by new ones, and no count says how far
            return False
        if now.whole:
            return True
        if now.repeats > 1 and now.reach - now.filled < now.count:
            raise self._stalled(now, f"page {self.page} is the same as the pages before")
        if now.reach < now.count:
            return False
        if not now.confirming:
            full = now.filled >= (self._cut.size if self.page == self._start else self._cut.step)
            now.confirming = full or now.split
            return not now.confirming
        if not now.keys:
            return True
        if now.reach > now.count:
            # Known rows behind the end: the last page repeated for ever, or a count that lies.
            far = yield Fetch(self._cut.far)
            if not isinstance(far, PageResult) or far.count is None or far.count <= now.count:
                now.believed = isinstance(far, PageResult) and list(far.keys) == now.keys
                return now.believed
        return False

    def _is_in_one_piece(self, now: Pass) -> Steps[bool]:
        """Whether one larger page holds the rows of this pass and no others; asked of short listings only."""
        most = now.found + 1
        if self._start > 1 or most > _IN_ONE_PIECE * self._cut.size:
            return False
        self._requests += 1
        outcome = yield Fetch(PageRequest(1, most))
        if not isinstance(outcome, PageResult) or len(outcome.keys) != now.found:
            return False
        return all(self._sightings.place(key) is not None for key in outcome.keys)

    def _repeats_last_page(self, now: Pass) -> Steps[bool]:
        """Whether the page just read is what this server sends for every page behind the end."""
        self._requests += 1
        far = yield Fetch(self._cut.far)
        return isinstance(far, PageResult) and list(far.keys) == now.keys

    def _rule_out_stall(self, now: Pass) -> Steps[None]:
        """Page 2 was page 1, full, and no count tells: is that all there is, or is `page` ignored?

        A server that ignores the size as well sends everything at once, which is no stall.
        """
        if now.pages_with_news != 1 or now.keys != now.head or len(now.keys) != self._cut.size:
            return
        outcome = yield Fetch(PageRequest(2, 1) if self._cut.size > 1 else PageRequest(1, 2))
        keys = list(outcome.keys) if isinstance(outcome, PageResult) else []
        if len(keys) > 1 if self._cut.size == 1 else keys == now.keys[:1]:
            raise self._stalled(now, "every page shows the same rows")
        if keys != now.keys and keys != now.keys[1:2]:
            now.adds_up = False

    def _holds_still(self, now: Pass) -> Steps[bool]:
        """The closing look at the first page of a prefetched pass."""
        outcome = yield Fetch(PageRequest(self._start, self._cut.size))
        return (
            isinstance(outcome, PageResult)
            and outcome.count == now.first_count
            and list(outcome.keys[:1]) == now.head[:1]
            and now.found + now.unreadable == self._rows_of(now.first_count)
        )

    # Completeness

    def _is_complete(self, now: Pass) -> bool:
        prefetched = self.ahead > 1 and len(self._passes) == 1
        if now.clean and (not self._tied or (prefetched and now.pages_with_news > 1)):
            return True
        if now.believed:
            self._sightings.bound_by_counts(now.first_answer, self._cut.offset(self._start))
        elif now.finished and now.adds_up and now.found + now.unreadable >= (self._rows_of(now.count) or 0):
            self._sightings.bound(now.end_answer, now.end - self._cut.offset(self._start))
        first = self._passes[0]
        there = self._rows_of(first.first_count) if first.believed and now.finished else None
        if self._tied and there is not None and self._elders + now.surely_unreadable == there:
            return True
        # A pass that was broken off has not come to all the rows that cannot be read.
        whole = [done.surely_unreadable for done in self._passes if done.finished]
        return self._sightings.prove(min(whole, default=0))

    def _incomplete(self, now: Pass, reason: str) -> IncompleteListing:
        error = incomplete(len(self._sightings) + self._reported_unreadable, now.count, reason)
        error.page = self._start  # what is missing may stand on any page
        return error

    def _stalled(self, now: Pass, reason: str) -> StalledListing:
        return stalled(len(self._sightings), now.count, reason)

    def _rows_of(self, count: int | None) -> int | None:
        return None if count is None else count - self._cut.offset(self._start)
