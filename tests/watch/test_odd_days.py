"""A watch under difficult conditions: restarts, partial outages, wrong responses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.watch.replay import Replay, held_by
from tests.watch.stepping import Time, stepping
from unpod_async import (
    CallEnded,
    Disconnected,
    NotFoundError,
    RunSeen,
    TaskStatusChanged,
    UnpodClient,
    WatchState,
)
from unpod_async.events import Event
from unpod_async.testing import Oddities, Sandbox, faults


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": None, **options})


def kept(state: WatchState) -> WatchState:
    return msgspec.json.decode(msgspec.json.encode(state), type=WatchState)


def settle_all(sandbox: Sandbox) -> None:
    for row in list(sandbox.task_rows()):
        sandbox.set_status(row["task_id"], "completed")


async def test_after_a_restart_active_runs_are_still_polled() -> None:
    replay, time = Replay(), Time()
    async with Sandbox(runs=6, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        run = sandbox.insert_run(2)
        first, second = sandbox.task_ids(run)
        sandbox.set_status(first, "in_progress")
        async with stepping(unpod, sandbox.space_token, replay.add, time=time) as step:
            state = kept(step.watch.state)
        async with stepping(unpod, sandbox.space_token, replay.add, time=time, state=state) as step:
            sandbox.set_status(second, "in_progress")  # its run stays in progress
            await step.poll()
            assert replay.tasks[run, second] == "in_progress"


@pytest.mark.parametrize("restarts", [False, True])
async def test_new_runs_behind_an_interrupted_read_are_reported_later(restarts: bool) -> None:
    replay, time = Replay(), Time()
    seen = 0

    def take(event: Event) -> bool:
        nonlocal seen
        replay.add(event)
        seen += isinstance(event, RunSeen) and not event.existing
        return not (restarts and seen == 3)

    async with Sandbox(runs=6, tasks_per_run=1) as sandbox, client(sandbox, page_size=4) as unpod:
        async with stepping(unpod, sandbox.space_token, take, time=time) as step:
            new = [sandbox.insert_run(0) for _ in range(10)]
            if not restarts:
                sandbox.script(faults.server_error(503, path="/runs/", page=2))
            await step.poll()
            assert not set(new) <= replay.runs.keys()
            if not restarts:
                await step.poll()
            state = kept(step.watch.state)
        if restarts:
            restarts = False
            async with stepping(unpod, sandbox.space_token, take, time=time, state=state):
                pass
    assert set(new) <= replay.runs.keys()


async def test_call_ended_is_reported_by_the_next_process_if_it_was_not_delivered() -> None:
    replay, time = Replay(), Time()
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        run = sandbox.insert_run(1)
        (task,) = sandbox.task_ids(run)

        def take(event: Event) -> bool:
            replay.add(event)
            return not (isinstance(event, TaskStatusChanged) and event.new == "completed")

        async with stepping(unpod, sandbox.space_token, take, time=time) as step:
            sandbox.set_status(task, "completed")
            await step.poll()
            assert step.left
            state = kept(step.watch.state)
        assert replay.pending_ended == {(run, task)}
        async with stepping(unpod, sandbox.space_token, replay.add, time=time, state=state):
            ended = [
                event for event in replay.events if isinstance(event, CallEnded) and event.task_id == task
            ]
            assert [(event.old, event.new) for event in ended] == [(None, "completed")]


async def test_a_call_that_is_redialled_before_its_end_was_delivered_has_not_ended() -> None:
    replay, time = Replay(), Time()
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        run = sandbox.insert_run(1)
        (task,) = sandbox.task_ids(run)

        def take(event: Event) -> bool:
            replay.add(event)
            return not (isinstance(event, TaskStatusChanged) and event.new == "completed")

        async with stepping(unpod, sandbox.space_token, take, time=time) as step:
            sandbox.set_status(task, "completed")
            await step.poll()
            state = kept(step.watch.state)
        assert state.spaces[sandbox.space_token].runs[run].pending_ended == [task]
        sandbox.set_status(task, "scheduled")
        async with stepping(unpod, sandbox.space_token, replay.add, time=time, state=state) as step:
            assert step.watch.state.spaces[sandbox.space_token].runs[run].pending_ended == []
            assert "CallEnded" not in replay.kinds()
            sandbox.set_status(task, "failed")
            await step.poll()
            assert replay.kinds().count("CallEnded") == 1


async def test_a_failing_resync_does_not_stop_polls_from_reporting() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=5, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add, resync=100) as step,
    ):
        run = sandbox.insert_run(1)
        tasks = f"/spaces/{sandbox.space_token}/tasks/"
        sandbox.script(faults.server_error(503, path=tasks, times=10_000))
        for _ in range(30):
            await step.poll()
        sandbox.set_status(*sandbox.task_ids(run), "completed")
        for _ in range(30):
            await step.poll()
        assert replay.kinds().count("RunSettled") >= 1
        assert step.watch.resyncs == 1


async def test_a_space_that_is_partly_unreadable_at_the_start_is_reported_as_disconnected() -> None:
    replay = Replay()
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.server_error(503, path=f"/spaces/{sandbox.space_token}/tasks/", times=6))
        async with stepping(unpod, sandbox.space_token, replay.add) as step:
            for _ in range(5):
                await step.poll()
            assert replay.kinds().count("Disconnected") == 1
            for _ in range(3):
                await step.poll()
            assert replay.connected
            assert (replay.runs, replay.tasks) == held_by(sandbox)


async def test_an_overdue_resync_is_made_at_once() -> None:
    replay, time = Replay(), Time()
    state: WatchState | None = None
    async with Sandbox(runs=30, tasks_per_run=2) as sandbox, client(sandbox, page_size=5) as unpod:
        settle_all(sandbox)
        async with stepping(unpod, sandbox.space_token, replay.add, time=time) as step:
            state = kept(step.watch.state)
        lost = sandbox.task_ids()[-1]
        sandbox.delete_task(lost)
        for _ in range(20):  # processes that run for five minutes each
            async with stepping(unpod, sandbox.space_token, replay.add, time=time, state=state) as step:
                for _ in range(29):
                    await step.poll()
                state = kept(step.watch.state)
        assert (replay.runs, replay.tasks) == held_by(sandbox)


async def test_a_state_works_for_a_watch_with_a_wider_or_narrower_scope() -> None:
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        names = sandbox.run_ids()

        async def state_of(**options: Any) -> WatchState:
            async with stepping(unpod, sandbox.space_token, Replay().add, **options) as step:
                return kept(step.watch.state)

        async def events_from(state: WatchState, **options: Any) -> list[Event]:
            events: list[Event] = []
            async with stepping(unpod, sandbox.space_token, events.append, state=state, **options) as step:
                await step.poll()
            return events

        everything = await state_of()
        assert await events_from(everything) == []
        assert await events_from(everything, tasks=False) == []
        assert await events_from(everything, runs=names[3:5]) == []
        # What the earlier watch did not include counts as existing.
        more = await events_from(await state_of(runs=names[:2]))
        assert len(more) == 10 * 3
        assert all(event.existing for event in more)  # type: ignore[attr-defined]
        more = await events_from(await state_of(runs=names[:2]), runs=names[1:3])
        assert [getattr(event, "run_id", "") for event in more] == [names[2]] * 3
        before = sandbox.requests
        more = await events_from(await state_of(tasks=False))
        assert len(more) == 12 * 2
        assert all(event.existing for event in more)  # type: ignore[attr-defined]
        assert sandbox.requests - before < 12
        # The same holds for a space that the state does not contain.
        nothing = msgspec.structs.replace(everything, spaces={})
        assert len(await events_from(nothing)) == 12 * 3


async def test_one_response_without_some_rows_removes_nothing() -> None:
    replay = Replay()
    async with Sandbox(runs=8, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        empty = b'{"count": 0, "status_code": 200, "message": "", "data": []}'
        run = sandbox.insert_run(2)
        async with stepping(unpod, sandbox.space_token, replay.add) as step:
            begun = len(replay.events)
            sandbox.script(faults.no_json(empty, path="/runs/"))
            await step.poll()
            sandbox.script(faults.no_json(empty, path=f"/runs/{run}/tasks/"))
            await step.poll()
            assert replay.events[begun:] == []


async def test_a_removed_run_is_not_reported_as_settled() -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=2) as sandbox, client(sandbox, page_size=5) as unpod:
        settle_all(sandbox)
        name = sandbox.run_ids()[20]
        sandbox.set_status(sandbox.task_ids(name)[0], "scheduled")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=600) as step:
            begun = len(replay.events)
            sandbox.delete_run(name)
            for _ in range(120):
                await step.poll()
            assert [type(event).__name__ for event in replay.events[begun:]] == ["RunRemoved"]


async def test_an_unreadable_row_does_not_hide_removed_runs() -> None:
    replay = Replay()
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox, page_size=4) as unpod:
        settle_all(sandbox)
        names = sandbox.run_ids()
        async with stepping(unpod, sandbox.space_token, replay.add, resync=300) as step:
            sandbox.poison(names[7])
            sandbox.delete_run(names[9])
            for _ in range(60):
                await step.poll()
            assert names[7] in replay.runs
            assert names[9] not in replay.runs


async def test_one_unexpected_response_does_not_end_the_watch() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=3, tasks_per_run=1) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        sandbox.script(faults.rejected(404, path="/runs/", times=2))
        await step.poll()
        assert isinstance(replay.events[-1], Disconnected)
        await step.poll()
        await step.poll()
        assert replay.connected
        # An error of one run concerns that run only.
        run = sandbox.insert_run(1)
        sandbox.script(faults.rejected(403, path=f"/runs/{run}/tasks/"))
        await step.poll()
        for _ in range(4):
            await step.poll()
        assert [task for name, task in replay.tasks if name == run] == sandbox.task_ids(run)
        sandbox.script(faults.rejected(404, path="/runs/", times=10_000))
        await step.poll()
        await step.poll()
        with pytest.raises(NotFoundError):
            await step.poll()


async def test_a_count_that_is_too_high_does_not_cause_ever_more_requests() -> None:
    async with Sandbox(runs=30, tasks_per_run=1) as sandbox, client(sandbox, page_size=10) as unpod:
        settle_all(sandbox)
        sandbox.page_oddly(Oddities(count="high", past_end="404"))
        async with stepping(unpod, sandbox.space_token, Replay().add) as step:
            for _ in range(30):
                await step.poll()
            before = sandbox.requests
            for _ in range(100):
                await step.poll()
            assert sandbox.requests - before < 1_000  # not the 16,000 of a complete read in each poll


async def test_pages_smaller_than_requested_hide_no_older_run() -> None:
    replay = Replay()
    async with Sandbox(runs=60, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        settle_all(sandbox)
        sandbox.page_oddly(Oddities(max_page_size=10))
        name = sandbox.run_ids()[35]
        (task,) = sandbox.task_ids(name)
        sandbox.set_status(task, "in_progress")
        async with stepping(unpod, sandbox.space_token, replay.add) as step:
            await step.poll()
            sandbox.set_status(task, "completed")
            await step.poll()
            assert name in replay.settled


async def test_a_server_that_asks_for_a_very_long_delay_is_polled_again() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        sandbox.script(faults.rate_limited(86_400))
        began = step.time.now
        await step.poll()
        assert 900 <= step.time.now - began <= 990


async def test_ids_cannot_forge_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    replay = Replay()
    async with Sandbox(runs=2) as sandbox, client(sandbox) as unpod:
        row = {"run_id": "a\n2026 CRITICAL forged\x1b[31m", "status": "pending", "batch_count": 1}
        body = msgspec.json.encode({"count": 1, "status_code": 200, "message": "", "data": [row]})
        async with stepping(unpod, sandbox.space_token, replay.add) as step:
            sandbox.script(faults.no_json(body, path="/runs/"))
            await step.poll()
    assert "forged" in caplog.text
    assert "\n2026 CRITICAL" not in caplog.text
    assert "\x1b" not in caplog.text


async def test_an_outage_during_the_check_of_missing_runs_interrupts_the_poll(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replay = Replay()
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox, page_size=4) as unpod:
        settle_all(sandbox)
        unreadable, removed = sandbox.run_ids()[7], sandbox.run_ids()[9]
        async with stepping(unpod, sandbox.space_token, replay.add, resync=600) as step:
            sandbox.poison(unreadable)  # a missing run may be this row, so its tasks are asked for
            sandbox.delete_run(removed)
            sandbox.script(faults.reset_before_status(path=f"/{removed}/tasks/"))
            while not any(removed in received.path for received in sandbox.log):
                await step.poll()
            assert "was interrupted" in caplog.text
            for _ in range(20):  # the check is repeated long before the next regular resync
                await step.poll()
            assert unreadable in replay.runs
            assert removed not in replay.runs


async def test_a_missing_run_whose_tasks_are_refused_is_not_reported_and_does_not_disturb_others() -> None:
    replay = Replay()
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox, page_size=4) as unpod:
        settle_all(sandbox)
        unreadable, refused, removed = (sandbox.run_ids()[place] for place in (7, 9, 10))
        async with stepping(unpod, sandbox.space_token, replay.add, resync=300) as step:
            sandbox.poison(unreadable)
            sandbox.delete_run(refused)
            sandbox.delete_run(removed)
            sandbox.script(faults.rejected(403, path=f"/{refused}/tasks/", times=1000))
            while step.watch.resyncs < 2:
                await step.poll()
            assert removed not in replay.runs
            assert {unreadable, refused} <= replay.runs.keys()
            assert replay.connected
