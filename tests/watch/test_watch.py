"""What a watch tells, when, and what it asks for it."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import msgspec
import pytest

from tests.tables import each_row
from tests.watch.replay import Replay, held_by
from tests.watch.stepping import Stepper, stepping
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


async def told_by(step: Stepper, replay: Replay) -> list[Event]:
    before = len(replay.told)
    await step.poll()
    return replay.told[before:]


async def asked_by(step: Stepper, sandbox: Sandbox) -> int:
    before = sandbox.requests
    await step.poll()
    return sandbox.requests - before


async def test_what_is_there_comes_first() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=12, tasks_per_run=3) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        assert (replay.runs, replay.tasks) == held_by(sandbox)
        assert set(replay.kinds()) == {"RunSeen", "TaskSeen"}
        assert all(event.existing for event in replay.told)  # type: ignore[attr-defined]
        assert (step.watch.polls, step.watch.resyncs) == (1, 1)


async def test_a_run_from_its_start_to_its_end() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=5, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add, resync=36_000) as step,
    ):
        run = sandbox.insert_run(1)
        (task,) = sandbox.task_ids(run)

        async def told() -> list[tuple[str, Any, Any]]:
            events = await told_by(step, replay)
            return [
                (type(event).__name__, event.old, event.new)
                for event in events
                if getattr(event, "run_id", None) == run
            ]

        assert await told() == [("RunSeen", None, "pending"), ("TaskSeen", None, "pending")]
        assert await told() == []
        sandbox.set_status(task, "in_progress")
        assert await told() == [
            ("RunStatusChanged", "pending", "in_progress"),
            ("TaskStatusChanged", "pending", "in_progress"),
        ]
        sandbox.set_status(task, "completed")
        assert await told() == [
            ("RunStatusChanged", "in_progress", "completed"),
            ("TaskStatusChanged", "in_progress", "completed"),
            ("CallEnded", "in_progress", "completed"),
            ("RunSettled", "in_progress", "completed"),
        ]
        ended = next(event for event in reversed(replay.told) if isinstance(event, CallEnded))
        row = next(row for row in sandbox.task_rows(run))
        assert ended.call is not None
        assert ended.call.call_id == row["output"].get("call_id", row["output"].get("id"))
        assert isinstance(replay.told[-1], RunSettled)
        assert replay.told[-1].tasks == {"completed": 1}
        # It is dialled again, and fails.
        sandbox.set_status(task, "scheduled")
        assert [kind for kind, *_ in await told()] == ["RunStatusChanged", "TaskStatusChanged"]
        sandbox.set_status(task, "failed")
        assert [kind for kind, *_ in await told()] == [
            *("RunStatusChanged", "TaskStatusChanged", "CallEnded", "RunSettled")
        ]
        sandbox.delete_run(run)
        assert await told() == [("RunRemoved", "failed", None)]


async def test_a_call_that_began_and_ended_between_two_polls_has_ended() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        run = sandbox.insert_run(1)
        sandbox.set_status(*sandbox.task_ids(run), "completed")
        await step.poll()
    assert [type(event) for event in replay.told if getattr(event, "run_id", "") == run] == [
        *(RunSeen, TaskSeen, CallEnded, RunSettled)
    ]


@pytest.mark.timeout(120)
async def test_a_quiet_poll_of_ten_thousand_settled_runs_is_one_request() -> None:
    replay = Replay()
    async with Sandbox(runs=10_000, tasks_per_run=1) as sandbox, client(sandbox, page_size=500) as unpod:
        for row in list(sandbox.task_rows()):
            if row["status"] not in {"completed", "failed"}:
                sandbox.set_status(row["task_id"], "completed")
        async with stepping(unpod, sandbox.space_token, replay.add) as step:
            assert len(replay.runs) == len(replay.tasks) == 10_000
            assert [await asked_by(step, sandbox) for _ in range(3)] == [1, 1, 1]
            run = sandbox.insert_run(3)
            assert await asked_by(step, sandbox) == 2  # the listing, and its tasks
            assert replay.runs[run] == "pending"
            assert len(msgspec.json.encode(step.watch.state)) < 140 * 10_000


async def test_a_run_that_was_pushed_to_a_later_page_is_met_in_the_same_poll() -> None:
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

        # The two newest are read, one of them goes, and the third comes up to where was read already.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete_the_newest)
            await anyio.lowlevel.checkpoint()
            await step.poll()
        assert set(new[:2]) <= replay.runs.keys()


async def test_settled_runs_are_left_to_the_resync_which_finds_all() -> None:
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
            begun = len(replay.told)
            while step.watch.resyncs < 2:
                await step.poll()
            await step.poll()  # what the resync suspects, is looked at now
            news = replay.told[begun:]
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
        asked = []
        step.time.now += 3600
        while step.watch.resyncs < 3:
            asked.append(await asked_by(step, sandbox))
        assert max(asked) <= 3
        assert 60 <= len(asked) <= 66


async def test_an_unsettled_run_far_behind_is_met_without_reading_all_before_it() -> None:
    replay = Replay()
    async with Sandbox(runs=60, tasks_per_run=2) as sandbox, client(sandbox, page_size=5) as unpod:
        for row in list(sandbox.task_rows()):
            sandbox.set_status(row["task_id"], "completed")
        old = sandbox.run_ids()[40]
        task = sandbox.task_ids(old)[0]
        sandbox.set_status(task, "in_progress")
        async with stepping(unpod, sandbox.space_token, replay.add, resync=360_000) as step:
            for _ in range(7):
                sandbox.insert_run(0)  # it moves on to another page
            await step.poll()
            sandbox.set_status(task, "completed")
            before = sandbox.requests
            told = await told_by(step, replay)
            kinds = [type(event) for event in told if getattr(event, "run_id", "") == old]
            assert kinds == [RunStatusChanged, TaskStatusChanged, CallEnded, RunSettled]
            assert (
                sandbox.requests - before <= 2 + 1 + 7 + 1
            )  # two pages of new runs, the one of this run, tasks
            # So it is when older ones have gone.
            sandbox.set_status(task, "in_progress")
            while replay.tasks[old, task] != "in_progress":
                step.time.now += 36_000
                await step.poll()
            for name in sandbox.run_ids()[-3:]:
                sandbox.delete_run(name)
            sandbox.set_status(task, "failed")
            assert any(
                isinstance(event, RunSettled) and event.run_id == old for event in await told_by(step, replay)
            )


async def test_runs_in_which_nothing_happens_are_asked_for_more_and_more_rarely() -> None:
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, Replay().add, resync=1e9) as step,
    ):
        asked = [await asked_by(step, sandbox) for _ in range(400)]  # 4,000 s
    runs = 3
    assert asked[0] == 1 + runs
    assert sum(asked[:10]) > 10 + 5 * runs
    assert sum(asked[-100:]) <= 100 + 4 * runs


async def test_many_runs_of_one_call_are_read_together() -> None:
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
        await step.poll()  # they are new, and each is read by itself
        asked = [await asked_by(step, sandbox) for _ in range(3)]
        assert max(asked) < 25  # three pages of runs, two of tasks, and what is old
        (first,), (second,) = sandbox.task_ids(runs[0]), sandbox.task_ids(runs[50])
        sandbox.set_status(first, "completed")
        sandbox.delete_task(second)
        more = sandbox.insert_task(runs[99])
        for _ in range(2):
            await step.poll()
        assert runs[0] in replay.settled
        assert (runs[50], second) not in replay.tasks
        assert replay.tasks[runs[99], more] == "pending"


async def test_an_outage_is_told_once_and_asked_through() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        before = len(replay.told)
        sandbox.script(faults.server_error(503, times=3), faults.reset_before_status(times=2))
        began = step.time.now
        for _ in range(5):
            await step.poll()
        silent = step.time.now - began
        assert [type(event) for event in replay.told[before:]] == [Disconnected]
        assert "503" in replay.told[-1].reason  # type: ignore[attr-defined]
        assert 10 + 20 + 40 + 60 + 60 <= silent <= 1.5 * 190
        run = sandbox.insert_run(0)
        assert [type(event).__name__ for event in await told_by(step, replay)] == [
            "Reconnected",
            "RunSeen",
        ]
        assert replay.told[-2].after == pytest.approx(silent, abs=20)  # type: ignore[attr-defined]
        assert run in replay.runs


async def test_one_run_that_cannot_be_read_costs_that_run(caplog: pytest.LogCaptureFixture) -> None:
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


async def test_a_row_that_cannot_be_sent_costs_that_row() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=6, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add, resync=100) as step,
    ):
        kept = sandbox.run_ids()[3]
        sandbox.poison(kept)  # known, and no longer readable: that is not gone
        run = sandbox.insert_run(2)
        sandbox.poison(sandbox.task_ids(run)[0])
        for _ in range(30):
            await step.poll()
        assert kept in replay.runs
        assert [task for name, task in replay.tasks if name == run] == sandbox.task_ids(run)[1:]


async def test_a_token_that_is_refused_ends_it() -> None:
    async with (
        Sandbox(runs=1) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, Replay().add) as step,
    ):
        sandbox.script(faults.token_revoked())
        with pytest.raises(AuthenticationError):
            await step.poll()


async def test_an_unknown_space_ends_it() -> None:
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
            # A task of the second space cannot be sent, which costs that task.
            if (len(replay.runs), len(replay.tasks)) == (30 + 3, 60 + 2):
                break
    assert {event.space_token for event in replay.told} == set(spaces)
    assert set(events.state.spaces) == set(spaces)


async def test_started_from_a_state_it_repeats_nothing_and_misses_nothing() -> None:
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
        begun, before = len(replay.told), sandbox.requests
        async with stepping(unpod, sandbox.space_token, replay.add, time=step.time, state=state):
            assert new in replay.runs
            assert not any(getattr(event, "existing", False) for event in replay.told[begun:])
            assert (replay.runs, replay.tasks) == held_by(sandbox)
            assert sandbox.requests - before < 15  # no resync: that is due later
    assert msgspec.json.encode(msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=WatchState)) == text


def test_a_state_of_another_format_is_refused_with_its_version() -> None:
    text = b'{"tasks":true,"spaces":{"S":{"swept":1.0,"runs":{},"unlinked":[]}},"chosen":null,"version":1}'
    state = msgspec.json.decode(text, type=WatchState)
    with pytest.raises(InvalidArgument, match="format 1"):
        UnpodClient("k" * 20).runs.watch("S", state=state)


async def test_only_some_runs() -> None:
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


async def test_a_run_that_is_not_listed_is_said_to_be_so() -> None:
    async with Sandbox(runs=3) as sandbox, client(sandbox) as unpod:
        runs = [*sandbox.run_ids(), "Rnosuchrun"]
        with pytest.raises(RunNotFound, match="Rnosuchrun") as caught:
            async with stepping(unpod, sandbox.space_token, Replay().add, runs=runs):
                pass
    assert caught.value.run_ids == ("Rnosuchrun",)


async def test_runs_alone() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=6, tasks_per_run=2) as sandbox,
        client(sandbox) as unpod,
        stepping(unpod, sandbox.space_token, replay.add, tasks=False) as step,
    ):
        run = sandbox.insert_run(1)
        await step.poll()
        sandbox.set_status(*sandbox.task_ids(run), "completed")
        told = await told_by(step, replay)
        assert not [request for request in sandbox.log if "tasks" in request.path]
    assert [type(event) for event in told] == [RunStatusChanged, RunSettled]


async def test_the_deadline_of_the_client_bounds_a_poll_and_not_the_watch() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=2, tasks_per_run=1) as sandbox,
        client(sandbox, deadline=0.2, retry=RetryPolicy(base=0.01)) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        sandbox.script(faults.stall())
        assert [type(event) for event in await told_by(step, replay)] == [Disconnected]
        assert "no response in time" in replay.told[-1].reason  # type: ignore[attr-defined]
        assert [type(event).__name__ for event in await told_by(step, replay)] == ["Reconnected"]


async def test_a_space_too_large_for_the_deadline_of_one_poll_is_read_in_several() -> None:
    replay = Replay()
    async with (
        Sandbox(runs=30, tasks_per_run=2, latency=0.02) as sandbox,
        client(sandbox, deadline=0.5, page_size=1) as unpod,
        stepping(unpod, sandbox.space_token, replay.add) as step,
    ):
        assert step.watch.resyncs == 0
        while step.watch.resyncs == 0:  # 90 pages of 20 ms
            await step.poll()
        assert (replay.runs, replay.tasks) == held_by(sandbox)
        assert all(event.existing for event in replay.told)  # type: ignore[attr-defined]


async def test_it_can_be_left_and_gone_on_with_and_leaves_nothing() -> None:
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


async def test_nothing_is_asked_while_an_event_is_dealt_with() -> None:
    async with (
        Sandbox(runs=6, tasks_per_run=1) as sandbox,
        client(sandbox, page_size=2) as unpod,
        unpod.runs.watch(sandbox.space_token, interval=0.01) as events,
    ):
        async for _ in events:
            asked = sandbox.requests
            for _ in range(50):
                await asyncio.sleep(0)
            assert sandbox.requests == asked
            if asked > 4:
                break
