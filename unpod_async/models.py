"""The rows of the API, as frozen msgspec structs.

Every field is optional: the service leaves keys out and sends null at will, and what is not there is None.
Attributes have the names of the wire, save `_id`, which is `id`. Keys not named here are skipped. Ids are
texts even when they are digits, and statuses are plain texts, because the service adds new ones.

Times stay as sent (`created`); beside each there is the same name with `_at` (`created_at`): an aware
datetime in UTC, or None when there is no time in it. Reading it never raises.

Reprs are short and safe to log. Rows pickle, copy and hash; two rows are equal when all they hold is.
"""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar

import msgspec

from unpod_async._call_output import Call, Record, TranscriptMessage, read_call
from unpod_async._common import parse_time, shorten
from unpod_async.errors import DecodeError

__all__ = [
    "Agent",
    "Call",
    "CreatedRun",
    "Organization",
    "Run",
    "Space",
    "Task",
    "TranscriptMessage",
    "UserInfo",
]


class Organization(Record, kw_only=True, frozen=True, gc=False):
    """An organization. Documented in "Get All Organizations"; inside a space only some fields are sent.

    Attributes:
        domain_handle: what the client's Org-Handle has to be.
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
    """A voice agent. Documented in "Tasks API", Get All Agents; inside a space only some fields are sent.

    Attributes:
        handle: what the agent is addressed by, also as the pilot of a create.
        type: "Voice", "Chat" or another text of the server.
        state: "published", "draft", "archived" or another text of the server.
    """

    _brief: ClassVar[tuple[str, ...]] = ("handle", "name", "type", "state")

    handle: str | None = None
    name: str | None = None
    type: str | None = None
    state: str | None = None
    description: str | None = None
    purpose: str | None = None


class Space(Record, kw_only=True, frozen=True, gc=False):
    """A space. Documented in "Get All Spaces"; `agents` and the times come with a single space only.

    Attributes:
        token: what the space is addressed by.
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
        """`created` as an aware datetime in UTC, or None."""
        return parse_time(self.created)

    @property
    def modified_at(self) -> datetime | None:
        """`modified` as an aware datetime in UTC, or None."""
        return parse_time(self.modified)


class Run(Record, kw_only=True, frozen=True, gc=False):
    """A batch of tasks. Documented in "Runs API".

    Attributes:
        user: id of the user who created the run.
        status: "pending", "scheduled", "in_progress", "completed", "partially_completed", "failed" or another
            text of the server. It does not only go forward.
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
        """`created` as an aware datetime in UTC, or None."""
        return parse_time(self.created)

    @property
    def modified_at(self) -> datetime | None:
        """`modified` as an aware datetime in UTC, or None."""
        return parse_time(self.modified)


class UserInfo(Record, kw_only=True, frozen=True, gc=False):
    """Who created a task. Documented in "Tasks API". Only `id` is ever shown in a repr.

    Attributes:
        user_token: an access token of that user: a secret.
        location: where the request came from, with an IP address.
    """

    _brief: ClassVar[tuple[str, ...]] = ("id",)

    id: str | None = None
    email: str | None = None
    full_name: str | None = None
    user_token: str | None = None
    location: dict[str, Any] | None = None


# No gc=False here: msgspec does not combine it with the instance dict that the cached properties need.
class Task(Record, kw_only=True, frozen=True, dict=True):
    """One call or other piece of work of a run.

    Documented in "Tasks API", "Runs API", "Get Tasks by Agent Handle", "Get Tasks by Space Token" and "Get
    Detailed Tasks for a Specific Run". Which fields come depends on the listing; the ones from
    `failure_count` on come with the tasks of an agent only.

    Attributes:
        id: the document's id; most listings do not send it. `task_id` is the one to go by.
        task: what the agent was asked to do (`objective`).
        input: the document the task was created with, with keys of the server added (`token`, `quality`).
        output_json: the output's JSON, as sent; see `output` and `call`.
        assignee: handle of the agent.
        status: "pending", "scheduled", "in_progress", "processing", "hold", "completed", "failed" or another
            text of the server. It does not only go forward: failed tasks are tried again.
        ref_id: the `id`, or else the `document_id`, of the document the task was created with.
        run_mode: always "dev" in listings of a space; it says nothing there.
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
        """The whole output as sent, decoded on first use: a dict, empty until a call ended; None if not sent.

        Raises `DecodeError` when it is not JSON that can be read.
        """
        try:
            return msgspec.json.decode(self.output_json)
        except RecursionError:
            reason = "it is nested too deeply"
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = shorten(str(error))
        # Outside the handlers, or the exception would keep and show the output through its context.
        raise DecodeError(f"the output of task {shorten(self.task_id or '?')} cannot be decoded: {reason}")

    @cached_property
    def call(self) -> Call | None:
        """The output as a `Call`, or None when it is empty, not sent or not an object.

        Raises `DecodeError` as `output` does, and never because of what is inside the output.
        """
        return read_call(self.output)

    @property
    def created_at(self) -> datetime | None:
        """`created` as an aware datetime in UTC, or None."""
        return parse_time(self.created)

    @property
    def modified_at(self) -> datetime | None:
        """`modified` as an aware datetime in UTC, or None."""
        return parse_time(self.modified)

    @property
    def last_status_change_at(self) -> datetime | None:
        """`last_status_change` as an aware datetime in UTC, or None."""
        return parse_time(self.last_status_change)

    @property
    def scheduled_timestamp_at(self) -> datetime | None:
        """`scheduled_timestamp` as an aware datetime in UTC, or None."""
        return parse_time(self.scheduled_timestamp)


class CreatedRun(Record, kw_only=True, frozen=True, gc=False):
    """What a create answers, in either shape. Documented in "Tasks API", Create a Task in a Space.

    Attributes:
        run_id: the run that was created.
        status: the status of each task by task id, or of the whole as one text.
        task_ids: the tasks that were created; None in the documented shape, which does not name them.
        space_id, created, id: sent in the documented shape only; see `created_at`.
    """

    _brief: ClassVar[tuple[str, ...]] = ("run_id", "created")

    run_id: str | None = None
    task_ids: list[str] | None = None
    status: str | dict[str, str] | None = None
    space_id: str | None = None
    created: str | None = None
    id: str | None = msgspec.field(name="_id", default=None)

    @property
    def created_at(self) -> datetime | None:
        """`created` as an aware datetime in UTC, or None."""
        return parse_time(self.created)
