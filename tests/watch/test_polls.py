"""Which requests the polls of a watch make, and when."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from tests.clock import pass_time, set_deadline_clock
from tests.watch.replay import Replay, held_by
from tests.watch.stepping import Stepper, Time, stepping
from unpod_async import (
    CallEnded,
    NotFoundError,
    RetryPolicy,
    RunSeen,
    TaskSeen,
    UnpodClient,
    WatchState,
)
from unpod_async.events import Event
from unpod_async.testing import Oddities, Sandbox, faults


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": None, **options})


def set_all(sandbox: Sandbox, status: str) -> None:
    for row in list(sandbox.task_rows()):
        sandbox.set_status(row["task_id"], status)


def tasks_path(sandbox: Sandbox) -> str:
    return f"/spaces/{sandbox.space_token}/tasks/"


async def requests_of(step: Stepper, sandbox: Sandbox, polls: int) -> list[int]:
    counts: list[int] = []
    for _ in range(polls):
        before = sandbox.requests
        await step.poll()
        counts.append(sandbox.requests - before)
    return counts


async def test_existing_runs_that_are_read_one_by_one_are_read_twenty_in_a_poll() -> None:
    replay = Replay()
    async with Sandbox(runs=50, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        set_all(sandbox, "completed")
        sandbox.script(faults.rejected(404, path=tasks_path(sandbox)))
        async with stepping(unpod, sandbox.space_token, replay.add, resync=3600) as step:
            assert sandbox.requests == 2 + 20
            # The newest come first.
            assert {run for run, _ in replay.tasks} == set(sandbox.run_ids()[:20])
            assert await requests_of(step, sandbox, 4) == [1 + 20, 1 + 10, 1, 1]
            assert (replay.runs, replay.tasks) == held_by(sandbox)


async def test_existing_runs_that_have_not_ended_take_turns() -> None:
    replay = Replay()
    async with Sandbox(runs=50, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        set_all(sandbox, "hold")
        sandbox.script(faults.rejected(404, path=tasks_path(sandbox), times=1000))
        async with stepping(unpod, sandbox.space_token, replay.add, resync=3600) as step:
            assert len(replay.tasks) == 20
            await step.poll()
            assert len(replay.tasks) == 40
            await step.poll()
            assert len(replay.tasks) == 50


async def test_the_tasks_of_four_runs_are_read_at_a_time() -> None:
    async with Sandbox(runs=8, tasks_per_run=1) as sandbox, client(sandbox, deadline=20) as unpod:
        sandbox.script(faults.rejected(404, path=tasks_path(sandbox)))
        sandbox.script(*(faults.stall(60, path=f"/runs/{run}/tasks/") for run in sandbox.run_ids()))

        async def end_the_poll() -> None:
            await sandbox.arrived(2 + 1)  # all of them start in the same turn of the event loop
            pass_time(20)

        set_deadline_clock(unpod)
        async with anyio.create_task_group() as group:
            group.start_soon(end_the_poll)
            async with stepping(unpod, sandbox.space_token, Replay().add):
                assert unpod.stats.attempts == 2 + 4


async def test_many_settled_runs_are_read_one_by_one_within_half_of_the_time_to_the_next_resync() -> None:
    async with Sandbox(runs=150, tasks_per_run=1) as sandbox, client(sandbox, page_size=200) as unpod:
        set_all(sandbox, "completed")
        async with stepping(unpod, sandbox.space_token, Replay().add, resync=100) as step:
            sandbox.script(faults.rejected(404, path=tasks_path(sandbox)))
            step.time.now += 100
            requests = await requests_of(step, sandbox, 8)
            # Half of 100 seconds are 5 polls, and 150 runs in 5 polls are 30.
            assert requests.count(1 + 30) == 5


async def test_resyncs_that_fail_are_repeated_less_and_less_often() -> None:
    time = Time()
    async with Sandbox(runs=30, tasks_per_run=1) as sandbox, client(sandbox, page_size=10) as unpod:
        set_all(sandbox, "completed")
        async with stepping(unpod, sandbox.space_token, Replay().add, time=time, resync=1000) as step:
            state = msgspec.json.decode(msgspec.json.encode(step.watch.state), type=WatchState)
        # The next process starts with a resync that is overdue. Another page of runs fails each time.
        time.now += 1000
        sandbox.script(faults.server_error(503, path="/runs/", page=2, times=4))
        async with stepping(
            unpod, sandbox.space_token, Replay().add, time=time, resync=1000, state=state
        ) as step:
            began = len(sandbox.log)
            attempts: list[int] = []
            for poll in range(100):
                before = len(sandbox.log)
                await step.poll()
                if any(request.query.get("page") == "2" for request in sandbox.log[before:]):
                    attempts.append(poll)
                if step.watch.resyncs:
                    break
        # Interrupted polls pause for 10, 20, 40 seconds; the resync for 80, 160, 320 and 640 seconds.
        assert attempts[:3] == [7, 24, 57]
        assert len(sandbox.log) - began < 130


async def test_a_resync_that_fails_after_complete_ones_is_repeated_as_soon_as_the_first_one() -> None:
    async with Sandbox(runs=30, tasks_per_run=1) as sandbox, client(sandbox, page_size=10) as unpod:
        set_all(sandbox, "completed")
        async with stepping(unpod, sandbox.space_token, Replay().add, resync=1000) as step:
            polls: list[int] = []
            for _ in range(3):
                resyncs, number = step.watch.resyncs, 0
                step.time.now += 1000
                sandbox.script(faults.server_error(503, path="/runs/", page=2))
                while step.watch.resyncs == resyncs:
                    await step.poll()
                    number += 1
                polls.append(number)
            assert len(set(polls)) == 1


async def test_new_runs_that_could_not_be_read_are_followed_by_an_early_resync() -> None:
    replay = Replay()
    async with Sandbox(runs=6, tasks_per_run=1) as sandbox, client(sandbox, page_size=4) as unpod:
        set_all(sandbox, "completed")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            await requests_of(step, sandbox, 3)
            assert step.watch.resyncs == 1
            for _ in range(6):
                sandbox.insert_run(0)
            sandbox.page_oddly(Oddities(ignore_page=True))
            await step.poll()
            sandbox.page_oddly(Oddities())
            await requests_of(step, sandbox, 8)
            assert step.watch.resyncs == 2
            assert replay.runs == held_by(sandbox)[0]


@pytest.mark.parametrize(("runs", "together"), [(9, False), (10, True)])
async def test_tasks_are_read_together_from_ten_runs_on(runs: int, together: bool) -> None:
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        set_all(sandbox, "completed")
        async with stepping(unpod, sandbox.space_token, Replay().add, resync=36_000) as step:
            for _ in range(runs):
                sandbox.insert_run(1)
            assert await requests_of(step, sandbox, 2) == [1 + runs, 1 + 1 if together else 1 + runs]


async def test_reading_tasks_together_stops_after_half_as_many_pages_as_runs() -> None:
    replay = Replay()
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, client(sandbox, page_size=10) as unpod:
        set_all(sandbox, "completed")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            runs = [sandbox.insert_run(1) for _ in range(13)]
            long = sandbox.insert_run(100)
            for task in sandbox.task_ids(long):
                sandbox.set_status(task, "completed")
            await step.poll()
            assert long in replay.settled
            began = len(sandbox.log)
            sandbox.set_status(sandbox.task_ids(runs[0])[0], "completed")
            await step.poll()
            requests = [request.path for request in sandbox.log[began:]]
            assert sum(path.endswith(tasks_path(sandbox)) for path in requests) == 13 // 2
            assert sum("/runs/R" in path for path in requests) == 13
            assert runs[0] in replay.settled


async def test_tasks_are_read_one_by_one_if_that_takes_fewer_requests() -> None:
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, client(sandbox, page_size=10) as unpod:
        set_all(sandbox, "completed")
        async with stepping(unpod, sandbox.space_token, Replay().add, resync=36_000) as step:
            for _ in range(10):
                sandbox.insert_run(6)  # 60 tasks are 6 pages, and half of 10 is 5
            await step.poll()
            began = len(sandbox.log)
            await step.poll()
            assert not any(request.path.endswith(tasks_path(sandbox)) for request in sandbox.log[began:])


@pytest.mark.parametrize("lacks", [None, "task_id", "run_id"])
async def test_a_run_is_whole_if_the_listing_of_the_space_has_the_tasks_it_was_ordered_with(
    lacks: str | None,
) -> None:
    """More tasks than that are whole only if no row of the listing is without its ids."""
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        set_all(sandbox, "completed")
        longer, _, broken = sandbox.run_ids()
        rows = [{**row, "batch_count": int(row["run_id"] != longer)} for row in sandbox.run_rows()]
        body = {"count": 3, "status_code": 200, "message": "", "data": rows}
        sandbox.script(faults.no_json(msgspec.json.encode(body), path="/runs/", page=1))
        if lacks is not None:
            (task,) = sandbox.task_ids(broken)
            row = {"task_id": task, "run_id": broken, "status": "completed"}
            del row[lacks]
            sandbox.malform(task, msgspec.json.encode(row))
        async with stepping(unpod, sandbox.space_token, Replay().add, resync=36_000):
            read = {request.path.split("/")[-3] for request in sandbox.log if "/runs/R" in request.path}
            assert read == (set() if lacks is None else {longer, broken})


async def test_tasks_belong_to_the_run_whose_tasks_were_listed_even_if_they_do_not_name_it() -> None:
    events: list[Event] = []
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        run = sandbox.run_ids()[1]
        (task,) = sandbox.task_ids(run)
        sandbox.malform(task, f'{{"task_id": "{task}", "status": ""}}'.encode())
        async with stepping(unpod, sandbox.space_token, events.append):
            seen = [event for event in events if isinstance(event, TaskSeen) and event.task_id == task]
            # An empty status is none.
            assert [(event.run_id, event.new) for event in seen] == [(run, None)]


@pytest.mark.parametrize("place", [4, 5, 9, 10, 24, 29])
async def test_an_old_run_is_found_with_one_request(place: int) -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=2) as sandbox, client(sandbox, page_size=5) as unpod:
        set_all(sandbox, "completed")
        run = sandbox.run_ids()[place]
        task, other = sandbox.task_ids(run)
        sandbox.set_status(task, "hold")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            await step.poll()
            sandbox.set_status(task, "completed")
            step.time.now += 1000
            # The newest page, the page of this run unless it is the newest, and its tasks.
            assert await requests_of(step, sandbox, 1) == [3 if place > 4 else 2]
            assert run in replay.settled
            sandbox.set_status(other, "hold")
            assert (run, other) in replay.tasks


async def test_the_row_of_an_old_run_is_found_after_the_server_sent_no_counts_for_a_while() -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=1) as sandbox, client(sandbox, page_size=10) as unpod:
        set_all(sandbox, "completed")
        run = sandbox.run_ids()[25]
        sandbox.set_status(*sandbox.task_ids(run), "hold")
        sandbox.page_oddly(Oddities(count="null"))
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            await step.poll()
            sandbox.page_oddly(Oddities())
            sandbox.delete_task(*sandbox.task_ids(run))
            step.time.now += 100
            await step.poll()  # reads the listing down to this run, to see whether it is still there
            assert "TaskRemoved" in replay.kinds()
            sandbox.set_status(sandbox.insert_task(run), "completed")
            step.time.now += 1000
            await step.poll()
            assert replay.runs[run] == held_by(sandbox)[0][run] == "completed"


async def test_a_page_of_older_runs_is_retried_in_the_same_poll() -> None:
    replay = Replay()
    policy = RetryPolicy(base=0.001)
    async with (
        Sandbox(runs=30, tasks_per_run=1) as sandbox,
        client(sandbox, page_size=5, retry=policy) as unpod,
    ):
        set_all(sandbox, "completed")
        run = sandbox.run_ids()[20]
        (task,) = sandbox.task_ids(run)
        sandbox.set_status(task, "hold")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            await step.poll()
            sandbox.set_status(task, "completed")
            step.time.now += 1000
            sandbox.script(faults.server_error(500, path="/runs/", page=5))
            await step.poll()
            assert run in replay.settled


async def test_a_page_of_older_runs_that_fails_interrupts_the_poll(caplog: pytest.LogCaptureFixture) -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=1) as sandbox, client(sandbox, page_size=5) as unpod:
        set_all(sandbox, "completed")
        run = sandbox.run_ids()[20]
        (task,) = sandbox.task_ids(run)
        sandbox.set_status(task, "hold")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            await step.poll()
            sandbox.set_status(task, "completed")
            step.time.now += 1000
            sandbox.script(faults.server_error(503, path="/runs/", page=5))
            await step.poll()
            assert ", page 5]" in caplog.text
            assert run not in replay.settled
            await step.poll()
            assert run in replay.settled


async def test_the_listing_of_runs_is_read_no_further_than_to_the_last_chosen_one() -> None:
    async with Sandbox(runs=4, tasks_per_run=1) as sandbox, client(sandbox, page_size=2) as unpod:
        for chosen, pages in ((4, 2), (2, 1)):
            before = sandbox.requests
            runs = sandbox.run_ids()[:chosen]
            async with stepping(unpod, sandbox.space_token, Replay().add, runs=runs, tasks=False):
                assert sandbox.requests - before == pages


async def test_a_settled_run_is_reported_even_if_a_resync_has_read_its_tasks_before() -> None:
    replay = Replay()
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        set_all(sandbox, "completed")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=100) as step:
            run = sandbox.insert_run(1)
            await step.poll()
            sandbox.set_status(*sandbox.task_ids(run), "completed")
            sandbox.script(faults.rejected(400, path=f"/runs/{run}/tasks/", times=3))
            step.time.now += 100
            resyncs = step.watch.resyncs
            while step.watch.resyncs == resyncs:
                await step.poll()
            assert replay.runs[run] == "completed"
            assert run not in replay.settled
            await requests_of(step, sandbox, 30)
            assert run in replay.settled


async def test_a_count_that_is_always_zero_does_not_make_polls_read_twice() -> None:
    replay = Replay()
    async with Sandbox(runs=9, tasks_per_run=1) as sandbox, client(sandbox, page_size=4) as unpod:
        set_all(sandbox, "completed")
        sandbox.page_oddly(Oddities(count="zero"))
        async with stepping(unpod, sandbox.space_token, replay.add, tasks=False, resync=36_000) as step:
            new = [sandbox.insert_run(0) for _ in range(6)]
            assert await requests_of(step, sandbox, 1) == [2]
            assert set(new) <= replay.runs.keys()


async def test_an_interrupted_poll_becomes_an_outage_only_at_the_third_time() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=3, tasks_per_run=1) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        runs = [sandbox.insert_run(1) for _ in range(2)]
        for _ in range(2):  # twice, because a complete poll ends the row of interrupted ones
            for _ in range(2):
                sandbox.script(faults.reset_before_status(path=f"/runs/{runs[0]}/tasks/"))
                await step.poll()
            assert replay.connected
            for run in runs:
                for task in sandbox.task_ids(run):
                    sandbox.set_status(task, "in_progress")
            await step.poll()
        sandbox.script(faults.reset_before_status(path=f"/runs/{runs[0]}/tasks/", times=4))
        await step.poll()
        await step.poll()
        assert replay.connected
        await step.poll()
        assert not replay.connected
        # A response is not enough to end it, because all these polls had one.
        await step.poll()
        assert not replay.connected
        await step.poll()
        assert replay.connected
        assert replay.kinds().count("Disconnected") == replay.kinds().count("Reconnected") == 1


async def test_final_errors_end_the_watch_only_if_three_polls_in_a_row_have_one() -> None:
    async with (
        Sandbox(runs=3, tasks_per_run=1) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, Replay().add) as step,
    ):
        for _ in range(3):
            sandbox.script(faults.rejected(404, path="/runs/", times=2))
            await requests_of(step, sandbox, 3)
        sandbox.script(faults.rejected(404, path="/runs/", times=3))
        with pytest.raises(NotFoundError):
            await requests_of(step, sandbox, 3)


async def test_events_have_the_time_of_the_response() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=1, tasks_per_run=1) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        begun, first = len(replay.events), replay.events[0].seen_at
        sandbox.insert_run(1)
        now = step.time.utc_now()
        await step.poll()
        news = replay.events[begun:]
        assert [event.seen_at for event in news] == [now] * 2
        assert (now - first).total_seconds() == 10
        assert [event.existing for event in news if isinstance(event, RunSeen)] == [False]


async def test_at_the_start_too_an_outage_needs_three_interrupted_polls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replay = Replay()
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.server_error(503, path=tasks_path(sandbox), times=3))
        async with stepping(unpod, sandbox.space_token, replay.add) as step:
            await step.poll()
            assert replay.connected
            await step.poll()
            assert not replay.connected
            assert caplog.text.count("was interrupted") == 1
            await step.poll()
            assert replay.connected


async def test_runs_that_are_read_together_are_read_less_often_too() -> None:
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        set_all(sandbox, "completed")
        async with stepping(unpod, sandbox.space_token, Replay().add, resync=36_000) as step:
            for _ in range(12):
                sandbox.insert_run(1)
            assert await requests_of(step, sandbox, 3) == [13, 2, 2]
            step.time.now += 1000
            # They have not changed for 1,000 seconds, so they are read every 100 seconds.
            assert await requests_of(step, sandbox, 12) == [2, *[1] * 10, 2]


async def test_only_runs_with_unreadable_tasks_are_read_by_themselves_at_the_start() -> None:
    replay = Replay()
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        set_all(sandbox, "completed")
        bad = sandbox.run_ids()[4]
        sandbox.poison(sandbox.task_ids(bad)[0])
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            read = {request.path.split("/")[-3] for request in sandbox.log if "/runs/R" in request.path}
            assert read == {bad}
            known = step.watch.state.spaces[sandbox.space_token].runs
            assert [run for run, saved in known.items() if not saved.settled] == [bad]
            sandbox.restore(sandbox.task_ids(bad)[0])
            step.time.now += 1000
            await step.poll()
            known = step.watch.state.spaces[sandbox.space_token].runs
            assert all(saved.settled for saved in known.values())


async def test_a_run_that_may_have_been_removed_is_read_less_and_less_often() -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=1) as sandbox, client(sandbox, page_size=10) as unpod:
        set_all(sandbox, "completed")
        run = sandbox.run_ids()[25]
        sandbox.set_status(*sandbox.task_ids(run), "hold")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            await step.poll()
            sandbox.delete_run(run)
            read: list[int] = []
            for poll in range(40):
                began = len(sandbox.log)
                await step.poll()
                if any(f"/runs/{run}/tasks/" in request.path for request in sandbox.log[began:]):
                    read.append(poll)
            # The pauses are 20, 40, 80 and 160 seconds.
            assert read == [0, 2, 6, 14, 30]
            assert run in replay.runs  # until the next resync
            step.time.now += 36_000
            while step.watch.resyncs < 2:
                await step.poll()
            assert run not in replay.runs


async def test_every_row_that_is_read_is_reported() -> None:
    replay = Replay()
    async with Sandbox(runs=30, tasks_per_run=1) as sandbox, client(sandbox, page_size=10) as unpod:
        set_all(sandbox, "completed")
        sandbox.page_oddly(Oddities(count="null"))
        shorter, changed = sandbox.run_ids()[25], sandbox.run_ids()[15]
        sandbox.set_status(*sandbox.task_ids(shorter), "hold")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            await step.poll()
            sandbox.delete_task(*sandbox.task_ids(shorter))
            sandbox.set_status(*sandbox.task_ids(changed), "failed")
            await step.poll()
            # The rows of the runs are read to find the first one, and the second is among them.
            assert "TaskRemoved" in replay.kinds()
            assert replay.runs[changed] == "failed"


async def test_a_new_task_is_new_even_if_another_task_of_its_run_can_never_be_read() -> None:
    replay = Replay()
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        run = sandbox.run_ids()[0]
        sandbox.poison(sandbox.task_ids(run)[0])
        async with stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step:
            begun = len(replay.events)
            added = sandbox.insert_task(run)
            sandbox.set_status(added, "completed")
            for _ in range(4):
                await step.poll()
            news = [event for event in replay.events[begun:] if getattr(event, "task_id", "") == added]
            assert [type(event) for event in news] == [TaskSeen, CallEnded]
            assert not getattr(news[0], "existing", True)
