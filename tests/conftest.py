"""What every test gets: asyncio by anyio's plugin, a check that nothing is left open, Hypothesis profiles."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import logging
import signal
import socket
import weakref
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.leaks import SANDBOX_SECRETS, leaks
from unpod_async.errors import UnpodError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# --- Hypothesis --------------------------------------------------------------------------------------------
#
#   pytest                                  "ci": the same examples every time, so red means changed code
#   pytest --hypothesis-profile=dev         fresh examples; failures are kept in .hypothesis (not in git)
#   pytest --hypothesis-profile=torture     fresh examples, and many of them; raise --timeout as well
#
# No deadlines anywhere: how long an example takes says more about the machine than about the code.
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=40,  # tests of the promises ask for more themselves
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "torture", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow]
)
# The command line's choice is loaded after this file, and so wins.
settings.load_profile("ci")


# --- processes that tests start ----------------------------------------------------------------------------

SLOW_TESTS = 120
"""The most cases that may be marked `slow`; every other test runs in `nox -s tests`."""


def pytest_configure() -> None:
    """Let tests interrupt the processes they start, even if the suite itself ignores SIGINT.

    A shell without job control starts `command &` with SIGINT ignored, and child processes inherit that. A
    signal that has a handler is set back to its default in a child.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = sum(item.get_closest_marker("slow") is not None for item in items)
    if slow > SLOW_TESTS:
        raise pytest.UsageError(f"{slow} tests are marked slow, {SLOW_TESTS} may be")


# --- addresses ---------------------------------------------------------------------------------------------


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections. It is bound, so that nobody else can listen on it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


# --- asyncio -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The client uses aiohttp, so asyncio is the only backend. Each test has its own event loop."""
    return "asyncio"


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Make every `async def test_...` an anyio test that must leave nothing behind.

    anyio's own `anyio_mode = "auto"` is younger than the lowest anyio the project allows (4.9), and pytest
    refuses an option it does not know. Only async tests get the fixture, so sync ones pay nothing for it.
    """
    if collector.istestfunction(obj, name):
        hypothesis = getattr(obj, "hypothesis", None)
        if inspect.iscoroutinefunction(obj if hypothesis is None else hypothesis.inner_test):
            # In this order: set up before, and so torn down after, all the fixtures the test names itself.
            pytest.mark.usefixtures("anyio_backend", "leaves_nothing_behind")(obj)


# --- nothing left behind -----------------------------------------------------------------------------------

# Turns of the event loop that a just-cancelled task, a finalized async generator and a just-closed transport
# may take to finish. Turns, not seconds: code that needs time has not been awaited.
TURNS = 25


# Every session and connector ever seen, as long as it lives.
known: weakref.WeakSet[aiohttp.ClientSession | aiohttp.BaseConnector] = weakref.WeakSet()
freezes = itertools.count()


def look_around() -> None:
    """Find the new sessions and connectors: without patching aiohttp, only the collector knows them."""
    kinds: set[type] = set()
    new: list[type] = [aiohttp.ClientSession, aiohttp.BaseConnector]
    while new:
        kinds.add(kind := new.pop())
        new.extend(kind.__subclasses__())
    # type(), because isinstance() would ask proxies and mocks for their __class__.
    known.update(item for item in gc.get_objects() if type(item) in kinds)


def freeze() -> None:
    """Freeze all existing objects, so that the next look sees only new ones.

    With thousands of tests a look at everything would take longer than most tests do. Now and then all of it
    is thawed, so that garbage in cycles goes away, and complains if it has to.
    """
    if next(freezes) % 200 == 0:
        gc.unfreeze()
        gc.collect()
    gc.freeze()


@given(st.none())
def run_hypothesis(_example: None) -> None:
    """Do nothing, so that Hypothesis makes its random source before objects are frozen.

    Hypothesis asks the collector who owns the source, and warns if it finds nobody. That is so if the owner
    is frozen, on Python 3.14.
    """


def pytest_collection_finish() -> None:
    run_hypothesis()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


class Resources(NamedTuple):
    """The sessions that are open, and the connections in use."""

    sessions: set[aiohttp.ClientSession]
    connections: dict[Any, aiohttp.BaseConnector]

    @classmethod
    def seen(cls) -> Resources:
        look_around()
        sessions = {item for item in known if isinstance(item, aiohttp.ClientSession) and not item.closed}
        connectors = [item for item in known if isinstance(item, aiohttp.BaseConnector)]
        return cls(sessions, {held: by for by in connectors for held in by._acquired})


async def clear_up(tasks: set[asyncio.Task[Any]], resources: Resources) -> None:
    for task in tasks:
        task.cancel()
    for session in resources.sessions:
        await session.close()
    for connection in resources.connections:
        connection.close()  # and not its connector, which may be that of an older session
    await take_turns(set())
    if tasks:
        await asyncio.wait(tasks, timeout=1)


async def take_turns(tasks_before: set[asyncio.Task[Any]]) -> None:
    # Always a few: an async generator's finalizer becomes a task only in the next one.
    known = {*tasks_before, asyncio.current_task()}
    for turn in range(TURNS):
        await asyncio.sleep(0)
        if turn >= 4 and asyncio.all_tasks() <= known:
            break


@pytest.fixture
async def event_loop_of_test() -> AsyncIterator[asyncio.AbstractEventLoop]:
    # A generator, because that keeps the loop until the test is torn down.
    yield asyncio.get_running_loop()  # noqa: PT022 - see above


@pytest.fixture
def leaves_nothing_behind(event_loop_of_test: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Fail a test that leaves a task, a connection in use or an open session behind.

    Resources that existed before the test (fixtures of its module) are ignored. This is not an async fixture,
    which would run in tasks of anyio and find those. Here the loop is not running, and still has what the
    test left.
    """
    loop = event_loop_of_test
    tasks_before, before = asyncio.all_tasks(loop), Resources.seen()
    freeze()
    yield

    loop.run_until_complete(take_turns(tasks_before))
    tasks = asyncio.all_tasks(loop) - tasks_before
    after = Resources.seen()
    left = Resources(
        after.sessions - before.sessions,
        {held: by for held, by in after.connections.items() if held not in before.connections},
    )
    lines = [
        *(f"task still running: {task!r}" for task in tasks),
        *(f"session not closed: {session!r}" for session in left.sessions),
        *(f"connection still in use: {held!r} of {by!r}" for held, by in left.connections.items()),
    ]
    if lines:
        # Cleared up, so that the next test does not get the blame, nor a ResourceWarning from this one.
        loop.run_until_complete(clear_up(tasks, left))
        pytest.fail("the test left behind:\n  " + "\n  ".join(sorted(lines)), pytrace=False)


# --- no token anywhere -------------------------------------------------------------------------------------


class LeakFinder(logging.Handler):
    """Looks at every log record of the run, and at each of our exceptions that a test expects."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if SANDBOX_SECRETS.search(f"{record.getMessage()} {record.__dict__!r}"):
            self.found.append(f"log record of {record.name}, {record.pathname}:{record.lineno}")

    def look_at(self, error: BaseException | None) -> None:
        if isinstance(error, UnpodError | asyncio.CancelledError):
            self.found += leaks(error)


@pytest.fixture(autouse=True)
def decompression_by_zlib() -> Iterator[None]:
    """Undo what a command in this process has chosen: the command line uses isal for all of aiohttp."""
    yield
    aiohttp.set_zlib_backend(zlib)


@pytest.fixture(scope="session", autouse=True)
def no_token_is_shown() -> Iterator[None]:
    """Fail the run (at its last test) when a token of the sandbox was logged, or shown by an exception."""
    finder, leave = LeakFinder(), pytest.RaisesExc.__exit__

    def look_and_leave(self: Any, kind: Any, error: Any, trace: Any) -> Any:
        finder.look_at(error)
        return leave(self, kind, error, trace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytest.RaisesExc, "__exit__", look_and_leave)
        for name in ("unpod_async", "aiohttp", "asyncio"):
            patch.setattr(logging.getLogger(name), "level", logging.DEBUG)
        logging.getLogger().addHandler(finder)
        yield
        logging.getLogger().removeHandler(finder)
    if finder.found:
        pytest.fail("tokens were shown:\n  " + "\n  ".join(sorted(set(finder.found))), pytrace=False)
