"""Format the results as text: the tables and the targets of the README."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from approaches import EXPORTS, REFERENCE, WALKS
from measuring import ratio
from targets import lines

__all__ = ["ceiling", "claims", "machine", "report", "setting", "table"]

_MIB = 2**20
_PACKAGES = ("aiohttp", "msgspec", "anyio", "orjson", "httpx", "pydantic", "requests", "dlt")


def machine() -> dict[str, Any]:
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2] for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0].strip() if names else model
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": model,
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
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


def ceiling(found: dict[str, Any]) -> str:
    """Return the capacity of the service, from the time it takes for a client that only reads."""
    only = found["exports"][EXPORTS[0].name]
    busy = {name: one for name, one in found["exports"].items() if one["rows"]}
    share = max((result["origin_cpu"] / result["wall"], name) for name, result in busy.items())
    speed, flow = only["requests"] / only["wall"], only["received"] / only["wall"] / 1e6
    own = only["origin_cpu"] / only["requests"] * 1e6
    return (
        f"The service gives {speed:,.0f} requests/s and {flow:,.0f} MB/s to a client that only reads, and "
        f"takes {own:.0f} us of its own processor per request. In the table it is busy {share[0]:.0%} of the "
        f"time at most, with {share[1]}."
    )


def setting(found: dict[str, Any]) -> str:
    """Return a description of the machine, the versions and the method."""
    made, plan = found["machine"], found["plan"]
    packages = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    rows = found["exports"][REFERENCE.name]["rows"]
    method = (
        f"{made['processor']}, a core for the client and one for the service; "
        f"Python {made['python']}, {packages}. "
        f"{plan['runs']:,} runs with {rows:,.0f} tasks, 32 requests in flight, pages of 100, no latency; "
        f"medians of {plan['times']}; 1 is the reference."
    )
    if "counter" in found:
        method += f" Instructions are counted by {found['counter']}, with 200 runs."
    if not plan["full"]:
        method += (
            " This is the quick benchmark: with so little data fixed costs weigh more than in the targets, "
            "which speak of 2,000 runs and 100 pages."
        )
    return method


def claims(found: dict[str, Any]) -> str:
    """Return the table of the targets."""
    judged = ["| | target | measured | |", "|---|---|---|---|"]
    for line in lines(found):
        note = f" ({line.note})" if line.note else ""
        verdict = "met" if line.met else "**missed**"
        measured = f"{line.measured:.2f} {line.unit}{note}"
        judged.append(f"| {line.number}. {line.what} | {line.target} | {measured} | {verdict} |")
    return "\n".join(judged)


def report(found: dict[str, Any]) -> str:
    return "\n\n".join([
        setting(found),
        table(found, "exports"),
        "Tasks for a loop to use:",
        table(found, "walks"),
        claims(found),
        ceiling(found),
    ])
