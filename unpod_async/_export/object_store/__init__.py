"""Exports into object stores: Amazon S3, Google Cloud Storage, Azure Blob Storage.

An export runs in a directory of this machine, as every export does. Afterwards, its files are uploaded.

Modules: `address` (the URL of a target), `store` (requests to the store, the only user of obstore), `lock`
(keeps other exports out), `local` (the directory on this machine), `remote` (the manifest and the names in
the store) and `export`, which combines them. `shards` says where the shards of a plan are, and `merge` makes
one data set of them.

Several exports may write to one target in spite of the lock, for example because one of them was suspended
for longer than its lock is valid. These rules keep the data set exact:

1. An object of a part never changes, and its name is never used again.
2. The manifest is replaced only if it is still the one that the export read at its start.
3. An object is deleted only after rule 2 has succeeded, only if no part of the new manifest has its name,
   and only if it existed when the export began. So it belongs to the replaced manifest, or to an export that
   can no longer replace the manifest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unpod_async._common import import_on_use
from unpod_async._export.object_store.address import StoreAddress, state_directory

if TYPE_CHECKING:
    from unpod_async._export.object_store.export import export_to_store
    from unpod_async._export.object_store.lock import StoreLock
    from unpod_async._export.object_store.merge import merge_in_store
    from unpod_async._export.object_store.shards import begin_shard, shard_state_directory
    from unpod_async._export.object_store.store import ObjectStore

__all__ = [
    "ObjectStore",
    "StoreAddress",
    "StoreLock",
    "begin_shard",
    "export_to_store",
    "merge_in_store",
    "shard_state_directory",
    "state_directory",
]

# Exports into directories need only the address.
_MODULES = {
    "export": "export_to_store",
    "lock": "StoreLock",
    "merge": "merge_in_store",
    "shards": "begin_shard shard_state_directory",
    "store": "ObjectStore",
}

__getattr__ = import_on_use(__name__, _MODULES)
