"""A model of a listing, of servers that page it, and of the history that happens around their answers."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from unpod_async._paging import (
    Deliver,
    Discard,
    Fetch,
    ListingPreview,
    PageFailure,
    PageRequest,
    PageResult,
    Prefetch,
    Walk,
)
from unpod_async.errors import NotFoundError, RefusedError, ServerError, UnpodError, UpstreamError

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

Change: TypeAlias = tuple[str, int]
"""One change of a listing: its kind, and a number that chooses the row, or the page size.

The kinds are "insert", "insert tied", "insert bad", "delete", "break", "mend", "clamp" and "outage".
"""


_FAILURES = (
    PageFailure(UpstreamError(206, "failed", "no connection"), unreadable=True),
    PageFailure(ServerError(500, "failed"), unreadable=True),
    PageFailure(ServerError(503, "failed")),
)


@dataclasses.dataclass(frozen=True)
class Server:
    """How a server pages: the honest one by default."""

    clamp: int | None = None  # largest page it gives
    own_size: int | None = None  # ignores page_size
    everything: bool = False  # ignores page and page_size
    ignores_page: bool = False
    count: str = "true"  # true, null, zero, page, high, low, late
    past_end: str = "empty"  # empty, 404, 206, 206-string, 500, repeat
    shuffles_ties: bool = False
    count_first: bool = False  # the count is the first of the two queries
    row_bytes: int = 0  # size of a row in a response; 0 if the client does not know it

    def __str__(self) -> str:
        odd = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return (
            ",".join(f"{k}={v}" for k, v in odd.items() if v not in (None, False, "true", "empty"))
            or "honest"
        )


@dataclasses.dataclass
class Moment:
    """The two moments of one answer: its rows as they were shown, and the rows that were counted."""

    shown: list[tuple[str, int]]
    poisoned: frozenset[str]
    clamp: int | None
    counted: list[tuple[str, int]]


@dataclasses.dataclass
class Listing:
    """Rows newest first, as (id, tie group); and what has happened to them."""

    rows: list[tuple[str, int]]
    server: Server = dataclasses.field(default_factory=Server)
    poisoned: frozenset[str] = frozenset()
    rng: random.Random = dataclasses.field(default_factory=lambda: random.Random(0))
    between_queries: Callable[[], None] | None = None
    """Happens between the two queries of one answer: the rows, and the count."""

    def __post_init__(self) -> None:
        self.born = len(self.rows)
        self.persistent = {key for key, _ in self.rows}
        self.reads = 0
        self.clock = max((group for _, group in self.rows), default=0)
        self.clamp = self.server.clamp
        self.ever_poisoned = set(self.poisoned)
        self.length_before = len(self.rows)
        """Rows before the walk, which a late count shows first."""
        self._late_count = self.length_before
        self.moments: list[Moment] = []
        self.failing_answers = 0
        """So many answers fail: as for an unreadable row, as an internal error, or as an outage."""

    @classmethod
    def of(cls, size: int, server: Server | None = None, **kwargs: object) -> Listing:
        rows = [(f"r{n}", n) for n in reversed(range(size))]
        return cls(rows, server or Server(), **kwargs)  # type: ignore[arg-type]

    def insert(self, *, tied: bool = False, bad: bool = False) -> None:
        self.clock += not tied  # new rows are never older than any row before them
        self.rows.insert(0, (f"r{self.born}", self.clock))
        if bad:
            self.break_row(0)
        self.born += 1

    def delete(self, index: int) -> None:
        if self.rows:
            key, _ = self.rows.pop(index % len(self.rows))
            self.persistent.discard(key)

    def break_row(self, index: int) -> None:
        """From now on this row makes its page fail."""
        if self.rows:
            self.poisoned |= {self.rows[index % len(self.rows)][0]}
            self.ever_poisoned |= self.poisoned

    def mend_row(self, index: int) -> None:
        """From now on this row can be read."""
        if self.poisoned:
            self.poisoned -= {sorted(self.poisoned)[index % len(self.poisoned)]}

    def change(self, change: Change) -> None:
        """Apply one change of a script."""
        kind, number = change
        if kind.startswith("insert"):
            self.insert(tied=kind == "insert tied", bad=kind == "insert bad")
        elif kind == "delete":
            self.delete(number)
        elif kind == "delete bad":
            for index, (key, _) in enumerate(self.rows):
                if key in self.poisoned:
                    self.delete(index)
                    break
        elif kind == "break":
            self.break_row(number)
        elif kind == "mend":
            self.mend_row(number)
        elif kind == "outage":
            self.failing_answers = number
        else:
            self.clamp = number or None

    def preview(self) -> ListingPreview | None:
        """What a look at the listing tells that comes before the walk."""
        answer = self.answer(PageRequest(1, 2))
        if isinstance(answer, PageFailure) or answer.count is None or not answer.keys:
            return None
        return ListingPreview(answer.count, answer.keys[0])

    def answer(self, read: PageRequest) -> PageResult | PageFailure:
        self.reads += 1
        server = self.server
        total, counted = len(self.rows), list(self.rows)
        if server.count_first and self.between_queries is not None:
            self.between_queries()
        rows = self.rows
        if server.shuffles_ties:
            rows = sorted(rows, key=lambda row: (-row[1], self.rng.random()))
        moment = Moment(list(rows), self.poisoned, self.clamp, counted)
        self.moments.append(moment)
        size = server.own_size or min(read.size, self.clamp or read.size)
        start = 0 if server.ignores_page else (read.page - 1) * size
        if self.failing_answers:
            self.failing_answers -= 1
            return _FAILURES[self.reads % 3]
        shown = rows[:] if server.everything else rows[start : start + size]
        if not shown and read.page > 1:
            if server.past_end == "404":
                return PageFailure(NotFoundError(404, "no such page"), past_end=True)
            if server.past_end == "206":
                return PageFailure(RefusedError(206, "no such page"), past_end=True)
            if server.past_end == "206-string":
                return PageFailure(UpstreamError(206, "failed", "no such page"), unreadable=True)
            if server.past_end == "500":
                return PageFailure(ServerError(500, "failed"), unreadable=True)
            if server.past_end == "repeat":
                shown = rows[(len(rows) - 1) // size * size :] if rows else []
        if not self.poisoned.isdisjoint([key for key, _ in shown]):
            return PageFailure(UpstreamError(206, "failed", "Internal Server Error"), unreadable=True)
        if not server.count_first:
            if self.between_queries is not None:
                self.between_queries()
            total = len(self.rows)
            moment.counted = list(self.rows)
        count: int | None = total
        if server.count == "null":
            count = None
        elif server.count == "zero":
            count = 0
        elif server.count == "page":
            count = len(shown)
        elif server.count == "high":
            count = total + 3
        elif server.count == "low":
            count = max(0, total - 2)
        elif server.count == "late":
            count, self._late_count = self._late_count, total
        created = [EPOCH + timedelta(milliseconds=group) for _, group in shown]
        return PageResult([key for key, _ in shown], count, created, server.row_bytes * len(shown))


@dataclasses.dataclass
class Outcome:
    yielded: list[str]
    unreadable: list[int]
    error: Exception | None
    requests: int
    passes: int = 0
    prefetched: int = 0
    """Requests that were sent before their page was needed."""
    transcript: list[tuple[PageRequest, object]] = dataclasses.field(default_factory=list)
    """Every request and its answer, in the order of the answers."""


def drive(
    listing: Listing,
    walk: Walk,
    between: Callable[[], None] = lambda: None,
    pick: Callable[[int], int] = lambda n: 0,
) -> Outcome:
    """Run a walk against the model; `between` happens before each answer.

    Reads that were asked for ahead are answered in an order that `pick` decides, the taken one at the latest
    when it is taken.
    """
    steps = walk.run()
    asked: list[PageRequest] = []
    answers: dict[PageRequest, PageResult | PageFailure] = {}
    numbers: dict[PageRequest, int] = {}  # of these answers, in the transcript
    without_rows: list[PageResult] = []
    out = Outcome([], [], None, 0)

    def send(read: PageRequest) -> PageResult | PageFailure:
        between()
        out.requests += 1
        answer = listing.answer(read)
        seen = "failed" if isinstance(answer, PageFailure) else (tuple(answer.keys), answer.count)
        out.transcript.append((read, seen))
        return answer

    reply: PageResult | PageFailure | None = None
    try:
        while True:
            command = steps.send(reply)  # type: ignore[arg-type]
            reply = None
            if isinstance(command, Prefetch):
                asked.append(command.request)
                out.prefetched += 1
            elif isinstance(command, Discard):
                # Requests under way may still be answered; nobody receives these answers.
                for read in answers:
                    out.transcript[numbers[read]] = (read, "cancelled")
                asked.clear()
                answers.clear()
            elif isinstance(command, Fetch):
                while command.request in asked:
                    read = asked.pop(pick(len(asked)))
                    numbers[read] = len(out.transcript)
                    answers[read] = send(read)
                reply = answers.pop(command.request) if command.request in answers else send(command.request)
                if isinstance(reply, PageResult) and command.are_known and command.are_known(reply.keys):
                    without_rows.append(reply)
            else:
                assert isinstance(command, Deliver)
                for answer, fresh in command.parts:
                    assert not any(answer is one for one in without_rows), "a driver has no rows of it"
                    out.yielded += [answer.keys[index] for index in fresh]
                out.unreadable += command.unreadable
    except StopIteration:
        pass
    except UnpodError as error:
        out.error = error
    out.passes = walk.passes
    return out


def missing(listing: Listing, out: Outcome) -> set[str]:
    """Rows that stayed, could be read all the time, and were not yielded."""
    return listing.persistent - listing.ever_poisoned - set(out.yielded)


def unreported(listing: Listing, out: Outcome) -> int:
    """Rows that stayed, could not be read at some time, and were neither yielded nor reported."""
    bad = (listing.persistent & listing.ever_poisoned) - set(out.yielded)
    return max(0, len(bad) - len(out.unreadable))


class Twin(Listing):
    """A second history with the same answers, in which some rows of the first one never existed.

    With a preview, they existed until then, because it may have shown them. Where such a row stood above the
    rows of an answer, or was counted, another row has entered at the head and leaves before the next query.
    """

    def __init__(self, original: Listing, absent: set[str], *, preview: bool) -> None:
        first = original.moments[0]
        super().__init__(
            list(first.shown) if preview else [row for row in first.shown if row[0] not in absent],
            dataclasses.replace(original.server, shuffles_ties=False),
            first.poisoned,
        )
        self.length_before = self._late_count = original.length_before
        self._original = original.moments
        self._all_absent = absent
        self._absent: set[str] = set() if preview else absent
        self.between_queries = self._count
        self._passing = 0
        self.persistent = {key for key, _ in first.shown} - absent

    def preview(self) -> ListingPreview | None:
        preview = super().preview()
        self._absent = self._all_absent
        return preview

    def answer(self, read: PageRequest) -> PageResult | PageFailure:
        moment = self._original[self.reads]
        self.poisoned, self.clamp = moment.poisoned, moment.clamp
        self.ever_poisoned |= moment.poisoned
        if self.server.count_first:
            self._set(moment.counted, len(moment.counted))
        else:
            self._show(read)
        self._read = read
        answer = super().answer(read)
        self.persistent &= {key for key, _ in moment.shown} - self._absent
        return answer

    def _count(self) -> None:
        moment = self._original[self.reads - 1]
        if self.server.count_first:
            self._show(self._read)
        else:
            self._set(moment.counted, len(moment.counted))

    def _show(self, read: PageRequest) -> None:
        moment = self._original[self.reads - (1 if self.server.count_first else 0)]
        size = self.server.own_size or min(read.size, moment.clamp or read.size)
        start = 0 if self.server.ignores_page else (read.page - 1) * size
        above = sum(key in self._absent for key, _ in moment.shown[:start])
        self._set(
            moment.shown, len(moment.shown) - sum(key in self._absent for key, _ in moment.shown) + above
        )

    def _set(self, rows: Sequence[tuple[str, int]], length: int) -> None:
        """The rows that exist in this history, and as many rows at the head as are missing of `length`."""
        there = [row for row in rows if row[0] not in self._absent]
        passing = []
        for _ in range(length - len(there)):
            self._passing += 1
            passing.append((f"passing{self._passing}", self.clock + self._passing))
        self.rows = passing + there


Script: TypeAlias = Mapping[float, Sequence[Change]]
"""Changes by moment: n is before answer n, counted from 0, and n + 0.5 between its two queries."""


@dataclasses.dataclass
class Case:
    """One history: a listing, how it is walked, and everything that happens meanwhile."""

    groups: Sequence[int]
    server: Server
    size: int
    bad: frozenset[str] = frozenset()
    script: Script = dataclasses.field(default_factory=dict)
    ahead: int = 1
    preview: bool = False
    tied: bool = False
    seed: int = 0
    start_page: int = 1

    def listing(self) -> Listing:
        rows = [(f"r{n}", group) for n, group in enumerate(sorted(self.groups))][::-1]
        return Listing(rows, self.server, self.bad, random.Random(self.seed))

    def walk(self, preview: ListingPreview | None) -> Walk:
        return Walk(
            page_size=self.size,
            start_page=self.start_page,
            ahead=self.ahead,
            tied=self.tied,
            preview=preview,
        )

    def run(self, listing: Listing | None = None) -> tuple[Listing, Outcome]:
        """Walk the listing, or another one in its place, while everything happens."""
        listing = listing or self.listing()
        preview = listing.preview() if self.preview else None
        moment = -0.5  # a count comes half a moment after its rows

        def before_rows() -> None:
            nonlocal moment
            moment = int(moment + 1)
            for change in self.script.get(moment, ()):
                listing.change(change)

        def before_count() -> None:
            for change in self.script.get(moment + 0.5, ()):
                listing.change(change)

        moment = -1
        listing.between_queries = before_count
        pick = random.Random(self.seed + 1).randrange
        return listing, drive(listing, self.walk(preview), before_rows, pick)

    def run_twin(self, listing: Listing, absent: set[str]) -> tuple[Listing, Outcome]:
        """Walk a history with the answers of `listing`, in which the rows `absent` never existed."""
        twin = Twin(listing, absent, preview=self.preview)
        preview = twin.preview() if self.preview else None
        pick = random.Random(self.seed + 1).randrange
        return twin, drive(twin, self.walk(preview), pick=pick)
