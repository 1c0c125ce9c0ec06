"""`runs.watch`, `runs.wait` and `runs.find`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, overload

from unpod_async._http import check_id, check_run_ids, check_seconds, check_str_or_list
from unpod_async._paging import Resource
from unpod_async.errors import InvalidArgument
from unpod_async.models import Run

if TYPE_CHECKING:
    from unpod_async._watch import Until, Watch, WatchedRun, WatchState

__all__ = ["Watching"]


class Watching(Resource):
    """The calls that ask again and again: the service has no webhooks."""

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
        """Changes of runs and their tasks as events: `async with …watch(space) as events`, then `async for`.

        First comes what is there, as `RunSeen` and `TaskSeen` with `existing=True`. Then each change once:
        new runs and their tasks at the next poll; changes of runs that have not settled at the next poll, or
        later by a tenth of the time in which nothing changed in them; changes of settled runs, and what is
        gone, by the next resync. Of unsettled runs in which nothing was seen to change yet, 20 are read per
        poll, in turn. What came and went between two readings is not seen.

        Args:
            space_token: one space, or several, through one client and its limits.
            interval: seconds from one poll to the next, give or take a fifth. A poll in which nothing is new
                is one request, whatever the size of the space.
            resync: seconds from one resync to the next. It reads all runs, and all tasks of the space, spread
                over the polls of half that time.
            tasks: False watches runs only.
            runs: only these, of one space; ids or `Run`s.
            state: `events.state` of an earlier watch, to go on from; events it had taken are not repeated.

        An outage is told once, as `Disconnected`, and asked through for as long as it takes; a server that
        asks to wait is left alone for 15 minutes at most. The client's `deadline` bounds each poll; what does
        not fit is read by the next. A run whose tasks cannot be read costs that run: it is logged and asked
        for again. Rows that cannot be used are left out and logged, and so, unlogged, are rows without an id.
        With 10,000 runs and 100,000 tasks it takes about 20 MB, and the state 5 MB when encoded.

        Raises:
            InvalidArgument: an argument is not accepted.
            RunNotFound: while iterating: one of `runs` is not listed.
            AuthenticationError: while iterating: the token is refused. It ends all spaces of the watch.
            RefusedError, NotFoundError and the like: while iterating: in the first poll of a space at once,
                later when three polls in a row end so.
        """
        from unpod_async._watch import Clock, Known, Schedule, Watch, known_of

        clock = Clock()
        tokens = [check_id("space_token", token) for token in check_str_or_list("space_token", space_token)]
        if not tokens:
            raise InvalidArgument("space_token must name at least one space", argument="space_token")
        chosen = None if runs is None else frozenset(check_run_ids("runs", runs))
        if chosen is not None and len(set(tokens)) > 1:
            raise InvalidArgument("runs can be chosen of one space only: watch each space by itself")
        pause = check_seconds("interval", interval)
        if check_seconds("resync", resync) < pause:
            raise InvalidArgument("resync must not be shorter than interval", argument="resync")
        _check_state(state)
        now = clock.monotonic()
        known = {
            token: known_of(state, token, chosen, tasks=tasks, now=now) if state is not None else Known()
            for token in tokens
        }
        return Watch(
            self._context, known, Schedule(pause, resync, clock.draw), clock, tasks=bool(tasks), chosen=chosen
        )

    @overload
    async def wait(  # type: ignore[overload-overlap] # a str is an Iterable of str, and one id all the same
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
    ) -> list[WatchedRun]: ...
    async def wait(
        self,
        space_token: str,
        run_ids: str | Run | Iterable[str | Run],
        until: Until = "settled",
        *,
        deadline: float = 600,
        interval: float = 10,
    ) -> WatchedRun | list[WatchedRun]:
        """Wait for runs: one id gives one `WatchedRun` with its tasks, several give a list in their order.

        Args:
            run_ids: ids or `Run`s.
            until: "settled" (the run is completed, failed or partially_completed, and each task completed or
                failed), or a function of a `WatchedRun` that says when it is enough.
            deadline: seconds for all of it. There is no waiting without: a task in hold never ends.
            interval: seconds from one poll to the next, give or take a fifth. A poll lists the runs once,
                as far as it has to, and asks for the tasks of those that are still waited for.

        Outages are asked through until the deadline, and so are runs whose tasks cannot be read. What
        `until` raises comes out at once.

        Raises:
            WaitTimeout: it was not to be in time; with the runs as seen last, and the tasks that hold them.
            RunNotFound: a run is not listed, or no longer.
            InvalidArgument: an argument is not accepted; `deadline=None` is not.
            AuthenticationError, RefusedError: the service does not let us in.
        """
        from unpod_async._watch import Clock, wait_for_runs

        check_id("space_token", space_token)
        names = check_run_ids("run_ids", run_ids)
        _check_until(until)
        seen = await wait_for_runs(
            self._context,
            space_token,
            names,
            until,
            deadline=check_seconds(
                "deadline", deadline, hint="every wait needs a deadline: a task on hold never ends"
            ),
            interval=check_seconds("interval", interval),
            clock=Clock(),
        )
        return seen[0] if isinstance(run_ids, str | Run) else seen

    async def find(self, space_token: str, run_id: str) -> Run | None:
        """One run by its id, or None when it is not listed.

        There is no endpoint for one run: the listing is read from the newest run on until it is met.

        Raises:
            InvalidArgument: an id cannot be one.
            DecodeError, IncompleteListing: it was not met, and rows cannot be used or may be missing.
            RefusedError: the space is unknown or not yours.
            APIError, TransportError: the listing could not be read.
        """
        from unpod_async._watch import find_run

        return await find_run(self._context, space_token, check_id("run_id", run_id))


def _check_until(until: object) -> None:
    if until != "settled" and (not callable(until) or inspect.iscoroutinefunction(until)):
        raise InvalidArgument("until must be 'settled' or a plain function of a WatchedRun")


def _check_state(state: object) -> None:
    from unpod_async._watch import STATE_VERSION, WatchState

    if state is not None and not isinstance(state, WatchState):
        raise InvalidArgument(
            "state must be the `events.state` of a watch: msgspec.json.decode(text, type=WatchState)"
        )
    if isinstance(state, WatchState) and state.version != STATE_VERSION:
        raise InvalidArgument(
            f"state has format {state.version}, and this version reads format {STATE_VERSION} only: "
            "start the watch without it"
        )
