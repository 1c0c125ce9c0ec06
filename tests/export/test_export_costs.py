"""What exports of random histories of a space cost, exactly, and what their summaries count."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web

from tests.export.model_space import LONG_AGO, SPACE, model_space, written
from tests.export.test_refresh_histories import CHANGES, History


class Cost(NamedTuple):
    """The requests of a history, and the sums of its summaries."""

    runs: int
    """Requests for pages of the listing of the runs."""
    tasks: int
    """Requests for pages of the listing of the tasks of the space."""
    tasks_of_runs: int
    """Requests for pages of the tasks of one run."""
    summaries: list[int]
    """The sums of the numbers in `COUNTED`."""


COUNTED = (
    *("complete", "runs", "tasks", "files", "fetched_runs", "fetched_tasks", "unchanged_runs"),
    *("gone_runs", "failed_runs", "bad_rows"),
)

COSTS = {
    0: Cost(82, 12, 35, [1, 54, 60, 12, 34, 40, 20, 0, 0, 0]),
    1: Cost(82, 26, 27, [1, 78, 130, 12, 44, 63, 39, 1, 0, 6]),
    2: Cost(27, 2, 17, [4, 40, 49, 10, 17, 28, 23, 2, 0, 2]),
    8: Cost(19, 0, 22, [4, 10, 20, 12, 10, 20, 0, 2, 0, 0]),
    12: Cost(86, 54, 50, [0, 54, 117, 12, 29, 67, 25, 0, 0, 4]),
    14: Cost(34, 3, 4, [2, 10, 20, 10, 2, 4, 8, 1, 0, 3]),
    17: Cost(19, 1, 10, [7, 44, 36, 14, 8, 9, 36, 1, 0, 0]),
    19: Cost(54, 41, 13, [4, 111, 134, 14, 61, 61, 50, 2, 0, 5]),
    22: Cost(25, 11, 5, [5, 15, 26, 14, 7, 8, 8, 3, 0, 0]),
    25: Cost(81, 12, 5, [1, 54, 83, 12, 14, 18, 40, 0, 0, 5]),
    27: Cost(47, 17, 28, [3, 63, 136, 14, 15, 28, 48, 0, 0, 4]),
    28: Cost(80, 18, 65, [1, 65, 58, 10, 36, 42, 28, 0, 1, 2]),
}


async def cost_of(seed: int, target: Path) -> Cost:
    rng = random.Random(seed)
    first, last = rng.choice([(None, None), (None, None), (3, None), (None, 8), (2, 15)])
    since, until = (
        None if second is None else LONG_AGO + timedelta(seconds=second) for second in (first, last)
    )
    options: dict[str, Any] = {
        "since": since,
        "until": until,
        "page_size": rng.choice([None, 1, 2, 3, 5]),
        "settle_after": rng.choice([0, 0, 86_400, 10**9]),
        "full": rng.random() < 0.1,
        "concurrency": 1,  # so that the requests do not depend on the time that they take
    }
    async with model_space() as space, space.client(retry=None) as unpod:
        space.has_space_tasks = rng.random() < 0.7
        history = History(space, unpod, target, options)
        for _ in range(rng.randint(0, 16)):
            await history.apply(rng.choice(["new run", "ended run", "ended run"]), rng.randrange(100))
        for _ in range(5):
            for _ in range(rng.randint(0, 6)):
                await history.apply(rng.choice(CHANGES), rng.randrange(100))
            await history.export()
            if rng.random() < 0.4:
                history.mend()
        paths = [path.partition("?")[0] for path in space.log]
    return Cost(
        sum(path.endswith("/runs/") for path in paths),
        sum(path.endswith(f"{SPACE}/tasks/") for path in paths),
        sum(path.endswith("/tasks/") and "/runs/" in path for path in paths),
        [sum(getattr(summary, name) for summary in history.summaries) for name in COUNTED],
    )


@pytest.mark.parametrize("seed", COSTS)
async def test_the_cost_of_an_export_is_the_recorded_one(seed: int, tmp_path: Path) -> None:
    """Lower the numbers if an export gets cheaper. Raise them only to mend a fault that loses rows."""
    assert await cost_of(seed, tmp_path) == COSTS[seed]


@pytest.mark.parametrize("has_space_tasks", [True, False])
@pytest.mark.parametrize("tasks", [1, 4])
async def test_an_export_without_counts_is_complete(
    tasks: int, has_space_tasks: bool, tmp_path: Path
) -> None:
    """Without the number of tasks of the space, each run is read by itself."""
    async with model_space() as space, space.client(retry=None) as unpod:
        space.no_count, space.has_space_tasks = True, has_space_tasks
        for number in range(9):
            space.add_run(number, tasks)
        summary = await unpod.export(SPACE, tmp_path, page_size=3)
        assert (summary.complete, summary.runs, summary.tasks) == (True, 9, 9 * tasks)
        assert written(tmp_path, "tasks").keys() == space.task_ids


async def test_an_export_whose_counts_stop_during_a_scan_is_complete(tmp_path: Path) -> None:
    async with model_space() as space, space.client(retry=None) as unpod:
        for number in range(9):
            space.add_run(number, 3)

        def before(request: web.Request) -> None:
            space.no_count = space.no_count or (
                request.path.endswith(f"{SPACE}/tasks/") and request.query["page"] == "3"
            )

        space.before = before
        summary = await unpod.export(SPACE, tmp_path, page_size=5, concurrency=1)
        assert space.no_count
        assert (summary.complete, summary.tasks) == (True, 27)
        assert written(tmp_path, "tasks").keys() == space.task_ids


@pytest.mark.parametrize("has_space_tasks", [True, False])
async def test_an_old_run_with_an_active_task_is_read_again_although_its_row_says_completed(
    has_space_tasks: bool, tmp_path: Path
) -> None:
    async with model_space() as space, space.client(retry=None) as unpod:
        space.has_space_tasks = has_space_tasks
        names = [space.add_run(number, 3) for number in range(9)]
        task = space.tasks[names[4]][1]
        task["status"] = "in_progress"
        assert (await unpod.export(SPACE, tmp_path, page_size=5)).fetched_runs == 9
        task["status"] = "failed"
        assert (await unpod.export(SPACE, tmp_path, page_size=5)).fetched_runs == 1
        rows = b"".join(path.read_bytes() for path in (tmp_path / "tasks").iterdir())
        assert rows.count(b'"failed"') == 1
        assert (await unpod.export(SPACE, tmp_path, page_size=5)).fetched_runs == 0


async def test_each_run_is_read_once_if_they_do_not_fit_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unpod_async._export.run_tasks._BATCH", 4)
    async with model_space() as space, space.client(retry=None) as unpod:
        space.has_space_tasks = False
        for number in range(11):
            space.add_run(number, 2)
        summary = await unpod.export(SPACE, tmp_path, concurrency=2)
        assert (summary.complete, summary.fetched_runs, summary.fetched_tasks) == (True, 11, 22)
        of_runs = [
            path for path in space.log if "/runs/" in path and path.partition("?")[0].endswith("/tasks/")
        ]
        assert len(of_runs) == len(set(of_runs)) == 11
