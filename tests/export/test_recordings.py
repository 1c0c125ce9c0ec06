"""Recordings of an export: saved once in `recordings/`, without the token; failed ones are requested
again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.export.dataset import assert_manifest
from tests.raw_server import RawServer, http_response
from unpod_async import UnpodClient
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from tests.raw_server import RawConnection

SOUND = http_response(b"RIFF....WAVE", headers=[("Content-Type", "audio/wav")])
GONE = http_response(b"", status=404)


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
