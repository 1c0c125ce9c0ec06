"""Rows for the tests of the formats, hostile ones too, and three readers for each format."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from unpod_async._export import row_line
from unpod_async._export.formats import COLUMNS, FORMATS, CsvOptions, RowKind, split_into_cells
from unpod_async.testing import Sandbox

KINDS: list[RowKind] = ["runs", "tasks"]
Table = list[tuple[Any, ...]]

HOSTILE: list[dict[str, Any]] = [
    {},
    {"task_id": "", "run_id": "", "status": None, "ref_id": "null", "assignee": "NULL", "provider": "N/A"},
    {"task_id": "+919000000001", "ref_id": "9000000001", "assignee": "007", "user": "1e5", "status": "true"},
    {"task_id": 'a "quoted", one', "run_id": "a\nb\r\nc\rd", "status": "\r", "ref_id": "\n", "user": '"'},
    {
        "task_id": "नमस्ते ✓ 👍🏽 Ängström こんにちは",
        "run_id": "\u2028\u0085\ufeff",
        "status": " a ",
        "user": ",",
    },
    {"task_id": "=1+1", "run_id": "@SUM(A1)", "status": "-1", "ref_id": "+49 (30) 1234-567", "user": "＝1"},
    {"task_id": "a\0b", "run_id": "\0", "batch_count": 2**63 - 1, "failure_count": -(2**63), "user": "\t"},
    {"task_id": 5, "created": "N/A", "modified": "0001-01-01T00:00:00", "batch_count": 2**70, "new": ["\n"]},
    {"created": "9999-12-31T23:59:59.999999", "modified": "1969-12-31T23:59:59.000001Z"},
    {"scheduled_timestamp": -1, "output": {"cost": 1e-7, "duration": 1e300, "call_id": "c"}},
    {"output": {"transcript": "AI: \u201cHi\u201d\n\n\tUser: +91 98\r\n", "labels": ["a,b", '"', "\n"]}},
    {"output": {"customer": {"number": "+919000000000", "name": "A"}, "error": {"message": "\\"}}},
    {"input": {"a": "x" * 200_000}, "task": "text", "attachments": [], "user_info": {}},
]


@functools.cache
def lines(kind: RowKind) -> list[bytes]:
    sandbox = Sandbox(runs=30, tasks_per_run=(1, 6))
    rows = sandbox.run_rows() if kind == "runs" else sandbox.task_rows()
    return [
        row_line(msgspec.json.encode(row), keep_user_token=False) for row in itertools.chain(rows, HOSTILE)
    ]


def written(
    path: Path, form: str, kind: RowKind, rows: list[bytes], csv_options: CsvOptions | None = None
) -> Path:
    """Write a part of these rows and return its path."""
    path = path.with_name(f"{path.name}{FORMATS[form].suffix}")
    writer = FORMATS[form].create(path, kind, csv_options)
    writer.write(rows)
    writer.close()
    content = path.read_bytes()
    assert (writer.rows, writer.size) == (len(rows), len(content))
    assert writer.sha256 == hashlib.sha256(content).hexdigest()
    return path


def table(kind: RowKind, rows: list[bytes]) -> Table:
    return [tuple(split_into_cells(kind, row)) for row in rows]


LONGEST = 64 << 20
"""The limit of a row that readers get, in bytes. docs/howto/load.md names the option of each reader."""

DUCK_TYPES = {
    "text": "VARCHAR",
    "json": "VARCHAR",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
}
POLARS_TYPES = {
    "text": pl.String(), "json": pl.String(), "integer": pl.Int64(), "number": pl.Float64(),
    "timestamp": pl.Datetime("us", "UTC"),
}  # fmt: skip
ARROW_TYPES = {
    "text": pa.string(), "json": pa.string(), "integer": pa.int64(), "number": pa.float64(),
    "timestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip


def duck(source: str, path: Path, kind: RowKind) -> Table:
    """Return the rows of a table function of DuckDB. It returns times as microseconds.

    As datetimes, they would need pytz.
    """
    columns = COLUMNS[kind]
    names = [f"epoch_us({one.name})" if one.kind == "timestamp" else f'"{one.name}"' for one in columns]
    with duckdb.connect() as connection:
        types = connection.execute(f"DESCRIBE SELECT * FROM {source}", [str(path)]).fetchall()  # noqa: S608 - ours
        assert [(name, type_of) for name, type_of, *_ in types] == [
            (one.name, DUCK_TYPES[one.kind]) for one in columns
        ]
        rows = connection.execute(f"SELECT {','.join(names)} FROM {source}", [str(path)]).fetchall()  # noqa: S608 - ours
    return [
        tuple(
            moment(cell) if one.kind == "timestamp" else cell for one, cell in zip(columns, row, strict=True)
        )
        for row in rows
    ]


def moment(microseconds: int | None) -> datetime | None:
    if microseconds is None:
        return None
    return pa.scalar(microseconds, pa.timestamp("us", "UTC")).as_py().replace(tzinfo=UTC)


def plain(rows: Table) -> Table:
    """Return rows with the UTC object of `datetime`. Each reader has its own."""
    return [
        tuple(
            cell.replace(tzinfo=UTC) if isinstance(cell, datetime) and not cell.utcoffset() else cell
            for cell in row
        )
        for row in rows
    ]


def arrow_rows(found: Any) -> Table:
    return plain(list(zip(*(column.to_pylist() for column in found.columns), strict=True)))


def duck_csv(path: Path, kind: RowKind) -> Table:
    types = ", ".join(f"'{column.name}': '{DUCK_TYPES[column.kind]}'" for column in COLUMNS[kind])
    return duck(
        "read_csv(?, header=true, auto_detect=false, allow_quoted_nulls=false, "
        f"max_line_size={LONGEST}, columns={{{types}}})",
        path,
        kind,
    )


def polars_csv(path: Path, kind: RowKind) -> Table:
    texts = {
        column.name: pl.String() if column.kind == "timestamp" else POLARS_TYPES[column.kind]
        for column in COLUMNS[kind]
    }
    stamps = [column.name for column in COLUMNS[kind] if column.kind == "timestamp"]
    frame = pl.read_csv(path, schema=texts)
    return plain(
        frame.with_columns(pl.col(stamps).str.to_datetime("%Y-%m-%dT%H:%M:%S%.6fZ", time_zone="UTC")).rows()
    )


def arrow_csv(path: Path, kind: RowKind) -> Table:
    found = pa_csv.read_csv(
        path,
        read_options=pa_csv.ReadOptions(block_size=LONGEST),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types={column.name: ARROW_TYPES[column.kind] for column in COLUMNS[kind]},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return arrow_rows(found)


def duck_parquet(path: Path, kind: RowKind) -> Table:
    return duck("read_parquet(?)", path, kind)


def polars_parquet(path: Path, kind: RowKind) -> Table:
    frame = pl.read_parquet(path)
    assert frame.schema == {column.name: POLARS_TYPES[column.kind] for column in COLUMNS[kind]}
    return plain(frame.rows())


def arrow_parquet(path: Path, kind: RowKind) -> Table:
    return arrow_rows(pq.read_table(path))


Reader = Callable[[Path, RowKind], Table]
CSV: dict[str, Reader] = {"DuckDB": duck_csv, "Polars": polars_csv, "pyarrow": arrow_csv}
PARQUET: dict[str, Reader] = {"DuckDB": duck_parquet, "Polars": polars_parquet, "pyarrow": arrow_parquet}


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from(list('",\n\r\0\t=+ ')), max_size=10
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            **{name: st.none() | TEXTS for name in ("run_id", "status", "user", "new")},
            "batch_count": st.none() | st.integers(-(2**63), 2**63 - 1),
            "created": st.none() | st.datetimes().map(datetime.isoformat),
        },
    ).map(msgspec.json.encode),
    max_size=8,
)

# All examples share one directory. Each leaves it empty.
IN_ONE_PLACE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
