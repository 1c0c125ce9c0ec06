"""The check for leaks reports exactly the resources that a test leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

SUITE = r"""
import asyncio
import gc
import socket
import subprocess
import sys

import aiohttp
import pytest
from hypothesis import given, settings, strategies as st

from raw_server import RawServer, http_response, json_response

KEPT = []


async def answer(connection):
    while await connection.read_request():
        await connection.send(json_response({}))


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


async def test_task():
    KEPT.append(asyncio.create_task(asyncio.sleep(3600), name="forgotten"))


async def test_task_that_ignores_one_cancel():
    async def stubborn():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(3600)

    task = asyncio.create_task(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    task.cancel()


async def test_session():
    KEPT.append(aiohttp.ClientSession())


async def test_session_dropped_at_once():
    aiohttp.ClientSession()


async def test_connection():
    loop, connector = asyncio.get_running_loop(), aiohttp.TCPConnector()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        session = aiohttp.ClientSession(connector=connector, connector_owner=False)
        answer = asyncio.create_task(session.get(f"http://127.0.0.1:{listener.getsockname()[1]}/"))
        peer, _ = await loop.sock_accept(listener)
    await loop.sock_sendall(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0")
    KEPT.extend([peer, await answer])
    await session.close()  # not the connector, and the answer has not been read to its end


@given(st.integers())
@settings(max_examples=3)
async def test_session_under_hypothesis(number):
    KEPT.append(aiohttp.ClientSession())


async def test_clean(session):
    async def numbers():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)

    async for _ in numbers():
        break  # dropped: its finalizer is a task of the loop's own
    asyncio.create_task(asyncio.sleep(3600)).cancel()
    async with RawServer(answer) as server, session.get(server.base_url) as response:
        assert await response.json(content_type=None) == {}


@given(st.integers())
async def test_clean_under_hypothesis(number):
    await asyncio.sleep(0)


class TestClean:
    async def test_method(self):
        await asyncio.sleep(0)


def test_sync(request):
    assert "leaves_nothing_behind" not in request.fixturenames


@pytest.fixture(scope="module")
async def shared():
    # A session, and a server that answers a tenth of what it promises.
    async def tenth(connection):
        while await connection.read_request():
            await connection.send(http_response(b"0", headers=[("Content-Length", "10")]))

    async with RawServer(tenth) as server, aiohttp.ClientSession(server.base_url) as session:
        yield session


async def test_connection_of_an_older_session(shared):
    KEPT.append(await shared.get("/"))


async def test_clean_with_an_older_session(shared):
    assert not shared.closed


def test_child_can_be_interrupted():
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "True\n"


def test_after_all_that():
    for kept in KEPT:
        if isinstance(kept, socket.socket):
            kept.close()
    KEPT.clear()
    gc.collect()  # what was left has been cleared up: no warning, no error
"""

EXPECTED = {
    "test_task": "task still running: <Task pending name='forgotten'",
    "test_task_that_ignores_one_cancel": "task still running: <Task cancelling name='stubborn'",
    "test_session": "session not closed: <aiohttp.client.ClientSession",
    "test_session_dropped_at_once": "Unclosed client session",  # by its own warning, which is an error
    "test_connection": "connection still in use: <aiohttp.client_proto.ResponseHandler",
    "test_connection_of_an_older_session": "connection still in use: <aiohttp.client_proto.ResponseHandler",
    "test_session_under_hypothesis": "session not closed: <aiohttp.client.ClientSession",
    "test_clean_with_an_older_session": None,
    "test_clean": None,
    "test_clean_under_hypothesis": None,
    "test_method": None,
    "test_sync": None,
    "test_child_can_be_interrupted": None,
    "test_after_all_that": None,
}

IGNORING_SIGINT = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh") if os.name == "posix" else ()
"""Starts a command as a script does with `command &`; its children must be interruptible even so."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """Return the error of each test, or None. The tests run in a separate process, from separate files."""
    folder, here = tmp_path_factory.mktemp("suite"), Path(__file__).parent
    (folder / "tests").mkdir()
    for name, to in (
        ("conftest.py", "conftest.py"),
        ("raw_server.py", "raw_server.py"),
        ("leaks.py", "tests/leaks.py"),
    ):
        (folder / to).write_text((here / name).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_suite.py").write_text(SUITE, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    # As in pyproject.toml, which this suite does not read.
    without = ("-pno:asyncio", "-pno:unpod_async")
    command = [*IGNORING_SIGINT, sys.executable, "-m", "pytest", "--junit-xml=report.xml", "-q", *without]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)  # noqa: S603
    assert (folder / "report.xml").exists(), run.stdout + run.stderr
    # A test that fails during teardown is reported as a separate case.
    complaints: dict[str, str | None] = {}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):  # noqa: S314
        texts = [f"{found.get('message')} {found.text}" for found in case]
        name = case.get("name", "")
        complaints[name] = "\n".join([*filter(None, [complaints.get(name)]), *texts]) or None
    return complaints


def test_every_test_of_the_suite_is_known(outcomes: dict[str, str | None]) -> None:
    assert set(outcomes) == set(EXPECTED)


@pytest.mark.parametrize("name", [name for name, complaint in EXPECTED.items() if complaint])
def test_what_is_left_is_named(outcomes: dict[str, str | None], name: str) -> None:
    assert str(EXPECTED[name]) in (outcomes[name] or "")


@pytest.mark.parametrize("name", [name for name, complaint in EXPECTED.items() if not complaint])
def test_clean_tests_pass(outcomes: dict[str, str | None], name: str) -> None:
    assert outcomes[name] is None
