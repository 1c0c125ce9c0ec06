"""Tasks fully typed, output included, as one would write them by hand for speed."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Runs", "Tasks", "TypedTask"]


class RunHead(msgspec.Struct, gc=False):
    run_id: str


class Runs(msgspec.Struct, gc=False):
    data: list[RunHead]
    count: int


class UserInfo(msgspec.Struct, gc=False):
    id: str | None = None
    email: str | None = None
    full_name: str | None = None
    user_token: str | None = None
    location: dict[str, Any] | None = None


class Line(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | None = None
    message: str | None = None
    user_id: str | None = None
    timestamp: str | None = None
    time: float | None = None
    endTime: float | None = None  # noqa: N815 - the name on the wire
    secondsFromStart: float | None = None  # noqa: N815 - the name on the wire


class Output(msgspec.Struct, gc=False, rename={"type_": "type", "id_": "id"}):
    """Both shapes of an output in one."""

    id_: str | None = None
    call_id: str | None = None
    assistantId: str | None = None  # noqa: N815 - the name on the wire
    type_: str | None = None
    startedAt: str | None = None  # noqa: N815 - the name on the wire
    endedAt: str | None = None  # noqa: N815 - the name on the wire
    start_time: str | None = None
    end_time: str | None = None
    duration: float | str | None = None
    transcript: str | list[Line] | None = None
    messages: list[Line] | None = None
    recordingUrl: str | None = None  # noqa: N815 - the name on the wire
    recording_url: str | None = None
    summary: str | None = None
    call_summary: str | None = None
    cost: float | None = None
    status: str | None = None
    endedReason: str | None = None  # noqa: N815 - the name on the wire
    call_end_reason: str | None = None
    customer: str | dict[str, Any] | None = None
    contact_number: str | None = None
    assistant_number: str | None = None
    costBreakdown: dict[str, float] | None = None  # noqa: N815 - the name on the wire
    analysis: dict[str, Any] | None = None
    artifact: dict[str, Any] | None = None
    post_call_data: dict[str, Any] | None = None
    call_type: str | None = None
    call_status: str | None = None
    metadata: dict[str, Any] | None = None
    phoneCallProvider: str | None = None  # noqa: N815 - the name on the wire
    error: str | None = None


class TypedTask(msgspec.Struct, gc=False):
    space_id: str | None = None
    user: str | None = None
    user_org_id: str | None = None
    user_info: UserInfo | None = None
    thread_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    collection_ref: str | None = None
    execution_type: str | None = None
    task: dict[str, Any] | None = None
    input: dict[str, Any] | None = None
    output: Output | None = None
    attachments: list[Any] | None = None
    ref_id: str | None = None
    assignee: str | None = None
    run_mode: str | None = None
    status: str | None = None
    created: str | None = None
    modified: str | None = None


class Tasks(msgspec.Struct, gc=False):
    data: list[TypedTask]
    count: int
