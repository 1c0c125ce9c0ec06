"""Decoding a page: typed as a whole, and row by row if that fails."""

from __future__ import annotations

import gc
import json
import operator
import pickle
import sys
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import each_row
from unpod_async import Agent, CreatedRun, DecodeError, Page, RejectedRow, Run, Space, Task
from unpod_async._http import endpoints as paths
from unpod_async._paging import (
    DecodedPage,
    Listing,
    decode_in_slices,
    decode_object,
    decode_raw,
    decode_rows,
    decode_unless_known,
    scan_page,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TASKS: Listing[Task] = Listing(paths.space_tasks("S1"), Task, ("task_id", "id"))
RUN_TASKS: Listing[Task] = Listing(paths.run_tasks("S1", "R1"), Task, ("task_id", "id"), run_id="R1")
AGENT_TASKS: Listing[Task] = Listing(paths.agent_tasks("a"), Task, ("task_id", "id"), tied=True)
RUNS: Listing[Run] = Listing(paths.runs("S1"), Run, ("run_id",))
AGENTS: Listing[Agent] = Listing(paths.agents(), Agent, ("handle",), paged=False)
LISTINGS: list[Listing[Any]] = [TASKS, RUN_TASKS, AGENT_TASKS, RUNS, AGENTS]
DECODERS = pytest.mark.parametrize("decode", [decode_rows, decode_raw])

GOOD = b'{"task_id": "T0", "run_id": "R1", "status": "completed"}'


def page_of(*rows: bytes, count: bytes = b"9") -> bytes:
    return (
        b'{"count": ' + count + b', "status_code": 200, "message": "ok", "data": [' + b", ".join(rows) + b"]}"
    )


def rows_of(*rows: bytes, listing: Listing[Any] = TASKS) -> DecodedPage:
    return decode_rows(listing, page_of(*rows), 1, {})


def raw_of(*rows: bytes, listing: Listing[Any] = TASKS) -> DecodedPage:
    return decode_raw(listing, page_of(*rows), 1, {})


# --- a good page -------------------------------------------------------------------------------------------


def test_a_page_is_decoded() -> None:
    body = page_of(GOOD, b'{"task_id": "T1", "output": {"call_id": "c"}, "new_key": [1]}', count=b"144")
    rows = decode_rows(TASKS, body, 3, {"date": "x"})
    assert [type(row) for row in rows.rows] == [Task, Task]
    assert rows.keys == ["T0", "T1"]
    assert (rows.count, rows.status_code, rows.message) == (144, 200, "ok")
    assert rows.created == ()
    assert rows.headers == {"date": "x"}
    assert rows.rows[1].output == {"call_id": "c"}


def test_pages_of_tied_listings_have_creation_times() -> None:
    body = (b'{"task_id": "T0", "created": "2026-01-15T11:00:00"}', b'{"task_id": "T1"}', b"5")
    times = [datetime(2026, 1, 15, 11, tzinfo=UTC), None, None]
    assert rows_of(*body, listing=AGENT_TASKS).created == times
    assert raw_of(*body, listing=AGENT_TASKS).created == times


@each_row(
    ("listing", "row", "key"),
    [
        (TASKS, {"task_id": "T", "_id": "I"}, "T"),
        (TASKS, {"_id": "I"}, "I"),
        (TASKS, {"task_id": None, "_id": "I"}, "I"),
        (TASKS, {"task_id": "", "_id": "I"}, "I"),
        (RUNS, {"run_id": "R", "_id": "I"}, "R"),
        (AGENTS, {"handle": "h", "name": "n"}, "h"),
    ],
)
def test_the_key_of_a_row(listing: Listing[Any], row: dict[str, Any], key: str) -> None:
    sent = json.dumps(row).encode()
    assert rows_of(sent, listing=listing).keys == [key]
    assert raw_of(sent, listing=listing).keys == [key]


@each_row("count", [b"null", b'"144"', b"true", b"false", b"-1", b"144.0", b"1e2", b"{}", b"[1]"])
@DECODERS
def test_an_invalid_count_is_none(decode: Any, count: bytes) -> None:
    assert decode(TASKS, page_of(GOOD, count=count), 1, {}).count is None


@DECODERS
def test_a_count_is_taken_as_sent(decode: Any) -> None:
    assert decode(TASKS, b'{"data": []}', 1, {}).count is None
    assert decode(TASKS, page_of(GOOD, count=b"0"), 1, {}).count == 0
    assert decode(TASKS, page_of(GOOD, count=b"1"), 1, {}).count == 1


# --- no page at all ----------------------------------------------------------------------------------------

DEEP = b"[" * 100_000 + b"]" * 100_000


@each_row(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"5",
        b"[]",
        b'"x"',
        b"{",
        b"{}",
        b'{"count": 3, "message": "ok"}',
        b'{"data": {}}',
        b'{"data": "x"}',
        b'{"data": 5}',
        b'{"data": []',
        b'{"data": []}]',
        b'{"data": [],}',
        b'{"data": [{"task_id": "T0"},]}',
        b"{'data': []}",
        b'\xef\xbb\xbf{"data": []}',
        '{"data": []}'.encode("utf-16"),
        b"<html></html>",
        b'{"data": null, "count": 3}',
        b'{"data": null, "count": 1}',
        b'{"message": "\xff", "data": []}',
        DEEP,
        page_of(GOOD)[:-5],
        page_of(GOOD, count=b"NaN"),
        *(
            page_of(GOOD, b'{"task_id": "T1", "%s": {"a": %s}}' % (name, value))
            for name in (b"input", b"output", b"not_known")
            for value in (b"NaN", b"-Infinity", b'"\\ud800"', b'"\\x"', b'"\n"', b"01", b"tru")
        ),
        page_of(GOOD, b'{"task_id": "\\ud800"}'),
        page_of(GOOD, b'{"task_id": "T1", "retry_attempt": NaN}'),
    ],
    ids=lambda body: repr(body[-60:]),
)
@DECODERS
def test_a_body_that_is_not_a_listing(decode: Any, body: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(TASKS, body, 1, {})
    assert "the response" in str(caught.value)
    # Nothing keeps the body or shows any of it.
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert "T0" not in "".join(traceback.format_exception(caught.value))


@DECODERS
def test_data_null(decode: Any) -> None:
    for body in (b'{"data": null}', b'{"data": null, "count": 0}', b'{"data": null, "count": null}'):
        assert decode(TASKS, body, 1, {}).rows == []
    # Some servers send null past the end.
    assert decode(TASKS, b'{"data": null, "count": 3}', 2, {}).rows == []


# --- a bad row ---------------------------------------------------------------------------------------------


@each_row(
    ("row", "path"),
    [
        (b'{"task_id": 7}', "$.data[3].task_id"),
        (b'{"task_id": "T3", "status": ["x"]}', "$.data[3].status"),
        (b'{"task_id": "T3", "_id": 5}', "$.data[3]._id"),
        (b'{"task_id": "T3", "input": "x"}', "$.data[3].input"),
        (b'{"task_id": "T3", "run_id": {"id": 5}}', "$.data[3].run_id"),
        (b'{"task_id": "T3", "user": 5, "task": "x", "status": 7}', "$.data[3].status"),
        (b"7", "$.data[3]"),
        (b"null", "$.data[3]"),
        (b'"T3"', "$.data[3]"),
        (b"[]", "$.data[3]"),
        (b'{"task_id": "T3", "output": {"a": "\xff"}}', "$.data[3]"),
        (b'{"task_id": "T3", "not_known": "\xff"}', "$.data[3]"),
        (b'{"task_id": "T3\xff"}', "$.data[3]"),
        (b'{"task_id": "T3", "output": {"\xff": 1}}', "$.data[3]"),
    ],
)
def test_a_bad_row_does_not_affect_other_rows(row: bytes, path: str) -> None:
    good = [b'{"task_id": "T%d"}' % number for number in range(3)]
    rows = rows_of(*good, row, b'{"task_id": "T4"}')
    assert [type(found) for found in rows.rows] == [Task, Task, Task, RejectedRow, Task]
    bad = rows.rows[3]
    assert (bad.raw, bad.path) == (row, path)
    assert bad.reason
    assert len(rows.keys) == len(set(rows.keys)) == 5
    assert rows.count == 9
    if b'"T3"' in row and row.startswith(b"{"):
        assert rows.keys[3] == "T3"

    # As bytes, it is not a bad row.
    raw = raw_of(*good, row, b'{"task_id": "T4"}')
    assert raw.rows[3] == row
    assert raw.keys == rows.keys


def test_bad_rows_have_different_keys() -> None:
    rows = rows_of(b"7", b"8", b'{"task_id": 7}', b'{"task_id": 8}', b'{"task_id": 7}')
    assert len(rows.keys) == 5
    assert rows.keys[2] == rows.keys[4]
    assert len(set(rows.keys)) == 4


def test_rows_without_an_id_have_the_same_key_only_if_they_are_identical() -> None:
    sent = [
        b"{}",
        b'{"status": "pending"}',
        b'{"task_id": null}',
        b'{"status": "pending"}',
        b'{"task_id": ""}',
    ]
    rows = rows_of(*sent)
    assert [type(row) for row in rows.rows] == [Task] * 5
    assert rows.keys[1] == rows.keys[3]
    assert len(set(rows.keys)) == 4
    assert rows.keys == raw_of(*sent).keys
    # The same row has the same key on every page, and no key equals an id.
    assert rows_of(b"{}").keys == rows_of(GOOD, b"{}").keys[1:]
    assert all(key.startswith("#") for key in rows.keys)


# --- fields of another type --------------------------------------------------------------------------------

DRIFT: list[tuple[Listing[Any], dict[str, Any], dict[str, Any], list[str]]] = [
    (TASKS, {"user": {"id": 7}}, {"user": None}, ["user"]),
    (TASKS, {"retry_attempt": 1.0, "failure_count": "2"}, {}, ["failure_count", "retry_attempt"]),
    (TASKS, {"created": 1768474800, "modified": ["x"]}, {"created_at": None}, ["created", "modified"]),
    (TASKS, {"task": [], "attachments": {}}, {"task": None}, ["task", "attachments"]),
    (TASKS, {"space_id": 7, "thread_id": 8, "assignee": {}}, {}, ["space_id", "thread_id", "assignee"]),
    (TASKS, {"user_info": {"id": 5, "email": "e"}}, {"user_info.email": "e"}, ["user_info.id"]),
    (TASKS, {"user_info": [{"id": "5"}]}, {"user_info": None}, ["user_info"]),
    (TASKS, {"failure_count": 0.5, "scheduled_timestamp": []}, {}, ["failure_count", "scheduled_timestamp"]),
    (RUN_TASKS, {"run_id": "R1", "user": 7}, {"run_id": "R1"}, ["user"]),
    (RUNS, {"batch_count": 3.0}, {"batch_count": None}, ["batch_count"]),
    (RUNS, {"user": {"id": 7}, "batch_count": "3"}, {"user": None}, ["user", "batch_count"]),
    (AGENTS, {"name": 7, "state": True}, {"name": None}, ["name", "state"]),
]


@each_row(("listing", "sent", "found", "drift"), DRIFT)
def test_a_field_that_nothing_depends_on_may_have_another_type(
    listing: Listing[Any], sent: dict[str, Any], found: dict[str, Any], drift: list[str]
) -> None:
    key = {listing.identity[0]: "X", "status": "completed"}
    row = json.dumps({**key, **sent}).encode()
    decoded = rows_of(row, row, listing=listing)
    for one in decoded.rows:
        assert isinstance(one, listing.model)
        for name, value in found.items():
            assert operator.attrgetter(name)(one) == value
    assert decoded.keys == ["X", "X"]
    assert decoded.drift == drift * 2
    raw = raw_of(row, listing=listing)
    assert (raw.rows, raw.drift) == ([row], ())
    # Without it, nothing is counted.
    assert rows_of(json.dumps(key).encode(), listing=listing).drift == ()


@each_row(
    ("listing", "field"),
    [
        (TASKS, "task_id"),
        (TASKS, "_id"),
        (TASKS, "run_id"),
        (TASKS, "status"),
        (TASKS, "ref_id"),
        (AGENT_TASKS, "created"),
        (RUNS, "run_id"),
        (RUNS, "status"),
        (AGENTS, "handle"),
    ],
)
def test_a_field_that_identifies_filters_or_orders_rows_has_its_type(
    listing: Listing[Any], field: str
) -> None:
    for value in (7, {"id": "x"}, ["x"], True, 1.5):
        row = json.dumps({"task_id": "T1", "user": 7, field: value}).encode()
        (bad,) = rows_of(row, listing=listing).rows
        assert isinstance(bad, RejectedRow)
        assert bad.path == f"$.data[0].{field}"


def test_created_has_its_type_where_it_is_filtered() -> None:
    window = paths.TimeWindow(datetime(2026, 1, 15, tzinfo=UTC), None)
    listing: Listing[Run] = Listing(paths.runs("S1"), Run, ("run_id",), window=window)
    row = b'{"run_id": "R1", "created": 1768474800}'
    assert rows_of(row, listing=listing).rows[0].path == "$.data[0].created"
    assert rows_of(row, listing=RUNS).drift == ["created"]


def count_calls(work: Callable[[], object]) -> int:
    """Return the number of functions that are called, the second time that the work is done."""
    work()
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


@each_row(
    "row",
    [
        b'{"task_id": "T1", "run_id": "R1", "user": 7}',
        b'{"task_id": "T1", "run_id": "R1", "user_info": {"id": 7}}',
        b'{"task_id": 7, "run_id": "R1"}',
    ],
)
def test_a_field_of_another_type_costs_little(row: bytes) -> None:
    """The service may send it in every row, and the event loop is blocked meanwhile."""
    bodies = [page_of(*[row] * count) for count in (5, 25)]
    few, many = (count_calls(lambda body=body: decode_rows(TASKS, body, 1, {})) for body in bodies)  # type: ignore[misc] # a lambda with a default
    assert (many - few) / 20 < 200


def test_plain_data_costs_little() -> None:
    task = msgspec.json.decode(GOOD[:-1] + b', "user_info": {"id": "7"}}', type=Task)
    assert count_calls(task.to_dict) < 200


async def test_a_large_page_has_the_drift_of_all_its_slices() -> None:
    body = page_of(*[b'{"run_id": "R%d", "user": 7, "x": "%s"}' % (n, b"x" * 50_000) for n in range(20)])
    page = await decode_in_slices(scan_page(body, 1, {}), RUNS, 1, decode_rows)
    assert page.drift == ["user"] * 20
    assert {type(row) for row in page.rows} == {Run}


def test_fields_of_a_single_object_may_have_another_type() -> None:
    space = {"token": "T", "name": 7, "agents": [{"handle": "h", "name": 7}], "organization": {"name": [1]}}
    found, _ = decode_object(Space, json.dumps({"data": space}).encode())
    assert (found.token, found.name) == ("T", None)
    assert found.agents == [Agent(handle="h")]
    assert found.organization is not None
    created, _ = decode_object(CreatedRun, b'{"data": {"run_id": "R", "created": 5, "space_id": 7}}')
    assert created == CreatedRun(run_id="R")
    for bad in (
        b'{"run_id": 7}',
        b'{"run_id": "R", "task_ids": "T"}',
        b'{"run_id": "R", "status": 7}',
        b"[]",
    ):
        with pytest.raises(DecodeError, match="Expected"):
            decode_object(CreatedRun, b'{"data": %b}' % bad)


# --- deep rows ---------------------------------------------------------------------------------------------


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """Return JSON of so many levels."""
    return opening * levels + b"1" + closing * levels


DEEPER = [501, 600, 950, 1_100, 20_000]  # Python 3.11 cannot decode 1,000, and Python 3.13 not 20,000


@each_row(
    ("field", "around", "levels"),
    [
        ("input", b'{"a": %s}', 2),
        ("task", b'{"a": [%s]}', 3),
        ("attachments", b"[%s]", 2),
        ("user_info.location", b'{"location": {"a": %s}}', 3),
    ],
)
@each_row(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'{"a":', b',"b":2}'), (b"[2,", b"]")])
def test_a_task_may_have_500_levels(
    field: str, around: bytes, levels: int, opening: bytes, closing: bytes
) -> None:
    name = field.partition(".")[0].encode()
    for total in (500, *DEEPER):
        value = around % nested(total - levels, opening, closing)
        row = b'{"task_id": "T1", "%s": %s, "output": [[7]]}' % (name, value)
        decoded = rows_of(GOOD, row, b'{"task_id": "T2", "output": [8]}')
        assert decoded.keys == ["T0", "T1", "T2"]
        first, found, last = decoded.rows
        assert type(first) is type(last) is Task
        assert last.output == [8]
        if total == 500:
            assert operator.attrgetter(field)(found)
            assert found.output == [[7]]
        else:
            assert found == RejectedRow(row, f"$.data[1].{field}", "nested too deeply")
            rejected = RejectedRow(row, f"$.data[0].{field}", "nested too deeply")
            assert rows_of(row).rows == [rejected]
            assert rows_of(row, b'{"task_id": "T2", "input": {"a": [1]}}').rows[0] == rejected
        # As bytes, it is what it is.
        raw = raw_of(GOOD, row)
        assert raw.rows == [GOOD, row]
        assert raw.keys == ["T0", "T1"]


@each_row(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b',"b":2}')])
def test_an_output_may_have_499_levels_and_other_keys_any(opening: bytes, closing: bytes) -> None:
    for levels in (499, 500, *DEEPER):
        deep = nested(levels, opening, closing)
        row = b'{"task_id": "T1", "run_id": "R1", "new": {"x": %s}, "output": %s}' % (deep, deep)
        (task,) = rows_of(row, listing=RUN_TASKS).rows
        assert bytes(task.output_json) == deep
        if levels == 499:
            assert task.output
        else:
            with pytest.raises(DecodeError, match=r"the output of task T1 .* nested too deeply"):
                task.output  # noqa: B018 - decodes on first use


def test_a_body_that_is_too_deep_around_its_rows_is_not_a_listing() -> None:
    for body in (nested(20_000), b'{"data": %s, "message": %s}' % (nested(20_000, b'{"a":', b"}"), b'"x"')):
        for decode in (decode_rows, decode_raw):
            with pytest.raises(DecodeError, match="not a JSON listing"):
                decode(TASKS, body, 1, {})
    for levels in (501, 20_000):
        with pytest.raises(DecodeError, match="nested too deeply"):
            decode_object(Space, b'{"data": {"a": %s}}' % nested(levels))
    assert decode_object(Space, b'{"data": {"a": %s}}' % nested(499))[0] == Space()


def test_a_rejected_row_shows_no_data() -> None:
    bad = rows_of(b'{"task_id": 7, "input": {"name": "Jane Roe"}}').rows[0]
    assert "Jane" not in repr(bad)
    assert "Jane" not in bad.reason
    assert "$.data[0].task_id" in repr(bad)
    assert pickle.loads(pickle.dumps(bad)) == bad  # noqa: S301


# --- rows of another run -----------------------------------------------------------------------------------

FOREIGN = b'{"task_id": "T1", "run_id": "R2"}'


def test_rows_of_another_run_are_rejected() -> None:
    sent = [GOOD, FOREIGN, b'{"task_id": "T2"}', b'{"task_id": "T3", "run_id": null}']
    rows = rows_of(*sent, listing=RUN_TASKS)
    raw = raw_of(*sent, listing=RUN_TASKS)
    assert [type(row) for row in rows.rows] == [Task, RejectedRow, Task, Task]
    assert [type(row) for row in raw.rows] == [bytes, RejectedRow, bytes, bytes]
    assert rows.rows[1] == raw.rows[1]
    assert rows.rows[1][:2] == (FOREIGN, "$.data[1].run_id")
    assert "R1" in rows.rows[1].reason
    # They still count for completeness.
    assert rows.keys == raw.keys == ["T0", "T1", "T2", "T3"]
    assert [type(row) for row in rows_of(*sent).rows] == [Task] * 4


def test_a_run_id_of_the_wrong_type_does_not_name_another_run() -> None:
    sent = b'{"task_id": "T1", "run_id": 5}'
    assert rows_of(sent, listing=RUN_TASKS).rows[0].path == "$.data[0].run_id"
    assert raw_of(sent, listing=RUN_TASKS).rows == [sent]


def test_a_page_of_another_run_is_read_once_more_at_most() -> None:
    rows = decode_rows(RUN_TASKS, page_of(*[FOREIGN[:-1] + b', "n": %d}' % n for n in range(20_000)]), 1, {})
    assert [row.raw for row in rows.rows[:2]] == [FOREIGN[:-1] + b', "n": 0}', FOREIGN[:-1] + b', "n": 1}']
    assert all(type(row) is RejectedRow for row in rows.rows)


# --- raw ---------------------------------------------------------------------------------------------------


def test_raw_rows_are_exactly_what_was_sent() -> None:
    sent = [
        b'{"task_id":"T1",  "a" : 1.50e+01,\t"b":"\\u00e9\\/" }',
        b'{"task_id": 7, "task_id": "T2"}',
        b"[ 1 ]",
        b"null",
        b'"x"',
        b"-0.0",
        b'{"output": {"a": "\xff\xfe"}}',
        '{"task_id": "é\u202e"}'.encode(),
    ]
    rows = raw_of(*sent)
    assert rows.rows == sent
    assert [type(row) for row in rows.rows] == [bytes] * len(sent)
    assert (rows.count, rows.status_code, rows.message) == (9, 200, "ok")
    assert len(set(rows.keys)) == len(sent)


def test_raw_rows_are_filtered_by_status() -> None:
    listing: Listing[Task] = Listing(
        paths.space_tasks("S1"), Task, ("task_id", "id"), statuses=frozenset({"completed"})
    )
    sent = [GOOD, b'{"status": "pending"}', b"{}", b'{"status": null}', b'{"status": ["completed"]}', b"5"]
    rows = raw_of(*sent, listing=listing)
    assert rows.rows == [GOOD, None, None, None, None, None]
    assert len(rows.keys) == len(sent)


def test_raw_rows_are_filtered_by_time() -> None:
    window = paths.TimeWindow(datetime(2026, 1, 15, tzinfo=UTC), None)
    listing: Listing[Task] = Listing(paths.space_tasks("S1"), Task, ("task_id", "id"), window=window)
    early = b'{"task_id": "T1", "created": "2026-01-14T23:59:59"}'
    late = b'{"task_id": "T2", "created": "2026-01-15T00:00:00"}'
    odd = b'{"task_id": "T3", "created": ["x"]}'
    assert raw_of(early, late, odd, listing=listing).rows == [None, late, odd]


# --- pages of known rows -----------------------------------------------------------------------------------


ROWS_OF_A_PAGE = [
    *(b'{"task_id": "T1", "run_id": "R1"}', b'{"task_id": "T2", "run_id": "R2"}', b'{"_id": "7"}'),
    *(
        b'{"task_id": "T3", "output": "\xff"}',
        b'{"task_id": "T4", "cost": []}',
        b'{"task_id": 7}',
        b"{}",
        b"[]",
    ),
]


@given(st.lists(st.sampled_from(ROWS_OF_A_PAGE), max_size=4))
@pytest.mark.parametrize("listing", [TASKS, RUN_TASKS], ids=["tasks of a space", "tasks of a run"])
def test_a_page_of_known_rows_has_the_keys_and_the_count_of_the_decoded_page(
    listing: Listing[Task], rows: list[bytes]
) -> None:
    body = page_of(*rows)
    asked: list[list[str]] = []

    def are_known(keys: Sequence[str]) -> bool:
        asked.append(list(keys))
        return True

    decoded = decode_rows(listing, body, 1, {})
    known = decode_unless_known(are_known, decode_rows, listing, body, 1, {})
    assert (list(known.keys), known.count) == (list(decoded.keys), decoded.count)
    assert known.body_size == decoded.body_size
    assert len(known.rows) == (0 if asked else len(rows))
    unknown = decode_unless_known(lambda _: False, decode_rows, listing, body, 1, {})
    assert list(map(repr, unknown.rows)) == list(map(repr, decoded.rows))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"data": null, "count": 3}', b'{"data": 7}'])
def test_a_body_that_is_not_a_listing_is_an_error_of_known_rows_too(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_unless_known(lambda _: True, decode_rows, TASKS, body, 1, {})


# --- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", [b'{"task_id": "T1"}', b'{"task_id": 7}', FOREIGN, b"{}", b'{"output": "\xff"}'], ids=repr
)
@DECODERS
def test_a_kept_row_does_not_keep_its_page(decode: Any, bad: bytes) -> None:
    first = b'{"task_id": "T0", "input": {"a": "b"}, "output": {"transcript": "%s"}}' % (b"x" * 1000)
    body = page_of(first, bad)
    before = sys.getrefcount(body)
    rows = decode(RUN_TASKS, body, 1, {})
    gc.collect()
    assert sys.getrefcount(body) == before
    if decode is decode_rows:
        assert rows.rows[0].output == {"transcript": "x" * 1000}


def test_an_error_does_not_keep_its_page() -> None:
    body = page_of(b'{"task_id": "\xff"')
    before = sys.getrefcount(body)
    errors: list[DecodeError] = []
    for decode in (decode_rows, decode_raw):
        try:
            decode(TASKS, body, 1, {})
        except DecodeError as error:
            # The frames of the traceback keep it as long as the traceback exists.
            errors.append(error.with_traceback(None))
    gc.collect()
    assert len(errors) == 2
    assert sys.getrefcount(body) == before


# --- a single object ---------------------------------------------------------------------------------------


def test_a_single_object() -> None:
    body = b'{"status_code": 200, "message": "m", "data": {"token": "S1", "name": "n"}}'
    space, stated = decode_object(Space, body)
    assert (space.token, space.name, stated) == ("S1", "n", 200)
    created, stated = decode_object(CreatedRun, b'{"data": {"run_id": "R1"}}')
    assert (created.run_id, stated) == ("R1", None)


@each_row(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"data": null}',
        b'{"data": []}',
        b'{"data": {"token": 5}}',
        b'{"data": {"token": "\xff"}}',
        b'{"data": {"not_known": "\xff"}}',
        b'{"data": {"token": "\\ud800"}}',
        b'{"data": {"not_known": NaN}}',
        b'{"data": {"not_known": ' + DEEP + b"}}",
        b"<html></html>",
    ],
    ids=lambda body: repr(body[-60:]),
)
def test_a_body_that_is_not_a_single_object(body: bytes) -> None:
    with pytest.raises(DecodeError, match="the response is not the expected JSON: ") as caught:
        decode_object(Space, body)
    assert caught.value.__context__ is None


# --- a page ------------------------------------------------------------------------------------------------


def test_a_page_is_a_plain_value() -> None:
    page = Page([1], 1, 50, None, [RejectedRow(b"7", "$.data[0]", "r")], [3], {"date": "d"})
    assert pickle.loads(pickle.dumps(page)) == page  # noqa: S301
    with pytest.raises(AttributeError):
        page.number = 2  # type: ignore[misc]


# --- anything at all ---------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = ["task_id", "_id", "run_id", "handle", "status", "created", "output", "input", "user_info", "other"]
ROWS = VALUES | st.dictionaries(st.sampled_from(NAMES), VALUES | st.sampled_from(["R1", "R2", "T1", "T2"]))
ENVELOPES = st.fixed_dictionaries(
    {}, optional={"data": st.lists(ROWS, max_size=5) | VALUES, "count": VALUES, "status_code": VALUES}
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return a page, or a page with one byte changed, removed or inserted."""
    body = json.dumps(draw(ENVELOPES)).encode()
    if draw(st.booleans()):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 2)))
        body = body[:start] + draw(st.binary(max_size=2)) + body[end:]
    return body


@given(st.sampled_from(LISTINGS), st.one_of(st.binary(), damaged()), st.integers(1, 3))
def test_any_bytes_are_rows_or_a_decode_error(listing: Listing[Any], body: bytes, number: int) -> None:
    found: list[DecodedPage | None] = []
    for decode in (decode_rows, decode_raw):
        try:
            found.append(decode(listing, body, number, {}))
        except DecodeError:
            found.append(None)
    rows, raw = found
    assert (rows is None) == (raw is None)
    if rows is None or raw is None:
        return
    assert len(rows.rows) == len(rows.keys) == len(raw.rows) == len(raw.keys)
    assert rows.keys == raw.keys
    assert rows.count == raw.count
    for row, sent in zip(rows.rows, raw.rows, strict=True):
        assert type(row) in {listing.model, RejectedRow}
        assert type(sent) in {bytes, RejectedRow}
        assert (sent.raw if isinstance(sent, RejectedRow) else sent) in body


@given(st.one_of(st.binary(), damaged()), st.sampled_from([Space, CreatedRun]))
def test_any_bytes_are_an_object_or_a_decode_error(body: bytes, model: type[Any]) -> None:
    try:
        found, _ = decode_object(model, body)
    except DecodeError:
        return
    assert type(found) is model
