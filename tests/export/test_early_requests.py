"""Requests for a scan that are sent while the runs are still being listed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.dataset import assert_holds
from tests.export.model_space import SPACE, model_space
from unpod_async import Page, UnpodClient, merge_shards
from unpod_async._export import EarlyRequests, RowPages, plan_scan, space_tasks
from unpod_async._export.storage import ReadingCost
from unpod_async._paging import DecodedPage, PageResult, Walk, decode_rows
from unpod_async.testing import Fault, Received, Sandbox

SIZE = 5


def client(sandbox: Sandbox) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url)


async def test_pages_are_requested_while_the_runs_are_listed(tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        sandbox.script(Fault(path="/runs/", page=2, stall=0.2))
        summary = await unpod.export(sandbox.space_token, tmp_path, page_size=SIZE)
        assert summary.complete
        assert_holds(tmp_path, sandbox)
        requests = [
            (one.path.rsplit("/", 2)[1], one.query["page"], one.query["page_size"]) for one in sandbox.log
        ]
        final_check = requests.index(("runs", "1", "13"))
        assert requests.index(("tasks", "4", str(SIZE))) < final_check
        assert len(requests) == len(set(requests)) + 1  # the check at the end of the tasks
        assert summary.requests == len(sandbox.log)


async def test_pages_of_runs_are_requested_before_the_pages_in_front_of_them_arrive(tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        sandbox.script(Fault(path="/runs/", page=2, stall=2))
        export = asyncio.create_task(unpod.export(sandbox.space_token, tmp_path, page_size=SIZE))

        def requests(page: int) -> list[Received]:
            return [
                one for one in sandbox.log if one.path.endswith("/runs/") and one.query["page"] == str(page)
            ]

        while not requests(3):
            await sandbox.arrived(sandbox.requests + 1)
        assert [one.status for one in requests(2)] == [None]
        await export


async def test_short_tasks_are_read_in_pages_of_500(tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path)
        assert {one.query["page_size"] for one in sandbox.log if one.path.endswith("/tasks/")} == {
            "10",
            "500",
        }


async def test_long_tasks_are_read_in_smaller_pages(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        for number in range(12):
            for task in space.tasks[space.add_run(number, 4)]:
                task["context"] = "x" * 20_000
        assert (await unpod.export(SPACE, tmp_path)).tasks == 48
        sizes = [int(path.rpartition("=")[2]) for path in space.log if f"{SPACE}/tasks/" in path]
        assert 90 < max(sizes) < 110  # pages of about 2 MB


async def test_with_two_spaces_the_sample_of_tasks_is_requested_early(tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        sandbox.script(Fault(path=f"{sandbox.space_token}/runs/", page=2, stall=0.2))
        await unpod.export([sandbox.space_token, "SPACEPOISON0000000000004"], tmp_path, page_size=SIZE)
        requests = [(one.path.split("/spaces/")[1], one.query["page"]) for one in sandbox.log]
        main = sandbox.space_token
        assert requests.index((f"{main}/tasks/", "1")) < requests.index((f"{main}/runs/", "3"))


@pytest.mark.parametrize(
    ("runs", "tasks", "spaces"),
    [(6, 40, 1), (12, 0, 1), (12, 4, 2)],
    ids=["few runs with many tasks", "no tasks", "two spaces"],
)
async def test_pages_are_not_requested_early_if_they_may_be_useless(
    tmp_path: Path, runs: int, tasks: int, spaces: int
) -> None:
    async with Sandbox(runs=runs, tasks_per_run=tasks) as sandbox, client(sandbox) as unpod:
        sandbox.script(Fault(path="/runs/", page=2, stall=0.2))
        exported = [sandbox.space_token, "SPACEPOISON0000000000004"][:spaces]
        await unpod.export(exported, tmp_path, page_size=SIZE)
        listed = [
            number for number, one in enumerate(sandbox.log) if one.path.endswith(f"{exported[-1]}/runs/")
        ]
        path = f"{sandbox.space_token}/tasks/"
        pages = [
            number
            for number, one in enumerate(sandbox.log)
            if one.path.endswith(path) and one.query["page_size"] == str(SIZE)
        ]
        assert listed[-1] < min(pages, default=len(sandbox.log))


def no_change(sandbox: Sandbox) -> None:
    """Change nothing."""


def new_run(sandbox: Sandbox) -> None:
    sandbox.insert_run(3)


def deleted_tasks(sandbox: Sandbox) -> None:
    for name in sandbox.task_ids()[:SIZE]:
        sandbox.delete_task(name)


def one_replaced(sandbox: Sandbox) -> None:
    sandbox.delete_task(sandbox.task_ids()[SIZE * 2])
    sandbox.insert_run(1)


@pytest.mark.parametrize("change", [no_change, new_run, deleted_tasks, one_replaced])
@pytest.mark.parametrize(
    "when", ["before they are requested", "before they are taken", "while they are taken"]
)
async def test_a_scan_with_early_pages_is_complete(change: Callable[[Sandbox], None], when: str) -> None:
    async with Sandbox(runs=12, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        space, reader = sandbox.space_token, unpod._context.executor
        deadline = reader.deadline()
        early = EarlyRequests(reader, deadline, decode_rows, page_size=SIZE, concurrency=4)
        sample = await early.request_sample(space)
        assert isinstance(sample, PageResult)
        if when == "before they are requested":
            change(sandbox)
        early.request_pages(space, runs=50)
        (requesting,) = early._tasks
        await requesting
        assert len(early.pages) == 4
        await asyncio.wait(early.pages.values())
        if when == "before they are taken":
            change(sandbox)
        plan = plan_scan(sample, SIZE, ReadingCost(50))
        assert plan is not None
        found: list[str | None] = []

        async def take(page: Page[object]) -> None:
            if when == "while they are taken" and not found:
                change(sandbox)
            found.extend(getattr(task, "task_id", None) for task in page.items)

        before = sandbox.requests
        pages = RowPages(reader, space_tasks(space), plan.page_size, deadline, decode_rows)
        walk = Walk(page_size=plan.page_size, ahead=4, preview=plan.preview)
        await pages.prefetch(walk, take, early.pages)
        assert not early.pages
        assert len(found) == len(set(found))
        assert set(sandbox.task_ids()) <= set(found)
        if change is no_change:
            assert sandbox.requests - before == -(-48 // SIZE) - 4 + 1  # 48 tasks, and the check at the end
        del pages, walk
        gc.collect()
        in_memory = [one for one in gc.get_objects() if isinstance(one, PageResult)]
        assert in_memory == [sample]  # no page of the scan
        await early.aclose()


@pytest.mark.parametrize("ahead", [2, 4])
async def test_early_pages_of_a_listing_that_has_changed_are_cancelled(ahead: int) -> None:
    async with Sandbox(runs=12, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        space, reader = sandbox.space_token, unpod._context.executor
        deadline = reader.deadline()
        early = EarlyRequests(reader, deadline, decode_rows, page_size=SIZE, concurrency=4)
        sample = await early.request_sample(space)
        assert isinstance(sample, PageResult)
        new_run(sandbox)
        sandbox.script(*(Fault(path=f"{space}/tasks/", page=page, stall=60) for page in (2, 3, 4)))
        early.request_pages(space, runs=50)
        await sandbox.arrived(5)
        requests = list(early.pages.values())
        plan = plan_scan(sample, SIZE, ReadingCost(50))
        assert plan is not None
        found: list[str | None] = []

        async def take(page: Page[object]) -> None:
            assert page.number == 1 or all(request.done() for request in requests)
            found.extend(getattr(task, "task_id", None) for task in page.items)

        pages = RowPages(reader, space_tasks(space), plan.page_size, deadline, decode_rows)
        await pages.prefetch(
            Walk(page_size=plan.page_size, ahead=ahead, preview=plan.preview), take, early.pages
        )
        assert set(sandbox.task_ids()) == set(found)
        await early.aclose()


# -- whether a scan is cheaper ------------------------------------------------------------------------------


async def sample_of(sandbox: Sandbox) -> DecodedPage:
    async with client(sandbox) as unpod:
        reader = unpod._context.executor
        early = EarlyRequests(reader, reader.deadline(), decode_rows, page_size=None, concurrency=4)
        sample = await early.request_sample(sandbox.space_token)
        await early.aclose()
    assert isinstance(sample, DecodedPage)
    return sample


async def test_a_scan_must_save_more_requests_than_its_additional_rows_cost() -> None:
    async with Sandbox(runs=50, tasks_per_run=10) as sandbox:  # with pages of 100, a scan takes 7 requests
        sample = await sample_of(sandbox)
    # 0 rows more, 450 rows more, and a number of rows that is not known.
    assert plan_scan(sample, 100, ReadingCost(50, 500)) is not None
    assert plan_scan(sample, 100, ReadingCost(50)) is not None
    assert plan_scan(sample, 100, ReadingCost(7)) is None
    assert plan_scan(sample, 100, ReadingCost(8)) is not None
    assert plan_scan(sample, 100, ReadingCost(5, 50)) is None
    assert plan_scan(sample, 100, ReadingCost(25, 50)) is None  # 18 requests fewer, 450 rows more
    assert plan_scan(sample, 100, ReadingCost(26, 50)) is not None
    # More tasks than the listing has: the counts of the runs are wrong.
    assert plan_scan(sample, 100, ReadingCost(8, 9_999)) is not None
    # With 5 requests per second, a request takes as long as 833 rows.
    assert plan_scan(sample, 100, ReadingCost(8, 50), interval=0.2) is not None


async def test_a_refresh_of_a_few_runs_does_not_read_the_whole_space(tmp_path: Path) -> None:
    async with Sandbox(runs=300, tasks_per_run=10) as sandbox, client(sandbox) as unpod:
        sandbox.advance(50)
        await unpod.export(sandbox.space_token, tmp_path / "data")
        for _ in range(9):
            sandbox.insert_run(10)
        earlier = len(sandbox.log)
        summary = await unpod.export(sandbox.space_token, tmp_path / "data")
        assert summary.complete
        assert summary.fetched_tasks < 600  # also of runs that may still change
        whole_space = f"/spaces/{sandbox.space_token}/tasks/"
        pages = [one for one in sandbox.log[earlier:] if one.path.endswith(whole_space)]
        assert len(pages) <= 1  # the sample
        assert_holds(tmp_path / "data", sandbox)


async def test_each_shard_of_many_reads_its_own_runs(tmp_path: Path) -> None:
    async with Sandbox(runs=120, tasks_per_run=10) as sandbox, client(sandbox) as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=12)
        earlier = len(sandbox.log)
        for shard in range(plan.shards):
            await unpod.export_shard(plan, shard, tmp_path / "data")
        whole_space = f"/spaces/{sandbox.space_token}/tasks/"
        pages = [one for one in sandbox.log[earlier:] if one.path.endswith(whole_space)]
        assert len(pages) <= plan.shards
        assert (await merge_shards(plan, tmp_path / "data")).complete
        assert_holds(tmp_path / "data", sandbox)
