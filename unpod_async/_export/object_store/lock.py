"""The lock of a target in an object store: an object that its holder renews until the export has ended.

A lock is valid for some seconds after it was written, by the clock of the store. So the clock of the holder
does not matter. An export whose own clock is fast may take a lock that is still valid. The former holder
then notices it at the next renewal and stops. The rules in `__init__` keep the data set exact in any case.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar

import anyio
import msgspec

from unpod_async._common import cancel_and_wait
from unpod_async._export.object_store.store import ObjectStore, Version
from unpod_async.errors import ExportError, TargetLockedError, TransportError

__all__ = ["LOCK", "StoreLock", "read_lock"]

T = TypeVar("T")

_log = logging.getLogger("unpod_async")

LOCK: Final = ".unpod-export/lock.json"

_SECONDS: Final = 120.0
"""How long a lock is valid. After an export was killed, other machines have to wait for as long."""

_MAX_SECONDS: Final = 3600.0
"""Maximum time for which a lock is valid, whatever its content."""

_ATTEMPTS: Final = 3

_RELEASE_SECONDS: Final = 5.0
"""How long an export that was cancelled or has failed tries to release its lock."""


class _LockContent(msgspec.Struct, frozen=True):
    """The content of the lock.

    Attributes:
        holder: The state directory of the holder.
        token: Different in each version of the lock.
        seconds: How long this version is valid; 0 if the lock is free.
    """

    holder: str
    token: str
    seconds: float


class FoundLock(NamedTuple):
    """A lock in the store. It may belong to another export.

    Attributes:
        expires: Unix time, by the clock of the store.
        is_valid: Whether it has not expired, by the clock of this machine.
    """

    holder: str
    version: Version
    expires: float
    is_valid: bool

    @property
    def advice(self) -> str:
        """What to do if the lock is valid, as the hint of an error."""
        until = datetime.fromtimestamp(self.expires, UTC)
        return f"wait until it has ended; if it was killed, its lock ends at\n{until:%Y-%m-%d %H:%M:%S} UTC"


async def read_lock(
    store: ObjectStore, name: str = LOCK, now: Callable[[], float] = time.time
) -> FoundLock | None:
    """Return a lock; None if there is none.

    Args:
        now: Unix time.

    Raises:
        ExportError: The object is not a lock.
    """
    found = await store.read(name)
    if found is None:
        return None
    try:
        lock = msgspec.json.decode(found.content, type=_LockContent)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ExportError(
            f"{name} in {store.address} is not the lock of an export",
            hint="remove it if no export writes to this target, or export to another prefix",
        ) from None
    expires = found.modified + min(lock.seconds, _MAX_SECONDS)
    return FoundLock(lock.holder, found.version, expires, now() < expires)


class StoreLock:
    """The lock of one target.

    Args:
        holder: Identifies the state directory of this export. The caller must have locked the directory, so
            a lock with the same holder was left by an export that was killed.
        seconds: How long the lock is valid without a renewal.
        now: Unix time.
    """

    def __init__(
        self,
        store: ObjectStore,
        holder: str,
        *,
        seconds: float = _SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._holder = holder
        self._seconds = seconds
        self._now = now
        self._version: Version | None = None
        self._valid_until = 0.0  # by the monotonic clock of this machine
        self._tokens: set[str] = set()
        self._renewing = anyio.Lock()

    async def acquire(self) -> None:
        """Take the lock.

        Raises:
            TargetLockedError: Another export has it.
            ExportError: The store has no conditional writes.
        """
        job = self._store.job
        for _ in range(_ATTEMPTS):
            found = await read_lock(self._store, now=self._now)
            if found is not None and found.is_valid and found.holder != self._holder:
                raise TargetLockedError(
                    f"another {job} is writing to {self._store.address}", hint=found.advice
                )
            if await self._write(None if found is None else found.version):
                await self._check_conditions()
                return
        raise TargetLockedError(
            f"other {job}s are about to write to {self._store.address}", hint="wait until they have ended"
        )

    async def _check_conditions(self) -> None:
        """Raise ExportError unless the store refuses writes whose condition does not hold.

        Some stores ignore conditions. Their answer to a write does not show that.
        """
        content = self._content(self._seconds)
        if await self._store.write_once(LOCK, content, None) is None:
            wrong = {"e_tag": f'"{secrets.token_hex(16)}"', "version": "1"}
            other = {name: wrong[name] for name in self._version or {}}
            if other and await self._store.write_once(LOCK, content, other) is None:
                return
        raise self._store.no_conditions_error()

    async def hold(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` and renew the lock meanwhile. Cancels `work` if the lock is lost.

        Raises:
            ExportError: The lock was lost.
            Exception: What `work` raises.
        """
        renewing = asyncio.create_task(self._renew())
        working = asyncio.create_task(work)
        try:
            await asyncio.wait([renewing, working], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                renewing.result()  # raises: the lock is lost
            return working.result()
        finally:
            cancelled = await cancel_and_wait([working, renewing])
            if cancelled is not None:
                raise cancelled

    async def _renew(self) -> None:
        """Renew the lock until it is lost or the task is cancelled.

        Raises:
            ExportError: Another export has the lock, or it could not be renewed in time.
        """
        while True:
            await asyncio.sleep(self._seconds / 3)
            try:
                await self.confirm()
            except TransportError:
                pass  # the deadline ends the export elsewhere, too
            except ExportError as error:
                if self._version is None or time.monotonic() >= self._valid_until:
                    raise
                _log.warning("the lock of %s was not renewed: %s", self._store.address, error.summary)

    async def confirm(self) -> None:
        """Renew the lock now.

        Raises:
            ExportError: Another export has it, or the store does not answer.
        """
        async with self._renewing:
            if self._version is not None and await self._write(self._version):
                return
            # A renewal that was cancelled may have reached the store.
            found = await self._store.read(LOCK)
            if found is not None and self._is_ours(found.content) and await self._write(found.version):
                return
            self._version = None
        job = self._store.job
        raise ExportError(
            f"another {job} has taken the lock of {self._store.address}",
            hint=f"nothing was overwritten; run the same {job} again when the other one has\nended",
        )

    def _is_ours(self, content: bytes) -> bool:
        try:
            return msgspec.json.decode(content, type=_LockContent).token in self._tokens
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False

    async def release(self) -> None:
        """Release the lock. A failure is logged: the lock then expires."""
        version, self._version = self._version, None
        if version is None:
            return
        with self._store.clean_up(_RELEASE_SECONDS):
            try:
                if await self._store.write_once(LOCK, self._content(0.0), version) is None:
                    # A renewal that was cancelled may have reached the store.
                    found = await self._store.read(LOCK)
                    if found is not None and self._is_ours(found.content):
                        await self._store.write_once(LOCK, self._content(0.0), found.version)
            except (ExportError, TransportError) as error:
                _log.info("the lock of %s was not released: %s", self._store.address, error.summary)

    async def _write(self, replaced: Version | None) -> bool:
        """Write the lock. Returns whether the replaced version was still there."""
        started = time.monotonic()
        version = await self._store.write(LOCK, self._content(self._seconds), replaced)
        if version is None:
            return False
        self._version = version
        self._valid_until = started + self._seconds
        return True

    def _content(self, seconds: float) -> bytes:
        token = secrets.token_hex(8)
        self._tokens.add(token)
        return msgspec.json.encode(_LockContent(self._holder, token, seconds))
