"""The file of `watch --state`, from which a later watch resumes."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from unpod_async._common import shorten, sync_file, sync_folder, write_all
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
    """Saves the state of a watch. The file is readable by its owner only and is replaced atomically.

    If it is a symbolic link, the file that the link points to is replaced.
    """

    def __init__(self, name: str) -> None:
        self._path = Path(name)
        self._shown_path = shorten(name, 80)
        self._saved_at = self._took = 0.0
        self._reported = ""

    def load(self, spaces: Sequence[str]) -> WatchState | None:
        """Return the state in the file, or None if there is no file or it is empty.

        Raises:
            CliError: the file cannot be read or replaced, is not a state, or is the state of other spaces.
        """
        try:
            self._path = Path(os.path.realpath(self._path))
            content = self._read()
        except (OSError, ValueError) as error:
            raise self._cannot_use(error) from None
        state = self._decode(content, spaces) if content else None
        try:
            # Check at the start, not after an hour, whether the file can be replaced.
            if content is None:
                self._write_temporary(b"").unlink()
            else:
                self._replace(content)
        except OSError as error:
            raise self._cannot_use(error) from None
        return state

    def _read(self) -> bytes | None:
        try:
            mode = self._path.stat().st_mode
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(mode):
            raise CliError(
                f"--state: {self._shown_path} is not a regular file",
                hint="pass the path of a regular file; it is created if it does not exist",
                status=USAGE,
            )
        return self._path.read_bytes()

    def _cannot_use(self, error: Exception) -> CliError:
        hint = ""
        if isinstance(error, OSError) and error.errno == errno.EBUSY:
            hint = (
                "the file cannot be replaced, because it is a mount point, as in a container: mount its "
                "folder instead"
            )
        return CliError(
            f"--state: cannot use {self._shown_path}: {os_error_text(error)}", hint=hint, status=USAGE
        )

    def _decode(self, content: bytes, spaces: Sequence[str]) -> WatchState:
        from unpod_async import WatchState

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
            await asyncio.to_thread(self._save, state)
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
            self._save(state)
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

    def _save(self, state: WatchState) -> None:
        self._replace(msgspec.json.encode(state))

    def _replace(self, content: bytes) -> None:
        temporary = self._write_temporary(content)
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
            sync_file(file)
        except OSError:
            with suppress(OSError):
                Path(name).unlink()
            raise
        finally:
            os.close(file)
        return Path(name)
