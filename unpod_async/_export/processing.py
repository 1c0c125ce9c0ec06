"""Apply a function to each task of the shards of a plan. Its rows become a second table, of JSON lines.

Each part of the tasks gives one part of the new table. `_processed.json` says which parts belong to the
table, and is written last. Within a job, a part is processed again only if it has changed. Another job
processes all parts, because its function may be another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from unpod_async._common import (
    Stopped,
    counted,
    locked,
    os_error_advice,
    os_error_reason,
    path_text,
    replace_file,
    sha256_of,
    sync_file,
    sync_folder,
)
from unpod_async._export.claim import SHARDS, shard_directory
from unpod_async._export.manifest import WORK, PartInfo
from unpod_async._export.merge import merge_lock
from unpod_async._export.merge_checks import merged_name
from unpod_async._export.plan import ExportPlan, Shard, all_shards
from unpod_async._export.reading import DatasetReader
from unpod_async._export.space_scan import space_tasks
from unpod_async._paging import decode_rows
from unpod_async._tables import join_cells, row_names
from unpod_async.errors import ExportError, InvalidArgument, TargetLockedError
from unpod_async.models import Task

__all__ = ["PROCESSED", "Process", "ProcessedTable", "check_process", "merge_processed", "process_shard"]

Process: TypeAlias = Callable[[Task], Iterable[Mapping[str, Any]]]
"""Returns the rows of a task. Each becomes a line of JSON, with `run_id` and `task_id` of the task.

The task is made of the columns of the data set, so its times are in UTC, with "Z", whatever the server sent.
"""

PROCESSED: Final = "processed"
"""The folder of the parts of the table."""

TABLE: Final = "_processed.json"

_PROCESS_AGAIN: Final = "run the export again, which processes all shards"
_MAX_EXAMPLES: Final = 100
_PAGE: Final = b'{"count":0,"data":[%b]}'


class FailedTask(msgspec.Struct, frozen=True):
    """A task for which the function failed.

    Attributes:
        error: Name of the class of the error. Its text may contain personal data.
    """

    task_id: str | None
    error: str


class ProcessedPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the table.

    Attributes:
        name: Path in the directory.
        sha256: Digest of the file in hex.
        source: Digest of the part of the tasks that it was made of.
        tasks: Tasks for which the function returned.
        failed: Tasks for which it failed. They have no rows.
        examples: The first of these.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    source: str
    tasks: int
    failed: int
    examples: list[FailedTask]


class ProcessedTable(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `_processed.json`.

    Attributes:
        job: Id of the job that made the table.
    """

    job: str
    parts: list[ProcessedPart]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def failed(self) -> int:
        return sum(part.failed for part in self.parts)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the table is incomplete, as a sentence; nothing if it is complete."""
        if not self.failed:
            return ()
        example = next(failure for part in self.parts for failure in part.examples)
        failed = counted(self.failed, "task")
        return (f"process failed for {failed}, such as {example.task_id} with {example.error}",)


def check_process(process: object) -> None:
    """Raise InvalidArgument unless `process` is a function that is not async."""
    if not callable(process) or inspect.iscoroutinefunction(process) or inspect.isasyncgenfunction(process):
        raise InvalidArgument(
            "process must be a plain function that returns rows",
            argument="process",
            hint="each row is a dict; a generator function may yield them",
        )


def process_shard(
    directory: Path, process: Process, job: str, is_stopped: Callable[[], bool]
) -> ProcessedTable:
    """Process the tasks of an exported shard. Blocks.

    Args:
        directory: That of the shard.
        job: Different for each function.
        is_stopped: Returns whether to stop. Asked before each task and after each row.

    Raises:
        ExportError: the shard has not been exported, or its files cannot be read or written.
        TargetLockedError: the shard is being exported or processed.
        Stopped: it was asked to stop.
    """
    reader = DatasetReader(directory)
    try:
        with _shard_lock(directory):
            (directory / PROCESSED).mkdir(mode=0o700, exist_ok=True)
            known = _known_parts(directory, job)
            parts: list[ProcessedPart] = []
            for source in reader.manifest.parts:
                if source.kind == "tasks":
                    name = f"{PROCESSED}/{source.name.partition('/')[2].partition('.')[0]}.jsonl"
                    part = known.get((name, source.sha256))
                    parts.append(part or _process_part(reader, source, directory, name, process, is_stopped))
            reader.check_unchanged()
            table = ProcessedTable(job=job, parts=parts)
            _publish(directory, table)
    except OSError as error:
        raise _cannot_write(directory, error) from None
    return table


@contextlib.contextmanager
def _shard_lock(directory: Path) -> Generator[None, None, None]:
    """Hold the lock of an exported shard. A worker that was suspended may still hold it."""
    with locked(directory / WORK / "lock") as is_locked:
        if not is_locked:
            raise TargetLockedError(
                f"another process is writing to {path_text(directory)}", hint="wait until it has ended"
            )
        yield


def _known_parts(directory: Path, job: str) -> dict[tuple[str, str], ProcessedPart]:
    """Return the parts that need not be made again, by name and digest of their source."""
    table = _read_table(directory)
    if table is None or table.job != job:
        return {}
    return {
        (part.name, part.source): part
        for part in table.parts
        if (directory / part.name).is_file() and sha256_of(directory / part.name) == part.sha256
    }


def _process_part(
    reader: DatasetReader,
    source: PartInfo,
    directory: Path,
    name: str,
    process: Process,
    is_stopped: Callable[[], bool],
) -> ProcessedPart:
    rows = size = tasks = failed = 0
    digest = hashlib.sha256()
    examples: list[FailedTask] = []
    path = directory / name
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with open(temporary, "wb", opener=_private) as file:
            for task in _tasks_of(reader, source):
                if is_stopped():
                    raise Stopped
                lines = _lines_of(task, process, is_stopped)
                if isinstance(lines, FailedTask):
                    failed += 1
                    examples += [lines] if failed <= _MAX_EXAMPLES else []
                    continue
                tasks += 1
                rows += len(lines)
                data = b"".join(lines)
                size += len(data)
                digest.update(data)
                file.write(data)
            file.flush()
            sync_file(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return ProcessedPart(
        name=name,
        rows=rows,
        bytes=size,
        sha256=digest.hexdigest(),
        source=source.sha256,
        tasks=tasks,
        failed=failed,
        examples=examples,
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _tasks_of(reader: DatasetReader, source: PartInfo) -> Iterator[Task | FailedTask]:
    """Yield the tasks of a part, and a FailedTask for each that cannot be decoded."""
    listing = space_tasks("any")
    for columns in reader.read_part(source, row_names("tasks")):
        lines = [join_cells("tasks", cells) for cells in zip(*columns, strict=True)]
        page = decode_rows(listing, _PAGE % b",".join(lines), 1, {})
        for row, cells in zip(page.rows, zip(*columns, strict=True), strict=True):
            yield row if isinstance(row, Task) else FailedTask(cells[0], "DecodeError")


def _lines_of(
    task: Task | FailedTask, process: Process, is_stopped: Callable[[], bool]
) -> list[bytes] | FailedTask:
    if isinstance(task, FailedTask):
        return task
    ids = {"run_id": task.run_id, "task_id": task.task_id}
    lines: list[bytes] = []
    try:
        for row in process(task):
            lines.append(msgspec.json.encode({**ids, **row, **ids}) + b"\n")
            if is_stopped():  # the function may yield rows without end
                raise Stopped
    except Stopped:
        raise
    except BaseException as error:  # noqa: BLE001 - code of the user, such as sys.exit: it costs one task
        return FailedTask(task.task_id, type(error).__name__)
    return lines


def _publish(directory: Path, table: ProcessedTable) -> None:
    """Write the table, then remove what no longer belongs to it."""
    sync_folder(directory / PROCESSED)
    replace_file(directory / TABLE, msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
    names = {part.name for part in table.parts}
    for path in (directory / PROCESSED).iterdir():
        if f"{PROCESSED}/{path.name}" not in names:
            path.unlink()


def merge_processed(plan: ExportPlan, target: Path, is_stopped: Callable[[], bool]) -> ProcessedTable:
    """Make one table of those of the shards, after `merge_shards`. Blocks.

    Args:
        is_stopped: Returns whether to stop. Asked before each shard.

    Raises:
        ExportError: a shard has not been processed since it was exported, or a file is damaged.
        TargetLockedError: another merge is running.
        Stopped: it was asked to stop.
    """
    try:
        with merge_lock(target):
            staged = target / SHARDS / "merging-processed"
            try:
                return _merge(plan, target, staged, is_stopped)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(target, error) from None


def _merge(plan: ExportPlan, target: Path, staged: Path, is_stopped: Callable[[], bool]) -> ProcessedTable:
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(mode=0o700)
    (target / PROCESSED).mkdir(mode=0o700, exist_ok=True)
    parts: list[ProcessedPart] = []
    jobs: set[str] = set()
    for shard in all_shards(plan):
        if is_stopped():
            raise Stopped
        directory = shard_directory(target, shard.number)
        table = _table_of(directory, shard.number)
        jobs.add(table.job)
        parts += [_stage(part, shard, directory, staged) for part in table.parts]
    if len(jobs) > 1:
        raise ExportError("the shards were processed by different jobs", hint=_PROCESS_AGAIN)
    for part in parts:
        (staged / Path(part.name).name).replace(target / part.name)
    merged = ProcessedTable(job=jobs.pop(), parts=parts)
    _publish(target, merged)
    return merged


def _read_table(directory: Path) -> ProcessedTable | None:
    """Return `_processed.json`; None if there is none, or if it was damaged."""
    try:
        return msgspec.json.decode((directory / TABLE).read_bytes(), type=ProcessedTable)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _table_of(directory: Path, number: int) -> ProcessedTable:
    table = _read_table(directory)
    if table is None:
        raise ExportError(f"shard {number} has not been processed", hint=_PROCESS_AGAIN)
    sources = [part.sha256 for part in DatasetReader(directory).manifest.parts if part.kind == "tasks"]
    if [part.source for part in table.parts] != sources:
        raise ExportError(f"shard {number} was exported again after it was processed", hint=_PROCESS_AGAIN)
    return table


def _stage(part: ProcessedPart, shard: Shard, directory: Path, staged: Path) -> ProcessedPart:
    """Copy a part into the staging folder and check it there."""
    name = merged_name(shard, part.name)
    file = staged / Path(name).name
    shutil.copyfile(directory / part.name, file)
    if sha256_of(file) != part.sha256:
        raise ExportError(
            f"{path_text(directory / part.name)} is not the file that was written",
            hint="remove the file and run the export again",
        )
    file.chmod(0o600)
    with file.open("rb") as opened:
        sync_file(opened.fileno())
    return msgspec.structs.replace(part, name=name)


def _cannot_write(directory: Path, error: OSError) -> ExportError:
    return ExportError(
        f"the processed rows in {path_text(directory)} cannot be written: {os_error_reason(error)}",
        hint=f"{os_error_advice(error)} and run the export again",
    )
