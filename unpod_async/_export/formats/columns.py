"""The flat columns of CSV and Parquet: the one table of their names, types and sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["COLUMNS", "SCHEMA_VERSION", "Column", "ColumnType", "RowKind", "describe"]

SCHEMA_VERSION = 1
"""Increases when a column is added, removed or renamed, or gets another type or meaning."""

RowKind: TypeAlias = Literal["runs", "tasks"]
ColumnType: TypeAlias = Literal["text", "integer", "number", "timestamp", "json"]
"""Strings; 64-bit integers; floating-point numbers; UTC times in microseconds; JSON as a string."""


class Column(NamedTuple):
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


_CREATED = Column("created", "timestamp", "created", "time of its creation")
_MODIFIED = Column("modified", "timestamp", "modified", "time of its last change")
_EXTRA = Column(
    "extra",
    "json",
    "",
    "an object with the keys that have no column, the values that do not fit their column, and all but the"
    " last value of a repeated key; null if there are none",
    "rest",
)

_RUNS = (
    Column("run_id", "text", "run_id", "id of the run"),
    Column("space_id", "text", "space_id", "id of its space"),
    Column("id", "text", "_id", "the document's id, `_id`; most listings do not send it"),
    Column("status", "text", "status", "status of the run"),
    Column("batch_count", "integer", "batch_count", "number of its tasks"),
    _CREATED,
    _MODIFIED,
    Column("run_mode", "text", "run_mode", "mode of the run"),
    Column("user", "text", "user", "id of the user who created it"),
    Column("thread_id", "text", "thread_id", "id of the thread"),
    Column("collection_ref", "text", "collection_ref", "reference of the collection"),
    _EXTRA,
)

_TASKS = (
    Column("task_id", "text", "task_id", "id of the task"),
    Column("run_id", "text", "run_id", "id of its run"),
    Column("space_id", "text", "space_id", "id of its space"),
    Column("id", "text", "_id", "the document's id, `_id`; most listings do not send it"),
    Column("ref_id", "text", "ref_id", "the `id` or `document_id` of the document it was created with"),
    Column("assignee", "text", "assignee", "handle of the agent"),
    Column("execution_type", "text", "execution_type", "type of the task (`call`)"),
    Column("status", "text", "status", "status of the task, not of the call"),
    _CREATED,
    _MODIFIED,
    Column("run_mode", "text", "run_mode", "mode of the run; always `dev` in listings of a space"),
    Column("user", "text", "user", "id of the user who created it"),
    Column("user_org_id", "text", "user_org_id", "id of that user's organization"),
    Column("thread_id", "text", "thread_id", "id of the thread"),
    Column("collection_ref", "text", "collection_ref", "reference of the collection"),
    Column("failure_count", "integer", "failure_count", "failures so far; agent listings only"),
    Column(
        "last_failure_reason",
        "text",
        "last_failure_reason",
        "reason of the last failure; agent listings only",
    ),
    Column("provider", "text", "provider", "telephony provider; agent listings only"),
    Column("retry_attempt", "integer", "retry_attempt", "retries so far; agent listings only"),
    Column(
        "last_status_change", "timestamp", "last_status_change", "last change of status; agent listings only"
    ),
    Column(
        "scheduled_timestamp",
        "timestamp",
        "scheduled_timestamp",
        "time at which it is due; agent listings only",
    ),
    Column("call_id", "text", "call_id", "id of the call", "call"),
    Column(
        "call_direction", "text", "direction", "`inbound`, `outbound` or another value of the server", "call"
    ),
    Column("call_status", "text", "status", "status of the call", "call"),
    Column("call_started_at", "timestamp", "started_at", "start of the call", "call"),
    Column("call_ended_at", "timestamp", "ended_at", "end of the call", "call"),
    Column("call_duration_s", "number", "duration", "duration of the call in seconds", "call"),
    Column("call_recording_url", "text", "recording_url", "URL of the recording", "call"),
    Column("call_transcript", "text", "transcript", "transcript as one string", "call"),
    Column("call_summary", "text", "summary", "written summary of the call", "call"),
    Column("call_outcome", "text", "outcome", "outcome of the call (`Interested`)", "call"),
    Column("call_labels", "json", "labels", "labels of the classification; null if there are none", "call"),
    Column(
        "call_sentiment", "text", "sentiment", "`positive`, `negative` or another value of the server", "call"
    ),
    Column("call_cost_usd", "number", "cost", "cost of the call in USD", "call"),
    Column("call_customer", "text", "customer", "name of the customer", "call"),
    Column("call_customer_number", "text", "customer_number", "phone number of the customer", "call"),
    Column("call_end_reason", "text", "end_reason", "reason for the end of the call", "call"),
    Column("call_structured_data", "json", "structured_data", "data extracted from the call", "call"),
    Column("call_error", "text", "error", "reason why there was no call", "call"),
    Column(
        "call_messages",
        "json",
        "messages",
        "the messages of the transcript: objects with the known ones of role, content, message, user_id,"
        " timestamp, time, end_time, seconds_from_start and duration; null if there are none",
        "call",
    ),
    Column("task", "json", "task", "the instructions for the agent, as sent"),
    Column("input", "json", "input", "the document it was created with, as sent"),
    Column("output", "json", "output", "the result, as sent; the `call_` columns are read from it"),
    Column("attachments", "json", "attachments", "attachments, as sent"),
    Column("user_info", "json", "user_info", "the user who created it, as sent"),
    _EXTRA,
)

COLUMNS: Mapping[RowKind, tuple[Column, ...]] = {"runs": _RUNS, "tasks": _TASKS}


def describe(kind: RowKind) -> list[tuple[str, ColumnType, str]]:
    """Return (name, type, meaning) of each column, in order."""
    return [(column.name, column.kind, column.meaning) for column in COLUMNS[kind]]
