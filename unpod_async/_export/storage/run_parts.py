"""The parts with the rows of the listing of runs, which are kept in the state and are few and short."""

from __future__ import annotations

from unpod_async._export.storage.catalog import Catalog, RunState
from unpod_async._export.storage.parts import Made, Parts

__all__ = ["RunParts"]

_RUNS_PER_PART = 20_000
_ROWS = 500

_IS_NEW = "runs_part IS NULL AND state != ?"


class RunParts:
    """Blocks, and raises as `Parts` does."""

    def __init__(self, state: Catalog, parts: Parts) -> None:
        self._state = state
        self._parts = parts

    def publish(self) -> None:
        """Each run has its part for good; a part is made again when a row of it is new, other or gone."""
        while self._state.value(f"SELECT 1 FROM run WHERE {_IS_NEW} LIMIT 1", (RunState.GONE,)):  # noqa: S608 - of constants only
            last = max(1, self._parts.next_number("runs") - 1)
            room = _RUNS_PER_PART - int(
                self._state.value("SELECT count(*) FROM run WHERE runs_part = ?", (last,))
            )
            if room <= 0:
                last, room = last + 1, _RUNS_PER_PART
            self._state.run(
                f"UPDATE run SET runs_part = ? WHERE number IN "  # noqa: S608 - of constants only
                f"(SELECT number FROM run WHERE {_IS_NEW} ORDER BY number LIMIT ?)",
                (last, RunState.GONE, room),
            )
            self._make(last)
        for (number,) in self._state.run(
            "SELECT DISTINCT runs_part FROM run WHERE runs_part IS NOT NULL AND (dirty OR state = ?)",
            (RunState.GONE,),
        ).fetchall():
            self._make(number)
        if self._parts.next_number("runs") == 1:
            self._make(1)
        with self._state.transaction():
            gone = (RunState.GONE,)
            self._state.run(
                "DELETE FROM recording WHERE run IN (SELECT number FROM run WHERE state = ?)", gone
            )
            self._state.run("DELETE FROM line WHERE run IN (SELECT number FROM run WHERE state = ?)", gone)
            self._state.run("DELETE FROM run WHERE state = ?", gone)

    def _make(self, number: int) -> None:
        writer = self._parts.create("runs", number)
        raw = 0
        try:
            rows = self._state.run(
                "SELECT row FROM run JOIN line ON run = number WHERE runs_part = ? AND state != ? "
                "ORDER BY number",
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
            self._parts.note("runs", number, Made.by(writer, raw))
        self._parts.move("runs", number)
