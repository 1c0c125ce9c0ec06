"""Exports of a space that changes, breaks and is mended: complete means equal to the server.

`UNPOD_HISTORIES` sets the number of histories.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.export.model_space import LONG_AGO, SPACE, ModelSpace, model_space
from unpod_async import ExportSummary, UnpodClient, UnpodError
from unpod_async._common import parse_time
from unpod_async._http import TimeWindow

HISTORIES = int(os.environ.get("UNPOD_HISTORIES", "25"))

CHANGES = [
    "new run",
    "ended run",
    "new task",
    "gone task",
    "tasks end",
    "run ends",
    "gone run",
    "moved run",
    "bad run",
    "bad task",
    "high count",
    "mended",
    "export",
    "interrupted",
]


class History:
    """Applies changes to a space, and exports it."""

    def __init__(self, space: ModelSpace, unpod: UnpodClient, target: Path, options: dict[str, Any]) -> None:
        self._space = space
        self._unpod = unpod
        self._target = target
        self._options = options
        self.summaries: list[ExportSummary] = []
        self._numbers = itertools.count()

    async def apply(self, change: str, number: int) -> None:
        space = self._space
        active = [row for row in space.runs if row["status"] == "in_progress"]
        row = space.runs[number % len(space.runs)] if space.runs else None
        mine = active[number % len(active)] if active else None
        tasks = space.tasks[mine["run_id"]] if mine is not None else []
        if change in {"new run", "ended run"}:
            status = "in_progress" if change == "new run" else "completed"
            space.add_run(next(self._numbers), number % 4, status=status)
        elif change == "mended":
            self.mend()
        elif change == "export":
            await self.export()
        elif change == "interrupted":
            await self._interrupted(number % 12)
        elif row is not None and change == "gone run":
            space.remove_run(row["run_id"])
        elif row is not None and change == "moved run":
            space.move_to_front(row["run_id"])
        elif row is not None and change == "bad run":
            space.unreadable.add(row["run_id"])
        elif row is not None and change == "high count":
            space.surplus[["runs", "tasks", row["run_id"]][number % 3]] = 1 + number % 3
        elif mine is not None:
            self._change_run(change, mine, tasks, number)

    def _change_run(self, change: str, run: dict[str, Any], tasks: list[dict[str, Any]], number: int) -> None:
        """Change an active run. A run that has ended does not change: it may be settled."""
        if change == "new task":
            task = {"task_id": f"Tnew{next(self._numbers)}", "status": "pending"}
            tasks.insert(0, task | {"run_id": run["run_id"], "created": run["created"]})
        elif change == "tasks end":
            for task in tasks:
                task["status"] = "completed"
        elif change == "run ends":
            run["status"] = "completed"
            for task in tasks:
                task["status"] = "completed"
        elif tasks and change == "gone task":
            del tasks[number % len(tasks)]
        elif tasks and change == "bad task":
            self._space.unreadable.add(tasks[number % len(tasks)]["task_id"])

    def mend(self) -> None:
        self._space.unreadable.clear()
        self._space.surplus.clear()

    async def export(self) -> bool:
        summary = await self._unpod.export(SPACE, self._target, **self._options)
        self.summaries.append(summary)
        for kind in ("runs", "tasks"):
            found = self._found(kind)
            assert len(found) == len(set(found)), f"{kind}: a row is there twice"
            served = self._served(kind)
            if summary.complete and self._space.surplus["runs"]:
                assert set(found) >= served  # a wrong count can hide that a settled run was deleted
            elif summary.complete:
                assert set(found) == served
            else:
                assert summary.bad_rows or summary.failed_runs or summary.reasons
        return summary.complete

    async def _interrupted(self, after: int) -> None:
        left = after

        def refuse(request: web.Request) -> web.Response | None:
            nonlocal left
            left -= 1
            return None if left >= 0 else web.json_response({"message": "No", "status_code": 401}, status=401)

        self._space.before = refuse
        try:
            await self.export()
        except UnpodError:
            pass
        finally:
            self._space.before = lambda request: None

    def _found(self, kind: str) -> list[str]:
        return [
            json.dumps(json.loads(line), sort_keys=True)
            for path in (self._target / kind).iterdir()
            for line in path.read_bytes().splitlines()
        ]

    def _served(self, kind: str) -> set[str]:
        space, window = self._space, TimeWindow(self._options["since"], self._options["until"])
        runs = [row for row in space.runs if window.contains(parse_time(row["created"]))]
        rows = runs if kind == "runs" else [task for run in runs for task in space.tasks[run["run_id"]]]
        return {json.dumps(row, sort_keys=True) for row in rows}


@pytest.mark.timeout(120 + 5 * HISTORIES)
@settings(max_examples=HISTORIES)
@given(
    runs=st.integers(0, 9),
    page_size=st.sampled_from([None, 1, 2, 3]),
    has_space_tasks=st.booleans(),
    window=st.sampled_from([(None, None), (None, None), (3, None), (None, 8), (2, 9)]),
    rounds=st.lists(
        st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 99)), max_size=7), min_size=1, max_size=4
    ),
)
async def test_a_complete_export_equals_the_server(
    runs: int,
    page_size: int | None,
    has_space_tasks: bool,
    window: tuple[int | None, int | None],
    rounds: list[Any],
) -> None:
    since, until = (None if second is None else LONG_AGO + timedelta(seconds=second) for second in window)
    options = {"settle_after": 0, "page_size": page_size, "since": since, "until": until}
    with tempfile.TemporaryDirectory() as target:
        async with model_space() as space, space.client(retry=None) as unpod:
            space.has_space_tasks = has_space_tasks
            history = History(space, unpod, Path(target), options)
            for number in range(runs):
                await history.apply("ended run" if number % 3 else "new run", number)
            assert await history.export()
            for changes in rounds:
                for change, number in changes:
                    await history.apply(change, number)
                await history.export()
                history.mend()
                assert await history.export()
