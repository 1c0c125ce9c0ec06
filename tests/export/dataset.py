"""Read the files of a data set without its manifest, and compare them with the sandbox."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tests.export.parts import arrow_parquet, duck_csv, table
from unpod_async._export import row_line
from unpod_async._export.formats import FORMATS, RowKind
from unpod_async.testing import Sandbox

__all__ = ["KINDS", "assert_holds", "assert_manifest", "found_rows", "sandbox_rows", "spelled_rows"]

KINDS: tuple[RowKind, ...] = ("runs", "tasks")


def found_rows(target: Path, form: str, kind: RowKind) -> list[str]:
    """Return every row of all files of a kind in one spelling, sorted."""
    found: list[str] = []
    paths = sorted((target / kind).iterdir())
    assert paths, f"no file in {kind}/"
    for path in paths:
        assert path.name.endswith(FORMATS[form].suffix), path.name
        if form == "parquet":
            found += map(repr, arrow_parquet(path, kind))
        elif form == "csv":
            found += map(repr, duck_csv(path, kind))
        else:
            data = path.read_bytes()
            lines = (gzip.decompress(data) if form == "jsonl.gz" else data).splitlines()
            found += [_spelled(json.loads(line)) for line in lines]
    return sorted(found)


def sandbox_rows(sandbox: Sandbox, form: str, kind: RowKind) -> list[str]:
    """Return the rows that the sandbox serves now, in the same spelling."""
    return spelled_rows(sandbox.run_rows() if kind == "runs" else sandbox.task_rows(), form, kind)


def spelled_rows(rows: Iterable[Mapping[str, Any]], form: str, kind: RowKind) -> list[str]:
    """Return rows in the spelling of `found_rows`."""
    lines = [row_line(msgspec.json.encode(row), keep_user_token=False) for row in rows]
    if form in {"csv", "parquet"}:
        return sorted(map(repr, table(kind, lines)))
    return sorted(_spelled(json.loads(line)) for line in lines)


def assert_holds(target: Path, sandbox: Sandbox, form: str = "jsonl") -> None:
    """Check that the files have every row once and nothing else, and that the manifest is correct."""
    for kind in KINDS:
        found, there = found_rows(target, form, kind), sandbox_rows(sandbox, form, kind)
        assert len(found) == len(set(found)), f"{kind}: a row is there twice"
        assert set(found) == set(there), f"{kind}: {len(found)} rows, {len(there)} expected"
    assert_manifest(target)


def assert_manifest(target: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((target / "_manifest.json").read_bytes())
    files = {f"{kind}/{path.name}": path for kind in KINDS for path in (target / kind).iterdir()}
    assert {part["name"] for part in manifest["parts"]} == set(files)
    for part in manifest["parts"]:
        data = files[part["name"]].read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (part["bytes"], part["sha256"])
    for kind in KINDS:
        assert manifest["counts"][kind] == sum(
            part["rows"] for part in manifest["parts"] if part["kind"] == kind
        )
    return manifest


def _spelled(row: object) -> str:
    return json.dumps(row, sort_keys=True)
