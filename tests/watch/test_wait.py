"""`runs.wait` and `runs.find`."""

from __future__ import annotations

import pickle
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from tests.clock import pass_time, set_deadline_clock
from unpod_async import (
    AuthenticationError,
    DecodeError,
    InvalidArgument,
    RateLimitedError,
    RefusedError,
    Run,
    RunNotFound,
    TransportError,
    UnpodClient,
    WaitTimeout,
)
from unpod_async._http import Deadline
from unpod_async._watch import Clock, PollDelays, PollSchedule, wait_for_runs
from unpod_async.testing import Sandbox, faults


@asynccontextmanager
async def service(**options: Any) -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    async with (
        Sandbox(runs=12, tasks_per_run=2) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": None, **options}) as unpod,
    ):
        yield sandbox, unpod


def settled_runs(sandbox: Sandbox) -> list[str]:
    return [row["run_id"] for row in sandbox.run_rows() if row["status"] == "completed"]


def listings(sandbox: Sandbox) -> int:
    return sum(request.path.endswith("/runs/") for request in sandbox.log)


async def timeout_of(unpod: UnpodClient, sandbox: Sandbox, *names: str) -> WaitTimeout:
    """Wait in vain, on a clock that only the delays between polls advance: no poll is cut short."""
    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(WaitTimeout) as caught:
        await wait_for_runs(
            unpod._context,
            sandbox.space_token,
            names,
            "settled",
            deadline=Deadline(300, clock=lambda: now[0]),
            interval=50,
            clock=Clock(sleep=sleep),
        )
    return caught.value


async def test_one_id_gives_one_run_with_its_tasks() -> None:
    async with service() as (sandbox, unpod):
        name = settled_runs(sandbox)[0]
        seen = await unpod.runs.wait(sandbox.space_token, name)
        assert (seen.run.run_id, seen.settled, seen.open_tasks) == (name, True, [])
        assert [task.task_id for task in seen.tasks] == sandbox.task_ids(name)
        (again,) = await unpod.runs.wait(sandbox.space_token, [seen.run])
        assert again.run == seen.run


async def test_it_waits_until_all_runs_have_settled_with_one_listing_per_poll() -> None:
    async with service(page_size=4) as (sandbox, unpod):
        names = [sandbox.insert_run(2), settled_runs(sandbox)[3], sandbox.insert_run(1)]
        tasks = [task for name in names for task in sandbox.task_ids(name)]

        async def advance() -> None:
            await sandbox.arrived(sandbox.requests + 8)
            for task in tasks:
                sandbox.set_status(task, "completed")

        async with anyio.create_task_group() as group:
            group.start_soon(advance)
            seen = await unpod.runs.wait(sandbox.space_token, names, interval=0.01, deadline=30)
        assert [run.run.run_id for run in seen] == names
        assert all(run.settled for run in seen)
        polls = sum(request.path.endswith(f"/runs/{names[0]}/tasks/") for request in sandbox.log)
        assert polls >= 2
        # Each poll reads the newest page; only the first poll reads on to the settled run.
        assert listings(sandbox) <= polls + 3
        assert sum(names[1] in request.path for request in sandbox.log) == 1


async def test_until_can_be_a_function() -> None:
    async with service() as (sandbox, unpod):
        name = sandbox.insert_run(2)
        looked: list[int] = []

        def one_has_begun(seen: Any) -> bool:
            looked.append(len(seen.tasks))
            if len(looked) == 2:
                sandbox.advance()
            return any(task.status == "in_progress" for task in seen.tasks)

        seen = await unpod.runs.wait(sandbox.space_token, name, one_has_begun, interval=0.01, deadline=30)
        assert looked == [2, 2, 2]
        assert not seen.settled

        def wrong(seen: Any) -> bool:
            raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            await unpod.runs.wait(sandbox.space_token, name, wrong)


async def test_a_timeout_names_the_open_tasks() -> None:
    async with service() as (sandbox, unpod):
        name, done = sandbox.insert_run(3), settled_runs(sandbox)[0]
        hold, ended, pending = sandbox.task_ids(name)
        sandbox.set_status(hold, "hold")
        sandbox.set_status(ended, "completed")
        error = await timeout_of(unpod, sandbox, name, done)
    assert [task.task_id for task in error.holding] == [hold, pending]
    assert [seen.run.run_id for seen in error.runs] == [name, done]
    text = str(error)
    assert text.startswith("the deadline passed while waiting for 1 of 2 runs: ")
    assert f"{hold} (hold)" in text
    assert f"{pending} (pending)" in text
    assert ended not in text
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(copy), copy.runs) == (text, error.runs)


async def test_a_timeout_carries_no_user_token() -> None:
    async with service() as (sandbox, unpod):
        name = sandbox.insert_run(1)
        (task,) = sandbox.task_ids(name)
        row = next(sandbox.task_rows(name))
        row["user_info"] = {"user_token": "SYNALICE"}
        row["output"] = {"call": {"userToken": "SYNALICE"}, "note": '{"User-Token": "SYNALICE"}', "cost": 1}
        sandbox.malform(task, msgspec.json.encode(row))
        error = await timeout_of(unpod, sandbox, name)
    assert b"SYNALICE" not in pickle.dumps(error)
    (held,) = error.holding
    assert held.output == {"call": {"userToken": None}, "note": '{"User-Token": null}', "cost": 1}


@pytest.mark.parametrize(("runs", "tasks"), [(5, 5), (6, 6), (7, 8)])
async def test_a_timeout_names_at_most_five_runs_and_five_tasks_of_each(runs: int, tasks: int) -> None:
    async with service() as (sandbox, unpod):
        names = [sandbox.insert_run(tasks) for _ in range(runs)]
        error = await timeout_of(unpod, sandbox, *names)
        reasons = error.args[0].partition(": ")[2].split("; ")
        shown = sandbox.task_ids(names[0])[:5]
        open_tasks = ", ".join(f"{task} (pending)" for task in shown)
        if tasks > 5:
            open_tasks += f", and {tasks - 5} more"
        assert reasons[0] == f"run {names[0]} is pending, with open tasks {open_tasks}"
        assert [reason.split()[1] for reason in reasons[:5]] == names[:5]
        assert reasons[5:] == ([f"and {runs - 5} more"] if runs > 5 else [])


async def test_a_timeout_says_how_many_runs_and_tasks_could_not_be_read() -> None:
    async with service() as (sandbox, unpod):
        bad, slow, good = sandbox.insert_run(2), sandbox.insert_run(1), sandbox.insert_run(1)
        sandbox.poison(sandbox.task_ids(bad)[0])
        sandbox.script(faults.server_error(503, path=f"/runs/{slow}/tasks/", times=1000))
        text = str(await timeout_of(unpod, sandbox, bad, slow, good))
        assert "waiting for 3 of 3 runs" in text
        assert f"run {bad} is pending, with open tasks {sandbox.task_ids(bad)[1]} (pending), 1 of its" in text
        assert f"run {slow} is pending, its tasks could not be read: GET" in text
        assert "could not be read;" not in text
        sandbox.script(faults.server_error(503, path="/runs/", times=1000))
        text = str(await timeout_of(unpod, sandbox, good))
        assert "1 could not be read. The last poll failed: GET" in text


async def test_a_timeout_without_a_connection_says_what_to_check(refusing_port: int) -> None:
    sandbox = Sandbox(runs=1)
    run = sandbox.insert_run(1)
    url = f"http://127.0.0.1:{refusing_port}"
    async with UnpodClient(sandbox.token, base_url=url, retry=None) as unpod:
        refused = await timeout_of(unpod, sandbox, run)
    assert "1 could not be read. The last poll failed: GET" in refused.summary
    assert "(refused)" in refused.summary
    assert refused.hint == "check base_url and the network"
    async with service() as (sandbox, unpod):
        pending = await timeout_of(unpod, sandbox, sandbox.insert_run(1))
    assert pending.hint == "the runs continue; wait again with a longer deadline"


async def test_every_wait_needs_a_deadline() -> None:
    async with service() as (sandbox, unpod):
        with pytest.raises(InvalidArgument, match="hold"):
            await unpod.runs.wait(sandbox.space_token, sandbox.run_ids()[0], deadline=None)  # type: ignore[call-overload]
        assert not sandbox.log


async def test_a_run_that_is_not_listed_is_reported_at_once() -> None:
    async with service(page_size=5) as (sandbox, unpod):
        with pytest.raises(RunNotFound, match=r"run Rnone is not listed in space SPACEMAIN") as caught:
            await unpod.runs.wait(sandbox.space_token, [sandbox.run_ids()[0], "Rnone"])
        assert caught.value.run_ids == ("Rnone",)
        name = sandbox.insert_run(1)

        def deleted(seen: Any) -> bool:
            sandbox.delete_run(name)
            return False

        with pytest.raises(RunNotFound):
            await unpod.runs.wait(sandbox.space_token, name, deleted, interval=0.01)


async def test_an_outage_is_retried_until_the_deadline() -> None:
    async with service() as (sandbox, unpod):
        name = settled_runs(sandbox)[0]
        sandbox.script(faults.server_error(503, times=2), faults.reset_before_status())
        assert (await unpod.runs.wait(sandbox.space_token, name, interval=0.01, deadline=30)).settled
        sandbox.script(faults.server_error(503, times=10_000))
        error = await timeout_of(unpod, sandbox, name)
        assert re.search(r"1 could not be read.*503", str(error))


async def test_one_unreadable_run_does_not_delay_the_others() -> None:
    async with service() as (sandbox, unpod):
        names = settled_runs(sandbox)[:4]
        sandbox.script(faults.server_error(502, times=10_000, path=names[0]))
        error = await timeout_of(unpod, sandbox, *names)
        assert [seen.settled for seen in error.runs] == [False, True, True, True]
        assert "waiting for 1 of 4 runs" in str(error)
        assert f"run {names[0]} is completed, its tasks could not be read: " in str(error)
        sandbox.script()
        for wanted in ([names[1], names[2], names[1]], iter([names[3]])):
            names = [*wanted]
            seen = await unpod.runs.wait(sandbox.space_token, names, interval=0.01, deadline=30)
            assert [run.run.run_id for run in seen] == names


async def test_the_last_poll_is_shortly_before_the_deadline() -> None:
    pauses: list[float] = []
    async with service() as (sandbox, unpod):
        name = sandbox.insert_run(1)

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            for task in sandbox.task_ids(name):
                sandbox.set_status(task, "completed")

        (seen,) = await wait_for_runs(
            unpod._context,
            sandbox.space_token,
            [name],
            "settled",
            deadline=Deadline(600),
            interval=3600,
            clock=Clock(sleep=sleep),
        )
    assert seen.settled
    assert len(pauses) == 1
    assert 500 < pauses[0] <= 540


async def test_the_tasks_of_four_runs_are_read_at_a_time() -> None:
    async with service() as (sandbox, unpod):
        set_deadline_clock(unpod)
        sandbox.script(faults.stall(60, path="/tasks/", times=100))

        async def end_the_wait() -> None:
            await sandbox.arrived(1 + 1)  # all of them start in the same turn of the event loop
            pass_time(20)

        async with anyio.create_task_group() as group:
            group.start_soon(end_the_wait)
            with pytest.raises(WaitTimeout):
                await unpod.runs.wait(sandbox.space_token, sandbox.run_ids()[:8], deadline=20)
        assert unpod.stats.attempts == 1 + 4


async def test_errors_of_until_are_raised_at_once() -> None:
    async with service() as (sandbox, unpod):
        name = settled_runs(sandbox)[0]

        def undecodable(seen: Any) -> bool:
            raise DecodeError("the output of a task cannot be decoded")

        async def coroutine(seen: Any) -> bool:
            return False

        with pytest.raises(DecodeError):
            await unpod.runs.wait(sandbox.space_token, name, undecodable)
        with pytest.raises(InvalidArgument, match="awaitable"):
            await unpod.runs.wait(sandbox.space_token, name, lambda seen: coroutine(seen))


async def test_errors_that_retrying_does_not_help_are_raised() -> None:
    async with service() as (sandbox, unpod):
        with pytest.raises(RefusedError):
            await unpod.runs.wait("NOSUCHSPACE", "R1")
        sandbox.script(faults.token_revoked())
        with pytest.raises(AuthenticationError):
            await unpod.runs.wait(sandbox.space_token, sandbox.run_ids()[0])


async def test_errors_of_the_whole_service_are_no_errors_of_one_run(caplog: pytest.LogCaptureFixture) -> None:
    async with service() as (sandbox, unpod):
        names = [sandbox.insert_run(1) for _ in range(6)]
        sandbox.script(faults.token_revoked(path=f"/runs/{names[0]}/tasks/"))
        with pytest.raises(AuthenticationError):
            await unpod.runs.wait(sandbox.space_token, names, interval=0.05, deadline=30)
        sandbox.script(faults.reset_before_status(path="/tasks/", times=1000))
        error = await timeout_of(unpod, sandbox, *names)
        assert re.search(r"6 could not be read\. The last poll failed: .*connection", str(error))
        assert "the tasks of run" not in caplog.text


async def test_a_run_with_an_unreadable_task_does_not_settle() -> None:
    async with service() as (sandbox, unpod):
        name = settled_runs(sandbox)[0]
        sandbox.poison(sandbox.task_ids(name)[0])
        error = await timeout_of(unpod, sandbox, name)
        assert "1 of its tasks cannot be read" in str(error)
        assert [seen.unreadable for seen in error.runs] == [1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"run_ids": []},
        {"run_ids": ""},
        {"run_ids": "a/b"},
        {"run_ids": [Run()]},
        {"until": "completed"},
        {"until": anyio.sleep},
        {"deadline": 0},
        {"deadline": True},
        {"interval": -1},
        {"space_token": ""},
    ],
)
async def test_arguments_that_are_refused(arguments: dict[str, Any]) -> None:
    async with service() as (sandbox, unpod):
        arguments = {"space_token": sandbox.space_token, "run_ids": "R1", **arguments}
        with pytest.raises(InvalidArgument):
            await unpod.runs.wait(**arguments)
        assert not sandbox.log


async def test_finding_one_run() -> None:
    async with service(page_size=5) as (sandbox, unpod):
        names = sandbox.run_ids()
        found = await unpod.runs.find(sandbox.space_token, names[6])
        assert found is not None
        assert found.run_id == names[6]
        assert sandbox.requests == 2  # no further page
        assert await unpod.runs.find(sandbox.space_token, "Rnone") is None
        sandbox.poison(names[3])
        assert await unpod.runs.find(sandbox.space_token, names[6]) is not None
        with pytest.raises(DecodeError):  # the run may be the unreadable row
            await unpod.runs.find(sandbox.space_token, "Rnone")
        with pytest.raises(InvalidArgument):
            await unpod.runs.find(sandbox.space_token, "..")


def test_delays_vary_and_grow_during_an_outage() -> None:
    low, high = PollDelays(10, lambda: 0.0), PollDelays(10, lambda: 1.0)
    assert [low.after_success(), high.after_success()] == pytest.approx([8, 12])
    failed = TransportError("refused", sent=False)
    middle = PollDelays(10, lambda: 0.5)
    assert [middle.after_failure(failed) for _ in range(5)] == pytest.approx([10, 20, 40, 60, 60])
    assert middle.after_success() == pytest.approx(10)
    assert middle.after_failure(failed) == pytest.approx(10)
    assert PollDelays(300, lambda: 0.5).after_failure(failed) == pytest.approx(300)
    long_interval = PollDelays(300, lambda: 0.5)
    assert [long_interval.after_failure(failed) for _ in range(3)] == pytest.approx([300, 300, 300])


@pytest.mark.parametrize(("retry_after", "least"), [(5, 10), (90, 90), (86_400, 900)])
def test_a_delay_that_the_server_asks_for_is_respected_up_to_a_limit(
    retry_after: float, least: float
) -> None:
    limited = RateLimitedError(429)
    limited.retry_after = retry_after
    assert least <= PollDelays(10, lambda: 0.5).after_failure(limited) <= 1.1 * least


def test_a_run_without_changes_is_read_less_often_but_once_per_resync() -> None:
    schedule = PollSchedule(10, 3600)
    assert schedule.next_read(1000, 1000, 0) == 1000
    assert schedule.next_read(1000, 900, 0) == 1010
    assert schedule.next_read(100_000, 0, 0) == 103_600
    assert schedule.next_read(1000, 1000, 3) == 1080


def test_a_resync_takes_half_of_its_interval() -> None:
    schedule = PollSchedule(10, 3600)
    assert [schedule.resync_pages_per_poll(pages) for pages in (1, 180, 181, 1800)] == [1, 1, 2, 10]
    assert PollSchedule(10, 10).resync_pages_per_poll(50) == 50


def test_a_resync_of_another_process_is_overdue_after_the_interval_or_if_it_lies_in_the_future() -> None:
    schedule = PollSchedule(10, 3600)
    overdue = [schedule.is_resync_overdue(age) for age in (-0.5, 0, 0.5, 3599.5, 3600)]
    assert overdue == [True, False, False, False, True]
