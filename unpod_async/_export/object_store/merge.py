"""Make one data set of the shards of a plan in an object store.

The store copies every part of every shard to a new name, and the copy is downloaded once to check it. So
nothing that others do to a shard can change what was checked. The manifest is replaced last. The rules in
`__init__` hold for merges as well.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from unpod_async._common import (
    cancel_and_wait,
    ignore_error,
    os_error_advice,
    os_error_reason,
    path_text,
    run_workers,
)
from unpod_async._export.claim import check_mergeable, shard_folder
from unpod_async._export.formats import Columns
from unpod_async._export.manifest import MANIFEST, Manifest, PartInfo, decode_manifest
from unpod_async._export.merge_checks import (
    CheckedShard,
    MergedDataset,
    RunCount,
    damaged_error,
    exported_error,
    exported_meanwhile_error,
    merged_name,
    not_exported_error,
    shard_manifest,
)
from unpod_async._export.object_store.address import StoreAddress
from unpod_async._export.object_store.local import LocalState
from unpod_async._export.object_store.lock import LOCK, StoreLock, read_lock
from unpod_async._export.object_store.remote import (
    FILES_AT_ONCE,
    delete_objects,
    is_same_data_set,
    local_name,
    new_name,
    replaced_objects,
    unnamed_objects,
    with_generation,
)
from unpod_async._export.object_store.shards import merge_state_directory, read_claim, target_text
from unpod_async._export.object_store.store import ObjectStore, Version, open_store
from unpod_async._export.plan import ExportPlan, Shard, all_shards, plan_digests
from unpod_async._export.reading import PartReader
from unpod_async._export.results import ExportSummary
from unpod_async._export.storage import Disk
from unpod_async._http import Deadline
from unpod_async.errors import ExportError

__all__ = ["merge_in_store"]

T = TypeVar("T")

_CLEAN_UP_SECONDS: Final = 10.0
"""How long a merge that was cancelled or has failed tries to delete its copies."""

_UNDER_WAY_SECONDS: Final = 3.0
"""How long it waits for copies in progress. Otherwise the store could finish one after its deletion."""


async def merge_in_store(
    plan: ExportPlan, address: StoreAddress, deadline: Deadline, state_dir: str | None
) -> ExportSummary:
    """Merge the shards in an object store; see `merge_shards`."""
    began = time.monotonic()
    directory = merge_state_directory(address, state_dir)
    local = LocalState(directory, address, "merge")
    disk = Disk(directory, repeat="merge again")
    try:
        async with open_store(address, deadline, "merge") as store:
            # Before anything is written: the target may be a wrong one.
            claim = await read_claim(store)
            digests = None if claim is None else claim.digests
            await disk.run(check_mergeable, digests, plan, target_text(address))
            await disk.run_within(deadline, local.open)
            lock = StoreLock(store, local.holder)
            try:
                await lock.acquire()
                merge = _StoreMerge(plan, store, lock, disk, await disk.run(local.make_folder))
                merged = await lock.hold(merge.run())
            finally:
                await lock.release()
    finally:
        disk.close(local.close)
    return merged.summary(str(address), time.monotonic() - began)


class _EarlierMerge(NamedTuple):
    """The manifest of an earlier merge; without values if there is none.

    Attributes:
        names: The names of the parts in the store, by their name in a directory and their SHA-256.
    """

    content: bytes = b""
    version: Version | None = None
    names: Mapping[tuple[str, str], str] = MappingProxyType({})


class _OpenShard(NamedTuple):
    """A shard whose manifest was read.

    Attributes:
        version: The version of the manifest.
        parts: The parts that were copied and checked, by their name in the shard.
    """

    shard: Shard
    manifest: Manifest
    version: Version
    reader: PartReader
    run_count: RunCount
    parts: dict[str, PartInfo]

    def checked(self) -> CheckedShard:
        """Return the shard after all its parts were checked."""
        self.run_count.check(self.manifest)
        parts = [self.parts[part.name] for part in self.manifest.parts]
        return CheckedShard(self.shard.number, self.manifest, parts)


class _StoreMerge:
    """One merge in a store whose lock is held.

    Args:
        folder: An empty folder for files that are downloaded.
    """

    def __init__(
        self, plan: ExportPlan, store: ObjectStore, lock: StoreLock, disk: Disk, folder: Path
    ) -> None:
        self._plan = plan
        self._store = store
        self._lock = lock
        self._disk = disk
        self._folder = folder
        self._text = target_text(store.address)
        self._started = datetime.now(UTC)
        self._numbers = itertools.count()
        self._copies: set[str] = set()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._may_be_named = False  # the manifest may have the names of the copies

    async def run(self) -> MergedDataset:
        """Check all shards, then replace the data set. An error leaves everything as it was."""
        try:
            return await self._merge()
        except BaseException:
            try:
                if not self._may_be_named:
                    await self._delete_copies()
            finally:
                cancelled = await cancel_and_wait(list(self._under_way))
            if cancelled is not None:
                raise cancelled from None
            raise

    async def _merge(self) -> MergedDataset:
        before = await self._read_manifest()
        named = set(before.names.values())
        unnamed = await unnamed_objects(self._store, named)
        shards = await self._open_shards()
        await self._copy_parts(shards, before.names)
        merged = await self._disk.run(lambda: MergedDataset(self._plan, [one.checked() for one in shards]))
        await self._refuse_exported_meanwhile(shards)
        content = merged.manifest(self._started)
        if before.version is not None and not unnamed and is_same_data_set(before.content, content):
            return merged
        await self._write_manifest(before, content)
        after = [part.name for part in merged.parts]
        await delete_objects(self._store, replaced_objects(named | self._copies, unnamed, after))
        return merged

    # -- the manifests ------------------------------------------------------------------------------------

    async def _read_manifest(self) -> _EarlierMerge:
        """Return the manifest of the data set.

        Raises:
            ExportError: No merge of this plan wrote it.
        """
        found = await self._store.read(MANIFEST)
        if found is None:
            return _EarlierMerge()
        manifest = decode_manifest(found.content, self._text.shown, "remove it and merge again")
        try:
            if manifest.options.shard is None and manifest.options.plan in plan_digests(self._plan):
                names = {(local_name(part.name), part.sha256): part.name for part in manifest.parts}
                return _EarlierMerge(found.content, found.version, names)
        except ValueError:
            pass  # the name of a part
        raise ExportError(
            f"{self._text.shown} has a {MANIFEST} that no merge of this plan wrote",
            hint="export the shards to another prefix, or remove the object if you do not need it,\n"
            "and merge again",
        )

    async def _open_shards(self) -> list[_OpenShard]:
        """Return all shards of the plan, in their order.

        Raises:
            ExportError: A shard was not exported, is being exported, or belongs to another plan.
        """
        found: dict[int, _OpenShard | ExportError] = {}

        async def open_shard(shard: Shard) -> None:
            found[shard.number] = await self._open_shard(shard)

        planned = await self._disk.run(all_shards, self._plan)
        await _for_each(planned, open_shard)
        opened: list[_OpenShard] = []
        for shard in planned:
            one = found[shard.number]
            if isinstance(one, ExportError):
                raise one  # the first of them, whichever was read first
            opened.append(one)
        return opened

    async def _open_shard(self, shard: Shard) -> _OpenShard | ExportError:
        """Return a shard, or the error if it cannot be merged."""
        folder = shard_folder(shard.number)
        shown = f"{self._text.shown}/{folder}"
        found = await self._store.read(f"{folder}/{MANIFEST}")
        lock = await read_lock(self._store, f"{folder}/{LOCK}")
        if found is None:
            return not_exported_error(shard, f"{shown} has no manifest")
        try:
            read = functools.partial(decode_manifest, found.content, shown)
            manifest = shard_manifest(shard, read, self._text)
        except ExportError as error:
            return error
        if lock is not None and lock.is_valid:
            return exported_error(shard, lock.advice)
        reader = await self._disk.run(PartReader, manifest.options, shown)
        count = await self._disk.run(RunCount, shard, self._text)
        return _OpenShard(shard, manifest, found.version, reader, count, {})

    async def _refuse_exported_meanwhile(self, shards: Iterable[_OpenShard]) -> None:
        async def check(one: _OpenShard) -> None:
            found = await self._store.read(f"{shard_folder(one.shard.number)}/{MANIFEST}")
            if found is None or found.version != one.version:
                raise exported_meanwhile_error(one.shard)

        await _for_each(shards, check)

    async def _write_manifest(self, before: _EarlierMerge, content: bytes) -> None:
        await self._lock.confirm()
        self._may_be_named = True
        version = await self._store.write(MANIFEST, with_generation(content), before.version)
        if version is None:
            self._may_be_named = False
            raise ExportError(
                f"the manifest of {self._text.shown} was changed by others during this merge",
                hint="nothing was overwritten; merge again",
            )

    # -- the parts ----------------------------------------------------------------------------------------

    async def _copy_parts(self, shards: Iterable[_OpenShard], known: Mapping[tuple[str, str], str]) -> None:
        """Copy and check the parts of all shards.

        Args:
            known: See `_EarlierMerge`. Parts of an earlier merge are checked and not copied again.
        """

        async def copy(one_of: tuple[_OpenShard, PartInfo]) -> None:
            one, part = one_of
            try:
                local = merged_name(one.shard, local_name(part.name))
            except ValueError:
                raise self._damaged(one, f"no export writes the name {part.name!r}") from None
            name = known.get((local, part.sha256))
            if name is None or not await self._is_intact(one, part, name):
                name = await self._copy(one, part, local)
            one.parts[part.name] = msgspec.structs.replace(part, name=name)

        await _for_each([(one, part) for one in shards for part in one.manifest.parts], copy)

    async def _is_intact(self, one: _OpenShard, part: PartInfo, name: str) -> bool:
        """Return whether an object is a part of a shard, and count the runs in it."""
        path = self._new_path() if part.kind == "runs" else None
        if await self._download(name, path) != part.sha256:
            return False
        if path is not None:
            await self._disk.run(self._count_runs, one, part, path)
        return True

    async def _copy(self, one: _OpenShard, part: PartInfo, local: str) -> str:
        """Copy a part of a shard, and check the copy. Returns its name.

        Raises:
            ExportError: The part is not what the export wrote.
        """
        source = f"{shard_folder(one.shard.number)}/{part.name}"
        name = self._new_copy(local)
        if await self._create(self._store.copy(source, name)) and await self._is_intact(one, part, name):
            return name
        # The part is damaged, or the store does not copy objects of this size, or is still copying it.
        name, path = self._new_copy(local), self._new_path()
        found = await self._download(source, path)
        if found != part.sha256:
            await self._refuse_exported_meanwhile([one])
            what = "is missing" if found is None else "is not the file that the export wrote"
            raise self._damaged(one, f"{part.name} {what}")
        await self._create(self._store.upload(path, name, part.bytes))
        if part.kind == "runs":
            await self._disk.run(self._count_runs, one, part, path)
        await self._disk.run(path.unlink, missing_ok=True)
        return name

    async def _download(self, name: str, path: Path | None) -> str | None:
        """Download an object; see `ObjectStore.download`."""
        try:
            return await self._store.download(name, path)
        except OSError as error:
            raise ExportError(
                f"{path_text(self._folder)} cannot be written: {os_error_reason(error)}",
                hint=f"{os_error_advice(error)} and merge again",
            ) from None

    def _count_runs(self, one: _OpenShard, part: PartInfo, path: Path) -> None:
        """Count the runs in a file, and remove it. Blocks."""
        for (run_ids,) in self._run_ids(one, part, path):
            one.run_count.add(run_ids)
        path.unlink()

    def _run_ids(self, one: _OpenShard, part: PartInfo, path: Path) -> Iterator[Columns]:
        try:
            yield from one.reader.read(part, path, ["run_id"])
        except ExportError:  # it has the SHA-256 in the manifest, but not the size or the number of rows
            raise self._damaged(one, f"{part.name} is not the file that the export wrote") from None

    def _new_copy(self, local: str) -> str:
        """Return a name for a copy."""
        name = new_name(local)
        self._copies.add(name)
        return name

    def _new_path(self) -> Path:
        """Return the path of a new file on this machine."""
        return self._folder / str(next(self._numbers))

    async def _create(self, request: Coroutine[Any, Any, T]) -> T:
        """Send a request that creates an object. If the caller is cancelled, the request is still sent."""
        running = asyncio.create_task(request)
        self._under_way.add(running)
        running.add_done_callback(self._under_way.discard)
        running.add_done_callback(ignore_error)
        return await asyncio.shield(running)

    async def _delete_copies(self) -> None:
        with self._store.clean_up(_CLEAN_UP_SECONDS):
            if self._under_way:
                await asyncio.wait(self._under_way, timeout=_UNDER_WAY_SECONDS)
            await delete_objects(self._store, self._copies)

    def _damaged(self, one: _OpenShard, what: str) -> ExportError:
        return damaged_error(one.shard, what, self._text)


async def _for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for each item, for some of them at the same time."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    await run_workers(FILES_AT_ONCE, worker)
