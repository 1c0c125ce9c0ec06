"""The fixtures for pytest, in test runs of their own that find them through the entry point."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.metadata import search_path

pytest_plugins = ["pytester"]

Run = Callable[..., pytest.RunResult]

STRICT = ("-p", "pytest_asyncio", "--asyncio-mode=strict")
AUTO = ("-p", "pytest_asyncio", "--asyncio-mode=auto")
LOOPS = "asyncio_default_fixture_loop_scope = function\n"  # pytest-asyncio warns without it


@pytest.fixture
def run(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run tests in a process of their own, with warnings as errors and only the plugins that are named."""
    monkeypatch.setenv("PYTHONPATH", search_path(tmp_path / "metadata"))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)

    def run(text: str, *options: str) -> pytest.RunResult:
        loops = LOOPS if "pytest_asyncio" in options else ""
        pytester.makeini(f"[pytest]\naddopts = --strict-markers --strict-config\n{loops}")
        pytester.makepyfile(text)
        quiet = ("-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error")
        without = () if "pytest_asyncio" in options else ("-p", "no:asyncio")
        return pytester.runpytest_subprocess(*quiet, *without, *options)

    return run


# --- with the plugins for async tests ----------------------------------------------------------------------

ANYIO = """
import pytest

@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"

mark = pytest.mark.anyio
fixture = pytest.fixture
"""
ASYNCIO_STRICT = """
import pytest, pytest_asyncio

mark = pytest.mark.asyncio
fixture = pytest_asyncio.fixture
"""
ASYNCIO_AUTO = """
import pytest

mark = lambda test: test
fixture = pytest.fixture
"""
ASYNCIO_MODULE = """
import pytest, pytest_asyncio

mark = pytest.mark.asyncio(loop_scope="module")

def fixture(function):
    return pytest_asyncio.fixture(loop_scope="module")(function)
"""

needs_pytest_asyncio = pytest.mark.skipif(
    importlib.util.find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed"
)
KINDS = [
    pytest.param(ANYIO, (), id="anyio"),
    pytest.param(ASYNCIO_STRICT, STRICT, id="asyncio-strict", marks=needs_pytest_asyncio),
    pytest.param(ASYNCIO_AUTO, AUTO, id="asyncio-auto", marks=needs_pytest_asyncio),
    pytest.param(ASYNCIO_MODULE, STRICT, id="asyncio-module-loop", marks=needs_pytest_asyncio),
    pytest.param(ANYIO, STRICT, id="anyio-beside-asyncio", marks=needs_pytest_asyncio),
]

TESTS = """
import asyncio, gc
import unpod_async, unpod_async.testing
from unpod_async.testing import faults

CLIENTS, LOOPS, AFTER = [], [], []

@fixture
async def newest_run(unpod_client, unpod_sandbox):
    yield await unpod_client.runs.list(unpod_sandbox.space_token).first()
    # The client is still open, in the event loop of the test.
    assert asyncio.get_running_loop() is LOOPS[-1]
    AFTER.append(await unpod_client.runs.list(unpod_sandbox.space_token).count())

@mark
async def test_client(unpod_client, newest_run, unpod_sandbox):
    assert type(unpod_sandbox) is unpod_async.testing.Sandbox
    assert type(unpod_client) is unpod_async.UnpodClient
    LOOPS.append(asyncio.get_running_loop())
    CLIENTS.append(unpod_client)
    assert newest_run.run_id == unpod_sandbox.run_ids()[0]
    assert await unpod_client.runs.list(unpod_sandbox.space_token).count() == 20
    assert await unpod_client.agents.list().count() == 3
    await unpod_client.tasks.create(
        unpod_sandbox.space_token,
        pilot=unpod_sandbox.agent_handle,
        documents=[{"name": "A. Example", "contact_number": "9000000001"}],
        context="Ask.",
    )
    assert len(unpod_sandbox.ledger) == 1

def test_the_client_was_closed_after_the_fixtures_that_use_it():
    assert AFTER == [21]
    with pytest.raises(unpod_async.ConfigurationError, match="closed"):
        asyncio.run(CLIENTS[0].runs.list("SPACE").first())

@mark
async def test_a_new_test_has_new_data_and_a_new_client(unpod_client, unpod_sandbox):
    assert unpod_client is not CLIENTS[0]
    assert await unpod_client.runs.list(unpod_sandbox.space_token).count() == 20

@pytest.mark.unpod_sandbox(runs=3, tasks_per_run=2)
@mark
async def test_the_marker_has_the_arguments_of_the_sandbox(unpod_client, unpod_sandbox):
    assert await unpod_client.tasks.list(unpod_sandbox.space_token).count() == 6

@mark
async def test_a_client_from_the_environment(unpod_sandbox):
    async with unpod_async.UnpodClient() as unpod:
        assert unpod.settings.base_url.startswith(unpod_sandbox.base_url)
        assert await unpod.agents.list().count() == 3

@pytest.fixture
def a_product_of_the_machine(monkeypatch):
    monkeypatch.setenv("UNPOD_PRODUCT_ID", "of-the-machine")

@mark
async def test_a_product_of_the_machine_is_not_used(a_product_of_the_machine, unpod_sandbox):
    assert unpod_async.UnpodClient().settings.product_id is None

@pytest.mark.unpod_sandbox(product_id="P-1")
@mark
async def test_the_product_of_the_sandbox_is_used(a_product_of_the_machine, unpod_sandbox):
    assert unpod_sandbox.product_id == "P-1"
    async with unpod_async.UnpodClient() as unpod:
        assert await unpod.call_logs.list().first()

@mark
async def test_failures_are_immediate(unpod_client, unpod_sandbox, unpod_no_retries, tmp_path):
    box, runs = unpod_sandbox, unpod_client.runs.list(unpod_sandbox.space_token)
    box.script(faults.server_error(503))
    with pytest.raises(unpod_async.ServerError) as caught:
        await runs.first()
    assert len(caught.value.attempts) == 1
    async with unpod_async.UnpodClient(retry=unpod_async.RetryPolicy(attempts=9, base=60, cap=60)) as unpod:
        box.script(faults.server_error(503))
        with pytest.raises(unpod_async.ServerError):
            await unpod.runs.list(box.space_token).first()
        box.script(faults.server_error(503))
        with pytest.raises(unpod_async.ServerError):
            await unpod.export(box.space_token, tmp_path / "data")
    assert box.requests == 3

@mark
async def test_retries_are_back(unpod_client, unpod_sandbox):
    view = unpod_client.with_options(retry=unpod_async.RetryPolicy(base=0.001))
    unpod_sandbox.script(faults.server_error(503))
    assert await view.runs.list(unpod_sandbox.space_token).first()

@mark
async def test_the_sandbox_serves_while_the_test_blocks_its_loop_or_waits(unpod_client, unpod_sandbox):
    before = unpod_sandbox.requests
    first = asyncio.create_task(unpod_client.runs.list(unpod_sandbox.space_token).first())
    await unpod_sandbox.arrived(before + 1)
    assert await first

def test_nothing_complains_when_it_is_collected():
    CLIENTS.clear()
    gc.collect()
"""


@pytest.mark.parametrize(("head", "options"), KINDS)
def test_async_tests(head: str, options: tuple[str, ...], run: Run) -> None:
    run(head + TESTS, *options).assert_outcomes(passed=11)


def test_a_test_under_trio_says_what_to_change(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.mark.anyio
        async def test_client(unpod_client):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*unpod_client needs asyncio*", "*hint: *anyio_backend*"])


# --- synchronous tests -------------------------------------------------------------------------------------


def test_synchronous_tests(run: Run) -> None:
    result = run(
        """
        import asyncio, concurrent.futures, gc
        import pytest
        from unpod_async import ConfigurationError, UnpodClient

        async def program():
            async with UnpodClient() as unpod:
                return await unpod.agents.list().count()

        def test_a_program_that_creates_its_client(unpod_sandbox):
            assert asyncio.run(program()) == 3
            assert unpod_sandbox.requests == 1

        CLIENTS = []

        def test_a_client_that_is_passed_in(unpod_client, unpod_sandbox):
            assert asyncio.run(unpod_client.runs.list(unpod_sandbox.space_token).count()) == 20
            CLIENTS.append(unpod_client)

        def test_it_was_closed():
            with pytest.raises(ConfigurationError, match="closed"):
                asyncio.run(CLIENTS.pop().runs.list("SPACE").count())
            gc.collect()

        def test_a_client_that_is_not_used(unpod_client):
            pass

        def test_threads_change_rows_while_they_are_read(unpod_sandbox):
            def change(_):
                run = unpod_sandbox.insert_run(2)
                unpod_sandbox.advance()
                unpod_sandbox.delete_run(run)

            async def read():
                async with UnpodClient() as unpod:
                    while not all(each.done() for each in changes):
                        assert await unpod.tasks.list(unpod_sandbox.space_token).first()

            with concurrent.futures.ThreadPoolExecutor(3) as pool:
                changes = [pool.submit(change, number) for number in range(50)]
                asyncio.run(read())
                for each in changes:
                    each.result()
        """
    )
    result.assert_outcomes(passed=5)


# --- test runs that do not use the fixtures ----------------------------------------------------------------


def test_other_test_runs_import_nothing(run: Run) -> None:
    result = run(
        """
        import sys

        def test_imports():
            ours = {name for name in sys.modules if name.partition(".")[0] == "unpod_async"}
            assert ours == {
                "unpod_async",
                "unpod_async._version",
                "unpod_async._integrations",
                "unpod_async._integrations.pytest_plugin",
            }
            # On Python 3.14, pytest itself imports asyncio.
            slow = {"aiohttp", "backoff", "msgspec"} | ({"asyncio"} if sys.version_info < (3, 14) else set())
            assert not slow & {*sys.modules}
        """,
        "-pno:anyio",
    )
    result.assert_outcomes(passed=1)


def test_the_plugin_can_be_disabled(run: Run) -> None:
    result = run("def test_client(unpod_client):\n    pass", "-pno:unpod_async")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'unpod_client' not found"])


def test_fixtures_and_marker_are_described(run: Run) -> None:
    result = run("", "--fixtures")
    for name in ("unpod_sandbox", "unpod_client", "unpod_no_retries"):
        result.stdout.fnmatch_lines([f"{name} -- *", "    *"])
    run("", "--markers").stdout.fnmatch_lines(["@pytest.mark.unpod_sandbox(...): *"])
