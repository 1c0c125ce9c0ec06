"""Rows as they come, staged: into the spool, and noted in the state at checkpoints.

A run counts as fetched when a checkpoint has noted it; what came since the last one is fetched again after a
kill. A checkpoint is due after a second; in between, rows are written a few megabytes at a time, so that they
are not kept here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ParamSpec

import anyio

from unpod_async._export._changes import Changes, Progress
from unpod_async._export._disk import Disk
from unpod_async._export._spool import Batch, Spool
from unpod_async._export._state import State
from unpod_async.errors import ExportError

__all__ = ["Staging"]

P = ParamSpec("P")

_DUE_AFTER = 1.0
"""Seconds between two checkpoints. One every 4 MB as well took 0.3 s of an export of 2.4 s."""

_WRITE_BYTES = 2**20
_MOST_BYTES = 4 * _WRITE_BYTES


class Staging:
    """What the workers of an export share.

    Args:
        after_checkpoint: run in the disk thread after each checkpoint with which runs were staged.
    """

    def __init__(
        self, state: State, spool: Spool, disk: Disk, after_checkpoint: Callable[[], None] = lambda: None
    ) -> None:
        self._state = state
        self._spool = spool
        self._disk = disk
        self._after = after_checkpoint
        self._changes = Changes()
        self._turn = anyio.Lock()
        self._last = time.monotonic()
        self._refused: ExportError | None = None
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
        self._spool.let_go(run)
        self._changes.staged.append((run, time.time()))
        self.runs += 1

    def let_go(self, run: int) -> None:
        """More rows of a run are not expected soon."""
        self._spool.let_go(run)

    def fail(self, run: int, reason: str) -> None:
        self._spool.let_go(run)
        self._changes.failed.append((run, reason))
        self.failed += 1

    def reach(self, space: int, progress: Progress) -> None:
        """A walk over a space-wide listing has come so far."""
        self._changes.flat[space] = progress

    async def checkpoint_if_due(self) -> None:
        pending = self._spool.pending
        is_due = time.monotonic() - self._last >= _DUE_AFTER
        if not is_due and pending < _WRITE_BYTES:
            return
        if self._turn.locked() and pending < _MOST_BYTES:
            return  # somebody is at it; wait for the disk only when much has gathered
        if is_due:
            await self.checkpoint()
        else:
            async with self._turn:
                await self._on_disk(self._spool.write, self._spool.take())

    async def checkpoint(self) -> None:
        """Raises ExportError when the disk refuses, then and ever after; what was noted before stays."""
        async with self._turn:
            changes, self._changes = self._changes, Changes()
            self._last = time.monotonic()
            await self._on_disk(self._note, self._spool.take(), changes)

    async def _on_disk(self, work: Callable[P, None], *args: P.args, **options: P.kwargs) -> None:
        if self._refused is not None:
            raise self._refused
        try:
            await self._disk.run(work, *args, **options)
        except ExportError as error:
            self._refused = error  # what was to be noted is lost: nobody may go on as if it were not
            raise

    def _note(self, batch: Batch, changes: Changes) -> None:
        self._spool.write(batch)
        if changes:
            self._spool.sync()
            self._state.note(changes)
        if changes.staged:
            self._after()
