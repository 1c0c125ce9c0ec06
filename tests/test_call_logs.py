"""Call logs and executions of agents, over raw sockets: what is sent, and every form of the rows."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.raw_server import RawConnection, RawServer, http_response, json_response
from tests.tables import each_row
from unpod_async import AgentExecution, CallLog, RetryPolicy, UnpodClient
from unpod_async.errors import (
    ConfigurationError,
    IncompleteListing,
    InvalidArgument,
    InvalidRequestError,
    NotFoundError,
    UnpodError,
)
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NEWER = {
    "source_number": "+15550100",
    "destination_number": "+15550101",
    "call_type": "inbound",
    "call_status": "completed",
    "creation_time": "2026-01-31T11:47:38.067021Z",
    "start_time": "2026-01-31T11:47:40Z",
    "end_time": None,
    "call_duration": 87,
    "end_reason": "hangup",
}
OLDER = {**NEWER, "id": 7, "bridge": "b1", "call_duration": "0:05:25"}
CODE: dict[str, Any] = {**NEWER, "id": "8", "call_duration": 61.25, "creation_time": "2026-01-31T11:47:38"}
CODE |= {"agent": {"id": 1, "name": "A"}, "space": {"id": 2, "name": "S"}, "bridge": None}
HTML = http_response(
    b"<!DOCTYPE html>\n<html><title>Page not found</title>", 404, [("Content-Type", "text/html")]
)


def answering(answer: bytes) -> Callable[[RawConnection], Awaitable[None]]:
    async def handler(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(answer)

    return handler


def page(*rows: object, count: int | None = None) -> bytes:
    return json_response({"count": len(rows) if count is None else count, "status_code": 200, "data": rows})


def client(server: RawServer, **options: Any) -> UnpodClient:
    return UnpodClient(
        "t0ken", "acme.example", server.base_url, **{"retry": RetryPolicy(base=0.001), **options}
    )


def query_of(request: bytes) -> dict[str, str]:
    query = request.split(b" ")[1].decode().partition("?")[2]
    return {name: values[-1] for name, values in parse_qs(query).items()}


async def test_every_form_of_a_row_is_read() -> None:
    async with RawServer(answering(page(NEWER, OLDER, CODE))) as server, client(server) as unpod:
        newer, older, code = await unpod.call_logs.list().collect()
        raw = [json.loads(row) async for row in unpod.call_logs.list().raw()]
    assert raw == [NEWER, OLDER, CODE]
    assert [row.duration for row in (newer, older, code)] == [87.0, 325.0, 61.25]
    assert newer.creation_time_at == newer.created_at == datetime(2026, 1, 31, 11, 47, 38, 67021, UTC)
    assert newer.start_time_at == datetime(2026, 1, 31, 11, 47, 40, tzinfo=UTC)
    assert (newer.id, older.id, code.id, newer.end_time_at) == (None, 7, "8", None)
    assert (older.bridge, code.agent, code.space) == ("b1", {"id": 1, "name": "A"}, {"id": 2, "name": "S"})
    assert "5550" not in repr(newer)
    assert newer.to_dict()["source_number"] == "+15550100"


@each_row(
    ("sent", "seconds"),
    [
        (0, 0.0),
        ("325", 325.0),
        ("0:05:25.5", 325.5),
        ("1 day, 1:00:00", 90000.0),
        ("2 01:00:00", 176400.0),
        ("0:60:00", None),
        ("-0:05:25", None),
        ("NULL", None),
        ("", None),
        (None, None),
    ],
)
def test_durations(sent: Any, seconds: float | None) -> None:
    assert CallLog(call_duration=sent).duration == seconds


async def test_fields_of_other_types_are_none_and_do_not_reject_the_row() -> None:
    odd = {
        "id": "1",
        "source_number": 15550100,
        "call_type": None,
        "creation_time": 5,
        "agent": [1],
        "call_duration": {},
    }
    async with RawServer(answering(page(odd, {}, {"id": "2"}))) as server, client(server) as unpod:
        rows = await unpod.call_logs.list().collect()
        assert rows == [CallLog(id="1"), CallLog(), CallLog(id="2")]
        assert unpod.stats.drift["CallLog.source_number"] == 1


async def test_equal_rows_without_an_id_are_different_calls() -> None:
    rows = [NEWER, NEWER, {**NEWER, "call_duration": 5}, NEWER]
    async with RawServer(answering(page(*rows))) as server, client(server) as unpod:
        assert [json.loads(row) async for row in unpod.call_logs.list().raw()] == rows
        assert len(await unpod.call_logs.list().collect()) == 4


async def test_the_bounds_are_sent_as_whole_days_and_rows_are_compared_exactly() -> None:
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)

    def at(minutes: float, **fields: Any) -> dict[str, Any]:
        return {**NEWER, "creation_time": (moment + timedelta(minutes=minutes)).isoformat(), **fields}

    rows = [
        at(61, id="late"),
        at(60, id="last"),
        at(0, id="first"),
        at(-0.001, id="early"),
        at(0, id="by start, early", creation_time=None, start_time="2026-01-31T11:59:59Z"),
        at(0, id="by start", creation_time="N/A", start_time="2026-01-31T12:30:00"),
        at(0, id="no time", creation_time=None, start_time=None),
        at(0, id="no time at all", creation_time=7, start_time=""),
    ]
    ist = timezone(timedelta(hours=5, minutes=30))
    async with RawServer(answering(page(*rows))) as server, client(server) as unpod:
        pager = unpod.call_logs.list(
            created_from=moment.astimezone(ist), created_to=moment + timedelta(hours=1), call_type="inbound"
        )
        kept = ["last", "first", "by start", "no time", "no time at all"]
        assert [row.id async for row in pager] == kept
        assert unpod.stats.undated == 2
        assert [json.loads(row)["id"] async for row in pager.raw()] == kept
        assert unpod.stats.undated == 4
        assert await pager.count() == 5
        async with pager.prefetch(2) as stream:
            assert [row.id async for row in stream] == kept
    assert query_of(server.requests[0]) == {
        "start_date": "2026-01-31T00:00:00Z",
        "end_date": "2026-01-31T23:59:59Z",
        "start_time": "31-01-2026 00:00:00",
        "end_time": "31-01-2026 23:59:59",
        "call_type": "inbound",
        "page": "1",
        "page_size": "100",
    }


async def test_without_bounds_no_time_is_sent_and_every_row_is_kept() -> None:
    undated = {**NEWER, "creation_time": None, "start_time": None}
    async with RawServer(answering(page(undated))) as server, client(server) as unpod:
        assert len(await unpod.call_logs.list(call_status="missed").collect()) == 1
        assert unpod.stats.undated == 0
    assert query_of(server.requests[0]) == {"call_status": "missed", "page": "1", "page_size": "100"}


@each_row(
    "wrong",
    [
        {"call_type": "sideways"},
        {"call_status": "done"},
        {"created_from": datetime(2026, 1, 1)},  # noqa: DTZ001 - refused
        {"created_from": datetime(2026, 1, 2, tzinfo=UTC), "created_to": datetime(2026, 1, 1, tzinfo=UTC)},
        {"product_id": "a b"},
        {"product_id": ""},
        {"product_id": 3},
        {"limit": -1},
    ],
    ids=str,
)
async def test_other_filters_are_refused(wrong: dict[str, Any]) -> None:
    async with RawServer(answering(page())) as server, client(server) as unpod:
        with pytest.raises(InvalidArgument, match=rf"^{next(iter(wrong))} "):
            unpod.call_logs.list(**wrong)
    assert server.connections == 0


async def test_both_listings_need_an_organization() -> None:
    async with RawServer(answering(page())) as server, client(server) as unpod:
        without = UnpodClient("t0ken", base_url=server.base_url)
        for call in (without.call_logs.list, lambda: without.agents.executions("a")):
            with pytest.raises(ConfigurationError, match="needs an Org-Handle"):
                call()
        await unpod.call_logs.list().collect()
        await unpod.agents.executions("a").collect()
    assert all(b"Org-Handle: acme.example" in request for request in server.requests)


async def test_the_product_id_is_sent_when_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(answering(page())) as server:
        async with client(server) as unpod:
            await unpod.call_logs.list().collect()
            await unpod.call_logs.list(product_id="P1").collect()
        async with client(server, product_id="P2") as unpod:
            await unpod.call_logs.list().collect()
            await unpod.call_logs.list(product_id="P3").collect()
            await unpod.with_options(headers={"product-id": "P9"}).call_logs.list().collect()
            await unpod.agents.list().collect()
        monkeypatch.setenv("UNPOD_PRODUCT_ID", " P4\n")
        async with client(server) as unpod:
            assert unpod.settings.product_id == "P4"
            await unpod.call_logs.list().collect()
    sent = [
        request.partition(b"Product-Id: ")[2].partition(b"\r\n")[0].decode() for request in server.requests
    ]
    assert sent == ["", "P1", "P2", "P3", "P2", "", "P4"]


@each_row("value", ["a b", "é", "a\r\nX: b"], ids=ascii)
def test_a_product_id_that_cannot_be_a_header_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="product_id must be printable ASCII"):
        UnpodClient("t0ken", product_id=value)
    monkeypatch.setenv("UNPOD_PRODUCT_ID", value)
    with pytest.raises(ConfigurationError, match="UNPOD_PRODUCT_ID must be printable ASCII"):
        UnpodClient("t0ken")


async def test_a_server_that_requires_a_product_id_is_explained() -> None:
    asking = json_response({"status_code": 400, "message": "Product-Id header is required", "data": {}}, 400)
    other = json_response({"status_code": 400, "message": "Invalid page", "data": {}}, 400)
    async with RawServer(answering(asking)) as server, client(server) as unpod:
        with pytest.raises(InvalidRequestError, match=r"hint: pass product_id=, or set UNPOD_PRODUCT_ID$"):
            await unpod.call_logs.list().collect()
        with pytest.raises(InvalidRequestError) as caught:
            await unpod.agents.list().collect()
        assert "product_id" not in str(caught.value)
    async with RawServer(answering(other)) as server, client(server) as unpod:
        with pytest.raises(InvalidRequestError) as caught:
            await unpod.call_logs.list().collect()
        assert "product_id" not in str(caught.value)


async def test_executions_of_an_agent() -> None:
    row = {"run_id": "R1", "status": "running", "total_tasks": 5, "completed_tasks": 2}
    rows = [
        {**row, "created": "2026-01-31T11:47:38Z"},
        {"run_id": "R2", "total_tasks": "many"},
        {"run_id": 3},
    ]
    async with RawServer(answering(page(*rows))) as server, client(server) as unpod:
        found = await unpod.agents.executions("agent/x"[:5], on_bad_row="skip").collect()
        assert found == [
            AgentExecution(**row, created="2026-01-31T11:47:38Z"),
            AgentExecution(run_id="R2"),
        ]
        assert found[0].created_at == datetime(2026, 1, 31, 11, 47, 38, tzinfo=UTC)
        assert (unpod.stats.rejected, unpod.stats.drift) == (1, {"AgentExecution.total_tasks": 1})
        with pytest.raises(InvalidArgument, match="agent_handle"):
            unpod.agents.executions("agent/x")
    assert server.requests[0].startswith(
        b"GET /api/v2/platform/agents/agent/executions/?page=1&page_size=100 "
    )


@each_row("answer", [HTML, json_response({"message": "Not found."}, 404)], ids=["HTML", "JSON"])
async def test_a_server_without_executions_is_explained(answer: bytes) -> None:
    async with RawServer(answering(answer)) as server, client(server) as unpod:
        with pytest.raises(NotFoundError, match=r"server (does|may) not offer executions of agents"):
            await unpod.agents.executions("agent").collect()
        with pytest.raises(NotFoundError) as caught:
            await unpod.agents.tasks("agent").collect()
        assert "executions" not in str(caught.value)


# --- the sandbox -------------------------------------------------------------------------------------------


async def test_the_sandbox_serves_both_listings() -> None:
    async with Sandbox(runs=9, tasks_per_run=7) as sandbox, sandbox.client(page_size=10) as unpod:
        rows = list(sandbox.call_log_rows())
        executions = list(sandbox.execution_rows())
        assert [json.loads(row) async for row in unpod.call_logs.list().raw()] == rows
        assert [
            json.loads(row) async for row in unpod.agents.executions(sandbox.agent_handle).raw()
        ] == executions
        assert [row["run_id"] for row in executions] == sandbox.run_ids()
        assert sum(row["total_tasks"] for row in executions) == sandbox.task_count
        with pytest.raises(NotFoundError):
            await unpod.agents.executions("nobody").collect()
    assert len(rows) > 20
    assert len({"id" in row for row in rows}) == 2
    assert {type(row["call_duration"]) for row in rows} == {int, float, str}
    assert {row["call_status"] for row in rows} == {"completed", "missed", "failed"}
    times = [datetime.fromisoformat(row["creation_time"]) for row in rows]
    assert times == sorted(times, reverse=True)


async def test_the_filters_of_the_sandbox() -> None:
    async with Sandbox(runs=3000, tasks_per_run=1) as sandbox, sandbox.client(page_size=1000) as unpod:
        rows = [json.loads(row) async for row in unpod.call_logs.list().raw()]
        start = datetime(2026, 1, 15, 20, 30, tzinfo=UTC)
        end = datetime(2026, 1, 16, 22, tzinfo=UTC)
        found = await unpod.call_logs.list(created_from=start, created_to=end).collect()
        expected = [row for row in rows if start <= datetime.fromisoformat(row["creation_time"]) <= end]
        assert [row.creation_time for row in found] == [row["creation_time"] for row in expected]
        assert 0 < len(found) < len(rows)
        missed = await unpod.call_logs.list(call_type="outbound", call_status="missed").collect()
        assert len(missed) == sum(
            (row["call_type"], row["call_status"]) == ("outbound", "missed") for row in rows
        )


async def test_a_sandbox_can_require_a_product_id() -> None:
    async with Sandbox(runs=1, product_id="P1") as sandbox:
        async with sandbox.client() as unpod:
            assert await unpod.call_logs.list().collect()
        async with sandbox.client(product_id="P2") as unpod:
            with pytest.raises(InvalidRequestError, match="pass product_id="):
                await unpod.call_logs.list().collect()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), size=st.integers(2, 5), days=st.booleans())
async def test_every_call_that_stays_is_listed_while_calls_end(seed: int, size: int, days: bool) -> None:
    chance = random.Random(seed)
    box: list[Sandbox] = []
    left = 30

    def now() -> datetime:
        nonlocal left
        left -= 1
        if box and left > 0 and chance.random() < 0.4:
            if chance.random() < 0.5:
                box[0].insert_run(tasks=2)
            box[0].advance()
        return datetime(2026, 2, 1, tzinfo=UTC)

    async with Sandbox(runs=6, tasks_per_run=3, now=now) as sandbox, sandbox.client(page_size=size) as unpod:
        before = [json.dumps(row) for row in sandbox.call_log_rows()]
        box.append(sandbox)
        since = datetime(2026, 1, 1, tzinfo=UTC) if days else None
        found: list[str] = []
        error: UnpodError | None = None
        try:
            async for row in unpod.call_logs.list(created_from=since).raw():
                found += [json.dumps(json.loads(row))]
        except UnpodError as raised:
            error = raised
        after = {json.dumps(row) for row in sandbox.call_log_rows()}
    assert len(found) == len(set(found)), "the rows of the sandbox are all different"
    assert error is None or isinstance(error, IncompleteListing)
    if error is None:
        assert {row for row in before if row in after} <= set(found)
