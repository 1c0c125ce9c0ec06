"""When a watch reports a run or a task as removed, and when it must not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.watch.replay import Replay, held_by
from tests.watch.stepping import stepping
from unpod_async import (
    RunRemoved,
    RunSettled,
    RunStatusChanged,
    TaskRemoved,
    TaskSeen,
    TaskStatusChanged,
    UnpodClient,
)
from unpod_async.testing import Fault, Oddities, Sandbox, faults


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": None, **options})


def settle_all(sandbox: Sandbox) -> None:
    for row in list(sandbox.task_rows()):
        sandbox.set_status(row["task_id"], "completed")


@pytest.mark.parametrize(
    ("place", "count", "status", "chosen"),
    [
        (0, "true", "completed", False),
        (0, "null", "hold", False),
        (3, "true", "completed", True),
        (25, "true", "completed", False),
        (25, "true", "completed", True),
        (25, "null", "completed", False),
        (25, "null", "hold", True),
        (25, "true", "hold", False),
    ],
)
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
        async with stepping(unpod, sandbox.space_token, replay.add, resync=100, runs=runs) as step:
            await step.poll()
            begun = len(replay.events)
            sandbox.delete_task(task)
            for _ in range(25):
                await step.poll()
            removed = [event for event in replay.events[begun:] if isinstance(event, TaskRemoved)]
            assert [(event.run_id, event.task_id, event.old) for event in removed] == [(run, task, status)]
            runs_held, tasks_held = held_by(sandbox)
            assert replay.runs == ({run: runs_held[run]} if chosen else runs_held)
            assert replay.tasks == ({} if chosen else tasks_held)
            settled = [event.tasks for event in replay.events[begun:] if isinstance(event, RunSettled)]
            assert settled == ([{}] if status == "completed" else [])  # it has ended again


async def test_a_run_is_found_again_after_the_server_returned_smaller_pages_for_a_while() -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        run = sandbox.run_ids()[25]
        async with stepping(unpod, sandbox.space_token, replay.add, resync=100) as step:
            sandbox.page_oddly(Oddities(max_page_size=10))
            await step.poll()
            sandbox.page_oddly(Oddities())
            sandbox.delete_task(*sandbox.task_ids(run))
            for _ in range(15):
                await step.poll()
            assert (replay.runs, replay.tasks) == held_by(sandbox)


UNREADABLE = {
    "the server cannot send it": lambda sandbox, task: sandbox.poison(task),
    "it does not fit its model": lambda sandbox, task: sandbox.malform(task, b'{"task_id": 5}'),
    "it has no id": lambda sandbox, task: sandbox.malform(task, b'{"status": "pending"}'),
}


@pytest.mark.parametrize("reason", UNREADABLE)
@pytest.mark.parametrize("status", ["completed", "hold"])
async def test_a_known_task_that_cannot_be_read_is_not_reported_as_removed(reason: str, status: str) -> None:
    replay = Replay()
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        run = sandbox.run_ids()[2]
        bad, gone = sandbox.task_ids(run)
        sandbox.set_status(bad, status)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=100) as step:
            await step.poll()
            UNREADABLE[reason](sandbox, bad)
            for _ in range(15):
                await step.poll()
            assert "TaskRemoved" not in replay.kinds()
            assert "RunRemoved" not in replay.kinds()
            # Nor is another one, as long as the listing of its run cannot be read completely.
            sandbox.delete_task(gone)
            for _ in range(15):
                await step.poll()
            assert "TaskRemoved" not in replay.kinds()
            sandbox.restore(bad)
            for _ in range(25):
                await step.poll()
            assert replay.kinds().count("TaskRemoved") == 1
            assert (replay.runs, replay.tasks) == held_by(sandbox)


def page_without(rows: list[dict[str, Any]]) -> Fault:
    """Return one response with these rows only, and their number as `count`."""
    body = {"count": len(rows), "status_code": 200, "message": "", "data": rows}
    return faults.no_json(msgspec.json.encode(body), path="/runs/", page=1)


@pytest.mark.parametrize("rows", [0, 8])
async def test_a_run_is_reported_as_removed_only_if_two_listings_of_a_poll_agree(rows: int) -> None:
    replay = Replay()
    async with Sandbox(runs=9, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, replay.add) as step:
            listed = list(sandbox.run_rows())
            for other in (None, listed[:-2] + listed[-1:], listed):
                # The second listing is correct; or it has another run less; or it fails.
                sandbox.script(page_without(listed[:rows]))
                if other is not None:
                    sandbox.script(page_without(other))
                await step.poll()
            assert replay.runs == held_by(sandbox)[0]
            sandbox.script(page_without(listed[:rows]), faults.server_error(503, path="/runs/"))
            await step.poll()
            assert replay.runs == held_by(sandbox)[0]
            # The opposite: they agree, and this takes no third listing.
            sandbox.delete_run(listed[-1]["run_id"])
            before = sandbox.requests
            await step.poll()
            assert sandbox.requests - before == 2
            assert replay.runs == held_by(sandbox)[0]


@pytest.mark.parametrize("tasks", [True, False])
async def test_a_run_is_reported_as_removed_only_if_two_listings_of_a_resync_agree(tasks: bool) -> None:
    replay = Replay()
    async with Sandbox(runs=9, tasks_per_run=1) as sandbox, client(sandbox, page_size=5) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=100, tasks=tasks) as step:
            listed = list(sandbox.run_rows())
            step.time.now += 100
            # The first page of the poll is correct; the first listing of the resync has the newest rows only.
            sandbox.script(Fault(path="/runs/", page=1), page_without(listed[:3]))
            while step.watch.resyncs < 2:
                await step.poll()
            assert replay.runs == held_by(sandbox)[0]
            sandbox.delete_run(listed[-1]["run_id"])
            while step.watch.resyncs < 3:
                await step.poll()
            assert replay.runs == held_by(sandbox)[0]


async def test_rows_behind_a_run_are_counted_anew_by_the_second_listing_of_a_resync() -> None:
    async with Sandbox(runs=9, tasks_per_run=1) as sandbox, client(sandbox, page_size=5) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, Replay().add, resync=100) as step:
            sandbox.delete_run(sandbox.run_ids()[-1])
            step.time.now += 100
            while step.watch.resyncs < 2:
                await step.poll()
            known = step.watch.state.spaces[sandbox.space_token].runs
            assert [known[run].depth for run in sandbox.run_ids()] == [*range(7, -1, -1)]


@pytest.mark.parametrize(
    "page",
    [
        b'{"count": 1, "status_code": 200, "message": "", "data": []}',
        b'{"count": null, "status_code": 200, "message": "", "data": [{"task_id": 5}]}',
        b'{"count": null, "status_code": 200, "message": "", "data": [{"task_id": "T1"}]}',
        b"",
    ],
    ids=["only a count", "a row of another type", "no count", "no count and no row"],
)
async def test_a_run_whose_row_and_tasks_cannot_be_read_is_not_removed(page: bytes) -> None:
    replay = Replay()
    async with Sandbox(runs=9, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        run = sandbox.run_ids()[4]
        async with stepping(unpod, sandbox.space_token, replay.add, resync=100) as step:
            sandbox.poison(run)
            if page:
                sandbox.script(faults.no_json(page, path=f"/runs/{run}/tasks/", times=1000))
            else:
                sandbox.page_oddly(Oddities(count="null"))
                sandbox.poison(*sandbox.task_ids(run))
            for _ in range(25):
                await step.poll()
            assert any(run in request.path for request in sandbox.log)
            assert "RunRemoved" not in replay.kinds()


async def test_a_run_that_a_poll_reports_as_removed_during_a_resync_is_reported_once() -> None:
    replay = Replay()
    async with Sandbox(runs=4, tasks_per_run=30) as sandbox, client(sandbox, page_size=6) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=100) as step:
            lost, bad = sandbox.run_ids()[1:3]
            sandbox.delete_run(lost)
            sandbox.poison(bad)
            step.time.now += 100
            await step.poll()
            assert lost in replay.runs
            sandbox.restore(bad)
            await step.poll()
            assert lost not in replay.runs
            assert step.watch.resyncs == 1  # the resync is still reading tasks
            while step.watch.resyncs == 1:
                await step.poll()
            assert replay.kinds().count("RunRemoved") == 1


async def test_a_chosen_run_whose_row_cannot_be_read_is_not_taken_for_one_that_does_not_exist() -> None:
    replay = Replay()
    async with Sandbox(runs=5, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        run = sandbox.run_ids()[2]
        sandbox.poison(run)
        async with stepping(unpod, sandbox.space_token, replay.add, runs=[run]) as step:
            await step.poll()
            sandbox.restore(run)
            await step.poll()
            assert replay.runs.keys() == {run}


@pytest.mark.parametrize("chosen", [False, True])
async def test_a_disturbed_resync_removes_nothing(chosen: bool) -> None:
    replay = Replay()
    async with Sandbox(runs=9, tasks_per_run=1) as sandbox, client(sandbox, page_size=3) as unpod:
        settle_all(sandbox)
        runs = sandbox.run_ids() if chosen else None
        async with stepping(unpod, sandbox.space_token, replay.add, resync=100, runs=runs) as step:
            sandbox.page_oddly(Oddities(ignore_page=True))  # each page repeats the first one
            for _ in range(40):
                await step.poll()
            assert step.watch.resyncs == 1
            assert {"RunRemoved", "TaskRemoved"}.isdisjoint(replay.kinds())
            sandbox.page_oddly(Oddities())
            lost = sandbox.run_ids()[-1]
            sandbox.delete_run(lost)
            for _ in range(40):
                await step.poll()
            assert step.watch.resyncs > 1
            assert [event.run_id for event in replay.events if isinstance(event, RunRemoved)] == [lost]


async def test_a_settled_run_among_chosen_ones_is_looked_at_again() -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=3) as sandbox, client(sandbox, page_size=5) as unpod:
        settle_all(sandbox)
        names = sandbox.run_ids()
        shorter, redialled, longer = names[1], names[12], names[29]
        lost, again = sandbox.task_ids(shorter)[0], sandbox.task_ids(redialled)[2]
        runs = [shorter, redialled, longer]
        async with stepping(unpod, sandbox.space_token, replay.add, runs=runs, resync=100) as step:
            known = step.watch.state.spaces[sandbox.space_token].runs
            assert [run.settled for run in known.values()] == [True] * 3
            begun = len(replay.events)
            sandbox.delete_task(lost)
            sandbox.set_status(again, "hold")
            added = sandbox.insert_task(longer)
            for _ in range(15):
                await step.poll()
            assert (
                {
                    (type(event), getattr(event, "task_id", event.run_id))  # type: ignore[attr-defined]
                    for event in replay.events[begun:]
                }
                == {
                    (TaskRemoved, lost),
                    (RunSettled, shorter),
                    (RunStatusChanged, redialled),
                    (TaskStatusChanged, again),
                    (RunStatusChanged, longer),
                    (TaskSeen, added),
                }
            )
            assert replay.tasks == {
                key: status for key, status in held_by(sandbox)[1].items() if key[0] in runs
            }


@pytest.mark.parametrize("reason", UNREADABLE)
async def test_a_run_with_a_task_that_cannot_be_read_does_not_settle(reason: str) -> None:
    replay = Replay()
    async with (
        Sandbox(runs=3, tasks_per_run=1) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add, resync=100) as step,
    ):
        run = sandbox.insert_run(2)
        bad, good = sandbox.task_ids(run)
        UNREADABLE[reason](sandbox, bad)
        for task in (bad, good):
            sandbox.set_status(task, "completed")
        for _ in range(25):
            await step.poll()
        assert (replay.runs[run], replay.tasks[run, good]) == ("completed", "completed")
        assert run not in replay.settled
        sandbox.restore(bad)
        for _ in range(25):
            await step.poll()
        assert run in replay.settled
        assert (run, bad) in replay.tasks


@pytest.mark.parametrize("row", [b"", b'{"run_id": 5}', b'{"status": "pending"}'])
async def test_no_run_is_reported_as_removed_if_no_row_of_the_listing_can_be_read(row: bytes) -> None:
    replay = Replay()
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            if row:
                body = b'{"count": 1, "status_code": 200, "message": "", "data": [%s]}' % row
                sandbox.script(faults.no_json(body, path="/runs/", times=100))
            else:
                sandbox.poison(*sandbox.run_ids())
            await step.poll()
            await step.poll()
            assert "RunRemoved" not in replay.kinds()


async def test_no_run_is_reported_as_removed_if_a_row_has_no_id() -> None:
    replay = Replay()
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=100) as step:
            first, second = sandbox.run_rows()
            rows = [first, {**second, "run_id": None}]
            body = msgspec.json.encode({"count": 2, "status_code": 200, "message": "", "data": rows})
            sandbox.script(faults.no_json(body, path="/runs/", times=1000))
            while step.watch.resyncs < 3:
                await step.poll()
            assert "RunRemoved" not in replay.kinds()


async def test_a_run_on_an_earlier_page_that_cannot_be_read_is_not_reported_as_removed() -> None:
    replay = Replay()
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox, client(sandbox, page_size=1) as unpod:
        settle_all(sandbox)
        newest, other = sandbox.run_ids()
        sandbox.poison(other)
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            assert list(replay.runs) == [newest]
            sandbox.poison(newest)
            sandbox.restore(other)
            await step.poll()
            assert list(replay.runs) == [newest, other]
