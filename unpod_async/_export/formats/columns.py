"""The flat columns of CSV and Parquet: the one table of their names, types and sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["COLUMNS", "SCHEMA_VERSION", "ColumnType", "FlatColumn", "RowKind", "describe"]

SCHEMA_VERSION = 1
"""Increases when a column is added, removed or renamed, or gets another type or meaning."""

RowKind: TypeAlias = Literal["runs", "tasks"]
ColumnType: TypeAlias = Literal["text", "integer", "number", "timestamp", "json"]
"""Strings; 64-bit integers; floating-point numbers; UTC times in microseconds; JSON as a string."""


class FlatColumn(NamedTuple):
    """A column.

    Attributes:
        source: The key of the row, or the attribute of its `CallOutput`.
        of: Whether `source` belongs to the row or to its call. "rest" is what no other column has.
    """

    name: str
    kind: ColumnType
    source: str
    meaning: str
    of: Literal["row", "call", "rest"] = "row"


_CREATED = FlatColumn("created", "timestamp", "created", "time of its creation")
_MODIFIED = FlatColumn("modified", "timestamp", "modified", "time of its last change")
_EXTRA = FlatColumn(
    "extra",
    "json",
    "",
    "an object with the keys that have no column, the values that do not fit their column, and all but the"
    " last value of a repeated key; null if there are none",
    "rest",
)

_RUNS = (
    FlatColumn("run_id", "text", "run_id", "id of the run"),
    FlatColumn("space_id", "text", "space_id", "id of its space"),
    FlatColumn("id", "text", "_id", "the document's id, `_id`; most listings do not send it"),
    FlatColumn("status", "text", "status", "status of the run"),
    FlatColumn("batch_count", "integer", "batch_count", "number of its tasks"),
    _CREATED,
    _MODIFIED,
    FlatColumn("run_mode", "text", "run_mode", "mode of the run"),
    FlatColumn("user", "text", "user", "id of the user who created it"),
    FlatColumn("thread_id", "text", "thread_id", "id of the thread"),
    FlatColumn("collection_ref", "text", "collection_ref", "reference of the collection"),
    _EXTRA,
)

_TASKS = (
    FlatColumn("task_id", "text", "task_id", "id of the task"),
    FlatColumn("run_id", "text", "run_id", "id of its run"),
    FlatColumn("space_id", "text", "space_id", "id of its space"),
    FlatColumn("id", "text", "_id", "the document's id, `_id`; most listings do not send it"),
    FlatColumn("ref_id", "text", "ref_id", "the `id` or `document_id` of the document it was created with"),
    FlatColumn("assignee", "text", "assignee", "handle of the agent"),
    FlatColumn("execution_type", "text", "execution_type", "type of the task (`call`)"),
    FlatColumn("status", "text", "status", "status of the task, not of the call"),
    _CREATED,
    _MODIFIED,
    FlatColumn("run_mode", "text", "run_mode", "mode of the run; always `dev` in listings of a space"),
    FlatColumn("user", "text", "user", "id of the user who created it"),
    FlatColumn("user_org_id", "text", "user_org_id", "id of that user's organization"),
    FlatColumn("thread_id", "text", "thread_id", "id of the thread"),
    FlatColumn("collection_ref", "text", "collection_ref", "reference of the collection"),
    FlatColumn("failure_count", "integer", "failure_count", "failures so far; agent listings only"),
    FlatColumn(
        "last_failure_reason",
        "text",
        "last_failure_reason",
        "reason of the last failure; agent listings only",
    ),
    FlatColumn("provider", "text", "provider", "telephony provider; agent listings only"),
    FlatColumn("retry_attempt", "integer", "retry_attempt", "retries so far; agent listings only"),
    FlatColumn(
        "last_status_change", "timestamp", "last_status_change", "last change of status; agent listings only"
    ),
    FlatColumn(
        "scheduled_timestamp",
        "timestamp",
        "scheduled_timestamp",
        "time at which the task is due; agent listings only",
    ),
    FlatColumn("call_id", "text", "call_id", "id of the call", "call"),
    FlatColumn(
        "call_direction", "text", "direction", "`inbound`, `outbound` or another value of the server", "call"
    ),
    FlatColumn("call_status", "text", "status", "status of the call", "call"),
    FlatColumn("call_started_at", "timestamp", "started_at", "start of the call", "call"),
    FlatColumn("call_ended_at", "timestamp", "ended_at", "end of the call", "call"),
    FlatColumn(
        "call_duration_s",
        "number",
        "duration",
        "duration of the call in seconds, as sent; or else from start to end",
        "call",
    ),
    FlatColumn("call_recording_url", "text", "recording_url", "URL of the recording", "call"),
    FlatColumn("call_transcript", "text", "transcript", "transcript as one string", "call"),
    FlatColumn("call_summary", "text", "summary", "written summary of the call", "call"),
    FlatColumn("call_outcome", "text", "outcome", "outcome of the call (`Interested`)", "call"),
    FlatColumn(
        "call_labels", "json", "labels", "labels of the classification; null if there are none", "call"
    ),
    FlatColumn(
        "call_sentiment", "text", "sentiment", "`positive`, `negative` or another value of the server", "call"
    ),
    FlatColumn("call_cost_usd", "number", "cost", "cost of the call in USD", "call"),
    FlatColumn("call_customer", "text", "customer", "name of the customer", "call"),
    FlatColumn("call_customer_number", "text", "customer_number", "phone number of the customer", "call"),
    FlatColumn("call_end_reason", "text", "end_reason", "reason for the end of the call", "call"),
    FlatColumn("call_structured_data", "json", "structured_data", "data extracted from the call", "call"),
    FlatColumn("call_error", "text", "error", "reason why there was no call", "call"),
    FlatColumn(
        "call_messages",
        "json",
        "messages",
        "the messages of the transcript: objects with the known ones of role, content, message, user_id,"
        " timestamp, time, end_time, seconds_from_start and duration; null if there are none",
        "call",
    ),
    FlatColumn("task", "json", "task", "the instructions for the agent, as sent"),
    FlatColumn("input", "json", "input", "the document it was created with, as sent"),
    FlatColumn("output", "json", "output", "the result, as sent; the `call_` columns are read from it"),
    FlatColumn("attachments", "json", "attachments", "attachments, as sent"),
    FlatColumn("user_info", "json", "user_info", "the user who created it, as sent"),
    _EXTRA,
)

COLUMNS: Mapping[RowKind, tuple[FlatColumn, ...]] = {"runs": _RUNS, "tasks": _TASKS}


def describe(kind: RowKind) -> list[tuple[str, ColumnType, str]]:
    """Return (name, type, meaning) of each column, in order."""
    return [(column.name, column.kind, column.meaning) for column in COLUMNS[kind]]
