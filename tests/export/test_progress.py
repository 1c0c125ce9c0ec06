"""The progress of an export never exceeds its total, however the tasks are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.export.model_space import SPACE, ModelSpace, model_space, run_id
from unpod_async import AuthenticationError, ExportProgress


@pytest.fixture(autouse=True)
def each_turn_emits_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unpod_async._export.job._EMIT_SECONDS", 0.0)
    monkeypatch.setattr("unpod_async._export.storage.checkpoint._INTERVAL", 0.0)


def no_fault(space: ModelSpace) -> None:
    """Runs of three tasks in pages of two: most runs are on two pages."""


def a_task_is_removed(space: ModelSpace) -> None:
    """A task is removed during the scan, so that the listing is read twice."""

    def remove(request: web.Request) -> None:
        if request.path.endswith(f"{SPACE}/tasks/") and request.query["page"] == "5":
            space.tasks[run_id(7)] = space.tasks[run_id(7)][1:]

    space.before = remove


def the_scan_fails(space: ModelSpace) -> None:
    space.unreadable.add(space.tasks[run_id(1)][0]["task_id"])


def runs_cannot_be_read(space: ModelSpace) -> None:
    space.unreadable |= {run_id(1), run_id(3)}


def no_run_can_be_read(space: ModelSpace) -> None:
    """The runs are known only through their tasks."""
    space.unreadable |= space.tasks.keys()


def runs_fail(space: ModelSpace) -> None:
    space.has_space_tasks = False
    space.surplus.update({run_id(1): 1, run_id(3): 2})


@pytest.mark.parametrize(
    "fault",
    [no_fault, a_task_is_removed, the_scan_fails, runs_cannot_be_read, no_run_can_be_read, runs_fail],
)
@pytest.mark.parametrize("interrupted", [False, True])
async def test_no_more_runs_are_done_than_there_are(
    tmp_path: Path, fault: Callable[[ModelSpace], None], interrupted: bool
) -> None:
    events: list[ExportProgress] = []
    async with model_space() as space, space.client() as unpod:
        for number in range(12):
            space.add_run(number, 3)
        if interrupted:

            def refuse(request: web.Request) -> web.Response | None:
                is_there = request.path.endswith(f"{SPACE}/tasks/") and request.query["page"] == "9"
                return web.json_response({"message": "No"}, status=401) if is_there else None

            space.before = refuse
            with pytest.raises(AuthenticationError):
                await unpod.export(SPACE, tmp_path, page_size=2, on_progress=events.append)
            space.before = lambda request: None
        fault(space)
        await unpod.export(SPACE, tmp_path, page_size=2, on_progress=events.append)
    counted = [event for event in events if event.runs_total is not None]
    assert len(counted) > 20
    for event in counted:
        assert event.runs_done + event.runs_failed <= (event.runs_total or 0), event
        assert event.runs_done >= 0, event
        assert event.runs_failed >= 0, event
    # The last total is known before the last run is read.
    assert any(event.runs_total == 12 > event.runs_done + event.runs_failed for event in counted)
    last = events[-1]
    assert (last.phase, last.runs_total, last.runs_done + last.runs_failed) == ("done", 12, 12)
    assert last.remaining == 0.0


async def test_an_export_with_nothing_to_read_is_done(tmp_path: Path) -> None:
    events: list[ExportProgress] = []
    async with model_space() as space, space.client() as unpod:
        space.add_run(0, 1)
        await unpod.export(SPACE, tmp_path, settle_after=0)
        await unpod.export(SPACE, tmp_path, settle_after=0, on_progress=events.append)
    assert (events[-1].phase, events[-1].rows, events[-1].remaining) == ("done", 0, 0.0)
    assert {event.remaining for event in events[:-1]} == {None}


async def test_progress_says_how_long_the_service_has_not_responded(tmp_path: Path) -> None:
    events: list[ExportProgress] = []
    async with model_space() as space, space.client() as unpod:
        space.add_run(0, 2)

        def before(request: web.Request) -> web.Response | None:
            # Two attempts and two probes.
            return web.json_response({"message": "No"}, status=503) if len(space.log) <= 4 else None

        space.before = before
        summary = await unpod.export(SPACE, tmp_path, on_progress=events.append)
    assert summary.complete
    waiting = [event.waiting for event in events]
    longest = waiting.index(max(waiting))
    assert waiting[longest] > 0.7  # two delays; the first is at least 0.25 s, the second 0.5 s
    assert waiting[-1] == 0.0


async def test_rates_are_those_of_the_last_ten_seconds(tmp_path: Path) -> None:
    events: list[ExportProgress] = []
    async with model_space() as space, space.client() as unpod:
        for number in range(40):
            space.add_run(number, 5)
        summary = await unpod.export(SPACE, tmp_path, page_size=5, on_progress=events.append)
    assert 0 < events[-2].seconds <= summary.seconds
    moments = [(0.0, 0), *((event.seconds, event.rows) for event in events)]
    since = compared = 0
    for number, event in enumerate(events, start=1):
        # The last moment that is more than ten seconds ago; on most machines, the start.
        while since + 1 < number and moments[since + 1][0] < event.seconds - 10:
            since += 1
        seconds, rows = moments[since]
        if event.seconds - seconds > 0.001:
            compared += event.rows > rows
            assert event.rate == pytest.approx((event.rows - rows) / (event.seconds - seconds), rel=1e-6)
    assert compared > 10
    reading = [event for event in events if 0 < event.rows < 200 and event.remaining is not None]
    assert reading
    for event in reading:
        assert event.remaining == pytest.approx((200 - event.rows) / event.rate)
    # All rows have been read, and the parts are being written.
    read = [event for event in events if event.rows == 200 and event.remaining is not None]
    assert read
    assert {event.remaining for event in read} == {0.0}


async def test_the_remaining_time_of_a_later_export_ignores_rows_that_are_stored(tmp_path: Path) -> None:
    """A scan reads the whole listing, although this export keeps the tasks of every fourth run only."""
    events: list[ExportProgress] = []
    async with model_space() as space, space.client() as unpod:
        for number in range(40):
            space.add_run(number, 5, status="completed" if number % 4 else "in_progress")
        await unpod.export(SPACE, tmp_path, settle_after=0)
        first = space.requests(f"{SPACE}/tasks/")
        await unpod.export(SPACE, tmp_path, settle_after=0, page_size=50, on_progress=events.append)
        assert space.requests(f"{SPACE}/tasks/") > first  # it was a scan
    assert_that_the_remaining_time_ends_at_zero(events, rows=50)


async def test_the_remaining_time_of_a_resumed_export_ignores_rows_that_are_stored(tmp_path: Path) -> None:
    events: list[ExportProgress] = []
    async with model_space() as space, space.client() as unpod:
        for number in range(40):
            space.add_run(number, 5)

        def refuse(request: web.Request) -> web.Response | None:
            is_there = request.path.endswith(f"{SPACE}/tasks/") and request.query["page"] == "15"
            return web.json_response({"message": "No"}, status=401) if is_there else None

        space.before = refuse
        with pytest.raises(AuthenticationError):
            await unpod.export(SPACE, tmp_path, page_size=10, on_progress=lambda event: None)
        space.before = lambda request: None
        await unpod.export(SPACE, tmp_path, page_size=10, on_progress=events.append)
    assert events[-1].resumed is not None
    assert 0 < events[-1].rows < 200
    assert_that_the_remaining_time_ends_at_zero(events, rows=events[-1].rows)


def assert_that_the_remaining_time_ends_at_zero(events: list[ExportProgress], *, rows: int) -> None:
    reading = [event.remaining for event in events if 0 < event.rows < rows and event.remaining is not None]
    assert reading
    assert min(reading) > 0
    read = [event for event in events if event.rows == rows and event.remaining is not None]
    assert {event.phase for event in read} >= {"fetching", "writing", "done"}
    assert {event.remaining for event in read} == {0.0}
