"""A watch that reports every change once, through an outage and a kill.

    python -m unpod_async.testing.demos.watch

starts a sandbox whose statuses advance, and `unpod-async watch --json --state FILE` in its own process. Calls
advance, are retried and end; runs are added and removed. Then the service is unavailable for a while. Then
the watch is killed with SIGKILL while changes continue, and the same command is started again. The expected
events are computed from the rows of the sandbox before and after each step, and compared with its lines.

The exit status is 0 if each event was reported once, 1 if not or after an error, 130 after Ctrl-C. The demo
needs the extra `cli`.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shlex
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from unpod_async.testing.demos.export_process import print_lines
from unpod_async.testing.demos.running import run_demo
from unpod_async.testing.demos.snapshots import (
    EventKey,
    Snapshot,
    change_events,
    initial_events,
    removals_with_runs,
)
from unpod_async.testing.demos.watch_process import WatchProcess
from unpod_async.testing.sandbox import Sandbox

__all__ = ["choose_port", "main", "verdict"]

_EVENTS: Final = (
    *("RunSeen", "RunStatusChanged", "RunSettled", "RunRemoved"),
    *("TaskSeen", "TaskStatusChanged", "CallEnded", "TaskRemoved"),
    *("Disconnected", "Reconnected"),
)
_DISCONNECTED: Final = EventKey("Disconnected", old="connected", new="disconnected")
_RECONNECTED: Final = EventKey("Reconnected", old="disconnected", new="connected")
_EXAMPLES: Final = 5
"""Maximum number of wrong events that are listed for each kind."""


class WatchScenario:
    """A sandbox that changes, a watch of it, and the events that the watch must report."""

    def __init__(self, sandbox: Sandbox, watcher: WatchProcess, out: IO[str], seed: int) -> None:
        self.sandbox = sandbox
        self.watcher = watcher
        self.expected: Counter[EventKey] = Counter()
        self.allowed: set[EventKey] = set()
        self._out = out
        self._random = random.Random(seed)  # noqa: S311 - a demo, the same each time
        self._known = Snapshot.of(sandbox)

    def initial(self) -> Counter[EventKey]:
        """Return the events expected at the start."""
        return initial_events(self._known)

    def apply_changes(self, steps: int = 1) -> None:
        """Advance all statuses, and add and remove runs and tasks."""
        for _ in range(steps):
            self.sandbox.advance()
            runs = self.sandbox.run_ids()
            self.sandbox.insert_run(self._random.randint(1, 4))
            self.sandbox.insert_task(self._random.choice(runs))
            self.sandbox.delete_task(self._random.choice(self.sandbox.task_ids()))
            self.sandbox.delete_run(self._random.choice(runs))

    def new_events(self) -> Counter[EventKey]:
        """Return the events of the changes since the last call."""
        before, self._known = self._known, Snapshot.of(self.sandbox)
        self.allowed |= removals_with_runs(before, self._known)
        return change_events(before, self._known)

    async def expect(self, step: str, events: Counter[EventKey]) -> bool:
        """Wait for more events, and return whether all of them arrived."""
        self.expected += events
        received = await self.watcher.wait_for(self.expected)
        count = events.total()
        number = f"{count:,} {'event' if count == 1 else 'events'}"
        print_lines(self._out, f"{step:<43}{number:>12}{'' if received else '  MISSING'}")
        return received


async def play(scenario: WatchScenario, out: IO[str], rounds: int) -> None:
    """Play all steps, or stop at the first one with a missing event."""
    sandbox, watcher = scenario.sandbox, scenario.watcher
    async with sandbox:
        await watcher.start()
        if not await scenario.expect("Runs and tasks at the start", scenario.initial()):
            return
        # Until the end of the first resync, new rows may be reported as existing ones.
        await _resynced(sandbox, 0)
        for number in range(1, rounds + 1):
            scenario.apply_changes()
            step = f"Calls and runs change, {number} of {rounds}"
            if not await scenario.expect(step, scenario.new_events()):
                return
    if not await scenario.expect("THE SERVICE IS UNAVAILABLE", Counter([_DISCONNECTED])):
        return
    scenario.apply_changes(2)
    async with sandbox:
        reconnection = scenario.new_events() + Counter([_RECONNECTED])
        if not await scenario.expect("It is available, with changes in between", reconnection):
            return
        await watcher.wait_until_saved()
        await watcher.kill()
        print_lines(out, "THE WATCH IS KILLED (SIGKILL), changes continue")
        scenario.apply_changes(3)
        await watcher.start()
        if not await scenario.expect("Started again, it reports what it missed", scenario.new_events()):
            return
        scenario.apply_changes()
        if not await scenario.expect("Calls and runs change", scenario.new_events()):
            return
        # An event that the watch would repeat is repeated when it reads everything again.
        await _resynced(sandbox, 2)
        await watcher.kill()
        print_lines(out, "The watch reads everything twice more")


async def _resynced(sandbox: Sandbox, times: int) -> None:
    """Wait until this number of new resyncs, and the one that is running, have ended."""
    tasks = f"/spaces/{sandbox.space_token}/tasks/"

    def begun() -> int:
        return sum(one.path.endswith(tasks) and one.query.get("page", "1") == "1" for one in sandbox.log)

    # The start of a resync shows that those before it have ended.
    enough = begun() + times + 1
    while begun() < enough:
        await sandbox.arrived(sandbox.requests + 1)


def choose_port() -> int:
    """Return a free port that stays free while its server is stopped.

    A port that the system chooses may be given to another program before the server starts again. The usual
    systems choose ports from 16000 on; most of them, from 32768 on.
    """
    for port in random.sample(range(10_000, 16_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no free port between 10000 and 15999 was found")


async def run(options: argparse.Namespace, out: IO[str]) -> int:
    """Run the demo, and return its exit status."""
    port = choose_port()  # the sandbox needs the same port after the outage
    sandbox = Sandbox(runs=options.runs, tasks_per_run=(1, 8), seed=options.seed, port=port)
    environment = {
        "UNPOD_PLATFORM_TOKEN": sandbox.token,
        "UNPOD_ORG_HANDLE": sandbox.org_handle,
        "UNPOD_BASE_URL": f"http://127.0.0.1:{port}",
    }
    with tempfile.TemporaryDirectory(prefix="unpod-demo-") as folder:
        state = Path(folder, "state.json")
        options_of_watch = ("--interval", "0.2", "--resync", "1")
        async with WatchProcess(environment, sandbox.space_token, state, *options_of_watch) as watcher:
            print_lines(
                out,
                f"A sandbox with {options.runs:,} runs and {sandbox.task_count:,} tasks",
                "",
                f"$ unpod-async {shlex.join(watcher.command[:2])} \\",
                f"    {shlex.join(watcher.command[2:-1])} \\",
                f"    {state}",
                "",
            )
            began = time.monotonic()
            scenario = WatchScenario(sandbox, watcher, out, options.seed)
            await play(scenario, out, options.rounds)
            seconds = time.monotonic() - began
    expected = scenario.expected + Counter(event for event in scenario.allowed if watcher.received[event])
    return verdict(expected, watcher.received, f"{sandbox.requests:,} in {seconds:.1f} s", out)


def verdict(expected: Counter[EventKey], received: Counter[EventKey], requests: str, out: IO[str]) -> int:
    """Print the expected and the received events, and return the exit status."""
    repeated = Counter({event_key: count - 1 for event_key, count in received.items() if count > 1})
    repeated -= expected - Counter(expected.keys())
    print_lines(out, "", f"{'':<19}{'expected':>12}{'received':>12}{'repeated':>12}")
    for event in _EVENTS:
        numbers = [
            sum(count for event_key, count in of.items() if event_key.event == event)
            for of in (expected, received, repeated)
        ]
        print_lines(out, f"{event:<19}" + "".join(f"{number:>12,}" for number in numbers))
    totals = [of.total() for of in (expected, received, repeated)]
    print_lines(out, f"{'All events':<19}" + "".join(f"{total:>12,}" for total in totals))
    print_lines(out, f"{'Requests':<19}{requests:>36}", "")
    wrong = {"missing": expected - received, "not expected": received - expected}
    if not any(wrong.values()):
        print_lines(out, "Every change was reported once.")
        return 0
    print_lines(out, "WRONG: the reported events differ from the changes.")
    for word, events in wrong.items():
        for event_key, count in events.most_common(_EXAMPLES):
            where = event_key.task or event_key.run or ""
            print_lines(
                out, f"{word}: {count} x {event_key.event} {event_key.old} -> {event_key.new}", f"    {where}"
            )
    return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m unpod_async.testing.demos.watch",
        description="Watch a sandbox with changing runs, through an outage and a kill; count the events.",
        epilog="Exit status: 0 if each event was reported once, 1 if not or on an error, 130 after Ctrl-C.",
    )
    parser.add_argument("--runs", type=_count, default=40, help="runs at the start (%(default)s)")
    parser.add_argument("--rounds", type=_count, default=6, help="changes before the outage (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the changes (%(default)s)")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, and return its exit status."""
    options = _options(arguments)
    return run_demo(lambda out: run(options, out), {"cli": ("typer", "rich")})


if __name__ == "__main__":
    sys.exit(main())
