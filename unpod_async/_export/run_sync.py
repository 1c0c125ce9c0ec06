"""Listing the runs again: which are new, which have changed or may have, which are gone.

Runs stand newest first and keep their order. So once no count has fallen, and a settled run was met that
stands behind every run that is not settled, whatever comes later is settled and need not be read. Runs that
should have been met by then and were not are gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from unpod_async._export.row_header import has_ended
from unpod_async._export.row_line import InvalidRow
from unpod_async._export.row_pages import RowPages
from unpod_async._export.rows import Row
from unpod_async._export.spec import ExportSpec
from unpod_async._export.storage import Catalog, Disk, Listed, RunState
from unpod_async._paging import Page, Walk

__all__ = ["RunReader", "RunSync", "StablePrefix"]

PAGE_SIZE = 1000
"""Rows of this listing are short."""

_AHEAD = 4
"""Pages that are asked for at a time where all of them have to be read."""

FRESH = 3600.0
"""Seconds for which an interrupted export trusts what it had fetched, where the run's row is as it was."""


class StablePrefix:
    """Whether the pages read so far hold every row that stood there all the time."""

    def __init__(self) -> None:
        self.proven = True
        self._number = 0
        self._count = 0

    def page(self, page: Page[Any]) -> None:
        follows = page.number == self._number + 1 and page.count is not None and page.count >= self._count
        self.proven = self.proven and follows and not (page.rejected or page.unreadable)
        self._number, self._count = page.number, page.count or 0


class _Known(NamedTuple):
    """A run of an earlier listing."""

    number: int
    rank: int
    seen: bytes
    state: int
    settled: int
    fetched: float | None


class RunSync:
    """One listing of the runs of a space, noted page by page. Blocks, save where it says otherwise.

    Args:
        number: greater than that of every listing before.
        since: when the unfinished export that is gone on with began, unix seconds; None for a new one.
        now: unix seconds.
    """

    def __init__(self, state: Catalog, space: int, number: int, *, since: float | None, now: float) -> None:
        self._state = state
        self._space = space
        self._number = number
        self._since = since
        self._now = now
        self._met = 0
        self._lowest: int | None = None  # rank, until now, of the oldest known run that was met
        self._in_order = True
        self.disturbed = False  # other runs are wanted than when a broken off walk staged their tasks
        self._walked = False

    def begin(self) -> bool:
        """Whether no run of the space is known.

        Until this listing has come to its end, there may be runs between known ones that nobody knows.
        """
        self._walked = bool(self._state.value("SELECT walked FROM space WHERE number = ?", (self._space,)))
        self._state.run("UPDATE space SET walked = 0 WHERE number = ?", (self._space,))
        return self._state.value("SELECT 1 FROM run WHERE space = ? LIMIT 1", (self._space,)) is None

    def page(self, rows: list[Listed]) -> bool:
        """Note a page; whether everything behind it is known, in the known order, and settled."""
        known = {
            name: _Known(*found)
            for name, *found in self._state.runs_among(
                "id, number, rank, seen, state, settled, fetched", self._space, [row.id for row in rows]
            )
        }
        new: list[tuple[object, ...]] = []
        met: list[tuple[object, ...]] = []
        lines: list[tuple[int, bytes]] = []
        with self._state.transaction():
            number = self._state.value("SELECT max(number) FROM run") or 0
            for row in {row.id: row for row in rows}.values():
                self._met += 1
                # Newer than all that an earlier listing met, and older than what this one has met so far.
                rank = (self._number << 32) - self._met
                told = (row.seen, row.settles, row.expected, self._number)
                if (run := known.get(row.id)) is not None:
                    # One that was gone may have been taken out of its part already.
                    is_other = run.seen != row.seen or run.state == RunState.GONE
                    met.append((rank, *told, is_other, run.number))
                    self._meet(run, same=run.seen == row.seen)
                    if is_other:
                        lines.append((run.number, row.line))
                else:
                    number += 1
                    new.append((number, self._space, row.id, rank, *told, RunState.WANTED))
                    lines.append((number, row.line))
            self._write(new, met, lines)
        self.disturbed = self.disturbed or bool(new)
        if self._lowest is None or not (self._in_order and self._walked):
            return False
        unsettled = self._state.value(
            "SELECT count(*) FROM run WHERE space = ? AND listed < ? AND settled = 0 AND rank < ?",
            (self._space, self._number, self._lowest),
        )
        return bool(unsettled == 0)

    def _write(
        self,
        new: Iterable[tuple[object, ...]],
        met: Iterable[tuple[object, ...]],
        lines: Iterable[tuple[int, bytes]],
    ) -> None:
        self._state.run_many(
            "INSERT INTO run (number, space, id, rank, seen, settles, expected, listed, state) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            new,
        )
        self._state.run_many(
            "UPDATE run SET rank = ?, seen = ?, settles = ?, expected = ?, listed = ?, "
            "dirty = dirty OR ? WHERE number = ?",
            met,
        )
        self._state.run_many("INSERT OR REPLACE INTO line VALUES (?, ?)", lines)

    def _meet(self, run: _Known, *, same: bool) -> None:
        self._in_order = self._in_order and (self._lowest is None or run.rank < self._lowest)
        self._lowest = run.rank
        is_held = run.state in (RunState.STAGED, RunState.DONE)
        if same and (run.settled or (is_held and self._is_fresh(run.fetched))):
            return
        if run.state == RunState.WANTED:
            self.disturbed = self.disturbed or not same
            return
        self.disturbed = True
        self._state.forget_staged(run.number)
        self._state.run(
            "UPDATE run SET state = ?, settled = 0 WHERE number = ?", (RunState.WANTED, run.number)
        )

    def _is_fresh(self, fetched: float | None) -> bool:
        return (
            self._since is not None
            and fetched is not None
            and fetched >= self._since
            and 0 <= self._now - fetched < FRESH
        )

    def end(self, *, whole: bool, readable: bool) -> None:
        """The listing was read to its end (`whole`), or to where all is known: what was not met is gone.

        Unless rows of it could not be read: then it may be one of those.
        """
        lowest = -1 if whole or self._lowest is None else self._lowest
        with self._state.transaction():
            self._state.run("UPDATE space SET walked = 1 WHERE number = ?", (self._space,))
            if not readable:
                return
            gone = self._state.run(
                "SELECT number FROM run WHERE space = ? AND listed < ? AND rank > ? AND state != ?",
                (self._space, self._number, lowest, RunState.GONE),
            ).fetchall()
            self.disturbed = self.disturbed or bool(gone)
            for (number,) in gone:
                self._state.forget_staged(number)
            self._state.run_many(
                "UPDATE run SET state = ?, settled = 0 WHERE number = ?",
                ((RunState.GONE, number) for (number,) in gone),
            )


class RunReader:
    """A reading of the runs of a space, page by page.

    Args:
        redact: what makes of a line the one that is kept.
        on_bad: told of a row that is none, and of places that cannot be read.
        on_page: told how many runs there are, and of how many the page is, before it is noted.
        stable: all rows were readable at the last listing, so that the reading may end early.
    """

    def __init__(
        self,
        noted: RunSync,
        spec: ExportSpec,
        disk: Disk,
        redact: Callable[[bytes], bytes] | None,
        on_bad: Callable[[int | None, str], None],
        on_page: Callable[[int | None, int], None],
        *,
        stable: bool,
    ) -> None:
        self._noted = noted
        self._window = spec.window
        self._chosen = None if spec.runs is None else set(spec.runs)
        self._disk = disk
        self._redact = redact
        self._on_bad = on_bad
        self._on_page = on_page
        self._stable = stable
        self._ahead = min(_AHEAD, spec.concurrency)
        self._oldest = datetime.now(UTC) - spec.settle_after
        self._prefix = StablePrefix()
        self._readable = True
        self.is_first = False
        """No run of the space was known when it began."""

    async def read(self, pages: RowPages) -> None:
        """To the end of the listing, or to where the rest is known.

        Raises:
            UnpodError: the listing was not read to its end; nothing counts as gone.
        """
        self.is_first = await self._disk.run(self._noted.begin)
        whole = True
        if self.is_first and self._chosen is None:
            await pages.ahead(Walk(page_size=pages.page_size, ahead=self._ahead), self._take)
        else:
            walk = pages.one_by_one()
            while whole and (page := await walk.next_page()) is not None:
                whole = not await self._take(page)
        await self._disk.run(self._noted.end, whole=whole, readable=self._readable)

    async def _take(self, page: Page[Row]) -> bool:
        """Note a page; whether the rest need not be read."""
        self._prefix.page(page)
        self._readable = self._readable and not (page.unreadable or page.rejected)
        for place in page.unreadable:
            self._on_bad(place, "the server fails to send it")
        for rejected in page.rejected:
            self._on_bad(None, rejected.reason)
        rows = [listed for row in page.items if (listed := self._listed(row)) is not None]
        self._on_page(page.count, len(rows))
        rest_is_known = await self._disk.run(self._noted.page, rows)
        if self._chosen is not None:
            return not self._chosen  # what was chosen is there
        return rest_is_known and self._stable and self._prefix.proven

    def _listed(self, row: Row) -> Listed | None:
        """What is noted of a run; None where it is not asked for or cannot be read."""
        head = row.head
        created = head.created_at
        if self._chosen is not None and head.run_id not in self._chosen:
            return None
        if self._window is not None and not self._window.contains(created):
            return None
        if isinstance(line := row.line, InvalidRow):
            self._readable = False
            self._on_bad(None, line.reason)
            return None
        if self._redact is not None:
            line = self._redact(line)
        seen = hashlib.blake2b(row.raw, digest_size=16).digest()
        settles = has_ended(head.status) and created is not None and created < self._oldest
        name = head.run_id if isinstance(head.run_id, str) and head.run_id else f"#{seen.hex()}"
        if self._chosen is not None:
            self._chosen.discard(name)
        return Listed(name, line, seen, settles, head.expected)
