"""What random histories of a space cost a watch, exactly, and which events they lead to."""

from __future__ import annotations

import random
from typing import NamedTuple

import msgspec
import pytest

from tests.watch.replay import Replay
from tests.watch.stepping import Time, stepping
from unpod_async import (
    CallEnded,
    Disconnected,
    Reconnected,
    RunRemoved,
    RunSeen,
    RunSettled,
    RunStatusChanged,
    TaskRemoved,
    TaskSeen,
    TaskStatusChanged,
    UnpodClient,
    WatchState,
)
from unpod_async.testing import Oddities, Sandbox, faults

RESYNC = 600.0


EVENTS = (
    *(RunSeen, RunStatusChanged, RunSettled, RunRemoved, TaskSeen, TaskStatusChanged, CallEnded, TaskRemoved),
    *(Disconnected, Reconnected),
)


class Cost(NamedTuple):
    """What a history costs, and what the watch reports."""

    runs: int
    """Requests for pages of the listing of the runs."""
    tasks: int
    """Requests for pages of the listing of the tasks of the space."""
    tasks_of_runs: int
    """Requests for pages of the tasks of one run."""
    resyncs: int
    events: list[int]
    """How many events of each kind, in the order of `EVENTS`."""


COSTS = {
    0: Cost(292, 67, 1139, 4, [76, 95, 39, 2, 115, 184, 82, 3, 0, 0]),
    1: Cost(587, 60, 1129, 2, [32, 32, 8, 0, 54, 86, 32, 1, 1, 1]),
    3: Cost(187, 16, 366, 4, [16, 21, 8, 3, 31, 58, 26, 3, 1, 1]),
    4: Cost(1615, 0, 0, 7, [24, 38, 18, 1, 0, 0, 0, 0, 1, 1]),
    5: Cost(232, 0, 97, 4, [3, 8, 4, 0, 9, 19, 10, 0, 0, 0]),
    7: Cost(312, 111, 448, 2, [28, 41, 21, 3, 41, 91, 50, 5, 3, 3]),
    8: Cost(186, 304, 415, 4, [38, 55, 24, 2, 71, 134, 64, 3, 1, 1]),
    9: Cost(159, 79, 337, 4, [28, 10, 6, 2, 57, 25, 15, 3, 1, 1]),
    10: Cost(496, 0, 0, 2, [33, 27, 9, 2, 0, 0, 0, 0, 1, 1]),
    11: Cost(277, 0, 72, 3, [3, 3, 0, 0, 5, 4, 1, 0, 0, 0]),
    12: Cost(602, 178, 1071, 3, [30, 32, 6, 1, 54, 103, 50, 4, 1, 1]),
    13: Cost(386, 301, 731, 4, [62, 13, 3, 1, 109, 49, 23, 3, 0, 0]),
    14: Cost(302, 65, 640, 3, [20, 37, 13, 1, 47, 86, 42, 0, 1, 1]),
    15: Cost(345, 178, 1061, 1, [74, 65, 8, 1, 132, 139, 58, 1, 2, 2]),
}


class History:
    """A space that changes at random: the same way in every process."""

    def __init__(self, seed: int, sandbox: Sandbox) -> None:
        self.rng = random.Random(seed)
        self._sandbox = sandbox
        self._bad: list[str] = []

    def change(self) -> None:
        rng, sandbox = self.rng, self._sandbox
        runs, tasks = sandbox.run_ids(), sandbox.task_ids()
        kinds = [
            "run",
            "run",
            "status",
            "status",
            "task",
            "remove task",
            "remove run",
            "advance",
            "bad",
            "mend",
        ]
        match rng.choice(kinds):
            case "run":
                for _ in range(rng.choice([1, 1, 3, 11])):
                    sandbox.insert_run(rng.randint(0, 3))
            case "status" if tasks:
                for task in rng.sample(tasks, min(len(tasks), rng.choice([1, 5, 30]))):
                    sandbox.set_status(task, rng.choice(["completed", "failed", "in_progress", "hold"]))
            case "task" if runs:
                sandbox.insert_task(rng.choice(runs[:12]))
            case "remove task" if tasks:
                sandbox.delete_task(rng.choice(tasks))
            case "remove run" if runs:
                sandbox.delete_run(rng.choice(runs))
            case "advance":
                sandbox.advance()
            case "bad" if runs and tasks:
                row = rng.choice([rng.choice(runs), rng.choice(tasks)])
                if rng.random() < 0.3 and row in tasks:
                    sandbox.malform(row, rng.choice([b'{"task_id": 5}', b'{"status": "pending"}']))
                else:
                    sandbox.poison(row)
                self._bad.append(row)
            case "mend" if self._bad:
                row = self._bad.pop(rng.randrange(len(self._bad)))
                if row in {*runs, *tasks}:
                    sandbox.restore(row)
            case _:
                pass

    def disturb(self) -> None:
        rng, sandbox = self.rng, self._sandbox
        space = sandbox.space_token
        match rng.choice(["outage", "no listing", "no tasks", "odd", "even", "even"]):
            case "outage":
                times = rng.choice([1, 2, 4])
                sandbox.script(faults.server_error(503, path=f"/spaces/{space}/runs/", times=times))
            case "no listing":
                failure = rng.choice([faults.server_error, faults.rejected])
                code = 503 if failure is faults.server_error else 404
                sandbox.script(failure(code, path=f"/spaces/{space}/tasks/", times=rng.choice([1, 2, 5])))
            case "no tasks" if sandbox.run_ids():
                run = rng.choice(sandbox.run_ids()[:8])
                times = rng.choice([1, 2])
                sandbox.script(faults.rejected(400, path=f"/runs/{run}/tasks/", times=times))
            case "odd":
                sandbox.page_oddly(
                    rng.choice([Oddities(count="high"), Oddities(max_page_size=2), Oddities(count="null")])
                )
            case _:
                sandbox.page_oddly(Oddities())


async def cost_of(seed: int) -> Cost:
    rng = random.Random(seed)
    replay, time = Replay(), Time()
    tasks, chooses = seed % 6 != 4, seed % 6 == 5
    state: WatchState | None = None
    resyncs = 0
    async with (
        Sandbox(runs=rng.randint(0, 30), tasks_per_run=(0, 4), seed=seed) as sandbox,
        UnpodClient(
            sandbox.token, base_url=sandbox.base_url, retry=None, page_size=rng.choice([2, 5, 10, 100])
        ) as unpod,
    ):
        history = History(seed, sandbox)
        chosen = set(rng.sample(sandbox.run_ids(), 3)) if chooses and len(sandbox.run_ids()) > 2 else None
        for _ in range(2):
            replay.connected = True
            async with stepping(
                unpod,
                sandbox.space_token,
                replay.add,
                time=time,
                resync=RESYNC,
                tasks=tasks,
                runs=chosen,
                state=state,
            ) as step:
                for _ in range(12):
                    for _ in range(rng.choice([0, 1, 1, 3])):
                        history.change()
                    if rng.random() < 0.3:
                        history.disturb()
                    time.now += rng.choice([0, 0, 0, 50, 300, RESYNC])
                    for _ in range(rng.choice([1, 2, 5])):
                        await step.poll()
                resyncs += step.watch.resyncs
                state = msgspec.json.decode(msgspec.json.encode(step.watch.state), type=WatchState)
        paths = [request.path for request in sandbox.log]
    kinds = replay.kinds()
    return Cost(
        sum(path.endswith("/runs/") for path in paths),
        sum(path.endswith("/tasks/") and "/runs/" not in path for path in paths),
        sum(path.endswith("/tasks/") and "/runs/" in path for path in paths),
        resyncs,
        [kinds.count(kind.__name__) for kind in EVENTS],
    )


@pytest.mark.parametrize("seed", COSTS)
async def test_the_cost_of_a_watch_is_the_recorded_one(seed: int) -> None:
    """Lower the numbers if a watch gets cheaper. Raise them only to mend a fault that loses events."""
    assert await cost_of(seed) == COSTS[seed]
