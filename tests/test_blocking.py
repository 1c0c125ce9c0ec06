"""The client for synchronous programs: it follows `UnpodClient`; threads, Ctrl-C and closing."""

from __future__ import annotations

import asyncio
import copy
import inspect
import linecache
import os
import pickle
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import unpod_async.blocking
from tests.leaks import leaks
from unpod_async import (
    ConfigurationError,
    CreateRequest,
    ExportProgress,
    Failed,
    Ok,
    OutcomeUnknown,
    Page,
    Pager,
    RecordingError,
    RefusedError,
    RetryPolicy,
    RunSeen,
    Stream,
    TransportError,
    UnpodClient,
    UnpodError,
    Watch,
)
from unpod_async.blocking import (
    BlockingClient,
    BlockingIterator,
    BlockingPager,
    BlockingStream,
    BlockingWatch,
)
from unpod_async.testing import Fault, Sandbox, faults

SPACE = Sandbox.space_token
DOCUMENT = {"name": "A. Example", "contact_number": "9000000001"}
STALL = Fault(stall=3600)


def threads() -> set[threading.Thread]:
    """Return the threads that run, except the timer of the test."""
    return {thread for thread in threading.enumerate() if not isinstance(thread, threading.Timer)}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threads()
    yield
    assert threads() == before


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox(runs=6, tasks_per_run=3) as sandbox:
        yield sandbox


@pytest.fixture
def unpod(box: Sandbox) -> Iterator[BlockingClient]:
    with BlockingClient(box.client(page_size=2, retry=RetryPolicy(base=0.001))) as client:
        yield client


# --- it follows the asynchronous client --------------------------------------------------------------------

FACADES = {
    UnpodClient: BlockingClient,
    Pager: BlockingPager,
    Stream: BlockingStream,
    Watch: BlockingWatch,
}
GROUPS = ("organizations", "spaces", "agents", "runs", "tasks", "call_logs", "recordings")


def pairs() -> list[tuple[type, type]]:
    client = UnpodClient("0" * 40)
    facade = BlockingClient(client)
    groups = [(type(getattr(client, name)), type(getattr(facade, name))) for name in GROUPS]
    return [*FACADES.items(), *groups]


def public(kind: type) -> dict[str, Any]:
    return {
        name: value
        for base in reversed(kind.__mro__)
        for name, value in vars(base).items()
        if not name.startswith("_")
    }


def test_the_groups_are_complete() -> None:
    client = UnpodClient("0" * 40)
    assert {name for name in vars(client) if not name.startswith("_")} == {*GROUPS}


@pytest.mark.parametrize(("kind", "facade"), pairs(), ids=lambda kind: kind.__name__)
def test_methods_are_those_of_the_asynchronous_class(kind: type, facade: type) -> None:
    wanted, found = public(kind), public(facade)
    if kind is UnpodClient:
        wanted["close"] = wanted.pop("aclose")
    assert {*found} == {*wanted}
    for name, value in wanted.items():
        if not callable(value) or name == "close":
            continue
        assert not inspect.iscoroutinefunction(found[name])
        theirs, ours = inspect.signature(value), inspect.signature(found[name])
        assert ours.parameters == theirs.parameters
        assert not re.search(r"\b(Pager|Stream|Watch|ListingIterator|UnpodClient)\b", ours.return_annotation)
        doc = inspect.getdoc(found[name])
        assert doc is not None
        assert doc.splitlines()[0] == str(inspect.getdoc(value)).splitlines()[0].replace(
            "Pager", "BlockingPager"
        )
        assert not re.search(r"\bawait |\basync (for|with)\b", doc)


@pytest.mark.parametrize(("kind", "facade"), pairs(), ids=lambda kind: kind.__name__)
def test_properties_have_the_same_meaning(kind: type, facade: type) -> None:
    for name, value in public(kind).items():
        if isinstance(value, property):
            ours, theirs = inspect.getdoc(public(facade)[name]), inspect.getdoc(value)
            assert str(ours).partition(".")[0] == str(theirs).partition(".")[0]


# --- calls -------------------------------------------------------------------------------------------------


def test_a_listing_is_read_page_by_page(box: Sandbox, unpod: BlockingClient) -> None:
    runs = unpod.runs.list(SPACE)
    assert isinstance(runs, BlockingPager)
    rows = iter(runs)
    assert box.requests == 0
    assert [next(rows).run_id, next(rows).run_id] == box.run_ids()[:2]
    assert box.requests == 1
    next(rows)
    assert box.requests == 2
    assert [run.run_id for run in runs] == box.run_ids()


def test_the_methods_of_a_listing(box: Sandbox, unpod: BlockingClient) -> None:
    runs = unpod.runs.list(SPACE)
    pages = [*runs.pages()]
    assert [type(page) for page in pages] == [Page] * 3
    assert [len(page.items) for page in pages] == [2, 2, 2]
    assert [type(row) for row in runs.raw()] == [bytes] * 6
    assert [run.run_id for run in runs.collect(limit=3)] == box.run_ids()[:3]
    first = runs.first()
    assert first is not None
    assert first.run_id == box.run_ids()[0]
    assert runs.count() == 6
    assert runs.to_arrow().num_rows == 6
    with runs.prefetch(2) as stream:
        assert [run.run_id for run in stream] == box.run_ids()
    assert unpod.agents.list().count() == 3
    assert unpod.agents.tasks(box.agent_handle).count() == 18
    assert unpod.runs.find(SPACE, box.run_ids()[3]) is not None


def test_tasks_of_many_runs(box: Sandbox, unpod: BlockingClient) -> None:
    with unpod.runs.tasks_for(SPACE) as tasks:
        assert sorted(str(task.task_id) for task in tasks) == sorted(box.task_ids())
    with unpod.runs.tasks_for(
        SPACE, unpod.runs.list(SPACE, limit=2), ordered=True, errors="yield"
    ) as results:
        found = [*results]
    assert [result.run_id for result in found if isinstance(result, Ok)] == [
        run for run in box.run_ids()[:2] for _ in range(3)
    ]
    with unpod.runs.tasks_for(SPACE, ["not an id!"], errors="yield") as results:
        assert [type(result) for result in results] == [Failed]


def test_a_stream_is_iterated_inside_its_block(unpod: BlockingClient) -> None:
    stream = unpod.runs.tasks_for(SPACE)
    for when in ("before", "after"):
        with pytest.raises(ConfigurationError, match="outside its `with`") as caught:
            iter(stream)
        assert "async" not in str(caught.value), when
        if when == "before":
            with stream:
                pass


def test_a_create_and_what_follows(box: Sandbox, unpod: BlockingClient, tmp_path: Path) -> None:
    create: dict[str, Any] = {"pilot": box.agent_handle, "documents": [DOCUMENT], "context": "Ask."}
    assert b"9000000001" in unpod.tasks.create(SPACE, **create, dry_run=True)
    created = unpod.tasks.create(SPACE, **create)
    box.advance(3)
    assert created.run_id is not None
    waited = unpod.runs.wait(SPACE, created.run_id, until=lambda run: len(run.tasks) == 1)
    assert waited.run.run_id == created.run_id
    box.script(faults.reset_in_body(method="POST"))
    with pytest.raises(OutcomeUnknown) as caught:
        unpod.tasks.create(SPACE, **create)
    assert unpod.tasks.reconcile(caught.value).state == "created"
    requests = [CreateRequest(**create)]
    (result,) = unpod.tasks.create_many(SPACE, requests, journal=tmp_path / "journal")
    assert result.state == "created"
    assert len(box.ledger) == 3
    task = next(task for task in unpod.tasks.list(SPACE, status="completed") if task.call)
    with pytest.raises(RecordingError):
        unpod.recordings.download(task, tmp_path)


def test_an_export(box: Sandbox, unpod: BlockingClient, tmp_path: Path) -> None:
    seen: list[ExportProgress] = []
    summary = unpod.export(SPACE, tmp_path, on_progress=seen.append)
    assert summary.complete
    assert summary.tasks == 18
    assert seen


def test_iterators_that_use_the_client_can_be_passed(box: Sandbox, unpod: BlockingClient) -> None:
    found = unpod.runs.wait(SPACE, (run for run in unpod.runs.list(SPACE, limit=2)), until=lambda run: True)
    assert [each.run.run_id for each in found] == box.run_ids()[:2]
    assert len(unpod.runs.wait(SPACE, unpod.runs.list(SPACE), until=lambda run: True)) == 6


def test_a_function_that_is_passed_cannot_use_the_client(unpod: BlockingClient) -> None:
    with pytest.raises(ConfigurationError, match="calls this client") as caught:
        unpod.runs.wait(SPACE, unpod.runs.list(SPACE), until=lambda run: bool(unpod.runs.list(SPACE).count()))
    assert caught.value.hint


def test_a_watch_reports_events_one_by_one(box: Sandbox, unpod: BlockingClient) -> None:
    with unpod.runs.watch(SPACE, interval=0.01) as events:
        first = next(iter(events))
        assert isinstance(first, RunSeen)
        state = events.state
        assert [*state.spaces[SPACE].runs] == [first.run_id]
        assert (events.polls, events.resyncs) == (0, 0)
    with unpod.runs.watch(SPACE, interval=0.01, state=state) as events:
        rows = iter(events)
        reported = [next(rows) for _ in range(5 + 18)]
    assert first.run_id not in [event.run_id for event in reported if isinstance(event, RunSeen)]


def test_options_and_counters(box: Sandbox, unpod: BlockingClient) -> None:
    view = unpod.with_options(page_size=6)
    assert isinstance(view, BlockingClient)
    assert len([*view.runs.list(SPACE).pages()]) == 1
    view.close()
    assert unpod.runs.list(SPACE).count() == 6
    assert view.stats is unpod.stats
    assert unpod.stats.requests == box.requests
    assert (view.settings.page_size, unpod.settings.page_size) == (6, 2)
    assert "UnpodClient(base_url=" in repr(unpod)
    assert "runs of space" in repr(unpod.runs.list(SPACE))


def test_a_client_from_the_environment(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPOD_PLATFORM_TOKEN", box.token)
    monkeypatch.setenv("UNPOD_BASE_URL", box.base_url)
    with BlockingClient() as unpod:
        assert unpod.runs.list(SPACE).count() == 6
    with pytest.raises(ConfigurationError, match="must be an UnpodClient"):
        BlockingClient("0" * 40)  # type: ignore[arg-type]


def test_a_client_can_be_pickled_and_copied_like_the_asynchronous_one(
    box: Sandbox, unpod: BlockingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNPOD_PLATFORM_TOKEN", box.token)
    assert box.token.encode() not in pickle.dumps(unpod)
    pickled = pickle.loads(pickle.dumps(unpod.with_options(page_size=4)))  # noqa: S301
    assert pickled.settings.page_size == 4
    for other in (pickled, copy.copy(unpod), copy.deepcopy(unpod)):
        with other:
            assert other.runs.list(SPACE).count() == 6
    for part in (unpod.runs, unpod.runs.list(SPACE), iter(unpod.runs.list(SPACE))):
        with pytest.raises(TypeError, match="pickle the BlockingClient itself"):
            pickle.dumps(part)


# --- errors ------------------------------------------------------------------------------------------------


def test_an_error_keeps_its_type_and_traceback(unpod: BlockingClient) -> None:
    with pytest.raises(RefusedError) as caught:
        unpod.runs.list("SPACENONE000000000000001").collect()
    assert caught.value.status == 206
    functions = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert functions[0] == "test_an_error_keeps_its_type_and_traceback"
    assert "_send_with_retries" in functions
    assert caught.value.__context__ is None
    assert leaks(caught.value) == []


def test_no_error_shows_a_header_of_the_call(box: Sandbox, unpod: BlockingClient) -> None:
    secret = re.compile("s3cr3t")
    headers = {"X-Key": "s3cr3t-of-the-call"}
    closed = BlockingClient(box.client())
    closed.close()
    calls: list[Callable[[], object]] = [
        lambda: unpod.request("GET", "none/", headers=headers),
        lambda: unpod.request("GET", "..", headers=headers),
        lambda: unpod.request("GET", headers=headers),  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        lambda: unpod.request("POST", "x/", json=iter(()), model=3, headers=headers),
        lambda: closed.request("GET", "x/", headers=headers),
        lambda: unpod.paginate("..", headers=headers),
        lambda: unpod.paginate("none/", headers=headers).collect(),
        lambda: unpod.with_options(page_size=0, headers=headers),
    ]
    for call in calls:
        with pytest.raises((UnpodError, TypeError)) as caught:
            call()
        assert leaks(caught.value, secret) == []
    assert headers == {"X-Key": "s3cr3t-of-the-call"}


def test_the_deadline_holds(box: Sandbox) -> None:
    box.script(STALL)
    with BlockingClient(box.client(deadline=0.05)) as unpod, pytest.raises(TransportError) as caught:
        unpod.runs.list(SPACE).first()
    assert caught.value.timed_out


async def test_an_event_loop_in_this_thread(box: Sandbox) -> None:
    unpod = BlockingClient(box.client())
    calls: list[Callable[[], object]] = [
        lambda: unpod.runs.list(SPACE).count(),
        lambda: next(iter(unpod.runs.list(SPACE))),
        lambda: unpod.runs.watch(SPACE).__enter__(),
        unpod.close,
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="an event loop runs in this thread") as caught:
            call()
        assert "await" in str(caught.value.hint)
    # In another thread it can be used.
    assert await asyncio.to_thread(lambda: unpod.runs.list(SPACE).count()) == 6
    await asyncio.to_thread(unpod.close)
    await asyncio.get_running_loop().shutdown_default_executor()


# --- nothing is left open ----------------------------------------------------------------------------------


def tasks_of_the_loop(unpod: BlockingClient) -> set[str]:
    """Return the coroutines that run in the event loop of a client, except those that always do."""
    found: set[str] = set()

    def look(run: object) -> bool:
        found.update(str(task.get_coro().__qualname__) for task in asyncio.all_tasks())
        return True

    unpod.runs.wait(SPACE, unpod.runs.list(SPACE).collect(1), until=look)
    return found


def test_what_is_abandoned_half_way_leaves_nothing(unpod: BlockingClient) -> None:
    before = tasks_of_the_loop(unpod)
    for _ in unpod.runs.list(SPACE):
        break
    rows = iter(unpod.tasks.list(SPACE).pages())
    next(rows)
    with unpod.runs.tasks_for(SPACE) as stream:
        for _ in stream:
            break
    with unpod.runs.watch(SPACE) as events:
        next(iter(events))
    with suppress(ZeroDivisionError), unpod.tasks.list(SPACE).prefetch(3) as stream:
        for _ in stream:
            raise ZeroDivisionError
    assert tasks_of_the_loop(unpod) == before


def test_no_thread_is_started_before_the_first_call(box: Sandbox) -> None:
    before = threads()
    with BlockingClient(box.client()) as unpod:
        unpod.runs.list(SPACE)
        unpod.runs.tasks_for(SPACE)
        assert threads() == before
        unpod.runs.list(SPACE).first()
        assert len(threads() - before) == 1
    assert threads() == before


def test_a_closed_client(box: Sandbox) -> None:
    client = box.client()
    unpod = BlockingClient(client)
    view, runs = unpod.with_options(), unpod.runs.list(SPACE, page_size=2)
    rows = iter(runs)
    next(rows)
    stream = unpod.runs.tasks_for(SPACE)
    with stream:
        unpod.close()
    unpod.close()
    next(rows)  # it was received before
    calls: list[Callable[[], object]] = [
        lambda: next(rows),
        lambda: next(iter(runs)),
        runs.count,
        lambda: view.runs.list(SPACE).count(),
        stream.__enter__,
        lambda: unpod.export(SPACE, "data"),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="the client is closed"):
            call()
    with pytest.raises(ConfigurationError, match="the client is closed"):
        asyncio.run(client.runs.list(SPACE).first())


@pytest.mark.parametrize("is_used", [True, False])
def test_a_grace_that_is_not_accepted_leaves_the_client_open(box: Sandbox, *, is_used: bool) -> None:
    with BlockingClient(box.client()) as unpod:
        if is_used:
            unpod.runs.list(SPACE).first()
        for grace in (-1, float("nan"), "5"):
            with pytest.raises(ConfigurationError, match="grace must be"):
                unpod.close(grace)  # type: ignore[arg-type]
        assert unpod.runs.list(SPACE).count() == 6
        unpod.close(float("inf"))


def test_closing_ends_the_calls_of_other_threads(box: Sandbox) -> None:
    unpod = BlockingClient(box.client())
    runs = box.run_ids()[:1]
    with ThreadPoolExecutor(2) as pool:
        polled = threading.Event()
        waiting = pool.submit(unpod.runs.wait, SPACE, runs, lambda run: bool(polled.set()), interval=3600)
        assert polled.wait(60)
        box.script(STALL)
        arrived = box.requests + 1
        reading = pool.submit(unpod.runs.list(SPACE).first)
        asyncio.run(box.arrived(arrived))
        unpod.close(grace=0)
        with pytest.raises(ConfigurationError, match="closed"):
            waiting.result()
        with pytest.raises(TransportError, match="closed during this request"):
            reading.result()


def test_a_client_that_is_never_closed_says_where_it_was_created(box: Sandbox) -> None:
    unpod = BlockingClient(box.client())
    (line,) = {traceback.extract_stack()[-1].lineno}
    assert line is not None
    rows = [iter(unpod.runs.list(SPACE))]
    (thread,) = [thread for thread in threads() if thread.name == "unpod_async.blocking"] or [None]
    assert thread is None
    next(rows[0])
    (thread,) = [thread for thread in threads() if thread.name == "unpod_async.blocking"]
    assert thread is not None
    del unpod
    next(rows[0])  # the listing keeps the client alive
    with pytest.warns(
        ResourceWarning, match=rf"{re.escape(__file__)}:{line - 1} was never closed: use `with"
    ):
        rows.clear()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process(unpod: BlockingClient) -> None:
    unpod.runs.list(SPACE).first()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            unpod.runs.list(SPACE).first()
        except ConfigurationError as error:
            unpod.close()
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as output:
        assert "before this process was forked" in output.read()
    assert unpod.runs.list(SPACE).count() == 6


# --- threads -----------------------------------------------------------------------------------------------


def test_many_threads_at_once(box: Sandbox, unpod: BlockingClient) -> None:
    with ThreadPoolExecutor(12) as pool:
        found = [*pool.map(lambda _: [run.run_id for run in unpod.runs.list(SPACE)], range(24))]
    assert found == [box.run_ids()] * 24


@pytest.mark.parametrize("kind", ["listing", "pages", "stream"])
def test_threads_share_an_iterator(kind: str) -> None:
    start = threading.Barrier(8)
    with Sandbox(runs=60, tasks_per_run=1) as box, BlockingClient(box.client(page_size=2)) as unpod:

        def read(rows: Iterator[Any]) -> list[Any]:
            start.wait()
            return list(rows)

        def shared(rows: Iterator[Any]) -> list[Any]:
            with ThreadPoolExecutor(8) as pool:
                return [row for found in pool.map(read, [rows] * 8) for row in found]

        runs = unpod.runs.list(SPACE)
        if kind == "listing":
            found = [run.run_id for run in shared(iter(runs))]
        elif kind == "pages":
            found = [run.run_id for page in shared(runs.pages()) for run in page.items]
        else:
            with unpod.runs.tasks_for(SPACE) as tasks:
                found = [task.run_id for task in shared(iter(tasks))]
        assert sorted(found) == sorted(box.run_ids())


# --- Ctrl-C ------------------------------------------------------------------------------------------------


@contextmanager
def interrupts(box: Sandbox, *, after: int) -> Iterator[pytest.ExceptionInfo[KeyboardInterrupt]]:
    """Send SIGINT to this process when so many more requests have arrived; expect a KeyboardInterrupt."""
    count = box.requests + after

    def interrupt() -> None:
        asyncio.run(box.arrived(count))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            yield caught
    finally:
        thread.join()


def test_an_interrupted_call_is_cancelled(box: Sandbox, unpod: BlockingClient) -> None:
    before = tasks_of_the_loop(unpod)
    box.script(STALL)
    with interrupts(box, after=1):
        unpod.runs.list(SPACE).collect()
    assert tasks_of_the_loop(unpod) == before
    assert len(unpod.runs.list(SPACE).collect()) == 6


def test_an_interrupted_program_ends_at_once(box: Sandbox) -> None:
    box.script(STALL)
    with interrupts(box, after=1), BlockingClient(box.client()) as unpod:
        unpod.runs.list(SPACE).first()


def test_an_interrupted_iteration_continues(box: Sandbox, unpod: BlockingClient) -> None:
    rows = iter(unpod.runs.list(SPACE))
    assert isinstance(rows, BlockingIterator)
    found = [next(rows).run_id, next(rows).run_id]
    box.script(STALL)
    with interrupts(box, after=1):
        next(rows)
    assert [*found, *(run.run_id for run in rows)] == box.run_ids()


def test_an_interrupted_stream_and_watch_are_closed(box: Sandbox, unpod: BlockingClient) -> None:
    before = tasks_of_the_loop(unpod)
    box.script(STALL, STALL)
    with interrupts(box, after=1), unpod.runs.tasks_for(SPACE) as stream:
        next(iter(stream))
    with interrupts(box, after=1), unpod.runs.watch(SPACE) as events:
        next(iter(events))
    assert tasks_of_the_loop(unpod) == before


def test_an_interrupted_create_says_that_calls_may_be_queued(box: Sandbox, unpod: BlockingClient) -> None:
    box.script(Fault(stall=3600, processed=True, method="POST"))
    with interrupts(box, after=1) as caught:
        unpod.tasks.create(SPACE, pilot=box.agent_handle, documents=[DOCUMENT], context="Ask.")
    (note,) = caught.value.__notes__
    assert "calls may be queued" in note


def test_an_interrupted_export_resumes(box: Sandbox, unpod: BlockingClient, tmp_path: Path) -> None:
    box.script(Fault(stall=3600, page=2))
    with interrupts(box, after=2):
        unpod.export(SPACE, tmp_path)
    summary = unpod.export(SPACE, tmp_path)
    assert (summary.complete, summary.tasks) == (True, 18)


def functions_of(thread: threading.Thread) -> list[str]:
    """Return the names of the functions that a thread is in."""
    frame = sys._current_frames().get(thread.ident or 0)
    return [each.f_code.co_name for each, _ in traceback.walk_stack(frame)]


def test_a_second_interruption_does_not_wait(box: Sandbox, unpod: BlockingClient) -> None:
    """The call cannot be cancelled, because a function that was passed blocks the event loop."""
    blocked, release, interrupted = threading.Event(), threading.Event(), threading.Event()

    def until(run: object) -> bool:
        blocked.set()
        return release.wait()

    def interrupt_in(function: str, leaves: Callable[[], bool]) -> None:
        """Interrupt the main thread, again if the interpreter loses that, as it does in a destructor."""
        while not leaves():
            if function in functions_of(threading.main_thread()):
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(10_000):
                    if leaves():
                        return
                    interrupted.wait(0.001)

    def interrupt() -> None:
        blocked.wait()
        interrupt_in("_run", lambda: "_cancel" in functions_of(threading.main_thread()))
        interrupt_in("_cancel", interrupted.is_set)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        unpod.runs.wait(SPACE, box.run_ids()[0], until)
    interrupted.set()
    release.set()
    thread.join()
    assert isinstance(caught.value.__context__, KeyboardInterrupt)
    assert unpod.runs.list(SPACE).count() == 6


def is_leaving(frame: FrameType) -> bool:
    return any(each.f_code.co_name == "__exit__" for each, _ in traceback.walk_stack(frame))


class InterruptAt:
    """Raises a KeyboardInterrupt at the line number `count` of `unpod_async.blocking` that this thread runs.

    Lines that leave a stream do not count: there, an interrupt leaves the tasks to the end of the client.

    Attributes:
        left: the number of lines left; negative if the interrupt was raised.
    """

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, frame: FrameType, event: str, argument: object) -> InterruptAt | None:
        if frame.f_code.co_filename != unpod_async.blocking.__file__ or frame.f_code.co_name == "__exit__":
            return None
        # A `with` has a line event of its own before it leaves the block, where no signal is handled.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and self.left >= 0 and "with self._lock" not in line and not is_leaving(frame):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return self


def read(unpod: BlockingClient) -> None:
    unpod.runs.list(SPACE).first()


def stream(unpod: BlockingClient) -> None:
    with unpod.runs.tasks_for(SPACE) as tasks:
        next(iter(tasks))


def interrupt_at_each_line(job: Callable[[BlockingClient], None], box: Sandbox) -> int:
    """Repeat a job with an interrupt at its first line, its second and so on. Returns the number of lines."""
    tracer, count = sys.gettrace(), 0
    with BlockingClient(box.client()) as unpod:
        idle = tasks_of_the_loop(unpod)
    while True:
        interrupt = InterruptAt(count)
        unpod = BlockingClient(box.client())
        sys.settrace(interrupt)
        try:
            job(unpod)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(tracer)
        assert tasks_of_the_loop(unpod) == idle, count
        unpod.close()
        if interrupt.left >= 0:
            return count
        count += 1


@pytest.mark.parametrize("job", [read, stream])
def test_an_interruption_at_any_line_leaves_nothing(
    job: Callable[[BlockingClient], None], box: Sandbox
) -> None:
    # Not in the main thread: if a trace function raises in an `except` block, the thread keeps the exception
    # as the one that is being handled, for the tests that follow.
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(interrupt_at_each_line, job, box).result() > 20
