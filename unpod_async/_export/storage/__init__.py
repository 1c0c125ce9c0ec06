"""The files of an export target, and the state that lets an export resume.

Modules: `target` (the directory), `spool` (rows on their way), `catalog` (the database and all SQL),
`checkpoint` (saving progress), `parts` and `publish` (the finished files), `manifest`, and `workspace`, which
opens all of them.
"""

from __future__ import annotations

from unpod_async._export.storage.catalog import (
    Catalog,
    KnownRun,
    ListedRun,
    RunState,
    ScanProgress,
    Wanted,
)
from unpod_async._export.storage.checkpoint import Disk, Staging
from unpod_async._export.storage.manifest import Contents
from unpod_async._export.storage.spool import Spool, spool_path, sync
from unpod_async._export.storage.workspace import Workspace, open_workspace

__all__ = [
    "Catalog",
    "Contents",
    "Disk",
    "KnownRun",
    "ListedRun",
    "RunState",
    "ScanProgress",
    "Spool",
    "Staging",
    "Wanted",
    "Workspace",
    "open_workspace",
    "spool_path",
    "sync",
]
