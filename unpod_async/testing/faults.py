"""The ways in which an HTTP server can fail, by name: faults to `script` in a `Sandbox`.

The numbers are the rows of the fault matrix of this library (tests/faults/README.md): 2 to 13, 18 to 22 and
24 to 40::

    sandbox.script(faults.reset_before_status(times=2))  # the next two requests
    sandbox.script(faults.reset_in_body(method="POST"))  # the next create: queued, and its response lost
    faults.play(sandbox, 27)  # everything that row 27 needs

Functions that return a `Fault` take the keywords that select its requests: `path`, `method`, `page` and
`times`. Functions that change the data of a sandbox take the sandbox.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from unpod_async.testing.answers import (
    HTML,
    JSON,
    ApiResponse,
    access_refused,
    html_page,
    json_response,
    unauthorized,
    upstream_failure,
)
from unpod_async.testing.sandbox import Sandbox
from unpod_async.testing.script import Fault, Oddities

__all__ = [
    "MATRIX",
    "body_without_end",
    "chunks_cut",
    "closed_after_answer",
    "closed_before_status",
    "closed_in_body",
    "closed_in_head",
    "drip",
    "error_inside_200",
    "extra_bytes",
    "foreign_row",
    "gzip_cut",
    "gzip_damaged",
    "idle_connection_dropped",
    "malformed_row",
    "no_json",
    "not_http",
    "odd_count",
    "odd_paging",
    "play",
    "poisoned_row",
    "rate_limited",
    "redirect",
    "refusal",
    "rejected",
    "reset_before_status",
    "reset_in_body",
    "rows_move",
    "server_error",
    "stall",
    "token_revoked",
    "too_long",
    "unasked_encoding",
    "upstream_error",
]

_PAGE: Final = msgspec.json.encode({"count": 0, "status_code": 200, "message": "Fetched", "data": []})
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_WHOLE: Final = 2**31


# --- the connection ----------------------------------------------------------------------------------------


def reset_before_status(**which: Any) -> Fault:
    """Row 2: reset before the status line. The request takes effect."""
    return Fault(reset_at=0, **which)


def closed_before_status(**which: Any) -> Fault:
    """Row 3: closed before the status line. The request takes effect."""
    return Fault(close_at=0, **which)


def closed_in_head(at: int = 40, **which: Any) -> Fault:
    """Row 4: closed within the headers."""
    return Fault(close_at=at, **which)


def reset_in_body(at: int = 200, **which: Any) -> Fault:
    """Row 5: reset after `at` bytes of the response, headers included."""
    return Fault(reset_at=at, **which)


def closed_in_body(at: int = 200, **which: Any) -> Fault:
    """Row 5: closed before the end of the body that Content-Length announces."""
    return Fault(close_at=at, **which)


def chunks_cut(**which: Any) -> Fault:
    """Row 6: a chunked body that ends within a chunk."""
    body = b"%x\r\n%s" % (len(_PAGE), _PAGE[:20])
    return Fault(raw=_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body, **which)


def body_without_end(**which: Any) -> Fault:
    """Row 7: a body without length or chunks, closed early."""
    return Fault(raw=_HEAD + b"\r\n" + _PAGE[:20], **which)


def gzip_cut(**which: Any) -> Fault:
    """Row 8: a truncated gzip body with a matching Content-Length."""
    return _encoded(gzip.compress(_PAGE * 20)[:-20], "gzip", which)


def gzip_damaged(**which: Any) -> Fault:
    """Row 9: a plain body with the header of a gzip one."""
    return _encoded(_PAGE, "gzip", which)


def unasked_encoding(encoding: str = "compress", **which: Any) -> Fault:
    """Row 10: an encoding that the client does not accept."""
    return _encoded(b"\x8b\x05\x80", encoding, which)


def not_http(sent: bytes = b"SSH-2.0-OpenSSH_9.6\r\n", **which: Any) -> Fault:
    """Row 11: bytes that are not HTTP."""
    return Fault(raw=sent, **which)


def drip(seconds: float = 0.05, **which: Any) -> Fault:
    """Row 12: the response, byte by byte."""
    return Fault(drip=seconds, **which)


def stall(seconds: float = 120.0, **which: Any) -> Fault:
    """Row 13: no response for this many seconds."""
    return Fault(stall=seconds, **which)


def idle_connection_dropped(**which: Any) -> Fault:
    """Row 18: the connection is reset as if it had been idle for too long. The request takes no effect."""
    return Fault(raw=b"", reset_at=0, **which)


def closed_after_answer(**which: Any) -> Fault:
    """Row 19: the normal response, then the connection is closed without notice."""
    return Fault(close_at=_WHOLE, **which)


def redirect(target: str = "https://elsewhere.example/", status: int = 302, **which: Any) -> Fault:
    """Row 20: a redirect."""
    return Fault(status=status, headers={"Location": target}, **which)


def too_long(size: int = 300 * 2**20, **which: Any) -> Fault:
    """Row 21: a small response that decompresses to `size` bytes."""
    packer = zlib.compressobj(1, wbits=31)
    step = b" " * 2**20
    packed = b"".join(packer.compress(step[: size - done]) for done in range(0, size, len(step)))
    return _encoded(packed + packer.flush(), "gzip", which)


def extra_bytes(extra: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", **which: Any) -> Fault:
    """Row 22: an empty listing, followed by a second response without a request."""
    return Fault(raw=_HEAD + b"Content-Length: %d\r\n\r\n%s%s" % (len(_PAGE), _PAGE, extra), **which)


# --- responses ---------------------------------------------------------------------------------------------


def rate_limited(
    retry_after: float | str | None = None, *, form: Literal["seconds", "date"] = "seconds", **which: Any
) -> Fault:
    """Row 24: 429. `retry_after` is in seconds and sent as such or as a date; a string is sent as it is."""
    headers: dict[str, str] = {}
    if isinstance(retry_after, str):
        headers["Retry-After"] = retry_after
    elif retry_after is not None and form == "date":
        now = datetime.now(UTC)
        headers["Date"] = format_datetime(now, usegmt=True)
        headers["Retry-After"] = format_datetime(now + timedelta(seconds=retry_after), usegmt=True)
    elif retry_after is not None:
        headers["Retry-After"] = f"{retry_after:.0f}"
    response = json_response(429, {"message": "Request was throttled.", "status_code": 429})
    return _response(replace(response, headers=headers), which)


def server_error(status: int = 502, *, processed: bool = False, **which: Any) -> Fault:
    """Row 25: 5xx with an HTML page. With `processed`, the request still takes effect."""
    return _response(replace(html_page(500), status=status), {**which, "processed": processed})


def refusal(message: str = "Invalid Space Token", **which: Any) -> Fault:
    """Row 26: 206 without `errors`."""
    return _response(access_refused(message), which)


def upstream_error(errors: str = "Internal Server Error", *, processed: bool = False, **which: Any) -> Fault:
    """Row 27: 206 with a string in `errors`. The service can fail like this after it has stored
    everything."""
    return _response(upstream_failure("Tasks Fetch Failed", errors), {**which, "processed": processed})


def poisoned_row(sandbox: Sandbox, task_id: str | None = None) -> str:
    """Row 28: a row that makes every page that contains it fail, always. Returns its id."""
    found = task_id or _some_task(sandbox)
    sandbox.poison(found)
    return found


def rejected(status: int = 400, **which: Any) -> Fault:
    """Row 29: a 4xx of the service. 404 is the HTML page of an unknown path."""
    if status == 404:
        return _response(html_page(404), which)
    return _response(json_response(status, {"message": "Not accepted", "status_code": status}), which)


def token_revoked(**which: Any) -> Fault:
    """Row 30: 401 from now on (a thousand times), as if the token was revoked during a job."""
    response = unauthorized("Authentication credentials were not provided.", 'Token realm="api"')
    return _response(response, {"times": 1000, **which})


def no_json(body: bytes = b"<html><title>Sign in to the network</title></html>", **which: Any) -> Fault:
    """Row 31: 200 with a body that is not JSON, such as the sign-in page of a network."""
    return _response(ApiResponse(200, body, HTML), which)


def error_inside_200(status: int = 500, **which: Any) -> Fault:
    """Row 32: 200 with another status in the body."""
    response = json_response(200, {"status_code": status, "message": "Something went wrong", "data": {}})
    return _response(response, which)


# --- rows and pages ----------------------------------------------------------------------------------------


def malformed_row(
    sandbox: Sandbox,
    kind: Literal["utf-8", "not a number", "deep", "wrong type", "no object"] = "wrong type",
    task_id: str | None = None,
) -> str:
    """Rows 33 to 35: a row that is not JSON or has a wrong type. Returns its id."""
    found = task_id or _some_task(sandbox)
    value = {"utf-8": b'"\xff\xfe"', "not a number": b"NaN", "deep": b"[" * 2000 + b"]" * 2000}.get(
        kind, b"[1]"
    )
    row = b'{"task_id":"%s","status":%s}' % (found.encode(), value)
    sandbox.malform(found, b"[]" if kind == "no object" else row)
    return found


def odd_count(
    sandbox: Sandbox, count: Literal["null", "absent", "zero", "page", "high", "low"] = "null"
) -> None:
    """Row 36: a missing or wrong `count`."""
    sandbox.page_oddly(Oddities(count=count))


def odd_paging(sandbox: Sandbox, **oddities: Any) -> None:
    """Row 37: `page` or `page_size` have no effect. The keywords are those of `Oddities`."""
    sandbox.page_oddly(Oddities(**(oddities or {"past_end": "repeat"})))


def rows_move(sandbox: Sandbox, *, inserted: int = 1, deleted: int = 1) -> None:
    """Row 39: rows are added at the start of the listings, and others removed. Call it between two pages."""
    for _ in range(inserted):
        sandbox.insert_task(sandbox.run_ids()[0])
    for task_id in sandbox.task_ids()[-deleted:] if deleted else ():
        sandbox.delete_task(task_id)


def foreign_row(sandbox: Sandbox, task_id: str | None = None) -> str:
    """Row 40: a row with the id of another run. Returns its id."""
    found = task_id or _some_task(sandbox)
    sandbox.malform(found, msgspec.json.encode({"task_id": found, "run_id": "Ranother0000000000000000"}))
    return found


# --- by number ---------------------------------------------------------------------------------------------


def play(sandbox: Sandbox, row: int, **which: Any) -> None:
    """Play a row of the matrix: script its faults, or change the data of the sandbox.

    Args:
        sandbox: the sandbox that fails.
        row: the number of the row.
        which: the keywords of `Fault` that select requests.

    Raises:
        KeyError: an HTTP server cannot cause this row.
    """
    sandbox.script(*(replace(fault, **which) for fault in MATRIX[row](sandbox)))


_Row = Callable[[Sandbox], tuple[Fault, ...]]


def _scripted(*make: Callable[[], Fault]) -> _Row:
    return lambda sandbox: tuple(one() for one in make)


def _done(act: Callable[[Sandbox], object]) -> _Row:
    def apply(sandbox: Sandbox) -> tuple[Fault, ...]:
        act(sandbox)
        return ()

    return apply


MATRIX: Final[Mapping[int, _Row]] = MappingProxyType({
    2: _scripted(reset_before_status),
    3: _scripted(closed_before_status),
    4: _scripted(closed_in_head),
    5: _scripted(reset_in_body),
    6: _scripted(chunks_cut),
    7: _scripted(body_without_end),
    8: _scripted(gzip_cut),
    9: _scripted(gzip_damaged),
    10: _scripted(unasked_encoding),
    11: _scripted(not_http),
    12: _scripted(drip),
    13: _scripted(stall),
    18: _scripted(idle_connection_dropped),
    19: _scripted(closed_after_answer),
    20: _scripted(redirect),
    21: _scripted(too_long),
    22: _scripted(extra_bytes),
    24: _scripted(rate_limited),
    25: _scripted(server_error),
    26: _scripted(refusal),
    27: _scripted(upstream_error),
    28: _done(poisoned_row),
    29: _scripted(rejected),
    30: _scripted(token_revoked),
    31: _scripted(no_json),
    32: _scripted(error_inside_200),
    33: _done(lambda sandbox: malformed_row(sandbox, "utf-8")),
    34: _done(lambda sandbox: malformed_row(sandbox, "not a number")),
    35: _done(malformed_row),
    36: _done(odd_count),
    37: _done(odd_paging),
    38: _scripted(),  # the client refuses such a page_size; the sandbox answers it like the service
    39: _done(rows_move),
    40: _done(foreign_row),
})
"""A function for each row, which changes the data of a sandbox and returns the faults to script."""


def _response(response: ApiResponse, which: Mapping[str, Any]) -> Fault:
    return Fault(
        status=response.status,
        body=response.body,
        content_type=response.content_type,
        headers=response.headers,
        **which,
    )


def _encoded(body: bytes, encoding: str, which: Mapping[str, Any]) -> Fault:
    return _response(ApiResponse(200, body, JSON, {"Content-Encoding": encoding}), which)


def _some_task(sandbox: Sandbox) -> str:
    tasks = sandbox.task_ids(sandbox.run_ids()[0])
    return tasks[len(tasks) // 2]
