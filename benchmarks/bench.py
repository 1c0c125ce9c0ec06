"""Measure every figure in docs/explain/performance.md, compare it with the targets, and draw the plots.

    python benchmarks/bench.py                  # about 40 minutes
    python benchmarks/bench.py --quick          # under a minute: less data, fewer repetitions
    python benchmarks/bench.py --instructions   # also counts instructions, with perf or else callgrind (slow)
    python benchmarks/bench.py --recount        # only counts instructions; adds them to the existing results
    python benchmarks/bench.py --only held      # measures some groups and keeps the results of the others
    python benchmarks/bench.py --gate           # only the ratios of the gate; exit status 1 if one got worse
    python benchmarks/bench.py --profile        # samples where the time goes, into results/profile-*.txt
    python benchmarks/bench.py --show           # prints the tables of the existing results
    python benchmarks/bench.py --write          # also updates performance.md and images/, even with --show

Needs the dependency group `bench`. Processes of the client stay on one processor, the service on another.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

from approaches import EXPORT_FLAT, EXPORT_RUNS, REFERENCE, WALKS
from jobs import FULL, GROUPS, QUICK, gate, instructions, measure
from measuring import HERE, Bench, Origin, cpus, find_counter, say
from report import machine, report

_RESULTS = HERE / "results"
_GATE = HERE / "gate.json"
_SLACK = {"callgrind": 1.06, "perf": 1.06, "cpu": 1.5}
"""How much worse than the stored ratio a ratio may be. Instruction counts vary by 0.5 %; processor time by
15 % on a busy machine, so it shows only gross changes."""
_OTHER_VERSIONS = 1.2
"""A further tolerance if the stored ratio is from other versions of Python and aiohttp."""


def judge(now: dict[str, float], kept: dict[str, float], slack: float) -> bool:
    good = True
    for name, ratio in now.items():
        before = kept.get(name)
        worse = before is not None and ratio > before * slack
        good = good and not worse
        was = "new" if before is None else f"was {before:.3f}"
        print(f"{'FAIL' if worse else 'pass'}  {name}: {ratio:.3f} x the reference ({was})")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="the benchmarks of unpod-async")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--instructions", action="store_true", help="count instructions as well")
    parser.add_argument("--recount", action="store_true", help="only count, for the results that are there")
    parser.add_argument("--gate", action="store_true", help="fail when a ratio got worse than the one kept")
    parser.add_argument("--keep", action="store_true", help="with --gate: keep what was measured")
    parser.add_argument("--profile", action="store_true", help="only profiles of the approaches of ours")
    parser.add_argument(
        "--show", action="store_true", help="measure nothing; show the results that are there"
    )
    parser.add_argument(
        "--write", action="store_true", help="put tables and plots into docs/explain/performance.md"
    )
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=[], help="measure only these groups")
    parser.add_argument("--times", type=int, help="repetitions, instead of 5")
    options = parser.parse_args()
    path = options.out / ("quick.json" if options.quick else "bench.json")
    if options.show:
        show_results(json.loads(path.read_text()), options)
        return 0
    options.out.mkdir(exist_ok=True)
    counter = find_counter() if options.instructions or options.recount or options.gate else None
    client, service = cpus()
    with Origin(service) as origin:
        bench = Bench(origin, client)
        if options.gate:
            return run_gate(bench, counter, keep=options.keep)
        if options.profile:
            write_profiles(bench, options.out)
            return 0
        run(bench, options, path, counter)
    return 0


def run(bench: Bench, options: argparse.Namespace, path: Path, counter: str | None) -> None:
    """Measure, write and draw. Results of groups that are not measured again are kept."""
    plan = QUICK if options.quick else FULL
    if options.times is not None:
        plan = plan._replace(times=options.times)
    found: dict[str, Any] = {}
    if (options.only or options.recount) and path.exists():
        found = json.loads(path.read_text())

    def save(found: dict[str, Any]) -> None:
        path.write_text(json.dumps(found, indent=1) + "\n")

    began = time.monotonic()
    if not options.recount:
        found["machine"] = machine()
        measure(bench, plan, found, save, options.only)
    if counter is not None:
        found |= {"counter": counter, "instructions": instructions(bench, counter)}
        save(found)
    elif options.recount:
        raise SystemExit("neither perf nor valgrind can count here")
    say("")
    show_results(found, options)
    print(f"\n{time.monotonic() - began:.0f} s")


def show_results(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the results and draw the plots."""
    # Imported here because the gate runs without the packages that draw.
    import page
    import plots

    plots.draw(found, options.out, "quick" if options.quick else "bench")
    print(report(found))
    if options.write:
        page.write(found)


def write_profiles(bench: Bench, folder: Path) -> None:
    for one in (REFERENCE, EXPORT_RUNS, EXPORT_FLAT, WALKS[1], WALKS[5]):
        path = folder / f"profile-{one.module}-{one.mode}.txt"
        bench.once([*one.arguments(FULL.runs), "--sample", str(path.resolve())])
        print(path)


def run_gate(bench: Bench, counter: str | None, *, keep: bool) -> int:
    kind = counter or "cpu"
    python = ".".join(platform.python_version_tuple()[:2])
    versions = f"Python {python}, aiohttp {importlib.metadata.version('aiohttp')}"
    kept = json.loads(_GATE.read_text()) if _GATE.exists() else {}
    ours = kept.setdefault(kind, {})
    if not keep and not ours:
        raise SystemExit(f"{_GATE.name} has nothing by {kind}: make it with --gate --keep")
    now = gate(bench, counter, times=5)
    slack = _SLACK[kind] * (1 if versions in ours else _OTHER_VERSIONS)
    before = ours.get(versions) or next(iter(ours.values()), {})
    print(f"by {kind}, {versions}; worse by {100 * (slack - 1):.0f} % fails")
    good = judge(now, before, slack)
    if keep:
        ours[versions] = {name: round(ratio, 3) for name, ratio in now.items()}
        _GATE.write_text(json.dumps(kept, indent=1) + "\n")
        return 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
