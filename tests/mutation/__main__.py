"""Mutation tests: puts small faults into the package, one at a time, and counts how many the tests notice.

    python -m tests.mutation --area walk --count 80 --seed 1

The mutants are made in copies of the tree; the tree itself stays unchanged. `mutants.py` says what is
mutated, and `equivalent.toml` lists the mutants that change nothing that a user can notice. A mutant is
killed if a test fails twice. A test or a run that exceeds its time is a time-out: the fault is noticed, but
late.

The exit status is 1 if fewer than 90 % of an area's mutants are noticed, if more than 8 % of them are listed
as equivalent, or if an entry of the list matches no mutant any more.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple, TextIO

import pytest

from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.runner import OPTIONS, Runner, Verdict

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("equivalent.toml")
COPIED = ("unpod_async", "tests", "benchmarks", "docs", "pyproject.toml", "README.md")

HISTORIES = 2_000
"""Random histories of a listing for each mutant, a tenth of what the tests run by themselves."""
GOAL = 0.90
MOST_EQUIVALENT = 0.08


class Area(NamedTuple):
    """Modules of the package, and the tests that have to notice faults in them.

    Attributes:
        modules: paths in the package; a folder stands for all modules in it.
        tests: files and folders, the fast and telling ones first.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]


AREAS = {
    "walk": Area(
        ("_paging",),
        (
            *("test_pager.py", "test_shares.py", "test_slices.py", "test_sightings.py", "test_turns.py"),
            *("test_walk_http.py", "test_walk_promise.py", "test_streams.py", "test_decode.py"),
            *("test_walk_evidence.py", "test_iterators.py", "faults/test_listings.py", "test_cancel.py"),
            *("test_closing.py", "test_retry_http.py", "test_secrets.py", "test_limit.py", "test_misuse.py"),
            *("test_frames.py", "test_notebooks.py", "test_errors.py", "export/test_early_requests.py"),
            "test_paginate.py",
            "faults/test_process.py",
        ),
    ),
    "retry": Area(
        (
            *("_http/executor.py", "_http/lifecycle.py", "_http/limits.py", "_http/responses.py"),
            *("_http/retry.py", "_http/stats.py", "_http/timeouts.py", "_http/transport_errors.py"),
        ),
        (
            *("test_retry.py", "test_timeouts.py", "test_responses.py", "test_retry_http.py"),
            *("test_transport.py", "test_heads.py", "test_traced.py", "test_closing.py", "test_errors.py"),
            *("test_deadline.py", "faults/test_answers.py", "test_promises.py", "test_cancel.py"),
            *("test_create.py", "test_create_safety.py", "faults/test_process.py", "test_secret.py"),
            *("test_secrets.py", "test_limit.py", "test_misuse.py", "test_pager.py", "cli/test_doctor.py"),
            *("test_hooks.py", "test_codings.py", "test_requests.py", "test_opentelemetry.py"),
            *("test_rate_limiter.py", "test_call_logs.py", "test_endpoints.py"),
        ),
    ),
    "export": Area(
        (
            *("_export/storage", "_export/job.py", "_export/outage.py", "_export/run_sync.py"),
            *("_export/run_tasks.py", "_export/space_scan.py"),
        ),
        ("export", "faults/test_exports.py", "cli/test_export.py", "test_files.py"),
    ),
    "create": Area(
        ("_create", "create.py"),
        (
            *("test_phone_numbers.py", "test_create_body.py", "test_create.py", "test_reconcile.py"),
            *("test_create_safety.py", "test_journal.py", "cli/test_create.py", "test_misuse.py"),
            "cli/test_create_journal.py",
        ),
    ),
    "watch": Area(("_watch",), ("watch", "cli/test_watch_state.py", "cli/test_watch.py", "cli/test_wait.py")),
}


def area_mutants(name: str) -> list[Mutant]:
    """Return every mutant of an area."""
    paths: list[Path] = []
    for module in AREAS[name].modules:
        path = ROOT / "unpod_async" / module
        paths += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [mutant for path in paths for mutant in mutants_of(str(path.relative_to(ROOT)), path.read_bytes())]


def sample(name: str, seed: int, count: int) -> list[Mutant]:
    """Return the mutants that a seed draws: the same ones for the same source."""
    everything = area_mutants(name)
    return random.Random(f"{seed} {name}").sample(everything, min(count, len(everything)))


def read_equivalent() -> dict[tuple[str, str, str, str], str]:
    """Return the reason of every mutant that is listed as equivalent, by the key of the mutant."""
    entries = tomllib.loads(LIST.read_text("utf-8")).get("mutant", [])
    found = {(item["file"], item["in"], item["before"], item["after"]): item["reason"] for item in entries}
    if len(found) < len(entries):
        raise SystemExit(f"{LIST.name} lists a mutant twice")
    return found


# --- the report --------------------------------------------------------------------------------------------


class Report:
    """Counts the verdicts of one sample and prints them, and the totals after the last one."""

    def __init__(self, title: str, size: int, out: TextIO, *, verbose: bool) -> None:
        self.is_good = size == 0
        """Whether the sample is done and reaches the goal."""
        self._title = title
        self._size = size
        self._out = out
        self._verbose = verbose
        self._results: list[tuple[Mutant, Verdict]] = []

    def add(self, mutant: Mutant, verdict: Verdict) -> None:
        self._results.append((mutant, verdict))
        if self._verbose or verdict.word == "survived":
            self._print(mutant, f"{len(self._results)} {verdict.word}", f" {verdict.test}".rstrip())
        if len(self._results) == self._size:
            self.is_good = self._total()

    def _print(self, mutant: Mutant, word: str, note: str = "") -> None:
        print(f"{word}: {mutant.path}:{mutant.line}{note}", file=self._out)
        print(f"    - {mutant.before}\n    + {mutant.after}", file=self._out, flush=True)

    def _total(self) -> bool:
        """Print the totals, the time-outs and the survivors. Return whether the goal is reached."""
        words = ("killed", "time-out", "survived", "equivalent")
        by_word = {word: [item for item, verdict in self._results if verdict.word == word] for word in words}
        tried, equivalent = len(self._results), len(by_word["equivalent"])
        noticed = len(by_word["killed"]) + len(by_word["time-out"])
        share = noticed / max(tried - equivalent, 1)
        for word in ("time-out", "survived"):
            for mutant in sorted(by_word[word]):
                self._print(mutant, word)
        counts = ", ".join(f"{len(items)} {word}" for word, items in by_word.items())
        print(f"{self._title}: {tried} tried, {counts}: {share:.1%} noticed", file=self._out, flush=True)
        return share >= GOAL and equivalent <= MOST_EQUIVALENT * tried


# --- in the copy -------------------------------------------------------------------------------------------


def run_in_copy(name: str, seeds: list[int], count: int, trees: list[Path], *, verbose: bool) -> int:
    """Test the samples of an area. The working directory is a copy of the tree."""
    out = os.fdopen(os.dup(1), "w")
    listed = read_equivalent()
    samples = {seed: sample(name, seed, count) for seed in seeds}
    reports = {
        seed: Report(f"{name}, seed {seed}", len(drawn), out, verbose=verbose)
        for seed, drawn in samples.items()
    }
    tested: list[tuple[Mutant, int]] = []
    for seed, drawn in samples.items():
        for mutant in drawn:
            if mutant.key in listed:
                reports[seed].add(mutant, Verdict("equivalent"))
            else:
                tested.append((mutant, seed))
    by_mutant = {mutant: [seed for other, seed in tested if other == mutant] for mutant, _ in tested}

    def report(mutant: Mutant, verdict: Verdict) -> None:
        for seed in by_mutant[mutant]:
            reports[seed].add(mutant, verdict)

    tests = [f"tests/{path}" for path in AREAS[name].tests]
    runner = Runner(list(by_mutant), trees, report)
    # The output of pytest is of use only if the tests cannot run.
    log = Path("pytest.log")
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
    status = pytest.main([*OPTIONS, *tests], plugins=[runner])
    if status != pytest.ExitCode.OK:
        print(log.read_text("utf-8", "replace")[-5000:], file=out, flush=True)
        return 2
    return 0 if all(each.is_good for each in reports.values()) else 1


def stale_entries() -> bool:
    """Print the entries of the list that match no mutant. Return whether there are any."""
    known = {mutant.key for name in AREAS for mutant in area_mutants(name)}
    stale = [key for key in read_equivalent() if key not in known]
    for path, scope, before, after in stale:
        print(f"{LIST.name}: no such mutant in {path}, {scope}\n    - {before}\n    + {after}")
    return bool(stale)


def copy_tree(folder: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--area", action="append", choices=AREAS, help="all areas if left out")
    parser.add_argument("--seed", action="append", type=int, help="which mutants are drawn (default: 1)")
    parser.add_argument("--count", type=int, default=80, help="mutants per area and seed (default: 80)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    parser.add_argument("--verbose", action="store_true", help="print each mutant and its test")
    parser.add_argument("--tree", action="append", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    seeds: list[int] = asked.seed or [1]
    if asked.tree:
        (name,) = asked.area
        return run_in_copy(name, seeds, asked.count, asked.tree, verbose=asked.verbose)
    worst = int(stale_entries())
    for name in asked.area or AREAS:
        with tempfile.TemporaryDirectory(prefix="unpod-mutation-") as folder:
            copy = copy_tree(Path(folder).resolve() / "tests-run-here")
            options = [f"--area={name}", f"--count={asked.count}", *(f"--seed={seed}" for seed in seeds)]
            options += ["--verbose"] if asked.verbose else []
            for number in range(asked.jobs):
                options.append(f"--tree={copy_tree(Path(folder).resolve() / str(number))}")
            done = subprocess.run(
                [sys.executable, "-m", "tests.mutation", *options],
                cwd=copy,
                env={**os.environ, "PYTHONPATH": str(copy), "UNPOD_WALK_HISTORIES": str(HISTORIES)},
                stdin=subprocess.DEVNULL,
                check=False,
            )
            worst = max(worst, done.returncode)
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
