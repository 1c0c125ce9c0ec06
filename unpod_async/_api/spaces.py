"""`client.spaces`."""

from __future__ import annotations

from unpod_async._http import endpoints
from unpod_async._paging import Listing, OnBadRow, Pager, Resource
from unpod_async.models import Space

__all__ = ["Spaces"]


class Spaces(Resource):
    """Spaces of the organization. Use it as `client.spaces`."""

    def list(
        self,
        *,
        limit: int | None = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Space]:
        """List all spaces of the organization, in one request without pages.

        The `token` of a space is the space token that other calls take. Some servers accept only a JWT here
        (auth_scheme "JWT" or "Bearer"). Documented by the service in "Get All Spaces".

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

        Example:
            ```python
            async for space in unpod.spaces.list():
                print(space.name, space.token)
            ```
        """
        listing = Listing(endpoints.spaces(), Space, ("token",), paged=False, needs_org=True)
        return self._context.pager(listing, start_page, page_size, on_bad_row, limit)

    async def get(self, space_token: str) -> Space:
        """Return one space, with its agents.

        Args:
            space_token: token of the space.

        Raises:
            InvalidArgument: `space_token` is not a valid token.
            ConfigurationError: the client has no Org-Handle.
            NotFoundError: the organization has no such space.
            UnpodError: the request failed.
        """
        return await self._context.get_one(endpoints.space(space_token), Space)
