"""The targets for speed, and the measured value of each. Pure functions from numbers to lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from approaches import (
    COPY_PARQUET,
    DLT_PARQUET,
    EXPORT_FLAT,
    EXPORT_PAGES,
    EXPORT_RUNS,
    JSONL,
    PREFETCH,
    REFERENCE,
    TASKS_LIST,
    TYPED,
    Approach,
    exported,
    fan_outs,
    prefetches,
    varied,
)
from measuring import ratio

__all__ = ["Line", "lines"]

_MIB = 2**20
_ID = 130
"""Limit for the memory, in bytes, that a walk takes for the id of a row."""

_LARGE = "20 MB"

LATENCY = 0.05


class Line(NamedTuple):
    """One target: `measured` must be between `least` and `most`."""

    number: int
    what: str
    measured: float
    least: float | None = None
    most: float | None = None
    unit: str = "x"
    note: str = ""

    @property
    def met(self) -> bool:
        return (self.least is None or self.measured >= self.least) and (
            self.most is None or self.measured <= self.most
        )

    @property
    def target(self) -> str:
        if self.least is None:
            return f"<= {self.most:g} {self.unit}"
        return (
            f">= {self.least:g} {self.unit}"
            if self.most is None
            else f"{self.least:g} to {self.most:g} {self.unit}"
        )


def lines(found: dict[str, Any]) -> list[Line]:
    """Return every target whose groups were measured."""
    return [line for groups, judge in _JUDGES.items() if found.keys() >= set(groups) for line in judge(found)]


def _speed(found: dict[str, Any], group: str, ours: str, theirs: str) -> tuple[float, str]:
    """Return how many times as fast, by processor time or wall time, whichever is less; and both as text.

    Wall time has in it what else runs on the machine; processor time leaves out waiting for the disk.
    """
    results = found[group]
    cpu, wall = (ratio(results[theirs], results[ours], name) for name in ("cpu", "wall"))
    note = f"{cpu:.2f} by processor time, {wall:.2f} by wall time"
    counts = found.get("instructions", {})
    if ours in counts and theirs in counts:
        note += f", {counts[theirs] / counts[ours]:.2f} by instructions"
    return min(cpu, wall), note


def _export(found: dict[str, Any]) -> Iterator[Line]:
    runs, flat = EXPORT_RUNS.name, EXPORT_FLAT.name
    for what, ours, theirs, least in (
        ("export run by run, speed against aiohttp + Raw", runs, REFERENCE.name, 0.9),
        ("export run by run against httpx + pydantic", runs, "httpx + pydantic", 12),
        ("export run by run against dlt", runs, "dlt REST source", 25),
        ("export space-wide against aiohttp + Raw run by run", flat, REFERENCE.name, 1.7),
    ):
        measured, note = _speed(found, "exports", ours, theirs)
        yield Line(1, what, measured, least=least, note=note)
    if (far := found["latency"].get("50")) is not None:
        measured = ratio(far[REFERENCE.name], far[flat], "wall")
        note = f"{far[flat]['wall']:.2f} s, aiohttp + Raw {far[REFERENCE.name]['wall']:.2f} s"
        yield Line(1, "the same at 50 ms, by wall time", measured, least=5, note=note)


def _typed(found: dict[str, Any]) -> Iterator[Line]:
    for ours, theirs in (("tasks.list", "typed peer, page by page"), ("tasks_for", TYPED.name)):
        measured, note = _speed(found, "walks", ours, theirs)
        yield Line(2, f"{ours}, speed against {theirs}", measured, least=1.2, note=note)
    for name in ("listing", "stream"):
        measured = found["items"][f"{name}_us"]
        yield Line(2, f"per yielded item of a {name}, beyond decoding", measured, most=1, unit="us")


def _latency(found: dict[str, Any]) -> Iterator[Line]:
    for ahead, results in found["prefetch"].items():
        theirs, ours = (results[one.name] for one in prefetches(int(ahead)))
        note = f"{ours['wall']:.2f} s, the peer {theirs['wall']:.2f} s"
        yield Line(
            3,
            f"prefetch({ahead}), less one latency, against the peer",
            ratio(ours, theirs, "wall", less=LATENCY),
            most=1.1,
            note=note,
        )
    for ahead, results in found["fan_out"].items():
        theirs, ours, ordered = (results[one.name] for one in fan_outs(int(ahead)))
        note = f"{ours['wall']:.2f} s, the peer {theirs['wall']:.2f} s"
        measured = ratio(ours, theirs, "wall", less=LATENCY)
        yield Line(
            3,
            f"tasks_for, {ahead} at a time, less one latency, against the peer",
            measured,
            most=1.1,
            note=note,
        )
        yield Line(
            3,
            f"tasks_for ordered, {ahead} at a time, against unordered",
            ratio(ordered, ours, "wall"),
            most=1.1,
        )
    walks = found["walks"]
    measured = ratio(walks["tasks_for, ordered"], walks["tasks_for"], "cpu")
    yield Line(3, "the same without latency, by processor time", measured, most=1.1)


def _memory(found: dict[str, Any]) -> Iterator[Line]:
    held = found["held"]
    for name, one in held.items():
        if not name.startswith(_LARGE):
            note = f"{one['held_wall'] * 1e3:.1f} ms by wall time"
            yield Line(
                4, f"longest stop of the event loop: {name}", one["held"] * 1e3, most=20, unit="ms", note=note
            )
    for mode in ("flat", "raw"):
        if (large := held.get(f"{_LARGE}, {mode}")) is not None:
            # Decoded at once, it would block the loop five times as long as a page of a fifth of the size.
            times = large["held"] / held[f"4 MB, {mode}"]["held"]
            note = f"{large['held'] * 1e3:.1f} ms"
            what = f"longest stop of the event loop: {_LARGE}, {mode}, against 4 MB"
            yield Line(4, what, times, most=4.5, note=note)


def _growth(found: dict[str, Any]) -> Iterator[Line]:
    scale = found["scale"]
    small, large = min(scale, key=int), max(scale, key=int)
    for name in (EXPORT_RUNS.name, EXPORT_FLAT.name, "unpod_async tasks_for, typed"):
        before, after = scale[small][name], scale[large][name]
        ids = after["rows"] if name == EXPORT_FLAT.name else int(large)
        grown = (after["peak"] - before["peak"] - _ID * ids) / _MIB
        note = (
            f"{before['peak'] / _MIB:.1f} to {after['peak'] / _MIB:.1f} MiB, ids {_ID * ids / _MIB:.1f} MiB"
        )
        yield Line(
            4,
            f"growth of the peak from {small} to {large} runs: {name}",
            grown,
            most=5,
            unit="MiB",
            note=note,
        )
    memory = found["memory"]
    for mode in ("flat", "raw"):
        one = memory[f"page of 20 MB, {mode}"]
        times = one["peak"] / (5_300 * 3_864)
        yield Line(4, f"memory of a page of 20 MB against its size, {mode}", times, most=3)
    for mode in ("flat", "runs"):
        grown = memory[f"{mode}, slow consumer"]["peak"] - memory[f"{mode}, fast consumer"]["peak"]
        yield Line(4, f"more memory with a slow consumer, {mode}", grown / _MIB, most=1, unit="MiB")


def _scale(found: dict[str, Any]) -> Iterator[Line]:
    scale = found["scale"]
    small, large = sorted(scale, key=int)[-2:]
    factor = int(large) / int(small)
    for name in (EXPORT_RUNS.name, EXPORT_FLAT.name, "unpod_async tasks_for, typed", REFERENCE.name):
        before, after = scale[small][name], scale[large][name]
        measured = ratio(after, before, "cpu")
        note = f"{ratio(after, before, 'wall'):.2f} by wall time"
        what = f"processor time for {large} runs against {small}: {name}"
        yield Line(5, what, measured, least=0.9 * factor, most=1.1 * factor, note=note)


def _imports(found: dict[str, Any]) -> Iterator[Line]:
    imports = found["imports"]
    base = imports["aiohttp"]
    for name in ("unpod_async", "unpod_async.UnpodClient"):
        note = f"{imports[name] * 1e3:.0f} ms, aiohttp {base * 1e3:.0f} ms"
        yield Line(6, f"import of {name} against aiohttp", imports[name] / base, most=1.3, note=note)


def _watch(found: dict[str, Any]) -> Iterator[Line]:
    share = found["watch"]["idle_share"] * 100
    yield Line(7, "watching 100 spaces every 10 s, of one core", share, most=3, unit="%")


def _formats(found: dict[str, Any]) -> Iterator[Line]:
    results = found["formats"]

    def cost(ours: Approach, other: Approach, name: str = "cpu") -> float:
        return ratio(results[ours.name], results[other.name], name)

    for to, most in (("jsonl", 3.5), ("csv", 2), ("parquet", 2)):
        ours = exported(to, redact=True)
        what = f"processor time of {ours.name}, against the same without"
        yield Line(8, what, cost(ours, exported(to)), most=most)
    gzip, parquet = exported("jsonl.gz"), exported("parquet")
    for ours, other in ((gzip, JSONL), (varied(gzip), varied(JSONL))):
        if found["machine"]["packages"].get("zlib-ng"):
            yield Line(
                8, f"processor time of {ours.name}, against {other.name}", cost(ours, other), most=1.25
            )
    for ours, other, least in (
        (parquet, DLT_PARQUET, 8),
        (parquet, COPY_PARQUET, 1),
        (varied(parquet), varied(COPY_PARQUET), 1),
    ):
        note = f"{cost(other, ours, 'wall'):.2f} by wall time"
        yield Line(8, f"{ours.name}, speed against {other.name}", cost(other, ours), least=least, note=note)


def _serial(found: dict[str, Any]) -> Iterator[Line]:
    results = found["serial"]
    for name in (one.name for one in (TASKS_LIST, PREFETCH, EXPORT_PAGES)):
        for one in (results[group][name] for group in ("many pages", "large pages") if group in results):
            time, size = one["wall"] / one["least_time"], one["page_size"]
            note = f"{one['wall']:.2f} s of {one['least_time']:.2f} s"
            yield Line(9, f"{name}, against the time of its pages of {size}", time, most=1.1, note=note)
            more = one["requests"] - one["least_requests"]
            what = f"{name}, requests beyond its pages of {size}"
            note = f"{one['requests']:.0f} for {one['listings']:.0f} listings"
            yield Line(9, what, more, most=2 * one["listings"], unit="requests", note=note)
    for approach in (TASKS_LIST, PREFETCH):
        more = results["one page"][approach.name]["requests"] - 1
        yield Line(
            9, f"{approach.name}, requests beyond its page, for one page", more, most=1, unit="requests"
        )


_JUDGES: dict[tuple[str, ...], Callable[[dict[str, Any]], Iterator[Line]]] = {
    ("exports", "latency"): _export,
    ("walks", "items"): _typed,
    ("prefetch", "fan_out", "walks"): _latency,
    ("held",): _memory,
    ("scale", "memory"): _growth,
    ("scale",): _scale,
    ("imports",): _imports,
    ("watch",): _watch,
    ("formats",): _formats,
    ("serial",): _serial,
}
"""By groups of measurements, the targets that need them."""
