"""Ways to make the sandbox misbehave: scripted answers and odd paging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from unpod_async.testing.answers import JSON, ApiResponse

__all__ = ["Fault", "FaultScript", "Oddities"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One scripted answer.

    What is answered:

    Attributes:
        status: the status to answer with.
        body: the body to answer with; None (default) with status 200 and no `headers` stands for the normal
            answer, with another status for an empty body.
        content_type: of `body`; application/json by default.
        headers: further headers of the answer.
        stall: seconds to wait before the status line; None: do not wait.
        reset_at: send so many bytes of the answer, counted from its status line, then reset the connection
            (0: before the status line); None: send the whole answer.
        close_at: the same, but the connection is closed in order; more than the answer has: after its end.
        drip: seconds before each byte of the answer.
        raw: exactly these bytes in place of an answer, HTTP or not; then the connection is closed.
        processed: whether the request takes effect although `status` or `body` say otherwise: a create whose
            answer is lost behind a 502 has queued its calls. The normal answer always means processed.

    Which requests it answers:

    Attributes:
        path: a part of the path, or None for any.
        method: GET, POST, ..., or None for any.
        page: the `page` that is asked for (1 when the request names none), or None for any.
        times: how many requests, 1 by default.
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

    def answer(self) -> ApiResponse | None:
        """The scripted answer, or None for the normal one."""
        if self.status == 200 and self.body is None and not self.headers and self.raw is None:
            return None
        return ApiResponse(self.status, self.body or b"", self.content_type, self.headers)

    @property
    def by_hand(self) -> bool:
        """Whether the bytes are written to the socket here, and not by the HTTP server."""
        return any(one is not None for one in (self.reset_at, self.close_at, self.drip, self.raw))

    def matches(self, method: str, path: str, query: Mapping[str, str]) -> bool:
        """Whether this fault is meant for a request."""
        return (
            (self.method is None or self.method.upper() == method)
            and (self.path is None or self.path in path)
            and (self.page is None or query.get("page", "1") == str(self.page))
        )


class FaultScript:
    """The faults still to come; each answers the first requests that it matches."""

    def __init__(self) -> None:
        self._left: list[tuple[Fault, int]] = []

    def add(self, faults: Iterable[Fault]) -> None:
        """Append faults."""
        self._left.extend((fault, fault.times) for fault in faults if fault.times > 0)

    def take(self, method: str, path: str, query: Mapping[str, str]) -> Fault | None:
        """The first fault for this request, used once; None when none matches."""
        for place, (fault, times) in enumerate(self._left):
            if fault.matches(method, path, query):
                self._left[place : place + 1] = [(fault, times - 1)] if times > 1 else []
                return fault
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddities:
    """Ways in which a server may page oddly; the defaults are the service's own ways.

    Attributes:
        max_page_size: a greater page size, or 0, is cut to this; None: every size is honoured.
        ignore_page: every page is the first.
        ignore_page_size: pages have 20 rows whatever is asked for.
        count: "true"; "null"; "absent" (no such key); "zero"; "page" (the rows of this page); "high" (10 too
            many); "low" (half).
        past_end: what a page behind the last brings: "empty" (200, no rows); "404"; "206" (with a string in
            `errors`); "repeat" (the last page once more).
    """

    max_page_size: int | None = None
    ignore_page: bool = False
    ignore_page_size: bool = False
    count: Literal["true", "null", "absent", "zero", "page", "high", "low"] = "true"
    past_end: Literal["empty", "404", "206", "repeat"] = "empty"
