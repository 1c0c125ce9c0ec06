"""A watch and a wait over rows with fields of undocumented types lose only these fields."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tests.raw_server import RawConnection, RawServer, json_response
from tests.watch.replay import Replay, held_by
from tests.watch.stepping import Stepper, stepping
from unpod_async import Run, Task, UnpodClient, WatchedRun
from unpod_async._http import Deadline
from unpod_async._watch import Clock, wait_for_runs
from unpod_async.events import Event
from unpod_async.testing import Sandbox

Row = dict[str, Any]

RUN_DRIFT: dict[str, list[Any]] = {
    "user": [{"id": 7}, 7, ["7"], True],
    "batch_count": [3.0, "3", {"count": 3}, [3], 0.5],
    "created": [1768474800, {"seconds": 1768474800}],
    "run_mode": [7, ["dev"]],
}
TASK_DRIFT: dict[str, list[Any]] = {
    "user": [{"id": 7}, 7, ["7"], True],
    "user_info": [[{"id": "7"}], "7", 7.5],
    "task": [["Call."], "Call.", 0],
    "created": [1768474800, {"seconds": 1768474800}],
    "modified": [["x"], 1768474800.5],
    "assignee": [{"handle": "x"}, 7],
}


def drifting() -> Callable[[Row], Row]:
    """Return a function that gives the fields of each row other types than those of the row before."""
    run_fields = {name: cycle(values) for name, values in RUN_DRIFT.items()}
    task_fields = {name: cycle(values) for name, values in TASK_DRIFT.items()}

    def drift(row: Row) -> Row:
        fields = task_fields if "task_id" in row else run_fields
        return {**row, **{name: next(values) for name, values in fields.items()}}

    return drift


def unchanged(row: Row) -> Row:
    return row


def without_drift(row: Run | Task) -> Any:
    """Return a row without the fields that drift."""
    fields = TASK_DRIFT if isinstance(row, Task) else RUN_DRIFT
    return msgspec.structs.replace(row, **dict.fromkeys(fields))


def event_without_drift(event: Event) -> Event:
    for name in ("run", "task"):
        if hasattr(event, name):
            return msgspec.structs.replace(event, **{name: without_drift(getattr(event, name))})
    return event


@asynccontextmanager
async def service(change: Callable[[Row], Row]) -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    """Yield a sandbox, and a client that receives its rows after `change`."""

    async def forward(connection: RawConnection) -> None:
        while (request := await connection.read_request()) is not None:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            page = msgspec.json.decode((await reader.read()).partition(b"\r\n\r\n")[2])
            writer.close()
            await writer.wait_closed()
            await connection.send(json_response({**page, "data": [change(row) for row in page["data"]]}))

    async with (
        Sandbox(runs=9, tasks_per_run=(1, 3), now=lambda: datetime(2026, 3, 1, tzinfo=UTC)) as sandbox,
        RawServer(forward) as server,
    ):
        address = urlsplit(sandbox.base_url)
        url = f"{server.base_url}{address.path}"
        # One request at a time, so that the order of the events is always the same.
        async with UnpodClient(
            sandbox.token, base_url=url, retry=None, page_size=4, max_concurrency=1
        ) as unpod:
            yield sandbox, unpod


async def change_everything(step: Stepper, sandbox: Sandbox) -> None:
    """Make a change of each kind, with polls between them, until a resync has read everything again."""
    run = sandbox.insert_run(2)
    await step.poll()
    for task in sandbox.task_ids(run):
        sandbox.set_status(task, "completed")
    sandbox.insert_task(sandbox.run_ids()[4])
    sandbox.delete_run(sandbox.run_ids()[6])
    await step.poll()
    sandbox.delete_task(sandbox.task_ids(sandbox.run_ids()[2])[0])
    sandbox.advance()
    step.time.now += 300
    resyncs = step.watch.resyncs
    for _ in range(80):
        await step.poll()
    assert step.watch.resyncs >= resyncs + 2


async def watched(change: Callable[[Row], Row]) -> tuple[list[Event], int, Counter[str]]:
    """Return the events of a watch, the number of its requests, and the fields that drifted."""
    replay = Replay()
    async with service(change) as (sandbox, unpod):
        async with stepping(unpod, sandbox.space_token, replay.add, resync=300) as step:
            await change_everything(step, sandbox)
            assert (replay.runs, replay.tasks) == held_by(sandbox)
            assert replay.connected
        assert unpod.stats.rejected == 0
        return [event_without_drift(event) for event in replay.events], sandbox.requests, unpod.stats.drift


async def test_a_watch_reports_the_same_events_with_the_same_requests() -> None:
    plain, requests, drift = await watched(unchanged)
    assert {type(event).__name__ for event in plain} == {
        *("RunSeen", "RunStatusChanged", "RunSettled", "RunRemoved"),
        *("TaskSeen", "TaskStatusChanged", "CallEnded", "TaskRemoved"),
    }
    assert not drift
    events, requests_with_drift, drift = await watched(drifting())
    assert events == plain
    assert requests_with_drift == requests
    assert_is_complete(drift)


async def waited(change: Callable[[Row], Row]) -> tuple[list[WatchedRun], int, Counter[str]]:
    """Return the runs of a wait that ends at its second poll, the number of its requests, and the drift."""
    async with service(change) as (sandbox, unpod):
        names, now = [sandbox.insert_run(3), sandbox.run_ids()[5]], [0.0]

        async def sleep(seconds: float) -> None:
            now[0] += seconds
            for name in names:
                for task in sandbox.task_ids(name):
                    sandbox.set_status(task, "completed")

        runs = await wait_for_runs(
            unpod._context,
            sandbox.space_token,
            names,
            "settled",
            deadline=Deadline(100, clock=lambda: now[0]),
            interval=10,
            clock=Clock(sleep=sleep),
        )
        assert [run.run.run_id for run in runs] == names
        assert [[task.task_id for task in run.tasks] for run in runs] == [
            sandbox.task_ids(name) for name in names
        ]
        assert all(run.settled for run in runs)
        plain = [
            msgspec.structs.replace(
                run, run=without_drift(run.run), tasks=[without_drift(task) for task in run.tasks]
            )
            for run in runs
        ]
        return plain, sandbox.requests, unpod.stats.drift


async def test_a_wait_ends_with_the_same_runs_after_the_same_requests() -> None:
    plain, requests, drift = await waited(unchanged)
    assert not drift
    runs, requests_with_drift, drift = await waited(drifting())
    assert runs == plain
    assert requests_with_drift == requests
    assert_is_complete(drift)


def assert_is_complete(drift: Counter[str]) -> None:
    """Check that every field has drifted."""
    assert set(drift) == {*(f"Run.{name}" for name in RUN_DRIFT), *(f"Task.{name}" for name in TASK_DRIFT)}
