"""Checkpoints: rows are staged in the spool as they arrive, and saved in the catalog at checkpoints.

A run counts as read once a checkpoint has saved it. What came after the last checkpoint is read again after a
kill. A checkpoint is due every second and runs in the background. Rows are written half a megabyte at a time,
so that they do not stay in memory. `Disk` runs the blocking work in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import anyio

from unpod_async._common import join_shielded
from unpod_async._export.storage.catalog import Catalog, Changes, ScanProgress
from unpod_async._export.storage.spool import Spool, SpoolFile, sync
from unpod_async.errors import ExportError

__all__ = ["Disk", "Staging"]

P = ParamSpec("P")
T = TypeVar("T")

_INTERVAL = 1.0
"""Seconds between two checkpoints. An additional one every 4 MB took 0.3 s of an export of 2.4 s."""

_WRITE_BYTES = 2**19
_MAX_PENDING_BYTES = 2 * _WRITE_BYTES


class Disk:
    """Runs blocking work in a thread, one function at a time, and syncs files in another thread.

    A cancelled caller waits until its work has ended, because the files that it uses are closed next. After a
    failure nothing more is done, also if the caller was cancelled: later work would build on what is missing.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._thread = ThreadPoolExecutor(1, "unpod-export")
        self._sync_thread = ThreadPoolExecutor(1, "unpod-export-sync")
        self._failure: BaseException | None = None

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run a function in the thread and return its result.

        Raises:
            ExportError: The system or SQLite reports an error, now or earlier.
        """
        return await self._run_in(self._thread, functools.partial(work, *args, **options))

    async def sync(self, files: Sequence[SpoolFile]) -> None:
        """Sync files while other work goes on: 60 MB take 0.1 s. Raises what `run` raises."""
        await self._run_in(self._sync_thread, functools.partial(sync, files))

    def check(self) -> None:
        """Raise the error of earlier work, if any failed."""
        if self._failure is not None:
            raise self._failure

    async def _run_in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        self.check()
        running = asyncio.get_running_loop().run_in_executor(thread, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError as error:
            cancelled = await join_shielded(running) or error
            failure = running.exception()
            if failure is not None:
                self._note_failure(failure)
            raise cancelled from None
        except BaseException as failure:
            self._note_failure(failure)
            self.check()
            raise

    def _note_failure(self, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = self._to_export_error(failure)

    def _to_export_error(self, failure: BaseException) -> BaseException:
        if isinstance(failure, sqlite3.Error):
            reason = str(failure)
        elif isinstance(failure, OSError):
            reason = os.strerror(failure.errno) if failure.errno else str(failure)
        else:
            return failure
        return ExportError(
            f"{self._target} cannot be written: {reason}",
            hint="fix the cause and run the same export again: it resumes where this one stopped",
        )

    def close(self) -> None:
        """Wait for the work that has begun, and stop the threads."""
        self._thread.shutdown()
        self._sync_thread.shutdown()


class Staging:
    """Stages the rows that the workers of an export read.

    Args:
        after_checkpoint: Runs in the thread of `disk` after each checkpoint that completed a run.

    Attributes:
        rows: Tasks staged so far.
        runs: Runs whose tasks were all staged so far.
        failed: Runs that failed so far.
    """

    def __init__(
        self, catalog: Catalog, spool: Spool, disk: Disk, after_checkpoint: Callable[[], None] = lambda: None
    ) -> None:
        self._catalog = catalog
        self._spool = spool
        self._disk = disk
        self._after_checkpoint = after_checkpoint
        self._changes = Changes()
        self._write_lock = anyio.Lock()
        self._saving: asyncio.Task[None] | None = None
        self._last = time.monotonic()
        self.rows = 0
        self.runs = 0
        self.failed = 0

    def add(self, run: int, lines: Sequence[bytes], unsettled: int) -> None:
        """Stage rows of a run.

        Args:
            unsettled: Number of the rows that keep the run from being settled.
        """
        if lines:
            self._changes.extents.append((run, self._spool.append(run, lines)))
            self.rows += len(lines)
        if unsettled:
            self.add_unsettled(run, unsettled)

    def add_unsettled(self, run: int, more: int) -> None:
        """Count reasons not to settle a run."""
        if more:
            self._changes.unsettled[run] = self._changes.unsettled.get(run, 0) + more

    def add_bad(self, space: int, run: int | None, position: int | None, reason: str) -> None:
        """Note a row that is in no file. The next export reads its run again."""
        self._changes.bad.append((space, run, position, reason))
        if run is not None:
            self.add_unsettled(run, 1)

    def add_recording(self, task_id: str, run: int, url: str) -> None:
        """Note the recording of a task."""
        self._changes.recordings.append((task_id, run, url))

    def finish(self, run: int) -> None:
        """Note that all rows of a run were added."""
        self._spool.release(run)
        self._changes.staged.append((run, time.time()))
        self.runs += 1

    def release(self, run: int) -> None:
        """Let other runs use the spool file of a run: more of its rows are not expected soon."""
        self._spool.release(run)

    def fail(self, run: int, reason: str) -> None:
        """Note that the tasks of a run could not be read."""
        self._spool.release(run)
        self._changes.failed.append((run, reason))
        self.failed += 1

    def save_progress(self, space: int, progress: ScanProgress) -> None:
        """Have the next checkpoint save how far a scan has come."""
        self._changes.scans[space] = progress

    async def flush_if_due(self, *, at_once: bool = False) -> None:
        """Write rows, and start a checkpoint in the background if one is due.

        Waits for the disk only if it is far behind.

        Args:
            at_once: Start a checkpoint now, because no more rows are expected soon.

        Raises:
            ExportError: The disk cannot be written, now or earlier. What was saved stays.
        """
        self._disk.check()
        if self._saving is not None and self._saving.done():
            await self._wait()
        is_due = at_once or time.monotonic() - self._last >= _INTERVAL
        if self._saving is None and is_due:
            self._saving = asyncio.create_task(self._save_all())
        pending = self._spool.pending
        if pending < _WRITE_BYTES or (self._write_lock.locked() and pending < _MAX_PENDING_BYTES):
            return
        async with self._write_lock:
            await self._disk.run(self._spool.write, self._spool.take())

    async def checkpoint(self) -> None:
        """Save everything added so far. Raises what `flush_if_due` raises."""
        while self._saving is not None:
            await self._wait()  # it may have begun before the last rows were added
        self._saving = asyncio.create_task(self._save_all())
        await self._wait()
        self._disk.check()

    async def _wait(self) -> None:
        """Wait for the running checkpoint."""
        saving = self._saving
        cancelled = await self.wait_for_checkpoint()
        if cancelled is not None:
            raise cancelled
        if saving is not None:
            saving.result()

    async def wait_for_checkpoint(self) -> asyncio.CancelledError | None:
        """Wait until no checkpoint runs. Returns the cancellation that arrived meanwhile."""
        if (saving := self._saving) is None:
            return None
        cancelled = await join_shielded(saving)
        if self._saving is saving:
            self._saving = None
        return cancelled

    async def _save_all(self) -> None:
        """Make one checkpoint. Only one runs at a time, and it is never cancelled."""
        changes, self._changes = self._changes, Changes()
        self._last = time.monotonic()
        ended = self._spool.take_ended()
        with contextlib.suppress(ExportError):  # `Disk` keeps the error and raises it again
            async with self._write_lock:
                written = await self._disk.run(self._spool.write, self._spool.take())
            if changes or ended:
                await self._disk.sync(written)
                await self._disk.run(self._save, changes, ended)

    def _save(self, changes: Changes, ended: Sequence[int]) -> None:
        self._spool.close(ended)
        self._catalog.save(changes)
        if changes.staged:
            self._after_checkpoint()
