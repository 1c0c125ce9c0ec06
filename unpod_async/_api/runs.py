"""`client.runs`: runs, the tasks of runs, watching runs, and waiting for them."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, Literal, overload

from unpod_async._http import (
    Deadline,
    check_choice,
    check_id,
    check_integer,
    check_run_ids,
    check_seconds,
    check_str_or_list,
)
from unpod_async._paging import (
    Failed,
    Lookahead,
    Ok,
    OnBadRow,
    OnRunError,
    Pager,
    Resource,
    RunStatusFilter,
    SendBatch,
    SequentialWalk,
    Stream,
    TaskStatusFilter,
    fan_out,
    run_tasks,
    space_runs,
    status_filter,
)
from unpod_async.errors import InvalidArgument
from unpod_async.models import Run, Task

if TYPE_CHECKING:
    from unpod_async._watch import Until, Watch, WatchedRun, WatchState

__all__ = ["Runs"]


class Runs(Resource):
    """Runs: batches of calls in a space. Use it as `client.runs`."""

    def list(
        self,
        space_token: str,
        *,
        status: RunStatusFilter = None,
        limit: int | None = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Run]:
        """List the runs of a space, newest first.

        Documented by the service in "Get All Runs in a Space".

        Args:
            space_token: token of the space.
            status: only runs with this status, or with one of these statuses, such as "completed". The filter
                is applied on the client, because the server has none. A status that no run has, such as
                "done", yields no rows and no error, because the service may add statuses.
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all.
            start_page: number of the first page to read, counted from 1.
            page_size: rows per request; by default the client's `page_size`.
            on_bad_row: what happens if some rows cannot be used. "raise" (default): the listing yields all
                other rows and then raises `DecodeError`. "skip": it logs and skips them.

        Returns:
            A `Pager`. No request is sent until it is iterated.

        Raises:
            InvalidArgument: an argument is not accepted.
            RefusedError: while iterating: the space does not exist or is not yours.
            UnpodError: while iterating: see `Pager`.

        Example:
            ```python
            async for run in unpod.runs.list(space_token, status="completed"):
                print(run.run_id, run.batch_count)
            ```
        """
        listing = space_runs(space_token, status)
        return self._context.pager(listing, start_page, page_size, on_bad_row, limit)

    def tasks(
        self,
        space_token: str,
        run_id: str,
        *,
        status: TaskStatusFilter = None,
        limit: int | None = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Task]:
        """List the tasks of a run, newest first.

        If the run does not exist, the listing is empty, because the server reports no error. Rows of another
        run are rejected. Documented by the service in "Get Detailed Tasks for a Specific Run".

        Args:
            space_token: token of the space.
            run_id: id of the run.
            status: only tasks with this status, or with one of these statuses; filtered on the client.
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all.
            start_page: number of the first page to read, counted from 1.
            page_size: rows per request; by default the client's `page_size`.
            on_bad_row: "raise" (default) or "skip", as in `list`.

        Returns:
            A `Pager`. No request is sent until it is iterated.

        Raises:
            InvalidArgument: an argument is not accepted.
            RefusedError: while iterating: the space does not exist or is not yours.
            UnpodError: while iterating: see `Pager`.
        """
        listing = run_tasks(space_token, run_id, status)
        return self._context.pager(listing, start_page, page_size, on_bad_row, limit)

    @overload
    def tasks_for(
        self,
        space_token: str,
        runs: Iterable[str | Run] | AsyncIterable[str | Run] | None = ...,
        *,
        concurrency: int = ...,
        ordered: bool = ...,
        errors: Literal["raise"] = ...,
        status: TaskStatusFilter = ...,
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
        status: TaskStatusFilter = ...,
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
        status: TaskStatusFilter = None,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Stream[Any]:
        """Read the tasks of many runs with concurrent requests.

        Args:
            space_token: token of the space.
            runs: the runs, as ids or `Run`s, in an iterable or async iterable; None (default) means all runs
                of the space.
            concurrency: number of runs read at the same time, 4 by default, each with at most one page in
                memory.
            ordered: yield the tasks in the order of the runs. By default they are yielded as they arrive. The
                order within a run is always the server's.
            errors: "raise" (default) ends the stream with the first error of a run. "yield" yields
                `Ok(run_id, task)` for each task and `Failed(run_id, error)` for each run that cannot be read,
                so that one such run does not end the stream. An `AuthenticationError` still ends it.
            status: only tasks with this status, or with one of these statuses; filtered on the client.
            page_size: rows per request, for runs and for tasks; by default the client's `page_size`.
            on_bad_row: "raise" (default) or "skip", as in `list`, for the runs and for their tasks.

        Returns:
            A `Stream`. It runs background tasks; use it with `async with`. The client's `deadline` limits
            the whole stream.

        Raises:
            InvalidArgument: an argument is not accepted.
            UnpodError: while iterating: a run could not be read, or listing the runs failed. In the second
                case, the runs that were listed before are read first.

        Example:
            ```python
            async with unpod.runs.tasks_for(space_token, errors="yield") as stream:
                async for result in stream:
                    match result:
                        case Ok(run_id, task):
                            print(run_id, task.task_id)
                        case Failed(run_id, error):
                            print(run_id, "failed:", error)
            ```
        """
        # Listing the runs and reading their tasks share one deadline, which starts with the first request.
        deadline = self._context.executor.deadline()
        all_runs = Lookahead(
            self._context.pager(space_runs(space_token), 1, page_size, on_bad_row, deadline=deadline)
        )
        check_integer("concurrency", concurrency, maximum=None)
        check_choice("errors", errors, ("raise", "yield"))
        if runs is not None and not _is_iterable(runs):
            raise InvalidArgument(
                "runs must be an iterable of run ids",
                argument="runs",
                hint="to read one run, use runs.tasks(space_token, run_id)",
            )
        status_filter(status)
        size = self._context.page_size(page_size)

        def walk_of(run_id: str) -> SequentialWalk[Task]:
            listing = run_tasks(space_token, run_id, status)
            return SequentialWalk(
                self._context.executor, listing, page_size=size, on_bad_row=on_bad_row, deadline=deadline
            )

        async def produce(send: SendBatch[Any]) -> None:
            await fan_out(
                all_runs if runs is None else runs,
                walk_of,
                send,
                concurrency=concurrency,
                ordered=ordered,
                yields_errors=errors == "yield",
            )

        return Stream(f"tasks_for runs of space {space_token}", produce)

    def watch(
        self,
        space_token: str | Iterable[str],
        *,
        interval: float = 10,
        resync: float = 3600,
        tasks: bool = True,
        runs: str | Run | Iterable[str | Run] | None = None,
        state: WatchState | None = None,
    ) -> Watch:
        """Watch runs and their tasks, and report each change as an event.

        Use it as `async with unpod.runs.watch(space) as events`, then `async for event in events`.

        First it reports what exists, as `RunSeen` and `TaskSeen` with `existing=True`. Then it reports each
        change once:

        - New runs and their tasks: at the next poll.
        - Changes of runs that have not settled: at the next poll, or later if the run has not changed for a
          while. The delay is at most a tenth of the time since its last change. Unsettled runs that have not
          changed since the watch started are read in turn, 20 in each poll.
        - Changes of settled runs, and removed runs and tasks: by the end of the next resync, or in the polls
          after it. If the tasks of the space cannot be listed together, each of these polls reads the tasks
          of 20 runs.

        A status that appears and disappears between two reads is not reported.

        During an outage it reports `Disconnected` once and keeps polling until the service recovers. If the
        server asks for a delay, it waits that long, up to about 15 minutes. The client's `deadline` limits
        each poll; the next poll continues where it ended. A run whose tasks cannot be read does not affect
        other runs: the error is logged and the run is retried. Rows that cannot be read are skipped and
        logged. Rows without an id are skipped.

        With 10,000 runs and 100,000 tasks it uses about 20 MB of memory, and its encoded state takes 5 MB.

        Args:
            space_token: one space, or several, which share this client and its limits.
            interval: seconds between two polls, varied randomly by up to a fifth; 10 by default. A poll
                without changes is one request, whatever the size of the space.
            resync: seconds between two resyncs, at least `interval`. A resync reads all runs and all tasks of
                the space, spread over the polls of half this time. 3600 by default.
            tasks: whether to watch tasks too. True by default.
            runs: watch only these runs of one space, given as ids or `Run`s. None, the default, watches all.
            state: the `events.state` of an earlier watch. The watch resumes from it and does not repeat
                events that the earlier watch delivered. None by default.

        Returns:
            A `Watch`: a stream of events (see `unpod_async.events`) to be used with `async with`.

        Raises:
            InvalidArgument: an argument is not accepted.
            RunNotFound: while iterating: one of `runs` is not listed.
            AuthenticationError: while iterating: the token is refused. It ends the watch of all spaces.
            RefusedError, NotFoundError, UnpodError: while iterating: an error that a retry cannot fix.
                The first poll of a space raises it. A later poll raises it only if it is the third such
                error in a row.
        """
        from unpod_async._watch import Clock, Known, PollSchedule, Watch, restore_known

        clock = Clock()
        tokens = [check_id("space_token", token) for token in check_str_or_list("space_token", space_token)]
        if not tokens:
            raise InvalidArgument("space_token must contain at least one space", argument="space_token")
        run_ids = None if runs is None else frozenset(check_run_ids("runs", runs))
        if run_ids is not None and len(set(tokens)) > 1:
            raise InvalidArgument(
                "runs cannot be used with several spaces",
                argument="runs",
                hint="start one watch for each space",
            )
        pause = check_seconds("interval", interval)
        if check_seconds("resync", resync) < pause:
            raise InvalidArgument("resync must not be shorter than interval", argument="resync")
        _check_state(state)
        now = clock.monotonic()
        known = {
            token: Known() if state is None else restore_known(state, token, run_ids, tasks=tasks, now=now)
            for token in tokens
        }
        schedule = PollSchedule(pause, resync)
        return Watch(self._context, known, schedule, clock, tasks=bool(tasks), run_ids=run_ids)

    @overload
    async def wait(  # type: ignore[overload-overlap] # a str is also an iterable of str, but means one id
        self,
        space_token: str,
        run_ids: str | Run,
        until: Until = ...,
        *,
        deadline: float = ...,
        interval: float = ...,
    ) -> WatchedRun: ...
    @overload
    async def wait(
        self,
        space_token: str,
        run_ids: Iterable[str | Run],
        until: Until = ...,
        *,
        deadline: float = ...,
        interval: float = ...,
    ) -> builtins.list[WatchedRun]: ...
    async def wait(
        self,
        space_token: str,
        run_ids: str | Run | Iterable[str | Run],
        until: Until = "settled",
        *,
        deadline: float = 600,
        interval: float = 10,
    ) -> WatchedRun | builtins.list[WatchedRun]:
        """Wait until runs have settled, or meet another condition.

        During an outage, polling continues until the deadline. Runs whose tasks cannot be read are retried.

        Args:
            space_token: the space of the runs.
            run_ids: one run or several, given as ids or `Run`s.
            until: "settled", the default: the status of the run is "completed", "failed" or
                "partially_completed", all its tasks were read, and each of them is "completed" or "failed".
                Or a function that takes a `WatchedRun` and returns whether the condition is met; `wait`
                raises its exceptions.
            deadline: seconds for the whole wait, 600 by default. A deadline is required, because a task on
                hold never ends.
            interval: seconds between two polls, varied randomly by up to a fifth; 10 by default. A poll lists
                the runs once, as far as necessary, and reads the tasks of the runs that have not met the
                condition yet.

        Returns:
            The `WatchedRun` of one run, with its tasks. For several runs, a list in the given order.

        Raises:
            WaitTimeout: the deadline passed. `error.runs` contains the runs as last read, and `error.holding`
                the tasks that have not ended.
            RunNotFound: a run is not listed, or is no longer listed.
            InvalidArgument: an argument is not accepted, such as `deadline=None`.
            AuthenticationError, RefusedError: the service refused access.
        """
        limit = Deadline(
            check_seconds(
                "deadline", deadline, hint="a deadline is required, because a task on hold never ends"
            ),
            self._context.executor.clock,
        )
        limit.start()  # before the import, which takes 0.03 s the first time
        from unpod_async._watch import Clock, wait_for_runs

        check_id("space_token", space_token)
        checked_ids = check_run_ids("run_ids", run_ids)
        _check_until(until)
        waited = await wait_for_runs(
            self._context,
            space_token,
            checked_ids,
            until,
            deadline=limit,
            interval=check_seconds("interval", interval),
            clock=Clock(),
        )
        return waited[0] if isinstance(run_ids, str | Run) else waited

    async def find(self, space_token: str, run_id: str) -> Run | None:
        """Return the run with this id, or None if it is not listed.

        The service has no endpoint for a single run, so this reads the listing, newest run first, until it
        finds the run.

        Raises:
            InvalidArgument: an id is not valid.
            DecodeError, IncompleteListing: the run was not found, and some rows could not be read or may be
                missing.
            RefusedError: the space does not exist or is not yours.
            APIError, TransportError: the listing could not be read.
        """
        deadline = self._context.executor.deadline()
        deadline.start()  # before the import, which takes 0.03 s the first time
        from unpod_async._watch import find_run

        return await find_run(self._context, space_token, check_id("run_id", run_id), deadline)


def _is_iterable(runs: object) -> bool:
    return isinstance(runs, Iterable | AsyncIterable) and not isinstance(runs, str | Resource)


def _check_until(until: object) -> None:
    if until != "settled" and (not callable(until) or inspect.iscoroutinefunction(until)):
        raise InvalidArgument(
            "until must be 'settled' or a plain function that takes a WatchedRun", argument="until"
        )


def _check_state(state: object) -> None:
    from unpod_async._watch import STATE_VERSION, WatchState

    if state is None:
        return
    if not isinstance(state, WatchState):
        raise InvalidArgument(
            f"state must be a WatchState, not {type(state).__name__}",
            argument="state",
            hint="load a saved state with WatchState.load(path)",
        )
    if state.version != STATE_VERSION:
        raise InvalidArgument(
            f"state has format {state.version}; this version reads format {STATE_VERSION}",
            argument="state",
            hint="start the watch without a state: it then first reports everything that exists",
        )
