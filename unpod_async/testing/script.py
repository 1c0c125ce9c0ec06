"""How to make the sandbox misbehave: scripted responses, and paging like that of odd servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from unpod_async.testing.answers import JSON, ApiResponse

__all__ = ["Fault", "FaultScript", "Oddities"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One scripted response.

    What it sends:

    Attributes:
        status: the status. Default: 200.
        body: the body. None (default) means the normal response if the status is 200 and there are no
            `headers`, and an empty body otherwise.
        content_type: the type of `body`. Default: application/json.
        headers: more headers of the response.
        stall: seconds to wait before the status line; None: do not wait.
        reset_at: send this many bytes of the response, status line and headers included, then reset the
            connection. 0: before the status line. None: send all of it.
        close_at: the same, but close the connection. If the response is shorter, it is closed after the end.
        drip: seconds to wait before each byte of the response.
        raw: send exactly these bytes, HTTP or not, then close the connection.
        processed: the request takes effect although `status` or `body` say otherwise. Example: a create whose
            response is lost behind a 502 has queued its calls. A request that gets the normal response always
            takes effect.

    Which requests it answers:

    Attributes:
        path: a part of the path, or None for any.
        method: GET, POST, ..., or None for any.
        page: the page of the request (1 if it names none), or None for any.
        times: the number of requests. Default: 1.
    """

    status: int = 200
    body: bytes | None = None
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    stall: float | None = None
    reset_at: int | None = None
    close_at: int | None = None
    drip: float | None = None
    raw: bytes | None = None
    processed: bool = False
    path: str | None = None
    method: str | None = None
    page: int | None = None
    times: int = 1

    def response(self) -> ApiResponse | None:
        """Return the scripted response, or None for the normal one."""
        if self.status == 200 and self.body is None and not self.headers and self.raw is None:
            return None
        return ApiResponse(self.status, self.body or b"", self.content_type, self.headers)

    @property
    def writes_bytes(self) -> bool:
        """Whether the sandbox writes the bytes to the socket itself, without its HTTP server."""
        return any(one is not None for one in (self.reset_at, self.close_at, self.drip, self.raw))

    def matches(self, method: str, path: str, query: Mapping[str, str]) -> bool:
        """Return whether this fault applies to a request."""
        return (
            (self.method is None or self.method.upper() == method)
            and (self.path is None or self.path in path)
            and (self.page is None or query.get("page", "1") == str(self.page))
        )


class FaultScript:
    """The faults that are left. Each answers the first requests that it matches."""

    def __init__(self) -> None:
        self._left: list[tuple[Fault, int]] = []

    def add(self, faults: Iterable[Fault]) -> None:
        """Append faults."""
        self._left.extend((fault, fault.times) for fault in faults if fault.times > 0)

    def take(self, method: str, path: str, query: Mapping[str, str]) -> Fault | None:
        """Return the first fault that matches the request, and use it up once; None if none matches."""
        for place, (fault, times) in enumerate(self._left):
            if fault.matches(method, path, query):
                self._left[place : place + 1] = [(fault, times - 1)] if times > 1 else []
                return fault
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddities:
    """How the paging of a server differs from the usual. The defaults are those of the service.

    Attributes:
        max_page_size: the limit of the page size, which also replaces 0; None: no limit.
        ignore_page: every page is the first one.
        ignore_page_size: every page has 20 rows.
        count: "true" (the number of rows); "null"; "absent" (no such key); "zero"; "page" (the rows of this
            page); "high" (10 too many); "low" (half).
        past_end: the response to a page past the last one: "empty" (200, no rows); "404"; "206" (with a
            string in `errors`); "repeat" (the last page again).
    """

    max_page_size: int | None = None
    ignore_page: bool = False
    ignore_page_size: bool = False
    count: Literal["true", "null", "absent", "zero", "page", "high", "low"] = "true"
    past_end: Literal["empty", "404", "206", "repeat"] = "empty"
