"""`unpod-async watch`: the events of runs and calls, as a table that is updated or as lines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, Self

import typer

from unpod_async.cli.errors import SUCCESS
from unpod_async.cli.options import JsonLines, parse_seconds
from unpod_async.cli.output import Draw, Screen, can_redraw, echo, echo_err, echo_line, wants_json
from unpod_async.cli.runner import Interrupted, reader_exit
from unpod_async.cli.session import open_client
from unpod_async.cli.state_file import StateFile
from unpod_async.cli.watch_lines import json_line, text_line
from unpod_async.events import Event, RunSeen, TaskSeen

if TYPE_CHECKING:
    from types import TracebackType

    from rich.text import Text

    from unpod_async import UnpodClient, Watch, WatchState
    from unpod_async.cli.watch_table import WatchView

__all__ = ["watch"]

_REFRESH: Final = 0.25
"""Seconds between two refreshes of the table and of the state file."""


def watch(
    context: typer.Context,
    spaces: Annotated[
        list[str], typer.Argument(metavar="SPACE", show_default=False, help="Tokens of the spaces.")
    ],
    interval: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=parse_seconds,
            show_default=False,
            help="Time between two polls, also written 1m or 1h. Default: 10.",
        ),
    ] = 10.0,
    resync: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=parse_seconds,
            show_default=False,
            help="Time between two complete reads, which find deletions and changes of settled runs. "
            "Default: 1h.",
        ),
    ] = 3600.0,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="RUN", show_default=False, help="Watch only this run. Repeatable."),
    ] = None,
    no_tasks: Annotated[
        bool,
        typer.Option(
            "--no-tasks", show_default=False, help="Watch runs without their tasks; needs fewer requests."
        ),
    ] = False,
    changes_only: Annotated[
        bool,
        typer.Option(
            "--changes-only",
            show_default=False,
            help="Write no lines for runs and tasks that exist at the start.",
        ),
    ] = False,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Keep the state in FILE, and resume from it if it exists.",
        ),
    ] = None,
    json_lines: JsonLines = None,
) -> int:
    """Watch the runs and calls of spaces until Ctrl-C.

    On a terminal it shows a table. Otherwise it writes a line of JSON per event, with ids and statuses but no
    data about people. An outage is reported once; polling continues until the service recovers.
    """
    state_file = None if state is None else StateFile(state)
    saved = None if state_file is None else state_file.load(spaces)
    settings = {
        "interval": interval,
        "resync": resync,
        "tasks": not no_tasks,
        "runs": runs or None,
        "state": saved,
    }
    with open_client(context.obj) as (runner, client):
        writer: EventWriter
        if wants_json(json_lines):
            writer = LineWriter(lambda event: echo_line(json_line(event)), changes_only=changes_only)
        elif not can_redraw(sys.stdout):
            writer = LineWriter(lambda event: echo(text_line(event)), changes_only=changes_only)
        else:
            writer = _table_writer(spaces, tasks=not no_tasks, state=saved)
        try:
            runner.run(_watch(client, spaces, settings, writer, state_file))
        except Interrupted as interrupted:
            # Ctrl-C is how a watch ends, so the table needs no message.
            interrupted.reported |= isinstance(writer, TableWriter)
            if state is not None:
                echo_err(f"The state is kept in {state}. Run the same command again to resume.")
                interrupted.reported = True
            raise
    return SUCCESS


class EventWriter(Protocol):
    """Writes events inside a `with` block."""

    def __call__(self, event: Event) -> None: ...
    def refresh(self, polls: int) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LineWriter:
    """Writes a line for each event, immediately."""

    def __init__(self, write: Callable[[Event], None], *, changes_only: bool) -> None:
        self._write = write
        self._changes_only = changes_only

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def __call__(self, event: Event) -> None:
        if not (self._changes_only and isinstance(event, RunSeen | TaskSeen) and event.existing):
            self._write(event)

    def refresh(self, polls: int) -> None:
        """Do nothing: polls have no lines."""


class TableWriter:
    """Updates a table on the terminal."""

    def __init__(self, view: WatchView, draw: Draw) -> None:
        self._view = view
        self._screen = Screen(sys.stdout, draw)

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        self._view(event)

    def refresh(self, polls: int) -> None:
        """Draw what has changed since the last refresh."""
        self._view.set_polls(polls, datetime.now(UTC))
        self._screen.refresh()


def _table_writer(spaces: Sequence[str], *, tasks: bool, state: WatchState | None) -> TableWriter:
    from unpod_async.cli.watch_table import WatchView, draw

    view = WatchView(spaces, tasks=tasks, state=state)

    def draw_view(width: int, height: int, ascii_only: bool) -> list[Text]:
        return draw(view, datetime.now(UTC), width=width, height=height, ascii_only=ascii_only)

    return TableWriter(view, draw_view)


async def _watch(
    client: UnpodClient,
    spaces: Sequence[str],
    settings: dict[str, Any],
    writer: EventWriter,
    state_file: StateFile | None,
) -> None:
    async with client.runs.watch(list(spaces), **settings) as events:
        session = _Session(events, writer, state_file)
        with writer:
            work = (session.write_events(), session.refresh(), reader_exit(sys.stdout))
            tasks = [asyncio.create_task(one) for one in work]
            try:
                # Each of them runs until an error.
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                # Events in a pipe without a reader are lost: the next watch must report them again.
                if not any(isinstance(result, BrokenPipeError) for result in results):
                    session.save_state()
            for task in done:
                task.result()


class _Session:
    """Passes the events of a watch to the writer, and its state to the file."""

    def __init__(self, events: Watch, writer: EventWriter, state_file: StateFile | None) -> None:
        self._events = events
        self._writer = writer
        self._state_file = state_file
        self._written = self._saved = 0

    async def write_events(self) -> None:
        async for event in self._events:
            self._writer(event)
            self._written += 1

    async def refresh(self) -> None:
        """Refresh the table and save a changed state, again and again."""
        while True:
            self._writer.refresh(self._events.polls)
            version = self._written + self._events.resyncs
            if (
                self._state_file is not None
                and version != self._saved
                and self._state_file.is_due
                and await self._state_file.save(self._events.state)
            ):
                self._saved = version
            await asyncio.sleep(_REFRESH)

    def save_state(self) -> None:
        if self._state_file is not None:
            self._state_file.save_now(self._events.state)
