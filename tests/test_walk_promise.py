"""A listing never lies: every row that stays is yielded exactly once, or the walk says so."""

from __future__ import annotations

import dataclasses
import random
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.walk_model import Listing, Outcome, Server, drive, missing
from unpod_async._paging import Fetch, ListingPreview, PageRequest, Prefetch, Walk
from unpod_async.errors import IncompleteListing, StalledListing

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(1, 5)
LENGTHS = st.integers(0, 14)
Ahead: TypeAlias = tuple[int, bool]
AHEAD: st.SearchStrategy[Ahead] = st.sampled_from([
    (1, False),
    (1, False),
    (2, False),
    (3, False),
    (5, False),
    (2, True),
    (5, True),
])
"""Pages asked for ahead, and whether something was seen of the listing before."""

PAST_END = st.sampled_from(["empty", "404", "206", "repeat"])


def paging(past_end: st.SearchStrategy[str]) -> st.SearchStrategy[Server]:
    return st.one_of(
        st.builds(Server, past_end=past_end),
        st.builds(Server, clamp=st.integers(1, 3), past_end=past_end),
        st.builds(Server, own_size=st.integers(1, 6), past_end=past_end),
        st.just(Server(everything=True)),
    )


def with_count(server: Server, count: str) -> Server:
    # Outside the promise, and named in the docstring of `Pager`: a server that cuts pages shorter than
    # asked *and* counts only what it sends looks exactly like a listing of one short page.
    if count in ("page", "low") and (server.clamp or server.own_size):
        count = "true"
    return dataclasses.replace(server, count=count)


# Some servers answer a page behind the end like a row that cannot be read. Told apart where nothing moves.
STILL = st.builds(
    with_count,
    paging(st.sampled_from(["empty", "404", "206", "repeat", "206-string"])),
    st.sampled_from(["true", "true", "null", "zero", "page", "low"]),
)
GROWING = paging(PAST_END)
# The promise rests on rows and count of one answer being of one moment: a count that lies is no basis
# while rows come and go.
MOVING = st.one_of(
    st.builds(with_count, paging(PAST_END), st.sampled_from(["true", "true", "null"])),
    st.just(Server(ignores_page=True)),
)


def walk_of(listing: Listing, size: int, ahead: Ahead, *, tied: bool = False) -> Walk:
    pages, preview = ahead
    return Walk(page_size=size, ahead=pages, tied=tied, preview=listing.preview() if preview else None)


def check_promise(listing: Listing, out: Outcome) -> None:
    assert len(out.yielded) == len(set(out.yielded)), "a row came twice"
    if out.error is None:
        assert not missing(listing, out), f"lost without a word: {missing(listing, out)}"
    else:
        assert isinstance(out.error, IncompleteListing), out.error
        assert out.error.seen >= len(out.yielded)


def bound(listing: Listing, size: int) -> int:
    pages = -(-max(1, listing.born) // (listing.server.own_size or min(size, listing.server.clamp or size)))
    return 4 * pages + 64


class History:
    """Inserts and deletes between the answers, drawn by hypothesis or at random."""

    def __init__(self, listing: Listing, rng: random.Random, inserts: float, deletes: float) -> None:
        self.listing, self.rng, self.inserts, self.deletes = listing, rng, inserts, deletes
        self.left = 60  # a listing that grows by a page per request is never caught up with

    def __call__(self) -> None:
        self.left -= 1
        for _ in range(3 if self.left > 0 else 0):
            if self.rng.random() < self.inserts:
                self.listing.insert(tied=self.rng.random() < 0.3)
            if self.rng.random() < self.deletes:
                self.listing.delete(self.rng.randrange(100))


@settings(max_examples=1200)
@given(
    LENGTHS,
    SIZES,
    MOVING,
    AHEAD,
    SEEDS,
    st.sampled_from([0, 0.1, 0.3]),
    st.sampled_from([0, 0.05, 0.1, 0.3]),
)
def test_every_row_that_stays_is_yielded_once_or_the_walk_says_so(
    length: int, size: int, server: Server, ahead: Ahead, seed: int, inserts: float, deletes: float
) -> None:
    rng = random.Random(seed)
    listing = Listing.of(length, server)
    history = History(listing, rng, inserts, deletes)
    out = drive(listing, walk_of(listing, size, ahead), history, rng.randrange)
    check_promise(listing, out)


@settings(max_examples=400)
@given(LENGTHS, SIZES, AHEAD, st.data())
def test_the_promise_holds_for_interleavings_that_hypothesis_aims(
    length: int, size: int, ahead: Ahead, data: st.DataObject
) -> None:
    listing = Listing.of(length)

    def between() -> None:
        for event in data.draw(st.lists(st.integers(-1, 12), max_size=3)):
            listing.insert() if event < 0 else listing.delete(event)

    out = drive(listing, walk_of(listing, size, ahead), between, lambda n: data.draw(st.integers(0, n - 1)))
    check_promise(listing, out)


@settings(max_examples=400)
@given(LENGTHS, SIZES, STILL, AHEAD, SEEDS)
def test_a_listing_that_stands_still_ends_without_error(
    length: int, size: int, server: Server, ahead: Ahead, seed: int
) -> None:
    listing = Listing.of(length, server)
    out = drive(listing, walk_of(listing, size, ahead), pick=random.Random(seed).randrange)
    assert out.error is None
    assert out.yielded == [key for key, _ in listing.rows]
    if server.past_end != "206-string":  # there the end is found by splitting, which is counted apart
        assert out.requests <= bound(listing, size)


@settings(max_examples=400)
@given(LENGTHS, SIZES, GROWING, AHEAD, SEEDS, st.sampled_from([0.05, 0.2, 0.3]))
def test_a_listing_that_only_grows_ends_without_error(
    length: int, size: int, server: Server, ahead: Ahead, seed: int, inserts: float
) -> None:
    listing = Listing.of(length, server)
    rng = random.Random(seed)
    history = History(listing, rng, inserts, 0)
    out = drive(listing, walk_of(listing, size, ahead), history, rng.randrange)
    assert out.error is None
    check_promise(listing, out)
    assert out.requests <= bound(listing, size)


@settings(max_examples=400)
@given(
    st.lists(st.integers(0, 3), max_size=14),
    SIZES,
    AHEAD,
    SEEDS,
    st.sampled_from([0, 0.1, 0.3]),
    st.sampled_from([0, 0.1, 0.3]),
)
def test_tied_rows_that_change_places_are_not_lost(
    groups: list[int], size: int, ahead: Ahead, seed: int, inserts: float, deletes: float
) -> None:
    rng = random.Random(seed)
    rows = [(f"r{n}", group) for n, group in enumerate(sorted(groups, reverse=True))]
    listing = Listing(rows, Server(shuffles_ties=True), rng=rng)
    walk = walk_of(listing, size, ahead, tied=True)
    out = drive(listing, walk, History(listing, rng, inserts, deletes), rng.randrange)
    check_promise(listing, out)


@settings(max_examples=300)
@given(st.lists(st.integers(0, 3), max_size=14), SIZES, AHEAD)
def test_tied_rows_that_keep_their_places_end_without_error(
    groups: list[int], size: int, ahead: Ahead
) -> None:
    rows = [(f"r{n}", group) for n, group in enumerate(sorted(groups, reverse=True))]
    listing = Listing(rows)
    out = drive(listing, walk_of(listing, size, ahead, tied=True))
    assert out.error is None
    assert out.yielded == [key for key, _ in rows]


@settings(max_examples=400)
@given(
    st.integers(1, 14),
    SIZES,
    st.builds(
        with_count,
        st.builds(
            Server,
            clamp=st.sampled_from([None, 1, 2, 3]),
            past_end=st.sampled_from(["empty", "404", "206"]),
        ),
        st.sampled_from(["true", "null"]),
    ),
    AHEAD,
    st.sets(st.integers(0, 13), min_size=1, max_size=3),
)
def test_unreadable_rows_cost_only_themselves(
    length: int, size: int, server: Server, ahead: Ahead, bad: set[int]
) -> None:
    poisoned = frozenset(f"r{n}" for n in bad if n < length)
    listing = Listing.of(length, server, poisoned=poisoned)
    out = drive(listing, walk_of(listing, size, ahead))
    if out.error is None or isinstance(out.error, IncompleteListing):
        check_promise(listing, out)
    if out.error is None:
        assert len(out.unreadable) == len(poisoned)


@settings(max_examples=300)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=14), SIZES, AHEAD, st.integers(0, 13))
def test_unreadable_tied_rows_cost_only_themselves(
    groups: list[int], size: int, ahead: Ahead, bad: int
) -> None:
    rows = [(f"r{n}", group) for n, group in enumerate(sorted(groups, reverse=True))]
    listing = Listing(rows, poisoned=frozenset({f"r{bad % len(rows)}"}))
    out = drive(listing, walk_of(listing, size, ahead, tied=True))
    assert out.error is None or len(rows) == 1, out.error
    check_promise(listing, Outcome(out.yielded, out.unreadable, None, out.requests))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_server_that_ignores_page_is_told_from_one_that_has_no_more(size: int) -> None:
    stalled = drive(Listing.of(9, Server(ignores_page=True)), Walk(page_size=size))
    assert isinstance(stalled.error, StalledListing)
    assert stalled.requests <= 4
    uncounted = drive(Listing.of(9, Server(ignores_page=True, count="null")), Walk(page_size=size))
    assert isinstance(uncounted.error, StalledListing)
    for server in (Server(past_end="repeat", count="null"), Server(everything=True, count="null")):
        all_there = drive(Listing.of(size, server), Walk(page_size=size))
        assert all_there.error is None
        # Two equal pages, one far past the end, one that tells the servers apart, and the closing request.
        assert all_there.requests == 5


@pytest.mark.parametrize("size", [100, 50, 25])
def test_one_bad_row_costs_at_most_fourteen_requests_of_splitting(size: int) -> None:
    clean = drive(Listing.of(1000), Walk(page_size=size))
    for bad in (0, 99, 499, 999):
        listing = Listing.of(1000, poisoned=frozenset({f"r{bad}"}))
        out = drive(listing, Walk(page_size=size))
        assert out.error is None
        assert out.unreadable == [1000 - bad]
        assert len(out.yielded) == 999
        # Apart from the splitting: one request sees that the listing answers elsewhere and, where the last
        # row of a page is the bad one, one in the whole walk how a page behind the end looks.
        assert out.requests <= clean.requests + 14 + 2


def test_one_bad_row_costs_few_requests_for_every_page_size() -> None:
    """Lower the number if looking for a bad row gets cheaper."""
    requests = 0
    for size in range(1, 101):
        for bad in (0, size // 2, size - 1):
            listing = Listing.of(3 * size, poisoned=frozenset({f"r{bad}"}))
            requests += drive(listing, Walk(page_size=size)).requests
    assert requests <= 4882


def test_an_honest_listing_costs_no_request_too_many() -> None:
    # Rows and count are two queries: the first page is read once more.
    assert drive(Listing.of(250), Walk(page_size=100)).requests == 4
    assert drive(Listing.of(30), Walk(page_size=100)).requests == 1
    assert drive(Listing.of(0), Walk(page_size=100)).requests == 1
    # A full last page may be that of a server that counts its page: one more request shows it.
    assert drive(Listing.of(100), Walk(page_size=100)).requests == 2
    assert drive(Listing.of(200), Walk(page_size=100)).requests == 4
    # The closing request for page 1.
    assert drive(Listing.of(250), Walk(page_size=100, ahead=4)).requests == 4
    assert (
        drive(Listing.of(250), Walk(page_size=100, ahead=4, preview=ListingPreview(250, "r249"))).requests
        == 4
    )


@pytest.mark.parametrize(
    ("preview", "asked"),
    [
        (None, []),
        (ListingPreview(850, "r849"), [1, 2, 3, 4]),
        (ListingPreview(250, "r849"), [1, 2, 3]),
        (ListingPreview(300, "r849"), [1, 2, 3, 4]),  # is there a page behind the full last one?
        (ListingPreview(0, ""), []),
    ],
)
def test_what_was_seen_of_a_listing_says_how_far_to_ask_at_once(
    preview: ListingPreview | None, asked: list[int]
) -> None:
    steps = Walk(page_size=100, ahead=4, preview=preview).run()
    commands = []
    while not isinstance(command := next(steps), Fetch):
        commands.append(command)
    assert commands == [Prefetch(PageRequest(page, 100)) for page in asked]
    assert command == Fetch(PageRequest(1, 100))


@pytest.mark.parametrize(
    "preview", [ListingPreview(850, "other"), ListingPreview(849, "r849"), ListingPreview(10**6, "r849")]
)
def test_what_was_asked_of_another_listing_is_dropped(preview: ListingPreview) -> None:
    listing = Listing.of(850)
    asked = 0

    def between() -> None:
        nonlocal asked
        asked += 1

    out = drive(listing, Walk(page_size=100, ahead=4, preview=preview), between)
    assert out.error is None
    assert out.yielded == [key for key, _ in listing.rows]
    assert asked <= 10 + 4


def test_a_count_that_is_too_high_ends_in_incomplete_listing() -> None:
    out = drive(Listing.of(7, Server(count="high")), Walk(page_size=3))
    assert isinstance(out.error, IncompleteListing)
    assert (out.error.seen, out.error.expected) == (7, 10)


def test_a_page_that_fails_while_nothing_else_answers_raises_its_own_error() -> None:
    listing = Listing.of(2, Server(past_end="500"), poisoned=frozenset({"r0", "r1"}))
    out = drive(listing, Walk(page_size=1))
    assert str(out.error).startswith("the request answered 206")


def test_pages_that_were_answered_before_the_first_one_count_only_if_it_is_as_seen_before() -> None:
    """A row enters and one of a page already read goes: each answer has the same count, and rows were met
    as many as there are, yet the one that slipped over the boundary of pages 1 and 2 is not among them.
    """
    listing = Listing.of(6)
    walk = Walk(page_size=2, ahead=3, preview=listing.preview())
    before_page_1 = 0

    def between() -> None:
        nonlocal before_page_1
        before_page_1 += 1
        if before_page_1 == 3:
            listing.insert()
            listing.delete(6)

    out = drive(listing, walk, between, lambda n: n - 1)
    assert out.error is None
    assert not missing(listing, out)


@settings(max_examples=600)
@given(
    st.integers(1, 14),
    SIZES,
    PAST_END,
    AHEAD,
    st.sets(st.integers(0, 13), min_size=1, max_size=2),
    SEEDS,
    st.sampled_from([0.05, 0.2, 0.3]),
)
def test_rows_that_enter_while_a_bad_one_is_looked_for_push_none_out_of_sight(
    length: int, size: int, past_end: str, ahead: Ahead, bad: set[int], seed: int, inserts: float
) -> None:
    poisoned = frozenset(f"r{n}" for n in bad if n < length)
    listing = Listing.of(length, Server(past_end=past_end), poisoned=poisoned)
    rng = random.Random(seed)
    out = drive(listing, walk_of(listing, size, ahead), History(listing, rng, inserts, 0), rng.randrange)
    assert len(out.yielded) == len(set(out.yielded))
    assert out.error is not None or not missing(listing, out)


@pytest.mark.parametrize("count", ["true", "null"])
@pytest.mark.parametrize("start", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [0, 1, 5, 10, 11, 15])
def test_a_listing_may_end_before_the_first_page_of_a_walk(rows: int, start: int, count: str) -> None:
    listing = Listing.of(rows, Server(count=count))
    out = drive(listing, Walk(page_size=5, start_page=start))
    assert out.error is None
    assert len(out.yielded) == max(0, rows - 5 * (start - 1))
    assert out.requests <= 9
