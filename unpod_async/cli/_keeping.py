"""The state of a watch in a file, to go on from."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from unpod_async._common import shorten, sync_folder, write_all
from unpod_async.cli._output import say
from unpod_async.cli._status import ERROR, USAGE, Stop

if TYPE_CHECKING:
    from unpod_async import WatchState

__all__ = ["Keeper"]

_EVERY: Final = 1.0
"""Seconds between two savings at least."""
_SHARE: Final = 20
"""Saving takes at most this part of the time."""


class Keeper:
    """Keeps states in the file `name`, readable for its owner only, and whole whatever happens."""

    def __init__(self, name: str) -> None:
        self._path = Path(name)
        self._shown = shorten(name, 80)
        self._saved_at = self._took = 0.0
        self._fault = ""

    def load(self, spaces: Sequence[str]) -> WatchState | None:
        """The state in the file; None when there is no file.

        Raises:
            Stop: it cannot be read or written, is no state, or is one of other spaces.
        """
        from unpod_async import WatchState

        try:
            found = self._path.read_bytes() if self._path.exists() else None
            # So that it is not found out in an hour that nothing can be kept here.
            self._make(b"").unlink()
        except (OSError, ValueError) as fault:
            raise Stop(f"--state: cannot keep {self._shown}: {_why(fault)}", USAGE) from None
        if found is None:
            return None
        try:
            state = msgspec.json.decode(found, type=WatchState)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Stop(
                f"--state: {self._shown} is no state of a watch: name another file, or remove it", USAGE
            ) from None
        others = sorted(set(state.spaces) - set(spaces))
        if others:
            raise Stop(
                f"--state: {self._shown} knows space {shorten(others[0], 80)}, which is not watched now and "
                "would be forgotten: name another file",
                USAGE,
            )
        return state

    @property
    def is_due(self) -> bool:
        """Whether the last saving is long enough ago."""
        return time.monotonic() - self._saved_at >= max(_EVERY, _SHARE * self._took)

    async def save(self, state: WatchState) -> bool:
        """Save it; whether that went well. What went wrong is said once."""
        began = time.monotonic()
        try:
            await asyncio.to_thread(self._write, state)
        except OSError as fault:
            self._tell(fault)
        else:
            self._fault = ""
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began
        return not self._fault

    def save_last(self, state: WatchState) -> None:
        """Save it there and then.

        Raises:
            Stop: it cannot be written.
        """
        try:
            self._write(state)
        except OSError as fault:
            raise Stop(f"--state: cannot write {self._shown}: {_why(fault)}", ERROR) from None

    def _tell(self, fault: OSError) -> None:
        if (why := _why(fault)) != self._fault:
            self._fault = why
            say(f"unpod-async: --state: cannot write {self._shown}: {why}; it is tried again")

    def _write(self, state: WatchState) -> None:
        made = self._make(msgspec.json.encode(state))
        try:
            made.replace(self._path)
        except OSError:
            made.unlink(missing_ok=True)
            raise
        sync_folder(self._path.parent)

    def _make(self, data: bytes) -> Path:
        """A synced file beside the one that is kept, for its owner's eyes."""
        file, name = tempfile.mkstemp(prefix=f".{self._path.name[:100]}-", dir=self._path.parent)
        try:
            write_all(file, data)
            os.fsync(file)
        except OSError:
            with suppress(OSError):
                Path(name).unlink()
            raise
        finally:
            os.close(file)
        return Path(name)


def _why(fault: Exception) -> str:
    return getattr(fault, "strerror", None) or type(fault).__name__
