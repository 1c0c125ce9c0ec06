"""The walk over a listing that is one request without pages."""

from __future__ import annotations

from unpod_async._paging.commands import Deliver, Fetch, PageFailure, PageRequest, Steps
from unpod_async._paging.outcomes import incomplete
from unpod_async._paging.row_tracker import RowTracker

__all__ = ["walk_single"]


def walk_single() -> Steps[None]:
    """A listing that is one request without pages.

    Raises:
        IncompleteListing: the answer held fewer rows than it counts.
        UnpodError: the error of the request.
    """
    outcome = yield Fetch(PageRequest(1, 0))
    if isinstance(outcome, PageFailure):
        raise outcome.error
    sightings = RowTracker()
    yield Deliver(1, [(outcome, sightings.mark(outcome.keys, 0, outcome.count).fresh)])
    if outcome.count is not None and outcome.count > len(outcome.keys):
        raise incomplete(len(outcome.keys), outcome.count, "the answer holds fewer rows than it counts")
