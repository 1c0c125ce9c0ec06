"""`unpod-async watch`: events of runs and calls, as a table that follows or as lines."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from unpod_async.cli._common import Common
from unpod_async.cli._connect import client
from unpod_async.cli._keeping import Keeper
from unpod_async.cli._output import moves, put, put_line, say, wants_json
from unpod_async.cli._reader import reader_gone
from unpod_async.cli._running import Interrupted
from unpod_async.cli._screen import Screen
from unpod_async.cli._status import COMPLETE
from unpod_async.cli._values import seconds
from unpod_async.cli._watch_lines import json_line, text_line
from unpod_async.cli._watch_seen import Seen
from unpod_async.events import Event, RunSeen, TaskSeen

if TYPE_CHECKING:
    from types import TracebackType

    from rich.text import Text

    from unpod_async import UnpodClient, Watch, WatchState

__all__ = ["Wishes", "watch"]

_LOOK_EVERY: Final = 0.25
"""Seconds between two looks at what is to be drawn or saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options of a watch as they were typed."""

    interval: str
    resync: str
    runs: Sequence[str]
    tasks: bool
    changes_only: bool
    state: str | None

    def arguments(self) -> dict[str, Any]:
        """Arguments for `runs.watch`.

        Raises:
            Stop: one cannot be read.
        """
        return {
            "interval": seconds("--interval", self.interval),
            "resync": seconds("--resync", self.resync),
            "tasks": self.tasks,
            "runs": list(self.runs) or None,
        }


class Teller(Protocol):
    """Tells events, between entering and leaving it."""

    def __call__(self, event: Event) -> None: ...
    def look(self, polls: int) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Lines:
    """A line for each event, at once."""

    def __init__(self, put_event: Callable[[Event], None], *, changes_only: bool) -> None:
        self._put = put_event
        self._changes_only = changes_only

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def __call__(self, event: Event) -> None:
        if not (self._changes_only and isinstance(event, RunSeen | TaskSeen) and event.existing):
            self._put(event)

    def look(self, polls: int) -> None:
        """Lines say nothing about polls."""


class Table:
    """A table that follows the events."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._screen = Screen(sys.stdout, self._draw)

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        self._seen(event)

    def look(self, polls: int) -> None:
        """Draw what has come since the last look."""
        self._seen.polled(polls, datetime.now(UTC))
        self._screen.look()

    def _draw(self, width: int, height: int, ascii_only: bool) -> list[Text]:
        from unpod_async.cli._watch_view import draw

        return draw(self._seen, datetime.now(UTC), width=width, height=height, ascii_only=ascii_only)


def watch(common: Common, spaces: Sequence[str], wishes: Wishes, *, json_lines: bool | None) -> int:
    """Watch until somebody ends it; the exit status."""
    arguments = wishes.arguments()
    keeper = None if wishes.state is None else Keeper(wishes.state)
    state = None if keeper is None else keeper.load(spaces)
    with client(common) as (loop, unpod):
        teller = _teller(spaces, wishes, state, as_json=wants_json(json_lines))
        try:
            loop.run(_watch(unpod, spaces, {**arguments, "state": state}, teller, keeper))
        except Interrupted as interrupted:
            if isinstance(teller, Table):
                # It is how a watch ends; the table is all there is to say.
                interrupted.told = True
            if wishes.state is not None:
                say(f"The state is kept in {wishes.state}; the same command goes on from there.")
                interrupted.told = True
            raise
    return COMPLETE


def _teller(spaces: Sequence[str], wishes: Wishes, state: WatchState | None, *, as_json: bool) -> Teller:
    if as_json:
        return Lines(lambda event: put_line(json_line(event)), changes_only=wishes.changes_only)
    if not moves(sys.stdout):
        return Lines(lambda event: put(text_line(event)), changes_only=wishes.changes_only)
    return Table(Seen(spaces, tasks=wishes.tasks, state=state))


async def _watch(
    unpod: UnpodClient,
    spaces: Sequence[str],
    arguments: dict[str, Any],
    teller: Teller,
    keeper: Keeper | None,
) -> None:
    async with unpod.runs.watch(list(spaces), **arguments) as events:
        telling = _Telling(events, teller, keeper)
        with teller:
            work = (telling.read(), telling.look(), reader_gone(sys.stdout))
            tasks = [asyncio.create_task(one) for one in work]
            try:
                # None of them has an end but an error.
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                # What is in a pipe that nobody reads was not told: it is told next time.
                if not any(isinstance(end, BrokenPipeError) for end in ends):
                    telling.end()
            for task in done:
                task.result()


class _Telling:
    """Events from the watch to whom they are told, and the state to where it is kept."""

    def __init__(self, events: Watch, teller: Teller, keeper: Keeper | None) -> None:
        self._events = events
        self._teller = teller
        self._keeper = keeper
        self._told = self._saved = 0

    async def read(self) -> None:
        async for event in self._events:
            self._teller(event)
            self._told += 1

    async def look(self) -> None:
        while True:
            self._teller.look(self._events.polls)
            marks = self._told + self._events.resyncs
            if (
                self._keeper is not None
                and marks != self._saved
                and self._keeper.is_due
                and await self._keeper.save(self._events.state)
            ):
                self._saved = marks
            await asyncio.sleep(_LOOK_EVERY)

    def end(self) -> None:
        """Keep the last state."""
        if self._keeper is not None:
            self._keeper.save_last(self._events.state)
