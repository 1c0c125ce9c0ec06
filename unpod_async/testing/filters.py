"""The filters of the space task listing. Other listings ignore them, except for user_id and thread_id."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from unpod_async.testing.data import SECOND
from unpod_async.testing.rows import RowBuilder

__all__ = ["bad_search", "filtered", "owned"]

# The last second of the year 9999. The service ignores values that are not dates, such as milliseconds.
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


def owned(rows: RowBuilder, tasks: Sequence[int], query: Mapping[str, str]) -> Sequence[int]:
    """Return the tasks with the `user_id` and `thread_id` of the query. No task has a thread."""
    user = query.get("user_id")
    if query.get("thread_id"):
        return ()
    return [task for task in tasks if rows.account(task).number == user] if user else tasks


def filtered(rows: RowBuilder, tasks: Sequence[int], query: Mapping[str, str]) -> Sequence[int]:
    """Return the tasks that pass every filter of the query, in the same order."""
    tasks = owned(rows, tasks, query)
    tests = _tests(rows, query)
    return [task for task in tasks if all(test(task) for test in tests)] if tests else tasks


def _tests(rows: RowBuilder, query: Mapping[str, str]) -> list[Callable[[int], bool]]:
    tests: list[Callable[[int], bool]] = []
    store = rows.store
    start, end = _second(query.get("from_ts")), _second(query.get("to_ts"))
    if start is not None:
        tests.append(lambda task: store.task_created(task) >= start * SECOND)
    if end is not None:
        tests.append(lambda task: store.task_created(task) <= end * SECOND)
    kind, wanted, search = query.get("call_type"), query.get("status"), query.get("search")
    if kind:
        kinds = {kind, f"{kind}PhoneCall", kind.removesuffix("PhoneCall")}
        tests.append(lambda task: rows.output(task).get("call_type") in kinds)
    if wanted:
        outcomes = {part.strip() for part in wanted.split(",")}
        tests.append(lambda task: _outcome(rows.output(task)) in outcomes)
    if search:
        expression = re.compile(search, re.IGNORECASE)
        tests.append(lambda task: any(expression.search(text) for text in _texts(rows, task)))
    return tests


def _second(text: str | None) -> int | None:
    try:
        second = int(text or "")
    except ValueError:
        return None
    return second if 0 <= second <= _LAST_SECOND else None


def _outcome(output: Mapping[str, Any]) -> str | None:
    after = output.get("post_call_data")
    summary: object = cast(dict[str, object], after).get("summary") if isinstance(after, dict) else None
    status = cast(dict[str, object], summary).get("status") if isinstance(summary, dict) else None
    return status if isinstance(status, str) else None


def _texts(rows: RowBuilder, task: int) -> list[str]:
    values, output = rows.input(task), rows.output(task)
    found = (values.get("name"), values.get("phone"), output.get("customer"), output.get("contact_number"))
    return [text for text in found if isinstance(text, str)]
