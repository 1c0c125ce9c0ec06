"""storage"""

from __future__ import annotations

from unpod_async._export.storage.catalog import Catalog, Listed, RunState, Wanted
from unpod_async._export.storage.changes import Progress
from unpod_async._export.storage.checkpoint import Staging
from unpod_async._export.storage.dataset import DataSet
from unpod_async._export.storage.io_thread import Disk
from unpod_async._export.storage.manifest import Contents, contents, manifest
from unpod_async._export.storage.parts import MANIFEST
from unpod_async._export.storage.publish import Publisher
from unpod_async._export.storage.spool import Spool, spool_path, sync

__all__ = [
    "MANIFEST",
    "Catalog",
    "Contents",
    "DataSet",
    "Disk",
    "Listed",
    "Progress",
    "Publisher",
    "RunState",
    "Spool",
    "Staging",
    "Wanted",
    "contents",
    "manifest",
    "spool_path",
    "sync",
]
