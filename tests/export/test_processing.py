"""A function that is applied to each task of the shards, and the table of its rows."""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.export.odd_rows import odd_line
from unpod_async import ExportError, ExportPlan, TargetLockedError, Task, UnpodClient
from unpod_async._common import Stopped, locked
from unpod_async._export import merge_processed, process_shard, shard_directory
from unpod_async._tables import COLUMNS, join_cells, row_names, split_into_cells
from unpod_async.testing import Sandbox

FORMS = ["jsonl", "jsonl.gz", "csv", "parquet"]


def never() -> bool:
    return False


def details(task: Task) -> Iterator[dict[str, Any]]:
    call = task.call
    yield {
        "status": task.status,
        "created": task.created_at,
        "input": task.input,
        "outcome": None if call is None else call.outcome,
        "messages": 0 if call is None else len(call.messages or ()),
    }


async def exported(unpod: UnpodClient, space: str, target: Path, **options: Any) -> ExportPlan:
    plan = await unpod.plan_export(space, shards=2, **options)
    for shard in range(plan.shards):
        await unpod.export_shard(plan, shard, target)
    return plan


def process_all(plan: ExportPlan, target: Path, process: Callable[..., Any], job: str = "job") -> None:
    for shard in range(plan.shards):
        process_shard(shard_directory(target, shard), process, job, never)


def lines_of(target: Path) -> list[Any]:
    paths = sorted((target / "processed").iterdir())
    return sorted(
        (json.loads(line) for path in paths for line in path.read_text().splitlines()),
        key=lambda row: str(row["task_id"]),
    )


@pytest.mark.parametrize("form", FORMS)
async def test_every_format_gives_the_function_the_same_tasks(tmp_path: Path, form: Any) -> None:
    async with Sandbox(runs=25) as sandbox, sandbox.client() as unpod:
        plan = await exported(unpod, sandbox.space_token, tmp_path, format=form)
        process_all(plan, tmp_path, details)
        table = merge_processed(plan, tmp_path, never)
        tasks = await unpod.tasks.list(sandbox.space_token).collect()
    expected = [
        {"run_id": task.run_id, "task_id": task.task_id, **row} for task in tasks for row in details(task)
    ]
    assert lines_of(tmp_path) == sorted(
        json.loads(msgspec.json.encode(expected)), key=lambda row: str(row["task_id"])
    )
    assert (table.rows, table.failed, table.reasons) == (len(tasks), 0, ())
    assert all((path.stat().st_mode & 0o77) == 0 for path in (tmp_path / "processed").iterdir())


async def test_within_a_job_only_changed_parts_are_processed_again(tmp_path: Path) -> None:
    seen: list[str | None] = []

    def process(task: Task) -> list[dict[str, Any]]:
        seen.append(task.task_id)
        return [{"a": 1}]

    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await exported(unpod, sandbox.space_token, tmp_path)
        process_all(plan, tmp_path, process)
        assert sorted(map(str, seen)) == sorted(sandbox.task_ids())
        seen.clear()
        process_all(plan, tmp_path, process)
        assert seen == []
        process_all(plan, tmp_path, process, "another job")
        assert len(seen) == sandbox.task_count
        seen.clear()
        (part,) = (shard_directory(tmp_path, 0) / "processed").iterdir()
        part.write_bytes(b"changed\n")
        process_all(plan, tmp_path, process, "another job")
        assert 0 < len(seen) < sandbox.task_count
        assert merge_processed(plan, tmp_path, never).rows == sandbox.task_count


async def test_processing_that_is_stopped_publishes_nothing(tmp_path: Path) -> None:
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await exported(unpod, sandbox.space_token, tmp_path)
    asked = iter([False, False, True])
    directory = shard_directory(tmp_path, 0)
    with pytest.raises(Stopped):
        process_shard(directory, details, "job", lambda: next(asked))
    assert list((directory / "processed").iterdir()) == []
    with pytest.raises(ExportError, match="shard 0 has not been processed"):
        merge_processed(plan, tmp_path, never)


async def test_a_function_that_yields_rows_for_ever_can_be_stopped(tmp_path: Path) -> None:
    def process(_task: Task) -> Iterator[dict[str, Any]]:
        for number in itertools.count():
            yield {"number": number}

    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        await exported(unpod, sandbox.space_token, tmp_path)
    asked = itertools.count()
    directory = shard_directory(tmp_path, 0)
    with pytest.raises(Stopped):
        process_shard(directory, process, "job", lambda: next(asked) > 100)
    assert list((directory / "processed").iterdir()) == []


async def test_only_one_process_at_a_time_writes_to_a_shard_and_to_the_merged_table(tmp_path: Path) -> None:
    """A worker that was suspended may resume after its shard has been given to another one."""
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await exported(unpod, sandbox.space_token, tmp_path)
        directory = shard_directory(tmp_path, 0)

        def process(task: Task) -> Iterator[dict[str, Any]]:
            with pytest.raises(TargetLockedError) as caught:
                process_shard(directory, details, "job", never)
            assert caught.value.hint
            yield from details(task)

        assert process_shard(directory, process, "job", never).reasons == ()
        with locked(directory / ".unpod-export" / "lock"), pytest.raises(TargetLockedError):
            process_shard(directory, details, "job", never)
        process_all(plan, tmp_path, details)
        with locked(tmp_path / "_shards" / "lock"), pytest.raises(TargetLockedError):
            merge_processed(plan, tmp_path, never)
        assert merge_processed(plan, tmp_path, never).rows == sandbox.task_count


async def test_a_function_that_ends_the_program_costs_the_rows_of_its_task(tmp_path: Path) -> None:
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await exported(unpod, sandbox.space_token, tmp_path)
        process_all(plan, tmp_path, lambda _task: sys.exit(1))
        merged = merge_processed(plan, tmp_path, never)
    assert (merged.rows, merged.failed) == (0, sandbox.task_count)
    assert "with SystemExit" in merged.reasons[0]


async def test_rows_have_the_ids_of_their_task(tmp_path: Path) -> None:
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await exported(unpod, sandbox.space_token, tmp_path)
        process_all(plan, tmp_path, lambda _task: [{"task_id": "another", "a": 1, "run_id": None}])
        merge_processed(plan, tmp_path, never)
    assert {row["task_id"] for row in lines_of(tmp_path)} == set(sandbox.task_ids())
    assert {row["run_id"] for row in lines_of(tmp_path)} <= set(sandbox.run_ids())
    assert {tuple(row) for row in lines_of(tmp_path)} == {("run_id", "task_id", "a")}


async def test_a_table_that_cannot_be_written_is_an_error_with_a_hint(tmp_path: Path) -> None:
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await exported(unpod, sandbox.space_token, tmp_path)
        (shard_directory(tmp_path, 0) / "processed").write_text("not a folder")
        with pytest.raises(ExportError, match="cannot be written: File exists"):
            process_all(plan, tmp_path, details)


async def test_a_merge_that_is_stopped_publishes_nothing(tmp_path: Path) -> None:
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await exported(unpod, sandbox.space_token, tmp_path)
        process_all(plan, tmp_path, details)
        asked = iter([False, True])
        with pytest.raises(Stopped):
            merge_processed(plan, tmp_path, lambda: next(asked))
        assert lines_of(tmp_path) == []
        assert not (tmp_path / "_shards" / "merging-processed").exists()
        assert merge_processed(plan, tmp_path, never).rows == sandbox.task_count


async def test_a_shard_that_was_exported_again_must_be_processed_again(tmp_path: Path) -> None:
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await exported(unpod, sandbox.space_token, tmp_path)
        process_all(plan, tmp_path, details)
        sandbox.advance()
        for shard in range(plan.shards):
            await unpod.export_shard(plan, shard, tmp_path)
        with pytest.raises(ExportError, match=r"shard \d was exported again after it was processed"):
            merge_processed(plan, tmp_path, never)
        process_all(plan, tmp_path, details)
        assert merge_processed(plan, tmp_path, never).rows == sandbox.task_count


@pytest.mark.parametrize("damage", ["change", "remove", "table", "job"])
async def test_damaged_tables_are_not_merged(tmp_path: Path, damage: str) -> None:
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await exported(unpod, sandbox.space_token, tmp_path)
    process_all(plan, tmp_path, details)
    before = merge_processed(plan, tmp_path, never)
    rows = lines_of(tmp_path)
    directory = shard_directory(tmp_path, 1)
    (part,) = (directory / "processed").iterdir()
    if damage == "change":
        part.write_bytes(b"{}\n")
    elif damage == "remove":
        part.unlink()
    elif damage == "table":
        (directory / "_processed.json").write_text("[")
    else:
        process_shard(directory, details, "another job", never)
    with pytest.raises(ExportError) as caught:
        merge_processed(plan, tmp_path, never)
    assert caught.value.hint
    assert lines_of(tmp_path) == rows
    process_all(plan, tmp_path, details, "a third job")
    assert merge_processed(plan, tmp_path, never).rows == before.rows


@given(st.integers(0, 2**32), st.sampled_from(["runs", "tasks"]))
def test_a_row_of_a_table_is_made_a_line_again(seed: int, kind: Any) -> None:
    line = odd_line(random.Random(seed), kind, 0.5)
    names = [column.name for column in COLUMNS[kind]]
    cells = dict(zip(names, split_into_cells(kind, line), strict=True))
    joined = join_cells(kind, [cells[name] for name in row_names(kind)])
    again = dict(zip(names, split_into_cells(kind, joined), strict=True))
    # What is in `extra` beside a column is less exact in the column, and is in the line twice.
    assert {name: cell for name, cell in again.items() if name != "extra"} == {
        name: cell for name, cell in cells.items() if name != "extra"
    }
