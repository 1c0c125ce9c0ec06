"""What a target knows of itself, in a database whose transactions survive a kill and a power cut.

Everything blocks; one thread at a time. Rows of tasks are not in it: they are in the spool, then in parts.
"""

from __future__ import annotations

import enum
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from unpod_async._export.row_header import head_of
from unpod_async._export.storage.changes import Changes, Progress
from unpod_async._export.storage.spool import Extent, SpoolReader

__all__ = ["Catalog", "Listed", "RunState", "Wanted"]

VERSION = 4

_IDS = 500
"""Values in one statement; a system may allow no more than 999."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE space (number INTEGER PRIMARY KEY, token TEXT UNIQUE, walked INTEGER NOT NULL DEFAULT 0);
CREATE TABLE run (
    number INTEGER PRIMARY KEY,
    space INTEGER NOT NULL,
    id TEXT NOT NULL,           -- its run_id, or "#" and a digest
    rank INTEGER NOT NULL,      -- greater is newer
    seen BLOB NOT NULL,         -- digest of the row as the server sent it
    settles INTEGER NOT NULL,   -- its own row lets it settle
    expected INTEGER,           -- tasks it says it has
    listed INTEGER NOT NULL,    -- the round that saw it last
    state INTEGER NOT NULL,     -- RunState
    settled INTEGER NOT NULL DEFAULT 0,
    open INTEGER NOT NULL DEFAULT 0,  -- staged tasks that have not ended, bad rows, recordings not got
    fetched REAL,               -- unix seconds
    reason TEXT,
    part INTEGER,               -- of tasks
    digest BLOB,                -- of its rows there, where it is not settled
    runs_part INTEGER,
    dirty INTEGER NOT NULL DEFAULT 1,  -- its row is not in its part of runs* as it is here
    UNIQUE (space, id));
CREATE INDEX run_state ON run (space, state);
CREATE INDEX run_part ON run (part) WHERE part IS NOT NULL;
CREATE INDEX run_runs_part ON run (runs_part) WHERE runs_part IS NOT NULL;
CREATE TABLE line (             -- of a run, in runs*; apart, for it is long and seldom needed
    run INTEGER PRIMARY KEY, row BLOB NOT NULL);
CREATE TABLE extent (
    number INTEGER PRIMARY KEY, run INTEGER NOT NULL, file INTEGER NOT NULL, start INTEGER NOT NULL,
    length INTEGER NOT NULL, rows INTEGER NOT NULL);
CREATE INDEX extent_run ON extent (run);
CREATE TABLE bad (space INTEGER NOT NULL, run INTEGER, place INTEGER, reason TEXT NOT NULL);
CREATE INDEX bad_run ON bad (run);
CREATE TABLE part (
    kind TEXT NOT NULL, number INTEGER NOT NULL, rows INTEGER NOT NULL, size INTEGER NOT NULL,
    raw INTEGER NOT NULL, sha256 TEXT NOT NULL, moving INTEGER NOT NULL,
    source INTEGER,             -- the file of the spool that moves
    PRIMARY KEY (kind, number)) WITHOUT ROWID;
CREATE TABLE piece (            -- of a part of tasks: rows of one run that stand together
    part INTEGER NOT NULL, place INTEGER NOT NULL, run INTEGER NOT NULL, rows INTEGER NOT NULL,
    PRIMARY KEY (part, place)) WITHOUT ROWID;
CREATE TABLE recording (
    task TEXT PRIMARY KEY, run INTEGER NOT NULL, url TEXT, file TEXT, size INTEGER, reason TEXT
) WITHOUT ROWID;
"""


class RunState(enum.IntEnum):
    WANTED = 0
    STAGED = 1  # all its tasks are in the spool
    DONE = 2  # all its tasks are in a part
    FAILED = 3
    GONE = 4


class Listed(NamedTuple):
    """A row of the listing of runs."""

    id: str
    line: bytes
    seen: bytes
    settles: bool
    expected: int | None


class Wanted(NamedTuple):
    """A run whose tasks are to be fetched."""

    number: int
    id: str


class Catalog:
    """The database of one target.

    Raises (everywhere):
        sqlite3.Error: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # else it would be made for others to read
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        self.run("PRAGMA cache_size=-512")  # KiB; rows are gone through in their order
        # The lock file keeps other exports out; this makes the write-ahead log do without shared memory.
        self.run("PRAGMA locking_mode=EXCLUSIVE")
        self.run("PRAGMA journal_mode=WAL")
        self.run("PRAGMA synchronous=FULL")
        if self.value("SELECT count(*) FROM sqlite_master") == 0:
            with self.transaction():
                for statement in _SCHEMA.split(";\n"):
                    self.run(statement)
                self["version"] = VERSION

    def close(self) -> None:
        self._db.close()

    def run(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._db.execute(statement, values)

    def run_many(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        self._db.executemany(statement, values)

    def value(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The first value of the first row, or None."""
        found = self._db.execute(statement, values).fetchone()
        return None if found is None else found[0]

    def runs_among(self, columns: str, space: int, ids: Sequence[str]) -> list[Any]:
        """These columns of the runs with these ids that are known."""
        found: list[Any] = []
        for start in range(0, len(ids), _IDS):
            some = ids[start : start + _IDS]
            marks = ",".join("?" * len(some))
            found += self.run(
                f"SELECT {columns} FROM run WHERE space = ? AND id IN ({marks})",  # noqa: S608 - of constants only
                (space, *some),
            )
        return found

    def transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def __getitem__(self, name: str) -> Any:
        return self.value("SELECT value FROM meta WHERE name = ?", (name,))

    def __setitem__(self, name: str, value: Any) -> None:
        self.run(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value)
        )

    def space(self, token: str) -> int:
        self.run("INSERT INTO space (token) VALUES (?) ON CONFLICT DO NOTHING", (token,))
        return int(self.value("SELECT number FROM space WHERE token = ?", (token,)))

    # -- fetching -----------------------------------------------------------------------------------------

    def wanted(self, space: int, after: int, most: int) -> list[Wanted]:
        """Runs to be fetched whose number is greater than `after`."""
        found = self.run(
            "SELECT number, id FROM run WHERE space = ? AND state = ? AND number > ? ORDER BY number LIMIT ?",
            (space, RunState.WANTED, after, most),
        )
        return [Wanted(*row) for row in found]

    def requests_for(self, space: int, page_size: int) -> int:
        """Requests that the wanted runs would take one by one, by what they say they have."""
        asked = self.value(
            "SELECT sum(coalesce(expected, 0) / ? + 1) FROM run WHERE space = ? AND state = ?",
            (page_size, space, RunState.WANTED),
        )
        return int(asked or 0)

    def numbers(self, space: int, ids: Sequence[str]) -> dict[str, int]:
        """Numbers of those runs among `ids` that are to be fetched."""
        return {
            name: number
            for name, number, state in self.runs_among("id, number, state", space, ids)
            if state == RunState.WANTED
        }

    def note(self, changes: Changes) -> None:
        """One checkpoint. The rows it refers to are on the disk."""
        with self.transaction():
            self.run_many(
                "INSERT INTO extent (run, file, start, length, rows) VALUES (?, ?, ?, ?, ?)",
                ((number, *extent) for number, extent in changes.extents),
            )
            self.run_many(
                "UPDATE run SET open = open + ? WHERE number = ?",
                ((more, number) for number, more in changes.open.items()),
            )
            self.run_many("INSERT INTO bad VALUES (?, ?, ?, ?)", changes.bad)
            self.run_many(
                "INSERT INTO recording (task, run, url) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET run = excluded.run, "
                "url = CASE WHEN file IS NULL THEN excluded.url END",
                changes.recordings,
            )
            self.run_many(
                "UPDATE run SET state = ?, fetched = ?, reason = NULL, settled = settles AND open = 0 "
                "WHERE number = ?",
                ((RunState.STAGED, at, number) for number, at in changes.staged),
            )
            for number, reason in changes.failed:
                self.forget_staged(number)
                self.run(
                    "UPDATE run SET state = ?, reason = ? WHERE number = ?",
                    (RunState.FAILED, reason, number),
                )
            for space, progress in changes.flat.items():
                self[f"flat {space}"] = msgspec.json.encode(progress)

    def flat(self, space: int) -> Progress | None:
        kept = self[f"flat {space}"]
        try:
            return None if kept is None else msgspec.json.decode(kept, type=Progress)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None  # noted by another version: the walk begins anew

    def staged_flat(self, space: int, at: float) -> int:
        """The space-wide listing was walked to its end: all its wanted runs are staged. How many."""
        with self.transaction():
            staged = self.run(
                "UPDATE run SET state = ?, fetched = ?, reason = NULL, settled = settles AND open = 0 "
                "WHERE space = ? AND state = ?",
                (RunState.STAGED, at, space, RunState.WANTED),
            )
            self[f"flat {space}"] = None
        return staged.rowcount

    def drop_flat(self, space: int) -> None:
        """Forget what was staged of a walk over a space-wide listing that did not come to its end."""
        with self.transaction():
            self._forget("SELECT number FROM run WHERE space = ? AND state = ?", (space, RunState.WANTED))
            self[f"flat {space}"] = None

    def forget_staged(self, run: int) -> None:
        """Forget the staged rows of a run; those it has in a part stay."""
        self._forget("?", (run,))

    def _forget(self, runs: str, values: Sequence[int]) -> None:
        self.run(f"DELETE FROM extent WHERE run IN ({runs})", values)  # noqa: S608 - of constants only
        self.run(f"DELETE FROM bad WHERE run IN ({runs})", values)  # noqa: S608 - of constants only
        self.run(f"DELETE FROM recording WHERE run IN ({runs}) AND file IS NULL", values)  # noqa: S608 - of constants only
        self.run(f"UPDATE run SET open = 0 WHERE number IN ({runs}) AND open != 0", values)  # noqa: S608 - of constants only

    def staged_tasks(self, space: int) -> set[str]:
        """Ids of the tasks that a walk over a space-wide listing has staged before it was broken off."""
        found = self.run(
            "SELECT file, start, length, extent.rows FROM extent JOIN run ON run.number = extent.run "
            "WHERE space = ? AND state = ?",
            (space, RunState.WANTED),
        )
        with SpoolReader(self._folder) as spool:
            heads = (
                head_of(line)
                for row in found
                for block in spool.read(Extent(*row))
                for line in block.splitlines()
            )
            return {head.task_id for head in heads if isinstance(head.task_id, str)}

    def extents(self, first: int, last: int) -> Iterator[tuple[int, Extent]]:
        """(number of the run, rows of it), by run and in their order, of all runs from `first` to `last`."""
        for run, *extent in self.run(
            "SELECT run, file, start, length, rows FROM extent WHERE run BETWEEN ? AND ? "
            "ORDER BY run, number",
            (first, last),
        ):
            yield run, Extent(*extent)


class _Transaction:
    """All or nothing; what goes wrong inside undoes it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._db.execute("COMMIT")
        elif self._db.in_transaction:  # a full disk ends one by itself
            self._db.execute("ROLLBACK")
