"""Rows as they come, staged: into the spool, and noted in the state at checkpoints.

A run counts as fetched when a checkpoint has noted it; what came since the last one is fetched again after a
kill. A checkpoint is due after a second, and nobody waits for it; rows are written half a megabyte at a time,
so that they are not kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import anyio

from unpod_async._common import join_shielded
from unpod_async._export.storage.catalog import Catalog
from unpod_async._export.storage.changes import Changes, Progress
from unpod_async._export.storage.io_thread import Disk
from unpod_async._export.storage.spool import Spool
from unpod_async.errors import ExportError

__all__ = ["Staging"]

_DUE_AFTER = 1.0
"""Seconds between two checkpoints. One every 4 MB as well took 0.3 s of an export of 2.4 s."""

_WRITE_BYTES = 2**19
_MOST_BYTES = 2 * _WRITE_BYTES


class Staging:
    """What the workers of an export share.

    Args:
        after_checkpoint: run in the disk thread after each checkpoint with which runs were staged.
    """

    def __init__(
        self, state: Catalog, spool: Spool, disk: Disk, after_checkpoint: Callable[[], None] = lambda: None
    ) -> None:
        self._state = state
        self._spool = spool
        self._disk = disk
        self._after = after_checkpoint
        self._changes = Changes()
        self._writing = anyio.Lock()
        self._noting: asyncio.Task[None] | None = None
        self._last = time.monotonic()
        self.rows = 0
        self.runs = 0
        self.failed = 0

    def add(self, run: int, lines: Sequence[bytes], unsettled: int) -> None:
        """Rows of a run, `unsettled` of which keep it from being settled."""
        if lines:
            self._changes.extents.append((run, self._spool.append(run, lines)))
            self.rows += len(lines)
        self.add_unsettled(run, unsettled)

    def add_unsettled(self, run: int, more: int) -> None:
        if more:
            self._changes.open[run] = self._changes.open.get(run, 0) + more

    def add_bad(self, space: int, run: int | None, place: int | None, reason: str) -> None:
        """A row that is in no file; its run is asked for again by the next export."""
        self._changes.bad.append((space, run, place, reason))
        if run is not None:
            self.add_unsettled(run, 1)

    def add_recording(self, task_id: str, run: int, url: str) -> None:
        self._changes.recordings.append((task_id, run, url))

    def finish(self, run: int) -> None:
        """All rows of a run were added."""
        self._spool.release(run)
        self._changes.staged.append((run, time.time()))
        self.runs += 1

    def release(self, run: int) -> None:
        """More rows of a run are not expected soon."""
        self._spool.release(run)

    def fail(self, run: int, reason: str) -> None:
        self._spool.release(run)
        self._changes.failed.append((run, reason))
        self.failed += 1

    def save_progress(self, space: int, progress: Progress) -> None:
        """Note how far a scan of the space-wide listing came."""
        self._changes.scans[space] = progress

    async def flush_if_due(self, *, at_once: bool = False) -> None:
        """Have written and noted what is due; waits for the disk only when it is far behind.

        Args:
            at_once: a checkpoint is due: nothing more comes soon.

        Raises:
            ExportError: the disk refuses, or has done so before; what was noted before stays.
        """
        self._disk.check()
        if self._noting is not None and self._noting.done():
            await self._wait()
        is_due = at_once or time.monotonic() - self._last >= _DUE_AFTER
        if self._noting is None and is_due:
            self._noting = asyncio.create_task(self._note_all())
        pending = self._spool.pending
        if pending < _WRITE_BYTES or (self._writing.locked() and pending < _MOST_BYTES):
            return
        async with self._writing:
            await self._disk.run(self._spool.write, self._spool.take())

    async def checkpoint(self) -> None:
        """Until all that was added so far is noted. Raises as `flush_if_due` does."""
        while self._noting is not None:
            await self._wait()  # it may have begun before the last was added
        self._noting = asyncio.create_task(self._note_all())
        await self._wait()
        self._disk.check()

    async def _wait(self) -> None:
        """For the checkpoint under way."""
        noting = self._noting
        cancelled = await self.finish_noting()
        if cancelled is not None:
            raise cancelled
        if noting is not None:
            noting.result()

    async def finish_noting(self) -> asyncio.CancelledError | None:
        """Wait until no checkpoint is under way; returns the cancellation asked for meanwhile."""
        if (noting := self._noting) is None:
            return None
        cancelled = await join_shielded(noting)
        if self._noting is noting:
            self._noting = None
        return cancelled

    async def _note_all(self) -> None:
        """One checkpoint; one at a time, and never broken off."""
        changes, self._changes = self._changes, Changes()
        self._last = time.monotonic()
        ended = self._spool.take_ended()
        with contextlib.suppress(ExportError):  # the disk keeps it, and raises it to whoever comes next
            async with self._writing:
                written = await self._disk.run(self._spool.write, self._spool.take())
            if changes or ended:
                await self._disk.sync(written)
                await self._disk.run(self._note, changes, ended)

    def _note(self, changes: Changes, ended: Sequence[int]) -> None:
        self._spool.close(ended)
        self._state.note(changes)
        if changes.staged:
            self._after()
