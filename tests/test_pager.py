"""A `Pager` over real sockets: what it sends, what it yields, and how it ends."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.raw_server import RawConnection, RawServer, json_response
from tests.tables import each_row
from unpod_async import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    DecodeError,
    IncompleteListing,
    InvalidArgument,
    NotFoundError,
    Page,
    Pager,
    PermissionDeniedError,
    RateLimitedError,
    RefusedError,
    RejectedRow,
    RetryPolicy,
    Run,
    ServerError,
    StalledListing,
    Task,
    TransportError,
    UnpodClient,
    UnpodError,
)
from unpod_async.testing import Fault, Oddities, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

NOW = datetime(2026, 2, 1, tzinfo=UTC)


@asynccontextmanager
async def serving(*, page_size: int = 3, **arguments: Any) -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    """A sandbox, and a client that requests small pages."""
    arguments = {"runs": 7, "tasks_per_run": 1} | arguments
    async with (
        Sandbox(**arguments) as sandbox,
        UnpodClient(
            sandbox.token, sandbox.org_handle, sandbox.base_url, page_size=page_size, retry=None
        ) as unpod,
    ):
        yield sandbox, unpod


@asynccontextmanager
async def saying(*answers: bytes, page_size: int = 3) -> AsyncIterator[tuple[RawServer, UnpodClient]]:
    """A server that sends these responses in turn, and then repeats the last one."""
    left = list(answers)

    async def answer(connection: RawConnection) -> None:
        while await connection.read_request():
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    async with (
        RawServer(answer) as server,
        UnpodClient("t0ken", "acme", server.base_url, page_size=page_size, retry=None) as unpod,
    ):
        yield server, unpod


def run_ids(runs: list[Run]) -> list[str | None]:
    return [run.run_id for run in runs]


def task_ids(tasks: list[Task]) -> list[str | None]:
    return [task.task_id for task in tasks]


async def read_into(rows: list[Any], source: AsyncIterable[Any]) -> None:
    """Rows that were yielded before an error are kept."""
    async for row in source:
        rows.append(row)  # noqa: PERF401 - a comprehension would lose the rows before an error


async def walked(pager: Pager[Any], ahead: int = 1) -> tuple[list[Any], UnpodError | None]:
    """Return the rows that a walk yields, and the error with which it ends."""
    rows: list[Any] = []
    try:
        if ahead == 1:
            await read_into(rows, pager)
        else:
            async with pager.prefetch(ahead) as stream:
                await read_into(rows, stream)
    except UnpodError as error:
        return rows, error
    return rows, None


def asked(sandbox: Sandbox) -> list[tuple[int, int]]:
    return [(int(one.query["page"]), int(one.query["page_size"])) for one in sandbox.log]


class TestWhatAPagerGives:
    async def test_nothing_is_sent_before_it_is_iterated(self) -> None:
        async with serving() as (sandbox, unpod):
            pagers: list[Pager[Any]] = [
                unpod.organizations.list(),
                unpod.spaces.list(),
                unpod.agents.list(),
                unpod.agents.tasks(sandbox.agent_handle),
                unpod.runs.list(sandbox.space_token),
                unpod.runs.tasks(sandbox.space_token, sandbox.run_ids()[0]),
                unpod.tasks.list(sandbox.space_token),
            ]
            for pager in pagers:
                assert repr(pager).startswith("Pager(")
                pager.pages(), pager.raw(), pager.prefetch(2), aiter(pager)
            unpod.runs.tasks_for(sandbox.space_token)
            assert sandbox.requests == 0

    async def test_items_are_all_rows_newest_first_and_each_iteration_is_a_new_walk(self) -> None:
        async with serving() as (sandbox, unpod):
            pager = unpod.runs.list(sandbox.space_token)
            assert [run.run_id async for run in pager] == sandbox.run_ids()
            # The last request reads all rows at one point in time: rows and count of a page are two queries.
            assert asked(sandbox) == [(1, 3), (2, 3), (3, 3), (1, 8)]
            newer = sandbox.insert_run()
            assert run_ids(await pager.collect())[0] == newer

    async def test_pages_say_where_they_are(self) -> None:
        async with serving() as (sandbox, unpod):
            pages = [page async for page in unpod.runs.list(sandbox.space_token).pages()]

        assert [run.run_id for page in pages for run in page.items] == sandbox.run_ids()
        assert [(page.number, page.page_size, page.count, len(page.items)) for page in pages] == [
            (1, 3, 7, 3),
            (2, 3, 7, 3),
            (3, 3, 7, 1),
        ]
        for page in pages:
            assert isinstance(page, Page)
            assert (page.rejected, page.unreadable) == ([], [])
            assert "date" in page.headers
            assert set(page.headers) <= {"date"}

    async def test_an_empty_listing_is_one_empty_page(self) -> None:
        async with serving(runs=0) as (sandbox, unpod):
            pager = unpod.runs.list(sandbox.space_token)
            assert [(page.items, page.count) async for page in pager.pages()] == [([], 0)]
            assert await pager.collect() == []
            assert await pager.first() is None
            assert await pager.count() == 0
            assert [row async for row in pager.raw()] == []
            assert sandbox.requests == 5

    async def test_a_row_that_one_page_shows_twice_comes_once(self) -> None:
        pages = [
            json_response({"count": 4, "data": [{"run_id": run} for run in runs]})
            for runs in (["R3", "R3", "R2"], ["R1"])
        ]
        async with saying(*pages) as (_, unpod):
            rows, _ = await walked(unpod.runs.list("S1"))
        assert run_ids(rows) == ["R3", "R2", "R1"]

    async def test_a_count_that_later_pages_do_not_have_loses_no_row(self) -> None:
        pages = [
            json_response({"count": count, "data": [{"run_id": run} for run in runs]})
            for count, runs in ((3, ["R3", "R2"]), (None, ["R1"]), (None, []))
        ]
        async with saying(*pages, page_size=2) as (_, unpod):
            rows, error = await walked(unpod.runs.list("S1"))
        assert run_ids(rows) == ["R3", "R2", "R1"]
        assert error is None or isinstance(error, IncompleteListing)

    async def test_raw_gives_every_key_of_every_row(self) -> None:
        async with serving() as (sandbox, unpod):
            rows = [json.loads(row) async for row in unpod.tasks.list(sandbox.space_token).raw()]
            assert rows == list(sandbox.task_rows())

    async def test_raw_gives_the_bytes_as_they_were_sent(self) -> None:
        first = (
            b'{ "run_id" :"R1",\n\t"new": 1.10e+2, "n\\u0061me":"\xe0\xa4\xa8 \\ud83d\\ude00", "user":null }'
        )
        second = b'{"run_id":"R2","run_id":"R2","big":123456789012345678901234567890}'
        body = b'{"data": [ ' + first + b" ,  " + second + b'] ,"count":2}'
        async with saying(json_response(body)) as (_, unpod):
            assert [row async for row in unpod.runs.list("S").raw()] == [first, second]

    async def test_collect_takes_a_limit_and_then_asks_for_no_more(self) -> None:
        async with serving() as (sandbox, unpod):
            pager = unpod.runs.list(sandbox.space_token)
            assert run_ids(await pager.collect(limit=4)) == sandbox.run_ids()[:4]
            assert asked(sandbox) == [(1, 3), (2, 3)]
            assert await pager.collect(limit=0) == []
            assert sandbox.requests == 2
            assert run_ids(await pager.collect(limit=3)) == sandbox.run_ids()[:3]
            assert sandbox.requests == 3
            assert run_ids(await pager.collect(limit=99)) == run_ids(await pager.collect())

    @pytest.mark.parametrize("limit", [-1, True, "3", 1.0])
    async def test_collect_refuses_a_limit_that_is_none(self, limit: Any) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(InvalidArgument, match="limit"):
                await unpod.runs.list(sandbox.space_token).collect(limit)
            assert sandbox.requests == 0

    async def test_first_asks_for_one_row(self) -> None:
        async with serving() as (sandbox, unpod):
            first = await unpod.runs.list(sandbox.space_token).first()
            assert first is not None
            assert first.run_id == sandbox.run_ids()[0]
            assert asked(sandbox) == [(1, 1)]

    async def test_first_of_a_later_page_is_that_pages_first(self) -> None:
        async with serving() as (sandbox, unpod):
            first = await unpod.runs.list(sandbox.space_token, start_page=3).first()
            assert first is not None
            assert first.run_id == sandbox.run_ids()[6]

    async def test_first_passes_over_rows_that_are_bad_or_filtered_out(self) -> None:
        async with serving(runs=12) as (sandbox, unpod):
            sandbox.poison(sandbox.run_ids()[0])
            first = await unpod.runs.list(sandbox.space_token).first()
            assert first is not None
            assert first.run_id == sandbox.run_ids()[1]
            done = await unpod.runs.list(sandbox.space_token, status="completed").first()
            assert done is not None
            rows = [row["run_id"] for row in sandbox.run_rows() if row["status"] == "completed"]
            assert done.run_id == rows[0]
            assert asked(sandbox)[-1][1] == 3

    async def test_count_is_the_servers_where_it_counts(self) -> None:
        async with serving() as (sandbox, unpod):
            assert await unpod.runs.list(sandbox.space_token).count() == 7
            assert asked(sandbox) == [(1, 1)]

    async def test_count_of_what_is_filtered_here_is_a_walk(self) -> None:
        async with serving(runs=30) as (sandbox, unpod):
            done = [row for row in sandbox.run_rows() if row["status"] == "completed"]
            assert await unpod.runs.list(sandbox.space_token, status="completed").count() == len(done) > 0

    @pytest.mark.parametrize("count", ["null", "absent", "zero", "page"])
    async def test_count_walks_where_the_server_does_not_count(self, count: Any) -> None:
        async with serving(oddities=Oddities(count=count)) as (sandbox, unpod):
            assert await unpod.runs.list(sandbox.space_token).count() == 7
            assert await unpod.runs.list(sandbox.space_token, start_page=2).count() == 7

    async def test_a_count_that_walks_has_one_deadline(self) -> None:
        """The time of the first request is gone, so a delay does not fit any more."""
        async with serving(oddities=Oddities(count="null")) as (sandbox, unpod):
            sandbox.script(Fault(stall=1.2), Fault(status=503, headers={"Retry-After": "1"}))
            patient = unpod.with_options(deadline=2, retry=RetryPolicy())
            with pytest.raises(ServerError, match="503"):
                await patient.runs.list(sandbox.space_token).count()
            assert sandbox.requests == 2

    async def test_count_of_a_listing_that_is_refused_raises(self) -> None:
        async with serving() as (_, unpod):
            with pytest.raises(RefusedError) as caught:
                await unpod.runs.list("NOSUCHSPACE").count()
            assert (caught.value.listing, caught.value.page) == ("runs of space NOSUCHSPACE", 1)

    async def test_count_gets_past_a_newest_row_that_cannot_be_read(self) -> None:
        async with serving() as (sandbox, unpod):
            sandbox.poison(sandbox.run_ids()[0])
            assert await unpod.runs.list(sandbox.space_token, on_bad_row="skip").count() == 7


class TestArguments:
    async def test_start_page_and_page_size_are_the_servers(self) -> None:
        async with serving() as (sandbox, unpod):
            pager = unpod.runs.list(sandbox.space_token, start_page=2, page_size=2)
            assert run_ids(await pager.collect()) == sandbox.run_ids()[2:]
            assert asked(sandbox) == [(2, 2), (3, 2), (4, 2), (2, 2)]

    @pytest.mark.parametrize("name", ["start_page", "page_size"])
    @pytest.mark.parametrize("value", [0, -1, True, "2", 1.0, 2**31])
    async def test_pages_are_whole_numbers_from_one(self, name: str, value: Any) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(InvalidArgument, match=name):
                unpod.runs.list(sandbox.space_token, **{name: value})
            with pytest.raises(InvalidArgument):
                unpod.runs.list(sandbox.space_token).prefetch(value)

    async def test_on_bad_row_is_raise_or_skip(self) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(InvalidArgument, match="on_bad_row"):
                unpod.runs.list(sandbox.space_token, on_bad_row="ignore")  # type: ignore[arg-type]

    async def test_status_is_filtered_here_and_never_sent(self) -> None:
        async with serving(runs=30, page_size=7) as (sandbox, unpod):
            rows = list(sandbox.run_rows())
            for status in ("completed", ["completed", "failed"], ("no such status",)):
                wanted = {status} if isinstance(status, str) else set(status)
                found = await unpod.runs.list(sandbox.space_token, status=status).collect()
                assert run_ids(found) == [row["run_id"] for row in rows if row["status"] in wanted]
                raw = [json.loads(r) async for r in unpod.runs.list(sandbox.space_token, status=status).raw()]
                assert raw == [row for row in rows if row["status"] in wanted]
            assert all(set(one.query) == {"page", "page_size"} for one in sandbox.log)

    @pytest.mark.parametrize("status", ["", [], [""], [None]])
    async def test_a_status_that_is_none_is_refused(self, status: Any) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(InvalidArgument, match="status"):
                unpod.runs.list(sandbox.space_token, status=status)

    async def test_listings_without_pages_send_no_page_parameters(self) -> None:
        async with (
            Sandbox() as sandbox,
            UnpodClient(
                sandbox.jwt, sandbox.org_handle, sandbox.base_url, auth_scheme="JWT", retry=None
            ) as unpod,
        ):
            for listing in (unpod.agents.list, unpod.spaces.list, unpod.organizations.list):
                pager: Pager[Any] = listing(start_page=2, page_size=5, on_bad_row="skip")
                before = sandbox.requests
                items = await pager.collect()
                assert items
                assert [page.items async for page in pager.pages()] == [items]
                assert await pager.first() == items[0]
                assert await pager.count() == len(items)
                assert len([row async for row in pager.raw()]) == len(items)
                async with pager.prefetch(3) as stream:
                    assert [item async for item in stream] == items
                assert sandbox.requests - before <= 7
            assert all(one.query == {} for one in sandbox.log)

    async def test_listings_without_pages_and_single_objects_are_requested_again_after_a_500(self) -> None:
        async with (
            Sandbox() as sandbox,
            UnpodClient(
                sandbox.jwt,
                sandbox.org_handle,
                sandbox.base_url,
                auth_scheme="JWT",
                retry=RetryPolicy(base=0.001),
            ) as unpod,
        ):
            sandbox.script(Fault(status=500))
            assert await unpod.agents.list().collect()
            assert sandbox.requests == 2
            sandbox.script(Fault(status=500))
            assert await unpod.spaces.get(sandbox.space_token)
            assert sandbox.requests == 4

    async def test_a_listing_without_pages_that_counts_more_than_it_sends_is_incomplete(self) -> None:
        body = {"count": 3, "data": [{"handle": "a"}, {"handle": "b"}]}
        async with saying(json_response(body)) as (_, unpod):
            rows, error = await walked(unpod.agents.list())
            assert [row.handle for row in rows] == ["a", "b"]
            assert isinstance(error, IncompleteListing)
            assert (error.seen, error.expected, error.listing) == (2, 3, "agents")

    async def test_the_org_handle_is_needed_before_anything_is_sent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("UNPOD_ORG_HANDLE", raising=False)
        async with (
            Sandbox() as sandbox,
            UnpodClient(sandbox.token, base_url=sandbox.base_url, retry=None) as unpod,
        ):
            for listing in (unpod.agents.list, unpod.spaces.list):
                with pytest.raises(ConfigurationError, match="Org-Handle"):
                    listing()
            with pytest.raises(ConfigurationError, match="Org-Handle"):
                await unpod.spaces.get(sandbox.space_token)
            assert sandbox.requests == 0
            assert len(await unpod.runs.list(sandbox.space_token).collect()) == 20

    async def test_a_space_is_read_with_its_agents(self) -> None:
        async with (
            Sandbox() as sandbox,
            UnpodClient(
                sandbox.jwt, sandbox.org_handle, sandbox.base_url, auth_scheme="Bearer", retry=None
            ) as unpod,
        ):
            space = await unpod.spaces.get(sandbox.space_token)
            assert space.token == sandbox.space_token
            assert space.agents is not None
            assert [agent.handle for agent in space.agents] == [sandbox.agent_handle]
            with pytest.raises(NotFoundError):
                await unpod.spaces.get("NOSUCHSPACE")
            with pytest.raises(InvalidArgument):
                await unpod.spaces.get("a/b")
            assert sandbox.requests == 2

    async def test_the_filters_of_space_tasks_reach_the_server(self) -> None:
        async with serving(runs=40, tasks_per_run=2, page_size=50) as (sandbox, unpod):
            rows = list(sandbox.task_rows())
            space = sandbox.space_token
            first, last = (datetime.fromisoformat(rows[n]["created"]).replace(tzinfo=UTC) for n in (50, 20))

            def said(row: dict[str, Any], *path: str) -> Any:
                value: Any = row
                for key in path:
                    value = value.get(key) if isinstance(value, dict) else None
                return value

            found = await unpod.tasks.list(space, outcome=["Interested", "No Answer"]).collect()
            assert task_ids(found) == [
                row["task_id"]
                for row in rows
                if said(row, "output", "post_call_data", "summary", "status") in ("Interested", "No Answer")
            ]
            assert sandbox.log[-1].query["status"] == "Interested,No Answer"
            assert task_ids(await unpod.tasks.list(space, search="person 0007").collect()) == [
                row["task_id"] for row in rows if row["input"]["name"] == "Person 0007"
            ]
            between = await unpod.tasks.list(space, created_from=first, created_to=last).collect()
            assert [task.created for task in between] == [
                row["created"] for row in rows if rows[50]["created"] <= row["created"] <= rows[20]["created"]
            ]
            assert set(sandbox.log[-1].query) == {"page", "page_size", "from_ts", "to_ts"}
            inbound = await unpod.tasks.list(space, call_type="inbound").collect()
            assert sandbox.log[-1].query["call_type"] == "inbound"
            assert {task.call.direction for task in inbound if task.call is not None} <= {"inbound"}

    @pytest.mark.parametrize(
        "arguments",
        [
            {"outcome": ""},
            {"outcome": []},
            {"outcome": "a,b"},
            {"outcome": ["a", 1]},
            {"search": " "},
            {"search": 1},
            {"call_type": "sideways"},
            {"created_from": datetime(2026, 1, 1)},  # noqa: DTZ001 - a naive one is refused
            {"created_to": "2026-01-01"},
            {"created_from": NOW, "created_to": datetime(2026, 1, 1, tzinfo=UTC)},
        ],
    )
    async def test_filters_that_cannot_be_meant_are_refused(self, arguments: dict[str, Any]) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(InvalidArgument):
                unpod.tasks.list(sandbox.space_token, **arguments)

    async def test_time_bounds_are_checked_again_on_what_comes_back(self) -> None:
        body = {
            "count": 3,
            "data": [
                {"task_id": "T3", "created": "2026-01-01T10:00:01.500000"},
                {"task_id": "T2", "created": "2026-01-01T10:00:00.900000"},
                {"task_id": "T1", "created": "2026-01-01T10:00:00.100000"},
            ],
        }
        moment = datetime(2026, 1, 1, 10, 0, 0, 500_000, UTC)
        async with saying(json_response(body), page_size=10) as (_, unpod):
            pager = unpod.tasks.list("S", created_from=moment, created_to=moment.replace(second=1))
            assert task_ids(await pager.collect()) == ["T3", "T2"]


class TestErrors:
    @pytest.mark.parametrize("ahead", [1, 3])
    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            (Fault(page=2, status=503), ServerError),
            (Fault(page=2, status=429, headers={"Retry-After": "0"}), RateLimitedError),
            (Fault(page=2, status=401), AuthenticationError),
            (Fault(page=2, status=302, headers={"Location": "https://elsewhere.example/"}), APIError),
            (Fault(page=2, reset_at=0), TransportError),
            (Fault(page=2, reset_at=300), TransportError),
        ],
    )
    async def test_an_error_says_where_it_was_met_and_the_walk_goes_on_from_there(
        self, fault: Fault, kind: type[UnpodError], ahead: int
    ) -> None:
        async with serving() as (sandbox, unpod):
            sandbox.script(fault)
            rows, error = await walked(unpod.runs.list(sandbox.space_token), ahead)
            assert type(error) is kind
            assert error.listing == f"runs of space {sandbox.space_token}"
            assert error.page == 2
            assert f"[while reading {error.listing}, page 2]" in str(error)
            assert run_ids(rows) == sandbox.run_ids()[:3]
            rest = await unpod.runs.list(sandbox.space_token, start_page=error.page).collect()
            assert run_ids(rows + rest) == sandbox.run_ids()

    async def test_every_way_to_read_raises_the_same(self) -> None:
        async with serving() as (sandbox, unpod):
            pager = unpod.runs.tasks(sandbox.space_token, "R1")
            sandbox.script(Fault(status=403, times=6))

            async def pages() -> None:
                async for _ in pager.pages():
                    pass

            async def raw() -> None:
                async for _ in pager.raw():
                    pass

            async def ahead() -> None:
                async with pager.prefetch(2) as stream:
                    async for _ in stream:
                        pass

            for read in (pager.collect, pager.first, pager.count, pages, raw, ahead):
                with pytest.raises(APIError) as caught:
                    await read()
                assert (caught.value.status, caught.value.page) == (403, 1)
                assert caught.value.listing == f"tasks of run R1 in space {sandbox.space_token}"
            assert sandbox.requests == 6

    @pytest.mark.parametrize("ahead", [1, 3])
    async def test_a_404_in_the_middle_is_not_taken_for_the_end(self, ahead: int) -> None:
        async with serving() as (sandbox, unpod):
            sandbox.script(Fault(status=404, page=2))
            rows, error = await walked(unpod.runs.list(sandbox.space_token), ahead)
            assert error is None
            assert run_ids(rows) == sandbox.run_ids()

            sandbox.script(Fault(status=404, page=2, times=99))
            rows, error = await walked(unpod.runs.list(sandbox.space_token), ahead)
            assert error is None, "one larger page holds all rows"
            assert run_ids(rows) == sandbox.run_ids()

    @pytest.mark.parametrize("ahead", [1, 3])
    async def test_a_404_that_stays_ends_in_incomplete_listing(self, ahead: int) -> None:
        async with serving(oddities=Oddities(max_page_size=3)) as (sandbox, unpod):
            sandbox.script(Fault(status=404, page=2, times=99))
            rows, error = await walked(unpod.runs.list(sandbox.space_token), ahead)
            assert isinstance(error, IncompleteListing)
            # Page 3 was prefetched, so its row is delivered as well.
            seen = sandbox.run_ids()[:3] + (sandbox.run_ids()[6:] if ahead > 1 else [])
            assert (error.seen, error.expected, error.page) == (len(seen), 7, 1)
            assert run_ids(rows) == seen

    async def test_a_whole_page_that_is_no_json_while_nothing_else_answers(self) -> None:
        async with saying(json_response(b"<html>")) as (_, unpod):
            with pytest.raises(DecodeError) as caught:
                await unpod.runs.list("S").collect()
            assert (caught.value.listing, caught.value.page) == ("runs of space S", 1)
            assert "answered 200" in str(caught.value)

    async def test_a_closed_client_is_named_with_the_listing(self) -> None:
        async with serving() as (sandbox, unpod):
            pager = unpod.runs.list(sandbox.space_token)
            await unpod.aclose()
            with pytest.raises(ConfigurationError, match="closed") as caught:
                await pager.collect()
            assert caught.value.page == 1


class TestBadRows:
    async def test_raise_yields_everything_else_first(self) -> None:
        async with serving(runs=1, tasks_per_run=7) as (sandbox, unpod):
            ids = sandbox.task_ids()
            bad = b'{"task_id": "X", "input": [1, 2]}'
            sandbox.malform(ids[4], bad)
            pages: list[Page[Task]] = []
            pager = unpod.runs.tasks(sandbox.space_token, sandbox.run_ids()[0])
            with pytest.raises(DecodeError) as caught:
                await read_into(pages, pager.pages())

            assert [task.task_id for page in pages for task in page.items] == ids[:4] + ids[5:]
            assert [len(page.rejected) for page in pages] == [0, 1, 0]
            (row,) = caught.value.rejected
            assert pages[1].rejected == [row]
            assert isinstance(row, RejectedRow)
            assert row.raw == bad
            assert row.path == "$.data[1].input"
            assert (caught.value.page, caught.value.unreadable) == (2, ())
            assert "$.data[1].input" in str(caught.value)
            assert b"task_id" in row.raw
            assert "task_id" not in repr(row)

    async def test_the_error_lists_all_places_and_what_the_server_answered(self) -> None:
        async def one_by_one(pager: Pager[Task]) -> None:
            await pager.collect()

        async def at_once(pager: Pager[Task]) -> None:
            async with pager.prefetch(4) as stream:
                async for _ in stream:
                    pass

        for read in (one_by_one, at_once):
            async with serving(runs=1, tasks_per_run=30) as (sandbox, unpod):
                ids = sandbox.task_ids()
                bad = [2, 8, 9, 10, 25]
                for position in bad:
                    sandbox.poison(ids[position - 1])
                pager = unpod.tasks.list(sandbox.space_token, page_size=10)
                with pytest.raises(DecodeError) as caught:
                    await read(pager)
                text = str(caught.value)
                assert list(caught.value.unreadable) == bad
                assert "5 rows of tasks of space" in text
                assert "the rows at positions 2, 8-10, 25 are unreadable (GET /spaces/" in text
                assert "answered 206: " in text

    async def test_the_error_lists_at_most_a_hundred_rows(self) -> None:
        body = json_response({"count": 120, "data": [{"run_id": number} for number in range(60)]})
        second = json_response({"count": 120, "data": [{"run_id": number} for number in range(60, 120)]})
        async with saying(body, second, body, page_size=60) as (_, unpod):
            with pytest.raises(DecodeError, match="120 rows") as caught:
                await unpod.runs.list("S1").collect()
        assert len(caught.value.rejected) == 100

    async def test_an_error_has_a_note_about_the_bad_rows_before_it(self) -> None:
        rows = [{"run_id": "R1"}, {"run_id": 2}, {"run_id": 3}]
        page = json_response({"count": 9, "data": rows})
        async with saying(page, json_response({"message": "No"}, 403)) as (_, unpod):
            with pytest.raises(PermissionDeniedError) as caught:
                await unpod.runs.list("S1").collect()
        (note,) = caught.value.__notes__
        assert note.startswith("2 rows could not be used: $.data[1].run_id, $.data[2].run_id: ")

    async def test_skip_logs_and_counts(self, caplog: pytest.LogCaptureFixture) -> None:
        async with serving(runs=1, tasks_per_run=7) as (sandbox, unpod):
            ids = sandbox.task_ids()
            sandbox.malform(ids[4], b'{"task_id": "X", "input": "Ms Private +4900000"}')
            sandbox.poison(ids[6])
            run = sandbox.run_ids()[0]
            pager = unpod.runs.tasks(sandbox.space_token, run, on_bad_row="skip")
            assert task_ids(await pager.collect()) == ids[:4] + ids[5:6]
            records = [one for one in caplog.records if one.name == "unpod_async"]
            first, second = (one for one in records if one.levelname == "WARNING")
            assert first.levelno == second.levelno == logging.WARNING
            assert f"tasks of run {run} in space {sandbox.space_token}, page 2" in first.getMessage()
            assert "$.data[1].input" in first.getMessage()
            assert "page 3" in second.getMessage()
            assert "1 rows unreadable (7)" in second.getMessage()
            assert "Private" not in caplog.text

    @pytest.mark.parametrize("row", [b"17", b"null", b"[]", b'"text"', b'{"task_id": 5}', b"{}"])
    async def test_raw_is_never_stopped_by_a_row_of_the_wrong_type(self, row: bytes) -> None:
        async with serving(runs=1, tasks_per_run=5) as (sandbox, unpod):
            sandbox.malform(sandbox.task_ids()[1], row)
            rows = [one async for one in unpod.tasks.list(sandbox.space_token).raw()]
            assert len(rows) == 5
            assert rows[1] == row

    async def test_equal_bad_rows_are_counted_apart_or_the_walk_says_so(self) -> None:
        async with serving(runs=1, tasks_per_run=7) as (sandbox, unpod):
            ids = sandbox.task_ids()
            sandbox.malform(ids[1], b"17")
            sandbox.malform(ids[5], b"17")
            rows, error = await walked(unpod.tasks.list(sandbox.space_token))
            assert task_ids(rows) == [name for name in ids if name not in (ids[1], ids[5])]
            assert isinstance(error, DecodeError | IncompleteListing)

    @pytest.mark.parametrize("ahead", [1, 3])
    async def test_rows_of_another_run_are_rejected(self, ahead: int) -> None:
        async with serving(runs=2, tasks_per_run=7) as (sandbox, unpod):
            mine, other = sandbox.run_ids()
            ids = sandbox.task_ids(mine)
            foreign = json.dumps(next(sandbox.task_rows(other)) | {"task_id": "TFOREIGN"}).encode()
            sandbox.malform(ids[3], foreign)
            pager = unpod.runs.tasks(sandbox.space_token, mine)
            rows, error = await walked(pager, ahead)
            assert task_ids(rows) == ids[:3] + ids[4:]
            assert isinstance(error, DecodeError)
            (row,) = error.rejected
            assert row.path == "$.data[0].run_id"
            assert row == RejectedRow(foreign, row.path, row.reason).masked()
            assert mine in row.reason

            raw: list[bytes] = []
            with pytest.raises(DecodeError, match="a run other than"):
                await read_into(raw, pager.raw())
            assert foreign not in raw
            assert len(raw) == 6
            # Among the tasks of the space it is a task like any other.
            assert len(await unpod.tasks.list(sandbox.space_token, page_size=50).collect()) == 14

    @pytest.mark.parametrize("ahead", [1, 3])
    @pytest.mark.parametrize("place", [0, 3, 6])
    @pytest.mark.parametrize("listing", ["runs", "run tasks", "space tasks", "agent tasks"])
    async def test_a_row_that_cannot_be_read_costs_only_itself(
        self, listing: str, place: int, ahead: int
    ) -> None:
        runs, tasks = (7, 1) if listing == "runs" else (1, 7)
        async with serving(runs=runs, tasks_per_run=tasks, page_size=4) as (sandbox, unpod):
            space = sandbox.space_token

            def pager(**arguments: Any) -> Pager[Any]:
                if listing == "runs":
                    return unpod.runs.list(space, **arguments)
                if listing == "run tasks":
                    return unpod.runs.tasks(space, sandbox.run_ids()[0], **arguments)
                if listing == "space tasks":
                    return unpod.tasks.list(space, **arguments)
                return unpod.agents.tasks(sandbox.agent_handle, **arguments)

            def key(row: Any) -> str:
                return row.run_id if listing == "runs" else row.task_id

            ids = [key(row) for row in await pager().collect()]
            assert len(ids) == 7
            sandbox.poison(ids[place])
            rest = ids[:place] + ids[place + 1 :]

            rows, error = await walked(pager(), ahead)
            assert [key(row) for row in rows] == rest
            assert isinstance(error, DecodeError)
            assert error.unreadable == (place + 1,)
            rows, error = await walked(pager(on_bad_row="skip"), ahead)
            assert error is None
            assert [key(row) for row in rows] == rest
            assert [json.loads(row) async for row in pager(on_bad_row="skip").raw()]
            pages = [page async for page in pager(on_bad_row="skip").pages()]
            assert [spot for page in pages for spot in page.unreadable] == [place + 1]
            # The place is where the request for this row alone fails.
            before = sandbox.requests
            with pytest.raises(DecodeError) as caught:
                await pager(start_page=place + 1, page_size=1).collect()
            assert caught.value.unreadable == (place + 1,)
            assert sandbox.log[before].query["page"] == str(place + 1)
            assert sandbox.log[before].status in (206, 500)

    async def test_a_row_that_is_no_json_is_one_that_cannot_be_read(self) -> None:
        async with serving(runs=1, tasks_per_run=7) as (sandbox, unpod):
            ids = sandbox.task_ids()
            sandbox.malform(ids[2], b'{"task_id": oops')
            for pager in (unpod.tasks.list(sandbox.space_token),):
                rows, error = await walked(pager)
                assert task_ids(rows) == ids[:2] + ids[3:]
                assert isinstance(error, DecodeError)
                assert (error.unreadable, error.page) == ((3,), 1)

    async def test_splitting_stops_at_the_first_connection_fault(self) -> None:
        async with serving(runs=8, page_size=4) as (sandbox, unpod):
            sandbox.poison(sandbox.run_ids()[5])
            sandbox.script(Fault(page=3, reset_at=0))  # the first half of page 2, at size 2
            rows, error = await walked(unpod.runs.list(sandbox.space_token))
            assert run_ids(rows) == sandbox.run_ids()[:4]
            assert isinstance(error, TransportError)
            assert error.page == 2


COUNTS = ["true", "null", "absent", "zero", "page", "low"]
PAST_END = ["empty", "404", "206", "repeat"]


@pytest.mark.parametrize("ahead", [1, 3])
class TestOddServers:
    @pytest.mark.parametrize("past_end", PAST_END)
    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("runs", [0, 1, 3, 6, 7])
    async def test_a_listing_that_stands_still_is_complete(
        self, runs: int, count: Any, past_end: Any, ahead: int
    ) -> None:
        async with serving(runs=runs, oddities=Oddities(count=count, past_end=past_end)) as (sandbox, unpod):
            rows, error = await walked(unpod.runs.list(sandbox.space_token), ahead)
            assert error is None
            assert run_ids(rows) == sandbox.run_ids()

    @pytest.mark.parametrize("past_end", PAST_END)
    @pytest.mark.parametrize("count", ["true", "null", "absent", "zero"])
    async def test_page_sizes_that_are_cut(self, count: Any, past_end: Any, ahead: int) -> None:
        odd = Oddities(max_page_size=2, count=count, past_end=past_end)
        async with serving(oddities=odd) as (sandbox, unpod):
            rows, error = await walked(unpod.runs.list(sandbox.space_token, page_size=100), ahead)
            assert error is None
            assert run_ids(rows) == sandbox.run_ids()

    @pytest.mark.parametrize("size", [3, 20, 100])
    @pytest.mark.parametrize("count", ["true", "null"])
    async def test_page_sizes_that_are_ignored(self, count: Any, size: int, ahead: int) -> None:
        async with serving(runs=45, oddities=Oddities(ignore_page_size=True, count=count)) as (
            sandbox,
            unpod,
        ):
            rows, error = await walked(unpod.runs.list(sandbox.space_token, page_size=size), ahead)
            assert error is None
            assert run_ids(rows) == sandbox.run_ids()
            assert sandbox.requests <= 12

    async def test_everything_at_once(self, ahead: int) -> None:
        odd = Oddities(ignore_page=True, ignore_page_size=True)
        async with serving(runs=15, oddities=odd) as (sandbox, unpod):
            rows, error = await walked(unpod.runs.list(sandbox.space_token), ahead)
            assert error is None
            assert run_ids(rows) == sandbox.run_ids()

    @pytest.mark.parametrize(("count", "expected"), [("true", 7), ("null", None), ("absent", None)])
    async def test_a_page_that_is_ignored_stalls(self, count: Any, expected: int | None, ahead: int) -> None:
        async with serving(oddities=Oddities(ignore_page=True, count=count)) as (sandbox, unpod):
            rows, error = await walked(unpod.runs.list(sandbox.space_token), ahead)
            assert isinstance(error, StalledListing)
            assert (error.seen, error.expected) == (3, expected)
            assert run_ids(rows) == sandbox.run_ids()[:3]
            assert sandbox.requests <= 9

    async def test_a_count_that_is_too_high_is_incomplete(self, ahead: int) -> None:
        async with serving(oddities=Oddities(count="high")) as (sandbox, unpod):
            rows, error = await walked(unpod.runs.list(sandbox.space_token), ahead)
            assert type(error) is IncompleteListing
            assert (error.seen, error.expected) == (7, 17)
            assert run_ids(rows) == sandbox.run_ids()

    @pytest.mark.parametrize("shuffle", [False, True])
    async def test_tied_agent_tasks_come_once_each_or_the_walk_says_so(
        self, shuffle: bool, ahead: int
    ) -> None:
        async with serving(runs=3, tasks_per_run=7, shuffle_ties=shuffle) as (sandbox, unpod):
            rows, error = await walked(unpod.agents.tasks(sandbox.agent_handle), ahead)
            found = task_ids(rows)
            assert len(found) == len(set(found))
            if shuffle:
                assert error is None or isinstance(error, IncompleteListing)
            else:
                assert error is None
            if error is None:
                assert sorted(map(str, found)) == sorted(sandbox.task_ids())


class TestAListingThatChanges:
    async def test_rows_that_enter_push_the_others_on_and_none_comes_twice(self) -> None:
        async with serving() as (sandbox, unpod):
            there = sandbox.run_ids()
            found: list[str | None] = []
            async for page in unpod.runs.list(sandbox.space_token).pages():
                found += run_ids(page.items)
                if len(found) < 30:
                    sandbox.insert_run(tasks=0)
            assert len(found) == len(set(found))
            assert set(there) <= set(found)

    async def test_a_row_that_leaves_makes_no_other_be_missed(self) -> None:
        for place in range(7):
            async with serving() as (sandbox, unpod):
                there = sandbox.run_ids()
                found: list[str | None] = []
                async for page in unpod.runs.list(sandbox.space_token).pages():
                    found += run_ids(page.items)
                    if page.number == 1 and len(found) == 3:
                        sandbox.delete_run(there[place])
                assert len(found) == len(set(found))
                assert set(there) - {there[place]} <= set(found)

    async def test_statuses_that_move_on_move_no_row(self) -> None:
        async with serving(tasks_per_run=3) as (sandbox, unpod):
            found: list[str | None] = []
            async for page in unpod.tasks.list(sandbox.space_token).pages():
                found += task_ids(page.items)
                sandbox.advance()
            assert found == sandbox.task_ids()

    async def test_deletes_in_every_pass_end_in_incomplete_listing(self) -> None:
        def delete_one() -> datetime:
            # Before every response, so that the listing changes in every pass.
            ids = sandbox.run_ids()
            if len(ids) > 4:
                sandbox.delete_run(ids[0])
            return NOW

        async with serving(runs=200, now=delete_one, oddities=Oddities(max_page_size=3)) as (sandbox, unpod):
            rows, error = await walked(unpod.runs.list(sandbox.space_token))
            assert type(error) is IncompleteListing
            assert error.seen == len(rows) == len(set(run_ids(rows)))
            assert error.expected is not None
            assert error.page == 1
            assert sandbox.requests <= 4 * 67 + 64

    async def test_a_delete_in_the_first_pass_only_is_made_good(self) -> None:
        left = [None, "delete"]

        def now() -> datetime:
            if left and left.pop(0):
                sandbox.delete_run(sandbox.run_ids()[0])
            return NOW

        async with serving(now=now) as (sandbox, unpod):
            there = sandbox.run_ids()
            rows, error = await walked(unpod.runs.list(sandbox.space_token))
            assert error is None
            assert set(run_ids(rows)) == set(there)


@each_row("name", ["search", "outcome"])
@each_row("text", ["\udcff", "ab\udcff", "\0"])
def test_a_filter_that_would_vanish_on_the_way_is_refused(name: str, text: str) -> None:
    unpod = UnpodClient("t", "o", "http://127.0.0.1:9")
    with pytest.raises(InvalidArgument, match=name):
        unpod.tasks.list("S", **{name: text})  # type: ignore[arg-type]


# --- fields of another type --------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [1, 3])
async def test_a_field_that_changes_its_type_costs_no_row(
    ahead: int, caplog: pytest.LogCaptureFixture
) -> None:
    def page_of(**fields: object) -> bytes:
        data = [{"run_id": f"R{number}", "status": "completed", **fields} for number in range(5)]
        return json_response({"count": 5, "status_code": 200, "data": data})

    drifted = page_of(user={"id": 7, "name": "Zed"}, batch_count=3.0)
    caplog.set_level(logging.WARNING, "unpod_async")
    async with saying(drifted, page_size=10) as (server, unpod):
        for times in (1, 2):
            runs, error = await walked(unpod.runs.list("SPACE"), ahead)
            assert error is None
            assert run_ids(runs) == [f"R{number}" for number in range(5)]
            assert {(run.user, run.batch_count) for run in runs} == {(None, None)}
            assert unpod.stats.drift == {"Run.user": 5 * times, "Run.batch_count": 5 * times}
            assert (unpod.stats.rows, unpod.stats.rejected) == (5 * times, 0)
        requests = len(server.requests)
        assert [record.getMessage().split(" does not have")[0] for record in caplog.records] == [
            "Run.user",
            "Run.batch_count",
        ]
        assert "Zed" not in caplog.text
        rows = [json.loads(row) async for row in unpod.runs.list("SPACE").raw()]
        assert [(row["user"]["id"], row["batch_count"]) for row in rows] == [(7, 3.0)] * 5
    async with saying(page_of(user="7", batch_count=3), page_size=10) as (server, unpod):
        for _ in range(2):
            runs, error = await walked(unpod.runs.list("SPACE"), ahead)
            assert error is None
            assert {(run.user, run.batch_count) for run in runs} == {("7", 3)}
        assert unpod.stats.drift == {}
        assert len(server.requests) == requests


async def test_rows_that_were_received_before_are_counted() -> None:
    def page(*names: str) -> bytes:
        rows = [{"run_id": name} for name in names]
        return json_response({"count": 4, "status_code": 200, "data": rows})

    async with saying(page("R1", "R2", "R3"), page("R3", "R4")) as (_, unpod):
        rows, _ = await walked(unpod.runs.list("S"))
        assert run_ids(rows) == ["R1", "R2", "R3", "R4"]
        assert unpod.stats.rows == 4
        assert unpod.stats.repeated > 0
