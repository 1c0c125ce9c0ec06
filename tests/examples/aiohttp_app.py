"""One client for a whole aiohttp.web application, over the session that the application has anyway.

python aiohttp_app.py
"""

import logging
import math
import os
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from aiohttp import web

from unpod_async import InvalidArgument, RateLimitedError, RefusedError, Task, UnpodClient, UnpodError

UNPOD = web.AppKey("unpod", UnpodClient)
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
async def one_client(app: web.Application) -> AsyncGenerator[None]:
    async with (
        aiohttp.ClientSession() as session,  # for whatever else the application asks, too
        UnpodClient(session=session) as app[UNPOD],  # its end waits for calls under way
    ):
        yield


async def summary(request: web.Request) -> web.Response:
    """GET /spaces/{space}/runs/{run}"""
    space, run = request.match_info["space"], request.match_info["run"]
    unpod = request.app[UNPOD].with_options(deadline=10)  # somebody waits: seconds for all of it
    outcomes = Counter[str]()
    async for task in unpod.runs.tasks(space, run):
        outcomes[(task.call and task.call.outcome) or task.status or "unknown"] += 1
    if not outcomes and await unpod.runs.find(space, run) is None:  # an unknown run also has no tasks
        return json({"detail": "there is no such run"}, 404)
    return json(Summary(run, outcomes.total(), outcomes))


async def calls(request: web.Request) -> web.StreamResponse:
    """GET /spaces/{space}/calls: newest first, a line of JSON each; the last says whether these are all."""
    unpod = request.app[UNPOD].with_options(deadline=30)
    pages = unpod.tasks.list(request.match_info["space"]).pages()
    page = await anext(pages, None)  # what goes wrong up to here still has a status of its own
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    rows = 0
    try:
        while page is not None:
            text = ENCODER.encode_lines([row_of(task) for task in page.items])
            rows += len(page.items)
            await response.write(text)
            page = await anext(pages, None)
    except UnpodError as error:
        log.warning("a list broke off after %d rows: %s", rows, error)
        last = Last(rows, error=f"{type(error).__name__}: calls are missing")
    else:
        last = Last(rows, end=True)
    await response.write(ENCODER.encode(last) + b"\n")
    return response


def row_of(task: Task) -> Row:
    call = task.call
    return Row(
        task.task_id,
        task.status,
        call.outcome if call else None,
        call.duration if call else None,
    )


@web.middleware
async def refuse(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except InvalidArgument as error:  # an id that cannot be one; nothing was sent
        return json({"detail": str(error)}, 400)
    except RefusedError:
        return json({"detail": "there is no such space, or it is not ours"}, 404)
    except RateLimitedError as error:
        later = {"Retry-After": str(math.ceil(error.retry_after or 10))}
        return json({"detail": "the platform asks to wait"}, 503, later)
    except UnpodError as error:  # its text, which quotes what the platform said, is for the log
        log.warning("%s", error)
        return json({"detail": f"the platform could not be read: {type(error).__name__}"}, 502)


def json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    body = ENCODER.encode(content)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def make_app() -> web.Application:
    app = web.Application(middlewares=[refuse])
    app.cleanup_ctx.append(one_client)
    app.router.add_get("/spaces/{space}/runs/{run}", summary)
    app.router.add_get("/spaces/{space}/calls", calls)
    return app


if __name__ == "__main__":
    web.run_app(
        make_app(),
        host="127.0.0.1",
        port=int(os.environ.get("PORT", "8080")),
        handler_cancellation=True,  # a browser that goes away ends the walk at once
        shutdown_timeout=35,  # more than any deadline: a stop cuts no stream
    )
