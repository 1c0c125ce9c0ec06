"""Watching as a user sees it: every change told once, through an outage and a kill.

    python -m unpod_async.testing.demos.watch

starts a sandbox whose runs advance, and `unpod-async watch --json --state FILE` as a process of its own.
Calls move on, are tried again, end; runs come and go; then the service is away for a while; then the watch is
killed (SIGKILL) while things go on, and started again with the same command. What it has to tell is worked
out from the sandbox's own rows, before and after each step, and compared with the lines that came. Ends with
status 0 if each came once, 1 if not or if something failed, 130 after Ctrl-C.

Needs the extra `cli`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
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

from unpod_async.testing.demos.exporter import print_lines
from unpod_async.testing.demos.snapshots import EventKey, Snapshot, differences, gone_with_runs, there
from unpod_async.testing.demos.watcher import WatchProcess
from unpod_async.testing.sandbox import Sandbox

__all__ = ["main", "verdict"]

_EVENTS: Final = (
    *("RunSeen", "RunStatusChanged", "RunSettled", "RunRemoved"),
    *("TaskSeen", "TaskStatusChanged", "CallEnded", "TaskRemoved"),
    *("Disconnected", "Reconnected"),
)
_DOWN: Final = EventKey("Disconnected", old="connected", new="disconnected")
_UP: Final = EventKey("Reconnected", old="disconnected", new="connected")
_NAMED: Final = 5
"""Events that are named when they are wrong."""


class WatchScenario:
    """A sandbox that changes, a watch of it, and what the watch has to tell."""

    def __init__(self, sandbox: Sandbox, watcher: WatchProcess, out: IO[str], seed: int) -> None:
        self.sandbox = sandbox
        self.watcher = watcher
        self.expected: Counter[EventKey] = Counter()
        self.allowed: set[EventKey] = set()
        self._out = out
        self._random = random.Random(seed)  # noqa: S311 - a demo, the same each time
        self._known = Snapshot.of(sandbox)

    def begin(self) -> Counter[EventKey]:
        """What there is to tell at the start."""
        return there(self._known)

    def change(self, steps: int = 1) -> None:
        """Let everything move on, and something come and go."""
        for _ in range(steps):
            self.sandbox.advance()
            runs = self.sandbox.run_ids()
            self.sandbox.insert_run(self._random.randint(1, 4))
            self.sandbox.insert_task(self._random.choice(runs))
            self.sandbox.delete_task(self._random.choice(self.sandbox.task_ids()))
            self.sandbox.delete_run(self._random.choice(runs))

    def changed(self) -> Counter[EventKey]:
        """What there is to tell since the last time."""
        before, self._known = self._known, Snapshot.of(self.sandbox)
        self.allowed |= gone_with_runs(before, self._known)
        return differences(before, self._known)

    async def tell(self, what: str, more: Counter[EventKey]) -> bool:
        """Expect these events, too, and wait until they have come; whether they have."""
        self.expected += more
        has_come = await self.watcher.until(self.expected)
        count = more.total()
        told = f"{count:,} {'event' if count == 1 else 'events'}"
        print_lines(self._out, f"{what:<43}{told:>12}{'' if has_come else '  MISSING'}")
        return has_come


async def play(story: WatchScenario, out: IO[str], rounds: int) -> None:
    """All that happens; returns early when an event does not come."""
    sandbox, watcher = story.sandbox, story.watcher
    async with sandbox:
        await watcher.start()
        if not await story.tell("What is there when it starts", story.begin()):
            return
        # Until the first resync is over, what is new may still count as having been there.
        await _resynced(sandbox, 0)
        for number in range(1, rounds + 1):
            story.change()
            if not await story.tell(f"Calls and runs move on, {number} of {rounds}", story.changed()):
                return
    if not await story.tell("THE SERVICE IS AWAY", Counter([_DOWN])):
        return
    story.change(2)
    async with sandbox:
        back = story.changed() + Counter([_UP])
        if not await story.tell("It is back; meanwhile things went on", back):
            return
        await watcher.saved()
        await watcher.kill()
        print_lines(out, "THE WATCH IS KILLED (SIGKILL), and things go on")
        story.change(3)
        await watcher.start()
        if not await story.tell("Started again, it tells what it missed", story.changed()):
            return
        story.change()
        if not await story.tell("Calls and runs move on", story.changed()):
            return
        # Whatever the watch would repeat, it repeats when it reads all again.
        await _resynced(sandbox, 2)
        await watcher.kill()
        print_lines(out, "All is read twice more")


async def _resynced(sandbox: Sandbox, times: int) -> None:
    """Wait until so many resyncs that begin from now on, and one under way, have ended."""
    tasks = f"/spaces/{sandbox.space_token}/tasks/"

    def begun() -> int:
        return sum(one.path.endswith(tasks) and one.query.get("page", "1") == "1" for one in sandbox.log)

    # One that begins says that those before it have ended.
    enough = begun() + times + 1
    while begun() < enough:
        await sandbox.arrived(sandbox.requests + 1)


async def run(options: argparse.Namespace, out: IO[str]) -> int:
    """The whole demonstration; the exit status."""
    # The same port after the outage.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sandbox = Sandbox(runs=options.runs, tasks_per_run=(1, 8), seed=options.seed, port=port)
    environment = {
        "UNPOD_PLATFORM_TOKEN": sandbox.token,
        "UNPOD_ORG_HANDLE": sandbox.org_handle,
        "UNPOD_BASE_URL": f"http://127.0.0.1:{port}",
    }
    with tempfile.TemporaryDirectory(prefix="unpod-demo-") as folder:
        state = Path(folder, "state.json")
        more = ("--interval", "0.2", "--resync", "1")
        async with WatchProcess(environment, sandbox.space_token, state, *more) as watcher:
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
            story = WatchScenario(sandbox, watcher, out, options.seed)
            await play(story, out, options.rounds)
            seconds = time.monotonic() - began
    expected = story.expected + Counter(told for told in story.allowed if watcher.received[told])
    return verdict(expected, watcher.received, f"{sandbox.requests:,} in {seconds:.1f} s", out)


def verdict(expected: Counter[EventKey], received: Counter[EventKey], requests: str, out: IO[str]) -> int:
    """Show what was expected and what came; the exit status."""
    repeated = Counter({told: count - 1 for told, count in received.items() if count > 1})
    repeated -= expected - Counter(expected.keys())
    print_lines(out, "", f"{'':<19}{'expected':>12}{'received':>12}{'repeated':>12}")
    for event in _EVENTS:
        numbers = [
            sum(count for told, count in of.items() if told.event == event)
            for of in (expected, received, repeated)
        ]
        print_lines(out, f"{event:<19}" + "".join(f"{number:>12,}" for number in numbers))
    totals = [of.total() for of in (expected, received, repeated)]
    print_lines(out, f"{'All events':<19}" + "".join(f"{total:>12,}" for total in totals))
    print_lines(out, f"{'Requests':<19}{requests:>36}", "")
    wrong = {"missing": expected - received, "not expected": received - expected}
    if not any(wrong.values()):
        print_lines(out, "Every change was told once.")
        return 0
    print_lines(out, "WRONG: what was told is not what happened.")
    for word, events in wrong.items():
        for told, count in events.most_common(_NAMED):
            where = told.task or told.run or ""
            print_lines(out, f"{word}: {count} x {told.event} {told.old} -> {told.new}", f"    {where}")
    return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m unpod_async.testing.demos.watch",
        description="Watch a sandbox whose runs advance, through an outage and a kill; count what is told.",
        epilog="Ends with 0 if every change was told once, 1 if not or on an error, 130 after Ctrl-C.",
    )
    parser.add_argument("--runs", type=_count, default=40, help="runs at the start (%(default)s)")
    parser.add_argument("--rounds", type=_count, default=6, help="changes before the outage (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another story (0)")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def _is_there(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; the exit status."""
    options = _options(arguments)
    if missing := [name for name in ("typer", "rich") if not _is_there(name)]:
        print_lines(
            sys.stdout,
            f"FAILED: the command line needs {' and '.join(missing)}, not",
            "installed here: pip install 'unpod-async[cli]'",
        )
        return 1
    try:
        return asyncio.run(run(options, sys.stdout))
    except KeyboardInterrupt:
        print_lines(sys.stdout, "Interrupted.")
        return 130
    except (OSError, RuntimeError) as error:
        print_lines(sys.stdout, f"FAILED: {type(error).__name__}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
