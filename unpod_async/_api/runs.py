"""Runs: batches of calls, and the tasks in them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Any, Literal, overload

from unpod_async._api.watching import Watching
from unpod_async._http import check_choice, check_integer
from unpod_async._paging import (
    Failed,
    Lookahead,
    Ok,
    OnBadRow,
    OnRunError,
    Pager,
    SendBatch,
    SequentialWalk,
    Status,
    Stream,
    fan_out,
    run_tasks,
    space_runs,
    status_filter,
)
from unpod_async.errors import InvalidArgument
from unpod_async.models import Run, Task

__all__ = ["Runs"]


class Runs(Watching):
    """Runs: batches of calls in a space."""

    def list(
        self,
        space_token: str,
        *,
        status: Status = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Run]:
        """Runs of a space, newest first. `status` is filtered on the client: the server has no such filter.

        Documented in "Get All Runs in a Space".

        Raises:
            InvalidArgument: the token of the space cannot be one.
            RefusedError: the space is unknown or not yours.
        """
        listing = space_runs(space_token, status)
        return self._context.pager(listing, start_page, page_size, on_bad_row)

    def tasks(
        self,
        space_token: str,
        run_id: str,
        *,
        status: Status = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Task]:
        """Tasks of a run, newest first; none for a run that does not exist, which the server does not tell.

        `status` is filtered on the client. Rows of another run are rejected. Documented in "Get Detailed
        Tasks for a Specific Run".

        Raises:
            InvalidArgument: an id cannot be one.
            RefusedError: the space is unknown or not yours.
        """
        listing = run_tasks(space_token, run_id, status)
        return self._context.pager(listing, start_page, page_size, on_bad_row)

    @overload
    def tasks_for(
        self,
        space_token: str,
        runs: Iterable[str | Run] | AsyncIterable[str | Run] | None = ...,
        *,
        concurrency: int = ...,
        ordered: bool = ...,
        errors: Literal["raise"] = ...,
        status: Status = ...,
        page_size: int | None = ...,
        on_bad_row: OnBadRow = ...,
    ) -> Stream[Task]: ...
    @overload
    def tasks_for(
        self,
        space_token: str,
        runs: Iterable[str | Run] | AsyncIterable[str | Run] | None = ...,
        *,
        concurrency: int = ...,
        ordered: bool = ...,
        errors: Literal["yield"],
        status: Status = ...,
        page_size: int | None = ...,
        on_bad_row: OnBadRow = ...,
    ) -> Stream[Ok | Failed]: ...
    def tasks_for(
        self,
        space_token: str,
        runs: Iterable[str | Run] | AsyncIterable[str | Run] | None = None,
        *,
        concurrency: int = 4,
        ordered: bool = False,
        errors: OnRunError = "raise",
        status: Status = None,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Stream[Any]:
        """Tasks of many runs at once: `async with unpod.runs.tasks_for(space) as stream`, then `async for`.

        Args:
            runs: run ids or `Run`s, plain or asynchronous; None is every run of the space.
            concurrency: runs read at a time, by as many workers; each holds at most one page.
            ordered: keep the order of the runs; the order within a run is always the server's.
            errors: "raise" ends everything with the first error of a run; "yield" gives `Ok(run_id, task)`
                and `Failed(run_id, error)` instead, so that one bad run does not end the job (a 401 does).
            status: as in `tasks`, for each run.
            page_size, on_bad_row: as in `tasks`, for each run and for listing the runs.

        Raises:
            InvalidArgument: an argument is not accepted.
            UnpodError: listing the runs failed; raised when the runs listed so far are done.
        """
        # Its clock starts with the first request; listing the runs and reading them share it.
        deadline = self._context.executor.deadline()
        every = space_runs(space_token)
        listed = Lookahead(self._context.pager(every, 1, page_size, on_bad_row, deadline))
        check_integer("concurrency", concurrency, maximum=None)
        check_choice("errors", errors, ("raise", "yield"))
        if runs is not None and not _are_many(runs):
            raise InvalidArgument(
                "runs must be several run ids; for one run use runs.tasks(space_token, run_id)"
            )
        status_filter(status)
        size = self._context.page_size(page_size)

        def tasks_of(run_id: str) -> SequentialWalk[Task]:
            listing = run_tasks(space_token, run_id, status)
            return SequentialWalk(
                self._context.executor, listing, page_size=size, on_bad_row=on_bad_row, deadline=deadline
            )

        async def produce(put: SendBatch[Any]) -> None:
            await fan_out(
                listed if runs is None else runs,
                tasks_of,
                put,
                concurrency=concurrency,
                ordered=ordered,
                yields_errors=errors == "yield",
            )

        return Stream(f"tasks_for runs of space {space_token}", produce)


def _are_many(runs: object) -> bool:
    return isinstance(runs, Iterable | AsyncIterable) and not isinstance(runs, str)
