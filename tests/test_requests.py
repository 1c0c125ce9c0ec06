"""`UnpodClient.request`: which paths it accepts, what is sent how often, and what it returns and raises."""

from __future__ import annotations

import asyncio
import enum
import gzip
import json
import logging
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.leaks import leaks
from tests.raw_server import RawConnection, RawServer, http_response, json_response
from tests.tables import each_row
from unpod_async import RawResponse, RetryPolicy, Run, UnpodClient
from unpod_async._http import check_path
from unpod_async._http import endpoints as paths
from unpod_async.errors import (
    APIError,
    AuthenticationError,
    DecodeError,
    InvalidArgument,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknown,
    RateLimitedError,
    RefusedError,
    ServerError,
    TransportError,
    UpstreamError,
)
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROOT = "/api/v2/platform/"
FAST = RetryPolicy(base=0.001)
WRITES = ("POST", "PUT", "PATCH", "DELETE")
OK = json_response({"status_code": 200, "message": "m", "data": {"id": "1"}})


def answering(*answers: bytes) -> Callable[[RawConnection], Awaitable[None]]:
    """A handler that sends one answer for each request, and the last one for all further requests."""
    left = list(answers)

    async def handler(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    return handler


def client(server: RawServer, **options: Any) -> UnpodClient:
    return UnpodClient("t0ken-of-the-test", "acme.example", server.base_url, **{"retry": FAST, **options})


# --- paths -------------------------------------------------------------------------------------------------

REFUSED = [
    *("", "/", "/agents/", "//", "//evil.example/x", "agents//", "agents//x", "a/b//"),
    *("http://evil.example/", "https://evil.example/x", "http:/x", "https:x", "javascript:x", "c:/x"),
    *("..", ".", "../x", "../../organizations/", "a/../b", "a/..", "a/./b", "./a", "a/..;/b", "..;x=1/a"),
    *(";/x", ";x/spaces/S/tasks/", "spaces/S/tasks/;/", "spaces/S/;/tasks/;x=1"),
    *("a?b", "a/?page=1", "?", "a#b", "#", "a\\b", "\\\\evil.example\\x", "..\\x", "a/\\b/"),
    *("%2e%2e/x", "%2E%2E", ".%2e/x", "a%2fb", "a%2Fb", "a%5cb", "a%5Cb", "a%00b", "%252e%252e/x", "100%"),
    *("a b", " a", "a ", "a\tb", "a\nb", "a\r\nHost: evil", "a\x00b", "a\x7fb", "a\x1b[31m", "a\x85b"),
    *("ä/", "\u2025/x", "\uff0e\uff0e/x", "a\u2215b", "a\u202eb", "\ud800"),
    "a" * 513,
    "a/" * 1100,
]
ACCEPTED = [
    "call-logs/",
    "call-logs",
    "a",
    "a/b/c.json",
    "spaces/S!$&'()*+,=@~-._x/runs/",
    "a/b:c/",
    "..a/b..",
]


@each_row("method", ["GET", *WRITES])
@each_row("path", REFUSED, ids=ascii)
async def test_a_path_that_leads_elsewhere_is_refused_before_anything_is_sent(path: str, method: str) -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        with pytest.raises(InvalidArgument, match=r"^path ") as caught:
            await unpod.request(method, path)
        assert caught.value.argument == "path"
        with pytest.raises(InvalidArgument, match=r"^path "):
            unpod.paginate(path)
    assert server.connections == 0


@each_row("path", [None, 3, b"agents/", ["agents"]])
async def test_a_path_must_be_a_str(path: Any) -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        with pytest.raises(InvalidArgument, match="path must be a str"):
            await unpod.request("GET", path)


@each_row("path", ACCEPTED)
async def test_an_accepted_path_is_sent_below_the_root_of_the_api(path: str) -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        await unpod.request("GET", path)
    assert server.requests[0].startswith(f"GET {ROOT}{path} HTTP/1.1\r\n".encode())


@given(st.text(max_size=30) | st.text("./%\\?#;:a2eEfF5cC", max_size=30))
def test_any_text_is_refused_or_a_path_of_plain_segments(text: str) -> None:
    try:
        path = check_path("path", text)
    except InvalidArgument:
        return
    assert path == text
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set(" \\?#%")
    assert "//" not in text
    assert not text.startswith("/")
    for segment in text.removesuffix("/").split("/"):
        assert segment.partition(";")[0] not in ("", ".", "..")


@each_row(
    ("path", "template"),
    [
        ("call-logs/", "call-logs/"),
        ("spaces/SPACEMAIN000000000000001/runs/", "spaces/{id}/runs/"),
        ("agents/space-agent-7/tasks/", "agents/{id}/tasks/"),
        ("a_b/Token", "a_b/{id}"),
        ("agents/support-bot/tasks/", "agents/{id}/tasks/"),
        ("organizations/spaces", "organizations/{id}"),
        ("a/abcdefghijklmnopqrstuvwx/", "a/{id}/"),
        ("a/b/c", "a/b/c"),
    ],
)
def test_logs_show_no_ids_of_a_path(path: str, template: str) -> None:
    assert paths.custom(path).template == template


CREATES = [
    "spaces/S/tasks/",
    "spaces/S/tasks",
    "spaces/S/tasks/create/",
    "spaces/S/tasks/create",
    "Spaces/S/TASKS/",
    "spaces/S/tasks;x/create;y=1/",
]


@each_row("method", ["POST", "post"])
@each_row("path", CREATES)
async def test_a_post_to_the_path_of_a_create_is_refused(path: str, method: str) -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        with pytest.raises(InvalidArgument, match=r"places phone calls\nhint: use tasks\.create"):
            await unpod.request(method, path, json={"pilot": "p"})
    assert server.connections == 0


async def test_other_requests_to_that_path_and_other_posts_are_sent() -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        await unpod.request("GET", CREATES[0])
        await unpod.request("POST", "spaces/S/runs/R/tasks/")
        await unpod.request("POST", "spaces/tasks/")
    assert len(server.requests) == 3


@each_row("method", ["HEAD", "OPTIONS", "TRACE", "CONNECT", "", "GET ", "GET\r\n", "PURGE"])
async def test_other_methods_are_refused(method: str) -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        with pytest.raises(InvalidArgument, match="method must be 'GET', 'POST', 'PUT', 'PATCH' or 'DELETE'"):
            await unpod.request(method, "agents/")
    assert server.connections == 0


# --- query and body ----------------------------------------------------------------------------------------


async def test_parameters_reach_the_server_as_they_are() -> None:
    params: dict[str, Any] = {"a b&c=d#e": "x y&z=1#?/+%2e", "é": "नमस्ते", "empty": "", "none": None}
    params |= {"yes": True, "no": False, "int": 7, "float": 1.5}
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        await unpod.request("GET", "agents/", params=params)
    expected = {**params, "yes": "true", "no": "false", "int": "7", "float": "1.5"}
    del expected["none"]
    assert sandbox.log[0].query == expected
    assert sandbox.log[0].path == f"{ROOT}agents/"


async def test_parameters_can_be_sent_with_every_method() -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        for method in WRITES:
            await unpod.request(method, "x/", params={"a": "b c"})
    assert [request.split(b" HTTP")[0].decode() for request in server.requests] == [
        f"{method} {ROOT}x/?a=b+c" for method in WRITES
    ]


class Shown(float):
    """A number that is printed as something else, like those of some packages."""

    __str__ = __repr__ = lambda _: "shown"


class Priority(int, enum.Enum):
    HIGH = 3


async def test_numbers_of_other_types_are_sent_as_plain_numbers() -> None:
    params = {"a": Shown(1.5), "b": Priority.HIGH, "c": 2**63 - 1, "d": 1e300}
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        await unpod.request("GET", "x/", params=params)
    assert b"/x/?a=1.5&b=3&c=9223372036854775807&d=1e%2B300 " in server.requests[0]


@each_row(
    "params",
    [
        [("a", "b")],
        {"": "a"},
        {3: "a"},
        {"a": ["b"]},
        {"a": b"b"},
        {"a": math.nan},
        {"a": 2**63},
        {"a": -(10**400)},
        {"a": "\0"},
        {"\ud800": "a"},
    ],
    ids=ascii,
)
async def test_parameters_that_cannot_be_sent_are_refused(params: Any) -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        with pytest.raises(InvalidArgument, match="params"):
            await unpod.request("GET", "x/", params=params)
        with pytest.raises(InvalidArgument, match="params"):
            unpod.paginate("x/", params=params)
    assert server.connections == 0


async def test_json_is_the_body_of_a_write() -> None:
    body = {"name": "Grüße ✓", "list": [1, 2.5, None, True], "object": {"a": {}}}
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        for method in WRITES:
            await unpod.request(method, "x/", json=body)
            await unpod.request(method, "x/")
    for given_body, none in zip(server.requests[::2], server.requests[1::2], strict=True):
        head, _, content = given_body.partition(b"\r\n\r\n")
        assert json.loads(content) == body
        assert b"Content-Type: application/json" in head
        assert none.endswith(b"\r\n\r\n")
        assert b"application/json" not in none.partition(b"Accept: application/json")[2]


@each_row(
    "value", [{"a": math.nan}, {"a": {1: 2}}, {"a": b"x"}, {"a": "\ud800"}, {"a": 2**70}, object()], ids=repr
)
async def test_a_body_that_is_not_plain_json_is_refused(value: Any) -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        with pytest.raises(InvalidArgument, match=r"^(key 0 of )?json"):
            await unpod.request("POST", "x/", json=value)
    assert server.connections == 0


async def test_a_get_has_no_body() -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        with pytest.raises(InvalidArgument, match="json cannot be sent with a GET"):
            await unpod.request("GET", "x/", json={})
    assert server.connections == 0


# --- results -----------------------------------------------------------------------------------------------


class Widget(TypedDict):
    id: str


@dataclass
class Gadget:
    id: str


class Thing(msgspec.Struct):
    id: str


@each_row(
    ("body", "model", "result"),
    [
        ({"status_code": 200, "data": {"id": "1"}}, None, {"status_code": 200, "data": {"id": "1"}}),
        ([1, 2], None, [1, 2]),
        (7, None, 7),
        (None, None, None),
        ({"data": {"id": "1"}}, Widget, {"id": "1"}),
        ({"data": {"id": "1", "more": 2}}, Gadget, Gadget("1")),
        ({"data": {"id": "1"}}, Thing, Thing("1")),
        ({"id": "1"}, Thing, Thing("1")),
        ([{"id": "1"}], list[Thing], [Thing("1")]),
        ({"data": None}, Thing | None, None),
        ({"data": {"run_id": "R1", "batch_count": "x"}}, Run, Run(run_id="R1")),
    ],
)
async def test_the_result_is_the_body_or_its_data_in_a_model(body: Any, model: Any, result: Any) -> None:
    async with RawServer(answering(json_response(body))) as server, client(server) as unpod:
        for method in ("GET", "POST"):
            assert await unpod.request(method, "x/", model=model) == result


async def test_an_empty_body_is_none() -> None:
    answers = (http_response(b"", 204, [("X", "y")]), http_response())
    async with RawServer(answering(*answers)) as server, client(server) as unpod:
        assert await unpod.request("DELETE", "x/") is None
        assert await unpod.request("GET", "x/") is None
        with pytest.raises(DecodeError, match="GET /x/ answered 200: the response has no body"):
            await unpod.request("GET", "x/", model=Thing)


async def test_the_response_has_status_allowed_headers_and_the_body_as_sent() -> None:
    headers = [("X-Request-ID", "r1"), ("Set-Cookie", "session=1"), ("Content-Type", "text/csv")]
    answer = http_response(b"a,b\r\n\xff", 201, headers)
    async with RawServer(answering(answer)) as server, client(server) as unpod:
        for method in ("GET", *WRITES):
            response = await unpod.request(method, "x/", response=True)
            assert response == RawResponse(201, {"x-request-id": "r1"}, b"a,b\r\n\xff")
            assert repr(response) == "RawResponse(status=201, 6 bytes)"


@each_row("model", [Thing, dict[str, int], list[int], Literal["a"]], ids=repr)
async def test_a_response_that_does_not_fit_is_no_reason_to_send_a_write_again(model: Any) -> None:
    body = {"data": {"id": ["+15550100"]}}
    async with RawServer(answering(json_response(body))) as server, client(server) as unpod:
        for method in ("GET", *WRITES):
            with pytest.raises(DecodeError, match=rf"{method} /x/ answered 200: .*does not fit") as caught:
                await unpod.request(method, "x/", model=model)
            assert ("do not send it again" in str(caught.value)) == (method != "GET")
            assert "5550100" not in str(caught.value)
    assert len(server.requests) == 5


class Choice(msgspec.Struct):
    kind: Literal["a", "b"]
    number: int = 0

    def __post_init__(self) -> None:
        if self.number:
            raise ValueError(f"the number {self.number} of a person")


@each_row("data", [{"kind": "s3cret"}, {"kind": "a", "number": 5550100}])
async def test_errors_of_a_model_show_no_data(data: dict[str, Any]) -> None:
    async with RawServer(answering(json_response({"data": data}))) as server, client(server) as unpod:
        with pytest.raises(DecodeError, match="the model does not accept the value") as caught:
            await unpod.request("GET", "x/", model=Choice)
        rows = json_response({"count": 1, "data": [data]})
    assert leaks(caught.value, re.compile("s3cret|5550100")) == []
    async with RawServer(answering(rows)) as server, client(server) as unpod:
        with pytest.raises(DecodeError, match="the model does not accept the value") as caught:
            await unpod.paginate("x/", key="kind", model=Choice).collect()
    assert "5550100" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_model_must_be_something_that_json_can_be_decoded_into() -> None:
    async with RawServer(answering(OK)) as server, client(server) as unpod:
        for model in (Thing | Choice, 7):
            with pytest.raises(InvalidArgument, match="model cannot be decoded from JSON"):
                await unpod.request("GET", "x/", model=model)  # type: ignore[call-overload]
            with pytest.raises(InvalidArgument, match="model cannot be decoded from JSON"):
                unpod.paginate("x/", key="id", model=model)  # type: ignore[call-overload]
        with pytest.raises(InvalidArgument, match="cannot be combined"):
            await unpod.request("GET", "x/", model=Thing, response=True)  # type: ignore[call-overload]
    assert server.connections == 0


# --- errors that the server states -------------------------------------------------------------------------


@each_row(
    ("answer", "kind"),
    [
        (json_response({"message": "m"}, 400), InvalidRequestError),
        (json_response({"message": "m"}, 401), AuthenticationError),
        (json_response({"message": "m"}, 404), NotFoundError),
        (json_response({"message": "m"}, 409), APIError),
        (json_response({"message": "m", "data": {}}, 206), RefusedError),
        (json_response({"message": "m", "errors": {"a": ["b"]}}, 206), InvalidRequestError),
        (json_response({"status_code": 401, "message": "m"}, 200), AuthenticationError),
        (json_response({"status_code": 206, "message": "m", "data": {}}, 200), RefusedError),
        (json_response({"message": "m"}, 429, [("Retry-After", "99")]), RateLimitedError),
        (http_response(b"", 302, [("Location", "https://evil.example/")]), APIError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@each_row("response", [False, True])
async def test_an_answer_that_is_an_error_raises_it_and_a_write_is_sent_once(
    answer: bytes, kind: type[APIError], response: Literal[False]
) -> None:
    async with RawServer(answering(answer)) as server, client(server) as unpod:
        for number, method in enumerate(("GET", *WRITES), 1):
            with pytest.raises(kind) as caught:
                await unpod.request(method, "x/", response=response)
            assert type(caught.value) is kind
            assert len(server.requests) == number
            if kind is RateLimitedError:
                return  # the client holds back every request until the delay is over


async def test_a_redirect_is_not_followed_and_a_missing_slash_is_named() -> None:
    async with RawServer(answering(OK)) as other:
        for status in (301, 302, 303, 307, 308):
            there = http_response(b"", status, [("Location", f"{other.base_url}{ROOT}x/")])
            async with RawServer(answering(there)) as server, client(server) as unpod:
                for method in ("GET", *WRITES):
                    with pytest.raises(APIError, match="check base_url: redirects are not followed"):
                        await unpod.request(method, "y")
                    with pytest.raises(APIError, match="end the path with a slash: redirects are not foll"):
                        await unpod.request(method, "x")
    assert other.connections == 0


async def test_a_path_that_does_not_exist_is_named() -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        with pytest.raises(NotFoundError, match="the server does not have this path: check it and base_url"):
            await unpod.request("GET", "call-loggs/")


# --- what is sent again ------------------------------------------------------------------------------------


async def test_a_get_is_retried() -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client(retry=FAST) as unpod:
        for fault in (Fault(status=503, times=2), Fault(reset_at=0, times=2), Fault(reset_at=150, times=2)):
            before = sandbox.requests
            sandbox.script(fault)
            assert (await unpod.request("GET", "agents/"))["status_code"] == 200
            assert sandbox.requests == before + 3
        sandbox.script(Fault(body=b"no JSON"))
        assert (await unpod.request("GET", "agents/"))["status_code"] == 200
        sandbox.script(Fault(status=503, times=9))
        with pytest.raises(ServerError) as caught:
            await unpod.request("GET", "agents/")
        assert len(caught.value.attempts) == 4


UNKNOWN: dict[str, tuple[Fault, int | None]] = {
    "500": (Fault(status=500, body=b"<html>", content_type="text/html"), 500),
    "502": (Fault(status=502), 502),
    "503 with a delay": (Fault(status=503, headers={"Retry-After": "0"}), 503),
    "206 with a string": (Fault(status=206, body=b'{"errors": "upstream"}'), 206),
    "206 that is not JSON": (Fault(status=206, body=b"x"), 206),
    "200 that is not JSON": (Fault(body=b"<html>a proxy"), 200),
    "200 cut in the middle": (Fault(reset_at=200), None),
    "reset before the status": (Fault(reset_at=0), None),
    "closed before the status": (Fault(close_at=0), None),
    "reset in the head": (Fault(reset_at=20), None),
    "time-out": (Fault(stall=5), None),
}


@each_row("method", WRITES)
@each_row("name", UNKNOWN)
async def test_a_write_without_a_clear_answer_is_sent_once_and_its_outcome_is_unknown(
    name: str, method: str
) -> None:
    fault, status = UNKNOWN[name]
    timeout = 0.3 if name == "time-out" else 60
    async with Sandbox(runs=1) as sandbox, sandbox.client(retry=FAST, timeout=timeout) as unpod:
        sandbox.script(fault)
        with pytest.raises(OutcomeUnknown) as caught:
            await unpod.request(method, "widgets/", json={"a": 1})
    error = caught.value
    assert sandbox.requests == 1
    assert (error.status, error.space_token, error.document_ids) == (status, "", ())
    assert str(error).startswith(f"the {method} was sent and may have taken effect: {method} /widgets/")
    assert "hint: find out whether it took effect before you send it again" in str(error)
    with pytest.raises(InvalidArgument, match="error must come from a create"):
        await unpod.tasks.reconcile(error)


@each_row("method", WRITES)
async def test_a_write_on_a_connection_that_the_server_drops_is_not_repeated_by_aiohttp(method: str) -> None:
    """aiohttp repeats a GET, a PUT and a DELETE by itself if a kept-alive connection was closed."""

    async def handler(connection: RawConnection) -> None:
        await connection.read_request()
        if connection.number > 1:
            return
        await connection.send(OK)
        await connection.read_request()

    async with RawServer(handler) as server, client(server) as unpod:
        await unpod.request(method, "x/")
        with pytest.raises(OutcomeUnknown):
            await unpod.request(method, "x/")
        assert len(server.requests) == server.connections == 2


@each_row("method", WRITES)
async def test_a_write_that_never_left_is_not_unknown(method: str) -> None:
    async with RawServer(answering(OK)) as server:
        pass
    async with client(server) as unpod:
        with pytest.raises(TransportError) as caught:
            await unpod.request(method, "x/", json={})
    assert caught.value.sent is False
    assert len(caught.value.attempts) == 4  # none of them reached the server


async def test_a_new_token_is_used_for_a_write_that_the_server_did_not_accept() -> None:
    async def provider() -> str:
        return "another-t0ken"

    refused = json_response({"message": "expired"}, 401)
    async with RawServer(answering(refused, OK)) as server, client(server, token_provider=provider) as unpod:
        await unpod.request("PATCH", "x/", json={"a": 1})
    assert [b"another-t0ken" in request for request in server.requests] == [False, True]


async def test_a_cancelled_write_says_that_it_may_have_taken_effect(caplog: pytest.LogCaptureFixture) -> None:
    arrived = asyncio.Event()

    async def handler(connection: RawConnection) -> None:
        await connection.read_request()
        arrived.set()
        await asyncio.sleep(60)

    async with RawServer(handler) as server, client(server) as unpod:
        for method in ("GET", "DELETE"):
            arrived.clear()
            caplog.clear()
            call = asyncio.ensure_future(unpod.request(method, "widgets/W0123456/"))
            await arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await call
            warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
            note = f"a {method} was cancelled after it was sent, and may have taken effect"
            expected = [] if method == "GET" else [f"{note}: widgets/{{id}}/"]
            assert warnings == expected
            assert getattr(caught.value, "__notes__", []) == [
                one.replace("{id}", "W0123456") for one in expected
            ]


# --- limits ------------------------------------------------------------------------------------------------


async def test_the_deadline_ends_a_read_and_a_write() -> None:
    async def silent(connection: RawConnection) -> None:
        await connection.read_request()
        await asyncio.sleep(60)

    async with RawServer(silent) as server, client(server) as unpod:
        soon = unpod.with_options(deadline=2)
        calls = (soon.request("GET", "x/"), soon.request("PUT", "x/"))
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert list(map(type, ends)) == [TransportError, OutcomeUnknown]
        assert len(server.requests) == 2


async def test_requests_count_towards_the_limit_of_the_client() -> None:
    entered = 0
    two_entered, gate = asyncio.Event(), asyncio.Event()

    async def handler(connection: RawConnection) -> None:
        nonlocal entered
        while await connection.read_request() is not None:
            entered += 1
            if entered == 2:
                two_entered.set()
            await gate.wait()
            await connection.send(OK)

    async with (
        RawServer(handler) as server,
        client(server, max_concurrency=2) as unpod,
        anyio.create_task_group() as tasks,
    ):
        for number in range(5):
            tasks.start_soon(unpod.request, ("GET", "PUT")[number % 2], "x/")
        await two_entered.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        assert entered == 2
        gate.set()
    assert (entered, unpod.stats.requests) == (5, 5)


@each_row("compressed", [False, True])
async def test_a_response_that_is_too_large_is_dropped(compressed: bool) -> None:
    body = json.dumps({"data": "x" * 100_000}).encode()
    headers = [("Content-Encoding", "gzip")] if compressed else []
    answer = http_response(gzip.compress(body) if compressed else body, 200, headers)
    async with RawServer(answering(answer)) as server, client(server, max_response_bytes=50_000) as unpod:
        with pytest.raises(TransportError, match=r"longer than max_response_bytes \(50000\)"):
            await unpod.request("GET", "x/", response=True)
        with pytest.raises(OutcomeUnknown, match="longer than max_response_bytes"):
            await unpod.request("POST", "x/", response=True)
    assert len(server.requests) == 2


async def test_a_closed_client_sends_nothing() -> None:
    async with RawServer(answering(OK)) as server:
        async with client(server) as unpod:
            pass
        for method in ("GET", "POST"):
            with pytest.raises(Exception, match="the client is closed"):
                await unpod.request(method, "x/")
    assert server.connections == 0


async def test_an_upstream_failure_of_a_read_is_not_an_empty_success() -> None:
    answer = json_response({"message": "m", "errors": "upstream down"}, 206)
    async with RawServer(answering(answer)) as server, client(server, retry=None) as unpod:
        with pytest.raises(UpstreamError):
            await unpod.request("GET", "x/")
