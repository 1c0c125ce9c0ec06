"""Publish staged rows: the directory of an export, its part files, and the manifest.

A target has a folder of parts for each kind of row, the manifest, and `.unpod-export/` with the catalog, the
spool, the lock and unfinished files.

A part is written and synced in the work folder. One transaction of the catalog stores the contents of the
part, and that its file is about to be renamed. Then the file is renamed. After a kill in between, the next
export renames the file. So a part always matches its entry in the catalog.

The tasks of a run are in one part and stay in it when they are read again. So a reader of the parts always
sees each run once, with its old or its new tasks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from unpod_async._common import (
    O_BINARY,
    close_locked,
    lock,
    path_text,
    sha256_of,
    sync_file,
    sync_folder,
    write_all,
)
from unpod_async._export.formats import FORMATS, SCHEMA_VERSION, CsvOptions, Range, RowKind, Writer
from unpod_async._export.manifest import MANIFEST, MANIFEST_VERSION, PLAN, WORK, PartInfo
from unpod_async._export.missing import BadRow, FailedDownloads, FailedRun
from unpod_async._export.storage.catalog import (
    STATE_NAME,
    Catalog,
    FinishedPart,
    PartContent,
    RunState,
    StagedRun,
)
from unpod_async._export.storage.checkpoint import SPOOL_NAME, Spool, SpoolReader
from unpod_async._version import VERSION
from unpod_async.errors import ExportError, TargetLockedError

__all__ = [
    "Contents",
    "Parts",
    "Publisher",
    "Target",
    "build_manifest",
    "read_contents",
    "remove_unused_files",
]

T = TypeVar("T")

_PART_FOLDERS = ("tasks", "runs")

_OLD_FILES = ("tasks-*", "runs-*", "manifest.json")
"""The files that earlier versions wrote into the target itself."""

_HINT = "export to a directory that is empty or does not exist"

_SPOOL_NAME = re.compile(r"rows-[0-9]{6,15}")

_BATCH = 500
"""Number of runs, or of their rows, that are read from the catalog at a time."""

_RUNS_PER_PART = 20_000

_MAX_EXAMPLES = 1000
"""Maximum number of failed runs, and of bad rows, that the manifest lists. It counts all of them."""


def _is_empty_folder(path: Path) -> bool:
    """Return whether a path is a folder without files: an export that has published nothing leaves these."""
    return path.is_dir() and not any(path.iterdir())


def _is_part(name: str) -> bool:
    """Return whether readers treat a file as a part. Copies have names such as `part-00001 (1).jsonl`."""
    return not name.startswith((".", "_")) and (
        "part-" in name or name.endswith(tuple(form.suffix for form in FORMATS.values()))
    )


class Target:
    """The directory of a data set. All methods block and may raise OSError.

    Attributes:
        work: The folder of the catalog, the spool and unfinished files.
        catalog: The file of the catalog.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.work = directory / WORK
        self.catalog = self.work / STATE_NAME
        self._lock = -1
        self._is_new = False

    def open(self) -> None:
        """Create the target if needed and lock it.

        Raises:
            TargetLockedError: Another export is writing to it.
            ExportError: It contains other files and no export.
        """
        if not self.work.is_dir():
            self._refuse_other_files()
            self._is_new = not self.directory.exists()
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._remove_if_empty():
            self.work.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.work / "lock", os.O_RDWR | os.O_CREAT | O_BINARY, 0o600)
        try:
            is_locked = lock(self._lock)
        except OSError as error:
            raise ExportError(
                f"the file system of {path_text(self.directory)} has no locks: {error.strerror}",
                hint="export to a directory on a local disk and copy it",
            ) from None
        if not is_locked or not self._is_lock_in_place():
            raise TargetLockedError(
                f"another export is writing to {path_text(self.directory)}", hint="wait until it has ended"
            )

    @contextlib.contextmanager
    def _remove_if_empty(self) -> Generator[None, None, None]:
        """Remove new folders, which are empty, if the block fails, for example because the disk is full."""
        try:
            yield
        except OSError:
            for folder in (self.work, self.directory) if self._is_new else (self.work,):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise

    def is_unused(self) -> bool:
        """Return whether the target has no state and no parts. The target must be locked."""
        return (
            [file.name for file in self.work.iterdir()] == ["lock"]
            and self.size(MANIFEST) is None
            and not any(any((self.directory / name).glob("*")) for name in _PART_FOLDERS)
        )

    def _is_lock_in_place(self) -> bool:
        """Return whether the locked file is still in the target: another export may have removed it."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._lock), (self.work / "lock").stat())
        return False

    def _refuse_other_files(self) -> None:
        directory = self.directory
        if directory.exists() and not directory.is_dir():
            raise ExportError(f"{path_text(directory)} is not a directory", hint=_HINT)
        for name in (*_PART_FOLDERS, MANIFEST, PLAN):
            if (directory / name).exists() and not _is_empty_folder(directory / name):
                raise ExportError(
                    f"{path_text(directory)} contains {name}, but no export to resume", hint=_HINT
                )
        for pattern in _OLD_FILES:
            for found in directory.glob(pattern):
                raise ExportError(
                    f"{path_text(directory)} contains {path_text(found.name)}, a file of an older export",
                    hint=_HINT,
                )

    def refuse_unknown_parts(self, known: Container[str]) -> None:
        """Raise ExportError if a folder of parts has a part that is not in `known`.

        Readers of the folder would read its rows in addition to those of the other parts.
        """
        for folder in _PART_FOLDERS:
            for path in sorted((self.directory / folder).glob("*")):
                name = f"{folder}/{path.name}"
                if _is_part(path.name) and name not in known:
                    raise ExportError(
                        f"{path_text(self.directory)} contains {path_text(name)}, which the state in "
                        f"{WORK}/ does not list",
                        hint=f"move the file elsewhere if it is a copy; otherwise restore {WORK}/ and\n"
                        "the file from the same backup, or export to another directory",
                    )

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file of the data set in hex."""
        return sha256_of(self.directory / name)

    def close(self) -> None:
        """Release the lock."""
        if self._lock >= 0:
            close_locked(self._lock)
            self._lock = -1

    def remove_unused(self) -> None:
        """Remove what an export created, if it has stored nothing. The target must be locked.

        A folder with other files stays. On Windows the lock stays, because it is open.
        """
        folders = [self.directory / name for name in _PART_FOLDERS] + [self.work]
        with contextlib.suppress(OSError):
            for file in sorted(self.work.iterdir(), key=lambda file: file.name == "lock"):
                file.unlink()
        for folder in (*folders, self.directory) if self._is_new else folders:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def create_folders(self) -> None:
        """Create the folders of the parts. Raises OSError if files cannot be moved into them."""
        for name in _PART_FOLDERS:
            folder = self.directory / name
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_dev != self.work.stat().st_dev:
                self._try_to_move(folder)
        # Also if they exist: a killed export may have created them without this.
        sync_folder(self.directory)

    def _try_to_move(self, folder: Path) -> None:
        """Check early whether files can be moved to a folder, which may be on another device."""
        there, here = self.work / "probe", folder / ".unpod-probe"
        there.touch()
        try:
            there.replace(here)
        finally:
            for probe in (there, here):
                probe.unlink(missing_ok=True)

    def size_and_mtime(self, name: str) -> tuple[int, int] | None:
        """Return the bytes of a file of the data set and when it was written; None without the file."""
        try:
            found = (self.directory / name).stat()
        except FileNotFoundError:
            return None
        return found.st_size, found.st_mtime_ns

    def size(self, name: str) -> int | None:
        """Return the bytes of a file of the data set; None without the file."""
        try:
            return (self.directory / name).stat().st_size
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove a file of the data set if it exists."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        sync_folder(path.parent)

    def move_into_place(self, finished: Path, name: str) -> None:
        """Rename a finished and synced file to its final name, in one step that survives a power loss."""
        path = self.directory / name
        finished.replace(path)
        sync_folder(path.parent)

    def spool_file(self, number: int) -> Path:
        """Return the path of a spool file."""
        return self.work / (SPOOL_NAME % number)

    def spool_files(self) -> list[tuple[int, Path]]:
        """Return the number and path of every spool file."""
        found = self.work.glob("rows-*")
        return [
            (int(path.name.rpartition("-")[2]), path) for path in found if _SPOOL_NAME.fullmatch(path.name)
        ]

    def check_spool(self, ends: Mapping[int, int]) -> int:
        """Check that all staged rows are in the spool, and remove the spool files without staged rows.

        Args:
            ends: For each file with staged rows, the position after the last one.

        Returns:
            The greatest number of a spool file that was there.

        Raises:
            ExportError: A spool file was removed or truncated, or the catalog is older.
        """
        for file, end in ends.items():
            path = self.spool_file(file)
            if (self.size(f"{WORK}/{path.name}") or 0) < end:
                raise ExportError(
                    f"{path_text(path)} was removed or truncated after the export, or {self.catalog.name} is "
                    "older",
                    hint="restore the whole target from a backup, or export to another directory",
                )
        last = 0
        for number, path in self.spool_files():
            last = max(last, number)
            if number not in ends:
                path.unlink(missing_ok=True)
        return last

    def unfinished_path(self, name: str) -> Path:
        """Return where a file of the data set is written before `move_into_place`."""
        return self.work / f"new-{name.replace('/', '-')}"

    def new_file(self, name: str) -> Path:
        """Return where to write a file of the data set. Removes what a killed export left there."""
        path = self.unfinished_path(name)
        path.unlink(missing_ok=True)
        return path

    def write(self, name: str, content: bytes) -> None:
        """Write a small file of the data set."""
        path = self.new_file(name)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | O_BINARY, 0o600)
        try:
            write_all(file, content)
            sync_file(file)
        finally:
            os.close(file)
        self.move_into_place(path, name)


class Parts:
    """The part files of one target. All methods block.

    Attributes:
        are_lines: A spool file can become a part as it is.

    Raises:
        OSError, sqlite3.Error: The disk cannot be written. The data set stays as it was.
    """

    def __init__(self, catalog: Catalog, target: Target, *, form: str, csv: CsvOptions) -> None:
        self._catalog = catalog
        self._target = target
        self._format = FORMATS[form]
        self._csv = csv
        self.are_lines = self._format.is_lines

    def name(self, kind: str, number: int) -> str:
        """Return the path of a part in the target."""
        return f"{kind}/part-{number:05d}{self._format.suffix}"

    def recover(self) -> int:
        """Finish the work of a killed export, and check that the files match the catalog.

        Returns:
            The greatest number of a spool file that was there.

        Raises:
            ExportError: A part was changed, removed or added, staged rows are gone, or the catalog is older.
        """
        stored = self._catalog.part_files()
        spool_ends = dict(self._catalog.spool_ends())
        for part in stored:
            if part.moving:
                self.move(part.kind, part.number, part.adopted_file)
        names: set[str] = set()
        times: list[tuple[str, int, int]] = []
        for part in stored:
            name = self.name(part.kind, part.number)
            names.add(name)
            size, mtime = self._target.size_and_mtime(name) or (None, 0)
            # The size may be right although the catalog is older. A copy of a part has another time.
            if size == part.size and mtime != part.mtime and self._target.sha256(name) == part.sha256:
                times.append((part.kind, part.number, mtime))
            elif size != part.size or mtime != part.mtime:
                raise ExportError(
                    f"{name} was changed or removed after the export, or {WORK}/ is older than the file",
                    hint=f"restore {WORK}/ and the file of {part.size} bytes from the same backup, or\n"
                    "export to another directory",
                )
        self._target.refuse_unknown_parts(names)
        last_file = self._target.check_spool(spool_ends)
        if times:
            self._catalog.store_part_times(times)
        return last_file

    def write(
        self, kind: RowKind, number: int, fill: Callable[[Writer], tuple[int, T]]
    ) -> tuple[FinishedPart, T]:
        """Write the file of a part, new or again, but do not move it.

        Args:
            fill: Writes the rows. Returns the size of the rows as JSON in bytes, and a result of its own.

        Returns:
            The part and the result of `fill`.
        """
        path = self._target.new_file(self.name(kind, number))
        writer = self._format.create(path, kind, self._csv)
        try:
            json_bytes, filled = fill(writer)
            writer.close()
        except BaseException:
            writer.abort()
            raise
        part = FinishedPart(
            writer.rows, writer.size, writer.sha256, json_bytes, mtime=path.stat().st_mtime_ns
        )
        return part, filled

    def move(self, kind: str, number: int, adopted_file: int | None = None) -> None:
        """Rename the file of a part to its final name. The catalog must have the part."""
        if adopted_file is None:
            finished = self._target.unfinished_path(self.name(kind, number))
        else:
            finished = self._target.spool_file(adopted_file)
        if finished.exists():
            self._target.move_into_place(finished, self.name(kind, number))
        self._catalog.record_part_moved(kind, number)


class _PublishedRun(NamedTuple):
    """A run whose staged rows were written to a part.

    Attributes:
        length: Bytes of the rows.
        digest: Digest of the rows if they may change; None for a settled run.
    """

    run: int
    rows: int
    length: int
    digest: bytes | None


def _size_of(runs: Iterable[_PublishedRun]) -> int:
    """Return the size of the rows of runs in bytes."""
    return sum(run.length for run in runs)


class Publisher:
    """Brings the parts of a data set up to date. All methods block and raise what `Parts` raises.

    Args:
        part_bytes: Size of a part of tasks, in bytes of its rows as JSON.
    """

    def __init__(self, catalog: Catalog, target: Target, parts: Parts, spool: Spool, part_bytes: int) -> None:
        self._catalog = catalog
        self._target = target
        self._parts = parts
        self._spool = spool
        self._part_bytes = part_bytes

    def publish_full_parts(self) -> None:
        """Write parts of new runs while there are enough rows in closed spool files to fill one."""
        self._adopt_files(self._part_bytes)
        while self._catalog.unpublished_bytes(self._oldest_open_file) >= self._part_bytes:
            self._write_new_part()

    def publish(self) -> int:
        """Bring all parts up to date. Removes the manifest first if a part changes.

        Returns:
            The number of runs that the parts no longer have.
        """
        catalog = self._catalog
        gone = catalog.count_runs(RunState.GONE)
        catalog.finish_runs_without_tasks()
        for run, digest in catalog.restaged_runs():
            if self._digest(run) == digest:
                catalog.keep_published_rows(run)
        if not catalog.needs_publishing() and self._target.size(MANIFEST) is not None:
            return gone
        self._target.remove(MANIFEST)
        self._publish_tasks()
        self._publish_runs()
        return gone

    def _publish_tasks(self) -> None:
        catalog = self._catalog
        for number in catalog.outdated_task_parts():
            self._rewrite(number, with_new=False)
        last = catalog.last_task_part()
        if last is not None and last[1] < self._part_bytes and self._has_new_runs():
            self._rewrite(last[0], with_new=True)
        rest = self._adopt_files(self._part_bytes)
        if len(rest) == 1:
            self._adopt_file(*rest.popitem())
        while self._has_new_runs() or catalog.next_part("tasks") == 1:
            self._write_new_part()

    def _publish_runs(self) -> None:
        """Write the parts of runs that have new, changed or deleted runs. A run stays in its part."""
        catalog = self._catalog
        outdated = catalog.assign_run_parts(_RUNS_PER_PART)
        if not outdated and catalog.next_part("runs") == 1:
            outdated = [1]
        for number in outdated:
            self._write_run_part(number)
        catalog.remove_gone_runs()

    def _write_run_part(self, number: int) -> None:
        def fill(writer: Writer) -> tuple[int, None]:
            json_bytes = 0
            for lines in self._catalog.run_lines(number, _BATCH):
                writer.write(lines)
                json_bytes += sum(map(len, lines))
            return json_bytes, None

        part, _ = self._parts.write("runs", number, fill)
        self._catalog.store_run_part(number, part)
        self._parts.move("runs", number)

    def _digest(self, run: int) -> bytes:
        """Return the digest of the staged rows of a run."""
        digest = hashlib.blake2b(digest_size=16)
        extents = list(self._catalog.extents(run, run))
        with SpoolReader(self._target.work) as spool:
            for _, extent in extents:
                for block in spool.read(extent):
                    digest.update(block)
        return digest.digest()

    # -- spool files that become parts --------------------------------------------------------------------

    def _adopt_files(self, least: int) -> dict[int, int]:
        """Let closed spool files become parts as they are if they have the content of a part.

        Args:
            least: Minimum size in bytes.

        Returns:
            The files with staged rows that did not become parts, each with its size in bytes; none if no file
            can become a part at all.
        """
        if not self._parts.are_lines:
            return {}
        closed = [file for file in self._catalog.spool_files() if file not in self._spool.open_files]
        sizes = {file: self._target.spool_file(file).stat().st_size for file in closed}
        return {
            file: size for file, size in sizes.items() if size < least or not self._adopt_file(file, size)
        }

    def _adopt_file(self, file: int, size: int) -> bool:
        """Let a spool file become a part. Returns False if it does not have the content of a part."""
        if self._catalog.file_shares_runs(file):
            return False
        contents: list[PartContent] = []
        settled_runs: dict[int, bool] = {}
        end = 0
        for run, start, length, rows, settled, is_unpublished in self._catalog.file_extents(file):
            if start != end or not is_unpublished:
                return False
            end += length
            contents.append(PartContent(run, rows))
            settled_runs[run] = bool(settled)
        if end != size:
            return False  # a killed export wrote more than it saved
        path = self._target.spool_file(file)
        sha256 = self._spool.digests.get(file)
        if sha256 is None:
            sha256 = sha256_of(path)
        digests = {run: None if settled else self._digest(run) for run, settled in settled_runs.items()}
        rows = sum(content.rows for content in contents)
        number = self._catalog.next_part("tasks")
        part = FinishedPart(rows, size, sha256, size, path.stat().st_mtime_ns, file)
        self._store(number, part, contents, digests)
        return True

    # -- new parts of tasks -------------------------------------------------------------------------------

    @property
    def _oldest_open_file(self) -> int:
        """The first spool file that may grow; a greater number than that of any file if there is none."""
        return min(self._spool.open_files, default=2**62)

    def _has_new_runs(self) -> bool:
        return bool(self._catalog.unpublished_runs(self._oldest_open_file, 0, 1))

    def _write_new_part(self) -> None:
        def fill(writer: Writer) -> tuple[int, list[_PublishedRun]]:
            added = self._fill(writer, 0)
            return _size_of(added), added

        number = self._catalog.next_part("tasks")
        part, added = self._parts.write("tasks", number, fill)
        self._store_written(number, part, [], added)

    def _fill(self, writer: Writer, json_bytes: int) -> list[_PublishedRun]:
        """Add new runs to a part until it is full.

        Args:
            json_bytes: Bytes of the rows that are in the part already.
        """
        added: list[_PublishedRun] = []
        with SpoolReader(self._target.work) as spool:
            while json_bytes < self._part_bytes:
                after = added[-1].run if added else 0
                batch = self._catalog.unpublished_runs(self._oldest_open_file, after, _BATCH)
                if not batch:
                    break
                for run in self._add(writer, spool, batch):
                    added.append(run)
                    json_bytes += run.length
                    if json_bytes >= self._part_bytes:
                        break
        return added

    def _add(
        self, writer: Writer, spool: SpoolReader, runs: Sequence[StagedRun]
    ) -> Generator[_PublishedRun, None, None]:
        """Add the staged rows of runs, whose numbers must ascend."""
        extents = self._catalog.extents(runs[0].number, runs[-1].number)
        following = next(extents, None)
        for run in runs:
            digest = hashlib.blake2b(digest_size=16)
            rows = length = 0
            while following is not None and following[0] <= run.number:
                number, extent = following
                following = next(extents, None)
                if number < run.number:
                    continue  # rows of a run that is not in `runs`
                for block in spool.read(extent):
                    is_all = len(block) == extent.length
                    writer.write_block(block, extent.rows if is_all else block.count(b"\n"))
                    if not run.settled:
                        digest.update(block)
                rows += extent.rows
                length += extent.length
            yield _PublishedRun(run.number, rows, length, None if run.settled else digest.digest())

    # -- parts of tasks that are written again ------------------------------------------------------------

    def _rewrite(self, number: int, *, with_new: bool) -> None:
        """Write a part again, without runs that are gone and with the new rows of runs that were read again.

        Args:
            with_new: Also add new runs until the part is full.
        """
        kept: list[PartContent] = []
        ranges: list[Range] = []
        at = 0
        for content, is_current in self._catalog.part_contents(number):
            if is_current:
                kept.append(content)
                if ranges and ranges[-1][1] == at:
                    ranges[-1] = ranges[-1][0], at + content.rows
                else:
                    ranges.append((at, at + content.rows))
            at += content.rows
        old_rows, old_bytes = self._catalog.task_part_size(number)
        copied = sum(stop - start for start, stop in ranges)
        json_bytes = old_bytes * copied // old_rows if old_rows else 0

        def fill(writer: Writer) -> tuple[int, list[_PublishedRun]]:
            writer.copy(self._target.directory / self._parts.name("tasks", number), ranges)
            added: list[_PublishedRun] = []
            with SpoolReader(self._target.work) as spool:
                for run in self._catalog.restaged_runs_in_part(number):
                    added += self._add(writer, spool, [run])
            if with_new:
                added += self._fill(writer, json_bytes + _size_of(added))
            return json_bytes + _size_of(added), added

        part, added = self._parts.write("tasks", number, fill)
        self._store_written(number, part, kept, added)

    # -- storing and moving parts of tasks ----------------------------------------------------------------

    def _store_written(
        self,
        number: int,
        part: FinishedPart,
        kept: Sequence[PartContent],
        added: Sequence[_PublishedRun],
    ) -> None:
        contents = [*kept, *(PartContent(run.run, run.rows) for run in added if run.rows)]
        self._store(number, part, contents, {run.run: run.digest for run in added})

    def _store(
        self,
        number: int,
        part: FinishedPart,
        contents: Sequence[PartContent],
        published: Mapping[int, bytes | None],
    ) -> None:
        """Store a part in the catalog, move its file, and remove the spool files that are not needed now.

        Args:
            published: Runs whose staged rows are now in the part; see `Catalog.store_task_part`.
        """
        self._catalog.store_task_part(number, part, contents, published)
        self._parts.move("tasks", number, part.adopted_file)
        remove_unused_files(self._catalog, self._target, self._spool.open_files)


def remove_unused_files(catalog: Catalog, target: Target, open_files: Container[int] = ()) -> None:
    """Remove the spool files without staged rows. Blocks.

    Args:
        open_files: Files that may still grow; they stay.
    """
    used = set(catalog.spool_files())
    for number, path in target.spool_files():
        if number not in used and number not in open_files:
            path.unlink(missing_ok=True)


# The manifest: the options of a data set, its files, and what is missing from it


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a data set, and what is missing from it."""

    runs: int
    tasks: int
    recordings: int
    parts: list[PartInfo]
    failed_runs: int
    failed: list[FailedRun]
    bad_rows: int
    bad: list[BadRow]
    failed_recordings: int
    failed_downloads: Sequence[FailedDownloads] = ()

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def is_complete(self) -> bool:
        return not (self.failed_runs or self.bad_rows or self.failed_recordings)

    def all_reasons(self, others: Sequence[str]) -> tuple[str, ...]:
        """Return why the data set is incomplete: `others`, and why recordings were not downloaded."""
        return (*others, *(one.reason for one in self.failed_downloads))

    @property
    def hints(self) -> tuple[str, ...]:
        """What to do about recordings that were not downloaded."""
        return tuple(dict.fromkeys(one.hint for one in self.failed_downloads if one.hint))


def read_contents(catalog: Catalog, parts: Parts, failed_downloads: Sequence[FailedDownloads]) -> Contents:
    """Return the contents of a data set according to its catalog. Blocks."""
    stored = catalog.parts()
    recordings, failed_recordings = catalog.count_recordings()
    failed, bad = catalog.failed_runs(_MAX_EXAMPLES), catalog.bad_rows(_MAX_EXAMPLES)
    failed_runs, bad_rows = catalog.count_failed_runs(), catalog.count_bad_rows()
    files = [
        PartInfo(name=parts.name(kind, number), kind=kind, rows=rows, bytes=size, sha256=sha256)
        for kind, number, rows, size, sha256 in stored
    ]
    return Contents(
        runs=sum(part.rows for part in files if part.kind == "runs"),
        tasks=sum(part.rows for part in files if part.kind == "tasks"),
        recordings=recordings,
        parts=files,
        failed_runs=failed_runs,
        failed=[
            FailedRun(space_token=token, run_id=run_id, reason=reason) for token, run_id, reason in failed
        ],
        bad_rows=bad_rows,
        bad=[
            BadRow(space_token=token, run_id=run_id, place=position, reason=reason)
            for token, run_id, position, reason in bad
        ],
        failed_recordings=failed_recordings,
        failed_downloads=failed_downloads,
    )


def build_manifest(
    options: Mapping[str, Any],
    found: Contents,
    started: datetime,
    reasons: Sequence[str],
    unlisted_runs: int = 0,
) -> bytes:
    """Return the content of `_manifest.json`; see `Manifest`."""
    content = {
        "complete": found.is_complete and not reasons,
        "started": started,
        "finished": datetime.now(UTC),
        "options": options,
        "versions": {
            "unpod_async": VERSION,
            "python": platform.python_version(),
            "columns": SCHEMA_VERSION,
            "manifest": MANIFEST_VERSION,
        },
        "counts": {
            "runs": found.runs,
            "tasks": found.tasks,
            "recordings": found.recordings,
            "files": len(found.parts),
            "bytes": found.bytes,
        },
        "parts": found.parts,
        "failed_runs": {"count": found.failed_runs, "examples": found.failed},
        "unreadable_rows": {"count": found.bad_rows, "examples": found.bad},
        "failed_recordings": found.failed_recordings,
        "failed_downloads": found.failed_downloads,
        "reasons": reasons,
        "unlisted_runs": unlisted_runs,
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
