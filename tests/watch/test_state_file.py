"""`WatchState.save` and `WatchState.load`: a file that is whole, private, and says what is wrong with it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.cli.watching import identity, mounting, needs_mounts
from unpod_async import ConfigurationError, WatchState
from unpod_async.testing import Sandbox

posix = pytest.mark.skipif(os.name != "posix", reason="needs permissions, pipes and links of POSIX")

STATE = WatchState(tasks=True, spaces={})


async def test_a_watch_resumes_from_a_saved_state(tmp_path: Path) -> None:
    file = tmp_path / "watch.json"
    assert WatchState.load(file) is None
    async with Sandbox(runs=2, tasks_per_run=1) as sandbox, sandbox.client() as unpod:
        seen = set[str]()
        while len(seen) < 4:
            async with unpod.runs.watch(sandbox.space_token, state=WatchState.load(file)) as events:
                async for event in events:  # one event for each watch, as if each was stopped after it
                    seen.add(repr(event))
                    events.state.save(str(file))
                    break
    state = WatchState.load(str(file))
    assert state is not None
    assert state == msgspec.json.decode(file.read_bytes(), type=WatchState)
    assert set(state.spaces[sandbox.space_token].runs) == set(sandbox.run_ids())


@posix
def test_the_file_is_replaced_as_a_whole_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "watch.json"
    file.write_text("")
    file.chmod(0o666)
    assert WatchState.load(file) is None  # an empty file is no state yet
    with file.open("rb") as before:
        STATE.save(file)
        assert before.read() == b""  # the old file is untouched: a reader never sees half of a state
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [*tmp_path.iterdir()] == [file]
    assert WatchState.load(file) == STATE


@posix
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder / "watch.json")
    assert WatchState.load(link) is None
    STATE.save(link)
    assert link.is_symlink()
    assert [*folder.iterdir()] == [folder / "watch.json"]
    assert WatchState.load(link) == STATE


def test_several_threads_can_save(tmp_path: Path) -> None:
    file = tmp_path / "watch.json"
    states = [WatchState(tasks=True, spaces={}, run_ids=[str(number)] * 1000) for number in range(8)]
    threads = [threading.Thread(target=state.save, args=[file]) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert WatchState.load(file) in states
    assert [*tmp_path.iterdir()] == [file]


def a_folder(file: Path) -> None:
    file.mkdir()


def a_pipe(file: Path) -> None:
    os.mkfifo(file)


def a_device(file: Path) -> None:
    file.symlink_to(os.devnull)


def a_loop(file: Path) -> None:
    file.symlink_to(file)


@posix
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_folder, "is not a regular file"),
        (a_pipe, "is not a regular file"),
        (a_device, "is not a regular file"),
        (a_loop, "cannot "),
    ],
)
def test_what_is_no_regular_file_is_refused_and_kept(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    file = tmp_path / "watch.json"
    make(file)
    before = identity(file)
    for use in (WatchState.load, STATE.save):
        with pytest.raises(ConfigurationError, match=reason) as caught:
            use(file)
        assert caught.value.__context__ is None or caught.value.__suppress_context__
        assert "watch.json" in str(caught.value)
    assert identity(file) == before
    assert [*tmp_path.iterdir()] == [file]


def test_a_path_that_cannot_exist_is_a_configuration_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "watch.json", f"{tmp_path}/\0", f"{tmp_path}/{'x' * 300}"):
        with pytest.raises(ConfigurationError, match="cannot write"):
            STATE.save(path)
    assert WatchState.load(tmp_path / "missing" / "watch.json") is None
    with pytest.raises(ConfigurationError, match="cannot read"):
        WatchState.load(f"{tmp_path}/\0")


@pytest.mark.parametrize("content", [b"\n", b"{", b'{"tasks":true,"spaces":[]}', b"\xff", b"[" * 100_000])
def test_what_is_not_a_state_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "watch.json"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not the state of a watch"):
        WatchState.load(file)
    assert file.read_bytes() == content


@posix
def test_a_full_disk_keeps_the_old_state(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    file = tmp_path / "watch.json"
    STATE.save(file)
    large = WatchState(tasks=True, spaces={}, run_ids=["R" * 1000] * 1000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(ConfigurationError, match=r"cannot write .*: File too large"):
            large.save(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert WatchState.load(file) == STATE
    assert [*tmp_path.iterdir()] == [file]


SAVE = """
import sys
from pathlib import Path
from unpod_async import ConfigurationError, WatchState

file = Path(sys.argv[1])
state = WatchState.load(file)
state.tasks = False
try:
    state.save(file)
except ConfigurationError as error:
    print(error)
assert WatchState.load(file).tasks == (len(sys.argv) > 2), "the state is not whole"
"""


@posix
@needs_mounts
def test_a_mounted_file_cannot_be_replaced_and_keeps_its_state(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside.json", tmp_path / "inside.json"
    STATE.save(outside)
    inside.touch()
    save = (sys.executable, "-W", "error", "-c", SAVE)

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603 - constant code

    ended = run(*mounting(outside, inside), *save, str(inside), "mounted")
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip("this user may not mount")
    assert (ended.returncode, ended.stderr) == (0, "")
    message, hint = ended.stdout.splitlines()
    assert message.startswith("cannot write ")
    assert os.strerror(errno.EBUSY) in message
    assert hint.endswith("because it is a mount point, as in a container: mount its folder instead")
    assert WatchState.load(outside) == STATE
    assert sorted(tmp_path.iterdir()) == [inside, outside]

    ended = run(*save, str(outside))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
