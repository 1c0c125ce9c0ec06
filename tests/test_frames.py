"""Tables of listings and exports: the columns of a Parquet export, in pyarrow, Polars, pandas and DuckDB."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from unpod_async import ConfigurationError, DecodeError, ExportError, TransportError
from unpod_async._tables import COLUMNS
from unpod_async.testing import Sandbox

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
duckdb = pytest.importorskip("duckdb")

METHODS = ("to_arrow", "to_polars", "to_pandas")


def rows_of(table: Any) -> list[dict[str, Any]]:
    """The rows of a table of any library; a missing value is None."""
    if isinstance(table, arrow.Table):
        return table.to_pylist()
    if isinstance(table, polars.DataFrame):
        return table.to_dicts()
    return [
        {name: None if pandas.isna(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


async def test_a_listing_is_the_same_table_as_its_parquet_export(tmp_path: Path) -> None:
    async with Sandbox(runs=4, tasks_per_run=5) as sandbox, sandbox.client(page_size=3) as unpod:
        await unpod.export(sandbox.space_token, tmp_path, format="parquet")
        for kind, listing in (("runs", unpod.runs.list), ("tasks", unpod.tasks.list)):
            exported = parquet.read_table(tmp_path / kind)
            key = f"{kind[:-1]}_id"
            expected = sorted(exported.to_pylist(), key=lambda row: row[key])
            table = await listing(sandbox.space_token).to_arrow()
            assert table.schema.equals(exported.schema, check_metadata=True)
            for method in METHODS:
                rows = rows_of(await getattr(listing(sandbox.space_token), method)())
                assert sorted(rows, key=lambda row: row[key]) == expected
        assert 'user_token":"' not in str(expected).replace(" ", "")


@pytest.mark.parametrize("method", METHODS)
async def test_an_empty_listing_has_the_same_columns_and_types(method: str) -> None:
    async with Sandbox(runs=2, tasks_per_run=2) as sandbox, sandbox.client() as unpod:
        for kind, listing in (("runs", unpod.runs.list), ("tasks", unpod.tasks.list)):
            full = await getattr(listing(sandbox.space_token), method)()
            empty = await getattr(listing(sandbox.space_token, limit=0), method)()
            assert len(full) > len(empty) == 0
            columns = [column.name for column in COLUMNS[kind]]
            names = [getattr(table, "column_names", None) or list(table.columns) for table in (full, empty)]
            assert names == [columns, columns]
            types = [str(getattr(table, "schema", getattr(table, "dtypes", ""))) for table in (full, empty)]
            assert types[0] == types[1]


async def test_filters_limits_and_bad_rows_apply_to_tables() -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, sandbox.client() as unpod:
        first = sandbox.task_ids()[0]
        assert len(await unpod.tasks.list(sandbox.space_token, limit=2).to_polars()) == 2
        frame = await unpod.tasks.list(sandbox.space_token, status="completed").to_polars()
        assert set(frame["status"]) <= {"completed"}
        sandbox.malform(first, b'{"task_id": "T", "user_info": {"user_token": "a11ce"}, "input": "\xff"}')
        frame = await unpod.tasks.list(sandbox.space_token, on_bad_row="skip").to_polars()
        assert first not in set(frame["task_id"])
        assert len(frame) == 5
        with pytest.raises(DecodeError) as caught:
            await unpod.tasks.list(sandbox.space_token).to_polars()
        assert "UTF-8" in str(caught.value)


@pytest.mark.parametrize("row", [b"5", b"null", b'{"a":' + b"[" * 600 + b"]" * 600 + b"}"])
async def test_what_is_no_row_is_a_bad_row(row: bytes) -> None:
    async with Sandbox(runs=1, tasks_per_run=2) as sandbox, sandbox.client() as unpod:
        sandbox.malform(sandbox.task_ids()[0], row)
        with pytest.raises(DecodeError):
            await unpod.tasks.list(sandbox.space_token).to_polars()


@pytest.mark.parametrize(("method", "package"), [*zip(METHODS, ("pyarrow", "polars", "pandas"), strict=True)])
async def test_a_missing_package_and_other_listings_are_errors_before_a_request(
    method: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client(auth_scheme="JWT") as unpod:
        with pytest.raises(ConfigurationError, match="reads runs and tasks") as caught:
            await getattr(unpod.spaces.list(), method)()
        assert "to_dict" in str(caught.value.hint)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ConfigurationError, match=f"{method} needs {package}") as caught:
            await getattr(unpod.runs.list(sandbox.space_token), method)()
        assert "pip install" in str(caught.value.hint)
        assert sandbox.requests == 0


async def test_the_deadline_includes_making_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, release = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        reached.set()
        release.wait()

    async with Sandbox(runs=2, tasks_per_run=2) as sandbox, sandbox.client() as unpod:
        with monkeypatch.context() as patch:
            patch.setattr(polars, "DataFrame", slow)
            deadline = 0.125
            try:
                while not reached.is_set():  # a busy machine may need longer to get there
                    deadline *= 4
                    patient = unpod.with_options(deadline=deadline)
                    with pytest.raises(
                        TransportError, match=f"the deadline of {deadline:g} s ended"
                    ) as caught:
                        await patient.tasks.list(sandbox.space_token).to_polars()
            finally:
                release.set()
        assert "while the table was being made" in str(caught.value)
        assert (caught.value.timed_out, caught.value.sent) == (True, True)
        patient = unpod.with_options(deadline=60)
        assert len(await patient.tasks.list(sandbox.space_token).to_polars()) == 4


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl", "jsonl.gz"])
async def test_duckdb_has_the_same_tables_for_each_format(tmp_path: Path, format_: str) -> None:
    target = tmp_path / "it's data"
    async with Sandbox(runs=3, tasks_per_run=3) as sandbox, sandbox.client() as unpod:
        summary = await unpod.export(sandbox.space_token, target, format=format_)
        tasks = await unpod.tasks.list(sandbox.space_token).to_arrow()
        runs = await unpod.runs.list(sandbox.space_token).to_arrow()
        empty = await unpod.export(sandbox.space_token, tmp_path / "empty", format=format_, runs=["R0"])
    with summary.to_duckdb() as connection:
        for name, table in (("runs", runs), ("tasks", tasks)):
            relation = connection.sql(f"SELECT * FROM {name} ORDER BY {name[:-1]}_id")  # noqa: S608
            assert relation.columns == table.column_names
            expected = table.sort_by(f"{name[:-1]}_id").to_pylist()
            found = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
            assert found == expected
    with empty.to_duckdb() as connection:
        assert connection.sql("SELECT * FROM tasks").columns == tasks.column_names
        assert connection.sql("SELECT count(*) FROM tasks").fetchall() == [(0,)]


async def test_duckdb_needs_a_finished_export_and_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        summary = await unpod.export(sandbox.space_token, tmp_path)
    (tmp_path / "_manifest.json").unlink()
    with pytest.raises(ExportError, match="manifest"):
        summary.to_duckdb()
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigurationError, match="needs duckdb"):
        summary.to_duckdb()
