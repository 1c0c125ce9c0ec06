"""Runs whose tasks could not all be read: what is kept of them, what the summary says, what comes next."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.export.dataset import assert_manifest
from tests.export.model_space import SPACE, ModelSpace, model_space, run_id, written

RUN = run_id(2)
OPTIONS: dict[str, Any] = {"settle_after": 0, "page_size": 2}


def filled(space: ModelSpace) -> None:
    space.has_space_tasks = False
    for number in range(8):
        space.add_run(number, 5)


def count_too_high(space: ModelSpace) -> None:
    space.surplus[RUN] = 3


def two_rows_alike(space: ModelSpace) -> None:
    """Two rows without an id, in a listing that is too long for one response."""
    space.tasks[RUN] += [{"task_id": f"Told{number}", "run_id": RUN} for number in range(70)]
    space.tasks[RUN] += [{"run_id": RUN, "x": 1}, {"run_id": RUN, "x": 1}]


def failing_page(space: ModelSpace) -> None:
    def fail(request: web.Request) -> web.Response | None:
        is_behind = RUN in request.path and request.query["page"] != "1"
        return web.Response(status=502) if is_behind else None

    space.before = fail


def repeated_page(space: ModelSpace) -> None:
    def repeat(request: web.Request) -> web.Response | None:
        if RUN not in request.path:
            return None
        return web.json_response({"count": 5, "status_code": 200, "data": space.tasks[RUN][:2]})

    space.before = repeat


def no_fault(space: ModelSpace) -> None:
    """Mend the space."""
    space.surplus.clear()
    space.before = lambda request: None
    del space.tasks[RUN][5:]


FAULTS = pytest.mark.parametrize(
    ("fault", "rows", "reason"),
    [
        (count_too_high, 5, "5 of 8 rows"),
        (two_rows_alike, 76, "76 of 77 rows"),
        (failing_page, 2, "2 of 5 rows"),
        (repeated_page, 2, "2 of 5 rows"),
    ],
)


@FAULTS
async def test_a_run_keeps_the_rows_that_came(
    tmp_path: Path, fault: Callable[[ModelSpace], None], rows: int, reason: str
) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        fault(space)
        for _ in range(2):
            before = space.requests(RUN)
            summary = await unpod.export(SPACE, tmp_path, **OPTIONS)
            assert (summary.complete, summary.failed_runs, summary.tasks) == (False, 1, 7 * 5 + rows)
            assert summary.failed[0].run_id == RUN
            assert reason in summary.failed[0].reason
            assert space.requests(RUN) > before  # it is never settled
            manifest = assert_manifest(tmp_path)
            assert reason in manifest["failed_runs"]["examples"][0]["reason"]
        no_fault(space)
        before = space.requests()
        summary = await unpod.export(SPACE, tmp_path, **OPTIONS)
        assert (summary.complete, summary.failed_runs, summary.tasks) == (True, 0, 40)
        assert summary.fetched_runs == 1
        assert space.requests() - before <= 8
        before = space.requests()
        assert (await unpod.export(SPACE, tmp_path, **OPTIONS)).complete
        assert space.requests() - before == 1


@FAULTS
async def test_fewer_rows_do_not_replace_a_part_that_has_more(
    tmp_path: Path, fault: Callable[[ModelSpace], None], rows: int, reason: str
) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        await unpod.export(SPACE, tmp_path, **OPTIONS)
        known = written(tmp_path, "tasks")
        fault(space)
        summary = await unpod.export(SPACE, tmp_path, full=True, **OPTIONS)
        assert (summary.complete, summary.failed_runs, summary.fetched_runs) == (False, 1, 7)
        assert reason in summary.failed[0].reason
        if rows < 5:
            assert "5 rows of an earlier export" in summary.failed[0].reason
        assert summary.tasks == 7 * 5 + max(rows, 5)
        assert not known - written(tmp_path, "tasks")
        no_fault(space)
        assert (await unpod.export(SPACE, tmp_path, **OPTIONS)).complete
        assert written(tmp_path, "tasks") == known


def moving(space: ModelSpace, page_size: int) -> Counter[str]:
    """Change `RUN` between its pages, in every pass. Return how often each of its tasks is sent.

    Before each later page, two tasks of the first page are removed, so two are never on a page. Before each
    first page, as many new tasks are inserted. The server limits the page size, or a pass would be one page.
    """
    sent: Counter[str] = Counter()
    full = len(space.tasks[RUN])

    def change(request: web.Request) -> web.Response | None:
        if RUN not in request.path:
            return None
        tasks, page = space.tasks[RUN], int(request.query["page"])
        if page > 1:
            del tasks[:2]
        for _ in range(full - len(tasks) if page == 1 else 0):
            tasks.insert(0, tasks[-1] | {"task_id": f"Tnew{next(numbers)}"})
        shown = tasks[(page - 1) * page_size : page * page_size]
        sent.update(task["task_id"] for task in shown)
        return web.json_response({"count": len(tasks), "status_code": 200, "data": shown})

    numbers = itertools.count()
    space.before = change
    return sent


async def test_a_run_that_changes_in_every_pass_keeps_the_rows_that_came(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        filled(space)
        old = {"run_id": RUN, "status": "completed", "created": space.tasks[RUN][0]["created"]}
        space.tasks[RUN] += [{"task_id": f"Told{number}"} | old for number in range(75)]
        others = {task["task_id"] for name, rows in space.tasks.items() if name != RUN for task in rows}
        sent = moving(space, 10)
        options = OPTIONS | {"page_size": 10}
        summary = await unpod.export(SPACE, tmp_path, **options)
        assert (summary.complete, summary.failed_runs, summary.tasks) == (False, 1, len(others) + len(sent))
        (failed,) = summary.failed
        assert failed.run_id == RUN
        assert f"{len(sent)} of {len(space.tasks[RUN])} rows were written" in failed.reason
        assert max(sent.values()) > 2  # the walk made several passes
        assert written(tmp_path, "tasks") == Counter([*others, *sent])
        assert failed.reason == assert_manifest(tmp_path)["failed_runs"]["examples"][0]["reason"]

        space.before = lambda request: None
        before = space.requests()
        summary = await unpod.export(SPACE, tmp_path, **options)
        assert (summary.complete, summary.failed_runs, summary.fetched_runs) == (True, 0, 1)
        assert sum(RUN not in path for path in space.log[before:]) == 1  # the listing of the runs
        assert written(tmp_path, "tasks") == Counter(space.task_ids)
        assert written(tmp_path, "runs") == Counter(list(space.tasks))
        assert_manifest(tmp_path)


async def test_all_counts_are_too_high(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        for number in range(23):
            space.add_run(number, 3)
        for name in ("runs", "tasks", *space.tasks):
            space.surplus[name] = 3
        summary = await unpod.export(SPACE, tmp_path)
        assert (summary.complete, summary.failed_runs, summary.tasks) == (False, 23, 69)
        assert written(tmp_path, "tasks").keys() == space.task_ids
        space.surplus.clear()
        summary = await unpod.export(SPACE, tmp_path)
        assert (summary.complete, summary.failed_runs, summary.tasks) == (True, 0, 69)
