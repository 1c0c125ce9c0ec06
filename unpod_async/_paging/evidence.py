"""Collect the evidence that a walk is complete, and return the verdict. `Evidence` owns every flag of a walk.

Assumptions about the service:

A1. New rows are added at the head of the listing. The other rows keep their order. A removed row does not
    come back. Tied rows (tasks of an agent with equal `created`) have no fixed order, but a new row is never
    older than a row that already exists.
A2. A response shows the rows at consecutive positions, as they were at one point in time. Its count is the
    length of the listing at another point in time: the server queries the count after the rows and before the
    next request.
A3. The server returns as many rows per page as requested, or always the same smaller or larger number.

Claim: no row that stayed in the listing is missing. The proof has nine steps. The test of each step, in
`tests/test_walk_evidence.py`, is named at its end.

1. A row that was seen in two responses existed at all times between them.
   (test_a_row_seen_before_and_after_an_answer_existed_then)
2. Rows are listed newest first. If a row existed at a certain time, each row below it is older. So each row
   below it existed at that time too, even if it is first seen later. If a page shows no row that is known to
   be so old, the positions decide: the rows of a page are old if more positions lie before the page than rows
   were added, according to the counts. For tied rows, `created` decides.
   (test_a_row_below_a_known_one_is_old)
3. A `Reference` is a point in time at which the length n of the listing is known. The length comes from the
   first count of the walk, the last count before a new pass, or a preview. In a listing without counts, it
   comes from the position at which the rows end. If steps 1 and 2 find n different rows that existed at that
   time, there were no others. A row that stayed in the listing existed at that time, so it is one of them.
   The order of the responses does not matter, so this also holds for prefetched walks.
   (test_no_history_loses_a_row_in_silence)
4. The server queries the rows of the first page before the first count. A row that is removed between the two
   queries is in the rows and not in the count. So a walk of several pages reads the first page again at the
   end, which shows whether its rows are still there.
   (test_a_row_removed_between_the_queries_of_the_first_answer_is_noticed)
5. An unreadable position counts as one row if it was found after the reference, and if no known row has moved
   since. Two such positions may belong to one row that moved. They count as two rows only if nothing moved:
   all counts of the pass were equal, no known row changed its position, and the first rows are the same when
   they are read again. For tied rows, rows with other times must also lie between the two positions.
   (test_a_bad_row_that_is_met_twice_counts_once)
6. In some cases no reference applies, for example above the first readable row. Then two consecutive passes
   over a listing that did not visibly change are a proof: they found the same rows at the same positions, the
   same unreadable positions, and the same count. (test_a_still_listing_with_bad_rows_ends_without_error)
7. A single response with fewer rows than requested, and exactly as many rows as its count, is the whole
   listing. So at the end of a walk over a short listing, one request reads all of it, not the first page
   only. For the same reason, each new pass has pages of twice the size. (test_larger_pages_settle_tied_rows)
8. A count that contradicts its rows is not used in that pass. After two such passes, counts are not used at
   all. (test_a_still_listing_with_a_wrong_count_is_complete_or_raises)
9. A walk has delivered every row that any response showed. This includes responses to probes of the server,
   responses between two passes, and prefetched pages that were not needed in the end. If a pass did not reach
   such a row, the pass proves nothing. (test_a_row_that_any_answer_showed_is_delivered)

Exceptions: in the following histories, a row is lost without an error. Each has a twin: a history without a
loss in which the walk sends the same requests and receives the same responses. So no client can distinguish
the two. (test_an_exception_has_a_twin_that_loses_nothing; `nox -s torture` creates the twin of each history
that loses a row)

E1. Two or more positions cannot be read, while a row is added and removed between two responses.
E2. The server limits its pages. The only response has as many rows as this limit, and its count is the same
    number although the listing is longer. This happens if rows were removed between the two queries of the
    response, or added if the server counts first.
E3. A count is late or wrong while rows are added or removed.
E4. The server ignores the page size, or fails past the end, and a page with a row that the server cannot send
    never arrives.
E5. Rows are added and removed between two queries, so that no response shows them, and their number hides
    exactly the lost row.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias

from unpod_async._paging.bisect import Segment
from unpod_async._paging.commands import Deliver, ListingPreview, PageFailure, PageRequest, PageResult
from unpod_async.errors import IncompleteListing, StalledListing

__all__ = [
    "RESTARTS",
    "Complete",
    "Evidence",
    "Incomplete",
    "PageLayout",
    "Restart",
    "RowTracker",
    "Verdict",
    "compact_keys",
    "incomplete_listing",
    "is_whole_listing",
]

RESTARTS = 3
"""Maximum number of full passes after the first one; short listings may have more."""

_MORE_PASSES = 9
"""Maximum number of passes beyond `RESTARTS`: passes over short listings, and passes that ended early because
rows were removed."""

_MAX_SNAPSHOT_ROWS = 64
"""Maximum number of rows of a listing that is read in one request to prove that the walk is complete."""

_MAX_SNAPSHOT_BYTES = 2**16
"""Maximum size in bytes of the response to that request, if the size of rows is known."""

_MAX_LATER_PAGE_ROWS = 1000
"""Maximum number of rows per page of a later pass, if the size of rows is not known."""

_MAX_LATER_PAGE_BYTES = 4 * 2**20
"""Maximum number of bytes per page of a later pass. If the pages are larger already, their size stays."""

_MAX_DISTRUSTED_PASSES = 2
"""Number of passes in which the rows contradict the count, after which counts are no longer used."""

_MAX_TOP = 3
"""Maximum number of unreadable rows at the top that the closing request requests again."""

_ABOVE_ALL = -1
"""The position above the first row."""

_PAST_EVERY_END = 1 << 62
"""A position past the end of every listing."""

_FAR_POSITION = 10**9
"""A position past the end of every listing, whose page has a number that servers accept."""

# A sighting is one integer: number of the response * WIDTH + index in the response.
_WIDTH = 1 << 32

_MAX_CACHED_RESPONSES = 8
"""Number of responses with cached positions. A page repeats rows of two other pages, or of a few more if rows
are tied."""

_Key: TypeAlias = int | str

_ID_LENGTH = 33
"""Length of the service's ids: a capital letter and 32 hex digits in lower case."""


# Pages


class PageLayout:
    """Maps pages to positions in the listing, which are counted from 0.

    Args:
        size: number of rows to request per page, at least 1. The server may return fewer or more: see
            `effective_size`.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.effective_size = size
        """Number of rows per page that the server actually returns."""
        self.is_size_known = False
        """A response has shown the effective page size."""

    @property
    def far_page(self) -> PageRequest:
        """A page far past the end: it has no rows, but shows that the listing can be read."""
        return PageRequest(_FAR_POSITION // self.size, self.size, single_out=True)

    @property
    def is_honored(self) -> bool:
        """Whether the server returns as many rows per page as requested, as far as known."""
        return self.effective_size == self.size

    @property
    def ignores_size(self) -> bool:
        """Whether the server returns more rows than requested, so that smaller pages are not available."""
        return self.effective_size > self.size

    def offset(self, page: int) -> int:
        """Return the position of the first row of a page."""
        return (page - 1) * self.effective_size

    def pages_of(self, rows: int) -> int:
        """Return the number of pages for this many rows."""
        return -(-rows // self.effective_size)

    def learn(self, page: int, rows: int, count: int | None, position: int | None, *, is_first: bool) -> bool:
        """Learn the effective page size from a page that was read completely.

        Args:
            rows: number of rows of the page.
            count: length of the listing according to this response.
            position: where the first row of the page was seen before, or None.
            is_first: the page is the first one of its pass.

        Returns:
            Whether the positions of the previous pages were correct.
        """
        self.is_size_known = True
        if rows > self.effective_size:
            self.effective_size = rows
            return is_first
        if not rows or rows == self.effective_size:
            return True
        if count is not None and self.offset(page) + rows == count:
            return True  # the last page
        if is_first:
            self.effective_size = rows
        elif position is not None and position < self.offset(page):
            # The previous pages were read in blocks. This page repeats some of their rows, which shows where
            # it is.
            self.effective_size = position // (page - 1) or rows
        return True

    def learn_limit(self, rows: int) -> None:
        """Note that the server returns at most `rows` rows per page, fewer than requested."""
        self.effective_size = rows
        self.is_size_known = True


# Rows


_int_from_bytes: Callable[[bytes], int] = int.from_bytes


def compact_keys(keys: Sequence[str]) -> Sequence[_Key]:
    """Return the keys, with ids of the service as numbers. Different ids have different numbers.

    Keys of a response that begin with the same letter are converted together: 0.4 us each instead of 2 us.
    """
    together = _numbers(keys)
    if together is not None:
        return together
    return [key if (number := _numbers((key,))) is None else number[0] for key in keys]


def _numbers(keys: Sequence[str]) -> list[int] | None:
    """Return the numbers of ids that begin with the same letter, or None if one of them is something else."""
    if set(map(len, keys)) != {_ID_LENGTH}:
        return None
    number, joined, letter = len(keys), "".join(keys), keys[0][0]
    if not "A" <= letter <= "Z" or joined[::_ID_LENGTH] != letter * number or joined.count(letter) != number:
        return None
    digits = joined.replace(letter, f"{ord(letter):02x}")
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        return None
    if len(raw) != 17 * number or digits != digits.lower():
        return None  # it has spaces, which fromhex skips, or capitals
    return list(map(_int_from_bytes, struct.unpack("17s" * number, raw)))


class Sighting(NamedTuple):
    """The rows of one response, compared with earlier responses."""

    fresh: Sequence[int]
    """Indices of rows that were not seen before in this walk."""

    new_in_pass: int
    """Number of rows not seen before in this pass."""

    positions_consistent: bool
    """Whether every row seen before in this pass was at the same position."""

    first_known: int
    """Index of the first row seen before this pass but not yet in it; the number of rows if there is none."""

    last_repeated: int
    """Index of the last row seen before in this pass, or -1."""


class RowTracker:
    """The first and the last sighting of every row, by response.

    The rows take most of the memory of a long walk: 102 bytes per row with 200,000 rows, and 117 bytes while
    the dict grows. The id takes 48 of these bytes, because it is stored as a number, and its position takes
    8. With the id as a str and the position as a number, a row took 150 bytes.
    """

    def __init__(self) -> None:
        self.response_count = 0
        """Number of responses observed so far; also the number of the next one."""
        self._first: dict[_Key, int] = {}  # number of the response: one object for all its rows
        self._last: dict[_Key, int] = {}  # sightings, only of rows seen more than once
        # For each response, the keys that it was the first to show, at their positions.
        self._keys: list[Sequence[_Key | None]] = []
        self._offsets: list[int] = []
        self._pass_start = 0
        self._pending_keys: Sequence[str] = ()  # keys of the first response, until there is a second
        self._cached_positions: dict[int, dict[_Key, int]] = {}  # of the responses used last

    def __len__(self) -> int:
        return len(self._first) + len(self._pending_keys)

    def start_pass(self) -> None:
        """Begin a new pass: `new_in_pass` counts from here."""
        self._pass_start = self.response_count * _WIDTH

    def are_known(self, keys: Sequence[str]) -> bool:
        """Return whether every key was seen in this walk."""
        self._add_pending_keys()
        return self._first.keys() >= set(compact_keys(keys))

    def observe(self, keys: Sequence[str], offset: int) -> Sighting:
        """Record a response that shows `keys`, the first of them at position `offset`."""
        response = self.response_count
        self.response_count += 1
        self._offsets.append(offset)
        rows = len(keys)
        if rows and not response and len(frozenset(keys)) == rows:
            # Most walks have a single response: the dict of its rows would take a fifth of their time.
            self._pending_keys = keys
            return Sighting(range(rows), rows, True, rows, -1)
        self._add_pending_keys()
        compact = compact_keys(keys)
        if not self._first.keys().isdisjoint(compact):
            return self._observe_mixed(compact, response)
        known = len(self._first)
        self._first.update(zip(compact, itertools.repeat(response)))
        if len(self._first) - known == rows:
            self._keys.append(compact)
            return Sighting(range(rows), rows, True, rows, -1)
        # The response shows a row twice: its last position is kept, and the positions are not consistent.
        fresh = sorted({key: index for index, key in enumerate(compact)}.values())
        self._store_keys(compact, fresh)
        return Sighting(fresh, len(fresh), False, rows, rows - 1)

    def _add_pending_keys(self) -> None:
        """Add the rows of the first response, which are all different."""
        if self._pending_keys:
            compact, self._pending_keys = compact_keys(self._pending_keys), ()
            self._first.update(zip(compact, itertools.repeat(0)))
            self._keys.append(compact)

    def _observe_mixed(self, keys: Sequence[_Key], response: int) -> Sighting:
        first, offsets = self._first, self._offsets
        fresh: list[int] = []
        for index, key in enumerate(keys):
            if key not in first:
                first[key] = response
                fresh.append(index)
        self._store_keys(keys, fresh)
        new_in_pass = len(fresh)
        consistent = True
        first_known, last_repeated = len(keys), -1
        is_fresh = frozenset(fresh)
        for index, key in enumerate(keys):
            if index in is_fresh:
                continue
            last = self._last_of(key)
            if last < self._pass_start:
                new_in_pass += 1
                first_known = min(first_known, index)
            else:
                last_repeated = index
                then, at = divmod(last, _WIDTH)
                consistent = consistent and offsets[then] + at == offsets[response] + index
            self._last[key] = response * _WIDTH + index
        return Sighting(fresh, new_in_pass, consistent, first_known, last_repeated)

    def _store_keys(self, keys: Sequence[_Key], fresh: Sequence[int]) -> None:
        kept: list[_Key | None] = [None] * len(keys)
        for index in fresh:
            kept[index] = keys[index]
        self._keys.append(kept)

    def _last_of(self, key: _Key) -> int:
        """Return the last sighting of a row that was seen."""
        last = self._last.get(key)
        if last is not None:
            return last
        response = self._first[key]
        return response * _WIDTH + self._index(key, response)

    def _index(self, key: _Key, response: int) -> int:
        """Return the index of a row in the response that showed it first."""
        positions = self._cached_positions.get(response)
        if positions is None:
            if len(self._cached_positions) == _MAX_CACHED_RESPONSES:
                self._cached_positions.clear()
            kept = self._keys[response]
            positions = {key: index for index, key in enumerate(kept) if key is not None}
            self._cached_positions[response] = positions
        return positions[key]

    def first_position(self, key: str) -> int | None:
        """Return the position where this row was seen first, counted from 0; None for a new row."""
        self._add_pending_keys()
        (compact,) = compact_keys((key,))
        response = self._first.get(compact)
        return None if response is None else self._offsets[response] + self._index(compact, response)

    def is_in_pass(self, key: str) -> bool:
        """Return whether this pass has seen a row that the walk has seen."""
        (compact,) = compact_keys((key,))
        return self._last_of(compact) >= self._pass_start

    def seen_across(self, response: int) -> int:
        """Return the number of rows that were seen in this response or before, and also in a later one."""
        first, least = self._first, (response + 1) * _WIDTH
        return sum(1 for key, last in self._last.items() if last >= least and first[key] <= response)

    def seen_at(self, response: int) -> int:
        """Return the number of rows that existed at this response: seen in it, or before and after it."""
        self._add_pending_keys()
        shown = sum(key is not None for key in self._keys[response])
        first, least = self._first, response * _WIDTH
        return shown + sum(1 for key, last in self._last.items() if last >= least and first[key] < response)

    def proves_complete(self, reference: Reference, unreadable: int) -> bool:
        """Return whether the rows known to exist at a reference, plus `unreadable` rows, were all rows."""
        seen = self.seen_at if reference.is_inclusive else self.seen_across
        return seen(reference.response) + reference.older + unreadable == reference.length


# Counts and pages


class Reference:
    """A point in time at which the length of the listing is known.

    Args:
        response: the last response that was read before this time; -1 for a time before the walk.
        length: number of rows of the listing at this time, without those that the walk skips.
        newest: `created` of the newest row seen by then (tied listings).
        number: the pass that it belongs to.
        is_end: the length is not a count, but the position where the rows ended.
        is_inclusive: this is the time at which the rows of `response` were read.
    """

    __slots__ = ("is_end", "is_inclusive", "length", "newest", "number", "older", "response")

    def __init__(
        self,
        response: int,
        length: int,
        newest: datetime | None = None,
        number: int = 1,
        *,
        is_end: bool = False,
        is_inclusive: bool = False,
    ) -> None:
        self.response = response
        self.length = length
        self.newest = newest
        self.number = number
        self.is_end = is_end
        self.is_inclusive = is_inclusive
        self.older = 0
        """Number of rows that were first seen later, but existed at this time: they are older than a row that
        existed then."""

    def add_older(self, rows: int) -> None:
        """Add to `older`."""
        self.older += rows


class Counts:
    """The counts of one pass.

    Attributes:
        count: the latest count, or None.
        first: the first count, or None.
        growth: number of rows by which the largest count exceeds the first one.
        count_trusted: every response had a count, and no rows contradicted it.
        count_exceeded: more rows arrived than a count allows.
        count_dropped: a count was smaller than the previous one.
        is_constant: every response had the same count.
    """

    def __init__(self, *, trusted: bool) -> None:
        self.count: int | None = None
        self.first: int | None = None
        self.growth = 0
        self.count_trusted = trusted
        self.count_exceeded = False
        self.count_dropped = False
        self.is_constant = True
        self._has_counts = False

    @property
    def is_usable(self) -> bool:
        """Whether the count says how long the listing is."""
        return self.count_trusted and self.count is not None

    def observe(self, count: int | None, end: int = 0) -> None:
        """Record a count; `end` is the position after the last new row of its response."""
        before = self.count
        if not self._has_counts:
            self._has_counts, self.first = True, count
        self.is_constant = self.is_constant and count == self.first
        self.count = count
        if count is None:
            self.count_trusted = False
            return
        self.growth = max(self.growth, count - (count if self.first is None else self.first))
        if before is not None and count < before:
            self.count_dropped = True
        elif end > count:
            self.count_trusted = False
            self.count_exceeded = True

    def distrust(self) -> None:
        """Note that the rows contradict the count."""
        self.count_trusted = False


class Progress:
    """The last page that a pass has read.

    Attributes:
        keys: the keys of its rows.
        offset: the position of the page.
        end_offset: the position after its last row.
        is_short: it has fewer rows than the page size.
        is_empty: it has no row and no unreadable position.
        ends_unreadable: its last position cannot be read.
        end_of_new: the position after the last row of the last page with new rows.
        pages_with_new: number of pages with rows or unreadable positions that are new to this pass.
        pages_without_new: number of consecutive pages without any.
        repeats: how many times the same page was returned again with the same count.
        is_confirming: a full page has reached the count, so this page should have nothing new.
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.offset = 0
        self.end_offset = 0
        self.is_short = False
        self.is_empty = False
        self.ends_unreadable = False
        self.end_of_new = 0
        self.pages_with_new = 0
        self.pages_without_new = 0
        self.repeats = 0
        self.is_confirming = False

    @property
    def is_readable(self) -> bool:
        """Whether the last page and its last row could be read."""
        return bool(self.keys) and not self.ends_unreadable

    def close_page(
        self,
        keys: list[str],
        *,
        offset: int,
        end: int,
        page_end: int,
        new: int,
        ends_unreadable: bool,
        count_grew: bool,
    ) -> None:
        """Record a page that was read.

        Args:
            offset: the position of the page.
            end: the position after its last row.
            page_end: the position of the next page.
            new: number of rows and unreadable positions that are new to this pass.
            ends_unreadable: its last position cannot be read.
            count_grew: its count is higher than that of the page before.
        """
        again = bool(keys) and keys == self.keys and not count_grew
        self.repeats = self.repeats + 1 if again else 0
        self.keys, self.offset, self.end_offset = keys, offset, end
        self.is_short = end < page_end
        self.is_empty = end == offset
        self.ends_unreadable = ends_unreadable
        if new:
            self.end_of_new = end
            self.pages_with_new += 1
            self.pages_without_new = 0
        else:
            self.pages_without_new += 1

    def expect_no_new_rows(self) -> None:
        """Note that the next page should have nothing new."""
        self.is_confirming = True


class UnreadablePositions:
    """The positions of one pass that cannot be read."""

    def __init__(self) -> None:
        self._found_after: dict[int, int] = {}  # by position: the last response before it was found
        self._times: list[tuple[int, datetime | None, datetime | None]] = []
        self.may_be_readable_now = False
        """A row moved after a position was found, so the unreadable row may have been read elsewhere."""

    def __len__(self) -> int:
        return len(self._found_after)

    def __contains__(self, position: int) -> bool:
        return position in self._found_after

    @property
    def positions(self) -> list[int]:
        """The positions, in order."""
        return sorted(self._found_after)

    def add(self, position: int, response: int) -> bool:
        """Record a position that fails after response `response`. Returns whether it is new."""
        is_new = position not in self._found_after
        self._found_after.setdefault(position, response)
        return is_new

    def note_move(self) -> None:
        """Note that a row that was seen before is at another position."""
        self.may_be_readable_now = bool(self._found_after)

    def note_times(self, offset: int, created: Sequence[datetime | None]) -> None:
        """Record the `created` of the first and the last tied row of a response at a position."""
        if created:
            self._times.append((offset, created[0], created[-1]))

    def found_since(self, response: int, *, least: int) -> list[int]:
        """Return the positions, from `least` on, that were found after a response."""
        return [
            position for position, met in self._found_after.items() if met >= response and position >= least
        ]

    def distinct_by_time(self, positions: Sequence[int]) -> int:
        """Return how many positions certainly have different tied rows.

        Tied rows are certainly different if rows with other times lie between them.
        """
        times = sorted(self._times, key=lambda time: time[0])
        distinct = 0
        oldest: datetime | None = None
        for position in sorted(positions):
            newest = next((last for at, _, last in reversed(times) if at < position), None)
            if distinct and (newest is None or oldest is None or newest >= oldest):
                continue
            distinct += 1
            oldest = next((first for at, first, _ in times if at > position), None)
        return distinct


class _FirstResponse(NamedTuple):
    """The first response of a pass with rows. Reading it again shows whether the rows are still there."""

    request: PageRequest
    keys: Sequence[str]
    row_count: int | None
    is_first_page: bool


class _KeptResponse(NamedTuple):
    """The response of a request that was not sent for its rows, such as a probe."""

    offset: int
    response: PageResult
    number: int
    """The pass in which it was requested, or the one before."""


class _StablePass(NamedTuple):
    """A complete pass over a listing that did not visibly change."""

    first: Sequence[str]
    found: int
    unreadable: Sequence[int]


class Complete(NamedTuple):
    """Every row that stayed in the listing was delivered."""


class Restart(NamedTuple):
    """Rows may be missing; a new pass may find them."""


class Incomplete(NamedTuple):
    """Rows may be missing, and a new pass would not find them."""

    reason: str


Verdict: TypeAlias = Complete | Restart | Incomplete


def is_whole_listing(response: PageResult, size: int) -> bool:
    """Return whether the first response has all rows. The request was for `size` rows of the first page.

    A server that limits its pages to fewer rows cannot be recognized by its first response.
    """
    rows = len(response.keys)
    return rows < size and (not rows if response.count is None else rows == response.count)


class Evidence:
    """Everything that the responses of a walk have shown, and the verdict.

    Args:
        layout: page geometry of the first pass.
        start_page: page with which each pass begins.
        tied: rows of equal `created` have no fixed order (tasks of an agent).
        preview: what an earlier response has shown, or None.
    """

    def __init__(
        self,
        layout: PageLayout,
        *,
        start_page: int = 1,
        tied: bool = False,
        preview: ListingPreview | None = None,
    ) -> None:
        self.passes = 0
        self.tracker = RowTracker()
        self._start = start_page
        self._tied = tied
        self._preview = preview
        self._references: list[Reference] = []
        self._newest: datetime | None = None  # of the rows seen so far (tied listings)
        self._latest_count: tuple[int, int] | None = None  # the response before it, and the count
        self._reported_unreadable = 0
        self._distrusted_passes = 0
        self._full_passes = 0
        self._row_bytes = 0  # largest average of a page
        self._gives_fewer = False  # the server returned fewer rows than requested
        self._full_closing_responses = 0  # closing requests that did not show the end
        self._previous_short_result: tuple[int, int, int | None] | None = None  # of the pass before
        self._previous_stable_pass: _StablePass | None = None
        self._limits: set[int] = set()  # page sizes to which the server may have limited its pages
        self.kept_responses: list[_KeptResponse] = []
        """Responses of requests that were not sent for their rows, such as probes, until their rows are
        delivered."""
        self._reset_pass(layout)

    # One pass

    def _reset_pass(self, layout: PageLayout) -> None:
        self._layout = layout
        self.counts = Counts(trusted=self._distrusted_passes < _MAX_DISTRUSTED_PASSES)
        self.progress = Progress()
        self.unreadable = UnreadablePositions()
        self.head: list[str] = []
        """Keys of the first page."""
        self.new_in_pass = 0
        """Number of distinct rows seen in this pass."""
        self.new_in_walk = 0
        """Number of rows that this pass was the first to see."""
        self.positions_consistent = True
        """No row was seen at two positions in this pass."""
        self.unpaged = False
        """One response contained the whole listing."""
        self._first_response: _FirstResponse | None = None
        self._first_old_position: int | None = None  # first position of a row that existed at the reference
        self._first_assumed_old = _PAST_EVERY_END  # first position of a row considered old by position alone
        self._confirmed_top = 0  # unreadable positions above that position that failed again
        self._moved_back = False  # known rows at other positions, or a last page repeated past the end
        self._ended = False
        self._end_uncertain = False
        self._end_open = False
        self._needs_next_page = False
        self._is_first_response_unchanged = False  # the first response, when it was read again at the end
        self._is_contradicted = False  # a probe showed rows that the pass did not reach

    def start_pass(self, layout: PageLayout, *, is_ordered: bool = True) -> None:
        """Begin a pass.

        Args:
            layout: page geometry of the pass.
            is_ordered: the latest count was taken after all responses of the previous pass.
        """
        latest = self._latest_count if is_ordered and self.counts.count_trusted else None
        if self.passes:
            self._close_pass()
            self._reset_pass(layout)
        self.passes += 1
        self.tracker.start_pass()
        if self.passes == 1:
            if self._preview is not None:
                self._references.append(Reference(-1, self._preview.length))
            return
        if not self._tied:
            # Rows added since an older reference could be mistaken for rows that existed then.
            self._references = [one for one in self._references if one.is_end][-2:]
        if latest is not None:
            self._add_count_reference(*latest)

    def _close_pass(self) -> None:
        counts, layout = self.counts, self._layout
        if layout.effective_size < layout.size:
            self._limits.add(layout.effective_size)
        self._full_passes += self._ended
        self._distrusted_passes += counts.count_exceeded
        if not counts.count_trusted:
            self._references = [one for one in self._references if one.is_end]
        self._previous_stable_pass = self._stable_pass
        found = self.new_in_pass + len(self.unreadable)
        is_short_of = self._ended and counts.is_usable and found < (counts.count or 0) - self._skipped
        self._previous_short_result = self._result if is_short_of else None

    @property
    def _skipped(self) -> int:
        """Number of rows before the first page of the walk."""
        return self._layout.offset(self._start)

    @property
    def _result(self) -> tuple[int, int, int | None]:
        return self.new_in_pass, len(self.unreadable), self.counts.count

    def observe(self, page: int, offset: int, segments: Sequence[Segment]) -> Deliver:
        """Record a page. Returns the command that delivers its new rows.

        Args:
            page: number of the page.
            offset: position of its first row.
            segments: the contents of the page.
        """
        counts, progress = self.counts, self.progress
        parts: list[tuple[PageResult, Sequence[int]]] = []
        unreadable: list[int] = []
        keys: list[str] = []
        new, end, before = 0, offset, counts.count
        for segment in segments:
            response = segment.response
            if response is None:
                end = segment.offset + 1
                new += self.unreadable.add(segment.offset, self.tracker.response_count - 1)
                if len(self.unreadable) > self._reported_unreadable:
                    self._reported_unreadable = len(self.unreadable)
                    unreadable.append(segment.offset + 1)
                continue
            sighting = self._observe_response(segment, response, page)
            new += sighting.new_in_pass
            keys += response.keys
            end = max(end, segment.offset + len(response.keys))
            parts.append((response, sighting.fresh))
        if new and progress.is_short:
            self.distrust_positions()  # there were no rows at the positions before these
        progress.close_page(
            keys,
            offset=offset,
            end=end,
            page_end=offset + self._layout.effective_size,
            new=new,
            ends_unreadable=bool(segments) and segments[-1].response is None,
            count_grew=before is not None and counts.count is not None and counts.count > before,
        )
        if page == self._start:
            self.head = keys
        return Deliver(page, parts, unreadable)

    def _observe_response(self, segment: Segment, response: PageResult, page: int) -> Sighting:
        number, rows, count = self.tracker.response_count, len(response.keys), response.count
        sighting = self.tracker.observe(response.keys, segment.offset)
        self.counts.observe(count, segment.offset + rows if sighting.new_in_pass else 0)
        self.new_in_pass += sighting.new_in_pass
        self.new_in_walk += len(sighting.fresh)
        if self.is_one_response_enough:
            return sighting
        if not sighting.positions_consistent:
            self._note_move(segment, sighting)
        if rows and response.body_size:
            self._row_bytes = max(self._row_bytes, response.body_size // rows)
        if self._tied:
            self._add_older_by_time(response, sighting)
            self.unreadable.note_times(segment.offset, response.created)
        else:
            self._add_older_by_position(segment, response, sighting)
        if count is not None:
            self._latest_count = number, count
        if rows and self._first_response is None:
            self._note_first_response(segment, response, page, number)
        return sighting

    def _note_move(self, segment: Segment, sighting: Sighting) -> None:
        self.unreadable.note_move()
        if sighting.new_in_pass:
            self.positions_consistent = False
        elif not self.counts.is_usable or segment.offset < (self.counts.count or 0):
            self._moved_back = True

    def _note_first_response(self, segment: Segment, response: PageResult, page: int, number: int) -> None:
        is_whole = segment.size == self._layout.effective_size
        is_first_page = is_whole and page == self._start and not self.unreadable
        if is_first_page:
            request = PageRequest(page, self._layout.size)
        else:
            request = PageRequest(segment.offset // segment.size + 1, segment.size, single_out=True)
        self._first_response = _FirstResponse(request, response.keys, response.count, is_first_page)
        if response.count is not None and not self._references:
            self._add_count_reference(number, response.count)
            self._first_old_position = segment.offset

    # References, and the rows that existed at them

    def _add_count_reference(self, response: int, count: int) -> None:
        self._references.append(Reference(response, count - self._skipped, self._newest, self.passes))

    def _add_end_reference(self) -> None:
        """Add a reference for a listing without counts: the end of the rows shows how long it was."""
        progress = self.progress
        if not progress.pages_with_new:
            return
        length = progress.end_of_new - self._skipped
        at_last = progress.is_short and not progress.pages_without_new and not progress.ends_unreadable
        self._references.append(
            Reference(
                self.tracker.response_count - 1,
                length,
                self._newest,
                self.passes,
                is_end=True,
                is_inclusive=at_last,
            )
        )

    def _add_older(self, rows: int) -> None:
        for reference in self._references:
            reference.add_older(rows)

    def _add_older_by_time(self, response: PageResult, sighting: Sighting) -> None:
        """Count the new rows that are older than the newest row seen by a reference."""
        if sighting.fresh:
            for reference in self._references:
                newest = reference.newest
                if newest is not None:
                    times = (response.created[index] for index in sighting.fresh)
                    reference.add_older(sum(time is not None and time < newest for time in times))
        if self._newest is None and response.created:
            self._newest = response.created[0]

    def _add_older_by_position(self, segment: Segment, response: PageResult, sighting: Sighting) -> None:
        """Count the new rows below a row that existed at the reference.

        A new row above a row that was seen before in this pass may have just been added.
        """
        if self._first_old_position is None and self._references:
            self._find_first_old_position(segment, response, sighting)
        fresh = sighting.fresh
        if self._first_old_position is None or not fresh:
            return
        least = max(sighting.last_repeated, self._first_old_position - segment.offset)
        if fresh[0] > least:  # all of them
            self._add_older(len(fresh))
            if sighting.last_repeated < 0 and self._first_old_position != _ABOVE_ALL:
                self._first_assumed_old = min(self._first_assumed_old, segment.offset + fresh[0])
        else:
            self._add_older(sum(index > least for index in fresh))

    def _find_first_old_position(self, segment: Segment, response: PageResult, sighting: Sighting) -> None:
        """Look for the first row of this pass that existed at the reference."""
        if self._preview is None or self.passes > 1:
            if sighting.first_known < len(response.keys):
                self._first_old_position = segment.offset + sighting.first_known
        elif segment.offset == 0 and self.confirms(self._preview, response):
            self._first_old_position = _ABOVE_ALL  # the first row itself is new to this walk
        else:
            self._references.clear()
            self._preview = None

    @staticmethod
    def confirms(preview: ListingPreview, response: PageResult) -> bool:
        """Return whether the first page shows the listing as the preview did."""
        return (response.count, list(response.keys[:1])) == (preview.length, [preview.head])

    # What the traversal finds out

    def observe_count(self, count: int | None) -> None:
        """Record the count of a response without rows."""
        if count is not None:
            self.counts.observe(count)
            self._latest_count = self.tracker.response_count - 1, count

    @property
    def is_one_response_enough(self) -> bool:
        """Whether the walk is complete because one response contained the whole listing."""
        return self.unpaged and not self.kept_responses

    def mark_unpaged(self) -> None:
        """Note that one response contains the whole listing, whichever page was requested."""
        self.unpaged = True

    def distrust_positions(self) -> None:
        """Note that the page size was not as assumed, so the positions of this pass are wrong."""
        self.counts.distrust()
        self.positions_consistent = False
        self._end_uncertain = True

    def distrust_counts(self) -> None:
        """Note that there are rows past the end that the count gives."""
        self.counts.distrust()

    def mark_end_uncertain(self) -> None:
        """Note that the last positions may be unreadable rows, or may be past the end."""
        self._end_uncertain = True

    def accept_repetition(self) -> None:
        """Note that the server repeats its last page past the end, so its rows have not moved."""
        self._moved_back = False

    def leave_end_open(self) -> bool:
        """Let the closing request show that no page follows a full one. Returns False if it cannot."""
        self._end_open = self.is_snapshot_due and not self._full_closing_responses
        return self._end_open

    def require_next_page(self) -> None:
        """Note that only the next page can show whether the last positions of this one are past the end."""
        self._needs_next_page = True

    def take_next_page_requirement(self) -> bool:
        """Return whether a page may follow the last one, although that one is short. Clears the flag."""
        needed, self._needs_next_page = self._needs_next_page, False
        return needed

    def end_pass(self) -> None:
        """Note that the pass has reached the end of the listing."""
        self._ended = True
        self.positions_consistent = self.positions_consistent and not self._moved_back
        if not self.counts.is_usable and self.positions_consistent and not self._end_uncertain:
            self._add_end_reference()

    # One response with the whole listing

    @property
    def _is_limited(self) -> bool:
        """Whether the server returns fewer rows per page than requested."""
        if self._gives_fewer or self._layout.is_honored:
            return self._gives_fewer
        return self.progress.pages_with_new > 1 or self.counts.count_trusted

    @property
    def _expected(self) -> int:
        """Number of rows of the listing, as far as known."""
        return max(self.new_in_pass, self.counts.count or 0)

    @property
    def is_snapshot_due(self) -> bool:
        """Whether one more request can show the whole listing at one point in time, at little cost."""
        if self._start > 1 or self.unreadable or self.unpaged or self._is_limited:
            return False
        rows = self._expected + 1
        return rows <= self._layout.size + 1 or (
            rows <= _MAX_SNAPSHOT_ROWS and rows * self._row_bytes <= _MAX_SNAPSHOT_BYTES
        )

    def is_complete_first_response(self, response: PageResult, size: int) -> bool:
        """Return whether the first response, to a request for `size` rows, is the whole listing."""
        if self._start > 1 or not is_whole_listing(response, size):
            return False
        if response.count is None:
            return True
        if self._preview is not None and response.count != self._preview.length:
            return False  # the listing has just changed
        return self.counts.count_trusted and response.count not in self._limits

    # The end of a pass

    def closing_requests(self) -> list[PageRequest]:
        """Return the requests that can prove this pass complete.

        There are none if the pass is already proved, or if it cannot be complete.
        """
        first = self._first_response
        if first is None or not self._ended or self._is_proved:
            return []
        growth = self.counts.growth if self.counts.count_trusted else 0
        if self.is_snapshot_due:
            return [PageRequest(1, self._expected + 1 + growth)]
        bad = len(self.unreadable)
        needed = {reference.length - self.new_in_pass for reference in self._references}
        if needed.isdisjoint((bad, min(bad, 1))):
            return []
        request = first.request
        if first.is_first_page and self._start == 1 and not bad and self._layout.is_honored:
            request = PageRequest(1, request.size + growth)
        top = [position for position in self._top if position < _MAX_TOP]
        return [request, *(PageRequest(position + 1, 1, single_out=True) for position in top)]

    @property
    def _top(self) -> list[int]:
        """Unreadable positions above the first row that existed at the reference."""
        first_old = self._first_old_position
        return (
            []
            if first_old is None
            else [position for position in self.unreadable.positions if position < first_old]
        )

    def observe_closing_response(
        self, request: PageRequest, outcome: PageResult | PageFailure, page: int
    ) -> Deliver | None:
        """Record the result of a closing request. Returns the command that delivers its new rows, if any."""
        if isinstance(outcome, PageFailure):
            is_top = request.size == 1 and request.page - 1 in self.unreadable
            self._confirmed_top += is_top and outcome.unreadable
            return None
        offset = (request.page - 1) * request.size
        number = self.tracker.response_count
        sighting = self.tracker.observe(outcome.keys, offset)
        self.counts.observe(outcome.count)
        self.new_in_walk += len(sighting.fresh)
        if self._tied:
            self._add_older_by_time(outcome, sighting)
        if outcome.count is not None:
            self._latest_count = number, outcome.count
        first = self._first_response
        if first is not None and request.size >= len(first.keys):
            same_rows = list(outcome.keys[: len(first.keys)]) == list(first.keys)
            self._is_first_response_unchanged = same_rows and outcome.count == first.row_count
        if offset == 0 and self._start == 1 and not self.unreadable:
            self._observe_snapshot(request.size, outcome, all_known=not sighting.fresh)
        return Deliver(page, [(outcome, sighting.fresh)]) if sighting.fresh else None

    def keep_response(self, request: PageRequest, response: PageResult) -> None:
        """Keep the response of a request that was not sent for its rows, such as a probe."""
        size = self._layout.effective_size if request.size == self._layout.size else request.size
        self.kept_responses.append(_KeptResponse((request.page - 1) * size, response, self.passes))

    def take_kept_rows(self, page: int) -> Deliver | None:
        """Return the command that delivers the new rows of kept responses, or None if there is none.

        If the pass did not reach a row of such a response, the pass was not complete, or the row has been
        removed.
        """
        parts: list[tuple[PageResult, Sequence[int]]] = []
        for offset, response, number in self.kept_responses:
            fresh = [
                index for index, key in enumerate(response.keys) if self.tracker.first_position(key) is None
            ]
            known = frozenset(response.keys).difference(response.keys[index] for index in fresh)
            is_in_pass = number == self.passes
            if fresh or (is_in_pass and not all(map(self.tracker.is_in_pass, known))):
                self._is_contradicted = True
            for index in fresh:
                self.tracker.observe(response.keys[index : index + 1], offset + index)
            if fresh:
                parts.append((response, fresh))
                self.new_in_walk += len(fresh)
        self.kept_responses.clear()
        return Deliver(page, parts) if parts else None

    def _observe_snapshot(self, size: int, response: PageResult, *, all_known: bool) -> None:
        """Record a response that starts at the first position: it may be the whole listing."""
        rows = len(response.keys)
        self._full_closing_responses += rows == size
        self._gives_fewer = self._gives_fewer or rows < min(size, response.count or 0, self.new_in_pass)
        if self.counts.is_usable:
            self.unpaged = response.count == rows < size and rows not in self._limits
        else:
            self.unpaged = self.new_in_pass == rows < size and all_known

    def _certain_unreadable(self, reference: Reference) -> int:
        """Return the minimum number of different unreadable rows that existed at the reference."""
        if reference.is_end and reference.number == self.passes:
            return 0  # they were found before that time
        if self.unreadable.may_be_readable_now and not self._tied:
            return 0  # they may have been read since
        top = self._top
        # Rows above these positions have been added since.
        least = max(len(top) and (self._first_old_position or 0), self.counts.growth)
        positions = self.unreadable.found_since(reference.response, least=least)
        certain = len(positions) + min(self._confirmed_top, len(top))
        if certain <= 1:
            return certain
        if not self.counts.is_constant:
            return 1
        if self._tied:
            return self.unreadable.distinct_by_time(positions)
        return certain if self.positions_consistent and self._is_first_response_unchanged else 1

    @property
    def _stable_pass(self) -> _StablePass | None:
        """This pass, or None if the listing visibly changed or some positions were not read."""
        counts, positions = self.counts, self.unreadable.positions
        if not (self._is_end_seen and counts.is_constant and self.positions_consistent):
            return None
        length = (counts.count or 0) if counts.is_usable else self.progress.end_of_new
        # The listing may end before the first page of the walk.
        if self.new_in_pass + len(positions) != max(0, length - self._skipped):
            return None
        if self._tied and self.unreadable.distinct_by_time(positions) < len(positions):
            return None
        first = self._first_response.keys if self._first_response is not None else ()
        return _StablePass(tuple(first), self.new_in_pass, tuple(positions))

    @property
    def _is_end_seen(self) -> bool:
        return self._ended and not self._end_uncertain and not self._end_open

    @property
    def _is_proved(self) -> bool:
        if self._is_contradicted:
            return False
        if self.unpaged or not self._is_end_seen:
            return self.unpaged
        if self.counts.growth > self._first_assumed_old:
            return False  # an added row may have been mistaken for an old one
        if self._first_old_position == _ABOVE_ALL and not self._is_first_response_unchanged:
            return False  # rows added since the preview must be read too
        for reference in self._references:
            if not (reference.is_end or self.counts.is_usable):
                continue
            if self.tracker.proves_complete(reference, self._certain_unreadable(reference)):
                return True
        return self._stable_pass is not None and self._stable_pass == self._previous_stable_pass

    def verdict(self, *, is_cheap: bool) -> Verdict:
        """Return whether the pass that ended was complete. If it was not, return whether a new pass may help.

        Args:
            is_cheap: another pass needs few requests.
        """
        if self._is_proved:
            return Complete()
        if not self.new_in_walk and self._previous_short_result == self._result:
            return Incomplete(f"{self.passes} passes found the same rows")
        is_enough = self._full_passes + self._ended > RESTARTS and not is_cheap
        if is_enough or self.passes > RESTARTS + _MORE_PASSES:
            return Incomplete(f"{self.passes} passes gave different results")
        return Restart()

    def next_page_size(self, layout: PageLayout) -> int:
        """Return the page size of the next pass: twice the size, if larger pages can help.

        Rows move only between responses, and larger pages need fewer responses. Larger pages do not help if a
        row makes its page fail, or if the server limits its pages.
        """
        size = layout.size
        if self.unreadable or self._is_limited or self._start > 1:
            return size
        most = max(
            size, _MAX_LATER_PAGE_BYTES // self._row_bytes if self._row_bytes else _MAX_LATER_PAGE_ROWS
        )
        return min(2 * size, most)

    # Errors

    def incomplete(self, reason: str) -> IncompleteListing:
        """Return the error of a walk that may have missed rows."""
        return incomplete_listing(len(self.tracker) + self._reported_unreadable, self.counts.count, reason)

    def stalled(self, reason: str) -> StalledListing:
        """Return the error of a walk over a server that repeats one page."""
        seen, count = len(self.tracker), self.counts.count
        of = "" if count is None else f" of {count}"
        return StalledListing(
            f"the listing stalls: {reason}; {seen} rows{of} can be reached",
            hint="request larger pages, or check whether a proxy drops the query",
            seen=seen,
            expected=count,
        )


def incomplete_listing(seen: int, expected: int | None, reason: str) -> IncompleteListing:
    """Return the error of a listing with rows that may be missing."""
    counted = "the server sends no count" if expected is None else f"the server counts {expected}"
    return IncompleteListing(
        f"rows may be missing: {seen} distinct rows seen, {counted}; {reason}",
        hint="all rows seen were yielded; read the listing again when it changes less often",
        seen=seen,
        expected=expected,
    )
