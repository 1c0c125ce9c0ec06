"""A target whose files and state do not belong together is refused. It never gets a row twice."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.export.dataset import assert_holds
from unpod_async import AuthenticationError, ExportError, UnpodClient
from unpod_async.testing import Sandbox, faults

FORMATS = ["jsonl", "csv", "parquet"]
PART = 4_000
"""Bytes; small enough that every data set here has several parts."""


def client(sandbox: Sandbox) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url)


def state_of(target: Path) -> Path:
    return target / ".unpod-export" / "state.sqlite3"


def files_of(target: Path) -> dict[str, bytes]:
    """Return the files outside of the state, by their path."""
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and ".unpod-export" not in path.parts
    }


def spool_files(target: Path) -> list[Path]:
    return sorted(target.rglob("rows-*"))


async def refused(unpod: UnpodClient, sandbox: Sandbox, target: Path, **options: Any) -> ExportError:
    """Check that an export is refused before any request, and leaves all files as they are."""
    requests, files = sandbox.requests, files_of(target)
    with pytest.raises(ExportError) as caught:
        await unpod.export(sandbox.space_token, target, **options)
    assert caught.value.hint
    assert sandbox.requests == requests
    assert files_of(target) == files
    return caught.value


# -- the state is missing or older --------------------------------------------------------------------------


def remove(state: Path) -> None:
    state.unlink()


def empty(state: Path) -> None:
    state.write_bytes(b"")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("lose", [remove, empty])
async def test_parts_without_their_state_are_refused(
    tmp_path: Path, form: Any, lose: Callable[[Path], None]
) -> None:
    target = tmp_path / "set"
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, target, format=form, part_bytes=PART)
        shutil.copy(state_of(target), tmp_path / "kept")
        lose(state_of(target))
        for _ in range(2):
            error = await refused(unpod, sandbox, target, format=form)
            assert "runs/part-00001" in str(error) or "tasks/part-00001" in str(error)
        shutil.copy(tmp_path / "kept", state_of(target))
        before = sandbox.requests
        assert (await unpod.export(sandbox.space_token, target, format=form)).complete
        assert sandbox.requests - before < 10
        assert_holds(target, sandbox, form)


def new_run(sandbox: Sandbox, line: bytes) -> None:
    sandbox.insert_run(4)


def deleted_run(sandbox: Sandbox, line: bytes) -> None:
    sandbox.delete_run(sandbox.run_ids()[5])


def other_text(sandbox: Sandbox, line: bytes) -> None:
    """Change a task so that the files keep their sizes."""
    sandbox.malform(json.loads(line)["task_id"], line.replace(b"dev", b"DEV"))


@pytest.mark.parametrize("part_bytes", [PART, 2**20])
@pytest.mark.parametrize("change", [new_run, deleted_run, other_text])
async def test_an_older_state_is_refused(
    tmp_path: Path, change: Callable[[Sandbox, bytes], None], part_bytes: int
) -> None:
    target = tmp_path / "set"
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox, client(sandbox) as unpod:
        options: dict[str, Any] = {"part_bytes": part_bytes, "full": True}
        await unpod.export(sandbox.space_token, target, **options)
        shutil.copy(state_of(target), tmp_path / "older")
        before = files_of(target)
        line = before["tasks/part-00001.jsonl"].splitlines()[0]
        change(sandbox, line)
        await unpod.export(sandbox.space_token, target, **options)
        after = files_of(target)
        assert before != after
        if change is other_text:
            assert sum(map(len, before.values())) == sum(map(len, after.values()))
            sandbox.malform(json.loads(line)["task_id"], line)
        shutil.copy(state_of(target), tmp_path / "newer")
        shutil.copy(tmp_path / "older", state_of(target))
        assert "older" in str(await refused(unpod, sandbox, target, **options))
        shutil.copy(tmp_path / "newer", state_of(target))
        assert (await unpod.export(sandbox.space_token, target, **options)).complete
        if change is other_text:
            # A run that was read again stands at the end of its part.
            assert [
                sorted(data.splitlines()) for name, data in files_of(target).items() if "tasks" in name
            ] == [sorted(data.splitlines()) for name, data in before.items() if "tasks" in name]
        else:
            assert_holds(target, sandbox)


@pytest.mark.parametrize(
    ("form", "manifest"),
    [
        *(("jsonl", manifest) for manifest in ("older", "missing", "newer", "killed")),
        ("csv", "older"),
        ("parquet", "missing"),
    ],
)
async def test_an_older_state_whose_parts_have_the_same_sizes_is_refused(
    tmp_path: Path, form: Any, manifest: str
) -> None:
    """The whole state is restored from a backup, after an export that changed no size."""
    target, backup = tmp_path / "set", tmp_path / "backup"
    options: dict[str, Any] = {"full": True, "format": form, "part_bytes": PART}
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox, client(sandbox) as unpod:
        rows = {row["task_id"]: json.dumps(row).encode() for row in sandbox.task_rows(sandbox.run_ids()[4])}
        for mode in (b"dev", b"DEV"):
            for task, row in rows.items():
                sandbox.malform(task, row.replace(b"dev", mode))
            before = files_of(target)
            await unpod.export(sandbox.space_token, target, **options)
            if mode == b"dev":
                shutil.copytree(target, backup)
        after = files_of(target)
        assert {name for name in before if before[name] != after[name]} >= {"_manifest.json"}
        sizes = [
            {name: len(data) for name, data in files.items() if "part" in name} for files in (before, after)
        ]
        shutil.move(target / ".unpod-export", tmp_path / "newer")
        shutil.copytree(backup / ".unpod-export", target / ".unpod-export")
        if manifest == "older":
            shutil.copy2(backup / "_manifest.json", target)
        elif manifest != "newer":
            (target / "_manifest.json").unlink()
        if manifest == "killed":  # as if the last export had been killed
            statement("UPDATE meta SET value = 0 WHERE name = 'ended'")(state_of(target))
        assert form == "parquet" or sizes[0] == sizes[1]
        assert "older" in str(await refused(unpod, sandbox, target, **options))
        shutil.rmtree(target / ".unpod-export")
        shutil.copytree(tmp_path / "newer", target / ".unpod-export")
        assert (await unpod.export(sandbox.space_token, target, **options)).complete


@pytest.mark.parametrize("kept", [True, False])
async def test_a_restored_target_is_read_once_at_most(
    tmp_path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup may have other times. Then the content of the parts is compared, once."""
    target, copy = tmp_path / "set", tmp_path / "copy"
    hashed: list[str] = []
    digest = hashlib.file_digest

    def note(file: Any, name: Any) -> Any:
        hashed.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", note)
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, target, part_bytes=PART)
        await unpod.export(sandbox.space_token, target, part_bytes=PART)
        shutil.copytree(target, copy, copy_function=shutil.copy2 if kept else shutil.copy)
        hashed.clear()
        (copy / "_manifest.json").unlink()
        for expected in ((0 if kept else len(list(copy.glob("*/part-*")))), 0):
            assert (await unpod.export(sandbox.space_token, copy, part_bytes=PART)).complete
            assert len(hashed) == expected
            hashed.clear()
        assert_holds(copy, sandbox)
        # A target of an earlier version knows no times.
        statement("DROP TABLE part_time")(state_of(copy))
        for expected in (True, False):
            assert (await unpod.export(sandbox.space_token, copy, part_bytes=PART)).complete
            assert bool(hashed) == expected
            hashed.clear()


async def test_a_stale_or_odd_manifest_is_not_evidence(tmp_path: Path) -> None:
    """Only the files themselves decide, for example after a power cut that brought a manifest back."""
    async with Sandbox(runs=8, tasks_per_run=3) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path)
        manifest = tmp_path / "_manifest.json"
        stale = manifest.read_bytes()
        sandbox.insert_run(2)
        await unpod.export(sandbox.space_token, tmp_path)
        for content in (stale, b"", b"\xff", b"[]", b'{"parts": [{"name": 5}]}', b"[" * 100_000):
            manifest.write_bytes(content)
            assert (await unpod.export(sandbox.space_token, tmp_path)).complete
            assert_holds(tmp_path, sandbox)


def cut(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize("lose", [remove, cut])
async def test_staged_rows_that_are_gone_are_noticed(
    tmp_path: Path, lose: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unpod_async._export.storage.checkpoint._INTERVAL", 0.0)
    async with Sandbox(runs=12, tasks_per_run=3) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.token_revoked(path=f"{sandbox.space_token}/tasks/", page=4, times=1))
        with pytest.raises(AuthenticationError):
            await unpod.export(sandbox.space_token, tmp_path, page_size=5)
        (spool,) = spool_files(tmp_path)
        kept = spool.read_bytes()
        lose(spool)
        error = await refused(unpod, sandbox, tmp_path, page_size=5)
        assert spool.name in str(error)
        spool.write_bytes(kept)
        assert (await unpod.export(sandbox.space_token, tmp_path, page_size=5)).complete
        assert_holds(tmp_path, sandbox)


# -- files that are not ours --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "tasks/part-00009.jsonl",
        "tasks/part-00001 (1).jsonl",
        "tasks/Copy of part-00001.jsonl",
        "tasks/part-00001.csv",
        "tasks/more.parquet",
        "runs/part-00002.jsonl",
    ],
)
async def test_a_part_that_is_not_ours_is_refused(tmp_path: Path, name: str) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path)
        (tmp_path / name).write_bytes((tmp_path / "tasks" / "part-00001.jsonl").read_bytes())
        assert name in str(await refused(unpod, sandbox, tmp_path))
        (tmp_path / name).unlink()
        assert (await unpod.export(sandbox.space_token, tmp_path)).complete
        assert_holds(tmp_path, sandbox)


@pytest.mark.parametrize("folders", [(), ("tasks",), ("tasks", "runs")])
async def test_empty_folders_of_parts_do_not_keep_an_export_from_starting(
    folders: tuple[str, ...], tmp_path: Path
) -> None:
    """An export whose state was removed before it published anything leaves them behind."""
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        for folder in folders:
            (tmp_path / folder).mkdir()
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert summary.complete
        assert_holds(tmp_path, sandbox)


async def test_the_state_can_be_removed_after_an_export_that_published_nothing(tmp_path: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.stall(60))
        job = asyncio.ensure_future(unpod.export(sandbox.space_token, tmp_path))
        await sandbox.arrived(1)
        shutil.rmtree(tmp_path / ".unpod-export")
        job.cancel()
        with pytest.raises((asyncio.CancelledError, ExportError)):
            await job
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert summary.complete
        assert_holds(tmp_path, sandbox)


async def test_files_that_no_reader_takes_for_a_part_may_stay(tmp_path: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path)
        odd = ["tasks/.DS_Store", "tasks/_SUCCESS", "runs/Thumbs.db", ".unpod-export/rows-abc"]
        odd += [".unpod-export/rows-", ".unpod-export/rows-9999999999999999999999", ".unpod-export/rows-٣"]
        odd += [".unpod-export/rows-000001 (1)", ".unpod-export/new-notes"]
        for name in odd:
            (tmp_path / name).write_text("mine")
        sandbox.insert_run(2)
        assert (await unpod.export(sandbox.space_token, tmp_path)).complete
        assert all((tmp_path / name).read_text() == "mine" for name in odd)
        for name in odd[:3]:
            (tmp_path / name).unlink()
        assert_holds(tmp_path, sandbox)


def as_folder(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.mkdir()


def as_text(path: Path) -> None:
    path.write_text("no database at all, but longer than its header of a hundred bytes " * 9)


@contextlib.contextmanager
def changed(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        yield database


def statement(text: str, *values: object) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with changed(path) as database:
            database.execute(text, values)

    return run


def other_database(path: Path) -> None:
    path.unlink()
    with changed(path) as database:
        database.execute("CREATE TABLE theirs (a)")


SET_VALUE = "UPDATE meta SET value = ? WHERE name = ?"


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("state.sqlite3", as_folder),
        ("state.sqlite3", as_text),
        ("state.sqlite3", lambda path: os.truncate(path, 5_000)),
        ("state.sqlite3", other_database),
        ("state.sqlite3", statement("DROP TABLE part")),
        ("state.sqlite3", statement("DELETE FROM meta")),
        ("state.sqlite3", statement(SET_VALUE, "five", "version")),
        ("state.sqlite3", statement(SET_VALUE, b"{", "options")),
        ("state.sqlite3", statement(SET_VALUE, b"[]", "options")),
        ("state.sqlite3", statement(SET_VALUE, b"\xff", "options")),
        ("state.sqlite3", statement(SET_VALUE, 7, "options")),
        ("state.sqlite3", statement(SET_VALUE, "many", "listing")),
        ("state.sqlite3", statement(SET_VALUE, "yesterday", "since")),
        ("lock", as_folder),
        ("rows-000003", as_folder),
    ],
)
async def test_odd_files_in_the_state_give_our_errors_until_they_are_put_right(
    tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path)
        file = tmp_path / ".unpod-export" / name
        kept = file.read_bytes() if file.exists() else None
        spoil(file)
        error = await refused(unpod, sandbox, tmp_path)
        assert "closed database" not in str(error)
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink()
        if kept is not None:
            file.write_bytes(kept)
        sandbox.insert_run(2)
        summary = await unpod.export(sandbox.space_token, tmp_path)
        assert (summary.complete, summary.runs, summary.tasks) == (True, 4, 8)
        assert_holds(tmp_path, sandbox)


# -- other causes outside of the program --------------------------------------------------------------------


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder that files cannot be moved to from `tmp_path`."""
    memory = Path("/dev/shm")  # noqa: S108 - on Linux always of its own file system
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_a_state_on_another_file_system_is_noticed_at_once(
    tmp_path: Path, other_file_system: Path, form: Any, before: bool
) -> None:
    work = tmp_path / ".unpod-export"
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        if before:
            await unpod.export(sandbox.space_token, tmp_path, format=form)
            shutil.copytree(work, other_file_system / "state")
            shutil.rmtree(work)
            sandbox.insert_run(2)
        else:
            (other_file_system / "state").mkdir()
        work.symlink_to(other_file_system / "state")
        error = await refused(unpod, sandbox, tmp_path, format=form)
        assert "cross-device" in str(error)
        assert "to one file system" in str(error.hint)
        work.unlink()
        shutil.copytree(other_file_system / "state", work)
        assert (await unpod.export(sandbox.space_token, tmp_path, format=form)).complete
        assert_holds(tmp_path, sandbox, form)


async def test_a_folder_of_parts_on_another_file_system_is_noticed_at_once(
    tmp_path: Path, other_file_system: Path
) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        (tmp_path / "tasks").symlink_to(other_file_system)
        error = await refused(unpod, sandbox, tmp_path)
        assert "cross-device" in str(error)
        assert "to one file system and run the same export again" in str(error.hint)
        assert not os.listdir(other_file_system)  # noqa: PTH208 - it does not block for long
        # Nothing was stored, so nothing stays.
        assert os.listdir(tmp_path) == ["tasks"]  # noqa: PTH208 - it does not block for long


FEW_FILES = """
import asyncio, os, resource, sys
from unpod_async import AuthenticationError, ExportError, UnpodClient

token, url, space, target, form, held = sys.argv[1:]

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(int(held))]
    async with UnpodClient(token, base_url=url) as unpod:
        try:
            await unpod.export(space, target, format=form, part_bytes=1, concurrency=32, page_size=2)
        except ExportError as error:
            print(error)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_NOFILE is of POSIX")
@pytest.mark.parametrize(
    ("form", "held", "runs"), [("jsonl", 0, 40), ("jsonl", 30, 40), ("parquet", 50, 9), ("jsonl", 56, 5)]
)
async def test_a_limit_of_64_open_files(tmp_path: Path, form: Any, held: int, runs: int) -> None:
    """The limit is enough for an export alone. With too many other files, there is an error with a hint."""
    async with Sandbox(runs=runs, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", FEW_FILES, sandbox.token, sandbox.base_url),
            *(sandbox.space_token, str(tmp_path / "set"), form, str(held)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
        if held:
            assert "cannot be written" in output
            assert "hint: raise the limit of open files" in output
            await unpod.export(sandbox.space_token, tmp_path / "set", format=form, part_bytes=1)
        else:
            assert output == ""
        assert_holds(tmp_path / "set", sandbox, form)
