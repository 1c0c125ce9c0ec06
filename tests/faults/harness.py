"""How a row of the matrix is played: a server that misbehaves, one call, and what must hold of its error."""

from __future__ import annotations

import json
import logging
import pickle
import time
import traceback
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.clock import pass_time
from tests.raw_server import RawConnection, RawServer, http_response, json_response
from unpod_async import OutcomeUnknown, RetryPolicy, TransportError, UnpodClient, UnpodError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

__all__ = [
    "BOOK",
    "CREATED",
    "FAST",
    "ORGS",
    "RUNS",
    "SPACE",
    "TOKEN",
    "USER_TOKEN",
    "Outcome",
    "Row",
    "always",
    "client_for",
    "create",
    "each_in_turn",
    "envelope",
    "join_in_order",
    "no_secret_in",
    "orgs",
    "walk_runs",
]

TOKEN = "s3cret-0123456789abcdef0123456789abcdef"
USER_TOKEN = "us3r-t0ken-fedcba9876543210"
SPACE = "SPACEMAIN000000000000001"
FAST = RetryPolicy(attempts=3, base=0.001, cap=0.002)
TIMEOUT = 60.0
"""Seconds: no test waits for it, and no machine is so slow that a test takes half of it."""


def envelope(rows: Sequence[Any], **more: Any) -> dict[str, Any]:
    return {"count": len(rows), "status_code": 200, "message": "Fetched", "data": list(rows), **more}


ORGS = json_response(envelope([{"name": "Acme", "domain_handle": "acme.example", "token": "ORG1"}]))
RUNS = json_response(envelope([{"run_id": "R1", "status": "completed"}]))
CREATED = json_response({
    "status_code": 200,
    "message": "Task Created Successfully",
    "data": {"run_id": "R1", "task_ids": ["T1"], "status": {"T1": "pending"}},
})


# --- what a run has shown ----------------------------------------------------------------------------------


@dataclass
class Book:
    verdicts: dict[int, list[bool]] = field(default_factory=dict)
    seen: dict[int, dict[str, str]] = field(default_factory=dict)


BOOK = Book()


class Outcome(NamedTuple):
    """How a call ended."""

    value: Any
    error: BaseException | None
    seconds: float
    records: list[logging.LogRecord]

    @property
    def delays(self) -> list[float]:
        """The seconds that were waited before the retries."""
        return [
            record.args[-1]
            for record in self.records
            if isinstance(record.args, tuple) and "next attempt in" in record.msg
        ]

    @property
    def name(self) -> str:
        if self.error is None:
            return "ok"
        if isinstance(self.error, TransportError):
            flags = ["sent" if self.error.sent else "not sent"]
            flags += ["timed out"] * self.error.timed_out + ["permanent"] * self.error.permanent
            return f"TransportError ({', '.join(flags)})"
        return type(self.error).__name__


class Row:
    """A row of the matrix, and what its tests see."""

    def __init__(self, number: int) -> None:
        self.number = number

    def note(self, seen: str, sends: int | str = "–") -> None:
        """A line for the table; the last one for the same thing counts."""
        BOOK.seen.setdefault(self.number, {})[seen] = str(sends)

    async def check(
        self,
        call: Callable[[UnpodClient], Awaitable[Any]],
        server: RawServer | None,
        expect: type[BaseException] | None,
        sends: int,
        *,
        base_url: str | None = None,
        note: bool = True,
        **options: Any,
    ) -> Outcome:
        """One call of a new client: error class, number of requests, delays, and no token anywhere.

        A call that ignores its own timeout or deadline would end after the one of `client_for`.
        """
        before = len(server.requests) if server is not None else 0
        url = base_url if base_url is not None else server.base_url if server is not None else ""
        async with client_for(url, **options) as unpod:
            outcome = await watch(call(unpod))
        made = len(server.requests) - before if server is not None else 0
        if note:
            kind = "create" if call is create else "read"
            self.note(f"{kind}: {outcome.name}", made)
        assert type(outcome.error) is (expect or type(None)), outcome.error
        assert made == sends, f"{made} sends, {sends} expected"
        longest = options.get("retry", FAST).cap
        assert all(delay <= longest for delay in outcome.delays), outcome.delays
        assert outcome.seconds < TIMEOUT / 2
        if isinstance(outcome.error, OutcomeUnknown):
            assert len(outcome.error.document_ids) == 1
            assert outcome.error.space_token == SPACE
        return outcome


@asynccontextmanager
async def client_for(base_url: str, **options: Any) -> AsyncIterator[UnpodClient]:
    options = {"retry": FAST, "timeout": TIMEOUT, "org_handle": "acme.example", **options}
    unpod = UnpodClient(TOKEN, base_url=base_url, **options)
    try:
        yield unpod
    finally:
        await unpod.aclose()
        assert TOKEN not in repr(unpod) + str(unpod.stats) + repr(unpod.settings)


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


async def watch(call: Awaitable[Any]) -> Outcome:
    """Await `call`, with every logger at DEBUG; the error and the records hold no secret."""
    handler, root = _Records(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    began = time.monotonic()
    value: Any = None
    caught: BaseException | None = None
    try:
        value = await call
    except Exception as error:  # noqa: BLE001 - judged by the caller
        caught = error
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
    seconds = time.monotonic() - began
    for record in handler.records:
        no_secret_in(record.getMessage(), repr(record.__dict__))
        if record.exc_info and record.exc_info[1]:
            no_secret_in(*shown(record.exc_info[1]))
    if caught is not None:
        assert isinstance(caught, UnpodError), repr(caught)
        no_secret_in(*shown(caught))
        revived = pickle.loads(pickle.dumps(caught))  # noqa: S301 - made here
        assert str(revived) == str(caught)
        assert revived.__dict__.keys() == caught.__dict__.keys()
    return Outcome(value, caught, seconds, handler.records)


def shown(error: BaseException) -> Iterator[str]:
    """All the ways in which an error, its causes and its context come before somebody's eyes."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        todo += [one.__cause__, one.__context__]
        yield from (str(one), repr(one), repr(one.args), repr(one.__dict__))
        yield repr(getattr(one, "__notes__", ()))
        if isinstance(one, UnpodError):
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
                yield pickle.dumps(one, protocol).decode("latin-1")
    yield "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def no_secret_in(*texts: str) -> None:
    for text in texts:
        assert TOKEN not in text, _around(text, TOKEN)
        assert USER_TOKEN not in text, _around(text, USER_TOKEN)


def _around(text: str, secret: str) -> str:
    place = text.index(secret)
    return f"a secret is shown: {text[max(0, place - 300) : place].replace(secret, '***')!r}"


# --- calls -------------------------------------------------------------------------------------------------


async def orgs(unpod: UnpodClient) -> Any:
    """A read of one request."""
    return await unpod.organizations.list().collect()


async def walk_runs(unpod: UnpodClient) -> Any:
    """A read that pages."""
    return [run.run_id async for run in unpod.runs.list(SPACE)]


async def create(unpod: UnpodClient) -> Any:
    """A create of one document."""
    return await unpod.tasks.create(
        SPACE,
        pilot="pilot-1",
        documents=[{"name": "Ann Example", "contact_number": "+15550100"}],
        context="a test",
    )


# --- servers -----------------------------------------------------------------------------------------------

Act = bytes | str | float
"""Bytes to send; "reset", "close" or "stall"; seconds that pass at once for the event loop."""


def always(*acts: Act) -> Callable[[RawConnection], Awaitable[object]]:
    """Do the same for every request, on every connection."""

    async def handle(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            if await perform(connection, acts):
                return

    return handle


def each_in_turn(*answers: Sequence[Act]) -> Callable[[RawConnection], Awaitable[object]]:
    """Do one thing after the other, request by request over all connections; the last one for the rest."""
    left = list(answers)

    async def handle(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            acts = left.pop(0) if len(left) > 1 else left[0]
            if await perform(connection, acts):
                return

    return handle


async def perform(connection: RawConnection, acts: Sequence[Act]) -> bool:
    """Whether the connection is over."""
    for act in acts:
        if act == "reset":
            connection.reset()
            return True
        if act == "close":
            return True
        if act == "stall":
            await connection.read_request()  # None once the client has gone
            return True
        if isinstance(act, float):
            pass_time(act)
            continue
        assert isinstance(act, bytes)
        await connection.send(act)
    return False


def join_in_order(names: Sequence[str]) -> str:
    return ", ".join(f"{name} ×{times}" if times > 1 else name for name, times in Counter(names).items())


def body_of(response: bytes) -> Any:
    return json.loads(response.partition(b"\r\n\r\n")[2])


def page_body(rows: Sequence[bytes], count: int | None = None) -> bytes:
    """A listing with rows of exact bytes."""
    listed = b",".join(rows)
    return http_response(
        b'{"count":%d,"status_code":200,"message":"Fetched","data":[%s]}'
        % (len(rows) if count is None else count, listed),
        headers=[("Content-Type", "application/json")],
    )
