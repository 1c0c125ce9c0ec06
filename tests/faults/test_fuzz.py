"""Mutated pages: every response gives rows or an error of this package.

5,000 of them in the normal run; `nox -s fuzz` makes 100,000 (the number is read from UNPOD_FUZZ).
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.faults.harness import ORGS, RUNS
from unpod_async._http import Request, Response, agent_tasks, organizations, runs
from unpod_async._paging import Listing, decode_raw, decode_rows, decode_single, parse_page, run_tasks
from unpod_async.errors import UnpodError
from unpod_async.models import CreatedRun, Organization, Run, Task
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGES = int(os.environ.get("UNPOD_FUZZ", "5000"))
GET = Request("GET", "/x", "Token")

NASTY = [
    *(b"NaN", b"Infinity", b"-0", b"1e999", b"9" * 400, b"null", b"true", b"{}", b"[]", b'""', b"-1", b"1.5"),
    *(
        b'"\\ud800"',
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x00",
        b'"\\u0000"',
        b"[" * 1200,
        b"{" * 50,
        b'{"a":' * 1100,
    ),
    *(
        b",",
        b":",
        b'"',
        b"\\",
        b"}",
        b"]",
        b'"data":',
        b'"count":',
        b'"status_code":500,',
        b'"status_code":"x",',
    ),
    *(b'"task_id":', b'"run_id":', b'"output":', b'"created":', b"206", b"401", b'"data":{"errors":"x"},'),
]


def seeds() -> Iterator[bytes]:
    sandbox = Sandbox(runs=6, tasks_per_run=4)
    tasks = list(sandbox.task_rows())
    for rows in (tasks[:1], tasks[:5], tasks[5:20], list(sandbox.run_rows()), []):
        page = {"count": len(rows), "status_code": 200, "message": "Fetched", "data": rows}
        yield json.dumps(page).encode()
        yield json.dumps(page, ensure_ascii=False, separators=(",", ":")).encode()
    yield ORGS.partition(b"\r\n\r\n")[2]
    yield RUNS.partition(b"\r\n\r\n")[2]
    yield b'{"status_code":200,"message":"m","data":{"run_id":"R1","task_ids":["T1"],"status":{"T1":"x"}}}'


def mutated(body: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        here = rng.randrange(len(body) + 1)
        there = min(len(body), here + rng.choice((1, 1, 2, 5, 30, 300)))
        match rng.randrange(6):
            case 0:
                body = body[:here] + bytes([rng.randrange(256)]) + body[here + 1 :]
            case 1:
                body = body[:here] + rng.choice(NASTY) + body[here:]
            case 2:
                body = body[:here] + rng.choice(NASTY) + body[there:]
            case 3:
                body = body[:here] + body[there:]
            case 4:
                body = body[:there] + body[here:]
            case _:
                body = body[:here] if rng.random() < 0.3 else body
    return body


def readers() -> list[Callable[[Response], Any]]:
    listings: list[Listing[Any]] = [
        run_tasks("S", "R1", "completed"),
        Listing(agent_tasks("agent"), Task, ("task_id", "id"), tied=True),
        Listing(runs("S"), Run, ("run_id",)),
        Listing(organizations(), Organization, ("domain_handle", "token"), paged=False),
    ]

    def typed(listing: Listing[Any]) -> Callable[[Response], Any]:
        return lambda response: parse_page(GET, response, listing, 1, decode_rows)

    def raw(listing: Listing[Any]) -> Callable[[Response], Any]:
        return lambda response: parse_page(GET, response, listing, 2, decode_raw)

    return [
        *map(typed, listings),
        *map(raw, listings),
        lambda response: decode_single(GET, response, CreatedRun),
        lambda response: decode_single(GET, response, Task),
    ]


def touch(row: Any) -> None:
    """What a user reads of a row."""
    repr(row)
    if isinstance(row, Task):
        _ = row.call, row.created_at
    elif isinstance(row, Run):
        _ = row.created_at


def test_mutated_pages_end_in_rows_or_in_our_own_errors() -> None:
    rng = random.Random(20260101)
    bodies, reads = list(seeds()), readers()
    ends: Counter[str] = Counter()
    for number in range(PAGES):
        body = mutated(rng.choice(bodies), rng)
        status = rng.choice((200, 200, 200, 200, 206, 400, 500))
        try:
            found = reads[number % len(reads)](Response(status, {}, body))
            for row in getattr(found, "rows", [found]):
                touch(row)
        except UnpodError as error:
            ends[type(error).__name__] += 1
            str(error)
            repr(error)
        else:
            ends["rows"] += 1
    assert ends["rows"] > PAGES / 20
    assert ends["DecodeError"] > PAGES / 20
    assert sum(ends.values()) == PAGES
