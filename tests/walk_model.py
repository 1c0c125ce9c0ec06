"""A model of a listing, of servers that page it, and of the history that happens between their answers."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

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
from unpod_async.errors import NotFoundError, RefusedError, UnpodError, UpstreamError

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclasses.dataclass(frozen=True)
class Server:
    """How a server pages: the honest one by default."""

    clamp: int | None = None  # largest page it gives
    own_size: int | None = None  # ignores page_size
    everything: bool = False  # ignores page and page_size
    ignores_page: bool = False
    count: str = "true"  # true, null, zero, page, high, low
    past_end: str = "empty"  # empty, 404, 206, 206-string, repeat
    shuffles_ties: bool = False

    def __str__(self) -> str:
        odd = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return (
            ",".join(f"{k}={v}" for k, v in odd.items() if v not in (None, False, "true", "empty"))
            or "honest"
        )


@dataclasses.dataclass
class Listing:
    """Rows newest first, as (id, tie group); and what has happened to them."""

    rows: list[tuple[str, int]]
    server: Server = dataclasses.field(default_factory=Server)
    poisoned: frozenset[str] = frozenset()
    rng: random.Random = dataclasses.field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self.born = len(self.rows)
        self.persistent = {key for key, _ in self.rows}
        self.reads = 0
        self.clock = max((group for _, group in self.rows), default=0)

    @classmethod
    def of(cls, size: int, server: Server | None = None, **kwargs: object) -> Listing:
        return cls([(f"r{n}", n) for n in reversed(range(size))], server or Server(), **kwargs)  # type: ignore[arg-type]

    def insert(self, *, tied: bool = False) -> None:
        self.clock += not tied  # new rows are never older than any row before them
        self.rows.insert(0, (f"r{self.born}", self.clock))
        self.born += 1

    def delete(self, index: int) -> None:
        if self.rows:
            key, _ = self.rows.pop(index % len(self.rows))
            self.persistent.discard(key)

    def glance(self) -> ListingPreview | None:
        """What a look at the listing tells that comes before the walk."""
        answer = self.answer(PageRequest(1, 2))
        if isinstance(answer, PageFailure) or answer.count is None or not answer.keys:
            return None
        return ListingPreview(answer.count, answer.keys[0])

    def answer(self, read: PageRequest) -> PageResult | PageFailure:
        self.reads += 1
        server = self.server
        rows = self.rows
        if server.shuffles_ties:
            rows = sorted(rows, key=lambda row: (-row[1], self.rng.random()))
        size = server.own_size or min(read.size, server.clamp or read.size)
        start = 0 if server.ignores_page else (read.page - 1) * size
        shown = rows if server.everything else rows[start : start + size]
        if not shown and read.page > 1:
            if server.past_end == "404":
                return PageFailure(NotFoundError(404, "no such page"), past_end=True)
            if server.past_end == "206":
                return PageFailure(RefusedError(206, "no such page"), past_end=True)
            if server.past_end == "206-string":
                return PageFailure(UpstreamError(206, "failed", "no such page"), unreadable=True)
            if server.past_end == "repeat":
                shown = rows[(len(rows) - 1) // size * size :] if rows else []
        if any(key in self.poisoned for key, _ in shown):
            return PageFailure(UpstreamError(206, "failed", "Internal Server Error"), unreadable=True)
        count = {
            "true": len(rows),
            "null": None,
            "zero": 0,
            "page": len(shown),
            "high": len(rows) + 3,
            "low": max(0, len(rows) - 2),
        }[server.count]
        created = [EPOCH + timedelta(milliseconds=group) for _, group in shown]
        return PageResult([key for key, _ in shown], count, created)


@dataclasses.dataclass
class Outcome:
    yielded: list[str]
    unreadable: list[int]
    error: Exception | None
    requests: int


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
    out = Outcome([], [], None, 0)

    def send(read: PageRequest) -> PageResult | PageFailure:
        between()
        out.requests += 1
        return listing.answer(read)

    reply: PageResult | PageFailure | None = None
    try:
        while True:
            command = steps.send(reply)  # type: ignore[arg-type]
            reply = None
            if isinstance(command, Prefetch):
                asked.append(command.read)
            elif isinstance(command, Discard):
                # Requests under way may still be answered; their answers are dropped.
                asked.clear()
                answers.clear()
            elif isinstance(command, Fetch):
                while command.read in asked:
                    read = asked.pop(pick(len(asked)))
                    answers[read] = send(read)
                reply = answers.pop(command.read) if command.read in answers else send(command.read)
            else:
                assert isinstance(command, Deliver)
                for answer, fresh in command.parts:
                    out.yielded += [answer.keys[index] for index in fresh]
                out.unreadable += command.unreadable
    except StopIteration:
        pass
    except UnpodError as error:
        out.error = error
    return out


def missing(listing: Listing, out: Outcome) -> set[str]:
    return listing.persistent - listing.poisoned - set(out.yielded)
