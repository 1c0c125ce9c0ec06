"""Parts made of staged rows, and put in their place.

A part is made beside the data set and synced; one transaction says what it holds and that it is moving; then
it gets its name. Killed in between, the next export finds it moving and finishes that, so a part and what is
known of it never differ. The tasks of a run are in one part, and stay in it when they are read again: whoever
reads the parts meanwhile sees each run once, as it was or as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

from unpod_async._export._formats import FORMATS, Writer
from unpod_async._export._spool import read_extent, spool_path
from unpod_async._export._state import RunState, State
from unpod_async._export._target import Store, Workplace
from unpod_async.errors import ExportError

__all__ = ["Publisher"]

Kind: TypeAlias = Literal["runs", "tasks"]

_RUNS_PER_PART = 20_000
_ROWS = 500

MANIFEST = "manifest.json"


class _Placed(NamedTuple):
    """A run in the part being made: where, how many rows, and what they are when they may change."""

    run: int
    rows: int
    digest: bytes | None
    is_new: bool  # its rows are the staged ones


class Publisher:
    """Makes the parts of one data set. Blocks.

    Args:
        part_bytes: size of a part of tasks, in bytes of its rows as JSON.

    Raises (everywhere):
        OSError, sqlite3.Error: the disk refuses; what was there is as it was.
    """

    def __init__(
        self,
        state: State,
        workplace: Workplace,
        store: Store,
        *,
        form: str,
        csv_safe: bool,
        part_bytes: int,
    ) -> None:
        self._state = state
        self._work = workplace
        self._store = store
        self._format = FORMATS[form]
        self._csv_safe = csv_safe
        self._part_bytes = part_bytes

    def name(self, kind: str, number: int) -> str:
        return f"{kind}-{number:05d}{self._format.suffix}"

    # -- before anything --------------------------------------------------------------------------------

    def recover(self) -> None:
        """Finish what a killed export was doing, and check that the parts are what they were.

        Raises:
            ExportError: somebody else has changed a part.
        """
        for kind, number in self._state.run("SELECT kind, number FROM part WHERE moving").fetchall():
            self._move(kind, number)
        for kind, number, size in self._state.run("SELECT kind, number, size FROM part").fetchall():
            name = self.name(kind, number)
            if self._store.size(name) != size:
                raise ExportError(
                    f"{name} is not as the export left it ({size} bytes): put it back, or export to another "
                    "directory"
                )

    # -- tasks ------------------------------------------------------------------------------------------

    def publish_full_parts(self) -> None:
        """Make parts of runs that are in none yet, as long as a part can be filled."""
        while self._staged_bytes() >= self._part_bytes:
            self._make_new_part(self._next_number("tasks"))

    def publish(self) -> None:
        """Bring all parts up to date with the state. From here on the manifest of before is gone."""
        self._settle_unchanged()
        if self._is_up_to_date():
            return
        self._store.remove(MANIFEST)
        for (number,) in self._state.run(
            "SELECT DISTINCT part FROM run WHERE part IS NOT NULL AND state IN (?, ?) ORDER BY part",
            (RunState.STAGED, RunState.GONE),
        ).fetchall():
            self._rewrite(number, with_new=False)
        last = self._state.run(
            "SELECT number, raw FROM part WHERE kind = 'tasks' ORDER BY number DESC LIMIT 1"
        ).fetchone()
        if last is None:
            self._make_new_part(1)
        elif last[1] < self._part_bytes and self._has_new():
            self._rewrite(last[0], with_new=True)
        while self._has_new():
            self._make_new_part(self._next_number("tasks"))
        self._publish_runs()

    def _is_up_to_date(self) -> bool:
        return (
            self._state.value(
                "SELECT 1 FROM run WHERE state IN (?, ?) OR dirty LIMIT 1", (RunState.STAGED, RunState.GONE)
            )
            is None
            and self._store.size(MANIFEST) is not None
        )

    def _settle_unchanged(self) -> None:
        """Runs that were read again and are what their part has, and runs without tasks, need no part."""
        for number, digest, part in self._state.run(
            "SELECT number, digest, part FROM run WHERE state = ? AND (part IS NULL OR digest IS NOT NULL)",
            (RunState.STAGED,),
        ).fetchall():
            same = self._digest(number) == digest if part is not None else not self._has_rows(number)
            if same:
                with self._state.transaction():
                    self._state.run("DELETE FROM extent WHERE run = ?", (number,))
                    self._state.run("UPDATE run SET state = ? WHERE number = ?", (RunState.DONE, number))

    def _digest(self, run: int) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        for line in self._staged_lines(run):
            digest.update(line + b"\n")
        return digest.digest()

    def _staged_lines(self, run: int) -> Iterator[bytes]:
        for extent in self._state.extents(run):
            for lines in read_extent(self._work.folder, extent):
                yield from lines

    def _has_rows(self, run: int) -> bool:
        return self._state.value("SELECT 1 FROM extent WHERE run = ? LIMIT 1", (run,)) is not None

    def _staged_bytes(self) -> int:
        return int(
            self._state.value(
                "SELECT sum(length) FROM extent JOIN run ON run.number = extent.run "
                "WHERE state = ? AND part IS NULL",
                (RunState.STAGED,),
            )
            or 0
        )

    def _has_new(self) -> bool:
        return bool(self._new_runs(1))

    def _new_runs(self, most: int) -> list[int]:
        found = self._state.run(
            "SELECT number FROM run WHERE state = ? AND part IS NULL ORDER BY number LIMIT ?",
            (RunState.STAGED, most),
        )
        return [number for (number,) in found]

    def _next_number(self, kind: Kind) -> int:
        return 1 + int(self._state.value("SELECT max(number) FROM part WHERE kind = ?", (kind,)) or 0)

    def _make_new_part(self, number: int) -> None:
        writer = self._create("tasks", number)
        try:
            placed, raw = self._fill(writer, 0)
            writer.close()
        except BaseException:
            writer.abort()
            raise
        self._commit_tasks(number, writer, placed, raw)

    def _fill(self, writer: Writer, raw: int) -> tuple[list[_Placed], int]:
        """Add runs that are in no part, until the part is full."""
        placed: list[_Placed] = []
        while raw < self._part_bytes:
            # Those placed here are still among the new ones: nothing is noted before the part is made.
            batch = self._new_runs(len(placed) + _ROWS)[len(placed) :]
            if not batch:
                break
            for run in batch:
                one, length = self._add(writer, run)
                placed.append(one)
                raw += length
                if raw >= self._part_bytes:
                    break
        return placed, raw

    def _add(self, writer: Writer, run: int) -> tuple[_Placed, int]:
        settled = bool(self._state.value("SELECT settled FROM run WHERE number = ?", (run,)))
        digest = hashlib.blake2b(digest_size=16)
        rows = length = 0
        for extent in self._state.extents(run):
            for lines in read_extent(self._work.folder, extent):
                writer.write(lines)
                rows += len(lines)
                if not settled:
                    for line in lines:
                        digest.update(line + b"\n")
            length += extent.length
        return _Placed(run, rows, None if settled else digest.digest(), is_new=True), length

    def _rewrite(self, number: int, *, with_new: bool) -> None:
        """Make a part again: without runs that are gone, with new rows of those read again."""
        source = self._store.path(self.name("tasks", number))
        old_rows, old_raw = self._state.run(
            "SELECT rows, raw FROM part WHERE kind = 'tasks' AND number = ?", (number,)
        ).fetchone()
        writer = self._create("tasks", number)
        try:
            kept, ranges = self._kept(number)
            writer.copy(source, ranges)
            copied = sum(stop - start for start, stop in ranges)
            raw = old_raw * copied // old_rows if old_rows else 0
            placed = list(kept)
            for (run,) in self._state.run(
                "SELECT number FROM run WHERE part = ? AND state = ? ORDER BY place",
                (number, RunState.STAGED),
            ).fetchall():
                one, length = self._add(writer, run)
                placed.append(one)
                raw += length
            if with_new:
                new, raw = self._fill(writer, raw)
                placed += new
            writer.close()
        except BaseException:
            writer.abort()
            raise
        self._commit_tasks(number, writer, placed, raw)

    def _kept(self, number: int) -> tuple[list[_Placed], list[tuple[int, int]]]:
        kept: list[_Placed] = []
        ranges: list[tuple[int, int]] = []
        place = 0
        for run, rows, digest, state in self._state.run(
            "SELECT number, rows, digest, state FROM run WHERE part = ? ORDER BY place", (number,)
        ).fetchall():
            if state not in (RunState.STAGED, RunState.GONE):
                kept.append(_Placed(run, rows, digest, is_new=False))
                if ranges and ranges[-1][1] == place:
                    ranges[-1] = ranges[-1][0], place + rows
                else:
                    ranges.append((place, place + rows))
            place += rows
        return kept, ranges

    def _commit_tasks(self, number: int, writer: Writer, placed: Sequence[_Placed], raw: int) -> None:
        with self._state.transaction():
            self._state.run(
                "UPDATE run SET part = NULL WHERE part = ? AND state = ?", (number, RunState.GONE)
            )
            self._state.run_many(
                "UPDATE run SET part = ?, place = ?, rows = ?, digest = ? WHERE number = ?",
                ((number, place, one.rows, one.digest, one.run) for place, one in enumerate(placed)),
            )
            new = [one.run for one in placed if one.is_new]
            self._state.run_many(
                "UPDATE run SET state = ? WHERE number = ?", ((RunState.DONE, run) for run in new)
            )
            self._state.run_many("DELETE FROM extent WHERE run = ?", ((run,) for run in new))
            self._note_part("tasks", number, writer, raw)
        self._move("tasks", number)
        self._remove_used_spool()

    def _remove_used_spool(self) -> None:
        used = {file for (file,) in self._state.run("SELECT DISTINCT file FROM extent")}
        newest = max((int(path.name[5:]) for path in self._work.folder.glob("rows-*")), default=0)
        for number in range(newest):
            path = spool_path(self._work.folder, number)
            if number not in used:
                path.unlink(missing_ok=True)

    # -- runs -------------------------------------------------------------------------------------------

    def _publish_runs(self) -> None:
        """Each run has its part for good; a part is made again when a row of it is new, other or gone."""
        while new := self._state.run(
            "SELECT number FROM run WHERE runs_part IS NULL AND state != ? ORDER BY number LIMIT ?",
            (RunState.GONE, _RUNS_PER_PART),
        ).fetchall():
            last = max(1, self._next_number("runs") - 1)
            room = _RUNS_PER_PART - int(
                self._state.value("SELECT count(*) FROM run WHERE runs_part = ?", (last,))
            )
            if room <= 0:
                last, room = last + 1, _RUNS_PER_PART
            with self._state.transaction():
                self._state.run_many(
                    "UPDATE run SET runs_part = ? WHERE number = ?",
                    ((last, number) for (number,) in new[:room]),
                )
            self._make_runs_part(last)
        for (number,) in self._state.run(
            "SELECT DISTINCT runs_part FROM run WHERE runs_part IS NOT NULL AND (dirty OR state = ?)",
            (RunState.GONE,),
        ).fetchall():
            self._make_runs_part(number)
        if self._next_number("runs") == 1:
            self._make_runs_part(1)
        self._state.run("DELETE FROM run WHERE state = ?", (RunState.GONE,))

    def _make_runs_part(self, number: int) -> None:
        writer = self._create("runs", number)
        raw = 0
        try:
            rows = self._state.run(
                "SELECT row FROM run WHERE runs_part = ? AND state != ? ORDER BY number",
                (number, RunState.GONE),
            )
            while batch := [row for (row,) in rows.fetchmany(_ROWS)]:
                writer.write(batch)
                raw += sum(map(len, batch))
            writer.close()
        except BaseException:
            writer.abort()
            raise
        with self._state.transaction():
            self._state.run("UPDATE run SET dirty = 0 WHERE runs_part = ?", (number,))
            self._note_part("runs", number, writer, raw)
        self._move("runs", number)

    # -- parts ------------------------------------------------------------------------------------------

    def _create(self, kind: Kind, number: int) -> Writer:
        return self._format.create(self._work.new(self.name(kind, number)), kind, csv_safe=self._csv_safe)

    def _note_part(self, kind: Kind, number: int, writer: Writer, raw: int) -> None:
        self._state.run(
            "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?, 1)",
            (kind, number, writer.rows, writer.size, raw, writer.sha256),
        )

    def _move(self, kind: str, number: int) -> None:
        name = self.name(kind, number)
        made = self._work.made(name)
        if made.exists():
            self._store.put(made, name)
        self._state.run("UPDATE part SET moving = 0 WHERE kind = ? AND number = ?", (kind, number))
