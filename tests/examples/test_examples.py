"""The example web applications under real servers: concurrent requests, closed browsers, a stop of the
server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

import unpod_async
from tests.examples.serving import APPS, NO_LIMIT, Browser, Running, serving
from tests.leaks import SANDBOX_SECRETS
from unpod_async import Task
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PLACES = 8
"""Maximum number of requests in flight of the client of an application."""

pytestmark = pytest.mark.parametrize("app", APPS)


@asynccontextmanager
async def browsing(url: str) -> AsyncIterator[Browser]:
    """Yield a browser. Its responses must contain no data of the user who placed the calls, and no token."""
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as session:
        browser = Browser(session)
        yield browser
    everything = b"".join(browser.seen)
    assert everything
    for forbidden in (b"user_info", b"user_token", b"contact_number", b"output"):
        assert forbidden not in everything
    assert SANDBOX_SECRETS.search(everything.decode()) is None


@asynccontextmanager
async def running(
    app: str, monkeypatch: pytest.MonkeyPatch, *, grace: int = NO_LIMIT, **data: Any
) -> AsyncIterator[tuple[Sandbox, Running, Browser]]:
    async with asyncio.timeout(200), Sandbox(**data) as sandbox:
        for name, value in environment(sandbox).items():
            monkeypatch.setenv(name, value)
        async with serving(app, grace=grace) as server, browsing(server.url) as browser:
            yield sandbox, server, browser


def environment(sandbox: Sandbox) -> dict[str, str]:
    return {
        "UNPOD_PLATFORM_TOKEN": sandbox.token,
        "UNPOD_ORG_HANDLE": sandbox.org_handle,
        "UNPOD_BASE_URL": sandbox.base_url,
    }


def calls_of(sandbox: Sandbox, _: str = "") -> str:
    return f"/spaces/{sandbox.space_token}/calls"


def summary_of(sandbox: Sandbox, run_id: str) -> str:
    return f"/spaces/{sandbox.space_token}/runs/{run_id}"


def expected_page(sandbox: Sandbox, run_id: str) -> dict[str, Any]:
    """Return the expected response for a run."""
    tasks = [msgspec.convert(row, Task) for row in decodable(sandbox, run_id)]
    outcomes = Counter((task.call and task.call.outcome) or task.status or "unknown" for task in tasks)
    return {"run_id": run_id, "calls": len(tasks), "outcomes": dict(outcomes)}


def decodable(sandbox: Sandbox, run_id: str) -> list[dict[str, Any]]:
    rows = list(sandbox.task_rows(run_id))
    assert all(row["user_info"]["user_token"] for row in rows)  # there is something to keep back
    return [row | {"output": msgspec.Raw(msgspec.json.encode(row["output"]))} for row in rows]


# --- what is answered --------------------------------------------------------------------------------------


async def test_200_concurrent_requests_all_get_a_response(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(app, monkeypatch, runs=20, tasks_per_run=(3, 9)) as (sandbox, _, browser):
        runs = [sandbox.run_ids()[number % 20] for number in range(190)]
        answers = await asyncio.gather(
            *(browser.get(summary_of(sandbox, run_id)) for run_id in runs),
            *(browser.get(calls_of(sandbox)) for _ in range(200 - len(runs))),
        )
        for run_id, answer in zip(runs, answers, strict=False):
            assert (answer.status, answer.json) == (200, expected_page(sandbox, run_id))
        for answer in answers[len(runs) :]:
            *rows, last = answer.lines
            assert last == {"end": True, "rows": sandbox.task_count}
            assert [row["task_id"] for row in rows] == sandbox.task_ids()
            assert set(rows[0]) == {"task_id", "status", "outcome", "seconds"}


async def test_an_unknown_run_is_not_a_run_without_calls(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(app, monkeypatch, runs=2) as (sandbox, _, browser):
        empty = sandbox.insert_run(tasks=0)
        answer = await browser.get(summary_of(sandbox, empty))
        assert (answer.status, answer.json) == (200, {"run_id": empty, "calls": 0, "outcomes": {}})
        answer = await browser.get(summary_of(sandbox, "R0000"))
        assert (answer.status, answer.json["detail"]) == (404, "there is no such run")


async def test_every_error_has_an_http_status(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(app, monkeypatch, runs=2) as (sandbox, _, browser):
        for page in (calls_of(sandbox), summary_of(sandbox, sandbox.run_ids()[0])):
            assert (await browser.get(page.replace(sandbox.space_token, "%20"))).status == 400
            assert (await browser.get(page.replace(sandbox.space_token, "SPACEUNKNOWN"))).status == 404
            # No text of the platform is passed on.
            sandbox.script(Fault(status=403, body=b'{"message": "user_info %s"}' % sandbox.token.encode()))
            answer = await browser.get(page)
            assert (answer.status, answer.json) == (
                502,
                {"detail": "the platform could not be read: PermissionDeniedError"},
            )


@pytest.mark.parametrize("page", [calls_of, summary_of])
async def test_a_request_does_not_wait_when_the_platform_asks_for_a_delay(
    app: str, page: Callable[[Sandbox, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(app, monkeypatch, runs=2) as (sandbox, _, browser):
        path = page(sandbox, sandbox.run_ids()[0])
        sandbox.script(Fault(status=429, headers={"Retry-After": "120"}))
        answer = await browser.get(path)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "120")
        # In that time, other calls fail at once and send no request.
        assert (await browser.get(path)).status == 502
        assert sandbox.requests == 1


async def test_an_interrupted_list_reports_that_it_is_incomplete(
    app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(app, monkeypatch, runs=50, tasks_per_run=6) as (sandbox, _, browser):
        sandbox.script(Fault(status=403, page=3, body=b'{"message": "user_info"}'))
        *rows, last = (await browser.get(calls_of(sandbox))).lines
        assert [row["task_id"] for row in rows] == sandbox.task_ids()[:200]
        assert last == {"error": "PermissionDeniedError: calls are missing", "rows": 200}


async def test_a_row_that_cannot_be_read_makes_a_list_incomplete(
    app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(app, monkeypatch, runs=2) as (sandbox, _, browser):
        bad = sandbox.task_ids()[4]
        sandbox.malform(bad, b'{"task_id": 7}')
        *rows, last = (await browser.get(calls_of(sandbox))).lines
        assert [row["task_id"] for row in rows] == [one for one in sandbox.task_ids() if one != bad]
        assert last == {"error": "DecodeError: calls are missing", "rows": len(rows)}


# --- browsers that leave -----------------------------------------------------------------------------------


async def test_the_walk_ends_when_the_browser_disconnects(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left (see conftest), the slots are free, and the server stops without waiting."""
    browsers = 20
    async with running(app, monkeypatch, runs=50, tasks_per_run=6) as (sandbox, server, browser):
        # Second pages would not come for an hour: what ends has been ended.
        sandbox.script(Fault(stall=3600, page=2, times=browsers))
        streams = [await browser.open(calls_of(sandbox)) for _ in range(PLACES)]
        assert {(await stream.line())["task_id"] for stream in streams} == {sandbox.task_ids()[0]}
        await sandbox.arrived(2 * PLACES)  # every slot is taken
        for stream in streams:
            stream.leave()
        answer = await browser.get(summary_of(sandbox, sandbox.run_ids()[0]))
        assert answer.json == expected_page(sandbox, sandbox.run_ids()[0])
        await server.stop()
        assert sandbox.requests == 2 * PLACES + 1


# --- the server stops --------------------------------------------------------------------------------------


async def test_a_stop_cancels_requests_that_do_not_end(app: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(app, monkeypatch, runs=50, tasks_per_run=6, grace=1) as (sandbox, server, browser):
        sandbox.script(Fault(stall=3600, page=2, times=3))
        streams = [await browser.open(calls_of(sandbox)) for _ in range(3)]
        await sandbox.arrived(6)
        await server.stop()
        for stream in streams:  # cut short, and it can be seen: there is no last line
            with pytest.raises(aiohttp.ClientPayloadError):
                await stream.rest()
        assert sandbox.requests == 6


COMMANDS = {
    "fastapi_app": "uvicorn fastapi_app:app --timeout-graceful-shutdown 35",
    "litestar_app": "uvicorn litestar_app:app --timeout-graceful-shutdown 35",
    "aiohttp_app": "python aiohttp_app.py",
}
HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
async def test_a_server_that_gets_sigterm_finishes_open_streams_and_ends_cleanly(
    app: str, free_tcp_port: int
) -> None:
    """Start an example with its command, as a program with warnings as errors."""
    command = COMMANDS[app]
    assert f"\n{command}\n" in (HERE / f"{app}.py").read_text(encoding="utf-8")
    words = command.removeprefix("python ").split()
    if words[0] == "uvicorn":
        words = ["-m", *words, "--port", str(free_tcp_port)]
    async with asyncio.timeout(200), Sandbox(runs=50, tasks_per_run=6) as sandbox:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-W", "error", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=HERE,
            env={
                **os.environ,
                **environment(sandbox),
                "PORT": str(free_tcp_port),
                "PYTHONUNBUFFERED": "1",
                # The package that is tested here, whichever else is installed.
                "PYTHONPATH": str(Path(unpod_async.__file__).parents[1]),
            },
        )
        try:
            assert process.stdout is not None
            said: list[str] = []
            while not said or "unning on http://127.0.0.1" not in said[-1]:
                line = await process.stdout.readline()
                assert line, said
                said.append(line.decode())
            async with browsing(f"http://127.0.0.1:{free_tcp_port}") as browser:
                sandbox.script(Fault(stall=0.5, page=2, times=3))
                streams = [await browser.open(calls_of(sandbox)) for _ in range(3)]
                await sandbox.arrived(6)
                process.send_signal(signal.SIGTERM)
                for stream in streams:
                    assert (await stream.rest())[-1] == {"end": True, "rows": sandbox.task_count}
            said.append((await process.stdout.read()).decode())
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        # uvicorn ends by the signal it was sent, as a program should that has cleared up.
        assert status == (0 if app == "aiohttp_app" else -signal.SIGTERM), said
        assert re.search(r"error|warning|traceback|exception", "".join(said), re.IGNORECASE) is None, said
