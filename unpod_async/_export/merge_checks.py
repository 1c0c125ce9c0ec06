"""What a merge checks in directories and object stores alike, and the data set that checked shards make.

Nothing here reads or writes files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from unpod_async._common import counted, shorten
from unpod_async._export.claim import TargetText, shard_folder
from unpod_async._export.manifest import Manifest, PartInfo
from unpod_async._export.missing import DownloadFailures
from unpod_async._export.plan import ExportPlan, Shard
from unpod_async._export.results import ExportSummary
from unpod_async._export.storage import Contents, build_manifest
from unpod_async.errors import ExportError, TargetLockedError

__all__ = [
    "CheckedShard",
    "MergedDataset",
    "RunCount",
    "damaged_error",
    "exported_error",
    "exported_meanwhile_error",
    "merged_name",
    "not_exported_error",
    "shard_manifest",
]

_MAX_EXAMPLES: Final = 1000
"""Maximum number of failed runs, and of bad rows, that the manifest names."""

_MAX_SUMMARY: Final = 100
"""Maximum number of them in the summary."""


# -- a shard ------------------------------------------------------------------------------------------------


def not_exported_error(shard: Shard, why: str) -> ExportError:
    """Return the error for a shard without a manifest that can be read."""
    return ExportError(
        f"shard {shard.number} has not been exported: {why}",
        hint=f"export shard {shard.number} (again), then merge",
    )


def shard_manifest(shard: Shard, read: Callable[[], Manifest], target: TargetText) -> Manifest:
    """Return the manifest of a shard.

    Args:
        read: Returns the manifest in the folder of the shard, or raises ExportError.

    Raises:
        ExportError: the manifest cannot be read, or belongs to another shard or plan.
    """
    try:
        manifest = read()
    except ExportError as error:
        raise not_exported_error(shard, error.summary) from None
    if (manifest.options.plan, manifest.options.shard) != (shard.plan, shard.number):
        raise ExportError(
            f"{target.shown}/{shard_folder(shard.number)} is not shard {shard.number} of this plan",
            hint=f"export the shards to another {target.kind}",
        )
    return manifest


def exported_error(shard: Shard, hint: str = "merge again when it has ended") -> TargetLockedError:
    """Return the error for a shard that is being exported."""
    return TargetLockedError(f"shard {shard.number} is being exported", hint=hint)


def exported_meanwhile_error(shard: Shard) -> TargetLockedError:
    """Return the error for a shard whose manifest is not the one that was read at first."""
    return TargetLockedError(
        f"shard {shard.number} was exported while it was merged", hint="merge again when its export has ended"
    )


def damaged_error(shard: Shard, what: str, target: TargetText) -> ExportError:
    """Return the error for a shard whose files are not right."""
    folder = shard_folder(shard.number)
    removed = f"its directory {folder}" if target.kind == "directory" else f"all objects below {folder}/"
    return ExportError(
        f"shard {shard.number} is damaged: {what}",
        hint=f"remove {removed}, export the shard again, then merge",
    )


def merged_name(shard: Shard, part: str) -> str:
    """Return the name that a part of a shard gets in the data set, such as `tasks/part-00003-00001.csv`."""
    kind, _, name = part.partition("/")
    return f"{kind}/part-{shard.number:05}-{name.partition('part-')[2]}"


class RunCount:
    """Counts the runs that are in the files of a shard."""

    def __init__(self, shard: Shard, target: TargetText) -> None:
        self._shard = shard
        self._target = target
        self._missing = Counter(run_id for ids in shard.runs.values() for run_id in ids)

    def add(self, run_ids: Iterable[str]) -> None:
        """Count runs.

        Raises:
            ExportError: a run was counted before, or is not in the plan of the shard.
        """
        for run_id in run_ids:
            self._missing[run_id] -= 1
            if self._missing[run_id] < 0:
                what = f"it has run {shorten(run_id)} twice, or another shard has it"
                raise damaged_error(self._shard, what, self._target)

    def check(self, manifest: Manifest) -> None:
        """Check, after all runs were counted, that only runs that no longer exist are missing.

        Raises:
            ExportError: a run is missing although the manifest says that the shard is complete.
        """
        missing = self._missing.total()
        if manifest.complete and missing != manifest.unlisted_runs:
            what = f"{counted(missing - manifest.unlisted_runs, 'run')} of the plan are missing"
            raise damaged_error(self._shard, what, self._target)


class CheckedShard(NamedTuple):
    """A shard whose files are right.

    Attributes:
        parts: The parts, with their names in the merged data set.
    """

    number: int
    manifest: Manifest
    parts: list[PartInfo]
    recordings: int = 0


# -- the data set -------------------------------------------------------------------------------------------


class MergedDataset:
    """The data set that all shards of a plan make together."""

    def __init__(self, plan: ExportPlan, shards: Sequence[CheckedShard]) -> None:
        self._plan = plan
        self._shards = shards
        self._contents = _sum_up(shards)
        self._reasons = [f"shard {one.number}: {reason}" for one in shards for reason in one.manifest.reasons]
        if plan.unreadable:
            self._reasons.append(
                f"{counted(plan.unreadable, 'row')} of the listing of runs could not be read when the plan "
                "was made, so the runs are in no shard"
            )

    @property
    def parts(self) -> list[PartInfo]:
        return self._contents.parts

    def manifest(self, started: datetime) -> bytes:
        """Return the content of `_manifest.json`.

        Args:
            started: When the merge began.
        """
        options = {"platform": self._plan.platform, **self._plan.options, "plan": self._plan.digest}
        return build_manifest(options, self._contents, started, self._reasons)

    def summary(self, target: str, seconds: float) -> ExportSummary:
        """Return the summary of the merge."""
        found = self._contents
        return ExportSummary(
            target=target,
            complete=found.is_complete and not self._reasons,
            runs=found.runs,
            tasks=found.tasks,
            files=len(found.parts),
            bytes=found.bytes,
            fetched_runs=0,
            fetched_tasks=0,
            unchanged_runs=found.runs,
            gone_runs=sum(one.manifest.unlisted_runs for one in self._shards),
            failed_runs=found.failed_runs,
            failed=tuple(found.failed[:_MAX_SUMMARY]),
            bad_rows=found.bad_rows,
            bad=tuple(found.bad[:_MAX_SUMMARY]),
            recordings=found.recordings,
            failed_recordings=found.failed_recordings,
            reasons=found.all_reasons(self._reasons),
            hints=found.hints,
            seconds=seconds,
        )


def _sum_up(shards: Sequence[CheckedShard]) -> Contents:
    parts = [part for one in shards for part in one.parts]
    manifests = [one.manifest for one in shards]
    failures = DownloadFailures()
    for failed in (one for manifest in manifests for one in manifest.failed_downloads):
        failures.add(failed)
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
        failed_downloads=failures.most_frequent(),
    )
