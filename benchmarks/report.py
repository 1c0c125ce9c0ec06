"""Format the results as text: the tables and the targets of docs/explain/performance.md."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from approaches import EXPORTS, FORMATS, JSONL, LARGE_PAGES, ONE_PAGE, REFERENCE, SERIAL, WALKS
from dataset import data_set
from measuring import ratio
from targets import lines

__all__ = ["machine", "report", "sections"]

_MIB = 2**20
_SERIAL = (
    "A service that answers one request after another, as the real one does: 25 ms for a page of 100 rows,"
    " 241 ms for 1,000 rows, as there. An export, and dlt, read two listings: runs and tasks. Up to two more"
    " requests per listing are the cost of the proof that no row is missing. The last column is the time"
    " divided by what the service takes for the pages alone."
)
_PACKAGES = (
    "aiohttp",
    "msgspec",
    "anyio",
    "orjson",
    "httpx",
    "pydantic",
    "requests",
    "dlt",
    "pyarrow",
    "duckdb",
    "polars",
)


def machine() -> dict[str, Any]:
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2] for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0].strip() if names else model
    optional: dict[str, str] = {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        optional["zlib-ng"] = importlib.metadata.version("zlib-ng")  # `jsonl.gz` is faster with it
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": model,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES} | optional,
    }


def table(found: dict[str, Any], group: str) -> str:
    results, counts = found[group], found.get("instructions", {})
    reference = results[REFERENCE.name]
    text = [
        "| approach | CPU | wall | instructions | us/task | tasks/s | requests | MiB over imports |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in EXPORTS if group == "exports" else (REFERENCE, *WALKS):
        result = results.get(one.name)
        if result is None:
            continue  # results from before this approach existed
        # Approaches that only read bytes have the same number of rows as the others.
        rows = result["rows"] or reference["rows"]
        share = f"{counts[one.name] / counts[REFERENCE.name]:.2f}" if one.name in counts else "-"
        name = f"**{one.name}**" if one is REFERENCE else one.name
        cells = (
            name,
            f"{ratio(result, reference, 'cpu'):.2f}",
            f"{ratio(result, reference, 'wall'):.2f}",
            share,
            f"{result['cpu'] / rows * 1e6:.1f}",
            f"{rows / result['wall']:,.0f}",
            f"{result['requests']:,.0f}",
            f"{result['peak'] / _MIB:.0f}",
        )
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def formats(found: dict[str, Any]) -> str:
    """Return the table of the formats: by processor time, 1 is JSONL."""
    results = found["formats"]
    text = ["| export | CPU | us/task | tasks per CPU second | wall | MiB over imports | MB |"]
    text.append("|---" * 7 + "|")
    for one in FORMATS:
        result = results[one.name]
        cells = (
            f"**{one.name}**" if one is JSONL else one.name,
            f"{ratio(result, results[JSONL.name], 'cpu'):.2f}",
            f"{result['cpu'] / result['rows'] * 1e6:.1f}",
            f"{result['rows'] / result['cpu']:,.0f}",
            f"{ratio(result, results[JSONL.name], 'wall'):.2f}",
            f"{result['peak'] / _MIB:.0f}",
            f"{result['written'] / 1e6:.1f}",
        )
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def serial(found: dict[str, Any]) -> str:
    """Return the table of a service that answers one request after another."""
    columns = "reader", "page size", "rows", "requests", "for pages", "service busy, s", "seconds"
    text = [f"| {' | '.join(columns)} | against the pages alone |", "|---" * 8 + "|"]
    for group, approaches in (("many pages", SERIAL), ("large pages", LARGE_PAGES), ("one page", ONE_PAGE)):
        for one in approaches if group in found["serial"] else ():
            result = found["serial"][group][one.name]
            cells = (
                one.name,
                f"{one.page_size:,}",
                f"{result['rows']:,.0f}",
                f"{result['requests']:.0f}",
                f"{result['least_requests']:.0f}",
                f"{result['origin_work']:.3f}",
                f"{result['wall']:.3f}",
                f"{result['wall'] / result['least_time']:.2f}",
            )
            text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def ceiling(found: dict[str, Any]) -> str:
    """Return the capacity of the service, from the time it takes for a client that only reads."""
    only = found["exports"][EXPORTS[0].name]
    busy = {name: one for name, one in found["exports"].items() if one["rows"]}
    share = max((result["origin_cpu"] / result["wall"], name) for name, result in busy.items())
    speed, flow = only["requests"] / only["wall"], only["received"] / only["wall"] / 1e6
    own = only["origin_cpu"] / only["requests"] * 1e6
    return (
        f"The service answers {speed:,.0f} requests/s ({flow:,.0f} MB/s) to a client that only reads, and "
        f"uses {own:.0f} us of processor time per request. In the table it is busy at most {share[0]:.0%} of "
        f'the time, with the approach "{share[1]}".'
    )


def setting(found: dict[str, Any]) -> str:
    """Return a description of the machine, the versions and the method."""
    made, plan = found["machine"], found["plan"]
    packages = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    rows = data_set(plan["runs"]).tasks
    method = (
        f"{made['processor']}, a core for the client and one for the service; "
        f"Python {made['python']}, {packages}. "
        f"{plan['runs']:,} runs with {rows:,} tasks, 32 requests in flight, pages of 100, no latency; "
        f"medians of {plan['times']}."
    )
    if "counter" in found:
        method += f" Instructions are counted by {found['counter']}, with 200 runs."
    if not plan["full"]:
        method += (
            " This is the quick benchmark: with so little data fixed costs weigh more than in the targets, "
            "which speak of 2,000 runs and 100 pages."
        )
    return method


def claims(found: dict[str, Any], least: int, most: int) -> str:
    """Return the table of the targets with these numbers."""
    judged = ["| | target | measured | |", "|---|---|---|---|"]
    for line in lines(found):
        if not least <= line.number <= most:
            continue
        note = f" ({line.note})" if line.note else ""
        verdict = "met" if line.met else "**missed**"
        measured = f"{line.measured:.2f} {line.unit}{note}"
        judged.append(f"| {line.number}. {line.what} | {line.target} | {measured} | {verdict} |")
    return "\n".join(judged)


def sections(found: dict[str, Any]) -> dict[str, list[str]]:
    """Return the parts of the report: by name, its paragraphs. A part is left out if it was not measured."""
    parts: dict[str, list[str]] = {}
    if found.keys() >= {"exports", "walks"}:
        parts["approaches"] = [
            setting(found),
            "Exports; 1 is the approach in bold:",
            table(found, "exports"),
            "Tasks that a Python loop reads; 1 is the same approach:",
            table(found, "walks"),
            ceiling(found),
            claims(found, 1, 7),
        ]
    if found.keys() >= {"formats", "serial"}:
        parts["formats"] = [
            setting(found),
            "The whole export in each format; 1 is JSONL:",
            formats(found),
            _SERIAL,
            serial(found),
            claims(found, 8, 9),
        ]
    return parts


def report(found: dict[str, Any]) -> str:
    return "\n\n".join(text for part in sections(found).values() for text in part)
