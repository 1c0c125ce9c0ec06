"""Staged rows of tasks put together into parts.

The tasks of a run are in one part, and stay in it when they are read again: whoever reads the parts meanwhile
sees each run once, as it was or as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple

from unpod_async._export.formats import Writer
from unpod_async._export.storage.adopted_files import whole_file
from unpod_async._export.storage.catalog import Catalog, RunState
from unpod_async._export.storage.part_contents import Piece, kept_pieces, note_pieces
from unpod_async._export.storage.parts import Made, Parts
from unpod_async._export.storage.run_parts import RunParts
from unpod_async._export.storage.spool import Spool, SpoolReader
from unpod_async._export.storage.target import MANIFEST, Workplace

__all__ = ["Publisher"]

_ROWS = 500

_IS_NEW = (
    "state = ? AND part IS NULL AND NOT EXISTS (SELECT 1 FROM extent WHERE run = run.number AND file >= ?)"
)
"""Of runs that are in no part and have no rows in this file of the spool or a later one."""


class _Run(NamedTuple):
    """A run with staged rows; settled when they will not be read again."""

    number: int
    settled: int


class _Added(NamedTuple):
    """A run whose staged rows are in the part being made; the digest of those that may change."""

    run: int
    rows: int
    length: int
    digest: bytes | None


class Publisher:
    """Brings the parts of a data set up to date. Blocks, and raises as `Parts` does.

    Args:
        part_bytes: size of a part of tasks, in bytes of its rows as JSON.
    """

    def __init__(
        self, state: Catalog, workplace: Workplace, parts: Parts, spool: Spool, part_bytes: int
    ) -> None:
        self._state = state
        self._work = workplace
        self._parts = parts
        self._spool = spool
        self._part_bytes = part_bytes

    def publish_full_parts(self) -> None:
        """Make parts of runs that are in none yet out of closed files, as long as one is filled."""
        self._move_whole_files(self._part_bytes)
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
        if last is not None and last[1] < self._part_bytes and self._has_new():
            self._rewrite(last[0], with_new=True)
        self._move_whole_files(self._part_bytes)
        if len(self._staged_files()) == 1:
            self._move_whole_files(least=1)
        while self._has_new() or self._parts.next_number("tasks") == 1:
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

    # -- new parts ----------------------------------------------------------------------------------------

    def _staged_files(self) -> list[int]:
        """Of the spool; those into which nothing comes any more."""
        return [
            file
            for (file,) in self._state.run("SELECT DISTINCT file FROM extent ORDER BY file")
            if file not in self._spool.open_files
        ]

    def _move_whole_files(self, least: int) -> None:
        """Let files of so many bytes that are whole parts be what they are."""
        if not self._parts.are_lines:
            return
        for file in self._staged_files():
            found = whole_file(self._state, self._work.folder, file, least, self._spool.digest(file))
            if found is not None:
                new = dict.fromkeys(piece.run for piece in found.pieces)
                digests = dict.fromkeys(new) | {run: self._digest(run) for run in found.unsettled}
                self._commit_tasks(self._parts.next_number("tasks"), found.made, found.pieces, digests)

    @property
    def _oldest_open(self) -> int:
        return min(self._spool.open_files, default=2**62)

    def _staged_bytes(self) -> int:
        return int(
            self._state.value(
                f"SELECT sum(length) FROM extent JOIN run ON run.number = extent.run WHERE {_IS_NEW}",  # noqa: S608 - of constants only
                (RunState.STAGED, self._oldest_open),
            )
            or 0
        )

    def _has_new(self) -> bool:
        return bool(self._new_runs(0, 1))

    def _new_runs(self, after: int, most: int) -> list[_Run]:
        found = self._state.run(
            f"SELECT number, settled FROM run WHERE {_IS_NEW} AND number > ? ORDER BY number LIMIT ?",  # noqa: S608 - of constants only
            (RunState.STAGED, self._oldest_open, after, most),
        )
        return [_Run(*row) for row in found]

    def _make_new_part(self, number: int) -> None:
        writer = self._parts.create("tasks", number)
        try:
            added = self._fill(writer, 0)
            writer.close()
        except BaseException:
            writer.abort()
            raise
        self._commit_added(number, writer, [], 0, added)

    def _fill(self, writer: Writer, raw: int) -> list[_Added]:
        """Add runs that are in no part, until the part, of which `raw` bytes are filled, is full."""
        added: list[_Added] = []
        with SpoolReader(self._work.folder) as spool:
            while raw < self._part_bytes:
                batch = self._new_runs(added[-1].run if added else 0, _ROWS)
                if not batch:
                    break
                for one in self._add(writer, spool, batch):
                    added.append(one)
                    raw += one.length
                    if raw >= self._part_bytes:
                        break
        return added

    def _add(self, writer: Writer, spool: SpoolReader, runs: Sequence[_Run]) -> Generator[_Added, None, None]:
        """Add the staged rows of runs, whose numbers ascend."""
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
            yield _Added(run.number, rows, length, None if run.settled else digest.digest())

    # -- parts made again ---------------------------------------------------------------------------------

    def _rewrite(self, number: int, *, with_new: bool) -> None:
        """Make a part again: without runs that are gone, with new rows of those read again."""
        source = self._parts.store.path(self._parts.name("tasks", number))
        old_rows, old_raw = self._state.run(
            "SELECT rows, raw FROM part WHERE kind = 'tasks' AND number = ?", (number,)
        ).fetchone()
        writer = self._parts.create("tasks", number)
        try:
            kept, ranges = kept_pieces(self._state, number)
            writer.copy(source, ranges)
            copied = sum(stop - start for start, stop in ranges)
            raw = old_raw * copied // old_rows if old_rows else 0
            changed = self._state.run(
                "SELECT number, settled FROM run WHERE part = ? AND state = ? ORDER BY number",
                (number, RunState.STAGED),
            ).fetchall()
            added: list[_Added] = []
            with SpoolReader(self._work.folder) as spool:
                for row in changed:
                    added += self._add(writer, spool, [_Run(*row)])
            if with_new:
                added += self._fill(writer, raw + sum(one.length for one in added))
            writer.close()
        except BaseException:
            writer.abort()
            raise
        self._commit_added(number, writer, kept, raw, added)

    # -- what was made, noted and moved -------------------------------------------------------------------

    def _commit_added(
        self, number: int, writer: Writer, kept: Sequence[Piece], raw: int, added: Sequence[_Added]
    ) -> None:
        made = Made.by(writer, raw + sum(one.length for one in added))
        pieces = [*kept, *(Piece(one.run, one.rows) for one in added if one.rows)]
        self._commit_tasks(number, made, pieces, {one.run: one.digest for one in added})

    def _commit_tasks(
        self, number: int, made: Made, pieces: Sequence[Piece], new: Mapping[int, bytes | None]
    ) -> None:
        """`new` are the runs whose rows are the staged ones, and the digests of those that may change."""
        with self._state.transaction():
            note_pieces(self._state, number, pieces, new)
            self._parts.note("tasks", number, made)
        self._parts.move("tasks", number)
        self._remove_used_spool()

    def _remove_used_spool(self) -> None:
        used = {file for (file,) in self._state.run("SELECT DISTINCT file FROM extent")}
        for path in self._work.folder.glob("rows-*"):
            number = int(path.name.rpartition("-")[2])
            if number not in used and number not in self._spool.open_files:
                path.unlink(missing_ok=True)
