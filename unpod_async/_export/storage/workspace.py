"""The target of an export, opened: its lock, catalog, spool and parts."""

from __future__ import annotations

import contextlib
import functools
import secrets
import sqlite3
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from unpod_async._export.formats import FORMATS, CsvOptions
from unpod_async._export.manifest import MANIFEST, WORK
from unpod_async._export.missing import FailedDownloads
from unpod_async._export.spec import ExportSpec, differing_options
from unpod_async._export.storage.catalog import VERSION, Catalog
from unpod_async._export.storage.checkpoint import Disk, Spool, Staging
from unpod_async._export.storage.publish import (
    Contents,
    Parts,
    Publisher,
    Target,
    build_manifest,
    read_contents,
    remove_unused_files,
)
from unpod_async._http import Deadline
from unpod_async.errors import ExportError

__all__ = ["Workspace", "is_resumable", "open_workspace"]


def is_resumable(directory: Path) -> bool:
    """Return whether a directory has the state of an export, so that the next export resumes. Blocks."""
    return (directory / WORK).is_dir()


@dataclass(frozen=True, kw_only=True, slots=True)
class Workspace:
    """A target while an export writes to it. `open_workspace` makes one.

    Attributes:
        io: Runs the blocking methods of the other attributes.
        spaces: Number and token of each space.
        resumed_since: Unix time at which the resumed export began; None for a new export.
        listing: Number of this export's listings of runs, greater than that of every earlier export.
        redact_key: Key of the hashes if the export redacts.
    """

    directory: Path
    catalog: Catalog
    io: Disk
    staging: Staging
    spaces: list[tuple[int, str]]
    resumed_since: float | None
    listing: int
    redact_key: bytes | None
    dataset_options: Mapping[str, Any]
    target: Target
    parts: Parts
    spool: Spool
    publisher: Publisher

    def publish(
        self,
        started: datetime,
        reasons: list[str],
        unlisted_runs: int = 0,
        failed_downloads: Sequence[FailedDownloads] = (),
    ) -> tuple[int, Contents]:
        """Bring all parts up to date and write the manifest. Blocks.

        Args:
            reasons: Why the data set is incomplete, apart from what the catalog knows.
            unlisted_runs: Number of planned runs of a shard that no longer exist.
            failed_downloads: Why recordings were not downloaded.

        Returns:
            The number of runs that the data set no longer has, and its contents.
        """
        self.spool.close()
        gone = self.publisher.publish()
        found = read_contents(self.catalog, self.parts, failed_downloads)
        content = build_manifest(self.dataset_options, found, started, reasons, unlisted_runs)
        self.target.write(MANIFEST, content)
        self.catalog.end_export()
        remove_unused_files(self.catalog, self.target)
        return gone, found


@contextlib.asynccontextmanager
async def open_workspace(
    directory: Path, spec: ExportSpec, dataset_options: Mapping[str, Any], deadline: Deadline
) -> AsyncGenerator[Workspace, None]:
    """Lock a target, finish the work of a killed export, and begin or resume an export.

    Raises:
        TargetLockedError: another export is writing to the target.
        ExportError: the target has other options, was changed, or cannot be written.
        ConfigurationError: a package that the format needs is not installed.
        TransportError: the deadline ended first. The lock is released as soon as the disk responds.

    If the body of the `async with` fails before anything is stored, what was created is removed.
    """
    io = Disk(directory, functools.partial(is_resumable, directory))
    opened = contextlib.ExitStack()
    try:
        workspace = await io.run_within(deadline, _open, directory, spec, dataset_options, io, opened)
        try:
            yield workspace
        except BaseException:
            opened.callback(_remove_if_unused, workspace)
            raise
        finally:
            cancelled = await workspace.staging.wait_for_checkpoint()
            if cancelled is not None:
                raise cancelled
    finally:
        io.close(opened.close)


def _open(
    directory: Path,
    spec: ExportSpec,
    dataset_options: Mapping[str, Any],
    io: Disk,
    opened: contextlib.ExitStack,
) -> Workspace:
    """Open a target. `opened` closes what was opened, even after an error."""
    FORMATS[spec.format].check()  # imports pyarrow: 0.3 s
    target = Target(directory)
    opened.callback(target.close)
    target.open()
    created = contextlib.ExitStack()
    opened.callback(created.close)  # after the catalog and the spool are closed
    if target.is_unused():
        created.callback(target.remove_unused)
    catalog = Catalog(target.catalog)
    opened.callback(catalog.close)
    _check_options(catalog, dataset_options)
    target.create_folders()
    parts = Parts(catalog, target, form=spec.format, csv=CsvOptions(spec.csv_safe, spec.csv_bom))
    first_file = parts.recover() + 1
    spool = Spool(target.work, first_file, spec.part_bytes, hashes=parts.are_lines)
    opened.callback(spool.close)
    publisher = Publisher(catalog, target, parts, spool, spec.part_bytes)
    # A complete data set stays as it is until all of the next one is there.
    is_first = target.size(MANIFEST) is None
    staging = Staging(catalog, spool, io, publisher.publish_full_parts if is_first else lambda: None)
    spaces, listing, resumed_since = catalog.begin_export(spec.spaces, full=spec.full, now=time.time())
    redact_key = spec.redact_key if spec.redact is None else _redact_key(catalog, spec)
    created.pop_all()  # from here on, `_remove_if_unused` decides
    return Workspace(
        directory=directory,
        catalog=catalog,
        io=io,
        staging=staging,
        spaces=spaces,
        resumed_since=resumed_since,
        listing=listing,
        redact_key=redact_key,
        dataset_options=dataset_options,
        target=target,
        parts=parts,
        spool=spool,
        publisher=publisher,
    )


def _remove_if_unused(workspace: Workspace) -> None:
    """Remove what an export created if it failed before it stored anything, such as with a wrong token."""
    with contextlib.suppress(sqlite3.Error):  # a damaged catalog stays as it is
        if workspace.catalog.is_empty() and workspace.target.size(MANIFEST) is None:
            workspace.spool.close()
            workspace.catalog.close()
            workspace.target.remove_unused()


def _check_options(catalog: Catalog, dataset_options: Mapping[str, Any]) -> None:
    if catalog["version"] < VERSION:
        raise ExportError(
            "the target has the file layout of an older version of unpod-async",
            hint="export to a directory that is empty or does not exist",
        )
    if catalog["version"] > VERSION:
        raise ExportError(
            "a newer version of unpod-async made the target",
            hint="upgrade unpod-async, or export to another directory",
        )
    stored = catalog["options"]
    # As long as the target is empty, the options may change: the first call may have had a mistake.
    if stored is None or catalog.is_empty():
        catalog["options"] = msgspec.json.encode(dataset_options)
        return
    try:
        options = msgspec.json.decode(stored, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise sqlite3.DatabaseError("the options of the target cannot be read") from None
    differing = differing_options(options, dataset_options)
    if "platform" in differing:
        raise ExportError(
            f"the target has rows of another service: {options.get('platform')}",
            hint=f"export from that service, or export {dataset_options['platform']} to another directory",
        )
    if differing:
        raise ExportError(
            f"the target was made with different options: {', '.join(differing)}",
            hint="use the same options, or export to another directory",
        )


def _redact_key(catalog: Catalog, spec: ExportSpec) -> bytes | None:
    """Return the given key, or the key that the target keeps."""
    if spec.redact_key is not None:
        return spec.redact_key
    stored = catalog["redact_key"]
    if stored is None:
        stored = catalog["redact_key"] = secrets.token_bytes(32)
    return bytes(stored)
