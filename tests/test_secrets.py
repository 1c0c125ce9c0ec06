"""The token and user tokens appear nowhere, whichever error occurs and however it is displayed."""

from __future__ import annotations

import asyncio
import copy
import gzip
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
from unpod_async.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    DecodeError,
    OutcomeUnknown,
    TransportError,
    UnpodError,
)
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

TOKEN = "s3cr3t/T0ken+with=signs"  # "/" is a character that servers write as "\/"
SECRET = re.compile(r"s3cr3t|SYNALICE")
RUN = "R0"
SPACE = "SPACE"
FAST = RetryPolicy(attempts=2, base=0.001)
DOCUMENTS = [{"name": "A", "contact_number": "9000000001"}]

echo = {"message": f"bad token {TOKEN}", "errors": {"token": [TOKEN]}, "data": {"detail": TOKEN}}
ECHO_HEADERS = [("WWW-Authenticate", f'Token "{TOKEN}"'), ("X-Request-ID", TOKEN)]
task_row = {"task_id": "T1", "run_id": RUN, "user_info": {"user_token": "SYNALICE00000000"}}
bad_row = {**task_row, "task_id": "T2", "status": 7}


def page(*rows: Any, count: int | None = None) -> bytes:
    return json_response({"count": len(rows) if count is None else count, "status_code": 200, "data": rows})


def whole(status: int, content: Any = echo) -> bytes:
    return json_response(
        content, status, [*ECHO_HEADERS, ("Location", f"https://e.example/{TOKEN}?t={TOKEN}")]
    )


def escaped(content: Any, times: int) -> bytes:
    """JSON in which each character of the token is escaped, so many times one over the other."""
    token = TOKEN
    for _ in range(times):
        token = "".join(f"\\u{ord(one):04x}" for one in token)
    return json.dumps(content).replace(TOKEN, token).encode()


ANSWERS: dict[str, bytes] = {
    **{str(status): whole(status) for status in (302, 400, 401, 403, 404, 409, 418, 422, 429, 500, 503)},
    "206 validation": whole(206),
    "206 refusal": whole(206, {"message": TOKEN, "data": {}}),
    "206 string": whole(206, {"message": "m", "errors": f"upstream said {TOKEN}"}),
    "escaped": whole(400, json.dumps(echo).replace("/", "\\/").encode()),
    "percent": whole(400, json.dumps(echo).replace("/", "%2F").replace("=", "%3D").encode()),
    "letters escaped": whole(400, escaped(echo, 1)),
    "letters escaped in JSON in a string": whole(206, {"message": "m", "errors": escaped(echo, 1).decode()}),
    "letters escaped twice": whole(500, escaped(echo, 2)),
    "letters escaped, and no JSON": http_response(b"token " + escaped(TOKEN, 1), 500, ECHO_HEADERS),
    "letters percent-encoded": whole(400, {"message": "".join(f"%{ord(one):02X}" for one in TOKEN)}),
    "error in a 200, letters escaped": whole(200, escaped({"status_code": 401, **echo}, 1)),
    "text": http_response(f"Traceback: {TOKEN}".encode(), 500, ECHO_HEADERS),
    "html": http_response(f"<html><title>{TOKEN}</title>".encode(), 502, ECHO_HEADERS),
    "error in a 200": whole(200, {"status_code": 401, **echo}),
    "200 without data": whole(200, {"token": TOKEN}),
    "200 text": http_response(TOKEN.encode(), 200, ECHO_HEADERS),
    "200 html": http_response(f"<html>{TOKEN}".encode(), 200, ECHO_HEADERS),
    "200 count": whole(200, {"data": None, "count": TOKEN}),
    "200 not utf-8": http_response(b'{"data": [{"a": "\xff"}], "x": ' + TOKEN.encode(), 200, ECHO_HEADERS),
    "bad row": page(task_row, bad_row),
    "foreign row": page(task_row, {**task_row, "run_id": "other", "task_id": "T3"}),
    "row missing": page(task_row, count=7),
    "cut": page(task_row)[:-9],
    "cut head": b"HTTP/1.1 200 OK\r\nX-Request-ID: " + TOKEN.encode(),
    "not http": b"SSH-2.0-" + TOKEN.encode() + b"\r\n\r\n",
    "bad chunk": http_response(TOKEN.encode(), 200, [("Transfer-Encoding", "chunked")]),
    "long header": http_response(b"", 200, [("X-Echo", TOKEN * 1000)]),
    "bad gzip": http_response(TOKEN.encode(), 200, [("Content-Encoding", "gzip")]),
    "too long": http_response(gzip.compress(TOKEN.encode() * 10_000), 200, [("Content-Encoding", "gzip")]),
    "nothing": b"",
}


async def first_of_tasks_for(unpod: UnpodClient) -> None:
    async with unpod.runs.tasks_for(SPACE, [RUN]) as stream:
        async for _ in stream:
            pass


async def all_raw(unpod: UnpodClient) -> None:
    async for _ in unpod.runs.tasks(SPACE, RUN, page_size=1).raw():
        pass


async def all_ahead(unpod: UnpodClient) -> None:
    async with unpod.runs.tasks(SPACE, RUN, page_size=1).prefetch(3) as stream:
        async for _ in stream:
            pass


CALLS: dict[str, Callable[[UnpodClient], Awaitable[object]]] = {
    "listing": lambda unpod: unpod.runs.tasks(SPACE, RUN).collect(),
    "raw": all_raw,
    "prefetch": all_ahead,
    "count": lambda unpod: unpod.runs.list(SPACE).count(),
    "single": lambda unpod: unpod.spaces.get(SPACE),
    "tasks_for": first_of_tasks_for,
    "create": lambda unpod: unpod.tasks.create(SPACE, pilot="p", documents=DOCUMENTS, context="c"),
    "request": lambda unpod: unpod.request("GET", "x/", model=dict[str, int]),
    "write": lambda unpod: unpod.request("PUT", "x/", json={"a": 1}, model=dict[str, int]),
    "paginate": lambda unpod: unpod.paginate("x/", key="task_id", page_size=1).collect(),
    "paginate without key": lambda unpod: unpod.paginate("x/", page_size=1).collect(),
}


def client(base_url: str, **options: Any) -> UnpodClient:
    options = {"retry": FAST, "timeout": 0.5, "max_response_bytes": 50_000, **options}
    return UnpodClient(TOKEN, "org.example", base_url, **options)


@pytest.fixture
async def log(caplog: pytest.LogCaptureFixture) -> AsyncIterator[pytest.LogCaptureFixture]:
    for name in ("", "unpod_async", "aiohttp", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    yield caplog
    for record in caplog.records:
        assert SECRET.search(record.getMessage() + repr(record.__dict__)) is None, record


def answering(answer: bytes) -> Callable[[RawConnection], Awaitable[None]]:
    async def handler(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(answer)
            if (
                not answer.startswith(b"HTTP/1.1")
                or answer == ANSWERS["cut"]
                or answer == ANSWERS["cut head"]
            ):
                return

    return handler


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_no_error_shows_a_token(answer: str, call: str, log: pytest.LogCaptureFixture) -> None:
    async with RawServer(answering(ANSWERS[answer])) as server, client(server.base_url) as unpod:
        error: UnpodError | None = None
        try:
            await CALLS[call](unpod)
        except UnpodError as raised:
            error = raised
        assert server.requests
        if error is None:
            assert answer in ("bad row", "foreign row", "row missing") or call in ("count", "raw", "prefetch")
            return
        assert leaks(error, SECRET) == []
        assert leaks(pickle.loads(pickle.dumps(error)), SECRET) == []  # noqa: S301
        assert leaks(copy.copy(error), SECRET) == []


FAULTS: dict[str, Callable[[RawConnection], Awaitable[None]]] = {}


def fault(handler: Callable[[RawConnection], Awaitable[None]]) -> Callable[[RawConnection], Awaitable[None]]:
    FAULTS[handler.__name__] = handler
    return handler


@fault
async def reset_at_once(connection: RawConnection) -> None:
    await connection.read_request()
    connection.reset()


@fault
async def silence(connection: RawConnection) -> None:
    await connection.read_request()
    await asyncio.sleep(3)


@fault
async def silence_in_the_body(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(page(task_row, bad_row)[:-20])
    await asyncio.sleep(3)


@fault
async def silence_in_an_echo(connection: RawConnection) -> None:
    await connection.read_request()
    await connection.send(whole(401)[:-5])
    await asyncio.sleep(3)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", FAULTS)
async def test_nor_does_a_lost_connection_or_a_time_out(
    name: str, call: str, log: pytest.LogCaptureFixture
) -> None:
    async with RawServer(FAULTS[name]) as server, client(server.base_url, timeout=0.05) as unpod:
        with pytest.raises((TransportError, OutcomeUnknown)) as caught:
            await CALLS[call](unpod)
    assert leaks(caught.value, SECRET) == []


async def test_nor_does_a_refused_connection_or_a_name_that_does_not_resolve(
    log: pytest.LogCaptureFixture, refusing_port: int
) -> None:
    for call in CALLS.values():
        async with client(f"http://127.0.0.1:{refusing_port}") as unpod:
            with pytest.raises(TransportError) as caught:
                await call(unpod)
        assert caught.value.sent is False
        assert leaks(caught.value, SECRET) == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["silence", "silence_in_the_body", "silence_in_an_echo"])
async def test_nor_does_a_cancellation(name: str, call: str, log: pytest.LogCaptureFixture) -> None:
    """Its traceback passes through aiohttp, whose frames contain the arguments."""
    turns = 0
    async with RawServer(FAULTS[name]) as server, client(server.base_url, timeout=9) as unpod:
        for wait in (0, 0, 0.02):
            task = asyncio.ensure_future(CALLS[call](unpod))
            turns += 1
            for _ in range(turns * 2):
                await asyncio.sleep(0)
            await asyncio.sleep(wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert leaks(caught.value, SECRET) == []


async def test_nor_does_a_cancelled_read_at_any_turn(log: pytest.LogCaptureFixture) -> None:
    async with RawServer(silence_in_an_echo) as server, client(server.base_url, timeout=9) as unpod:
        for turns in range(1, 40):
            task = asyncio.ensure_future(unpod.runs.list(SPACE).collect())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert leaks(caught.value, SECRET) == []


async def test_nor_does_a_closed_session_of_the_callers() -> None:
    async with RawServer(silence) as server:
        session = aiohttp.ClientSession()
        await session.close()
        async with client(server.base_url, session=session) as unpod:
            with pytest.raises(ConfigurationError, match="is closed") as caught:
                await unpod.runs.list(SPACE).collect()
    assert leaks(caught.value, SECRET) == []


async def test_a_bug_below_shows_no_token_either(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise AssertionError("a bug")

    async with RawServer(silence) as server, client(server.base_url) as unpod:
        monkeypatch.setattr(aiohttp.TCPConnector, "connect", broken)
        with pytest.raises(AssertionError) as caught:
            await unpod.runs.list(SPACE).collect()
    assert leaks(caught.value, SECRET) == []


# --- where the token goes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_the_other_host_sees_nothing(status: int) -> None:
    async with RawServer(answering(page())) as other:
        there = http_response(b"", status, [("Location", f"{other.base_url}/api/v2/platform/x/?a={TOKEN}")])
        async with RawServer(answering(there)) as server, client(server.base_url) as unpod:
            for call in CALLS.values():
                with pytest.raises(APIError, match="redirects are not followed") as caught:
                    await call(unpod)
                assert caught.value.status == status
                assert leaks(caught.value, SECRET) == []
        assert other.connections == 0


async def test_the_token_goes_out_once_per_request_and_only_to_the_base_origin() -> None:
    async with (
        RawServer(answering(page())) as server,
        RawServer(answering(page())) as other,
        aiohttp.ClientSession() as session,
        client(server.base_url, session=session) as unpod,
    ):
        await unpod.runs.list(SPACE).collect()
        async with session.get(other.base_url) as response:
            await response.read()
    assert server.requests[0].count(f"Authorization: Token {TOKEN}\r\n".encode()) == 1
    assert b"Authorization" not in other.requests[0]
    assert TOKEN.encode() not in other.requests[0]


@pytest.mark.parametrize("call", CALLS)
async def test_a_request_that_would_leave_the_base_url_is_not_sent(call: str) -> None:
    async with RawServer(answering(page())) as server, RawServer(answering(page())) as other:
        async with client(server.base_url) as unpod:
            away = client(other.base_url)._context.executor.transport
            unpod._context.executor.transport._url = away._url
            with pytest.raises(ConfigurationError, match="base_url"):
                await CALLS[call](unpod)
        assert other.connections == server.connections == 0


async def test_cookies_are_not_sent_back() -> None:
    answer = json_response({"count": 0, "data": []}, headers=[("Set-Cookie", "sessionid=abc; Path=/")])
    async with RawServer(answering(answer)) as server, client(f"http://localhost:{server.port}") as unpod:
        await unpod.runs.list(SPACE).collect()
        await unpod.runs.list(SPACE).collect()
    assert len(server.requests) == 2
    assert not any(b"cookie" in request.lower() for request in server.requests)


async def test_proxies_and_netrc_of_the_environment_are_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with RawServer(answering(page())) as proxy, RawServer(answering(page())) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.base_url)
        async with client(server.base_url) as unpod:
            await unpod.runs.list(SPACE).collect()
            with pytest.raises((OutcomeUnknown, APIError)):
                await CALLS["create"](unpod)
        assert proxy.connections == 0
        assert len(server.requests) == 2
        async with client(server.base_url, proxy=proxy.base_url) as unpod:
            await unpod.runs.list(SPACE).collect()
        assert proxy.connections == 1
        monkeypatch.setenv("UNPOD_PROXY", proxy.base_url)
        async with client(server.base_url) as unpod:
            await unpod.runs.list(SPACE).collect()
        assert proxy.connections == 2


@pytest.mark.parametrize("proxied", ["argument", "variable"])
@each_row(
    "proxy",
    [
        "user:5ecret@host:1",
        "socks5://user:5ecret@host:1",
        "http://user:5ec/ret@host:1",
        "http://user:5ecret@",
        "http://user:5ecret@host:port",
        "http://user:5ecret@[::1",
        "http://user:5ecret @host:1",
        "'http://user:5ecret@host:1'",
    ],
)
def test_no_message_shows_the_password_of_a_proxy(
    proxy: str, proxied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxied == "variable":
        monkeypatch.setenv("UNPOD_PROXY", proxy)
    with pytest.raises(ConfigurationError) as caught:
        UnpodClient(TOKEN, proxy=proxy if proxied == "argument" else None)
    name = "proxy" if proxied == "argument" else "UNPOD_PROXY"
    assert name in str(caught.value)
    shown = f"{caught.value} {caught.value!r} {caught.value.hint}"
    assert "5ec" not in shown
    assert "ret" not in shown.replace("secret", "")


async def test_no_error_shows_the_password_of_a_proxy_that_fails() -> None:
    async def refuse(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(http_response(b"", 407, [("Proxy-Authenticate", "Basic")]))

    async with RawServer(refuse) as server:
        with_password = server.base_url.replace("://", "://user:5ecret@")
        for base_url in ("https://api.invalid", "http://api.invalid"):
            unpod = UnpodClient(TOKEN, None, base_url, proxy=with_password, allow_http=True, retry=None)
            async with unpod:
                with pytest.raises(UnpodError, match="407") as caught:
                    await unpod.runs.list(SPACE).collect()
            error: BaseException | None = caught.value
            while error is not None:
                assert "5ecret" not in f"{error} {error!r} {vars(error)}"
                error = error.__cause__ or error.__context__


@each_row("bad", ["a\r\nX: y", "a\nb", "a\0b", "a b", "é", "", " "])
def test_no_header_can_be_injected(bad: str) -> None:
    with pytest.raises(ConfigurationError):
        UnpodClient(bad, "org.example", "http://127.0.0.1:9")
    if bad.strip():
        with pytest.raises(ConfigurationError):
            UnpodClient(TOKEN, bad, "http://127.0.0.1:9")
    with pytest.raises(ConfigurationError) as caught:
        UnpodClient(TOKEN, "org.example", "http://127.0.0.1:9", auth_scheme=bad)
    assert leaks(caught.value, SECRET) == []


async def test_a_renewed_token_cannot_inject_a_header_either() -> None:
    async def provider() -> str:
        return f"{TOKEN}\r\nX-Injected: yes"

    async with (
        RawServer(answering(whole(401))) as server,
        client(server.base_url, token_provider=provider) as unpod,
    ):
        with pytest.raises(AuthenticationError) as caught:
            await unpod.runs.list(SPACE).collect()
    assert len(server.requests) == 1
    assert leaks(caught.value, SECRET) == []


# --- what is shown -----------------------------------------------------------------------------------------


async def test_control_and_direction_marks_are_escaped_when_shown() -> None:
    hostile = "\x1b[31mred\x07\x9b\r\nnew line \u202eltr\u2066\u200f\u2028 end"
    answers = [
        whole(400, {"message": hostile, "errors": {hostile: [hostile]}}),
        whole(206, {"message": hostile, "errors": hostile}),
        http_response(hostile.encode(), 500, [("WWW-Authenticate", "x")]),
        http_response(f"<html><title>{hostile}</title>".encode(), 502),
        http_response(b"", 302, [("Location", "https://e.example/\x1b[31m\u202e")]),
        http_response(b"", 401, [("WWW-Authenticate", "\x1b[31m\u202e")]),
    ]
    for answer in answers:
        async with RawServer(answering(answer)) as server, client(server.base_url) as unpod:
            with pytest.raises(UnpodError) as caught:
                await unpod.spaces.get(SPACE)
        text = str(caught.value).replace("\nhint: ", " ", 1).replace("\n      ", " ")
        assert text.isprintable(), ascii(text)
        assert not re.search("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", text), ascii(text)


async def test_a_client_shows_and_pickles_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPOD_PLATFORM_TOKEN", "another")
    async with client("http://127.0.0.1:9") as unpod:
        for one in (
            unpod,
            unpod.with_options(timeout=3),
            unpod.settings,
            unpod.stats,
            unpod._context.executor,
        ):
            assert SECRET.search(repr(one) + str(one)) is None
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert SECRET.search(pickle.dumps(unpod, protocol).decode("latin-1")) is None
        for make in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                make(unpod._context.executor.transport.token)


async def test_bad_rows_keep_their_bytes_without_the_users_token() -> None:
    async with Sandbox(runs=1, tasks_per_run=2) as sandbox:
        task = sandbox.task_ids()[0]
        row = json.dumps({**task_row, "task_id": task, "status": 7}).encode()
        sandbox.malform(task, row)
        async with UnpodClient(sandbox.token, sandbox.org_handle, sandbox.base_url) as unpod:
            with pytest.raises(DecodeError) as caught:
                await unpod.tasks.list(sandbox.space_token).collect()
    (rejected,) = caught.value.rejected
    assert rejected.raw == row.replace(b"SYNALICE00000000", b"***")
    assert leaks(caught.value) == []


SECRETS = {
    "an escaped quote": rb'{"user_info": {"user_token": "a\"SYNALICE"}}',
    "an object": rb'{"user_info": {"user_token": {"a": ["SYNALICE", "SYNALICE"]}}}',
    "a list": rb'{"user_info": {"user_token": ["SYNALICE"], "id": "1"}}',
    "in a list": rb'{"user_info": [{"user_token": "SYNALICE"}]}',
    "deeper": rb'{"a": [{"user_info": {"b": {"user_token": "SYNALICE"}}}]}',
    "camel case": rb'{"user_info": {"userToken": "SYNALICE"}}',
    "an escaped key": rb'{"user_info": {"user\u005ft\u006fken": "SYNALICE"}}',
    "an escaped capital": rb'{"user_info": {"user\u0054oken": "SYNALICE"}}',
    "in JSON in a string": rb'{"a": "{\"user_token\": \"SYNALICE\"}"}',
    "not UTF-8": b'{"a": "\xff", "user_info": {"user_token": "SYNALICE"}}',
    "the client's token": b'{"a": "%s"}' % TOKEN.encode(),
    "the client's token, escaped": b'{"a": %s}' % escaped(TOKEN, 1),
    "too deep": b'{"user_info": {"user_token": "SYNALICE"}, "input": {"a": %s}}' % (b"[" * 900 + b"]" * 900),
}


@each_row("name", SECRETS)
async def test_no_rejected_row_in_an_exception_has_a_token(name: str) -> None:
    row = b'{"task_id": "T1", "status": 7, ' + SECRETS[name][1:]
    body = b'{"count": 1, "data": [%b]}' % row
    async with RawServer(answering(json_response(body))) as server, client(server.base_url) as unpod:
        with pytest.raises(DecodeError) as caught:
            await unpod.tasks.list(SPACE).collect()
    (rejected,) = caught.value.rejected
    assert b"***" in rejected.raw
    assert SECRET.search(rejected.raw.decode("latin-1")) is None
    assert re.search(rb"\\u00(?:73|53)", rejected.raw) is None
    assert leaks(caught.value, SECRET) == []


async def test_a_raw_walk_that_breaks_shows_nothing_of_the_rows_before() -> None:
    async with Sandbox(runs=1, tasks_per_run=5) as sandbox:
        sandbox.script(Fault(status=403, page=2))
        async with UnpodClient(sandbox.token, sandbox.org_handle, sandbox.base_url) as unpod:
            with pytest.raises(APIError) as caught:
                async for _ in unpod.tasks.list(sandbox.space_token, page_size=2).raw():
                    pass
    assert leaks(caught.value) == []


@pytest.mark.parametrize(
    "wrong", [{"timeout": -1}, {"page_size": 0}, {"base_url": "ftp://x"}, {"rate_limit": 0}]
)
def test_a_client_that_is_refused_shows_no_token(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        UnpodClient(TOKEN, "org.example", **{"base_url": "http://127.0.0.1:9", **wrong})
    assert leaks(caught.value, SECRET) == []


def test_the_search_for_leaks_finds_them_in_locals_causes_and_pickles() -> None:
    from unpod_async._http import resolve

    with pytest.raises(ConfigurationError) as caught:
        resolve(token=TOKEN, base_url="ftp://x", environ={})
    assert any("resolve: token" in where for where in leaks(caught.value, SECRET))
    outer = ValueError()
    outer.__context__ = TransportError(TOKEN, sent=True)
    # The pickle of `outer` has its context too if dask.distributed was imported.
    assert len([where for where in leaks(outer, SECRET) if "ValueError" not in where]) == 7


@each_row(
    "wrong",
    [
        {"ssl_context": False},
        {"ssl_context": "x"},
        {"session": "x"},
        {"proxy": 3},
        {"proxy": "p:1"},
        {"token_provider": "x"},
    ],
    ids=str,
)
def test_nothing_switches_the_checks_off(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        UnpodClient(TOKEN, "org.example", "https://127.0.0.1:9", **wrong)
