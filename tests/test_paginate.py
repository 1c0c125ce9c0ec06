"""`UnpodClient.paginate`: complete with a key, counted without one."""

from __future__ import annotations

import json
import re
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import parse_qs

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raw_server import RawConnection, RawServer, http_response, json_response
from tests.tables import each_row
from unpod_async import RetryPolicy, Run, Task, UnpodClient
from unpod_async._paging import MAX_WHOLE_BYTES
from unpod_async.errors import (
    DecodeError,
    IncompleteListing,
    InvalidArgument,
    NotFoundError,
    ServerError,
    StalledListing,
    TransportError,
    UnpodError,
    UpstreamError,
)
from unpod_async.testing import Fault, Oddities, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Sequence

FAST = RetryPolicy(base=0.001)


class Listed:
    """A handler that serves rows by `page` and `page_size`.

    Args:
        rows: the rows, or a function of the number of the request (from 1) that returns them.
        count: what the responses state: "true", "absent", or a number.
        past_end: the status of a page past the end.
        largest: the largest page.
        page: the page that is sent whatever the request says; by default the requested one.
    """

    def __init__(
        self,
        rows: Sequence[Any] | Callable[[int], Sequence[Any]],
        *,
        count: str | int = "true",
        past_end: int = 200,
        largest: int = 10**9,
        page: int | None = None,
    ) -> None:
        self.rows = rows
        self.count = count
        self.past_end = past_end
        self.largest = largest
        self.page = page
        self.asked: list[tuple[int, int]] = []

    async def __call__(self, connection: RawConnection) -> None:
        while (request := await connection.read_request()) is not None:
            query = parse_qs(request.split(b" ")[1].decode().partition("?")[2])
            page, size = int(query["page"][0]), int(query["page_size"][0])
            self.asked.append((page, size))
            size = min(size, self.largest)
            page = self.page or page
            rows = self.rows(len(self.asked)) if callable(self.rows) else self.rows
            found = rows[(page - 1) * size : page * size]
            if not found and page > 1 and self.past_end != 200:
                await connection.send(json_response({"message": "Invalid page."}, self.past_end))
                continue
            count = (
                {} if self.count == "absent" else {"count": len(rows) if self.count == "true" else self.count}
            )
            await connection.send(json_response({**count, "status_code": 200, "message": "m", "data": found}))


def client(server: RawServer, **options: Any) -> UnpodClient:
    return UnpodClient("t0ken-of-the-test", "acme.example", server.base_url, **{"retry": FAST, **options})


async def read(rows: AsyncIterable[Any]) -> tuple[list[Any], Any]:
    """The rows that an iteration yields, and the error in which it ends, or None."""
    found: list[Any] = []
    try:
        async for row in rows:
            found += [row]
    except UnpodError as error:
        return found, error
    return found, None


def numbered(number: int) -> list[dict[str, Any]]:
    return [{"id": f"w{index}", "name": "x"} for index in range(number)]


# --- with a key --------------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {
    "field": "id",
    "number": "number",
    "function": lambda row: row["id"],
    "number of a function": lambda row: row["number"],
    "tuple": lambda row: (row["name"], row["number"], None),
}


@each_row("key", KEYS)
@each_row("size", [1, 3, 10, 11, 100])
async def test_each_row_is_yielded_once_in_order(key: str, size: int) -> None:
    rows = [{"id": f"w{index}", "number": index, "name": "x"} for index in range(11)]
    async with RawServer(Listed(rows)) as server, client(server) as unpod:
        pager = unpod.paginate("widgets/", key=KEYS[key], page_size=size)
        assert await pager.collect() == rows
        assert [json.loads(row) async for row in pager.raw()] == rows
        assert [page.items async for page in pager.pages()] == [
            rows[at : at + size] for at in range(0, 11, size)
        ]
        async with pager.prefetch(3) as stream:
            assert [row async for row in stream] == rows
        assert await pager.first() == rows[0]
        assert await pager.count() == 11


@each_row("key", ["field", "function"])
async def test_a_row_that_moved_to_the_next_page_is_yielded_once(key: str) -> None:
    rows = numbered(6)

    def growing(request: int) -> list[dict[str, Any]]:
        return rows if request == 1 else [{"id": "new", "name": "x"}, *rows]

    async with RawServer(Listed(growing)) as server, client(server) as unpod:
        found = await unpod.paginate("widgets/", key=KEYS[key], page_size=2).collect()
    assert sorted(row["id"] for row in found if row["id"] != "new") == [row["id"] for row in rows]


async def test_a_row_that_moved_to_a_page_already_read_is_found_or_the_walk_says_so() -> None:
    rows = numbered(6)
    async with (
        RawServer(Listed(lambda request: rows if request == 1 else rows[1:])) as server,
        client(server) as unpod,
    ):
        found = await unpod.paginate("widgets/", key="id", page_size=2).collect()
    assert {row["id"] for row in found} >= {row["id"] for row in rows[1:]}


async def test_rows_that_are_never_where_they_were_end_in_an_error_or_are_all_found() -> None:
    rows = numbered(300)
    listed = Listed(lambda request: rows[request * 7 % 50 :], largest=10)
    async with RawServer(listed) as server, client(server) as unpod:
        found, error = await read(unpod.paginate("widgets/", key="id", page_size=10))
    assert len(found) == len({row["id"] for row in found})
    assert isinstance(error, IncompleteListing) or len(found) >= 250


@settings(max_examples=60)
@given(
    data=st.lists(st.integers(0, 3), max_size=9),
    size=st.integers(1, 4),
    keyed=st.booleans(),
    count=st.sampled_from(["true", "absent"]),
)
async def test_equal_rows_without_a_key_are_all_yielded_or_the_walk_says_so(
    data: list[int], size: int, keyed: bool, count: str
) -> None:
    rows = [{"id": "k", "value": 0} if keyed and not value else {"value": value} for value in data]
    unique = (
        rows if not keyed else [row for at, row in enumerate(rows) if "id" not in row or row not in rows[:at]]
    )
    async with RawServer(Listed(rows, count=count)) as server, client(server) as unpod:
        found, error = await read(unpod.paginate("widgets/", key="id", page_size=size))
    assert error is None or isinstance(error, IncompleteListing)
    if error is None and count == "true" and unique == rows:
        assert sorted(map(str, found)) == sorted(map(str, rows))
    if unique == rows:
        assert len(found) <= len(rows)


async def test_equal_rows_of_different_pages_are_counted() -> None:
    rows = [{"value": value} for value in (1, 1, 2, 2, 2, 3)]
    async with RawServer(Listed(rows)) as server, client(server) as unpod:
        for size in (2, 3, 4, 5, 6, 7):
            found = await unpod.paginate("widgets/", key="id", page_size=size).collect()
            assert sorted(row["value"] for row in found) == [1, 1, 2, 2, 2, 3]


async def test_equal_rows_of_a_page_that_is_decoded_in_slices_are_counted() -> None:
    rows = [{"value": index % 2, "text": "x" * 1000} for index in range(MAX_WHOLE_BYTES // 1000 + 10)]
    async with RawServer(Listed(rows)) as server, client(server) as unpod:
        found = await unpod.paginate("widgets/", key="id", page_size=10_000).collect()
    assert found == rows


@each_row("value", [None, "", 1.5, True, [], {}], ids=repr)
async def test_a_field_that_is_no_key_counts_as_none(value: object) -> None:
    rows = [{"id": value, "name": name} for name in "aabc"]
    async with RawServer(Listed(rows)) as server, client(server) as unpod:
        assert await unpod.paginate("widgets/", key="id").collect() == rows


async def test_different_keys_stay_different() -> None:
    keys = ["1", 1, "\0k1", "\0ki1;", "\0s1", "s1", "\0#1", "#1", "i1;", 2**70, -(2**70), "é", "\0é"]
    rows = [{"id": key} for key in keys]
    async with RawServer(Listed(rows)) as server, client(server) as unpod:
        assert await unpod.paginate("widgets/", key="id", page_size=3).collect() == rows
        assert await unpod.paginate("widgets/", key=lambda row: (row["id"],), page_size=3).collect() == rows


ODD_KEYS: list[Any] = [
    *("\ud800", "\ud801", "\\ud800", ("\ud800",), ("\ud801",), ("1",), (1,), ((1,), 2), (1, (2,)), (1, 2)),
    *(10**5000, 10**5000 + 1, -(10**5000), 16, "10", "i10;", ("a", "b"), ("a,b",), ("as1:b",), (None,), ()),
    *(IntEnum("Number", "seven").seven, StrEnum("Text", "eight").eight),  # type: ignore[attr-defined]
]


async def test_a_function_can_return_any_text_and_any_number_as_key() -> None:
    rows = numbered(len(ODD_KEYS))
    async with RawServer(Listed(rows)) as server, client(server) as unpod:
        pager = unpod.paginate("widgets/", key=lambda row: ODD_KEYS[int(row["id"][1:])], page_size=4)
        assert await pager.collect() == rows
        with pytest.raises(InvalidArgument, match="or None, not float"):
            await unpod.paginate("widgets/", key=lambda row: (row["id"], 1.5)).collect()


async def test_the_error_of_a_key_function_is_raised() -> None:
    async with RawServer(Listed(numbered(3))) as server, client(server) as unpod:
        with pytest.raises(KeyError, match="none"):
            await unpod.paginate("widgets/", key=lambda row: row["none"]).collect()
        with pytest.raises(
            InvalidArgument, match="key must return a str, an int, a tuple of them, or None, not fl"
        ):
            await unpod.paginate("widgets/", key=lambda _: 1.5).collect()
        assert len(await unpod.paginate("widgets/", key=lambda _: None).collect()) == 3
    assert len(server.requests) == 3


@each_row("key", ["", 3, b"id", ["id"], 'i"d', "i\\d", "id\0", "i\nd", "\ud800"], ids=ascii)
async def test_other_keys_are_refused(key: Any) -> None:
    async with RawServer(Listed([])) as server, client(server) as unpod:
        with pytest.raises(InvalidArgument, match=r"^key must"):
            unpod.paginate("widgets/", key=key)


@each_row("name", ["page", "page_size"])
async def test_the_walk_owns_the_parameters_of_a_page(name: str) -> None:
    async with RawServer(Listed([])) as server, client(server) as unpod:
        with pytest.raises(InvalidArgument, match="must not contain page and page_size"):
            unpod.paginate("widgets/", key="id", params={name: 1})
        await unpod.paginate("widgets/", key="id", params={"a b": "c&d", "none": None}).collect()
    assert b"/widgets/?a%20b=c%26d&page=1&page_size=100 " in server.requests[0]


async def test_start_page_and_limits() -> None:
    rows = numbered(25)
    async with RawServer(Listed(rows)) as server, client(server, page_size=10) as unpod:
        for key in ("id", None):
            assert await unpod.paginate("widgets/", key=key, limit=3).collect() == rows[:3]
            assert await unpod.paginate("widgets/", key=key, start_page=2).collect() == rows[10:]
            assert await unpod.paginate("widgets/", key=key, start_page=4).collect() == []
            with pytest.raises(InvalidArgument):
                unpod.paginate("widgets/", key=key, limit=-1)


@each_row(
    "oddities", [Oddities(max_page_size=3), Oddities(ignore_page_size=True), Oddities(count="null")], ids=repr
)
async def test_odd_servers(oddities: Oddities) -> None:
    async with Sandbox(runs=1, tasks_per_run=50, oddities=oddities) as sandbox, sandbox.client() as unpod:
        path = f"spaces/{sandbox.space_token}/tasks/"
        for key in ("task_id", None):
            rows = await unpod.paginate(path, key=key, page_size=10).collect()
            assert [row["task_id"] for row in rows] == sandbox.task_ids()
        rows = await unpod.paginate(path, start_page=2, page_size=10).collect()
        assert len(rows) < 50


# --- without a key -----------------------------------------------------------------------------------------


async def test_rows_without_a_key_are_yielded_as_they_come() -> None:
    rows = [{"value": value} for value in (1, 1, 2, 1, 1, 1, 1)]
    async with RawServer(Listed(rows)) as server, client(server) as unpod:
        for size in (1, 2, 3, 7, 8):
            pager = unpod.paginate("widgets/", page_size=size)
            assert await pager.collect() == rows
            assert [json.loads(row) async for row in pager.raw()] == rows
            async with pager.prefetch(3) as stream:
                assert [row async for row in stream] == rows
        assert await unpod.paginate("widgets/", page_size=2).first() == rows[0]
        assert await unpod.paginate("widgets/", page_size=2).count() == 7


@each_row(("count", "expected"), [(5, 5), (7, 7), (0, 0), (100, 100)])
async def test_a_number_of_rows_that_differs_from_the_count_is_an_error(count: int, expected: int) -> None:
    rows = numbered(6)
    async with RawServer(Listed(rows, count=count)) as server, client(server) as unpod:
        for ahead in (False, True):
            pager = unpod.paginate("widgets/", page_size=3)
            if ahead:
                async with pager.prefetch(2) as stream:
                    found, error = await read(stream)
            else:
                found, error = await read(pager)
            assert type(error) is IncompleteListing
            assert f"rows were read, and the server counts {expected}" in str(error)
            assert "hint: rows without a key cannot be told apart: pass key=" in str(error)
            assert found == rows[: len(found)]
            assert (error.seen, error.expected) == (len(found), expected)
            assert (error.listing, error.page) == ("widgets/", 1)


async def test_a_row_that_is_added_meanwhile_is_yielded_twice_and_noticed_by_its_count() -> None:
    rows = numbered(4)

    def growing(request: int) -> list[dict[str, Any]]:
        return rows if request == 1 else [{"id": "new"}, *rows]

    async with RawServer(Listed(growing)) as server, client(server) as unpod:
        found = await unpod.paginate("widgets/", page_size=2).collect()
    # As documented: one row twice and another not at all, in the number that the server counts.
    assert [row["id"] for row in found] == ["w0", "w1", "w1", "w2", "w3"]
    async with (
        RawServer(Listed(lambda request: rows if request == 1 else rows[1:])) as server,
        client(server) as unpod,
    ):
        assert len(await unpod.paginate("widgets/", page_size=2).collect()) == 3
    async with (
        RawServer(Listed(lambda request: rows if request == 1 else rows[2:], count=4)) as server,
        client(server) as unpod,
    ):
        with pytest.raises(IncompleteListing):
            await unpod.paginate("widgets/", page_size=2).collect()


@each_row("past_end", [200, 404])
@each_row("largest", [10**9, 2])
async def test_without_a_count_it_ends_at_the_first_page_without_rows(past_end: int, largest: int) -> None:
    rows = numbered(6)
    listed = Listed(rows, count="absent", past_end=past_end, largest=largest)
    async with RawServer(listed) as server, client(server) as unpod:
        assert await unpod.paginate("widgets/", page_size=4).collect() == rows
        assert await unpod.paginate("widgets/", page_size=4).count() == 6


async def test_a_server_that_ignores_the_page_does_not_go_on_forever() -> None:
    async with (
        RawServer(Listed(lambda _: numbered(3) * 1000, count="absent")) as server,
        client(server) as unpod,
    ):
        with pytest.raises(StalledListing, match="page 2 has the same rows as the page before"):
            await unpod.paginate("widgets/", page_size=3).collect()
    assert len(server.requests) == 2


@each_row("key", ["id", None])
@each_row(("number", "size"), [(6, 3), (7, 3), (3, 1), (300, 100)])
async def test_a_server_that_ignores_the_page_is_noticed_whatever_its_count(
    key: str | None, number: int, size: int
) -> None:
    rows = numbered(number)
    async with RawServer(Listed(rows, page=1)) as server, client(server) as unpod:
        found, error = await read(unpod.paginate("widgets/", key=key, page_size=size))
    if key is not None and error is None:
        assert found == rows  # read in one larger page
        return
    assert isinstance(error, IncompleteListing)
    assert found[:size] == rows[:size]
    assert key is not None or len(server.requests) <= number // size + 2


@each_row("past_end", [200, 404])
async def test_equal_pages_are_no_error_if_none_follows_them(past_end: int) -> None:
    rows = [{"value": value} for value in (1, 2, 1, 2, 1, 2)]
    async with RawServer(Listed(rows, past_end=past_end)) as server, client(server) as unpod:
        for size, requests in ((2, 4), (3, 2), (1, 6), (6, 1)):
            server.requests.clear()
            assert await unpod.paginate("widgets/", page_size=size).collect() == rows
            assert len(server.requests) == requests


async def test_an_unreadable_page_raises_its_error_after_retries() -> None:
    async with Sandbox(runs=1, tasks_per_run=6) as sandbox, sandbox.client(retry=FAST) as unpod:
        sandbox.poison(sandbox.task_ids()[3])
        path = f"spaces/{sandbox.space_token}/tasks/"
        rows, error = await read(unpod.paginate(path, page_size=2))
        found = [row["task_id"] for row in rows]
        assert found == sandbox.task_ids()[:2]
        assert isinstance(error, UpstreamError)
        assert error.page == 2
        with pytest.raises(DecodeError, match="the row at position 4 is unreadable"):
            await unpod.paginate(path, key="task_id", page_size=2).collect()
        sandbox.script(Fault(status=500, times=2))
        rows = await unpod.paginate(path, page_size=2, limit=2).collect()
        assert [row["task_id"] for row in rows] == found


# --- rows --------------------------------------------------------------------------------------------------


class Widget(TypedDict):
    id: str
    size: int


class Thing(msgspec.Struct):
    id: str
    size: int = 0


@each_row("key", ["id", None])
async def test_rows_that_do_not_fit_the_model_are_bad_rows(key: str | None) -> None:
    rows = [{"id": "a", "size": 1}, {"id": "b", "size": "2"}, {"size": 3}, None, 7, {"id": "c", "size": 4}]
    async with RawServer(Listed(rows)) as server, client(server) as unpod:
        for model in (Widget, Thing):
            pager = unpod.paginate("widgets/", key=key, model=model, page_size=4)
            found, error = await read(pager)
            assert isinstance(error, DecodeError)
            assert "4 rows of widgets/ cannot be used" in str(error)
            assert [getattr(row, "id", None) or row["id"] for row in found] == ["a", "c"]
            assert [row.path for row in error.rejected] == [
                *("$.data[1].size", "$.data[2]", "$.data[3]", "$.data[0]"),
            ]
            skipping = unpod.paginate("widgets/", key=key, model=model, on_bad_row="skip")
            assert len(await skipping.collect()) == 2
            assert [json.loads(row) async for row in skipping.raw()] == rows


@each_row("key", ["id", None])
async def test_rows_are_dicts_by_default(key: str | None) -> None:
    rows = [{"id": "a"}, {"id": "b", "deep": {"x": [1, None]}}, None, 7, "text", [1]]
    async with RawServer(Listed(rows)) as server, client(server) as unpod:
        pager = unpod.paginate("widgets/", key=key, on_bad_row="skip")
        assert await pager.collect() == rows[:2]
        assert (unpod.stats.rows, unpod.stats.rejected) == (2, 4)
        scalars = unpod.paginate("widgets/", key=key, model=int | str | None, on_bad_row="skip")  # type: ignore[call-overload]
        assert await scalars.collect() == [7, "text"]


async def test_rows_of_the_models_of_this_package_are_lenient() -> None:
    rows = [{"run_id": "R1", "batch_count": "x"}, {"run_id": "R2"}]
    async with RawServer(Listed(rows)) as server, client(server) as unpod:
        found = await unpod.paginate("widgets/", key="run_id", model=Run).collect()
        assert found == [Run(run_id="R1"), Run(run_id="R2")]
        assert unpod.stats.drift == {"Run.batch_count": 1}


async def test_tables_of_runs_and_tasks() -> None:
    pytest.importorskip("polars")
    async with Sandbox(runs=2, tasks_per_run=3) as sandbox, sandbox.client() as unpod:
        pager = unpod.paginate(f"spaces/{sandbox.space_token}/tasks/", key="task_id", model=Task)
        table = await pager.to_polars()
        assert table["task_id"].to_list() == sandbox.task_ids()


async def test_rows_nested_too_deeply_are_bad_rows() -> None:
    deep = b'{"id": "deep", "a": %s}' % (b"[" * 100_000 + b"]" * 100_000)
    body = b'{"count": 2, "data": [{"id": "flat"}, %s]}' % deep

    async def handler(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(json_response(body))

    async with RawServer(handler) as server, client(server) as unpod:
        for key in ("id", None):
            with pytest.raises(DecodeError, match="nested too deeply") as caught:
                await unpod.paginate("widgets/", key=key).collect()
            assert len(caught.value.rejected) == 1


# --- requests ----------------------------------------------------------------------------------------------


@each_row("key", ["task_id", None])
async def test_pages_are_retried_and_errors_say_where(key: str | None) -> None:
    async with Sandbox(runs=1, tasks_per_run=6) as sandbox, sandbox.client(retry=FAST) as unpod:
        pager = unpod.paginate(f"spaces/{sandbox.space_token}/tasks/", key=key, page_size=2)
        sandbox.script(Fault(status=503, times=2, page=2), Fault(reset_at=0, page=3))
        assert [row["task_id"] for row in await pager.collect()] == sandbox.task_ids()
        sandbox.script(Fault(status=503, times=9, page=2))
        with pytest.raises(ServerError) as caught:
            await pager.collect()
        assert caught.value.page == 2
        with pytest.raises(NotFoundError, match="the server does not have this path"):
            await unpod.paginate("widgets/", key=key).collect()


@each_row("key", ["id", None])
async def test_a_response_that_is_not_a_listing_or_too_large(key: str | None) -> None:
    for body, kind in ((b"[]", DecodeError), (b'{"data": {}}', DecodeError), (b"x" * 2000, TransportError)):

        async def handler(connection: RawConnection, body: bytes = body) -> None:
            while await connection.read_request() is not None:
                await connection.send(http_response(body))

        async with RawServer(handler) as server, client(server, max_response_bytes=1000) as unpod:
            with pytest.raises(kind):
                await unpod.paginate("widgets/", key=key).collect()


@each_row("key", ["id", None])
async def test_the_deadline_covers_the_whole_walk(key: str | None) -> None:
    async with Sandbox(runs=1, tasks_per_run=6) as sandbox, sandbox.client(deadline=0.3) as unpod:
        sandbox.script(Fault(stall=60, page=2))
        path = f"spaces/{sandbox.space_token}/tasks/"
        found, error = await read(unpod.paginate(path, key=key, page_size=2))
        assert len(found) == 2
        assert isinstance(error, TransportError)
        assert error.timed_out


async def test_the_repr_names_the_path() -> None:
    async with RawServer(Listed([])) as server, client(server) as unpod:
        assert repr(unpod.paginate("widgets/", key="id")) == "Pager(widgets/)"
        assert re.fullmatch(r"<ListingIterator of widgets/>", repr(aiter(unpod.paginate("widgets/"))))
