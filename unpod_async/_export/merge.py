"""Make one data set of the shards of a plan.

First every file of every shard is linked into a folder of its own and checked there, so that nothing that
another process does can change it afterwards. Only if all are right do they replace the files of the data
set.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from unpod_async._common import (
    O_BINARY,
    close_locked,
    counted,
    ignore_error,
    join_shielded,
    lock,
    os_error_advice,
    os_error_reason,
    path_text,
    replace_file,
    shorten,
    sync_file,
    sync_folder,
)
from unpod_async._export.manifest import MANIFEST, PLAN, WORK, Manifest, PartInfo, read_manifest
from unpod_async._export.plan import ExportPlan, Shard, all_shards, plan_digests
from unpod_async._export.reading import DatasetReader
from unpod_async._export.results import ExportSummary
from unpod_async._export.shards import SHARDS, read_claim, shard_directory
from unpod_async._export.storage import Contents, build_manifest
from unpod_async.errors import ExportError, TargetLockedError

__all__ = ["merge_shards"]

_RECORDINGS: Final = "recordings"

_FOLDERS: Final = ("tasks", "runs", _RECORDINGS)

_LEFTOVER_AGE: Final = 3600.0
"""Seconds after which a temporary file is what a killed process left."""

_MAX_EXAMPLES: Final = 1000
"""Maximum number of failed runs, and of bad rows, that the manifest names."""

_MAX_SUMMARY: Final = 100
"""Maximum number of them in the summary."""

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK})


class _CheckedShard(NamedTuple):
    """A shard whose files are right.

    Attributes:
        parts: The parts, with their names in the merged data set.
        unlisted: Number of planned runs that no longer exist.
    """

    number: int
    manifest: Manifest
    parts: list[PartInfo]
    unlisted: int
    recordings: int


class _Stopped(Exception):
    """The merge was cancelled."""


async def merge_shards(plan: ExportPlan, target: str | os.PathLike[str]) -> ExportSummary:
    """Make one data set of the shards of a plan, after all of them have been exported.

    Each run must be in exactly one shard, and every file must have the rows and the digest that its shard has
    noted. Then the files of all shards become the files of the data set, and `_manifest.json` is written
    last. A merge can be killed at any moment and repeated. Merge again after a shard was exported again or
    the plan was extended.

    Example:
        ```python
        summary = await merge_shards(ExportPlan.load("plan.json"), "data")
        ```

    Args:
        target: The directory that the shards were exported to.

    Returns:
        A summary of the whole data set.

    Raises:
        ExportError: A shard is missing, belongs to another plan, or is damaged. The data set and its manifest
            stay as they were.
        TargetLockedError: A shard is being exported, or another merge is running.
    """
    stop = threading.Event()
    merging = asyncio.get_running_loop().run_in_executor(None, _merge, plan, Path(target), stop.is_set)
    try:
        return await asyncio.shield(merging)
    except asyncio.CancelledError:
        stop.set()  # it ends after the file that it is reading
        await join_shielded(merging)
        ignore_error(merging)
        raise


def _merge(plan: ExportPlan, target: Path, is_stopped: Callable[[], bool]) -> ExportSummary:
    """Merge the shards in a directory. Blocks.

    Args:
        is_stopped: Returns whether the merge was cancelled. Asked before each file.
    """
    try:
        _check_claim(plan, target)
        with _locked(target):
            return _Merge(plan, target, is_stopped).run()
    except OSError as error:
        name = "" if error.filename is None else f" ({path_text(error.filename)})"
        raise ExportError(
            f"the shards in {path_text(target)} cannot be merged: {os_error_reason(error)}{name}",
            hint=f"{os_error_advice(error, 'remove the cause')} and merge again",
        ) from None


def _check_claim(plan: ExportPlan, target: Path) -> None:
    stored = read_claim(target)
    if stored is None:
        raise ExportError(
            f"{path_text(target)} has no shards", hint="give the directory that the shards were exported to"
        )
    if stored != plan_digests(plan):
        if stored[: len(plan_digests(plan))] == plan_digests(plan):
            raise ExportError(
                f"the shards in {path_text(target)} belong to an extension of this plan",
                hint="merge with the newest file of the plan",
            )
        if plan_digests(plan)[: len(stored)] != stored:
            raise ExportError(
                f"the shards in {path_text(target)} belong to another plan",
                hint="merge with the plan that they were exported with",
            )


@contextlib.contextmanager
def _locked(target: Path) -> Generator[None, None, None]:
    """Hold the lock of merges in a target."""
    file = os.open(target / SHARDS / "lock", os.O_RDWR | os.O_CREAT | O_BINARY, 0o600)
    try:
        if not lock(file):
            raise TargetLockedError(
                f"another merge is running in {path_text(target)}", hint="wait until it has ended"
            )
        yield
    finally:
        close_locked(file)


class _Merge:
    """One merge. All methods block and may raise OSError."""

    def __init__(self, plan: ExportPlan, target: Path, is_stopped: Callable[[], bool]) -> None:
        self._plan = plan
        self._target = target
        self._is_stopped = is_stopped
        self._staged = target / SHARDS / "merging"
        self._began = time.monotonic()
        self._started = datetime.now(UTC)

    def run(self) -> ExportSummary:
        """Check all shards, then replace the data set."""
        self._remove_leftovers()
        for folder in _FOLDERS:
            (self._staged / folder).mkdir(mode=0o700, parents=True)
        shards = [self._stage(shard) for shard in all_shards(self._plan)]
        contents = _sum_up(shards)
        reasons = [f"shard {one.number}: {reason}" for one in shards for reason in one.manifest.reasons]
        if unreadable := self._plan.unreadable:
            reasons.append(
                f"{counted(unreadable, 'row')} of the listing of runs could not be read when the plan was "
                "made, so the runs are in no shard"
            )
        content = build_manifest(
            {"platform": self._plan.platform, **self._plan.options, "plan": self._plan.digest},
            contents,
            self._started,
            reasons,
        )
        self._publish(content)
        return ExportSummary(
            target=path_text(self._target),
            complete=contents.is_complete and not reasons,
            runs=contents.runs,
            tasks=contents.tasks,
            files=len(contents.parts),
            bytes=contents.bytes,
            fetched_runs=0,
            fetched_tasks=0,
            unchanged_runs=contents.runs,
            gone_runs=sum(one.unlisted for one in shards),
            failed_runs=contents.failed_runs,
            failed=tuple(contents.failed[:_MAX_SUMMARY]),
            bad_rows=contents.bad_rows,
            bad=tuple(contents.bad[:_MAX_SUMMARY]),
            recordings=contents.recordings,
            failed_recordings=contents.failed_recordings,
            reasons=tuple(reasons),
            seconds=time.monotonic() - self._began,
        )

    def _remove_leftovers(self) -> None:
        """Remove what killed workers and merges left."""
        shutil.rmtree(self._staged, ignore_errors=True)
        oldest = time.time() - _LEFTOVER_AGE  # a younger file may belong to a worker that is just starting
        for path in self._target.glob(f".{PLAN}-*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    # -- checking a shard ---------------------------------------------------------------------------------

    def _stage(self, shard: Shard) -> _CheckedShard:
        """Link the files of a shard into the staging folder and check them there."""
        directory = shard_directory(self._target, shard.number)
        manifest = self._manifest_of(shard, directory)
        self._refuse_running(shard, directory)
        parts: list[PartInfo] = []
        for part in manifest.parts:
            name = f"{part.kind}/part-{shard.number:05}-{part.name.partition('part-')[2]}"
            self._link(directory / part.name, self._staged / name)
            if self._sha256(self._staged / name) != part.sha256:
                raise _damaged(shard, f"{part.name} is not the file that the export wrote")
            parts.append(msgspec.structs.replace(part, name=name))
        unlisted = self._check_runs(shard, manifest, directory)
        recordings = 0
        for path in sorted((directory / _RECORDINGS).glob("[!.]*")):
            self._link(path, self._staged / _RECORDINGS / path.name)
            recordings += 1
        if read_manifest(directory) != manifest:
            raise TargetLockedError(
                f"shard {shard.number} was exported while it was merged", hint="merge again when it has ended"
            )
        return _CheckedShard(shard.number, manifest, parts, unlisted, recordings)

    def _manifest_of(self, shard: Shard, directory: Path) -> Manifest:
        try:
            manifest = read_manifest(directory)
        except ExportError as error:
            raise ExportError(
                f"shard {shard.number} has not been exported: {error.summary}",
                hint=f"export shard {shard.number} (again), then merge",
            ) from None
        if (manifest.options.plan, manifest.options.shard) != (shard.plan, shard.number):
            raise ExportError(
                f"{path_text(directory)} is not shard {shard.number} of this plan",
                hint="export the shards to another directory",
            )
        return manifest

    def _refuse_running(self, shard: Shard, directory: Path) -> None:
        file = os.open(directory / WORK / "lock", os.O_RDWR | O_BINARY)
        try:
            if not lock(file):
                raise TargetLockedError(
                    f"shard {shard.number} is being exported", hint="merge again when it has ended"
                )
        finally:
            close_locked(file)

    def _check_runs(self, shard: Shard, manifest: Manifest, directory: Path) -> int:
        """Check that a shard has its runs and no others, each once. Return how many no longer exist."""
        planned = Counter(run_id for ids in shard.runs.values() for run_id in ids)
        for (run_ids,) in DatasetReader(directory).read("runs", ["run_id"]):
            for run_id in run_ids:
                planned[run_id] -= 1
                if planned[run_id] < 0:
                    raise _damaged(shard, f"it has run {shorten(run_id)} twice, or another shard has it")
        missing = planned.total()
        if manifest.complete and missing != manifest.unlisted_runs:
            raise _damaged(
                shard, f"{counted(missing - manifest.unlisted_runs, 'run')} of the plan are missing"
            )
        return manifest.unlisted_runs

    def _link(self, source: Path, to: Path) -> None:
        """Make a file appear under another name, without copying it if the file system can do that."""
        if self._is_stopped():
            raise _Stopped
        try:
            os.link(source, to)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(source, to)
            with to.open("rb") as file:
                sync_file(file.fileno())

    def _sha256(self, path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

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


def _damaged(shard: Shard, what: str) -> ExportError:
    return ExportError(
        f"shard {shard.number} is damaged: {what}",
        hint=f"remove its directory {SHARDS}/{shard.number:05}, export the shard again, then merge",
    )


def _sum_up(shards: Sequence[_CheckedShard]) -> Contents:
    parts = [part for one in shards for part in one.parts]
    manifests = [one.manifest for one in shards]
    return Contents(
        runs=sum(part.rows for part in parts if part.kind == "runs"),
        tasks=sum(part.rows for part in parts if part.kind == "tasks"),
        recordings=sum(one.recordings for one in shards),
        parts=parts,
        failed_runs=sum(one.failed_runs.count for one in manifests),
        failed=[run for one in manifests for run in one.failed_runs.examples][:_MAX_EXAMPLES],
        bad_rows=sum(one.unreadable_rows.count for one in manifests),
        bad=[row for one in manifests for row in one.unreadable_rows.examples][:_MAX_EXAMPLES],
        failed_recordings=sum(one.failed_recordings for one in manifests),
    )
