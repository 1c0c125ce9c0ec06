"""Rows as the service sends them, and rows that are changed in every way that may break a batch."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from typing import Any

import msgspec

from unpod_async._export.formats import COLUMNS, RowKind
from unpod_async.testing import Sandbox

__all__ = ["odd_line", "odd_lines"]

_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, "5", "007", 1.0, 2.5, -0.0, 1e300, 2**31, 2**63 - 1, 2**63, -(2**63) - 1,
    2**64, 2**70, 10**30, "", " ", "N/A", " None ", "NULL", "null", "text", "a\0b", 'a "quoted", one',
    "a\nb\r\t",
    "\\", 'x","endTime":1', "endTime", '"endTime":', "नमस्ते ✓ 👍🏽 Ängström", "\u2028\ufeff\x85", "=1+1",
    " @x", "\0=1", "-1",
    "+49 (30) 1234-567", "1e5", [], {}, [[]], [None], ["a", " N/A", 3], {"a": 1}, {"message": "m"},
    {"detail": "d"},
    {"status": "s", "summary": "x"}, {"status": 3}, {"labels": ["l"]}, {"name": "N", "number": 7},
    '{"a": [1.50]}', "[",
    {"cost": "1.5", "type": "outbound"}, {"structuredData": {"a": None}}, [1, "1e3", {"b": [2.0]}],
]  # fmt: skip
_TIMES: list[Any] = [
    "2026-01-31T11:47:38.067021", "2026-01-31 11:47:38", "2026-01-31T11:47:38", "2026-01-31T11:47:38Z",
    "2026-01-31T11:47:38.067Z", "2026-01-31 11:47:38.067021Z", "2026-01-31 17:17:38.067021+05:30",
    "2026-01-31",
    "2026-01-31T11:47:38.067", "2026-01-31T11:47:38.067021001Z", "2026-01-31t11:47:38z",
    " 2026-01-31T11:47:38 ",
    "2026-02-30T00:00:00", "2026-13-01 00:00:00", "2026-01-31T24:00:00", "2026-01-31T11:47:60",
    "2026-W05-6T11:47:38",
    "20260131T114738.067", "2026-01-31x11:47:38", "0001-01-01T00:00:00", "0000-01-01T00:00:00",
    "9999-12-31T23:59:59.999999",
    "0001-01-01T00:00:00+05:00", "2026-01-31T11:47:38\n", "２026-01-31T11:47:38", 1700000000,
    1700000000.5, "1700000000", -1,
    999999999999, "", None, "N/A", True, [],
]  # fmt: skip
_TEXTS = [
    "1e999", "-1e999", "9" * 30, "9" * 400, "1.50", "1E3", "-0", "-0.0", "123456789012345678901234567890.5",
    '"\\u00e9\\/\\ud83d\\ude00"', '"\\u0000"', '{"a":1,"a":2}', '[1, 2]', '{ "a" : [ ] }',
    "[" * 60 + "]" * 60,
]  # fmt: skip
"""Values that `json.dumps` does not write."""

_KEYS = {
    kind: [column.source for column in columns if column.of == "row"] for kind, columns in COLUMNS.items()
}
_MESSAGES: list[Any] = [
    {"role": "user", "content": "Hello?", "user_id": None, "timestamp": "2026-01-31T11:47:38"},
    {"role": "bot", "message": "ঠিক আছে", "time": 1, "endTime": 2.5, "secondsFromStart": 0,
    "duration": None},
    {"role": None, "content": "", "message": "both"}, {"content": "no role", "new": [1]},
    {"role": "user"}, {},
    {"role": 5, "content": "bad role"}, {"role": "user", "time": "1.5"}, {"timestamp": 2**70},
    {"time": 2**70},
    {"timestamp": 1.0, "content": '","endTime":'}, {"timestamp": True}, None, "text", 7,
]  # fmt: skip
_OUTPUT_KEYS = [
    "call_id", "id", "call_type", "type", "call_status", "status", "start_time", "startedAt", "end_time",
    "endedAt",
    "duration", "recording_url", "recordingUrl", "transcript", "messages", "call_summary", "summary",
    "labels", "cost",
    "contact_number", "call_end_reason", "endedReason", "error", "post_call_data", "analysis",
    "metadata", "customer", "new",
]  # fmt: skip
_INNER_KEYS = [
    "summary", "status", "classification", "labels", "outcome", "sentiment", "structured_data",
    "structuredData",
    "cost", "type", "name", "number",
]  # fmt: skip


@functools.cache
def _usual(kind: RowKind) -> list[dict[str, Any]]:
    sandbox = Sandbox(runs=12, tasks_per_run=(1, 4))
    return list(sandbox.run_rows() if kind == "runs" else sandbox.task_rows())


def _value(rng: random.Random) -> Any:
    return msgspec.Raw(rng.choice(_TEXTS).encode()) if rng.random() < 0.1 else rng.choice(_VALUES)


def _change(rng: random.Random, members: dict[str, Any], keys: list[str]) -> None:
    name = rng.choice(keys)
    if name in {"transcript", "messages"} and rng.random() < 0.7:
        members[name] = rng.choices(_MESSAGES[: rng.choice([2, len(_MESSAGES)])], k=rng.randrange(5))
    elif any(word in name for word in ("created", "modified", "start", "end", "time")) and rng.random() < 0.8:
        members[name] = rng.choice(_TIMES)
    elif rng.random() < 0.2:
        members.pop(name, None)
    elif isinstance(inner := members.get(name), dict) and inner and rng.random() < 0.7:
        inner = dict(inner)
        _change(rng, inner, [*inner, *_INNER_KEYS])
        members[name] = inner
    else:
        members[name] = _value(rng)


def _shuffled(rng: random.Random, members: dict[str, Any]) -> dict[str, Any]:
    items = list(members.items())
    rng.shuffle(items)
    return dict(items)


def odd_line(rng: random.Random, kind: RowKind, oddity: float) -> bytes:
    """Return a line.

    Args:
        oddity: How much of it is changed, from 0 to 1.
    """
    row = dict(rng.choice(_usual(kind)))
    while rng.random() < oddity:
        if kind == "tasks" and rng.random() < 0.6:
            output = dict(row.get("output") or {}) if isinstance(row.get("output"), dict) else {}
            for _ in range(rng.choice([1, 1, 2, 12])):
                _change(rng, output, _OUTPUT_KEYS)
            row["output"] = _shuffled(rng, output) if rng.random() < 0.2 else output
        elif rng.random() < 0.2:
            row[rng.choice(["new", "नया", "id", "extra", "call_id"])] = _value(rng)
        elif rng.random() < 0.1:
            row = _shuffled(rng, row)
        else:
            _change(rng, row, _KEYS[kind])
    line = msgspec.json.encode(row)
    written: list[Callable[[], bytes]] = [
        lambda: json.dumps(msgspec.json.decode(line)).encode(),
        lambda: json.dumps(msgspec.json.decode(line), separators=(",", ":")).encode(),
        lambda: line[:-1] + b',"status":"again"}',
        lambda: line.replace(b'"status":', b'"st\\u0061tus":', 1),
        lambda: line.replace(b'"output":{"', b'"output":{"cost":1,"', 1),
    ]
    if rng.random() < oddity / 4:
        try:
            return rng.choice(written)()
        except (ValueError, msgspec.DecodeError):
            return line
    return line


def odd_lines(rng: random.Random, kind: RowKind, count: int) -> list[bytes]:
    """Return lines of which none, some, or all are odd."""
    oddity, share = rng.choice([0.3, 0.6, 0.9]), rng.choice([0, 0.02, 0.3, 1])
    lines = [odd_line(rng, kind, oddity if rng.random() < share else 0) for _ in range(count)]
    if rng.random() < 0.2:  # a field that the service adds to every row
        lines = [line[:-1] + b',"added":{"at":%d}}' % number for number, line in enumerate(lines)]
    return lines
