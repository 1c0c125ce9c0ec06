"""The files of an export target, and the state that lets an export resume.

Modules: `spool` (staged rows), `catalog` (the database and all SQL), `checkpoint` (saving progress), `parts`
(the directory and its files), `publish` (staged rows into parts), `manifest`, and `workspace`, which opens
all of them.
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
