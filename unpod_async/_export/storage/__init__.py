"""The files of an export target, and the state that lets an export resume.

Modules: `catalog` (the database and all SQL), `checkpoint` (staged rows and when they are saved), `publish`
(the directory, its parts and the manifest), and `workspace`, which opens all of them.
"""

from __future__ import annotations

from unpod_async._export.storage.catalog import (
    STATE_NAME,
    Catalog,
    KnownRun,
    ListedRun,
    ReadingCost,
    RunState,
    ScanProgress,
    Wanted,
    copy_state,
)
from unpod_async._export.storage.checkpoint import Disk, Spool, Staging, spool_path, sync
from unpod_async._export.storage.publish import Contents, build_manifest
from unpod_async._export.storage.workspace import Workspace, is_resumable, open_workspace

__all__ = [
    "STATE_NAME",
    "Catalog",
    "Contents",
    "Disk",
    "KnownRun",
    "ListedRun",
    "ReadingCost",
    "RunState",
    "ScanProgress",
    "Spool",
    "Staging",
    "Wanted",
    "Workspace",
    "build_manifest",
    "copy_state",
    "is_resumable",
    "open_workspace",
    "spool_path",
    "sync",
]
