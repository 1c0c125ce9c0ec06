"""In which order an export writes, so that neither a kill nor a power cut can lose or repeat rows."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.export.dataset import assert_holds
from unpod_async import ExportError, ExportSpec, UnpodClient
from unpod_async._export.storage import Catalog, ListedRun, open_workspace
from unpod_async._http import Deadline
from unpod_async.testing import Sandbox


def client(sandbox: Sandbox) -> UnpodClient:
    return UnpodClient(sandbox.token, base_url=sandbox.base_url)


def parts_of(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in target.glob("*s/part-*")}


def spool_files(target: Path) -> list[Path]:
    return sorted(target.rglob("rows-*"))


def run_sql(target: Path, *statements: str) -> None:
    state = target / ".unpod-export" / "state.sqlite3"
    with contextlib.closing(sqlite3.connect(state)) as database, database:
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize("kind", ["tasks", "runs"])
@pytest.mark.parametrize("part_bytes", [1, 2**20], ids=["new part", "same part"])
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_a_part_gets_its_name_after_its_transaction(
    tmp_path: Path, form: Any, part_bytes: int, kind: str
) -> None:
    """Otherwise a kill between the two leaves rows in a part of which the catalog knows nothing."""
    options: dict[str, Any] = {"format": form, "part_bytes": part_bytes}
    async with Sandbox(runs=4, tasks_per_run=2) as sandbox, client(sandbox) as unpod:
        await unpod.export(sandbox.space_token, tmp_path, **options)
        before = {name: data for name, data in parts_of(tmp_path).items() if name.startswith(kind)}
        sandbox.insert_run(3)
        run_sql(
            tmp_path,
            f"CREATE TRIGGER refuse BEFORE INSERT ON part WHEN new.kind = '{kind}' "
            "BEGIN SELECT RAISE(ABORT, 'the transaction failed'); END",
        )
        with pytest.raises(ExportError, match="the transaction failed"):
            await unpod.export(sandbox.space_token, tmp_path, **options)
        after = {name: data for name, data in parts_of(tmp_path).items() if name.startswith(kind)}
        assert after == before
        run_sql(tmp_path, "DROP TRIGGER refuse")
        assert (await unpod.export(sandbox.space_token, tmp_path, **options)).complete
        assert parts_of(tmp_path) != before
        assert_holds(tmp_path, sandbox, form)


def test_the_database_syncs_every_transaction(tmp_path: Path) -> None:
    """With a lower level, a power cut undoes transactions whose parts have their names already."""
    catalog = Catalog(tmp_path / "state")
    pragmas = {name: catalog.value(f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "fullfsync")}
    catalog.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1}


@pytest.mark.parametrize("some_are_short", [False, True])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_parts_are_published_while_a_first_export_goes_on(
    tmp_path: Path, form: Any, some_are_short: bool
) -> None:
    """A full spool file is finished: its rows do not wait for the end, nor stay on the disk twice."""
    spec = ExportSpec(spaces=("S",), format=form, part_bytes=2_000)
    runs = [(rank, ListedRun(f"R{rank}", b"{}", b"", True, 2)) for rank in range(1, 21)]
    lines = [b'{"task_id":"%d","input":"%b"}' % (number, b"x" * 470) for number in range(2)]
    async with open_workspace(tmp_path, spec, {}, Deadline(None)) as opened:
        ((space, _),) = opened.spaces
        await opened.io.run(opened.catalog.store_listed, space, opened.listing, runs, [], [])
        parts, kept = [], []
        for run in await opened.io.run(opened.catalog.wanted, space, 0, 100):
            opened.staging.add(run.number, lines, 0)
            if some_are_short and run.number % 2:
                opened.staging.fail(run.number, 3, "one task is missing")
            else:
                opened.staging.finish(run.number)
            await opened.staging.checkpoint()
            parts.append(len(parts_of(tmp_path)))
            kept.append(len(spool_files(tmp_path)))
        assert parts == sorted(parts)
        assert parts[-1] == 6  # a run has 1 kB, so a part of at least 2 kB has three
        assert max(kept) <= 2
        _, found = await opened.io.run(opened.publish, datetime.now(UTC), [])
    assert (found.runs, found.tasks, len(spool_files(tmp_path))) == (20, 40, 0)
