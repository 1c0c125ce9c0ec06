"""Arguments and results of the tools. Models read their descriptions, as part of the JSON schemas."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

__all__ = [
    "MAX_DOCUMENTS",
    "Create",
    "CreateResult",
    "FindCalls",
    "FoundCall",
    "FoundCalls",
    "FoundRun",
    "FoundRuns",
    "FoundSpace",
    "FoundSpaces",
    "ListRuns",
    "ListSpaces",
    "OpenCall",
    "RunTotals",
    "SpokenMessage",
    "SummarizeRun",
    "Transcript",
    "TranscriptPage",
    "WaitForRun",
    "WaitResult",
    "schema_of",
]

MAX_DOCUMENTS: Final = 100
"""Maximum number of calls in one create."""

_Space: TypeAlias = Annotated[
    str, Meta(description="Token of the space, as list_spaces returns it.", min_length=1)
]
_Run: TypeAlias = Annotated[str, Meta(description="Id of the run, as list_runs returns it.", min_length=1)]
_Limit: TypeAlias = Annotated[int, Meta(description="Maximum number of rows to return.", ge=1, le=100)]
_Cursor: TypeAlias = Annotated[
    str | None,
    Meta(
        description="To get the next rows, pass the next_cursor of the previous result, with all other "
        "arguments unchanged. Omit it to get the first rows."
    ),
]
_NextCursor: TypeAlias = Annotated[
    str | None,
    Meta(description="Pass it as cursor to get the next rows. Null if there are no more rows."),
]
_Warning: TypeAlias = Annotated[str | None, Meta(description="What is missing from this result, and why.")]
_Time: TypeAlias = Annotated[datetime, Meta(tz=True)]
_Counts: TypeAlias = dict[str, int]


class _Arguments(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base class of the arguments of a tool."""


class _Result(msgspec.Struct, kw_only=True):
    """Base class of results and their parts."""


# -- spaces and runs ----------------------------------------------------------------------------------------


class ListSpaces(_Arguments):
    limit: _Limit = 20
    cursor: _Cursor = None


class FoundSpace(_Result):
    space: Annotated[str | None, Meta(description="Token of the space, which the other tools need.")]
    name: str | None = None
    type: str | None = None


class FoundSpaces(_Result):
    spaces: list[FoundSpace]
    next_cursor: _NextCursor = None
    warning: _Warning = None


class ListRuns(_Arguments):
    space: _Space
    status: Annotated[
        list[str] | None,
        Meta(
            description="Only runs with one of these statuses: pending, scheduled, in_progress, completed, "
            "partially_completed or failed."
        ),
    ] = None
    limit: _Limit = 20
    cursor: _Cursor = None


class FoundRun(_Result):
    run: str | None
    status: str | None = None
    calls: Annotated[int | None, Meta(description="Number of calls in the run.")] = None
    created: Annotated[str | None, Meta(description="When the run was created, in UTC.")] = None
    modified: str | None = None


class FoundRuns(_Result):
    runs: list[FoundRun]
    next_cursor: _NextCursor = None
    warning: _Warning = None


class SummarizeRun(_Arguments):
    space: _Space
    run: _Run


class RunTotals(_Result):
    run: str
    status: str | None
    ended: Annotated[bool, Meta(description="Whether the run and all its calls have ended.")]
    calls: Annotated[_Counts, Meta(description="Number of calls by status of the call.")]
    outcomes: Annotated[
        _Counts, Meta(description="Number of calls by outcome. Calls without one are left out.")
    ]
    duration_seconds: Annotated[
        float | None, Meta(description="Total duration of the calls, in seconds.")
    ] = None
    cost_usd: Annotated[float | None, Meta(description="Total cost of the calls, in US dollars.")] = None
    created: str | None = None
    modified: str | None = None
    warning: _Warning = None


class WaitForRun(_Arguments):
    space: _Space
    run: _Run
    timeout_seconds: Annotated[
        float,
        Meta(description="Maximum number of seconds to wait. After them, ended is false.", gt=0, le=600),
    ] = 50


class OpenCall(_Result):
    call: str | None
    status: str | None


class WaitResult(_Result):
    run: str
    status: str | None
    ended: Annotated[bool, Meta(description="Whether the run and all its calls have ended.")]
    calls: Annotated[_Counts, Meta(description="Number of calls by status of the call.")]
    open_calls: Annotated[list[OpenCall], Meta(description="Calls that have not ended, at most 20.")]
    more_open_calls: Annotated[int, Meta(description="Number of open calls that are not in open_calls.")] = 0
    warning: _Warning = None


# -- calls --------------------------------------------------------------------------------------------------


class FindCalls(_Arguments):
    space: _Space
    run: Annotated[
        str | None, Meta(description="Only calls of this run. It cannot be combined with search.")
    ] = None
    status: Annotated[
        list[str] | None,
        Meta(
            description="Only calls with one of these statuses: pending, scheduled, in_progress, "
            "processing, hold, completed or failed."
        ),
    ] = None
    outcome: Annotated[
        list[str] | None,
        Meta(
            description="Only calls with one of these outcomes, such as Interested; case-sensitive. "
            "run_summary shows the outcomes that occur."
        ),
    ] = None
    search: Annotated[
        str | None,
        Meta(
            description="Only calls whose name or phone number matches this case-insensitive regular "
            "expression."
        ),
    ] = None
    created_from: Annotated[
        _Time | None,
        Meta(description="Only calls created at this time or later, such as 2030-01-31T00:00:00Z."),
    ] = None
    created_to: Annotated[
        _Time | None,
        Meta(description="Only calls created at this time or earlier, such as 2030-01-31T23:59:59Z."),
    ] = None
    limit: _Limit = 20
    cursor: _Cursor = None


class FoundCall(_Result):
    call: Annotated[str | None, Meta(description="Id of the call, which transcript needs.")]
    run: str | None = None
    status: str | None = None
    outcome: str | None = None
    name: Annotated[
        str | None, Meta(description="Name of the person. Null unless the server shows contact data.")
    ] = None
    number: Annotated[
        str | None, Meta(description="Phone number. Null unless the server shows contact data.")
    ] = None
    ref_id: Annotated[
        str | None, Meta(description="The document_id of the document that the call was created with.")
    ] = None
    agent: str | None = None
    created: str | None = None
    duration_seconds: float | None = None
    cost_usd: float | None = None
    summary: Annotated[str | None, Meta(description="Summary of the call: its first 300 characters.")] = None
    error: Annotated[str | None, Meta(description="Why the call failed.")] = None
    has_transcript: bool = False


class FoundCalls(_Result):
    calls: list[FoundCall]
    next_cursor: _NextCursor = None
    warning: _Warning = None


class Transcript(_Arguments):
    space: _Space
    call: Annotated[str, Meta(description="Id of the call, as find_calls returns it.", min_length=1)]
    run: Annotated[
        str | None,
        Meta(description="Id of the run of the call. It makes the search for the call much faster."),
    ] = None
    first: Annotated[
        int, Meta(description="Number of the first message to return, counted from 0.", ge=0)
    ] = 0


class SpokenMessage(_Result):
    role: Annotated[str | None, Meta(description="Who speaks, such as assistant or user.")]
    text: str


class TranscriptPage(_Result):
    call: str
    run: str | None
    status: str | None
    outcome: str | None
    summary: str | None
    messages: list[SpokenMessage]
    more_messages: Annotated[
        int,
        Meta(
            description="Number of messages after these. To get them, call transcript again with "
            "first=next_first."
        ),
    ] = 0
    next_first: int | None = None


# -- placing calls ------------------------------------------------------------------------------------------

_DOCUMENT: Final[dict[str, Any]] = {
    "required": ["name", "contact_number"],
    "properties": {
        "name": {"type": "string", "description": "Name of the person to call."},
        "contact_number": {
            "type": "string",
            "description": "Phone number with its country code, such as +15550100.",
        },
        "document_id": {"type": "string", "description": "Your own id, to find the call again."},
    },
}
_Document: TypeAlias = Annotated[dict[str, Any], Meta(extra_json_schema=_DOCUMENT)]


class Create(_Arguments):
    space: _Space
    agent: Annotated[str, Meta(description="Handle of the agent that makes the calls.", min_length=1)]
    context: Annotated[str, Meta(description="Tells the agent what the calls are about.", min_length=1)]
    documents: Annotated[
        list[_Document],
        Meta(
            description="One document for each call. Further keys are passed to the agent.",
            min_length=1,
            max_length=MAX_DOCUMENTS,
        ),
    ]
    schedule: Annotated[
        str,
        Meta(
            description="now, auto (the service chooses the time), or a time such as "
            "2030-01-31T10:00:00+05:30."
        ),
    ] = "now"
    confirmation: Annotated[
        str | None,
        Meta(
            description="Omit it for a dry run, which sends nothing and returns a confirmation. To place the "
            "calls after the user has agreed, pass that confirmation with exactly the same arguments."
        ),
    ] = None


class CreateResult(_Result):
    state: Annotated[
        Literal["dry_run", "created", "partial", "not_found", "unclear", "unknown"],
        Meta(
            description="dry_run: nothing was sent. created: all calls are queued. Any other state: the "
            "request was sent and its response was lost, so calls may be queued. Never send them again."
        ),
    ]
    message: Annotated[str, Meta(description="What happened, and what to do next.")]
    calls: Annotated[int, Meta(description="Number of calls in the request.")]
    confirmation: Annotated[
        str | None, Meta(description="Only after a dry run: pass it to create to place the calls.")
    ] = None
    run: str | None = None
    found_calls: Annotated[int | None, Meta(description="Number of calls that are known to be queued.")] = (
        None
    )


def schema_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the JSON schema of a struct, with an object at its root."""
    (_,), parts = msgspec.json.schema_components((struct,), ref_template="#/$defs/{name}")
    root = dict(parts.pop(struct.__name__))
    root.pop("title", None)
    root.pop("description", None)
    return {**root, "$defs": parts} if parts else root
