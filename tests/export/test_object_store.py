"""Exports into object stores: the data set is exact at any moment, whatever fails and whoever else writes.

S3 is moto's server. The nox session `stores` runs the tests against the other stores too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import run_process, settings
from tests.export.dataset import assert_holds, assert_manifest, found_rows
from tests.export.test_kills import run_victim
from tests.leaks import shown
from tests.locks import copies_of_locked_files
from unpod_async import (
    ExportError,
    ExportProgress,
    ExportSummary,
    InvalidArgument,
    TargetLockedError,
    TransportError,
    UnpodClient,
)
from unpod_async._common import lock as lock_file
from unpod_async.testing import Sandbox

stores = pytest.importorskip("tests.export.stores", reason="obstore and moto are not installed")

if TYPE_CHECKING:
    from tests.export.stores import Bucket

LOCK, MANIFEST, SECRET = stores.LOCK, stores.MANIFEST, stores.SECRET
between, denied, lock, writes = stores.between, stores.denied, stores.lock, stores.writes
SMALL: dict[str, Any] = {"part_bytes": 8_000}


async def export(
    sandbox: Sandbox, target: str, *, deadline: float | None = None, **options: Any
) -> ExportSummary:
    async with UnpodClient(sandbox.token, base_url=sandbox.base_url, deadline=deadline) as unpod:
        return await unpod.export(sandbox.space_token, target, **{**SMALL, **options})


def assert_exact(bucket: Bucket, sandbox: Sandbox, folder: Path, form: str = "jsonl") -> None:
    """Check that the store has every row once, a correct manifest, and no object besides."""
    shutil.rmtree(folder, ignore_errors=True)
    assert_holds(bucket.download(folder), sandbox, form)
    assert bucket.is_tidy(), sorted(bucket.names())


def change(sandbox: Sandbox) -> None:
    sandbox.insert_run(3)
    sandbox.delete_run(sandbox.run_ids()[1])
    sandbox.advance()


# -- what is in the store -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "parquet"])
async def test_every_row_is_in_the_parts_that_the_manifest_names(
    bucket: Bucket, tmp_path: Path, form: str
) -> None:
    async with Sandbox(runs=12, tasks_per_run=(0, 5)) as sandbox:
        summary = await export(sandbox, bucket.url, format=form)
        assert (summary.target, summary.complete, summary.tasks) == (
            bucket.url,
            True,
            len(sandbox.task_ids()),
        )
        assert_exact(bucket, sandbox, tmp_path / "read", form)
        change(sandbox)
        await export(sandbox, bucket.url, format=form)
        assert_exact(bucket, sandbox, tmp_path / "read", form)
    assert all(re.search(r"/part-\d{5}-[0-9a-f]{16}\.", name) for name in bucket.parts())


async def test_an_export_without_news_changes_no_object(bucket: Bucket) -> None:
    async with Sandbox(runs=12, tasks_per_run=(1, 5)) as sandbox:
        await export(sandbox, bucket.url)
        before = bucket.versions()
        await export(sandbox, bucket.url)
        assert bucket.versions() == before


async def test_parts_that_have_not_changed_are_not_uploaded_again(bucket: Bucket) -> None:
    async with Sandbox(runs=20, tasks_per_run=(1, 5)) as sandbox:
        await export(sandbox, bucket.url)
        before = bucket.versions()
        sandbox.insert_run(3)
        events: list[ExportProgress] = []
        await export(sandbox, bucket.url, on_progress=events.append)
        after = bucket.versions()
    kept = {name for name in bucket.parts() if before.get(name) == after[name]}
    uploaded = bucket.parts() - set(before)
    assert kept | uploaded == bucket.parts()
    assert kept
    assert 2 <= len(uploaded) < len(kept) + 2
    last = [event for event in events if event.phase == "uploading"][-1]
    assert (last.uploads_total, events[-1].uploads) == (len(uploaded), len(uploaded))
    assert str(last).startswith("uploading: ")


@pytest.mark.parametrize("prefix", ["", "a/b", "späce and %20, 'quotes' & [more]~*=+$"])
async def test_prefixes(bucket: Bucket, tmp_path: Path, prefix: str) -> None:
    other = bucket.at(prefix)
    slash = "/" if prefix == "a/b" else ""  # a slash at the end makes no difference
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox:
        summary = await export(sandbox, other.url + slash)
        assert summary.target == other.url
        change(sandbox)
        await export(sandbox, other.url)
        assert_exact(other, sandbox, tmp_path / "read")


async def test_other_objects_of_the_bucket_stay(bucket: Bucket) -> None:
    bucket.write("readme.txt", b"hello")
    bucket.at("").write("runs/other.csv", b"1,2")
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox:
        await export(sandbox, bucket.url)
        change(sandbox)
        await export(sandbox, bucket.url)
    assert bucket.read("readme.txt") == b"hello"
    assert bucket.at("").read("runs/other.csv") == b"1,2"


async def test_the_local_copy_is_a_data_set_that_duckdb_reads(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        summary = await export(sandbox, bucket.url, state_dir=tmp_path / "state")
        assert summary.local_copy == str(tmp_path / "state" / "data")
        assert_holds(Path(summary.local_copy), sandbox)
        with contextlib.closing(summary.to_duckdb()) as db:
            assert db.sql("SELECT count(*) FROM tasks").fetchall() == [(10,)]


# -- the state ----------------------------------------------------------------------------------------------


async def test_another_machine_continues_from_the_state_in_the_store(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=20, tasks_per_run=(1, 5)) as sandbox:
        await export(sandbox, bucket.url, state_dir=tmp_path / "one")
        before = bucket.versions()
        for name in ("two", "three", "one", "two"):
            unchanged = (await export(sandbox, bucket.url, state_dir=tmp_path / name)).unchanged_runs
            assert unchanged > 0, "the settled runs were read again"
            assert bucket.versions() == before or name != "two"
            change(sandbox)
            await export(sandbox, bucket.url, state_dir=tmp_path / name)
            assert_exact(bucket, sandbox, tmp_path / "read")
            before = bucket.versions()


async def test_without_a_manifest_an_export_starts_anew(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        await export(sandbox, bucket.url)
        bucket.delete(*bucket.names())
        summary = await export(sandbox, bucket.url, format="csv")
        assert summary.fetched_runs == 5
        assert_exact(bucket, sandbox, tmp_path / "read", "csv")


async def test_a_part_that_others_changed_is_not_restored(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        await export(sandbox, bucket.url)
        name = min(bucket.parts())
        bucket.write(name, b"{}\n")
        with pytest.raises(ExportError, match="was changed in"):
            await export(sandbox, bucket.url, state_dir=tmp_path / "two")
        bucket.delete(name)
        with pytest.raises(ExportError, match="is missing from"):
            await export(sandbox, bucket.url, state_dir=tmp_path / "two")


async def test_a_download_can_be_cancelled_at_any_moment(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No file stays open, and the next export downloads everything again."""
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        await export(sandbox, bucket.url)
        for moment in range(6):
            arrived = asyncio.Event()

            async def rule(method: str, path: str, request: bytes) -> bytes:
                if method == "GET" and ("/part-" in path or "/state-" in path):
                    arrived.set()  # noqa: B023
                return request

            async with between(bucket, monkeypatch, rule):
                state = tmp_path / f"state {moment}"
                running = asyncio.create_task(export(sandbox, bucket.url, state_dir=state))
                await arrived.wait()
                for _ in range(moment * 3):
                    await asyncio.sleep(0)
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):  # it may have ended
                    await running
            gc.collect()
            await export(sandbox, bucket.url, state_dir=state)
            assert_holds(state / "data", sandbox)


async def test_the_key_of_the_hashes_is_not_in_the_store(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        await export(sandbox, bucket.url, redact="hash")
        (state,) = (name for name in bucket.names() if "/state-" in name)
        packed = tmp_path / "state.sqlite3"
        packed.write_bytes(zlib.decompress(bucket.read(state), 31))
        with contextlib.closing(sqlite3.connect(packed)) as db:
            assert db.execute("SELECT count(*) FROM meta WHERE name = 'redact_key'").fetchone() == (0,)
        (local,) = (tmp_path / "cache").rglob("state.sqlite3")
        with contextlib.closing(sqlite3.connect(local)) as db:
            (key,) = db.execute("SELECT value FROM meta WHERE name = 'redact_key'").fetchone()
        assert key in local.read_bytes()
        assert key not in packed.read_bytes()  # nor in pages that are not used any more
        with pytest.raises(ExportError, match="key of the hashes") as failed:
            await export(sandbox, bucket.url, redact="hash", state_dir=tmp_path / "two")
        assert "redact_key" in str(failed.value.hint)
        change(sandbox)
        await export(sandbox, bucket.url, redact="hash")  # the machine that has it


async def test_with_a_key_of_its_own_another_machine_makes_the_same_hashes(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        options = {"redact": "hash", "redact_key": b"a key of the user"}
        await export(sandbox, bucket.url, **options)
        await export(sandbox, bucket.url, state_dir=tmp_path / "two", full=True, **options)
        rows = found_rows(bucket.download(tmp_path / "read"), "jsonl", "tasks")
        await export(sandbox, str(tmp_path / "directory"), **options)
        assert rows == found_rows(tmp_path / "directory", "jsonl", "tasks")


async def test_other_options_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        await export(sandbox, bucket.url)
        before = bucket.versions()
        for directory in (None, tmp_path / "two"):
            with pytest.raises(ExportError, match=r"different options: format"):
                await export(sandbox, bucket.url, format="csv", state_dir=directory)
        assert bucket.versions() == before


async def test_a_state_directory_belongs_to_one_target(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        await export(sandbox, bucket.url, state_dir=tmp_path / "state")
        with pytest.raises(ExportError, match="has the state of another target"):
            await export(sandbox, bucket.at("other").url, state_dir=tmp_path / "state")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "letter.txt").write_text("hello")
        with pytest.raises(ExportError, match="contains other files"):
            await export(sandbox, bucket.at("other").url, state_dir=tmp_path / "mine")
        (tmp_path / "state" / "store.json").write_text("{")
        with pytest.raises(ExportError, match="is damaged"):
            await export(sandbox, bucket.url, state_dir=tmp_path / "state")


@pytest.mark.parametrize(
    "name", ["tasks/notes.csv", "runs/part-00001.jsonl", ".unpod-export/state.sqlite3", "tasks/a/b.jsonl"]
)
async def test_objects_that_no_export_wrote_are_refused(bucket: Bucket, name: str) -> None:
    bucket.write(name, b"1,2")
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        with pytest.raises(ExportError, match="which no export wrote"):
            await export(sandbox, bucket.url)
    assert bucket.names() == {name}


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"{}",
        b"\xff",
        b'{"versions": {"columns": 1, "manifest": 1}, "options": {}, "parts": []}',
        (
            b'{"versions": {"columns": 1, "manifest": 1}, "options": {}, "parts": [], '
            b'"store": {"generation": "1", "state": "../x", "state_sha256": ""}}'
        ),
    ],
)
async def test_a_manifest_that_no_export_to_a_store_wrote_is_refused(bucket: Bucket, content: bytes) -> None:
    bucket.write(MANIFEST, content)
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        with pytest.raises(ExportError, match=r"has a _manifest\.json that no export"):
            await export(sandbox, bucket.url)
    assert bucket.read(MANIFEST) == content


async def test_a_manifest_of_a_newer_version_is_refused(bucket: Bucket) -> None:
    bucket.write(MANIFEST, b'{"versions": {"columns": 1, "manifest": 99}}')
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        with pytest.raises(ExportError, match="newer version"):
            await export(sandbox, bucket.url)


# -- the lock -----------------------------------------------------------------------------------------------


async def test_the_lock_of_the_state_is_not_left_to_a_forked_process(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox:
        with copies_of_locked_files(monkeypatch) as copies:
            await export(sandbox, bucket.url)
            assert copies
            await export(sandbox, bucket.url)


async def test_a_valid_lock_keeps_others_out(bucket: Bucket) -> None:
    bucket.write(LOCK, lock("somebody else", 3000))
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        with pytest.raises(TargetLockedError, match="another export is writing") as locked:
            await export(sandbox, bucket.url)
        assert not sandbox.requests
    assert re.search(r"its lock ends at\n\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", str(locked.value.hint))
    assert bucket.names() == set()


@pytest.mark.parametrize("seconds", [0, -1e9])
async def test_a_lock_that_is_free_or_expired_is_taken(bucket: Bucket, seconds: float) -> None:
    bucket.write(LOCK, lock("somebody else", seconds))
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        await export(sandbox, bucket.url)
        await export(sandbox, bucket.url)
    assert json.loads(bucket.read(LOCK))["seconds"] == 0


async def test_an_export_takes_the_lock_of_its_own_killed_predecessor(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        await export(sandbox, bucket.url, state_dir=tmp_path / "state")
        holder = json.loads((tmp_path / "state" / "store.json").read_bytes())["holder"]
        bucket.write(LOCK, lock(holder, 3000))
        await export(sandbox, bucket.url, state_dir=tmp_path / "state")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"holder": 1}', b"\xff"])
async def test_something_else_in_the_place_of_the_lock_is_refused(bucket: Bucket, content: bytes) -> None:
    bucket.write(LOCK, content)
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        with pytest.raises(ExportError, match="is not the lock of an export"):
            await export(sandbox, bucket.url)


async def test_the_state_directory_is_locked_on_this_machine(bucket: Bucket) -> None:
    async with Sandbox(runs=12, tasks_per_run=2) as sandbox:
        tasks: list[asyncio.Task[ExportSummary]] = []

        def on_progress(_event: ExportProgress) -> None:
            if not tasks:
                tasks.append(asyncio.create_task(export(sandbox, bucket.url)))

        await export(sandbox, bucket.url, on_progress=on_progress)
        with pytest.raises(TargetLockedError, match="another export is writing"):
            await tasks[0]


async def test_a_state_directory_that_another_export_is_creating(bucket: Bucket, tmp_path: Path) -> None:
    """The other export has locked it, and is writing the first file."""
    state = tmp_path / "state"
    state.mkdir()
    (state / ".store.json-1").write_bytes(b"")
    (state / "lock").write_bytes(b"")
    with (state / "lock").open("r+b") as file:
        assert lock_file(file.fileno())
        async with Sandbox(runs=1) as sandbox:
            with pytest.raises(TargetLockedError, match="another export is writing"):
                await export(sandbox, bucket.url, state_dir=state)
    with pytest.raises(ExportError, match="contains other files"):
        await export(sandbox, bucket.url, state_dir=state)


async def test_a_lock_is_renewed_while_it_is_held(bucket: Bucket) -> None:
    found: set[bytes] = set()

    async def work() -> str:
        while len(found) < 3:
            found.add(await asyncio.to_thread(bucket.read, LOCK))
        return "done"

    held = await new_lock(bucket, "one", seconds=0.03)
    await held.acquire()
    assert await held.hold(work()) == "done"
    await held.release()
    assert json.loads(bucket.read(LOCK))["seconds"] == 0


async def test_work_is_cancelled_when_the_lock_is_lost(bucket: Bucket) -> None:
    held = await new_lock(bucket, "one", seconds=0.03)
    await held.acquire()
    bucket.write(LOCK, lock("two", 3000))
    with pytest.raises(ExportError, match="has taken the lock"):
        await held.hold(asyncio.Event().wait())
    with pytest.raises(ExportError, match="has taken the lock"):
        await held.confirm()
    await held.release()
    assert json.loads(bucket.read(LOCK))["holder"] == "two"


async def test_the_clock_of_the_store_decides_when_a_lock_ends(bucket: Bucket) -> None:
    """A clock that is ten minutes fast takes a lock early; one that is slow does not take it at all."""
    for seconds, is_taken in ((600.0, True), (-600.0, False)):
        held = await new_lock(bucket, f"holder {seconds}", seconds=120.0)
        bucket.write(LOCK, lock("nobody", 0))
        await held.acquire()
        other = await new_lock(bucket, "other", seconds=120.0, offset=seconds)
        if is_taken:
            await other.acquire()
            with pytest.raises(ExportError, match="has taken the lock"):
                await held.confirm()
        else:
            with pytest.raises(TargetLockedError):
                await other.acquire()
            await held.confirm()


async def new_lock(bucket: Bucket, holder: str, *, seconds: float, offset: float = 0.0) -> Any:
    import time

    from unpod_async._export.object_store import ObjectStore, StoreAddress, StoreLock
    from unpod_async._http import Deadline

    address = StoreAddress.parse(bucket.url)
    assert address is not None
    store = ObjectStore(address, Deadline(None))
    return StoreLock(store, holder, seconds=seconds, now=lambda: time.time() + offset)


# -- others write, requests fail ----------------------------------------------------------------------------


async def test_a_manifest_that_changes_meanwhile_is_not_overwritten(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        await export(sandbox, bucket.url)
        change(sandbox)
        theirs = []

        async def rule(method: str, path: str, request: bytes) -> bytes:
            if writes(method, path, MANIFEST) and not theirs:
                theirs.append(await export_by_thief(bucket, sandbox, tmp_path / "thief"))
            return request

        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match="was changed by others") as failed:
                await export(sandbox, bucket.url)
        assert "run the same export again" in str(failed.value.hint)
        assert bucket.read(MANIFEST) == theirs[0]
        change(sandbox)
        await export(sandbox, bucket.url)
        assert_exact(bucket, sandbox, tmp_path / "read")


async def export_by_thief(bucket: Bucket, sandbox: Sandbox, directory: Path) -> bytes:
    """Export from another machine, which takes the lock. Returns its manifest."""
    bucket.write(LOCK, lock("free", 0))
    code = (
        "import asyncio, sys; from unpod_async import UnpodClient\n"
        "async def main(token, url, space, target, state):\n"
        "    async with UnpodClient(token, base_url=url) as unpod:\n"
        f"        await unpod.export(space, target, state_dir=state, part_bytes={SMALL['part_bytes']})\n"
        "asyncio.run(main(*sys.argv[1:]))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", code, sandbox.token, sandbox.base_url),
        *(sandbox.space_token, bucket.url, str(directory)),
        env={**settings(sandbox), **stores.inherited(), **bucket.server.environment()},
    )
    assert await process.wait() == 0
    found: bytes = bucket.read(MANIFEST)
    return found


@pytest.mark.parametrize("moment", ["/tasks/part-", "/state-", "_manifest.json"])
async def test_an_export_that_lost_its_lock_writes_no_manifest(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: str
) -> None:
    """As if it had been suspended: another export has taken the lock and ended, at any moment."""
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        await export(sandbox, bucket.url)
        change(sandbox)
        theirs = []
        once = asyncio.Lock()

        async def rule(method: str, path: str, request: bytes) -> bytes:
            async with once:
                if writes(method, path, moment) and not theirs:
                    theirs.append(await export_by_thief(bucket, sandbox, tmp_path / "thief"))
            return request

        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match=r"taken the lock|changed by others"):
                await export(sandbox, bucket.url)
        assert bucket.read(MANIFEST) == theirs[0]
        assert_holds(bucket_of(bucket, tmp_path / "named"), sandbox)
        change(sandbox)
        await export(sandbox, bucket.url)
        assert_exact(bucket, sandbox, tmp_path / "read")


def bucket_of(bucket: Bucket, directory: Path) -> Path:
    """Download only the parts that the manifest names."""
    for name in (MANIFEST, *(part["name"] for part in bucket.manifest()["parts"])):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(bucket.read(name))
    return directory


async def test_a_manifest_that_was_removed_meanwhile_is_an_error(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        await export(sandbox, bucket.url)
        change(sandbox)

        async def rule(method: str, path: str, request: bytes) -> bytes:
            if writes(method, path, MANIFEST):
                await asyncio.to_thread(bucket.delete, MANIFEST)
            return request

        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match="was changed by others"):
                await export(sandbox, bucket.url)
        await export(sandbox, bucket.url)
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_manifest_whose_answer_was_lost_counts_as_written(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The request is sent again, and its condition then does not hold any more."""
    lost: set[str] = set()

    async def rule(method: str, path: str, request: bytes) -> bytes | None:
        if method == "PUT" and path.endswith((MANIFEST, "lock.json")) and path not in lost:
            lost.add(path)
            await stores.forward(bucket.server, request)
            return None
        return request

    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        async with between(bucket, monkeypatch, rule):
            await export(sandbox, bucket.url)
        assert len(lost) == 2
        assert_exact(bucket, sandbox, tmp_path / "read")


@pytest.mark.parametrize("moment", ["lock.json", "/tasks/part-", "/state-", "_manifest.json"])
async def test_denied_requests(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: str
) -> None:
    async def rule(method: str, path: str, request: bytes) -> bytes:
        return denied() if writes(method, path, moment) else request

    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match="denies access") as failed:
                await export(sandbox, bucket.url)
        assert re.search(r"check (AWS|AZURE|GOOGLE)_\w+", str(failed.value.hint))
        assert not [where for where, text in shown(failed.value) if SECRET in text]
        assert MANIFEST not in bucket.names()
        await export(sandbox, bucket.url)
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_replaced_parts_that_cannot_be_deleted_are_deleted_by_the_next_export(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def rule(method: str, path: str, request: bytes) -> bytes:
        return denied() if method == "DELETE" or "delete" in path or "comp=batch" in path else request

    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        await export(sandbox, bucket.url)
        change(sandbox)
        async with between(bucket, monkeypatch, rule):
            summary = await export(sandbox, bucket.url)
        assert summary.complete
        assert "could not be deleted" in caplog.text
        assert not bucket.is_tidy()
        assert_holds(bucket_of(bucket, tmp_path / "named"), sandbox)
        await export(sandbox, bucket.url)
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_bucket_that_does_not_exist(bucket: Bucket) -> None:
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        with pytest.raises(ExportError, match="missing-one does not exist") as failed:
            await export(sandbox, f"{bucket.server.scheme}://missing-one/data")
        assert "create it" in str(failed.value.hint)
        assert not sandbox.requests


async def test_a_bucket_that_is_deleted_meanwhile(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    async def rule(method: str, path: str, request: bytes) -> bytes:
        code = "ContainerNotFound" if bucket.server.scheme == "az" else "NoSuchBucket"
        return denied(code, 404) if gone or (gone.append(path) if "/tasks/" in path else None) else request

    gone: list[str] = []
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        await export(sandbox, bucket.url)
        change(sandbox)
        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match="does not exist"):
                await export(sandbox, bucket.url)
        assert gone


async def test_a_store_that_ignores_conditions_is_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bucket.server.scheme == "az":
        pytest.skip("the conditions are signed")

    async def rule(method: str, path: str, request: bytes) -> bytes:
        return re.sub(rb"(?i)\r\n(if-(none-)?match|x-goog-if-generation-match): [^\r]*", b"", request)

    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match="does not support conditional writes") as failed:
                await export(sandbox, bucket.url)
        assert "use another store" in str(failed.value.hint)
        assert not sandbox.requests


@pytest.mark.parametrize("header", [b"if-none-match", b"if-match"])
async def test_a_store_that_refuses_conditions_is_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, header: bytes
) -> None:
    header = {"gs": b"x-goog-if-generation-match"}.get(bucket.server.scheme, header)

    async def rule(method: str, path: str, request: bytes) -> bytes:
        return denied("NotImplemented", 501) if header + b":" in request.lower() else request

    async with Sandbox(runs=3, tasks_per_run=1) as sandbox, between(bucket, monkeypatch, rule):
        with pytest.raises(ExportError, match="does not support conditional writes"):
            await export(sandbox, bucket.url)


async def test_conditional_writes_that_are_switched_off(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bucket.server.scheme != "s3":
        pytest.skip("only S3 has this setting")
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        with pytest.raises(ExportError, match="does not support conditional writes"):
            await export(sandbox, bucket.url)


async def test_the_deadline_ends_an_upload(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def rule(method: str, path: str, request: bytes) -> bytes:
        if writes(method, path, "/tasks/"):
            await asyncio.Event().wait()
        return request

    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        async with between(bucket, monkeypatch, rule):
            with pytest.raises(TransportError, match="deadline of 5 s ended") as failed:
                await export(sandbox, bucket.url, deadline=5)
        assert failed.value.timed_out
        assert MANIFEST not in bucket.names()
        assert json.loads(bucket.read(LOCK))["seconds"] == 0  # other machines need not wait for it
        await export(sandbox, bucket.url)
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_cancelled_upload_stops(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrived, hung_up = asyncio.Event(), asyncio.Event()

    async def rule(method: str, path: str, request: bytes) -> bytes:
        if writes(method, path, "/tasks/"):
            arrived.set()
            await hung_up.wait()
        return request

    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        async with between(bucket, monkeypatch, rule):
            running = asyncio.create_task(export(sandbox, bucket.url))
            await arrived.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert MANIFEST not in bucket.names()
        assert json.loads(bucket.read(LOCK))["seconds"] == 0
        await export(sandbox, bucket.url, state_dir=tmp_path / "elsewhere")
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_plain_http_endpoint_must_be_allowed(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    if bucket.server.scheme == "gs":
        pytest.skip("the file with the credentials allows it")
    (name,) = (name for name in bucket.server.environment() if name.endswith("_ALLOW_HTTP"))
    monkeypatch.delenv(name)
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        with pytest.raises(ExportError, match="does not use https") as failed:
            await export(sandbox, bucket.url)
    assert f"set {name}=true" in str(failed.value.hint)


async def test_a_store_that_is_not_there(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, refusing_port: int
) -> None:
    for name, value in bucket.server.environment(refusing_port).items():
        monkeypatch.setenv(name, value)
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        with pytest.raises(ExportError, match="the store does not respond") as failed:
            await export(sandbox, bucket.url)
    assert "check the network and the endpoint" in str(failed.value.hint)


async def test_wrong_credentials(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    async def rule(method: str, path: str, request: bytes) -> bytes:
        return denied("SignatureDoesNotMatch" if bucket.server.scheme == "s3" else "AuthenticationFailed")

    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match=r"denies access to .* \(403 (Signature|Authentication)"):
                await export(sandbox, bucket.url)
        assert not sandbox.requests


async def test_a_disk_that_cannot_be_written(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        with pytest.raises(ExportError, match=r"is not a directory|cannot be written"):
            await export(sandbox, bucket.url, state_dir=tmp_path / "file")
        with pytest.raises(ExportError, match="cannot be written"):
            await export(sandbox, bucket.url, state_dir=tmp_path / "file" / "below")
    assert bucket.names() == set()


# -- kills --------------------------------------------------------------------------------------------------

REQUESTS = ["get_async", "put_async", "delete_async", "list"]
"""Each function of obstore that an export calls."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("is_first", [True, False])
async def test_killed_before_each_request_to_the_store(
    bucket: Bucket, tmp_path: Path, is_first: bool
) -> None:
    """Readers never see a data set that is not whole, and the next export ends in the exact data set."""
    options: dict[str, Any] = {**SMALL, "state_dir": str(tmp_path / "state")}
    async with Sandbox(runs=6, tasks_per_run=2) as sandbox:
        for kill_at in range(1, 100):
            target = bucket.at(f"first {kill_at}") if is_first else bucket
            if is_first:
                options["state_dir"] = str(tmp_path / f"state {kill_at}")
            else:
                await export(sandbox, target.url, **options)
                change(sandbox)
            ended = await run_victim(sandbox, target.url, kill_at, counted=REQUESTS, **options)
            if MANIFEST in target.names():
                assert_manifest(bucket_of(target, tmp_path / f"named {kill_at}"))
            await export(sandbox, target.url, **options)
            assert_exact(target, sandbox, tmp_path / "read")
            if ended is not None:
                break
    assert kill_at > 12


# -- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("s3://", "must name a bucket"),
        ("s3:///prefix", "must name a bucket"),
        ("az://a b/prefix", "must name a bucket"),
        ("gs://b\u00fccket/prefix", "must name a bucket"),
        ("s3://key:hunter2@bucket/prefix", "must not contain credentials"),
        ("az://container/prefix?sig=hunter2", "must not contain credentials"),
        ("s3://bucket/prefix#hunter2", "must not contain credentials"),
        ("s3://bucket/a//b", "must not have empty names"),
        ("s3://bucket//", "must not have empty names"),
        ("s3://bucket/../b", "must not have empty names"),
        ("s3://bucket/a\\b", "must not have backslashes"),
        ("s3://bucket/a\nb", "must not have backslashes"),
        ("s3://bucket/" + "x" * 901, "at most 900 bytes"),
        ("gcs://hunter2/prefix", "must be a directory, or a URL"),
        ("https://hunter2.example/prefix", "must be a directory, or a URL"),
        (Path("s3://bucket/prefix"), "must be a str"),
    ],
)
async def test_targets_that_are_refused(target: str | Path, message: str, tmp_path: Path) -> None:
    async with UnpodClient("a" * 40, base_url="http://127.0.0.1:9") as unpod:
        with pytest.raises(InvalidArgument, match=message) as refused:
            await unpod.export("SPACE", target)
    assert refused.value.argument == "target"
    assert "hunter2" not in str(refused.value)


async def test_options_that_do_not_fit_the_target(tmp_path: Path) -> None:
    async with UnpodClient("a" * 40, base_url="http://127.0.0.1:9") as unpod:
        with pytest.raises(InvalidArgument, match="state_dir is only used"):
            await unpod.export("SPACE", tmp_path, state_dir=tmp_path / "state")
        with pytest.raises(InvalidArgument, match="recordings cannot be exported into an object store"):
            await unpod.export("SPACE", "s3://bucket/prefix", recordings=True)
        for directory in ("", "a\0b", 1):
            with pytest.raises(InvalidArgument, match="state_dir must be the path of a directory"):
                await unpod.export("SPACE", "s3://bucket/prefix", state_dir=directory)  # type: ignore[arg-type]


async def test_without_obstore(tmp_path: Path) -> None:
    code = """
import asyncio, sys
sys.modules["obstore"] = None
from unpod_async import ConfigurationError, UnpodClient
async def main():
    async with UnpodClient("a" * 40, base_url="http://127.0.0.1:9") as unpod:
        try:
            await unpod.export("SPACE", "s3://bucket/prefix", state_dir=sys.argv[1])
        except ConfigurationError as error:
            print(error)
asyncio.run(main())
"""
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "state")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("an export to s3:// needs obstore, which cannot be imported: ")
    assert "[store]" in done.stdout
    assert not (tmp_path / "state").exists()


# -- the command line ---------------------------------------------------------------------------------------


def variables(bucket: Bucket, sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    return {**settings(sandbox), **bucket.server.environment(), **cache}


async def test_the_command_exports_to_a_store(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox:
        names = variables(bucket, sandbox, tmp_path)
        done = await run_process(names, "export", sandbox.space_token, bucket.url)
        assert done.status == 0, done.err
        summary = json.loads(done.out)
        assert (summary["target"], summary["complete"]) == (bucket.url, True)
        assert "Uploading files: 0 of 2 files" in done.err
        assert_exact(bucket, sandbox, tmp_path / "read")

        done = await run_process(names, "export", sandbox.space_token, bucket.url, "--table")
        assert re.search(r"^Local copy +/", done.out, re.MULTILINE)
        # A copy of the objects is the directory of a data set.
        done = await run_process(
            names, "report", str(tmp_path / "read"), "--output", str(tmp_path / "r.html")
        )
        assert done.status == 0, done.err
        done = await run_process(names, "report", bucket.url)
        assert done.status == 2
        assert "a report is made from a directory" in done.err
        assert summary["local_copy"][:20] in done.err

        bucket.write(LOCK, lock("somebody else", 3000))
        done = await run_process(names, "export", sandbox.space_token, bucket.url)
        assert done.status == 75
        assert "another export is writing to" in done.err


async def test_the_command_says_what_is_wrong_with_the_store(bucket: Bucket, tmp_path: Path) -> None:
    scheme = bucket.server.scheme
    async with Sandbox(runs=3, tasks_per_run=1) as sandbox:
        names = variables(bucket, sandbox, tmp_path)
        done = await run_process(names, "export", sandbox.space_token, f"{scheme}://missing-one/data")
        assert done.status == 1
        assert "missing-one does not exist" in done.err
        assert "hint: create it" in done.err
        done = await run_process(names, "export", sandbox.space_token, f"{scheme}://")
        assert done.status == 2
        assert "TARGET must name a bucket" in done.err
        done = await run_process(
            {**names, "UNPOD_PLATFORM_TOKEN": "f" * 40}, "export", sandbox.space_token, bucket.url
        )
        assert done.status == 4
        assert "Nothing was saved." in done.err
