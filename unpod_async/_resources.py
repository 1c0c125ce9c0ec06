"""The calls of the client, grouped as the service groups them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, overload

from unpod_async import _paths
from unpod_async._collect import OnBadRow
from unpod_async._core import Core
from unpod_async._fanout import Failed, Ok, OnRunError, fan_out
from unpod_async._listing import Listing, wanted_statuses
from unpod_async._pager import Pager, SequentialWalk
from unpod_async._stream import Put, Stream
from unpod_async.create import Schedule
from unpod_async.errors import InvalidArgument
from unpod_async.models import Agent, CreatedRun, Organization, Run, Space, Task

__all__ = ["Agents", "Organizations", "Runs", "Spaces", "Tasks"]

Status = str | Sequence[str] | None
"""One task or run status, several, or None for all; filtered on the client."""


class _Group:
    def __init__(self, core: Core) -> None:
        self._core = core


class Organizations(_Group):
    """Organizations of the account."""

    def list(
        self, *, start_page: int = 1, page_size: int | None = None, on_bad_row: OnBadRow = "raise"
    ) -> Pager[Organization]:
        """All organizations; `domain_handle` is what other calls send as Org-Handle.

        One request without pages. Some servers take only a JWT here (auth_scheme "JWT" or "Bearer").
        Documented in "Get All Organizations".
        """
        listing = Listing(_paths.organizations(), Organization, ("domain_handle", "token"), paged=False)
        return self._core.pager(listing, start_page, page_size, on_bad_row)


class Spaces(_Group):
    """Spaces of the organization."""

    def list(
        self, *, start_page: int = 1, page_size: int | None = None, on_bad_row: OnBadRow = "raise"
    ) -> Pager[Space]:
        """All spaces of the organization; `token` is the space token other calls take.

        One request without pages. Some servers take only a JWT here (auth_scheme "JWT" or "Bearer").
        Documented in "Get All Spaces".

        Raises:
            ConfigurationError: the Org-Handle is not known.
        """
        listing = Listing(_paths.spaces(), Space, ("token",), paged=False, needs_org=True)
        return self._core.pager(listing, start_page, page_size, on_bad_row)

    async def get(self, space_token: str) -> Space:
        """One space, with its agents.

        Raises:
            InvalidArgument: the token of the space cannot be one.
            ConfigurationError: the Org-Handle is not known.
            NotFoundError: there is no such space in the organization.
        """
        return await self._core.get_one(_paths.space(space_token), Space)


class Agents(_Group):
    """Agents of the organization, and what was assigned to them."""

    def list(
        self, *, start_page: int = 1, page_size: int | None = None, on_bad_row: OnBadRow = "raise"
    ) -> Pager[Agent]:
        """All agents of the organization; `handle` is what `pilot=` of a create takes.

        One request without pages. Documented in "Get All Agents".

        Raises:
            ConfigurationError: the Org-Handle is not known.
        """
        listing = Listing(_paths.agents(), Agent, ("handle",), paged=False, needs_org=True)
        return self._core.pager(listing, start_page, page_size, on_bad_row)

    def tasks(
        self,
        agent_handle: str,
        *,
        status: Status = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Task]:
        """Tasks assigned to an agent, newest `created` first.

        Rows created in the same millisecond have no fixed order on the server; where such rows stand on two
        pages, the walk reads the listing again until it is sure. These tasks have `id`, `failure_count`,
        `last_failure_reason`, `retry_attempt` and `scheduled_timestamp`. `status` is filtered on the client:
        the server has no such filter. Documented in "Get Tasks by Agent Handle".

        Raises:
            InvalidArgument: the handle cannot be one.
            NotFoundError: there is no such agent.
        """
        listing = Listing(
            _paths.agent_tasks(agent_handle),
            Task,
            ("task_id", "id"),
            tied=True,
            statuses=wanted_statuses(status),
        )
        return self._core.pager(listing, start_page, page_size, on_bad_row)


class Runs(_Group):
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
        listing = Listing(_paths.runs(space_token), Run, ("run_id",), statuses=wanted_statuses(status))
        return self._core.pager(listing, start_page, page_size, on_bad_row)

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
        listing = _run_tasks(space_token, run_id, status)
        return self._core.pager(listing, start_page, page_size, on_bad_row)

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
        listed = self.list(space_token, page_size=page_size, on_bad_row=on_bad_row)
        if type(concurrency) is not int or concurrency < 1:
            raise InvalidArgument("concurrency must be a whole number, 1 or more")
        if errors not in ("raise", "yield"):
            raise InvalidArgument("errors must be 'raise' or 'yield'")
        if runs is not None and not _are_many(runs):
            raise InvalidArgument(
                "runs must be several run ids; for one run use runs.tasks(space_token, run_id)"
            )
        wanted_statuses(status)
        size = self._core.page_size(page_size)

        def tasks_of(run_id: str) -> SequentialWalk[Task]:
            listing = _run_tasks(space_token, run_id, status)
            return SequentialWalk(self._core.transport, listing, page_size=size, on_bad_row=on_bad_row)

        async def produce(put: Put[Any]) -> None:
            await fan_out(
                listed if runs is None else runs,
                tasks_of,
                put,
                concurrency=concurrency,
                ordered=ordered,
                yields_errors=errors == "yield",
            )

        return Stream(f"tasks_for runs of space {space_token}", produce)


class Tasks(_Group):
    """Tasks: single calls."""

    def list(
        self,
        space_token: str,
        *,
        search: str | None = None,
        outcome: str | Sequence[str] | None = None,
        call_type: Literal["inbound", "outbound"] | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        status: Status = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Task]:
        """Tasks of a space, newest first.

        Args:
            search: regular expression, case ignored, over name and phone of input and output.
            outcome: what the call came to, such as "Interested", or several; case counts. (On the wire this
                is `status`, which is not the task's status.)
            call_type: "inbound" or "outbound".
            created_from, created_to: aware datetimes, both inclusive; the server gets whole seconds, and
                every row is checked again.
            status: the task's status; filtered on the client, the server has no such filter.

        With `search`, `outcome` or `call_type`, rows whose call ends during the walk enter the listing in
        its middle; they may be met or not. Documented in "Get Tasks by Space Token".

        Raises:
            InvalidArgument: an argument is not accepted.
            RefusedError: the space is unknown or not yours.
        """
        query = _paths.unix_bounds(created_from, created_to)
        if search is not None:
            query["search"] = _filled("search", search)
        if outcome is not None:
            outcomes = [outcome] if isinstance(outcome, str) else list(outcome)
            query["status"] = ",".join(_outcome(one) for one in outcomes) or _filled("outcome", "")
        if call_type is not None:
            if call_type not in ("inbound", "outbound"):
                raise InvalidArgument("call_type must be 'inbound' or 'outbound'")
            query["call_type"] = call_type
        bounded = created_from is not None or created_to is not None
        listing = Listing(
            _paths.space_tasks(space_token),
            Task,
            ("task_id", "id"),
            query=query,
            statuses=wanted_statuses(status),
            window=_paths.TimeWindow(created_from, created_to) if bounded else None,
        )
        return self._core.pager(listing, start_page, page_size, on_bad_row)

    async def create(
        self,
        space_token: str,
        *,
        pilot: str,
        documents: Iterable[Mapping[str, Any]],
        context: str,
        schedule: Schedule = "now",
    ) -> CreatedRun:
        """Place phone calls: one per document, by the agent `pilot`.

        Everything is checked before sending, because the server queues calls it has not checked. The request
        is sent once, over a connection of its own, and never repeated after it may have reached the server.

        Args:
            pilot: handle of the agent. The server does not check it: a wrong one queues calls nobody makes.
            documents: one mapping per call with `name` and `contact_number` as text; `id` or `document_id`
                comes back as the task's `ref_id`.
            context: what the call is about; the server refuses a create without it.
            schedule: "now", "auto", `ScheduleNow()`, `ScheduleAuto()` or `ScheduleCustom(date, time)`.

        Documented in "Create a Task in a Space".

        Raises:
            InvalidArgument: an argument is not accepted; nothing was sent.
            TransportError: with `sent` False: nothing was sent.
            OutcomeUnknown: it was sent and the calls may be queued; the text says where to look.
            APIError: the server refused (3xx, 4xx, 206 refusal or validation); no call was queued.
        """
        return await self._core.create(
            space_token, pilot=pilot, documents=documents, context=context, schedule=schedule
        )


def _run_tasks(space_token: str, run_id: str, status: Status) -> Listing[Task]:
    return Listing(
        _paths.run_tasks(space_token, run_id),
        Task,
        ("task_id", "id"),
        run_id=run_id,
        statuses=wanted_statuses(status),
    )


def _are_many(runs: object) -> bool:
    return isinstance(runs, Iterable | AsyncIterable) and not isinstance(runs, str)


def _filled(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidArgument(f"{name} must be text that is not empty")
    return value


def _outcome(value: object) -> str:
    text = _filled("outcome", value)
    if "," in text:
        raise InvalidArgument("an outcome holds no comma, which parts several of them: pass a list")
    return text
