"""Rows in the catalog are on disk, whatever fails and whichever task was cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.dataset import assert_holds
from unpod_async import ExportError, UnpodClient
from unpod_async._export.storage import Catalog, Disk, Spool, Staging, spool_path
from unpod_async.testing import Sandbox

RUN = (
    "INSERT INTO run (number, space, id, rank, digest, can_settle, listing, state) "
    "VALUES (7, 1, ?, 1, ?, 1, 1, 0)"
)


def full() -> None:
    raise OSError(errno.ENOSPC, "full")


async def test_a_failure_after_the_caller_was_cancelled_is_raised_later() -> None:
    disk = Disk(Path("target"))
    goes_on = threading.Event()

    def fail() -> None:
        goes_on.wait()
        full()

    work = asyncio.create_task(disk.run(fail))
    await asyncio.sleep(0)
    work.cancel()
    await asyncio.sleep(0)
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    done: list[int] = []
    with pytest.raises(ExportError, match="no space is left on the disk"):
        await disk.run(done.append, 1)
    with pytest.raises(ExportError, match="no space is left on the disk"):
        await disk.sync([])
    assert not done
    disk.close()


async def test_rows_that_could_not_be_written_are_not_saved(tmp_path: Path) -> None:
    state, spool, disk = (
        Catalog(tmp_path / "state"),
        Spool(tmp_path, 1, 2**40, hashes=False),
        Disk(tmp_path),
    )
    state.run(RUN, ("r", b""))
    staging = Staging(state, spool, disk)
    goes_on = threading.Event()
    before = asyncio.create_task(disk.run(goes_on.wait))  # the next work waits for this
    spool_path(tmp_path, 1).mkdir()  # in the way of the spool file
    staging.add(7, [b"x" * 2**20], 0)
    staging.finish(7)
    worker = asyncio.create_task(staging.flush_if_due())
    await asyncio.sleep(0)
    noting = asyncio.create_task(staging.checkpoint())
    await asyncio.sleep(0)
    worker.cancel()
    await asyncio.sleep(0)
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await worker
    with pytest.raises(ExportError):
        await noting
    await before
    assert state.run("SELECT state FROM run").fetchall() == [(0,)]
    assert state.run("SELECT * FROM extent").fetchall() == []
    disk.close()
    state.close()


def fill_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA max_page_count = 1")
        db.execute("CREATE TABLE t (x)")


def write_through_a_reader(path: Path) -> None:
    path.touch()
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        db.execute("CREATE TABLE t (x)")


def open_a_folder(path: Path) -> None:
    path.mkdir()
    sqlite3.connect(path).close()


@pytest.mark.parametrize(
    ("work", "reason", "advice"),
    [
        (fill_database, "no space is left on the disk", "free space on the disk and"),
        (write_through_a_reader, "attempt to write a readonly database", "fix the cause and"),
        (open_a_folder, "unable to open database file", "raise the limit of open files"),
    ],
)
async def test_an_error_of_sqlite_is_explained(
    tmp_path: Path, work: Callable[[Path], None], reason: str, advice: str
) -> None:
    disk = Disk(tmp_path)
    with pytest.raises(ExportError, match=f"cannot be written: {reason}") as caught:
        await disk.run(work, tmp_path / "state.sqlite3")
    assert str(caught.value.hint).startswith(advice)
    assert set(os.listdir(tmp_path)) <= {"state.sqlite3"}  # noqa: PTH208 - it does not block for long
    disk.close()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="needs POSIX, and the super-user may write anything",
)
async def test_permissions_that_sqlite_does_not_mention(tmp_path: Path) -> None:
    (tmp_path / ".unpod-export").mkdir()
    state = tmp_path / ".unpod-export" / "state.sqlite3"
    state.touch(0o400)

    def write_state() -> None:
        with contextlib.closing(sqlite3.connect(state)) as db:
            db.execute("CREATE TABLE t (x)")

    disk = Disk(tmp_path)
    with pytest.raises(ExportError, match="Permission denied") as caught:
        await disk.run(write_state)
    assert caught.value.hint == "correct the permissions and run the same export again"
    disk.close()


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_NOFILE is of POSIX")
@pytest.mark.parametrize("page_size", [1, None])
async def test_parts_of_one_row_do_not_use_up_the_file_descriptors(
    tmp_path: Path, page_size: int | None
) -> None:
    async with (
        Sandbox(runs=200, tasks_per_run=(1, 2)) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod,
    ):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard))
        try:
            await unpod.export(sandbox.space_token, tmp_path, part_bytes=1, page_size=page_size)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert_holds(tmp_path, sandbox)
