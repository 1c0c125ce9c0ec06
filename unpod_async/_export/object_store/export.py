"""One export into an object store: run it in a directory of this machine, and upload the files."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from unpod_async._common import os_error_advice, os_error_reason, path_text, run_workers
from unpod_async._export.manifest import MANIFEST, PLAN, Manifest, PartInfo
from unpod_async._export.object_store.address import StoreAddress, state_directory
from unpod_async._export.object_store.local import LocalState
from unpod_async._export.object_store.lock import StoreLock
from unpod_async._export.object_store.remote import (
    FILES_AT_ONCE,
    RemoteManifest,
    build_remote_manifest,
    delete_objects,
    local_name,
    new_name,
    new_state_name,
    read_remote_manifest,
    replaced_objects,
    unnamed_objects,
)
from unpod_async._export.object_store.store import ObjectStore, open_store
from unpod_async._export.results import ExportSummary
from unpod_async._export.spec import ExportSpec
from unpod_async._export.storage import Disk, is_resumable
from unpod_async._http import Deadline
from unpod_async.errors import ExportError

__all__ = ["Uploads", "export_to_store"]

_log = logging.getLogger("unpod_async")


class Uploads(Protocol):
    """Receives the progress of the uploads."""

    def uploading(self, total: int) -> AbstractAsyncContextManager[None]: ...
    def count_upload(self) -> None: ...


async def export_to_store(
    address: StoreAddress,
    spec: ExportSpec,
    dataset_options: Mapping[str, Any],
    deadline: Deadline,
    uploads: Uploads,
    export_to: Callable[[Path], Awaitable[ExportSummary]],
) -> ExportSummary:
    """Export into an object store; see `UnpodClient.export`.

    Args:
        export_to: Exports into a directory.
    """
    directory = state_directory(address, spec.state_dir)
    local = LocalState(directory, address)
    disk = Disk(directory, lambda: is_resumable(local.data))
    try:
        async with open_store(address, deadline) as store:
            await disk.run_within(deadline, local.open)
            lock = StoreLock(store, local.holder)
            try:
                await lock.acquire()
                job = _StoreExport(store, lock, local, disk, spec, dataset_options, uploads)
                return await lock.hold(job.run(export_to))
            finally:
                await lock.release()
    finally:
        disk.close(local.close)


class _StoreExport:
    """One export into a store whose lock is held."""

    def __init__(
        self,
        store: ObjectStore,
        lock: StoreLock,
        local: LocalState,
        disk: Disk,
        spec: ExportSpec,
        dataset_options: Mapping[str, Any],
        uploads: Uploads,
    ) -> None:
        self._store = store
        self._lock = lock
        self._local = local
        self._disk = disk
        self._spec = spec
        self._dataset_options = dataset_options
        self._uploads = uploads

    async def run(self, export_to: Callable[[Path], Awaitable[ExportSummary]]) -> ExportSummary:
        await self._refuse_shards()
        manifest = await read_remote_manifest(self._store)
        if manifest is not None:
            manifest.check_options(self._store.address, self._dataset_options)
        unnamed = await unnamed_objects(self._store, manifest.objects if manifest else ())
        await self._prepare(manifest)
        summary = await export_to(self._local.data)
        await self._publish(manifest, unnamed)
        return msgspec.structs.replace(
            summary, target=str(self._store.address), local_copy=path_text(self._local.data)
        )

    async def _refuse_shards(self) -> None:
        if await self._store.read(PLAN) is not None:
            raise ExportError(
                f"{self._store.address} contains {PLAN}: it has the shards of a plan",
                hint="export to another prefix, or export a shard of the plan and merge",
            )

    async def _prepare(self, manifest: RemoteManifest | None) -> None:
        """Make the directory on this machine correspond to the store."""
        generation = None if manifest is None else manifest.generation
        if self._local.corresponds_to(generation):
            await self._disk.run(self._local.note_published, generation)
        elif manifest is None:
            # The files in the store were removed.
            await self._disk.run(self._local.discard)
        else:
            await self._restore(manifest)

    # -- downloading the state ----------------------------------------------------------------------------

    async def _restore(self, manifest: RemoteManifest) -> None:
        """Download the state and the parts: another machine made them, or they were removed from this one."""
        if self._spec.redact == "hash" and self._spec.redact_key is None:
            raise ExportError(
                f"the key of the hashes in {self._store.address} is not on this machine",
                hint="export on the machine that has it, or export to another prefix and pass\nredact_key",
            )
        _log.info("downloading the state of %s: another machine has exported to it", self._store.address)
        folder = await self._disk.run(self._local.begin_restoring)
        wanted = [(part.name, folder / local_name(part.name), part.sha256) for part in manifest.parts]
        wanted.append((manifest.state, self._local.packed_state_path(), manifest.state_sha256))

        async def work() -> None:
            while wanted:
                await self._download(*wanted.pop())

        await run_workers(FILES_AT_ONCE, work)
        await self._disk.run(self._local.end_restoring, manifest.as_local(), manifest.generation)

    async def _download(self, name: str, path: Path, sha256: str) -> None:
        try:
            found = await self._store.download(name, path)
        except OSError as error:
            raise ExportError(
                f"{path_text(path)} cannot be written: {os_error_reason(error)}",
                hint=f"{os_error_advice(error)} and run the same export again",
            ) from None
        if found != sha256:
            state = "is missing from" if found is None else "was changed in"
            raise ExportError(
                f"{name} {state} {self._store.address}",
                hint="restore it from a backup, or export to another prefix",
            )

    # -- uploading the files ------------------------------------------------------------------------------

    async def _publish(self, before: RemoteManifest | None, unnamed: list[str]) -> None:
        """Upload new parts, then the manifest, and then delete what it has replaced."""
        local = await self._disk.run(self._local.read_manifest)
        if before is not None and not unnamed and before.describes(local):
            return
        parts = msgspec.json.decode(local, type=Manifest).parts
        known = {} if before is None else before.names
        names = {part.name: known.get((part.name, part.sha256)) or new_name(part.name) for part in parts}
        new = [part for part in parts if (part.name, part.sha256) not in known]
        async with self._uploads.uploading(len(new)):
            await self._upload(new, names)
            state, sha256 = await self._upload_state()
            generation = secrets.token_hex(8)
            content = build_remote_manifest(local, names, generation, state, sha256)
            await self._write_manifest(before, content, generation)
            replaced = replaced_objects(before.objects if before else (), unnamed, [*names.values(), state])
            await delete_objects(self._store, replaced)

    async def _upload(self, parts: list[PartInfo], names: Mapping[str, str]) -> None:
        waiting = list(reversed(parts))

        async def work() -> None:
            while waiting:
                part = waiting.pop()
                await self._store.upload(self._local.data / part.name, names[part.name], part.bytes)
                self._uploads.count_upload()

        await run_workers(FILES_AT_ONCE, work)

    async def _upload_state(self) -> tuple[str, str]:
        """Upload the state of the export. Returns its name and its SHA-256 in hex."""
        path, size, sha256 = await self._disk.run(self._local.pack_state)
        name = new_state_name()
        await self._store.upload(path, name, size)
        await self._disk.run(self._local.remove_packed_state)
        return name, sha256

    async def _write_manifest(self, before: RemoteManifest | None, content: bytes, generation: str) -> None:
        await self._lock.confirm()
        await self._disk.run(self._local.note_pending, generation)
        version = await self._store.write(MANIFEST, content, None if before is None else before.version)
        if version is None:
            raise ExportError(
                f"the manifest of {self._store.address} was changed by others during this export",
                hint="nothing was overwritten; run the same export again",
            )
        await self._disk.run(self._local.note_published, generation)
