"""Shards of a plan in an object store have, after the merge, exactly the rows of a plain export.

S3 is moto's server. The nox session `stores` runs the tests against the other stores too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import unpod_async.distributed
from tests.cli.harness import run_process, settings, start_process
from tests.export.dataset import assert_holds, assert_manifest, found_rows
from unpod_async import (
    ExportError,
    ExportPlan,
    ExportSummary,
    InvalidArgument,
    TargetLockedError,
    TransportError,
    UnpodClient,
    merge_shards,
)
from unpod_async.testing import Sandbox, faults

stores = pytest.importorskip("tests.export.stores", reason="obstore and moto are not installed")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.export.stores import Bucket

LOCK, MANIFEST = stores.LOCK, stores.MANIFEST
PLAN = "_plan.json"
between, copies, denied, lock, writes = (
    stores.between,
    stores.copies,
    stores.denied,
    stores.lock,
    stores.writes,
)
SMALL: dict[str, Any] = {"part_bytes": 8_000}


async def export_all(
    unpod: UnpodClient, plan: ExportPlan, bucket: Bucket, **options: Any
) -> list[ExportSummary]:
    return [
        await unpod.export_shard(plan, number, bucket.url, **{**SMALL, **options})
        for number in range(plan.shards)
    ]


def merged_objects(bucket: Bucket) -> dict[str, str]:
    """Return the ETag of every object that does not belong to a shard."""
    found: dict[str, str] = bucket.versions()
    return {name: version for name, version in found.items() if not name.startswith("_shards/")}


def part_of(bucket: Bucket, shard: int, kind: str = "tasks") -> str:
    """Return the name of a part of a shard."""
    return min(name for name in bucket.names() if name.startswith(f"_shards/{shard:05}/{kind}/"))


def assert_exact(bucket: Bucket, sandbox: Sandbox, folder: Path, form: str = "jsonl") -> None:
    """Check that the data set has every row once and a correct manifest, and that no copy is left over."""
    shutil.rmtree(folder, ignore_errors=True)
    assert_holds(bucket.download(folder), sandbox, form)
    named = {part["name"] for part in bucket.manifest()["parts"]}
    assert set(merged_objects(bucket)) == named | {MANIFEST, PLAN}


def change(sandbox: Sandbox) -> None:
    sandbox.delete_run(sandbox.run_ids()[0])
    sandbox.insert_task(sandbox.run_ids()[0])
    sandbox.advance()


# -- the result ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "parquet"])
async def test_the_shards_together_are_a_plain_export(bucket: Bucket, tmp_path: Path, form: Any) -> None:
    async with Sandbox(runs=30, tasks_per_run=(0, 6)) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=4, format=form)
        shards = await export_all(unpod, plan, bucket)
        assert sum(summary.runs for summary in shards) == 30
        assert shards[1].target == f"{bucket.url}/_shards/00001"

        merged = await merge_shards(plan, bucket.url)

        plain = await unpod.export(sandbox.space_token, tmp_path / "plain", format=form)
        assert (merged.target, merged.complete, merged.reasons) == (bucket.url, True, ())
        assert (merged.runs, merged.tasks) == (plain.runs, plain.tasks)
        assert_exact(bucket, sandbox, tmp_path / "read", form)
        for kind in ("runs", "tasks"):
            assert found_rows(tmp_path / "read", form, kind) == found_rows(tmp_path / "plain", form, kind)
    parts = [part["name"] for part in bucket.manifest()["parts"]]
    assert all(
        re.fullmatch(r"(runs|tasks)/part-0000[0-3]-\d{5}-[0-9a-f]{16}\.[a-z.]+", name) for name in parts
    )


async def test_spaces_options_and_redaction_are_those_of_a_plain_export(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with Sandbox(runs=12) as sandbox, sandbox.client() as unpod:
        spaces = [sandbox.space_token, "SPACEEMPTY00000000000005", "SPACEPOISON0000000000004"]
        options: dict[str, Any] = {"redact": "hash", "redact_key": "a key for tests"}
        plan = await unpod.plan_export(spaces, shards=3, **options)
        await export_all(unpod, plan, bucket, redact_key="a key for tests")
        merged = await merge_shards(plan, bucket.url)
        plain = await unpod.export(spaces, tmp_path / "plain", **options)
        assert (merged.complete, merged.runs) == (plain.complete, plain.runs)
        bucket.download(tmp_path / "read")
        for kind in ("runs", "tasks"):
            assert found_rows(tmp_path / "read", "jsonl", kind) == found_rows(
                tmp_path / "plain", "jsonl", kind
            )


@pytest.mark.parametrize("prefix", ["", "späce and %20, 'quotes' & [more]~*=+$"])
async def test_prefixes(bucket: Bucket, tmp_path: Path, prefix: str) -> None:
    other = bucket.at(prefix)
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, other)
        assert (await merge_shards(plan, other.url)).complete
        assert_exact(other, sandbox, tmp_path / "read")


async def test_an_empty_space_and_more_shards_than_runs(bucket: Bucket) -> None:
    async with Sandbox(runs=0) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, bucket)
        merged = await merge_shards(plan, bucket.url)
        assert (merged.complete, merged.runs, merged.tasks) == (True, 0, 0)


async def test_shards_start_at_once_with_one_directory_for_their_states(
    bucket: Bucket, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    async with Sandbox(runs=12) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=6)
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(unpod.export_shard(plan, number, bucket.url, state_dir=state))
        assert (await merge_shards(plan, bucket.url, state_dir=state)).complete
        assert_exact(bucket, sandbox, tmp_path / "read")
        # The state of each shard is there: nothing is downloaded, and settled runs are not read again.
        again = [await unpod.export_shard(plan, number, bucket.url, state_dir=state) for number in range(6)]
        assert sum(one.unchanged_runs for one in again) > 0
    assert not (tmp_path / "cache").exists()


async def test_a_merge_without_news_writes_nothing(bucket: Bucket) -> None:
    async with Sandbox(runs=12, tasks_per_run=(1, 5)) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=3)
        await export_all(unpod, plan, bucket)
        first = await merge_shards(plan, bucket.url)
        before = bucket.versions()
        await export_all(unpod, plan, bucket)
        second = await merge_shards(plan, bucket.url)
        assert bucket.versions() == before
    assert (second.runs, second.tasks, second.files) == (first.runs, first.tasks, first.files)


async def test_a_shard_that_is_exported_again_is_brought_up_to_date(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=12, tasks_per_run=(1, 5)) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=3)
        await export_all(unpod, plan, bucket)
        await merge_shards(plan, bucket.url)
        before = merged_objects(bucket)
        change(sandbox)
        await export_all(unpod, plan, bucket)
        merged = await merge_shards(plan, bucket.url)
        assert (merged.complete, merged.gone_runs) == (True, 1)
        assert_exact(bucket, sandbox, tmp_path / "read")
        # What has not changed was not copied again.
        after = merged_objects(bucket)
        assert {name for name in before if before[name] == after.get(name)} > {PLAN}


async def test_new_runs_enter_by_an_extension_and_no_shard_is_exported_again(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with Sandbox(runs=8) as sandbox, sandbox.client() as unpod:
        first = await unpod.plan_export(sandbox.space_token, shards=3)
        await export_all(unpod, first, bucket)
        await merge_shards(first, bucket.url)
        sandbox.insert_run()
        plan = await unpod.extend_plan(first, shards=1)
        with pytest.raises(ExportError, match="shard 3 has not been exported"):
            await merge_shards(plan, bucket.url)
        assert (await unpod.export_shard(plan, 3, bucket.url)).complete
        before = sandbox.requests
        assert (await merge_shards(plan, bucket.url)).complete
        assert sandbox.requests == before
        assert_exact(bucket, sandbox, tmp_path / "read")
        # A worker that still has the older plan may bring its shard up to date, but not merge.
        assert (await unpod.export_shard(first, 0, bucket.url)).complete
        with pytest.raises(ExportError, match="an extension of this plan"):
            await merge_shards(first, bucket.url)
        assert (await merge_shards(plan, bucket.url)).complete


async def test_rows_that_cannot_be_read_make_the_merge_incomplete(bucket: Bucket) -> None:
    async with Sandbox(runs=9) as sandbox, sandbox.client() as unpod:
        sandbox.poison(sandbox.run_ids()[3])
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, bucket)
        merged = await merge_shards(plan, bucket.url)
        assert (merged.complete, merged.runs) == (False, 8)
        assert any("1 row of the listing of runs could not be read" in reason for reason in merged.reasons)


async def test_the_summary_has_no_local_copy_to_query(bucket: Bucket) -> None:
    async with Sandbox(runs=2) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        await export_all(unpod, plan, bucket)
        merged = await merge_shards(plan, bucket.url)
    assert merged.local_copy is None
    with pytest.raises(ExportError, match="is in an object store") as failed:
        merged.to_duckdb()
    assert "copy" in str(failed.value.hint)


# -- whose prefix it is -------------------------------------------------------------------------------------


async def test_a_prefix_belongs_to_one_plan(bucket: Bucket) -> None:
    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        other = await unpod.plan_export(sandbox.space_token, shards=3)
        await export_all(unpod, plan, bucket)
        before = bucket.versions()
        with pytest.raises(ExportError, match="belongs to another plan") as failed:
            await unpod.export_shard(other, 0, bucket.url)
        assert "another prefix" in str(failed.value.hint)
        await refused(other, bucket, "belong to another plan")
        assert bucket.versions() == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tasks/part-00001.jsonl", "contains tasks"),
        ("runs/anything", "contains runs"),
        (MANIFEST, "contains _manifest.json"),
        (".unpod-export/state-0123456789abcdef.sqlite3.gz", "contains .unpod-export"),
        ("_shards/00000/_manifest.json", "contains _shards"),
    ],
)
async def test_shards_go_to_a_prefix_without_other_data_sets(bucket: Bucket, name: str, said: str) -> None:
    bucket.write(name, b"{}")
    bucket.write("readme.txt", b"hello")
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        with pytest.raises(ExportError, match=re.escape(said)) as failed:
            await unpod.export_shard(plan, 0, bucket.url)
    assert "has no objects" in str(failed.value.hint)
    assert bucket.names() == {name, "readme.txt"}


async def test_a_damaged_note_of_the_plan_is_an_error(bucket: Bucket) -> None:
    bucket.write(PLAN, b"[]")
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        with pytest.raises(ExportError, match=r"_plan\.json is damaged"):
            await unpod.export_shard(plan, 0, bucket.url)
        with pytest.raises(ExportError, match=r"_plan\.json is damaged"):
            await merge_shards(plan, bucket.url)


async def test_a_plain_export_and_shards_exclude_each_other(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=3) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        bucket.write(LOCK, lock("somebody else", 3000))
        with pytest.raises(TargetLockedError, match="another export is writing") as locked:
            await unpod.export_shard(plan, 0, bucket.url)
        assert "its lock ends at" in str(locked.value.hint)
        bucket.write(LOCK, lock("somebody else", 0))  # it has ended, and stored nothing
        await unpod.export_shard(plan, 0, bucket.url)
        for _ in range(2):
            before = bucket.versions()
            with pytest.raises(ExportError, match=r"contains _plan\.json") as failed:
                await unpod.export(sandbox.space_token, bucket.url)
            assert "export to another prefix" in str(failed.value.hint)
            assert bucket.versions() == before
            await merge_shards(plan, bucket.url)
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_worker_that_sees_the_objects_of_another_worker_is_not_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The other worker has written `_plan.json` and exported a shard between two requests."""
    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        began: list[str] = []

        async def rule(method: str, path: str, request: bytes) -> bytes:
            if method == "GET" and path.endswith(MANIFEST) and "_shards" not in path and not began:
                began.append(path)
                await export_in_another_process(sandbox, bucket, plan, 1, tmp_path)
            return request

        async with between(bucket, monkeypatch, rule):
            await unpod.export_shard(plan, 0, bucket.url)
        assert began
        assert (await merge_shards(plan, bucket.url)).complete
        assert_exact(bucket, sandbox, tmp_path / "read")


WORKER = """
import asyncio, os, signal, sys
from unpod_async import ExportPlan, UnpodClient

async def main(token, url, plan, number, target, state, kill_at):
    def on_progress(event):
        if event.phase == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    async with UnpodClient(token, base_url=url) as unpod:
        await unpod.export_shard(
            ExportPlan.load(plan), int(number), target, state_dir=state, on_progress=on_progress
        )

asyncio.run(main(*sys.argv[1:]))
"""


async def export_in_another_process(
    sandbox: Sandbox, bucket: Bucket, plan: ExportPlan, number: int, folder: Path, kill_at: str = ""
) -> int:
    """Export a shard as another machine does, with a state of its own. Returns the exit status."""
    file = folder / f"plan {number}.json"
    plan.save(file)
    arguments = (sandbox.token, sandbox.base_url, file, number, bucket.url, folder / "another state", kill_at)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", WORKER, *map(str, arguments)),
        env={**os.environ, **stores.inherited(), **bucket.server.environment()},
    )
    return await process.wait()


# -- what a merge refuses -----------------------------------------------------------------------------------


async def refused(
    plan: ExportPlan, bucket: Bucket, message: str, kind: type[ExportError] = ExportError
) -> str:
    """Check that a merge raises, and changes nothing in the store. Returns the hint."""
    before = bucket.versions()
    with pytest.raises(kind, match=message) as raised:
        await merge_shards(plan, bucket.url)
    assert bucket.versions() == before
    assert raised.value.hint
    return str(raised.value.hint)


async def test_a_merge_of_a_wrong_target_writes_nothing(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=2) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        assert "prefix that the shards were exported to" in await refused(plan, bucket, "has no shards")
    assert bucket.names() == set()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("merged_before", [False, True])
async def test_merges_that_are_refused(bucket: Bucket, tmp_path: Path, merged_before: bool) -> None:
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=3)
        await unpod.export_shard(plan, 0, bucket.url)
        assert "export shard 1" in await refused(plan, bucket, "shard 1 has not been exported")
        await export_all(unpod, plan, bucket)
        if merged_before:
            await merge_shards(plan, bucket.url)
            change(sandbox)
            await export_all(unpod, plan, bucket, full=True)
        kept = {name: bucket.read(name) for name in bucket.names() if name.startswith("_shards/00001/")}
        manifest = "_shards/00001/_manifest.json"
        own = json.loads(kept[manifest])

        def restore() -> None:
            for name, content in kept.items():
                bucket.write(name, content)

        # The directory of another shard, as it is or with another number in its manifest.
        other = {
            name.replace("/00000/", "/00001/"): bucket.read(name)
            for name in bucket.names()
            if name.startswith("_shards/00000/")
        }
        for name, content in other.items():
            bucket.write(name, content)
        await refused(plan, bucket, "is not shard 1 of this plan")
        bucket.write(manifest, other[manifest].replace(b'"shard": 0', b'"shard": 1'))
        hint = await refused(plan, bucket, "shard 1 is damaged: it has run")
        assert "all objects below _shards/00001/" in hint
        bucket.delete(*set(other) - set(kept))
        restore()
        # Runs that are in no shard although its manifest says that it is complete.
        runs = [one for one in own["parts"] if one["kind"] == "runs"]
        bucket.write(manifest, json.dumps({**own, "parts": runs[1:]}).encode())
        await refused(plan, bucket, "of the plan are missing")
        # A part with a name that no export to a store writes, or another number of rows.
        bucket.write(manifest, json.dumps({**own, "parts": [{**runs[0], "name": "runs/x"}]}).encode())
        await refused(plan, bucket, "shard 1 is damaged: no export writes the name 'runs/x'")
        more = [{**one, "rows": one["rows"] + 1} for one in own["parts"]]
        bucket.write(manifest, json.dumps({**own, "parts": more}).encode())
        await refused(plan, bucket, "shard 1 is damaged: runs/part-.* is not the file")
        bucket.write(manifest, b"{")
        await refused(plan, bucket, "shard 1 has not been exported: the manifest of .* is damaged")
        bucket.delete(manifest)
        await refused(plan, bucket, "shard 1 has not been exported")
        restore()
        assert (await merge_shards(plan, bucket.url)).complete
        assert_exact(bucket, sandbox, tmp_path / "read")


@pytest.mark.parametrize("kind", ["tasks", "runs"])
async def test_a_part_that_others_changed_is_not_merged(bucket: Bucket, tmp_path: Path, kind: str) -> None:
    async with Sandbox(runs=10) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=3)
        await export_all(unpod, plan, bucket)
        part = part_of(bucket, 1, kind)
        content = bucket.read(part)
        bucket.write(part, content.replace(b"a", b"b"))
        await refused(plan, bucket, "shard 1 is damaged: .* is not the file that the export wrote")
        bucket.delete(part)
        await refused(plan, bucket, "shard 1 is damaged: .* is missing")
        # The advice: remove the objects of the shard, and export it again.
        bucket.delete(*[name for name in bucket.names() if name.startswith("_shards/00001/")])
        await unpod.export_shard(plan, 1, bucket.url)
        assert (await merge_shards(plan, bucket.url)).complete
        assert_exact(bucket, sandbox, tmp_path / "read")


@pytest.mark.parametrize("kind", ["tasks", "runs"])
async def test_a_merge_replaces_a_part_of_the_data_set_that_others_changed(
    bucket: Bucket, tmp_path: Path, kind: str
) -> None:
    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, bucket)
        await merge_shards(plan, bucket.url)
        for is_removed in (False, True):
            part = min(name for name in bucket.parts() if name.startswith(kind))
            bucket.delete(part)
            if not is_removed:
                bucket.write(part, b"{}\n")
            await merge_shards(plan, bucket.url)
            assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_manifest_or_an_object_that_no_merge_wrote_is_refused(bucket: Bucket) -> None:
    async with Sandbox(runs=4) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        await export_all(unpod, plan, bucket)
        shard = bucket.at(f"{bucket.prefix}/_shards/00000").read(MANIFEST)
        for content in (
            shard,
            shard.replace(b'"shard": 0', b'"shard": null'),
            shard.replace(b'"shard": 0', b'"shard": null').replace(plan.digest.encode(), b"0" * 64),
        ):
            bucket.write(MANIFEST, content.replace(b"tasks/part-", b"tasks/x-"))
            await refused(plan, bucket, "that no merge of this plan wrote")
        bucket.write(MANIFEST, b"{")
        assert "remove it and merge again" in await refused(plan, bucket, "the manifest of .* is damaged")
        bucket.delete(MANIFEST)
        bucket.write("tasks/notes.csv", b"1,2")
        await refused(plan, bucket, "'tasks/notes.csv', which no export wrote")
        bucket.delete("tasks/notes.csv")
        assert (await merge_shards(plan, bucket.url)).complete


async def test_a_merge_waits_for_no_shard_that_is_being_exported(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, bucket)
        sandbox.script(faults.stall(path="/runs/", times=1))
        sent = sandbox.requests
        exporting = asyncio.create_task(unpod.export_shard(plan, 1, bucket.url))
        await sandbox.arrived(sent + 1)
        hint = await refused(plan, bucket, "shard 1 is being exported", TargetLockedError)
        assert "its lock ends at" in hint
        exporting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exporting
        assert (await merge_shards(plan, bucket.url)).complete
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_one_merge_at_a_time(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, bucket)
        seen: list[str] = []
        once = asyncio.Lock()

        async def rule(method: str, path: str, request: bytes) -> bytes:
            if copies(request) and not once.locked():
                await once.acquire()  # and it is kept
                for state in (None, tmp_path / "another machine"):
                    with pytest.raises(TargetLockedError, match="another merge is writing to") as locked:
                        await merge_shards(plan, bucket.url, state_dir=state)
                    seen.append(str(locked.value.hint))
            return request

        async with between(bucket, monkeypatch, rule):
            await merge_shards(plan, bucket.url)
        assert "its lock ends at" in seen[1]
        assert_exact(bucket, sandbox, tmp_path / "read")
        for seconds in (0, -1e9):  # free, or of a merge that was killed and has expired
            bucket.write(LOCK, lock("another machine", seconds))
            await merge_shards(plan, bucket.url)


# -- others write, requests fail ----------------------------------------------------------------------------


@contextlib.contextmanager
def around(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lead the exports of the block to the server itself, not through a proxy."""
    with monkeypatch.context() as patch:
        for name, value in bucket.server.environment().items():
            patch.setenv(name, value)
        yield


@pytest.mark.parametrize("moment", ["the first copy", "the end"])
async def test_a_shard_that_is_exported_while_it_is_merged(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: str
) -> None:
    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        run = min(plan.shard(1).runs[sandbox.space_token])
        await export_all(unpod, plan, bucket)
        await merge_shards(plan, bucket.url)
        sandbox.insert_task(run)
        sandbox.advance()
        await export_all(unpod, plan, bucket)
        before = merged_objects(bucket)
        reads = itertools.count(1)
        once, exported = asyncio.Lock(), []

        async def rule(method: str, path: str, request: bytes) -> bytes:
            async with once:
                is_end = (
                    method == "GET" and path.endswith("_shards/00001/_manifest.json") and next(reads) == 2
                )
                if not exported and (is_end if moment == "the end" else copies(request)):
                    sandbox.insert_task(run)
                    sandbox.advance()
                    with around(bucket, monkeypatch):
                        exported.append(await unpod.export_shard(plan, 1, bucket.url))
            return request

        async with between(bucket, monkeypatch, rule):
            with pytest.raises(TargetLockedError, match="shard 1 was exported while it was merged"):
                await merge_shards(plan, bucket.url)
        assert exported
        assert merged_objects(bucket) == before
        await export_all(unpod, plan, bucket)
        assert (await merge_shards(plan, bucket.url)).complete
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_manifest_that_changes_meanwhile_is_not_overwritten(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As if the merge had been suspended: another merge has taken the lock and ended."""
    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, bucket)
        theirs: list[bytes] = []

        async def rule(method: str, path: str, request: bytes) -> bytes:
            if writes(method, path, MANIFEST) and not theirs:
                bucket.write(LOCK, lock("free", 0))
                with around(bucket, monkeypatch):
                    await merge_shards(plan, bucket.url, state_dir=tmp_path / "another machine")
                theirs.append(bucket.read(MANIFEST))
            return request

        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match="was changed by others during this merge") as failed:
                await merge_shards(plan, bucket.url)
        assert "merge again" in str(failed.value.hint)
        assert bucket.read(MANIFEST) == theirs[0]
        # The other merge may have deleted the copies of this one, and this one has deleted the rest.
        assert_exact(bucket, sandbox, tmp_path / "read")
        await merge_shards(plan, bucket.url)
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_merge_that_lost_its_lock_writes_no_manifest(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(runs=4) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        await export_all(unpod, plan, bucket)

        async def rule(method: str, path: str, request: bytes) -> bytes:
            if copies(request):
                bucket.write(LOCK, lock("another machine", 3000))
            return request

        before = bucket.versions()
        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match="another merge has taken the lock"):
                await merge_shards(plan, bucket.url)
        assert bucket.versions() == before
        assert json.loads(bucket.read(LOCK))["holder"] == "another machine"


async def test_a_manifest_whose_answer_was_lost_counts_as_written(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lost: set[str] = set()

    async def rule(method: str, path: str, request: bytes) -> bytes | None:
        if method == "PUT" and path.endswith((MANIFEST, PLAN)) and path not in lost:
            lost.add(path)
            await stores.forward(bucket.server, request)
            return None
        return request

    async with Sandbox(runs=4) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        async with between(bucket, monkeypatch, rule):
            await export_all(unpod, plan, bucket)
            await merge_shards(plan, bucket.url)
        assert len(lost) == 3
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_store_that_does_not_copy_such_objects(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """S3 refuses to copy objects of more than 5 GB, and Azure may answer before it has copied one."""
    done = http_answer = b"<CopyObjectResult><ETag>&quot;0&quot;</ETag></CopyObjectResult>"

    async def refuse(method: str, path: str, request: bytes) -> bytes:
        return denied("InvalidRequest", 400) if copies(request) else request

    async def pretend(method: str, path: str, request: bytes) -> bytes:
        if not copies(request):
            return request
        status = "202 Accepted" if bucket.server.scheme == "az" else "200 OK"
        head = f'HTTP/1.1 {status}\r\nETag: "0"\r\nContent-Length: {len(done)}\r\nConnection: close\r\n\r\n'
        return head.encode() + http_answer

    async with Sandbox(runs=8) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2, format="parquet")
        for rule in (refuse, pretend):
            await export_all(unpod, plan, bucket)
            async with between(bucket, monkeypatch, rule):
                assert (await merge_shards(plan, bucket.url)).complete
            assert_exact(bucket, sandbox, tmp_path / "read", "parquet")
            change(sandbox)


@pytest.mark.parametrize("moment", ["lock.json", "/tasks/part-0", MANIFEST])
async def test_denied_requests(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: str
) -> None:
    async def rule(method: str, path: str, request: bytes) -> bytes:
        return denied() if writes(method, path, moment) else request

    async with Sandbox(runs=4) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, bucket)
        before = bucket.versions()
        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match="denies access"):
                await merge_shards(plan, bucket.url)
        if moment != MANIFEST:  # else its outcome is unknown, and the copies stay until the next merge
            assert bucket.versions() == before
        assert (await merge_shards(plan, bucket.url)).complete
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_disk_that_cannot_be_written(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def rule(method: str, path: str, request: bytes) -> bytes:
        if copies(request):
            shutil.rmtree(tmp_path / "state" / "merge" / "restoring", ignore_errors=True)
        return request

    (tmp_path / "file").write_text("")
    async with Sandbox(runs=3) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        await export_all(unpod, plan, bucket)
        before = bucket.versions()
        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match="restoring cannot be written: No such file") as failed:
                await merge_shards(plan, bucket.url, state_dir=tmp_path / "state")
        assert failed.value.hint == "fix the cause and merge again"
        with pytest.raises(ExportError, match="merge cannot be written") as failed:
            await merge_shards(plan, bucket.url, state_dir=tmp_path / "file")
        assert "merge again" in str(failed.value.hint)
        assert bucket.versions() == before


async def test_replaced_parts_that_cannot_be_deleted_are_deleted_by_the_next_merge(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def rule(method: str, path: str, request: bytes) -> bytes:
        return denied() if method == "DELETE" or "delete" in path or "comp=batch" in path else request

    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        await export_all(unpod, plan, bucket)
        await merge_shards(plan, bucket.url)
        change(sandbox)
        await export_all(unpod, plan, bucket)
        async with between(bucket, monkeypatch, rule):
            assert (await merge_shards(plan, bucket.url)).complete
        assert "the next merge tries it again" in caplog.text
        await merge_shards(plan, bucket.url)
        assert_exact(bucket, sandbox, tmp_path / "read")


async def test_a_cancelled_merge_leaves_nothing_behind(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with Sandbox(runs=9) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=3, format="parquet")
        await export_all(unpod, plan, bucket)
        await merge_shards(plan, bucket.url)
        change(sandbox)
        await export_all(unpod, plan, bucket)
        before = bucket.versions()

        def is_read_of_a_copy(method: str, path: str, request: bytes) -> bool:
            return method == "GET" and "/runs/part-" in path and "_shards" not in path

        moments = [
            lambda method, path, request: copies(request),
            is_read_of_a_copy,
            lambda method, path, request: method == "GET" and "_shards/00002/.unpod-export" in path,
            lambda method, path, request: method == "GET" and "_shards/00002/_manifest" in path,
        ]
        for is_now in moments:
            arrived, hung_up = asyncio.Event(), asyncio.Event()

            async def rule(
                method: str,
                path: str,
                request: bytes,
                is_now: Any = is_now,
                arrived: asyncio.Event = arrived,
                hung_up: asyncio.Event = hung_up,
            ) -> bytes:
                if is_now(method, path, request):
                    arrived.set()
                    await hung_up.wait()
                return request

            async with between(bucket, monkeypatch, rule):
                running = asyncio.create_task(merge_shards(plan, bucket.url))
                await arrived.wait()
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
            assert bucket.versions() == before
            assert json.loads(bucket.read(LOCK))["seconds"] == 0
            assert not list((tmp_path / "cache").rglob("restoring"))
        assert (await merge_shards(plan, bucket.url, state_dir=tmp_path / "elsewhere")).complete
        assert_exact(bucket, sandbox, tmp_path / "read", "parquet")


async def test_a_copy_that_is_under_way_when_a_merge_is_cancelled(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store makes the copy in any case, so it is deleted after that."""
    async with Sandbox(runs=6) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, bucket)
        before = bucket.versions()
        arrived, cancelled = asyncio.Event(), asyncio.Event()

        async def rule(method: str, path: str, request: bytes) -> bytes:
            if copies(request):
                arrived.set()
                await cancelled.wait()
            return request

        async with between(bucket, monkeypatch, rule):
            running = asyncio.create_task(merge_shards(plan, bucket.url))
            await arrived.wait()
            running.cancel()
            cancelled.set()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert bucket.versions() == before


async def test_the_deadline_ends_a_merge(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def rule(method: str, path: str, request: bytes) -> bytes:
        if method == "GET" and "/tasks/part-" in path and "_shards" not in path:
            await asyncio.Event().wait()
        return request

    async with Sandbox(runs=5) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        await export_all(unpod, plan, bucket)
        before = bucket.versions()
        async with between(bucket, monkeypatch, rule):
            with pytest.raises(TransportError, match="deadline of 2 s ended") as failed:
                await merge_shards(plan, bucket.url, deadline=2)
        assert failed.value.timed_out
        assert bucket.versions() == before
        assert json.loads(bucket.read(LOCK))["seconds"] == 0
        assert (await merge_shards(plan, bucket.url, deadline=60)).complete


async def test_a_store_that_ignores_conditions_is_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bucket.server.scheme == "az":
        pytest.skip("the conditions are signed")

    async def rule(method: str, path: str, request: bytes) -> bytes:
        return re.sub(rb"(?i)\r\n(if-(none-)?match|x-goog-if-generation-match): [^\r]*", b"", request)

    async with Sandbox(runs=3) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        async with between(bucket, monkeypatch, rule):
            with pytest.raises(ExportError, match="does not support conditional writes"):
                await unpod.export_shard(plan, 0, bucket.url)


# -- on a cluster -------------------------------------------------------------------------------------------


async def test_the_workers_of_a_cluster_export_into_a_store(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A lost worker has left the lock of the merge, which ends soon."""
    dask = pytest.importorskip("distributed", reason="Dask is not installed")
    async with Sandbox(runs=12) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=3)
        bucket.write(PLAN, msgspec.json.encode({"digests": [plan.digest]}))
        bucket.write(LOCK, lock("a lost worker", 3))

        variables = {**settings(sandbox), "UNPOD_PLATFORM_BASE_URL": sandbox.base_url}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        async with (
            dask.LocalCluster(
                n_workers=1, processes=False, dashboard_address="127.0.0.1:0", asynchronous=True
            ) as cluster,
            dask.Client(cluster, asynchronous=True) as client,
        ):
            summary = await unpod_async.distributed.export(
                plan, bucket.url, client, state_dir=tmp_path / "state"
            )
        assert (summary.target, summary.complete, summary.runs) == (bucket.url, True, 12)
        assert_exact(bucket, sandbox, tmp_path / "read")
    assert {path.name for path in (tmp_path / "state").iterdir()} == {
        *(f"shard-{number:05}" for number in range(3)),
        "merge",
    }


# -- kills --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("kill_at", ["fetching", "uploading"])
async def test_a_killed_shard_is_exported_on_another_machine(
    bucket: Bucket, tmp_path: Path, kill_at: str
) -> None:
    async with Sandbox(runs=40, tasks_per_run=(1, 9)) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=4)

        async def worker(number: int, kill_at: str = "") -> int:
            return await export_in_another_process(sandbox, bucket, plan, number, tmp_path, kill_at)

        results = await asyncio.gather(worker(0), worker(1, kill_at), worker(2), worker(3))
        assert results == [0, -signal.SIGKILL, 0, 0]
        await refused(plan, bucket, "shard 1 has not been exported")
        # The lock of the killed worker ends after two minutes.
        bucket.write(f"_shards/00001/{LOCK}", lock("the killed worker", 0))
        await unpod.export_shard(plan, 1, bucket.url, state_dir=tmp_path / "another machine")
        assert (await merge_shards(plan, bucket.url)).complete
        assert_exact(bucket, sandbox, tmp_path / "read")


MERGER = """
import asyncio, os, signal, sys, threading
from unpod_async import ExportPlan, merge_shards

COUNTED = {"get_async", "put_async", "copy_async", "delete_async", "list"}
left = int(sys.argv[3])

def look(frame, event, what):
    global left
    if event == "c_call" and getattr(what, "__name__", "") in COUNTED:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    plan = ExportPlan.load(sys.argv[1])
    sys.setprofile(look)
    try:
        await merge_shards(plan, sys.argv[2], state_dir=sys.argv[4])
    finally:
        sys.setprofile(None)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_merge_that_is_killed_before_each_request_is_repeated(
    bucket: Bucket, tmp_path: Path, is_first: bool
) -> None:
    """Readers never see a data set that is not whole, and the next merge ends in the exact data set."""
    state, file = tmp_path / "state", tmp_path / "plan.json"
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=2)
        plan.save(file)
        await export_all(unpod, plan, bucket)
        if not is_first:
            await merge_shards(plan, bucket.url)
        for kill_at in range(1, 100):
            if is_first:
                bucket.delete(*set(merged_objects(bucket)) - {PLAN})
            else:
                sandbox.insert_task(sandbox.run_ids()[0])
                sandbox.advance()
                await export_all(unpod, plan, bucket)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-c", MERGER, file, bucket.url, str(kill_at), state),
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(Path(unpod_async.__file__).parents[1])},
            )
            _, errors = await process.communicate()
            assert process.returncode in (0, -signal.SIGKILL), errors.decode()
            if MANIFEST in bucket.names():
                folder = tmp_path / f"named {kill_at}"
                for name in (MANIFEST, *(part["name"] for part in bucket.manifest()["parts"])):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(bucket.read(name))
                assert_manifest(folder)
            await merge_shards(plan, bucket.url, state_dir=state)
            assert_exact(bucket, sandbox, tmp_path / "read")
            if process.returncode == 0:
                break
    assert kill_at > 25


# -- arguments ----------------------------------------------------------------------------------------------


async def test_arguments_that_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    async with Sandbox(runs=1) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        with pytest.raises(InvalidArgument, match="state_dir is only used") as refused:
            await unpod.export_shard(plan, 0, tmp_path / "data", state_dir=tmp_path / "state")
        assert refused.value.argument == "state_dir"
        recordings = await unpod.plan_export(sandbox.space_token, shards=1, recordings=True)
        with pytest.raises(InvalidArgument, match="recordings cannot be exported into an object store"):
            await unpod.export_shard(recordings, 0, bucket.url)
        for options in ({"deadline": 3.0}, {"state_dir": tmp_path}):
            with pytest.raises(InvalidArgument, match="is only used if the target is in an object store"):
                await merge_shards(plan, tmp_path / "data", **options)  # type: ignore[arg-type]
        for value in (0, -1, "1", True, float("inf")):
            with pytest.raises(InvalidArgument, match="deadline must be"):
                await merge_shards(plan, bucket.url, deadline=value)  # type: ignore[arg-type]
        for value in ("", 1, "a\0b"):
            with pytest.raises(InvalidArgument, match="state_dir must be the path of a directory"):
                await merge_shards(plan, bucket.url, state_dir=value)  # type: ignore[arg-type]
            with pytest.raises(InvalidArgument, match="target must be the path of a directory"):
                await merge_shards(plan, value)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="must be a directory, or a URL"):
            await merge_shards(plan, "https://bucket/prefix")
        with pytest.raises(InvalidArgument, match=r"ExportPlan\.load"):
            await merge_shards("plan.json", bucket.url)  # type: ignore[arg-type]
    assert bucket.names() == set()
    assert not (tmp_path / "data").exists()


# -- the command line ---------------------------------------------------------------------------------------


def variables(bucket: Bucket, sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    return {**settings(sandbox), **bucket.server.environment(), **cache}


async def test_the_commands_work_with_a_store(bucket: Bucket, tmp_path: Path) -> None:
    plan, state = str(tmp_path / "plan.json"), str(tmp_path / "state")
    async with Sandbox(runs=6) as sandbox:
        names = variables(bucket, sandbox, tmp_path)
        await run_process(names, "plan", sandbox.space_token, plan, "--shards", "2")
        shard = ("export", "--plan", plan, "--shard")
        done = await run_process(names, *shard, "0", bucket.url, "--state-dir", state)
        assert done.status == 0, done.err
        assert json.loads(done.out)["local_copy"] == f"{state}/shard-00000/data"
        done = await run_process(names, "merge", plan, bucket.url)
        assert done.status == 1
        assert "shard 1 has not been exported" in done.err
        assert "hint: export shard 1" in done.err
        done = await run_process(names, *shard, "1", bucket.url)
        assert done.status == 0, done.err

        bucket.write(f"_shards/00001/{LOCK}", lock("somebody else", 3000))
        done = await run_process(names, "merge", plan, bucket.url)
        assert done.status == 75
        assert "shard 1 is being exported" in done.err
        bucket.write(f"_shards/00001/{LOCK}", lock("somebody else", 0))

        merge = ("merge", plan, bucket.url, "--state-dir", state, "--deadline", "1m")
        done = await run_process(names, *merge)
        assert done.status == 0, done.err
        assert (json.loads(done.out)["target"], json.loads(done.out)["runs"]) == (bucket.url, 6)
        assert_exact(bucket, sandbox, tmp_path / "read")
        done = await run_process(names, *merge, "--table")
        assert done.status == 0, done.err

        done = await run_process(names, "merge", plan, str(tmp_path), "--deadline", "3")
        assert done.status == 2
        assert "--deadline is only used if the target is in an object store" in done.err
        done = await run_process(names, "export", sandbox.space_token, bucket.url)
        assert done.status == 1
        assert "contains _plan.json" in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
async def test_a_merge_that_is_stopped_cleans_up(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SIGTERM, as a job scheduler sends it, and the deadline."""
    arrived = asyncio.Event()

    async def rule(method: str, path: str, request: bytes) -> bytes:
        if method == "GET" and "/tasks/part-" in path and "_shards" not in path:
            arrived.set()
            await asyncio.Event().wait()
        return request

    async with Sandbox(runs=4) as sandbox, sandbox.client() as unpod:
        plan = await unpod.plan_export(sandbox.space_token, shards=1)
        plan.save(tmp_path / "plan.json")
        await export_all(unpod, plan, bucket)
        before = bucket.versions()
        merge = ("merge", str(tmp_path / "plan.json"), bucket.url)
        async with between(bucket, monkeypatch, rule) as proxy:
            names = variables(bucket, sandbox, tmp_path) | bucket.server.environment(proxy.port)
            process = await start_process(names, *merge)
            await arrived.wait()
            process.terminate()
            _, errors = await process.communicate()
            assert (process.returncode, errors) == (128 + signal.SIGTERM, b"unpod-async: interrupted\n")
            assert bucket.versions() == before
            done = await run_process(names, *merge, "--deadline", "2")
            assert done.status == 1
            assert "the deadline of 2 s ended" in done.err
            assert bucket.versions() == before
        assert json.loads(bucket.read(LOCK))["seconds"] == 0
        assert (await run_process(variables(bucket, sandbox, tmp_path), *merge)).status == 0
