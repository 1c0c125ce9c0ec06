"""Spool files that become parts as they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.export.dataset import assert_holds
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
