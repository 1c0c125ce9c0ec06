"""Spool files that become parts as they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.export.dataset import assert_holds
from tests.export.model_space import SPACE, model_space
from tests.export.test_incremental import folder
from unpod_async import UnpodClient
from unpod_async._export.storage import Spool, spool_path, sync
from unpod_async.testing import Sandbox

PART = 20_000


def runs_by_part(target: Path) -> dict[str, set[str]]:
    return {
        path.name: {json.loads(line)["run_id"] for line in path.read_bytes().splitlines()}
        for path in (target / "tasks").iterdir()
    }


def spool_files(target: Path) -> list[Path]:
    return list(target.rglob("rows-*"))


def identities(folder_: Path) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in folder_.iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


@pytest.mark.parametrize("page_size", [2, None])
async def test_no_spool_file_stays_and_a_run_is_in_one_part(tmp_path: Path, page_size: int | None) -> None:
    async with (
        Sandbox(runs=30, tasks_per_run=(0, 9)) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod,
    ):
        # The pages of a long run arrive between those of other runs.
        for _ in range(25):
            sandbox.insert_task(sandbox.run_ids()[10])
        for _ in range(2):
            await unpod.export(
                sandbox.space_token, tmp_path, page_size=page_size, part_bytes=PART, full=True, concurrency=8
            )
            assert_holds(tmp_path, sandbox)
            parts = runs_by_part(tmp_path)
            assert len(parts) > 3
            assert sum(map(len, parts.values())) == len(set().union(*parts.values()))
            assert spool_files(tmp_path) == []
            sandbox.insert_task(sandbox.run_ids()[10])
            sandbox.insert_run(4)


async def test_rows_that_have_not_changed_leave_no_spool_file(tmp_path: Path) -> None:
    async with (
        Sandbox(runs=5, tasks_per_run=3) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod,
    ):
        await unpod.export(sandbox.space_token, tmp_path, settle_after=10**9)
        parts = identities(tmp_path / "tasks")
        summary = await unpod.export(sandbox.space_token, tmp_path, settle_after=10**9)
        assert (summary.fetched_runs, spool_files(tmp_path)) == (5, [])
        assert identities(tmp_path / "tasks") == parts


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_a_full_part_is_not_written_again_for_new_runs(tmp_path: Path, form: Any) -> None:
    async with (
        Sandbox(runs=4, tasks_per_run=3) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod,
    ):
        for _ in range(3):
            await unpod.export(sandbox.space_token, tmp_path, format=form, settle_after=0, part_bytes=1)
            parts = identities(tmp_path / "tasks")
            sandbox.insert_run(3)
            await unpod.export(sandbox.space_token, tmp_path, format=form, settle_after=0, part_bytes=1)
            assert len(identities(tmp_path / "tasks")) == len(parts) + 1
            assert identities(tmp_path / "tasks").items() >= parts.items()


async def test_a_full_spool_file_becomes_a_part_without_being_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unpod_async._export.storage.checkpoint._INTERVAL", 0.0)
    target = tmp_path / "set"
    names_before: dict[Path, str] = {}
    replace = Path.replace

    def note_and_replace(path: Path, target: Path) -> Path:
        names_before[target] = path.name
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", note_and_replace)
    async with model_space() as space, space.client() as unpod:
        space.has_space_tasks = False
        for number in range(60):
            space.add_run(number, 20)
        await unpod.export(SPACE, target, part_bytes=PART, concurrency=1)
        parts = list((target / "tasks").iterdir())
        assert len(parts) > 5
        copied = [part for part in parts if not names_before[part].startswith("rows-")]
        assert len(copied) <= 1


async def test_a_part_that_is_full_is_not_filled_again(tmp_path: Path) -> None:
    async with model_space() as space, space.client() as unpod:
        space.add_run(0, 100)
        await unpod.export(SPACE, tmp_path / "measured")
        (part,) = (tmp_path / "measured" / "tasks").iterdir()
        part_bytes = part.stat().st_size * 5 // 3
        # The first run fills three fifths of a part, and the second one the rest.
        for number, parts in ((0, 1), (1, 1), (2, 2)):
            if number:
                space.add_run(number, 100)
            await unpod.export(SPACE, tmp_path / "set", part_bytes=part_bytes)
            assert len(list((tmp_path / "set" / "tasks").iterdir())) == parts


APPENDED = st.lists(st.tuples(st.integers(0, 50), st.lists(st.binary(max_size=30), min_size=1, max_size=4)))


MANY = [(run, [b"row"]) for run in (*range(50), *range(0, 50, 7))]


@settings(max_examples=100)
@example(appended=MANY, file_bytes=1)
@given(appended=APPENDED, file_bytes=st.sampled_from([1, 40, 10_000]))
def test_appended_rows_are_at_the_returned_position(
    appended: list[tuple[int, list[bytes]]], file_bytes: int
) -> None:
    """All rows of a run are in one file, and its digest is correct."""
    with folder() as there:
        spool = Spool(there, 7, file_bytes, hashes=True)
        extents = []
        for number, (run, lines) in enumerate(appended):
            extents.append((run, lines, spool.append(run, lines)))
            if number % 3 == 0:
                sync(spool.write(spool.take()))
            if number % 20 == 0:
                spool.close(spool.take_ended())
        spool.write(spool.take())
        spool.close()
        for _, lines, extent in extents:
            data = spool_path(there, extent.file).read_bytes()
            assert data[extent.start :][: extent.length] == b"".join(line + b"\n" for line in lines)
            assert extent.rows == len(lines)
        assert all(
            len({extent.file for of_run, _, extent in extents if of_run == run}) <= 1 for run in range(51)
        )
        for path in there.iterdir():
            number = int(path.name.rpartition("-")[2])
            assert spool.digests[number] == hashlib.sha256(path.read_bytes()).hexdigest()
