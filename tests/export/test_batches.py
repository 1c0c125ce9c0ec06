"""Rows that are flattened many at a time have the same cells as rows that are flattened one by one."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.export.odd_rows import odd_lines
from tests.export.parts import IN_ONE_PLACE, KINDS, lines, table, written
from unpod_async._common import parse_time, time_text, usual_time_texts
from unpod_async._export.formats import COLUMNS, CsvOptions, RowKind, escape_formula
from unpod_async._tables import split_into_cells, split_into_columns

SEEDS = st.integers(0, 2**32)


def by_columns(kind: RowKind, rows: list[bytes]) -> list[list[Any]]:
    """Return the rows of `split_into_columns` with the types of `split_into_cells`."""
    types: dict[str, Callable[[Any], Any]] = {"json": bytes.decode, "timestamp": moment_of}
    columns = [
        [cell if cell is None else types.get(column.kind, as_is)(cell) for cell in cells]
        for column, cells in zip(COLUMNS[kind], split_into_columns(kind, rows), strict=True)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def as_is(cell: Any) -> Any:
    return cell


def moment_of(cell: str) -> datetime:
    assert len(cell) == len("2026-01-15T10:00:00.000000Z")
    return datetime.fromisoformat(cell)


def check(kind: RowKind, rows: list[bytes]) -> None:
    for row, cells in zip(rows, by_columns(kind, rows), strict=True):
        # As text, because 1 == 1.0 and 0.0 == -0.0.
        assert repr(cells) == repr(split_into_cells(kind, row)), row


@settings(max_examples=300, deadline=None)
@given(SEEDS, st.sampled_from(KINDS), st.integers(1, 40))
def test_every_cell_is_the_same_as_one_by_one(seed: int, kind: RowKind, count: int) -> None:
    check(kind, odd_lines(random.Random(seed), kind, count))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_break_the_formats_are_the_same_as_one_by_one(kind: RowKind) -> None:
    check(kind, lines(kind))
    check(kind, [row for row in lines(kind) for _ in range(5)])


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_and_empty_rows(kind: RowKind) -> None:
    assert by_columns(kind, []) == []
    check(kind, [b"{}"] * 9)
    check(
        kind, [b'{"output":null}', b'{"output":{}}', b'{"output":[]}', b'{"output":"x"}', b'{"output":7}'] * 4
    )


@pytest.mark.parametrize("depth", [60, 400, 497, 800])
def test_deeply_nested_rows_are_the_same_as_one_by_one(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    for name in (b"task_id", b"created", b"input", b"new", b"output"):
        check("tasks", [b'{"task_id":"a","%b":%b}' % (name, deep)] * 5)
    for name in (b"call_id", b"new", b"error", b"messages"):
        check("tasks", [b'{"output":{"%b":%b}}' % (name, deep)] * 5)


TIMES = st.lists(
    st.one_of(
        st.datetimes().map(datetime.isoformat),
        st.datetimes().map(str),
        st.datetimes().map(lambda moment: f"{moment.isoformat(timespec='milliseconds')}Z"),
        st.sampled_from([
            "",
            None,
            "2026-02-30T00:00:00",
            "2026-01-31",
            "2026-W05-6T11:47:38",
            5,
            0,
            -0.0,
            False,
        ]),
    ),
    max_size=6,
)


@given(TIMES)
def test_usual_times_are_parsed_like_any_time(values: list[Any]) -> None:
    found = usual_time_texts(values)
    assert found is None or found == [moment and time_text(moment) for moment in map(parse_time, values)]


def test_usual_times_are_recognised() -> None:
    assert usual_time_texts(["2026-01-31T11:47:38", None, "2026-01-31 11:47:38.000001", ""]) is not None
    assert usual_time_texts(["2026-01-31T11:47:38Z", "2026-01-31T11:47:38.067Z"]) is not None


def test_a_value_with_a_line_break_is_not_two_times() -> None:
    assert usual_time_texts(["2026-01-31T11:47:38\n2026-01-31T11:47:38"]) is None


# -- files --------------------------------------------------------------------------------------------------


def csv_cell(cell: Any, *, safe: bool) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return f"{cell.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    if not isinstance(cell, str):
        return repr(cell)
    text = cell.replace("\0", "")
    return f'"{(escape_formula(text) if safe else text).replace(chr(34), chr(34) * 2)}"'


@settings(IN_ONE_PLACE, max_examples=15, deadline=None)
@given(seed=SEEDS, kind=st.sampled_from(KINDS), safe=st.booleans())
def test_files_have_the_cells_of_each_row(tmp_path: Path, seed: int, kind: RowKind, safe: bool) -> None:
    rows = odd_lines(random.Random(seed), kind, 210)  # more than two batches
    expected = table(kind, rows)
    header = ",".join(column.name for column in COLUMNS[kind])
    text = "".join(f"{','.join(csv_cell(cell, safe=safe) for cell in row)}\n" for row in expected)
    path = written(tmp_path / "part", "csv", kind, rows, CsvOptions(safe=safe))
    assert path.read_bytes() == f"{header}\n{text}".encode()
    path.unlink()
    path = written(tmp_path / "part", "parquet", kind, rows)
    found = [column.to_pylist() for column in pq.read_table(path).columns]
    path.unlink()
    assert msgspec.json.encode(list(zip(*found, strict=True))) == msgspec.json.encode(expected)
