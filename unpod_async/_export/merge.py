"""Make one data set of the shards of a plan. This module has the merge in a directory.

First every file of every shard is linked into a folder of its own and checked there, so that nothing that
another process does can change it afterwards. Only if all are right do they replace the files of the data
set.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from unpod_async._common import (
    O_BINARY,
    Stopped,
    close_locked,
    lock,
    locked,
    os_error_advice,
    os_error_reason,
    path_text,
    replace_file,
    run_stoppable,
    sha256_of,
    sync_file,
    sync_folder,
)
from unpod_async._export.claim import SHARDS, TargetText, check_mergeable, read_claim, shard_directory
from unpod_async._export.manifest import MANIFEST, PLAN, WORK, PartInfo, read_manifest
from unpod_async._export.merge_checks import (
    CheckedShard,
    MergedDataset,
    RunCount,
    damaged_error,
    exported_error,
    exported_meanwhile_error,
    merged_name,
    shard_manifest,
)
from unpod_async._export.plan import ExportPlan, Shard, all_shards, check_plan
from unpod_async._export.reading import DatasetReader
from unpod_async._export.results import ExportSummary
from unpod_async._export.spec import check_directory
from unpod_async._http import Deadline, check_seconds
from unpod_async.errors import ExportError, InvalidArgument, TargetLockedError

__all__ = ["merge_lock", "merge_shards"]

_RECORDINGS: Final = "recordings"

_FOLDERS: Final = ("tasks", "runs", _RECORDINGS)

_LEFTOVER_AGE: Final = 3600.0
"""Seconds after which a temporary file is what a killed process left."""

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK})


async def merge_shards(
    plan: ExportPlan,
    target: str | os.PathLike[str],
    *,
    deadline: float | None = None,
    state_dir: str | os.PathLike[str] | None = None,
) -> ExportSummary:
    """Make one data set of the shards of a plan, after all of them have been exported.

    Each run must be in exactly one shard, and every file must have the rows and the digest that its shard has
    noted. Then the files of all shards become the files of the data set, and `_manifest.json` is written
    last. In an object store, the files are copied by the store, and this program downloads each of them once
    to check it. A merge can be killed at any moment and repeated. Merge again after a shard was exported
    again or the plan was extended.

    Example:
        ```python
        summary = await merge_shards(ExportPlan.load("plan.json"), "data")
        ```

    Args:
        target: The directory or the URL that the shards were exported to.
        deadline: Seconds for the whole merge, only in an object store. By default the merge has no limit, and
            each of its requests has the time limit of obstore.
        state_dir: Directory on this machine for temporary files, only in an object store: at most four files
            of runs at a time. Shards may have the same `state_dir`. By default it is in the user's folder for
            caches.

    Returns:
        A summary of the whole data set. Its `requests` and `fetched_tasks` are 0, because the shards sent the
        requests and fetched the tasks.

    Raises:
        InvalidArgument: An argument is not accepted.
        ExportError: A shard is missing, belongs to another plan, or is damaged. An object store denies access
            or fails. The data set and its manifest stay as they were.
        TargetLockedError: A shard is being exported, or another merge is running.
        TransportError: The deadline ended.
        ConfigurationError: A package that the format or the object store needs is not installed.
    """
    plan = check_plan(plan)
    directory = check_directory("target", target)
    seconds = None if deadline is None else check_seconds("deadline", deadline)
    state = None if state_dir is None else check_directory("state_dir", state_dir)
    if ":" in directory:
        from unpod_async._export.object_store import StoreAddress

        address = StoreAddress.parse(target)
        if address is not None:
            from unpod_async._export.object_store import merge_in_store

            limit = Deadline(seconds)
            limit.start()
            return await merge_in_store(plan, address, limit, state)
    for name, value in (("deadline", deadline), ("state_dir", state_dir)):
        if value is not None:
            raise InvalidArgument(
                f"{name} is only used if the target is in an object store",
                argument=name,
                hint="leave it out",
            )
    return await run_stoppable(functools.partial(_merge, plan, Path(directory)))


def _merge(plan: ExportPlan, target: Path, is_stopped: Callable[[], bool]) -> ExportSummary:
    """Merge the shards in a directory. Blocks.

    Args:
        is_stopped: Returns whether the merge was cancelled. Asked before each file.
    """
    try:
        check_mergeable(read_claim(target), plan, TargetText(path_text(target)))
        with merge_lock(target):
            return _Merge(plan, target, is_stopped).run()
    except OSError as error:
        name = "" if error.filename is None else f" ({path_text(error.filename)})"
        raise ExportError(
            f"the shards in {path_text(target)} cannot be merged: {os_error_reason(error)}{name}",
            hint=f"{os_error_advice(error)} and merge again",
        ) from None


@contextlib.contextmanager
def merge_lock(target: Path) -> Generator[None, None, None]:
    """Hold the lock of merges in a target."""
    with locked(target / SHARDS / "lock") as is_locked:
        if not is_locked:
            raise TargetLockedError(
                f"another merge is running in {path_text(target)}", hint="wait until it has ended"
            )
        yield


class _Merge:
    """One merge. All methods block and may raise OSError."""

    def __init__(self, plan: ExportPlan, target: Path, is_stopped: Callable[[], bool]) -> None:
        self._plan = plan
        self._target = target
        self._text = TargetText(path_text(target))
        self._is_stopped = is_stopped
        self._staged = target / SHARDS / "merging"
        self._began = time.monotonic()
        self._started = datetime.now(UTC)

    def run(self) -> ExportSummary:
        """Check all shards, then replace the data set."""
        self._remove_leftovers()
        for folder in _FOLDERS:
            (self._staged / folder).mkdir(mode=0o700, parents=True)
        merged = MergedDataset(self._plan, [self._stage(shard) for shard in all_shards(self._plan)])
        self._publish(merged.manifest(self._started))
        return merged.summary(self._text.shown, time.monotonic() - self._began)

    def _remove_leftovers(self) -> None:
        """Remove what killed workers and merges left."""
        shutil.rmtree(self._staged, ignore_errors=True)
        oldest = time.time() - _LEFTOVER_AGE  # a younger file may belong to a worker that is just starting
        for path in self._target.glob(f".{PLAN}-*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    # -- checking a shard ---------------------------------------------------------------------------------

    def _stage(self, shard: Shard) -> CheckedShard:
        """Link the files of a shard into the staging folder and check them there."""
        directory = shard_directory(self._target, shard.number)
        manifest = shard_manifest(shard, lambda: read_manifest(directory), self._text)
        self._refuse_running(shard, directory)
        parts: list[PartInfo] = []
        for part in manifest.parts:
            name = merged_name(shard, part.name)
            self._link(directory / part.name, self._staged / name)
            if sha256_of(self._staged / name) != part.sha256:
                what = f"{part.name} is not the file that the export wrote"
                raise damaged_error(shard, what, self._text)
            parts.append(msgspec.structs.replace(part, name=name))
        count = RunCount(shard, self._text)
        for (run_ids,) in DatasetReader(directory).read("runs", ["run_id"]):
            count.add(run_ids)
        count.check(manifest)
        recordings = 0
        for path in sorted((directory / _RECORDINGS).glob("[!.]*")):
            self._link(path, self._staged / _RECORDINGS / path.name)
            recordings += 1
        if read_manifest(directory) != manifest:
            raise exported_meanwhile_error(shard)
        return CheckedShard(shard.number, manifest, parts, recordings)

    def _refuse_running(self, shard: Shard, directory: Path) -> None:
        file = os.open(directory / WORK / "lock", os.O_RDWR | O_BINARY)
        try:
            if not lock(file):
                raise exported_error(shard)
        finally:
            close_locked(file)

    def _link(self, source: Path, to: Path) -> None:
        """Make a file appear under another name, without copying it if the file system can do that."""
        if self._is_stopped():
            raise Stopped
        try:
            os.link(source, to)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(source, to)
            with to.open("rb") as file:
                sync_file(file.fileno())

    # -- replacing the data set ---------------------------------------------------------------------------

    def _publish(self, manifest: bytes) -> None:
        """Replace the files of the data set by those of the staging folder, and the manifest at the end."""
        # First everything that needs space, so that the data set stays as it is if the disk is full.
        replace_file(self._staged / MANIFEST, manifest)
        for folder in _FOLDERS:
            staged, final = self._staged / folder, self._target / folder
            new = sorted(path.name for path in staged.iterdir())
            if new or folder != _RECORDINGS:
                final.mkdir(mode=0o700, exist_ok=True)
            # First what is no longer there, so that readers of the folder never see a row twice.
            for path in sorted(final.glob("*")):
                if path.name not in new:
                    path.unlink()
            for name in new:
                (staged / name).replace(final / name)
            if final.is_dir():
                sync_folder(final)
        (self._staged / MANIFEST).replace(self._target / MANIFEST)
        sync_folder(self._target)
        shutil.rmtree(self._staged, ignore_errors=True)
