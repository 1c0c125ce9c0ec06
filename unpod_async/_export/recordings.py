"""Download the recordings of the calls in a data set whose URL is known and whose file is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec

from unpod_async._call_output import read_call
from unpod_async._common import run_workers, shorten
from unpod_async._export.missing import DownloadFailures, FailedDownloads
from unpod_async._export.storage import Catalog, Disk
from unpod_async._http import Deadline, RequestExecutor
from unpod_async._recordings import RecordingLoader
from unpod_async.errors import RecordingError

__all__ = ["download_recordings", "recording_url"]

_BATCH = 200


class _TaskOutput(msgspec.Struct, gc=False):
    output: Any = None


_TASK_OUTPUT = msgspec.json.Decoder(_TaskOutput)


def recording_url(row: bytes) -> str | None:
    """Return the URL of the recording that a task names. It is signed, so treat it as a secret."""
    try:
        call = read_call(_TASK_OUTPUT.decode(row).output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if call is None else call.recording_url


async def download_recordings(
    executor: RequestExecutor,
    catalog: Catalog,
    io: Disk,
    directory: Path,
    *,
    hosts: Sequence[str],
    concurrency: int,
    deadline: Deadline,
    on_recording: Callable[[bool], object],
) -> list[FailedDownloads]:
    """Download the missing recordings. A failed one is noted, and the next export reads its run again.

    Args:
        on_recording: Called after each recording; the argument says whether it was downloaded.

    Returns:
        Why recordings failed: the most frequent problems.

    Raises:
        TransportError: the deadline ended.
        ExportError: the disk cannot be written.
    """
    last = ""
    turn = anyio.Lock()
    pending: list[tuple[str, int, str]] = []
    failures = DownloadFailures()

    async def next_pending() -> tuple[str, int, str] | None:
        nonlocal last
        async with turn:
            if not pending:
                pending.extend(await io.run(catalog.pending_recordings, last, _BATCH))
            if not pending:
                return None
            found = pending.pop(0)
            last = found[0]
            return found

    async with RecordingLoader(executor, recording_hosts=hosts) as loader:

        async def work() -> None:
            while (found := await next_pending()) is not None:
                task, run, url = found
                try:
                    path = await loader.fetch(task, url, directory, deadline)
                except RecordingError as error:
                    failures.add(_failed_download(task, error))
                    await io.run(catalog.record_download_failure, task, run, shorten(error.summary))
                    on_recording(False)
                else:
                    await io.run(_note_downloaded, catalog, task, path)
                    on_recording(True)

        await run_workers(concurrency, work)
    return failures.most_frequent()


def _failed_download(task: str, error: RecordingError) -> FailedDownloads:
    hint = " ".join((error.hint or "").split())
    return FailedDownloads(problem=shorten(error.problem), task_id=shorten(task, 80), hint=hint)


def _note_downloaded(catalog: Catalog, task: str, path: Path) -> None:
    catalog.record_download(task, path.name, path.stat().st_size)
