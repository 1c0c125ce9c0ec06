"""Organizations, spaces and agents."""

from __future__ import annotations

from unpod_async._http import endpoints as _paths
from unpod_async._paging import Listing, OnBadRow, Pager, Resource, Status, status_filter
from unpod_async.models import Agent, Organization, Space, Task

__all__ = ["Agents", "Organizations", "Spaces"]


class Organizations(Resource):
    """Organizations of the account."""

    def list(
        self, *, start_page: int = 1, page_size: int | None = None, on_bad_row: OnBadRow = "raise"
    ) -> Pager[Organization]:
        """All organizations; `domain_handle` is what other calls send as Org-Handle.

        One request without pages. Some servers take only a JWT here (auth_scheme "JWT" or "Bearer").
        Documented in "Get All Organizations".
        """
        listing = Listing(_paths.organizations(), Organization, ("domain_handle", "token"), paged=False)
        return self._context.pager(listing, start_page, page_size, on_bad_row)


class Spaces(Resource):
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
        return self._context.pager(listing, start_page, page_size, on_bad_row)

    async def get(self, space_token: str) -> Space:
        """One space, with its agents.

        Raises:
            InvalidArgument: the token of the space cannot be one.
            ConfigurationError: the Org-Handle is not known.
            NotFoundError: there is no such space in the organization.
        """
        return await self._context.get_one(_paths.space(space_token), Space)


class Agents(Resource):
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
        return self._context.pager(listing, start_page, page_size, on_bad_row)

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
            statuses=status_filter(status),
        )
        return self._context.pager(listing, start_page, page_size, on_bad_row)
