"""Which rows a page holds: the service's paging rules and, on request, odd ones."""

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
    """Rows start..stop-1 of a listing, newest first; `past_end` when it lies behind the last row."""

    start: int
    stop: int
    past_end: bool


def window(query: Mapping[str, str], total: int, odd: Oddities, *, failed: str | None) -> PageWindow:
    """The window that `page` and `page_size` ask for.

    `failed` is the message of this listing's 206, or None for agent tasks, whose view has another default
    size and answers 500 where the others answer 206 or fall back. Raises Refusal.
    """
    default = _OWN_SIZE if failed is None else 50
    page = _number(query.get("page"), 1, strict=failed is None)
    size = _number(query.get("page_size"), default, strict=failed is None)
    if odd.ignore_page_size:
        size = _OWN_SIZE
    if odd.max_page_size is not None and (size == 0 or size > odd.max_page_size):
        size = odd.max_page_size
    if odd.ignore_page:
        page = 1
    skip = (page - 1) * size
    if skip < 0:
        raise ImmediateResponse(_broken(failed, "skip must be >= 0"))
    if max(skip, abs(size)) > _MAX_INT:
        raise ImmediateResponse(_broken(failed, "MongoDB can only handle up to 8-byte ints"))
    if size == 0:
        return PageWindow(0, total, past_end=False)
    size = abs(size)  # the database takes a negative limit as "one batch of so many"
    if skip < total or page == 1:
        return PageWindow(skip, min(skip + size, total), past_end=False)
    if odd.past_end == "404":
        raise ImmediateResponse(json_response(404, {"message": "Invalid page."}))
    if odd.past_end == "206":
        raise ImmediateResponse(
            upstream_failure(failed or "Tasks Fetch Failed", '{"detail":"Invalid page."}')
        )
    if odd.past_end == "repeat" and total:
        return PageWindow((total - 1) // size * size, total, past_end=True)
    return PageWindow(total, total, past_end=True)


def _number(text: str | None, default: int, *, strict: bool) -> int:
    if text is None:
        return default
    try:
        return int(text)  # takes digits of every script, as the service does
    except ValueError:
        if strict:
            raise ImmediateResponse(html_page(500)) from None
        return default


def _broken(failed: str | None, detail: str) -> ApiResponse:
    return html_page(500) if failed is None else upstream_failure(failed, f'{{"detail":"{detail}"}}')


def counted(total: int, rows: int, odd: Oddities) -> dict[str, Any]:
    """The `count` of an envelope, as the start of that envelope."""
    match odd.count:
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
    """Tasks of an agent in a window: by `created`, newest first; tied rows oldest first.

    `shuffle`: a seed; tied rows then stand in an order that it decides, as without a defined order they may.
    """
    tasks = store.tasks_of_agent(handle)
    total = len(tasks)
    chosen: list[int] = []
    # Groups of equal `created` are contiguous; `end` is the place behind the group that comes next.
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
