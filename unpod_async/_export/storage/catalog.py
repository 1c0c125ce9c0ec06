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

from unpod_async._export.rows import row_header
from unpod_async._export.storage.changes import Changes, Progress
from unpod_async._export.storage.spool import Extent, SpoolReader

__all__ = ["Catalog", "KnownRun", "ListedRun", "RunState", "Wanted"]

VERSION = 5

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


class ListedRun(NamedTuple):
    """A run as the listing shows it.

    Attributes:
        id: Its run_id, or "#" and a digest for a run without one.
        line: The line to write.
        digest: Digest of the row as the server sent it.
        can_settle: Its status and age let it be settled once its tasks have ended.
        expected: Number of tasks that it says it has.
    """

    id: str
    line: bytes
    digest: bytes
    can_settle: bool
    expected: int | None


class KnownRun(NamedTuple):
    """A run that is stored already.

    Attributes:
        rank: Greater for a newer run.
        fetched: Unix time at which its tasks were read.
    """

    number: int
    rank: int
    digest: bytes
    state: int
    settled: int
    fetched: float | None


class Wanted(NamedTuple):
    """A run whose tasks are to be read."""

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

    def is_empty(self) -> bool:
        """Return whether the target has no run and no part."""
        return self.value("SELECT 1 FROM run UNION SELECT 1 FROM part LIMIT 1") is None

    def unsettle_all(self) -> None:
        """Let the next listing want every run again."""
        self.run("UPDATE run SET settled = 0")

    def used_spool_files(self) -> set[int]:
        return {file for (file,) in self.run("SELECT DISTINCT file FROM extent")}

    # -- the listing of the runs --------------------------------------------------------------------------

    def begin_listing(self, space: int) -> bool:
        """Note that a listing of the runs has begun. Returns True if the previous one reached its end."""
        finished = bool(self.value("SELECT walked FROM space WHERE number = ?", (space,)))
        self.run("UPDATE space SET walked = 0 WHERE number = ?", (space,))
        return finished

    def has_runs(self, space: int) -> bool:
        return self.value("SELECT 1 FROM run WHERE space = ? LIMIT 1", (space,)) is not None

    def known_runs(self, space: int, ids: Sequence[str]) -> dict[str, KnownRun]:
        """Return those of these runs that are stored, by id."""
        columns = "id, number, rank, seen, state, settled, fetched"
        return {name: KnownRun(*run) for name, *run in self.runs_among(columns, space, ids)}

    def store_listed(
        self,
        space: int,
        listing: int,
        new: Sequence[tuple[int, ListedRun]],
        known: Sequence[tuple[int, ListedRun, KnownRun]],
        wanted: Sequence[int],
    ) -> None:
        """Store a page of the listing.

        Args:
            listing: Number of the listing.
            new: Runs that are not stored yet, each after its rank.
            known: Runs that are stored, each after its rank.
            wanted: Numbers of the runs whose tasks are to be read again.
        """
        lines: list[tuple[int, bytes]] = []
        with self.transaction():
            for run in wanted:
                self.forget_staged(run)
            self.run_many(
                "UPDATE run SET state = ?, settled = 0 WHERE number = ?",
                ((RunState.WANTED, run) for run in wanted),
            )
            number = int(self.value("SELECT max(number) FROM run") or 0)
            state = RunState.WANTED
            added = [(number, rank, row) for number, (rank, row) in enumerate(new, number + 1)]
            self.run_many(
                "INSERT INTO run (number, space, id, rank, seen, settles, expected, listed, state) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (number, space, row.id, rank, row.digest, row.can_settle, row.expected, listing, state)
                    for number, rank, row in added
                ),
            )
            lines += [(number, row.line) for number, _, row in added]
            updates: list[tuple[object, ...]] = []
            for rank, row, old in known:
                # The row of a run that was gone may have been removed from its part.
                is_other = old.digest != row.digest or old.state == RunState.GONE
                updates.append((
                    rank,
                    row.digest,
                    row.can_settle,
                    row.expected,
                    listing,
                    is_other,
                    old.number,
                ))
                if is_other:
                    lines.append((old.number, row.line))
            self.run_many(
                "UPDATE run SET rank = ?, seen = ?, settles = ?, expected = ?, listed = ?, "
                "dirty = dirty OR ? WHERE number = ?",
                updates,
            )
            self.run_many("INSERT OR REPLACE INTO line VALUES (?, ?)", lines)

    def all_settled_before(self, space: int, listing: int, rank: int) -> bool:
        """Return whether all runs that are older than `rank` and not in this listing so far are settled."""
        return (
            self.value(
                "SELECT 1 FROM run WHERE space = ? AND listed < ? AND settled = 0 AND rank < ? LIMIT 1",
                (space, listing, rank),
            )
            is None
        )

    def end_listing(self, space: int, listing: int, rank: int, *, mark_gone: bool) -> int:
        """Note that a listing reached its end.

        Args:
            mark_gone: Mark the runs newer than `rank` that it did not show as gone.

        Returns:
            The number of runs that were marked.
        """
        with self.transaction():
            self.run("UPDATE space SET walked = 1 WHERE number = ?", (space,))
            if not mark_gone:
                return 0
            gone = self.run(
                "SELECT number FROM run WHERE space = ? AND listed < ? AND rank > ? AND state != ?",
                (space, listing, rank, RunState.GONE),
            ).fetchall()
            for (run,) in gone:
                self.forget_staged(run)
            self.run_many(
                "UPDATE run SET state = ?, settled = 0 WHERE number = ?",
                ((RunState.GONE, run) for (run,) in gone),
            )
        return len(gone)

    def forget_bad_runs(self, space: int) -> bool:
        """Forget the rows of the previous listing that could not be read. Returns True if there were any."""
        return self.run("DELETE FROM bad WHERE space = ? AND run IS NULL", (space,)).rowcount > 0

    def count_runs(self, state: RunState) -> int:
        return int(self.value("SELECT count(*) FROM run WHERE state = ?", (state,)))

    # -- fetching -----------------------------------------------------------------------------------------

    def wanted(self, space: int, after: int, most: int) -> list[Wanted]:
        """Return wanted runs whose number is greater than `after`."""
        found = self.run(
            "SELECT number, id FROM run WHERE space = ? AND state = ? AND number > ? ORDER BY number LIMIT ?",
            (space, RunState.WANTED, after, most),
        )
        return [Wanted(*row) for row in found]

    def requests_by_run(self, space: int, page_size: int) -> int:
        """Return the number of requests to read the wanted runs one by one, by their expected tasks."""
        asked = self.value(
            "SELECT sum(coalesce(expected, 0) / ? + 1) FROM run WHERE space = ? AND state = ?",
            (page_size, space, RunState.WANTED),
        )
        return int(asked or 0)

    def wanted_numbers(self, space: int, ids: Sequence[str]) -> dict[str, int]:
        """Return the numbers of the wanted runs among `ids`."""
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
            for space, progress in changes.scans.items():
                self[f"scan {space}"] = msgspec.json.encode(progress)

    def scan_progress(self, space: int) -> Progress | None:
        """Return how far an interrupted scan of the space-wide listing came."""
        kept = self[f"scan {space}"]
        try:
            return None if kept is None else msgspec.json.decode(kept, type=Progress)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None  # another version wrote it: the scan starts again

    def finish_scan(self, space: int, at: float) -> int:
        """Note that a scan of the space-wide listing staged all wanted runs. Returns their number."""
        with self.transaction():
            staged = self.run(
                "UPDATE run SET state = ?, fetched = ?, reason = NULL, settled = settles AND open = 0 "
                "WHERE space = ? AND state = ?",
                (RunState.STAGED, at, space, RunState.WANTED),
            )
            self[f"scan {space}"] = None
        return staged.rowcount

    def discard_scan(self, space: int) -> None:
        """Forget what a scan staged that did not reach its end."""
        with self.transaction():
            self._forget("SELECT number FROM run WHERE space = ? AND state = ?", (space, RunState.WANTED))
            self[f"scan {space}"] = None

    def forget_staged(self, run: int) -> None:
        """Forget the staged rows of a run; those it has in a part stay."""
        self._forget("?", (run,))

    def _forget(self, runs: str, values: Sequence[int]) -> None:
        self.run(f"DELETE FROM extent WHERE run IN ({runs})", values)  # noqa: S608 - of constants only
        self.run(f"DELETE FROM bad WHERE run IN ({runs})", values)  # noqa: S608 - of constants only
        self.run(f"DELETE FROM recording WHERE run IN ({runs}) AND file IS NULL", values)  # noqa: S608 - of constants only
        self.run(f"UPDATE run SET open = 0 WHERE number IN ({runs}) AND open != 0", values)  # noqa: S608 - of constants only

    def staged_tasks(self, space: int) -> set[str]:
        """Return the ids of the tasks that an interrupted scan has staged."""
        found = self.run(
            "SELECT file, start, length, extent.rows FROM extent JOIN run ON run.number = extent.run "
            "WHERE space = ? AND state = ?",
            (space, RunState.WANTED),
        )
        with SpoolReader(self._folder) as spool:
            heads = (
                row_header(line)
                for row in found
                for block in spool.read(Extent(*row))
                for line in block.splitlines()
            )
            return {head.task_id for head in heads if isinstance(head.task_id, str)}

    # -- recordings ---------------------------------------------------------------------------------------

    def pending_recordings(self, after: str, limit: int) -> list[tuple[str, int, str]]:
        """Return (task id, run, URL) of recordings to download whose task id is greater than `after`."""
        return self.run(
            "SELECT task, run, url FROM recording WHERE file IS NULL AND url IS NOT NULL AND task > ? "
            "ORDER BY task LIMIT ?",
            (after, limit),
        ).fetchall()

    def recording_failed(self, task: str, run: int, reason: str) -> None:
        """Note that a download failed. The next export reads the run again, for a new URL."""
        with self.transaction():
            self.run("UPDATE recording SET reason = ? WHERE task = ?", (reason, task))
            self.run("UPDATE run SET settled = 0 WHERE number = ?", (run,))

    def recording_downloaded(self, task: str, file: str, size: int) -> None:
        self.run(
            "UPDATE recording SET file = ?, size = ?, url = NULL, reason = NULL WHERE task = ?",
            (file, size, task),
        )

    # -- staged rows --------------------------------------------------------------------------------------

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
