"""`client.agents`."""

from __future__ import annotations

from unpod_async._http import endpoints
from unpod_async._paging import Listing, OnBadRow, Pager, Resource, TaskStatusFilter, status_filter
from unpod_async.models import Agent, AgentExecution, Task

__all__ = ["Agents"]


class Agents(Resource):
    """Agents of the organization, and the tasks assigned to them. Use it as `client.agents`."""

    def list(
        self,
        *,
        limit: int | None = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Agent]:
        """List all agents of the organization, in one request without pages.

        The `handle` of an agent is what `tasks.create` takes as `pilot`. Documented by the service in "Get
        All Agents".

        Args:
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all.
            start_page: has no effect, because the listing has no pages.
            page_size: has no effect, because the listing has no pages.
            on_bad_row: "raise" (default) or "skip", as in `organizations.list`.

        Returns:
            A `Pager`. No request is sent until it is iterated.

        Raises:
            ConfigurationError: the client has no Org-Handle.
            InvalidArgument: an argument is not accepted.
            UnpodError: while iterating: see `Pager`.
        """
        listing = Listing(endpoints.agents(), Agent, ("handle",), paged=False, needs_org=True)
        return self._context.pager(listing, start_page, page_size, on_bad_row, limit)

    def tasks(
        self,
        agent_handle: str,
        *,
        status: TaskStatusFilter = None,
        limit: int | None = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Task]:
        """List the tasks that are assigned to an agent, newest `created` first.

        Tasks that were created in the same millisecond have no fixed order on the server. If such tasks are
        on two pages, the listing is read again until it is certain that no task is missing. These tasks have
        the additional fields `id`, `failure_count`, `last_failure_reason`, `retry_attempt` and
        `scheduled_timestamp`. Documented by the service in "Get Tasks by Agent Handle".

        Args:
            agent_handle: handle of the agent.
            status: only tasks with this status, or with one of these statuses; filtered on the client,
                because the server has no such filter.
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all.
            start_page: number of the first page to read, counted from 1.
            page_size: rows per request; by default the client's `page_size`.
            on_bad_row: "raise" (default) or "skip", as in `organizations.list`.

        Returns:
            A `Pager`. No request is sent until it is iterated.

        Raises:
            InvalidArgument: an argument is not accepted.
            NotFoundError: while iterating: there is no such agent.
            UnpodError: while iterating: see `Pager`.
        """
        listing = Listing(
            endpoints.agent_tasks(agent_handle),
            Task,
            ("task_id", "id"),
            tied=True,
            statuses=status_filter(status),
        )
        return self._context.pager(listing, start_page, page_size, on_bad_row, limit)

    def executions(
        self,
        agent_handle: str,
        *,
        limit: int | None = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[AgentExecution]:
        """List the executions of an agent: its runs, with the number of all and of completed tasks.

        Not every server offers this endpoint. Documented by the service in "Agent Executions".

        Args:
            agent_handle: handle of the agent.
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all.
            start_page: number of the first page to read, counted from 1.
            page_size: rows per request; by default the client's `page_size`.
            on_bad_row: "raise" (default) or "skip", as in `organizations.list`.

        Returns:
            A `Pager`. No request is sent until it is iterated.

        Raises:
            ConfigurationError: the client has no Org-Handle.
            InvalidArgument: an argument is not accepted.
            NotFoundError: while iterating: the server does not offer this, or has no such agent.
            UnpodError: while iterating: see `Pager`.
        """
        listing = Listing(
            endpoints.agent_executions(agent_handle), AgentExecution, ("run_id",), needs_org=True
        )
        return self._context.pager(listing, start_page, page_size, on_bad_row, limit)
