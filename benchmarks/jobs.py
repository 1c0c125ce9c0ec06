"""The measurements behind the targets. Each is a function from a `Bench` to plain numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from statistics import median
from typing import Any, NamedTuple

from approaches import (
    EXPORTS,
    FORMATS,
    GATE,
    LARGE_PAGES,
    LATENCIES,
    ONE_PAGE,
    REFERENCE,
    RUNS,
    SERIAL,
    WALKS,
    Approach,
    fan_outs,
    prefetches,
)
from dataset import REQUEST_TIME
from measuring import Bench, Result, ratio, say
from measuring import median as median_of

__all__ = ["FULL", "GROUPS", "QUICK", "Plan", "gate", "instructions", "measure"]

LATENCY = 50
"""The latencies, in milliseconds, of the targets with latency."""


class Plan(NamedTuple):
    """The amount of data and the number of repetitions.

    Attributes:
        runs: of the data set that most is measured with.
        times: repetitions, of which there is a median.
        scale: numbers of runs that growth is measured with.
        ahead: requests in flight of the walks with latency; fan_out: of the fan-outs with latency.
        pages: of the walks with latency.
        latencies: milliseconds, of the plot.
        full: what takes long is measured as well: slow consumers, pages of 20 MB, watching.
    """

    runs: int
    times: int
    scale: tuple[int, ...]
    ahead: tuple[int, ...]
    fan_out: tuple[int, ...]
    fan_out_runs: int
    pages: int
    latencies: tuple[int, ...]
    imports: int
    full: bool


FULL = Plan(
    runs=2_000,
    times=5,
    scale=(200, 2_000, 20_000),
    ahead=(4, 8, 16, 32),
    fan_out=(8, 32),
    fan_out_runs=2_000,
    pages=100,
    latencies=(0, 10, 50, 100),
    imports=21,
    full=True,
)
QUICK = Plan(
    runs=200,
    times=1,
    scale=(),
    ahead=(8, 32),
    fan_out=(32,),
    fan_out_runs=200,
    pages=20,
    latencies=(0, 50),
    imports=3,
    full=False,
)


def measure(
    bench: Bench,
    plan: Plan,
    found: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
    only: Collection[str] = (),
) -> None:
    """Measure group by group into `found`, and call `save` after each group.

    Raises:
        RuntimeError: a group could not be measured; the others were.
    """
    failed: list[str] = []
    found["plan"] = plan._asdict()
    bench.once(EXPORTS[0].arguments(plan.runs))  # fills the cache of the service
    for name, group in GROUPS.items():
        if (not only or name in only) and (plan.full or name not in _FULL_ONLY):
            try:
                found[name] = group(bench, plan)
            except RuntimeError as error:
                failed.append(str(error))
            save(found)
    if failed:
        raise RuntimeError("\n".join(failed))


def _exports(bench: Bench, plan: Plan) -> dict[str, Result]:
    chosen = [one for one in EXPORTS if plan.full or not one.extra_peer]
    return bench.turns(chosen, plan.times, plan.runs)


def _walks(bench: Bench, plan: Plan) -> dict[str, Result]:
    return bench.turns((REFERENCE, *WALKS), plan.times, plan.runs)


def _formats(bench: Bench, plan: Plan) -> dict[str, Result]:
    return bench.turns(FORMATS, plan.times, plan.runs)


_ROW_TIME = 240
"""Microseconds for each row: four pages of 1,000 rows per second, as from the real service, or 40 of 100."""


def _serial(bench: Bench, plan: Plan) -> dict[str, dict[str, Result]]:
    """Measure reading from a service that answers one request after another.

    `least_requests` and `least_time` of a result are what the pages take if nothing else is requested.
    """
    groups: dict[str, tuple[Sequence[Approach], int, int, int | None]] = {
        "one page": (ONE_PAGE, plan.times, 10, 60),
        # The service takes nearly all of the time, so the turns hardly differ.
        "many pages": (SERIAL, min(2, plan.times), 560 if plan.full else 200, None),
    }
    if plan.full:
        groups["large pages"] = LARGE_PAGES, 1, 1_900, None  # 21 of them
    found: dict[str, dict[str, Result]] = {}
    for name, (approaches, times, runs, tasks) in groups.items():
        results = found[name] = bench.turns(approaches, times, runs, tasks=tasks, row_time=_ROW_TIME)
        for one in approaches:
            listings = [results[one.name]["rows"]]
            if one.module in {"unpod_export", "dlt_rest"}:
                listings.append(runs)
            requests = sum(-(-rows // one.page_size) for rows in listings)
            results[one.name] |= {
                "page_size": one.page_size,
                "listings": len(listings),
                "least_requests": requests,
                "least_time": (requests * REQUEST_TIME + sum(listings) * _ROW_TIME) / 1e6,
            }
    return found


def _items(bench: Bench, plan: Plan) -> Result:
    return bench.once(["-m", "peers.unpod_items", "--space", "r200", "--cold"])


def _latencies(bench: Bench, plan: Plan) -> dict[str, dict[str, Result]]:
    return {
        str(latency): bench.turns(LATENCIES, plan.times, plan.runs, latency=latency)
        for latency in plan.latencies
    }


def _prefetches(bench: Bench, plan: Plan) -> dict[str, dict[str, Result]]:
    rows = plan.pages * 100
    return {
        # A run has more than ten tasks.
        str(ahead): bench.turns(prefetches(ahead), plan.times, rows // 10, tasks=rows, latency=LATENCY)
        for ahead in plan.ahead
    }


def _fan_outs(bench: Bench, plan: Plan) -> dict[str, dict[str, Result]]:
    return {
        str(ahead): bench.turns(fan_outs(ahead), plan.times, plan.fan_out_runs, latency=LATENCY)
        for ahead in plan.fan_out
    }


def _scale(bench: Bench, plan: Plan) -> dict[str, dict[str, Result]]:
    """Measure few and many runs in the same turn, because the speed of the machine drifts."""
    found: dict[str, list[dict[str, Result]]] = {str(runs): [] for runs in plan.scale}
    for _ in range(plan.times):
        for runs in plan.scale:
            found[str(runs)].append(bench.turns(RUNS, 1, runs))
    return {
        runs: {one.name: median_of([turn[one.name] for turn in turns]) for one in RUNS}
        for runs, turns in found.items()
    }


def instructions(bench: Bench, counter: str) -> dict[str, int]:
    """Return the instructions that each approach takes for 200 runs, by name.

    Under callgrind those that are slow by themselves run into their own time-outs, so they are left out.
    """
    return {
        one.name: bench.instructions(one, 200, counter)
        for one in (*EXPORTS, *WALKS)
        if not (one.slow and counter == "callgrind")
    }


def gate(bench: Bench, counter: str | None, times: int) -> dict[str, float]:
    """Return the ratios of the gate to the reference, by instructions if they can be counted."""
    if counter is not None:
        base = bench.instructions(REFERENCE, 200, counter)
        return {one.name: bench.instructions(one, 200, counter) / base for one in GATE}
    found = bench.turns((REFERENCE, *GATE), times, 1_000)
    return {one.name: ratio(found[one.name], found[REFERENCE.name], "cpu") for one in GATE}


def _memory(bench: Bench, plan: Plan) -> dict[str, Result]:
    large = 5_300  # rows of 3.86 kB: 20 MB
    found: dict[str, Result] = {}
    for mode in ("flat", "raw"):
        one = Approach("", "unpod_walk", mode=mode, page_size=large, ahead=1)
        say(f"a page of 20 MB, {mode}")
        found[f"page of 20 MB, {mode}"] = bench.once(one.arguments(1_000, large))
    for mode, ahead in (("flat", 8), ("runs", 8)):
        for slow in (0.0, 0.1):
            say(f"a consumer that takes {slow} s per page, {mode}")
            one = Approach("", "unpod_walk", mode=mode, ahead=ahead, extra=("--slow", str(slow)))
            found[f"{mode}, {'slow' if slow else 'fast'} consumer"] = bench.once(one.arguments(200))
    return found


def _held(bench: Bench, plan: Plan) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for size, rows in (("4 MB", 1_036), ("20 MB", 5_180))[: 2 if plan.full else 1]:
        for mode in ("flat", "raw"):
            say(f"how long a page of {size} holds the loop, {mode}")
            one = Approach("", "unpod_walk", mode=mode, page_size=rows, ahead=1, extra=("--tick",))
            results = [bench.once(one.arguments(1_000)) for _ in range(plan.times)]
            # The time of this thread, so that other processes do not count.
            found[f"{size}, {mode}"] = {
                name: median(r[name] for r in results) for name in ("held", "held_wall")
            }
    one = Approach("", "unpod_export", mode="flat", extra=("--tick",))
    results = [bench.once(one.arguments(1_000)) for _ in range(plan.times)]
    found["export"] = {name: median(r[name] for r in results) for name in ("held", "held_wall")}
    return found


_IMPORT = "import time; b = time.process_time(); {}; print(time.process_time() - b)"


def _imports(bench: Bench, plan: Plan) -> dict[str, float]:
    """Return the median processor time, in seconds, of an import in a new interpreter."""
    ways = {
        "aiohttp": "import aiohttp",
        "unpod_async": "import unpod_async",
        "unpod_async.UnpodClient": "from unpod_async import UnpodClient",
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(plan.imports + 1):
        for name, statement in ways.items():
            say(f"import {name}")
            finished = subprocess.run(  # noqa: S603 - starts this interpreter with constant code
                [sys.executable, "-c", _IMPORT.format(statement)],
                # Without bytecode files, each import would compile the modules.
                env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
                capture_output=True,
                text=True,
                check=True,
            )
            if turn:  # the first turn writes the bytecode
                found[name].append(float(finished.stdout))
    return {name: median(seconds) for name, seconds in found.items()}


def _watch(bench: Bench, plan: Plan) -> Result:
    say("watching 100 spaces for a minute")
    return bench.once([
        "-m",
        "peers.unpod_watch",
        "--space",
        "r20",
        "--ahead",
        "100",
        "--slow",
        "60",
        "--cold",
    ])


GROUPS: dict[str, Callable[[Bench, Plan], Any]] = {
    "exports": _exports,
    "formats": _formats,
    "walks": _walks,
    "items": _items,
    "serial": _serial,
    "latency": _latencies,
    "prefetch": _prefetches,
    "fan_out": _fan_outs,
    "scale": _scale,
    "memory": _memory,
    "held": _held,
    "imports": _imports,
    "watch": _watch,
}
"""The groups of measurements, by their name in the results."""

_FULL_ONLY = {"scale", "memory", "watch"}
"""Groups that are meaningless with little data, or take too long."""
