"""A poll reads several runs at the same time, and reports each change once."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.watch.replay import Replay, held_by
from tests.watch.stepping import stepping
from unpod_async import RunStatusChanged, TaskStatusChanged, UnpodClient
from unpod_async.events import Event
from unpod_async.testing import Fault, Oddities, Sandbox


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": None, **options})


def settle_all(sandbox: Sandbox) -> None:
    for row in list(sandbox.task_rows()):
        sandbox.set_status(row["task_id"], "completed")


async def test_two_runs_that_are_looked_for_at_once_report_other_changes_once() -> None:
    """Both searches read the listing down to its end, and both see that an older run has changed."""
    replay = Replay()
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox, page_size=2) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, replay.add) as step:
            new = [sandbox.insert_run(1) for _ in range(4)]
            await step.poll()
            oldest = sandbox.run_ids()[-1]
            for run in new[1:3]:
                sandbox.delete_run(run)
            sandbox.insert_task(oldest)
            sandbox.page_oddly(Oddities(count="null"))
            for _ in range(4):
                await step.poll()
    changed = [event for event in replay.events if isinstance(event, RunStatusChanged)]
    assert [event.run_id for event in changed] == [oldest]


async def test_a_failure_while_the_caller_handles_an_event_reports_no_change_twice() -> None:
    """The caller is in the middle of the changes of one run when the request for another run is lost."""
    replay, paused, resume = Replay(), asyncio.Event(), asyncio.Event()

    async def handle() -> None:
        paused.set()
        await resume.wait()

    def take(event: Event) -> object:
        replay.add(event)
        return handle() if isinstance(event, TaskStatusChanged) and not paused.is_set() else None

    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, take, resync=36_000) as step:
            lost, changed = sandbox.insert_run(1), sandbox.insert_run(3)
            await step.poll()
            for task in sandbox.task_ids(changed):
                sandbox.set_status(task, "in_progress")
            sandbox.script(Fault(path=lost, stall=0.3, reset_at=0))
            polls: set[asyncio.Task[None]] = set()
            for _ in range(2):
                polls.add(asyncio.create_task(step.poll()))
                await paused.wait()
                # The second poll begins only if the first one has ended, which it must not.
                await asyncio.wait(polls, timeout=0.6)
                if not all(poll.done() for poll in polls):
                    break
            resume.set()
            await asyncio.wait(polls)
            for poll in polls:
                poll.result()
            for _ in range(3):
                await step.poll()
            assert (replay.runs, replay.tasks) == held_by(sandbox)
