"""What a watch has told so far, as something to keep and to start from."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from unpod_async._watch.known import Known, KnownRun

__all__ = ["STATE_VERSION", "WatchState", "known_of", "state_of"]


STATE_VERSION = 2
"""The version of the format of `WatchState`."""


class ToldRun(msgspec.Struct, array_like=True, gc=False):
    """A run as `KnownRun` has it; tasks as ids by status."""

    status: str | None
    tasks: dict[str, list[str]]
    settled: bool
    backfilling: bool
    read: bool
    active: bool
    depth: int | None
    before: str | None
    pending_ended: list[str]


class ToldSpace(msgspec.Struct, gc=False):
    """A space: as `Known` has it."""

    last_resync: float | None = None
    runs: dict[str, ToldRun] = {}
    unverified: list[str] = []


class WatchState(msgspec.Struct, gc=False):
    """What a watch has told: `runs.watch(…, state=…)` goes on from here, in another process too.

    `msgspec.json.encode(events.state)` and `msgspec.json.decode(text, type=WatchState)`. It holds ids and
    statuses, about 40 bytes a task, and nothing about people. Taking it copies all that: with 10,000 runs,
    take it after what must not be told twice, rather than after each event.

    Attributes:
        tasks: whether tasks were watched.
        spaces: what was told, by space token.
        chosen: the runs that were watched; None for all.
    """

    tasks: bool
    spaces: dict[str, ToldSpace]
    chosen: list[str] | None = None
    version: int = STATE_VERSION

    def covers(self, chosen: frozenset[str] | None, *, tasks: bool) -> bool:
        """Whether all that is asked for now was asked for then."""
        runs = self.chosen is None or (chosen is not None and chosen <= set(self.chosen))
        return runs and (self.tasks or not tasks)


def state_of(known: Mapping[str, Known], chosen: frozenset[str] | None, *, tasks: bool) -> WatchState:
    """A copy of what is known now."""
    spaces = {
        token: ToldSpace(
            space.last_resync,
            {name: _told(run) for name, run in space.runs.items()},
            sorted(space.unverified),
        )
        for token, space in known.items()
    }
    return WatchState(tasks, spaces, None if chosen is None else sorted(chosen))


def _told(run: KnownRun) -> ToldRun:
    tasks: dict[str, list[str]] = {}
    for name, status in run.tasks.items():
        # An empty status is none.
        tasks.setdefault(status or "", []).append(name)
    return ToldRun(
        run.status,
        tasks,
        settled=run.settled,
        backfilling=run.backfilling,
        read=run.read,
        active=run.active,
        depth=run.depth,
        before=run.before,
        pending_ended=sorted(run.pending_ended),
    )


def known_of(
    state: WatchState, space_token: str, chosen: frozenset[str] | None, *, tasks: bool, now: float
) -> Known:
    """What was told of a space, to go on from.

    What was not asked for then is there at the start now, and told so.

    Args:
        now: on the clock of the watch.
    """
    known = Known()
    told = state.spaces.get(space_token)
    if told is None:
        return known
    if state.covers(chosen, tasks=tasks):
        known.last_resync = told.last_resync
    all_tasks = state.tasks or not tasks
    for name, run in told.runs.items():
        if chosen is not None and name not in chosen:
            continue
        each = {task: status or None for status, names in run.tasks.items() for task in names}
        known.runs[name] = KnownRun(
            run.status,
            run.before,
            each if tasks else {},
            settled=run.settled and all_tasks,
            backfilling=run.backfilling or not all_tasks,
            read=run.read and state.tasks,
            pending_ended=set(run.pending_ended) if tasks else set(),
            depth=run.depth,
            active=run.active,
            changed=now,
        )
    known.unverified = {name for name in told.unverified if name in known.runs}
    return known
