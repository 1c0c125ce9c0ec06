"""A repeated export equals a full export made at that moment, and sends few requests."""

from __future__ import annotations

import copy
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.export.dataset import assert_holds, found_rows, sandbox_rows
from unpod_async import ExportError, UnpodClient, UnpodError
from unpod_async.testing import Sandbox, faults

HISTORIES = int(os.environ.get("UNPOD_HISTORIES", "25"))
ENDED = {"completed", "failed"}
ENDED_RUN = {*ENDED, "partially_completed"}
WEEK = timedelta(days=7)


def client(sandbox: Sandbox, **options: Any) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url, **options)


def age_of_active_runs(sandbox: Sandbox, now: datetime) -> float:
    """Return an age in seconds that all runs have reached, except the active ones and new ones."""
    created = [datetime.fromisoformat(row["created"]).replace(tzinfo=UTC) for row in sandbox.run_rows()]
    return (now - created[min(3, len(created) - 1)]).total_seconds() - 30


def unsettled(sandbox: Sandbox, newest: int) -> list[str]:
    """Return the runs that may change: the newest, and older ones that have not ended."""
    runs = list(sandbox.run_rows())
    moving = [row["run_id"] for row in runs[:newest]]
    return moving + [row["run_id"] for row in runs[newest:] if not has_ended(sandbox, row)]


def has_ended(sandbox: Sandbox, run: dict[str, Any]) -> bool:
    """Return whether a run has ended, by the rule in docs/howto/export.md."""
    tasks = sandbox.task_rows(run["run_id"])
    return run["status"] in ENDED_RUN and all(task["status"] in ENDED for task in tasks)


def settled(sandbox: Sandbox) -> set[str]:
    """Return the runs that have ended and are older than a week."""
    return {
        run["run_id"]
        for run in sandbox.run_rows()
        if has_ended(sandbox, run)
        and datetime.fromisoformat(run["created"]).replace(tzinfo=UTC) < datetime.now(UTC) - WEEK
    }


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["run", "task", "gone task", "gone run", "advance", "cut off", "busy"]),
        st.integers(0, 999),
    ),
    max_size=6,
)


@pytest.mark.timeout(120 + 5 * HISTORIES)  # each syncs dozens of files
@settings(max_examples=HISTORIES)
@given(
    runs=st.integers(0, 14),
    most=st.integers(0, 7),
    seed=st.integers(0, 5),
    page_size=st.sampled_from([None, 1, 3, 5]),
    rounds=st.lists(CHANGES, min_size=1, max_size=4),
    form=st.sampled_from(["jsonl", "jsonl", "jsonl.gz", "csv", "parquet"]),
    part_bytes=st.sampled_from([1, 3_000, 2**26]),
)
async def test_a_repeated_export_equals_a_full_export(
    runs: int, most: int, seed: int, page_size: int | None, rounds: list[Any], form: str, part_bytes: int
) -> None:
    now = datetime.now(UTC)  # the clock of the server stands still, so that no run grows older meanwhile
    with folder() as there:
        async with Sandbox(runs=runs, tasks_per_run=(0, most), seed=seed, now=lambda: now) as sandbox:
            settle_after = age_of_active_runs(sandbox, now) if runs > 3 else 10**10
            newest = min(3, runs)
            async with client(sandbox, retry=None) as unpod:
                options: dict[str, Any] = {
                    "format": form,
                    "page_size": page_size,
                    "settle_after": settle_after,
                    "part_bytes": part_bytes,
                }

                async def export() -> bool:
                    """Return whether it was complete; scripted faults may stop it."""
                    try:
                        return (await unpod.export(sandbox.space_token, there, **options)).complete
                    except UnpodError:
                        return False

                assert await export()
                for changes in rounds:
                    for what, number in changes:
                        may_change = unsettled(sandbox, newest)
                        run = may_change[number % len(may_change)] if may_change else None
                        tasks = sandbox.task_ids(run) if run is not None else []
                        if what == "run":
                            sandbox.insert_run(number % 4)
                            newest += 1
                        elif what == "advance":
                            sandbox.advance(1 + number % 3)
                        elif what == "task" and run is not None:
                            sandbox.insert_task(run)
                        elif what == "gone task" and tasks:
                            sandbox.delete_task(tasks[number % len(tasks)])
                        elif what == "gone run" and run is not None:
                            newest -= run in [row["run_id"] for row in list(sandbox.run_rows())[:newest]]
                            sandbox.delete_run(run)
                        elif what == "cut off":
                            sandbox.script(faults.server_error(500, times=number % 3))
                            await export()
                        elif what == "busy":
                            sandbox.script(faults.upstream_error(times=number % 3))
                            await export()
                    tries = [await export()]
                    while not tries[-1]:  # use up the scripted faults
                        assert len(tries) < 30
                        tries.append(await export())
                    assert_holds(there, sandbox, form)


async def test_a_space_of_settled_runs_takes_one_request(tmp_path: Path) -> None:
    async with Sandbox(runs=60, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        for run in unsettled(sandbox, 3):
            sandbox.delete_run(run)
        await unpod.export(sandbox.space_token, tmp_path / "set", page_size=10)
        before = sandbox.requests
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("*s/*")}
        summary = await unpod.export(sandbox.space_token, tmp_path / "set", page_size=10)
        assert sandbox.requests == before + 1
        assert (summary.fetched_runs, summary.complete) == (0, True)
        assert summary.unchanged_runs == summary.runs
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").glob("*s/*")} == files
        sandbox.insert_run(2)
        summary = await unpod.export(sandbox.space_token, tmp_path / "set", page_size=10)
        assert (summary.fetched_runs, summary.fetched_tasks) == (1, 2)
        assert sandbox.requests == before + 3
        assert_holds(tmp_path / "set", sandbox)


async def test_runs_that_ended_partially_completed_are_not_read_again(tmp_path: Path) -> None:
    async with Sandbox(runs=200, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert summary.fetched_runs == 200
        done = settled(sandbox)
        partially = {run["run_id"] for run in sandbox.run_rows() if run["status"] == "partially_completed"}
        assert len(partially & done) > 10
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert summary.fetched_runs == 200 - len(done)
        assert_holds(tmp_path, sandbox)


@asynccontextmanager
async def dated(sandbox: Sandbox, date: str) -> AsyncIterator[str]:
    """The address of a server that answers as the sandbox does, with another `Date`."""

    async def answer(request: web.Request) -> web.Response:
        url = f"{sandbox.base_url}{request.raw_path}"
        async with session.get(url, headers={"Authorization": request.headers["Authorization"]}) as response:
            body = await response.read()
            headers = {"Date": date, "Content-Type": response.headers["Content-Type"]}
            return web.Response(status=response.status, body=body, headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with aiohttp.ClientSession() as session, TestServer(app) as server:
        yield str(server.make_url("/"))


@pytest.mark.parametrize(
    ("ahead", "settles"),
    [(-timedelta(days=4000), False), (timedelta(days=4000), True), (None, False)],
    ids=["the server's clock is behind", "the server's clock is ahead", "the server sends no date"],
)
async def test_the_age_of_a_run_is_measured_with_the_clock_of_the_server(
    tmp_path: Path, ahead: timedelta | None, settles: bool
) -> None:
    date = "" if ahead is None else format_datetime(datetime.now(UTC) + ahead, usegmt=True)
    async with (
        Sandbox(runs=30, tasks_per_run=2) as sandbox,
        dated(sandbox, date) as base_url,
        UnpodClient(sandbox.token, base_url=base_url) as unpod,
    ):
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert summary.fetched_runs == 30
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert summary.fetched_runs == (len(unsettled(sandbox, 0)) if settles else 30)


async def test_full_reads_everything_again(tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path / "set")
        settled = next(row for row in sandbox.run_rows() if row["status"] == "completed")["run_id"]
        sandbox.delete_task(sandbox.task_ids(settled)[0])
        summary = await unpod.export(sandbox.space_token, tmp_path / "set", full=True)
        assert summary.fetched_runs == 12
        assert_holds(tmp_path / "set", sandbox)


async def test_a_deleted_settled_run_is_removed_by_a_full_export(tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path / "set", settle_after=0)
        sandbox.delete_run(next(row for row in sandbox.run_rows() if row["status"] == "completed")["run_id"])
        summary = await unpod.export(sandbox.space_token, tmp_path / "set", settle_after=0, full=True)
        assert summary.gone_runs == 1
        assert_holds(tmp_path / "set", sandbox)


@pytest.mark.parametrize("table", ["recording", "line", "run"])
async def test_a_run_that_reappears_after_a_kill_during_its_removal_is_exported(
    tmp_path: Path, table: str
) -> None:
    state = tmp_path / "set" / ".unpod-export" / "state.sqlite3"
    async with Sandbox(runs=8, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        run_id = sandbox.run_ids()[1]
        await unpod.export(sandbox.space_token, tmp_path / "set")
        before = copy.deepcopy(vars(sandbox._store))
        sandbox.delete_run(run_id)
        with sqlite3.connect(state) as db:
            number = db.execute("SELECT number FROM run WHERE id = ?", (run_id,)).fetchone()[0]
            db.execute("INSERT INTO recording (task, run) VALUES ('of it', ?)", (number,))
            db.execute(
                f"CREATE TRIGGER kill BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, 'killed'); END"
            )
        db.close()
        with pytest.raises(ExportError, match="killed"):
            await unpod.export(sandbox.space_token, tmp_path / "set")
        with sqlite3.connect(state) as db:
            db.execute("DROP TRIGGER kill")
        db.close()
        vars(sandbox._store).update(before)
        assert run_id in sandbox.run_ids()
        summary = await unpod.export(sandbox.space_token, tmp_path / "set")
        assert (summary.complete, summary.runs) == (True, 8)
        assert_holds(tmp_path / "set", sandbox)


@pytest.mark.parametrize("page_size", [None, 2])
async def test_a_scan_and_reading_run_by_run_give_the_same_rows(
    tmp_path: Path, page_size: int | None
) -> None:
    async with Sandbox(runs=30, tasks_per_run=(0, 6)) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path / "flat")
        assert any(received.path.endswith(f"{sandbox.space_token}/tasks/") for received in sandbox.log)
        before = sandbox.requests
        await unpod.export(sandbox.space_token, tmp_path / "single", runs=sandbox.run_ids(), page_size=1)
        assert found_rows(tmp_path / "flat", "jsonl", "tasks") == sandbox_rows(sandbox, "jsonl", "tasks")
        assert found_rows(tmp_path / "single", "jsonl", "tasks") == sandbox_rows(sandbox, "jsonl", "tasks")
        assert sandbox.requests > before


async def test_a_failed_scan_falls_back_to_reading_run_by_run(tmp_path: Path) -> None:
    async with Sandbox(runs=30, tasks_per_run=(1, 6)) as sandbox, client(sandbox, retry=None) as unpod:
        poisoned = faults.poisoned_row(sandbox)
        summary = await unpod.export(sandbox.space_token, tmp_path / "set", page_size=10)
        assert (summary.bad_rows, summary.complete) == (1, False)
        assert summary.bad[0].run_id is not None
        assert poisoned in sandbox.task_ids(summary.bad[0].run_id)
        assert_holds(tmp_path / "set", sandbox)


async def test_selected_runs_times_and_several_spaces(tmp_path: Path) -> None:
    async with Sandbox(runs=10, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        chosen = sandbox.run_ids()[3:5]
        summary = await unpod.export(sandbox.space_token, tmp_path / "chosen", runs=[*chosen, "Rnone"])
        assert (summary.runs, summary.tasks, summary.complete) == (2, 4, False)
        assert "Rnone" in summary.reasons[0]
        times = sorted(
            datetime.fromisoformat(row["created"]).replace(tzinfo=UTC) for row in sandbox.run_rows()
        )
        summary = await unpod.export(sandbox.space_token, tmp_path / "window", since=times[2], until=times[5])
        assert (summary.runs, summary.tasks, summary.complete) == (4, 8, True)
        summary = await unpod.export([sandbox.space_token, "SPACEPOISON0000000000004"], tmp_path / "two")
        assert (summary.runs, summary.tasks, summary.bad_rows) == (13, 22, 1)
