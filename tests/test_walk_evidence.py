"""The proof in `evidence`, step by step; and that a walk ends without error where it can."""

from __future__ import annotations

import math
import os
import random
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.walk_histories import KINDS, UNGUARANTEED, has_twin, judge, run_many
from tests.walk_model import Case, Server, missing, unreported
from unpod_async._paging import RowTracker
from unpod_async.errors import IncompleteListing

HISTORIES = int(os.environ.get("UNPOD_WALK_HISTORIES", "20000"))

STRICT = {
    "inserts_and_deletes",
    "bad_rows",
    "still_ties_and_bad_rows",
    "long_listings",
    "long_listings_with_a_bad_row",
}
"""Kinds of histories of which none of the default number loses a row, with a twin or without."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_history_loses_a_row_in_silence(kind: str) -> None:
    results = run_many(HISTORIES // len(KINDS), [kind])
    counts = results.counts[kind]
    assert not results.faults
    # Each of these has a twin, as the next test shows: the same answers, and nothing lost.
    assert counts["exception"] <= (0 if kind in STRICT else 0.02 * HISTORIES / len(KINDS))


class Cost(NamedTuple):
    """What 100 random histories of a kind cost."""

    requests: int
    not_retried: int
    """Requests that look for a bad row, so that a failure is not retried."""
    rows: int
    """Rows that the requests ask for, without the requests far past the end."""
    errors: int
    """Walks that end in an error."""
    passes: int
    prefetched: int
    """Requests that are sent before their page is needed."""
    unreadable: int
    """Rows that are reported as unreadable."""


COSTS = {
    "inserts_and_deletes": Cost(1325, 20, 4802, 2, 165, 245, 0),
    "counts_of_a_second_query": Cost(2389, 37, 11630, 0, 211, 243, 0),
    "counts_of_a_first_query": Cost(2445, 50, 18998, 0, 197, 282, 0),
    "missing_counts": Cost(2462, 221, 14797, 0, 290, 0, 0),
    "bad_rows": Cost(5076, 1679, 14195, 1, 352, 303, 217),
    "bad_rows_and_a_second_query": Cost(7009, 2208, 22753, 7, 427, 307, 273),
    "rows_that_break_and_mend": Cost(2612, 775, 7812, 3, 272, 269, 108),
    "bad_rows_without_counts": Cost(5996, 2201, 36538, 1, 464, 0, 221),
    "bad_rows_and_an_end_that_fails": Cost(4561, 2454, 8879, 4, 244, 208, 203),
    "ties": Cost(1351, 30, 5009, 3, 190, 198, 0),
    "ties_and_bad_rows": Cost(4599, 1495, 17940, 25, 431, 315, 145),
    "still_ties_and_bad_rows": Cost(5068, 2854, 10375, 54, 539, 257, 192),
    "bad_rows_on_odd_servers": Cost(3421, 1545, 13026, 16, 267, 193, 131),
    "pages_that_change": Cost(2374, 63, 8288, 2, 282, 269, 0),
    "late_counts": Cost(964, 42, 11383, 0, 213, 248, 0),
    "wrong_counts": Cost(1448, 113, 20083, 23, 341, 96, 0),
    "wrong_counts_and_bad_rows": Cost(6940, 4651, 13006, 43, 414, 158, 156),
    "long_listings": Cost(890, 49, 45785, 0, 228, 179, 0),
    "long_listings_with_a_bad_row": Cost(4737, 3221, 74532, 0, 282, 275, 107),
    "long_listings_with_ties": Cost(3546, 2145, 124599, 6, 352, 316, 47),
    "rows_of_known_size": Cost(1871, 0, 9392, 3, 154, 0, 0),
    "outages": Cost(1574, 270, 3542, 64, 166, 277, 43),
    "odd_servers": Cost(2158, 831, 5412, 33, 224, 58, 38),
}


@pytest.mark.parametrize("kind", COSTS)
def test_the_cost_of_walks_is_the_recorded_one(kind: str) -> None:
    """Lower the numbers if a walk gets cheaper. Raise them only to mend a fault that loses rows."""
    make = {**KINDS, **UNGUARANTEED}[kind]
    outcomes = [make(random.Random(seed)).run()[1] for seed in range(100)]
    requests = [request for out in outcomes for request, _ in out.transcript]
    assert (
        Cost(
            len(requests),
            sum(one.single_out for one in requests),
            sum(one.size for one in requests if one.page * one.size < 10**6),
            sum(out.error is not None for out in outcomes),
            sum(out.passes for out in outcomes),
            sum(out.prefetched for out in outcomes),
            sum(len(out.unreadable) for out in outcomes),
        )
        == COSTS[kind]
    )


def test_no_row_is_lost_in_silence_in_an_outage() -> None:
    for seed in range(1000):
        listing, out = UNGUARANTEED["outages"](random.Random(seed)).run()
        assert out.error is not None or len(missing(listing, out)) <= len(out.unreadable)


def case_of(rows: str, script: dict[float, str], size: int, server: Server | None = None) -> Case:
    """A listing of so many rows ("!" marks bad ones), newest first, with a script of changes."""
    names = rows.split()
    bad = frozenset(name.rstrip("!") for name in names if name.endswith("!"))
    changes = {moment: [_change(word) for word in words.split()] for moment, words in script.items()}
    return Case(range(len(names)), server or Server(), size, bad, changes)


def _change(word: str) -> tuple[str, int]:
    if word == "+":
        return ("insert", 0)
    return ("insert bad", 0) if word == "+!" else ("delete", int(word[1:]))


EXCEPTIONS = {
    "E1": Case(
        range(3), Server(past_end="206"), 3, frozenset({"r1"}), {3: [("insert", 0)], 5: [("delete", 0)]}
    ),
    "E2": Case(range(3), Server(clamp=2), 3, script={0.5: [("delete", 1)]}),
    "E2, count first": Case(range(1), Server(clamp=1, count_first=True), 4, script={0.5: [("insert", 0)]}),
    "E2, shown by the preview": KINDS["bad_rows_and_a_second_query"](random.Random(157253)),
    "E3": KINDS["late_counts"](random.Random(2873)),
    "E4": Case(range(3), Server(own_size=5, past_end="404"), 2, frozenset({"r2"})),
    "E5, shown by the preview": KINDS["counts_of_a_first_query"](random.Random(546443)),
}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_has_a_twin_that_loses_nothing(name: str) -> None:
    """Two histories with the same requests and answers: one loses a row, the other one does not."""
    case = EXCEPTIONS[name]
    listing, out = case.run()
    absent = missing(listing, out)
    assert absent
    assert out.error is None
    assert has_twin(case, listing, out, absent)


KEPT = {
    # Only the request that asked whether the listing answers showed the row behind the count.
    "behind a low count": Case(range(13), Server(count="low", past_end="500"), 1, frozenset({"r1", "r2"})),
    "behind a low count, long": Case(range(80), Server(count="low", past_end="500"), 1, frozenset({"r1"})),
    "own page size": KINDS["bad_rows_on_odd_servers"](random.Random(214432)),
    # The only answer of the second pass is as long as the page that the server gave in the first one.
    "limited pages": KINDS["counts_of_a_first_query"](random.Random(214562)),
    # A page that was prefetched and not needed in the end showed the row.
    "prefetched": KINDS["counts_of_a_second_query"](random.Random(358021)),
    "prefetched, repeated": KINDS["counts_of_a_second_query"](random.Random(369881)),
    # Only a request between two passes showed the row.
    "between passes": KINDS["counts_of_a_first_query"](random.Random(14891)),
    # A prefetched page failed before the pages before it were read, and its row was read on a later page.
    "prefetched, failed": KINDS["rows_that_break_and_mend"](random.Random(193766)),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_row_that_any_answer_showed_is_delivered(name: str) -> None:
    case = KEPT[name]
    listing, out = case.run()
    assert out.error is None or isinstance(out.error, IncompleteListing)
    assert not missing(listing, out)


@pytest.mark.parametrize("count", ["true", "null"])
@pytest.mark.parametrize("second_query", [False, True])
@pytest.mark.parametrize(
    ("rows", "script", "size"),
    [
        ("r2! r1 r0", {4: "-0"}, 4),  # the bad row is removed while it is looked for
        ("r1! r0", {0: "+", 5: "+!"}, 5),  # the look at the end fails as well
        ("r10 r9 r8 r7 r6 r5! r4 r3 r2 r1 r0", {4: "+", 5: "-1"}, 5),  # a bad row is met at two places
        ("r2 r1! r0", {4: "+", 6: "-0"}, 3),  # only the page behind the end shows the longer listing
        ("r2! r1! r0", {5: "-1"}, 6),  # a bad row that was removed counts no more
        ("r5! r4 r3 r2! r1 r0", {3: "+ +", 7: "-0 -3"}, 3),
        ("r5 r4 r3 r2 r1! r0", {2: "-0", 3: "+"}, 2),
    ],
)
def test_a_bad_row_that_is_met_twice_counts_once(
    rows: str, script: dict[float, str], size: int, count: str, second_query: bool
) -> None:
    for shift in range(-4, 8):
        moved = {max(0, moment + shift + second_query / 2): words for moment, words in script.items()}
        for past_end in ("empty", "404", "206"):
            case = case_of(rows, moved, size, Server(count=count, past_end=past_end))
            verdict = judge(case, *case.run())
            assert verdict in ("complete", "raised", "unreported", *(["exception"] if shift else []))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_row_removed_between_the_queries_of_the_first_answer_is_noticed(size: int) -> None:
    length = 3 * size + 2
    for index in (0, size - 1):
        case = Case(range(length), Server(), size, script={0.5: [("delete", index)]})
        listing, out = case.run()
        assert out.error is None
        assert not missing(listing, out)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), min_size=1, max_size=8))
def test_a_row_seen_before_and_after_an_answer_existed_then(answers: list[list[str]]) -> None:
    tracker = RowTracker()
    for shown in answers:
        tracker.observe(shown, 0)
    for number in range(len(answers)):
        before = {key for shown in answers[: number + 1] for key in shown}
        after = {key for shown in answers[number + 1 :] for key in shown}
        assert tracker.seen_across(number) == len(before & after)
        until = {key for shown in answers[:number] for key in shown}
        assert tracker.seen_at(number) == len(set(answers[number]) | (until & after))


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_row_below_a_known_one_is_old(ahead: int) -> None:
    """Rows that enter while pages are read do not stand for rows that were lost meanwhile."""
    for seed in range(300):
        rng = random.Random(seed)
        script = {
            rng.randrange(6) + rng.choice([0, 0.5]): [("insert", 0)] * rng.randint(1, 3),
            rng.randrange(6) + 0.25: [("delete", 0)],
            rng.randrange(6): [("delete", rng.randrange(9))] * rng.randint(1, 3),
        }
        listing, out = Case(range(200), Server(), 40, script=script, ahead=ahead).run()
        assert out.error is None
        assert not missing(listing, out)


BAD = st.sets(st.integers(0, 59), max_size=3)


@settings(max_examples=300)
@given(
    st.integers(0, 60),
    st.sampled_from([1, 2, 3, 4, 5, 7, 8, 10, 11, 13, 20, 50, 97, 100]),
    BAD,
    st.sampled_from(["empty", "404", "206"]),
    st.sampled_from([1, 1, 3]),
)
def test_a_still_listing_with_bad_rows_ends_without_error(
    length: int, size: int, bad: set[int], past_end: str, ahead: int
) -> None:
    names = frozenset(f"r{n}" for n in bad if n < length)
    listing, out = Case(range(length), Server(past_end=past_end), size, names, ahead=ahead).run()
    assert out.error is None
    assert not missing(listing, out)
    assert not unreported(listing, out)
    assert out.requests <= out.passes * most_requests(length, size, len(names))


def most_requests(length: int, size: int, bad: int) -> float:
    """Requests of one pass, at most."""
    return -(-length // size) + 3 + bad * (2 * math.log2(size) + 2)


@pytest.mark.parametrize(
    ("length", "size", "bad", "server", "tied", "inserts", "passes"),
    [
        (40, 10, 0, Server(), False, 0, 1),
        (40, 10, 2, Server(), False, 0, 2),
        (40, 10, 3, Server(past_end="404"), False, 0, 2),
        (40, 10, 1, Server(), False, 9, 3),
        (40, 10, 0, Server(), True, 5, 2),
        (20, 7, 0, Server(shuffles_ties=True), True, 3, 3),
        (12, 5, 2, Server(clamp=1), False, 0, 3),
        (12, 5, 0, Server(clamp=1), False, 4, 3),
    ],
)
def test_a_listing_that_stops_growing_ends_without_error(
    length: int, size: int, bad: int, server: Server, tied: bool, inserts: int, passes: int
) -> None:
    names = frozenset(f"r{n * 5 + 2}" for n in range(bad))
    for seed in range(20):
        rng = random.Random(seed)
        script: dict[float, list[tuple[str, int]]] = {}
        for _ in range(inserts):
            kind = "insert tied" if tied and rng.random() < 0.5 else "insert"
            script.setdefault(rng.randrange(6), []).append((kind, 0))
        case = Case(range(length), server, size, names, script, tied=tied, seed=seed)
        listing, out = case.run()
        assert out.error is None
        assert not missing(listing, out)
        assert out.passes <= passes
        step = server.clamp or size
        assert out.requests <= out.passes * most_requests(length + inserts, step, bad) + 2 * size


@pytest.mark.parametrize("bad", [0, 1])
def test_most_walks_over_a_long_listing_that_changes_are_complete(bad: int) -> None:
    kind = "long_listings_with_a_bad_row" if bad else "long_listings"
    counts = run_many(400, [kind]).counts[kind]
    assert counts["complete"] >= 0.95 * 400


@settings(max_examples=300)
@given(
    st.integers(0, 14),
    st.integers(1, 5),
    st.sets(st.integers(0, 13), max_size=3),
    st.sampled_from(["zero", "page", "high", "low"]),
    st.sampled_from(["empty", "404", "206", "repeat", "206-string", "500"]),
)
@example(6, 1, {3, 2, 0}, "page", "500")
@example(6, 1, {3, 2, 0}, "page", "repeat")
@example(3, 4, {1}, "high", "repeat")
def test_a_still_listing_with_a_wrong_count_is_complete_or_raises(
    length: int, size: int, bad: set[int], count: str, past_end: str
) -> None:
    names = frozenset(f"r{n}" for n in bad if n < length)
    listing, out = Case(range(length), Server(count=count, past_end=past_end), size, names).run()
    assert out.error is not None or not missing(listing, out)


@given(st.integers(0, 14), st.integers(1, 5), st.sets(st.integers(0, 13), max_size=2))
def test_a_still_listing_without_counts_is_complete_or_raises(length: int, size: int, bad: set[int]) -> None:
    names = frozenset(f"r{n}" for n in bad if n < length)
    for past_end in ("empty", "404", "206", "repeat"):
        listing, out = Case(range(length), Server(count="null", past_end=past_end), size, names).run()
        assert out.error is not None or not missing(listing, out)


@pytest.mark.parametrize(("length", "size"), [(40, 7), (60, 20)])
def test_larger_pages_settle_tied_rows(length: int, size: int) -> None:
    for seed in range(20):
        case = Case([0] * length, Server(shuffles_ties=True), size, tied=True, seed=seed)
        listing, out = case.run()
        assert out.error is None
        assert not missing(listing, out)
        assert out.requests <= 2 * (-(-length // size) + 3)


def test_two_bad_rows_are_not_taken_for_an_outage() -> None:
    listing, out = Case(range(14), Server(), 5, frozenset({"r13", "r7"})).run()
    assert out.error is None
    assert out.unreadable == [1, 7]
    assert not missing(listing, out)
