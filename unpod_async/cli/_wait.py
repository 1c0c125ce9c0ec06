"""`unpod-async wait`: until runs have ended."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from unpod_async.cli._common import Common
from unpod_async.cli._connect import client
from unpod_async.cli._output import moves, put_line, say, wants_json
from unpod_async.cli._screen import Screen
from unpod_async.cli._status import COMPLETE, status_of, text_of
from unpod_async.cli._tables import Column, table
from unpod_async.cli._values import seconds
from unpod_async.cli._watch_lines import clock
from unpod_async.errors import WaitTimeout

if TYPE_CHECKING:
    from rich.text import Text

    from unpod_async import UnpodClient, WatchedRun

__all__ = ["wait"]

_LOOK_EVERY: Final = 0.25
"""Seconds between two looks at whether the line says something else."""
_ID: Final = 34


class _Progress:
    """What has been seen while waiting, and the line that says so."""

    def __init__(self, runs: int, deadline: float) -> None:
        self._runs = runs
        self._deadline = deadline
        self._began = time.monotonic()
        self._open: dict[str | None, int] = {}
        self._settled: set[str | None] = set()

    def __call__(self, run: WatchedRun) -> bool:
        """A run was read; whether it is no longer waited for."""
        name = run.run.run_id
        self._open[name] = len(run.open_tasks)
        if run.settled:
            self._settled.add(name)
        return run.settled

    def draw(self, width: int, height: int, ascii_only: bool) -> list[Text]:
        from rich.text import Text

        done, calls = len(self._settled), sum(self._open.values())
        passed = clock(time.monotonic() - self._began)
        told = f"{done:,} of {self._runs:,} runs settled"
        if self._open:
            told += f", {calls:,} {'call' if calls == 1 else 'calls'} to go"
        line = Text(f"{told}, {passed} of {clock(self._deadline)}", no_wrap=True)
        line.truncate(width, overflow="ellipsis")
        return [line]


def wait(
    common: Common,
    space: str,
    runs: Sequence[str],
    *,
    deadline: str,
    interval: str,
    json_lines: bool | None,
) -> int:
    """Wait; the exit status."""
    limit, pause = seconds("--deadline", deadline), seconds("--interval", interval)
    names = list(dict.fromkeys(runs))
    progress = _Progress(len(names), limit)
    as_json = wants_json(json_lines)
    with client(common) as (loop, unpod):
        try:
            found = loop.run(_wait(unpod, space, names, progress, deadline=limit, interval=pause))
        except WaitTimeout as error:
            _tell(error.runs, as_json=as_json)
            # To the library they are not as the caller's function wants them, which is this.
            say(f"unpod-async: {text_of(error)}")
            return status_of(error)
    _tell(found, as_json=as_json)
    return COMPLETE


async def _wait(
    unpod: UnpodClient,
    space: str,
    runs: list[str],
    progress: _Progress,
    *,
    deadline: float,
    interval: float,
) -> list[WatchedRun]:
    with Screen(sys.stderr, progress.draw, transient=True) if moves(sys.stderr) else nullcontext() as screen:
        looking = None if screen is None else asyncio.create_task(_look(screen))
        try:
            return await unpod.runs.wait(space, runs, progress, deadline=deadline, interval=interval)
        finally:
            if looking is not None:
                looking.cancel()
                with suppress(asyncio.CancelledError):
                    await looking


async def _look(screen: Screen) -> None:
    while True:
        screen.look()
        await asyncio.sleep(_LOOK_EVERY)


def _tell(runs: Sequence[WatchedRun], *, as_json: bool) -> None:
    if as_json:
        for run in runs:
            put_line(msgspec.json.encode(_line(run)))
    elif runs:
        columns = (
            Column("RUN", _name, _ID, firm=True),
            Column("STATUS", _status, 9),
            Column("TASKS", _counts, 5),
        )
        table(runs, columns)


def _line(run: WatchedRun) -> dict[str, Any]:
    line: dict[str, Any] = {
        "run": run.run.run_id,
        "status": run.run.status,
        "settled": run.settled,
        "tasks": _by_status(run),
    }
    if run.open_tasks:
        line["open"] = {task.task_id: task.status for task in run.open_tasks}
    if run.unreadable:
        line["unreadable"] = run.unreadable
    return line


def _name(run: WatchedRun) -> str | None:
    return run.run.run_id


def _status(run: WatchedRun) -> str | None:
    return run.run.status


def _by_status(run: WatchedRun) -> dict[str, int]:
    return dict(Counter(task.status or "" for task in run.tasks).most_common())


def _counts(run: WatchedRun) -> str:
    told = [f"{count:,} {status or '-'}" for status, count in _by_status(run).items()]
    if run.unreadable:
        told.append(f"{run.unreadable:,} unreadable")
    return ", ".join(told) or "none"
