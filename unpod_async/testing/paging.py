"""Which rows a listing shows: its filters, and the paging of the service or, on request, of odd servers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from random import Random
from typing import Any, cast

from unpod_async.testing.accounts import SPACES, FakeAccount, FakeSpace
from unpod_async.testing.answers import (
    ApiResponse,
    ImmediateResponse,
    html_page,
    json_response,
    upstream_failure,
)
from unpod_async.testing.data import SECOND
from unpod_async.testing.rows import RowBuilder
from unpod_async.testing.script import Oddities
from unpod_async.testing.store import DataStore

__all__ = [
    "PageWindow",
    "agent_order",
    "bad_search",
    "call_logs_of",
    "count_field",
    "executions_of",
    "filtered",
    "page_window",
    "runs_of",
    "tasks_of",
    "tasks_of_run",
]

_OWN_SIZE = 20
_MAX_INT = 2**63 - 1
_DAY = 86_400 * SECOND
_EPOCH_DAY = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class PageWindow:
    """The rows start to stop - 1 of a listing, newest first. `past_end`: the page is past the last row."""

    start: int
    stop: int
    past_end: bool


def page_window(
    query: Mapping[str, str], total: int, oddities: Oddities, *, failed: str | None
) -> PageWindow:
    """Return the rows that `page` and `page_size` select.

    Args:
        query: the decoded query of the request.
        total: the rows of the listing.
        oddities: how paging differs from that of the service.
        failed: the message of this listing's 206; None for agent tasks. Their view has another default size,
            and answers 500 where the others answer 206 or use their default.

    Raises:
        ImmediateResponse: the page cannot be served.
    """
    default = _OWN_SIZE if failed is None else 50
    page = _number(query.get("page"), 1, strict=failed is None)
    size = _number(query.get("page_size"), default, strict=failed is None)
    if oddities.ignore_page_size:
        size = _OWN_SIZE
    if oddities.max_page_size is not None and (size == 0 or size > oddities.max_page_size):
        size = oddities.max_page_size
    if oddities.ignore_page:
        page = 1
    skip = (page - 1) * size
    if skip < 0:
        raise ImmediateResponse(_failure_response(failed, "skip must be >= 0"))
    if max(skip, abs(size)) > _MAX_INT:
        raise ImmediateResponse(_failure_response(failed, "MongoDB can only handle up to 8-byte ints"))
    if size == 0:
        return PageWindow(0, total, past_end=False)
    size = abs(size)  # the database reads a negative limit as one batch of that size
    if skip < total or page == 1:
        return PageWindow(skip, min(skip + size, total), past_end=False)
    if oddities.past_end == "404":
        raise ImmediateResponse(json_response(404, {"message": "Invalid page."}))
    if oddities.past_end == "206":
        raise ImmediateResponse(
            upstream_failure(failed or "Tasks Fetch Failed", '{"detail":"Invalid page."}')
        )
    if oddities.past_end == "repeat" and total:
        return PageWindow((total - 1) // size * size, total, past_end=True)
    return PageWindow(total, total, past_end=True)


def _number(text: str | None, default: int, *, strict: bool) -> int:
    if text is None:
        return default
    try:
        return int(text)  # accepts the digits of every script, as the service does
    except ValueError:
        if strict:
            raise ImmediateResponse(html_page(500)) from None
        return default


def _failure_response(failed: str | None, detail: str) -> ApiResponse:
    return html_page(500) if failed is None else upstream_failure(failed, f'{{"detail":"{detail}"}}')


def count_field(total: int, rows: int, oddities: Oddities) -> dict[str, Any]:
    """Return the `count` of a response, as the first part of its body."""
    match oddities.count:
        case "absent":
            return {}
        case "null":
            return {"count": None}
        case "zero":
            return {"count": 0}
        case "page":
            return {"count": rows}
        case "high":
            return {"count": total + 10}
        case "low":
            return {"count": total // 2}
        case _:
            return {"count": total}


def agent_order(store: DataStore, handle: str, window: PageWindow, shuffle: str | None) -> list[int]:
    """Return the tasks of an agent on a page: by `created`, newest first, and tied rows oldest first.

    Args:
        store: the data set.
        handle: the agent.
        window: the rows of the page.
        shuffle: a seed for the order of tied rows, which the service does not define. None: oldest first.
    """
    tasks = store.tasks_of_agent(handle)
    total = len(tasks)
    chosen: list[int] = []
    # Rows with equal `created` are contiguous. `end` is the index after the next group of them.
    end = total - window.start
    while end < total and end > 0 and store.task_created(tasks[end]) == store.task_created(tasks[end - 1]):
        end += 1
    skip = window.start - (total - end)
    while end > 0 and len(chosen) < window.stop - window.start + skip:
        created = store.task_created(tasks[end - 1])
        first = end - 1
        while first > 0 and store.task_created(tasks[first - 1]) == created:
            first -= 1
        group = list(tasks[first:end])
        if shuffle is not None:
            Random(f"{shuffle}:{created}").shuffle(group)  # noqa: S311 - an order, not a secret
        chosen.extend(group)
        end = first
    return chosen[skip : skip + window.stop - window.start]


def executions_of(store: DataStore, handle: str) -> dict[int, list[int]]:
    """Return the tasks of an agent by run, the newest run first."""
    found: dict[int, list[int]] = {}
    for task in store.tasks_of_agent(handle):
        found.setdefault(store.run_of(task), []).append(task)
    return dict(sorted(found.items(), reverse=True))


def call_logs_of(rows: RowBuilder, org: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the call logs of an organization that pass the filters of the query, newest first.

    Like the public server code, it reads the days of `start_time` and `end_time` and ignores `start_date` and
    `end_date`.
    """
    tasks = [
        task
        for space in SPACES.values()
        if space.org == org
        for task in rows.store.tasks_of_space(space.token)
    ]
    ended = [(moment, task) for task in tasks if (moment := rows.call_ended(task)) is not None]
    ended.sort(reverse=True)
    first, last = _day(query.get("start_time")), _day(query.get("end_time"))
    logs = [
        rows.call_log(task, moment)
        for moment, task in ended
        if (first is None or moment // _DAY >= first) and (last is None or moment // _DAY <= last)
    ]
    wanted = {name: query[name] for name in ("call_type", "call_status") if query.get(name)}
    return [row for row in logs if all(row[name] == value for name, value in wanted.items())]


def _day(text: str | None) -> int | None:
    """Return the number of a day since 1970, or None if the text is not a time as this filter takes it."""
    try:
        day = datetime.strptime(text or "", "%d-%m-%Y %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return day.toordinal() - _EPOCH_DAY


# The first second of the year 1 and the last of 9999. The service ignores other numbers.
_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799


def bad_search(query: Mapping[str, str]) -> str | None:
    """Return the error of the database for an invalid regular expression in `search`, else None."""
    try:
        re.compile(query.get("search", ""))
    except re.error as error:
        text = f"Regular expression is invalid: {error.msg} at position {error.pos}"
        reply = {"ok": 0.0, "errmsg": text, "code": 51091, "codeName": "Location51091"}
        return f'{{"detail":"{text}, full error: {reply}"}}'
    return None


def runs_of(rows: RowBuilder, space: FakeSpace, query: Mapping[str, str]) -> Sequence[int]:
    """Return the runs in the run listing of a space, oldest first.

    The query may name another owner, and even another space: the service checks the space of the path, but
    lists the space of `space_id`. An empty `space_id` means every space, if there is another condition.
    """
    spaces, user = _scope(space, query)
    return _chosen([rows.store.runs_of_space(token) for token in spaces], rows.run_account, user)


def tasks_of(rows: RowBuilder, space: FakeSpace, query: Mapping[str, str]) -> Sequence[int]:
    """Return the tasks in the task listing of a space, before its filters, oldest first.

    The query may name another space, as for `runs_of`.
    """
    spaces, user = _scope(space, query)
    return _chosen([rows.store.tasks_of_space(token) for token in spaces], rows.account, user)


def tasks_of_run(rows: RowBuilder, space: FakeSpace, run_id: str, query: Mapping[str, str]) -> Sequence[int]:
    """Return the tasks in the task listing of a run, oldest first. An unknown run has none."""
    run = rows.store.find_run(run_id)
    spaces, user = _scope(space, query)
    if run is None or rows.store.space_of(run) not in spaces:
        return ()
    return _chosen([rows.store.tasks_of_run(run)], rows.account, user)


def _scope(space: FakeSpace, query: Mapping[str, str]) -> tuple[list[str], str]:
    """Return the tokens of the spaces to list, and the user whose rows to list ("" for every user)."""
    number, user = query.get("space_id", space.number), query.get("user_id", "")
    if query.get("thread_id") or not (number or user):
        return [], user  # no row has a thread, and without a condition the service lists nothing
    return [each.token for each in SPACES.values() if not number or each.number == number], user


def _chosen(listed: list[Sequence[int]], account: Callable[[int], FakeAccount], user: str) -> Sequence[int]:
    if len(listed) == 1 and not user:
        return listed[0]
    ordinals = sorted(ordinal for each in listed for ordinal in each)
    return [ordinal for ordinal in ordinals if not user or account(ordinal).number == user]


def filtered(rows: RowBuilder, tasks: Sequence[int], query: Mapping[str, str]) -> Sequence[int]:
    """Return the tasks that pass every filter of the query, in the same order."""
    tests = _tests(rows, query)
    return [task for task in tasks if all(test(task) for test in tests)] if tests else tasks


def _tests(rows: RowBuilder, query: Mapping[str, str]) -> list[Callable[[int], bool]]:
    tests: list[Callable[[int], bool]] = []
    store = rows.store
    bounds = [_second(query.get(name)) for name in ("from_ts", "to_ts")]
    if None not in bounds:  # if one bound is not a date, the service ignores both
        start, end = bounds
        if start:
            tests.append(lambda task: store.task_created(task) >= int(start) * SECOND)
        if end:
            tests.append(lambda task: store.task_created(task) <= int(end) * SECOND)
    kind, wanted, search = query.get("call_type"), query.get("status"), query.get("search")
    if kind:
        kinds = {kind, f"{kind}PhoneCall"} if kind in {"inbound", "outbound"} else {kind}
        tests.append(lambda task: not kinds.isdisjoint(_call_types(rows.output(task))))
    if wanted:
        outcomes = {part.strip().replace("+", " ") for part in wanted.split(",")}
        tests.append(lambda task: _outcome(rows.output(task)) in outcomes)
    if search:
        expression = re.compile(search, re.IGNORECASE)
        tests.append(lambda task: any(expression.search(text) for text in _texts(rows, task)))
    return tests


def _second(text: str | None) -> str | None:
    """Return a bound: "" if there is none, None if it is not a date."""
    if not text:
        return ""
    try:
        second = int(text)
    except ValueError:
        return None
    return str(second) if _FIRST_SECOND <= second <= _LAST_SECOND else None


def _call_types(output: Mapping[str, Any]) -> set[object]:
    return {value for name in ("call_type", "type") if isinstance(value := output.get(name), str)}


def _outcome(output: Mapping[str, Any]) -> str | None:
    after = output.get("post_call_data")
    summary: object = cast(dict[str, object], after).get("summary") if isinstance(after, dict) else None
    status = cast(dict[str, object], summary).get("status") if isinstance(summary, dict) else None
    return status if isinstance(status, str) else None


def _texts(rows: RowBuilder, task: int) -> list[str]:
    values, output = rows.input(task), rows.output(task)
    found = (values.get("name"), values.get("phone"), output.get("customer"), output.get("contact_number"))
    return [text for text in found if isinstance(text, str)]
