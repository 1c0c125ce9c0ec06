"""When a watch reports a run or a task as removed, and when it must not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.watch.replay import Replay, held_by
from tests.watch.stepping import stepping
from unpod_async import RunSettled, TaskRemoved, UnpodClient
from unpod_async.testing import Oddities, Sandbox


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": None, **options})


def settle_all(sandbox: Sandbox) -> None:
    for row in list(sandbox.task_rows()):
        sandbox.set_status(row["task_id"], "completed")


@pytest.mark.parametrize("place", [0, 3, 25], ids=["newest", "first page", "last page"])
@pytest.mark.parametrize("count", ["true", "null"])
@pytest.mark.parametrize("status", ["completed", "hold"])
@pytest.mark.parametrize("chosen", [False, True])
async def test_the_last_task_of_a_run_that_is_still_listed_is_reported_as_removed(
    place: int, count: Any, status: str, chosen: bool
) -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=1) as sandbox, client(sandbox, page_size=10) as unpod:
        sandbox.page_oddly(Oddities(count=count))
        settle_all(sandbox)
        run = sandbox.run_ids()[place]
        (task,) = sandbox.task_ids(run)
        sandbox.set_status(task, status)
        runs = [run] if chosen else None
        async with stepping(unpod, sandbox.space_token, replay.add, resync=200, runs=runs) as step:
            await step.poll()
            begun = len(replay.events)
            sandbox.delete_task(task)
            for _ in range(60):
                await step.poll()
            removed = [event for event in replay.events[begun:] if isinstance(event, TaskRemoved)]
            assert [(event.run_id, event.task_id, event.old) for event in removed] == [(run, task, status)]
            runs_held, tasks_held = held_by(sandbox)
            assert replay.runs == ({run: runs_held[run]} if chosen else runs_held)
            assert replay.tasks == ({} if chosen else tasks_held)
            settled = [event.tasks for event in replay.events[begun:] if isinstance(event, RunSettled)]
            assert settled == ([{}] if status == "completed" else [])  # it has ended again
