"""The live sandbox: its rows follow from seed, speed and time, as those of the service follow from calls."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.watch.replay import Replay, held_by
from tests.watch.stepping import stepping
from unpod_async import UnpodClient
from unpod_async.create import ScheduleCustom
from unpod_async.testing import ManualClock, Sandbox

pytestmark = pytest.mark.anyio

START = datetime(2126, 3, 1, 12, tzinfo=UTC)  # later than the clock of any machine, for schedules
DAY = 86_400
ENDED = {"completed", "failed"}
UNDER_WAY = {"in_progress", "processing", "hold"}
MOVES = {
    ("scheduled", "pending"),
    ("pending", "in_progress"),
    ("in_progress", "processing"),
    ("in_progress", "hold"),
    ("in_progress", "failed"),
    ("processing", "completed"),
    ("failed", "pending"),
}
SPEEDS = st.sampled_from([0.5, 1.0, 7.0, 60.0])


class State(NamedTuple):
    runs: list[dict[str, Any]]
    tasks: list[dict[str, Any]]


def state(sandbox: Sandbox) -> State:
    return State(list(sandbox.run_rows()), list(sandbox.task_rows()))


def live(clock: ManualClock, *, runs: int = 12, **more: Any) -> Sandbox:
    return Sandbox(live=True, now=clock, runs=runs, **{"tasks_per_run": (1, 6), **more})


def client(sandbox: Sandbox, **more: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, sandbox.org_handle, sandbox.base_url, retry=None, **more)


def expected_run_status(statuses: Counter[str]) -> str:
    if not statuses:
        return "pending"
    if len(statuses) == 1:
        (only,) = statuses
        return "in_progress" if only in UNDER_WAY else only
    return "partially_completed" if set(statuses) == ENDED else "in_progress"


def check(found: State, clock: ManualClock, *, scheduled_later: bool = False) -> None:
    """Check that rows are consistent with each other and with the time."""
    by_run: dict[str, list[dict[str, Any]]] = {row["run_id"]: [] for row in found.runs}
    for row in found.tasks:
        by_run[row["run_id"]].append(row)
    now = clock().replace(tzinfo=None)
    for rows in found:
        times = [datetime.fromisoformat(row["created"]) for row in rows]
        assert times == sorted(times, reverse=True)
        for row in rows:
            assert row["created"] <= row["modified"]
            assert datetime.fromisoformat(row["modified"]) <= now
    for run in found.runs:
        tasks = by_run[run["run_id"]]
        if not tasks:
            continue  # it lost its last task, and kept its status
        assert run["batch_count"] == len(tasks)
        assert run["status"] == expected_run_status(Counter(task["status"] for task in tasks))
        assert run["modified"] == max([run["created"], *(task["modified"] for task in tasks)])
    for task in found.tasks:
        check_output(task)


def check_output(task: dict[str, Any]) -> None:
    output = task["output"]
    if task["status"] == "failed":
        assert set(output) == {"error"}
    elif task["status"] != "completed":
        assert output == {}
    else:
        start, end = (
            output.get(names[0], output.get(names[1]))
            for names in (("start_time", "startedAt"), ("end_time", "endedAt"))
        )
        assert task["created"] <= start < end
        assert end[:19] <= task["modified"]
        assert output["cost"] > 0
        assert output.get("recording_url") or output.get("recordingUrl")
        assert output["transcript"]
        length = datetime.fromisoformat(end) - datetime.fromisoformat(start)
        assert output.get("duration", length.total_seconds()) == pytest.approx(
            length.total_seconds(), abs=0.006
        )


class TestTheModel:
    @settings(max_examples=25)
    @given(
        seed=st.integers(0, 2**32),
        speed=SPEEDS,
        runs=st.integers(0, 8),
        steps=st.lists(
            st.tuples(st.floats(0, 30), st.sampled_from(["look", "look", "run", "task", "status", "delete"])),
            min_size=1,
            max_size=4,
        ),
    )
    def test_it_follows_from_seed_and_time_whenever_it_is_read(
        self, seed: int, speed: float, runs: int, steps: list[tuple[float, str]]
    ) -> None:
        clocks = ManualClock(START), ManualClock(START)
        often, seldom = (live(clock, seed=seed, speed=speed, runs=runs) for clock in clocks)
        for seconds, step in steps:
            for _ in range(4):
                clocks[0].advance(seconds / 4)
                check(state(often), clocks[0])
            clocks[1].advance((clocks[0]() - clocks[1]()).total_seconds())
            if step == "run":
                assert often.insert_run(2) == seldom.insert_run(2)
            elif step != "look" and often.task_ids():
                task = often.task_ids()[0]
                for sandbox in (often, seldom):
                    if step == "task":
                        sandbox.insert_task(sandbox.run_ids()[0])
                    elif step == "status":
                        sandbox.set_status(task, "pending")
                    else:
                        sandbox.delete_task(task)
        assert state(often) == state(seldom)

    @settings(max_examples=15)
    @given(seed=st.integers(0, 2**32), speed=SPEEDS, later=st.floats(1, 1000))
    def test_a_sandbox_that_starts_later_shows_the_same_runs(
        self, seed: int, speed: float, later: int
    ) -> None:
        first, second = ManualClock(START), ManualClock(START + timedelta(seconds=later))
        old = live(first, seed=seed, speed=speed)
        first.advance(later)
        new = state(live(second, seed=seed, speed=speed))
        before = state(old)
        assert before.runs[: len(new.runs)] == new.runs
        assert before.tasks[: len(new.tasks)] == new.tasks

    @settings(max_examples=15)
    @given(seed=st.integers(0, 2**32), speed=SPEEDS)
    def test_each_task_moves_as_on_the_service_and_keeps_its_last_status(
        self, seed: int, speed: float
    ) -> None:
        clock = ManualClock(START)
        sandbox = live(clock, seed=seed, speed=speed, runs=4)
        seen: dict[str, list[dict[str, Any]]] = {}
        for _ in range(60):
            for row in sandbox.task_rows():
                rows = seen.setdefault(row["task_id"], [row])
                if rows[-1]["status"] != row["status"]:
                    assert rows[-1]["modified"] <= row["modified"]
                    rows.append(row)
                elif row["status"] in ENDED:
                    assert row == rows[-1]
                assert {**row, "status": "", "modified": "", "output": ""} == {
                    **rows[0],
                    "status": "",
                    "modified": "",
                    "output": "",
                }
            # Less than the shortest time that a status lasts, so that no status is missed.
            clock.advance(0.29 / speed)
        changed = [[row["status"] for row in rows] for rows in seen.values() if len(rows) > 1]
        assert changed
        if speed < 60:  # a scheduled second is shorter than a step, or longer
            assert {pair for statuses in changed for pair in pairwise(statuses)} <= MOVES

    def test_calls_have_every_kind_of_end(self) -> None:
        clock = ManualClock(START)
        sandbox = live(clock, runs=400, tasks_per_run=3)
        statuses = Counter(row["status"] for row in sandbox.task_rows())
        assert {"hold", "completed", "failed"} <= set(statuses)
        assert statuses["completed"] > 0.8 * statuses.total()
        assert statuses["hold"] < 0.02 * statuses.total()
        sandbox = live(clock, runs=0, tasks_per_run=3)
        histories: dict[str, list[str]] = {}
        for _ in range(120):
            for row in sandbox.task_rows():
                history = histories.setdefault(row["task_id"], [])
                if history[-1:] != [row["status"]]:
                    history.append(row["status"])
            clock.advance(0.3)
        whole = [history for history in histories.values() if history[0] in {"pending", "scheduled"}]
        assert any(history[-1] == "completed" and "failed" in history for history in whole)
        assert any(history[-1] == "completed" and "failed" not in history for history in whole)

    @pytest.mark.parametrize("seed", range(20))
    def test_something_changes_within_seconds(self, seed: int) -> None:
        clock = ManualClock(START)
        sandbox = Sandbox(live=True, now=clock, seed=seed)
        before = state(sandbox)
        assert len(before.runs) == 20
        clock.advance(5)
        middle = state(sandbox)
        assert [row["status"] for row in before.tasks] != [row["status"] for row in middle.tasks[-100:]]
        clock.advance(5)
        assert len(sandbox.run_ids()) > 20

    def test_the_rows_are_recent(self) -> None:
        before = datetime.now(UTC).replace(tzinfo=None)
        runs = list(Sandbox(live=True, runs=3).run_rows())
        created = [datetime.fromisoformat(row["created"]) for row in runs]
        assert (
            before - timedelta(seconds=30)
            < created[-1]
            < created[0]
            <= datetime.now(UTC).replace(tzinfo=None)
        )

    def test_a_clock_that_goes_back_changes_nothing(self) -> None:
        now = START
        sandbox = Sandbox(live=True, now=lambda: now, runs=3)
        now += timedelta(seconds=30)
        expected = state(sandbox)
        now = START
        assert state(sandbox) == expected

    async def test_the_clock_may_change_rows(self) -> None:
        clock = ManualClock(START)
        added: list[str] = []

        def now() -> datetime:
            if is_changing:
                added.append(sandbox.insert_run(1))
            return clock.advance(0.001)

        is_changing = False
        sandbox = Sandbox(live=True, now=now, runs=2)
        async with sandbox, client(sandbox) as unpod:
            is_changing = True
            rows = await unpod.runs.list(sandbox.space_token, limit=3).collect()
            is_changing = False
        assert len(added) == sandbox.requests
        assert rows[0].run_id in added

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"live": True, "speed": 0}, "speed must be above 0"),
            ({"live": True, "speed": 1001}, "at most 1000"),
            ({"live": True, "speed": float("nan")}, "speed must be above 0"),
            ({"live": True, "runs": -1}, "0 or more"),
            ({"live": True, "tasks_per_run": (3, 1)}, "0 or more"),
            ({"live": True, "now": lambda: datetime(1970, 1, 1, tzinfo=UTC)}, "later than 1970"),
            ({"speed": 2}, "pass live=True"),
        ],
    )
    def test_invalid_arguments_are_refused(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Sandbox(**arguments)

    def test_its_statuses_cannot_be_advanced_by_hand(self) -> None:
        with pytest.raises(RuntimeError, match="follow its clock"):
            live(ManualClock(START)).advance()

    def test_a_manual_clock_needs_a_zone_and_does_not_go_back(self) -> None:
        with pytest.raises(ValueError, match="timezone-aware"):
            ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001 - the error
        with pytest.raises(ValueError, match="cannot go back"):
            ManualClock().advance(-1)


class TestHistory:
    @pytest.mark.parametrize("speed", [1.0, 60.0])
    def test_a_day_leaves_a_bounded_number_of_rows(self, speed: float) -> None:
        clock = ManualClock(START)
        sandbox = live(clock, speed=speed, runs=50, tasks_per_run=2)
        created = sandbox.insert_run(3)
        sizes = []
        for _ in range(12):
            clock.advance(DAY / 12)
            sizes.append((len(sandbox.run_ids()), sandbox.task_count))
        assert max(sizes) <= (650, 1300)
        assert min(sizes) >= (350, 700)
        assert created not in sandbox.run_ids()
        # A sandbox that nobody read in between has the same rows.
        other_clock = ManualClock(START)
        other = live(other_clock, speed=speed, runs=50, tasks_per_run=2)
        other.insert_run(3)
        other_clock.advance(DAY)
        assert state(other) == state(sandbox)

    def test_memory_does_not_grow_from_one_day_to_the_next(self) -> None:
        clock = ManualClock(START)
        sandbox = live(clock, speed=60, runs=5, tasks_per_run=1)

        def a_day() -> int:
            for _ in range(4):
                clock.advance(DAY / 4)
                sandbox.insert_run(1)
                assert sandbox.task_count <= 700
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            first, second = a_day(), a_day()
        finally:
            tracemalloc.stop()
        assert second < first + 50_000

    async def test_the_log_of_requests_is_bounded(self) -> None:
        async with live(ManualClock(START), runs=1) as sandbox, client(sandbox, page_size=1) as unpod:
            sandbox._server._log_limit = 10  # 10,000 requests take seconds
            for _ in range(25):
                await unpod.runs.list(sandbox.space_token, page_size=1).collect()
            assert sandbox.requests >= 25
            assert len(sandbox.log) <= 10
            await sandbox.arrived(25)


async def create(unpod: UnpodClient, sandbox: Sandbox, *names: str, **schedule: Any) -> Any:
    documents = [{"name": name, "contact_number": "9000000001", "document_id": name} for name in names]
    return await unpod.tasks.create(
        sandbox.space_token,
        pilot=sandbox.agent_handle,
        documents=documents,
        context="Call the lead",
        **schedule,
    )


class TestCreatedCalls:
    @settings(max_examples=15)
    @given(seed=st.integers(0, 2**32), speed=st.sampled_from([1.0, 60.0]))
    def test_they_run_to_their_end(self, seed: int, speed: float) -> None:
        clock = ManualClock(START)
        sandbox = live(clock, seed=seed, speed=speed)
        run = sandbox.insert_run(3)
        assert {row["status"] for row in sandbox.task_rows(run)} == {"pending"}
        clock.advance(40 / speed)
        rows = list(sandbox.task_rows(run))
        assert {row["status"] for row in rows} <= ENDED
        for row in rows:
            check_output(row)

    @pytest.mark.parametrize("speed", [1.0, 60.0])
    async def test_a_post_is_called_ends_and_is_counted(self, speed: float) -> None:
        clock = ManualClock(START)
        async with live(clock, speed=speed) as sandbox, client(sandbox) as unpod:
            created = await create(unpod, sandbox, "one", "two")
            run_id, task_ids = created.run_id, set(created.task_ids)
            assert sandbox.run_ids()[0] == run_id
            clock.advance(30 / speed)
            rows = await unpod.runs.tasks(sandbox.space_token, run_id).collect()
            assert {row.task_id for row in rows} == task_ids
            assert {row.status for row in rows} <= ENDED
            assert {row.input["name"] for row in rows if row.input} == {"one", "two"}
            check(state(sandbox), clock)

    @pytest.mark.parametrize("speed", [1.0, 60.0])
    async def test_a_schedule_is_honoured_to_the_second(self, speed: float) -> None:
        clock = ManualClock(START)
        due = START + timedelta(hours=20)
        async with live(clock, speed=speed) as sandbox, client(sandbox) as unpod:
            created = await create(unpod, sandbox, "later", schedule=ScheduleCustom.at(due))
            (task,) = created.task_ids

            def status() -> str:
                (row,) = sandbox.task_rows(created.run_id)
                assert row["task_id"] == task
                found: str = row["status"]
                return found

            # Older runs are removed meanwhile; a run that has not ended is not.
            while clock() < due - timedelta(hours=1):
                assert status() == "scheduled"
                clock.advance(3600)
            clock.advance((due - clock()).total_seconds() - 0.001)
            assert status() == "scheduled"
            clock.advance(0.001)
            assert status() == "pending"
            clock.advance(40)
            assert status() in ENDED
            clock.advance(2 * DAY)
            assert sandbox.run_ids().count(created.run_id) == 0
            assert len(sandbox.ledger) == 1

    async def test_an_automatic_schedule_is_soon(self) -> None:
        clock = ManualClock(START)
        async with live(clock) as sandbox, client(sandbox) as unpod:
            created = await create(unpod, sandbox, "soon", schedule="auto")
            (row,) = sandbox.task_rows(created.run_id)
            assert row["status"] == "scheduled"
            clock.advance(3)
            (row,) = sandbox.task_rows(created.run_id)
            assert row["status"] == "pending"

    def test_a_status_that_a_test_sets_stays_and_pending_is_called_again(self) -> None:
        clock = ManualClock(START)
        sandbox = live(clock)
        task = sandbox.task_ids()[-1]
        run = sandbox.run_ids()[-1]
        sandbox.set_status(task, "hold")
        clock.advance(60)
        row = next(row for row in sandbox.task_rows(run) if row["task_id"] == task)
        assert row["status"] == "hold"
        sandbox.set_status(task, "pending")
        clock.advance(60)
        row = next(row for row in sandbox.task_rows(run) if row["task_id"] == task)
        assert row["status"] in ENDED
        check(state(sandbox), clock)


class TestListings:
    @pytest.mark.parametrize("seed", range(3))
    async def test_counts_and_order_are_those_of_the_rows(self, seed: int) -> None:
        clock = ManualClock(START)
        async with live(clock, seed=seed, runs=30) as sandbox, client(sandbox, page_size=7) as unpod:
            space = sandbox.space_token
            for _ in range(3):
                clock.advance(4.1)
                expected = state(sandbox)
                runs, tasks, by_agent = (
                    unpod.runs.list(space),
                    unpod.tasks.list(space),
                    unpod.agents.tasks(sandbox.agent_handle),
                )
                found = [row.run_id for row in await runs.collect()]
                assert found == [row["run_id"] for row in expected.runs]
                found = [row.task_id for row in await tasks.collect()]
                assert found == [row["task_id"] for row in expected.tasks]
                agent_rows = await by_agent.collect()
                assert sorted(str(row.task_id) for row in agent_rows) == sorted(map(str, found))
                assert await runs.count() == len(expected.runs)
                assert await tasks.count() == len(expected.tasks)
                for run in expected.runs[:5]:
                    rows = await unpod.runs.tasks(space, run["run_id"]).collect()
                    assert [(row.task_id, row.status) for row in rows] == [
                        (row["task_id"], row["status"])
                        for row in expected.tasks
                        if row["run_id"] == run["run_id"]
                    ]


# Functions, because the lowest anyio cannot run async methods with hypothesis.
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), step=st.floats(0.1, 3.0))
async def test_a_walk_while_time_passes_has_each_row_once(seed: int, step: float) -> None:
    clock = ManualClock(START)

    def ticking() -> datetime:
        return clock.advance(step) if is_ticking else clock()

    is_ticking = False
    sandbox = Sandbox(live=True, now=ticking, runs=25, tasks_per_run=(1, 6), seed=seed)
    async with sandbox, client(sandbox) as unpod:
        before = {row["task_id"] for row in sandbox.task_rows()}
        is_ticking = True
        found = [row.task_id async for row in unpod.tasks.list(sandbox.space_token, page_size=9)]
        runs = [row.run_id async for row in unpod.runs.list(sandbox.space_token, page_size=4)]
        is_ticking = False
    assert len(found) == len(set(found))
    assert before <= set(found) <= set(sandbox.task_ids())
    assert len(runs) == len(set(runs))


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.floats(0.2, 12), min_size=3, max_size=8))
async def test_a_watch_reports_each_change_once(seed: int, steps: list[float]) -> None:
    clock = ManualClock(START)
    async with live(clock, seed=seed, runs=8) as sandbox, client(sandbox) as unpod:
        replay = Replay()
        async with stepping(unpod, sandbox.space_token, replay.add) as stepper:
            for seconds in steps:
                clock.advance(seconds)
                await stepper.poll()
                # `Replay` refuses what is reported twice; this shows that nothing is missed.
                assert (replay.runs, replay.tasks) == held_by(sandbox)
                assert not replay.pending_ended
