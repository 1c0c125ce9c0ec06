"""The catalog: a SQLite database with the state of a target. All SQL of the export is in this module.

Its transactions survive a kill and a power loss. It holds the rows of the runs, but not those of the tasks:
they are in the spool until they are published as parts.
"""

from __future__ import annotations

import contextlib
import enum
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from unpod_async._common import O_BINARY

__all__ = [
    "STATE_NAME",
    "VERSION",
    "Catalog",
    "Changes",
    "Extent",
    "FinishedPart",
    "KnownRun",
    "ListedRun",
    "PartContent",
    "PartFile",
    "ReadingCost",
    "RunState",
    "ScanProgress",
    "StagedRun",
    "Wanted",
    "copy_state",
]

VERSION = 5

STATE_NAME = "state.sqlite3"
"""The name of the file."""

_MAX_IDS = 500
"""Maximum number of values in one statement. SQLite may be built with a limit of 999."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE space (
    number INTEGER PRIMARY KEY,
    token TEXT UNIQUE,
    read_to_end INTEGER NOT NULL DEFAULT 0  -- the last listing of its runs reached its end
    );
CREATE TABLE run (
    number INTEGER PRIMARY KEY,
    space INTEGER NOT NULL,
    id TEXT NOT NULL,           -- its run_id, or "#" and a digest
    rank INTEGER NOT NULL,      -- greater is newer
    digest BLOB NOT NULL,       -- of the row as the server sent it
    can_settle INTEGER NOT NULL,  -- its status and age allow it to be settled
    expected INTEGER,           -- number of tasks by its own row
    listing INTEGER NOT NULL,   -- number of the last listing that showed it
    state INTEGER NOT NULL,     -- RunState
    settled INTEGER NOT NULL DEFAULT 0,
    unsettled INTEGER NOT NULL DEFAULT 0,  -- staged tasks that are active, bad rows, missing recordings
    fetched REAL,               -- Unix time
    reason TEXT,                -- why its tasks could not all be read
    part INTEGER,               -- part of tasks
    tasks_digest BLOB,          -- of its rows in that part, unless it is settled
    runs_part INTEGER,          -- part of runs
    dirty INTEGER NOT NULL DEFAULT 1,  -- its row in that part is missing or outdated
    UNIQUE (space, id));
CREATE INDEX run_state ON run (space, state);
CREATE INDEX run_part ON run (part) WHERE part IS NOT NULL;
CREATE INDEX run_runs_part ON run (runs_part) WHERE runs_part IS NOT NULL;
CREATE TABLE line (             -- the row of a run; a table of its own because it is long and seldom needed
    run INTEGER PRIMARY KEY, row BLOB NOT NULL);
CREATE TABLE extent (           -- staged rows of a run
    number INTEGER PRIMARY KEY, run INTEGER NOT NULL, file INTEGER NOT NULL, start INTEGER NOT NULL,
    length INTEGER NOT NULL, rows INTEGER NOT NULL);
CREATE INDEX extent_run ON extent (run);
CREATE TABLE bad (space INTEGER NOT NULL, run INTEGER, place INTEGER, reason TEXT NOT NULL);
CREATE INDEX bad_run ON bad (run);
CREATE TABLE part (
    kind TEXT NOT NULL, number INTEGER NOT NULL, rows INTEGER NOT NULL, size INTEGER NOT NULL,
    json_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL,
    moving INTEGER NOT NULL,    -- its file may not have its name yet
    adopted_file INTEGER,       -- the spool file that becomes the part
    PRIMARY KEY (kind, number)) WITHOUT ROWID;
CREATE TABLE part_time (        -- when the file of a part was written
    kind TEXT NOT NULL, number INTEGER NOT NULL, mtime INTEGER NOT NULL, PRIMARY KEY (kind, number)
    ) WITHOUT ROWID;
CREATE TABLE part_content (     -- consecutive rows of one run in a part of tasks
    part INTEGER NOT NULL, place INTEGER NOT NULL, run INTEGER NOT NULL, rows INTEGER NOT NULL,
    PRIMARY KEY (part, place)) WITHOUT ROWID;
CREATE TABLE recording (
    task TEXT PRIMARY KEY, run INTEGER NOT NULL, url TEXT, file TEXT, size INTEGER, reason TEXT
) WITHOUT ROWID;
"""

_ADDED_TABLE = next(statement for statement in _SCHEMA.split(";\n") if "part_time" in statement).replace(
    "CREATE TABLE", "CREATE TABLE IF NOT EXISTS"
)
"""A table that targets of version 5 may not have yet."""

_VALUE_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "listing": int,
    "complete": int,
    "full": int,
    "since": (int, float),
    "options": bytes,
    "redact_key": bytes,
}
"""The types of named values in `meta`."""

_STAGED_IN_PART = (
    "SELECT run FROM part_content JOIN run ON run.number = part_content.run "
    "WHERE part_content.part = ? AND run.state = ?"
)
"""Runs whose staged rows are in a part."""

_FORGET_PUBLISHED_ROWS = f"DELETE FROM extent WHERE run IN ({_STAGED_IN_PART})"  # noqa: S608 - of constants only
_MARK_PUBLISHED = (
    f"UPDATE run SET part = ?, tasks_digest = NULL, state = ? WHERE number IN ({_STAGED_IN_PART})"  # noqa: S608 - of constants only
)

_KNOWN_RUN = (
    "number, rank, digest, state, settled, fetched, "
    "reason IS NULL AND NOT EXISTS (SELECT 1 FROM bad WHERE bad.run = run.number)"
)
"""The columns of a `KnownRun`."""

_UNPUBLISHED = (
    "state = ? AND part IS NULL AND NOT EXISTS (SELECT 1 FROM extent WHERE run = run.number AND file >= ?)"
)
"""Staged runs that are in no part and have no row in a spool file with this number or a greater one."""


class RunState(enum.IntEnum):
    """Where the tasks of a run are."""

    WANTED = 0  # not read yet
    STAGED = 1  # in the spool
    DONE = 2  # in a part
    FAILED = 3  # not all could be read, and none is kept; a part may have those of an earlier export
    GONE = 4  # the run was deleted on the server


class ListedRun(NamedTuple):
    """A run as the listing shows it.

    Attributes:
        id: Its run_id, or "#" and a digest for a run without one.
        line: The line to write; None if the row is invalid: the line of an earlier row is kept.
        digest: Digest of the row as the server sent it.
        can_settle: Its status and age allow it to be settled once its tasks have ended.
        expected: Number of its tasks according to its own row.
    """

    id: str
    line: bytes | None
    digest: bytes
    can_settle: bool
    expected: int | None


class KnownRun(NamedTuple):
    """A run that is stored already.

    Attributes:
        rank: Greater for a newer run.
        fetched: Unix time at which its tasks were read.
        fully_read: All its tasks were listed, and each row could be read.
    """

    number: int
    rank: int
    digest: bytes
    state: int
    settled: int
    fetched: float | None
    fully_read: int


class Wanted(NamedTuple):
    """A run whose tasks are to be read."""

    number: int
    id: str


class ReadingCost(NamedTuple):
    """What it takes to read the tasks of runs one by one.

    Attributes:
        requests: Number of requests.
        rows: Number of rows; None if the runs do not say how many tasks they have.
    """

    requests: int
    rows: int | None = None


class ScanProgress(NamedTuple):
    """How far a scan of a space-wide listing has come. All rows up to this page are staged.

    Attributes:
        page, page_size: Number and size of the last page.
        head: Key of the first row of the listing.
        length: Count of the listing, the same in every response so far.
        at: Unix time.
    """

    page: int
    page_size: int
    head: str
    length: int
    at: float


class Extent(NamedTuple):
    """Consecutive rows in a spool file, each with its newline."""

    file: int
    start: int
    length: int
    rows: int


class FailedRead(NamedTuple):
    """A run whose tasks could not all be read.

    Attributes:
        expected: Number of its tasks by the server's count, if it is known.
        reason: The error.
        at: Unix time.
    """

    run: int
    expected: int | None
    reason: str
    at: float


def incomplete_reason(failed: FailedRead, rows_read: int, rows_kept: int) -> str:
    """Return the reason that the summary gives for a run whose tasks could not all be read.

    Args:
        rows_read: Number of rows that were read.
        rows_kept: Number of rows kept from an earlier export, which had more; 0 if the new rows are kept.
    """
    if not rows_read and not rows_kept:
        return failed.reason
    of = "" if failed.expected is None else f" of {failed.expected}"
    if rows_kept:
        kept = f"{rows_kept} rows of an earlier export were kept"
        return f"{rows_read}{of} rows were read, and {kept}: {failed.reason}"
    return f"{rows_read}{of} rows were written: {failed.reason}"


@dataclass(slots=True)
class Changes:
    """The changes that the next checkpoint saves in the catalog.

    Attributes:
        extents: (run, extent) of staged rows.
        unsettled: For each run, the number of new reasons not to settle it.
        bad: (space, run, position, reason) of rows that cannot be read.
        recordings: (task id, run, URL).
        staged: (run, Unix time) of runs whose tasks were all read.
        failed: Runs whose tasks could not all be read.
        scans: For each space, how far a scan has come.
    """

    extents: list[tuple[int, Extent]] = field(default_factory=list[tuple[int, Extent]])
    unsettled: dict[int, int] = field(default_factory=dict[int, int])
    bad: list[tuple[int, int | None, int | None, str]] = field(
        default_factory=list[tuple[int, int | None, int | None, str]]
    )
    recordings: list[tuple[str, int, str]] = field(default_factory=list[tuple[str, int, str]])
    staged: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    failed: list[FailedRead] = field(default_factory=list["FailedRead"])
    scans: dict[int, ScanProgress] = field(default_factory=dict[int, ScanProgress])

    def __bool__(self) -> bool:
        return bool(self.extents or self.bad or self.staged or self.failed or self.scans)


class StagedRun(NamedTuple):
    """A run with staged rows. A settled run will not be read again."""

    number: int
    settled: int


class FinishedPart(NamedTuple):
    """A part whose file is written and synced.

    Attributes:
        size: Bytes of the file.
        sha256: Digest of the file in hex.
        json_bytes: Bytes of its rows as JSON.
        mtime: When the file was written, in nanoseconds, as the file system says. Renaming the file does not
            change it.
        adopted_file: Number of the spool file that becomes the part; None if a writer made the part.
    """

    rows: int
    size: int
    sha256: str
    json_bytes: int
    mtime: int
    adopted_file: int | None = None


class PartFile(NamedTuple):
    """The file of a stored part.

    Attributes:
        moving: The file may not have its final name yet.
        adopted_file: Number of the spool file that becomes the part.
        mtime: As in `FinishedPart`; None for a part that an earlier version of the package wrote.
    """

    kind: str
    number: int
    size: int
    sha256: str
    moving: int
    adopted_file: int | None
    mtime: int | None


class PartContent(NamedTuple):
    """Consecutive rows of one run in a part of tasks."""

    run: int
    rows: int


class Catalog:
    """The database of one target. All methods block; only one thread may call them at a time.

    Its items are named values: `catalog["version"]`.

    Raises:
        sqlite3.Error: The database cannot be read or written. Every method may raise it.
    """

    def __init__(self, path: Path) -> None:
        # Otherwise SQLite makes the file readable by other users.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | O_BINARY, 0o600))
        self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self.run("PRAGMA cache_size=-512")  # KiB; rows are read in their order
        # The lock file keeps other exports out. With this, the write-ahead log needs no shared memory.
        self.run("PRAGMA locking_mode=EXCLUSIVE")
        self.run("PRAGMA journal_mode=WAL")
        self.run("PRAGMA synchronous=FULL")
        self.run("PRAGMA fullfsync=ON")  # see `sync_file`
        if self.value("SELECT count(*) FROM sqlite_master") == 0:
            with self.transaction():
                for statement in _SCHEMA.split(";\n"):
                    self.run(statement)
                self["version"] = VERSION
        self._check_values()
        if self["version"] == VERSION:
            self.run(_ADDED_TABLE)

    def _check_values(self) -> None:
        """Raise sqlite3.DatabaseError unless the named values have the types that this version stores.

        Another version may store other types.
        """
        values = dict(self.run("SELECT name, value FROM meta").fetchall())
        version = values.get("version")
        if not isinstance(version, int) or (
            version == VERSION
            and any(
                value is not None and not isinstance(value, _VALUE_TYPES.get(name, object))
                for name, value in values.items()
            )
        ):
            raise sqlite3.DatabaseError("the table `meta` has unexpected values")

    def close(self) -> None:
        self._db.close()

    def run(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one SQL statement. Only this class and tests call it."""
        return self._db.execute(statement, values)

    def run_many(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        self._db.executemany(statement, values)

    def value(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Return the first value of the first row; None without a row."""
        found = self._db.execute(statement, values).fetchone()
        return None if found is None else found[0]

    def _runs_by_id(self, columns: str, space: int, ids: Sequence[str]) -> list[Any]:
        """Return columns of the stored runs with these ids."""
        found: list[Any] = []
        for start in range(0, len(ids), _MAX_IDS):
            some = ids[start : start + _MAX_IDS]
            marks = ",".join("?" * len(some))
            found += self.run(
                f"SELECT {columns} FROM run WHERE space = ? AND id IN ({marks})",  # noqa: S608 - of constants only
                (space, *some),
            )
        return found

    def transaction(self) -> _Transaction:
        """Return a context manager that commits at the end and rolls back after an exception."""
        return _Transaction(self._db)

    def __getitem__(self, name: str) -> Any:
        return self.value("SELECT value FROM meta WHERE name = ?", (name,))

    def __setitem__(self, name: str, value: Any) -> None:
        self.run(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value)
        )

    def _space(self, token: str) -> int:
        """Return the number of a space; a new space gets one."""
        self.run("INSERT INTO space (token) VALUES (?) ON CONFLICT DO NOTHING", (token,))
        return int(self.value("SELECT number FROM space WHERE token = ?", (token,)))

    def is_empty(self) -> bool:
        """Return whether the target has no run and no part."""
        return self.value("SELECT 1 FROM run UNION SELECT 1 FROM part LIMIT 1") is None

    def begin_export(
        self, tokens: Sequence[str], *, full: bool, now: float
    ) -> tuple[list[tuple[int, str]], int, float | None]:
        """Begin an export, or resume the last one if it did not reach its end.

        Args:
            tokens: Tokens of the spaces.
            full: Read every run again.
            now: Unix time.

        Returns:
            The number and token of each space, the number of the new listings, and the Unix time at which a
            resumed export began.
        """
        with self.transaction():
            spaces = [(self._space(token), token) for token in tokens]
            listing = (self["listing"] or 0) + 1
            resumes = self["ended"] == 0
            if full and not (resumes and self["full"]):
                self.run("UPDATE run SET settled = 0")
                resumes = False
            since = self["since"] if resumes else None
            if since is None:
                self["since"] = now
            self["listing"], self["ended"], self["full"] = listing, 0, int(full)
        return spaces, listing, None if since is None else float(since)

    def end_export(self) -> None:
        """Record that an export reached its end, complete or not. The next export does not resume it."""
        self["ended"] = 1

    # -- the listing of the runs --------------------------------------------------------------------------

    def begin_listing(self, space: int) -> bool:
        """Note that a listing of the runs has begun. Returns True if the previous one reached its end."""
        reached_end = bool(self.value("SELECT read_to_end FROM space WHERE number = ?", (space,)))
        self.run("UPDATE space SET read_to_end = 0 WHERE number = ?", (space,))
        return reached_end

    def has_runs(self, space: int) -> bool:
        return self.value("SELECT 1 FROM run WHERE space = ? LIMIT 1", (space,)) is not None

    def known_runs(self, space: int, ids: Sequence[str]) -> dict[str, KnownRun]:
        """Return those of these runs that are stored, by id."""
        return {name: KnownRun(*run) for name, *run in self._runs_by_id(f"id, {_KNOWN_RUN}", space, ids)}

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
            new: (rank, run) of runs that are not stored yet.
            known: (rank, listed row, stored row) of runs that are stored.
            wanted: Numbers of the runs whose tasks are to be read again.
        """
        lines: list[tuple[int, bytes | None]] = []
        with self.transaction():
            self._mark_for_reading(wanted)
            number = int(self.value("SELECT max(number) FROM run") or 0)
            state = RunState.WANTED
            added = [(number, rank, row) for number, (rank, row) in enumerate(new, number + 1)]
            self.run_many(
                "INSERT INTO run (number, space, id, rank, digest, can_settle, expected, listing, state) "
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
                has_changed = old.digest != row.digest or old.state == RunState.GONE
                updates.append((
                    rank,
                    row.digest,
                    row.can_settle,
                    row.expected,
                    listing,
                    has_changed,
                    old.number,
                ))
                if has_changed:
                    lines.append((old.number, row.line))
            self.run_many(
                "UPDATE run SET rank = ?, digest = ?, can_settle = ?, expected = ?, listing = ?, "
                "dirty = dirty OR ? WHERE number = ?",
                updates,
            )
            self.run_many(
                "INSERT OR REPLACE INTO line VALUES (?, ?)", (line for line in lines if line[1] is not None)
            )

    def _mark_for_reading(self, runs: Sequence[int]) -> None:
        for run in runs:
            self.forget_staged(run)
        self.run_many(
            "UPDATE run SET state = ?, settled = 0, reason = NULL WHERE number = ?",
            ((RunState.WANTED, run) for run in runs),
        )

    def runs_not_in_listing(self, space: int, listing: int) -> list[KnownRun]:
        """Return the stored runs that are not in this listing."""
        found = self.run(
            f"SELECT {_KNOWN_RUN} FROM run WHERE space = ? AND listing < ? AND state != ?",  # noqa: S608 - of constants only
            (space, listing, RunState.GONE),
        )
        return [KnownRun(*run) for run in found]

    def mark_for_reading(self, runs: Sequence[int]) -> None:
        """Mark runs so that their tasks are read again."""
        with self.transaction():
            self._mark_for_reading(runs)

    def add_runs_without_row(self, space: int, listing: int, ids: Sequence[str]) -> None:
        """Add wanted runs whose rows cannot be read. Runs that are already stored do not change."""
        with self.transaction():
            number = int(self.value("SELECT max(number) FROM run") or 0)
            self.run_many(
                "INSERT INTO run (number, space, id, rank, digest, can_settle, listing, state) "
                "VALUES (?, ?, ?, 0, x'', 0, ?, ?) ON CONFLICT DO NOTHING",
                (
                    (number, space, name, listing, RunState.WANTED)
                    for number, name in enumerate(ids, number + 1)
                ),
            )

    def count_tasks(self, space: int) -> int:
        """Return the number of tasks that are staged or in a part, or that could not be read."""
        staged = self.value(
            "SELECT sum(extent.rows) FROM extent JOIN run ON run.number = extent.run "
            "WHERE space = ? AND state = ?",
            (space, RunState.STAGED),
        )
        published = self.value(
            "SELECT sum(part_content.rows) FROM part_content "
            "JOIN run ON run.number = part_content.run AND run.part = part_content.part "
            "WHERE space = ? AND state NOT IN (?, ?)",
            (space, RunState.STAGED, RunState.GONE),
        )
        bad = self.value("SELECT count(*) FROM bad WHERE space = ? AND run IS NOT NULL", (space,))
        return int(staged or 0) + int(published or 0) + int(bad)

    def expected_tasks(self, space: int) -> int:
        """Return the count of the space-wide listing if all tasks of the space are known."""
        return self.count_tasks(space) + int(self[f"surplus {space}"] or 0)

    def accept_count(self, space: int, count: int) -> None:
        """Record that all tasks of a space are known although the space-wide listing has another count.

        The counts may differ because, for example, the tasks of settled runs changed.
        """
        self[f"surplus {space}"] = count - self.count_tasks(space)

    def count_runs_without_row(self) -> int:
        """Return the number of runs whose own row could never be read."""
        return int(
            self.value("SELECT count(*) FROM run WHERE NOT EXISTS (SELECT 1 FROM line WHERE run = number)")
        )

    def runs_after(self, space: int, listing: int, rank: int) -> tuple[int, bool]:
        """Return how many stored runs are older than `rank` and not listed yet, and if all are settled."""
        number, settled = self.run(
            "SELECT count(*), coalesce(min(settled), 1) FROM run "
            "WHERE space = ? AND listing < ? AND rank < ? AND state != ?",
            (space, listing, rank, RunState.GONE),
        ).fetchone()
        return int(number), bool(settled)

    def rows_after(self, space: int) -> int:
        """Return the number of rows after the last selected run in the last complete listing."""
        return int(self[f"behind {space}"] or 0)

    def end_listing(
        self,
        space: int,
        listing: int,
        rank: int,
        *,
        after_last_selected: int | None,
        mark_gone: bool,
        discard_scan: bool,
    ) -> None:
        """Record that a listing reached its end.

        Args:
            after_last_selected: Number of rows after the last selected run; None if it is not known.
            mark_gone: Mark runs as gone if they are newer than `rank` and were not listed.
            discard_scan: Forget what an interrupted scan staged. This is also done if a run is gone.
        """
        gone: list[tuple[int]] = []
        with self.transaction():
            self.run("UPDATE space SET read_to_end = 1 WHERE number = ?", (space,))
            if after_last_selected is not None:
                self[f"behind {space}"] = after_last_selected
            if mark_gone:
                gone = self.run(
                    "SELECT number FROM run WHERE space = ? AND listing < ? AND rank > ? AND state != ?",
                    (space, listing, rank, RunState.GONE),
                ).fetchall()
            for (run,) in gone:
                self.forget_staged(run)
            self.run_many(
                "UPDATE run SET state = ?, settled = 0 WHERE number = ?",
                ((RunState.GONE, run) for (run,) in gone),
            )
            if gone or discard_scan:
                self._discard_scan(space)

    def forget_bad_runs(self, space: int) -> bool:
        """Forget the rows of the previous listing that could not be read. Returns True if there were any."""
        return self.run("DELETE FROM bad WHERE space = ? AND run IS NULL", (space,)).rowcount > 0

    def count_runs(self, *states: RunState) -> int:
        """Return the number of runs in one of these states."""
        marks = ", ".join("?" * len(states))
        return int(self.value(f"SELECT count(*) FROM run WHERE state IN ({marks})", states))  # noqa: S608

    # -- fetching -----------------------------------------------------------------------------------------

    def wanted(self, space: int, after: int, most: int) -> list[Wanted]:
        """Return wanted runs whose number is greater than `after`."""
        found = self.run(
            "SELECT number, id FROM run WHERE space = ? AND state = ? AND number > ? ORDER BY number LIMIT ?",
            (space, RunState.WANTED, after, most),
        )
        return [Wanted(*row) for row in found]

    def cost_by_run(self, space: int, page_size: int) -> ReadingCost:
        """Return what it takes to read the wanted runs one by one, by their expected tasks."""
        where = (space, RunState.WANTED)
        requests = self.value(
            "SELECT sum(coalesce(expected, 0) / ? + 1) FROM run WHERE space = ? AND state = ?",
            (page_size, *where),
        )
        # With a NULL in it, the sum of the others would be too small.
        rows = self.value(
            "SELECT CASE WHEN count(*) = count(expected) THEN sum(expected) END FROM run "
            "WHERE space = ? AND state = ?",
            where,
        )
        return ReadingCost(int(requests or 0), rows)

    def wanted_numbers(self, space: int, ids: Sequence[str]) -> dict[str, int]:
        """Return the numbers of the wanted runs among `ids`."""
        return {
            name: number
            for name, number, state in self._runs_by_id("id, number, state", space, ids)
            if state == RunState.WANTED
        }

    def save(self, changes: Changes) -> None:
        """Save a checkpoint. The rows that it refers to must be on the disk."""
        with self.transaction():
            self.run_many(
                "INSERT INTO extent (run, file, start, length, rows) VALUES (?, ?, ?, ?, ?)",
                ((number, *extent) for number, extent in changes.extents),
            )
            self.run_many(
                "UPDATE run SET unsettled = unsettled + ? WHERE number = ?",
                ((more, number) for number, more in changes.unsettled.items()),
            )
            self.run_many("INSERT INTO bad VALUES (?, ?, ?, ?)", changes.bad)
            self.run_many(
                "INSERT INTO recording (task, run, url) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET run = excluded.run, "
                "url = CASE WHEN file IS NULL THEN excluded.url END",
                changes.recordings,
            )
            self.run_many(
                "UPDATE run SET state = ?, fetched = ?, reason = NULL, "
                "settled = can_settle AND unsettled = 0 "
                "WHERE number = ?",
                ((RunState.STAGED, at, number) for number, at in changes.staged),
            )
            for failed in changes.failed:
                self._save_failed(failed)
            for space, progress in changes.scans.items():
                self[f"scan {space}"] = msgspec.json.encode(progress)

    def _save_failed(self, read: FailedRead) -> None:
        """Keep the staged rows of a run, unless its part has more of them."""
        run = read.run
        rows_read = int(self.value("SELECT sum(rows) FROM extent WHERE run = ?", (run,)) or 0)
        kept = self.value(
            "SELECT sum(rows) FROM part_content "
            "WHERE run = ? AND part = (SELECT part FROM run WHERE number = ?)",
            (run, run),
        )
        is_kept = rows_read < (kept or 0)
        if is_kept or not rows_read:
            self.forget_staged(run)
        self.run(
            "UPDATE run SET state = ?, fetched = ?, reason = ?, settled = 0 WHERE number = ?",
            (
                RunState.STAGED if rows_read and not is_kept else RunState.FAILED,
                read.at,
                incomplete_reason(read, rows_read, kept if is_kept else 0),
                run,
            ),
        )

    def scan_progress(self, space: int) -> ScanProgress | None:
        """Return how far an interrupted scan of the space-wide listing came."""
        kept = self[f"scan {space}"]
        try:
            return None if kept is None else msgspec.json.decode(kept, type=ScanProgress)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None  # another version wrote it: the scan starts again

    def finish_scan(self, space: int, at: float) -> int:
        """Record that a scan of the space-wide listing staged all wanted runs that have an id.

        Returns:
            Their number.
        """
        with self.transaction():
            staged = self.run(
                "UPDATE run SET state = ?, fetched = ?, reason = NULL, "
                "settled = can_settle AND unsettled = 0 "
                "WHERE space = ? AND state = ? AND id NOT LIKE '#%'",
                (RunState.STAGED, at, space, RunState.WANTED),
            )
            self[f"scan {space}"] = None
        return staged.rowcount

    def discard_scan(self, space: int) -> None:
        """Forget the rows that an interrupted scan has staged."""
        with self.transaction():
            self._discard_scan(space)

    def _discard_scan(self, space: int) -> None:
        self._forget("SELECT number FROM run WHERE space = ? AND state = ?", (space, RunState.WANTED))
        self[f"scan {space}"] = None

    def forget_staged(self, run: int) -> None:
        """Forget the staged rows of a run. Its rows in a part stay."""
        self._forget("?", (run,))

    def _forget(self, runs: str, values: Sequence[int]) -> None:
        self.run(f"DELETE FROM extent WHERE run IN ({runs})", values)  # noqa: S608 - of constants only
        self.run(f"DELETE FROM bad WHERE run IN ({runs})", values)  # noqa: S608 - of constants only
        self.run(f"DELETE FROM recording WHERE run IN ({runs}) AND file IS NULL", values)  # noqa: S608 - of constants only
        self.run(f"UPDATE run SET unsettled = 0 WHERE number IN ({runs}) AND unsettled != 0", values)  # noqa: S608 - of constants only

    def scanned_extents(self, space: int) -> list[Extent]:
        """Return the extents that an interrupted scan has staged."""
        found = self.run(
            "SELECT file, start, length, extent.rows FROM extent JOIN run ON run.number = extent.run "
            "WHERE space = ? AND state = ?",
            (space, RunState.WANTED),
        )
        return [Extent(*row) for row in found]

    # -- recordings ---------------------------------------------------------------------------------------

    def pending_recordings(self, after: str, limit: int) -> list[tuple[str, int, str]]:
        """Return (task id, run, URL) of recordings to download whose task id is greater than `after`."""
        return self.run(
            "SELECT task, run, url FROM recording WHERE file IS NULL AND url IS NOT NULL AND task > ? "
            "ORDER BY task LIMIT ?",
            (after, limit),
        ).fetchall()

    def count_pending_recordings(self) -> int:
        """Return the number of recordings to download."""
        return int(self.value("SELECT count(*) FROM recording WHERE file IS NULL AND url IS NOT NULL"))

    def record_download_failure(self, task: str, run: int, reason: str) -> None:
        """Note that a download failed. The next export reads the run again, for a new URL."""
        with self.transaction():
            self.run("UPDATE recording SET reason = ? WHERE task = ?", (reason, task))
            self.run("UPDATE run SET settled = 0 WHERE number = ?", (run,))

    def record_download(self, task: str, file: str, size: int) -> None:
        self.run(
            "UPDATE recording SET file = ?, size = ?, url = NULL, reason = NULL WHERE task = ?",
            (file, size, task),
        )

    # -- staged rows --------------------------------------------------------------------------------------

    def extents(self, first: int, last: int) -> Iterator[tuple[int, Extent]]:
        """Yield (run, extent) of the runs from `first` to `last`, in order."""
        for run, *extent in self.run(
            "SELECT run, file, start, length, rows FROM extent WHERE run BETWEEN ? AND ? "
            "ORDER BY run, number",
            (first, last),
        ):
            yield run, Extent(*extent)

    def spool_files(self) -> list[int]:
        """Return the numbers of the spool files that have staged rows."""
        return [file for (file,) in self.run("SELECT DISTINCT file FROM extent ORDER BY file")]

    def spool_ends(self) -> list[tuple[int, int]]:
        """Return (number, bytes up to the last staged row) of the spool files that have staged rows."""
        return self.run("SELECT file, max(start + length) FROM extent GROUP BY file").fetchall()

    def file_extents(self, file: int) -> list[tuple[int, int, int, int, int, int]]:
        """Return (run, start, length, rows, settled, is unpublished) of the extents in a spool file."""
        return self.run(
            "SELECT run, start, length, extent.rows, settled, state = ? AND part IS NULL "
            "FROM extent JOIN run ON run.number = extent.run WHERE file = ? ORDER BY start",
            (RunState.STAGED, file),
        ).fetchall()

    def file_shares_runs(self, file: int) -> bool:
        """Return whether a run has rows in this spool file and in another one."""
        return (
            self.value(
                "SELECT 1 FROM extent WHERE file != ? AND run IN (SELECT run FROM extent WHERE file = ?) "
                "LIMIT 1",
                (file, file),
            )
            is not None
        )

    def unpublished_bytes(self, before_file: int) -> int:
        """Return the size of the staged rows of `unpublished_runs`, in bytes."""
        return int(
            self.value(
                f"SELECT sum(length) FROM extent JOIN run ON run.number = extent.run WHERE {_UNPUBLISHED}",  # noqa: S608 - of constants only
                (RunState.STAGED, before_file),
            )
            or 0
        )

    def unpublished_runs(self, before_file: int, after: int, limit: int) -> list[StagedRun]:
        """Return staged runs in no part whose number is greater than `after`.

        Args:
            before_file: Only runs without rows in this spool file or a later one.
        """
        found = self.run(
            f"SELECT number, settled FROM run WHERE {_UNPUBLISHED} AND number > ? ORDER BY number LIMIT ?",  # noqa: S608 - of constants only
            (RunState.STAGED, before_file, after, limit),
        )
        return [StagedRun(*row) for row in found]

    def finish_runs_without_tasks(self) -> None:
        """Mark staged runs without rows, neither staged nor in a part, as done."""
        self.run(
            "UPDATE run SET state = ? WHERE state = ? AND part IS NULL "
            "AND NOT EXISTS (SELECT 1 FROM extent WHERE run = run.number)",
            (RunState.DONE, RunState.STAGED),
        )

    def restaged_runs(self) -> list[tuple[int, bytes]]:
        """Return the staged runs that are in a part and may change, with the digest of their rows there."""
        return self.run(
            "SELECT number, tasks_digest FROM run "
            "WHERE state = ? AND part IS NOT NULL AND tasks_digest IS NOT NULL",
            (RunState.STAGED,),
        ).fetchall()

    def keep_published_rows(self, run: int) -> None:
        """Drop the staged rows of a run that are equal to those in its part."""
        with self.transaction():
            self.run("DELETE FROM extent WHERE run = ?", (run,))
            self.run("UPDATE run SET state = ? WHERE number = ?", (RunState.DONE, run))

    # -- parts --------------------------------------------------------------------------------------------

    def needs_publishing(self) -> bool:
        """Return whether the parts are outdated."""
        return (
            self.value(
                "SELECT 1 FROM run WHERE state IN (?, ?) OR dirty LIMIT 1", (RunState.STAGED, RunState.GONE)
            )
            is not None
        )

    def next_part(self, kind: str) -> int:
        """Return the number of the next new part."""
        return 1 + int(self.value("SELECT max(number) FROM part WHERE kind = ?", (kind,)) or 0)

    def part_files(self) -> list[PartFile]:
        """Return the expected file of every part."""
        found = self.run(
            "SELECT kind, number, size, sha256, moving, adopted_file, mtime "
            "FROM part LEFT JOIN part_time USING (kind, number)"
        )
        return [PartFile(*row) for row in found]

    def store_part(self, kind: str, number: int, part: FinishedPart) -> None:
        """Store a part whose file is renamed next. Call this in the transaction that stores its content."""
        self.run(
            "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?, 1, ?)",
            (kind, number, part.rows, part.size, part.json_bytes, part.sha256, part.adopted_file),
        )
        self.store_part_times([(kind, number, part.mtime)])

    def store_part_times(self, times: Sequence[tuple[str, int, int]]) -> None:
        """Store the `mtime` of the files of parts, given as kind, number and time."""
        self.run_many("INSERT OR REPLACE INTO part_time VALUES (?, ?, ?)", times)

    def record_part_moved(self, kind: str, number: int) -> None:
        """Note that the file of a part has its final name."""
        self.run(
            "UPDATE part SET moving = 0, adopted_file = NULL WHERE kind = ? AND number = ?", (kind, number)
        )

    # -- parts of tasks -----------------------------------------------------------------------------------

    def outdated_task_parts(self) -> list[int]:
        """Return the parts of tasks with runs that were read again or are gone."""
        found = self.run(
            "SELECT DISTINCT part FROM run WHERE part IS NOT NULL AND state IN (?, ?) ORDER BY part",
            (RunState.STAGED, RunState.GONE),
        )
        return [number for (number,) in found]

    def last_task_part(self) -> tuple[int, int] | None:
        """Return the number of the last part of tasks and the bytes of its rows as JSON."""
        found: tuple[int, int] | None = self.run(
            "SELECT number, json_bytes FROM part WHERE kind = 'tasks' ORDER BY number DESC LIMIT 1"
        ).fetchone()
        return found

    def task_part_size(self, number: int) -> tuple[int, int]:
        """Return the number of rows of a part of tasks and their bytes as JSON."""
        rows, json_bytes = self.run(
            "SELECT rows, json_bytes FROM part WHERE kind = 'tasks' AND number = ?", (number,)
        ).fetchone()
        return rows, json_bytes

    def part_contents(self, number: int) -> list[tuple[PartContent, bool]]:
        """Return the contents of a part of tasks in their order, each with whether it is still current."""
        return [
            (PartContent(run, rows), state not in (RunState.STAGED, RunState.GONE))
            for run, rows, state in self.run(
                "SELECT run, part_content.rows, state FROM part_content "
                "JOIN run ON run.number = part_content.run WHERE part_content.part = ? ORDER BY place",
                (number,),
            )
        ]

    def restaged_runs_in_part(self, number: int) -> list[StagedRun]:
        """Return the runs of a part of tasks that were read again."""
        found = self.run(
            "SELECT number, settled FROM run WHERE part = ? AND state = ? ORDER BY number",
            (number, RunState.STAGED),
        )
        return [StagedRun(*row) for row in found]

    def store_task_part(
        self,
        number: int,
        part: FinishedPart,
        contents: Sequence[PartContent],
        published: Mapping[int, bytes | None],
    ) -> None:
        """Store a part of tasks with its contents, in one transaction.

        Args:
            published: Runs whose staged rows are now in the part, with the digest of the rows if the run is
                not settled.
        """
        here = {content.run for content in contents}
        with self.transaction():
            self.run("UPDATE run SET part = NULL WHERE part = ? AND state = ?", (number, RunState.GONE))
            self.run("DELETE FROM part_content WHERE part = ?", (number,))
            self.run_many(
                "INSERT INTO part_content VALUES (?, ?, ?, ?)",
                ((number, place, *content) for place, content in enumerate(contents)),
            )
            # One statement for all but the runs without rows and those that may change: 15 ms become 5 ms
            # for 2,000 runs.
            self.run(_FORGET_PUBLISHED_ROWS, (number, RunState.STAGED))
            self.run(_MARK_PUBLISHED, (number, RunState.DONE, number, RunState.STAGED))
            self.run_many(
                "UPDATE run SET part = ?, tasks_digest = ?, state = ? WHERE number = ?",
                (
                    (number, digest, RunState.DONE, run)
                    for run, digest in published.items()
                    if digest is not None or run not in here
                ),
            )
            self.store_part("tasks", number, part)

    # -- parts of runs ------------------------------------------------------------------------------------

    def assign_run_parts(self, runs_per_part: int) -> list[int]:
        """Assign the new runs to parts of runs. Returns the parts that have to be written."""
        with self.transaction():
            last = max(1, self.next_part("runs") - 1)
            room = runs_per_part - int(self.value("SELECT count(*) FROM run WHERE runs_part = ?", (last,)))
            while self.value("SELECT 1 FROM run WHERE runs_part IS NULL AND state != ?", (RunState.GONE,)):
                if room <= 0:
                    last, room = last + 1, runs_per_part
                self.run(
                    "UPDATE run SET runs_part = ? WHERE number IN "
                    "(SELECT number FROM run WHERE runs_part IS NULL AND state != ? ORDER BY number LIMIT ?)",
                    (last, RunState.GONE, room),
                )
                room = 0
        outdated = self.run(
            "SELECT DISTINCT runs_part FROM run WHERE runs_part IS NOT NULL AND (dirty OR state = ?) "
            "ORDER BY runs_part",
            (RunState.GONE,),
        )
        return [number for (number,) in outdated]

    def run_lines(self, number: int, size: int) -> Iterator[list[bytes]]:
        """Yield the lines of a part of runs, `size` at a time."""
        rows = self.run(
            "SELECT row FROM run JOIN line ON run = number WHERE runs_part = ? AND state != ? "
            "ORDER BY number",
            (number, RunState.GONE),
        )
        while batch := [row for (row,) in rows.fetchmany(size)]:
            yield batch

    def store_run_part(self, number: int, part: FinishedPart) -> None:
        """Store a part of runs, in one transaction."""
        with self.transaction():
            self.run("UPDATE run SET dirty = 0 WHERE runs_part = ?", (number,))
            self.store_part("runs", number, part)

    def remove_gone_runs(self) -> None:
        """Forget the runs that are gone. No part may have their rows."""
        gone = (RunState.GONE,)
        with self.transaction():
            self.run("DELETE FROM recording WHERE run IN (SELECT number FROM run WHERE state = ?)", gone)
            self.run("DELETE FROM line WHERE run IN (SELECT number FROM run WHERE state = ?)", gone)
            self.run("DELETE FROM run WHERE state = ?", gone)

    # -- the manifest -------------------------------------------------------------------------------------

    def parts(self) -> list[tuple[str, int, int, int, str]]:
        """Return (kind, number, rows, bytes, SHA-256) of every part."""
        return self.run("SELECT kind, number, rows, size, sha256 FROM part ORDER BY kind, number").fetchall()

    def failed_runs(self, limit: int) -> list[tuple[str, str, str]]:
        """Return (space token, run id, reason) of runs whose tasks could not all be read."""
        return self.run(
            "SELECT token, CASE WHEN id LIKE '#%' THEN '' ELSE id END, reason FROM run "
            "JOIN space ON space.number = run.space WHERE reason IS NOT NULL AND state != ? "
            "ORDER BY run.number LIMIT ?",
            (RunState.GONE, limit),
        ).fetchall()

    def count_failed_runs(self) -> int:
        return int(
            self.value("SELECT count(*) FROM run WHERE reason IS NOT NULL AND state != ?", (RunState.GONE,))
        )

    def bad_rows(self, limit: int) -> list[tuple[str, str | None, int | None, str]]:
        """Return (space token, run id, position, reason) of rows that could not be read."""
        return self.run(
            "SELECT token, run.id, bad.place, bad.reason FROM bad JOIN space ON space.number = bad.space "
            "LEFT JOIN run ON run.number = bad.run LIMIT ?",
            (limit,),
        ).fetchall()

    def count_bad_rows(self) -> int:
        return int(self.value("SELECT count(*) FROM bad"))

    def count_recordings(self) -> tuple[int, int]:
        """Return the number of downloaded recordings and of failed ones."""
        return (
            int(self.value("SELECT count(*) FROM recording WHERE file IS NOT NULL")),
            int(self.value("SELECT count(*) FROM recording WHERE reason IS NOT NULL")),
        )


class _Transaction:
    """A transaction as a context manager: commits, or rolls back after an exception."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._db.execute("COMMIT")
        elif self._db.in_transaction:  # SQLite itself rolls back when the disk is full
            self._db.execute("ROLLBACK")


def copy_state(source: Path, target: Path) -> None:
    """Copy the file of a catalog that is not open, without the key of the hashes. Blocks.

    Args:
        target: Must not exist.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | O_BINARY, 0o600))
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute("VACUUM INTO ?", (str(target),))
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete=ON")  # also from pages that are not used any more
        db.execute("DELETE FROM meta WHERE name = 'redact_key'")
