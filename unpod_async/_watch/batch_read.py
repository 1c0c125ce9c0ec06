"""The tasks of many unsettled runs out of the listing of the space, where that takes fewer requests.

Batches of one call are common: a thousand runs under way are then ten pages of tasks. The tasks of a run that
was read whole before are known, and others enter at the head. So when all that were known have been met, and
no count has fallen on the way there, the run has been read whole again.
"""

from __future__ import annotations

from unpod_async._watch.diff import task_name
from unpod_async._watch.error_scope import is_of_one_run
from unpod_async._watch.source import SpaceSource
from unpod_async.errors import UnpodError

__all__ = ["read_together"]

_WORTH_IT = 10
"""Runs from which on it is tried."""


async def read_together(questions: SpaceSource, names: set[str]) -> set[str]:
    """Read tasks of the space from the newest on, and tell them; those of the runs that were read whole.

    It is given up after half as many pages as there are runs: the others stand further back.

    Args:
        names: runs that were read whole before.

    Raises:
        UnpodError: the service cannot be reached.
    """
    runs = questions.known.runs
    waited = {name: set(run.tasks) for name in names if (run := runs.get(name)) is not None and run.tasks}
    expected = sum(map(len, waited.values())) / questions.page_size
    pages = len(waited) // 2
    if len(waited) < _WORTH_IT or expected > pages:
        return set()
    whole: set[str] = set()
    try:
        await _read(questions, waited, pages, whole)
    except UnpodError as error:
        if not is_of_one_run(error):
            raise
        return set()
    return whole


async def _read(questions: SpaceSource, waited: dict[str, set[str]], pages: int, whole: set[str]) -> None:
    walk = questions.tasks()
    before = 0
    while waited and pages and (page := await walk.next_page()) is not None:
        if page.count is None or page.count < before or page.rejected or page.unreadable:
            return
        before, pages = page.count, pages - 1
        await questions.tell_tasks(page.items)
        for row in page.items:
            left = waited.get(row.run_id or "")
            if left is not None and row.run_id is not None:
                left.discard(task_name(row) or "")
                if not left:
                    del waited[row.run_id]
                    whole.add(row.run_id)
