"""`client.organizations`."""

from __future__ import annotations

from unpod_async._http import endpoints
from unpod_async._paging import Listing, OnBadRow, Pager, Resource
from unpod_async.models import Organization

__all__ = ["Organizations"]


class Organizations(Resource):
    """Organizations of the account. Use it as `client.organizations`."""

    def list(
        self,
        *,
        limit: int | None = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Organization]:
        """List all organizations of the account, in one request without pages.

        The `domain_handle` of an organization is what the client takes as `org_handle`. Some servers accept
        only a JWT here (auth_scheme "JWT" or "Bearer"). Documented by the service in "Get All Organizations".

        Args:
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all.
            start_page: has no effect, because the listing has no pages.
            page_size: has no effect, because the listing has no pages.
            on_bad_row: what happens if some rows cannot be used. "raise" (default): the listing yields all
                other rows and then raises `DecodeError`. "skip": it logs and skips them.

        Returns:
            A `Pager`. No request is sent until it is iterated.

        Raises:
            InvalidArgument: an argument is not accepted.
            UnpodError: while iterating: see `Pager`.
        """
        listing = Listing(endpoints.organizations(), Organization, ("domain_handle", "token"), paged=False)
        return self._context.pager(listing, start_page, page_size, on_bad_row, limit)
