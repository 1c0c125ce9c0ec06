"""Headers of the user and the name of the application: what is sent, refused, and never shown."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.leaks import leaks
from tests.raw_server import RawConnection, RawServer, http_response, json_response
from tests.tables import each_row
from unpod_async import RetryPolicy, UnpodClient
from unpod_async.errors import ConfigurationError, DecodeError, InvalidArgument, UnpodError
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

VALUE = 's3cr3t key/of "the user"=1'
CALL_VALUE = "s3cr3t-of-the-call"
SECRET = re.compile(r"s3cr3t")
EMPTY = json_response({"count": 0, "status_code": 200, "data": []})
DOCUMENTS = [{"name": "A", "contact_number": "9000000001"}]


def answering(answer: bytes) -> Callable[[RawConnection], Awaitable[None]]:
    async def handler(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(answer)
            if not answer.startswith(b"HTTP/1.1"):
                return

    return handler


def client(base_url: str, **options: Any) -> UnpodClient:
    options = {"headers": {"X-Key": VALUE}, "retry": RetryPolicy(attempts=2, base=0.001), **options}
    return UnpodClient("t0ken-of-the-test", "acme.example", base_url, **options)


def headers_of(request: bytes) -> list[tuple[str, str]]:
    lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


# --- what is sent ------------------------------------------------------------------------------------------


async def all_ahead(unpod: UnpodClient) -> None:
    async with unpod.runs.list("S", page_size=1).prefetch(2) as stream:
        async for _ in stream:
            pass


CALLS: dict[str, Callable[[UnpodClient], Awaitable[object]]] = {
    "listing": lambda unpod: unpod.runs.list("S").collect(),
    "raw": lambda unpod: anext(unpod.runs.list("S").raw(), None),
    "prefetch": all_ahead,
    "count": lambda unpod: unpod.runs.list("S").count(),
    "single": lambda unpod: unpod.spaces.get("S"),
    "create": lambda unpod: unpod.tasks.create("S", pilot="p", documents=DOCUMENTS, context="c"),
    "request": lambda unpod: unpod.request("GET", "x/", headers={"X-Call": CALL_VALUE}),
    "response": lambda unpod: unpod.request("GET", "x/", response=True, headers={"X-Call": CALL_VALUE}),
    "write": lambda unpod: unpod.request("PATCH", "x/", json={}, headers={"X-Call": CALL_VALUE}),
    "paginate": lambda unpod: unpod.paginate("x/", key="id", headers={"X-Call": CALL_VALUE}).collect(),
    "no key": lambda unpod: unpod.paginate("x/", headers={"X-Call": CALL_VALUE}).collect(),
    "call logs": lambda unpod: unpod.call_logs.list().collect(),
}
WITH_OWN = ("request", "response", "write", "paginate", "no key")


@pytest.mark.parametrize("own_session", [False, True])
async def test_the_headers_of_client_view_and_call_are_sent_with_each_request(own_session: bool) -> None:
    async with (
        RawServer(answering(EMPTY)) as server,
        aiohttp.ClientSession() as session,
        client(server.base_url, session=session if own_session else None) as unpod,
    ):
        view = unpod.with_options(headers={"x-view": "v", "X-KEY": "changed"})
        for name, call in CALLS.items():
            for one, key in ((unpod, VALUE), (view, "changed")):
                number = len(server.requests)
                try:
                    await call(one)
                except UnpodError:
                    assert name in ("create", "single")
                assert len(server.requests) > number
                for request in server.requests[number:]:
                    sent = headers_of(request)
                    lower = [name.lower() for name, _ in sent]
                    assert len(set(lower)) == len(lower), "a header was sent twice"
                    found = dict(zip(lower, (value for _, value in sent), strict=True))
                    assert found["x-key"] == key
                    assert ("x-view" in found) == (one is view)
                    assert found.get("x-call") == (CALL_VALUE if name in WITH_OWN else None)
                    assert found["authorization"] == "Token t0ken-of-the-test"
                    assert found["org-handle"] == "acme.example"


async def test_the_headers_of_a_call_are_not_sent_with_the_next_one() -> None:
    async with RawServer(answering(EMPTY)) as server, client(server.base_url, headers=None) as unpod:
        await unpod.request("GET", "x/", headers={"X-Call": CALL_VALUE})
        await unpod.request("GET", "x/")
        await unpod.runs.list("S").collect()
    assert [b"X-Call" in request for request in server.requests] == [True, False, False]


async def test_a_header_of_the_client_can_be_changed_for_a_call() -> None:
    async with RawServer(answering(EMPTY)) as server, client(server.base_url) as unpod:
        patch = {"content-type": "application/merge-patch+json", "x-key": "other", "Accept": "text/csv"}
        await unpod.request("PATCH", "x/", json={"a": 1}, headers=patch)
    sent = {name.lower(): value for name, value in headers_of(server.requests[0])}
    assert patch.items() <= {**sent, "Accept": sent["accept"]}.items()


async def test_a_name_in_another_notation_replaces_a_header_too() -> None:
    # Servers that follow the rules of CGI join the values of X-Key and X_Key, or use the wrong one.
    async with RawServer(answering(EMPTY)) as server, client(server.base_url) as unpod:
        await unpod.with_options(headers={"x_KEY": "of a view"}).request("GET", "x/")
        await unpod.with_options(headers={"Product_Id": "of-a-view"}).call_logs.list(product_id="P").collect()
    first, second = map(headers_of, server.requests)
    assert [value for name, value in first if name.lower().replace("_", "-") == "x-key"] == ["of a view"]
    assert [value for name, value in second if name.lower().replace("_", "-") == "product-id"] == ["P"]


async def test_exports_watches_and_streams_send_them_too(tmp_path: Path) -> None:
    async with Sandbox(runs=2, tasks_per_run=2) as sandbox, sandbox.client(headers={"X-Key": VALUE}) as unpod:
        space = sandbox.space_token
        await unpod.export(space, tmp_path / "data")
        async with unpod.runs.tasks_for(space) as stream:
            assert len([task async for task in stream]) == 4
        async with unpod.runs.watch(space) as events:
            await anext(aiter(events))
        await unpod.runs.find(space, sandbox.run_ids()[0])
    assert sandbox.requests >= 8
    assert {received.headers.get("x-key") for received in sandbox.log} == {VALUE}


async def test_nothing_is_sent_to_another_host() -> None:
    async with RawServer(answering(EMPTY)) as other:
        there = http_response(b"", 307, [("Location", f"{other.base_url}/api/v2/platform/x/")])
        async with RawServer(answering(there)) as server, client(server.base_url) as unpod:
            for call in CALLS.values():
                with pytest.raises(UnpodError, match="redirects are not followed"):
                    await call(unpod)
    assert other.connections == 0


# --- what is refused ---------------------------------------------------------------------------------------

NAMES = [
    *("Authorization", "authorization", "AUTHORIZATION", "Org-Handle", "Org_Handle", "Host", "Cookie"),
    *("Content-Length", "Content_Length", "Transfer-Encoding", "Content-Encoding", "Accept-Encoding"),
    *("Connection", "Keep-Alive", "Upgrade", "Expect", "TE", "Trailer", "Proxy-Authorization", "Proxy-X"),
    *("X-HTTP-Method-Override", "X-HTTP-Method", "x_method_override", "User-Agent"),
    *("X-Original-URL", "X_Rewrite_Url"),
]
BAD_NAMES = ["", " ", "X A", "X:", "X\r\nHost", "X\x00", "é", "X(", 3, b"X", None]
BAD_VALUES = [
    "a\r\nX: b",
    "a\nb",
    "a\r",
    "a\x00b",
    "",
    " a",
    "a ",
    "é",
    "a\x7f",
    "a\x1b",
    "x" * 4097,
    3,
    b"x",
    None,
]


def refusals(headers: Any) -> list[ConfigurationError | InvalidArgument]:
    """The errors of all calls that take headers."""
    unpod = UnpodClient("t0ken-of-the-test", "acme.example", "http://127.0.0.1:9")
    found: list[ConfigurationError | InvalidArgument] = []
    for call in (
        lambda: UnpodClient("t0ken-of-the-test", "acme.example", "http://127.0.0.1:9", headers=headers),
        lambda: unpod.with_options(headers=headers),
        lambda: unpod.paginate("x/", headers=headers),
        lambda: unpod.request("GET", "x/", headers=headers).send(None),
    ):
        with pytest.raises((ConfigurationError, InvalidArgument), match=r"^headers") as caught:
            call()
        assert caught.value.argument == "headers"
        found.append(caught.value)
    return found


@each_row("name", NAMES)
def test_headers_of_the_client_are_refused(name: str) -> None:
    for error in refusals({"X-A": VALUE, name: VALUE}):
        assert str(error).startswith(f"headers must not contain {name}\nhint: ")
        assert leaks(error, SECRET) == []


@each_row("name", BAD_NAMES, ids=ascii)
def test_names_that_are_no_names_are_refused(name: Any) -> None:
    for error in refusals({"X-A": VALUE, name: VALUE}):
        assert leaks(error, SECRET) == []


@each_row("value", BAD_VALUES, ids=ascii)
def test_values_that_cannot_be_sent_are_refused_and_not_shown(value: Any) -> None:
    bad = f"s3cr3t{value}" if isinstance(value, str) and value.strip() == value and value else value
    for error in refusals({"X-A": VALUE, "X-B": bad}):
        assert "X-B" in str(error)
        assert leaks(error, SECRET) == []


@each_row("headers", [[("X-A", VALUE)], "X-A: b", {"X-A": VALUE, "x-a": VALUE}, {"X-A": VALUE, "X_A": "b"}])
def test_other_things_than_a_mapping_of_different_names_are_refused(headers: Any) -> None:
    for error in refusals(headers):
        assert leaks(error, SECRET) == []


# --- what is never shown -----------------------------------------------------------------------------------


def echoes(value: str) -> dict[str, bytes]:
    """Responses that repeat a value, in many forms."""
    letters = "".join(f"\\u{ord(one):04x}" for one in value)
    echo = {"message": f"bad key {value}", "errors": {"key": [value]}, "data": {"detail": value}}
    headers = [("X-Request-ID", value), ("WWW-Authenticate", f'Token "{value}"')]
    return {
        **{
            str(status): json_response(echo, status, headers)
            for status in (302, 400, 401, 404, 422, 500, 503)
        },
        "206": json_response(echo, 206, headers),
        "206 string": json_response({"message": value, "errors": f"upstream: {value}"}, 206),
        "escaped": json_response(json.dumps(echo).replace("/", "\\/").encode(), 400),
        "letters": json_response(b'{"message": "%s"}' % letters.encode(), 400),
        "text": http_response(f"Traceback: {value}".encode(), 500),
        "html": http_response(f"<html><title>{value}</title>".encode(), 502),
        "200 error": json_response({"status_code": 401, **echo}),
        "200 text": http_response(value.encode()),
        "cut at the kept length": http_response(b"x" * 4090 + value.encode(), 500),
        "not http": b"SSH-2.0-" + value.encode() + b"\r\n\r\n",
        "rows": json_response({"count": 1, "data": [{"run_id": 1, "id": [], "task_id": 2, "x": value}]}),
    }


@pytest.fixture
async def log(caplog: pytest.LogCaptureFixture) -> AsyncIterator[pytest.LogCaptureFixture]:
    for name in ("", "unpod_async", "aiohttp", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    yield caplog
    for record in caplog.records:
        assert SECRET.search(record.getMessage() + repr(record.__dict__)) is None, record


async def error_of(call: Awaitable[object]) -> UnpodError | None:
    try:
        await call
    except UnpodError as error:
        return error
    return None


@pytest.mark.parametrize("value", [VALUE, "s3cr3t"])
@pytest.mark.parametrize("name", echoes(VALUE))
async def test_no_error_shows_a_value_that_the_server_repeats(
    name: str, value: str, log: pytest.LogCaptureFixture
) -> None:
    async with RawServer(answering(echoes(value)[name])) as server:
        for label, call in CALLS.items():
            async with client(server.base_url, headers={"X-Key": value}) as unpod:
                error = await error_of(call(unpod))
                if error is None:
                    assert name in ("rows", "200 text"), label
                    continue
                assert leaks(error, SECRET) == [], label
                assert leaks(pickle.loads(pickle.dumps(error)), SECRET) == []  # noqa: S301


@pytest.mark.parametrize("name", echoes(CALL_VALUE))
async def test_the_values_of_a_view_and_of_a_call_are_masked_too(
    name: str, log: pytest.LogCaptureFixture
) -> None:
    async with RawServer(answering(echoes(CALL_VALUE)[name])) as server:
        for label, call in CALLS.items():
            async with client(server.base_url, headers=None) as unpod:
                view = unpod if label in WITH_OWN else unpod.with_options(headers={"X-View": CALL_VALUE})
                error = await error_of(call(view))
                assert error is None or leaks(error, SECRET) == [], label


async def test_a_rejected_row_in_an_error_shows_no_value() -> None:
    rows = json_response({"count": 1, "data": [{"run_id": 1, "x": VALUE}]})
    async with RawServer(answering(rows)) as server, client(server.base_url) as unpod:
        with pytest.raises(DecodeError) as caught:
            await unpod.runs.list("S").collect()
    assert b"***" in caught.value.rejected[0].raw
    assert leaks(caught.value, SECRET) == []


async def test_nor_does_a_lost_connection(log: pytest.LogCaptureFixture) -> None:
    async def reset(connection: RawConnection) -> None:
        await connection.read_request()
        connection.reset()

    async with RawServer(reset) as server, client(server.base_url) as unpod:
        for call in CALLS.values():
            with pytest.raises(UnpodError) as caught:
                await call(unpod)
            assert leaks(caught.value, SECRET) == []


async def test_short_values_do_not_break_the_reading_of_errors() -> None:
    answer = json_response({"status_code": 401, "message": "1 true GET", "ok": True}, 401)
    async with (
        RawServer(answering(answer)) as server,
        client(server.base_url, headers={"X-A": "1", "X-B": "true", "X-C": "401"}) as unpod,
    ):
        with pytest.raises(UnpodError, match=r"GET /spaces/S/runs/ answered 401: 1 true GET"):
            await unpod.runs.list("S").collect()


def test_a_client_shows_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPOD_PLATFORM_TOKEN", "another")
    unpod = client("http://127.0.0.1:9")
    executor = unpod._context.executor
    for one in (
        unpod,
        unpod.with_options(headers={"X-B": VALUE}),
        unpod.settings,
        executor,
        executor.options,
    ):
        assert SECRET.search(repr(one) + str(one)) is None
    assert "X-Key" in repr(executor.options)
    assert SECRET.search(pickle.dumps(unpod).decode("latin-1")) is None
    assert copy.copy(unpod)._context.executor.options.headers is None
    with pytest.raises(ConfigurationError) as caught:
        client("ftp://127.0.0.1:9")
    assert leaks(caught.value, SECRET) == []
    for wrong in ({"timeout": -1}, {"page_size": 0}):
        with pytest.raises(ConfigurationError) as caught:
            unpod.with_options(headers={"X-B": VALUE}, **wrong)  # type: ignore[arg-type]
        assert leaks(caught.value, SECRET) == []


async def test_a_refused_argument_shows_no_value_of_the_call() -> None:
    unpod = client("http://127.0.0.1:9")
    for wrong in ({"params": 3}, {"model": 3}, {"json": object()}):
        with pytest.raises(InvalidArgument) as caught:
            await unpod.request("PUT", "x/", headers={"X-B": VALUE}, **wrong)  # type: ignore[arg-type]
        assert leaks(caught.value, SECRET) == []
    for more in ({"key": ""}, {"limit": -1}, {"params": {"page": 1}}):
        with pytest.raises(InvalidArgument) as caught:
            unpod.paginate("x/", headers={"X-B": VALUE}, **more)  # type: ignore[call-overload]
        assert leaks(caught.value, SECRET) == []


# --- the name of the application ---------------------------------------------------------------------------


@each_row("name", ["billing", "billing/1.2", "My-App_2/2026.01+x"])
async def test_the_user_agent_begins_with_the_application(name: str) -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client(app_name=name, headers={"X-A": "b"}) as unpod:
        await unpod.runs.list(sandbox.space_token).collect()
        assert unpod.settings.app_name == name
        with pytest.raises(UnpodError):
            await unpod.request("PUT", "agents/")
    for received in sandbox.log:
        agent = received.headers["user-agent"]
        assert agent.startswith(f"{name} unpod-async/")


async def test_the_user_agent_is_that_of_the_package_without_one() -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        await unpod.runs.list(sandbox.space_token).collect()
    assert re.fullmatch(r"unpod-async/\S+", sandbox.log[0].headers["user-agent"])


@each_row(
    "name", ["", " ", "my app", "a/b/c", "/1", "a/", "é", "a\r\nX: b", "a(b)", "x" * 65, 3, b"a"], ids=ascii
)
def test_other_names_are_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^app_name must be") as caught:
        UnpodClient("t0ken", app_name=name)
    assert caught.value.argument == "app_name"


def test_a_copy_of_a_client_keeps_the_name_and_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPOD_PLATFORM_TOKEN", "another")
    unpod = UnpodClient("t0ken", app_name="billing", product_id="P1")
    again: UnpodClient = pickle.loads(pickle.dumps(unpod))  # noqa: S301
    assert again.settings == unpod.settings
    assert (again.settings.app_name, again.settings.product_id) == ("billing", "P1")
