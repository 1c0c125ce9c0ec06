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

from unpod_async import AuthenticationError, ConfigurationError, RetryPolicy
from unpod_async.testing import Fault, Oddities, Received, Sandbox, accounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

ROOT = "/api/v2/platform/"
FORM = "application/x-www-form-urlencoded"


class Browser:
    """Raw requests to one sandbox, with its key."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session
        self.key = sandbox.token
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

    async def create(self, *documents: object, **body: object) -> tuple[int, Any]:
        body = {"pilot": self.sandbox.agent_handle, "documents": documents, "context": "c", **body}
        async with self.session.post(
            f"{self.sandbox.base_url}{self.space}tasks/", json=body, headers=self.headers
        ) as response:
            return response.status, await response.json(content_type=None)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Token {self.key}"}

    def url(self, path: str) -> str:
        """The URL of a path in the main space."""
        return f"{self.sandbox.base_url}{self.space}{path}"


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
            ({"documents": [], "filters": {"name": "x"}}, 400, dict, 0),
            ({"filters": []}, 206, dict, 0),
            ({"documents": [{"id": 7}], "schedule": {"type": "custom"}}, 422, dict, 0),
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
                ("12:00 PM", 200),
                ("12:01", 200),
                ("12:30+05:30", 400),
                ("1:00 pm Z", 200),
            ):
                schedule = {"type": "custom", "calling_date": "2029-12-31", "calling_time": time}
                assert (await browser.create({"id": "a"}, schedule=schedule))[0] == status, time
            row = (await browser.rows(f"{browser.agent}tasks/", page_size=1))[0]
            assert row["scheduled_timestamp"] == int(noon.timestamp()) + 3600
            assert row["status"] == "scheduled"
            assert row["created"] == "2029-12-31T12:00:02"

    async def test_an_automatic_schedule_is_that_of_the_agent(self, browser: Browser) -> None:
        for pilot, expected in ((browser.sandbox.agent_handle, "scheduled"), ("no-such-agent", "pending")):
            _, body = await browser.create({"id": "a"}, schedule={"type": "auto"}, pilot=pilot)
            assert set(body["data"]["status"].values()) == {expected}
            run, task = [
                (await browser.rows(f"{browser.space}{path}/", page_size=1))[0] for path in ("runs", "tasks")
            ]
            assert (run["status"], task["status"]) == (expected, expected)
            assert task["input"]["quality"] == ("high" if expected == "scheduled" else None)

    async def test_documents_before_one_that_cannot_be_stored_are_called(self, browser: Browser) -> None:
        bad = {"id": "c", "n": 2**63}
        status, _ = await browser.create({"id": "a"}, {"id": "b"}, bad, {"id": "d"})
        assert status == 500
        assert [call.document["id"] for call in browser.sandbox.ledger] == ["a", "b"]
        run = (await browser.rows(f"{browser.space}runs/"))[0]
        assert run["batch_count"] == 4
        rows = await browser.rows(f"{browser.space}runs/{run['run_id']}/tasks/")
        assert [row["ref_id"] for row in rows] == ["b", "a"]

    async def test_documents_keep_their_own_token(self, browser: Browser) -> None:
        await browser.create({"id": "a", "token": "mine"})
        row = (await browser.rows(f"{browser.space}tasks/"))[0]
        assert row["input"] == {"id": "a", "token": "mine", "quality": "high"}

    async def test_every_wrong_reference_is_named(self, browser: Browser) -> None:
        status, body = await browser.create({"id": 5}, {"id": "a"}, {"id": 0}, {"id": [1]})
        assert status == 422
        assert [each["loc"][2] for each in body["errors"]["detail"]] == [0, 3]

    async def test_tasks_have_the_execution_type_of_their_space(self, browser: Browser) -> None:
        for space in accounts.SPACES.values():
            if space.org == "acme.example":
                browser.space = f"{ROOT}spaces/{space.token}/"
                await browser.create({"id": "a"})
                row = (await browser.rows(f"{browser.space}tasks/", page_size=1))[0]
                assert row["execution_type"] == ("call" if space.content_type == "contact" else "answer")

    @pytest.mark.parametrize(
        ("content_type", "body", "status", "errors"),
        [
            ("application/json", b"", 206, ["pilot", "context", "documents"]),
            (FORM, b"", 206, ["pilot", "context", "documents"]),
            ("text/plain", b"", 206, ["pilot", "context", "documents"]),
            ("", b"", 206, ["pilot", "context", "documents"]),
            ("text/plain", b"x", 415, None),
            (FORM, b"pilot=p&context=c", 206, ["documents"]),
            (FORM, b"pilot=&context=+&documents[0].id=a", 206, ["pilot", "context"]),
            (FORM, b"pilot=p&context=c&documents=a&documents=b", 206, ["documents"]),
            (FORM, b"pilot=p&context=c&documents[0]=a", 206, ["documents"]),
            (FORM, b"pilot=p&context=c&documents[1].id=b&documents[0].id=a", 200, None),
            ("multipart/form-data; boundary=B", b"", 206, ["pilot", "context", "documents"]),
            ("multipart/form-data", b"--B--", 400, None),
            ("application/json; charset=latin-1", b'{"pilot": "\xe4"}', 206, ["context", "documents"]),
            ("application/json; charset=nonsense", b'{"pilot": "p"}', 206, ["context", "documents"]),
        ],
    )
    async def test_empty_bodies_and_forms_are_read(
        self, browser: Browser, content_type: str, body: bytes, status: int, errors: list[str] | None
    ) -> None:
        headers = {**browser.headers, "Content-Type": content_type}
        async with browser.session.post(browser.url("tasks/"), data=body, headers=headers) as response:
            answer = await response.json()
        assert response.status == status
        assert errors is None or list(answer["errors"]) == errors
        if status == 200:
            assert [call.document for call in browser.sandbox.ledger] == [{"id": "a"}, {"id": "b"}]
        else:
            assert browser.sandbox.ledger == []

    async def test_a_multipart_form_places_a_call(self, browser: Browser) -> None:
        form = aiohttp.FormData(default_to_multipart=True)
        for name, value in {
            "pilot": browser.sandbox.agent_handle,
            "context": "c",
            "documents[0].id": "a",
            "documents[0].name": "Ä",
            "documents[0]other": "ignored",
            "schedule.type": "auto",
        }.items():
            form.add_field(name, value)
        # Without a length the service reads no body at all.
        headers = {**browser.headers, "Content-Length": str(form().size)}
        async with browser.session.post(browser.url("tasks/"), data=form, headers=headers) as response:
            assert (response.status, set((await response.json())["data"]["status"].values())) == (
                200,
                {"scheduled"},
            )
        (call,) = browser.sandbox.ledger
        assert call.document == {"id": "a", "name": "Ä"}

    async def test_a_body_in_chunks_counts_as_empty(self, browser: Browser) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield json.dumps({"pilot": "p", "context": "c", "documents": [{"id": "a"}]}).encode()

        headers = {**browser.headers, "Content-Type": "application/json"}
        async with browser.session.post(browser.url("tasks/"), data=chunks(), headers=headers) as response:
            assert response.status == 206
            assert list((await response.json())["errors"]) == ["pilot", "context", "documents"]

    async def test_infinity_cannot_be_passed_on(self, browser: Browser) -> None:
        body = b'{"pilot": "p", "context": "c", "documents": [{"id": "a", "n": [1e999]}]}'
        headers = {**browser.headers, "Content-Type": "application/json"}
        async with browser.session.post(browser.url("tasks/"), data=body, headers=headers) as response:
            assert (response.status, response.content_type) == (500, "text/html")
        assert len(browser.sandbox.run_ids()) == 20

    async def test_invalid_json_is_refused_before_anything_is_stored(self, browser: Browser) -> None:
        url = f"{browser.sandbox.base_url}{browser.space}tasks/"
        headers = {**browser.headers, "Content-Type": "application/json"}
        for raw in (b'{"a": NaN}', b"\xff", b" "):
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
            ({"call_type": "inbound"}, lambda row: call_type(row) == "inboundPhoneCall"),
            ({"call_type": "inboundPhoneCall"}, lambda row: call_type(row) == "inboundPhoneCall"),
            ({"call_type": "inboundPhone"}, lambda row: False),
            ({"status": "Call+Back"}, lambda row: outcome(row) == "Call Back"),
            (
                {"search": "person 00[12]7"},
                lambda row: row["input"]["name"] in {"Person 0017", "Person 0027"},
            ),
            ({"from_ts": 1768471320}, lambda row: row["created"] >= "2026-01-15T10:02:00"),
            ({"to_ts": 1768471320}, lambda row: row["created"] <= "2026-01-15T10:02:00"),
            ({"from_ts": "1768471320.5"}, lambda row: True),
            ({"from_ts": -5, "run_id": "x", "ordering": "created"}, lambda row: True),
            ({"to_ts": -5}, lambda row: False),
            ({"from_ts": 1768471320, "to_ts": "soon"}, lambda row: True),
            ({"from_ts": 1768471320, "to_ts": ""}, lambda row: row["created"] >= "2026-01-15T10:02:00"),
            ({"user_id": 1}, lambda row: True),
            ({"user_id": ""}, lambda row: True),
            ({"thread_id": "x"}, lambda row: False),
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


def call_type(row: dict[str, Any]) -> object:
    return row["output"].get("call_type", row["output"].get("type"))


def outcome(row: dict[str, Any]) -> object:
    summary = row["output"].get("post_call_data", {}).get("summary")
    return summary.get("status") if isinstance(summary, dict) else None


class TestScope:
    """Who may list what, and which rows a listing has."""

    @pytest.mark.parametrize(
        ("account", "space", "role"),
        [
            (0, "SPACEMAIN000000000000001", "owner"),
            (1, "SPACEMAIN000000000000001", "viewer"),
            (1, "SPACEGENERAL000000000002", None),
            (1, "SPACEPUBLIC0000000000003", None),
            (2, "SPACEMAIN000000000000001", None),
            (2, "SPACEPUBLIC0000000000003", None),
        ],
    )
    async def test_only_owners_list_runs_and_tasks_of_a_space(
        self, browser: Browser, account: int, space: str, role: str | None
    ) -> None:
        browser.key = accounts.ACCOUNTS[account].key
        no_access = "You Don't have Access to this Space"
        for path, refusal in (
            ("runs/", f"{no_access}, You can't do any operation to this Space"),
            ("runs/R1/tasks/", f"{no_access}, You can't do any operation to this Space"),
            ("tasks/", no_access),
        ):
            status, body = await browser.get(f"{ROOT}spaces/{space}/{path}")
            if role == "owner":
                assert status == 200
                continue
            if role == "viewer":
                refusal = "You Don't have Access to do operation to this Space"
            assert (status, body) == (206, {"status_code": 206, "message": refusal, "data": {}})
        if space == browser.sandbox.space_token:
            status, body = await browser.get(f"{browser.agent}tasks/")
            assert status == (206 if role is None else 200)

    async def test_a_space_id_in_the_query_overrides_the_space_of_the_path(self, browser: Browser) -> None:
        run = browser.sandbox.run_ids()[0]
        task_count, main = browser.sandbox.task_count, browser.space
        for path, counts in (
            # The main space, the foreign one, an unknown one, none; then none, but a user.
            ("runs/", (20, 1, 0, 0, 20 + 3, 1, 0)),
            ("tasks/", (task_count, 1, 0, 0, task_count + 3, 1, 0)),
            (f"runs/{run}/tasks/", (5, 0, 0, 0, 5, 0, 0)),
        ):
            found: list[int] = []
            for query in (
                {"space_id": "1"},
                {"space_id": "6"},
                {"space_id": "99"},
                {"space_id": ""},
                {"space_id": "", "user_id": "1"},
                {"space_id": "", "user_id": "3"},
                {"space_id": "", "user_id": "1", "thread_id": "x"},
            ):
                status, body = await browser.get(f"{main}{path}", page_size=1, **query)
                assert status == 200
                found.append(body["count"])
            assert tuple(found) == counts, path
        assert [row["space_id"] for row in await browser.rows(f"{main}tasks/", space_id=6)] == ["6"]
        # The listing of an agent and creates ignore it.
        assert (await browser.get(f"{browser.agent}tasks/", space_id=6))[1]["count"] == task_count

    async def test_rows_of_a_space_have_whole_seconds_and_agent_tasks_milliseconds(
        self, browser: Browser
    ) -> None:
        await browser.create({"id": "a"})
        space, agent = [
            (await browser.rows(f"{path}tasks/", page_size=0))[0] for path in (browser.space, browser.agent)
        ]
        assert space["task_id"] == agent["task_id"]
        assert space["created"] == agent["created"][:19]
        async with browsing(Sandbox(runs=1, tasks_per_run=30)) as other:
            spaces = {row["created"] for row in await other.rows(f"{other.space}tasks/")}
            agents = {row["created"] for row in await other.rows(f"{other.agent}tasks/", page_size=0)}
            assert spaces == {"2026-01-15T10:00:00"}
            assert len(agents) == 3


class TestLanguage:
    @pytest.mark.parametrize(
        ("accept", "message"),
        [
            (None, "Invalid token."),
            ("en", "Invalid token."),
            ("es", "Token inválido."),
            ("es-MX,es;q=0.9,en;q=0.8", "Token inválido."),
            ("en,es;q=0.5", "Invalid token."),
            ("en;q=0.4, ES;q=0.5", "Token inválido."),
            ("es;q=0,en;q=0.1", "Invalid token."),
            ("*,es;q=0.5", "Token inválido."),
            ("es;q=x", "Invalid token."),
            ("est", "Invalid token."),
        ],
    )
    async def test_the_preferred_language_is_used(
        self, browser: Browser, accept: str | None, message: str
    ) -> None:
        browser.key = "unknown"
        if accept is not None:
            browser.session.headers["Accept-Language"] = accept
        status, body = await browser.get(f"{browser.space}tasks/")
        assert (status, body) == (401, {"message": message, "status_code": 401})

    async def test_messages_of_the_framework_are_translated_and_those_of_the_service_are_not(
        self, browser: Browser
    ) -> None:
        browser.session.headers["Accept-Language"] = "es"
        assert (await browser.get(f"{browser.space}tasks/", format="xml"))[1]["message"] == "No encontrado."
        _, body = await browser.create("x", schedule=5, context=None)
        assert body["message"] == "There is some Validation error"
        assert body["errors"] == {
            "context": ["Este campo no puede ser nulo."],
            "documents": {"0": ['Se esperaba un diccionario de elementos en vez del tipo "str".']},
            "schedule": ['Se esperaba un diccionario de elementos en vez del tipo "int".'],
        }
        async with browser.session.put(browser.url("tasks/"), headers=browser.headers) as response:
            assert (await response.json())["message"] == 'Método "PUT" no permitido.'
        headers = {**browser.headers, "Content-Type": "text/plain"}
        async with browser.session.post(browser.url("tasks/"), data="x", headers=headers) as response:
            text = 'Tipo de medio "text/plain" incompatible en la solicitud.'
            assert (await response.json())["message"] == text
        for listing in ("runs/", "tasks/"):
            status, body = await browser.get(f"{ROOT}spaces/NOSUCHSPACE/{listing}")
            assert (status, body["message"]) == (206, "Invalid Space Token")


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

    @pytest.mark.parametrize(
        ("listing", "statuses"),
        [("every", (206, 206, 500)), ("space", (206, 206, 200)), ("agent", (200, 200, 500))],
    )
    async def test_a_poisoned_task_fails_in_one_listing_or_the_other(
        self, browser: Browser, listing: Any, statuses: tuple[int, ...]
    ) -> None:
        sandbox, run = browser.sandbox, browser.sandbox.run_ids()[2]
        task = sandbox.task_ids(run)[0]
        sandbox.poison(task, listing=listing)
        paths = (f"{browser.space}tasks/", f"{browser.space}runs/{run}/tasks/", f"{browser.agent}tasks/")
        found = {path: await browser.get(path, page_size=0) for path in paths}
        assert tuple(status for status, _ in found.values()) == statuses
        rows = [row for status, body in found.values() if status == 200 for row in body["data"]]
        kinds = {row["execution_type"] for row in rows if row["task_id"] == task}
        assert kinds == ({None} if listing == "space" else {"call"} if listing == "agent" else set())
        assert (task in ids(list(sandbox.task_rows()))) is (listing == "agent")
        sandbox.restore(task)
        for path in paths:
            assert (await browser.get(path, page_size=0))[0] == 200
        sandbox.poison(run)
        assert (await browser.get(f"{browser.space}runs/"))[0] == 206
        sandbox.restore(run)
        assert (await browser.get(f"{browser.space}runs/"))[0] == 200

    async def test_the_space_with_bad_rows_has_one_of_each_kind(self, browser: Browser) -> None:
        space, agent = f"{ROOT}spaces/{accounts.POISON_SPACE.token}/", accounts.POISON_AGENT.handle
        runs = [row["run_id"] for row in await browser.rows(f"{space}runs/")]
        of_runs = [(await browser.get(f"{space}runs/{run}/tasks/"))[0] for run in runs]
        of_agent = [
            (await browser.get(f"{ROOT}agents/{agent}/tasks/", page=page, page_size=1))[0]
            for page in (1, 2, 3)
        ]
        assert (of_runs, of_agent) == ([200, 206, 200], [500, 200, 200])

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
        async with aiohttp.ClientSession() as session, asyncio.timeout(200):
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


# -- its client ---------------------------------------------------------------------------------------------


async def test_a_sandbox_makes_clients_of_itself() -> None:
    async with Sandbox(runs=3) as sandbox:
        async with sandbox.client(page_size=2) as unpod:
            assert unpod.settings.page_size == 2
            assert unpod.settings.org_handle == sandbox.org_handle
            assert [run.run_id async for run in unpod.runs.list(sandbox.space_token)] == sandbox.run_ids()
        async with sandbox.client(auth_scheme="JWT") as unpod:
            assert await unpod.spaces.list().first()  # an API key cannot list them
        async with sandbox.client(token="wrong") as unpod:
            with pytest.raises(AuthenticationError):
                await unpod.agents.list().first()
        with pytest.raises(ConfigurationError):
            sandbox.client(page_size=0)
        with pytest.raises(TypeError, match="colour"):
            sandbox.client(colour="red")


async def test_a_sandbox_that_is_not_running_has_no_client() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        Sandbox().client()


# --- a limit on requests -----------------------------------------------------------------------------------


async def test_requests_above_the_rate_limit_get_429_and_are_answered_later() -> None:
    async with (
        Sandbox(rate_limit=20, burst=4) as sandbox,
        sandbox.client(retry=RetryPolicy(base=0.001)) as unpod,
    ):
        await asyncio.gather(*(unpod.runs.list(sandbox.space_token).first() for _ in range(8)))
        statuses = [received.status for received in sandbox.log]
        assert statuses[:4] == [200] * 4
        assert statuses.count(200) == 8
        assert 429 in statuses
        assert unpod.stats.retries["429"] == statuses.count(429)
        assert unpod.stats.waited > 0
        arrivals = [received.arrived for received in sandbox.log]
        assert arrivals == sorted(arrivals)


async def test_without_a_rate_limit_and_within_it_no_request_is_refused() -> None:
    for options in ({}, {"rate_limit": 1000, "burst": 8}):
        async with Sandbox(**options) as sandbox, sandbox.client(retry=None) as unpod:
            await asyncio.gather(*(unpod.runs.list(sandbox.space_token).first() for _ in range(8)))
            assert {received.status for received in sandbox.log} == {200}


@pytest.mark.parametrize(("rate_limit", "burst"), [(0, 10), (-1, 10), (float("nan"), 10), (5, 0)])
def test_a_limit_that_refuses_everything_is_refused(rate_limit: float, burst: int) -> None:
    with pytest.raises(ValueError, match="rate_limit must be greater than 0, and burst at least 1"):
        Sandbox(rate_limit=rate_limit, burst=burst)
