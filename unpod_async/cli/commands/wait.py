"""`unpod-async wait`: wait until runs have ended."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from unpod_async.cli.errors import SUCCESS, exit_status, hint_of, message_of
from unpod_async.cli.fields import status_style
from unpod_async.cli.lookup import find_run_ids, plain_id
from unpod_async.cli.options import JsonLines, Space, Wide, parse_seconds
from unpod_async.cli.output import (
    Screen,
    can_redraw,
    check_stdout,
    clock,
    counted,
    echo_error,
    echo_line,
    has_stdout,
    wants_json,
)
from unpod_async.cli.runner import Interrupted
from unpod_async.cli.session import open_client
from unpod_async.cli.tables import Column, Table
from unpod_async.errors import RunNotFound, WaitTimeout

if TYPE_CHECKING:
    from rich.text import Text

    from unpod_async import UnpodClient, WatchedRun

__all__ = ["wait"]

_REFRESH: Final = 0.25
"""Seconds between two refreshes of the progress line."""


def wait(
    context: typer.Context,
    space: Space,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", show_default=False, help="Ids of the runs, or their first characters."
        ),
    ],
    deadline: Annotated[
        float,
        typer.Option(
            rich_help_panel="Waiting",
            metavar="SECONDS",
            parser=parse_seconds,
            show_default=False,
            help="Maximum number of seconds to wait, or a duration such as 10m or 2h. Default: 600.",
        ),
    ] = 600.0,
    interval: Annotated[
        float,
        typer.Option(
            rich_help_panel="Waiting",
            metavar="SECONDS",
            parser=parse_seconds,
            show_default=False,
            help="Seconds between two polls. Default: 10.",
        ),
    ] = 10.0,
    wide: Wide = False,
    json_lines: JsonLines = None,
) -> int:
    """Wait until runs and all their tasks have ended.

    At the deadline, the command exits with status 5 and names the tasks that have not ended. A task on hold
    never ends.
    """
    ids = list(dict.fromkeys(map(plain_id, runs)))
    progress = _WaitProgress(len(ids), deadline)
    if json_lines is not None:
        check_stdout()
    as_json = wants_json(json_lines)
    with open_client(context.obj) as (runner, client):
        try:
            found = runner.run(_wait(client, space, ids, progress, deadline=deadline, interval=interval))
        except Interrupted as interrupted:
            interrupted.hint = "the calls go on; run the same command again to wait for their end"
            raise
        except WaitTimeout as error:
            _write_runs(error.runs, as_json=as_json, wide=wide)
            echo_error(message_of(error), hint_of(error))
            return exit_status(error)
    _write_runs(found, as_json=as_json, wide=wide)
    return SUCCESS


class _WaitProgress:
    """The condition to wait for, and the progress line."""

    def __init__(self, runs: int, deadline: float) -> None:
        self._runs = runs
        self._deadline = deadline
        self._started = time.monotonic()
        self._open: dict[str | None, int] = {}
        self._ended: set[str | None] = set()

    def start_again(self, runs: int) -> None:
        """Forget what was recorded, and wait for this number of runs."""
        self._runs = runs
        self._open.clear()
        self._ended.clear()

    def __call__(self, run: WatchedRun) -> bool:
        """Record a run that was read. Returns True if it has ended."""
        run_id = run.run.run_id
        self._open[run_id] = len(run.open_tasks)
        if run.settled:
            self._ended.add(run_id)
        return run.settled

    def draw(self, width: int, height: int, ascii_only: bool) -> list[Text]:
        from rich.text import Text

        line = f"{len(self._ended):,} of {counted(self._runs, 'run')} ended"
        if self._open:
            line += f", {counted(sum(self._open.values()), 'call')} left"
        elapsed = clock(time.monotonic() - self._started)
        text = Text(f"{line}, {elapsed} of {clock(self._deadline)}", no_wrap=True)
        text.truncate(width, overflow="ellipsis")
        return [text]


async def _wait(
    client: UnpodClient,
    space: str,
    runs: list[str],
    progress: _WaitProgress,
    *,
    deadline: float,
    interval: float,
) -> list[WatchedRun]:
    has_screen = can_redraw(sys.stderr)
    with Screen(sys.stderr, progress.draw, transient=True) if has_screen else nullcontext() as screen:
        refreshing = None if screen is None else asyncio.create_task(_refresh(screen))
        try:
            return await _wait_for(client, space, runs, progress, deadline=deadline, interval=interval)
        finally:
            if refreshing is not None:
                refreshing.cancel()
                with suppress(asyncio.CancelledError):
                    await refreshing


async def _wait_for(
    client: UnpodClient,
    space: str,
    runs: list[str],
    progress: _WaitProgress,
    *,
    deadline: float,
    interval: float,
) -> list[WatchedRun]:
    """Wait for runs, given by their ids or the first characters of these. Whole ids need no extra request."""
    started = time.monotonic()
    try:
        return await client.runs.wait(space, runs, progress, deadline=deadline, interval=interval)
    except RunNotFound as error:
        whole = await find_run_ids(client, space, error.run_ids)
    found = list(dict.fromkeys(whole.get(run, run) for run in runs))
    left = max(deadline - (time.monotonic() - started), _REFRESH)
    progress.start_again(len(found))
    return await client.runs.wait(space, found, progress, deadline=left, interval=interval)


async def _refresh(screen: Screen) -> None:
    while True:
        screen.refresh()
        await asyncio.sleep(_REFRESH)


def _write_runs(runs: Sequence[WatchedRun], *, as_json: bool, wide: bool) -> None:
    if not has_stdout():
        return
    if as_json:
        for run in runs:
            echo_line(msgspec.json.encode(_json_fields(run)))
    elif runs:
        columns = (
            Column("RUN", _run_id, 10, firm=True, kind="id"),
            Column("STATUS", _status, 9, style=_style),
            Column("TASKS", _task_counts, 5),
        )
        table = Table(columns, wide=wide)
        for run in runs:
            table.add(run)
        table.echo()


def _json_fields(run: WatchedRun) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "run": run.run.run_id,
        "status": run.run.status,
        "settled": run.settled,
        "tasks": _tasks_by_status(run),
    }
    if run.open_tasks:
        fields["open"] = {task.task_id: task.status for task in run.open_tasks}
    if run.unreadable:
        fields["unreadable"] = run.unreadable
    return fields


def _run_id(run: WatchedRun) -> str | None:
    return run.run.run_id


def _status(run: WatchedRun) -> str | None:
    return run.run.status


def _style(run: WatchedRun) -> str:
    return status_style(run.run.status)


def _tasks_by_status(run: WatchedRun) -> dict[str, int]:
    return dict(Counter(task.status or "" for task in run.tasks).most_common())


def _task_counts(run: WatchedRun) -> str:
    counts = [f"{count:,} {status or '-'}" for status, count in _tasks_by_status(run).items()]
    if run.unreadable:
        counts.append(f"{run.unreadable:,} unreadable")
    return ", ".join(counts) or "none"
