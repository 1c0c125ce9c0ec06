"""Reading a data set back: the same cells from every format, and an error for files that no export wrote."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.export.parts import KINDS, lines, written
from tests.report.dataset import call, invented_rows, write_dataset
from tests.tables import each_row
from unpod_async import ExportError
from unpod_async._export import DatasetReader
from unpod_async._export.formats import COLUMNS, FORMATS, CsvOptions, RowKind, split_into_cells
from unpod_async.testing import Sandbox

START = datetime(2026, 1, 5, tzinfo=UTC)
NAMES = {kind: [column.name for column in COLUMNS[kind] if column.kind != "json"] for kind in KINDS}


def rows_of(batches: Any) -> list[tuple[Any, ...]]:
    return [row for columns in batches for row in zip(*columns, strict=True)]


def expected(kind: RowKind, form: str) -> list[tuple[Any, ...]]:
    """Return the cells of the hostile rows. CSV has no NUL, and is read without empty strings."""
    places = [index for index, column in enumerate(COLUMNS[kind]) if column.kind != "json"]
    rows = [tuple(split_into_cells(kind, line)[place] for place in places) for line in lines(kind)]
    if form != "csv":
        return rows
    return [
        tuple((cell.replace("\0", "") or None) if isinstance(cell, str) else cell for cell in row)
        for row in rows
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMATS)
def test_the_cells_are_those_that_were_written(tmp_path: Path, form: str, kind: RowKind) -> None:
    path = written(tmp_path / "part", form, kind, lines(kind))
    found = rows_of(FORMATS[form].read(path, kind, NAMES[kind], CsvOptions()))
    assert found == expected(kind, form)


@pytest.mark.parametrize("kind", KINDS)
def test_csv_for_spreadsheets_has_the_same_cells(tmp_path: Path, kind: RowKind) -> None:
    options = CsvOptions(safe=True, byte_order_mark=True)
    path = written(tmp_path / "part", "csv", kind, lines(kind), options)
    assert rows_of(FORMATS["csv"].read(path, kind, NAMES[kind], options)) == expected(kind, "csv")


def test_the_limit_of_the_csv_module_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = written(tmp_path / "part", "csv", "tasks", lines("tasks"))
    for _ in FORMATS["csv"].read(path, "tasks", ["task_id"], CsvOptions()):
        assert csv.field_size_limit() == before


def test_several_threads_read_csv_at_the_same_time(tmp_path: Path) -> None:
    """The shards of a worker process are read in its threads."""
    before = csv.field_size_limit()
    large = b'{"task_id":"%b"}' % (b"x" * (before + 1))
    path = written(tmp_path / "part", "csv", "tasks", [large, *[b'{"task_id":"a"}'] * 400])

    def read(_: int) -> int:
        return len(rows_of(FORMATS["csv"].read(path, "tasks", ["task_id"], CsvOptions())))

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(read, range(200))) == {401}
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("form", FORMATS)
async def test_an_export_is_read_in_several_parts(tmp_path: Path, form: str) -> None:
    async with Sandbox(runs=30, tasks_per_run=(1, 9)) as sandbox, sandbox.client() as unpod:
        await unpod.export(sandbox.space_token, tmp_path, format=form, part_bytes=20_000)
        dataset = DatasetReader(tmp_path)
        assert len(dataset.manifest.parts) > 3
        found = rows_of(dataset.read("tasks", ["task_id", "status"]))
        assert sorted(found) == sorted((row["task_id"], row["status"]) for row in sandbox.task_rows())
        assert len(rows_of(dataset.read("runs", ["run_id"]))) == 30
        dataset.check_unchanged()


@pytest.mark.parametrize("form", FORMATS)
def test_memory_does_not_depend_on_the_number_of_rows(tmp_path: Path, form: str) -> None:
    def peak(number: int) -> int:
        rows = (call(index, START, output={"transcript": "x" * 300}) for index in range(number))
        target = write_dataset(tmp_path / str(number), [], rows, form)
        rows_of_batches = DatasetReader(target).read("tasks", ["task_id", "call_outcome"])
        next(rows_of_batches)  # imports
        tracemalloc.start()
        for _ in rows_of_batches:
            pass
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    assert peak(20_000) < peak(4_000) + 500_000


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def overwrite(path: Path) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + b"\xff\x00garbage\xff" + data[middle + 10 :])


def in_quotes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b'"\n')


def fewer_cells(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'"T1"\n')


def other_value(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"2026-02-", b"2026-99-"))


def no_column(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"assignee", b"assigned"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@each_row(
    "form, damage, message",
    [
        ("jsonl", overwrite, "it is damaged (a line is not a JSON object)"),
        ("jsonl", truncate, "it is damaged (a line is not a JSON object)"),
        ("jsonl.gz", truncate, "it is damaged ("),
        ("jsonl.gz", overwrite, "it is damaged ("),
        ("csv", in_quotes, "it is damaged ("),
        ("csv", fewer_cells, "it is damaged (a row has more or fewer cells"),
        ("csv", other_value, "it is damaged (a cell has a value that no export writes)"),
        ("csv", no_column, "it has no column assignee"),
        ("csv", empty, "it has no column assignee"),
        ("parquet", truncate, "it is damaged ("),
        ("parquet", overwrite, "it is damaged ("),
        ("parquet", empty, "it is damaged ("),
    ],
)
def test_a_damaged_part_is_an_error(
    tmp_path: Path, form: str, damage: Callable[[Path], None], message: str
) -> None:
    target = tmp_path / f"{form}-{damage.__name__}"
    write_dataset(target, *invented_rows(3), form)
    (part,) = (target / "tasks").iterdir()
    damage(part)
    manifest = json.loads((target / "_manifest.json").read_bytes())
    for each in manifest["parts"]:
        each["bytes"] = (target / each["name"]).stat().st_size
    (target / "_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ExportError) as caught:
        rows_of(DatasetReader(target).read("tasks", ["assignee", "created", "call_duration_s"]))
    assert f"{part} cannot be read: {message}" in str(caught.value)
    assert "backup" in str(caught.value.hint)


def test_a_parquet_part_with_other_types_is_an_error(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"status": [1, 2]}), tmp_path / "part.parquet")
    for name in ("status", "created"):
        with pytest.raises(OSError, match=f"it has no column {name} of the right type"):
            rows_of(FORMATS["parquet"].read(tmp_path / "part.parquet", "runs", [name], CsvOptions()))


def test_a_missing_or_changed_part_is_an_error(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", *invented_rows(3))
    part = tmp_path / "set" / "tasks" / "part-00001.jsonl"
    content = part.read_bytes()

    part.write_bytes(content + b"{}\n")
    with pytest.raises(ExportError, match="is not the file that the export wrote"):
        rows_of(DatasetReader(tmp_path / "set").read("tasks", ["status"]))
    first, rest = content.split(b"\n", 1)
    part.write_bytes(rest + b" " * len(first) + b"\n")  # a row is blank: other rows, same size
    with pytest.raises(ExportError, match="is damaged"):
        rows_of(DatasetReader(tmp_path / "set").read("tasks", ["status"]))
    second, rest = rest.split(b"\n", 1)
    padding = b" " * (len(first) + 1)
    part.write_bytes(second[:-1] + padding + b"}\n" + rest)  # a row less, same size
    assert part.stat().st_size == len(content)
    with pytest.raises(ExportError, match="is not the file that the export wrote"):
        rows_of(DatasetReader(tmp_path / "set").read("tasks", ["status"]))
    part.unlink()
    with pytest.raises(ExportError, match="is missing") as caught:
        rows_of(DatasetReader(tmp_path / "set").read("tasks", ["status"]))
    assert "if an export is running" in str(caught.value.hint)
    part.mkdir()
    with pytest.raises(ExportError, match="is not the file that the export wrote"):
        rows_of(DatasetReader(tmp_path / "set").read("tasks", ["status"]))


def test_a_change_while_the_rows_are_read_is_noticed(tmp_path: Path) -> None:
    write_dataset(tmp_path, *invented_rows(3))
    dataset = DatasetReader(tmp_path)
    dataset.check_unchanged()
    manifest = json.loads((tmp_path / "_manifest.json").read_bytes())
    manifest["finished"] = "2026-05-02T02:19:31Z"
    (tmp_path / "_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ExportError, match="an export has changed the files"):
        dataset.check_unchanged()


def manifest_with(target: Path, **changes: Any) -> None:
    write_dataset(target, [], [], **changes)


def no_manifest(target: Path) -> None:
    write_dataset(target, [], [])
    (target / "_manifest.json").unlink()


def running(target: Path) -> None:
    no_manifest(target)
    (target / ".unpod-export").mkdir()


def old_layout(target: Path) -> None:
    no_manifest(target)
    (target / "manifest.json").write_text("{}", encoding="utf-8")


def a_file(target: Path) -> None:
    target.write_text("", encoding="utf-8")


def a_folder(target: Path) -> None:
    no_manifest(target)
    (target / "_manifest.json").mkdir()


def text(content: bytes) -> Callable[[Path], None]:
    def make(target: Path) -> None:
        write_dataset(target, [], [])
        (target / "_manifest.json").write_bytes(content)

    return make


def part(name: str, kind: str = "tasks") -> Callable[[Path], None]:
    entry = {"name": name, "kind": kind, "rows": 1, "bytes": 1, "sha256": ""}
    return lambda target: manifest_with(target, parts=[entry])


@each_row(
    "make, message, hint",
    [
        (lambda target: None, "does not exist", "give the directory of an export"),
        (a_file, "is not a directory", "give the directory of an export"),
        (no_manifest, "is not the directory of an export", "give the directory of an export"),
        (running, "its export is running or was interrupted", "wait for the export to end, or run it again"),
        (old_layout, "the file layout of an older version", "export to a directory that is empty"),
        (a_folder, "cannot be read: Is a directory", "check the permissions"),
        (text(b"{"), "is damaged or has been changed", "run the export again"),
        (text(b"\xff"), "is damaged or has been changed", "run the export again"),
        (text(b"[" * 5000), "is damaged or has been changed", "run the export again"),
        (text(b'{"versions":{"manifest":1,"columns":1}}'), "is damaged or has been changed", "run"),
        (text(b'{"versions":{"manifest":2,"columns":1}}'), "a newer version of unpod-async", "upgrade"),
        (text(b'{"versions":{"manifest":1,"columns":2}}'), "a newer version of unpod-async", "upgrade"),
        (lambda target: manifest_with(target, format="arrow"), "does not know the format", "upgrade"),
        (part("../secret"), "is damaged or has been changed", "run the export again"),
        (part("tasks/../../secret"), "is damaged or has been changed", "run the export again"),
        (part("/etc/passwd"), "is damaged or has been changed", "run the export again"),
        (part("tasks/part-00001.jsonl", "runs"), "is damaged or has been changed", "run the export again"),
    ],
)
def test_a_directory_without_a_usable_manifest_is_an_error(
    tmp_path: Path, make: Callable[[Path], None], message: str, hint: str
) -> None:
    target = tmp_path / "target"
    try:
        make(target)
        with pytest.raises(ExportError, match=message) as caught:
            DatasetReader(target)
        assert hint in str(caught.value.hint)
        assert str(target) in str(caught.value)
    finally:
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)


def test_gzip_members_and_empty_parts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "part.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"run_id":"a"}\n') + gzip.compress(b'{"run_id":"b"}\n'))
    assert rows_of(FORMATS["jsonl.gz"].read(path, "runs", ["run_id"], CsvOptions())) == [("a",), ("b",)]
    path.write_bytes(gzip.compress(b""))
    assert rows_of(FORMATS["jsonl.gz"].read(path, "runs", ["run_id"], CsvOptions())) == []
