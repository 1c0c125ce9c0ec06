"""A file that says what became of each create of a batch job, written before anything is sent.

One JSON object a line, appended and synced. It holds ids and digests, no names and no numbers.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import msgspec

from unpod_async._common import lock, sync_folder, write_all
from unpod_async.errors import ConfigurationError

__all__ = ["Entry", "Journal", "State"]

State: TypeAlias = Literal["sending", "created", "partial", "not_found", "refused"]


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of one create.

    Attributes:
        number: its place in the job, from 0.
        state: "sending" is written before the POST; without a later line the outcome is unknown.
        digest: of what was to be sent, made ids aside.
        document_ids: ids of its documents, made ones included.
        at: when it was written, unix seconds.
    """

    number: int
    state: State
    digest: str
    document_ids: tuple[str, ...]
    at: float
    space: str
    run_id: str | None = None
    task_ids: dict[str, str] = {}


_OLD_STATES = {"partly": "partial", "not seen": "not_found"}
"""State names in journals of older versions. A journal that cannot be read could cost a second call."""


def _decode(line: bytes) -> Entry:
    row = msgspec.json.decode(line, type=dict[str, Any])
    if row.get("state") in list(_OLD_STATES):
        row["state"] = _OLD_STATES[row["state"]]
    return msgspec.convert(row, Entry)


class Journal:
    """The open journal of one job; a second process on the same file is refused."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file = -1
        self._writing = threading.Lock()
        self.entries: dict[int, Entry] = {}

    def __enter__(self) -> Self:
        """Read what is there, to append to it.

        Raises:
            ConfigurationError: another process has it open, or it is no journal.
            OSError: the file cannot be opened.
        """
        is_new = not self._path.exists()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if not lock(self._file):
                raise ConfigurationError(f"the journal {self._path.name} is in use by another process")
            if is_new:
                sync_folder(self._path.parent)
            self._read()
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        # A cancelled job leaves here while a thread still writes: it is waited for, and none comes after.
        with self._writing:
            file, self._file = self._file, -1
            os.close(file)

    def _read(self) -> None:
        whole = self._path.read_bytes()
        # A line without its end was being written when the process died: it never counted.
        complete = whole[: whole.rfind(b"\n") + 1]
        if len(complete) < len(whole):
            os.ftruncate(self._file, len(complete))
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                entry = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                entry = None
            if entry is None:
                raise ConfigurationError(f"line {number} of {self._path.name} is not of a journal")
            self.entries[entry.number] = entry

    def write(self, entry: Entry) -> None:
        """Append and sync; it counts once this returns."""
        line = msgspec.json.encode(entry) + b"\n"
        with self._writing:
            if self._file < 0:
                raise ConfigurationError(f"the journal {self._path.name} is closed")
            write_all(self._file, line)
            os.fsync(self._file)
            self.entries[entry.number] = entry
