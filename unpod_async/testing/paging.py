"""Which rows are on a page: the paging rules of the service and, on request, those of odd servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from unpod_async.testing.answers import (
    ApiResponse,
    ImmediateResponse,
    html_page,
    json_response,
    upstream_failure,
)
from unpod_async.testing.script import Oddities
from unpod_async.testing.store import DataStore

__all__ = ["PageWindow", "agent_order", "counted", "window"]

_OWN_SIZE = 20
_MAX_INT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class PageWindow:
    """The rows start to stop - 1 of a listing, newest first. `past_end`: the page is past the last row."""

    start: int
    stop: int
    past_end: bool


def window(query: Mapping[str, str], total: int, oddities: Oddities, *, failed: str | None) -> PageWindow:
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
        raise ImmediateResponse(_broken(failed, "skip must be >= 0"))
    if max(skip, abs(size)) > _MAX_INT:
        raise ImmediateResponse(_broken(failed, "MongoDB can only handle up to 8-byte ints"))
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


def _broken(failed: str | None, detail: str) -> ApiResponse:
    return html_page(500) if failed is None else upstream_failure(failed, f'{{"detail":"{detail}"}}')


def counted(total: int, rows: int, oddities: Oddities) -> dict[str, Any]:
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
