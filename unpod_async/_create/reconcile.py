"""Search for the calls of a create whose outcome is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec

from unpod_async._http import Deadline, runs
from unpod_async._paging import ClientContext, Listing, SequentialWalk, run_tasks
from unpod_async.errors import InvalidArgument
from unpod_async.models import Run, Task

__all__ = ["CreateState", "Reconciliation", "reconcile"]

CLOCK_SKEW: Final = timedelta(minutes=2)
"""The search starts this long before the create, because the server's clock may be behind this one."""

CreateState: TypeAlias = Literal["created", "partial", "not_found"]
"""What is known about the calls of a create.

"created": every document has a task. "partial": some documents have a task. "not_found": no document has one.
"""


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a search for the calls of a create.

    Attributes:
        state: "created" if every document has a task, "partial" if only those in `task_ids` have one,
            "not_found" if none has. "not_found" does not mean "not created": the server may still be storing
            the calls, so search again later.
        run_id: the run that contains them, or None.
        task_ids: task id by document id.
        missing: the ids of the documents without a task.
    """

    state: CreateState
    run_id: str | None = None
    task_ids: Mapping[str, str] = {}
    missing: tuple[str, ...] = ()


async def reconcile(
    context: ClientContext, space_token: str, document_ids: Sequence[str], started_at: datetime
) -> Reconciliation:
    """Search the runs created since `started_at`, newest first, for the tasks of these documents.

    Args:
        document_ids: the ids to search for. They are compared with the `ref_id` of each task.
        started_at: when the create was sent. Runs from two minutes earlier are searched too.

    Raises:
        InvalidArgument: `document_ids` is empty.
        UnpodError: a listing could not be read.
    """
    wanted = set(document_ids)
    if not wanted:
        raise InvalidArgument("there is no document id to search for")
    deadline = context.executor.deadline()
    oldest = started_at - CLOCK_SKEW
    found: dict[str, str] = {}
    run_id: str | None = None
    listing = Listing(runs(space_token), Run, ("run_id",))
    walk = SequentialWalk(context.executor, listing, page_size=context.settings.page_size, deadline=deadline)
    while len(found) < len(wanted) and (page := await walk.next_page()) is not None:
        candidates = [run for run in page.items if not _is_older(run, oldest)]
        for candidate in [run.run_id for run in candidates if run.run_id is not None]:
            in_run = await _find_in_run(context, space_token, candidate, wanted, deadline)
            if in_run:
                found |= in_run
                run_id = run_id or candidate
        if page.items and not candidates:
            break
    missing = tuple(document_id for document_id in document_ids if document_id not in found)
    state: CreateState = "partial" if found else "not_found"
    if not missing:
        state = "created"
    return Reconciliation(state=state, run_id=run_id, task_ids=found, missing=missing)


def _is_older(run: Run, oldest: datetime) -> bool:
    return run.created_at is not None and run.created_at < oldest


async def _find_in_run(
    context: ClientContext, space_token: str, run_id: str, wanted: set[str], deadline: Deadline
) -> dict[str, str]:
    """Return the task id of each wanted document in a run."""
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
            document_id = _document_id(task)
            if document_id in wanted and task.task_id is not None:
                found[document_id] = task.task_id
    return found


def _document_id(task: Task) -> str:
    """Return the id of the document that a task was created from; the server copies it to `ref_id`."""
    document: dict[str, Any] = task.input or {}
    return str(task.ref_id or document.get("id") or document.get("document_id") or "")
