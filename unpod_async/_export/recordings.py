"""The recordings of the calls of a data set: those whose address is known and whose file is not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec

from unpod_async._call_output import read_call
from unpod_async._common import run_workers, shorten
from unpod_async._export.storage import Catalog, Disk
from unpod_async._http import Deadline, RequestExecutor
from unpod_async._recordings import RecordingLoader
from unpod_async.errors import RecordingError

__all__ = ["load_recordings", "recording_url"]

_BATCH = 200


class _Row(msgspec.Struct, gc=False):
    output: Any = None


_ROW = msgspec.json.Decoder(_Row)


def recording_url(row: bytes) -> str | None:
    """The address of the recording that a task's row names; signed, so a secret."""
    try:
        call = read_call(_ROW.decode(row).output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if call is None else call.recording_url


async def load_recordings(
    caller: RequestExecutor,
    state: Catalog,
    disk: Disk,
    folder: Path,
    *,
    hosts: Sequence[str],
    concurrency: int,
    deadline: Deadline,
) -> None:
    """Download what is missing. One that fails is noted, and its run asked for again by the next export.

    Raises:
        TransportError: the deadline ended.
        ExportError: the disk refuses.
    """
    last = ""
    turn = anyio.Lock()
    waiting: list[tuple[str, int, str]] = []

    async def take() -> tuple[str, int, str] | None:
        nonlocal last
        async with turn:
            if not waiting:
                waiting.extend(await disk.run(_pending, state, last))
            if not waiting:
                return None
            found = waiting.pop(0)
            last = found[0]
            return found

    async with RecordingLoader(caller, recording_hosts=hosts) as loader:

        async def work() -> None:
            while (found := await take()) is not None:
                task, run, url = found
                try:
                    path = await loader.fetch(task, url, folder, deadline)
                except RecordingError as error:
                    await disk.run(_note_failed, state, task, run, shorten(str(error)))
                else:
                    await disk.run(_note_loaded, state, task, path)

        await run_workers(concurrency, work)


def _pending(state: Catalog, after: str) -> list[tuple[str, int, str]]:
    return state.run(
        "SELECT task, run, url FROM recording WHERE file IS NULL AND url IS NOT NULL AND task > ? "
        "ORDER BY task LIMIT ?",
        (after, _BATCH),
    ).fetchall()


def _note_failed(state: Catalog, task: str, run: int, reason: str) -> None:
    with state.transaction():
        state.run("UPDATE recording SET reason = ? WHERE task = ?", (reason, task))
        state.run("UPDATE run SET settled = 0 WHERE number = ?", (run,))


def _note_loaded(state: Catalog, task: str, path: Path) -> None:
    state.run(
        "UPDATE recording SET file = ?, size = ?, url = NULL, reason = NULL WHERE task = ?",
        (path.name, path.stat().st_size, task),
    )
