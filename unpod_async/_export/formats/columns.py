"""The flat columns of CSV and Parquet: the one table of their names, types and sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["COLUMNS", "SCHEMA_VERSION", "Column", "Kind", "Rows", "describe"]

SCHEMA_VERSION = 1
"""Goes up when a column is added, taken away, renamed or given another type or meaning."""

Rows: TypeAlias = Literal["runs", "tasks"]
Kind: TypeAlias = Literal["text", "integer", "number", "timestamp", "json"]
"""Text; whole numbers of 64 bits; floating-point numbers; moments in UTC, in microseconds; JSON as text."""


class Column(NamedTuple):
    """A column.

    Attributes:
        of, source: where it comes from: a key of the row, or an attribute of its `Call`; "rest" has what no
            other column has.
    """

    name: str
    kind: Kind
    source: str
    meaning: str
    of: Literal["row", "call", "rest"] = "row"


_CREATED = Column("created", "timestamp", "created", "when it was created")
_MODIFIED = Column("modified", "timestamp", "modified", "when it was last changed")
_EXTRA = Column(
    "extra",
    "json",
    "",
    "what is in no other column: an object of keys without a column, values that do not fit theirs, and all"
    " but the last value of a repeated key; null when there is nothing",
    "rest",
)

_RUNS = (
    Column("run_id", "text", "run_id", "id of the run"),
    Column("space_id", "text", "space_id", "id of its space"),
    Column("id", "text", "_id", "the document's id, `_id`; most listings do not send it"),
    Column("status", "text", "status", "status of the run"),
    Column("batch_count", "integer", "batch_count", "number of tasks in it"),
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
    Column("execution_type", "text", "execution_type", "kind of work (`call`)"),
    Column("status", "text", "status", "status of the task; not of the call"),
    _CREATED,
    _MODIFIED,
    Column("run_mode", "text", "run_mode", "`dev` in listings of a space, where it says nothing"),
    Column("user", "text", "user", "id of the user who created it"),
    Column("user_org_id", "text", "user_org_id", "id of that user's organization"),
    Column("thread_id", "text", "thread_id", "id of the thread"),
    Column("collection_ref", "text", "collection_ref", "reference of the collection"),
    Column("failure_count", "integer", "failure_count", "failures so far; agent listings only"),
    Column("last_failure_reason", "text", "last_failure_reason", "why it failed last; agent listings only"),
    Column("provider", "text", "provider", "telephony provider; agent listings only"),
    Column("retry_attempt", "integer", "retry_attempt", "retries so far; agent listings only"),
    Column(
        "last_status_change", "timestamp", "last_status_change", "last change of status; agent listings only"
    ),
    Column("scheduled_timestamp", "timestamp", "scheduled_timestamp", "when it is due; agent listings only"),
    Column("call_id", "text", "call_id", "id of the call", "call"),
    Column("call_direction", "text", "direction", "`inbound`, `outbound` or the server's word", "call"),
    Column("call_status", "text", "status", "status of the call", "call"),
    Column("call_started_at", "timestamp", "started_at", "when the call began", "call"),
    Column("call_ended_at", "timestamp", "ended_at", "when the call ended", "call"),
    Column("call_duration_s", "number", "duration", "length of the call in seconds", "call"),
    Column("call_recording_url", "text", "recording_url", "where the recording is", "call"),
    Column("call_transcript", "text", "transcript", "what was said, as one text", "call"),
    Column("call_summary", "text", "summary", "written summary of the call", "call"),
    Column("call_outcome", "text", "outcome", "how the call went (`Interested`)", "call"),
    Column("call_labels", "json", "labels", "labels of the classification; null when there is none", "call"),
    Column("call_sentiment", "text", "sentiment", "`positive`, `negative` or the server's word", "call"),
    Column("call_cost_usd", "number", "cost", "cost of the call in USD", "call"),
    Column("call_customer", "text", "customer", "name of the customer", "call"),
    Column("call_customer_number", "text", "customer_number", "phone number of the customer", "call"),
    Column("call_end_reason", "text", "end_reason", "why the call ended", "call"),
    Column("call_structured_data", "json", "structured_data", "what was extracted from the call", "call"),
    Column("call_error", "text", "error", "why there was no call", "call"),
    Column(
        "call_messages",
        "json",
        "messages",
        "the transcript item by item, objects with those of role, content, message, user_id, timestamp, time,"
        " end_time, seconds_from_start and duration that are known; null when there is none",
        "call",
    ),
    Column("task", "json", "task", "what the agent was asked to do, as sent"),
    Column("input", "json", "input", "the document it was created with, as sent"),
    Column("output", "json", "output", "what came of it, as sent; the `call_` columns are read from it"),
    Column("attachments", "json", "attachments", "attachments, as sent"),
    Column("user_info", "json", "user_info", "who created it, as sent"),
    _EXTRA,
)

COLUMNS: Mapping[Rows, tuple[Column, ...]] = {"runs": _RUNS, "tasks": _TASKS}


def describe(kind: Rows) -> list[tuple[str, Kind, str]]:
    """(name, type, meaning) of each column, in order."""
    return [(column.name, column.kind, column.meaning) for column in COLUMNS[kind]]
