"""Recordings of an export: saved once in `recordings/`, without the token; failed ones are requested
again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.export.dataset import assert_manifest
from tests.raw_server import RawServer, http_response
from unpod_async import ExportProgress, UnpodClient
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.raw_server import RawConnection

SOUND = http_response(b"RIFF....WAVE", headers=[("Content-Type", "audio/wav")])
GONE = http_response(b"", status=404)


def record(sandbox: Sandbox, urls: Iterable[str]) -> None:
    """Give the tasks of a sandbox recordings at these URLs."""
    for row, url in zip(list(sandbox.task_rows()), urls, strict=True):
        row["output"] = {"call_id": "c", "recording_url": url}
        row["status"] = "completed"
        sandbox.malform(row["task_id"], json.dumps(row).encode())


async def test_the_summary_says_why_recordings_were_not_downloaded(tmp_path: Path) -> None:
    """Recordings that failed alike are one reason, with the host but without the path of the URL."""

    async def store(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(GONE)

    async with Sandbox(runs=1, tasks_per_run=5) as sandbox, RawServer(store) as server:
        tasks = sandbox.task_ids()
        refused = [f"http://127.0.0.1:9/+4912345/{number}.wav?signature=hush" for number in range(2)]
        missing = [f"{server.base_url}/+4912345/{number}.wav?signature=hush" for number in range(3)]
        record(sandbox, [*refused, *missing])
        host = server.base_url.removeprefix("http://")
        async with sandbox.client() as unpod:
            summary = await unpod.export(
                sandbox.space_token, tmp_path, recordings=True, recording_hosts=[host], concurrency=1
            )
    gone = "the server answered 404: the recording is not ready yet or was deleted"
    refusal = "http is not accepted"
    first = min(tasks[2:]), min(tasks[:2])
    assert summary.failed_recordings == 5
    assert summary.reasons == (
        f"the recording of task {first[0]} was not downloaded: {host}: {gone} (and 2 more)",
        f"the recording of task {first[1]} was not downloaded: 127.0.0.1:9: {refusal} (and 1 more)",
    )
    assert summary.hints == (
        "a recording may appear some time after its call; list the task again to get a fresh URL",
        "add the host to recording_hosts= if the store is yours",
    )
    manifest = assert_manifest(tmp_path)
    assert [(one["count"], one["task_id"]) for one in manifest["failed_downloads"]] == [
        (3, first[0]),
        (2, first[1]),
    ]
    assert manifest["reasons"] == []  # these are about rows
    for secret in ("hush", "4912345"):
        assert secret not in json.dumps(manifest) + repr(summary)


@pytest.mark.parametrize(("hosts", "counts"), [("abcbc", [2, 2, 1]), ("abcde", [1, 1, 1])])
async def test_at_most_three_reasons_are_about_recordings(
    tmp_path: Path, hosts: str, counts: list[int]
) -> None:
    async with Sandbox(runs=1, tasks_per_run=5) as sandbox, sandbox.client() as unpod:
        record(sandbox, [f"http://{host}.example/x" for host in hosts])
        summary = await unpod.export(sandbox.space_token, tmp_path, recordings=True)
    assert [one["count"] for one in assert_manifest(tmp_path)["failed_downloads"]] == counts
    assert len(summary.reasons) == 3
    assert summary.hints == ("add the host to recording_hosts= if the store is yours",)


async def test_progress_counts_recordings(tmp_path: Path) -> None:
    """The server answers one request after the event that tells the answer before."""
    events: list[ExportProgress] = []
    told: asyncio.Event = asyncio.Event()
    counts: set[int] = set()

    def show(event: ExportProgress) -> None:
        events.append(event)
        if event.phase == "recordings":
            counts.add(event.recordings_done + event.recordings_failed)
            told.set()

    async def store(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            while len(server.requests) - 1 not in counts:
                told.clear()
                await told.wait()
            await connection.send(GONE if len(server.requests) == 2 else SOUND)

    async with Sandbox(runs=1, tasks_per_run=4) as sandbox, RawServer(store) as server:
        record(sandbox, [f"{server.base_url}/{number}.wav" for number in range(4)])
        host = server.base_url.removeprefix("http://")
        options = {"recordings": True, "recording_hosts": [host], "concurrency": 1}
        async with sandbox.client() as unpod:
            await unpod.export(sandbox.space_token, tmp_path, on_progress=show, **options)
    shown = [event for event in events if event.phase == "recordings"]
    assert counts >= {0, 1, 2, 3}
    assert {event.recordings_total for event in shown} == {4}
    assert {event.recordings_total for event in events if event.phase == "fetching"} == {None}
    assert shown[0].remaining is None
    for event in shown:
        if finished := event.recordings_done + event.recordings_failed:
            seconds_each = (event.seconds - shown[0].seconds) / finished
            assert event.remaining == pytest.approx((4 - finished) * seconds_each, rel=0.1, abs=0.01)
    assert (events[-1].recordings_done, events[-1].recordings_failed) == (3, 1)


async def test_recordings_are_downloaded_once_and_without_the_token(tmp_path: Path) -> None:
    answer = [GONE]

    async def store(connection: RawConnection) -> None:
        while await connection.read_request() is not None:
            await connection.send(answer[0])

    async with Sandbox(runs=1, tasks_per_run=1) as sandbox, RawServer(store) as server:
        row = next(sandbox.task_rows())
        url = f"{server.base_url}/call.wav?signature=hush"
        row["output"] = {"call_id": "c", "recording_url": url}
        row["status"] = "completed"
        sandbox.malform(row["task_id"], json.dumps(row).encode())
        host = server.base_url.removeprefix("http://")
        async with UnpodClient(sandbox.token, base_url=sandbox.base_url) as unpod:

            async def export() -> tuple[bool, int, int]:
                summary = await unpod.export(
                    sandbox.space_token, tmp_path, recordings=True, recording_hosts=[host]
                )
                assert_manifest(tmp_path)
                return summary.complete, summary.recordings, summary.failed_recordings

            assert await export() == (False, 0, 1)
            answer[0] = SOUND
            row["output"]["recording_url"] = f"{url}&again=1"  # the run is read again, for the new URL
            sandbox.malform(row["task_id"], json.dumps(row).encode())
            assert await export() == (True, 1, 0)
            assert b"again=1" in server.requests[-1]
            asked = len(server.requests)
            assert await export() == (True, 1, 0)
            assert len(server.requests) == asked
        (file,) = (tmp_path / "recordings").glob("*.wav")
        assert file.read_bytes() == b"RIFF....WAVE"
        head = b"".join(server.requests).lower()
        assert sandbox.token.encode() not in head
        assert b"authorization" not in head
        assert b"org-handle" not in head
        assert "hush" not in (tmp_path / "_manifest.json").read_text("utf-8")
