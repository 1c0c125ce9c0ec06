"""Rows 48 to 52 and 56: what can happen to an export. More of each in tests/export."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.export.dataset import assert_holds
from tests.export.test_kills import run_victim
from unpod_async import ExportError, TargetLockedError, UnpodClient
from unpod_async.testing import Sandbox, faults

if TYPE_CHECKING:
    from tests.faults.harness import Row

ROOT = Path(__file__).parents[2]


def client(sandbox: Sandbox) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX")
@pytest.mark.timeout(240)  # about ten processes
async def test_row_48_kill_9(row: Row, tmp_path: Path) -> None:
    moments = random.Random(48)
    async with Sandbox(runs=20, tasks_per_run=(0, 5)) as sandbox:
        calls = await run_victim(sandbox, tmp_path / "set", 0)
        assert calls is not None
        kills = 0
        while kills < 4:
            shutil.rmtree(tmp_path / "set")
            while await run_victim(sandbox, tmp_path / "set", moments.randint(1, calls)) is None:
                kills += 1
            assert_holds(tmp_path / "set", sandbox)
    row.note("killed at random system calls and run again: the exact set", "–")


def path_of(file: int) -> Path:
    return Path(f"/proc/self/fd/{file}").readlink()


class PowerCut:
    """Knows which bytes were synced, and copies the target as a power cut would leave it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, target: Path, image: Path, at: int) -> None:
        self._target, self._image, self._at = target, image, at
        self._synced: dict[int, int] = {}
        self.calls = 0
        write, fsync = os.write, os.fsync

        def watched_write(file: int, data: Any) -> int:
            self._count()
            self._synced.setdefault(os.fstat(file).st_ino, os.fstat(file).st_size)
            return write(file, data)

        def watched_fsync(file: int) -> None:
            self._count()
            fsync(file)
            self._synced.pop(os.fstat(file).st_ino, None)

        monkeypatch.setattr(os, "write", watched_write)
        monkeypatch.setattr(os, "fsync", watched_fsync)

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self._at:
            shutil.copytree(self._target, self._image)
            for there in self._target.rglob("*"):
                length = self._synced.get(there.stat().st_ino)
                if length is not None:
                    os.truncate(self._image / there.relative_to(self._target), length)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file a descriptor is of")
@pytest.mark.timeout(240)  # some thirty exports
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_row_49_power_loss(row: Row, tmp_path: Path, form: str) -> None:
    async with Sandbox(runs=12, tasks_per_run=(1, 5)) as sandbox, client(sandbox) as unpod:
        options: dict[str, Any] = {"format": form, "page_size": 3, "part_bytes": 20_000}
        calls, at = 1, 0
        # Some moments, and each of the last, when the manifest is written.
        while at < calls:
            at += max(1, calls // 14) if at < calls - 8 else 1
            with pytest.MonkeyPatch.context() as patch:
                cut = PowerCut(patch, tmp_path / f"set{at}", tmp_path / f"image{at}", at)
                await unpod.export(sandbox.space_token, tmp_path / f"set{at}", **options)
                calls = cut.calls
            if (tmp_path / f"image{at}").exists():
                for manifest in (tmp_path / f"image{at}").glob("_manifest.json"):
                    assert json.loads(manifest.read_bytes())["complete"]
                await unpod.export(sandbox.space_token, tmp_path / f"image{at}", **options)
                assert_holds(tmp_path / f"image{at}", sandbox, form)
        assert calls > 15
    row.note("what was not synced is lost at any write: the exact set after resuming", "–")


LIMITED = """
import asyncio, resource, sys
from unpod_async import ExportError, UnpodClient

async def main():
    async with UnpodClient(sys.argv[1], base_url=sys.argv[2]) as unpod:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[5]), resource.RLIM_INFINITY))
        try:
            await unpod.export(sys.argv[3], sys.argv[4], format=sys.argv[6])
        except ExportError as error:
            print(error)

asyncio.run(main())
"""


@pytest.mark.parametrize(("limit", "form"), [(20_000, "jsonl"), (90_000, "jsonl"), (160_000, "csv")])
async def test_row_50_disk_full_by_limit(row: Row, tmp_path: Path, limit: int, form: str) -> None:
    target = tmp_path / "set"
    async with Sandbox(runs=20, tasks_per_run=(1, 9)) as sandbox:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", LIMITED, sandbox.token, sandbox.base_url),
            *(sandbox.space_token, str(target), str(limit), form),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        output, _ = await process.communicate()
        # SQLite says "disk I/O error" for this one too.
        assert (
            f"{target} cannot be written: File too large\nhint: raise the limit of the size"
            in output.decode()
        )
        assert not (target / "_manifest.json").exists()
        async with client(sandbox) as unpod:
            await unpod.export(sandbox.space_token, target, format=form)
        assert_holds(target, sandbox, form)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    row.note("RLIMIT_FSIZE: ExportError, then the exact set", "–")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("full", ["rows-", "new-tasks", "new-runs", "new-_manifest"])
async def test_row_50_dev_full(row: Row, tmp_path: Path, full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "set"
    open_file = os.open

    def open_full(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        is_full = Path(path).name.startswith(full)
        return open_file("/dev/full", os.O_WRONLY) if is_full else open_file(path, flags, *rest, **more)

    async with Sandbox(runs=9, tasks_per_run=3) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, target)
        before = {path: path.read_bytes() for path in target.glob("*s/*")}
        sandbox.insert_run(2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", open_full)
            with pytest.raises(ExportError) as refused:
                await unpod.export(sandbox.space_token, target)
        assert "no space is left on the disk" in str(refused.value)
        if full in {"rows-", "new-tasks"}:
            # Nothing had been put in place: the data set of before is there as it was.
            assert {path: path.read_bytes() for path in target.glob("*s/*")} == before
        await unpod.export(sandbox.space_token, target)
        assert_holds(target, sandbox)
    row.note("/dev/full: ExportError (no space left), the data set of before stays, then the exact set", "–")


async def test_row_51_two_exports_to_one_target(row: Row, tmp_path: Path) -> None:
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        sandbox.script(faults.stall())
        first = asyncio.ensure_future(unpod.export(sandbox.space_token, tmp_path))
        await sandbox.arrived(1)
        with pytest.raises(TargetLockedError):
            await unpod.export(sandbox.space_token, tmp_path)
        with pytest.raises(AssertionError, match="TargetLockedError"):
            await run_victim(sandbox, tmp_path, 0)
        assert sandbox.requests == 1  # the second sent no request
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await unpod.export(sandbox.space_token, tmp_path)
        assert_holds(tmp_path, sandbox)
    row.note("the second, in this and in another process: TargetLockedError", "0, 0")


async def test_row_52_other_options_or_a_changed_target(row: Row, tmp_path: Path) -> None:
    target = tmp_path / "set"
    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, target)
        before = sandbox.requests
        others: list[dict[str, Any]] = [
            {"format": "csv"},
            {"keep_user_tokens": True},
            {"runs": sandbox.run_ids()[:1]},
            {"redact": "drop"},
            {"recordings": True},
        ]
        for other in others:
            with pytest.raises(ExportError, match=next(iter(other))):
                await unpod.export(sandbox.space_token, target, **other)
        with pytest.raises(ExportError, match="spaces"):
            await unpod.export("SPACEPOISON0000000000004", target)
        with (target / "tasks" / "part-00001.jsonl").open("ab") as part:
            part.write(b"{}\n")
        with pytest.raises(ExportError, match=r"tasks/part-00001\.jsonl was changed"):
            await unpod.export(sandbox.space_token, target)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "tasks").write_text("mine")
        with pytest.raises(ExportError, match="contains tasks, but no export"):
            await unpod.export(sandbox.space_token, tmp_path / "mine")
        assert sandbox.requests == before
    row.note("other options, a changed part, files of another program: ExportError", "0")


async def test_row_56_on_progress_raises(row: Row, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: object) -> None:
        raise ZeroDivisionError("of the hook")

    async with Sandbox(runs=5, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        with caplog.at_level(logging.WARNING, "unpod_async"):
            summary = await unpod.export(sandbox.space_token, tmp_path, on_progress=hook)
        assert summary.complete
        assert [record.getMessage() for record in caplog.records] == [
            "on_progress raised ZeroDivisionError; the export continues"
        ]
        assert_holds(tmp_path, sandbox)
    row.note("the export continues, one warning", "–")
