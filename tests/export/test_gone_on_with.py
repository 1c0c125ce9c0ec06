"""Exports that were broken off somewhere and are gone on with after the space has changed: nothing is lost.

Each of these was a silent loss, or a row twice, before.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.export.dataset import assert_holds
from unpod_async import AuthenticationError, RefusedError, RetryPolicy, UnpodClient
from unpod_async.testing import Sandbox, faults

FAST = RetryPolicy(attempts=2, base=0.001, cap=0.002)


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **{"retry": FAST, **options})


@pytest.fixture(autouse=True)
def every_page_is_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unpod_async._export.storage.checkpoint._DUE_AFTER", 0.0)


async def broken_off(
    unpod: UnpodClient, sandbox: Sandbox, target: Path, path: str, page: int, **options: Any
) -> None:
    """Export until this page is asked for."""
    sandbox.script(faults.token_revoked(path=path, page=page, times=1))
    with pytest.raises(AuthenticationError):
        await unpod.export(sandbox.space_token, target, **options)


async def test_in_the_listing_of_new_runs(tmp_path: Path) -> None:
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path, settle_after=0, page_size=3)
        for _ in range(7):
            sandbox.insert_run(2)
        await broken_off(unpod, sandbox, tmp_path, "/runs/", 2, settle_after=0, page_size=3)
        for _ in range(2):
            assert (await unpod.export(sandbox.space_token, tmp_path, settle_after=0, page_size=3)).complete
            assert_holds(tmp_path, sandbox)


async def test_inside_a_run(tmp_path: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=12) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000))
        path = f"/{sandbox.run_ids()[0]}/tasks/"
        await broken_off(unpod, sandbox, tmp_path, path, 3, page_size=4, concurrency=1)
        assert (await unpod.export(sandbox.space_token, tmp_path, page_size=4)).complete
        assert_holds(tmp_path, sandbox)


def no_change(sandbox: Sandbox) -> None:
    """As it was."""


def new_run(sandbox: Sandbox) -> None:
    sandbox.insert_run(5)


def gone_run(sandbox: Sandbox) -> None:
    sandbox.delete_run(sandbox.run_ids()[0])


def gone_tasks(sandbox: Sandbox) -> None:
    for task in sandbox.task_ids()[:5]:
        sandbox.delete_task(task)


def refused(sandbox: Sandbox) -> None:
    sandbox.script(faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000))


@pytest.mark.parametrize("more", [{}, {"full": True}])
@pytest.mark.parametrize("change", [no_change, new_run, gone_run, gone_tasks, refused])
async def test_in_the_space_wide_listing(tmp_path: Path, change: Any, more: dict[str, Any]) -> None:
    async with Sandbox(runs=12, tasks_per_run=4) as sandbox, client(sandbox) as unpod:
        path = f"{sandbox.space_token}/tasks/"
        await broken_off(unpod, sandbox, tmp_path, path, 4, page_size=5)
        change(sandbox)
        assert (await unpod.export(sandbox.space_token, tmp_path, page_size=5, **more)).complete
        assert_holds(tmp_path, sandbox)


async def test_full_that_was_broken_off_reads_everything_again(tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path, page_size=5)
        await broken_off(unpod, sandbox, tmp_path, "/runs/", 2, page_size=5, full=True)
        summary = await unpod.export(sandbox.space_token, tmp_path, page_size=5, full=True)
        assert (summary.fetched_runs, summary.complete) == (12, True)


async def test_a_run_whose_row_cannot_be_read_keeps_its_tasks(tmp_path: Path) -> None:
    async with Sandbox(runs=10, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path)
        sandbox.poison(sandbox.run_ids()[4])
        summary = await unpod.export(sandbox.space_token, tmp_path, full=True)
        assert (summary.complete, summary.gone_runs, summary.tasks) == (False, 0, 20)


async def test_all_who_are_told_to_wait_wait_at_the_same_time(tmp_path: Path) -> None:
    policy = RetryPolicy(attempts=2, base=0.001, max_retry_after=0.1)
    async with Sandbox(runs=8, tasks_per_run=2) as sandbox, client(sandbox, retry=policy) as unpod:
        sandbox.script(faults.refusal(path=f"{sandbox.space_token}/tasks/", times=1_000))
        sandbox.script(*(faults.rate_limited(1, path=f"/{run}/tasks/") for run in sandbox.run_ids()))
        began = time.monotonic()
        assert (await unpod.export(sandbox.space_token, tmp_path, concurrency=8)).complete
        assert 1 <= time.monotonic() - began < 4


async def test_a_wrong_space_does_not_spoil_the_target(tmp_path: Path) -> None:
    async with Sandbox(runs=2) as sandbox, client(sandbox) as unpod:
        with pytest.raises(RefusedError):
            await unpod.export("SPACEUNKNOWN", tmp_path)
        assert (await unpod.export(sandbox.space_token, tmp_path)).complete
