"""The cells of a line: the columns are documented, and nothing in the line is lost."""

from __future__ import annotations

import json
import re
import threading
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import each_row
from unpod_async._call_output import Call
from unpod_async._common import parse_time
from unpod_async._export import row_line
from unpod_async._export.formats import COLUMNS, SCHEMA_VERSION, RowKind, describe, split_into_cells
from unpod_async.models import Run, Task
from unpod_async.testing import Sandbox

KINDS: list[RowKind] = ["runs", "tasks"]
TYPES = {"text": str, "json": str, "integer": int, "number": float, "timestamp": datetime}


def named(kind: RowKind, line: bytes) -> dict[str, Any]:
    return dict(zip([column.name for column in COLUMNS[kind]], split_into_cells(kind, line), strict=True))


def cell(name: str, value: str, kind: RowKind = "tasks") -> tuple[object, object]:
    """Return the cell of a column whose value is this JSON, and what `extra` has."""
    row = named(kind, f'{{"{name}":{value}}}'.encode())
    return row[name], row["extra"]


class Pairs(list[tuple[str, Any]]):
    """Return all members of an object, repeated ones too."""


def pairs(text: str) -> Any:
    return json.loads(text, object_pairs_hook=Pairs, parse_int=str, parse_float=str)


# --- the table ---------------------------------------------------------------------------------------------


def test_the_columns_match_the_schema_version() -> None:
    # If you change this, change SCHEMA_VERSION.
    assert SCHEMA_VERSION == 1
    assert [name for name, _, _ in describe("runs")] == [
        "run_id", "space_id", "id", "status", "batch_count", "created", "modified", "run_mode", "user",
        "thread_id", "collection_ref", "extra",
    ]  # fmt: skip
    assert [name for name, _, _ in describe("tasks")] == [
        "task_id", "run_id", "space_id", "id", "ref_id", "assignee", "execution_type", "status", "created",
        "modified", "run_mode", "user", "user_org_id", "thread_id", "collection_ref", "failure_count",
        "last_failure_reason", "provider", "retry_attempt", "last_status_change", "scheduled_timestamp",
        "call_id", "call_direction", "call_status", "call_started_at", "call_ended_at", "call_duration_s",
        "call_recording_url", "call_transcript", "call_summary", "call_outcome", "call_labels",
        "call_sentiment",
        "call_cost_usd", "call_customer", "call_customer_number", "call_end_reason", "call_structured_data",
        "call_error", "call_messages", "task", "input", "output", "attachments", "user_info", "extra",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_column_and_every_column_has_a_meaning(kind: RowKind) -> None:
    model = {"runs": Run, "tasks": Task}[kind]
    assert {column.source for column in COLUMNS[kind] if column.of == "row"} == {
        field.encode_name for field in msgspec.structs.fields(model)
    }
    if kind == "tasks":
        assert {column.source for column in COLUMNS[kind] if column.of == "call"} == set(
            Call.__struct_fields__
        )
    for name, type_of, meaning in describe(kind):
        assert re.fullmatch("[a-z][a-z_]*", name)
        assert type_of in TYPES
        assert meaning


# --- the sandbox's rows ------------------------------------------------------------------------------------


def test_the_cells_of_the_tasks_of_the_sandbox() -> None:
    shapes = set[str]()
    for row in Sandbox(runs=40, tasks_per_run=5).task_rows():
        line = msgspec.json.encode(row)
        named_cells, task = named("tasks", line), msgspec.json.decode(line, type=Task)
        for column in COLUMNS["tasks"]:
            assert named_cells[column.name] is None or type(named_cells[column.name]) is TYPES[column.kind]
            if column.of == "row" and column.kind == "json":
                assert json.loads(named_cells[column.name]) == row[column.source]
            elif column.of == "row":
                sent = row.get(column.source)
                assert named_cells[column.name] == (parse_time(sent) if column.kind == "timestamp" else sent)
            elif column.of == "call" and column.kind != "json":
                assert named_cells[column.name] == (task.call and getattr(task.call, column.source))
        assert named_cells["extra"] is None
        call = task.call
        if call is None:
            continue
        shapes.add("error" if call.error else "camel" if "startedAt" in row["output"] else "snake")
        assert json.loads(named_cells["call_labels"] or "[]") == call.labels
        assert json.loads(named_cells["call_structured_data"] or "null") == call.structured_data
        assert json.loads(named_cells["call_messages"] or "[]") == [
            {key: value for key, value in msgspec.structs.asdict(message).items() if value is not None}
            for message in call.messages
        ]
    assert shapes == {"error", "camel", "snake"}


def test_the_cells_of_the_runs_of_the_sandbox() -> None:
    for row in Sandbox(runs=10, tasks_per_run=3).run_rows():
        named_cells = named("runs", msgspec.json.encode(row))
        assert named_cells == {
            **row,
            "id": None,
            "created": parse_time(row["created"]),
            "modified": parse_time(row["modified"]),
            "extra": None,
        }


# --- one value ---------------------------------------------------------------------------------------------

MOMENT = datetime(2026, 1, 31, 11, 47, 38, 67021, tzinfo=UTC)
VALUES = {
    "status": [
        ('"done"', "done", None),
        ('""', "", None),
        (r'"a\u0000\nb"', "a\0\nb", None),
        ("null", None, None),
        ("5", None, '{"status":5}'),
        ("true", None, '{"status":true}'),
        ('{"a": 1}', None, '{"status":{"a": 1}}'),
    ],
    "failure_count": [
        ("0", 0, None),
        ("-9223372036854775808", -(2**63), None),
        ("9223372036854775807", 2**63 - 1, None),
        ("9223372036854775808", None, '{"failure_count":9223372036854775808}'),
        ("-9223372036854775809", None, '{"failure_count":-9223372036854775809}'),
        ("9" * 5000, None, f'{{"failure_count":{"9" * 5000}}}'),
        ("1.0", None, '{"failure_count":1.0}'),
        ("1e3", None, '{"failure_count":1e3}'),
        ("1e999", None, '{"failure_count":1e999}'),
        ("false", None, '{"failure_count":false}'),
        ('"3"', None, '{"failure_count":"3"}'),
    ],
    "created": [
        ('"2026-01-31T11:47:38.067021"', MOMENT, None),
        ('"2026-01-31 17:17:38.067021+05:30"', MOMENT, None),
        ('"2026-01-31T11:47:38.067021000Z"', MOMENT, None),
        ('"2026-01-31T11:47:38.067021001Z"', MOMENT, '{"created":"2026-01-31T11:47:38.067021001Z"}'),
        ('"2026-01-31"', datetime(2026, 1, 31, tzinfo=UTC), None),
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), None),
        ("1700000000.5", datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC), None),
        ('"1700000000"', datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), None),
        ('""', None, None),
        ("null", None, None),
        ('"N/A"', None, '{"created":"N/A"}'),
        ('"2026-02-30T00:00:00"', None, '{"created":"2026-02-30T00:00:00"}'),
        ("999999999999", None, '{"created":999999999999}'),
        ("1e9", None, '{"created":1e9}'),
        ("true", None, '{"created":true}'),
        ("[]", None, '{"created":[]}'),
    ],
    "input": [
        ('{"b" : 1e999, "b":2}', '{"b" : 1e999, "b":2}', None),
        ('"text"', '"text"', None),
        ("null", None, None),
    ],
}


@each_row(
    ("name", "value", "expected", "extra"),
    [(name, *one) for name, values in VALUES.items() for one in values],
    ids=lambda one: str(one)[:40],
)
def test_every_value_is_in_its_cell_or_in_extra(
    name: str, value: str, expected: object, extra: object
) -> None:
    assert cell(name, value) == (expected, extra)


def test_keys_without_a_column_are_in_extra() -> None:
    row = named("tasks", rb'{"id":1,"call_id":"x","n\u00e9w":null,"output":{},"extra":{"a": [ ]},"_id":"7"}')
    assert row["extra"] == '{"id":1,"call_id":"x","néw":null,"extra":{"a": [ ]}}'
    assert (row["id"], row["call_id"], row["output"]) == ("7", None, "{}")


def test_the_last_value_of_a_repeated_key_is_used_and_the_others_are_in_extra() -> None:
    row = named("runs", rb'{"status":"a","x":1,"status":2,"st\u0061tus":"c","x":2}')
    assert (row["status"], row["extra"]) == ("c", '{"status":"a","status":2,"x":1,"x":2}')


def test_whitespace_around_values_is_removed() -> None:
    row = named("runs", b'{ "status" : "a" ,\t"batch_count":  3 , "new":[ 1 ] }')
    assert (row["status"], row["batch_count"], row["extra"]) == ("a", 3, '{"new":[ 1 ]}')


def test_numbers_that_cannot_be_decoded_do_not_hide_the_call() -> None:
    big, many = "123456789012345678901234567890", "9" * 5000
    found = f"[1,1e999,{big},{many}]"
    output = (
        f'{{"call_id":"c","cost":1e999,"duration":{many},"post_call_data":{{"structured_data":{found}}}}}'
    )
    row = named("tasks", f'{{"output":{output}}}'.encode())
    assert row["output"] == output
    assert (row["call_id"], row["call_cost_usd"], row["call_duration_s"]) == ("c", None, None)
    assert row["call_structured_data"] == f'[1,"1e999",{big},"{many}"]'
    assert row["extra"] is None


@pytest.mark.parametrize("depth", [100, 400, 497])
def test_a_deeply_nested_row_is_flattened(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    output = f'{{"call_id":"c","error":{deep},"analysis":{{"structuredData":{deep}}}}}'
    line = f'{{"task_id":"T","new":{deep},"output":{output}}}'
    got = list[dict[str, Any]]()

    def flatten() -> None:
        got.append(named("tasks", row_line(line.encode(), keep_user_token=False)))

    # In a thread, like the export: its stack is nearly empty, so that the deepest rows can be decoded.
    thread = threading.Thread(target=flatten)
    thread.start()
    thread.join()
    (row,) = got
    assert (row["task_id"], row["output"], row["extra"]) == ("T", output, f'{{"new":{deep}}}')
    assert (row["call_id"], row["call_error"], row["call_structured_data"]) == ("c", deep, deep)


def test_a_row_nested_deeper_than_the_stack_is_flattened() -> None:
    deep = "[" * 800 + "]" * 800
    line = f'{{"task_id":"T","output":{{"x":{deep}}},"x":{deep}}}'.encode()

    def below(frames: int) -> dict[str, Any]:
        return below(frames - 1) if frames else named("tasks", line)

    row = below(300)
    assert (row["task_id"], row["extra"]) == ("T", f'{{"x":{deep}}}')


# --- any row -----------------------------------------------------------------------------------------------

NAMES = sorted({column.source for kind in KINDS for column in COLUMNS[kind] if column.of == "row"})
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON = st.recursive(
    st.one_of(
        st.sampled_from(["null", "true", "0", "7", "1e999", "-0.0", "9" * 30, '""', '"N/A"', '"2026-01-15"']),
        st.integers().map(str),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
        TEXTS.map(json.dumps),
        st.datetimes().map(lambda moment: f'"{moment.isoformat()}"'),
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(TEXTS.map(json.dumps), inner), max_size=3).map(
            lambda items: f"{{{','.join(f'{key}:{value}' for key, value in items)}}}"
        )
    ),
    max_leaves=8,
)
MEMBERS = st.lists(st.tuples(st.sampled_from(NAMES) | TEXTS, JSON), max_size=12)


@given(MEMBERS, st.sampled_from(KINDS), st.sampled_from(["", " "]))
def test_flattening_any_row_loses_nothing(members: list[tuple[str, str]], kind: RowKind, space: str) -> None:
    text = f"{{{','.join(f'{json.dumps(key)}{space}:{space}{value}' for key, value in members)}}}"
    row = named(kind, text.encode())
    extra = pairs(row["extra"] or "{}")
    last = dict(members)
    for key, value in members:
        sent = pairs(value)
        if (key, sent) in extra:
            continue
        assert value == last[key], "only the last of a key may be in a column alone"
        (column,) = [one for one in COLUMNS[kind] if one.of == "row" and one.source == key]
        got = row[column.name]
        assert got is None or type(got) is TYPES[column.kind]
        if column.kind == "json":
            assert got == (None if value == "null" else value)
        elif column.kind == "timestamp":
            assert got == parse_time(json.loads(value))
            assert got is not None or value in {"null", '""'}
        else:
            assert got == json.loads(value)
    # `extra` has nothing that was not in the row.
    assert all(one in [(key, pairs(value)) for key, value in members] for one in extra)
