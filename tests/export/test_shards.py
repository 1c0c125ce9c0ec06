"""An export divided into shards has, after the merge, exactly the rows of a plain export."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unpod_async
from tests.export.dataset import assert_holds, assert_manifest, found_rows
from tests.raw_server import RawServer, http_response
from unpod_async import (
    ExportError,
    ExportPlan,
    ExportSummary,
    InvalidArgument,
    UnpodClient,
    merge_shards,
)
from unpod_async.errors import TargetLockedError
from unpod_async.testing import Sandbox, faults

if TYPE_CHECKING:
    from tests.raw_server import RawConnection

FORMS = ["jsonl", "jsonl.gz", "csv", "parquet"]


async def export_all(
    unpod: UnpodClient, plan: ExportPlan, target: Path, **options: Any
) -> list[ExportSummary]:
    return [await unpod.export_shard(plan, number, target, **options) for number in range(plan.shards)]


def files_below(target: Path) -> dict[str, bytes]:
    return {
        path.relative_to(target).as_posix(): path.read_bytes()
        for folder in ("tasks", "runs", "recordings")
        for path in (target / folder).glob("*")
    } | {path.name: path.read_bytes() for path in target.glob("_manifest.json")}


# -- the result ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
async def test_the_shards_together_are_a_plain_export(tmp_path: Path, form: Any) -> None:
    async with Sandbox(runs=30, tasks_per_run=(0, 6)) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=4, format=form)
        assert (plan.shards, plan.runs, plan.unreadable) == (4, 30, 0)
        shards = await export_all(unpod, plan, tmp_path / "data")
        assert all(summary.complete for summary in shards)
        assert sum(summary.runs for summary in shards) == 30

        merged = await merge_shards(plan, tmp_path / "data")

        plain = await unpod.export(sandbox.space_token, tmp_path / "plain", format=form)
        assert (merged.complete, merged.reasons) == (True, ())
        assert (merged.runs, merged.tasks) == (plain.runs, plain.tasks)
        assert_holds(tmp_path / "data", sandbox, form)
        for kind in ("runs", "tasks"):
            assert found_rows(tmp_path / "data", form, kind) == found_rows(tmp_path / "plain", form, kind)


async def test_spaces_options_and_redaction_are_those_of_a_plain_export(tmp_path: Path) -> None:
    async with Sandbox(runs=12) as sandbox, sandbox.client() as unpod:
        spaces = [sandbox.space_token, "SPACEEMPTY00000000000005", "SPACEPOISON0000000000004"]
        options: dict[str, Any] = {
            "redact": "hash",
            "redact_key": "a key for tests",
            "since": sandbox_middle(sandbox),
        }
        plan = await unpod.plan_export(spaces, shards=3, **options)
        plan.save(tmp_path / "plan.json")
        assert b"a key for tests" not in (tmp_path / "plan.json").read_bytes()
        plan = ExportPlan.load(tmp_path / "plan.json")
        await export_all(unpod, plan, tmp_path / "data", redact_key="a key for tests", concurrency=2)
        merged = await merge_shards(plan, tmp_path / "data")
        plain = await unpod.export(spaces, tmp_path / "plain", **options)
        assert merged.complete == plain.complete
        assert 0 < merged.runs == plain.runs
        for kind in ("runs", "tasks"):
            assert found_rows(tmp_path / "data", "jsonl", kind) == found_rows(
                tmp_path / "plain", "jsonl", kind
            )


def sandbox_middle(sandbox: Sandbox) -> Any:
    from datetime import UTC, datetime

    times = sorted(row["created"] for row in sandbox.run_rows())
    return datetime.fromisoformat(times[len(times) // 2]).replace(tzinfo=UTC)


async def test_more_shards_than_runs(tmp_path: Path) -> None:
    async with Sandbox(runs=2) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=7)
        await export_all(unpod, plan, tmp_path)
        assert (await merge_shards(plan, tmp_path)).complete
        assert_holds(tmp_path, sandbox)


async def test_an_empty_space(tmp_path: Path) -> None:
    async with Sandbox(runs=0) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, tmp_path)
        merged = await merge_shards(plan, tmp_path)
        assert (merged.complete, merged.runs, merged.tasks) == (True, 0, 0)


async def test_recordings(tmp_path: Path) -> None:
    async def store(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(http_response(b"RIFF....WAVE", headers=[("Content-Type", "audio/wav")]))

    async with Sandbox(runs=4, tasks_per_run=1) as sandbox, RawServer(store) as server:
        ids = set(sandbox.task_ids())
        for row in list(sandbox.task_rows()):
            row["output"] = {"call_id": "c", "recording_url": f"{server.base_url}/call.wav"}
            row["status"] = "completed"
            sandbox.malform(row["task_id"], json.dumps(row).encode())
        async with sandbox.client() as unpod:
            plan = await unpod.plan_export(sandbox.space_token, shards=3, recordings=True)
            await export_all(unpod, plan, tmp_path, recording_hosts=[server.base_url.removeprefix("http://")])
            merged = await merge_shards(plan, tmp_path)
        assert (merged.complete, merged.recordings) == (True, 4)
        names = {path.stem for path in (tmp_path / "recordings").glob("*.wav")}
        assert names == ids


async def test_a_merge_says_why_recordings_were_not_downloaded(tmp_path: Path) -> None:
    async with Sandbox(runs=4, tasks_per_run=1) as sandbox, sandbox.client() as unpod:
        for row in list(sandbox.task_rows()):
            row["output"] = {"call_id": "c", "recording_url": "http://store.example/call.wav"}
            row["status"] = "completed"
            sandbox.malform(row["task_id"], json.dumps(row).encode())
        plan = await unpod.plan_export(sandbox.space_token, shards=3, recordings=True)
        await export_all(unpod, plan, tmp_path)
        merged = await merge_shards(plan, tmp_path)
    assert (merged.complete, merged.failed_recordings) == (False, 4)
    (reason,) = merged.reasons
    assert reason.endswith(" was not downloaded: store.example: http is not accepted (and 3 more)")
    assert merged.hints == ("add the host to recording_hosts= if the store is yours",)


# -- the plan -----------------------------------------------------------------------------------------------


@given(st.lists(st.text(min_size=1, max_size=9), unique=True, max_size=20), st.integers(1, 9))
def test_each_run_is_in_exactly_one_shard(ids: list[str], shards: int) -> None:
    from unpod_async import ExportSpec
    from unpod_async._export import all_shards, new_plan

    plan = new_plan(ExportSpec(spaces=("SPACE",)), "https://example.org", shards, {"SPACE": ids}, 0)
    found = Counter(run for shard in all_shards(plan) for run in shard.runs["SPACE"])
    assert found == Counter(ids)
    assert [plan.shard(number) for number in range(shards)] == all_shards(plan)


def test_the_shard_of_a_run_is_the_same_everywhere() -> None:
    from unpod_async import ExportSpec
    from unpod_async._export import new_plan

    ids = ["Ra", "Rb", "R0123456789abcdef0123456789abcdef", "\u00e9"]
    plan = new_plan(ExportSpec(spaces=("SPACE",)), "https://example.org", 1000, {"SPACE": ids}, 0)
    assert [plan.listings[0].shard_of(run) for run in ids] == [261, 790, 601, 743]


async def test_a_plan_with_wrong_arguments_sends_nothing(tmp_path: Path) -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        for shards in (0, -1, 10_001, True, 1.5, "4"):
            with pytest.raises(InvalidArgument, match="shards"):
                await unpod.plan_export(sandbox.space_token, shards=shards)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="redact_key is missing"):
            await unpod.plan_export(sandbox.space_token, shards=2, redact="hash")
        assert sandbox.requests == 0
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        before = sandbox.requests
        for number in (2, -1, True, "0", None):
            with pytest.raises(InvalidArgument, match="no shard") as raised:
                await unpod.export_shard(plan, number, tmp_path / "data")  # type: ignore[arg-type]
            assert "0 to 1" in str(raised.value)
        with pytest.raises(InvalidArgument, match="format is decided by the plan"):
            await unpod.export_shard(plan, 0, tmp_path / "data", format="csv")
        with pytest.raises(InvalidArgument, match=r"ExportPlan\.load"):
            await unpod.export_shard("plan.json", 0, tmp_path / "data")  # type: ignore[arg-type]
        assert sandbox.requests == before
        assert not (tmp_path / "data").exists()


async def test_the_key_of_a_shard_is_the_key_of_the_plan(tmp_path: Path) -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1, redact="hash", redact_key="12345678")
        for options, message in (
            ({}, "is missing"),
            ({"redact_key": "another key"}, "is not the key of the plan"),
        ):
            with pytest.raises(InvalidArgument, match=message):
                await unpod.export_shard(plan, 0, tmp_path, **options)  # type: ignore[arg-type]
        assert (await unpod.export_shard(plan, 0, tmp_path, redact_key="12345678")).complete


async def test_a_plan_is_for_one_server(tmp_path: Path) -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        async with UnpodClient("a-token", base_url="http://127.0.0.1:9/") as other:
            with pytest.raises(ExportError, match="another server"):
                await other.export_shard(plan, 0, tmp_path)
            with pytest.raises(ExportError, match="another server"):
                await other.extend_plan(plan)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"shards": 2', '"shards": 3'),
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"format": "jsonl"', '"format": "csv"'),
        lambda text: text.replace('"runs": {', '"runs": {"OTHER": ["Rx"], ', 1),
        lambda text: text.replace('"platform"', '"plattform"'),
    ],
)
async def test_a_changed_plan_is_refused(tmp_path: Path, change: Callable[[str], str]) -> None:
    path = tmp_path / "plan.json"
    async with Sandbox(runs=3) as sandbox, sandbox.client() as unpod:
        (await unpod.plan_export(sandbox.space_token, shards=2)).save(path)
    text = path.read_text()
    assert ExportPlan.load(path).runs == 3
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(ExportError, match="is not a plan, or has been changed"):
        ExportPlan.load(path)


async def test_a_plan_of_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"version": 2, "anything": true}')
    with pytest.raises(ExportError, match="newer version"):
        ExportPlan.load(path)


async def test_selected_runs(tmp_path: Path) -> None:
    async with Sandbox(runs=9) as sandbox, sandbox.client() as unpod:
        selected = sandbox.run_ids()[2:6]
        plan = await unpod.plan_export(sandbox.space_token, shards=2, runs=selected)
        await export_all(unpod, plan, tmp_path)
        assert (await merge_shards(plan, tmp_path)).runs == 4
        found = [json.loads(row)["run_id"] for row in found_rows(tmp_path, "jsonl", "runs")]
        assert sorted(found) == sorted(selected)
        with pytest.raises(InvalidArgument, match="1 of the selected runs"):
            await unpod.plan_export(sandbox.space_token, shards=2, runs=["R" + "0" * 32])


async def test_rows_that_cannot_be_read_make_the_merge_incomplete(tmp_path: Path) -> None:
    async with Sandbox(runs=9) as sandbox, sandbox.client() as unpod:
        sandbox.poison(sandbox.run_ids()[3])
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        assert (plan.runs, plan.unreadable) == (8, 1)
        await export_all(unpod, plan, tmp_path)
        merged = await merge_shards(plan, tmp_path)
        assert (merged.complete, merged.runs) == (False, 8)
        assert any("1 row of the listing of runs could not be read" in reason for reason in merged.reasons)


# -- changes of the space -----------------------------------------------------------------------------------


async def test_runs_that_were_deleted_since_are_gone(tmp_path: Path) -> None:
    async with Sandbox(runs=8) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        sandbox.delete_run(sandbox.run_ids()[0])
        await export_all(unpod, plan, tmp_path)
        sandbox.delete_run(sandbox.run_ids()[-1])
        await export_all(unpod, plan, tmp_path)
        merged = await merge_shards(plan, tmp_path)
        assert (merged.complete, merged.runs, merged.gone_runs) == (True, 6, 2)
        assert_holds(tmp_path, sandbox)


async def test_new_runs_enter_by_an_extension_and_no_shard_is_exported_again(tmp_path: Path) -> None:
    async with Sandbox(runs=8) as sandbox, sandbox.client() as unpod:
        first = await unpod.plan_export(sandbox.space_token, shards=3)
        assert await unpod.extend_plan(first) == first
        await export_all(unpod, first, tmp_path)
        await merge_shards(first, tmp_path)
        new = {sandbox.insert_run(), sandbox.insert_run()}
        # The shards of the first plan do not see the new runs.
        assert sum(one.runs for one in await export_all(unpod, first, tmp_path)) == 8

        plan = await unpod.extend_plan(first, shards=5)
        plan.save(tmp_path / "plan.json")
        plan = ExportPlan.load(tmp_path / "plan.json")

        assert (plan.shards, plan.runs) == (5, 10)  # a new run has at most one shard
        assert {run for number in (3, 4) for run in plan.shard(number).runs[sandbox.space_token]} == new
        with pytest.raises(ExportError, match="shard 3 has not been exported"):
            await merge_shards(plan, tmp_path)
        before = sandbox.requests
        for number in (3, 4):
            assert (await unpod.export_shard(plan, number, tmp_path)).complete
        requests = sandbox.requests - before
        assert (await merge_shards(plan, tmp_path)).complete
        assert_holds(tmp_path, sandbox)
        assert sandbox.requests == before + requests
        # A worker that still has the older plan may bring its shard up to date, but not merge.
        assert (await unpod.export_shard(first, 0, tmp_path)).complete
        with pytest.raises(ExportError, match="an extension of this plan"):
            await merge_shards(first, tmp_path)
        assert (await merge_shards(plan, tmp_path)).complete


async def test_a_shard_that_is_exported_again_is_brought_up_to_date(tmp_path: Path) -> None:
    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, tmp_path)
        await merge_shards(plan, tmp_path)
        sandbox.insert_task(sandbox.run_ids()[0])
        sandbox.delete_task(sandbox.task_ids(sandbox.run_ids()[1])[0])
        sandbox.advance()
        await export_all(unpod, plan, tmp_path)
        merged = await merge_shards(plan, tmp_path)
        assert merged.complete
        assert_holds(tmp_path, sandbox)
        same = files_below(tmp_path)
        await merge_shards(plan, tmp_path)
        assert {name: data for name, data in files_below(tmp_path).items() if name[0] != "_"} == {
            name: data for name, data in same.items() if name[0] != "_"
        }


# -- what a merge refuses -----------------------------------------------------------------------------------


async def refused(
    plan: ExportPlan, target: Path, message: str, kind: type[ExportError] = ExportError
) -> None:
    """Check that a merge raises, with a hint, and changes nothing in the data set."""
    before = files_below(target)
    with pytest.raises(kind, match=message) as raised:
        await merge_shards(plan, target)
    assert raised.value.hint
    assert files_below(target) == before


@pytest.mark.parametrize("merged_before", [False, True])
async def test_merges_that_are_refused(tmp_path: Path, merged_before: bool) -> None:
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=3)
        await refused(plan, tmp_path, "has no shards")
        await unpod.export_shard(plan, 0, tmp_path)
        await refused(plan, tmp_path, "shard 1 has not been exported")
        await export_all(unpod, plan, tmp_path)
        if merged_before:
            await merge_shards(plan, tmp_path)
        other = await unpod.plan_export(sandbox.space_token, shards=2)
        await refused(other, tmp_path, "another plan")
        with pytest.raises(ExportError, match="another plan"):
            await unpod.export_shard(other, 0, tmp_path)

        shard = tmp_path / "_shards" / "00001"
        kept = tmp_path / "kept"
        shutil.copytree(shard, kept)

        def restore() -> None:
            shutil.rmtree(shard)
            shutil.copytree(kept, shard)

        part = next((shard / "tasks").iterdir())
        part.write_bytes(part.read_bytes().replace(b"a", b"b"))
        await refused(plan, tmp_path, "shard 1 is damaged: tasks/part-00001.jsonl is not the file")
        restore()
        part.unlink()
        await refused(plan, tmp_path, "cannot be merged: No such file")
        restore()
        # The directory of another shard, as it is or with another number in its manifest.
        shutil.rmtree(shard)
        shutil.copytree(tmp_path / "_shards" / "00000", shard)
        await refused(plan, tmp_path, "is not shard 1 of this plan")
        manifest = shard / "_manifest.json"
        manifest.write_text(manifest.read_text().replace('"shard": 0', '"shard": 1'))
        await refused(plan, tmp_path, "shard 1 is damaged: it has run")
        restore()
        # Runs that are in no shard although its manifest says that it is complete.
        content = json.loads(manifest.read_text())
        content["parts"] = [one for one in content["parts"] if one["kind"] != "runs"]
        manifest.write_text(json.dumps(content))
        await refused(plan, tmp_path, "of the plan are missing")
        restore()
        manifest.unlink()
        await refused(plan, tmp_path, "shard 1 has not been exported")
        restore()
        assert (await merge_shards(plan, tmp_path)).complete
        shutil.rmtree(kept)
        assert_holds(tmp_path, sandbox)


async def test_a_merge_waits_for_no_shard_that_is_being_exported(tmp_path: Path) -> None:
    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, tmp_path)
        sandbox.script(faults.stall(path="/runs/", times=1))
        sent = sandbox.requests
        exporting = asyncio.create_task(unpod.export_shard(plan, 1, tmp_path))
        await sandbox.arrived(sent + 1)
        await refused(plan, tmp_path, "shard 1 is being exported", TargetLockedError)
        exporting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exporting
        assert (await merge_shards(plan, tmp_path)).complete


@pytest.mark.parametrize("name", ["tasks", "runs", "_manifest.json", ".unpod-export", "recordings"])
async def test_shards_go_to_an_empty_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        with pytest.raises(ExportError, match=f"contains {name}"):
            await unpod.export_shard(plan, 0, tmp_path)


async def test_a_plain_export_does_not_write_into_the_directory_of_a_plan(tmp_path: Path) -> None:
    async with Sandbox(runs=3) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        await unpod.export_shard(plan, 0, tmp_path)
        with pytest.raises(ExportError, match=r"_plan\.json"):
            await unpod.export(sandbox.space_token, tmp_path)
        await merge_shards(plan, tmp_path)
        with pytest.raises(ExportError, match="contains"):
            await unpod.export(sandbox.space_token, tmp_path)


async def test_two_shards_start_at_once(tmp_path: Path) -> None:
    async with Sandbox(runs=12) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=6)
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(unpod.export_shard(plan, number, tmp_path))
        assert (await merge_shards(plan, tmp_path)).complete
        assert_holds(tmp_path, sandbox)


async def test_leftovers_are_removed_by_age(tmp_path: Path) -> None:
    async with Sandbox(runs=3) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        await unpod.export_shard(plan, 0, tmp_path)
        old, young = tmp_path / "._plan.json-1-aa", tmp_path / "._plan.json-2-bb"
        for path in (old, young):
            path.write_bytes(b"")
        os.utime(old, (0, 0))
        (tmp_path / "_shards" / "merging" / "tasks").mkdir(parents=True)
        (tmp_path / "_shards" / "merging" / "tasks" / "part-00000-00001.jsonl").write_bytes(b"{}\n")
        assert (await merge_shards(plan, tmp_path)).complete
        assert (old.exists(), young.exists()) == (False, True)
        assert not (tmp_path / "_shards" / "merging").exists()
        assert_manifest(tmp_path)


# -- kills --------------------------------------------------------------------------------------------------

WORKER = """
import asyncio, os, signal, sys
from unpod_async import ExportPlan, UnpodClient

async def main(token, url, plan, number, target, rows):
    def on_progress(event):
        if event.rows >= int(rows) > 0:
            os.kill(os.getpid(), signal.SIGKILL)
    async with UnpodClient(token, base_url=url) as unpod:
        await unpod.export_shard(ExportPlan.load(plan), int(number), target, on_progress=on_progress)

asyncio.run(main(*sys.argv[1:]))
"""

MERGER = """
import os, signal, sys, threading, asyncio
from unpod_async import ExportPlan, merge_shards

COUNTED = {"link", "replace", "rename", "unlink", "mkdir", "write", "rmdir", "fsync"}
left = int(sys.argv[3])

def look(frame, event, what):
    global left
    if event == "c_call" and getattr(what, "__name__", "") in COUNTED:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

plan = ExportPlan.load(sys.argv[1])
threading.setprofile(look)
asyncio.run(merge_shards(plan, sys.argv[2]))
print(int(sys.argv[3]) - left)
"""


async def run_python(code: str, *arguments: object) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", code, *map(str, arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(unpod_async.__file__).parents[1])},
    )
    output, errors = await process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode or 0, output.decode()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
async def test_four_processes_of_which_one_is_killed_and_run_again(tmp_path: Path) -> None:
    async with Sandbox(runs=60, tasks_per_run=(1, 9)) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=4)
        plan.save(tmp_path / "plan.json")

        async def worker(number: int, kill_at_rows: int = 0) -> int:
            arguments = (sandbox.token, sandbox.base_url, tmp_path / "plan.json", number, tmp_path / "data")
            return (await run_python(WORKER, *arguments, kill_at_rows))[0]

        # The killed worker may be killed by its last event, when its files are complete.
        results = await asyncio.gather(worker(0), worker(1, kill_at_rows=1), worker(2), worker(3))
        assert results == [0, -signal.SIGKILL, 0, 0]
        assert await worker(1) == 0
        assert (await merge_shards(plan, tmp_path / "data")).complete
        assert_holds(tmp_path / "data", sandbox)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
async def test_a_merge_that_is_killed_at_any_moment_is_repeated(tmp_path: Path) -> None:
    async with Sandbox(runs=12) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        plan.save(tmp_path / "plan.json")
        data = tmp_path / "data"
        await export_all(unpod, plan, data)
        calls = int((await run_python(MERGER, tmp_path / "plan.json", data, 0))[1])
        assert_holds(data, sandbox)
        moments = random.Random(1)
        for _ in range(8):
            sandbox.delete_run(sandbox.run_ids()[0])
            sandbox.insert_task(sandbox.run_ids()[0])
            sandbox.advance()
            await export_all(unpod, plan, data)
            status, _ = await run_python(MERGER, tmp_path / "plan.json", data, moments.randint(1, calls))
            if status:
                status, _ = await run_python(MERGER, tmp_path / "plan.json", data, 0)
            assert status == 0
            assert_holds(data, sandbox)
