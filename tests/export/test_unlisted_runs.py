"""The tasks of runs whose own row cannot be read are written, or the summary says how many are missing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.export.model_space import LONG_AGO, SPACE, ModelSpace, model_space, run_id, written

DEEP = b'{"run_id":"%b","created":"2026-01-01T00:00:00","x":%b}'


def filled(space: ModelSpace, runs: int = 8) -> None:
    for number in range(runs):
        space.add_run(number, 3)


def unreadable(space: ModelSpace, number: int) -> None:
    space.unreadable.add(run_id(number))


def invalid(space: ModelSpace, number: int) -> None:
    """The row of a run is sent and is no valid row, but its id can be read."""
    space.raw[run_id(number)] = DEEP % (run_id(number).encode(), b'"\xff"')


def without_id(space: ModelSpace, number: int) -> None:
    space.raw[run_id(number)] = b'{"created":"2026-01-01T00:00:00","n":%d}' % number


def of_the_space(space: ModelSpace) -> int:
    return space.requests(f"{SPACE}/tasks/")


@pytest.mark.parametrize("bad", [unreadable, invalid])
@pytest.mark.parametrize("page_size", [None, 2])
async def test_the_tasks_of_runs_that_cannot_be_read_are_written(
    tmp_path: Path, bad: Any, page_size: int | None
) -> None:
    options: dict[str, Any] = {"settle_after": 0, "page_size": page_size}
    async with model_space() as space, space.client() as unpod:
        filled(space)
        bad(space, 2)
        bad(space, 5)
        summary = await unpod.export(SPACE, tmp_path, **options)
        assert (summary.complete, summary.runs, summary.tasks, summary.bad_rows) == (False, 6, 24, 2)
        assert (summary.reasons, summary.fetched_runs) == ((), 8)
        assert written(tmp_path, "tasks").keys() == space.task_ids
        # Again: what is settled is not read, and one request shows that no further run is hidden.
        space.tasks[run_id(5)][0]["status"] = "failed"
        before = of_the_space(space)
        summary = await unpod.export(SPACE, tmp_path, **options)
        assert (summary.complete, summary.tasks, summary.gone_runs) == (False, 24, 0)
        assert summary.fetched_runs + summary.unchanged_runs == 8
        assert of_the_space(space) - before <= 1
        if bad is unreadable:
            assert summary.fetched_runs == 2
            assert b'"failed"' in b"".join(path.read_bytes() for path in (tmp_path / "tasks").iterdir())
        # One of them is deleted, and the other can be read at last.
        space.unreadable.clear()
        space.raw.clear()
        space.remove_run(run_id(2))
        for _ in range(2):
            summary = await unpod.export(SPACE, tmp_path, **options)
            assert (summary.complete, summary.runs, summary.tasks, summary.bad_rows) == (True, 7, 21, 0)
            assert written(tmp_path, "runs").keys() == space.tasks.keys()
        assert (summary.fetched_runs, summary.unchanged_runs) == (0, 7)


async def test_a_further_hidden_run_is_found(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        unreadable(space, 2)
        await unpod.export(SPACE, tmp_path)
        space.add_run(8, 3)
        unreadable(space, 8)
        summary = await unpod.export(SPACE, tmp_path)
        assert (summary.complete, summary.runs, summary.tasks, summary.bad_rows) == (False, 7, 27, 2)
        assert written(tmp_path, "tasks").keys() == space.task_ids


async def test_the_tasks_of_a_run_that_was_readable_are_read_again(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        await unpod.export(SPACE, tmp_path, settle_after=timedelta(days=60))
        unreadable(space, 4)
        space.tasks[run_id(4)].pop()
        for _ in range(2):
            summary = await unpod.export(SPACE, tmp_path, settle_after=timedelta(days=60))
            assert (summary.complete, summary.runs, summary.tasks, summary.gone_runs) == (False, 8, 23, 0)


async def test_chosen_runs_that_cannot_be_read_are_read_by_their_id(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        unreadable(space, 4)
        for _ in range(2):
            summary = await unpod.export(SPACE, tmp_path, runs=[run_id(4), run_id(6), "Rnone"])
            assert (summary.complete, summary.runs, summary.tasks) == (False, 1, 6)
            assert "2 selected runs are not listed" in summary.reasons[0]
        assert of_the_space(space) == 0


@pytest.mark.parametrize("run", [b"null", b"4", b'""', b"{}"])
async def test_a_chosen_run_whose_row_has_no_id_keeps_its_tasks(tmp_path: Path, run: bytes) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        chosen = [run_id(4), run_id(6)]
        for target in (tmp_path / "first", tmp_path / "later"):
            if target.name == "later":  # the run was exported when its row had an id
                assert (await unpod.export(SPACE, target, runs=chosen)).complete
            space.raw[run_id(4)] = DEEP % (b"x", b"1")
            space.raw[run_id(4)] = space.raw[run_id(4)].replace(b'"x"', run, 1)
            for _ in range(2):
                summary = await unpod.export(SPACE, target, runs=chosen)
                assert (summary.complete, summary.tasks, summary.gone_runs) == (False, 6, 0)
                assert "1 selected run is not listed" in summary.reasons[0]
            space.raw.clear()
            summary = await unpod.export(SPACE, target, runs=chosen)
            assert (summary.complete, summary.runs, summary.tasks) == (True, 2, 6)


async def test_a_row_without_an_id_does_not_matter_if_all_chosen_runs_are_listed(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        chosen = [run_id(4), run_id(6)]
        without_id(space, 7)
        before = space.requests()
        for _ in range(2):
            summary = await unpod.export(SPACE, tmp_path, runs=chosen, settle_after=0)
            assert (summary.complete, summary.runs, summary.tasks) == (True, 2, 6)
        assert space.requests() - before == 4  # the runs, the tasks of two runs, and the runs again


async def test_only_hidden_runs_of_the_window_are_exported(tmp_path: Path) -> None:
    since, until = LONG_AGO + timedelta(seconds=3), LONG_AGO + timedelta(seconds=6)
    async with model_space() as space, space.client() as unpod:
        filled(space, 10)
        for number in (1, 4, 8):
            unreadable(space, number)
        # A task that was added later, of a run that was listed and is older than the window.
        space.tasks[run_id(0)][0]["created"] = space.tasks[run_id(5)][0]["created"]
        for _ in range(2):
            summary = await unpod.export(SPACE, tmp_path, since=since, until=until)
            assert (summary.complete, summary.runs, summary.tasks) == (False, 3, 12)
        assert {name[:17] for name in written(tmp_path, "tasks")} == {
            f"T{number:016x}" for number in range(3, 7)
        }


def refused(space: ModelSpace) -> str:
    space.has_space_tasks = False
    return "tasks of 2 unreadable runs may be missing: "


def with_a_bad_row(space: ModelSpace) -> str:
    """A hidden run cannot be found if none of its tasks can be read."""
    space.unreadable |= {row["task_id"] for row in space.tasks[run_id(2)]}
    return "3 tasks of 2 unreadable runs may be missing: "


def breaking_off(space: ModelSpace) -> str:
    def fail(request: web.Request) -> web.Response | None:
        is_behind = f"{SPACE}/tasks/" in request.path and request.query["page"] != "1"
        return web.Response(status=502) if is_behind else None

    space.before = fail
    return "3 tasks of 2 unreadable runs may be missing: "


@pytest.mark.parametrize("fault", [refused, with_a_bad_row, breaking_off])
async def test_what_cannot_be_found_is_counted(tmp_path: Path, fault: Any) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        unreadable(space, 2)
        unreadable(space, 5)
        reason = fault(space)
        summary = await unpod.export(SPACE, tmp_path, page_size=10)
        assert not summary.complete
        (told,) = summary.reasons
        assert reason in told


@pytest.mark.parametrize("row", [b"5", b'{"task_id": "T1", "run_id": 5}', b'{"task_id": "T1"}'])
async def test_a_row_of_the_space_that_belongs_to_no_run_is_looked_for_in_the_runs(
    tmp_path: Path, row: bytes
) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        space.raw[space.tasks[run_id(2)][1]["task_id"]] = row
        summary = await unpod.export(SPACE, tmp_path)
        assert space.requests(f"{SPACE}/tasks/") > 0
        assert space.requests(f"/{run_id(2)}/tasks/") > 0
        assert (summary.tasks, summary.bad_rows) == ((23, 1) if row == b"5" else (24, 0))


async def test_the_tasks_of_a_run_without_an_id_are_written(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        without_id(space, 2)
        for _ in range(2):
            summary = await unpod.export(SPACE, tmp_path, settle_after=0)
            assert (summary.complete, summary.runs, summary.tasks, summary.gone_runs) == (False, 8, 24, 0)
            assert (summary.failed_runs, summary.failed[0].run_id) == (1, "")
            assert "the run has no valid id" in summary.failed[0].reason
            assert written(tmp_path, "tasks").keys() == space.task_ids
        space.raw.clear()
        for _ in range(2):
            summary = await unpod.export(SPACE, tmp_path, settle_after=0)
            assert (summary.complete, summary.runs, summary.tasks) == (True, 8, 24)
            assert written(tmp_path, "runs").keys() == space.tasks.keys()


async def test_few_pages_are_read_to_find_a_hidden_run(tmp_path: Path) -> None:
    """The newest tasks are listed first. Counts show that all tasks behind them are known."""
    options: dict[str, Any] = {"settle_after": 0, "page_size": 10}
    async with model_space() as space, space.client() as unpod:
        filled(space, 40)
        unreadable(space, 30)
        await unpod.export(SPACE, tmp_path, **options)
        space.add_run(40, 3)
        unreadable(space, 40)
        before = of_the_space(space)
        summary = await unpod.export(SPACE, tmp_path, **options)
        assert (summary.complete, summary.tasks, summary.reasons) == (False, 123, ())
        assert of_the_space(space) - before == 2  # a sample and a page
        # A settled run has lost a task. The whole listing is read once.
        space.tasks[run_id(3)].pop()
        requests: list[int] = []
        for _ in range(3):
            before = of_the_space(space)
            summary = await unpod.export(SPACE, tmp_path, **options)
            assert (summary.complete, summary.tasks, summary.reasons) == (False, 123, ())
            requests.append(of_the_space(space) - before)
        assert requests[0] > 10
        assert requests[1:] == [1, 1]
