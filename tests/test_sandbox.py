"""The sandbox as a tool: its data set, its changes, its faults, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from unpod_async.testing import Fault, Oddities, Received, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

ROOT = "/api/v2/platform/"


class Browser:
    """Raw requests to one sandbox, with its key."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session
        self.space = f"{ROOT}spaces/{sandbox.space_token}/"
        self.agent = f"{ROOT}agents/{sandbox.agent_handle}/"

    async def get(self, path: str, **query: object) -> tuple[int, Any]:
        """Status, and the decoded body (bytes when it is not JSON)."""
        params = {name: str(value) for name, value in query.items()}
        async with self.session.get(
            f"{self.sandbox.base_url}{path}", params=params, headers=self.headers
        ) as response:
            raw = await response.read()
            is_json = raw and response.content_type == "application/json"
            return response.status, json.loads(raw) if is_json else raw

    async def rows(self, path: str, **query: object) -> list[Any]:
        """The rows of a page that must be one."""
        status, body = await self.get(path, **query)
        assert status == 200, body
        rows: list[Any] = body["data"]
        return rows

    async def create(self, *documents: dict[str, Any], **body: object) -> tuple[int, Any]:
        body = {"pilot": self.sandbox.agent_handle, "documents": documents, "context": "c", **body}
        async with self.session.post(
            f"{self.sandbox.base_url}{self.space}tasks/", json=body, headers=self.headers
        ) as response:
            return response.status, await response.json(content_type=None)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Token {self.sandbox.token}"}


@asynccontextmanager
async def browsing(sandbox: Sandbox) -> AsyncIterator[Browser]:
    async with sandbox, aiohttp.ClientSession() as session:
        yield Browser(sandbox, session)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with browsing(Sandbox()) as browser:
        yield browser


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["task_id"] for row in rows]


class TestDataSet:
    async def test_every_listing_has_the_rows_of_the_sandbox(self, browser: Browser) -> None:
        sandbox = browser.sandbox
        run_id = sandbox.run_ids()[3]

        assert await browser.rows(f"{browser.space}runs/") == list(sandbox.run_rows())
        assert await browser.rows(f"{browser.space}tasks/", page_size=0) == list(sandbox.task_rows())
        assert await browser.rows(f"{browser.space}runs/{run_id}/tasks/") == list(sandbox.task_rows(run_id))
        assert ids(await browser.rows(f"{browser.space}tasks/", page_size=0)) == sandbox.task_ids()
        by_agent = await browser.rows(f"{browser.agent}tasks/", page_size=0)
        assert sorted(ids(by_agent)) == sorted(sandbox.task_ids())
        assert sandbox.task_count == 100

    async def test_the_pages_together_are_the_listing(self) -> None:
        async with browsing(Sandbox(runs=7, tasks_per_run=(0, 25), seed=3)) as browser:
            for path in (f"{browser.space}tasks/", f"{browser.agent}tasks/"):
                whole = await browser.rows(path, page_size=0)
                walked: list[dict[str, Any]] = []
                for page in range(1, len(whole) // 7 + 3):
                    walked += await browser.rows(path, page=page, page_size=7)
                assert walked == whole

    def test_the_same_seed_gives_the_same_data_and_another_seed_other_data(self) -> None:
        first, again, other = (Sandbox(tasks_per_run=(1, 9), seed=seed) for seed in (5, 5, 6))
        assert list(first.task_rows()) == list(again.task_rows())
        assert list(first.run_rows()) == list(again.run_rows())
        assert not set(first.task_ids()) & set(other.task_ids())
        sizes = {len(first.task_ids(run_id)) for run_id in first.run_ids()}
        assert len(sizes) > 3
        assert sizes <= set(range(1, 10))

    def test_the_data_has_every_odd_value_that_was_seen(self) -> None:
        rows = list(Sandbox(runs=300).task_rows())
        outputs = [row["output"] for row in rows]
        camel = [output for output in outputs if "assistantId" in output]
        snake = [output for output in outputs if "call_id" in output]

        assert {} in outputs
        assert any(set(output) == {"error"} for output in outputs)
        assert all(isinstance(output["transcript"], str) for output in camel)
        assert all(isinstance(output["transcript"], list) for output in snake)
        assert {type(output["duration"]) for output in snake} == {int, float, str}
        assert {"", "N/A", "NULL", "None", None} <= {output["start_time"] for output in snake}
        assert {output["start_time"][-1] for output in snake if output["start_time"]} >= {"Z", "0", "1"}
        assert {type(output["post_call_data"]["summary"]) for output in snake} == {str, dict}
        assert any(not row.isascii() for row in (json.dumps(row, ensure_ascii=False) for row in rows))
        assert Counter(row["status"] for row in rows).keys() >= {
            "pending",
            "in_progress",
            "processing",
            "hold",
            "scheduled",
            "completed",
            "failed",
        }

    def test_the_status_of_a_run_follows_from_its_tasks(self) -> None:
        sandbox = Sandbox(runs=200, tasks_per_run=(1, 6))
        for row in sandbox.run_rows():
            statuses = {task["status"] for task in sandbox.task_rows(row["run_id"])}
            match row["status"]:
                case "completed" | "failed" | "scheduled" | "pending" as status:
                    assert statuses == {status}
                case "partially_completed":
                    assert statuses == {"completed", "failed"}
                case status:
                    assert status == "in_progress"
                    assert statuses & {"in_progress", "processing", "hold"}
        assert {row["status"] for row in sandbox.run_rows()} >= {"partially_completed", "in_progress"}

    def test_a_large_data_set_takes_little_memory_and_time(self) -> None:
        tracemalloc.start()
        try:
            sandbox = Sandbox(runs=2_000, tasks_per_run=50)
            size, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sandbox.task_count == 100_000
        assert size < 4_000_000

    @pytest.mark.parametrize(("runs", "tasks"), [(-1, 5), (1, -1), (1, (3, 2))])
    def test_an_invalid_size_is_refused(self, runs: int, tasks: int | tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="0 or more"):
            Sandbox(runs=runs, tasks_per_run=tasks)

    async def test_an_empty_data_set_has_empty_listings(self) -> None:
        async with browsing(Sandbox(runs=0)) as browser:
            for path in (f"{browser.space}runs/", f"{browser.space}tasks/", f"{browser.agent}tasks/"):
                assert (await browser.get(path))[1]["count"] == 0


class TestChanges:
    async def test_inserted_rows_are_first_in_every_listing(self, browser: Browser) -> None:
        sandbox = browser.sandbox
        run_id = sandbox.insert_run(tasks=3)
        late = sandbox.insert_task(sandbox.run_ids()[-1])

        assert sandbox.run_ids()[0] == run_id
        tasks = await browser.rows(f"{browser.space}tasks/", page_size=4)
        assert [row["run_id"] for row in tasks] == [sandbox.run_ids()[-1], run_id, run_id, run_id]
        assert ids(tasks)[0] == late
        assert ids(await browser.rows(f"{browser.agent}tasks/", page_size=1)) == [late]
        assert (await browser.rows(f"{browser.space}runs/", page_size=1))[0]["batch_count"] == 3

    async def test_deleted_rows_are_in_no_listing(self, browser: Browser) -> None:
        sandbox = browser.sandbox
        run_id, other = sandbox.run_ids()[4:6]
        task_id = sandbox.task_ids(other)[2]
        gone = {*sandbox.task_ids(run_id), task_id}
        sandbox.delete_run(run_id)
        sandbox.delete_task(task_id)

        assert run_id not in sandbox.run_ids()
        assert sandbox.task_count == 94
        for path in (
            f"{browser.space}tasks/",
            f"{browser.agent}tasks/",
            f"{browser.space}runs/{other}/tasks/",
        ):
            assert not gone & set(ids(await browser.rows(path, page_size=0)))
        assert await browser.rows(f"{browser.space}runs/{run_id}/tasks/") == []

    @pytest.mark.parametrize("name", ["R" + "0" * 32, "T" + "0" * 32, "", "nonsense"])
    def test_an_unknown_id_is_a_key_error(self, name: str) -> None:
        sandbox = Sandbox()
        for change in (sandbox.delete_run, sandbox.delete_task, sandbox.insert_task, sandbox.poison):
            with pytest.raises(KeyError):
                change(name)
        with pytest.raises(KeyError):
            sandbox.task_ids(name)

    def test_a_deleted_row_cannot_be_deleted_again(self) -> None:
        sandbox = Sandbox()
        run_id = sandbox.run_ids()[0]
        task_id = sandbox.task_ids(run_id)[0]
        sandbox.delete_run(run_id)
        with pytest.raises(KeyError):
            sandbox.delete_run(run_id)
        with pytest.raises(KeyError):
            sandbox.delete_task(task_id)

    def test_statuses_advance_like_those_of_the_service(self) -> None:
        allowed = {
            "pending": {"in_progress"},
            "in_progress": {"completed", "failed"},
            "processing": {"completed", "failed"},
            "failed": {"pending", "failed"},
        }
        sandbox = Sandbox(runs=4, tasks_per_run=40)
        run_id = sandbox.insert_run(tasks=60)
        seen: set[tuple[str, str]] = set()
        before = {row["task_id"]: row for row in sandbox.task_rows()}
        for _ in range(12):
            sandbox.advance()
            after = {row["task_id"]: row for row in sandbox.task_rows()}
            for name, row in after.items():
                old = before[name]
                if old["status"] != row["status"]:
                    seen.add((old["status"], row["status"]))
                    assert row["status"] in allowed[old["status"]]
                    assert row["modified"] > old["modified"]
                assert bool(row["output"]) == (row["status"] in {"completed", "failed"})
            before = after
        assert ("failed", "pending") in seen
        assert {row["status"] for row in sandbox.task_rows(run_id)} == {"completed", "failed"}
        assert next(sandbox.run_rows())["status"] == "partially_completed"


class TestCreate:
    async def test_a_created_call_is_in_the_ledger_and_first_in_the_listings(self, browser: Browser) -> None:
        sandbox = browser.sandbox
        first: dict[str, Any] = {"id": "a-1", "name": "Ä", "deep": {"x": [1, None]}}
        documents: list[dict[str, Any]] = [first, {"document_id": "b-2"}]
        status, body = await browser.create(*documents, context="  say hello ")

        assert status == 200
        made = body["data"]
        assert [call.task_id for call in sandbox.ledger] == made["task_ids"]
        assert [call.document for call in sandbox.ledger] == documents
        assert {(call.run_id, call.space_token) for call in sandbox.ledger} == {
            (made["run_id"], sandbox.space_token)
        }
        rows = await browser.rows(f"{browser.space}runs/{made['run_id']}/tasks/")
        assert [row["ref_id"] for row in rows] == ["b-2", "a-1"]
        assert first.items() <= rows[1]["input"].items()
        assert rows[0]["task"] == {"objective": "say hello"}
        assert sandbox.run_ids()[0] == made["run_id"]
        assert sandbox.task_ids()[:2] == made["task_ids"][::-1]

    async def test_idempotency_keys_are_ignored_and_two_posts_are_two_calls(self, browser: Browser) -> None:
        browser.session.headers["Idempotency-Key"] = "same"
        answers = [await browser.create({"id": "a"}) for _ in range(2)]
        assert len({body["data"]["run_id"] for _, body in answers}) == 2
        assert len(browser.sandbox.ledger) == 2

    @pytest.mark.parametrize(
        ("body", "status", "errors", "stays"),
        [
            ({"documents": []}, 400, dict, 0),
            ({"documents": ["x"]}, 206, dict, 0),
            ({"documents": None}, 206, dict, 0),
            ({"pilot": 5, "schedule": {"type": "auto"}}, 200, None, 1),
            ({"pilot": []}, 206, dict, 0),
            ({"context": " "}, 206, dict, 0),
            ({"documents": [{"id": 7}]}, 422, dict, 0),
            ({"documents": [{"document_id": {}}]}, 422, dict, 0),
            ({"documents": [{"n": [{"m": 2**63}]}]}, 500, str, 1),
            ({"documents": [{"n": -(2**63)}]}, 200, None, 1),
            ({"schedule": {"type": "custom", "calling_date": "soon", "calling_time": "10:00"}}, 500, str, 0),
            (
                {"schedule": {"type": "custom", "calling_date": "2030-01-01", "calling_time": "x"}},
                500,
                str,
                0,
            ),
            ({"schedule": {"type": "custom", "calling_date": "2030-01-01"}}, 400, dict, 0),
        ],
    )
    async def test_a_body_gets_the_status_of_the_service(
        self, body: dict[str, Any], status: int, errors: type | None, stays: int
    ) -> None:
        # A run that stays behind although the create failed is the service's way: it is not transactional.
        async with browsing(Sandbox(runs=2)) as browser:
            answered, answer = await browser.create(**{"documents": [{"id": "a"}], **body})
            assert answered == status
            assert len(browser.sandbox.run_ids()) == 2 + stays
            if errors is not None:
                assert type(answer["errors"]) is errors
                assert browser.sandbox.ledger == []

    async def test_a_schedule_uses_the_clock_of_the_sandbox(self) -> None:
        noon = datetime(2029, 12, 31, 12, tzinfo=UTC)
        async with browsing(Sandbox(now=lambda: noon)) as browser:
            for time, status in (
                ("11:59", 400),
                ("12:00 PM", 400),
                ("12:01", 200),
                ("12:30+05:30", 400),
                ("1:00 pm Z", 200),
            ):
                schedule = {"type": "custom", "calling_date": "2029-12-31", "calling_time": time}
                assert (await browser.create({"id": "a"}, schedule=schedule))[0] == status, time
            row = (await browser.rows(f"{browser.agent}tasks/", page_size=1))[0]
            assert row["scheduled_timestamp"] == int(noon.timestamp()) + 3600
            assert row["status"] == "scheduled"
            assert row["created"] == "2029-12-31T12:00:01"

    async def test_invalid_json_is_refused_before_anything_is_stored(self, browser: Browser) -> None:
        url = f"{browser.sandbox.base_url}{browser.space}tasks/"
        headers = {**browser.headers, "Content-Type": "application/json"}
        for raw in (b'{"a": NaN}', b"\xff", b""):
            async with browser.session.post(url, data=raw, headers=headers) as response:
                assert response.status == 400
                assert "JSON parse error" in (await response.json())["data"]["detail"]
        assert len(browser.sandbox.run_ids()) == 20


class TestFilters:
    @pytest.mark.parametrize(
        ("query", "passes"),
        [
            ({"status": "Interested,Call Back"}, lambda row: outcome(row) in {"Interested", "Call Back"}),
            ({"status": "interested"}, lambda row: False),
            ({"call_type": "inbound"}, lambda row: row["output"].get("call_type") == "inboundPhoneCall"),
            (
                {"search": "person 00[12]7"},
                lambda row: row["input"]["name"] in {"Person 0017", "Person 0027"},
            ),
            ({"from_ts": 1768471320}, lambda row: row["created"] >= "2026-01-15T10:02:00"),
            ({"to_ts": 1768471320}, lambda row: row["created"] <= "2026-01-15T10:02:00"),
            ({"from_ts": "1768471320.5"}, lambda row: True),
            ({"from_ts": -5, "run_id": "x", "ordering": "created"}, lambda row: True),
            ({"user_id": 1}, lambda row: True),
            ({"user_id": 2}, lambda row: False),
        ],
    )
    async def test_space_tasks_are_filtered(
        self, browser: Browser, query: dict[str, Any], passes: Any
    ) -> None:
        expected = [row["task_id"] for row in browser.sandbox.task_rows() if passes(row)]
        status, body = await browser.get(f"{browser.space}tasks/", page_size=0, **query)
        assert status == 200
        assert body["count"] == len(expected)
        assert ids(body["data"]) == expected

    async def test_other_listings_ignore_the_filters(self, browser: Browser) -> None:
        for path, count in ((f"{browser.agent}tasks/", 100), (f"{browser.space}runs/", 20)):
            _, body = await browser.get(path, search="nobody", status="x", from_ts=9_999_999_999)
            assert body["count"] == count


def outcome(row: dict[str, Any]) -> object:
    summary = row["output"].get("post_call_data", {}).get("summary")
    return summary.get("status") if isinstance(summary, dict) else None


class TestTies:
    async def test_only_tied_agent_tasks_change_their_order(self) -> None:
        async with browsing(Sandbox(runs=3, tasks_per_run=25, shuffle_ties=True)) as browser:
            walks = [await browser.rows(f"{browser.agent}tasks/", page_size=0) for _ in range(2)]
            first, second = (ids(walk) for walk in walks)
            assert first != second
            assert sorted(first) == sorted(second)
            for walk in walks:
                created = [row["created"] for row in walk]
                assert created == sorted(created, reverse=True)

    async def test_without_shuffle_ties_the_order_stays(self, browser: Browser) -> None:
        walks = [await browser.rows(f"{browser.agent}tasks/", page_size=0) for _ in range(2)]
        assert walks[0] == walks[1]


class TestBadRows:
    async def test_a_poisoned_task_fails_its_page_and_no_other(self, browser: Browser) -> None:
        task_id = browser.sandbox.task_ids()[3]
        browser.sandbox.poison(task_id)

        status, body = await browser.get(f"{browser.space}tasks/", page=1, page_size=4)
        assert (status, type(body["errors"])) == (206, str)
        assert (await browser.get(f"{browser.space}tasks/", page=2, page_size=4))[0] == 200
        walk = [await browser.get(f"{browser.space}tasks/", page=page, page_size=1) for page in range(1, 7)]
        assert [status for status, _ in walk] == [200, 200, 200, 206, 200, 200]
        walk = [await browser.get(f"{browser.agent}tasks/", page=page, page_size=1) for page in range(1, 6)]
        assert sorted(status for status, _ in walk) == [200, 200, 200, 200, 500]
        assert task_id in browser.sandbox.task_ids()
        assert task_id not in ids(list(browser.sandbox.task_rows()))

    async def test_a_poisoned_run_fails_its_page_of_runs_but_not_its_tasks(self, browser: Browser) -> None:
        run_id = browser.sandbox.run_ids()[0]
        browser.sandbox.poison(run_id)
        assert (await browser.get(f"{browser.space}runs/"))[0] == 206
        assert (await browser.get(f"{browser.space}runs/", page=2, page_size=1))[0] == 200
        assert (await browser.get(f"{browser.space}runs/{run_id}/tasks/"))[0] == 200

    async def test_a_malformed_row_is_served_byte_for_byte(self, browser: Browser) -> None:
        first, second = browser.sandbox.task_ids()[:2]
        browser.sandbox.malform(first, b'[1, "\\ud800"]')
        rows = await browser.rows(f"{browser.space}tasks/")
        assert rows[0] == [1, "\ud800"]
        assert rows[1]["task_id"] == second
        browser.sandbox.malform(second, b'{"task_id": oops')
        url = f"{browser.sandbox.base_url}{browser.space}tasks/"
        async with browser.session.get(url, headers=browser.headers) as response:
            assert response.status == 200
            assert b'{"task_id": oops,' in await response.read()


class TestScript:
    async def test_faults_answer_the_next_requests_in_order(self, browser: Browser) -> None:
        browser.sandbox.script(
            Fault(status=503, body=b"down", content_type="text/plain", times=2), Fault(status=500)
        )
        path = f"{browser.space}runs/"
        assert [(await browser.get(path))[0] for _ in range(3)] == [503, 503, 500]
        assert (await browser.get(path))[0] == 200
        assert [received.status for received in browser.sandbox.log] == [503, 503, 500, 200]

    async def test_a_fault_waits_for_a_request_it_matches(self, browser: Browser) -> None:
        browser.sandbox.script(
            Fault(status=418, page=2), Fault(status=419, path="/agents/"), Fault(status=420, method="POST")
        )
        assert (await browser.get(f"{browser.space}runs/"))[0] == 200
        assert (await browser.get(f"{browser.agent}tasks/"))[0] == 419
        url = f"{browser.sandbox.base_url}{browser.space}tasks/"
        async with browser.session.post(url, json={}, headers=browser.headers) as response:
            assert response.status == 420
        assert (await browser.get(f"{browser.space}runs/", page=2))[0] == 418
        assert browser.sandbox.ledger == []

    async def test_headers_and_an_empty_body_can_be_scripted(self, browser: Browser) -> None:
        browser.sandbox.script(Fault(status=429, headers={"Retry-After": "7"}), Fault(body=b""))
        url = f"{browser.sandbox.base_url}{browser.space}runs/"
        async with browser.session.get(url, headers=browser.headers) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        async with browser.session.get(url, headers=browser.headers) as response:
            assert (response.status, await response.read()) == (200, b"")

    async def test_a_stalled_response_arrives_in_the_end(self, browser: Browser) -> None:
        browser.sandbox.script(Fault(stall=0.01))
        assert len(await browser.rows(f"{browser.space}runs/")) == 20

    async def test_a_create_with_a_lost_response_has_queued_its_call(self, browser: Browser) -> None:
        browser.sandbox.script(Fault(reset_at=0), Fault(status=502, body=b"{}", processed=True))
        with pytest.raises(aiohttp.ClientConnectionError):
            await browser.create({"id": "a"})
        assert (await browser.create({"id": "b"}))[0] == 502
        assert [call.document for call in browser.sandbox.ledger] == [{"id": "a"}, {"id": "b"}]

    async def test_a_create_takes_effect_before_its_response_stalls(self, browser: Browser) -> None:
        browser.sandbox.script(Fault(stall=3600, method="POST"))
        create = asyncio.create_task(browser.create({"id": "a"}))
        while not browser.sandbox.ledger:
            await browser.get(f"{browser.space}runs/", page_size=1)
        create.cancel()
        with pytest.raises(asyncio.CancelledError):
            await create
        assert len(browser.sandbox.ledger) == 1

    async def test_an_unprocessed_create_has_queued_nothing(self, browser: Browser) -> None:
        browser.sandbox.script(Fault(status=502, body=b"{}"))
        assert (await browser.create({"id": "a"}))[0] == 502
        assert browser.sandbox.ledger == []

    async def test_a_reset_cuts_the_response_at_that_byte(self, browser: Browser) -> None:
        # By hand: aiohttp's client sends a GET again on its own when its connection is reset.
        address = ("127.0.0.1", int(browser.sandbox.base_url.rpartition(":")[2]))
        key = f"Authorization: Token {browser.sandbox.token}"
        request = f"GET {browser.space}runs/ HTTP/1.1\r\nHost: x\r\n{key}\r\n\r\n"
        for at in (0, 1, 17, 400, 1_000_000):
            browser.sandbox.script(Fault(reset_at=at))
            reader, writer = await asyncio.open_connection(*address)
            writer.write(request.encode())
            received = await read_to_reset(reader)
            writer.close()
            assert len(received) == at or at == 1_000_000
            assert b"HTTP/1.1 200 OK".startswith(received[:15])
        assert b'"Runs Fetched Successfully"' in received
        assert received.endswith(b"}]}")
        assert {entry.status for entry in browser.sandbox.log} == {None}


async def read_to_reset(reader: asyncio.StreamReader) -> bytes:
    received = b""
    try:
        while chunk := await reader.read(65536):
            received += chunk
    except ConnectionResetError:
        return received
    raise AssertionError("closed, not reset")


class TestOddities:
    @pytest.mark.parametrize(
        ("odd", "query", "sizes"),
        [
            (Oddities(max_page_size=30), {"page_size": 80}, 30),
            (Oddities(max_page_size=30), {"page_size": 0}, 30),
            (Oddities(max_page_size=30), {"page_size": 10}, 10),
            (Oddities(ignore_page_size=True), {"page_size": 80}, 20),
            (Oddities(past_end="empty"), {"page": 9, "page_size": 60}, 0),
            (Oddities(past_end="repeat"), {"page": 9, "page_size": 60}, 40),
        ],
    )
    async def test_a_page_has_the_size_of_the_oddity(
        self, odd: Oddities, query: dict[str, int], sizes: int
    ) -> None:
        async with browsing(Sandbox(oddities=odd)) as browser:
            for path in (f"{browser.space}tasks/", f"{browser.agent}tasks/"):
                assert len(await browser.rows(path, **query)) == sizes

    async def test_the_page_can_be_ignored(self) -> None:
        async with browsing(Sandbox(oddities=Oddities(ignore_page=True))) as browser:
            pages = [await browser.rows(f"{browser.space}tasks/", page=page, page_size=7) for page in (1, 5)]
            assert pages[0] == pages[1]

    @pytest.mark.parametrize(
        ("count", "value"),
        [
            ("true", 100),
            ("null", None),
            ("absent", "absent"),
            ("zero", 0),
            ("page", 7),
            ("high", 110),
            ("low", 50),
        ],
    )
    async def test_the_count_can_be_wrong(self, count: Any, value: object) -> None:
        async with browsing(Sandbox(oddities=Oddities(count=count))) as browser:
            _, body = await browser.get(f"{browser.space}tasks/", page_size=7)
            assert body.get("count", "absent") == value

    @pytest.mark.parametrize(("past_end", "status"), [("404", 404), ("206", 206)])
    async def test_a_page_past_the_end_can_be_an_error(self, past_end: Any, status: int) -> None:
        async with browsing(Sandbox(oddities=Oddities(past_end=past_end))) as browser:
            for path in (f"{browser.space}tasks/", f"{browser.agent}tasks/"):
                assert (await browser.get(path, page=9, page_size=60))[0] == status
                assert (await browser.get(path, page=2, page_size=60))[0] == 200


class TestServer:
    async def test_every_request_is_counted_and_logged_without_its_secret(self, browser: Browser) -> None:
        sandbox = browser.sandbox
        await browser.get(f"{browser.space}runs/", page=2, search="ä")
        async with browser.session.get(
            f"{sandbox.base_url}/nope", headers={"Authorization": sandbox.token}
        ) as response:
            assert response.status == 404
        assert sandbox.requests == 2
        first, second = sandbox.log
        assert isinstance(first, Received)
        assert (first.method, first.path, first.status) == ("GET", f"{browser.space}runs/", 200)
        assert first.query == {"page": "2", "search": "ä"}
        assert first.headers["authorization"] == "Token"
        assert second.headers["authorization"] == ""
        for text in (repr(sandbox), repr(sandbox.log), repr(sandbox.__dict__)):
            assert sandbox.token not in text
            assert sandbox.jwt not in text

    async def test_it_has_no_address_before_it_starts_and_refuses_connections_after_it_stops(self) -> None:
        sandbox = Sandbox()
        with pytest.raises(RuntimeError, match="async with"):
            _ = sandbox.base_url
        async with browsing(sandbox) as browser:
            assert (await browser.get(f"{browser.space}runs/"))[0] == 200
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(sandbox.base_url)

    async def test_it_can_be_entered_again_on_a_fixed_port_with_its_data(self) -> None:
        async with Sandbox() as first:
            port = int(first.base_url.rpartition(":")[2])
        sandbox = Sandbox(port=port)
        for round_ in range(2):
            async with browsing(sandbox) as browser:
                assert sandbox.base_url == f"http://127.0.0.1:{port}"
                assert len(await browser.rows(f"{browser.space}runs/")) == 20 + round_
                sandbox.insert_run()
            assert len(sandbox.run_ids()) == 21 + round_

    async def test_a_port_in_use_raises_os_error(self) -> None:
        async with Sandbox() as sandbox:
            with pytest.raises(OSError, match="address"):
                async with Sandbox(port=int(sandbox.base_url.rpartition(":")[2])):
                    pass

    async def test_it_stops_at_once_despite_stalled_responses_and_idle_readers(self) -> None:
        sandbox = Sandbox(runs=400, latency=0.001)
        sandbox.script(Fault(stall=3600, path="/runs/", times=9))
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            async with sandbox:
                browser = Browser(sandbox, session)
                stalled = [asyncio.create_task(browser.get(f"{browser.space}runs/")) for _ in range(3)]
                # A reader that never reads: its answer is bigger than every buffer on the way.
                address = ("127.0.0.1", int(sandbox.base_url.rpartition(":")[2]))
                reader, writer = await asyncio.open_connection(*address, limit=1024)
                path = f"{browser.space}tasks/?page_size=0"
                key = f"Authorization: Token {sandbox.token}"
                request = f"GET {path} HTTP/1.1\r\nHost: x\r\n{key}\r\n\r\n".encode()
                writer.write(8 * request)
                await sandbox.arrived(4)
            results = await asyncio.gather(*stalled, return_exceptions=True)
            assert all(isinstance(result, aiohttp.ClientError) for result in results)
            writer.transport.abort()
            await reader.read(1)

    async def test_a_client_that_disconnects_while_it_sends_a_body_is_no_error(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        async with browsing(Sandbox()) as browser:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", int(browser.sandbox.base_url.rpartition(":")[2])
            )
            writer.write(
                f"POST {browser.space}tasks/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode()
            )
            await browser.sandbox.arrived(1)
            writer.transport.abort()
            assert (await browser.get(f"{browser.space}runs/"))[0] == 200
        assert browser.sandbox.ledger == []
        assert caplog.records == []

    async def test_an_idle_connection_is_closed_without_notice(self) -> None:
        async with browsing(Sandbox(idle_close=0.05)) as browser:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(browser.sandbox.base_url.rpartition(":")[2])
            )
            writer.write(b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await reader.read()  # to its end: the connection was closed
            writer.close()
            assert answer.startswith(b"HTTP/1.1 404")
            assert b"Connection: close" not in answer

    async def test_a_view_accepts_only_the_methods_it_allows(self, browser: Browser) -> None:
        url = f"{browser.sandbox.base_url}{browser.space}runs/"
        for method, status in (("HEAD", 200), ("OPTIONS", 200), ("POST", 405), ("PATCH", 405)):
            async with browser.session.request(method, url, headers=browser.headers) as response:
                assert response.status == status
                assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
                assert (await response.read() == b"") == (method == "HEAD")
