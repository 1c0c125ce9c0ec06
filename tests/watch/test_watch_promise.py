"""For any history, the events reported by the end of the next resync lead to what the server has."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.watch.replay import Replay, held_by
from tests.watch.stepping import Time, stepping
from unpod_async import RunNotFound, RunRemoved, TaskRemoved, UnpodClient, WatchState
from unpod_async.events import Event
from unpod_async.testing import Oddities, Sandbox, faults

HISTORIES = int(os.environ.get("UNPOD_HISTORIES", "40"))
RESYNC = 600.0
ENDED = {"completed", "failed", "partially_completed"}

CHANGE = st.tuples(
    st.sampled_from([
        *("run", "run", "task", "remove task", "remove run", "advance", "advance"),
        *("poison run", "poison task", "malform task", "mend"),
    ]),
    st.integers(0, 999),
)
ODDITIES = {
    "high count": Oddities(count="high"),
    "same page": Oddities(ignore_page=True),
    "short pages": Oddities(max_page_size=2),
    "same short page": Oddities(ignore_page=True, max_page_size=2),
    "no count": Oddities(count="null"),
    "low count": Oddities(count="low"),
    "count of the page": Oddities(count="page"),
}
ROUND = st.fixed_dictionaries({
    "changes": st.lists(CHANGE, min_size=1, max_size=5),
    # Changes during requests: after so many further requests, this happens.
    "meanwhile": st.lists(st.tuples(st.integers(1, 6), CHANGE), max_size=2),
    "outage": st.sampled_from([0, 0, 0, 1, 2, 5]),
    # So many listings of the tasks of the space fail.
    "no listing": st.sampled_from([0, 0, 0, 0, 2, 5]),
    # If a process starts in this round, its first resync is odd too.
    "oddity": st.sampled_from([None, None, None, None, None, None, *ODDITIES]),
    "polls": st.sampled_from([1, 2, 3, 12]),
    "wait": st.sampled_from([0.0, 0.0, 50.0, 300.0, RESYNC]),
    # The process ends after so many further events, or at the end of the round.
    "restart": st.sampled_from([None, None, None, 0, 1, 3, 10, 10_000]),
})
INCOMPLETE = {
    "newest runs": "the newest runs of a space could not be read completely",
    "resync": "a resync was incomplete",
    "tasks of a run": "cannot be read and will be retried: rows may be missing",
}
"""What the log says if a listing was incomplete, by what was read."""


def a_round(*changes: tuple[str, int], oddity: str | None = None, polls: int = 1, wait: float = 0.0) -> Any:
    """Return a round in which nothing else happens."""
    quiet: dict[str, Any] = {"meanwhile": [], "outage": 0, "no listing": 0, "restart": None}
    return {**quiet, "changes": list(changes), "oddity": oddity, "polls": polls, "wait": wait}


@contextmanager
def incomplete_listings() -> Iterator[set[str]]:
    """Collect what could not be read completely, according to the log."""
    found = set[str]()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            found.update(name for name, part in INCOMPLETE.items() if part in text)

    logger, handler = logging.getLogger("unpod_async"), Handler()
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


class Rows:
    """Changes the rows of a sandbox, and knows which of them cannot be read."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._unreadable: set[str] = set()

    def change(self, kind: str, number: int) -> None:
        sandbox = self._sandbox
        runs, tasks, bad = sandbox.run_ids(), sandbox.task_ids(), sorted(self._unreadable)
        if kind == "run":
            sandbox.insert_run(number % 4)
        elif kind == "advance":
            sandbox.advance()
        elif kind == "task" and runs:
            sandbox.insert_task(runs[number % len(runs)])
        elif kind == "remove run" and runs:
            sandbox.delete_run(runs[number % len(runs)])
        elif kind == "remove task" and tasks:
            sandbox.delete_task(tasks[number % len(tasks)])
        elif kind == "poison run" and runs:
            self._poison(runs[number % len(runs)])
        elif kind == "poison task" and tasks:
            self._poison(tasks[number % len(tasks)])
        elif kind == "malform task" and tasks:
            task = tasks[number % len(tasks)]
            sandbox.malform(task, (b'{"task_id": 5}', b'{"status": "pending"}')[number % 2])
            self._unreadable.add(task)
        elif kind == "mend" and bad:
            self._mend(bad[number % len(bad)])

    def _poison(self, row_id: str) -> None:
        self._sandbox.poison(row_id)
        self._unreadable.add(row_id)

    def _mend(self, row_id: str) -> None:
        self._unreadable.remove(row_id)
        if row_id in {*self._sandbox.run_ids(), *self._sandbox.task_ids()}:
            self._sandbox.restore(row_id)

    def mend_all(self) -> None:
        for row_id in list(self._unreadable):
            self._mend(row_id)

    def check_removal(self, received: Event) -> None:
        """Only rows that no longer exist may be reported as removed."""
        if isinstance(received, TaskRemoved):
            assert received.task_id not in self._sandbox.task_ids(), received
        elif isinstance(received, RunRemoved) and received.run_id in self._sandbox.run_ids():
            # A run without tasks whose row cannot be read looks like a removed one.
            assert received.run_id in self._unreadable, received
            assert not self._sandbox.task_ids(received.run_id), received

    @contextmanager
    def changing(self, meanwhile: list[tuple[int, Any]]) -> Iterator[None]:
        """Make changes while listings are being read."""

        async def change() -> None:
            arrived = self._sandbox.requests
            for after, (kind, number) in meanwhile:
                arrived += after
                await self._sandbox.arrived(arrived)
                self.change(kind, number)

        task = asyncio.create_task(change())
        try:
            yield
        finally:
            task.cancel()


SMALL = {"runs": 5, "tasks_per_run": (1, 3), "seed": 1, "page_size": 2, "tasks": True, "choice": None}


@pytest.mark.timeout(60 + 2 * HISTORIES)
@settings(max_examples=HISTORIES)
@given(
    runs=st.integers(0, 12),
    tasks_per_run=st.sampled_from([(0, 0), (0, 4), (1, 3), (2, 4), (3, 3)]),
    seed=st.integers(0, 5),
    page_size=st.sampled_from([2, 3, 1, 100]),
    tasks=st.sampled_from([True, True, True, False]),
    choice=st.one_of(st.none(), st.none(), st.sets(st.integers(0, 11), min_size=1, max_size=4)),
    rounds=st.lists(ROUND, min_size=1, max_size=5),
    incomplete=st.just(set[str]()),
)
# The first resync and the tasks of runs are incomplete.
@example(
    **SMALL,
    rounds=[
        a_round(("task", 1), oddity="high count", polls=3),
        a_round(("advance", 0), ("remove task", 4), ("run", 2), oddity="high count", polls=12, wait=RESYNC),
    ],
    incomplete={"resync", "tasks of a run"},
)
# A later resync cannot reach some runs.
@example(
    **SMALL,
    rounds=[
        a_round(("task", 1)),
        a_round(("remove run", 1), ("run", 1), oddity="same short page", polls=12, wait=RESYNC),
    ],
    incomplete={"resync"},
)
# The newest runs are incomplete: the server shows only some of them, or no known run is left.
@example(
    **SMALL,
    rounds=[
        a_round(("task", 1)),
        a_round(("run", 1), ("run", 2), ("run", 3), oddity="same short page", polls=3),
    ],
    incomplete={"newest runs"},
)
@example(
    **SMALL,
    rounds=[
        a_round(("task", 1)),
        a_round(*[("remove run", 0)] * 5, ("run", 3), ("run", 2), oddity="high count", polls=3),
    ],
    incomplete={"newest runs"},
)
async def test_the_events_lead_to_what_the_server_has(incomplete: set[str], **history: Any) -> None:
    with incomplete_listings() as found:
        await check_history(**history)
    for name in sorted(found):
        event(f"incomplete: {name}")
    assert found >= incomplete


async def check_history(
    runs: int,
    tasks_per_run: tuple[int, int],
    seed: int,
    page_size: int,
    tasks: bool,
    choice: set[int] | None,
    rounds: list[dict[str, Any]],
) -> None:
    time, replay = Time(), Replay()
    state: WatchState | None = None
    left = 0

    def take(received: Event) -> bool:
        nonlocal left
        rows.check_removal(received)
        replay.add(received)
        left -= 1
        return left > 0

    async with (
        Sandbox(runs=runs, tasks_per_run=tasks_per_run, seed=seed) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url, retry=None, page_size=page_size) as unpod,
    ):
        rows, space = Rows(sandbox), sandbox.space_token
        chosen, not_found = None, set[str]()
        if choice is not None and runs:
            chosen = {sandbox.run_ids()[number % runs] for number in choice}
            event("chosen runs")
        for process in processes_of(rounds):
            replay.connected = True  # a new process has not reported an outage
            left = 10_000 if process.taken is None else process.taken
            watching = stepping(
                unpod, space, take, time=time, resync=RESYNC, tasks=tasks, runs=chosen, state=state
            )
            sandbox.page_oddly(oddity_of(process.rounds[:1]))
            try:
                async with watching as step:
                    for now in process.rounds:
                        for kind, number in now["changes"]:
                            rows.change(kind, number)
                        if now["outage"]:
                            sandbox.script(faults.server_error(503, times=now["outage"]))
                        if now["no listing"]:
                            failure = faults.rejected(404, path=f"{space}/tasks/", times=now["no listing"])
                            sandbox.script(failure)
                        sandbox.page_oddly(oddity_of([now]))
                        time.now += now["wait"]
                        with rows.changing(now["meanwhile"]):
                            for _ in range(now["polls"]):
                                if not step.left:
                                    await step.poll()
                    sandbox.page_oddly(Oddities())
                    if process.taken is not None:
                        event("left in the middle" if step.left else "left between two polls")
                        state = msgspec.json.decode(msgspec.json.encode(step.watch.state), type=WatchState)
                        continue
                    # The last process: two resyncs, of which the second starts after all changes.
                    rows.mend_all()
                    resyncs = step.watch.resyncs + 2
                    for _ in range(500):
                        time.now += RESYNC / 10
                        await step.poll()
                        if step.watch.resyncs >= resyncs:
                            break
                    assert step.watch.resyncs >= resyncs
                    await step.poll()  # this poll reads what the resync could not decide
            except RunNotFound as error:
                not_found = set(error.run_ids)
                break
        if not_found:
            # A chosen run was removed before it was first reported.
            assert not_found.isdisjoint([*sandbox.run_ids(), *replay.runs])
            event("a chosen run was not found")
            return
        for kind in sorted(set(replay.kinds())):
            event(kind)
        held_runs, held_tasks = held_by(sandbox)
        if chosen is not None:
            held_runs = {run: status for run, status in held_runs.items() if run in chosen}
            held_tasks = {key: status for key, status in held_tasks.items() if key[0] in chosen}
        assert replay.runs == held_runs
        assert replay.tasks == (held_tasks if tasks else {})
        assert replay.connected
        assert not replay.pending_ended  # the end of each call was reported
        ended = {run for run, status in held_runs.items() if status in ENDED}
        if tasks:
            ended -= {run for (run, _), status in held_tasks.items() if status not in ENDED}
        known = step.watch.state.spaces[space].runs
        assert {run for run, saved in known.items() if saved.settled} == ended


def oddity_of(rounds: list[dict[str, Any]]) -> Oddities:
    """Return how the server pages in the first of these rounds."""
    return ODDITIES.get(rounds[0]["oddity"], Oddities()) if rounds else Oddities()


class Process(NamedTuple):
    rounds: list[dict[str, Any]]
    taken: int | None


def processes_of(rounds: list[dict[str, Any]]) -> Iterator[Process]:
    """Split the rounds where the process ends: after so many events, or with its last round."""
    now: list[dict[str, Any]] = []
    for each in rounds:
        now.append(each)
        if each["restart"] is not None:
            yield Process(now, max(1, each["restart"]))
            now = []
    yield Process(now, None)
