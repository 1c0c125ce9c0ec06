"""The endpoints of the platform: paths from checked ids, and query parameters.

Ids become path segments, where `..`, `/`, `?`, `#` and `%` would reach other endpoints, so they are checked
before anything is sent. Every path ends with a slash: without it the server redirects, and a redirected POST
becomes a GET.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final
from urllib.parse import quote

import msgspec

from unpod_async._common import is_before
from unpod_async._http.responses import Hint
from unpod_async._http.validate import check_aware_datetime, check_id, check_path
from unpod_async.errors import InvalidArgument

__all__ = [
    "Endpoint",
    "TimeWindow",
    "agent_executions",
    "agent_tasks",
    "agents",
    "call_logs",
    "custom",
    "day_bounds",
    "is_create_path",
    "organizations",
    "run_tasks",
    "runs",
    "space",
    "space_tasks",
    "spaces",
    "unix_bounds",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)

_WORDS: Final = re.compile(r"[a-z]{1,20}(?:[-_][a-z]{1,20})*")
"""A segment of a path that may be a name. It is an id if it follows a plural, as in `agents/support/`."""


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint of the platform.

    Attributes:
        path: percent-encoded path relative to the platform root, with a trailing slash.
        template: the path with names in place of ids, for logs and metrics.
        label: a description for error messages, such as "runs of space X".
        hints: what the reader can do about errors of this endpoint.
    """

    path: str
    template: str
    label: str
    hints: tuple[Hint, ...] = ()


def organizations() -> Endpoint:
    """All organizations of the account."""
    return Endpoint("organizations/", "organizations/", "organizations")


def spaces() -> Endpoint:
    """All spaces of the organization."""
    return Endpoint("spaces/", "spaces/", "spaces")


def space(space_token: object) -> Endpoint:
    """One space."""
    token = check_id("space_token", space_token)
    return Endpoint(f"spaces/{_segment(token)}/", "spaces/{space_token}/", f"space {token}")


def agents() -> Endpoint:
    """All agents of the organization."""
    return Endpoint("agents/", "agents/", "agents")


def agent_tasks(agent_handle: object) -> Endpoint:
    """The tasks of one agent."""
    handle = check_id("agent_handle", agent_handle)
    path = f"agents/{_segment(handle)}/tasks/"
    return Endpoint(path, "agents/{agent_handle}/tasks/", f"tasks of agent {handle}")


def agent_executions(agent_handle: object) -> Endpoint:
    """The executions of one agent. Only the documentation knows this endpoint, not the public server code."""
    handle = check_id("agent_handle", agent_handle)
    return Endpoint(
        f"agents/{_segment(handle)}/executions/",
        "agents/{agent_handle}/executions/",
        f"executions of agent {handle}",
        (
            Hint(404, "list the agent's tasks: this server does not offer executions of agents", "<html"),
            Hint(404, "check the agent handle; the server may not offer executions of agents"),
        ),
    )


def call_logs() -> Endpoint:
    """The call logs of the organization."""
    hint = Hint(400, "pass product_id=, or set UNPOD_PRODUCT_ID", "product")
    return Endpoint("call-logs/", "call-logs/", "call logs", (hint,))


def custom(path: object) -> Endpoint:
    """An endpoint that this package does not know, by its path.

    Raises:
        InvalidArgument: the path is not accepted: see `check_path`.
    """
    text = check_path("path", path)
    segments = text.split("/")
    # Ids, which may be tokens of spaces, are not logged.
    template = "/".join(
        one if not one or (_WORDS.fullmatch(one) and not previous.endswith("s")) else "{id}"
        for previous, one in zip(("", *segments), segments, strict=False)
    )
    hint = Hint(404, "the server does not have this path: check it and base_url", "<html")
    return Endpoint("/".join(map(_segment, segments)), template, text, (hint,))


def is_create_path(path: str) -> bool:
    """Return whether a POST to a checked path places calls, in either spelling of the service."""
    segments = [one.partition(";")[0].lower() for one in path.removesuffix("/").split("/")]
    return segments[:1] == ["spaces"] and segments[2:] in (["tasks"], ["tasks", "create"])


def runs(space_token: object) -> Endpoint:
    """The runs of one space."""
    token = check_id("space_token", space_token)
    path = f"spaces/{_segment(token)}/runs/"
    return Endpoint(path, "spaces/{space_token}/runs/", f"runs of space {token}")


def run_tasks(space_token: object, run_id: object) -> Endpoint:
    """The tasks of one run."""
    token = check_id("space_token", space_token)
    run = check_id("run_id", run_id)
    path = f"spaces/{_segment(token)}/runs/{_segment(run)}/tasks/"
    label = f"tasks of run {run} in space {token}"
    return Endpoint(path, "spaces/{space_token}/runs/{run_id}/tasks/", label)


def space_tasks(space_token: object) -> Endpoint:
    """The tasks of one space. A POST here creates tasks."""
    token = check_id("space_token", space_token)
    path = f"spaces/{_segment(token)}/tasks/"
    return Endpoint(path, "spaces/{space_token}/tasks/", f"tasks of space {token}")


def _segment(text: str) -> str:
    return text if text.isalnum() else quote(text, safe="!$&'()*+,;=:@~")


class TimeWindow(msgspec.Struct, frozen=True):
    """Creation times from `created_from` to `created_to`, both inclusive; None leaves a side open.

    Attributes:
        truncated: the server truncates the times of rows to whole seconds. So a row of the second of
            `created_from` belongs to the window.

    Raises:
        InvalidArgument: a bound is not a timezone-aware datetime, or `created_from` is after `created_to`.
    """

    created_from: datetime | None = None
    created_to: datetime | None = None
    truncated: bool = True

    def __post_init__(self) -> None:
        first = _since_epoch("created_from", self.created_from)
        last = _since_epoch("created_to", self.created_to)
        if first is not None and last is not None and first > last:
            raise InvalidArgument("created_from is after created_to", argument="created_from")

    def contains(self, created: datetime | None) -> bool:
        """Return whether a row created at this time belongs to the window.

        A time without a zone is UTC, as on the server. None belongs to the window: the server selected that
        row by a time that cannot be parsed here.
        """
        if created is None:
            return True
        if created.utcoffset() is None:
            created = created.replace(tzinfo=UTC)
        if self.created_from is None:
            after_start = True
        elif self.truncated:
            after_start = not is_before(created, self.created_from)
        else:
            after_start = created - _EPOCH >= self.created_from - _EPOCH
        before_end = self.created_to is None or created - _EPOCH <= self.created_to - _EPOCH
        return after_start and before_end


def unix_bounds(created_from: datetime | None, created_to: datetime | None) -> dict[str, str]:
    """Return the query parameters `from_ts` and `to_ts` for a time window.

    They are whole Unix seconds and include up to one more second on each side: the server compares them with
    times that have a fraction, and removes the fraction from the rows. `TimeWindow.contains` decides about
    each row.

    Raises:
        InvalidArgument: as `TimeWindow`.
    """
    window = TimeWindow(created_from, created_to)
    query: dict[str, str] = {}
    # Not below zero: the server silently ignores what it does not parse as a number of seconds.
    if window.created_from is not None:
        query["from_ts"] = str(max(0, (window.created_from - _EPOCH) // _SECOND))
    if window.created_to is not None:
        query["to_ts"] = str(max(0, (window.created_to - _EPOCH) // _SECOND + 1))
    return query


def day_bounds(window: TimeWindow) -> dict[str, str]:
    """Return the query parameters of call logs for a time window, in both spellings that servers read.

    They are widened to whole days in UTC. The documented `start_date` and `end_date` are ISO 8601; the public
    server code reads `start_time` and `end_time`, and ignores the others. `TimeWindow.contains` decides about
    each row.
    """
    query: dict[str, str] = {}
    if window.created_from is not None:
        day = _day((window.created_from - _EPOCH) // _DAY)
        query["start_date"] = f"{day.isoformat()}T00:00:00Z"
        query["start_time"] = f"{day.day:02}-{day.month:02}-{day.year:04} 00:00:00"
    if window.created_to is not None:
        # One more second, because the last second of the day may have times with a fraction.
        day = _day((window.created_to - _EPOCH + _SECOND) // _DAY)
        query["end_date"] = f"{day.isoformat()}T23:59:59Z"
        query["end_time"] = f"{day.day:02}-{day.month:02}-{day.year:04} 23:59:59"
    return query


def _day(number: int) -> date:
    """Return the day with this number since 1970, or the first or last day of the calendar."""
    ordinal = _EPOCH.toordinal() + number
    return date.fromordinal(min(max(ordinal, date.min.toordinal()), date.max.toordinal()))


def _since_epoch(name: str, value: object) -> timedelta | None:
    # Two datetimes of one zone compare by wall clock, which is ambiguous for an hour in autumn, and
    # astimezone() overflows at the ends of the calendar. Differences to the epoch have neither problem.
    return None if value is None else check_aware_datetime(name, value) - _EPOCH
