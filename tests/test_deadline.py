"""The deadline of a call includes what only the first call does: imports, and opening an export."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.tables import each_row

if TYPE_CHECKING:
    from pathlib import Path

HOOK = """
import asyncio, sys, threading
from pathlib import Path

from unpod_async import TransportError, UnpodClient
from unpod_async.errors import TargetLockedError
from unpod_async.testing import Sandbox

blocked = sys.argv[1]
loop_thread = threading.get_ident()
reached, release = threading.Event(), threading.Event()


def hook(event, arguments):
    # Audit hooks run where the work is done: this stops an import or the opening of a database for as long as
    # the test likes.
    name = arguments[0].co_filename if event == "exec" else event
    if not release.is_set() and name.endswith(blocked):
        assert threading.get_ident() != loop_thread, "the event loop is blocked"
        reached.set()
        release.wait()


async def ends_at_the_deadline(call, deadline):
    try:
        await call
    except TransportError as error:
        assert f"deadline of {deadline:g} s ended while" in str(error), error
        assert error.timed_out and error.sent is False
    else:
        raise AssertionError("the call did not end")


async def until_end(main):
    try:
        await main
    finally:
        release.set()  # the program waits for its threads
"""

EXPORT = (
    HOOK
    + """
form, folder = sys.argv[2], Path(sys.argv[3])
if blocked != "_export/job.py":
    import unpod_async._export.job


async def main():
    sys.addaudithook(hook)
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod,
    ):
        async def is_late(deadline, target):
            export = unpod.with_options(deadline=deadline).export(sandbox.space_token, target, format=form)
            await ends_at_the_deadline(export, deadline)

        deadline = 0.125
        while not reached.is_set():  # a busy machine may need longer to get there
            deadline *= 4
            target = folder / f"{deadline:g}"
            await is_late(deadline, target)
        await is_late(deadline, folder / "another")  # what the first one waited for still takes time
        assert sandbox.requests == 0
        release.set()
        while True:  # the thread that was blocked releases the lock
            try:
                found = await unpod.export(sandbox.space_token, target, format=form)
            except TargetLockedError:
                await asyncio.sleep(0.01)
            else:
                break
        other = await unpod.with_options(deadline=60).export(sandbox.space_token, folder / "b", format=form)
        assert found.complete and (found.runs, found.tasks) == (3, 6)
        assert (other.complete, other.requests) == (True, found.requests)


asyncio.run(until_end(main()))
"""
)


@pytest.mark.parametrize(
    ("blocked", "form"),
    [("_export/job.py", "jsonl"), ("sqlite3.connect", "csv"), ("pyarrow/__init__.py", "parquet")],
)
def test_the_deadline_limits_the_opening(tmp_path: Path, blocked: str, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    _run(EXPORT, blocked, form, str(tmp_path))


def _run(*arguments: str) -> None:
    ended = subprocess.run(  # noqa: S603 - starts this interpreter with constant code
        [sys.executable, "-W", "error", "-c", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


WATCH = """
import asyncio, sys, time

from unpod_async import TransportError, UnpodClient, WaitTimeout
from unpod_async.testing import Sandbox


def slow_import(event, arguments):
    if event == "exec" and arguments[0].co_filename.endswith("_watch/wait.py"):
        began = time.monotonic()
        while time.monotonic() < began + 0.2:
            pass


async def main():
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod,
    ):
        run = sandbox.run_ids()[0]
        sys.addaudithook(slow_import)
        try:
            if sys.argv[1] == "find":
                await unpod.with_options(deadline=0.1).runs.find(sandbox.space_token, run)
            else:
                await unpod.runs.wait(sandbox.space_token, run, deadline=0.1)
        except (TransportError, WaitTimeout) as error:
            assert "the deadline" in str(error), error
        else:
            raise AssertionError("the import was not counted")
        assert sandbox.requests == 0
        assert await unpod.with_options(deadline=60).runs.find(sandbox.space_token, run) is not None


asyncio.run(main())
"""


@each_row("call", ["find", "wait"])
def test_the_deadline_includes_the_imports_of_a_call(call: str) -> None:
    _run(WATCH, call)


STORE = (
    HOOK
    + """
import os

import unpod_async._export.job

folder = Path(sys.argv[2])
os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-west-1"}


async def main():
    sys.addaudithook(hook)
    async with UnpodClient("k" * 40, base_url="https://localhost:9") as unpod:
        async def is_late(deadline, target):
            export = unpod.with_options(deadline=deadline).export("SPACE", target, state_dir=str(folder))
            await ends_at_the_deadline(export, deadline)

        deadline = 0.125
        while not reached.is_set():  # a busy machine may need longer to get there
            deadline *= 4
            await is_late(deadline, f"s3://bucket/{deadline:g}")
        await is_late(deadline, "s3://bucket/another")
        release.set()


asyncio.run(until_end(main()))
"""
)


@pytest.mark.parametrize("blocked", ["obstore/__init__.py", "fcntl.flock"])
def test_the_deadline_limits_the_opening_of_an_object_store(tmp_path: Path, blocked: str) -> None:
    pytest.importorskip("obstore")
    if blocked == "fcntl.flock" and sys.platform == "win32":
        pytest.skip("locks of POSIX")
    _run(STORE, blocked, str(tmp_path))


TABLE = (
    HOOK
    + """
method = sys.argv[2]


async def main():
    sys.addaudithook(hook)
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod,
    ):
        def table(deadline):
            tasks = unpod.with_options(deadline=deadline).tasks.list(sandbox.space_token, page_size=2)
            return getattr(tasks, method)()

        deadline = 0.125
        while not reached.is_set():  # a busy machine may need longer to get there
            deadline *= 4
            await ends_at_the_deadline(table(deadline), deadline)
        await ends_at_the_deadline(table(deadline), deadline)  # the import still takes time
        assert sandbox.requests == 0
        release.set()
        await unpod.tasks.list(sandbox.space_token, page_size=2).collect()
        requests = sandbox.requests
        for deadline in (60, None):
            assert len(await table(deadline)) == 6
        assert sandbox.requests == 3 * requests


asyncio.run(until_end(main()))
"""
)


@pytest.mark.parametrize(
    ("method", "package"), [("to_arrow", "pyarrow"), ("to_polars", "polars"), ("to_pandas", "pandas")]
)
def test_the_deadline_includes_the_import_of_a_library_for_tables(method: str, package: str) -> None:
    pytest.importorskip(package)
    _run(TABLE, f"{package}/__init__.py", method)


FIRST_WALK = """
import asyncio, sys, time

from unpod_async import TransportError, UnpodClient
from unpod_async.testing import Sandbox

slowed = []


def slow_imports(event, arguments):
    if event == "exec" and arguments[0].co_name == "<module>" and "/" in arguments[0].co_filename:
        slowed.append(arguments[0].co_filename)
        time.sleep(0.5)


async def main():
    async with (
        Sandbox(runs=3, tasks_per_run=2) as sandbox,
        UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod,
    ):
        sys.addaudithook(slow_imports)
        try:
            runs = await unpod.with_options(deadline=0.5).runs.list(sandbox.space_token).collect()
        except TransportError as error:  # an import was counted, or this machine is busy
            assert "the deadline" in str(error), error
        else:
            assert len(runs) == 3
            assert not slowed, slowed
        assert len(await unpod.with_options(deadline=60).runs.list(sandbox.space_token).collect()) == 3


asyncio.run(main())
"""


def test_a_first_walk_takes_no_time_that_its_deadline_does_not_include() -> None:
    _run(FIRST_WALK)
