"""Parts in every format, read by DuckDB, Polars and pyarrow."""

from __future__ import annotations

import csv
import gzip
import inspect
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.export import parts
from tests.export.parts import (
    ARROW_TYPES,
    CSV,
    IN_ONE_PLACE,
    KINDS,
    LONGEST,
    PARQUET,
    ROWS,
    lines,
    polars_csv,
    table,
    written,
)
from tests.tables import each_row
from unpod_async import ExportError, UnpodClient
from unpod_async._export.formats import COLUMNS, FORMATS, SCHEMA_VERSION, CsvOptions, RowKind, escape_formula
from unpod_async._export.redaction import Redactor
from unpod_async.testing import Sandbox


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", CSV)
def test_csv_is_read_back(tmp_path: Path, reader: str, kind: RowKind) -> None:
    path = written(tmp_path / kind, "csv", kind, lines(kind))
    without_nul = [
        tuple(cell.replace("\0", "") if isinstance(cell, str) else cell for cell in row)
        for row in table(kind, lines(kind))
    ]
    assert CSV[reader](path, kind) == without_nul


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", PARQUET)
def test_parquet_is_read_back(tmp_path: Path, reader: str, kind: RowKind) -> None:
    path = written(tmp_path / kind, "parquet", kind, lines(kind))
    assert PARQUET[reader](path, kind) == table(kind, lines(kind))


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_jsonl_is_the_lines(tmp_path: Path, form: str, kind: RowKind) -> None:
    path = written(tmp_path / kind, form, kind, lines(kind))
    content = path.read_bytes()
    if form == "jsonl.gz":
        assert content[4:8] == b"\0\0\0\0", "a time would make every file another"
        content = gzip.decompress(content)
    assert content == b"".join(line + b"\n" for line in lines(kind))


def test_rows_are_compressed_with_zlib_ng_if_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zlib_ng")
    monkeypatch.setitem(sys.modules, "isal", None)  # as if it were not installed
    with_zlib_ng = written(tmp_path / "a", "jsonl.gz", "tasks", lines("tasks")).read_bytes()
    monkeypatch.setitem(sys.modules, "zlib_ng", None)  # as if it were not installed
    with_zlib = written(tmp_path / "b", "jsonl.gz", "tasks", lines("tasks")).read_bytes()
    assert with_zlib != with_zlib_ng
    assert gzip.decompress(with_zlib) == gzip.decompress(with_zlib_ng)
    assert with_zlib[:4] + with_zlib[4:8] == with_zlib_ng[:4] + b"\0\0\0\0"


def _rows(text_of: Callable[[int], str]) -> list[bytes]:
    """Return 600 rows of 2 kB, each with 40 texts."""
    return [
        msgspec.json.encode({"task_id": f"T{row}", "input": [text_of(40 * row + text) for text in range(40)]})
        for row in range(600)
    ]


WORDS = random.Random(1).choices([f"{number:x}" for number in range(4096)], k=50_000)
SAME_TEXTS = _rows(lambda number: " ".join(WORDS[number * number % 200 * 12 :][:12]))
OTHER_TEXTS = _rows(lambda number: " ".join(WORDS[number * number * 7919 % 49_000 :][:12]))


@pytest.mark.parametrize(("rows", "is_isal"), [(SAME_TEXTS, False), (OTHER_TEXTS, True)])
def test_rows_are_compressed_with_isal_if_their_file_is_hardly_larger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[bytes], is_isal: bool
) -> None:
    pytest.importorskip("isal")
    pytest.importorskip("zlib_ng")
    chosen = written(tmp_path / "a", "jsonl.gz", "tasks", rows).read_bytes()
    assert gzip.decompress(chosen) == b"".join(row + b"\n" for row in rows)
    assert len(chosen) <= 1.25 * len(gzip.compress(gzip.decompress(chosen), 6))
    monkeypatch.setitem(sys.modules, "isal", None)  # as if it were not installed
    without = written(tmp_path / "b", "jsonl.gz", "tasks", rows).read_bytes()
    assert (chosen == without) is not is_isal


@pytest.mark.parametrize("rows", [SAME_TEXTS, OTHER_TEXTS])
def test_equal_rows_give_equal_bytes_however_they_are_added(tmp_path: Path, rows: list[bytes]) -> None:
    one_by_one = written(tmp_path / "a", "jsonl.gz", "tasks", rows).read_bytes()
    for count in (7, 300):
        writer = FORMATS["jsonl.gz"].create(tmp_path / f"{count}", "tasks")
        for start in range(0, len(rows), count):
            block = rows[start : start + count]
            writer.write_block(b"\n".join(block) + b"\n", len(block))
        writer.close()
        assert (tmp_path / f"{count}").read_bytes() == one_by_one


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz"])
def test_jsonl_is_read_back(tmp_path: Path, form: str) -> None:
    sandbox = Sandbox(runs=30, tasks_per_run=(1, 6))
    rows = list(sandbox.task_rows())
    path = written(tmp_path / "tasks", form, "tasks", [msgspec.json.encode(row) for row in rows])
    expected = [
        (row["task_id"], row["input"]["contact_number"], row["output"].get("recording_url")) for row in rows
    ]
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT task_id, input->>'contact_number', output->>'recording_url' FROM read_json(?,"
            " format='newline_delimited', columns={task_id: 'VARCHAR', input: 'JSON', output: 'JSON'})",
            [str(path)],
        ).fetchall()
    assert found == expected
    frame = pl.read_ndjson(path, infer_schema_length=None)
    output = pl.col("output").struct
    assert (
        frame.select(
            pl.col("task_id"), pl.col("input").struct.field("contact_number"), output.field("recording_url")
        ).rows()
        == expected
    )
    schema = pa.schema([
        ("task_id", pa.string()),
        ("input", pa.struct([("contact_number", pa.string())])),
        ("output", pa.struct([("recording_url", pa.string())])),
    ])
    options = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    found = pa_json.read_json(path, parse_options=options).to_pylist()
    assert [
        (one["task_id"], one["input"]["contact_number"], one["output"]["recording_url"]) for one in found
    ] == expected


# --- long rows and byte order marks ------------------------------------------------------------------------


def long_rows() -> list[bytes]:
    """Return three tasks. The second has a transcript of 900 kB, which stands three times in a row of CSV."""
    texts = ["short", 'a long talk, "quoted", with ümlauts and\n' * 22_500, "short"]
    return [
        msgspec.json.encode({
            "task_id": f"T{number}",
            "created": "2026-01-15T10:00:00",
            "output": {
                "call_id": f"C{number}",
                "transcript": [
                    {"role": "user", "content": text[at : at + 400]} for at in range(0, len(text), 400)
                ],
            },
        })
        for number, text in enumerate(texts)
    ]


@pytest.fixture
def long_cells() -> Iterator[None]:
    before = csv.field_size_limit(LONGEST)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("long_cells")
def test_long_rows_are_read_with_the_documented_options(tmp_path: Path) -> None:
    rows = long_rows()
    assert len(rows[1]) > 900_000
    for form, readers in (("csv", CSV), ("parquet", PARQUET)):
        path = written(tmp_path / "tasks", form, "tasks", rows)
        for name, read in readers.items():
            assert read(path, "tasks") == table("tasks", rows), f"{form} by {name}"
    with (tmp_path / "tasks.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["call_transcript"] for row in found] == [
        row[[column.name for column in COLUMNS["tasks"]].index("call_transcript")]
        for row in table("tasks", rows)
    ]


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz"])
def test_long_lines_are_read_with_the_documented_options(tmp_path: Path, form: str) -> None:
    # DuckDB reads lines of up to 16 MB without an option, pyarrow blocks of 1 MB.
    rows = long_rows()
    rows[1] = rows[1].replace(b"talk", b"talk" * 180)
    assert len(rows[1]) > 16 << 20
    path = written(tmp_path / "tasks", form, "tasks", rows)
    said = [len(one["content"]) for row in rows for one in json.loads(row)["output"]["transcript"]]
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT length(unnest(output->>'$.transcript[*].content')) FROM read_json($path, "
            "columns={output: 'JSON'}, format='newline_delimited', maximum_object_size=$longest)",
            {"path": str(path), "longest": LONGEST},
        ).fetchall()
    assert [length for (length,) in found] == said
    transcript = pl.col("output").struct.field("transcript").explode()
    frame = pl.read_ndjson(path, infer_schema_length=None).select(transcript)
    assert frame.to_series().struct.field("content").str.len_chars().to_list() == said
    options = pa_json.ReadOptions(block_size=LONGEST)
    table_of_arrow = pa_json.read_json(path, read_options=options).to_pylist()
    assert [len(one["content"]) for row in table_of_arrow for one in row["output"]["transcript"]] == said


def test_the_documented_options_are_those_of_the_readers() -> None:
    page = (Path(__file__).parents[2] / "docs/howto/load.md").read_text(encoding="utf-8")
    section = page.partition("**CSV has no types.**")[2].partition("The tests read")[0]
    documented = re.findall(r"`([^`-][^`]*[=)][^`]*)`", section)
    readers = inspect.getsource(parts) + inspect.getsource(sys.modules[__name__])
    for placeholder in ("{LONGEST}", "LONGEST", "$longest"):
        readers = readers.replace(placeholder, str(LONGEST))
    assert len(documented) >= 13
    assert [option for option in documented if option not in readers] == []


@pytest.mark.parametrize("kind", KINDS)
def test_csv_with_a_byte_order_mark_is_read_back(tmp_path: Path, kind: RowKind) -> None:
    rows = [row for row in lines(kind) if b"\\u0000" not in row]
    options = CsvOptions(safe=False, byte_order_mark=True)
    path = written(tmp_path / kind, "csv", kind, rows, options)
    bare = written(tmp_path / "bare", "csv", kind, rows)
    assert path.read_bytes() == b"\xef\xbb\xbf" + bare.read_bytes()
    for name, read in CSV.items():
        assert read(path, kind) == table(kind, rows), name
    with path.open(newline="", encoding="utf-8-sig") as file:
        assert next(csv.reader(file)) == [column.name for column in COLUMNS[kind]]


def test_each_part_begins_with_one_byte_order_mark_also_when_it_is_copied(tmp_path: Path) -> None:
    rows = lines("runs")[:4]
    options = CsvOptions(safe=True, byte_order_mark=True)
    source = written(tmp_path / "source", "csv", "runs", rows, options)
    writer = FORMATS["csv"].create(tmp_path / "copy.csv", "runs", options)
    writer.copy(source, [(0, 4)])
    writer.close()
    assert (tmp_path / "copy.csv").read_bytes() == source.read_bytes()
    assert source.read_bytes().count(b"\xef\xbb\xbf") == 1


async def test_an_export_with_byte_order_marks(tmp_path: Path) -> None:
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod,
    ):
        for _ in range(2):  # the second export writes the last parts again
            await unpod.export(sandbox.space_token, tmp_path, format="csv", csv_safe=True, csv_bom=True)
            for kind in KINDS:
                content = (tmp_path / kind / "part-00001.csv").read_bytes()
                assert content.startswith(b"\xef\xbb\xbf")
                assert content.count(b"\xef\xbb\xbf") == 1
            sandbox.insert_run(2)
        with pytest.raises(ExportError, match="csv_bom"):
            await unpod.export(sandbox.space_token, tmp_path, format="csv", csv_safe=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_part_is_a_valid_file(tmp_path: Path, form: str, kind: RowKind) -> None:
    path = written(tmp_path / kind, form, kind, [])
    if form in {"csv", "parquet"}:
        for read in {"csv": CSV, "parquet": PARQUET}[form].values():
            assert read(path, kind) == []
    else:
        assert (gzip.decompress(path.read_bytes()) if form == "jsonl.gz" else path.read_bytes()) == b""


def test_the_schema_of_parquet_is_fixed_and_has_its_version(tmp_path: Path) -> None:
    for kind in KINDS:
        path = written(tmp_path / kind, "parquet", kind, [b"{}"])
        schema = pq.read_schema(path)
        assert schema.names == [column.name for column in COLUMNS[kind]]
        assert schema.types == [ARROW_TYPES[column.kind] for column in COLUMNS[kind]]
        assert schema.metadata[b"unpod_async.schema_version"] == str(SCHEMA_VERSION).encode()
        assert schema.metadata[b"unpod_async.rows"] == kind.encode()
        assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_row_groups_have_a_maximum_size(tmp_path: Path) -> None:
    small = written(tmp_path / "small", "parquet", "runs", [b'{"run_id":"R"}'] * 140_000)
    large = written(tmp_path / "large", "parquet", "runs", [b'{"run_id":"%b"}' % (b"R" * 1_000_000)] * 100)
    for path, most in ((small, 70_000), (large, 50)):
        metadata = pq.ParquetFile(path).metadata
        groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        assert 2 <= len(groups) <= 4
        assert max(groups) <= most


def test_redacted_lines_are_lines(tmp_path: Path) -> None:
    redactor = Redactor("hash", b"key")
    rows = [redactor(line) for line in lines("tasks")]
    for form, readers in (("csv", CSV), ("parquet", PARQUET)):
        found = readers["DuckDB"](written(tmp_path / form, form, "tasks", rows), "tasks")
        names = [column.name for column in COLUMNS["tasks"]]
        customers = {row[names.index("call_customer")] for row in found} - {None}
        assert customers
        assert all(customer.startswith("h:") for customer in customers)


# --- CSV ---------------------------------------------------------------------------------------------------

SAFE = [
    "", "text", "a=1", "'=1", "+919000000001", "+91 98765-43210", "(030) 123", "-1", "-1.5e-3", "+.5", "12",
    "{}", '[1,"=1"]', "+49/30/1234567", "né", "a\n=1",
]  # fmt: skip
FORMULAS = [
    "=1+1", "=cmd|' /C calc'!A0", "+1+cmd", "-A1", "@SUM(A1)", "\t=1", "\tx", "\rx", "\nx", "  =1",
    "\u00a0@x", "＝1", "＋1", "－1", "＠x", "\ufeff=1", "\u200b=1", "-", "+", "=", "+91 98765 x", "+1E+",
    "-1-A1", "\u3000=1",
]  # fmt: skip


@each_row("text", SAFE)
def test_a_harmless_cell_does_not_change(text: str) -> None:
    assert escape_formula(text) == text


@each_row("text", FORMULAS)
def test_a_cell_that_looks_like_a_formula_gets_an_apostrophe(text: str) -> None:
    assert escape_formula(text) == f"'{text}"


def test_csv_safe_applies_to_all_cells_of_a_part(tmp_path: Path) -> None:
    row = msgspec.json.encode({
        "task_id": "\0=1",
        "ref_id": "+919000000001",
        "status": "-x",
        "failure_count": -5,
        "input": "=1",
        "output": {"duration": -1},
    })
    plain_path = written(tmp_path / "plain", "csv", "tasks", [row])
    safe_path = written(tmp_path / "safe", "csv", "tasks", [row], CsvOptions(safe=True))
    (loose,), (tight,) = (
        list(csv.DictReader(path.read_text("utf-8").splitlines(keepends=True)))
        for path in (plain_path, safe_path)
    )
    assert (loose["task_id"], loose["status"]) == ("=1", "-x")
    assert {key: value for key, value in tight.items() if value != loose[key]} == {
        "task_id": "'=1",
        "status": "'-x",
    }
    assert (tight["ref_id"], tight["failure_count"], tight["call_duration_s"]) == (
        "+919000000001",
        "-5",
        "-1.0",
    )


def test_the_text_of_a_csv_part(tmp_path: Path) -> None:
    row = b'{"run_id":"R1","status":"","batch_count":3,"created":"2026-01-15T10:00:00","user":"a\\"b\\n,"}'
    assert written(tmp_path / "runs", "csv", "runs", [row]).read_bytes() == (
        b"run_id,space_id,id,status,batch_count,created,modified,run_mode,user,thread_id,collection_ref,extra\n"
        b'"R1",,,"",3,2026-01-15T10:00:00.000000Z,,,"a""b\n,",,,\n'
    )


@IN_ONE_PLACE
@given(ROWS)
def test_any_rows_come_back_from_csv(tmp_path: Path, rows: list[bytes]) -> None:
    path = written(tmp_path / "runs", "csv", "runs", rows)
    expected = [
        tuple(cell.replace("\0", "") if isinstance(cell, str) else cell for cell in row)
        for row in table("runs", rows)
    ]
    assert polars_csv(path, "runs") == expected
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.reader(file, strict=True))[1:]
    path.unlink()
    assert [[cell or None for cell in row] for row in found] == [
        [cell if cell is None else printed(cell) or None for cell in row] for row in expected
    ]


def printed(cell: object) -> str:
    if isinstance(cell, datetime):
        return cell.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return str(cell)


@IN_ONE_PLACE
@given(ROWS, st.sampled_from(["jsonl", "jsonl.gz"]))
def test_any_rows_come_back_from_jsonl(tmp_path: Path, rows: list[bytes], form: str) -> None:
    path = written(tmp_path / "runs", form, "runs", rows)
    open_part = gzip.open if form == "jsonl.gz" else open
    with open_part(path, "rb") as file:
        found = file.read().split(b"\n")
    path.unlink()
    assert found == [*rows, b""]
    assert [json.loads(line) for line in found[:-1]] == [json.loads(row) for row in rows]
