"""Models of the rows of the API: frozen msgspec structs.

Every field is optional and None if the service omits it or sends null. Attributes have the names of the JSON
keys, except `_id`, which is `id`. Other keys are ignored. Ids are strings even if they consist of digits.
Statuses are plain strings, because the service adds new ones.

Times are kept as sent (`created`). Each has a property with the suffix `_at` (`created_at`): the same time as
a timezone-aware datetime in UTC, or None if it is not a time. Reading it never raises.

`row.to_dict()` and `row.to_json()` return everything as standard types, without the access tokens of users.
`msgspec.to_builtins` does not support these rows, because the output of a task is kept as JSON.
`msgspec.json.encode` does, and its result contains the access token in `user_info`.

The `repr` of a row is short and safe to log. Rows can be pickled, copied and hashed. Two rows are equal if
all their fields are.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar

import msgspec

from unpod_async._call_output import Call, Record, TranscriptMessage, parse_duration, read_call
from unpod_async._common import MAX_DEPTH, is_value_too_deep, parse_time, shorten
from unpod_async.errors import DecodeError

__all__ = [
    "Agent",
    "AgentExecution",
    "Call",
    "CallLog",
    "CreatedRun",
    "Organization",
    "Run",
    "Space",
    "Task",
    "TranscriptMessage",
    "UserInfo",
]


class Organization(Record, kw_only=True, frozen=True, gc=False):
    """An organization. Documented in "Get All Organizations". In a `Space`, it has only some fields.

    Attributes:
        domain_handle: the handle to pass to the client as `org_handle`.
        role: the role of the token's user ("owner").
    """

    _brief: ClassVar[tuple[str, ...]] = ("name", "domain_handle")

    name: str | None = None
    token: str | None = None
    domain: str | None = None
    domain_handle: str | None = None
    is_private_domain: bool | None = None
    role: str | None = None


class Agent(Record, kw_only=True, frozen=True, gc=False):
    """A voice agent. Documented in "Tasks API", Get All Agents. In a `Space`, it has only some fields.

    Attributes:
        handle: identifies the agent in requests, also as the pilot of a create.
        type: "Voice", "Chat" or another value that the server sends.
        state: "published", "draft", "archived" or another value that the server sends.
    """

    _brief: ClassVar[tuple[str, ...]] = ("handle", "name", "type", "state")

    handle: str | None = None
    name: str | None = None
    type: str | None = None
    state: str | None = None
    description: str | None = None
    purpose: str | None = None


class Space(Record, kw_only=True, frozen=True, gc=False):
    """A space. Documented in "Get All Spaces". `agents` and the times are sent only by `spaces.get`.

    Attributes:
        token: identifies the space in requests.
        created, modified: as sent; see `created_at` and `modified_at`.
    """

    _brief: ClassVar[tuple[str, ...]] = ("name", "slug")

    name: str | None = None
    slug: str | None = None
    token: str | None = None
    description: str | None = None
    logo: str | None = None
    privacy_type: str | None = None
    space_type: str | None = None
    content_type: str | None = None
    organization: Organization | None = None
    agents: list[Agent] | None = None
    created: str | None = None
    modified: str | None = None

    @property
    def created_at(self) -> datetime | None:
        """`created` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.created)

    @property
    def modified_at(self) -> datetime | None:
        """`modified` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.modified)


class Run(Record, kw_only=True, frozen=True, gc=False):
    """A batch of tasks. Documented in "Runs API".

    Attributes:
        user: id of the user who created the run.
        status: "pending", "scheduled", "in_progress", "completed", "partially_completed", "failed" or another
            value that the server sends. A status can also return to an earlier value.
        batch_count: the number of tasks in the run.
        created, modified: as sent; see `created_at` and `modified_at`.
    """

    _brief: ClassVar[tuple[str, ...]] = ("run_id", "status", "created")

    id: str | None = msgspec.field(name="_id", default=None)
    space_id: str | None = None
    user: str | None = None
    thread_id: str | None = None
    run_id: str | None = None
    collection_ref: str | None = None
    run_mode: str | None = None
    status: str | None = None
    batch_count: int | None = None
    created: str | None = None
    modified: str | None = None

    @property
    def created_at(self) -> datetime | None:
        """`created` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.created)

    @property
    def modified_at(self) -> datetime | None:
        """`modified` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.modified)


class UserInfo(Record, kw_only=True, frozen=True, gc=False):
    """The user who created a task. Documented in "Tasks API". Its `repr` shows only `id`.

    Attributes:
        user_token: an access token of that user, which is a secret.
        location: the origin of the request, including an IP address.
    """

    _brief: ClassVar[tuple[str, ...]] = ("id",)

    id: str | None = None
    email: str | None = None
    full_name: str | None = None
    user_token: str | None = None
    location: dict[str, Any] | None = None


# No gc=False here: msgspec cannot combine it with the instance dict that the cached properties need.
class Task(Record, kw_only=True, frozen=True, dict=True):
    """A task of a run: a call or another unit of work.

    Documented in "Tasks API", "Runs API", "Get Tasks by Agent Handle", "Get Tasks by Space Token" and "Get
    Detailed Tasks for a Specific Run". Which fields the server sends depends on the listing: `failure_count`
    and the fields after it are sent only for the tasks of an agent.

    Attributes:
        id: id of the stored document, which most listings omit. Use `task_id` to identify a task.
        task: the instructions for the agent (`objective`).
        input: the document of the create, with keys that the server adds (`token`, `quality`).
        output_json: the JSON of the output, as sent; see `output` and `call`.
        assignee: handle of the agent.
        status: "pending", "scheduled", "in_progress", "processing", "hold", "completed", "failed" or another
            value that the server sends. A status can return to an earlier value: failed tasks are retried.
        ref_id: the `id`, or else the `document_id`, of the document with which the task was created.
        run_mode: always "dev" in listings of a space, where it has no meaning.
        created, modified, last_status_change: as sent; see `created_at` and so on.
        scheduled_timestamp: unix seconds, as sent; see `scheduled_timestamp_at`.
    """

    _brief: ClassVar[tuple[str, ...]] = ("task_id", "run_id", "status", "created")

    id: str | None = msgspec.field(name="_id", default=None)
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
    output_json: msgspec.Raw = msgspec.field(name="output", default=msgspec.Raw(b"null"))
    attachments: list[Any] | None = None
    ref_id: str | None = None
    assignee: str | None = None
    run_mode: str | None = None
    status: str | None = None
    created: str | None = None
    modified: str | None = None
    failure_count: int | None = None
    last_failure_reason: str | None = None
    provider: str | None = None
    retry_attempt: int | None = None
    last_status_change: str | None = None
    scheduled_timestamp: int | float | str | None = None

    @cached_property
    def output(self) -> Any:
        """The complete output, decoded on first use: a dict, empty until the call has ended, or None.

        Raises:
            DecodeError: the output is not valid JSON, or the task with its output has more than 500 levels of
                arrays and objects.
        """
        reason = "it is nested too deeply"
        try:
            output = msgspec.json.decode(self.output_json)
            if len(self.output_json) < 2 * MAX_DEPTH or not is_value_too_deep(output, MAX_DEPTH - 1):
                return output
        except RecursionError:
            pass
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = shorten(str(error))
        # Outside the handlers: otherwise the context of the exception would keep and show the output.
        raise DecodeError(f"the output of task {shorten(self.task_id or '?')} cannot be decoded: {reason}")

    @cached_property
    def call(self) -> Call | None:
        """The output as a `Call`, or None if it is empty, not sent or not a JSON object.

        Raises:
            DecodeError: as `output`. Other unexpected content raises no error.
        """
        return read_call(self.output)

    @property
    def created_at(self) -> datetime | None:
        """`created` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.created)

    @property
    def modified_at(self) -> datetime | None:
        """`modified` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.modified)

    @property
    def last_status_change_at(self) -> datetime | None:
        """`last_status_change` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.last_status_change)

    @property
    def scheduled_timestamp_at(self) -> datetime | None:
        """`scheduled_timestamp` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.scheduled_timestamp)


class CreatedRun(Record, kw_only=True, frozen=True, gc=False):
    """The response to a create, in either form that the service sends.

    Documented in "Tasks API", Create a Task in a Space.

    Attributes:
        run_id: the created run.
        status: the status of each task by task id, or one status of the run.
        task_ids: the created tasks; None in the documented form, which does not list them.
        space_id, created, id: sent only in the documented form; see `created_at`.
    """

    _brief: ClassVar[tuple[str, ...]] = ("run_id", "created")

    def _shown(self) -> Iterator[tuple[str, Any]]:
        # In the other form, `created=None` would look as if nothing had been created.
        yield from (shown for shown in super()._shown() if shown != ("created", None))
        if self.task_ids is not None:
            yield "tasks", len(self.task_ids)

    run_id: str | None = None
    task_ids: list[str] | None = None
    status: str | dict[str, str] | None = None
    space_id: str | None = None
    created: str | None = None
    id: str | None = msgspec.field(name="_id", default=None)

    @property
    def created_at(self) -> datetime | None:
        """`created` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.created)


class CallLog(Record, kw_only=True, frozen=True, gc=False):
    """One call of the organization. Documented in "Call Logs". Which fields are sent depends on the server.

    Attributes:
        id: sent by older servers.
        source_number, destination_number: phone numbers, which `repr` does not show.
        call_type: "inbound" or "outbound".
        call_status: "completed", "missed", "failed" or another value that the server sends.
        creation_time, start_time, end_time: as sent; see `creation_time_at` and so on.
        call_duration: as sent: a number of seconds, or a string such as "0:05:25"; see `duration`.
        agent, space, bridge: objects with `id` and `name`, as sent.
    """

    _brief: ClassVar[tuple[str, ...]] = ("id", "call_type", "call_status", "creation_time")

    id: int | str | None = None
    source_number: str | None = None
    destination_number: str | None = None
    call_type: str | None = None
    call_status: str | None = None
    creation_time: str | None = None
    start_time: str | None = None
    end_time: str | None = None
    call_duration: int | float | str | None = None
    end_reason: str | None = None
    agent: dict[str, Any] | str | None = None
    space: dict[str, Any] | str | None = None
    bridge: dict[str, Any] | str | None = None

    @property
    def duration(self) -> float | None:
        """`call_duration` in seconds, or None if it is not a duration."""
        return parse_duration(self.call_duration)

    @property
    def created_at(self) -> datetime | None:
        """`creation_time_at`, or else `start_time_at`: the time that a filter by time compares."""
        return self.creation_time_at or self.start_time_at

    @property
    def creation_time_at(self) -> datetime | None:
        """`creation_time` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.creation_time)

    @property
    def start_time_at(self) -> datetime | None:
        """`start_time` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.start_time)

    @property
    def end_time_at(self) -> datetime | None:
        """`end_time` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.end_time)


class AgentExecution(Record, kw_only=True, frozen=True, gc=False):
    """A run of an agent. Documented in "Agent Executions"; not every server offers it.

    Attributes:
        status: "completed", "running", "failed", "pending" or another value that the server sends.
        created: as sent; see `created_at`.
    """

    _brief: ClassVar[tuple[str, ...]] = ("run_id", "status", "created")

    run_id: str | None = None
    status: str | None = None
    total_tasks: int | None = None
    completed_tasks: int | None = None
    created: str | None = None

    @property
    def created_at(self) -> datetime | None:
        """`created` as a timezone-aware datetime in UTC, or None."""
        return parse_time(self.created)
