"""`unpod-async watch`: the events of runs and calls, as a table that is updated or as lines."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, Self

import typer

from unpod_async._common import shorten
from unpod_async.cli.errors import ERROR, SUCCESS, USAGE, CliError, exit_status
from unpod_async.cli.lookup import find_run_ids
from unpod_async.cli.options import OUTPUT, JsonLines, Utc, parse_seconds
from unpod_async.cli.output import Draw, Screen, can_redraw, echo, echo_err, echo_line, wants_json
from unpod_async.cli.runner import Interrupted, reader_exit
from unpod_async.cli.session import open_client
from unpod_async.cli.watch_lines import json_line, text_line
from unpod_async.errors import ConfigurationError, UnpodError
from unpod_async.events import Event, RunSeen, TaskSeen

if TYPE_CHECKING:
    from types import TracebackType

    from rich.text import Text

    from unpod_async import Stats, UnpodClient, Watch, WatchState
    from unpod_async.cli.watch_table import WatchView

__all__ = ["watch"]

_REFRESH: Final = 0.25
"""Seconds between two refreshes of the table and of the state file."""

_MIN_INTERVAL: Final = 1.0
"""Minimum number of seconds between two saves."""
_MIN_PAUSE: Final = 20
"""The pause between two saves is at least this many times as long as the last save took."""


def watch(
    context: typer.Context,
    spaces: Annotated[
        list[str], typer.Argument(metavar="SPACE...", show_default=False, help="Tokens of the spaces.")
    ],
    interval: Annotated[
        float,
        typer.Option(
            rich_help_panel="Watching",
            metavar="SECONDS",
            parser=parse_seconds,
            show_default=False,
            help="Seconds between two polls, or a duration such as 1m or 1h. Default: 10.",
        ),
    ] = 10.0,
    resync: Annotated[
        float,
        typer.Option(
            rich_help_panel="Watching",
            metavar="SECONDS",
            parser=parse_seconds,
            show_default=False,
            help="Time between two complete reads, which find deletions and changes of settled runs. "
            "Default: 1h.",
        ),
    ] = 3600.0,
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            rich_help_panel="Watching",
            metavar="RUN",
            show_default=False,
            help="Watch only this run: its id, or its first characters. Repeatable.",
        ),
    ] = None,
    no_tasks: Annotated[
        bool,
        typer.Option(
            "--no-tasks",
            rich_help_panel="Watching",
            show_default=False,
            help="Watch runs without their tasks; needs fewer requests.",
        ),
    ] = False,
    changes_only: Annotated[
        bool,
        typer.Option(
            "--changes-only",
            rich_help_panel=OUTPUT,
            show_default=False,
            help="Write no lines for runs and tasks that exist at the start.",
        ),
    ] = False,
    state: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            metavar="FILE",
            show_default=False,
            help="Keep the state in FILE, and resume from it if it exists.",
        ),
    ] = None,
    utc: Utc = False,
    json_lines: JsonLines = None,
) -> int:
    """Watch the runs and calls of spaces until Ctrl-C.

    On a terminal it shows a table. Otherwise it writes a line of JSON per event, with ids and statuses but no
    data about people. An outage is reported once; polling continues until the service recovers.
    """
    state_file = None if state is None else StateFile(state)
    zone = UTC if utc else None
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
            writer = LineWriter(lambda event: echo(text_line(event, zone)), changes_only=changes_only)
        else:
            writer = _table_writer(spaces, tasks=not no_tasks, state=saved, interval=interval, zone=zone)
        try:
            runner.run(_watch(client, spaces, settings, writer, state_file))
        except Interrupted as interrupted:
            if state is not None:
                echo_err(f"The state is kept in {state}. Run the same command again to resume.")
                return interrupted.status
            if isinstance(writer, TableWriter):
                # Ctrl-C is how a watch ends: the table needs no message about it.
                echo_err("With --state FILE, the next watch continues where this one ended.")
                return interrupted.status
            raise
    return SUCCESS


class EventWriter(Protocol):
    """Writes events inside a `with` block."""

    def __call__(self, event: Event) -> None: ...
    def refresh(self, polls: int, *, is_reading: bool) -> None: ...
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

    def refresh(self, polls: int, *, is_reading: bool) -> None:
        """Do nothing: a poll without events writes no line."""


class TableWriter:
    """Updates a table on the terminal."""

    def __init__(self, view: WatchView, draw: Draw) -> None:
        self._view = view
        self._screen = Screen(sys.stdout, draw)
        self._is_empty = True

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_empty and error is not None:
            self._screen.remove_on_exit()
        self._screen.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        self._is_empty = False
        self._view(event)

    def refresh(self, polls: int, *, is_reading: bool) -> None:
        """Draw the table again if it has changed."""
        self._view.set_polls(polls, datetime.now(UTC), is_reading=is_reading)
        self._screen.refresh()


def _table_writer(
    spaces: Sequence[str],
    *,
    tasks: bool,
    state: WatchState | None,
    interval: float,
    zone: tzinfo | None,
) -> TableWriter:
    from unpod_async.cli.watch_table import WatchView, draw

    view = WatchView(spaces, tasks=tasks, state=state, interval=interval, zone=zone)

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
    runs = settings["runs"]
    if runs is not None and len(set(spaces)) == 1:
        # If the service cannot be reached, the watch reports that and keeps trying.
        with suppress(UnpodError):
            settings["runs"] = list((await find_run_ids(client, spaces[0], runs)).values())
    async with client.runs.watch(list(spaces), **settings) as events:
        session = _Session(events, writer, state_file, client.stats)
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

    def __init__(
        self, events: Watch, writer: EventWriter, state_file: StateFile | None, stats: Stats
    ) -> None:
        self._events = events
        self._stats = stats
        self._bytes_before = stats.bytes
        self._writer = writer
        self._state_file = state_file
        self._written = self._saved = 0
        # The state has the event that is being written. If it cannot be written, the next watch reports it.
        self._is_writing = False

    async def write_events(self) -> None:
        async for event in self._events:
            self._is_writing = True
            self._writer(event)
            self._is_writing = False
            self._written += 1

    async def refresh(self) -> None:
        """Refresh the table and save a changed state, again and again."""
        while True:
            self._writer.refresh(self._events.polls, is_reading=self._stats.bytes > self._bytes_before)
            version = self._written + self._events.resyncs
            if (
                self._state_file is not None
                and not self._is_writing
                and version != self._saved
                and self._state_file.is_due
                and await self._state_file.save(self._events.state)
            ):
                self._saved = version
            await asyncio.sleep(_REFRESH)

    def save_state(self) -> None:
        if self._state_file is not None and not self._is_writing:
            self._state_file.save_now(self._events.state)


class StateFile:
    """Loads and saves the state of a watch. The slower the disk, the less often it saves."""

    def __init__(self, name: str) -> None:
        self._path = name
        self._saved_at = self._took = 0.0
        self._reported = ""

    def load(self, spaces: Sequence[str]) -> WatchState | None:
        """Return the state in the file, or None if there is no file or it is empty.

        Raises:
            CliError: the file cannot be read or replaced, is not a state, or is the state of other spaces.
        """
        from unpod_async import WatchState
        from unpod_async._watch import check_state_file

        try:
            with suppress(OSError, ValueError):  # `load` reports the error
                self._path = os.path.realpath(self._path)
            state = WatchState.load(self._path)
            if state is not None:
                self._check_spaces(state, spaces)
            # Check at the start, not after an hour, whether the file can be replaced.
            check_state_file(self._path)
        except ConfigurationError as error:
            raise CliError(
                f"--state: {error.summary}", hint=error.hint or "", status=exit_status(error)
            ) from None
        return state

    def _check_spaces(self, state: WatchState, spaces: Sequence[str]) -> None:
        others = sorted(set(state.spaces) - set(spaces))
        if others:
            raise CliError(
                f"--state: {shorten(self._path, 80)} also has the state of space "
                f"{shorten(others[0], 80)}, which this command would remove",
                hint="watch that space too, or use another file",
                status=USAGE,
            )

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last save."""
        return time.monotonic() - self._saved_at >= max(_MIN_INTERVAL, _MIN_PAUSE * self._took)

    async def save(self, state: WatchState) -> bool:
        """Save a state. Returns False if that failed, which is reported once."""
        started = time.monotonic()
        try:
            await asyncio.to_thread(state.save, self._path)
        except ConfigurationError as error:
            self._report(error)
        else:
            self._reported = ""
        self._saved_at = time.monotonic()
        self._took = self._saved_at - started
        return not self._reported

    def save_now(self, state: WatchState) -> None:
        """Save the last state, blocking.

        Raises:
            CliError: it cannot be written.
        """
        try:
            state.save(self._path)
        except ConfigurationError as error:
            raise CliError(f"--state: {error.summary}", hint=error.hint or "", status=ERROR) from None

    def _report(self, error: ConfigurationError) -> None:
        if error.summary != self._reported:
            self._reported = error.summary
            echo_err(f"unpod-async: --state: {error.summary}; retrying every second")
