"""The documents of a create, one for each call, out of a file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from unpod_async._common import shorten
from unpod_async.cli._status import USAGE, Stop

__all__ = ["documents_of"]

_OPTION: Final = "--documents"


def documents_of(name: str) -> list[dict[str, Any]]:
    """One mapping per call: the objects of a .json list or of .jsonl lines, or the rows of a .csv.

    A CSV has its names in the first line; all its values are text, and an empty one is left out.

    Raises:
        Stop: it cannot be read, or is something else. No value of the file is shown.
    """
    path = Path(name)
    readers = {".json": _json, ".jsonl": _jsonl, ".csv": _csv}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise Stop(f"{_OPTION}: {shorten(name, 80)} is no .json, .jsonl or .csv file", USAGE)
    try:
        found = list(read(path.read_bytes().decode("utf-8-sig")))
    except (OSError, ValueError) as fault:
        why = getattr(fault, "strerror", None) or (
            "it is not UTF-8" if isinstance(fault, UnicodeDecodeError) else "there is no such path"
        )
        raise Stop(f"{_OPTION}: cannot read {shorten(name, 80)}: {why}", USAGE) from None
    if not found:
        raise Stop(f"{_OPTION}: {shorten(name, 80)} holds no document", USAGE)
    return found


def _json(text: str) -> Iterator[dict[str, Any]]:
    found = _decoded(text, "the file")
    if not isinstance(found, list):
        raise Stop(f"{_OPTION}: the file must be a list of objects, one for each call", USAGE)
    for number, one in enumerate(cast("list[object]", found), 1):
        yield _object(one, f"item {number}")


def _jsonl(text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _object(_decoded(line, f"line {number}"), f"line {number}")


def _csv(text: str) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise Stop(
                    f"{_OPTION}: line {reader.line_num} has not as many values as the first line has names",
                    USAGE,
                )
            yield {key: value for key, value in row.items() if value != ""}
    except csv.Error as fault:
        raise Stop(f"{_OPTION}: line {reader.line_num} is no CSV: {fault}", USAGE) from None


def _decoded(text: str, where: str) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as fault:
        why = str(fault) if isinstance(fault, msgspec.DecodeError) else "it is nested too deeply"
        raise Stop(f"{_OPTION}: {where} is no JSON: {why}", USAGE) from None


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Stop(f"{_OPTION}: {where} must be an object with name and contact_number", USAGE)
    return cast("dict[str, Any]", value)
