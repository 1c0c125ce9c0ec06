"""unpod_async to JSONL, then Polars to Parquet: the fields of a task as sent, nested ones as JSON strings.

The `call_` columns of our Parquet files are missing: one type of Polars does not fit both forms of an output.
"""

from __future__ import annotations

import os

os.environ["POLARS_MAX_THREADS"] = "1"  # the process has one processor

import polars as pl

from peers import unpod_export
from peers.harness import Job, Written, main
from unpod_async._tables import COLUMNS

__all__ = ["run"]

_TYPES = {
    "text": pl.String(),
    "json": pl.String(),
    "integer": pl.Int64(),
    "timestamp": pl.Datetime("us"),
}
_SCHEMA = {column.source: _TYPES[column.kind] for column in COLUMNS["tasks"] if column.of == "row"}


async def run(job: Job) -> Written:
    lines = await unpod_export.run(job)
    target = job.folder / "tasks.parquet"
    pl.scan_ndjson(lines.files, schema=_SCHEMA).sink_parquet(target, compression="zstd")
    return Written([target])


if __name__ == "__main__":
    main(run)
