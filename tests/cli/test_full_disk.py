"""Full disks, full quotas and read-only file systems: what happened, what to do, and the exit status.

Each command runs in a mount namespace of its own, with a small file system in memory on a folder.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.harness import PROGRAM, Result, clean_environment, run_process, settings
from tests.leaks import SANDBOX_SECRETS
from tests.raw_server import RawConnection, RawServer, http_response
from unpod_async import merge_shards
from unpod_async.testing import Sandbox

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("unshare") is None,
    reason="needs unshare and tmpfs of Linux",
)

_SCRIPT = """
disk=$1 content=$2 fill=$3
mount -t tmpfs -o "$4" none "$disk" || exit 99
shift 4
[ -z "$content" ] || cp -a "$content/." "$disk" || exit 99
[ -z "$fill" ] || head -c 9999999 /dev/zero > "$disk/filler" 2> "$disk/../filling"
"$@"
status=$?
[ ! -f "$disk/filler" ] || rm "$disk/filler"
cp -a "$disk/." "$disk/../after"
exit $status
"""


class Disk:
    """A small file system in a folder, which only the command sees: `await disk.run(sandbox, "runs", ...)`.

    Attributes:
        folder: Where the command sees it.
        after: Its content when the command has ended.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path / "disk"
        self.after = path / "after"
        self.folder.mkdir()

    async def run(
        self,
        sandbox: Sandbox | None,
        *argv: str,
        options: str = "size=1m",
        content: Path | None = None,
        full: bool = False,
        stdout: str = "",
        environment: dict[str, str] | None = None,
    ) -> Result:
        """Run a command.

        Args:
            options: Options of the file system.
            content: A folder whose files are copied to the disk first.
            full: Fill the disk first.
            stdout: Name of a file on the disk to which stdout is written.
            environment: More variables for the command.
        """
        redirected = ("sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", str(self.folder / stdout))
        shutil.rmtree(self.after, ignore_errors=True)
        self.after.mkdir()
        arguments = (str(self.folder), "" if content is None else str(content), "full" if full else "")
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _SCRIPT, "sh"),
            *(*arguments, options, *(redirected if stdout else ()), *PROGRAM, *argv),
            env={
                **clean_environment(),
                **({} if sandbox is None else settings(sandbox)),
                **(environment or {}),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        result = Result(process.returncode or 0, out.decode(), err.decode())
        if "unpod-async" not in result.err and result.status in {1, 99}:
            pytest.skip(f"this user may not mount: {result.err}")
        assert not SANDBOX_SECRETS.search(result.out + result.err)
        assert "Traceback" not in result.err
        return result

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.after).as_posix() for path in self.after.rglob("*"))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


FULL = "no space is left on the disk"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        # The database does not fit, and later neither does the listing of the runs.
        *((f"size={size}k", False) for size in (4, 32, 64, 100, 128)),
        *((f"size={size}k", True) for size in (256, 800)),  # the tasks do not fit
        *((f"size=9m,nr_inodes={files}", False) for files in (2, 3, 4, 5)),  # no files can be created
        *((f"size=9m,nr_inodes={files}", True) for files in (8, 9)),
    ],
)
async def test_an_export(disk: Disk, options: str, kept: bool) -> None:
    async with Sandbox(runs=60, tasks_per_run=(5, 20)) as sandbox:
        target = disk.folder / "set"
        argv = ("export", sandbox.space_token, str(target))
        result = await disk.run(sandbox, *argv, options=options)

    resumes = ": it resumes" if kept else ""
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines()[-2:] == [
        f"unpod-async: {target} cannot be written: {FULL}",
        f"hint: free space on the disk and run the same export again{resumes}",
    ]
    assert disk.after.exists()
    # What nothing was stored in is removed.
    assert (disk.after / "set").exists() == kept


async def test_an_export_to_a_read_only_file_system(disk: Disk) -> None:
    async with Sandbox(runs=1) as sandbox:
        argv = ("export", sandbox.space_token, str(disk.folder / "set"))
        result = await disk.run(sandbox, *argv, options="ro")
    assert result.status == 1
    assert result.err.splitlines() == [
        f"unpod-async: {disk.folder / 'set'} cannot be written: the file system is read-only",
        "hint: make the file system writable and run the same export again",
    ]


async def test_an_export_that_was_complete_before_stays(disk: Disk, tmp_path: Path) -> None:
    async with Sandbox(runs=3, tasks_per_run=2) as sandbox, sandbox.client() as unpod:
        await unpod.export(sandbox.space_token, tmp_path / "content" / "set")
        before = {path: path.read_bytes() for path in (tmp_path / "content").glob("set/*s/*")}
        sandbox.insert_run(3)
        argv = ("export", sandbox.space_token, str(disk.folder / "set"))
        result = await disk.run(sandbox, *argv, content=tmp_path / "content", full=True)
    assert result.status == 1
    assert f"cannot be written: {FULL}\n" in result.err
    assert "run the same export again: it resumes\n" in result.err
    assert before
    for path, content in before.items():
        assert (disk.after / path.relative_to(tmp_path / "content")).read_bytes() == content


async def test_a_plan(disk: Disk) -> None:
    async with Sandbox(runs=3) as sandbox:
        argv = ("plan", sandbox.space_token, str(disk.folder / "plan.json"), "--shards", "2")
        result = await disk.run(sandbox, *argv, full=True)
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines() == [
        f"unpod-async: {disk.folder / 'plan.json'} cannot be written: {FULL}",
        "hint: free space on the disk and run the command again",
    ]
    assert disk.names() == []


@pytest.mark.parametrize("merged_before", [False, True])
async def test_a_merge_leaves_the_data_set_as_it_was(disk: Disk, tmp_path: Path, merged_before: bool) -> None:
    data, plan_file = tmp_path / "content" / "data", tmp_path / "plan.json"
    async with Sandbox(runs=8) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        for shard in range(2):
            await unpod.export_shard(plan, shard, data)
        if merged_before:
            await merge_shards(plan, data)
            sandbox.insert_run()
            plan = await unpod.extend_plan(plan)
            await unpod.export_shard(plan, 2, data)
        plan.save(plan_file)
    result = await disk.run(
        None, "merge", str(plan_file), str(disk.folder / "data"), content=tmp_path / "content", full=True
    )

    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines() == [
        f"unpod-async: the shards in {disk.folder / 'data'} cannot be merged: {FULL}",
        "hint: free space on the disk and merge again",
    ]
    for before in (data / "tasks", data / "runs", data / "_manifest.json"):
        after = disk.after / before.relative_to(tmp_path / "content")
        assert after.exists() == before.exists()
        for path in before.glob("*"):
            assert (after / path.name).read_bytes() == path.read_bytes()
        assert len([*before.glob("*")]) == len([*after.glob("*")])


async def test_a_report(disk: Disk, tmp_path: Path) -> None:
    async with Sandbox(runs=3) as sandbox, sandbox.client() as unpod:
        await unpod.export(sandbox.space_token, tmp_path / "data")
    page = disk.folder / "report.html"
    result = await disk.run(None, "report", str(tmp_path / "data"), "--output", str(page), full=True)
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines() == [
        f"unpod-async: cannot write {page}: {FULL}",
        "hint: free space on the disk or change --output FILE",
    ]
    assert disk.names() == []


CREATE = ("--name", "A", "--number", "9000000001", "--context", "x", "--yes", "--journal")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("size=64k", f"--journal cannot be written: {FULL}; request 0 was not sent"),
        ("size=64k,nr_inodes=2", f"--journal cannot be opened: {FULL}; nothing was sent"),
    ],
)
async def test_a_journal(disk: Disk, options: str, problem: str) -> None:
    async with Sandbox(runs=1) as sandbox:
        journal = str(disk.folder / "journal")
        argv = ("create", sandbox.space_token, "--agent", sandbox.agent_handle, *CREATE, journal)
        result = await disk.run(sandbox, *argv, options=options, full=True)
        assert not sandbox.ledger
    assert (result.status, result.out) == (1, "")
    message, hint = result.err.splitlines()[-2:]
    assert message == f"unpod-async: {problem}"
    assert hint.startswith("hint: free space on the disk and run the job again")


@pytest.mark.parametrize("exists", [False, True])
async def test_the_state_of_a_watch_is_checked_first(disk: Disk, tmp_path: Path, exists: bool) -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        (tmp_path / "content").mkdir()
        if exists:
            async with unpod.runs.watch(sandbox.space_token) as events:
                await anext(aiter(events))
                events.state.save(tmp_path / "content" / "state")
        before = sandbox.requests
        argv = ("watch", sandbox.space_token, "--state", str(disk.folder / "state"))
        result = await disk.run(sandbox, *argv, content=tmp_path / "content", full=True)
        assert sandbox.requests == before
    assert (result.status, result.out) == (1, "")
    assert result.err.splitlines() == [
        f"unpod-async: --state: cannot write {disk.folder / 'state'}: {FULL}",
        "hint: free space on the disk or choose another file",
    ]
    assert disk.names() == (["state"] if exists else [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "size=64k,nr_inodes=1",
            "the recording of task T{} and 8 more: cannot create or read the directory {}: " + FULL,
        ),
        (
            "size=64k",
            "the recording of task T{} and 8 more: cannot write the recording in {}: " + FULL,
        ),
    ],
)
async def test_recordings(disk: Disk, options: str, message: str) -> None:
    async def store(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(http_response(b"x" * 5000, headers=[("Content-Type", "audio/wav")]))

    async with Sandbox(runs=1, tasks_per_run=9) as sandbox, RawServer(store) as server:
        for row in list(sandbox.task_rows()):
            row["output"] = {"call_id": "c", "recording_url": f"{server.base_url}/call.wav"}
            sandbox.malform(row["task_id"], json.dumps(row).encode())
        folder = disk.folder / "recordings"
        host = server.base_url.removeprefix("http://")
        argv = ("--to", str(folder), "--recording-host", host, "--table")
        run = sandbox.run_ids()[0]
        result = await disk.run(
            sandbox, "recordings", sandbox.space_token, run, *argv, options=options, full=True
        )
    assert result.status == 3
    found, hint = result.err.splitlines()[-2:]
    expected = re.escape(message.format("@", folder)).replace("T@", "T[0-9a-f]+")
    assert re.fullmatch("unpod-async: " + expected, found)
    assert hint.startswith("hint: free space on the disk and try again")


@pytest.mark.parametrize("argv", [("demo", "--quick", "--runs", "5"), ("sandbox", "--port", "0")])
async def test_a_command_that_talks_to_stdout(tmp_path: Path, argv: tuple[str, ...]) -> None:
    program = ("sh", "-c", 'exec "$@" > /dev/full', "sh", *PROGRAM)
    more = ("--out", str(tmp_path / "demo")) if argv[0] == "demo" else ()
    result = await run_process({}, *argv, *more, program=program)
    assert result.status == 1
    assert result.err.splitlines()[-2:] == [
        f"unpod-async: cannot write to stdout: {FULL}",
        "hint: free space on the disk or write the output elsewhere",
    ]
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["report", "tasks", "create", "help"])
async def test_output_of_which_only_a_part_fits(
    disk: Disk, tmp_path: Path, command: str, unbuffered: str
) -> None:
    """With PYTHONUNBUFFERED=1, which images of Docker set, Python's stdout writes a part without an error."""
    documents = tmp_path / "calls.csv"
    documents.write_text("name,contact_number\n" + "A.Person,9000000001\n" * 500)
    async with Sandbox(runs=60, tasks_per_run=5) as sandbox, sandbox.client() as unpod:
        space = sandbox.space_token
        if command == "report":
            await unpod.export(space, tmp_path / "data")
        create = ("--agent", sandbox.agent_handle, "--context", "x", "--documents", str(documents))
        argv = {
            "report": ("report", str(tmp_path / "data"), "--output", "-"),
            "tasks": ("tasks", space, "--table", "--limit", "0"),
            "create": ("create", space, *create, "--dry-run"),
            "help": ("export", "--help"),
        }[command]
        # In 40 columns, the help has more than 4 kB.
        environment = {"PYTHONUNBUFFERED": unbuffered, "COLUMNS": "40"}
        result = await disk.run(sandbox, *argv, options="size=4k", stdout="out", environment=environment)
    assert result.status == 1
    assert result.err.splitlines()[-2:] == [
        f"unpod-async: cannot write to stdout: {FULL}",
        "hint: free space on the disk or write the output elsewhere",
    ]
    assert (disk.after / "out").stat().st_size == 4096


async def test_a_demo(disk: Disk) -> None:
    argv = ("demo", "--quick", "--out", str(disk.folder / "demo"))
    result = await disk.run(None, *argv, options="size=64k,nr_inodes=2")
    assert result.status == 1
    assert FULL in result.err
    assert "hint: " in result.err
