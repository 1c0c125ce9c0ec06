"""For any history, the events reported by the end of the next resync lead to what the server has."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.watch.replay import Replay, held_by
from tests.watch.stepping import Time, stepping
from unpod_async import UnpodClient, WatchState
from unpod_async.events import Event
from unpod_async.testing import Sandbox, faults

HISTORIES = int(os.environ.get("UNPOD_HISTORIES", "40"))
RESYNC = 600.0
ENDED = {"completed", "failed", "partially_completed"}
NEW_STATUS = {"redial": "scheduled", "mended": "completed", "hold": "hold"}

CHANGE = st.tuples(
    st.sampled_from(["run", "run", "task", "remove task", "remove run", "advance", "advance"]),
    st.integers(0, 999),
)
ROUND = st.fixed_dictionaries({
    "changes": st.lists(CHANGE, min_size=1, max_size=5),
    # Changes during requests: after so many further requests, this happens.
    "meanwhile": st.lists(st.tuples(st.integers(1, 6), CHANGE), max_size=2),
    "outage": st.sampled_from([0, 0, 0, 1, 2, 5]),
    "polls": st.integers(1, 3),
    "wait": st.sampled_from([0.0, 0.0, 50.0, 300.0, RESYNC]),
    # The process ends after so many further events, or at the end of the round.
    "restart": st.sampled_from([None, None, None, 0, 1, 3, 10, 10_000]),
})


def change(sandbox: Sandbox, kind: str, number: int) -> None:
    runs, tasks = sandbox.run_ids(), sandbox.task_ids()
    if kind == "run":
        sandbox.insert_run(number % 4)
    elif kind == "many runs":
        for _ in range(12 + number % 4):
            sandbox.insert_run(1)
    elif kind == "advance":
        sandbox.advance()
    elif kind == "task" and runs:
        sandbox.insert_task(runs[number % len(runs)])
    elif kind == "remove run" and runs:
        sandbox.delete_run(runs[number % len(runs)])
    elif kind == "remove task" and tasks:
        sandbox.delete_task(tasks[number % len(tasks)])
    elif kind in NEW_STATUS and tasks:
        sandbox.set_status(tasks[number % len(tasks)], NEW_STATUS[kind])


@contextmanager
def happening(sandbox: Sandbox, meanwhile: list[tuple[int, Any]]) -> Iterator[None]:
    """Make changes while listings are being read."""

    async def happen() -> None:
        arrived = sandbox.requests
        for after, (kind, number) in meanwhile:
            arrived += after
            await sandbox.arrived(arrived)
            change(sandbox, kind, number)

    task = asyncio.create_task(happen())
    try:
        yield
    finally:
        task.cancel()


@pytest.mark.timeout(60 + 2 * HISTORIES)
@settings(max_examples=HISTORIES)
@given(
    runs=st.integers(0, 12),
    tasks_per_run=st.sampled_from([(0, 0), (0, 4), (1, 3), (2, 4), (3, 3)]),
    seed=st.integers(0, 5),
    page_size=st.sampled_from([2, 3, 1, 100]),
    tasks=st.sampled_from([True, True, True, False]),
    rounds=st.lists(ROUND, min_size=1, max_size=5),
)
async def test_the_events_lead_to_what_the_server_has(
    runs: int,
    tasks_per_run: tuple[int, int],
    seed: int,
    page_size: int,
    tasks: bool,
    rounds: list[dict[str, Any]],
) -> None:
    time, replay = Time(), Replay()
    state: WatchState | None = None
    left = 0

    def take(received: Event) -> bool:
        nonlocal left
        replay.add(received)
        left -= 1
        return left > 0

    async with (
        Sandbox(runs=runs, tasks_per_run=tasks_per_run, seed=seed) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url, retry=None, page_size=page_size) as unpod,
    ):
        for process in processes_of(rounds):
            replay.connected = True  # a new process has not reported an outage
            left = 10_000 if process.taken is None else process.taken
            async with stepping(
                unpod, sandbox.space_token, take, time=time, resync=RESYNC, tasks=tasks, state=state
            ) as step:
                for now in process.rounds:
                    for kind, number in now["changes"]:
                        change(sandbox, kind, number)
                    if now["outage"]:
                        sandbox.script(faults.server_error(503, times=now["outage"]))
                    time.now += now["wait"]
                    with happening(sandbox, now["meanwhile"]):
                        for _ in range(now["polls"]):
                            if not step.left:
                                await step.poll()
                if process.taken is not None:
                    event("left in the middle" if step.left else "left between two polls")
                    state = msgspec.json.decode(msgspec.json.encode(step.watch.state), type=WatchState)
                    continue
                # The last process: two resyncs, of which the second starts after all changes.
                resyncs = step.watch.resyncs + 2
                for _ in range(500):
                    time.now += RESYNC / 10
                    await step.poll()
                    if step.watch.resyncs >= resyncs:
                        break
                assert step.watch.resyncs >= resyncs
                await step.poll()  # this poll reads what the resync could not decide
        for kind in sorted(set(replay.kinds())):
            event(kind)
        held_runs, held_tasks = held_by(sandbox)
        assert replay.runs == held_runs
        assert replay.tasks == (held_tasks if tasks else {})
        assert replay.connected
        assert not replay.pending_ended  # the end of each call was reported
        ended = {run for run, status in held_runs.items() if status in ENDED}
        if tasks:
            ended -= {run for (run, _), status in held_tasks.items() if status not in ENDED}
        known = step.watch.state.spaces[sandbox.space_token].runs
        assert {run for run, saved in known.items() if saved.settled} == ended


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
