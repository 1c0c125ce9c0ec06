"""One client for a whole FastAPI application.

uvicorn fastapi_app:app --timeout-graceful-shutdown 35

35 seconds are more than any deadline below, so a stop cuts no stream.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from unpod_async import InvalidArgument, Page, RateLimitedError, RefusedError, Task, UnpodClient, UnpodError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, UnpodClient]]:
    async with UnpodClient() as unpod:  # its end waits for calls under way
        yield {"unpod": unpod}


async def client(request: Request) -> UnpodClient:
    unpod: UnpodClient = request.state.unpod
    return unpod.with_options(deadline=10)  # somebody waits: seconds for pages, repeats and pauses together


Unpod = Annotated[UnpodClient, Depends(client)]
app = FastAPI(lifespan=lifespan)
log = logging.getLogger(__name__)


class Summary(BaseModel):
    """How the calls of a run went."""

    run_id: str
    calls: int
    outcomes: dict[str, int]


class Row(BaseModel):
    """A call: what the page shows, and nothing else. A `Task` holds names, numbers and an access token."""

    task_id: str | None
    status: str | None
    outcome: str | None
    seconds: float | None


@app.get("/spaces/{space}/runs/{run}")
async def summary(space: str, run: str, unpod: Unpod) -> Summary:
    outcomes = Counter[str]()
    async for task in unpod.runs.tasks(space, run):
        outcomes[(task.call and task.call.outcome) or task.status or "unknown"] += 1
    if not outcomes and await unpod.runs.find(space, run) is None:  # an unknown run also has no tasks
        raise HTTPException(404, "there is no such run")
    return Summary(run_id=run, calls=outcomes.total(), outcomes=outcomes)


@app.get("/spaces/{space}/runs/{run}/calls")
async def calls_of_run(space: str, run: str, unpod: Unpod) -> list[Row]:
    """All calls of a run as one list: complete, or an error."""
    rows = [row_of(task) async for task in unpod.runs.tasks(space, run)]
    if not rows and await unpod.runs.find(space, run) is None:
        raise HTTPException(404, "there is no such run")
    return rows


@app.get("/spaces/{space}/calls")
async def calls(space: str, unpod: Unpod) -> StreamingResponse:
    """All calls of a space, newest first, a line of JSON each; the last line says whether these are all."""
    pages = unpod.with_options(deadline=30).tasks.list(space).pages()
    first = await anext(pages, None)  # what goes wrong up to here still has a status of its own
    return StreamingResponse(lines(first, pages), media_type="application/x-ndjson")


async def lines(page: Page[Task] | None, pages: AsyncIterator[Page[Task]]) -> AsyncIterator[str]:
    rows = 0
    try:
        while page is not None:
            text = "".join(f"{row_of(task).model_dump_json()}\n" for task in page.items)
            rows += len(page.items)
            yield text
            page = await anext(pages, None)
    except UnpodError as error:
        log.warning("a list broke off after %d rows: %s", rows, error)
        last = {"error": f"{type(error).__name__}: calls are missing", "rows": rows}
    else:
        last = {"end": True, "rows": rows}
    yield json.dumps(last) + "\n"


def row_of(task: Task) -> Row:
    call = task.call
    return Row(
        task_id=task.task_id,
        status=task.status,
        outcome=call.outcome if call else None,
        seconds=call.duration if call else None,
    )


@app.exception_handler(UnpodError)
async def refuse(request: Request, error: UnpodError) -> JSONResponse:
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
    return JSONResponse({"detail": detail}, status, headers)
