"""The manifest of a target in an object store, and the names of its objects."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

from unpod_async._common import run_workers
from unpod_async._export.manifest import MANIFEST, MANIFEST_VERSION, WORK, PartInfo
from unpod_async._export.object_store.address import StoreAddress
from unpod_async._export.object_store.lock import LOCK
from unpod_async._export.object_store.store import ObjectStore, Version
from unpod_async._export.spec import differing_options
from unpod_async._tables import SCHEMA_VERSION
from unpod_async.errors import ExportError

__all__ = [
    "FILES_AT_ONCE",
    "FOLDERS",
    "RemoteManifest",
    "build_remote_manifest",
    "delete_objects",
    "is_same_data_set",
    "local_name",
    "new_name",
    "new_state_name",
    "read_remote_manifest",
    "replaced_objects",
    "unnamed_objects",
    "with_generation",
]

_log = logging.getLogger("unpod_async")

FILES_AT_ONCE: Final = 4
"""Number of objects that are uploaded, downloaded or deleted at the same time."""

FOLDERS: Final = ("runs", "tasks", WORK)
"""The folders in the store whose objects belong to the export."""

_PART: Final = re.compile(
    r"(?P<kind>runs|tasks)/(?P<stem>part-(\d{5}-)?\d{5,9})-[0-9a-f]{16}(?P<suffix>\.[a-z.]{3,10})"
)
"""The name of a part. That of a merged data set begins with the number of its shard."""
_STATE: Final = re.compile(re.escape(WORK) + r"/state-[0-9a-f]{16}\.sqlite3\.gz")
_GENERATION: Final = re.compile(r"[0-9a-f]{16}")

_OF_THE_RUN: Final = ("started", "finished", "store")
"""Members of a manifest that differ although the data set is the same."""
_OF_THE_PROGRAM: Final = ("unpod_async", "python")


class _StoreInfo(msgspec.Struct, frozen=True):
    """The member `store` of a manifest.

    Attributes:
        generation: Different in every manifest.
        state: Name of the object with the state of the export.
        state_sha256: Its digest in hex.
    """

    generation: str
    state: str
    state_sha256: str


class _Versions(msgspec.Struct, frozen=True):
    columns: int
    manifest: int


class _Content(msgspec.Struct, frozen=True):
    """What this module needs of a manifest."""

    versions: _Versions
    options: dict[str, Any]
    parts: list[PartInfo]
    store: _StoreInfo


def new_name(local_name: str) -> str:
    """Return a name for a new part in the store. No part ever has the name of another."""
    stem, dot, suffix = local_name.partition(".")
    return f"{stem}-{secrets.token_hex(8)}{dot}{suffix}"


def new_state_name() -> str:
    return f"{WORK}/state-{secrets.token_hex(8)}.sqlite3.gz"


def local_name(name: str) -> str:
    """Return the name that a part in the store has in a directory."""
    match = _PART.fullmatch(name)
    if match is None:
        raise ValueError("no export writes this name")
    return f"{match['kind']}/{match['stem']}{match['suffix']}"


class RemoteManifest:
    """A manifest in the store.

    Attributes:
        version: The version of its object.
        names: The name in the store of each part, by its name in a directory and its SHA-256.
    """

    def __init__(self, content: bytes, version: Version) -> None:
        self.version = version
        self._raw: dict[str, Any] = msgspec.json.decode(content)
        self._content = msgspec.convert(self._raw, _Content)
        store = self._content.store
        if not _GENERATION.fullmatch(store.generation) or not _STATE.fullmatch(store.state):
            raise ValueError("no export writes this name")
        self.names = {(local_name(part.name), part.sha256): part.name for part in self.parts}

    @property
    def parts(self) -> list[PartInfo]:
        return self._content.parts

    @property
    def objects(self) -> set[str]:
        """Names of the objects of the data set."""
        return {part.name for part in self.parts} | {self.state}

    @property
    def generation(self) -> str:
        return self._content.store.generation

    @property
    def state(self) -> str:
        return self._content.store.state

    @property
    def state_sha256(self) -> str:
        return self._content.store.state_sha256

    def check_options(self, address: StoreAddress, options: Mapping[str, Any]) -> None:
        """Raise ExportError if the data set has other options."""
        differing = differing_options(self._content.options, options)
        if differing:
            raise ExportError(
                f"{address} was made with different options: {', '.join(differing)}",
                hint="use the same options, or export to another prefix",
            )

    def as_local(self) -> bytes:
        """Return the manifest that a directory with the same data set has."""
        raw = {name: value for name, value in self._raw.items() if name != "store"}
        raw["parts"] = [{**part, "name": local_name(part["name"])} for part in raw["parts"]]
        return _encode(raw)

    def describes(self, local: bytes) -> bool:
        """Return whether the manifest of a directory describes the same data set."""
        return is_same_data_set(self.as_local(), local)


def is_same_data_set(one: bytes, other: bytes) -> bool:
    """Return whether two manifests differ only in what each export or merge writes anew."""
    return _comparable(msgspec.json.decode(one)) == _comparable(msgspec.json.decode(other))


def _comparable(raw: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in raw.items() if name not in _OF_THE_RUN}
    rest["versions"] = {name: value for name, value in raw["versions"].items() if name not in _OF_THE_PROGRAM}
    return rest


def build_remote_manifest(
    local: bytes, names: Mapping[str, str], generation: str, state: str, state_sha256: str
) -> bytes:
    """Return the manifest for the store.

    Args:
        local: The manifest of the directory.
        names: The name in the store of each part, by its name in the directory.
    """
    raw = msgspec.json.decode(local)
    raw["parts"] = [{**part, "name": names[part["name"]]} for part in raw["parts"]]
    raw["store"] = _StoreInfo(generation, state, state_sha256)
    return _encode(raw)


def with_generation(manifest: bytes) -> bytes:
    """Return the manifest of a merged data set for the store: every one differs from all others."""
    return _encode(msgspec.json.decode(manifest) | {"store": {"generation": secrets.token_hex(8)}})


def _encode(raw: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(raw), indent=2) + b"\n"


async def read_remote_manifest(store: ObjectStore) -> RemoteManifest | None:
    """Return the manifest in the store; None if there is none.

    Raises:
        ExportError: No export to an object store wrote it, or a newer version of the package did.
    """
    found = await store.read(MANIFEST)
    if found is None:
        return None
    try:
        versions = msgspec.json.decode(found.content, type=_AnyVersion).versions
        if versions.manifest > MANIFEST_VERSION or versions.columns > SCHEMA_VERSION:
            raise ExportError(
                f"a newer version of unpod-async made {store.address}",
                hint="upgrade unpod-async, or export to another prefix",
            )
        return RemoteManifest(found.content, found.version)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass  # the message may quote the content
    raise ExportError(
        f"{store.address} has a {MANIFEST} that no export to an object store wrote",
        hint="export to another prefix, or remove all files of this one",
    )


class _AnyVersion(msgspec.Struct):
    versions: _Versions


async def unnamed_objects(store: ObjectStore, named: Collection[str]) -> list[str]:
    """Return the objects of exports that a manifest does not name. A killed export leaves such objects.

    Args:
        named: The objects that the manifest names.

    Raises:
        ExportError: The folders have objects that no export wrote. Readers of a folder would read them.
    """
    unnamed = [
        name
        for folder in FOLDERS
        for name in await store.list_names(folder)
        if name not in named and name != LOCK
    ]
    for name in unnamed:
        if not _PART.fullmatch(name) and not _STATE.fullmatch(name):
            raise ExportError(
                f"{store.address} contains {name!r}, which no export wrote",
                hint="move the object elsewhere, or export to another prefix",
            )
    return unnamed


def replaced_objects(named: Iterable[str], unnamed: Iterable[str], after: Iterable[str]) -> list[str]:
    """Return the objects to delete once a new manifest is in the store.

    Args:
        named: The names in the manifest that it has replaced.
        unnamed: See `unnamed_objects`. They were there before the new manifest.
        after: The names in the new manifest.
    """
    return sorted({*named, *unnamed} - set(after))


async def delete_objects(store: ObjectStore, names: Iterable[str]) -> None:
    """Delete replaced objects. The data set is complete without that, so a failure is only logged."""
    waiting = list(names)

    async def work() -> None:
        while waiting:
            await store.delete(waiting.pop())

    try:
        await run_workers(FILES_AT_ONCE, work)
    except ExportError as error:
        _log.warning(
            "replaced files of %s could not be deleted; the next %s tries it again: %s",
            store.address,
            store.job,
            error.summary,
        )
