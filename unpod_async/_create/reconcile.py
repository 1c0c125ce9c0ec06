"""Looking for the calls of a create whose outcome is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from unpod_async._http import Deadline, runs
from unpod_async._paging import ClientContext, Listing, SequentialWalk, run_tasks
from unpod_async.errors import InvalidArgument
from unpod_async.models import Run, Task

__all__ = ["CLOCK_SKEW", "Reconciliation", "reconcile"]

CLOCK_SKEW = timedelta(minutes=2)
"""Runs from this long before the create on are looked at: the server's clock is not this machine's."""


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a create.

    Attributes:
        state: "created" if every document has a task, "partial" if only those in `task_ids` have one,
            "not_found" if none has. A create that is not found may still be stored by the server: look again.
        run_id: the run they are in, or None.
        task_ids: task id by document id.
        missing: ids of the documents without a task.
    """

    state: Literal["created", "partial", "not_found"]
    run_id: str | None = None
    task_ids: Mapping[str, str] = {}
    missing: tuple[str, ...] = ()


async def reconcile(
    context: ClientContext, space_token: str, document_ids: Sequence[str], started_at: datetime
) -> Reconciliation:
    """Look through the runs created since `started_at`, newest first, for tasks of exactly these documents.

    Raises:
        InvalidArgument: there is no id to look for.
        UnpodError: a listing could not be read.
    """
    wanted = set(document_ids)
    if not wanted:
        raise InvalidArgument("there is no document id to look for")
    deadline = context.executor.deadline()
    oldest = started_at - CLOCK_SKEW
    found: dict[str, str] = {}
    run_id: str | None = None
    listing = Listing(runs(space_token), Run, ("run_id",))
    walk = SequentialWalk(context.executor, listing, page_size=context.settings.page_size, deadline=deadline)
    while len(found) < len(wanted) and (page := await walk.next_page()) is not None:
        for run in page.items:
            if run.run_id is None or (run.created_at is not None and run.created_at < oldest):
                continue
            in_run = await _tasks_of(context, space_token, run.run_id, wanted, deadline)
            if in_run:
                found |= in_run
                run_id = run_id or run.run_id
        if page.items and all(run.created_at and run.created_at < oldest for run in page.items):
            break
    missing = tuple(one for one in document_ids if one not in found)
    state: Literal["created", "partial", "not_found"] = "partial" if found else "not_found"
    if not missing:
        state = "created"
    return Reconciliation(state=state, run_id=run_id, task_ids=found, missing=missing)


async def _tasks_of(
    context: ClientContext, space_token: str, run_id: str, wanted: set[str], deadline: Deadline
) -> dict[str, str]:
    walk = SequentialWalk(
        context.executor,
        run_tasks(space_token, run_id, None),
        page_size=context.settings.page_size,
        on_bad_row="skip",
        deadline=deadline,
    )
    found: dict[str, str] = {}
    while (page := await walk.next_page()) is not None:
        for task in page.items:
            name = _document_id(task)
            if name in wanted and task.task_id is not None:
                found[name] = task.task_id
    return found


def _document_id(task: Task) -> str:
    """The id of the document a task was made from: its `ref_id`, which is a copy of it."""
    document: dict[str, Any] = task.input or {}
    return str(task.ref_id or document.get("id") or document.get("document_id") or "")
