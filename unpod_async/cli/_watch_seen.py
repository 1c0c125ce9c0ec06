"""What a watch has seen so far, folded from its events: what the table of `watch` shows. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from unpod_async.cli._watch_lines import length_of, outcome_of
from unpod_async.events import (
    CallEnded,
    Disconnected,
    Event,
    Reconnected,
    RunEvent,
    RunRemoved,
    RunSeen,
    RunStatusChanged,
    TaskRemoved,
    TaskSeen,
    TaskStatusChanged,
)

if TYPE_CHECKING:
    from unpod_async import WatchState

__all__ = ["Change", "Ended", "Going", "Outage", "Seen"]

_GOING: Final = frozenset({"in_progress", "processing"})
_KEPT: Final = 50
"""Ended calls, and changes of runs, that are remembered."""


class Going(NamedTuple):
    """A call in progress, since `since` as far as is known."""

    space: str
    run: str
    task: str
    since: datetime | None


class Ended(NamedTuple):
    """A call that ended; `length` in seconds."""

    space: str
    run: str
    task: str
    status: str | None
    outcome: str | None
    length: float | None
    at: datetime


class Change(NamedTuple):
    """A run whose status is another one; `new` is None when it is gone."""

    space: str
    run: str
    old: str | None
    new: str | None
    at: datetime


class Outage(NamedTuple):
    """A space that cannot be read."""

    space: str
    since: datetime
    reason: str


class Seen:
    """Folds events: `seen(event)` for each.

    Attributes:
        spaces: the tokens that are watched.
        tasks: whether tasks are watched.
        going: calls in progress by space and task.
        ended, changes: the latest, newest first.
        calls: how many calls ended.
        outages: the spaces that cannot be read, by token.
        polls, polled_at: how many polls came to their end, and when the last did.
    """

    def __init__(self, spaces: Sequence[str], *, tasks: bool, state: WatchState | None = None) -> None:
        self.spaces = tuple(dict.fromkeys(spaces))
        self.tasks = tasks
        self.going: dict[tuple[str, str], Going] = {}
        self.ended: deque[Ended] = deque(maxlen=_KEPT)
        self.changes: deque[Change] = deque(maxlen=_KEPT)
        self.calls = 0
        self.outages: dict[str, Outage] = {}
        self.polls = 0
        self.polled_at: datetime | None = None
        self._runs: dict[tuple[str, str], str | None] = {}
        if state is not None:
            self._begin(state)

    def _begin(self, state: WatchState) -> None:
        """What a watch that goes on from `state` will not tell again."""
        for space, told in state.spaces.items():
            for run, known in told.runs.items():
                self._runs[space, run] = known.status
                for status in _GOING & set(known.tasks):
                    self.going |= {
                        (space, task): Going(space, run, task, None) for task in known.tasks[status]
                    }

    @property
    def statuses(self) -> Counter[str]:
        """How many runs have each status."""
        return Counter(status or "-" for status in self._runs.values())

    def polled(self, polls: int, now: datetime) -> None:
        """So many polls have come to their end by now."""
        if polls != self.polls:
            self.polls, self.polled_at = polls, now

    def __call__(self, event: Event) -> None:
        match event:
            case Disconnected():
                self.outages[event.space_token] = Outage(event.space_token, event.seen_at, event.reason)
            case Reconnected():
                self.outages.pop(event.space_token, None)
            case RunEvent():
                self._row(event)
            case _:
                pass

    def _row(self, event: RunEvent) -> None:
        space, run, at = event.space_token, event.run_id, event.seen_at
        match event:
            case RunSeen() | RunStatusChanged():
                self._runs[space, run] = event.new
            case RunRemoved():
                self._runs.pop((space, run), None)
                for place in [place for place, call in self.going.items() if call[:2] == (space, run)]:
                    del self.going[place]
            case TaskSeen() | TaskStatusChanged() | TaskRemoved():
                self._task(event)
            case CallEnded():
                self.calls += 1
                outcome, length = outcome_of(event.task), length_of(event.task)
                self.ended.appendleft(Ended(space, run, event.task_id, event.new, outcome, length, at))
            case _:
                pass
        if isinstance(event, RunStatusChanged | RunRemoved) or (
            isinstance(event, RunSeen) and not event.existing
        ):
            self.changes.appendleft(Change(space, run, event.old, event.new, at))

    def _task(self, event: TaskSeen | TaskStatusChanged | TaskRemoved) -> None:
        place = (event.space_token, event.task_id)
        before = self.going.pop(place, None)
        if event.new not in _GOING:
            return
        since: datetime | None = event.seen_at
        if before is not None:
            since = before.since
        elif isinstance(event, TaskSeen) and event.existing:
            since = event.task.last_status_change_at or event.task.modified_at
        self.going[place] = Going(event.space_token, event.run_id, event.task_id, since)
