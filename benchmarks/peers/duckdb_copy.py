"""unpod_async to JSONL, then DuckDB: `COPY ... TO` Parquet with the columns and types of our Parquet files.

The query is what a competent user would write for this data: it reads both forms of an output, and parses
each output once for all paths. It has no checks of odd values, and `extra` is null, as here in our files. All
other values are equal to ours, except the form of the JSON in `call_messages` and `call_structured_data`.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

from peers import unpod_export
from peers.harness import Job, Written, main
from unpod_async._tables import COLUMNS, FlatColumn, arrow_schema

__all__ = ["run"]

_SQL_TYPES = {
    "text": "VARCHAR",
    "json": "JSON",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "timestamp": "TIMESTAMPTZ",
}
_SENT = {c.source: _SQL_TYPES[c.kind] for c in COLUMNS["tasks"] if c.of == "row"}
_PATHS = {
    "call_id": ("call_id", "id"),
    "direction": ("call_type", "type", "metadata.type"),
    "status": ("call_status", "status"),
    "started_at": ("start_time", "startedAt"),
    "ended_at": ("end_time", "endedAt"),
    "duration": ("duration",),
    "recording_url": ("recording_url", "recordingUrl"),
    "transcript": ("transcript",),
    "summary": ("call_summary", "summary", "analysis.summary"),
    "outcome": ("post_call_data.summary.status",),
    "labels": ("post_call_data.classification.labels",),
    "sentiment": ("post_call_data.sentiment",),
    "cost": ("cost", "metadata.cost"),
    "customer": ("customer.name", "customer"),
    "customer_number": ("contact_number", "customer.number"),
    "end_reason": ("call_end_reason", "endedReason"),
    "structured_data": ("post_call_data.structured_data", "analysis.structuredData"),
    "error": ("error",),
    "messages": ("messages", "transcript"),
}
"""Where the values of a call are in its output."""
_COMPUTED = {
    "direction": "CASE WHEN {0} ILIKE 'inbound%' THEN 'inbound' ELSE 'outbound' END",
    "duration": "coalesce({0}, epoch({ended_at}::TIMESTAMPTZ - {started_at}::TIMESTAMPTZ)::VARCHAR)",
    "transcript": (
        "CASE WHEN {0} LIKE '[%' THEN array_to_string(list_transform(from_json({0}, "
        """'[{{"role":"VARCHAR","content":"VARCHAR"}}]'), lambda m: m.role || ': ' || m.content), chr(10)) """
        "ELSE {0} END"
    ),
}
"""What is made of a value, {0}; the names are those of other values."""
_ALL = sorted({path for paths in _PATHS.values() for path in paths})


def _first(paths: tuple[str, ...]) -> str:
    return f"coalesce({', '.join(f'found[{_ALL.index(path) + 1}]' for path in paths)})"


def _cell(column: FlatColumn) -> str:
    if column.of == "rest":
        value = "NULL"
    elif column.of == "row":
        value = f'"{column.source}"'
    else:
        values = {name: _first(paths) for name, paths in _PATHS.items()}
        value = _COMPUTED.get(column.source, "{0}").format(values[column.source], **values)
    kind = "VARCHAR" if column.kind == "json" else _SQL_TYPES[column.kind]
    return f'CAST({value} AS {kind}) AS "{column.name}"'


def _query(target: Path) -> str:
    cells = ", ".join(map(_cell, COLUMNS["tasks"]))
    # All paths at once: one parse of each output instead of one for each path.
    found = f"json_extract_string(output, {[f'$.{path}' for path in _ALL]})"
    rows = f"read_json($source, format = 'newline_delimited', columns = {_SENT})"
    rows = f"(SELECT *, {found} AS found FROM {rows})"  # noqa: S608 - constants
    return f"COPY (SELECT {cells} FROM {rows}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"  # noqa: S608 - constants


_COLUMNS = [(field.name, str(field.type)) for field in arrow_schema(pa, "tasks")]


async def run(job: Job) -> Written:
    lines = await unpod_export.run(job)
    target = job.folder / "tasks.parquet"
    # One thread: the process has one processor.
    with duckdb.connect(config={"threads": 1}) as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute(_query(target), {"source": [str(path) for path in lines.files]})
    return Written([target], _COLUMNS)


if __name__ == "__main__":
    main(run)
