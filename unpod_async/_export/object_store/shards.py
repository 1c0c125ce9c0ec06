"""The shards of a plan in an object store: `_plan.json`, the prefix of each shard, and its state here.

Each shard is a target of its own below `_shards/`, with a lock, a state and a manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from unpod_async._export.claim import (
    SHARDS,
    TargetText,
    decode_claim,
    new_claim,
    other_files_error,
    shard_folder,
)
from unpod_async._export.manifest import MANIFEST, PLAN
from unpod_async._export.object_store.address import StoreAddress, state_directory
from unpod_async._export.object_store.lock import LOCK, read_lock
from unpod_async._export.object_store.remote import FOLDERS
from unpod_async._export.object_store.store import ObjectStore, Version, open_store
from unpod_async._export.plan import ExportPlan
from unpod_async._export.spec import ExportSpec
from unpod_async._http import Deadline
from unpod_async.errors import ExportError, TargetLockedError

__all__ = ["begin_shard", "merge_state_directory", "read_claim", "shard_state_directory", "target_text"]

_ATTEMPTS: Final = 5


class _StoredClaim(NamedTuple):
    """`_plan.json` in a store."""

    digests: list[str]
    version: Version


async def begin_shard(
    address: StoreAddress, plan: ExportPlan, number: int, spec: ExportSpec, deadline: Deadline
) -> tuple[StoreAddress, ExportSpec]:
    """Note in a store that a prefix belongs to a plan.

    Returns:
        The target of the shard, and the options for its export.

    Raises:
        ExportError: The prefix belongs to another plan, or has other objects.
        TargetLockedError: An export is writing to the prefix.
    """
    async with open_store(address, deadline) as store:
        await _claim(store, plan)
    directory = shard_state_directory(address, number, spec.state_dir)
    return _shard_address(address, number), msgspec.structs.replace(spec, state_dir=str(directory))


def target_text(address: StoreAddress) -> TargetText:
    """Return how messages name the target of a plan."""
    return TargetText(str(address), "prefix")


# -- where a shard is ---------------------------------------------------------------------------------------


def _shard_address(address: StoreAddress, number: int) -> StoreAddress:
    return address.below(shard_folder(number))


def shard_state_directory(address: StoreAddress, number: int, state_dir: str | None) -> Path:
    """Return the directory on this machine that the export of a shard uses.

    Args:
        address: The target of all shards.
        state_dir: The directory that the caller chose. Each shard has a folder in it.
    """
    if state_dir is not None:
        return Path(state_dir) / f"shard-{number:05}"
    return state_directory(_shard_address(address, number), None)


def merge_state_directory(address: StoreAddress, state_dir: str | None) -> Path:
    """Return the directory on this machine that a merge uses.

    Args:
        state_dir: As for `shard_state_directory`.
    """
    if state_dir is not None:
        return Path(state_dir) / "merge"
    return state_directory(address.below(SHARDS), None)


# -- the claim ----------------------------------------------------------------------------------------------


async def read_claim(store: ObjectStore) -> _StoredClaim | None:
    """Return `_plan.json`; None without it.

    Raises:
        ExportError: It was changed.
    """
    found = await store.read(PLAN)
    if found is None:
        return None
    return _StoredClaim(decode_claim(found.content, target_text(store.address)), found.version)


async def _claim(store: ObjectStore, plan: ExportPlan) -> None:
    text = target_text(store.address)
    for _ in range(_ATTEMPTS):
        stored = await read_claim(store)
        if stored is None and (error := await _other_objects_error(store)) is not None:
            # Another worker may have written `_plan.json` meanwhile, and then the objects of its shard.
            stored = await read_claim(store)
            if stored is None:
                raise error
        content = new_claim(None if stored is None else stored.digests, plan, text)
        if content is None:
            return
        if await store.write(PLAN, content, None if stored is None else stored.version) is not None:
            return
    raise TargetLockedError(
        f"other exports are about to write to {store.address}", hint="run the same export again"
    )


async def _other_objects_error(store: ObjectStore) -> ExportError | None:
    """Return the error for a prefix with objects that may belong to an export; None without any."""
    lock = await read_lock(store)
    if lock is not None and lock.is_valid:
        return TargetLockedError(f"another export is writing to {store.address}", hint=lock.advice)
    text = target_text(store.address)
    if await store.read(MANIFEST) is not None:
        return other_files_error(text, MANIFEST)
    for folder in (SHARDS, *FOLDERS):
        # The lock of an export that stored nothing stays, and is free.
        if set(await store.first_names(folder)) - {LOCK}:
            return other_files_error(text, folder)
    return None
