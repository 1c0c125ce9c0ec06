"""Responses with long, many, repeated or contradicting headers, with each of aiohttp's two parsers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp.http_parser import HttpResponseParser, HttpResponseParserPy

from tests.faults.harness import CREATED, FAST, ORGS, TOKEN, always, create, orgs
from tests.raw_server import RawServer
from unpod_async import OutcomeUnknown, TransportError, UnpodClient

if TYPE_CHECKING:
    from collections.abc import Sequence

PURE = "AIOHTTP_NO_EXTENSIONS"
"""The variable with which aiohttp uses its parser in Python."""


def with_headers(answer: bytes, *headers: tuple[str, str]) -> bytes:
    """Return the answer with these headers before its own."""
    status, _, rest = answer.partition(b"\r\n")
    return b"\r\n".join([status, *(f"{name}: {value}".encode() for name, value in headers), rest])


def numbered(count: int) -> list[tuple[str, str]]:
    """Return so many headers that a response has `count` in all."""
    own = ORGS.partition(b"\r\n\r\n")[0].count(b"\r\n")
    return [(f"X-{number}", "1") for number in range(1, count - own + 1)]


async def read(*headers: tuple[str, str], session: aiohttp.ClientSession | None = None) -> TransportError:
    """Return the error of a read; a second client can still use the server."""
    async with (
        RawServer(always(with_headers(ORGS, *headers))) as server,
        UnpodClient(TOKEN, "acme", server.base_url, retry=FAST, session=session) as unpod,
    ):
        with pytest.raises(TransportError) as caught:
            await orgs(unpod)
        assert caught.value.sent
        assert len(server.requests) == len(caught.value.attempts)
    return caught.value


async def succeeds(call: Any, answer: bytes, **arguments: Any) -> None:
    async with (
        RawServer(always(answer)) as server,
        UnpodClient(TOKEN, "acme", server.base_url, retry=FAST, **arguments) as unpod,
    ):
        for _ in range(2):
            assert await call(unpod)
        assert len(server.requests) == 2


async def refused_create(answer: bytes) -> None:
    """Check that a create whose response is not valid HTTP has an unknown outcome and is sent once."""
    async with (
        RawServer(always(answer)) as server,
        UnpodClient(TOKEN, "acme", server.base_url, retry=FAST) as unpod,
    ):
        with pytest.raises(OutcomeUnknown, match="not valid HTTP"):
            await create(unpod)
        assert len(server.requests) == 1


@pytest.mark.parametrize("length", [8_190, 8_191, 20_000, 2**16])
async def test_a_header_of_up_to_64_kib_is_read(length: int) -> None:
    long = ("X-Long", "a" * length)
    await succeeds(orgs, with_headers(ORGS, long))
    await succeeds(create, with_headers(CREATED, long))


@pytest.mark.parametrize("count", [127, 129, 256])
async def test_up_to_256_headers_are_read(count: int) -> None:
    await succeeds(orgs, with_headers(ORGS, *numbered(count)))
    await succeeds(create, with_headers(CREATED, *numbered(count)))


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ([("X-Long", "a" * (2**16 + 1))], "'X-Long' has 65537 bytes"),
        ([("X-1", "1"), ("Set-Cookie", "a" * 100_000)], "'Set-Cookie' has 100000 bytes"),
        ([("X-Long", "a" * 1_000_000)], "'X-Long' has 1000000 bytes"),
        (numbered(257), "has 257 headers (maximum 256): 'Content-Length'"),
        (numbered(900), "has 900 headers (maximum 256): 'X-257'"),
        ([("X-Many", "1")] * 500, "has 502 headers (maximum 256): 'X-Many'"),
    ],
    ids=range(6),
)
async def test_a_longer_head_fails_a_read_at_once_and_names_the_header(
    headers: Sequence[tuple[str, str]], named: str
) -> None:
    error = await read(*headers)
    assert named in str(error)
    assert error.permanent
    assert len(error.attempts) == 1
    assert "max_field_size" in (error.hint or "")
    assert len(str(error)) < 600
    # The calls are queued, so nothing but the response matters.
    await succeeds(create, with_headers(CREATED, *headers))


@pytest.mark.parametrize("headers", [[("X-Long", "a" * 2**21)], numbered(1100)], ids=["long", "many"])
async def test_a_head_that_cannot_be_parsed_is_permanent_too(headers: Sequence[tuple[str, str]]) -> None:
    error = await read(*headers)
    assert "than the session accepts" in str(error)
    assert error.permanent
    assert len(error.attempts) == 1
    async with (
        RawServer(always(with_headers(CREATED, *headers))) as server,
        UnpodClient(TOKEN, "acme", server.base_url, retry=FAST) as unpod,
    ):
        with pytest.raises(OutcomeUnknown, match="than the session accepts"):
            await create(unpod)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "headers",
    [[("X-Long", "a" * 9_000)], [("X", "a" * 9_000)] * 2, numbered(200)],
    ids=["long", "two", "many"],
)
async def test_a_given_session_keeps_its_own_limits(headers: Sequence[tuple[str, str]]) -> None:
    async with aiohttp.ClientSession() as session:
        error = await read(*headers, session=session)
    assert "than the session accepts" in str(error)
    assert "max_field_size" in (error.hint or "")
    assert len(error.attempts) == 1
    async with aiohttp.ClientSession(
        max_line_size=200_000, max_field_size=200_000, max_headers=1000
    ) as session:
        many = [*headers, ("X-Long", "a" * 100_000), *numbered(400)]
        await succeeds(orgs, with_headers(ORGS, *many), session=session)


async def test_an_error_response_with_a_long_header_is_understood() -> None:
    refused = with_headers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", ("X-Long", "a" * 30_000))
    async with (
        RawServer(always(refused)) as server,
        UnpodClient(TOKEN, "acme", server.base_url, retry=FAST) as unpod,
    ):
        for call in (orgs, create):
            with pytest.raises(Exception, match="answered 404"):
                await call(unpod)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "headers",
    [
        [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/")],
        [("Vary", "Cookie"), ("vary", "Accept-Language"), ("VARY", "Cookie")],
        [("Content-Type", "application/json"), ("Date", "Thu, 15 Jan 2026 11:00:00 GMT")],
    ],
    ids=["cookies", "spellings", "single ones"],
)
async def test_repeated_headers_are_no_fault(headers: Sequence[tuple[str, str]]) -> None:
    await succeeds(orgs, with_headers(ORGS, *headers))
    await succeeds(create, with_headers(CREATED, *headers))


@pytest.mark.parametrize("length", ["1", "9999", "0"])
async def test_two_different_lengths_are_refused(length: str) -> None:
    contradicting = [("Content-Length", length)]
    error = await read(*contradicting)
    assert "not valid HTTP" in str(error)
    assert len(error.attempts) == 3
    await refused_create(with_headers(CREATED, *contradicting))


async def test_two_equal_lengths_are_one_to_the_parser_in_python_and_a_fault_to_that_in_c() -> None:
    """HTTP allows both (RFC 9110, section 8.6), and the parser in C has no option for it."""
    is_pure = HttpResponseParser is HttpResponseParserPy
    for call, answer in ((orgs, ORGS), (create, CREATED)):
        repeated = ("Content-Length", str(len(answer.partition(b"\r\n\r\n")[2])))
        if is_pure:
            await succeeds(call, with_headers(answer, repeated))
        elif call is orgs:
            assert "not valid HTTP" in str(await read(repeated))
        else:
            await refused_create(with_headers(answer, repeated))


@pytest.mark.skipif(PURE in os.environ, reason="this is the run with the parser in Python")
def test_all_of_this_with_the_parser_in_python() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    root = Path(__file__).parents[1]
    ended = subprocess.run(  # noqa: S603
        command, env={**os.environ, PURE: "1"}, cwd=root, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout
    assert "1 skipped" in ended.stdout
