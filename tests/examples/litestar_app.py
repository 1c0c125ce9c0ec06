"""One client for a whole Litestar application, which answers with msgspec's structs as they are.

uvicorn litestar_app:app --timeout-graceful-shutdown 35

35 seconds are more than any deadline below, so a stop cuts no stream.
"""

import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Stream

from unpod_async import InvalidArgument, Page, RateLimitedError, RefusedError, Task, UnpodClient, UnpodError

ENCODER = msgspec.json.Encoder()
log = logging.getLogger(__name__)


class Summary(msgspec.Struct):
    """How the calls of a run went."""

    run_id: str
    calls: int
    outcomes: dict[str, int]


class Row(msgspec.Struct):
    """A call: what the page shows, and nothing else. A `Task` holds names, numbers and an access token."""

    task_id: str | None
    status: str | None
    outcome: str | None
    seconds: float | None


class Last(msgspec.Struct, omit_defaults=True):
    """The last line: whether these are all."""

    rows: int
    end: bool = False
    error: str | None = None


@asynccontextmanager
async def one_client(app: Litestar) -> AsyncGenerator[None]:
    async with UnpodClient() as app.state.unpod:  # its end waits for calls under way
        yield


async def client(state: State) -> UnpodClient:
    unpod: UnpodClient = state.unpod
    return unpod.with_options(deadline=10)  # somebody waits: seconds for pages, repeats and pauses together


@get("/spaces/{space:str}/runs/{run:str}")
async def summary(space: FromPath[str], run: FromPath[str], unpod: NamedDependency[UnpodClient]) -> Summary:
    outcomes = Counter[str]()
    async for task in unpod.runs.tasks(space, run):
        outcomes[(task.call and task.call.outcome) or task.status or "unknown"] += 1
    if not outcomes and await unpod.runs.find(space, run) is None:  # an unknown run also has no tasks
        raise NotFoundException("there is no such run")
    return Summary(run, outcomes.total(), outcomes)


@get("/spaces/{space:str}/calls")
async def calls(space: FromPath[str], unpod: NamedDependency[UnpodClient]) -> Stream:
    """All calls of a space, newest first, a line of JSON each; the last line says whether these are all."""
    pages = unpod.with_options(deadline=30).tasks.list(space).pages()
    first = await anext(pages, None)  # what goes wrong up to here still has a status of its own
    return Stream(lines(first, pages), media_type="application/x-ndjson")


async def lines(page: Page[Task] | None, pages: AsyncIterator[Page[Task]]) -> AsyncIterator[bytes]:
    rows = 0
    try:
        while page is not None:
            text = ENCODER.encode_lines([row_of(task) for task in page.items])
            rows += len(page.items)
            yield text
            page = await anext(pages, None)
    except UnpodError as error:
        log.warning("a list broke off after %d rows: %s", rows, error)
        last = Last(rows, error=f"{type(error).__name__}: calls are missing")
    else:
        last = Last(rows, end=True)
    yield ENCODER.encode(last) + b"\n"


def row_of(task: Task) -> Row:
    call = task.call
    return Row(
        task.task_id,
        task.status,
        call.outcome if call else None,
        call.duration if call else None,
    )


def refuse(request: Request[Any, Any, Any], error: UnpodError) -> Response[dict[str, str]]:
    headers: dict[str, str] = {}
    match error:
        case InvalidArgument():  # an id that cannot be one; nothing was sent
            status, detail = 400, str(error)
        case RefusedError():
            status, detail = 404, "there is no such space, or it is not ours"
        case RateLimitedError():
            status, detail = 503, "the platform asks to wait"
            headers["Retry-After"] = str(math.ceil(error.retry_after or 10))
        case _:  # its text, which quotes what the platform said, is for the log
            log.warning("%s", error)
            status, detail = 502, f"the platform could not be read: {type(error).__name__}"
    return Response({"detail": detail}, status_code=status, headers=headers)


app = Litestar(
    [summary, calls],
    dependencies={"unpod": Provide(client)},
    exception_handlers={UnpodError: refuse},
    lifespan=[one_client],
)
