"""Select the rows of a listing: the scope of each listing, and the filters of the task listing of a space."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from unpod_async.testing.accounts import SPACES, FakeAccount, FakeSpace
from unpod_async.testing.data import SECOND
from unpod_async.testing.rows import RowBuilder

__all__ = ["bad_search", "filtered", "runs_of", "tasks_of", "tasks_of_run"]

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
