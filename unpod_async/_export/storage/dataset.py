"""A target while an export has it open: whose question it answers, its state, its spool, its parts."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

import msgspec

from unpod_async._export.spec import ExportSpec, differing_options
from unpod_async._export.storage.catalog import VERSION, Catalog
from unpod_async._export.storage.parts import Parts
from unpod_async._export.storage.spool import Spool, spool_path
from unpod_async._export.storage.target import Directory, Workplace
from unpod_async.errors import ExportError

__all__ = ["DataSet"]


class DataSet:
    """Everything here blocks.

    Attributes:
        spaces: number and token of each space.
        since: when the unfinished export that is gone on with began, unix seconds; None for a new one.
        round: number of this export's listings; greater than that of any before.
    """

    state: Catalog
    parts: Parts
    spool: Spool

    def __init__(self, target: Path, spec: ExportSpec, dataset_options: dict[str, Any]) -> None:
        self._spec = spec
        self._dataset_options = dataset_options
        self.work = Workplace(target)
        self.store = Directory(target)
        self.spaces: list[tuple[int, str]] = []
        self.since: float | None = None
        self.round = 0

    def open(self) -> None:
        """Lock it, finish what a killed export was doing, and begin an export or go on with one.

        Raises:
            TargetLockedError: another export has it open.
            ExportError: it cannot be gone on with.
            OSError, sqlite3.Error: it cannot be read or written.
        """
        self.work.open()
        self.state = Catalog(self.work.state)
        self._check_options()
        self.parts = Parts(
            self.state, self.work, self.store, form=self._spec.format, csv_safe=self._spec.csv_safe
        )
        self.parts.recover()
        self.spool = Spool(
            self.work.folder,
            self.clear_spool() + 1,
            self._spec.part_bytes,
            hashes=self.parts.are_lines,
        )
        with self.state.transaction():
            self._begin()

    def _check_options(self) -> None:
        state = self.state
        if state["version"] != VERSION:
            raise ExportError("the target was made by another version of this library: export to another one")
        kept = state["options"]
        # As long as there is nothing, the options may still change: the first call may have had a mistake.
        if kept is None or state.value("SELECT 1 FROM run UNION SELECT 1 FROM part LIMIT 1") is None:
            state["options"] = msgspec.json.encode(self._dataset_options)
            return
        differing = differing_options(msgspec.json.decode(kept), self._dataset_options)
        if differing:
            raise ExportError(
                f"the target was made with another {', '.join(differing)}: use the same options, or export "
                "to another directory"
            )

    def _begin(self) -> None:
        state = self.state
        self.spaces = [(state.space(token), token) for token in self._spec.spaces]
        self.round = state["round"] = (state["round"] or 0) + 1
        goes_on = state["complete"] == 0
        if self._spec.full and not (goes_on and state["full"]):
            state.run("UPDATE run SET settled = 0")
            goes_on = False
        if goes_on:
            self.since = state["since"]
        else:
            state["since"] = time.time()
        state["complete"], state["full"] = 0, int(self._spec.full)

    def redact_key(self) -> bytes:
        """The key of hashes that was given, or the target's own."""
        if self._spec.redact_key is not None:
            return self._spec.redact_key
        kept = self.state["redact_key"]
        if kept is None:
            kept = self.state["redact_key"] = secrets.token_bytes(32)
        return bytes(kept)

    def clear_spool(self) -> int:
        """Remove what nothing refers to; the number of the last file there was."""
        used = {file for (file,) in self.state.run("SELECT DISTINCT file FROM extent")}
        there = {int(path.name.rpartition("-")[2]) for path in self.work.folder.glob("rows-*")}
        for number in there - used:
            spool_path(self.work.folder, number).unlink()
        return max(there, default=0)

    def close(self) -> None:
        for opened in ("spool", "state"):
            if hasattr(self, opened):
                getattr(self, opened).close()
        self.work.close()
