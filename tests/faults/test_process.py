"""Rows 41 to 47 and 53 to 55: cancellation, event loops, processes, clocks, and exhausted resources."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cancel import cancel_everywhere
from tests.faults.harness import (
    CREATED,
    FAST,
    ORGS,
    SPACE,
    TOKEN,
    Row,
    always,
    client_for,
    create,
    each_in_turn,
    no_secret_in,
    orgs,
    shown,
    walk_runs,
    watch,
)
from tests.raw_server import RawConnection, RawServer, json_response
from unpod_async import (
    ConfigurationError,
    CreateRequest,
    OutcomeUnknown,
    TransportError,
    UnpodClient,
)
from unpod_async._http import GRACE
from unpod_async.testing import Fault, Sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "unpod_async"


# --- row 41: cancelled at every await ----------------------------------------------------------------------

Job = Callable[[UnpodClient, Sandbox], "Awaitable[Any]"] if TYPE_CHECKING else object


async def retried_read(unpod: UnpodClient, sandbox: Sandbox) -> None:
    """A read that is retried twice: the attempts and the delays between them."""
    sandbox.script(Fault(status=503, times=2))
    await unpod.runs.list(sandbox.space_token).collect()


async def limited_read(unpod: UnpodClient, sandbox: Sandbox) -> None:
    """A read that waits for a closed rate gate."""
    sandbox.script(Fault(status=429, headers={"Retry-After": "0"}))
    probe = asyncio.ensure_future(unpod.runs.list(sandbox.space_token).collect())
    try:
        await unpod.runs.list(sandbox.space_token).collect()
    finally:
        probe.cancel()
        await asyncio.wait({probe})


async def hurried_walk(unpod: UnpodClient, sandbox: Sandbox) -> None:
    view = unpod.with_options(deadline=5, page_size=2, max_concurrency=1)
    async for _ in view.runs.list(sandbox.space_token):
        await asyncio.sleep(0)


async def prefetched(unpod: UnpodClient, sandbox: Sandbox) -> None:
    async with unpod.runs.list(sandbox.space_token, page_size=2).prefetch(3) as stream:
        async for _ in stream:
            await asyncio.sleep(0)


async def many_runs(unpod: UnpodClient, sandbox: Sandbox) -> None:
    async with unpod.with_options(deadline=5).runs.tasks_for(sandbox.space_token, concurrency=2) as stream:
        async for _ in stream:
            await asyncio.sleep(0)


async def one_create(unpod: UnpodClient, sandbox: Sandbox) -> None:
    sandbox.script(Fault(status=429, method="POST"))
    await unpod.tasks.create(
        sandbox.space_token, pilot=sandbox.agent_handle, documents=[document("create")], context="x"
    )


async def looked_for(unpod: UnpodClient, sandbox: Sandbox) -> None:
    sandbox.script(Fault(status=502, method="POST", processed=True))
    try:
        await one_create(unpod, sandbox)
    except OutcomeUnknown as unknown:
        await unpod.tasks.reconcile(unknown)


def document(name: str) -> dict[str, str]:
    return {"name": name, "contact_number": "+15550100"}


JOBS = [retried_read, limited_read, hurried_walk, prefetched, many_runs, one_create, looked_for]


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("job", JOBS)
async def test_row_41_cancelled_at_every_await(row: Row, job: Any, late: bool) -> None:
    notes: list[tuple[int, list[str]]] = []
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox:

        async def run() -> None:
            sandbox._server.script._left.clear()
            for made_before in sandbox.run_ids()[:-4]:
                sandbox.delete_run(made_before)  # otherwise each repetition searches more runs
            queued, finished = len(sandbox.ledger), False
            try:
                async with UnpodClient(
                    sandbox.token, sandbox.org_handle, sandbox.base_url, retry=FAST, auth_scheme="Token"
                ) as unpod:
                    await job(unpod, sandbox)
                    finished = True
            except asyncio.CancelledError as cancelled:
                no_secret_in(*(text for text in shown(cancelled)))
                if not finished:  # otherwise the client was being closed
                    notes.append((len(sandbox.ledger) - queued, notes_of(cancelled)))
                raise
            finally:
                assert len(sandbox.ledger) - queued <= 1

        points = await cancel_everywhere(run, at_most=400, late=late)
        assert points >= 3
        if job is one_create:
            # A cancellation after a POST that may have queued a call has a note.
            assert any(texts for _, texts in notes)
            assert all(texts for calls, texts in notes if calls)
        row.note(f"{job.__name__}: CancelledError, nothing left, at most one call", "–")


def notes_of(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


async def test_row_41_a_batch_job_cancelled_at_every_await(row: Row, tmp_path: Path) -> None:
    """After each cancellation the job is run again until it is complete: nobody is called twice."""
    number = 0
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox:
        journal = tmp_path / "journal"

        async def run() -> None:
            requests = [
                CreateRequest(
                    pilot=sandbox.agent_handle, documents=[document(f"{number}-{batch}")], context="x"
                )
                for batch in range(2)
            ]
            async with UnpodClient(sandbox.token, base_url=sandbox.base_url, retry=FAST) as unpod:
                await unpod.tasks.create_many(sandbox.space_token, requests, journal=journal)

        def next_one(point: int) -> None:
            nonlocal number, journal
            again.append((number, journal))
            number += 1
            journal = tmp_path / f"journal-{number}"

        again: list[tuple[int, Path]] = []
        await cancel_everywhere(run, at_most=400, after_each=next_one)
        for this in again:
            number, journal = this
            await run()
        called = Counter(call.document["name"] for call in sandbox.ledger)
        assert max(called.values()) == 1, called
        assert len(again) >= 5
        row.note("create_many: CancelledError; run again, nobody is called twice", "≤ 1 per document")


async def test_row_41_a_journal_is_not_closed_under_the_thread_that_writes_it(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor of a closed file may belong to another file by the time the thread uses it."""
    faults: list[OSError] = []
    writing = threading.Event()
    fsync = os.fsync

    def slow(file: int) -> None:
        writing.set()
        time.sleep(0.05)
        try:
            fsync(file)
        except OSError as error:
            faults.append(error)

    journal = tmp_path / "journal"
    async with Sandbox(runs=1, tasks_per_run=1) as sandbox:
        unpod = UnpodClient(sandbox.token, base_url=sandbox.base_url)
        async with unpod:
            request = CreateRequest(pilot=sandbox.agent_handle, documents=[document("Ann")], context="x")
            job = asyncio.ensure_future(
                unpod.tasks.create_many(sandbox.space_token, [request], journal=journal)
            )
            await asyncio.sleep(0)
            monkeypatch.setattr(os, "fsync", slow)
            assert await asyncio.to_thread(writing.wait, 50)
            job.cancel()
            await asyncio.wait({job})
            assert job.cancelled()
            await asyncio.sleep(0.1)  # time for the thread to fail
            assert not faults
            monkeypatch.undo()
            (result,) = await unpod.tasks.create_many(sandbox.space_token, [request], journal=journal)
            assert result.state == "not_found", "the request was recorded but never sent"
            assert not sandbox.ledger
    row.note("create_many cancelled while its journal is written: reported, not sent", 0)


# --- rows 42 and 43 ----------------------------------------------------------------------------------------


class OwnError(Exception):
    """An exception of the user's code."""


@pytest.mark.parametrize("how", ["break", "raise"])
@pytest.mark.parametrize("kind", ["pager", "pages", "raw", "prefetch", "tasks_for"])
async def test_row_42_left_at_every_row(row: Row, kind: str, how: str) -> None:
    async with contextlib.AsyncExitStack() as both:
        sandbox = await both.enter_async_context(Sandbox(runs=7, tasks_per_run=2))
        unpod = await both.enter_async_context(
            UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=2)
        )
        runs = unpod.runs.list(sandbox.space_token)

        async def leave_at(index: int) -> None:
            seen = 0
            async with contextlib.AsyncExitStack() as stack:
                source: Any = {"pager": runs, "pages": runs.pages(), "raw": runs.raw()}.get(kind)
                if kind == "prefetch":
                    source = await stack.enter_async_context(runs.prefetch(3))
                elif kind == "tasks_for":
                    made = unpod.runs.tasks_for(sandbox.space_token, concurrency=3)
                    source = await stack.enter_async_context(made)
                async for _ in source:
                    if seen == index:
                        if how == "break":
                            break
                        raise OwnError
                    seen += 1

        for index in range(6):
            if how == "break" or (kind == "pages" and index > 3):
                await leave_at(index)
            else:
                with pytest.raises(OwnError):
                    await leave_at(index)
    row.note(f"{how}: nothing left", "–")


async def test_row_43_cancelled_a_second_time_while_it_cleans_up(row: Row) -> None:
    async with RawServer(always("stall")) as server:
        for turns in range(6):

            async def job() -> None:
                async with (
                    client_for(server.base_url) as unpod,
                    unpod.runs.tasks_for(SPACE, ["R1", "R2", "R3"], concurrency=3) as stream,
                ):
                    async for _ in stream:
                        pass

            task = asyncio.ensure_future(job())
            await asyncio.sleep(0.03)
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})  # the server never answers
            assert task.cancelled()
    row.note("second cancel: CancelledError, nothing left", "–")


SIGNALLED = """
import asyncio, signal, sys
from unpod_async import UnpodClient

async def main():
    # In development mode, asyncio reports slow callbacks, which are normal on a busy machine.
    asyncio.get_running_loop().slow_callback_duration = 60
    if sys.argv[2] == "SIGTERM":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    async with UnpodClient("t0ken", base_url=sys.argv[1]) as unpod:
        async with unpod.runs.tasks_for("SPACE", ["R1", "R2"]) as stream:
            async for _ in stream:
                pass

try:
    asyncio.run(main())
except (KeyboardInterrupt, asyncio.CancelledError) as ended:
    print(type(ended).__name__)
"""


@pytest.mark.parametrize(("name", "ends"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "CancelledError")])
async def test_row_43_signals(row: Row, name: str, ends: str) -> None:
    stalled = Stalled()
    async with RawServer(stalled) as server:
        process = await python(SIGNALLED, server.base_url, name)
        for _ in range(2):
            await stalled.arrived.acquire()
        process.send_signal(getattr(signal, name))
        printed, complained = await process.communicate()  # the server never answers
        assert printed.decode().split() == [ends]
        assert complained == b""
    row.note(f"{name}: {ends}, no warning", "–")


async def python(script: str, *args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", script, *args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def run_python(script: str, *args: str) -> tuple[str, str, int | None]:
    process = await python(script, *args)
    printed, complained = await process.communicate()
    return printed.decode(), complained.decode(), process.returncode


class Stalled:
    """Return a handler that reports each request and sends `answer`."""

    def __init__(self, answer: bytes = b"") -> None:
        self.arrived = asyncio.Semaphore(0)
        self._answer = answer

    async def __call__(self, connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            self.arrived.release()
            await connection.send(self._answer)


# --- rows 44 to 47: loops and processes --------------------------------------------------------------------


def test_row_44_another_event_loop(row: Row) -> None:
    unpod: UnpodClient

    async def first() -> None:
        async with RawServer(always(ORGS)) as server:
            nonlocal unpod
            unpod = UnpodClient(TOKEN, base_url=server.base_url)
            await orgs(unpod)
            await unpod._context.executor.transport.sessions.reads.close()  # type: ignore[union-attr]

    async def second() -> None:
        for call in (orgs, create, walk_runs):
            outcome = await watch(call(unpod))
            assert type(outcome.error) is ConfigurationError
            assert "event loop" in str(outcome.error)
        await unpod.aclose()

    asyncio.run(first())
    asyncio.run(second())
    row.note("read, create: ConfigurationError", 0)


async def test_row_45_closed_with_calls_in_flight(row: Row) -> None:
    stalled = Stalled()
    async with RawServer(stalled) as server:
        for call, expect in ((orgs, TransportError), (walk_runs, TransportError), (create, OutcomeUnknown)):
            unpod = UnpodClient(TOKEN, base_url=server.base_url)  # with the default retry policy
            before = len(server.requests)
            flight = asyncio.ensure_future(watch(call(unpod)))
            await stalled.arrived.acquire()
            began = time.monotonic()
            await unpod.aclose(grace=0)
            outcome = await flight
            assert type(outcome.error) is expect, outcome.error
            assert "closed" in str(outcome.error)
            assert time.monotonic() - began < GRACE
            assert len(server.requests) - before == 1
            kind = "create" if call is create else "read"
            row.note(f"{kind}: {outcome.name}", 1)
            outcome = await watch(call(unpod))
            assert type(outcome.error) is ConfigurationError
            assert "closed" in str(outcome.error)


async def test_row_45_closed_while_others_wait_for_a_slot_or_a_retry(row: Row) -> None:
    stalled = Stalled(json_response({}, 503))
    async with RawServer(stalled) as server:
        unpod = UnpodClient(TOKEN, base_url=server.base_url, max_concurrency=1)
        flights = [asyncio.ensure_future(watch(orgs(unpod))) for _ in range(4)]
        await stalled.arrived.acquire()
        await unpod.aclose(grace=0)
        for flight in flights:
            outcome = await flight
            assert type(outcome.error) is TransportError
            assert "closed" in str(outcome.error)
    row.note("waiting reads: TransportError", "–")


async def test_row_46_never_closed(row: Row) -> None:
    async with RawServer(each_in_turn([ORGS], [CREATED])) as server:
        unpod = UnpodClient(TOKEN, base_url=server.base_url)
        line = unpod_line()
        await orgs(unpod)
        await create(unpod)
        view = unpod.with_options(deadline=5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del unpod
            gc.collect()
            assert not caught  # a view of it is still in use
            del view
            gc.collect()
            for _ in range(10):
                await asyncio.sleep(0)
        (warning,) = caught
        assert warning.category is ResourceWarning
        assert f"{__file__}:{line - 1}" in str(warning.message)
        no_secret_in(str(warning.message))
    row.note("one ResourceWarning that names the line", "–")


def unpod_line() -> int:
    return sys._getframe(1).f_lineno


async def test_row_46_unused_or_closed_clients_warn_of_nothing(row: Row) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UnpodClient(TOKEN)
        async with RawServer(always(ORGS)) as server, client_for(server.base_url) as unpod:
            await orgs(unpod)
        del unpod
        gc.collect()


NEVER_CLOSED = """
import asyncio, sys
from unpod_async import UnpodClient

async def main():
    unpod = UnpodClient("t0ken", base_url=sys.argv[1])
    await unpod.organizations.list().collect()

asyncio.run(main())
"""


async def test_the_warning_names_the_line_that_asked_a_sandbox_for_the_client() -> None:
    async with Sandbox(runs=1) as sandbox:
        unpod = sandbox.client()
        line = unpod_line()
        await unpod.runs.list(sandbox.space_token).collect()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del unpod
            gc.collect()
            for _ in range(10):
                await asyncio.sleep(0)
    (warning,) = caught
    assert f"{__file__}:{line - 1}" in str(warning.message)


async def test_row_46_never_closed_after_the_loop_ended(row: Row) -> None:
    async with RawServer(always(ORGS)) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-c", NEVER_CLOSED, server.base_url),
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        _, complained = await process.communicate()
    ours = re.findall(
        r"ResourceWarning: the UnpodClient created at <string>:6 was never closed", complained.decode()
    )
    assert len(ours) == 1, complained.decode()
    assert "Unclosed" not in complained.decode()


FORKED = """
import asyncio, os, sys
from unpod_async import UnpodClient, ConfigurationError

async def main():
    async with UnpodClient("t0ken", base_url=sys.argv[1]) as unpod:
        await unpod.organizations.list().collect()
        child = os.fork()
        if child == 0:
            try:
                await unpod.organizations.list().collect()
            except ConfigurationError as error:
                assert "fork" in str(error)
                await unpod.aclose()  # does not touch the parent's connections
                os._exit(3)
            os._exit(4)
        _, status = os.waitpid(child, 0)
        await unpod.organizations.list().collect()
        print(os.waitstatus_to_exitcode(status), unpod.stats.attempts)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
async def test_row_47_forked(row: Row) -> None:
    async with RawServer(always(ORGS)) as server:
        printed, complained, code = await run_python(FORKED, server.base_url)
        assert (printed.split(), code) == (["3", "2"], 0), complained
        assert len(server.requests) == 2
        assert server.connections == 1, "the parent's connection was still good"
    row.note("child: ConfigurationError; parent: ok", 2)


# --- rows 53 to 55 -----------------------------------------------------------------------------------------

JUMPING = """
import itertools, time
real, jumps = time.time, itertools.cycle((7200.0, -7200.0, 0.0))
time.time = lambda: real() + next(jumps)

import asyncio, sys
from unpod_async import RetryPolicy, UnpodClient

async def main():
    policy = RetryPolicy(attempts=3, base=0.01, cap=0.02)
    async with UnpodClient("t0ken", base_url=sys.argv[1], retry=policy, timeout=30, rate_limit=100) as unpod:
        began = time.monotonic()
        for _ in range(6):
            await unpod.with_options(deadline=30).organizations.list().collect()
        print(unpod.stats.attempts, time.monotonic() - began < 3600)

asyncio.run(main())
"""


async def test_row_53_the_clock_jumps(row: Row) -> None:
    async with RawServer(each_in_turn(*[[json_response({}, 503)], [ORGS]] * 6)) as server:
        printed, complained, code = await run_python(JUMPING, server.base_url)
        assert (printed.split(), code) == (["12", "True"], 0), complained
        row.note("6 reads, each retried once: ok", len(server.requests))


def test_row_53_wall_time_is_no_part_of_requests_and_listings(row: Row) -> None:
    readers = set()
    for room in ("_http", "_paging"):
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    name = f"{node.value.id}.{node.attr}"
                    if name in {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}:
                        readers.add(path.name)
    # It compares a date in Retry-After with the clock of this machine if the response has no Date header.
    assert readers == {"responses.py"}
    row.note("wall time is used only for a date in Retry-After without a Date header", "–")


NO_FILES = """
import asyncio, contextlib, os, resource, sys
from unpod_async import RetryPolicy, TransportError, UnpodClient

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    policy = RetryPolicy(attempts=3, base=0.001, cap=0.002)
    async with UnpodClient("t0ken", base_url=sys.argv[1], retry=policy) as unpod:
        await unpod.organizations.list().collect()  # import everything first
        await unpod.aclose()
    async with UnpodClient("t0ken", base_url=sys.argv[1], retry=policy) as unpod:
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        documents = [{"name": "Ann", "contact_number": "+1555"}]
        calls = [
            unpod.organizations.list().collect(),
            unpod.tasks.create("S", pilot="p", documents=documents, context="c"),
        ]
        for call in calls:
            try:
                await call
            except TransportError as error:
                print(error.sent, len(error.attempts))
        for one in taken:
            os.close(one)
        print(len(await unpod.organizations.list().collect()))

asyncio.run(main())
"""


async def test_row_54_no_file_descriptor_left(row: Row) -> None:
    async with RawServer(always(ORGS)) as server:
        printed, complained, code = await run_python(NO_FILES, server.base_url)
        assert (printed.split(), code) == (["False", "3", "False", "3", "1"], 0), complained
        assert len(server.requests) == 2
    row.note("read, create: TransportError (not sent), then ok", 1)


@pytest.mark.parametrize("ahead", [1, 3])
async def test_row_55_the_reader_is_slower_than_the_network(row: Row, ahead: int) -> None:
    pages = 20
    async with Sandbox(runs=pages * 5, tasks_per_run=0) as sandbox:
        unpod = UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=5)
        async with unpod:
            got = 0
            async with unpod.runs.list(sandbox.space_token).prefetch(ahead) as stream:
                async for _ in stream:
                    if got % 5 == 0:
                        await asyncio.sleep(0.005)  # enough time for all requests that it would send
                        assert sandbox.requests <= got // 5 + 1 + ahead
                    got += 1
            assert got == pages * 5
    row.note("prefetch(n): never more than n pages beyond the one that is read", "–")


async def test_row_55_workers_hold_a_page_each(row: Row) -> None:
    async with Sandbox(runs=6, tasks_per_run=20) as sandbox:
        unpod = UnpodClient(sandbox.token, base_url=sandbox.base_url, page_size=5)
        async with unpod:
            got = 0
            made = unpod.runs.tasks_for(sandbox.space_token, sandbox.run_ids(), concurrency=2)
            async with made as stream:
                async for _ in stream:
                    if got % 5 == 0:
                        await asyncio.sleep(0.005)
                        # One page for each worker, and one page at the end of each run.
                        assert sandbox.requests <= got // 5 + 2 + 6
                    got += 1
            assert got == 120
