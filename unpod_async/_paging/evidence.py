"""The evidence that a walk is complete: owner of every flag of a walk, and of the verdict.

Assumptions about the service:

A1. A new row enters at the head of the listing, the others keep their order, and a row that was removed
    does not come back. Tied rows (tasks of an agent with equal `created`) have no fixed order, but a new
    row is never older than any row before it.
A2. An answer shows the rows at consecutive places, as they were at one moment. Its count is the length of
    the listing at another moment: it is a second query, taken after the rows and before the next request.
A3. A server gives as many rows per page as requested, or always the same smaller or larger number.

Proof that no row that stayed is missing (the tests are in `tests/test_walk_evidence.py`):

1. A row that was seen in two answers existed at every moment between them.
   (test_a_row_seen_before_and_after_an_answer_existed_then)
2. A row that is seen for the first time below a row that existed at an earlier moment is older than that
   row, so it existed then as well. Where a page shows no such row its place decides, provided that the
   counts show fewer new rows than there are places before it. Of tied rows, `created` decides.
   (test_a_row_below_a_known_one_is_old)
3. A `Reference` is a moment at which the length n of the listing is known: the first count of the walk, the
   last count before a new pass, a preview, or the place where the rows of a listing without counts end. If
   steps 1 and 2 name n different rows that existed at that moment, there was no other row. A row that
   stayed existed at that moment, so it was seen. This needs no fixed order of the answers, so it holds for
   prefetched walks as well. (test_no_history_loses_a_row_in_silence)
4. The rows of the first page are seen before the first count. So the first page is read again at the end of
   a walk of several pages: rows that were removed between the two queries of the first answer do not show
   up. (test_a_row_removed_between_the_queries_of_the_first_answer_is_noticed)
5. A place that cannot be read counts as one row, if it was met after the reference and no row that was seen
   before was at another place afterwards. Two such places count as two rows only if every count of the pass
   was the same, no row moved, and the first rows read again are the same; of tied rows, if rows with other
   times lie between them. A row that is met at two places while others enter is one row.
   (test_a_bad_row_that_is_met_twice_counts_once)
6. Where no reference holds, as above the first row that can be read, two passes in a row over a listing
   that stands still as far as they show are a proof: same rows at the same places, same unreadable places,
   same count. (test_a_still_listing_with_bad_rows_ends_without_error)
7. One answer with fewer rows than requested, and as many as it counts, is the whole listing. So a short
   listing is read once more in one request instead of its first page, and each new pass has pages of twice
   the size. (test_larger_pages_settle_tied_rows)
8. A count that its rows contradict is not used in that pass; after two such passes it is not used at all.
   (test_a_still_listing_with_a_wrong_count_is_complete_or_raises)

Exceptions. In these histories a row is lost in silence. Nobody can tell them from histories in which it is
not, because all requests and answers are the same (test_an_exception_has_a_twin_that_loses_nothing; the mass
run makes such a twin for each history that loses a row):

E1. Two or more places cannot be read, while a row enters and leaves between two answers.
E2. A server limits its pages, and the only answer is as long as its limit and its count: one more row left
    between its two queries (or, where the count is the first query, as many rows entered).
E3. A count is late or wrong, while rows enter or leave.
E4. A server ignores the page size, or fails behind the end, and no page with a row that it cannot send comes.
E5. Rows enter and leave again unseen, each time between two queries, just as many as would hide a row that
    was lost between them.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeAlias

from unpod_async._paging.bisect import Segment
from unpod_async._paging.commands import Deliver, ListingPreview, PageFailure, PageRequest, PageResult
from unpod_async._paging.layout import PageLayout
from unpod_async.errors import IncompleteListing, StalledListing

__all__ = [
    "RESTARTS",
    "Complete",
    "Evidence",
    "Incomplete",
    "Restart",
    "RowTracker",
    "Verdict",
    "incomplete_listing",
    "lean_keys",
]

RESTARTS = 3
"""Full passes from the first page after the first one, at most; more of them over short listings."""

_MORE_PASSES = 9
"""Passes in addition to these, at most: over short listings, and those that end early because rows left."""

_LOOK_ROWS = 64
"""A listing of up to so many rows is read in one request to prove that the walk is complete."""

_LOOK_BYTES = 2**16
"""The size of that answer, at most, where the size of rows is known."""

_PAGE_ROWS = 1000
"""Rows per page of a later pass, at most, where the size of rows is not known."""

_PAGE_BYTES = 4 * 2**20
"""Bytes per page of a later pass, at most; a page that is larger anyway stays as it is."""

_MAX_DISTRUSTED = 2
"""Passes in which the rows contradict the count, after which it is not used any more."""

_MAX_TOP = 3
"""Unreadable rows above all others that the closing look requests once more, at most."""

_ABOVE_ALL = -1
"""The place above the first row."""

_NOWHERE = 1 << 62
"""A place behind every listing."""

# A sighting is one integer: answer number * WIDTH + index in the answer.
_WIDTH = 1 << 32

_PLACES_KEPT = 8
"""Answers whose rows' places are at hand: a page repeats rows of two others, tied rows of a few more."""

_Key: TypeAlias = int | str

_ID_LENGTH = 33
"""Length of the service's ids: a capital letter and 32 hex digits in lower case."""


# Rows


_from_bytes: Callable[[bytes], int] = int.from_bytes


def lean_keys(keys: Sequence[str]) -> Sequence[_Key]:
    """Return the keys with ids of the service as numbers; different ids are different numbers.

    Keys of an answer that begin with the same letter are converted together: 0.4 us each instead of 2 us.
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
        return None  # with spaces, which are skipped, or capitals
    return list(map(_from_bytes, struct.unpack("17s" * number, raw)))


class Sighting(NamedTuple):
    """What one answer showed."""

    fresh: Sequence[int]
    """Indices of rows never seen in this walk."""

    new_in_pass: int
    """Rows not seen before in this pass."""

    positions_consistent: bool
    """Every row seen before in this pass was at the same place."""

    first_known: int
    """Index of the first row seen before this pass and not yet in it; the number of rows if there is none."""

    last_repeated: int
    """Index of the last row seen before in this pass, or -1."""


class RowTracker:
    """The first and the last sighting of every row, by answer.

    The rows take most of the memory of a long walk: 102 bytes each with 200,000 rows (117 while the dict
    grows),
    of which 48 are the id as a number and 8 its place. With the id as text and a number for its place it
    was 150.
    """

    def __init__(self) -> None:
        self.answers = 0
        """Answers observed so far; the number of the next one."""
        self._first: dict[_Key, int] = {}  # the number of the answer: one object for all rows of it
        self._last: dict[_Key, int] = {}  # sightings, only of rows seen more than once
        # Of each answer the keys that it was the first to show, at their places.
        self._keys: list[Sequence[_Key | None]] = []
        self._offsets: list[int] = []
        self._pass_start = 0
        self._waiting: Sequence[str] = ()  # keys of the first answer, until another one comes
        self._places: dict[int, dict[_Key, int]] = {}  # of the answers needed last

    def __len__(self) -> int:
        return len(self._first) + len(self._waiting)

    def start_pass(self) -> None:
        """Begin a new pass: `new_in_pass` counts from here."""
        self._pass_start = self.answers * _WIDTH

    def observe(self, keys: Sequence[str], offset: int) -> Sighting:
        """Record an answer that shows `keys` from the place `offset` on."""
        answer = self.answers
        self.answers += 1
        self._offsets.append(offset)
        rows = len(keys)
        if rows and not answer and len(frozenset(keys)) == rows:
            # Most walks have one answer only: the dict of its rows would take a fifth of the walk.
            self._waiting = keys
            return Sighting(range(rows), rows, True, rows, -1)
        self._add_waiting()
        lean = lean_keys(keys)
        if not self._first.keys().isdisjoint(lean):
            return self._observe_mixed(lean, answer)
        known = len(self._first)
        self._first.update(zip(lean, itertools.repeat(answer)))
        if len(self._first) - known == rows:
            self._keys.append(lean)
            return Sighting(range(rows), rows, True, rows, -1)
        # One answer shows a row twice: it stays at its last place, and the places are not consistent.
        fresh = sorted({key: index for index, key in enumerate(lean)}.values())
        self._keep(lean, fresh)
        return Sighting(fresh, len(fresh), False, rows, rows - 1)

    def _add_waiting(self) -> None:
        """Add the rows of the first answer, which are all different."""
        if self._waiting:
            lean, self._waiting = lean_keys(self._waiting), ()
            self._first.update(zip(lean, itertools.repeat(0)))
            self._keys.append(lean)

    def _observe_mixed(self, keys: Sequence[_Key], answer: int) -> Sighting:
        first, offsets = self._first, self._offsets
        fresh: list[int] = []
        for index, key in enumerate(keys):
            if key not in first:
                first[key] = answer
                fresh.append(index)
        self._keep(keys, fresh)
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
                consistent = consistent and offsets[then] + at == offsets[answer] + index
            self._last[key] = answer * _WIDTH + index
        return Sighting(fresh, new_in_pass, consistent, first_known, last_repeated)

    def _keep(self, keys: Sequence[_Key], fresh: Sequence[int]) -> None:
        kept: list[_Key | None] = [None] * len(keys)
        for index in fresh:
            kept[index] = keys[index]
        self._keys.append(kept)

    def _last_of(self, key: _Key) -> int:
        """The last sighting of a row that was seen."""
        last = self._last.get(key)
        if last is not None:
            return last
        answer = self._first[key]
        return answer * _WIDTH + self._index(key, answer)

    def _index(self, key: _Key, answer: int) -> int:
        """The index of a row in the answer that showed it first."""
        places = self._places.get(answer)
        if places is None:
            if len(self._places) == _PLACES_KEPT:
                self._places.clear()
            kept = self._keys[answer]
            places = {key: index for index, key in enumerate(kept) if key is not None}
            self._places[answer] = places
        return places[key]

    def place(self, key: str) -> int | None:
        """The place where this row was seen first, counted from 0; None for a new row."""
        self._add_waiting()
        (lean,) = lean_keys((key,))
        answer = self._first.get(lean)
        return None if answer is None else self._offsets[answer] + self._index(lean, answer)

    def seen_across(self, answer: int) -> int:
        """Rows seen both in this answer or before it, and in a later one."""
        first, least = self._first, (answer + 1) * _WIDTH
        return sum(1 for key, last in self._last.items() if last >= least and first[key] <= answer)

    def seen_at(self, answer: int) -> int:
        """Rows that existed when this answer was read: seen in it, or before it and after it."""
        self._add_waiting()
        shown = sum(key is not None for key in self._keys[answer])
        first, least = self._first, answer * _WIDTH
        return shown + sum(1 for key, last in self._last.items() if last >= least and first[key] < answer)

    def proves_complete(self, reference: Reference, unreadable: int) -> bool:
        """Whether the rows known to exist at a moment, and `unreadable` others, were all that the listing
        held.
        """
        seen = self.seen_at if reference.is_inclusive else self.seen_across
        return seen(reference.answer) + reference.older + unreadable == reference.length


# Counts and pages


class Reference:
    """A moment at which the length of the listing is known.

    Args:
        answer: the last answer that was read before this moment; -1 for a moment before the walk.
        length: rows of the listing at this moment, less those that the walk skips.
        newest: `created` of the newest row seen until then (tied listings).
        number: the pass in which it was.
        is_end: the length is not a count, but the place where the rows ended.
        is_inclusive: the moment is the one at which the rows of `answer` were read.
    """

    __slots__ = ("answer", "is_end", "is_inclusive", "length", "newest", "number", "older")

    def __init__(
        self,
        answer: int,
        length: int,
        newest: datetime | None = None,
        number: int = 1,
        *,
        is_end: bool = False,
        is_inclusive: bool = False,
    ) -> None:
        self.answer = answer
        self.length = length
        self.newest = newest
        self.number = number
        self.is_end = is_end
        self.is_inclusive = is_inclusive
        self.older = 0
        """Rows that were seen only later and existed at this moment all the same: they are older than one
        that did.
        """

    def add_older(self, rows: int) -> None:
        """Count rows that existed at this moment."""
        self.older += rows


class Counts:
    """The counts of one pass.

    Attributes:
        count: the latest one, or None.
        first: the first one, or None.
        growth: rows by which the largest count exceeds the first one.
        count_trusted: every answer had a count, and none was contradicted by its rows.
        count_exceeded: more rows came than a count allows.
        count_dropped: a count was smaller than the one before.
        is_constant: every answer had the same count.
    """

    def __init__(self, *, trusted: bool) -> None:
        self.count: int | None = None
        self.first: int | None = None
        self.growth = 0
        self.count_trusted = trusted
        self.count_exceeded = False
        self.count_dropped = False
        self.is_constant = True
        self._any = False

    @property
    def is_usable(self) -> bool:
        """Whether the count says how long the listing is."""
        return self.count_trusted and self.count is not None

    def observe(self, count: int | None, end: int = 0) -> None:
        """Record a count; `end` is the place behind the last new row of its answer."""
        before = self.count
        if not self._any:
            self._any, self.first = True, count
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
        """The rows contradict the count."""
        self.count_trusted = False


class Progress:
    """The page that a pass read last.

    Attributes:
        keys: its keys.
        offset: its place.
        end_offset: the place behind its last row.
        is_short: it has fewer rows than a page has.
        is_empty: it has no row, and no place that cannot be read.
        ends_unreadable: its last place cannot be read.
        end_of_new: the place behind the last row of the last page that had new rows.
        pages_with_new: pages that brought something new to this pass.
        pages_without_new: pages in a row that did not.
        repeats: times that the same page came again with the count unchanged.
        is_confirming: a full page has reached the count, so this page should bring nothing new.
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
        """The last page came, and its last row as well."""
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
            offset: the place of the page.
            end: the place behind its last row.
            page_end: the place of the next page.
            new: rows and unreadable places that are new to this pass.
            ends_unreadable: its last place cannot be read.
            count_grew: it counts more rows than the page before.
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

    def expect_nothing(self) -> None:
        """The next page should bring nothing new."""
        self.is_confirming = True


class UnreadablePlaces:
    """The places of one pass that cannot be read."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}  # by place: the last answer before
        self._times: list[tuple[int, datetime | None, datetime | None]] = []
        self.may_be_mended = False
        """A row moved after one of the places was met, so the row there may have been read elsewhere."""

    def __len__(self) -> int:
        return len(self._met)

    def __contains__(self, place: int) -> bool:
        return place in self._met

    @property
    def places(self) -> list[int]:
        """The places, in order."""
        return sorted(self._met)

    def meet(self, place: int, answer: int) -> bool:
        """Record a place that fails after `answer`; return whether it is new."""
        is_new = place not in self._met
        self._met.setdefault(place, answer)
        return is_new

    def note_move(self) -> None:
        """A row that was seen before is at another place."""
        self.may_be_mended = self.may_be_mended or bool(self._met)

    def note_times(self, offset: int, created: Sequence[datetime | None]) -> None:
        """Record the first and the last time of tied rows at a place."""
        if created:
            self._times.append((offset, created[0], created[-1]))

    def met_since(self, answer: int, *, least: int) -> list[int]:
        """Places from `least` on that were met after an answer."""
        return [place for place, met in self._met.items() if met >= answer and place >= least]

    def distinct_by_time(self, places: Sequence[int]) -> int:
        """Places that are certainly those of different tied rows: rows with other times lie between them."""
        times = sorted(self._times, key=lambda time: time[0])
        distinct = 0
        oldest: datetime | None = None
        for place in sorted(places):
            newest = next((last for at, _, last in reversed(times) if at < place), None)
            if distinct and (newest is None or oldest is None or newest >= oldest):
                continue
            distinct += 1
            oldest = next((first for at, first, _ in times if at > place), None)
        return distinct


class _FirstAnswer(NamedTuple):
    """The first answer of a pass that has rows. Reading it again shows whether they are still there."""

    request: PageRequest
    keys: Sequence[str]
    row_count: int | None
    is_first_page: bool


class _Picture(NamedTuple):
    """A whole pass over a listing that stood still, as far as its answers show."""

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


class Evidence:
    """Everything that the answers of a walk have shown, and the verdict.

    Args:
        layout: page geometry of the first pass.
        start_page: page with which each pass begins.
        tied: rows of equal `created` have no fixed order (tasks of an agent).
        preview: what is known from before the walk.
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
        self._latest_count: tuple[int, int] | None = None  # the answer before it, and the count
        self._reported_unreadable = 0
        self._distrusted_passes = 0
        self._full_passes = 0
        self._row_bytes = 0  # of the largest rows, on the average of a page
        self._gives_fewer = False  # the server gave fewer rows than requested
        self._full_looks = 0  # closing looks that were to show the end and did not
        self._dead_end: tuple[int, int, int | None] | None = None  # of the pass before
        self._picture_before: _Picture | None = None
        self._limits: set[int] = set()  # rows to which the server may have limited its pages
        self._begin(layout)

    # One pass

    def _begin(self, layout: PageLayout) -> None:
        self._layout = layout
        self.counts = Counts(trusted=self._distrusted_passes < _MAX_DISTRUSTED)
        self.progress = Progress()
        self.unreadable = UnreadablePlaces()
        self.head: list[str] = []
        """Keys of the first page."""
        self.new_in_pass = 0
        """Distinct rows seen in this pass."""
        self.new_in_walk = 0
        """Rows that this pass was the first to see."""
        self.positions_consistent = True
        """No row was seen at two places of this pass."""
        self.unpaged = False
        """One answer held the whole listing."""
        self._first_answer: _FirstAnswer | None = None
        self._anchor: int | None = None  # the first place of a row that existed at the reference
        self._least_older = _NOWHERE  # the first place of a row taken for old because of its place alone
        self._confirmed_top = 0  # unreadable places above the anchor that failed once more
        self._moved_back = False  # known rows at other places, or a last page that is repeated behind the end
        self._ended = False
        self._end_uncertain = False
        self._end_open = False
        self._needs_next_page = False
        self._is_same_again = False  # the first answer, read again at the end
        self.glimpses: list[tuple[int, PageResult]] = []
        """Places and answers that were requested to learn something else than their rows."""
        self._is_contradicted = False  # rows were glimpsed that the pass did not come to

    def start_pass(self, layout: PageLayout, *, is_ordered: bool = True) -> None:
        """Begin a pass.

        Args:
            layout: page geometry of the pass.
            is_ordered: the latest count was taken after all answers of the pass before.
        """
        latest = self._latest_count if is_ordered and self.counts.count_trusted else None
        if self.passes:
            self._close_pass()
            self._begin(layout)
        self.passes += 1
        self.tracker.start_pass()
        if self.passes == 1:
            if self._preview is not None:
                self._references.append(Reference(-1, self._preview.length))
            return
        if not self._tied:
            # Rows that have entered since an older reference could be taken for rows that existed then.
            self._references = [one for one in self._references if one.is_end][-2:]
        if latest is not None:
            self._refer_to_count(*latest)

    def _close_pass(self) -> None:
        counts, layout = self.counts, self._layout
        if layout.effective_size < layout.size:
            self._limits.add(layout.effective_size)
        self._full_passes += self._ended
        self._distrusted_passes += counts.count_exceeded
        if not counts.count_trusted:
            self._references = [one for one in self._references if one.is_end]
        self._picture_before = self._picture
        found = self.new_in_pass + len(self.unreadable)
        is_short_of = self._ended and counts.is_usable and found < (counts.count or 0) - self._skipped
        self._dead_end = self._result if is_short_of else None

    @property
    def _skipped(self) -> int:
        """Rows before the first page of the walk."""
        return self._layout.offset(self._start)

    @property
    def _result(self) -> tuple[int, int, int | None]:
        return self.new_in_pass, len(self.unreadable), self.counts.count

    def observe(self, page: int, offset: int, segments: Sequence[Segment]) -> Deliver:
        """Record a page; return the command that delivers what is new in it.

        Args:
            page: number of the page.
            offset: place of its first row.
            segments: what the page holds.
        """
        counts, progress = self.counts, self.progress
        parts: list[tuple[PageResult, Sequence[int]]] = []
        unreadable: list[int] = []
        keys: list[str] = []
        new, end, before = 0, offset, counts.count
        for segment in segments:
            answer = segment.answer
            if answer is None:
                end = segment.offset + 1
                new += self.unreadable.meet(segment.offset, self.tracker.answers - 1)
                if len(self.unreadable) > self._reported_unreadable:
                    self._reported_unreadable = len(self.unreadable)
                    unreadable.append(segment.offset + 1)
                continue
            sighting = self._observe_answer(segment, answer, page)
            new += sighting.new_in_pass
            keys += answer.keys
            end = max(end, segment.offset + len(answer.keys))
            parts.append((answer, sighting.fresh))
        if new and progress.is_short and offset > progress.end_offset:
            self.misplace()  # there were no rows at the places before these
        progress.close_page(
            keys,
            offset=offset,
            end=end,
            page_end=offset + self._layout.effective_size,
            new=new,
            ends_unreadable=bool(segments) and segments[-1].answer is None,
            count_grew=before is not None and counts.count is not None and counts.count > before,
        )
        if page == self._start:
            self.head = keys
        return Deliver(page, parts, unreadable)

    def _observe_answer(self, segment: Segment, answer: PageResult, page: int) -> Sighting:
        number, rows, count = self.tracker.answers, len(answer.keys), answer.count
        sighting = self.tracker.observe(answer.keys, segment.offset)
        self.counts.observe(count, segment.offset + rows if sighting.new_in_pass else 0)
        self.new_in_pass += sighting.new_in_pass
        self.new_in_walk += len(sighting.fresh)
        if self.unpaged:
            return sighting  # the walk is complete
        if not sighting.positions_consistent:
            self._note_move(segment, sighting)
        if rows and answer.body_size:
            self._row_bytes = max(self._row_bytes, answer.body_size // rows)
        if self._tied:
            self._add_older_by_time(answer, sighting)
            self.unreadable.note_times(segment.offset, answer.created)
        else:
            self._add_older_by_place(segment, answer, sighting)
        if count is not None:
            self._latest_count = number, count
        if rows and self._first_answer is None:
            self._note_first_answer(segment, answer, page, number)
        return sighting

    def _note_move(self, segment: Segment, sighting: Sighting) -> None:
        self.unreadable.note_move()
        if sighting.new_in_pass:
            self.positions_consistent = False
        elif not self.counts.is_usable or segment.offset < (self.counts.count or 0):
            self._moved_back = True

    def _note_first_answer(self, segment: Segment, answer: PageResult, page: int, number: int) -> None:
        is_whole = segment.size == self._layout.effective_size
        is_first_page = is_whole and page == self._start and not self.unreadable
        if is_first_page:
            request = PageRequest(page, self._layout.size)
        else:
            request = PageRequest(segment.offset // segment.size + 1, segment.size, single_out=True)
        self._first_answer = _FirstAnswer(request, answer.keys, answer.count, is_first_page)
        if answer.count is not None and not self._references:
            self._refer_to_count(number, answer.count)
            self._anchor = segment.offset

    # References, and the rows that existed at them

    def _refer_to_count(self, answer: int, count: int) -> None:
        self._references.append(Reference(answer, count - self._skipped, self._newest, self.passes))

    def _refer_to_end(self) -> None:
        """Without counts, the end of the rows shows how long the listing was."""
        progress = self.progress
        if not progress.pages_with_new:
            return
        length = progress.end_of_new - self._skipped
        at_last = progress.is_short and not progress.pages_without_new and not progress.ends_unreadable
        self._references.append(
            Reference(
                self.tracker.answers - 1,
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

    def _add_older_by_time(self, answer: PageResult, sighting: Sighting) -> None:
        """Count the new rows that are older than the newest one seen until a reference."""
        if sighting.fresh:
            for reference in self._references:
                newest = reference.newest
                if newest is not None:
                    times = (answer.created[index] for index in sighting.fresh)
                    reference.add_older(sum(time is not None and time < newest for time in times))
        if self._newest is None and answer.created:
            self._newest = answer.created[0]

    def _add_older_by_place(self, segment: Segment, answer: PageResult, sighting: Sighting) -> None:
        """Count the new rows below one that existed at the reference.

        A new row above one that was seen before in this pass may be one that has just entered.
        """
        if self._anchor is None and self._references:
            self._find_anchor(segment, answer, sighting)
        fresh = sighting.fresh
        if self._anchor is None or not fresh:
            return
        least = max(sighting.last_repeated, self._anchor - segment.offset)
        if fresh[0] > least:  # all of them
            self._add_older(len(fresh))
            if sighting.last_repeated < 0 and self._anchor != _ABOVE_ALL:
                self._least_older = min(self._least_older, segment.offset + fresh[0])
        else:
            self._add_older(sum(index > least for index in fresh))

    def _find_anchor(self, segment: Segment, answer: PageResult, sighting: Sighting) -> None:
        """Look for the first row of this pass that existed at the reference."""
        if self._preview is None or self.passes > 1:
            if sighting.first_known < len(answer.keys):
                self._anchor = segment.offset + sighting.first_known
        elif segment.offset == 0 and self.confirms(self._preview, answer):
            self._anchor = _ABOVE_ALL  # the head itself is new to this walk
        else:
            self._references.clear()
            self._preview = None

    @staticmethod
    def confirms(preview: ListingPreview, answer: PageResult) -> bool:
        """Whether the first page shows the listing as it was seen before."""
        return (answer.count, list(answer.keys[:1])) == (preview.length, [preview.head])

    # What the traversal finds out

    def observe_count(self, count: int | None) -> None:
        """Record the count of an answer without rows."""
        if count is not None:
            self.counts.observe(count)
            self._latest_count = self.tracker.answers - 1, count

    def mark_unpaged(self) -> None:
        """One answer holds the whole listing, whatever page was requested."""
        self.unpaged = True

    def misplace(self) -> None:
        """The server cuts its pages otherwise than it seemed: the places of this pass are wrong."""
        self.counts.distrust()
        self.positions_consistent = False
        self._end_uncertain = True

    def distrust_counts(self) -> None:
        """There are rows behind the end of the listing according to its count."""
        self.counts.distrust()

    def doubt_end(self) -> None:
        """The last places may be unreadable rows, or behind the end."""
        self._end_uncertain = True

    def accept_repetition(self) -> None:
        """The server repeats its last page behind the end, so its rows have not moved."""
        self._moved_back = False

    def leave_end_open(self) -> bool:
        """The last page is full: let the closing look show that no other follows. Returns False if it
        cannot.
        """
        self._end_open = self.is_snapshot_due and not self._full_looks
        return self._end_open

    def leave_end_to_next_page(self) -> None:
        """The page ends in places that fail like those behind the end: the next page shows which they are."""
        self._needs_next_page = True

    def take_next_page_need(self) -> bool:
        """Whether another page may follow the one that was just read, although it is short."""
        needed, self._needs_next_page = self._needs_next_page, False
        return needed

    def end_pass(self) -> None:
        """The pass has reached the end of the listing."""
        self._ended = True
        self.positions_consistent = self.positions_consistent and not self._moved_back
        if not self.counts.is_usable and self.positions_consistent and not self._end_uncertain:
            self._refer_to_end()

    # One answer that holds the whole listing

    @property
    def _is_limited(self) -> bool:
        """Whether the server gives fewer rows per page than requested."""
        if self._gives_fewer or self._layout.is_honored:
            return self._gives_fewer
        return self.progress.pages_with_new > 1 or self.counts.count_trusted

    @property
    def _expected(self) -> int:
        """Rows of the listing, as far as is known."""
        return max(self.new_in_pass, self.counts.count or 0)

    @property
    def is_snapshot_due(self) -> bool:
        """Whether one more request can show the whole listing at one moment, at little cost."""
        if self._start > 1 or self.unreadable or self.unpaged or self._is_limited:
            return False
        rows = self._expected + 1
        return rows <= self._layout.size + 1 or (rows <= _LOOK_ROWS and rows * self._row_bytes <= _LOOK_BYTES)

    def is_one_answer(self, answer: PageResult, size: int) -> bool:
        """Whether the first answer, to a request for `size` rows, is the whole listing."""
        rows = len(answer.keys)
        if self._start > 1 or rows >= size:
            return False
        if answer.count is None:
            return not rows
        if self._preview is not None and answer.count != self._preview.length:
            return False  # something has changed just now
        return self.counts.count_trusted and answer.count == rows and rows not in self._limits

    # The end of a pass

    def closing_looks(self) -> list[PageRequest]:
        """The requests that can prove that this pass was complete; none if it was not, or if that is
        proved.
        """
        first = self._first_answer
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
        top = [place for place in self._top if place < _MAX_TOP]
        return [request, *(PageRequest(place + 1, 1, single_out=True) for place in top)]

    @property
    def _top(self) -> list[int]:
        """Unreadable places above the first row that existed at the reference."""
        anchor = self._anchor
        return [] if anchor is None else [place for place in self.unreadable.places if place < anchor]

    def observe_look(
        self, request: PageRequest, outcome: PageResult | PageFailure, page: int
    ) -> Deliver | None:
        """Record the result of a closing look; return the command that delivers what is new in it."""
        if isinstance(outcome, PageFailure):
            is_top = request.size == 1 and request.page - 1 in self.unreadable
            self._confirmed_top += is_top and outcome.unreadable
            return None
        offset = (request.page - 1) * request.size
        number = self.tracker.answers
        sighting = self.tracker.observe(outcome.keys, offset)
        self.counts.observe(outcome.count)
        self.new_in_walk += len(sighting.fresh)
        if self._tied:
            self._add_older_by_time(outcome, sighting)
        if outcome.count is not None:
            self._latest_count = number, outcome.count
        first = self._first_answer
        if first is not None and request.size >= len(first.keys):
            same_rows = list(outcome.keys[: len(first.keys)]) == list(first.keys)
            self._is_same_again = same_rows and outcome.count == first.row_count
        if offset == 0 and self._start == 1 and not self.unreadable:
            self._observe_snapshot(request.size, outcome, is_known=not sighting.fresh)
        return Deliver(page, [(outcome, sighting.fresh)]) if sighting.fresh else None

    def glimpse(self, request: PageRequest, answer: PageResult) -> None:
        """Keep an answer that was requested to learn something else than its rows."""
        self.glimpses.append(((request.page - 1) * request.size, answer))

    def take_glimpses(self, page: int) -> Deliver | None:
        """Return the command that delivers the rows of glimpsed answers that the pass did not come to.

        A pass that missed such a row was not complete, or the row has left.
        """
        parts: list[tuple[PageResult, Sequence[int]]] = []
        for offset, answer in self.glimpses:
            fresh = [index for index, key in enumerate(answer.keys) if self.tracker.place(key) is None]
            for index in fresh:
                self.tracker.observe(answer.keys[index : index + 1], offset + index)
            if fresh:
                parts.append((answer, fresh))
                self.new_in_walk += len(fresh)
        self.glimpses.clear()
        self._is_contradicted = bool(parts)
        return Deliver(page, parts) if parts else None

    def _observe_snapshot(self, size: int, answer: PageResult, *, is_known: bool) -> None:
        """Record an answer from the first place on: it may be the whole listing."""
        rows = len(answer.keys)
        self._full_looks += rows == size
        self._gives_fewer = self._gives_fewer or rows < min(size, answer.count or 0, self.new_in_pass)
        if self.counts.is_usable:
            self.unpaged = answer.count == rows < size and rows not in self._limits
        else:
            self.unpaged = self.new_in_pass == rows < size and is_known

    def _certain_unreadable(self, reference: Reference) -> int:
        """Different rows, at least, that existed at the reference and cannot be read."""
        if reference.is_end and reference.number == self.passes:
            return 0  # they were met before that moment
        if self.unreadable.may_be_mended and not self._tied:
            return 0  # the rows seen may include them
        top = self._top
        # Above these places are rows that have entered.
        least = max(len(top) and (self._anchor or 0), self.counts.growth)
        places = self.unreadable.met_since(reference.answer, least=least)
        certain = len(places) + min(self._confirmed_top, len(top))
        if certain <= 1:
            return certain
        if not self.counts.is_constant:
            return 1
        if self._tied:
            return self.unreadable.distinct_by_time(places)
        return certain if self.positions_consistent and self._is_same_again else 1

    @property
    def _picture(self) -> _Picture | None:
        """This pass over a listing that stood still; None if it did not, or if places were not read."""
        counts, places = self.counts, self.unreadable.places
        if not (self._is_end_seen and counts.is_constant and self.positions_consistent):
            return None
        length = (counts.count or 0) if counts.is_usable else self.progress.end_of_new
        # The listing may end before the first page of the walk.
        if self.new_in_pass + len(places) != max(0, length - self._skipped):
            return None
        if self._tied and self.unreadable.distinct_by_time(places) < len(places):
            return None
        first = self._first_answer.keys if self._first_answer is not None else ()
        return _Picture(tuple(first), self.new_in_pass, tuple(places))

    @property
    def _is_end_seen(self) -> bool:
        return self._ended and not self._end_uncertain and not self._end_open

    @property
    def _is_proved(self) -> bool:
        if self._is_contradicted:
            return False
        if self.unpaged or not self._is_end_seen:
            return self.unpaged
        if self.counts.growth > self._least_older:
            return False  # a row that has entered may have been taken for an old one
        if self._anchor == _ABOVE_ALL and not self._is_same_again:
            return False  # rows that have entered since the preview are wanted too
        for reference in self._references:
            if not (reference.is_end or self.counts.is_usable):
                continue
            if self.tracker.proves_complete(reference, self._certain_unreadable(reference)):
                return True
        return self._picture is not None and self._picture == self._picture_before

    def verdict(self, *, is_cheap: bool) -> Verdict:
        """Whether the pass that ended was complete, and if not, whether a new one may be.

        Args:
            is_cheap: one more pass needs few requests.
        """
        if self._is_proved:
            return Complete()
        if not self.new_in_walk and self._dead_end == self._result:
            return Incomplete(f"{self.passes} passes found the same rows")
        is_enough = self._full_passes + self._ended > RESTARTS and not is_cheap
        if is_enough or self.passes > RESTARTS + _MORE_PASSES:
            return Incomplete(f"{self.passes} passes do not agree")
        return Restart()

    def next_page_size(self, layout: PageLayout) -> int:
        """Rows per page for the next pass: twice as many, where one answer may then hold the whole listing.

        Rows change places between answers only, and larger pages need fewer of them. They do not help
        where a row
        makes its page fail, or where the server limits its pages.
        """
        size = layout.size
        if self.unreadable or self._is_limited or self._start > 1:
            return size
        most = max(size, _PAGE_BYTES // self._row_bytes if self._row_bytes else _PAGE_ROWS)
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
            hint="the server ignores `page`: request larger pages, or look for a proxy that drops the query",
            seen=seen,
            expected=count,
        )


def incomplete_listing(seen: int, expected: int | None, reason: str) -> IncompleteListing:
    """Return the error of a listing of which rows may be missing."""
    counted = "the server does not count them" if expected is None else f"the server counts {expected}"
    return IncompleteListing(
        f"rows may be missing: {seen} distinct rows seen, {counted}; {reason}",
        hint="all rows seen were delivered; list again when the listing changes less",
        seen=seen,
        expected=expected,
    )
