"""Data sets with rows that a test chooses, in any format, and the rows of an invented call centre."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from unpod_async._export.formats import FORMATS, CsvOptions, RowKind

__all__ = ["call", "invented_rows", "run", "write_dataset"]

Row = dict[str, Any]
SPACE = "SPACEMAIN000000000000001"
OUTCOMES = ("Interested", "Not Interested", "Call Back", "Voicemail", "No Answer", "Appointment Booked")
REASONS = ("SIP 486 busy", "SIP 480 temporarily unavailable", "no answer", "provider error: trunk down")
AGENTS = ("qualification", "appointments", "renewals", "support", "survey", "welcome")


def write_dataset(
    target: Path,
    runs: Iterable[Row],
    tasks: Iterable[Row],
    form: str = "jsonl",
    *,
    part_rows: int = 100_000,
    **changes: Any,
) -> Path:
    """Write a data set as an export writes it, and return its directory.

    Args:
        changes: keys of the manifest or of its options, and their values.
    """
    parts: list[Row] = []
    for kind, rows in (("runs", runs), ("tasks", tasks)):
        parts += _write_parts(target, form, kind, rows, part_rows, changes)  # type: ignore[arg-type] # both are kinds
    options = {"spaces": [SPACE], "runs": None, "since": None, "until": None, "redact": None}
    manifest = {
        "complete": True,
        "started": "2026-05-01T02:15:00Z",
        "finished": "2026-05-01T02:19:31Z",
        "options": {**options, "format": form, "csv_safe": False},
        "versions": {"unpod_async": "0.1.0", "python": "3.11.7", "columns": 1, "manifest": 1},
        "parts": parts,
        "failed_runs": {"count": 0, "examples": []},
        "unreadable_rows": {"count": 0, "examples": []},
        "failed_recordings": 0,
        "failed_downloads": [],
        "reasons": [],
    }
    for key, value in changes.items():
        (manifest if key in manifest else manifest["options"])[key] = value  # type: ignore[index] # a dict
    (target / "_manifest.json").write_bytes(msgspec.json.encode(manifest))
    return target


def _write_parts(
    target: Path, form: str, kind: RowKind, rows: Iterable[Row], part_rows: int, changes: Row
) -> Iterator[Row]:
    (target / kind).mkdir(parents=True)
    lines = map(msgspec.json.encode, rows)
    number = 0
    while first := next(lines, None):
        number += 1
        name = f"{kind}/part-{number:05d}{FORMATS[form].suffix}"
        writer = FORMATS[form].create(target / name, kind, CsvOptions(changes.get("csv_safe", False)))
        writer.write([first])
        for _ in range(part_rows - 1):
            if (line := next(lines, None)) is None:
                break
            writer.write([line])
        writer.close()
        sha256 = hashlib.sha256((target / name).read_bytes()).hexdigest()
        yield {"name": name, "kind": kind, "rows": writer.rows, "bytes": writer.size, "sha256": sha256}


def run(number: int, created: datetime, status: str = "completed", **fields: Any) -> Row:
    return {
        "run_id": f"R{number:032x}",
        "status": status,
        "batch_count": 1,
        "created": created.isoformat(),
        **fields,
    }


def call(number: int, at: datetime, status: str = "completed", output: Any = None, **fields: Any) -> Row:
    return {
        "task_id": f"T{number:032x}",
        "run_id": f"R{number // 10:032x}",
        "assignee": "agent",
        "status": status,
        "created": at.isoformat(),
        "output": output,
        **fields,
    }


def invented_rows(days: int, seed: int = 1, first: datetime | None = None) -> tuple[list[Row], list[Row]]:
    """Return the runs and the tasks of an invented call centre, which grows a little every week."""
    chance = random.Random(seed)
    start = first or datetime(2026, 2, 1, tzinfo=UTC)
    runs: list[Row] = []
    tasks: list[Row] = []
    for day in range(days):
        at = start + timedelta(days=day)
        for _ in range(1 if at.weekday() > 4 else chance.randint(2, 5)):
            number = len(runs)
            created = at + timedelta(hours=chance.triangular(7.5, 19, 10))
            failing = 0.65 if chance.random() < 0.06 else 0.09
            is_open = day == days - 1 and chance.random() < 0.5
            batch = [
                _invented_call(chance, number * 100 + each, number, created, failing, is_open)
                for each in range(chance.randint(8, 16 + day // 5))
            ]
            statuses = {each["status"] for each in batch}
            status = "in_progress" if is_open else _status_of(statuses, failing)
            runs.append(run(number, created, status, batch_count=len(batch)))
            tasks += batch
    return runs, tasks


def _status_of(statuses: set[str], failing: float) -> str:
    if statuses == {"failed"}:
        return "failed"
    return "partially_completed" if "failed" in statuses and failing > 0.5 else "completed"


def _invented_call(
    chance: random.Random, number: int, run_number: int, created: datetime, failing: float, is_open: bool
) -> Row:
    agent = chance.choices(AGENTS, (30, 24, 16, 12, 8, 3))[0]
    row = {"run_id": f"R{run_number:032x}", "assignee": f"{agent}-agent-{len(agent):02}"}
    if is_open and chance.random() < 0.6:
        return call(number, created, chance.choice(["pending", "in_progress", "scheduled"]), **row)
    if chance.random() < failing:
        return call(number, created, "failed", {"error": chance.choices(REASONS, (5, 3, 2, 1))[0]}, **row)
    outcome = chance.choices([*OUTCOMES, None], (22, 26, 14, 12, 9, 11, 6))[0]
    is_short = outcome in {"Voicemail", "No Answer"}
    seconds = round(chance.lognormvariate(2.8 if is_short else 4.6, 0.55 if is_short else 0.8), 1)
    started = created + timedelta(minutes=chance.triangular(0, 150, 15))
    output = {
        "call_id": f"call-{number}",
        "start_time": started.isoformat(),
        "duration": seconds,
        "cost": round(0.02 + 0.0011 * seconds, 4),
        "post_call_data": {"summary": {"status": outcome}} if outcome else {},
        "customer": "Person 0001",
        "contact_number": "9000000001",
    }
    return call(number, created, "completed", output, **row)
