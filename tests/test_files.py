"""Locks and syncs: the contract of both kinds of lock, forks, and file systems that lack one of the two."""

from __future__ import annotations

import ast
import asyncio
import errno
import logging
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.locks import WindowsRegions, copies_of_locked_files
from unpod_async import (
    ConfigurationError,
    CreateRequest,
    ExportError,
    TargetLockedError,
    UnpodClient,
    UnpodError,
    merge_shards,
)
from unpod_async._common import (
    FileLock,
    FlockLock,
    RegionLock,
    check_replaceable,
    close_locked,
    lock,
    replace_file,
    sync_file,
)
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

fcntl = pytest.importorskip("fcntl", reason="the tests were not run on Windows")

ROOT = Path(__file__).parents[1]


def client(sandbox: Sandbox) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url)


def request(sandbox: Sandbox) -> CreateRequest:
    document = {"name": "Ann", "contact_number": "+15550101"}
    return CreateRequest(pilot=sandbox.agent_handle, documents=[document], context="Call.")


async def run_script(text: str, *arguments: object) -> str:
    """Run a Python program in another process. Returns what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-W", "ignore:.*fork.*:DeprecationWarning"),
        *("-c", textwrap.dedent(text), *map(str, arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode().strip()


# -- the contract of a lock ---------------------------------------------------------------------------------


KINDS: list[Callable[[], FileLock]] = [FlockLock]
if sys.platform == "linux":
    KINDS.append(lambda: RegionLock(WindowsRegions()))


@pytest.fixture(params=KINDS, ids=["flock", "msvcrt"][: len(KINDS)])
def kind(request: pytest.FixtureRequest) -> FileLock:
    made: FileLock = request.param()
    return made


class Files:
    """Opens one file several times."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: list[int] = []

    def open(self, flags: int = os.O_RDWR) -> int:
        self._opened.append(os.open(self._path, flags | os.O_CREAT, 0o600))
        return self._opened[-1]

    def close(self, file: int) -> None:
        self._opened.remove(file)
        os.close(file)

    def close_all(self) -> None:
        for file in list(self._opened):
            self.close(file)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path / "file")
    yield made
    made.close_all()


def test_only_one_descriptor_has_the_lock(kind: FileLock, files: Files) -> None:
    first, second = files.open(), files.open()
    assert kind.acquire(first)
    assert not kind.acquire(second)
    assert not kind.acquire(second)
    kind.release(first)
    assert kind.acquire(second)
    assert not kind.acquire(first)


def test_closing_the_file_unlocks_it(kind: FileLock, files: Files) -> None:
    first, second = files.open(), files.open()
    assert kind.acquire(first)
    files.close(first)
    assert kind.acquire(second)


def test_a_copy_of_the_descriptor_does_not_keep_a_released_lock(kind: FileLock, files: Files) -> None:
    """As after a fork: the copy belongs to the same open file."""
    first, second = files.open(), files.open()
    copy = os.dup(first)
    try:
        assert kind.acquire(first)
        kind.release(first)
        files.close(first)
        assert kind.acquire(second)
    finally:
        os.close(copy)


@pytest.mark.parametrize("content", [b"", b"line\n", b"x" * 100_000])
def test_a_lock_changes_neither_content_nor_position(kind: FileLock, files: Files, content: bytes) -> None:
    file, reader = files.open(os.O_RDWR | os.O_APPEND), files.open()
    os.write(file, content)
    os.lseek(file, 2, os.SEEK_SET)
    assert kind.acquire(file)
    assert os.lseek(file, 0, os.SEEK_CUR) == 2
    os.write(file, b"more\n")  # at the end
    assert not kind.acquire(reader)
    assert os.lseek(reader, 0, os.SEEK_CUR) == 0
    assert os.read(reader, 200_000) == content + b"more\n"
    kind.release(file)
    assert os.lseek(file, 0, os.SEEK_CUR) == len(content) + 5


def test_what_is_no_lock_of_another_is_an_error(kind: FileLock, files: Files) -> None:
    """It must not look like another process that has the lock: a job would wait for it for ever."""
    file = files.open()
    files.close(file)
    for act in (kind.acquire, kind.release):
        with pytest.raises(OSError) as caught:
            act(file)
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_locks_is_an_error(
    kind: FileLock, files: Files, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(OSError) as caught:
        kind.acquire(files.open())
    assert caught.value.errno == code


def test_a_locked_file_is_unlocked_before_it_is_closed(tmp_path: Path) -> None:
    def opened() -> int:
        return os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)

    first = opened()
    copy = os.dup(first)
    assert lock(first)
    second = opened()
    assert not lock(second)
    close_locked(second)  # it is not locked
    close_locked(first)
    third = opened()
    assert lock(third)
    close_locked(third)
    os.close(copy)
    with pytest.raises(OSError) as caught:
        close_locked(first)
    assert caught.value.errno == errno.EBADF


WITHOUT_FCNTL = """
    import asyncio, subprocess, sys  # subprocess first: it assumes Windows if it finds msvcrt
    from pathlib import Path
    from tests.locks import WindowsRegions

    class Counting(WindowsRegions):
        locks = 0

        def locking(self, file, mode, count, /):
            super().locking(file, mode, count)
            self.locks += mode == self.LK_NBLCK

    sys.modules["fcntl"], sys.modules["msvcrt"] = None, Counting()
    from unpod_async import ConfigurationError, CreateRequest, TargetLockedError, UnpodClient
    from unpod_async.testing import Sandbox

    async def main(folder):
        async with Sandbox(runs=3, tasks_per_run=2) as sandbox:
            async with UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod:
                space = sandbox.space_token
                document = {"name": "Ann", "contact_number": "+15550101"}
                request = CreateRequest(pilot=sandbox.agent_handle, documents=[document], context="Call.")
                for job in (
                    lambda: unpod.export(space, folder / "data"),
                    lambda: unpod.tasks.create_many(space, [request], journal=folder / "journal"),
                ):
                    before = sys.modules["msvcrt"].locks
                    ended = await asyncio.gather(job(), job(), return_exceptions=True)
                    await job()
                    refused = [type(one).__name__ for one in ended if isinstance(one, Exception)]
                    print(refused, sys.modules["msvcrt"].locks - before, end=" ")

    asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the lock of Windows is made of one of Linux")
async def test_without_fcntl_jobs_use_the_lock_of_windows(tmp_path: Path) -> None:
    printed = await run_script(WITHOUT_FCNTL, tmp_path)
    assert printed == "['TargetLockedError'] 2 ['ConfigurationError'] 2"


# -- forks --------------------------------------------------------------------------------------------------

FORKED_EXPORT = """
    import asyncio, multiprocessing, sys, time
    from unpod_async import TargetLockedError, UnpodClient

    token, url, space, target = sys.argv[1:]
    fork = multiprocessing.get_context("fork")
    children = []

    def progress(now):
        if not children:  # as a pool of workers would, somewhere else in the program
            children.append(fork.Process(target=time.sleep, args=(60,)))
            children[0].start()

    async def main():
        async with UnpodClient(token, base_url=url) as unpod:
            await unpod.export(space, target, on_progress=progress)
            assert children[0].is_alive()
            print((await unpod.export(space, target)).complete)

    try:
        asyncio.run(main())
    finally:
        for child in children:
            child.kill()
            child.join()
"""

FORKED = """
    import errno, os, signal, sys, time
    from pathlib import Path
    from unpod_async._common import close_locked, lock

    path, ending = sys.argv[1:]
    reader, writer = os.pipe()

    def opened():
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def sleep_in_child(file):
        # Tell what the child can do with its copy of the descriptor, and live on.
        try:
            os.write(file, b"from the child")
            os.write(writer, b"wrote ")
        except OSError as error:
            os.write(writer, errno.errorcode[error.errno].encode() + b" ")
        time.sleep(60)
        os._exit(0)  # not the rest of this script, which would wait for ever

    def holder():
        file = opened()
        assert lock(file)
        child = os.fork()
        if not child:
            sleep_in_child(file)
        return file, child

    if ending == "closed":
        file, child = holder()
        told = os.read(reader, 100).decode().strip()
        close_locked(file)
    else:
        middle = os.fork()
        if not middle:
            file, child = holder()
            os.write(writer, b"%d " % child)
            time.sleep(60)
        words = []
        while len(words) < 2:
            words += os.read(reader, 100).decode().split()
        (child,), (told,) = [int(w) for w in words if w.isdigit()], [w for w in words if not w.isdigit()]
        os.kill(middle, signal.SIGKILL)
        os.waitpid(middle, 0)
    file = opened()
    print(told, lock(file), Path(path).read_bytes() == b"")
    os.kill(child, 0)  # it is alive
    os.kill(child, signal.SIGKILL)
"""


async def test_a_process_that_was_forked_during_an_export_does_not_keep_its_lock(tmp_path: Path) -> None:
    async with Sandbox(runs=20, tasks_per_run=5) as sandbox:
        arguments = (sandbox.token, sandbox.base_url, sandbox.space_token, tmp_path / "set")
        assert await run_script(FORKED_EXPORT, *arguments) == "True"


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_the_lock_of_an_export_is_that_of_the_target(
    is_replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another export that has stored nothing may remove its lock file after this one has opened it."""
    flock = fcntl.flock
    file = tmp_path / "data" / ".unpod-export" / "lock"

    def lock_removed_file(descriptor: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            file.unlink()
            if is_replaced:
                file.touch()
        flock(descriptor, operation)

    async with Sandbox(runs=2, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", lock_removed_file)
            with pytest.raises(TargetLockedError):
                await unpod.export(sandbox.space_token, tmp_path / "data")
        assert (await unpod.export(sandbox.space_token, tmp_path / "data")).complete


@pytest.mark.parametrize("job", ["export", "create_many", "merge"])
async def test_no_job_leaves_its_lock_to_a_forked_process(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(runs=6, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        space, target = sandbox.space_token, tmp_path / "data"
        plan = await unpod.plan_export(space, shards=2)
        jobs: dict[str, Callable[[], Awaitable[object]]] = {
            "export": lambda: unpod.export(space, target),
            "create_many": lambda: unpod.tasks.create_many(
                space, [request(sandbox)], journal=tmp_path / "journal"
            ),
            "merge": lambda: merge_shards(plan, target),
        }
        if job == "merge":
            for number in range(plan.shards):
                await unpod.export_shard(plan, number, target)
        with copies_of_locked_files(monkeypatch) as copies:
            await jobs[job]()
            assert copies
            await jobs[job]()


@pytest.mark.parametrize("ending", ["closed", "killed"])
async def test_a_forked_process_has_neither_the_lock_nor_the_file(tmp_path: Path, ending: str) -> None:
    """Also if the process that has the lock is killed while the forked one lives on."""
    assert await run_script(FORKED, tmp_path / "file", ending) == "EBADF True True"


# -- file systems that lack something -----------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
async def test_a_target_and_a_journal_without_locks_say_so(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    async with Sandbox(runs=2, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", refuse)
            with pytest.raises(ExportError, match="has no locks") as export:
                await unpod.export(sandbox.space_token, tmp_path / "set")
            with pytest.raises(ConfigurationError, match="cannot be locked") as create:
                await unpod.tasks.create_many(
                    sandbox.space_token, [request(sandbox)], journal=tmp_path / "journal"
                )
        for caught in (export.value, create.value):
            assert not isinstance(caught, TargetLockedError)
            assert os.strerror(code) in str(caught)
            assert "local disk" in str(caught.hint)
        assert sandbox.requests == 0
        assert (await unpod.export(sandbox.space_token, tmp_path / "set")).complete
        (result,) = await unpod.tasks.create_many(
            sandbox.space_token, [request(sandbox)], journal=tmp_path / "journal"
        )
        assert result.state == "created"


def refuse_folders(patch: pytest.MonkeyPatch, code: int) -> None:
    """Let a sync of a directory fail."""
    sync = os.fsync

    def fsync(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(code, os.strerror(code))
        sync(file)

    patch.setattr(os, "fsync", fsync)
    patch.setattr("unpod_async._common.files._unsynced_file_systems", set())


async def export_and_create(folder: Path) -> None:
    """Do two exports and two jobs of creates."""
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        for name in ("one", "two"):
            assert (await unpod.export(sandbox.space_token, folder / name)).complete
            (result,) = await unpod.tasks.create_many(
                sandbox.space_token, [request(sandbox)], journal=folder / f"{name}.journal"
            )
            assert result.state == "created"


async def test_a_file_system_that_syncs_directories_is_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "unpod_async")
    await export_and_create(tmp_path)
    assert caplog.records == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS])
async def test_a_file_system_that_cannot_sync_directories_is_warned_of_once(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "unpod_async")
    refuse_folders(monkeypatch, code)
    await export_and_create(tmp_path)
    (record,) = caplog.records
    assert "cannot sync directories" in record.getMessage()
    assert os.strerror(code) in record.getMessage()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EIO, os.strerror(errno.EIO)),
        (errno.ENOSPC, "no space is left on the disk"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
    ],
)
async def test_a_failed_sync_of_a_directory_is_an_error_of_ours(
    tmp_path: Path, code: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox, client(sandbox) as unpod:
        with monkeypatch.context() as patch:
            refuse_folders(patch, code)
            for job in (
                unpod.export(sandbox.space_token, tmp_path / "set"),
                unpod.tasks.create_many(
                    sandbox.space_token, [request(sandbox)], journal=tmp_path / "journal"
                ),
            ):
                with pytest.raises(UnpodError, match=reason) as caught:
                    await job
                assert caught.value.hint
        assert sandbox.requests == 0
        assert (await unpod.export(sandbox.space_token, tmp_path / "set")).complete


@pytest.mark.parametrize("supported", [True, False])
def test_a_full_sync_is_used_where_there_is_one(
    tmp_path: Path, supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS, `fsync` does not wait for the disk, and some file systems there do not know the full sync."""
    calls: list[str] = []

    def full_sync(file: int, command: int) -> int:
        assert command == 51
        calls.append("full")
        if not supported:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", full_sync)
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("fsync"))
    with (tmp_path / "file").open("wb") as file:
        sync_file(file.fileno())
    assert calls == (["full"] if supported else ["full", "fsync"])


# -- binary files -------------------------------------------------------------------------------------------

WATCHED = """
    import os, sys

    folder = sys.argv[1]
    os.O_BINARY = BINARY = 0o100000  # on Linux a flag without effect: large files
    opened = {}

    def watch(event, arguments):
        if event == "open" and str(arguments[0]).startswith(folder):
            path, mode, flags = arguments
            # Python's own files have a mode; they are always binary below their text layer.
            if not mode and not (flags & BINARY or os.path.isdir(path)):
                opened[str(path)] = flags

    sys.addaudithook(watch)
    import asyncio
    from pathlib import Path
    from unpod_async import CreateRequest, UnpodClient
    from unpod_async.testing import Sandbox

    async def main():
        async with Sandbox(runs=6, tasks_per_run=2) as sandbox:
            async with UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod:
                for form in ("jsonl", "jsonl.gz", "csv", "parquet"):
                    for _ in range(2):
                        await unpod.export(sandbox.space_token, Path(folder, form), format=form)
                        sandbox.insert_run(2)
                document = {"name": "Ann", "contact_number": "+15550101"}
                request = CreateRequest(pilot=sandbox.agent_handle, documents=[document], context="Call.")
                for _ in range(2):
                    await unpod.tasks.create_many(sandbox.space_token, [request], journal=folder + "/journal")

    asyncio.run(main())
    print(opened)
"""


async def test_the_files_of_exports_and_journals_are_opened_as_binary(tmp_path: Path) -> None:
    assert await run_script(WATCHED, tmp_path) == "{}"


NEED_NO_FLAG = {
    "os.open(folder, os.O_RDONLY)",  # a directory
    "os.open(path, flags, 384)",  # called by `open`, with the flags of its binary mode
}


def test_every_file_is_opened_as_binary() -> None:
    calls = [
        ast.unparse(node)
        for path in (ROOT / "unpod_async").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.open"
    ]
    assert len(calls) > 10
    assert {call for call in calls if "O_BINARY" not in call and "os.devnull" not in call} == NEED_NO_FLAG


# -- replacing ----------------------------------------------------------------------------------------------


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [make_folder, make_pipe])
def test_only_regular_files_are_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """As root, the replacement of a device such as /dev/null would break the machine."""
    make(tmp_path / "it")
    (tmp_path / "link").symlink_to("it")
    for path in (tmp_path / "it", tmp_path / "link"):
        with pytest.raises(OSError, match=r"directory|not a regular file"):
            check_replaceable(path)
        with pytest.raises(OSError, match=r"directory|not a regular file"):
            replace_file(path, b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it", "link"]
    assert not (tmp_path / "it").is_file()


def test_an_interrupted_replacement_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("old", encoding="utf-8")

    def interrupt(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "file", b"new")
    assert [(path.name, path.read_text("utf-8")) for path in tmp_path.iterdir()] == [("file", "old")]
