"""The layout of an export target: what other tools read, what survives a power loss, what is refused."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pandas as pd
import polars as pl
import pyarrow.dataset as pa_dataset
import pytest

from unpod_async import UnpodClient
from unpod_async.errors import ExportError, InvalidArgument
from unpod_async.testing import Sandbox

PART = 20_000
"""Bytes; small enough that every data set here has several parts of tasks."""


def client(sandbox: Sandbox) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url)


def expected_ids(sandbox: Sandbox, kind: str) -> list[str]:
    rows = sandbox.run_rows() if kind == "runs" else sandbox.task_rows()
    return sorted(row["run_id" if kind == "runs" else "task_id"] for row in rows)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents_of(folder: Path) -> dict[str, bytes]:
    """Return the files in the folder itself."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def duck_ids(source: str, name: str) -> list[str]:
    with duckdb.connect() as connection:
        return sorted(row[0] for row in connection.execute(f"SELECT {name} FROM {source}").fetchall())  # noqa: S608 - ours


async def test_the_target_has_a_folder_for_each_kind_of_row(tmp_path: Path) -> None:
    async with Sandbox(runs=20, tasks_per_run=5) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path, part_bytes=PART)
    assert names_in(tmp_path) == [".unpod-export", "_manifest.json", "runs", "tasks"]
    assert names_in(tmp_path / "runs") == ["part-00001.jsonl"]
    tasks = names_in(tmp_path / "tasks")
    assert len(tasks) > 1
    assert tasks == [f"part-{number:05d}.jsonl" for number in range(1, len(tasks) + 1)]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
async def test_only_the_owner_can_read_a_target(tmp_path: Path) -> None:
    target = tmp_path / "new"
    before = os.umask(0)
    try:
        async with Sandbox(runs=2, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
            await unpod.export(sandbox.space_token, target)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (target, *target.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


@pytest.mark.parametrize("kind", ["runs", "tasks"])
async def test_directories_of_parquet_are_read_as_one_table(tmp_path: Path, kind: str) -> None:
    name = "run_id" if kind == "runs" else "task_id"
    async with Sandbox(runs=20, tasks_per_run=5) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path, format="parquet", part_bytes=PART)
        expected = expected_ids(sandbox, kind)
    folder = tmp_path / kind
    assert len(names_in(folder)) > (kind == "tasks")
    assert sorted(pd.read_parquet(str(folder))[name]) == expected
    assert sorted(pl.read_parquet(folder)[name]) == expected
    assert sorted(pl.scan_parquet(folder).collect()[name]) == expected
    assert sorted(pa_dataset.dataset(folder).to_table()[name].to_pylist()) == expected
    assert duck_ids(f"'{folder}/*.parquet'", name) == expected


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv"])
async def test_globs_of_duckdb_read_text_formats(tmp_path: Path, form: Any) -> None:
    async with Sandbox(runs=20, tasks_per_run=5) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path, format=form, part_bytes=PART)
        for kind, name in (("runs", "run_id"), ("tasks", "task_id")):
            glob = f"{tmp_path}/{kind}/*.{form}"
            source = (
                f"read_csv('{glob}', all_varchar=true)"
                if form == "csv"
                else f"read_json('{glob}', format='newline_delimited', columns={{{name}: 'VARCHAR'}})"
            )
            assert duck_ids(source, name) == expected_ids(sandbox, kind)


def old_target(target: Path) -> None:
    """Make what version 1 of the layout left behind: state, parts and manifest in the target itself."""
    (target / ".unpod-export").mkdir()
    with sqlite3.connect(target / ".unpod-export" / "state.sqlite3") as state:
        state.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID")
        state.execute("INSERT INTO meta VALUES ('version', 3)")
    state.close()
    (target / "tasks-00001.jsonl").write_text("")
    (target / "runs-00001.jsonl").write_text("")
    (target / "manifest.json").write_text("{}")


@pytest.mark.parametrize("with_state", [True, False])
async def test_a_target_of_the_old_layout_is_refused_and_left_alone(tmp_path: Path, with_state: bool) -> None:
    old_target(tmp_path)
    if not with_state:
        (tmp_path / ".unpod-export" / "state.sqlite3").unlink()
        (tmp_path / ".unpod-export").rmdir()
    before = contents_of(tmp_path)
    async with Sandbox(runs=1) as sandbox, client(sandbox) as unpod:
        with pytest.raises(ExportError, match="older") as caught:
            await unpod.export(sandbox.space_token, tmp_path)
        assert caught.value.hint == "export to a directory that is empty or does not exist"
        assert sandbox.requests == 0
    assert contents_of(tmp_path) == before
    assert not (tmp_path / "tasks").exists()


@pytest.mark.parametrize("name", ["tasks", "runs", "_manifest.json"])
async def test_files_of_others_are_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    async with Sandbox(runs=1) as sandbox, client(sandbox) as unpod:
        with pytest.raises(ExportError, match=name) as caught:
            await unpod.export(sandbox.space_token, tmp_path)
    assert caught.value.hint
    assert contents_of(tmp_path) == {name: b"mine"}
    assert names_in(tmp_path) == [name]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to name the directory of a descriptor")
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_names_survive_a_power_loss(tmp_path: Path, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every directory that gets a new name is synced before the next file gets its own."""
    target = tmp_path / "set"
    unsynced: set[Path] = set()
    synced: set[Path] = set()
    made: list[str] = []
    make, move, sync = os.mkdir, os.replace, os.fsync

    def mkdir(path: Any, *rest: Any, **options: Any) -> None:
        make(path, *rest, **options)
        if Path(path).parent == target:
            unsynced.add(target)

    def replace(source: Any, path: Any) -> None:
        assert unsynced == set(), "an earlier name would be lost with the power"
        assert Path(source) in synced or "rows-" in Path(source).name
        move(source, path)
        made.append(str(Path(path).relative_to(target)))
        unsynced.add(Path(path).parent)

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        unsynced.discard(path)
        synced.add(path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "fsync", fsync)
    async with Sandbox(runs=20, tasks_per_run=5) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, target, format=form, part_bytes=PART)
    assert unsynced == set()
    assert made[-1] == "_manifest.json"
    assert len(made) > 3
    assert {name.partition("/")[0] for name in made[:-1]} == {"runs", "tasks"}


# -- names of targets ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not UTF-8")
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_the_name_of_a_target_need_not_be_utf_8(tmp_path: Path, form: Any) -> None:
    target = tmp_path / os.fsdecode(b"caf\xe9 \xff")
    shown = f"{tmp_path}/caf\\xe9 \\xff"
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        for _ in range(2):
            summary = await unpod.export(sandbox.space_token, target, format=form)
            assert summary.complete
            assert summary.target == shown
            assert shown.replace("\\", "\\\\").encode() in msgspec.json.encode(summary)
            sandbox.insert_run(2)
        (target / "tasks" / os.fsdecode(b"part-\xff.csv")).touch()
        with pytest.raises(ExportError, match=r"part-\\xff\.csv") as caught:
            await unpod.export(sandbox.space_token, target, format=form)
        assert shown in str(caught.value)
        str(caught.value).encode()


@pytest.mark.parametrize("target", ["", "a\0b", "\ud800", 5, None, b"bytes"])
async def test_what_is_no_path_is_refused(target: Any) -> None:
    async with UnpodClient("key") as unpod:
        with pytest.raises(InvalidArgument, match="target must be the path of a directory"):
            await unpod.export("S", target)
