"""What an export came to, for people."""

from __future__ import annotations

from typing import Final

import msgspec

from unpod_async._export import ExportSummary
from unpod_async.cli._output import put_line, say
from unpod_async.cli._tables import pairs

__all__ = ["tell_summary"]

_NAMED: Final = 5
"""Failed runs and bad rows that are named; the manifest has more of them."""


def tell_summary(summary: ExportSummary, *, as_json: bool, again: str) -> None:
    """The summary on stdout; what is missing, and what to do about it, on stderr."""
    if as_json:
        put_line(msgspec.json.encode(summary))
    else:
        pairs(_lines(summary))
    _tell_missing(summary, again)


def _lines(told: ExportSummary) -> list[tuple[str, str]]:
    lines = [
        ("Target", told.target),
        ("Complete", "yes" if told.complete else "NO: see below"),
        ("Data set", f"{told.runs:,} runs, {told.tasks:,} tasks"),
        ("Files", f"{told.files:,}, {told.bytes / 1e6:,.1f} MB"),
        ("Fetched", f"{told.fetched_runs:,} runs, {told.fetched_tasks:,} tasks"),
    ]
    if told.unchanged_runs:
        lines.append(("Unchanged", f"{told.unchanged_runs:,} runs, not asked for again"))
    if told.gone_runs:
        lines.append(("Gone", f"{told.gone_runs:,} runs, no longer in the space"))
    if told.recordings or told.failed_recordings:
        failed = f", {told.failed_recordings:,} failed" if told.failed_recordings else ""
        lines.append(("Recordings", f"{told.recordings:,}{failed}"))
    retried = f", {told.retries:,} of them repeats" if told.retries else ""
    lines.append(("Requests", f"{told.requests:,}{retried}, in {told.seconds:,.1f} s"))
    return lines


def _tell_missing(told: ExportSummary, again: str) -> None:
    for failed in told.failed[:_NAMED]:
        say(f"failed: run {failed.run_id or '(without an id)'}: {failed.reason}")
    if told.failed_runs > _NAMED:
        say(f"failed: {told.failed_runs - min(_NAMED, len(told.failed)):,} more runs")
    for bad in told.bad[:_NAMED]:
        of = "the listing of runs" if bad.run_id is None else f"run {bad.run_id}"
        place = "" if bad.place is None else f", place {bad.place}"
        say(f"left out: a row of {of}{place}: {bad.reason}")
    if told.bad_rows > _NAMED:
        say(f"left out: {told.bad_rows - min(_NAMED, len(told.bad)):,} more rows")
    for reason in told.reasons:
        say(f"incomplete: {reason}")
    if told.failed_recordings:
        say(f"incomplete: {told.failed_recordings:,} recordings could not be downloaded")
    if told.bad_rows:
        say("Rows that are left out are damaged in the service: its makers have to mend them.")
    if not told.complete:
        say("All the rest is there. Run the same again to fetch just what is missing:")
        say(again, indent="  ", whole=True)
