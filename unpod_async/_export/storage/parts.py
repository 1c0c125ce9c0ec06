"""The files of a data set: each made beside it, noted in the state, and moved into place.

A part is made and synced; one transaction says what it holds and that it is moving; then it gets its name.
Killed in between, the next export finds it moving and finishes that, so a part and what is known of it never
differ.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self, TypeAlias

from unpod_async._export.formats import FORMATS, Writer
from unpod_async._export.storage.catalog import Catalog
from unpod_async._export.storage.spool import spool_path
from unpod_async._export.storage.target import Store, Workplace
from unpod_async.errors import ExportError

__all__ = ["Kind", "Made", "Parts"]

Kind: TypeAlias = Literal["runs", "tasks"]


class Made(NamedTuple):
    """A part that is made and synced.

    Attributes:
        size: bytes of the file; sha256: its digest in hex.
        raw: bytes of its rows as JSON.
        source: the file of the spool that becomes the part as it is; None when a writer has made it.
    """

    rows: int
    size: int
    sha256: str
    raw: int
    source: int | None = None

    @classmethod
    def by(cls, writer: Writer, raw: int) -> Self:
        return cls(writer.rows, writer.size, writer.sha256, raw)


class Parts:
    """The parts of one data set. Blocks.

    Raises (everywhere):
        OSError, sqlite3.Error: the disk refuses; what was there is as it was.
    """

    def __init__(
        self, state: Catalog, workplace: Workplace, store: Store, *, form: str, csv_safe: bool
    ) -> None:
        self._state = state
        self._work = workplace
        self.store = store
        self._format = FORMATS[form]
        self._csv_safe = csv_safe

    def name(self, kind: str, number: int) -> str:
        """Return the path of a part in the target."""
        return f"{kind}/part-{number:05d}{self._format.suffix}"

    def recover(self) -> None:
        """Finish what a killed export was doing, and check that the parts are what they were.

        Raises:
            ExportError: somebody else has changed a part.
        """
        for kind, number in self._state.run("SELECT kind, number FROM part WHERE moving").fetchall():
            self.move(kind, number)
        for kind, number, size in self._state.run("SELECT kind, number, size FROM part").fetchall():
            name = self.name(kind, number)
            if self.store.size(name) != size:
                raise ExportError(
                    f"{name} was changed or removed after the export",
                    hint=f"restore the file of {size} bytes, or export to another directory",
                )

    def next_number(self, kind: Kind) -> int:
        return 1 + int(self._state.value("SELECT max(number) FROM part WHERE kind = ?", (kind,)) or 0)

    def create(self, kind: Kind, number: int) -> Writer:
        """The writer of a part, new or made again."""
        return self._format.create(self._work.new(self.name(kind, number)), kind, csv_safe=self._csv_safe)

    @property
    def are_lines(self) -> bool:
        """A file of the spool may become a part as it is."""
        return self._format.is_lines

    def note(self, kind: Kind, number: int, made: Made) -> None:
        """Within the transaction that says what is in it."""
        self._state.run(
            "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?, 1, ?)",
            (kind, number, made.rows, made.size, made.raw, made.sha256, made.source),
        )

    def move(self, kind: str, number: int) -> None:
        """After that transaction: let it have its name."""
        name = self.name(kind, number)
        source = self._state.value("SELECT source FROM part WHERE kind = ? AND number = ?", (kind, number))
        made = self._work.made(name) if source is None else spool_path(self._work.folder, source)
        if made.exists():
            self.store.put(made, name)
        self._state.run(
            "UPDATE part SET moving = 0, source = NULL WHERE kind = ? AND number = ?", (kind, number)
        )
