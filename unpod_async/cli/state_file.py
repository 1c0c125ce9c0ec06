"""The file of `watch --state`, from which a later watch resumes."""

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
from unpod_async.cli.errors import ERROR, USAGE, CliError, os_error_text
from unpod_async.cli.output import echo_err

if TYPE_CHECKING:
    from unpod_async import WatchState

__all__ = ["StateFile"]

_MIN_INTERVAL: Final = 1.0
"""Minimum number of seconds between two saves."""
_MIN_PAUSE: Final = 20
"""The pause between two saves is at least this many times as long as the last save took."""


class StateFile:
    """Saves the state of a watch. The file is readable by its owner only, and replaced atomically."""

    def __init__(self, name: str) -> None:
        self._path = Path(name)
        self._shown_path = shorten(name, 80)
        self._saved_at = self._took = 0.0
        self._reported = ""

    def load(self, spaces: Sequence[str]) -> WatchState | None:
        """Return the state in the file, or None if there is no file.

        Raises:
            CliError: the file cannot be read or written, is not a state, or is the state of other spaces.
        """
        from unpod_async import WatchState

        try:
            content = self._path.read_bytes() if self._path.exists() else None
            # Find out now, not after an hour, that the folder is not writable.
            self._write_temporary(b"").unlink()
        except (OSError, ValueError) as error:
            raise CliError(
                f"--state: cannot use {self._shown_path}: {os_error_text(error)}", status=USAGE
            ) from None
        if content is None:
            return None
        try:
            state = msgspec.json.decode(content, type=WatchState)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise CliError(
                f"--state: {self._shown_path} is not the state of a watch",
                hint="use another file, or remove this one",
                status=USAGE,
            ) from None
        others = sorted(set(state.spaces) - set(spaces))
        if others:
            raise CliError(
                f"--state: {self._shown_path} has the state of space {shorten(others[0], 80)}, which "
                "would be lost because this command does not watch it",
                hint="watch that space too, or use another file",
                status=USAGE,
            )
        return state

    @property
    def is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved_at >= max(_MIN_INTERVAL, _MIN_PAUSE * self._took)

    async def save(self, state: WatchState) -> bool:
        """Save a state. Returns False if that failed, which is reported once."""
        started = time.monotonic()
        try:
            await asyncio.to_thread(self._replace, state)
        except OSError as error:
            self._report(error)
        else:
            self._reported = ""
        self._saved_at = time.monotonic()
        self._took = self._saved_at - started
        return not self._reported

    def save_now(self, state: WatchState) -> None:
        """Save the last state, blocking.

        Raises:
            CliError: it cannot be written.
        """
        try:
            self._replace(state)
        except OSError as error:
            raise CliError(
                f"--state: cannot write {self._shown_path}: {os_error_text(error)}", status=ERROR
            ) from None

    def _report(self, error: OSError) -> None:
        if (reason := os_error_text(error)) != self._reported:
            self._reported = reason
            echo_err(
                f"unpod-async: --state: cannot write {self._shown_path}: {reason}; retrying every second"
            )

    def _replace(self, state: WatchState) -> None:
        temporary = self._write_temporary(msgspec.json.encode(state))
        try:
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(self._path.parent)

    def _write_temporary(self, data: bytes) -> Path:
        """Write and sync a file in the same folder, readable by its owner only."""
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
