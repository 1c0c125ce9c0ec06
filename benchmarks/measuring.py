"""Run approaches in separate processes, in turns, and measure their cost."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from approaches import Approach

__all__ = ["Bench", "Origin", "Result", "cpus", "find_counter", "median", "ratio"]

HERE = Path(__file__).resolve().parent
Result = dict[str, Any]


def cpus() -> tuple[int | None, int | None]:
    """Return the processors for the client and for the origin, or None where there is no choice."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[-1]) if len(available) > 1 else (None, None)


class Origin:
    """The service, in a process of its own on a processor of its own."""

    def __init__(self, cpu: int | None) -> None:
        arguments = [] if cpu is None else ["--cpu", str(cpu)]
        self._process = subprocess.Popen(  # noqa: S603 - starts this interpreter with constant arguments
            [sys.executable, str(HERE / "origin.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stdin, stdout = cast("tuple[IO[str], IO[str]]", (self._process.stdin, self._process.stdout))
        self.port = int(stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stdin.close()
        self._process.wait()


def find_counter() -> str | None:
    """Return the tool that can count instructions here: "perf", "callgrind" or None."""
    if perf := shutil.which("perf"):
        command = [perf, "stat", "-x,", "-e", "instructions:u", "true"]
        finished = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - perf, as found in PATH
        if finished.returncode == 0 and finished.stderr.split(",")[0].strip().isdigit():
            return "perf"
    if shutil.which("valgrind") and shutil.which("callgrind_control"):
        return "callgrind"
    return None


class Bench:
    """Measures approaches against one origin. Progress goes to standard error."""

    def __init__(self, origin: Origin, cpu: int | None) -> None:
        self._origin = origin
        self._cpu = cpu
        self._env = {**os.environ, "PYTHONPATH": _path(), "PYTHONHASHSEED": "0"}

    def once(self, arguments: Sequence[str], before: Sequence[str] = ()) -> Result:
        """Run an approach once.

        Raises:
            RuntimeError: it failed, or rows were missing.
        """
        pinned = [] if self._cpu is None else ["--cpu", str(self._cpu)]
        finished = subprocess.run(  # noqa: S603 - starts this interpreter with constant arguments
            [*before, sys.executable, *arguments, "--port", str(self._origin.port), *pinned],
            env=self._env,
            capture_output=True,
            text=True,
            cwd=tempfile.gettempdir(),
        )
        if finished.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {finished.stderr[-2000:]}")
        found: Result = json.loads(finished.stdout.splitlines()[-1])
        return found

    def turns(
        self,
        approaches: Iterable[Approach],
        times: int,
        runs: int,
        *,
        tasks: int | None = None,
        latency: int = 0,
        row_time: int = 0,
    ) -> dict[str, Result]:
        """Return medians by name of the approach. They take turns, so that a disturbance affects all."""
        chosen = list(approaches)
        found: dict[str, list[Result]] = {one.name: [] for one in chosen}
        for turn in range(times):
            for one in chosen:
                say(f"{turn + 1}/{times} {one.name}, {runs} runs, {latency} ms")
                found[one.name].append(self.once(one.arguments(runs, tasks, latency, row_time)))
        return {name: median(results) for name, results in found.items()}

    def instructions(self, approach: Approach, runs: int, counter: str) -> int:
        """Return the number of user-space instructions of the work alone."""
        say(f"counting instructions of {approach.name}")
        arguments = approach.arguments(runs)
        if counter == "callgrind":
            return self._callgrind([*arguments, "--count"]) - self._callgrind([
                *arguments,
                "--count",
                "--idle",
                "--cold",
            ])
        return self._perf(arguments) - self._perf([*arguments, "--idle"])

    def _callgrind(self, arguments: Sequence[str]) -> int:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "callgrind")
            self.once(
                arguments,
                ("valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"),
            )
            lines = out.read_text(encoding="utf-8", errors="replace").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("totals:"))

    def _perf(self, arguments: Sequence[str]) -> int:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "perf")
            self.once(arguments, ("perf", "stat", "-x,", "-e", "instructions:u", "-o", str(out)))
            lines = out.read_text().splitlines()
        return sum(int(line.split(",")[0]) for line in lines if line[:1].isdigit())


def median(results: Sequence[Result]) -> Result:
    """Return the median of each number, with their count as `times` and all values as `turns`."""
    first = results[0]
    found = {
        name: statistics.median(one[name] for one in results)
        for name, value in first.items()
        if isinstance(value, int | float)
    }
    turns = {name: [one[name] for one in results] for name in ("cpu", "wall")}
    # For the peak, the maximum.
    return {**found, "peak": max(one["peak"] for one in results), "times": len(results), "turns": turns}


def ratio(one: Result, other: Result, name: str, *, less: float = 0.0) -> float:
    """Return the median over all turns of the ratio of `one`, less some seconds, to `other`.

    Not the ratio of the medians: what slows the machine down for a minute meets both of a turn alike.
    """
    turns = zip(one["turns"][name], other["turns"][name], strict=True)
    return statistics.median((ours - less) / theirs for ours, theirs in turns)


def say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _path() -> str:
    """Return the environment of an approach: the existing one, with the approaches on the path."""
    return os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
