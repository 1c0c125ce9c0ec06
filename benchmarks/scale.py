"""Simulate exports of up to 10 million tasks by one process, by shards, and on a Dask cluster.

    python benchmarks/scale.py                            # the tables of docs/explain/scaling.md: a minute
    python benchmarks/scale.py --tasks 2000000 --rate 5   # an export of your own; --help lists all options
    python benchmarks/scale.py --check                    # compares it with real exports: 3 minutes

Times are in seconds. The exit status of `--check` is 1 if the requests differ, or if a time differs by more
than 25 %.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeAlias, get_args, get_type_hints

from scale_model import Setting, simulate

# -- tables -------------------------------------------------------------------------------------------------

Rows: TypeAlias = Mapping[str, Mapping[str, Any]]

WAYS: Rows = {
    "one process": {},
    "4 shards, 4 machines": {"shards": 4, "workers": 4},
    "16 shards, Dask, 16 machines": {"shards": 16, "workers": 16, "shared_limit": True},
    "64 shards, Dask, 16 machines": {"shards": 64, "workers": 16, "shared_limit": True},
}
ONE_SPACE: Rows = {
    "100,000 tasks": {"tasks": 100_000, "runs": 10_000},
    "1,000,000 tasks": {"tasks": 1_000_000, "runs": 100_000},
    "10,000,000 tasks": {},
    "- at most 5 requests per second": {"rate": 5},
    "- your function takes 10 ms per task": {"process": 0.01},
    "- your function takes 100 ms per task": {"process": 0.1},
    "- each has a recording of 0.2 s": {"recording": 0.2},
}
HOST_WAYS: Rows = {"one process": {}, "10 processes, an export each": {"workers": 10}}
TEN_HOSTS: Rows = {
    "JSONL": {"hosts": 10},
    "Parquet": {"hosts": 10, "row_cpu": 0.000055},
    "Parquet, redacted": {"hosts": 10, "row_cpu": 0.000207},
}


def table(rows: Rows, ways: Rows, times: int = 1) -> str:
    """Return a Markdown table of times, requests and bottlenecks. Each is the average of some seeds."""
    lines = ["| " + " | ".join(["", *ways]) + " |", "|---" * (len(ways) + 1) + "|"]
    for name, row in rows.items():
        cells = [name]
        for way in ways.values():
            setting = Setting(**{**row, **way})
            found = [simulate(replace(setting, seed=setting.seed + turn)) for turn in range(times)]
            seconds, requests = (sum(values) / times for values in list(zip(*found, strict=True))[:2])
            cells.append(f"{duration(seconds)}, {requests:,.0f}, {found[0].bottleneck}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"{seconds:.0f} s"


# -- real exports -------------------------------------------------------------------------------------------


_TOLERANCE = 0.25


async def check(times: int) -> bool:
    """Compare the simulation with real exports, and return whether it is right."""
    import scale_runs  # the simulation needs no packages

    costs = await scale_runs.costs_here()
    print("here:", ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in costs.items() if seconds))
    print("| service | way | requests | simulated | seconds | simulated | ratio | |")
    print("|---|---|---|---|---|---|---|---|")
    is_right = True
    for service in scale_runs.SERVICES:
        for real in await scale_runs.measure(service, costs, times=times):
            found = simulate(Setting(**real.setting))
            ratio = found.seconds / real.seconds
            good = found.requests == real.requests and abs(ratio - 1) <= _TOLERANCE
            is_right = is_right and good
            print(
                f"| {real.service} | {real.way} | {real.requests} | {found.requests} | {real.seconds:.2f} "
                f"| {found.seconds:.2f} | {ratio:.2f} | {'' if good else 'WRONG'} |"
            )
    return is_right


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate large exports; see docs/explain/scaling.md.")
    parser.add_argument("--check", action="store_true", help="compare the simulation with real exports")
    parser.add_argument(
        "--times",
        type=int,
        help="average of so many simulations (1); or the fastest of so many real exports (3)",
    )
    hints = get_type_hints(Setting, include_extras=True)
    for field in fields(Setting):
        kind, *text = get_args(hints[field.name])
        if isinstance(text[0], str):  # the others are of a real export
            flag = f"--{field.name.replace('_', '-')}"
            shown = "" if field.default is None else f" ({field.default})"
            parse: Any = {bool: {"action": "store_true"}}.get(kind, {"type": _PARSERS.get(kind, kind)})
            parser.add_argument(flag, default=argparse.SUPPRESS, help=f"{text[0]}{shown}", **parse)
    options = vars(parser.parse_args())
    is_check, times = options.pop("check"), options.pop("times")
    if is_check:
        return int(not asyncio.run(check(times or 3)))
    if not options:
        print(table(ONE_SPACE, WAYS), table(TEN_HOSTS, HOST_WAYS), sep="\n\n")
    else:
        is_one_way = not options.keys().isdisjoint(_WAY)
        print(table({"yours": options}, {"simulated": {}} if is_one_way else WAYS, times or 1))
    return 0


_PARSERS: Mapping[Any, Any] = {float | None: float, int | None: int}
_WAY = {"shards", "workers", "shared_limit", "pool", "local"}


if __name__ == "__main__":
    sys.exit(main())
