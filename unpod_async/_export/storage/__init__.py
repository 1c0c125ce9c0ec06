"""storage"""

from __future__ import annotations

from unpod_async._export.storage.catalog import Catalog, KnownRun, ListedRun, RunState, Wanted
from unpod_async._export.storage.changes import Progress
from unpod_async._export.storage.checkpoint import Staging
from unpod_async._export.storage.io_thread import Disk
from unpod_async._export.storage.manifest import Contents, contents, manifest
from unpod_async._export.storage.publish import Publisher
from unpod_async._export.storage.spool import Spool, spool_path, sync
from unpod_async._export.storage.target import MANIFEST
from unpod_async._export.storage.workspace import Workspace, open_workspace

__all__ = [
    "MANIFEST",
    "Catalog",
    "Contents",
    "Disk",
    "KnownRun",
    "ListedRun",
    "Progress",
    "Publisher",
    "RunState",
    "Spool",
    "Staging",
    "Wanted",
    "Workspace",
    "contents",
    "manifest",
    "open_workspace",
    "spool_path",
    "sync",
]
