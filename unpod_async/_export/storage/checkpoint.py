"""Checkpoints: rows are staged in the spool as they arrive, and saved in the catalog at checkpoints.

A run counts as read once a checkpoint has saved it. Rows that arrived after the last checkpoint are read
again after a kill. A checkpoint is due every second and runs in the background. Rows are written half a
megabyte at a time, so that they do not stay in memory. `Disk` runs the blocking work in threads.

The spool is the files to which rows are written until they are published as parts. Appended rows get their
position at once. They are in the file once `write` returns, and survive a power loss once `sync` returns.
Each export writes new files, so nothing refers to what a killed export left half written. All rows of a run
are in one file, so that a file can become a part as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import itertools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, ParamSpec, Self, TypeVar

import anyio

from unpod_async._common import (
    O_BINARY,
    find_write_error,
    ignore_error,
    join_shielded,
    os_error_advice,
    os_error_reason,
    path_text,
    sync_file,
    write_all,
)
from unpod_async._export.manifest import WORK
from unpod_async._export.rows import row_header
from unpod_async._export.storage.catalog import (
    STATE_NAME,
    Catalog,
    Changes,
    Extent,
    FailedRead,
    ScanProgress,
)
from unpod_async._http import Deadline
from unpod_async.errors import ExportError

__all__ = ["SPOOL_NAME", "Disk", "Spool", "SpoolReader", "Staging", "spool_path", "sync"]

P = ParamSpec("P")
T = TypeVar("T")

_INTERVAL = 1.0
"""Seconds between two checkpoints. An additional one every 4 MB took 0.3 s of an export of 2.4 s."""

_WRITE_BYTES = 2**19
_MAX_PENDING_BYTES = 2 * _WRITE_BYTES

_BLOCK_BYTES = 2**20

SPOOL_NAME = "rows-%06d"
"""The name of a spool file by its number."""

_MAX_OPEN_FILES = 32
"""Files that are open at the same time. There may be many small ones; some systems allow 256 per process."""


_PROBE_BYTES = 2**20
"""Bytes that are written to find out why SQLite failed."""

_DAMAGED_DATABASE_ERRORS = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""SQLite error codes of a database that this package did not write, or that was damaged."""

_SYSTEM_ERRORS = (
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
)
"""SQLite error codes of a call of the system that failed. SQLite does not say with which error."""


class Disk:
    """Runs blocking work in a thread, one function at a time, and syncs files in another thread.

    A cancelled caller waits until its work has ended, because the files that it uses are closed next. After a
    failure, no further work is done, even if the caller was cancelled: it would build on missing data.

    Args:
        target: The directory of the files, for error messages.
        is_kept: Returns whether the next export can resume. Called after the files are closed.
        repeat: What to do after the cause of an error was removed, for its hint.
    """

    def __init__(
        self,
        target: Path,
        is_kept: Callable[[], bool] = lambda: False,
        repeat: str = "run the same export again",
    ) -> None:
        self._target = target
        self._is_kept = is_kept
        self._repeat = repeat
        self._thread = ThreadPoolExecutor(1, "unpod-export")
        self._sync_thread = ThreadPoolExecutor(1, "unpod-export-sync")
        self._failure: BaseException | None = None
        self._write_errors: list[ExportError] = []
        self._is_abandoned = False

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run a function in the thread and return its result.

        Raises:
            ExportError: The system or SQLite reports an error, now or earlier.
        """
        return await self._run_in(self._thread, functools.partial(work, *args, **options))

    async def run_within(
        self, deadline: Deadline, work: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T:
        """Run a function in the thread within a deadline and return its result.

        Raises:
            TransportError: The deadline ended first. The function continues, and only `close` may be called.
        """
        return await self._run_in(self._thread, functools.partial(work, *args, **options), deadline)

    async def sync(self, files: Sequence[SpoolFile]) -> None:
        """Sync files while other work goes on: 60 MB take 0.1 s. Raises what `run` raises."""
        await self._run_in(self._sync_thread, functools.partial(sync, files))

    def check(self) -> None:
        """Raise the error of earlier work, if any failed."""
        if self._failure is not None:
            raise self._failure

    async def _run_in(
        self, thread: ThreadPoolExecutor, work: Callable[[], T], deadline: Deadline | None = None
    ) -> T:
        self.check()
        running = asyncio.get_running_loop().run_in_executor(thread, self._do, work)
        try:
            if deadline is not None and deadline.seconds is not None:
                await asyncio.wait([running], timeout=deadline.left())
                if not running.done():
                    self._is_abandoned = True
                    running.add_done_callback(ignore_error)
                    raise deadline.error("while the target was being opened", sent=False)
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
            self._failure = failure

    # -- errors -------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], T]) -> T:
        """Do the work in a thread. Raises ExportError for errors of the system and of SQLite."""
        try:
            return work()
        except sqlite3.Error as failure:
            # Errors without a code are our own: see `Catalog`.
            code = getattr(failure, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if code in _DAMAGED_DATABASE_ERRORS:
                raise ExportError(
                    f"the state of the export in {path_text(self._target)} is damaged: {failure}",
                    hint="restore the whole target from a backup, or export to another directory",
                ) from failure
            raise self._cannot_write(self._system_error(code) or _without_cause(code, failure)) from failure
        except OSError as failure:
            raise self._cannot_write(failure) from failure

    def _system_error(self, code: int) -> OSError | None:
        """Return the error of the system that made SQLite fail with this code. None if it is not found."""
        if code == sqlite3.SQLITE_FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if code not in _SYSTEM_ERRORS:
            return None
        folder = self._target / WORK
        if (found := find_write_error(folder if folder.is_dir() else self._target, _PROBE_BYTES)) is not None:
            return found
        # Not by opening them: closing them again would remove the locks of SQLite.
        if all(os.access(path, os.R_OK | os.W_OK) for path in folder.glob(f"{STATE_NAME}*")):
            return None
        return OSError(errno.EACCES, os.strerror(errno.EACCES))

    def _cannot_write(self, failure: OSError) -> ExportError:
        if failure.errno == errno.EXDEV:
            advice = f"move {WORK}/, tasks/ and runs/ to one file system"
        else:
            advice = os_error_advice(failure)
        reason = os_error_reason(failure) if failure.errno else str(failure)
        error = ExportError(
            f"{path_text(self._target)} cannot be written: {reason}",
            hint=f"{advice} and {self._repeat}",
        )
        self._write_errors.append(error)
        return error

    def close(self, then: Callable[[], object] = lambda: None) -> None:
        """Wait for the work that has begun, stop the threads, and call `then`.

        After the deadline of `run_within`, `close` does not wait: the thread calls `then` after its work.
        """
        if self._is_abandoned:
            self._thread.submit(then)
            self._thread.shutdown(wait=False)
            self._sync_thread.shutdown(wait=False)
        else:
            self._thread.shutdown()
            self._sync_thread.shutdown()
            then()
            # Now it is known: an export that has stored nothing removes what it created.
            if self._write_errors and self._is_kept():
                for error in self._write_errors:
                    error.hint = f"{error.hint}: it resumes"


def _without_cause(code: int, failure: sqlite3.Error) -> OSError:
    """Return an error of the system with the words of SQLite."""
    # Most often, too many files were open at that moment.
    return OSError(errno.EMFILE if code == sqlite3.SQLITE_CANTOPEN else errno.EIO, str(failure))


class Staging:
    """Stages the rows that the workers of an export read.

    Args:
        after_checkpoint: Runs in the thread of `disk` after each checkpoint that completed a run.

    Attributes:
        rows: Tasks staged so far.
        runs: Runs whose tasks were all staged so far.
        failed: Runs so far whose tasks could not all be read.
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
        """Let other runs use the spool file of a run, because the run gets no more rows soon."""
        self._spool.release(run)

    def fail(self, run: int, expected: int | None, reason: str) -> None:
        """Record that not all tasks of a run could be read. Those that were added are kept.

        Args:
            expected: Number of its tasks by the server's count, if it is known.
        """
        self._spool.release(run)
        self._changes.failed.append(FailedRead(run, expected, reason, time.time()))
        self.failed += 1

    def save_progress(self, space: int, progress: ScanProgress) -> None:
        """Have the next checkpoint save how far a scan has come."""
        self._changes.scans[space] = progress

    def scanned_tasks(self, space: int) -> set[str]:
        """Return the ids of the tasks that an interrupted scan has staged. Blocks."""
        with SpoolReader(self._spool.folder) as spool:
            headers = (
                row_header(line)
                for extent in self._catalog.scanned_extents(space)
                for block in spool.read(extent)
                for line in block.splitlines()
            )
            return {header.task_id for header in headers if isinstance(header.task_id, str)}

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


class SpooledLines(NamedTuple):
    """Lines of one file for `Spool.write`, without their newlines; about a megabyte at most."""

    file: int
    start: int
    lines: list[bytes]


class Spool:
    """The spool files of one export.

    `append`, `release` and the `take` methods belong to the event loop, `write` and `close` to a thread.

    Args:
        folder: Directory of the files.
        first: Number of the first file, greater than that of every existing file.
        file_bytes: Approximate size of a file.
        hashes: Compute the digests of the files while they are written.

    Attributes:
        folder: Directory of the files.
        open_files: Numbers of the files that may still grow.
        digests: SHA-256 in hex of the closed files, by their number, if computed.
        pending: Bytes that were appended and not taken yet.
    """

    def __init__(self, folder: Path, first: int, file_bytes: int, *, hashes: bool) -> None:
        self.folder = folder
        self._hashes = hashes
        self._file_bytes = file_bytes
        self._file = first
        self._ends = {first: 0}  # of the files that may get more rows
        self._file_of: dict[int, int] = {}  # of the runs that may get more rows
        self._waiting: list[SpooledLines] = []
        self._ended: list[int] = []
        self._files: dict[int, SpoolFile] = {}  # files that may grow; the last written is the last
        self.open_files: Collection[int] = self._files.keys()
        self.digests: dict[int, str] = {}
        self.pending = 0

    def append(self, run: int, lines: Sequence[bytes]) -> Extent:
        """Append lines of a run. Returns where they will be."""
        file = self._file_of.get(run)
        if file is None:
            file = self._file_of[run] = self._next_file()
        end = self._ends[file]
        last = self._waiting[-1] if self._waiting else None
        if last is None or last.file != file or end - last.start >= _BLOCK_BYTES:
            last = SpooledLines(file, end, [])
            self._waiting.append(last)
        last.lines.extend(lines)
        extent = Extent(file, end, sum(map(len, lines)) + len(lines), len(lines))
        self._ends[file] += extent.length
        self.pending += extent.length
        return extent

    def _next_file(self) -> int:
        if self._ends[self._file] >= self._file_bytes:
            full = self._file
            self._file += 1
            self._ends[self._file] = 0
            self._end_file_if_unused(full)
        return self._file

    def release(self, run: int) -> None:
        """Release the file of a run. Its next rows, if any, may be written to another file."""
        file = self._file_of.pop(run, None)
        if file is not None and file != self._file:
            self._end_file_if_unused(file)

    def _end_file_if_unused(self, file: int) -> None:
        if file not in self._file_of.values():
            del self._ends[file]
            self._ended.append(file)

    def take(self) -> list[SpooledLines]:
        """Take the lines that `write` has to write."""
        waiting, self._waiting, self.pending = self._waiting, [], 0
        return waiting

    def take_ended(self) -> list[int]:
        """Take the files to close once what was taken is written and synced."""
        ended, self._ended = self._ended, []
        return ended

    def write(self, waiting: Iterable[SpooledLines]) -> list[SpoolFile]:
        """Write lines. Returns the files that `sync` has to sync. Blocks. Raises OSError."""
        for number, _, lines in waiting:
            file = self._files.pop(number, None) or SpoolFile(spool_path(self.folder, number))
            self._files[number] = file
            for idle in itertools.islice(
                reversed(self._files.values()), _MAX_OPEN_FILES, _MAX_OPEN_FILES + 1
            ):
                idle.sync()
                idle.close()
            lines.append(b"")
            file.write(b"\n".join(lines), hashes=self._hashes)
        return list(self._files.values())

    def close(self, numbers: Iterable[int] | None = None) -> None:
        """Close files that do not grow any more, by default all. Blocks. Raises OSError."""
        for number in list(self._files) if numbers is None else numbers:
            if (file := self._files.pop(number, None)) is not None:
                file.close()
                if self._hashes:
                    self.digests[number] = file.digest.hexdigest()


class SpoolFile:
    """A growing file. One thread writes and closes it while another one syncs it.

    All methods block and raise OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closing = threading.Lock()
        self.digest = hashlib.sha256()
        self._descriptor: int | None = self._open(os.O_EXCL | os.O_CREAT)

    def _open(self, flags: int) -> int:
        return os.open(self._path, flags | os.O_WRONLY | os.O_APPEND | O_BINARY, 0o600)

    def write(self, data: bytes, *, hashes: bool) -> None:
        """Append data; with `hashes`, update `digest`."""
        if self._descriptor is None:
            self._descriptor = self._open(0)
        write_all(self._descriptor, data)
        if hashes:
            self.digest.update(data)

    def sync(self) -> None:
        """Sync the file if it is open; it was synced before it was closed."""
        with self._closing:
            if self._descriptor is not None:
                sync_file(self._descriptor)

    def close(self) -> None:
        """Close the file. The next `write` opens it again."""
        with self._closing:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def sync(files: Iterable[SpoolFile]) -> None:
    """Make what was written survive a power loss. Blocks. Raises OSError."""
    for file in files:
        file.sync()


def spool_path(folder: Path, number: int) -> Path:
    """Return the path of a spool file."""
    return folder / (SPOOL_NAME % number)


class SpoolReader:
    """Reads extents, fastest in the order of the file. Use it with `with`. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._number = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, extent: Extent) -> Iterator[bytes]:
        """Yield the lines with their newlines, about a megabyte at a time."""
        if extent.file != self._number or self._file is None:
            if self._file is not None:
                self._file.close()
            self._file = spool_path(self._folder, extent.file).open("rb", buffering=_BLOCK_BYTES)
            self._number = extent.file
        self._file.seek(extent.start)
        left, rest = extent.length, b""
        while left:
            block = self._file.read(min(left, _BLOCK_BYTES))
            if not block:
                raise OSError(f"{self._file.name} was truncated by another program")
            left -= len(block)
            if left or rest:
                whole, newline, rest = (rest + block).rpartition(b"\n")
                block = whole + newline
            if block:
                yield block
