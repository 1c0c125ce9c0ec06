"""Staged rows of tasks put together into parts.

The tasks of a run are in one part, and stay in it when they are read again: whoever reads the parts meanwhile
sees each run once, as it was or as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import NamedTuple

from unpod_async._export._parts import MANIFEST, Parts
from unpod_async._export._run_parts import RunParts
from unpod_async._export._spool import SpoolReader, spool_path
from unpod_async._export._state import RunState, State
from unpod_async._export._target import Workplace
from unpod_async._export._writer import Writer

__all__ = ["Publisher"]

_ROWS = 500


class _Run(NamedTuple):
    """A run with staged rows; settled when they will not be read again."""

    number: int
    settled: int


class _Placed(NamedTuple):
    """A run in the part being made: where, how many rows, and what they are when they may change."""

    run: int
    rows: int
    digest: bytes | None
    is_new: bool  # its rows are the staged ones


class Publisher:
    """Brings the parts of a data set up to date. Blocks, and raises as `Parts` does.

    Args:
        part_bytes: size of a part of tasks, in bytes of its rows as JSON.

    """

    def __init__(self, state: State, workplace: Workplace, parts: Parts, part_bytes: int) -> None:
        self._state = state
        self._work = workplace
        self._parts = parts
        self._part_bytes = part_bytes

    def publish_full_parts(self) -> None:
        """Make parts of runs that are in none yet, as long as a part can be filled."""
        while self._staged_bytes() >= self._part_bytes:
            self._make_new_part(self._parts.next_number("tasks"))

    def publish(self) -> None:
        """Bring all parts up to date with the state. From here on the manifest of before is gone."""
        self._settle_unchanged()
        if self._is_up_to_date():
            return
        self._parts.store.remove(MANIFEST)
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
            self._make_new_part(self._parts.next_number("tasks"))
        RunParts(self._state, self._parts).publish()

    def _is_up_to_date(self) -> bool:
        return (
            self._state.value(
                "SELECT 1 FROM run WHERE state IN (?, ?) OR dirty LIMIT 1", (RunState.STAGED, RunState.GONE)
            )
            is None
            and self._parts.store.size(MANIFEST) is not None
        )

    def _settle_unchanged(self) -> None:
        """Runs that were read again and are what their part has, and runs without tasks, need no part."""
        self._state.run(
            "UPDATE run SET state = ? WHERE state = ? AND part IS NULL "
            "AND NOT EXISTS (SELECT 1 FROM extent WHERE run = run.number)",
            (RunState.DONE, RunState.STAGED),
        )
        for number, digest in self._state.run(
            "SELECT number, digest FROM run WHERE state = ? AND part IS NOT NULL AND digest IS NOT NULL",
            (RunState.STAGED,),
        ).fetchall():
            if self._digest(number) == digest:
                with self._state.transaction():
                    self._state.run("DELETE FROM extent WHERE run = ?", (number,))
                    self._state.run("UPDATE run SET state = ? WHERE number = ?", (RunState.DONE, number))

    def _digest(self, run: int) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        with SpoolReader(self._work.folder) as spool:
            for _, extent in self._state.extents(run, run):
                for block in spool.read(extent):
                    digest.update(block)
        return digest.digest()

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
        return bool(self._new_runs(0, 1))

    def _new_runs(self, after: int, most: int) -> list[_Run]:
        found = self._state.run(
            "SELECT number, settled FROM run WHERE state = ? AND part IS NULL AND number > ? "
            "ORDER BY number LIMIT ?",
            (RunState.STAGED, after, most),
        )
        return [_Run(*row) for row in found]

    def _make_new_part(self, number: int) -> None:
        writer = self._parts.create("tasks", number)
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
        with SpoolReader(self._work.folder) as spool:
            while raw < self._part_bytes:
                batch = self._new_runs(placed[-1].run if placed else 0, _ROWS)
                if not batch:
                    break
                for one, length in self._add(writer, spool, batch):
                    placed.append(one)
                    raw += length
                    if raw >= self._part_bytes:
                        break
        return placed, raw

    def _add(
        self, writer: Writer, spool: SpoolReader, runs: Sequence[_Run]
    ) -> Generator[tuple[_Placed, int], None, None]:
        """Add the staged rows of runs, whose numbers ascend; gives what was added, and its bytes."""
        extents = self._state.extents(runs[0].number, runs[-1].number)
        following = next(extents, None)
        for run in runs:
            digest = hashlib.blake2b(digest_size=16)
            rows = length = 0
            while following is not None and following[0] <= run.number:
                number, extent = following
                following = next(extents, None)
                if number < run.number:
                    continue  # of a run that is not to be added
                for block in spool.read(extent):
                    is_all = len(block) == extent.length
                    writer.write_block(block, extent.rows if is_all else block.count(b"\n"))
                    if not run.settled:
                        digest.update(block)
                rows += extent.rows
                length += extent.length
            yield _Placed(run.number, rows, None if run.settled else digest.digest(), is_new=True), length

    def _rewrite(self, number: int, *, with_new: bool) -> None:
        """Make a part again: without runs that are gone, with new rows of those read again."""
        source = self._parts.store.path(self._parts.name("tasks", number))
        old_rows, old_raw = self._state.run(
            "SELECT rows, raw FROM part WHERE kind = 'tasks' AND number = ?", (number,)
        ).fetchone()
        writer = self._parts.create("tasks", number)
        try:
            kept, ranges = self._kept(number)
            writer.copy(source, ranges)
            copied = sum(stop - start for start, stop in ranges)
            raw = old_raw * copied // old_rows if old_rows else 0
            placed = list(kept)
            with SpoolReader(self._work.folder) as spool:
                for row in self._state.run(
                    "SELECT number, settled FROM run WHERE part = ? AND state = ? ORDER BY place",
                    (number, RunState.STAGED),
                ).fetchall():
                    for one, length in self._add(writer, spool, [_Run(*row)]):
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
                "UPDATE run SET part = ?, place = ?, rows = ?, digest = ?, state = iif(?, ?, state) "
                "WHERE number = ?",
                (
                    (number, place, one.rows, one.digest, one.is_new, RunState.DONE, one.run)
                    for place, one in enumerate(placed)
                ),
            )
            self._state.run_many(
                "DELETE FROM extent WHERE run = ?", ((one.run,) for one in placed if one.is_new)
            )
            self._parts.note("tasks", number, writer, raw)
        self._parts.move("tasks", number)
        self._remove_used_spool()

    def _remove_used_spool(self) -> None:
        used = {file for (file,) in self._state.run("SELECT DISTINCT file FROM extent")}
        newest = max((int(path.name[5:]) for path in self._work.folder.glob("rows-*")), default=0)
        for number in range(newest):
            path = spool_path(self._work.folder, number)
            if number not in used:
                path.unlink(missing_ok=True)
