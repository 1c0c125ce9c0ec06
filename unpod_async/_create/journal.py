"""The journal of `tasks.create_many`: the state of each request, written to disk before it is sent.

The journal has one JSON object per line. Each line is appended and synced. It contains ids and digests, but
no names or phone numbers.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias

import msgspec

from unpod_async._common import O_BINARY, close_locked, lock, shorten, sync_file, sync_folder, write_all
from unpod_async.errors import ConfigurationError

__all__ = ["Journal", "JournalEntry", "JournalState"]

_CHUNK: Final = 2**20  # bytes

JournalState: TypeAlias = Literal["sending", "created", "partial", "not_found", "unclear", "refused"]

_ENTRY_START: Final = b'{"number":'

_OLD_STATES: Final = {"partly": "partial", "not seen": "not_found"}
"""State names that older versions wrote. They are still read: without its journal, a job could call people
twice."""


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of one request.

    Attributes:
        number: position of the request, counted from 0.
        state: "sending" is written before the POST. If no later entry follows, the outcome is unknown.
        digest: a digest of the request without generated ids.
        document_ids: the ids of its documents, given or generated.
        at: when the request was first sent, in Unix seconds.
        space: the token of the space.
        clock_offset: seconds by which the server's clock was ahead of this machine's when the request was
            first sent; None if no response until then had a `Date` header.
        uptime: when the request was first sent, as `Instant.uptime`.
        boot: names the clock of `uptime`.
        run_id: the run it created, if known.
        task_ids: task id by document id, as far as known.
    """

    number: int
    state: JournalState
    digest: str
    document_ids: tuple[str, ...]
    at: float
    space: str
    clock_offset: float | None = None
    uptime: float | None = None
    boot: str | None = None
    run_id: str | None = None
    task_ids: dict[str, str] = {}


class Journal:
    """The journal file of one job, locked against other processes.

    Use it with `with`.

    Attributes:
        entries: the last entry of each request, by number.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(os.fsdecode(path))
        self._name = shorten(self._path.name, 80)
        self._file = -1
        self._writing = threading.Lock()
        self.entries: dict[int, JournalEntry] = {}

    def __enter__(self) -> Self:
        """Open the file, create it if necessary, and read its entries.

        Raises:
            ConfigurationError: another process has the file open, it is not a journal, or its file system has
                no locks.
            OSError: the file cannot be opened.
        """
        path = self._path.resolve()  # the file itself, not a link to it, so that the right folder is synced
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | O_BINARY, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise ConfigurationError(
                    f"journal {self._name} is not a regular file",
                    argument="journal",
                    hint="pass the path of a regular file; it is created if it does not exist",
                )
            self._lock()
            # Even if the file exists: a job may have been killed after it created the file and before this.
            sync_folder(path.parent)
            self._read()
        except BaseException:
            self._close()
            raise
        return self

    def _lock(self) -> None:
        try:
            is_locked = lock(self._file)
        except OSError as error:
            raise ConfigurationError(
                f"journal {self._name} cannot be locked: {error.strerror}",
                argument="journal",
                hint="use a file system with locks, such as a local disk: without a lock,\n"
                "two jobs could place the same calls",
            ) from None
        if not is_locked:
            raise ConfigurationError(
                f"the journal {self._name} is in use by another process",
                hint="wait until the other job has ended. With another journal, its calls are placed again",
            )

    def __exit__(self, *exc_info: object) -> None:
        # When a job is cancelled, a thread may still be writing: wait for it, and allow no further writes.
        with self._writing:
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            close_locked(file)

    def _read(self) -> None:
        content = b"".join(iter(lambda: os.read(self._file, _CHUNK), b""))
        complete = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                entry = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise self._not_an_entry(number) from None
            self.entries[entry.number] = entry
        rest = content[len(complete) :]
        if rest:
            # The process died while it wrote a last line without a line break. That write never returned.
            # Anything else is a file of the user, which must stay as it is.
            if not _is_start_of_entry(rest):
                raise self._not_an_entry(complete.count(b"\n") + 1)
            os.ftruncate(self._file, len(complete))

    def _not_an_entry(self, line: int) -> ConfigurationError:
        return ConfigurationError(
            f"line {line} of {self._name} is not a journal entry",
            hint="pass the journal of this job, or a file that does not exist yet",
        )

    def write(self, entry: JournalEntry) -> None:
        """Append an entry and sync it to disk. Blocks; once it returns, the entry survives a crash.

        Raises:
            ConfigurationError: the journal is closed. The first failure closes it.
            OSError: the file cannot be written.
        """
        line = msgspec.json.encode(entry) + b"\n"
        with self._writing:
            if self._file < 0:
                raise ConfigurationError(f"the journal {self._name} is closed")
            try:
                write_all(self._file, line)
                sync_file(self._file)
            except OSError:
                self._close()  # the line may be incomplete, so nothing may follow it
                raise
            self.entries[entry.number] = entry


def _is_start_of_entry(rest: bytes) -> bool:
    """Return whether an incomplete last line is that of a journal. Power loss can leave NUL bytes in it."""
    written = rest.rstrip(b"\0")
    return written.startswith(_ENTRY_START) or _ENTRY_START.startswith(written)


def _decode(line: bytes) -> JournalEntry:
    fields = msgspec.json.decode(line, type=dict[str, Any])
    if fields.get("state") in list(_OLD_STATES):
        fields["state"] = _OLD_STATES[fields["state"]]
    return msgspec.convert(fields, JournalEntry)
