"""What a listing is: where it is, what its rows are, what tells them apart, and which are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from unpod_async._http import Endpoint, TimeWindow, check_str_or_list
from unpod_async._http import endpoints as _paths
from unpod_async.errors import InvalidArgument
from unpod_async.models import Run, Task

__all__ = ["Listing", "Status", "run_tasks", "space_runs", "status_filter"]

T = TypeVar("T")

Status: TypeAlias = str | Sequence[str] | None
"""One task or run status, several, or None for all; filtered on the client."""


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """One listing of the platform, ready to be walked.

    Attributes:
        endpoint: where it is.
        model: struct of a row.
        identity: attributes that name a row; the first that is text counts.
        paged: whether the server takes `page` and `page_size`.
        tied: rows of equal `created` have no fixed order.
        query: filters the server applies.
        run_id: the run every row must belong to, or None.
        statuses, window: filters applied here.
        needs_org: refused before sending when the Org-Handle is not known.
    """

    endpoint: Endpoint
    model: type[T]
    identity: tuple[str, ...]
    paged: bool = True
    tied: bool = False
    query: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    run_id: str | None = None
    statuses: frozenset[str] | None = None
    window: TimeWindow | None = None
    needs_org: bool = False

    @property
    def filters_here(self) -> bool:
        return self.statuses is not None or self.window is not None

    def key_of(self, row: Any) -> str | None:
        for name in self.identity:
            value = getattr(row, name)
            if isinstance(value, str) and value:
                return value
        return None

    def is_foreign(self, row: Any) -> bool:
        # In a row that is not decoded they may be of any type: those name no run and no status.
        return self.run_id is not None and isinstance(row.run_id, str) and row.run_id != self.run_id

    def keeps(self, row: Any) -> bool:
        if self.statuses is not None and not (isinstance(row.status, str) and row.status in self.statuses):
            return False
        return self.window is None or self.window.contains(row.created_at)


def status_filter(status: Status) -> frozenset[str] | None:
    """`status=` as a set; one status or several, compared exactly."""
    if status is None:
        return None
    wanted = frozenset(check_str_or_list("status", status))
    if not wanted or not all(type(one) is str and one for one in wanted):
        raise InvalidArgument("status must be a status such as 'completed', or several of them")
    return wanted


def space_runs(space_token: str, status: Status = None) -> Listing[Run]:
    """The runs of one space."""
    return Listing(_paths.runs(space_token), Run, ("run_id",), statuses=status_filter(status))


def run_tasks(space_token: str, run_id: str, status: Status) -> Listing[Task]:
    """The tasks of one run."""
    return Listing(
        _paths.run_tasks(space_token, run_id),
        Task,
        ("task_id", "id"),
        run_id=run_id,
        statuses=status_filter(status),
    )
