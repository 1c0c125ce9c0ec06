"""Files of the spool that can be parts of tasks as they are, so that their rows need not be copied."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from unpod_async._export.storage.catalog import Catalog, RunState
from unpod_async._export.storage.part_contents import Piece
from unpod_async._export.storage.parts import Made
from unpod_async._export.storage.spool import spool_path

__all__ = ["WholeFile", "whole_file"]


class WholeFile(NamedTuple):
    """A file of the spool as a part; `unsettled` are runs of which it must be known what their rows are."""

    made: Made
    pieces: list[Piece]
    unsettled: list[int]


def whole_file(state: Catalog, folder: Path, file: int, least: int, digest: str | None) -> WholeFile | None:
    """The file, if nothing more comes into it: all of it is rows of whole runs that are in no part yet.

    Args:
        least: bytes which it has to have.
        digest: its SHA-256 in hex where that is known.

    Blocks. Raises OSError, sqlite3.Error.
    """
    path = spool_path(folder, file)
    size = path.stat().st_size
    if size < least or _is_shared(state, file):
        return None
    pieces: list[Piece] = []
    unsettled: dict[int, None] = {}
    end = 0
    for run, start, length, rows, settled, is_new in state.run(
        "SELECT run, start, length, extent.rows, settled, state = ? AND part IS NULL "
        "FROM extent JOIN run ON run.number = extent.run WHERE file = ? ORDER BY start",
        (RunState.STAGED, file),
    ):
        if start != end or not is_new:
            return None
        end += length
        pieces.append(Piece(run, rows))
        if not settled:
            unsettled[run] = None
    if end != size:
        return None  # there is more in it, written just before a kill
    if digest is None:
        with path.open("rb", buffering=0) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    made = Made(sum(piece.rows for piece in pieces), size, digest, size, file)
    return WholeFile(made, pieces, list(unsettled))


def _is_shared(state: Catalog, file: int) -> bool:
    """Whether a run has rows in it and in another."""
    return (
        state.value(
            "SELECT 1 FROM extent WHERE file != ? AND run IN (SELECT run FROM extent WHERE file = ?) LIMIT 1",
            (file, file),
        )
        is not None
    )
