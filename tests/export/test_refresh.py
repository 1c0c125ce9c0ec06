"""What a repeated export reads again, what it keeps, and when it removes a run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.export.model_space import LONG_AGO, SPACE, ModelSpace, model_space, run_id, written


async def test_an_export_that_ended_incomplete_is_refreshed(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        for number in range(8):
            space.add_run(number, 3, status="in_progress")
        space.unreadable.add(space.tasks[run_id(2)][1]["task_id"])
        summary = await unpod.export(SPACE, tmp_path)
        assert (summary.complete, summary.fetched_runs, summary.bad_rows) == (False, 8, 1)
        space.unreadable.clear()
        for rows in space.tasks.values():
            for task in rows:
                task["status"] = "completed"
        summary = await unpod.export(SPACE, tmp_path)
        assert (summary.complete, summary.fetched_runs, summary.bad_rows) == (True, 8, 0)
        text = b"".join(path.read_bytes() for path in (tmp_path / "tasks").iterdir())
        assert text.count(b'"completed"') == 24


def moved(space: ModelSpace) -> None:
    space.move_to_front(run_id(0))


def created_again(space: ModelSpace) -> None:
    space.remove_run(run_id(0))
    space.add_run(0, 3)


def behind_new_runs(space: ModelSpace) -> None:
    """A moved run that is the last row of a page of three."""
    space.move_to_front(run_id(0))
    space.add_run(10, 1)
    space.add_run(11, 1)


@pytest.mark.parametrize("change", [moved, created_again, behind_new_runs])
@pytest.mark.parametrize("page_size", [1, 3, None])
async def test_a_run_listed_higher_than_before_removes_no_other_run(
    tmp_path: Path, change: Any, page_size: int | None
) -> None:
    async with model_space() as space, space.client() as unpod:
        for number in range(10):
            space.add_run(number, 2)
        await unpod.export(SPACE, tmp_path, settle_after=0, page_size=page_size)
        change(space)
        for _ in range(2):
            summary = await unpod.export(SPACE, tmp_path, settle_after=0, page_size=page_size)
            assert (summary.complete, summary.gone_runs, summary.runs) == (True, 0, len(space.runs))
            assert written(tmp_path, "runs").keys() == space.tasks.keys()
            assert written(tmp_path, "tasks").keys() == space.task_ids
        # The order is known now.
        before = space.requests()
        summary = await unpod.export(SPACE, tmp_path, settle_after=0, page_size=page_size)
        assert (summary.fetched_runs, space.requests() - before) == (0, 1)


@pytest.mark.parametrize("page_size", [1, 2, 3])
async def test_a_run_that_moves_to_the_first_page_is_read(tmp_path: Path, page_size: int) -> None:
    """A run is deleted after the server has read its page and before it counts: all counts are equal."""
    async with model_space() as space, space.client() as unpod:
        for number in range(10):
            space.add_run(number, 2)
        await unpod.export(SPACE, tmp_path, settle_after=0, page_size=page_size)
        newest = [space.add_run(10 + number, 2) for number in range(page_size + 1)]

        def delete(request: web.Request) -> None:
            if request.path.endswith("/runs/"):
                if space.surplus["runs"]:
                    space.remove_run(newest[-1])
                space.surplus["runs"] = -1 if newest[-1] in space.tasks else 0

        space.before = delete
        summary = await unpod.export(SPACE, tmp_path, settle_after=0, page_size=page_size)
        assert summary.complete
        assert newest[-1] not in space.tasks
        assert written(tmp_path, "runs").keys() >= space.tasks.keys()
        assert written(tmp_path, "tasks").keys() >= space.task_ids


async def test_only_the_settled_run_with_a_bad_row_is_read_again(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        for number in range(4):
            space.add_run(number, 2)
        bad = space.tasks[run_id(1)][0]["task_id"]
        space.unreadable.add(bad)
        assert not (await unpod.export(SPACE, tmp_path, settle_after=0)).complete
        space.unreadable.clear()
        summary = await unpod.export(SPACE, tmp_path, settle_after=0)
        assert (summary.complete, summary.fetched_runs) == (True, 1)
        assert written(tmp_path, "tasks") == dict.fromkeys(space.task_ids, 1)


def remove_before_page(space: ModelSpace, page: int, run: str) -> None:
    """Remove a run when this page of the runs is requested."""

    def remove(request: web.Request) -> None:
        if request.path.endswith(f"{SPACE}/runs/") and request.query["page"] == str(page):
            space.remove_run(run)

    space.before = remove


async def test_two_deletions_whose_effects_on_the_counts_cancel_hide_no_run(tmp_path: Path) -> None:
    """One run was deleted before the listing, and one is deleted during it."""
    async with model_space() as space, space.client() as unpod:
        for number in range(1, 21):
            space.add_run(number, 1, status="in_progress" if number == 9 else "completed")
        await unpod.export(SPACE, tmp_path, settle_after=0)
        space.remove_run(run_id(1))
        remove_before_page(space, 3, run_id(14))
        assert (await unpod.export(SPACE, tmp_path, settle_after=0, page_size=4)).complete
        assert written(tmp_path, "tasks").keys() >= space.task_ids


async def test_a_run_that_is_deleted_while_the_runs_are_listed_hides_no_other(tmp_path: Path) -> None:
    """The run after the first page moves to that page, and so to none that is read after the deletion."""
    async with model_space() as space, space.client() as unpod:
        for number in range(13):
            space.add_run(number, 1, status="in_progress" if number == 6 else "completed")
        await unpod.export(SPACE, tmp_path, settle_after=0)
        remove_before_page(space, 2, run_id(11))
        assert (await unpod.export(SPACE, tmp_path, settle_after=0, page_size=4)).complete
        assert written(tmp_path, "tasks").keys() >= space.task_ids
        assert (await unpod.export(SPACE, tmp_path, settle_after=0, page_size=4)).complete
        assert written(tmp_path, "tasks") == dict.fromkeys(space.task_ids, 1)


@pytest.mark.parametrize(
    ("deleted", "requests"), [(8, 1), (1, 4)], ids=["of the first page", "behind the first page"]
)
async def test_a_deleted_run_is_removed(tmp_path: Path, deleted: int, requests: int) -> None:
    """One page shows that a run on it was deleted.

    All pages are read, and then the first one again, if a run behind it was deleted.
    """
    async with model_space() as space, space.client() as unpod:
        for number in range(10):
            space.add_run(number, 2, status="in_progress" if number == 8 else "completed")
        options: dict[str, Any] = {"settle_after": 0, "page_size": 4}
        await unpod.export(SPACE, tmp_path, **options)
        space.remove_run(run_id(deleted))
        before = space.requests("/runs/?")
        summary = await unpod.export(SPACE, tmp_path, **options)
        assert (summary.complete, summary.gone_runs, summary.runs) == (True, 1, 9)
        assert space.requests("/runs/?") - before == requests
        assert written(tmp_path, "tasks").keys() == space.task_ids


@pytest.mark.parametrize("window", [(None, None), (4, None), (None, 5), (4, 5), (20, None)])
async def test_a_window_of_settled_runs_is_refreshed_with_few_requests(
    tmp_path: Path, window: tuple[int | None, int | None]
) -> None:
    since, until = (None if number is None else LONG_AGO + timedelta(seconds=number) for number in window)
    async with model_space() as space, space.client() as unpod:
        for number in range(10):
            space.add_run(number, 1)
        options: dict[str, Any] = {"settle_after": 0, "page_size": 3, "since": since, "until": until}
        first = await unpod.export(SPACE, tmp_path, **options)
        # A page shows the first settled run of the window. If it is not the first page, one more request
        # shows that no run has moved there. Without any run there is nothing to stop at.
        requests = {None: 1, 5: 3}[window[1]] if first.runs else 5
        for _ in range(2):
            before = space.requests()
            summary = await unpod.export(SPACE, tmp_path, **options)
            assert (summary.complete, summary.fetched_runs, summary.runs) == (True, 0, first.runs)
            assert space.requests() - before == requests


@pytest.mark.parametrize("page_size", [1, 4, None])
async def test_a_settled_run_whose_row_has_changed_is_read_again(
    tmp_path: Path, page_size: int | None
) -> None:
    async with model_space() as space, space.client() as unpod:
        for number in range(6):
            space.add_run(number, 2)
        options: dict[str, Any] = {"settle_after": 0, "page_size": page_size}
        await unpod.export(SPACE, tmp_path, **options)
        space.runs[0]["modified"] = "2030-01-01T00:00:00"  # a redial, for example
        space.tasks[run_id(5)][0]["status"] = "failed"
        summary = await unpod.export(SPACE, tmp_path, **options)
        assert (summary.complete, summary.fetched_runs, summary.fetched_tasks) == (True, 1, 2)
        text = b"".join(path.read_bytes() for path in (tmp_path / "tasks").iterdir())
        assert text.count(b'"failed"') == 1
        assert (await unpod.export(SPACE, tmp_path, **options)).fetched_runs == 0  # it has settled again


async def test_runs_that_are_added_during_the_listing_do_not_lengthen_it(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        for number in range(40):
            space.add_run(number, 1, status="completed" if number < 34 else "in_progress")
        options: dict[str, Any] = {"settle_after": 0, "page_size": 3}
        await unpod.export(SPACE, tmp_path, **options)

        def add(request: web.Request) -> None:
            if request.path.endswith("/runs/") and request.query["page"] in {"2", "3"}:
                space.add_run(len(space.runs), 1, status="in_progress")

        space.before = add
        before = space.requests("/runs/?")
        summary = await unpod.export(SPACE, tmp_path, **options)
        assert (summary.complete, summary.gone_runs, summary.runs) == (True, 0, 40)
        # Of 14 pages: three until the rest is known, and two that show all runs of the first page again.
        assert space.requests("/runs/?") - before == 5


@pytest.mark.parametrize("has_space_tasks", [True, False])
async def test_the_part_of_active_runs_without_a_change_is_kept(
    tmp_path: Path, has_space_tasks: bool
) -> None:
    async with model_space() as space, space.client() as unpod:
        space.has_space_tasks = has_space_tasks
        for number in range(12):
            space.add_run(number, 4, status="in_progress")
        await unpod.export(SPACE, tmp_path)
        before = [(path.name, path.stat().st_ino) for path in sorted((tmp_path / "tasks").iterdir())]
        assert (await unpod.export(SPACE, tmp_path)).fetched_runs == 12
        after = [(path.name, path.stat().st_ino) for path in sorted((tmp_path / "tasks").iterdir())]
        assert after == before
