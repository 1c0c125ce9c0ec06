"""`Listing`: the endpoint of a listing, the model and identity of its rows, and its filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from unpod_async._common import RunStatus, TaskStatus
from unpod_async._http import Endpoint, TimeWindow, check_str_or_list, endpoints
from unpod_async.errors import InvalidArgument
from unpod_async.models import Run, Task

__all__ = [
    "Listing",
    "RowKey",
    "RunStatusFilter",
    "TaskStatusFilter",
    "run_tasks",
    "space_runs",
    "status_filter",
]

T = TypeVar("T")

RunStatusFilter: TypeAlias = RunStatus | str | Sequence[RunStatus | str] | None
"""One status of runs, several, or None for all; filtered on the client. Editors suggest the known ones."""

TaskStatusFilter: TypeAlias = TaskStatus | str | Sequence[TaskStatus | str] | None
"""The same for statuses of tasks."""


RowKey: TypeAlias = str | Callable[[Any], object]
"""What identifies a row: a key of its JSON object, or a function of the decoded row."""


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """Description of one listing of the service.

    Attributes:
        endpoint: path and label.
        model: struct of a row.
        identity: attributes that can identify a row; the first one that is a non-empty string is the key.
            Empty for a custom listing, whose rows are identified by `key`.
        key: identifies the rows of a custom listing. A row that it does not identify is identified by its
            bytes, and by their number if several rows of a response are equal.
        keyed: rows are identified. If not, the listing is read once, without the guarantees of a walk.
        paged: the server accepts `page` and `page_size`.
        tied: rows with the same `created` have no fixed order.
        query: filters that the server applies.
        run_id: the run to which every row must belong, or None.
        statuses: client-side filter by status, or None.
        window: client-side filter by creation time, or None.
        needs_org: the request needs an Org-Handle.
    """

    endpoint: Endpoint
    model: type[T]
    identity: tuple[str, ...] = ()
    key: RowKey | None = None
    keyed: bool = True
    paged: bool = True
    tied: bool = False
    query: Mapping[str, str] = {}
    run_id: str | None = None
    statuses: frozenset[str] | None = None
    window: TimeWindow | None = None
    needs_org: bool = False

    @property
    def is_filtered(self) -> bool:
        """Whether rows are filtered on the client."""
        return self.statuses is not None or self.window is not None

    @property
    def strict_fields(self) -> frozenset[str]:
        """Fields that must have their type.

        They identify, filter and order rows. `ref_id` and `input` identify the calls of a create: without
        them, an existing call would not be found.
        """
        ordered = {"created"} if self.tied or self.window is not None else set[str]()
        return frozenset({*self.identity, "id", "task_id", "run_id", "ref_id", "input", "status", *ordered})

    def key_of(self, row: Any) -> str | None:
        """Return the key of a row, or None if it has none."""
        for name in self.identity:
            value = getattr(row, name)
            if isinstance(value, str) and value:
                return value
        return None

    def keeps(self, row: Any) -> bool:
        """Whether the client-side filters keep a row."""
        # Fields of a row that is not decoded into the model can have any type.
        if self.statuses is not None and not (isinstance(row.status, str) and row.status in self.statuses):
            return False
        return self.window is None or self.window.contains(row.created_at)


def status_filter(status: str | Sequence[str] | None) -> frozenset[str] | None:
    """Return the argument `status` as a set, or None if it is None. Statuses are compared exactly.

    Raises:
        InvalidArgument: it is empty, or contains something other than strings.
    """
    if status is None:
        return None
    statuses = frozenset(check_str_or_list("status", status))
    if not statuses or not all(type(one) is str and one for one in statuses):
        raise InvalidArgument(
            "status must be a status such as 'completed', or a list of statuses", argument="status"
        )
    return statuses


def space_runs(space_token: str, status: RunStatusFilter = None) -> Listing[Run]:
    """Return the listing of all runs of a space."""
    statuses = None if status is None else status_filter(status)
    return Listing(endpoints.runs(space_token), Run, ("run_id",), statuses=statuses)


def run_tasks(space_token: str, run_id: str, status: TaskStatusFilter = None) -> Listing[Task]:
    """Return the listing of all tasks of a run."""
    return Listing(
        endpoints.run_tasks(space_token, run_id),
        Task,
        ("task_id", "id"),
        run_id=run_id,
        statuses=None if status is None else status_filter(status),
    )
