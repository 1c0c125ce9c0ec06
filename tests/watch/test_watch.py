"""Which events a watch reports, when, and how many requests it needs."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import msgspec
import pytest

from tests.clock import set_deadline_clock, time_passes
from tests.tables import each_row
from tests.watch.replay import Replay, held_by
from tests.watch.stepping import Stepper, Time, stepping
from unpod_async import (
    AuthenticationError,
    CallEnded,
    ConfigurationError,
    Disconnected,
    InvalidArgument,
    RefusedError,
    RetryPolicy,
    RunNotFound,
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
from unpod_async.events import Event
from unpod_async.testing import Sandbox, faults

POISON_SPACE = "SPACEPOISON0000000000004"


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": None, **options})


async def events_of_poll(step: Stepper, replay: Replay) -> list[Event]:
    before = len(replay.events)
    await step.poll()
    return replay.events[before:]


async def requests_of_poll(step: Stepper, sandbox: Sandbox) -> int:
    before = sandbox.requests
    await step.poll()
    return sandbox.requests - before


async def test_existing_runs_and_tasks_are_reported_first() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=12, tasks_per_run=3) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        assert (replay.runs, replay.tasks) == held_by(sandbox)
        assert set(replay.kinds()) == {"RunSeen", "TaskSeen"}
        assert all(event.existing for event in replay.events)  # type: ignore[attr-defined]
        assert (step.watch.polls, step.watch.resyncs) == (1, 1)


async def test_the_events_of_a_run_from_start_to_end() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=5, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step,
    ):
        run = sandbox.insert_run(1)
        (task,) = sandbox.task_ids(run)

        async def changes() -> list[tuple[str, Any, Any]]:
            events = await events_of_poll(step, replay)
            return [
                (type(event).__name__, event.old, event.new)
                for event in events
                if getattr(event, "run_id", None) == run
            ]

        assert await changes() == [("RunSeen", None, "pending"), ("TaskSeen", None, "pending")]
        assert await changes() == []
        sandbox.set_status(task, "in_progress")
        assert await changes() == [
            ("RunStatusChanged", "pending", "in_progress"),
            ("TaskStatusChanged", "pending", "in_progress"),
        ]
        sandbox.set_status(task, "completed")
        assert await changes() == [
            ("RunStatusChanged", "in_progress", "completed"),
            ("TaskStatusChanged", "in_progress", "completed"),
            ("CallEnded", "in_progress", "completed"),
            ("RunSettled", "in_progress", "completed"),
        ]
        ended = next(event for event in reversed(replay.events) if isinstance(event, CallEnded))
        row = next(row for row in sandbox.task_rows(run))
        assert ended.call is not None
        assert ended.call.call_id == row["output"].get("call_id", row["output"].get("id"))
        assert isinstance(replay.events[-1], RunSettled)
        assert replay.events[-1].tasks == {"completed": 1}
        # The call is retried and fails.
        sandbox.set_status(task, "scheduled")
        assert [kind for kind, *_ in await changes()] == ["RunStatusChanged", "TaskStatusChanged"]
        sandbox.set_status(task, "failed")
        assert [kind for kind, *_ in await changes()] == [
            *("RunStatusChanged", "TaskStatusChanged", "CallEnded", "RunSettled")
        ]
        sandbox.delete_run(run)
        assert await changes() == [("RunRemoved", "failed", None)]


async def test_a_call_between_two_polls_is_reported_as_ended() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        run = sandbox.insert_run(1)
        sandbox.set_status(*sandbox.task_ids(run), "completed")
        await step.poll()
    assert [type(event) for event in replay.events if getattr(event, "run_id", "") == run] == [
        *(RunSeen, TaskSeen, CallEnded, RunSettled)
    ]


@pytest.mark.timeout(120)
async def test_a_poll_of_ten_thousand_settled_runs_is_one_request() -> None:
    replay = Replay()
    async with Sandbox(runs=10_000, tasks_per_run=1) as sandbox, client(sandbox, page_size=500) as unpod:
        for row in list(sandbox.task_rows()):
            if row["status"] not in {"completed", "failed"}:
                sandbox.set_status(row["task_id"], "completed")
        async with stepping(unpod, sandbox.space_token, replay.add) as step:
            assert len(replay.runs) == len(replay.tasks) == 10_000
            assert [await requests_of_poll(step, sandbox) for _ in range(3)] == [1, 1, 1]
            run = sandbox.insert_run(3)
            assert await requests_of_poll(step, sandbox) == 2  # the listing, and its tasks
            assert replay.runs[run] == "pending"
            assert len(msgspec.json.encode(step.watch.state)) < 140 * 10_000


async def test_a_run_that_moved_to_an_earlier_page_is_found_in_the_same_poll() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=9, tasks_per_run=1) as sandbox,
        client(sandbox, page_size=2) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        new = [sandbox.insert_run(0) for _ in range(3)]

        async def delete_the_newest() -> None:
            await sandbox.arrived(sandbox.requests + 1)
            sandbox.delete_run(new[2])

        # After the two newest runs were read, one is removed, so the third moves onto the page read before.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete_the_newest)
            await anyio.lowlevel.checkpoint()
            await step.poll()
        assert set(new[:2]) <= replay.runs.keys()


async def test_changes_of_settled_runs_are_found_by_the_resync() -> None:
    replay = Replay()
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox, client(sandbox, page_size=3) as unpod:
        rows = list(sandbox.run_rows())
        settled = [row["run_id"] for row in rows[4:] if row["status"] == "completed"]
        async with stepping(unpod, sandbox.space_token, replay.add, resync=1000) as step:
            shorter, redialled, gone, longer = settled[:4]
            lost = sandbox.task_ids(shorter)[0]
            again = sandbox.task_ids(redialled)[1]
            sandbox.delete_task(lost)
            sandbox.set_status(again, "scheduled")
            sandbox.delete_run(gone)
            more = sandbox.insert_task(longer)
            begun = len(replay.events)
            while step.watch.resyncs < 2:
                await step.poll()
            await step.poll()  # the next poll reads what the resync could not decide
            news = replay.events[begun:]
            assert (replay.runs, replay.tasks) == held_by(sandbox)
    kinds = {(type(event), getattr(event, "task_id", event.run_id)) for event in news}  # type: ignore[attr-defined]
    assert kinds >= {
        (TaskRemoved, lost),
        (TaskStatusChanged, again),
        (RunStatusChanged, redialled),
        (RunRemoved, gone),
        (TaskSeen, more),
    }


async def test_a_resync_is_spread_over_the_polls() -> None:
    async with (
        Sandbox(runs=60, tasks_per_run=4) as sandbox,
        client(sandbox, page_size=5) as unpod,
        stepping(unpod, sandbox.space_token, Replay().add, resync=3600) as step,
    ):
        for row in list(sandbox.task_rows()):
            if row["status"] not in {"completed", "failed"}:
                sandbox.set_status(row["task_id"], "completed")
        step.time.now += 3600
        while step.watch.resyncs < 2:
            await step.poll()
        # 12 pages of runs and 48 of tasks, in half of 360 polls: one at a time.
        requests = []
        step.time.now += 3600
        while step.watch.resyncs < 3:
            requests.append(await requests_of_poll(step, sandbox))
        assert max(requests) <= 3
        assert 60 <= len(requests) <= 66


async def test_an_old_unsettled_run_is_read_without_the_pages_before_it() -> None:
    replay = Replay()
    async with Sandbox(runs=60, tasks_per_run=2) as sandbox, client(sandbox, page_size=5) as unpod:
        for row in list(sandbox.task_rows()):
            sandbox.set_status(row["task_id"], "completed")
        old = sandbox.run_ids()[40]
        task = sandbox.task_ids(old)[0]
        sandbox.set_status(task, "in_progress")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=360_000) as step:
            for _ in range(7):
                sandbox.insert_run(0)  # the run moves to another page
            await step.poll()
            sandbox.set_status(task, "completed")
            before = sandbox.requests
            events = await events_of_poll(step, replay)
            kinds = [type(event) for event in events if getattr(event, "run_id", "") == old]
            assert kinds == [RunStatusChanged, TaskStatusChanged, CallEnded, RunSettled]
            assert (
                sandbox.requests - before <= 2 + 1 + 7 + 1
            )  # two pages of new runs, the page of this run, its tasks
            # The same when older runs were removed.
            sandbox.set_status(task, "in_progress")
            while replay.tasks[old, task] != "in_progress":
                step.time.now += 36_000
                await step.poll()
            for name in sandbox.run_ids()[-3:]:
                sandbox.delete_run(name)
            sandbox.set_status(task, "failed")
            assert any(
                isinstance(event, RunSettled) and event.run_id == old
                for event in await events_of_poll(step, replay)
            )


async def test_runs_without_changes_are_read_less_and_less_often() -> None:
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, Replay().add, resync=1e9) as step,
    ):
        requests = [await requests_of_poll(step, sandbox) for _ in range(400)]  # 4,000 s
    runs = 3
    assert requests[0] == 1 + runs
    assert sum(requests[:10]) > 10 + 5 * runs
    assert sum(requests[-100:]) <= 100 + 4 * runs


async def test_the_tasks_of_many_small_runs_are_read_together() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=30, tasks_per_run=2) as sandbox,
        client(sandbox, page_size=50) as unpod,
        stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step,
    ):
        for task in sandbox.task_ids():
            sandbox.set_status(task, "completed")
        while not all(name in replay.settled for name in sandbox.run_ids()[:3]):
            await step.poll()
        runs = [sandbox.insert_run(1) for _ in range(100)]
        await step.poll()  # they are new, so each is read by itself
        requests = [await requests_of_poll(step, sandbox) for _ in range(3)]
        assert max(requests) < 25  # three pages of runs, two of tasks, and the old runs
        (first,), (second,) = sandbox.task_ids(runs[0]), sandbox.task_ids(runs[50])
        sandbox.set_status(first, "completed")
        sandbox.delete_task(second)
        more = sandbox.insert_task(runs[99])
        for _ in range(2):
            await step.poll()
        assert runs[0] in replay.settled
        assert (runs[50], second) not in replay.tasks
        assert replay.tasks[runs[99], more] == "pending"


async def test_an_outage_is_reported_once_and_polling_continues() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        before = len(replay.events)
        sandbox.script(faults.server_error(503, times=3), faults.reset_before_status(times=2))
        began = step.time.now
        for _ in range(5):
            await step.poll()
        silent = step.time.now - began
        assert [type(event) for event in replay.events[before:]] == [Disconnected]
        assert "503" in replay.events[-1].reason  # type: ignore[attr-defined]
        assert 10 + 20 + 40 + 60 + 60 <= silent <= 1.5 * 190
        run = sandbox.insert_run(0)
        assert [type(event).__name__ for event in await events_of_poll(step, replay)] == [
            "Reconnected",
            "RunSeen",
        ]
        assert replay.events[-2].after == pytest.approx(silent, abs=20)  # type: ignore[attr-defined]
        assert run in replay.runs


async def test_one_unreadable_run_does_not_affect_others(caplog: pytest.LogCaptureFixture) -> None:
    replay = Replay()
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        bad, good = sandbox.insert_run(1), sandbox.insert_run(1)
        sandbox.script(faults.server_error(502, times=2, path=f"runs/{bad}/tasks"))
        await step.poll()
        assert [task for run, task in replay.tasks if run == good] == sandbox.task_ids(good)
        assert not [task for run, task in replay.tasks if run == bad]
        for _ in range(6):
            await step.poll()
        assert [task for run, task in replay.tasks if run == bad] == sandbox.task_ids(bad)
        assert "Disconnected" not in replay.kinds()
    assert caplog.text.count(f"the tasks of run {bad} cannot be read") == 1


async def test_a_row_that_the_server_cannot_send_does_not_affect_others() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=6, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add, resync=100) as step,
    ):
        kept = sandbox.run_ids()[3]
        sandbox.poison(kept)  # known but no longer readable, which does not mean removed
        run = sandbox.insert_run(2)
        sandbox.poison(sandbox.task_ids(run)[0])
        for _ in range(30):
            await step.poll()
        assert kept in replay.runs
        assert [task for name, task in replay.tasks if name == run] == sandbox.task_ids(run)[1:]


async def test_a_refused_token_ends_the_watch() -> None:
    async with (
        Sandbox(runs=1) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, Replay().add) as step,
    ):
        sandbox.script(faults.token_revoked())
        with pytest.raises(AuthenticationError):
            await step.poll()


async def test_an_unknown_space_ends_the_watch() -> None:
    async with Sandbox(runs=1) as sandbox, client(sandbox) as unpod:
        with pytest.raises(RefusedError):
            async with stepping(unpod, "NOSUCHSPACE", Replay().add):
                pass


async def test_several_spaces_share_one_client_and_its_limit() -> None:
    replay = Replay()
    spaces = [Sandbox.space_token, POISON_SPACE]
    async with (
        Sandbox(runs=30, tasks_per_run=2, latency=0.005) as sandbox,
        client(sandbox, max_concurrency=2, page_size=5) as unpod,
        unpod.runs.watch(spaces, interval=0.02) as events,
    ):
        async for event in events:
            replay.add(event)
            # The server cannot send one task of the second space, so that task is missing.
            if (len(replay.runs), len(replay.tasks)) == (30 + 3, 60 + 2):
                break
    assert {event.space_token for event in replay.events} == set(spaces)
    assert set(events.state.spaces) == set(spaces)


async def test_a_watch_that_resumes_from_a_state_repeats_and_misses_nothing() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=8, tasks_per_run=2) as sandbox,
        client(sandbox, page_size=3) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        text = msgspec.json.encode(step.watch.state)
        sandbox.advance()
        new = sandbox.insert_run(1)
        state = msgspec.json.decode(text, type=WatchState)
        begun, before = len(replay.events), sandbox.requests
        async with stepping(unpod, sandbox.space_token, replay.add, time=step.time, state=state):
            assert new in replay.runs
            assert not any(getattr(event, "existing", False) for event in replay.events[begun:])
            assert (replay.runs, replay.tasks) == held_by(sandbox)
            assert sandbox.requests - before < 15  # no resync, which is due later
    assert msgspec.json.encode(msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=WatchState)) == text


def test_a_state_of_another_format_is_refused_with_its_version() -> None:
    text = b'{"tasks":true,"spaces":{"S":{"swept":1.0,"runs":{},"unlinked":[]}},"chosen":null,"version":1}'
    state = msgspec.json.decode(text, type=WatchState)
    with pytest.raises(InvalidArgument, match="format 1"):
        UnpodClient("k" * 20).runs.watch("S", state=state)


async def test_watching_selected_runs_only() -> None:
    replay = Replay()
    async with Sandbox(runs=20, tasks_per_run=2) as sandbox, client(sandbox, page_size=4) as unpod:
        names = [sandbox.run_ids()[1], sandbox.run_ids()[15]]
        async with stepping(unpod, sandbox.space_token, replay.add, runs=names, resync=100) as step:
            sandbox.insert_run(1)
            for task in sandbox.task_ids(names[1]):
                sandbox.set_status(task, "scheduled")
            sandbox.advance(6)
            for _ in range(15):
                await step.poll()
            assert set(replay.runs) == set(names)
            runs, tasks = held_by(sandbox)
            assert replay.runs == {name: runs[name] for name in names}
            assert replay.tasks == {key: status for key, status in tasks.items() if key[0] in names}
            sandbox.delete_run(names[1])
            for _ in range(40):
                await step.poll()
            assert set(replay.runs) == {names[0]}


async def test_a_selected_run_that_is_not_listed_is_an_error() -> None:
    async with Sandbox(runs=3) as sandbox, client(sandbox) as unpod:
        runs = [*sandbox.run_ids(), "Rnosuchrun"]
        with pytest.raises(RunNotFound, match="Rnosuchrun") as caught:
            async with stepping(unpod, sandbox.space_token, Replay().add, runs=runs):
                pass
    assert caught.value.run_ids == ("Rnosuchrun",)


async def test_watching_runs_without_tasks() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=6, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add, tasks=False) as step,
    ):
        run = sandbox.insert_run(1)
        await step.poll()
        sandbox.set_status(*sandbox.task_ids(run), "completed")
        events = await events_of_poll(step, replay)
        assert not [request for request in sandbox.log if "tasks" in request.path]
    assert [type(event) for event in events] == [RunStatusChanged, RunSettled]


async def test_the_deadline_of_the_client_limits_each_poll_and_not_the_watch() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=2, tasks_per_run=1) as sandbox,
        client(sandbox, deadline=20, timeout=60, retry=RetryPolicy(base=0.01)) as unpod,
        stepping(set_deadline_clock(unpod), sandbox.space_token, replay.add) as step,
    ):
        sandbox.script(faults.stall())
        async with time_passes(sandbox, 20):
            assert [type(event) for event in await events_of_poll(step, replay)] == [Disconnected]
        assert "no response in time" in replay.events[-1].reason  # type: ignore[attr-defined]
        assert [type(event).__name__ for event in await events_of_poll(step, replay)] == ["Reconnected"]


async def test_a_space_too_large_for_one_poll_is_read_in_several() -> None:
    replay, time = Replay(), Time()

    def take_time(_: object) -> None:
        time.now += 10

    async with (
        Sandbox(runs=10, tasks_per_run=2) as sandbox,
        client(sandbox, deadline=200, page_size=1, on_request=take_time) as unpod,
        stepping(
            set_deadline_clock(unpod, time.monotonic), sandbox.space_token, replay.add, time=time
        ) as step,
    ):
        assert step.watch.resyncs == 0
        while step.watch.resyncs == 0:  # 30 pages of 10 s
            await step.poll()
        assert (replay.runs, replay.tasks) == held_by(sandbox)
        assert all(event.existing for event in replay.events)  # type: ignore[attr-defined]


async def test_iteration_can_stop_and_resume_and_leaves_nothing_behind() -> None:
    replay = Replay()
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        watch = unpod.runs.watch(sandbox.space_token, interval=0.01)
        async with watch as events:
            async for event in events:
                replay.add(event)
                break
            assert len(events.state.spaces[sandbox.space_token].runs) == 1
            async for event in events:
                replay.add(event)
                if len(replay.runs) == 4 and len(replay.tasks) == 8:
                    break
        with pytest.raises(ConfigurationError):
            await anext(aiter(watch))
        with anyio.move_on_after(0):
            async with unpod.runs.watch(sandbox.space_token) as events:
                async for _ in events:
                    pass


@each_row(
    "arguments",
    [
        {"interval": 0},
        {"interval": -1},
        {"interval": float("nan")},
        {"interval": "10"},
        {"interval": True},
        {"resync": 5},
        {"resync": float("inf")},
        {"space_token": []},
        {"space_token": "../x"},
        {"runs": []},
        {"runs": ["a/b"]},
        {"space_token": ["A", "B"], "runs": ["R"]},
        {"state": {}},
        {"state": "text"},
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any]) -> None:
    unpod = UnpodClient("k" * 20)
    arguments = {"space_token": "SPACE", **arguments}
    with pytest.raises(InvalidArgument):
        unpod.runs.watch(arguments.pop("space_token"), **arguments)


async def test_nothing_is_requested_while_the_caller_handles_an_event() -> None:
    async with (
        Sandbox(runs=6, tasks_per_run=1) as sandbox,
        client(sandbox, page_size=2) as unpod,
        unpod.runs.watch(sandbox.space_token, interval=0.01) as events,
    ):
        async for _ in events:
            requests = sandbox.requests
            for _ in range(50):
                await asyncio.sleep(0)
            assert sandbox.requests == requests
            if requests > 4:
                break
