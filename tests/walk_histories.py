"""Kinds of random histories of a listing, each walked in memory: thousands in a second, no I/O.

`python -m tests.walk_histories 1000000` prints for each kind how many walks were complete, raised, or lost
a row in a history that no client can distinguish from a complete one.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from tests.walk_model import Case, Change, Listing, Outcome, Server, missing, unreported
from unpod_async.errors import IncompleteListing

_CHUNK = 10_000
"""Number of histories that a process walks at a time."""

MOMENTS = 60
"""Answers during which a listing changes; after them it stands still."""

PAST_END = ["empty", "404", "206", "repeat"]
FAILS_PAST_END = ["206-string", "500"]
AHEAD = [(1, False), (1, False), (2, False), (3, False), (5, False), (2, True), (5, True)]


class Results(NamedTuple):
    """How the walks over many histories ended."""

    counts: dict[str, Counter[str]]
    """By kind and by verdict, see `judge`."""

    faults: list[tuple[str, int, str]]
    """Kind, seed and verdict of each history that lost a row although a client can tell."""


def _server(rng: random.Random, **odd: object) -> Server:
    past_end = str(odd.pop("past_end", None) or rng.choice(PAST_END))
    kind = rng.randrange(6)
    if kind == 0:
        odd["clamp"] = rng.randint(1, 3)
    elif kind == 1:
        odd["own_size"] = rng.randint(1, 6)
    elif kind == 2 and rng.random() < 0.5:
        odd["everything"] = True
    return Server(past_end=past_end, **odd)  # type: ignore[arg-type]


def _splittable(rng: random.Random, **odd: object) -> Server:
    """A server that can be asked for smaller pages."""
    clamp = rng.choice([None, None, None, 1, 2, 3])
    past_end = rng.choice(["empty", "empty", "404", "206"])
    return Server(clamp=clamp, past_end=past_end, **odd)  # type: ignore[arg-type]


def _script(
    rng: random.Random,
    rates: Iterable[tuple[str, float]],
    *,
    second_query: bool = False,
    moments: int = MOMENTS,
    most: int | None = None,
) -> dict[float, list[Change]]:
    rates = [(kind, rate) for kind, rate in rates if rate]
    script: dict[float, list[Change]] = {}
    if not rates:
        return script
    made = 0
    for moment in range(moments):
        for at in (moment, moment + 0.5) if second_query else (moment,):
            for _ in range(3 if most is None else 1):
                for kind, rate in rates:
                    if rng.random() < rate and (most is None or made < most):
                        made += 1
                        number = rng.randint(0, 4) if kind == "clamp" else rng.randrange(100)
                        script.setdefault(at, []).append((kind, number))
    return script


def _groups(rng: random.Random, *, tied: bool) -> list[int]:
    length = rng.randint(0, 14)
    return [rng.randint(0, 3) for _ in range(length)] if tied else list(range(length))


def _bad(rng: random.Random, length: int, most: int) -> frozenset[str]:
    if not length:
        return frozenset()
    return frozenset(f"r{rng.randrange(length)}" for _ in range(rng.randint(1, most)))


def _case(
    rng: random.Random,
    *,
    rates: Iterable[tuple[str, float]] = (),
    second_query: bool = False,
    bad: int = 0,
    tied: bool = False,
    server: Server | None = None,
    ahead: tuple[int, bool] | None = None,
) -> Case:
    groups = _groups(rng, tied=tied)
    pages, preview = ahead or rng.choice(AHEAD)
    return Case(
        groups,
        server or _server(rng, shuffles_ties=tied and rng.random() < 0.7),
        rng.randint(1, 5),
        _bad(rng, len(groups), bad) if bad else frozenset(),
        _script(rng, rates, second_query=second_query),
        pages,
        preview,
        tied,
        rng.randrange(2**32),
    )


def _changes(rng: random.Random, *extra: tuple[str, float]) -> list[tuple[str, float]]:
    inserts, deletes = rng.choice([0, 0.1, 0.3]), rng.choice([0, 0.05, 0.1, 0.3])
    few = rng.choice([1, 1, 0.1])
    return [
        ("insert", inserts * 0.7 * few),
        ("insert tied", inserts * 0.3 * few),
        ("delete", deletes * few),
        *((kind, rate * few) for kind, rate in extra),
    ]


def inserts_and_deletes(rng: random.Random) -> Case:
    return _case(rng, rates=_changes(rng))


def counts_of_a_second_query(rng: random.Random) -> Case:
    return _case(rng, rates=_changes(rng), second_query=True)


def counts_of_a_first_query(rng: random.Random) -> Case:
    return _case(rng, rates=_changes(rng), second_query=True, server=_server(rng, count_first=True))


def missing_counts(rng: random.Random) -> Case:
    return _case(rng, rates=_changes(rng), server=_server(rng, count="null"))


def bad_rows(rng: random.Random) -> Case:
    rates = _changes(rng, ("insert bad", rng.choice([0, 0.05])), ("delete bad", rng.choice([0, 0.05])))
    return _case(rng, rates=rates, bad=3, server=_splittable(rng))


def bad_rows_and_a_second_query(rng: random.Random) -> Case:
    rates = _changes(rng, ("insert bad", rng.choice([0, 0.05])), ("delete bad", rng.choice([0, 0.05])))
    return _case(rng, rates=rates, bad=3, second_query=True, server=_splittable(rng))


def rows_that_break_and_mend(rng: random.Random) -> Case:
    rates = _changes(rng, ("break", 0.05), ("mend", 0.1), ("insert bad", 0.02), ("delete bad", 0.02))
    return _case(rng, rates=rates, bad=2, server=_splittable(rng))


def bad_rows_without_counts(rng: random.Random) -> Case:
    rates = _changes(rng, ("insert bad", rng.choice([0, 0.05])), ("delete bad", rng.choice([0, 0.05])))
    return _case(rng, rates=rates, bad=2, server=_splittable(rng, count="null"))


def bad_rows_and_an_end_that_fails(rng: random.Random) -> Case:
    server = Server(past_end=rng.choice(FAILS_PAST_END))
    return _case(rng, rates=_changes(rng), bad=2, server=server)


def ties(rng: random.Random) -> Case:
    return _case(rng, rates=_changes(rng), tied=True, second_query=rng.random() < 0.5)


def ties_and_bad_rows(rng: random.Random) -> Case:
    server = _splittable(rng, shuffles_ties=rng.random() < 0.7)
    return _case(rng, rates=_changes(rng), tied=True, bad=2, server=server)


def still_ties_and_bad_rows(rng: random.Random) -> Case:
    return _case(rng, tied=True, bad=3, server=_splittable(rng, shuffles_ties=rng.random() < 0.7))


def bad_rows_on_odd_servers(rng: random.Random) -> Case:
    return _case(rng, rates=_changes(rng), bad=2, second_query=rng.random() < 0.5)


def pages_that_change(rng: random.Random) -> Case:
    server = Server(clamp=rng.choice([None, 1, 2, 3]), past_end=rng.choice(PAST_END))
    return _case(rng, rates=_changes(rng, ("clamp", 0.05)), server=server)


def late_counts(rng: random.Random) -> Case:
    return _case(rng, rates=_changes(rng), server=Server(count="late", past_end=rng.choice(PAST_END)))


def wrong_counts(rng: random.Random) -> Case:
    server = Server(count=rng.choice(["zero", "page", "high", "low"]), past_end=rng.choice(PAST_END))
    return _case(rng, rates=_changes(rng), server=server)


def wrong_counts_and_bad_rows(rng: random.Random) -> Case:
    """A listing that stands still."""
    past_end = rng.choice([*PAST_END, *FAILS_PAST_END])
    server = Server(count=rng.choice(["null", "zero", "page", "high", "low"]), past_end=past_end)
    return _case(rng, server=server, bad=3)


def _long(rng: random.Random, *, bad: int, second_query: bool, tied: bool = False) -> Case:
    length = rng.randint(20, 250)
    size = rng.choice([7, 20, 50, 100, 100])
    moments = 2 * (length // size + 2) + (16 if bad else 0)
    rates = [("insert", 4 / moments), ("delete", 4 / moments)]
    groups = sorted(rng.randrange(length // 2) for _ in range(length)) if tied else range(length)
    return Case(
        groups,
        Server(past_end=rng.choice(PAST_END), shuffles_ties=tied),
        size,
        frozenset(f"r{rng.randrange(length)}" for _ in range(bad)),
        _script(rng, rates, second_query=second_query, moments=moments, most=6),
        *rng.choice(AHEAD),
        tied,
        rng.randrange(2**32),
    )


def long_listings(rng: random.Random) -> Case:
    return _long(rng, bad=0, second_query=True)


def long_listings_with_a_bad_row(rng: random.Random) -> Case:
    return _long(rng, bad=1, second_query=rng.random() < 0.5)


def long_listings_with_ties(rng: random.Random) -> Case:
    return _long(rng, bad=rng.choice([0, 0, 1]), second_query=rng.random() < 0.5, tied=True)


def rows_of_known_size(rng: random.Random) -> Case:
    """Whether one request may read the whole listing depends on the size of its rows."""
    length, size, tied = rng.randint(1, 100), rng.choice([1, 5, 10, 40]), rng.random() < 0.3
    groups = sorted(rng.randrange(length) for _ in range(length)) if tied else range(length)
    row_bytes = rng.choice([1, 900, 1100, 2000, 70_000, 500_000])
    rates = [("insert", 0.05), ("delete", 0.05)]
    return Case(
        groups,
        Server(past_end=rng.choice(PAST_END), shuffles_ties=tied, row_bytes=row_bytes),
        size,
        script=_script(rng, rates, moments=20, most=6),
        tied=tied,
        seed=rng.randrange(2**32),
    )


KINDS: dict[str, Callable[[random.Random], Case]] = {
    make.__name__: make
    for make in (
        inserts_and_deletes,
        counts_of_a_second_query,
        counts_of_a_first_query,
        missing_counts,
        bad_rows,
        bad_rows_and_a_second_query,
        rows_that_break_and_mend,
        bad_rows_without_counts,
        bad_rows_and_an_end_that_fails,
        ties,
        ties_and_bad_rows,
        still_ties_and_bad_rows,
        bad_rows_on_odd_servers,
        pages_that_change,
        late_counts,
        wrong_counts,
        wrong_counts_and_bad_rows,
        long_listings,
        long_listings_with_a_bad_row,
        long_listings_with_ties,
        rows_of_known_size,
    )
}


def outages(rng: random.Random) -> Case:
    """Some requests in a row fail, whichever page they are for."""
    case = _case(rng, rates=_changes(rng), bad=rng.choice([0, 1]), server=_splittable(rng))
    case.script.setdefault(rng.randrange(6), []).append(("outage", rng.randint(1, 12)))
    return case


def odd_servers(rng: random.Random) -> Case:
    """Several oddities at once, more than the guarantee allows, and walks that begin at a later page."""
    odd = rng.choice([
        {},
        {"clamp": rng.randint(1, 3)},
        {"own_size": rng.randint(1, 6)},
        {"everything": True},
    ])
    server = Server(
        count=rng.choice(["true", "true", "null", "zero", "page", "high", "low", "late"]),
        past_end=rng.choice([*PAST_END, *FAILS_PAST_END]),
        ignores_page=rng.random() < 0.1,
        shuffles_ties=rng.random() < 0.1,
        row_bytes=rng.choice([0, 0, 900, 70_000]),
        **odd,  # type: ignore[arg-type]
    )
    tied, moves = rng.random() < 0.2, rng.random() < 0.5
    case = _case(
        rng, rates=_changes(rng) if moves else (), bad=rng.choice([0, 0, 1, 2]), tied=tied, server=server
    )
    case.start_page = rng.choice([1, 1, 1, 2, 3])
    return case


UNGUARANTEED: dict[str, Callable[[random.Random], Case]] = {
    make.__name__: make for make in (outages, odd_servers)
}
"""Kinds of histories in which a walk may end in the error of a request, or lose a row."""


def judge(case: Case, listing: Listing, out: Outcome) -> str:
    """Return how a walk ended.

    Returns:
        "complete"; "raised"; "failed" for the error of a request; "unreported" if a row that cannot be read
        was not reported; "exception" if a row is missing and no client can tell; "lost" if a row is missing;
        or "twice".
    """
    if len(out.yielded) != len(set(out.yielded)):
        return "twice"
    if out.error is not None:
        return "raised" if isinstance(out.error, IncompleteListing) else "failed"
    absent = missing(listing, out)
    if absent:
        return "exception" if has_twin(case, listing, out, absent) else "lost"
    return "unreported" if unreported(listing, out) else "complete"


def has_twin(case: Case, listing: Listing, out: Outcome, absent: set[str]) -> bool:
    """Whether another history has the same requests and answers and loses no row."""
    shown = {key for _, answer in out.transcript if isinstance(answer, tuple) for key in answer[0]}
    there = {key for moment in listing.moments for key, _ in moment.shown}
    if absent & shown:
        return False
    try:
        twin, again = case.run_twin(listing, there - shown - listing.ever_poisoned)
    except IndexError:  # another request than in the first history
        return False
    return again.transcript == out.transcript and again.error is None and not missing(twin, again)


def run_many(number: int, kinds: Iterable[str] | None = None, first: int = 0) -> Results:
    """Walk `number` histories, as many of each kind."""
    names = list(kinds or KINDS)
    results = Results({name: Counter() for name in names}, [])
    for index in range(first, first + number):
        name = names[index % len(names)]
        case = KINDS[name](random.Random(index))
        listing, out = case.run()
        verdict = judge(case, listing, out)
        results.counts[name][verdict] += 1
        if verdict in ("lost", "twice"):
            results.faults.append((name, index, verdict))
    return results


def main() -> None:
    """Walk as many histories as the first argument says, of the kinds that the others name, on all cores."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    kinds = sys.argv[2:] or list(KINDS)
    began = time.time()
    results = Results({name: Counter() for name in kinds}, [])
    firsts = range(0, number, _CHUNK)
    numbers = [min(_CHUNK, number - first) for first in firsts]
    with ProcessPoolExecutor() as pool:
        for part in pool.map(run_many, numbers, itertools.repeat(kinds), firsts):
            results.faults.extend(part.faults)
            for name, count in part.counts.items():
                results.counts[name] += count
    for name, count in results.counts.items():
        print(f"{name:34}", ", ".join(f"{word} {times}" for word, times in sorted(count.items())))
    print(f"{number} histories in {time.time() - began:.0f} s")
    if results.faults:
        sys.exit(f"{len(results.faults)} histories lost a row in silence: {results.faults[:20]}")


if __name__ == "__main__":
    main()
