"""Ids checked, endpoint paths built, and time bounds turned into query parameters.

Ids go into paths, where `..`, `/`, `?`, `#` and `%` reach other endpoints: such ids are refused here, before
anything is sent. Every path ends with a slash, since without it the server redirects, and a redirected POST
becomes a GET.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

import msgspec

from unpod_async._http.validate import check_aware_datetime, check_id
from unpod_async.errors import InvalidArgument

__all__ = [
    "Endpoint",
    "TimeWindow",
    "agent_tasks",
    "agents",
    "organizations",
    "run_tasks",
    "runs",
    "space",
    "space_tasks",
    "spaces",
    "unix_bounds",
]

# Characters of an id that stand in a path as they are; the others are quoted.
_PLAIN: Final = "!$&'()*+,;=:@~"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)


class Endpoint(msgspec.Struct, frozen=True):
    """One address of the platform.

    Attributes:
        path: relative to the platform root, with a trailing slash and already quoted.
        template: the path with names in place of ids, for logs and metrics.
        label: a piece of a sentence for people, such as "runs of space X".
    """

    path: str
    template: str
    label: str


def organizations() -> Endpoint:
    """All organizations of the account."""
    return Endpoint("organizations/", "organizations/", "organizations")


def spaces() -> Endpoint:
    """All spaces of the organization."""
    return Endpoint("spaces/", "spaces/", "spaces")


def space(space_token: object) -> Endpoint:
    """One space."""
    token = check_id("space_token", space_token)
    return Endpoint(f"spaces/{_quoted(token)}/", "spaces/{space_token}/", f"space {token}")


def agents() -> Endpoint:
    """All agents of the organization."""
    return Endpoint("agents/", "agents/", "agents")


def agent_tasks(agent_handle: object) -> Endpoint:
    """The tasks of one agent."""
    handle = check_id("agent_handle", agent_handle)
    path = f"agents/{_quoted(handle)}/tasks/"
    return Endpoint(path, "agents/{agent_handle}/tasks/", f"tasks of agent {handle}")


def runs(space_token: object) -> Endpoint:
    """The runs of one space."""
    token = check_id("space_token", space_token)
    path = f"spaces/{_quoted(token)}/runs/"
    return Endpoint(path, "spaces/{space_token}/runs/", f"runs of space {token}")


def run_tasks(space_token: object, run_id: object) -> Endpoint:
    """The tasks of one run."""
    token = check_id("space_token", space_token)
    run = check_id("run_id", run_id)
    path = f"spaces/{_quoted(token)}/runs/{_quoted(run)}/tasks/"
    label = f"tasks of run {run} in space {token}"
    return Endpoint(path, "spaces/{space_token}/runs/{run_id}/tasks/", label)


def space_tasks(space_token: object) -> Endpoint:
    """The tasks of one space; a POST here creates tasks."""
    token = check_id("space_token", space_token)
    path = f"spaces/{_quoted(token)}/tasks/"
    return Endpoint(path, "spaces/{space_token}/tasks/", f"tasks of space {token}")


def _quoted(text: str) -> str:
    return text if text.isalnum() else quote(text, safe=_PLAIN)


class TimeWindow(msgspec.Struct, frozen=True):
    """Creation times from `created_from` to `created_to`, both inclusive; None leaves a side open.

    Raises:
        InvalidArgument: a bound is no datetime or has no zone, or `created_from` is after `created_to`.
    """

    created_from: datetime | None = None
    created_to: datetime | None = None

    def __post_init__(self) -> None:
        first = _check_bound("created_from", self.created_from)
        last = _check_bound("created_to", self.created_to)
        if first is not None and last is not None and first > last:
            raise InvalidArgument("created_from is after created_to", argument="created_from")

    def contains(self, created: datetime | None) -> bool:
        """Whether a row created then belongs here; a time without a zone is UTC, as the server means it.

        True for None: the server matched that row by a time that cannot be read here.
        """
        if created is None:
            return True
        if created.utcoffset() is None:
            created = created.replace(tzinfo=UTC)
        age = created - _EPOCH
        after = self.created_from is None or self.created_from - _EPOCH <= age
        before = self.created_to is None or age <= self.created_to - _EPOCH
        return after and before


def unix_bounds(created_from: datetime | None, created_to: datetime | None) -> dict[str, str]:
    """The query parameters `from_ts` and `to_ts`: whole unix seconds that take in the window and at most a
    second more on each side, so `TimeWindow.contains` has the last word on every row.

    Raises:
        InvalidArgument: as `TimeWindow`.
    """
    window = TimeWindow(created_from, created_to)
    query: dict[str, str] = {}
    # Not below zero: the server silently drops what it does not read as a number of seconds.
    if window.created_from is not None:
        query["from_ts"] = str(max(0, (window.created_from - _EPOCH) // _SECOND))
    if window.created_to is not None:
        query["to_ts"] = str(max(0, -((_EPOCH - window.created_to) // _SECOND)))
    return query


def _check_bound(name: str, value: object) -> timedelta | None:
    if value is None:
        return None
    # Two datetimes of one zone compare by wall clock, which runs twice through an hour in autumn, and
    # astimezone() overflows at the ends of the calendar: the distance to the epoch has neither fault.
    return check_aware_datetime(name, value) - _EPOCH
