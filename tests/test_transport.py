"""What goes over the wire, how often, over which connection, and that the token is nowhere else."""

from __future__ import annotations

import asyncio
import base64
import copy
import errno
import gzip
import json
import logging
import os
import pickle
import sys
import traceback
import urllib.parse
import zlib
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp.compression_utils import HAS_BROTLI, HAS_ZSTD

from tests.clock import pass_time
from tests.raw_server import RawConnection, RawServer, http_response, json_response
from unpod_async import (
    APIError,
    ConfigurationError,
    NotFoundError,
    OutcomeUnknown,
    RetryPolicy,
    TransportError,
    UnpodClient,
    UnpodError,
)
from unpod_async._http import CONNECT, KEEP_ALIVE, SILENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

TOKEN = "5ecret/t0ken+with%odd"
FAST = RetryPolicy(attempts=3, base=0.001, cap=0.002)
SPACE = {"data": {"token": "S"}}
CREATED = {"status_code": 200, "data": {"run_id": "R1", "task_ids": ["T1"]}}
DOCUMENTS = [{"id": "d", "name": "Ann Example", "contact_number": "+490000000"}]


@asynccontextmanager
async def saying(*answers: bytes, **arguments: Any) -> AsyncIterator[tuple[RawServer, UnpodClient]]:
    """A server that gives these answers in turn, the last one for ever, on connections it keeps open."""
    left = list(answers)

    async def answer(connection: RawConnection) -> None:
        while await connection.read_request():
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    arguments = {"token": TOKEN, "org_handle": "acme"} | arguments
    async with (
        RawServer(answer) as server,
        UnpodClient(base_url=server.base_url, **arguments, retry=None) as unpod,
    ):
        yield server, unpod


async def settle() -> None:
    """Let everything that can go on without the test go on: turns of the loop, not time."""
    for _ in range(100):
        await asyncio.sleep(0)


async def create(unpod: UnpodClient) -> Any:
    return await unpod.tasks.create("S", pilot="p", documents=DOCUMENTS, context="c")


async def get_space(unpod: UnpodClient) -> Any:
    return await unpod.spaces.get("S")


async def list_runs(unpod: UnpodClient) -> Any:
    return await unpod.runs.list("S").collect()


ACCEPTED = ", ".join(("gzip", "deflate", *["br"] * HAS_BROTLI, *["zstd"] * HAS_ZSTD))


def parsed(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Request line, headers (a repeated one is an error) and body."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *rest = head.decode("ascii").split("\r\n")
    headers: dict[str, str] = {}
    for one in rest:
        name, _, value = one.partition(": ")
        assert name.lower() not in headers
        headers[name.lower()] = value
    return line, headers, body


# --- the request -------------------------------------------------------------------------------------------


class TestRequests:
    async def test_every_byte_of_a_read(self) -> None:
        async with saying(json_response({"count": 0, "data": []})) as (server, unpod):
            await list_runs(unpod)
        (request,) = server.requests
        line, headers, body = parsed(request)
        assert line == "GET /api/v2/platform/spaces/S/runs/?page=1&page_size=100 HTTP/1.1"
        agent = headers.pop("user-agent")
        assert agent.startswith("unpod-async/")
        assert headers == {
            "host": f"127.0.0.1:{server.port}",
            "accept": "application/json",
            "accept-language": "en",
            "accept-encoding": ACCEPTED,
            "authorization": f"Token {TOKEN}",
            "org-handle": "acme",
        }
        assert body == b""

    async def test_every_byte_of_a_create(self) -> None:
        async with saying(json_response(CREATED)) as (server, unpod):
            await create(unpod)
        (request,) = server.requests
        line, headers, body = parsed(request)
        assert line == "POST /api/v2/platform/spaces/S/tasks/ HTTP/1.1"
        assert headers.pop("user-agent").startswith("unpod-async/")
        assert headers == {
            "host": f"127.0.0.1:{server.port}",
            "accept": "application/json",
            "accept-language": "en",
            "accept-encoding": ACCEPTED,
            "authorization": f"Token {TOKEN}",
            "org-handle": "acme",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        assert json.loads(body) == {
            "pilot": "p",
            "documents": DOCUMENTS,
            "context": "c",
            "schedule": {"type": "now"},
        }

    async def test_the_org_handle_is_sent_only_when_it_is_known(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("UNPOD_ORG_HANDLE", raising=False)
        answer = json_response({"count": 0, "data": []})
        async with saying(answer, org_handle=None) as (server, unpod):
            await list_runs(unpod)
        assert "org-handle" not in parsed(server.requests[0])[1]

    @pytest.mark.parametrize("scheme", ["Token", "JWT", "Bearer"])
    async def test_the_requested_scheme_is_sent(self, scheme: str) -> None:
        async with saying(json_response(SPACE), auth_scheme=scheme) as (server, unpod):
            await get_space(unpod)
        line, headers, _ = parsed(server.requests[0])
        assert line == "GET /api/v2/platform/spaces/S/ HTTP/1.1"
        assert headers["authorization"] == f"{scheme} {TOKEN}"

    async def test_every_path_ends_with_a_slash_and_only_documented_names_are_sent(self) -> None:
        async with saying(json_response({"count": 0, "data": []}), page_size=7) as (server, unpod):
            moment = datetime(2026, 1, 1, 10, 0, 0, 900_000, UTC)
            await unpod.organizations.list().collect()
            await unpod.spaces.list().collect()
            await unpod.agents.list().collect()
            await unpod.agents.tasks("a-b").collect()
            await unpod.runs.list("S", start_page=3, status="completed").collect()
            await unpod.runs.tasks("S", "R").collect()
            await unpod.tasks.list(
                "S",
                search="a+b &=%नम/?#",
                outcome=["Not Interested", "No/Answer"],
                call_type="inbound",
                created_from=moment,
                created_to=moment,
                status="failed",
            ).collect()
        root = "GET /api/v2/platform/"
        lines = [parsed(request)[0].removesuffix(" HTTP/1.1") for request in server.requests]
        # An empty listing that is read from page 3 on is read twice.
        assert list(dict.fromkeys(lines))[:6] == [
            f"{root}organizations/",
            f"{root}spaces/",
            f"{root}agents/",
            f"{root}agents/a-b/tasks/?page=1&page_size=7",
            f"{root}spaces/S/runs/?page=3&page_size=7",
            f"{root}spaces/S/runs/R/tasks/?page=1&page_size=7",
        ]
        path, _, query = lines[-1].partition("?")
        assert path == f"{root}spaces/S/tasks/"
        assert sorted(query.split("&")) == sorted([
            "page=1",
            "page_size=7",
            "search=a%2Bb+%26%3D%25%E0%A4%A8%E0%A4%AE/?%23",
            "status=Not+Interested,No/Answer",
            "call_type=inbound",
            "from_ts=1767261600",
            "to_ts=1767261601",
        ])

    async def test_ids_are_quoted_where_they_must_be(self) -> None:
        async with saying(json_response({"count": 0, "data": []})) as (server, unpod):
            await unpod.runs.tasks("a<b", "c;d=e").collect()
        assert parsed(server.requests[0])[0].startswith(
            "GET /api/v2/platform/spaces/a%3Cb/runs/c;d=e/tasks/?page=1"
        )

    async def test_cookies_are_not_sent_back(self) -> None:
        cookie = [("Set-Cookie", "sessionid=abc; Path=/")]
        async with saying(json_response(SPACE, 200, cookie)) as (server, unpod):
            for _ in range(2):
                await get_space(unpod)
        async with saying(json_response(CREATED, 200, cookie)) as (other, unpod):
            for _ in range(2):
                await create(unpod)
        for request in server.requests + other.requests:
            assert b"cookie" not in request.lower()

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_redirects_are_not_followed_and_their_target_is_named(self, status: int) -> None:
        async with saying(json_response(SPACE)) as (second, _):
            location = f"http://user:pw@127.0.0.1:{second.port}/there/?secret=1"
            async with saying(http_response(b"", status, [("Location", location)])) as (first, unpod):
                for use in (get_space, list_runs, create):
                    with pytest.raises(APIError) as caught:
                        await use(unpod)
                    assert type(caught.value) is APIError
                    assert caught.value.status == status
                    assert f"http://127.0.0.1:{second.port}/there/" in str(caught.value)
                    assert "pw@" not in str(caught.value)
                    assert "secret" not in str(caught.value)
                assert len(first.requests) == 3
            assert second.requests == []

    @pytest.mark.parametrize(
        ("coding", "compress"),
        [
            ("gzip", gzip.compress),
            ("deflate", zlib.compress),
            ("x-gzip", gzip.compress),
            ("X-GZip", gzip.compress),
            ("x-gzip, identity", gzip.compress),
            ("gzip, aws-chunked", gzip.compress),
            ("x-gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
            ("x-gzip", bytes),  # decoded by a proxy that keeps the header
            ("identity", bytes),
            ("aws-chunked", bytes),
            ("", bytes),
        ],
        ids=range(11),
    )
    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
    async def test_encoded_answers_are_read(
        self, coding: str, compress: Callable[[bytes], bytes], mark: bytes
    ) -> None:
        for use, content in ((get_space, SPACE), (create, CREATED)):
            body = compress(mark + json.dumps(content).encode())
            answer = json_response(body, 200, [("Content-Encoding", coding)])
            async with saying(answer) as (server, unpod):
                assert await use(unpod)
                assert len(server.requests) == 1
        body = compress(mark + b'{"message": "none such"}')
        async with saying(json_response(body, 404, [("Content-Encoding", coding)])) as (_, unpod):
            with pytest.raises(NotFoundError, match="none such"):
                await get_space(unpod)

    @pytest.mark.parametrize("codings", [("gzip", "identity"), ("identity", "gzip"), ("x-gzip", "x-gzip")])
    async def test_a_repeated_content_encoding_is_decoded_once(self, codings: tuple[str, str]) -> None:
        body = gzip.compress(json.dumps(SPACE).encode())
        answer = json_response(body, 200, [("Content-Encoding", coding) for coding in codings])
        async with saying(answer) as (_, unpod):
            assert (await get_space(unpod)).token == "S"

    @pytest.mark.parametrize(
        ("body", "what"),
        [
            (gzip.compress(json.dumps(SPACE).encode())[:-1], "cut short or damaged"),
            (gzip.compress(json.dumps(SPACE).encode()) + b"x", "cut short or damaged"),
            (gzip.compress(b"[" * 10_001), "longer than max_response_bytes"),
            (gzip.compress(b"[" * 5_001) * 2, "longer than max_response_bytes"),
        ],
        ids=["cut short", "bytes after the end", "long", "two members"],
    )
    async def test_a_damaged_or_long_x_gzip_is_an_error(self, body: bytes, what: str) -> None:
        answer = json_response(body, 200, [("Content-Encoding", "x-gzip")])
        async with saying(answer, max_response_bytes=10_000) as (_, unpod):
            assert what in str(await failing(unpod))
            with pytest.raises(OutcomeUnknown, match=what):
                await create(unpod)


# --- connections -------------------------------------------------------------------------------------------


class TestConnections:
    async def test_reads_share_a_connection(self) -> None:
        async with saying(json_response(SPACE)) as (server, unpod):
            for _ in range(5):
                await get_space(unpod)
            assert server.connections == 1

    async def test_every_create_has_a_connection_of_its_own(self) -> None:
        async with saying(json_response(CREATED)) as (server, unpod):
            for _ in range(3):
                await create(unpod)
            await asyncio.gather(create(unpod), create(unpod))
            assert server.connections == 5
            assert len(server.requests) == 5
            assert all(parsed(request)[1]["connection"] == "close" for request in server.requests)

    async def test_a_create_does_not_take_the_connection_of_the_reads(self) -> None:
        async with saying(json_response(SPACE), json_response(CREATED), json_response(SPACE)) as (
            server,
            unpod,
        ):
            await get_space(unpod)
            await create(unpod)
            await get_space(unpod)
            assert server.connections == 2

    def test_an_idle_connection_is_dropped_before_the_server_drops_it(self) -> None:
        assert KEEP_ALIVE < 5
        assert (CONNECT, SILENCE) == (10, 30)

    @pytest.mark.parametrize("how", ["reset", "close"])
    async def test_a_read_is_sent_once_even_when_the_server_hangs_up(self, how: str) -> None:
        """aiohttp sends a GET once more by itself when a kept-alive connection is lost; not here."""

        async def once(connection: RawConnection) -> None:
            await connection.read_request()
            await connection.send(json_response(SPACE))
            await connection.read_request()
            if how == "reset":
                connection.reset()

        async with (
            RawServer(once) as server,
            UnpodClient(TOKEN, "acme", server.base_url, retry=None) as unpod,
        ):
            await get_space(unpod)
            with pytest.raises(TransportError) as caught:
                await get_space(unpod)
            assert caught.value.sent
            assert (len(server.requests), server.connections) == (2, 1)

    @pytest.mark.parametrize("how", ["reset", "close"])
    async def test_so_is_the_first_on_its_connection(self, how: str) -> None:
        async def never(connection: RawConnection) -> None:
            await connection.read_request()
            if how == "reset":
                connection.reset()

        async with (
            RawServer(never) as server,
            UnpodClient(TOKEN, "acme", server.base_url, retry=None) as unpod,
        ):
            with pytest.raises(TransportError):
                await get_space(unpod)
            assert len(server.requests) == 1
            with pytest.raises(OutcomeUnknown):
                await create(unpod)
            assert (len(server.requests), server.connections) == (2, 2)


# --- slots -------------------------------------------------------------------------------------------------


class RateGate:
    """Answers nothing until it is opened; knows how many requests wait at most."""

    def __init__(self) -> None:
        self.opened, self.arrival = asyncio.Event(), asyncio.Event()
        self.waiting = self.peak = 0

    async def __call__(self, connection: RawConnection) -> None:
        while request := await connection.read_request():
            self.waiting += 1
            self.peak = max(self.peak, self.waiting)
            self.arrival.set()
            await self.opened.wait()
            self.waiting -= 1
            await connection.send(json_response(CREATED if request.startswith(b"POST") else SPACE))

    async def reached(self, count: int) -> None:
        while self.waiting < count:
            self.arrival.clear()
            await self.arrival.wait()
        await settle()


class TestSlots:
    @pytest.mark.parametrize("slots", [1, 3])
    async def test_no_more_requests_than_slots_reads_and_creates_together(self, slots: int) -> None:
        gate = RateGate()
        async with (
            RawServer(gate) as server,
            UnpodClient(TOKEN, "acme", server.base_url, max_concurrency=slots, retry=None) as unpod,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(4):
                group.create_task(get_space(unpod))
                group.create_task(create(unpod))
            await gate.reached(slots)
            assert gate.peak == slots
            gate.opened.set()
        assert gate.peak == slots
        assert len(server.requests) == 8

    async def test_the_clock_of_an_attempt_starts_when_it_has_a_slot(self) -> None:
        """aiohttp's clock starts with its request, so a request that waits for a slot has not begun there."""
        begun: list[str] = []

        async def note(*what: Any) -> None:
            begun.append(what[2].method)

        tracing = aiohttp.TraceConfig()
        tracing.on_request_start.append(note)
        gate = RateGate()
        async with (
            RawServer(gate) as server,
            aiohttp.ClientSession(trace_configs=[tracing]) as session,
            UnpodClient(
                TOKEN, "acme", server.base_url, max_concurrency=1, session=session, retry=None
            ) as unpod,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(3):
                group.create_task(get_space(unpod))
            await gate.reached(1)
            assert begun == ["GET"]
            gate.opened.set()
        assert begun == ["GET"] * 3

    async def test_a_failed_or_cancelled_request_gives_its_slot_back(self) -> None:
        gate = RateGate()
        async with (
            RawServer(gate) as server,
            UnpodClient(TOKEN, "acme", server.base_url, max_concurrency=1, retry=None) as unpod,
        ):
            first = asyncio.ensure_future(get_space(unpod))
            await gate.reached(1)
            waiting = asyncio.ensure_future(get_space(unpod))
            await settle()
            waiting.cancel()
            first.cancel()
            await asyncio.wait({first, waiting})
            gate.opened.set()
            assert (await get_space(unpod)).token == "S"


# --- sessions and loops ------------------------------------------------------------------------------------


class TestSessions:
    def test_a_client_is_made_without_a_loop(self) -> None:
        unpod = UnpodClient(TOKEN, retry=None)
        asyncio.run(unpod.aclose())

    def test_a_client_made_without_a_loop_works_on_the_first_that_uses_it(self) -> None:
        unpod = UnpodClient(TOKEN, "acme", "http://127.0.0.1:9", retry=None)
        assert unpod._context.executor.transport.sessions.reads is None

        async def use() -> None:
            async with unpod:
                with pytest.raises(TransportError):
                    await get_space(unpod)

        asyncio.run(use())

    async def test_use_from_a_second_loop_is_named(self) -> None:
        async with saying(json_response(SPACE)) as (server, unpod):
            await get_space(unpod)

            async def elsewhere() -> None:
                for use in (get_space, list_runs, create):
                    with pytest.raises(ConfigurationError, match="event loop"):
                        await use(unpod)
                async with unpod.runs.list("S").prefetch(2) as stream:
                    with pytest.raises(ConfigurationError, match="event loop"):
                        await anext(aiter(stream))

            await asyncio.to_thread(asyncio.run, elsewhere())
            await get_space(unpod)
            assert len(server.requests) == 2

    @pytest.mark.parametrize("used", [False, True])
    async def test_use_after_closing_is_named_and_closing_twice_does_nothing(self, used: bool) -> None:
        async with saying(json_response(SPACE)) as (server, unpod):
            if used:
                await get_space(unpod)
            await unpod.aclose()
            await unpod.aclose()
            for use in (get_space, list_runs, create):
                with pytest.raises(ConfigurationError, match="closed"):
                    await use(unpod)
            for stream in (unpod.runs.list("S").prefetch(2), unpod.runs.tasks_for("S")):
                async with stream:
                    with pytest.raises(ConfigurationError, match="closed"):
                        async for _ in stream:
                            pass
            assert len(server.requests) == used

    async def test_a_session_of_the_users_carries_reads_only_and_stays_open(self) -> None:
        async with aiohttp.ClientSession(
            headers={"X-Team": "blue", "Authorization": "Basic bWU6bWU=", "Accept": "text/html"},
            raise_for_status=True,
            timeout=aiohttp.ClientTimeout(total=0.000001),
        ) as session:
            async with saying(
                json_response(SPACE),
                json_response({"message": "gone"}, 404),
                json_response(CREATED),
                json_response(SPACE),
                session=session,
            ) as (server, unpod):
                assert (await get_space(unpod)).token == "S"
                with pytest.raises(NotFoundError, match="gone"):
                    await get_space(unpod)
                await create(unpod)
                await unpod.aclose()
                assert not session.closed
            read, _, post = (parsed(request)[1] for request in server.requests)
            assert read["x-team"] == "blue"
            assert read["authorization"] == f"Token {TOKEN}"
            assert read["accept"] == "application/json"
            assert "x-team" not in post
            assert server.connections == 2
        assert session.closed

    async def test_a_session_of_the_users_that_was_closed_is_named(self) -> None:
        async with aiohttp.ClientSession() as session:
            pass
        async with saying(json_response(SPACE), session=session) as (server, unpod):
            with pytest.raises(ConfigurationError, match="session"):
                await get_space(unpod)
            assert server.requests == []

    async def test_a_users_raise_for_status_function_is_not_called(self) -> None:
        async def refuse(response: aiohttp.ClientResponse) -> None:
            raise AssertionError

        async with (
            aiohttp.ClientSession(raise_for_status=refuse) as session,
            saying(json_response({}, 500), session=session) as (_, unpod),
        ):
            with pytest.raises(APIError):
                await get_space(unpod)


# --- the token ---------------------------------------------------------------------------------------------


def shown(error: BaseException) -> str:
    """Everything that is shown of an error, or kept in it."""
    parts = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    parts += [repr(pickle.dumps(error)), repr(error.args)]
    followed: BaseException | None = error
    while followed is not None:
        parts += [repr(followed), repr(vars(followed))]
        followed = followed.__cause__ or followed.__context__
    return "\n".join(parts)


def secret_parts() -> list[str]:
    return [TOKEN, TOKEN.replace("/", "\\/"), urllib.parse.quote(TOKEN, safe=""), "5ecret"]


class TestTheToken:
    async def test_the_error_of_an_expired_jwt_says_so_and_suggests_no_scheme(self) -> None:
        claims = base64.urlsafe_b64encode(b'{"exp": 1700000000}').decode().rstrip("=")
        token = f"eyJhbGciOiJIUzI1NiJ9.{claims}.c2lnbmF0dXJl"
        for status in (401, 403):
            async with saying(
                json_response({"message": "no"}, status, [("WWW-Authenticate", 'JWT realm="api"')]),
                token=token,
                auth_scheme="JWT",
            ) as (server, unpod):
                for use in (get_space, list_runs, create):
                    with pytest.raises(APIError) as caught:
                        await use(unpod)
                    assert "expired at 2023-11-14T22:13:20Z" in (caught.value.hint or "")
                    assert "Token" not in (caught.value.hint or "")
                    assert token not in shown(caught.value)
                assert len(server.requests) == 3

    def test_it_is_in_no_repr_and_no_copy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        unpod = UnpodClient(TOKEN, "acme", "http://127.0.0.1:9", page_size=7, auth_scheme="JWT", retry=None)
        pager = unpod.runs.list("S")
        texts = [
            f"{thing!r} {thing} {vars(thing) if hasattr(thing, '__dict__') else ''}"
            for thing in (
                unpod,
                unpod.settings,
                unpod.runs,
                pager,
                pager.prefetch(2),
                unpod._context.executor.transport,
            )
        ]
        assert "5ecret" not in "".join(texts)

        monkeypatch.delenv("UNPOD_PLATFORM_TOKEN", raising=False)
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            dumped = pickle.dumps(unpod, protocol)
            assert b"5ecret" not in dumped
            with pytest.raises(ConfigurationError, match="UNPOD_PLATFORM_TOKEN"):
                pickle.loads(dumped)  # noqa: S301 - our own bytes
        monkeypatch.setenv("UNPOD_PLATFORM_TOKEN", "an0ther")
        for again in (pickle.loads(dumped), copy.copy(unpod)):  # noqa: S301
            assert again.settings == unpod.settings

    async def test_a_copy_takes_it_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with saying(json_response(SPACE)) as (server, unpod):
            monkeypatch.setenv("UNPOD_PLATFORM_TOKEN", "an0ther")
            async with pickle.loads(pickle.dumps(unpod)) as again:  # noqa: S301
                await get_space(again)
            assert parsed(server.requests[0])[1]["authorization"] == "Token an0ther"

    @pytest.mark.parametrize("use", [get_space, list_runs, create])
    @pytest.mark.parametrize("status", [206, 302, 400, 401, 403, 404, 418, 422, 429, 500, 502])
    @pytest.mark.parametrize("form", ["json", "errors", "escaped", "html", "text"])
    async def test_a_server_that_echoes_it_does_not_get_it_shown(
        self,
        use: Callable[[UnpodClient], Awaitable[Any]],
        status: int,
        form: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        message = f"no such token: {TOKEN}"
        body = {
            "json": json.dumps({"message": message, "data": {"detail": TOKEN}}),
            "errors": json.dumps({"message": "no", "errors": {TOKEN: [message], "token": [TOKEN]}}),
            "escaped": json.dumps({"message": message, "errors": message}).replace("/", "\\/"),
            "html": f"<html><body><h1>{message}</h1></body></html>",
            "text": message,
        }[form].encode()
        headers = [
            ("WWW-Authenticate", f'Token realm="{TOKEN}"'),
            ("X-Request-ID", TOKEN),
            ("Retry-After", TOKEN),
            ("Location", f"https://else.example/{TOKEN}/?t={TOKEN}"),
            ("Content-Type", "text/html" if form == "html" else "application/json"),
        ]
        async with saying(http_response(body, status, headers)) as (server, unpod):
            with pytest.raises(UnpodError) as caught:
                await use(unpod)
        assert TOKEN.encode() in server.requests[0]
        text = shown(caught.value) + caplog.text
        assert not [part for part in secret_parts() if part in text]
        error = caught.value
        if isinstance(error, APIError):
            assert b"5ecret" not in error.body

    @pytest.mark.parametrize("use", [get_space, list_runs, create])
    @pytest.mark.parametrize("stated", [206, 401, 500])
    async def test_neither_does_one_that_answers_200_around_it(
        self, use: Callable[[UnpodClient], Awaitable[Any]], stated: int
    ) -> None:
        body = {"status_code": stated, "message": f"no such token: {TOKEN}", "errors": {"token": [TOKEN]}}
        headers = [("X-Request-ID", TOKEN)]
        async with saying(json_response(body, 200, headers)) as (_, unpod):
            with pytest.raises(UnpodError) as caught:
                await use(unpod)
        assert not [part for part in secret_parts() if part in shown(caught.value)]

    async def test_it_is_not_in_the_error_of_a_lost_connection(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)

        async def echo(connection: RawConnection) -> None:
            request = await connection.read_request()
            assert request is not None
            if connection.number % 2:
                await connection.send(request)  # which is no answer
            else:
                await connection.send(http_response(b"x", 200, [("Content-Length", "99")]) + TOKEN.encode())

        async with (
            RawServer(echo) as server,
            UnpodClient(TOKEN, "acme", server.base_url, retry=None) as unpod,
        ):
            for use in (get_space, list_runs, create, create):
                with pytest.raises(UnpodError) as caught:
                    await use(unpod)
                assert caught.value.__cause__ is None
                text = shown(caught.value) + caplog.text
                assert not [part for part in secret_parts() if part in text]


# --- no answer ---------------------------------------------------------------------------------------------


async def never(connection: RawConnection) -> None:
    """Let the timeout pass instead of a response."""
    while await connection.read_request():
        pass_time(20)


async def failing(unpod: UnpodClient) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await get_space(unpod)
    assert type(caught.value) is TransportError
    assert caught.value.__cause__ is None
    assert str(caught.value).startswith("GET /spaces/S/: ")
    assert ("nothing was sent" in str(caught.value)) is not caught.value.sent
    return caught.value


class TestNoAnswer:
    async def test_a_refused_connection(self, refusing_port: int) -> None:
        async with UnpodClient(TOKEN, "acme", f"http://127.0.0.1:{refusing_port}", retry=None) as unpod:
            error = await failing(unpod)
            assert not error.sent
            assert error.hint == "check base_url and the network"
            with pytest.raises(TransportError, match="nothing was sent") as caught:
                await create(unpod)
            assert not caught.value.sent

    @pytest.mark.parametrize(
        ("host", "hint"),
        [
            ("https://no-such-host.invalid", "HTTPS_PROXY is set but not read; if the network needs it,"),
            # No network has a proxy for this machine itself.
            ("http://127.0.0.1:{port}", "check base_url and the network"),
        ],
    )
    async def test_a_proxy_variable_that_is_not_read_is_named(
        self, host: str, hint: str, refusing_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        url = host.format(port=refusing_port)
        async with UnpodClient(TOKEN, "acme", url, retry=None) as unpod:
            assert ((await failing(unpod)).hint or "").startswith(hint)

    async def test_without_a_proxy_variable_none_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        async with UnpodClient(TOKEN, "acme", "https://no-such-host.invalid", retry=None) as unpod:
            assert (await failing(unpod)).hint == "check base_url and the network"

    async def test_a_name_that_cannot_be_resolved(self) -> None:
        async with UnpodClient(TOKEN, "acme", "https://no-such-host.invalid", retry=None) as unpod:
            error = await failing(unpod)
            assert not error.sent
            with pytest.raises(TransportError) as caught:
                await create(unpod)
            assert not caught.value.sent

    @pytest.mark.parametrize("proxied", [False, True])
    async def test_tls_to_a_server_that_speaks_none(self, proxied: bool) -> None:
        """No other attempt can help, so there is one, and the hint names what to change."""

        async def plain(connection: RawConnection) -> None:
            await connection.send(http_response(b"plain HTTP only", 400))

        async with RawServer(plain) as server:
            url = server.base_url.replace("http://", "https://")
            where = {"base_url": "https://api.invalid", "proxy": url} if proxied else {"base_url": url}
            async with UnpodClient(TOKEN, "acme", **where, retry=FAST) as unpod:
                error = await failing(unpod)
                assert not error.sent
                assert error.permanent
                assert len(error.attempts) == 1
                host = "the proxy 127.0.0.1" if proxied else "127.0.0.1"
                assert f"port {server.port} of {host} does not use TLS" in str(error)
                advice = "write http:// in proxy= or UNPOD_PROXY" if proxied else "use http://"
                assert advice in (error.hint or "")
                with pytest.raises(TransportError, match="does not use TLS") as caught:
                    await create(unpod)
                assert not caught.value.sent
                with pytest.raises(TransportError, match="does not use TLS"):
                    await unpod.request("PUT", "spaces/S/")
            assert server.connections == 3

    async def test_the_error_of_an_ipv6_address_has_brackets(self) -> None:
        async with UnpodClient(TOKEN, "acme", "http://[::1]:9", retry=None) as unpod:
            assert "no connection to [::1]:9 (" in str(await failing(unpod))

    async def test_a_connection_that_is_lost_in_the_tls_handshake_is_tried_again(self) -> None:
        async def hang_up(connection: RawConnection) -> None:
            connection.close()

        async with RawServer(hang_up) as server:
            url = server.base_url.replace("http://", "https://")
            async with UnpodClient(TOKEN, "acme", url, retry=FAST) as unpod:
                error = await failing(unpod)
                assert not error.permanent
                assert "None" not in str(error)
                assert "check base_url" in (error.hint or "")
            assert server.connections == 3

    async def test_a_refusal_in_the_tls_handshake_does_not_mean_that_there_is_no_tls(self) -> None:
        """A server that wants another version of TLS answers so; http:// would not help."""

        async def refuse(connection: RawConnection) -> None:
            await connection.send(b"\x15\x03\x03\x00\x02\x02\x28")  # the alert "handshake failure"

        async with RawServer(refuse) as server:
            url = server.base_url.replace("http://", "https://")
            async with UnpodClient(TOKEN, "acme", url, retry=None) as unpod:
                error = await failing(unpod)
                assert not error.sent
                assert "handshake failure" in str(error)
                assert "does not use TLS" not in str(error)
                assert "http://" not in (error.hint or "")

    async def test_no_connection_has_the_reason_that_the_system_gives(self) -> None:
        # No machine has this address, which is that of all machines of a network.
        async with UnpodClient(
            TOKEN, "acme", "http://255.255.255.255:9", retry=None, allow_http=True
        ) as unpod:
            text = str(await failing(unpod))
        assert any(f"({os.strerror(number)})" in text for number in errno.errorcode), text

    async def test_a_server_that_cannot_be_reached_through_a_proxy_is_named(self) -> None:
        async def open_tunnel(connection: RawConnection) -> None:
            await connection.read_request()
            await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await connection.send(b"\x15\x03\x03\x00\x02\x02\x28")  # the alert "handshake failure"

        async with RawServer(open_tunnel) as proxy:
            options = {"base_url": "https://api.invalid", "proxy": proxy.base_url}
            async with UnpodClient(TOKEN, "acme", **options, retry=None) as unpod:
                assert (await failing(unpod)).hint == "check base_url, proxy= and the network"

    async def test_a_body_that_is_compressed_in_an_unknown_way_is_a_permanent_error(self) -> None:
        answer = http_response(b"\x1f\x9d\x90", 200, [("Content-Encoding", "compress")])
        async with saying(answer) as (server, _), UnpodClient(TOKEN, "acme", server.base_url) as unpod:
            error = await failing(unpod)
            assert "the Content-Encoding compress, which cannot be decoded here" in str(error)
            assert error.hint == "have the server or proxy follow Accept-Encoding"
            assert len(server.requests) == 1

    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_a_proxy_that_wants_a_login_is_named(self, scheme: str) -> None:
        async with saying(http_response(b"", 407, [("Proxy-Authenticate", "Basic")])) as (proxy, _):
            options = {"base_url": f"{scheme}://api.invalid", "allow_http": True, "proxy": proxy.base_url}
            async with UnpodClient(TOKEN, "acme", **options, retry=FAST) as unpod:
                for use in (get_space, create):
                    before = len(proxy.requests)
                    with pytest.raises(UnpodError, match="407") as caught:
                        await use(unpod)
                    assert not isinstance(caught.value, OutcomeUnknown)
                    assert "user name and password in proxy=" in (caught.value.hint or "")
                    assert len(proxy.requests) == before + 1

    async def test_the_hint_for_a_403_of_a_proxy_does_not_mention_a_login(self) -> None:
        async with saying(http_response(b"", 403)) as (proxy, _):
            options = {"base_url": "https://api.invalid", "proxy": proxy.base_url}
            async with UnpodClient(TOKEN, "acme", **options, retry=None) as unpod:
                error = await failing(unpod)
        assert "the proxy answered 403" in error.summary
        assert error.hint == "check proxy= or UNPOD_PROXY, and that the proxy runs"

    async def test_a_login_in_the_url_of_the_proxy_is_used(self) -> None:
        async with saying(json_response(SPACE)) as (proxy, _):
            url = proxy.base_url.replace("://", "://user:p%40ss@")
            options = {"base_url": "http://api.invalid", "allow_http": True, "proxy": url}
            async with UnpodClient(TOKEN, "acme", **options) as unpod:
                assert (await get_space(unpod)).token == "S"
            assert b"\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in proxy.requests[0]

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize(
        ("proxy", "problem"),
        [
            ("http://127.0.0.1:{port}", "no connection to the proxy 127.0.0.1:{port} (refused); nothing was"),
            ("http://[::1]:{port}", "no connection to the proxy [::1]:{port} ("),
            (
                "http://no-such-host.invalid:{port}",
                "the host name no-such-host.invalid of the proxy cannot be resolved",
            ),
        ],
    )
    async def test_a_proxy_that_cannot_be_reached_is_named(
        self, scheme: str, proxy: str, problem: str, refusing_port: int
    ) -> None:
        options = {"base_url": f"{scheme}://api.invalid", "allow_http": True}
        url = proxy.format(port=refusing_port).replace("://", "://user:5ecret@")
        async with UnpodClient(TOKEN, "acme", **options, proxy=url, retry=None) as unpod:
            error = await failing(unpod)
        assert problem.format(port=refusing_port) in error.summary
        assert "5ecret" not in str(error)
        assert error.hint == "check proxy= or UNPOD_PROXY, and that the proxy runs"

    async def test_a_proxy_that_answers_nothing_is_a_lost_connection(self) -> None:
        async with RawServer(never) as proxy:
            options = {"base_url": "http://api.invalid", "allow_http": True, "proxy": proxy.base_url}
            async with UnpodClient(TOKEN, "acme", **options, retry=None, timeout=20) as unpod:
                assert (await failing(unpod)).hint is None

    @pytest.mark.parametrize(
        ("answer", "what"),
        [
            (b"", "connection was lost"),
            (b"HTTP/1.1 200 OK\r\nContent-Le", "connection was lost"),
            (http_response(b'{"data"', 200, [("Content-Length", "99")]), "cut short"),
            (http_response(b'5\r\n{"dat', 200, [("Transfer-Encoding", "chunked")]), "cut short"),
            (http_response(b"not gzip", 200, [("Content-Encoding", "gzip")]), "cut short or damaged"),
            (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "not valid HTTP"),
            (b"\x00\xff\x15\x03\x01\r\n\r\n", "not valid HTTP"),
            (b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 2**21 + b"\r\n\r\n", "than the session accepts"),
        ],
    )
    async def test_an_answer_that_is_none(self, answer: bytes, what: str) -> None:
        async def say(connection: RawConnection) -> None:
            await connection.read_request()
            await connection.send(answer)

        async with RawServer(say) as server, UnpodClient(TOKEN, "acme", server.base_url, retry=None) as unpod:
            error = await failing(unpod)
            assert error.sent
            assert what in str(error)
            if what == "connection was lost" or what == "not valid HTTP":
                assert error.hint == "if the server expects https, use https:// in base_url"
            else:
                assert "https" not in (error.hint or "")
                assert ("shorten the headers" in (error.hint or "")) is error.permanent
            with pytest.raises(OutcomeUnknown, match=what):
                await create(unpod)
            assert len(server.requests) == 2

    @pytest.mark.parametrize("at", [0, 20, 60])
    async def test_a_reset(self, at: int) -> None:
        async def say(connection: RawConnection) -> None:
            await connection.read_request()
            await connection.send(json_response(SPACE)[:at])
            connection.reset()

        async with RawServer(say) as server, UnpodClient(TOKEN, "acme", server.base_url, retry=None) as unpod:
            error = await failing(unpod)
            assert error.sent
            assert len(server.requests) == 1

    async def test_an_answer_that_does_not_come_in_time(self) -> None:
        async with (
            RawServer(never) as server,
            UnpodClient(TOKEN, "acme", server.base_url, retry=None, timeout=20) as unpod,
        ):
            error = await failing(unpod)
            assert error.sent
            assert error.hint is None
            assert "in time" in str(error)
            with pytest.raises(OutcomeUnknown, match="in time"):
                await create(unpod)
            assert len(server.requests) == 2

    async def test_an_error_of_the_transport_pickles(self, refusing_port: int) -> None:
        async with UnpodClient(TOKEN, "acme", f"http://127.0.0.1:{refusing_port}", retry=None) as unpod:
            error = await failing(unpod)
            again = pickle.loads(pickle.dumps(error))  # noqa: S301
            assert (type(again), str(again), again.sent) == (TransportError, str(error), False)

    async def test_a_broken_answer_does_not_break_the_client(self) -> None:
        async with saying(b"garbage\r\n\r\n", json_response(SPACE)) as (_, unpod):
            await failing(unpod)
            assert (await get_space(unpod)).token == "S"


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    async def use() -> None:
        async with saying(b"garbage\r\n\r\n", json_response({}, 500), json_response(SPACE)) as (_, unpod):
            for _ in range(2):
                with pytest.raises(UnpodError):
                    await get_space(unpod)
            await get_space(unpod)

    asyncio.run(use())
    sys.stdout.flush()
    assert capfd.readouterr() == ("", "")
