"""Exports that were interrupted and resume after the space has changed lose no row and repeat none."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from tests.export.dataset import assert_holds
from tests.export.model_space import SPACE, model_space, run_id, written
from unpod_async import (
    AuthenticationError,
    ExportError,
    ExportProgress,
    RateLimitedError,
    RefusedError,
    RetryPolicy,
    ServerError,
    UnpodClient,
)
from unpod_async.testing import Fault, Sandbox, faults

FAST = RetryPolicy(attempts=2, base=0.001, cap=0.002)


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": FAST, **options})


@pytest.fixture(autouse=True)
def every_page_is_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unpod_async._export.storage.checkpoint._INTERVAL", 0.0)


async def interrupted(
    unpod: UnpodClient, sandbox: Sandbox, target: Path, path: str, page: int, **options: Any
) -> None:
    """Export until this page is requested."""
    sandbox.script(faults.token_revoked(path=path, page=page, times=1))
    with pytest.raises(AuthenticationError):
        await unpod.export(sandbox.space_token, target, **options)


async def test_interrupted_while_listing_new_runs(tmp_path: Path) -> None:
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path, settle_after=0, page_size=3)
        for _ in range(7):
            sandbox.insert_run(2)
        await interrupted(unpod, sandbox, tmp_path, "/runs/", 2, settle_after=0, page_size=3)
        for _ in range(2):
            assert (await unpod.export(sandbox.space_token, tmp_path, settle_after=0, page_size=3)).complete
            assert_holds(tmp_path, sandbox)


async def test_interrupted_inside_a_run(tmp_path: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=12) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000))
        path = f"/{sandbox.run_ids()[0]}/tasks/"
        await interrupted(unpod, sandbox, tmp_path, path, 3, page_size=4, concurrency=1)
        assert (await unpod.export(sandbox.space_token, tmp_path, page_size=4)).complete
        assert_holds(tmp_path, sandbox)


async def test_runs_are_stored_while_others_are_read(tmp_path: Path) -> None:
    """So an export that is killed has to read only a few runs again."""
    stored: list[int] = []
    async with model_space() as space, space.client() as unpod:
        space.has_space_tasks = False
        for number in range(40):
            space.add_run(number, 2)

        def measure(request: web.Request) -> None:
            if request.path.endswith(f"{run_id(0)}/tasks/"):
                stored.append(sum(file.stat().st_size for file in tmp_path.rglob("rows-*")))

        space.before = measure
        assert (await unpod.export(SPACE, tmp_path, concurrency=1)).complete
    assert stored[0] > 0


async def test_a_run_that_is_listed_again_after_it_was_gone_is_read_again(tmp_path: Path) -> None:
    async with Sandbox(runs=6, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000))
        path = f"/{sandbox.run_ids()[-1]}/tasks/"
        await interrupted(unpod, sandbox, tmp_path, path, 1, concurrency=1)
        others = {"count": 5, "status_code": 200, "data": list(sandbox.run_rows())[1:]}
        sandbox.script(Fault(body=json.dumps(others).encode(), path="/runs/"))
        await interrupted(unpod, sandbox, tmp_path, path, 1, concurrency=1)
        assert (await unpod.export(sandbox.space_token, tmp_path)).complete
        assert_holds(tmp_path, sandbox)


async def resumed(unpod: UnpodClient, sandbox: Sandbox, target: Path, **options: Any) -> list[str | None]:
    """Export, and return the different values of `resumed` in the events."""
    events: list[ExportProgress] = []
    await unpod.export(sandbox.space_token, target, on_progress=events.append, **options)
    return list(dict.fromkeys(event.resumed for event in events))


async def test_the_progress_says_how_many_runs_are_stored(tmp_path: Path) -> None:
    async with Sandbox(runs=20, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000))
        path = f"/{sandbox.run_ids()[10]}/tasks/"
        await interrupted(unpod, sandbox, tmp_path, path, 1, concurrency=1)
        (none, text) = await resumed(unpod, sandbox, tmp_path)
        assert none is None
        assert re.fullmatch(r"[1-9]\d? of 20 runs", text or "")
        assert await resumed(unpod, sandbox, tmp_path) == [None]


async def test_the_progress_says_how_many_tasks_a_scan_has_stored(tmp_path: Path) -> None:
    path = "SPACEMAIN000000000000001/tasks/"
    async with Sandbox(runs=40, tasks_per_run=5) as sandbox, client(sandbox) as unpod:
        await interrupted(unpod, sandbox, tmp_path / "a", path, 5, page_size=20)
        (none, text) = await resumed(unpod, sandbox, tmp_path / "a", page_size=20)
        assert none is None
        assert re.fullmatch("[2468]0 of 200 tasks", text or "")
        # Another first row: what the scan has stored is fetched again.
        await interrupted(unpod, sandbox, tmp_path / "b", path, 5, page_size=20)
        sandbox.insert_run(5)
        assert await resumed(unpod, sandbox, tmp_path / "b", page_size=20) == [None]


def no_change(sandbox: Sandbox) -> None:
    """Change nothing."""


def new_run(sandbox: Sandbox) -> None:
    sandbox.insert_run(5)


def deleted_run(sandbox: Sandbox) -> None:
    sandbox.delete_run(sandbox.run_ids()[0])


def deleted_tasks(sandbox: Sandbox) -> None:
    for task in sandbox.task_ids()[:5]:
        sandbox.delete_task(task)


def changed_run(sandbox: Sandbox) -> None:
    """Change a run whose tasks the scan has read. The listing has the same length and the same first row."""
    run = sandbox.run_ids()[0]
    before = next(sandbox.run_rows())
    sandbox.set_status(sandbox.task_ids(run)[1], "failed")
    assert next(sandbox.run_rows()) != before


def refused(sandbox: Sandbox) -> None:
    sandbox.script(faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000))


@pytest.mark.parametrize("more", [{}, {"full": True}])
@pytest.mark.parametrize("change", [no_change, new_run, deleted_run, deleted_tasks, changed_run, refused])
async def test_interrupted_during_a_scan(tmp_path: Path, change: Any, more: dict[str, Any]) -> None:
    async with Sandbox(runs=12, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        path = f"{sandbox.space_token}/tasks/"
        await interrupted(unpod, sandbox, tmp_path, path, 4, page_size=5)
        change(sandbox)
        assert (await unpod.export(sandbox.space_token, tmp_path, page_size=5, **more)).complete
        assert_holds(tmp_path, sandbox)


@pytest.mark.parametrize(("page_size", "is_resumed"), [(20, True), (None, True), (35, False)])
async def test_a_scan_is_resumed_unless_another_page_size_is_given(
    tmp_path: Path, page_size: int | None, is_resumed: bool
) -> None:
    async with Sandbox(runs=40, tasks_per_run=5) as sandbox, client(sandbox) as unpod:
        path = f"{sandbox.space_token}/tasks/"
        await interrupted(unpod, sandbox, tmp_path, path, 5, page_size=20)
        events = await resumed(unpod, sandbox, tmp_path, page_size=page_size)
        assert (len(events) == 2) is is_resumed
        assert_holds(tmp_path, sandbox)


async def test_interrupted_during_a_scan_after_a_task_was_deleted_which_is_then_restored(
    tmp_path: Path,
) -> None:
    """The listing has its old length again, but the last page that was read had lost its first row."""
    async with model_space() as space, space.client() as unpod:
        for number in range(20):
            space.add_run(number, 2)
        tasks = space.tasks[run_id(19)]
        second = tasks[1]

        def change(request: web.Request) -> web.Response | None:
            if not request.path.endswith(f"{SPACE}/tasks/"):
                return None
            if (request.query["page_size"], request.query["page"]) == ("5", "3"):
                tasks.remove(second)
                return None
            # The listing is read again from its start, because it is shorter now.
            return None if second in tasks else web.json_response({"message": "No"}, status=401)

        space.before = change
        with pytest.raises(AuthenticationError):
            await unpod.export(SPACE, tmp_path, page_size=5, concurrency=1)
        tasks.append(second)
        space.before = lambda request: None
        assert (await unpod.export(SPACE, tmp_path, page_size=5)).complete
        assert written(tmp_path, "tasks") == dict.fromkeys(space.task_ids, 1)


async def test_interrupted_during_a_scan_in_which_a_task_was_gone_for_one_page(tmp_path: Path) -> None:
    """That page lost its first row and had no count; later pages have the count and the rows of before."""
    async with model_space() as space, space.client() as unpod:
        for number in range(80):
            space.add_run(number, 2)
        tasks = space.tasks[run_id(79)]
        second = tasks[1]

        def change(request: web.Request) -> web.Response | None:
            page = request.query["page"] if request.path.endswith(f"{SPACE}/tasks/") else None
            space.no_count = (page, request.query["page_size"]) == ("3", "5")
            if space.no_count:
                tasks.remove(second)
            elif second not in tasks:
                tasks.append(second)
            return web.json_response({"message": "No"}, status=401) if page == "30" else None

        space.before = change
        with pytest.raises(AuthenticationError):
            await unpod.export(SPACE, tmp_path, page_size=5, concurrency=1)
        space.before = lambda request: None
        assert (await unpod.export(SPACE, tmp_path, page_size=5)).complete
        assert written(tmp_path, "tasks") == dict.fromkeys(space.task_ids, 1)


async def test_a_scan_starts_again_if_its_progress_is_that_of_another_version(tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        await interrupted(unpod, sandbox, tmp_path, f"{sandbox.space_token}/tasks/", 4, page_size=5)
        state = tmp_path / ".unpod-export" / "state.sqlite3"
        with contextlib.closing(sqlite3.connect(state)) as database, database:
            changed = database.execute(
                "UPDATE meta SET value = ? WHERE name LIKE 'scan %' AND value NOT NULL",
                (b'{"page": "four"}',),
            )
            assert changed.rowcount == 1
        assert (await unpod.export(sandbox.space_token, tmp_path, page_size=5)).complete
        assert_holds(tmp_path, sandbox)


async def test_a_scan_is_resumed_even_if_the_request_that_compares_the_listing_fails_once(
    tmp_path: Path,
) -> None:
    async with Sandbox(runs=12, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        path = f"{sandbox.space_token}/tasks/"
        # Each of these exports saves at least one more page, however slow the disk is.
        for _ in range(5):
            await interrupted(unpod, sandbox, tmp_path, path, 6, page_size=5, concurrency=1)
        begun = len(sandbox.log)
        sandbox.script(faults.server_error(500, path=path, page=1, times=1))
        assert (await unpod.export(sandbox.space_token, tmp_path, page_size=5, concurrency=1)).complete
        assert_holds(tmp_path, sandbox)
        # The other pages are read from the listing of the space, not run by run.
        pages = {int(one.query["page"]) for one in sandbox.log[begun:] if one.path.endswith(path)}
        assert pages >= {6, 7, 8, 9, 10}
        assert not pages & {2, 3, 4}


@pytest.mark.parametrize("fails_at", ["new-tasks", "new-runs"])
async def test_a_resumed_export_reads_runs_with_bad_rows_and_short_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    """The export is stopped when all tasks are staged, or when their parts are written too."""
    open_file = os.open

    def fail(path: Any, *rest: Any, **more: Any) -> int:
        if Path(path).name.startswith(fails_at):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_file(path, *rest, **more)

    async with Sandbox(runs=6, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000))
        bad, short, *others = sandbox.run_ids()
        options: dict[str, Any] = {"page_size": 3, "settle_after": 10**9, "format": "csv"}
        sandbox.poison(sandbox.task_ids(bad)[2])
        sandbox.script(faults.server_error(502, path=f"/{short}/tasks/", page=2, times=6))
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", fail)
            with pytest.raises(ExportError, match="cannot be written") as caught:
                await unpod.export(sandbox.space_token, tmp_path, **options)
        assert caught.value.hint == "free space on the disk and run the same export again: it resumes"
        assert any(short in one.path and one.query["page"] == "2" for one in sandbox.log)
        sandbox._rows.poisoned_tasks.clear()
        before = len(sandbox.log)
        summary = await unpod.export(sandbox.space_token, tmp_path, **options)
        assert (summary.complete, summary.bad_rows, summary.failed_runs) == (True, 0, 0)
        requested = {run for run in sandbox.run_ids() for one in sandbox.log[before:] if run in one.path}
        assert requested == {bad, short}
        assert not requested & set(others)
        assert_holds(tmp_path, sandbox, "csv")


async def test_an_interrupted_full_export_reads_everything_again(tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path, page_size=5)
        await interrupted(unpod, sandbox, tmp_path, "/runs/", 2, page_size=5, full=True)
        summary = await unpod.export(sandbox.space_token, tmp_path, page_size=5, full=True)
        assert (summary.fetched_runs, summary.complete) == (12, True)


async def test_a_run_whose_row_cannot_be_read_keeps_its_tasks(tmp_path: Path) -> None:
    async with Sandbox(runs=10, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path)
        sandbox.poison(sandbox.run_ids()[4])
        summary = await unpod.export(sandbox.space_token, tmp_path, full=True)
        assert (summary.complete, summary.gone_runs, summary.tasks) == (False, 0, 20)


async def test_rate_limited_requests_wait_at_the_same_time(tmp_path: Path) -> None:
    policy = RetryPolicy(attempts=2, base=0.001, max_retry_after=0.1)
    async with Sandbox(runs=30, tasks_per_run=1) as sandbox, client(sandbox, retry=policy) as unpod:
        sandbox.script(faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000))
        sandbox.script(*(faults.rate_limited(1, path=f"/{run}/tasks/") for run in sandbox.run_ids()))
        began = time.monotonic()
        assert (await unpod.export(sandbox.space_token, tmp_path, concurrency=30)).complete
        assert 1 <= time.monotonic() - began < 30  # one after another, they would take 30 seconds


@pytest.mark.parametrize(("status", "error"), [(429, RateLimitedError), (503, ServerError)])
async def test_an_export_does_not_wait_longer_than_an_hour_for_a_rate_limit(
    tmp_path: Path, status: int, error: type[Exception]
) -> None:
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        sandbox.script(Fault(status=status, headers={"Retry-After": "3700"}, path="/runs/"))
        with anyio.fail_after(60), pytest.raises(error):
            await unpod.export(sandbox.space_token, tmp_path)


async def test_a_run_whose_response_is_not_json_is_a_failed_run(tmp_path: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        sandbox.script(
            faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000),
            Fault(path=f"/{sandbox.run_ids()[1]}/tasks/", body=b"oops", times=1_000),
        )
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert (summary.complete, summary.failed_runs, summary.fetched_tasks) == (False, 1, 4)


async def test_a_wrong_space_does_not_lock_the_options_of_the_target(tmp_path: Path) -> None:
    async with Sandbox(runs=2) as sandbox, client(sandbox) as unpod:
        with pytest.raises(RefusedError):
            await unpod.export("SPACEUNKNOWN", tmp_path)
        assert (await unpod.export(sandbox.space_token, tmp_path)).complete
