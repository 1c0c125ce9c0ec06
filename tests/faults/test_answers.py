"""Rows 24 to 35 and 38: answers and their bodies."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from tests.faults.harness import (
    CREATED,
    FAST,
    ORGS,
    RUNS,
    SPACE,
    TOKEN,
    USER_TOKEN,
    Row,
    always,
    client_for,
    create,
    each_in_turn,
    envelope,
    no_secret_in,
    orgs,
    page_body,
    shown,
    walk_runs,
    watch,
)
from tests.raw_server import RawConnection, RawServer, http_response, json_response
from unpod_async import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    DecodeError,
    InvalidArgument,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknown,
    PermissionDeniedError,
    RateLimitedError,
    RefusedError,
    RetryPolicy,
    ServerError,
    UnpodClient,
    UnpodError,
    UpstreamError,
)
from unpod_async.testing import Fault, Sandbox


def limited(*headers: tuple[str, str], status: int = 429) -> bytes:
    return json_response({"message": "Slow down", "status_code": status}, status, headers)


def at(now: float, headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Headers with the times of a moment. Computed in a test: a date ages while other tests run."""
    known = {
        "now": format_datetime(datetime.fromtimestamp(now, UTC), usegmt=True),
        "in_an_hour": format_datetime(datetime.fromtimestamp(now + 3600, UTC), usegmt=True),
        "unix_in_an_hour": now + 3600,
        "unix_in_an_hour_ms": (now + 3600) * 1000,
    }
    return tuple((name, value.format(**known)) for name, value in headers)


# --- 429 ---------------------------------------------------------------------------------------------------

NO_WAIT = {
    "no hint": (),
    "zero": (("Retry-After", "0"),),
    "a date that has passed": (("Date", "{now}"), ("Retry-After", "{now}")),
    "a date that has passed, and no Date": (("Retry-After", "{now}"),),
    "reset of the past": (("Date", "{now}"), ("X-RateLimit-Reset", "1700000000")),
    "nan": (("Retry-After", "nan"),),
    "inf": (("Retry-After", "inf"),),
    "negative": (("Retry-After", "-5"),),
    "digits of another script": (("Retry-After", "١٢٣"),),
    "an exponent": (("Retry-After", "1e3"),),
    "ten digits": (("Retry-After", "1000000000"),),
    "too many digits": (("Retry-After", "9" * 30),),
    "no zone": (("Date", "{now}"), ("Retry-After", "Wed, 01 Jan 2098 00:00:00")),
    "nonsense": (("Retry-After", "soon"),),
}


@pytest.mark.parametrize("form", NO_WAIT)
async def test_row_24_429_without_a_wait(row: Row, form: str) -> None:
    refusal = limited(*at(time.time(), NO_WAIT[form]))
    for call, good in ((orgs, ORGS), (create, CREATED)):
        async with RawServer(each_in_turn([refusal], [good])) as server:
            await row.check(call, server, None, 2)
        async with RawServer(always(refusal)) as server:
            await row.check(call, server, RateLimitedError, 3)


LONG = {
    "seconds": (("Retry-After", "3600"),),
    "a date": (("Date", "{now}"), ("Retry-After", "{in_an_hour}")),
    "a date without a Date": (("Retry-After", "{in_an_hour}"),),
    "a decimal": (("Retry-After", "3599.25"),),
    "milliseconds": (("retry-after-ms", "3599250"),),
    "two headers": (("Retry-After", "3600"), ("Retry-After", "0")),
    "a list": (("Retry-After", "0, 3600"),),
    "reset as a time": (("Date", "{now}"), ("X-RateLimit-Reset", "{unix_in_an_hour:.0f}")),
    "reset as a decimal": (("Date", "{now}"), ("X-RateLimit-Reset", "{unix_in_an_hour:.3f}")),
    "reset in milliseconds": (("Date", "{now}"), ("X-RateLimit-Reset", "{unix_in_an_hour_ms:.0f}")),
    "reset without a Date": (("X-RateLimit-Reset", "{unix_in_an_hour:.0f}"),),
    "reset as a delay": (("X-RateLimit-Reset", "3600"),),
    "reset of the standard": (("RateLimit-Reset", "3600"),),
}


@pytest.mark.parametrize("form", LONG)
async def test_row_24_429_with_a_wait_that_is_too_long(row: Row, form: str) -> None:
    headers = at(time.time(), LONG[form])
    async with RawServer(always(limited(*headers))) as server:
        for call in (orgs, create):
            outcome = await row.check(call, server, RateLimitedError, 1)
            assert outcome.error.retry_after == pytest.approx(3600, abs=60)  # type: ignore[union-attr] - row.check saw its class
            assert outcome.error.retry_after.is_integer()  # type: ignore[union-attr]
    async with RawServer(always(limited(*headers, status=503))) as server:
        await row.check(orgs, server, ServerError, 1, note=False)


async def test_row_24_all_requests_wait_as_long_as_the_server_asks(row: Row) -> None:
    """After a response with a delay of 1 s, none of 50 tasks sends a request earlier; one log record."""
    times: list[float] = []
    asked: list[float] = []

    async def handle(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            times.append(time.monotonic())
            if not asked:
                asked.append(time.monotonic())
                await connection.send(limited(("Retry-After", "1")))
            else:
                await asyncio.sleep(0.002)
                await connection.send(ORGS)

    async with RawServer(handle) as server, client_for(server.base_url, max_concurrency=8) as unpod:

        async def all_of_them() -> None:
            await asyncio.gather(*(orgs(unpod) for _ in range(50)))

        outcome = await watch(all_of_them())
        assert outcome.error is None
        early = [moment for moment in times if 0 < moment - asked[0] < 0.99]
        assert len(early) <= 8, "more than were in flight"
        told = [record for record in outcome.records if "asks for a delay" in record.getMessage()]
        assert len(told) == 1
        row.note("50 reads: ok, at most those in flight during the pause", len(server.requests))


async def test_row_24_503_with_a_hint_is_waited_for_by_a_read_and_never_by_a_create(row: Row) -> None:
    hint = limited(("Retry-After", "0"), status=503)
    async with RawServer(each_in_turn([hint], [ORGS])) as server:
        await row.check(orgs, server, None, 2)
    async with RawServer(always(hint)) as server:
        await row.check(create, server, OutcomeUnknown, 1)


# --- 5xx ---------------------------------------------------------------------------------------------------

HTML = (
    b"<!DOCTYPE html><html><head><title>Bad\x1b[31m Gateway\xe2\x80\xae</title></head><body>x</body></html>"
)
TRACE = b"Traceback (most recent call last):\n" + b"  File x, line 1, in \x1b[31mf\xe2\x80\xae\n" * 700


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("body", [HTML, TRACE], ids=["html", "traceback"])
async def test_row_25_5xx(row: Row, status: int, body: bytes) -> None:
    body += f" Authorization: Token {TOKEN}".encode()
    answers = (
        http_response(body, status, [("Content-Type", "text/html")]),
        http_response(f"Authorization: Token {TOKEN} ".encode() + body, status),
    )
    for answer in answers:
        async with RawServer(always(answer)) as server:
            outcome = await row.check(orgs, server, ServerError, 3)
            assert outcome.error.status == status  # type: ignore[union-attr] - row.check saw its class
            text = str(outcome.error)
            assert len(text) < 500
            assert "\x1b" not in text
            assert "\u202e" not in text
            assert "\n" not in text
            outcome = await row.check(create, server, OutcomeUnknown, 1)
            assert outcome.error.status == status  # type: ignore[union-attr] - row.check saw its class
            assert "\x1b" not in str(outcome.error)


# --- 206, 4xx ----------------------------------------------------------------------------------------------


async def test_row_26_206_refusal(row: Row) -> None:
    refusal = json_response({"status_code": 206, "message": "Invalid Space Token", "data": {}}, 206)
    async with RawServer(always(refusal)) as server:
        for call in (orgs, create, walk_runs):
            outcome = await row.check(call, server, RefusedError, 1)
            assert "Invalid Space Token" in str(outcome.error)


def upstream(text: str = "Internal Server Error") -> bytes:
    told = {"status_code": 206, "message": "Tasks Fetch Failed", "data": {"errors": text}, "errors": text}
    return json_response(told, 206)


async def test_row_27_206_with_a_string(row: Row) -> None:
    policy = RetryPolicy(attempts=9, base=0.001, cap=0.002)
    async with RawServer(always(upstream())) as server:
        await row.check(orgs, server, UpstreamError, 3, retry=policy)
        await row.check(create, server, OutcomeUnknown, 1, retry=policy)
    async with RawServer(each_in_turn([upstream()], [upstream()], [ORGS])) as server:
        await row.check(orgs, server, None, 3, retry=policy)
    validation = {"status_code": 206, "message": "Invalid", "errors": {"documents": ["required"]}, "data": {}}
    async with RawServer(always(json_response(validation, 206))) as server:
        await row.check(orgs, server, InvalidRequestError, 1)
        await row.check(create, server, InvalidRequestError, 1)


async def test_row_28_one_page_always_fails_with_206(row: Row) -> None:
    async with Sandbox(runs=20, tasks_per_run=5) as sandbox:
        bad = sandbox.task_ids()[41]
        sandbox.poison(bad)
        want = [one for one in sandbox.task_ids() if one != bad]
        async with UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=64, retry=FAST) as unpod:
            got: list[Any] = []

            async def walk() -> None:
                nonlocal got
                async for task in unpod.tasks.list(sandbox.space_token):
                    got += [task.task_id]

            outcome = await watch(walk())
            assert isinstance(outcome.error, DecodeError)
            assert outcome.error.unreadable == (42,)
            assert got == want
            used = sandbox.requests
            assert used < 3 + 1 + 2 * 7 * 3
            row.note("read: DecodeError at the end, with the position; all other rows", used)
            skipping = unpod.tasks.list(sandbox.space_token, on_bad_row="skip")
            assert [task.task_id for task in await skipping.collect()] == want


STATUSES: dict[int, type[APIError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    405: APIError,
    406: APIError,
    409: APIError,
    415: APIError,
    422: InvalidRequestError,
}


@pytest.mark.parametrize("status", STATUSES)
async def test_row_29_4xx(row: Row, status: int) -> None:
    answer = json_response({"message": f"No, and your token is {TOKEN}", "status_code": status}, status)
    async with RawServer(always(answer)) as server:
        for call in (orgs, create):
            outcome = await row.check(call, server, STATUSES[status], 1)
            assert outcome.error.status == status  # type: ignore[union-attr] - row.check saw its class


async def test_row_29_404_html_means_a_wrong_path(row: Row) -> None:
    answer = http_response(HTML, 404, [("Content-Type", "text/html")])
    async with RawServer(always(answer)) as server:
        outcome = await row.check(orgs, server, NotFoundError, 1)
        assert "base_url" in str(outcome.error)
        await row.check(create, server, NotFoundError, 1)


async def test_row_30_401_in_the_middle(row: Row) -> None:
    async with Sandbox(runs=30, tasks_per_run=3) as sandbox:
        revoked = Fault(
            status=401, body=b'{"message":"Expired","status_code":401}', path="/tasks/", times=1000
        )
        async with UnpodClient(sandbox.token, base_url=sandbox.base_url, retry=FAST) as unpod:
            got: list[object] = []

            async def job() -> None:
                async with unpod.runs.tasks_for(sandbox.space_token, concurrency=4, errors="yield") as stream:
                    async for one in stream:
                        got.append(one)
                        if len(got) == 10:
                            sandbox.script(revoked)

            outcome = await watch(job())
            assert type(outcome.error) is AuthenticationError
            refused = [one for one in sandbox.log if one.status == 401]
            assert 1 <= len(refused) <= 4
            row.note("tasks_for: AuthenticationError", "1 per worker at most are refused")


async def test_row_30_a_token_provider_is_asked_once(row: Row) -> None:
    asked = 0
    fresh = "n3w-token-0123456789"

    async def provider() -> str:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return fresh

    async def handle(connection: RawConnection) -> None:
        while (request := await connection.read_request()) is not None:
            good = CREATED if request.startswith(b"POST") else ORGS
            refusal = json_response({"message": "Expired", "status_code": 401}, 401)
            await connection.send(good if fresh.encode() in request else refusal)

    async with RawServer(handle) as server, client_for(server.base_url, token_provider=provider) as unpod:

        async def many() -> None:
            await asyncio.gather(*(orgs(unpod) for _ in range(20)), *(create(unpod) for _ in range(5)))

        outcome = await watch(many())
        assert outcome.error is None
        assert asked == 1
        made = sum(request.startswith(b"POST") and fresh.encode() in request for request in server.requests)
        assert made == 5
        row.note("20 reads, 5 creates with a token_provider: ok", "5 creates accepted")
    asked = 0
    async with RawServer(always(json_response({"status_code": 401}, 401))) as server:
        await row.check(orgs, server, AuthenticationError, 2, token_provider=provider, note=False)
        assert asked == 1


# --- bodies ------------------------------------------------------------------------------------------------

NO_JSON = {
    "empty": http_response(b""),
    "html": http_response(HTML, headers=[("Content-Type", "text/html")]),
    "text": http_response(b"OK"),
    "two BOMs": http_response(b"\xef\xbb\xbf" * 2 + ORGS.partition(b"\r\n\r\n")[2]),
    "UTF-16": http_response(ORGS.partition(b"\r\n\r\n")[2].decode().encode("utf-16")),
    "204": http_response(b"", 204, [("Content-Length", "0")]),
    "a list": http_response(b"[]"),
    "two documents": http_response(ORGS.partition(b"\r\n\r\n")[2] * 2),
}


@pytest.mark.parametrize("what", NO_JSON)
async def test_row_31_200_that_is_not_json(row: Row, what: str) -> None:
    async with RawServer(always(NO_JSON[what])) as server:
        await row.check(orgs, server, DecodeError, 2)
        await row.check(create, server, OutcomeUnknown, 1)
    async with RawServer(each_in_turn([NO_JSON[what]], [ORGS])) as server:
        await row.check(orgs, server, None, 2, note=False)


async def test_row_31_another_content_type_or_another_2xx_and_good_json(row: Row) -> None:
    for status in (200, 201, 202):
        body, created = (one.partition(b"\r\n\r\n")[2] for one in (ORGS, CREATED))
        async with RawServer(
            each_in_turn(
                *([http_response(one, status, [("Content-Type", "text/plain")])] for one in (body, created))
            )
        ) as server:
            await row.check(orgs, server, None, 1)
            await row.check(create, server, None, 1)


@pytest.mark.parametrize(
    ("status", "expect", "sends", "of_create"),
    [
        (401, AuthenticationError, 1, AuthenticationError),
        (404, NotFoundError, 1, NotFoundError),
        (429, RateLimitedError, 3, RateLimitedError),
        (500, ServerError, 3, OutcomeUnknown),
        (206, RefusedError, 1, RefusedError),
    ],
)
async def test_row_32_200_with_an_error_body(
    row: Row, status: int, expect: type[UnpodError], sends: int, of_create: type[UnpodError]
) -> None:
    told = {"status_code": status, "message": f"No: Token {TOKEN}", "data": {}}
    async with RawServer(always(json_response(told))) as server:
        await row.check(orgs, server, expect, sends)
        await row.check(create, server, of_create, 3 if status == 429 else 1)
    # Rows next to an error are no rows.
    async with RawServer(always(json_response({**told, "data": [{"run_id": "R1"}]}))) as server:
        await row.check(orgs, server, expect, sends, note=False)


# --- rows --------------------------------------------------------------------------------------------------


def task(body: bytes) -> bytes:
    return b'{"task_id":"T2","run_id":"R1",' + body + b"}"


GOOD = task(b'"status":"completed"').replace(b"T2", b"T1")


async def rows_of(unpod: UnpodClient, on_bad_row: Any) -> list[str]:
    pager = unpod.runs.tasks(SPACE, "R1", on_bad_row=on_bad_row)
    return [str(one.task_id) async for one in pager]


async def bad_row(row: Row, bad: bytes, seen: str) -> None:
    """One bad row of three: it is rejected, the others come."""
    last = GOOD.replace(b"T1", b"T3")
    async with RawServer(always(page_body([GOOD, bad, last]))) as server:
        outcome = await row.check(lambda unpod: rows_of(unpod, "skip"), server, None, 1, note=False)
        assert outcome.value == ["T1", "T3"], bad
        assert any("1 rows rejected" in record.getMessage() for record in outcome.records)
        outcome = await row.check(lambda unpod: rows_of(unpod, "raise"), server, DecodeError, 1, note=False)
        (rejected,) = outcome.error.rejected  # type: ignore[union-attr] - row.check saw its class
        assert rejected.raw == bad
        assert rejected.path.startswith("$.data[1]")
        row.note(f"{seen}: row rejected, page survives", 1)


async def test_row_33_invalid_utf_8(row: Row) -> None:
    await bad_row(row, task(b'"status":"\xff\xfe"'), "in a field that is read")
    await bad_row(row, task(b'"not_known":"\xff\xfe"'), "in a field that is skipped")


@pytest.mark.parametrize(
    "value",
    [b"[" * 500 + b"]" * 500, b'"a\\u0000b"'],
    ids=["500 deep", "NUL"],
)
async def test_row_34_odd_values(row: Row, value: bytes) -> None:
    """In a row: rejected, or read as it is; the other rows are read."""
    answer = page_body([GOOD, task(b'"extra":' + value)])
    async with RawServer(always(answer)) as server, client_for(server.base_url) as unpod:
        outcome = await watch(rows_of(unpod, "skip"))
        assert outcome.error is None
        assert outcome.value[0] == "T1"
        row.note("nesting, NUL: the other rows are read", 1)


@pytest.mark.parametrize(
    "value",
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"[" * 5000 + b"]" * 5000,
        b"9" * 5000,
        b"1e999",
        b'"\x01"',
        b'"\\ud800"',
    ],
    ids=["NaN", "Infinity", "-Infinity", "5000 deep", "5000 digits", "1e999", "control", "surrogate"],
)
async def test_row_34_values_that_no_parser_accepts(row: Row, value: bytes) -> None:
    """The page is no JSON, or one row of it cannot be used: it ends in our own errors, the rest comes."""
    rows = {1: GOOD, 2: task(b'"extra":' + value)}

    async def handle(connection: RawConnection) -> None:
        while (request := await connection.read_request()) is not None:
            query = request.split(b" ")[1].partition(b"?")[2]
            asked = dict(part.split(b"=") for part in query.split(b"&"))
            page, size = int(asked[b"page"]), int(asked[b"page_size"])
            places = range((page - 1) * size + 1, page * size + 1)
            await connection.send(page_body([rows[place] for place in places if place in rows], count=2))

    async with RawServer(handle) as server, client_for(server.base_url, page_size=2) as unpod:
        outcome = await watch(rows_of(unpod, "skip"))
        assert outcome.error is None, outcome.error
        assert outcome.value[0] == "T1"
        assert len(outcome.value) <= 2
        row.note("no JSON at all: the page is split, the other rows are read", "≤ 20")
        assert len(server.requests) <= 20


async def test_row_34_the_last_of_two_equal_keys_counts(row: Row) -> None:
    async with RawServer(always(page_body([task(b'"task_id":"T9"')]))) as server:
        outcome = await row.check(lambda unpod: rows_of(unpod, "raise"), server, None, 1, note=False)
        assert outcome.value == ["T9"]


async def test_row_35_fields_of_rows(row: Row) -> None:
    async with RawServer(always(page_body([task(b'"new_field":{"a":[1]}'), b'{"task_id":"T5"}']))) as server:
        outcome = await row.check(lambda unpod: rows_of(unpod, "raise"), server, None, 1, note=False)
        assert outcome.value == ["T2", "T5"]
        row.note("unknown and missing fields: ok", 1)
    await bad_row(row, task(b'"status":[1,2]'), "wrong type")
    await bad_row(row, b"[]", "no object")
    await bad_row(row, b"null", "null")


@pytest.mark.parametrize(
    ("body", "expect", "sends"),
    [
        ({"data": None, "count": 0}, None, 1),
        ({"data": None, "count": None}, None, 1),
        ({"data": None, "count": 5}, DecodeError, 2),
        ({"data": {}, "count": 5}, DecodeError, 2),
        ({"data": "rows", "count": 5}, DecodeError, 2),
        ({"count": 5}, DecodeError, 2),
        ({}, DecodeError, 2),
        ({"data": None, "count": f"Token {TOKEN}"}, DecodeError, 2),
        ({"data": {"user_token": USER_TOKEN}, "count": 5}, DecodeError, 2),
    ],
)
async def test_row_35_data_that_is_not_a_list(
    row: Row, body: dict[str, object], expect: type[UnpodError] | None, sends: int
) -> None:
    told = {"status_code": 200, "message": "Fetched", **body}
    async with RawServer(always(json_response(told))) as server:
        outcome = await row.check(orgs, server, expect, sends)
        if expect is None:
            assert outcome.value == []
    if expect is None:
        # The same behind the last page of a walk is its end.
        pages = [[json_response(envelope([{"run_id": "R1"}], count=None))], [json_response(told)]]
        async with RawServer(each_in_turn(*pages)) as server, client_for(server.base_url) as unpod:
            assert await walk_runs(unpod.with_options(page_size=1)) == ["R1"]


async def test_row_35_responses_to_a_create(row: Row) -> None:
    """A 200 whose body names no run may still have queued calls."""
    for data in (None, [], "queued", {"run_id": 5}):
        answer = json_response({"status_code": 200, "message": "Created", "data": data})
        async with RawServer(always(answer)) as server:
            await row.check(create, server, OutcomeUnknown, 1)


@pytest.mark.parametrize("size", [0, -1, 2**31, 2**63, 1.5, True, "5", None])
async def test_row_38_page_sizes(row: Row, size: Any) -> None:
    async with RawServer(always(RUNS)) as server:
        async with client_for(server.base_url) as unpod:
            if size is not None:
                for make in (
                    lambda: unpod.runs.list(SPACE, page_size=size),
                    lambda: unpod.tasks.list(SPACE, start_page=size),
                    lambda: unpod.agents.tasks("agent", page_size=size),
                ):
                    with pytest.raises(InvalidArgument) as refused:
                        make()
                    no_secret_in(*shown(refused.value))
            for settings in ({"page_size": size},):
                with pytest.raises(ConfigurationError) as wrong:
                    unpod.with_options(**settings)
                no_secret_in(*shown(wrong.value))
        assert server.requests == []
        row.note("read: InvalidArgument, ConfigurationError", 0)
    assert json.loads(RUNS.partition(b"\r\n\r\n")[2])["count"] == 1
