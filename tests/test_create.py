"""`tasks.create` checks calls first, sends them once, and reports an unknown outcome."""

from __future__ import annotations

import json
import pickle
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.raw_server import RawConnection, RawServer, http_response, json_response
from unpod_async import (
    APIError,
    AuthenticationError,
    CreatedRun,
    InvalidArgument,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknown,
    PermissionDeniedError,
    RateLimitedError,
    RefusedError,
    ScheduleAuto,
    ScheduleCustom,
    ScheduleNow,
    TransportError,
    UnpodClient,
    UnpodError,
)
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANN = {"name": "Ann Example", "contact_number": "+490000001", "id": "doc-1"}
BEN = {"name": "Ben Example", "contact_number": "+490000002", "document_id": "doc-2", "age": 40}
EVA = {"name": "Eva नमस्ते", "contact_number": "+490000003", "document_id": "doc-3"}


@asynccontextmanager
async def serving(**arguments: Any) -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    async with (
        Sandbox(runs=2, tasks_per_run=2, **arguments) as sandbox,
        UnpodClient(sandbox.token, sandbox.org_handle, sandbox.base_url, retry=None) as unpod,
    ):
        yield sandbox, unpod


@asynccontextmanager
async def saying(*answers: bytes) -> AsyncIterator[tuple[RawServer, UnpodClient]]:
    left = list(answers)

    async def answer(connection: RawConnection) -> None:
        while await connection.read_request():
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    async with (
        RawServer(answer) as server,
        UnpodClient("t0ken", "acme", server.base_url, retry=None) as unpod,
    ):
        yield server, unpod


async def create(unpod: UnpodClient, sandbox: Sandbox, **arguments: Any) -> CreatedRun:
    arguments = {
        "pilot": sandbox.agent_handle,
        "documents": [ANN, BEN, EVA],
        "context": "A demo.",
    } | arguments
    return await unpod.tasks.create(sandbox.space_token, **arguments)


class TestCreated:
    async def test_the_calls_are_queued_as_they_were_given(self) -> None:
        async with serving() as (sandbox, unpod):
            documents = [dict(ANN), dict(BEN), dict(EVA)]
            created = await create(unpod, sandbox, documents=iter(documents))
            assert documents == [ANN, BEN, EVA]
            assert [call.document for call in sandbox.ledger] == documents
            assert created.run_id == sandbox.ledger[0].run_id == sandbox.run_ids()[0]
            assert list(created.task_ids or ()) == [call.task_id for call in sandbox.ledger]
            assert created.status == dict.fromkeys(created.task_ids or (), "pending")
            assert sandbox.requests == 1

            tasks = await unpod.runs.tasks(sandbox.space_token, str(created.run_id)).collect()
            assert [task.ref_id for task in reversed(tasks)] == ["doc-1", "doc-2", "doc-3"]

    @pytest.mark.parametrize(
        ("schedule", "sent"),
        [
            ("now", {"type": "now"}),
            ("auto", {"type": "auto"}),
            (ScheduleNow(), {"type": "now"}),
            (ScheduleAuto(), {"type": "auto"}),
            (
                ScheduleCustom("2030-01-02", "10:00+05:30"),
                {"type": "custom", "calling_date": "2030-01-02", "calling_time": "10:00+05:30"},
            ),
        ],
    )
    async def test_the_body_on_the_wire(self, schedule: Any, sent: dict[str, str]) -> None:
        answer = {"status_code": 200, "data": {"run_id": "R1", "task_ids": ["T1", "T2"], "status": {}}}
        async with saying(json_response(answer)) as (server, unpod):
            await unpod.tasks.create(
                "S", pilot="agent-1", documents=[ANN, EVA], context="c", schedule=schedule
            )
            (request,) = server.requests
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /api/v2/platform/spaces/S/tasks/ HTTP/1.1\r\n")
        assert json.loads(body) == {
            "pilot": "agent-1",
            "documents": [ANN, EVA],
            "context": "c",
            "schedule": sent,
        }
        assert "नमस्ते".encode() in body

    async def test_a_custom_schedule_is_accepted_by_the_server(self) -> None:
        async with serving() as (sandbox, unpod):
            moment = datetime.now(UTC) + timedelta(days=2)
            created = await create(unpod, sandbox, schedule=ScheduleCustom.at(moment))
            assert set((created.status or {}).values()) == {"scheduled"}
            with pytest.raises(InvalidRequestError, match="future"):
                await create(unpod, sandbox, schedule=ScheduleCustom("2020-01-01", "10:00"))
            assert len(sandbox.ledger) == 3

    @pytest.mark.parametrize(
        "data",
        [
            {"run_id": "R1", "task_ids": ["T1", "T2"], "status": {"T1": "pending", "T2": "pending"}},
            {"run_id": "R1", "task_ids": ["T1", "T2"], "status": "pending"},
            {"run_id": "R1", "task_ids": ["T1", "T2"], "new": 1},
        ],
    )
    async def test_every_shape_of_the_response(self, data: dict[str, Any]) -> None:
        for envelope in ({"status_code": 200}, {"status_code": 201}, {}):
            async with saying(json_response({**envelope, "data": data})) as (server, unpod):
                created = await unpod.tasks.create("S", pilot="p", documents=[ANN], context="c")
                assert created.run_id == "R1"
                assert list(created.task_ids or ()) == ["T1", "T2"]
                assert len(server.requests) == 1

    async def test_a_create_needs_no_org_handle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("UNPOD_ORG_HANDLE", raising=False)
        async with (
            Sandbox() as sandbox,
            UnpodClient(sandbox.token, base_url=sandbox.base_url, retry=None) as unpod,
        ):
            await create(unpod, sandbox)
            assert len(sandbox.ledger) == 3


class TestRefusedHere:
    @pytest.mark.parametrize(
        "arguments",
        [
            {"pilot": ""},
            {"pilot": "a/b"},
            {"pilot": None},
            {"context": " "},
            {"context": None},
            {"documents": []},
            {"documents": {}},
            {"documents": "abc"},
            {"documents": None},
            {"documents": [17]},
            {"documents": [{"name": "Ann"}]},
            {"documents": [ANN, {"name": "Ann", "contact_number": 17}]},
            {"documents": [ANN, ANN]},
            {"documents": [ANN | {"id": 17}]},
            {"documents": [ANN | {"age": 2**63}]},
            {"documents": [ANN | {"age": float("nan")}]},
            {"documents": [ANN | {"at": datetime(2026, 1, 1, tzinfo=UTC)}]},
            {"schedule": "later"},
            {"schedule": {"type": "now"}},
            {"schedule": None},
        ],
    )
    async def test_what_the_server_does_not_check_is_refused_before_sending(self, arguments: Any) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(InvalidArgument):
                await create(unpod, sandbox, **arguments)
            assert sandbox.requests == 0

    @pytest.mark.parametrize("space", ["", "..", "a/b", "a b", "a?b", "a%2F", "a\nb", None])
    async def test_an_invalid_space_token_is_not_sent(self, space: Any) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(InvalidArgument):
                await unpod.tasks.create(space, pilot="p", documents=[ANN], context="c")
            assert sandbox.requests == 0

    async def test_a_refused_connection_is_not_an_unknown_outcome(self) -> None:
        async with serving() as (sandbox, unpod):
            await sandbox.__aexit__(None, None, None)
            with pytest.raises(TransportError, match="nothing was sent") as caught:
                await create(unpod, sandbox)
            assert caught.value.sent is False
            assert sandbox.ledger == []


class TestRefusedThere:
    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            (Fault(status=301, headers={"Location": "https://else.example/"}), APIError),
            (Fault(status=307, headers={"Location": "https://else.example/"}), APIError),
            (Fault(status=400, body=b'{"message": "no"}'), InvalidRequestError),
            (Fault(status=401, body=b'{"message": "no"}'), AuthenticationError),
            (Fault(status=403, body=b'{"message": "no"}'), PermissionDeniedError),
            (Fault(status=404, body=b"<html>", content_type="text/html"), NotFoundError),
            (Fault(status=409, body=b'{"message": "no"}'), APIError),
            (Fault(status=413), APIError),
            (Fault(status=422, body=b'{"message": "no", "errors": {"detail": [1]}}'), InvalidRequestError),
            (Fault(status=429, headers={"Retry-After": "3"}), RateLimitedError),
            (Fault(status=206, body=b'{"status_code": 206, "message": "no", "data": {}}'), RefusedError),
            (
                Fault(status=206, body=b'{"status_code": 206, "message": "no", "errors": {"pilot": ["x"]}}'),
                InvalidRequestError,
            ),
            (Fault(body=b'{"status_code": 206, "message": "no", "data": {}}'), RefusedError),
            (Fault(body=b'{"status_code": 400, "message": "no", "data": null}'), InvalidRequestError),
        ],
    )
    async def test_a_refusal_raises_its_own_error(self, fault: Fault, kind: type[APIError]) -> None:
        async with serving() as (sandbox, unpod):
            sandbox.script(fault)
            with pytest.raises(APIError) as caught:
                await create(unpod, sandbox)
            assert type(caught.value) is kind
            assert "POST" in str(caught.value)
            assert sandbox.requests == 1
            assert sandbox.ledger == []

    async def test_refusals_of_the_service(self) -> None:
        async with serving() as (sandbox, unpod):
            with pytest.raises(RefusedError, match="Invalid Space Token"):
                await unpod.tasks.create("NOSUCHSPACE", pilot="p", documents=[ANN], context="c")
            assert sandbox.ledger == []


UNKNOWN = [
    # The response of the server, if any, and whether it had queued the calls.
    (Fault(reset_at=0), True),
    (Fault(reset_at=0, status=500), False),
    (Fault(reset_at=10), True),
    (Fault(reset_at=150), True),
    (Fault(status=500, body=b'{"message": "Task Creation Failed", "errors": "boom"}'), False),
    (Fault(status=500, body=b"<html>", content_type="text/html", processed=True), True),
    (Fault(status=502, processed=True), True),
    (Fault(status=503), False),
    (Fault(status=504, processed=True), True),
    (Fault(status=206, body=b'{"status_code": 206, "message": "Failed", "errors": "down"}'), False),
    (Fault(status=206, body=b"oops", processed=True), True),
    (Fault(body=b"oops", processed=True), True),
    (Fault(body=b"", content_type="text/plain", headers={"X-Other": "1"}, processed=True), True),
    (Fault(body=b'{"status_code": 200, "data": null}', processed=True), True),
    (Fault(body=b'{"status_code": 200, "data": {"run_id": 17}}', processed=True), True),
    (Fault(body=b'{"status_code": 500, "message": "Failed", "errors": "down"}', processed=True), True),
    (Fault(status=204, processed=True), True),
    (Fault(status=202, body=b'{"message": "Accepted"}', processed=True), True),
]


class TestUnknown:
    @pytest.mark.parametrize(("fault", "queued"), UNKNOWN, ids=[str(n) for n in range(len(UNKNOWN))])
    async def test_a_create_that_may_be_queued_is_never_sent_again(self, fault: Fault, queued: bool) -> None:
        async with serving() as (sandbox, unpod):
            sandbox.script(fault)
            earlier = datetime.now(UTC)
            with pytest.raises(UnpodError) as caught:
                await create(unpod, sandbox)
            error = caught.value
            assert type(error) is OutcomeUnknown
            assert sandbox.requests == 1
            assert len(sandbox.ledger) == (3 if queued else 0)
            assert error.space_token == sandbox.space_token
            assert error.document_ids == ("doc-1", "doc-2", "doc-3")
            assert earlier <= error.started_at <= datetime.now(UTC)
            text = str(error)
            assert f"runs.list({sandbox.space_token!r})" in text
            # Two minutes before the create by the clock of the server, whose `Date` header has whole seconds.
            (shown,) = re.findall(r" from (\S+) on$", text, re.MULTILINE)
            before = error.started_at - datetime.fromisoformat(shown)
            assert timedelta(minutes=2) <= before <= timedelta(minutes=2, seconds=3)
            assert "doc-1, doc-2" in text
            assert max(map(len, text.splitlines()[1:])) <= 80
            assert "+49000" not in text
            assert "Example" not in text
            if fault.status not in (200, 206) and fault.reset_at is None:
                assert error.status == fault.status
                assert str(fault.status) in text
            if fault.body is not None and b'"message": "' in fault.body:
                assert error.message in ("Failed", "Task Creation Failed", "Accepted")
                assert error.message in text
            again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
            assert (str(again), vars(again)) == (text, vars(error))

            # The search that the hint describes finds the calls.
            found = [
                task.ref_id
                async for run in unpod.runs.list(sandbox.space_token)
                if run.created_at is not None and run.created_at >= error.started_at.replace(microsecond=0)
                async for task in unpod.runs.tasks(sandbox.space_token, str(run.run_id))
            ]
            assert set(found) & {"doc-1", "doc-2"} == ({"doc-1", "doc-2"} if queued else set())

    async def test_a_server_that_closes_without_a_response(self) -> None:
        async def close(connection: RawConnection) -> None:
            await connection.read_request()

        async with (
            RawServer(close) as server,
            UnpodClient("t0ken", "acme", server.base_url, retry=None) as unpod,
        ):
            with pytest.raises(OutcomeUnknown) as caught:
                await unpod.tasks.create("S", pilot="p", documents=[EVA], context="c")
            assert (caught.value.status, caught.value.message) == (None, "")
            assert caught.value.document_ids == ("doc-3",)
            assert len(server.requests) == 1

    async def test_a_body_cut_short(self) -> None:
        answer = http_response(b'{"data": {"run', 200, [("Content-Length", "500")])

        async def cut(connection: RawConnection) -> None:
            await connection.read_request()
            await connection.send(answer)

        async with (
            RawServer(cut) as server,
            UnpodClient("t0ken", "acme", server.base_url, retry=None) as unpod,
        ):
            with pytest.raises(OutcomeUnknown, match="cut short"):
                await unpod.tasks.create("S", pilot="p", documents=[ANN], context="c")
            assert len(server.requests) == 1

    async def test_a_run_that_stays_empty_is_an_unknown_outcome(self) -> None:
        """A document that the service cannot store makes the request fail after the run was stored."""
        async with serving() as (sandbox, unpod):
            before = sandbox.run_ids()
            with pytest.raises(OutcomeUnknown) as caught:
                await create(unpod, sandbox, documents=[ANN | {"note": "x" * (17 * 2**20)}])
            assert caught.value.status == 500
            assert len(sandbox.run_ids()) == len(before) + 1
            assert sandbox.ledger == []

    async def test_many_ids_are_shortened_in_the_message_and_complete_in_the_error(self) -> None:
        documents = [EVA | {"id": f"document-{n}"} for n in range(500)]
        async with serving() as (sandbox, unpod):
            sandbox.script(Fault(status=503))
            with pytest.raises(OutcomeUnknown) as caught:
                await create(unpod, sandbox, documents=documents)
            assert len(str(caught.value)) < 1000
            assert len(caught.value.document_ids) == 500
