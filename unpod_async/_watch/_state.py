"""What a watch has told so far, as something to keep and to start from."""

from __future__ import annotations

import msgspec

from unpod_async._watch._known import Known, KnownRun

__all__ = ["WatchState", "known_of", "told_of"]


class ToldRun(msgspec.Struct, array_like=True, gc=False):
    """A run as `KnownRun` has it; tasks as ids by status."""

    status: str | None
    tasks: dict[str, list[str]]
    settled: bool
    quiet: bool
    depth: int | None
    before: str | None


class ToldSpace(msgspec.Struct, gc=False):
    """A space: when the last sweep began, unix seconds; runs by id."""

    swept: float | None
    runs: dict[str, ToldRun]


class WatchState(msgspec.Struct, gc=False):
    """What a watch has told: `runs.watch(…, state=…)` goes on from here, in another process too.

    `msgspec.json.encode(events.state)` and `msgspec.json.decode(text, type=WatchState)`. It holds ids and
    statuses, about 40 bytes a task, and nothing about people.

    Attributes:
        tasks: whether tasks were watched.
        spaces: what was told, by space token.
    """

    tasks: bool
    spaces: dict[str, ToldSpace]
    version: int = 1


def told_of(known: Known) -> ToldSpace:
    """A copy of what is known now."""
    return ToldSpace(known.swept, {name: _told(run) for name, run in known.runs.items()})


def _told(run: KnownRun) -> ToldRun:
    tasks: dict[str, list[str]] = {}
    for name, status in run.tasks.items():
        # No status has no place in a text; the empty one stands for it, as no service sends that.
        tasks.setdefault(status or "", []).append(name)
    return ToldRun(run.status, tasks, run.settled, run.quiet, run.depth, run.before)


def known_of(told: ToldSpace, chosen: frozenset[str] | None, *, same_question: bool) -> Known:
    """What was told, to go on from.

    Args:
        chosen: the runs that are watched now; None for all.
        same_question: tasks were watched then as they are now; else no run counts as settled, and all tasks
            there are were there at the start.
    """
    known = Known()
    known.swept = told.swept
    for name, run in told.runs.items():
        if chosen is not None and name not in chosen:
            continue
        tasks = {task: status or None for status, names in run.tasks.items() for task in names}
        known.runs[name] = KnownRun(
            run.status,
            run.before,
            tasks if same_question else {},
            settled=run.settled and same_question,
            quiet=run.quiet or not same_question,
            depth=run.depth,
        )
    return known
