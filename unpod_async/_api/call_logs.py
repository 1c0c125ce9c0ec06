"""`client.call_logs`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from unpod_async._http import check_choice, check_id, endpoints
from unpod_async._paging import Listing, OnBadRow, Pager, Resource
from unpod_async.models import CallLog

__all__ = ["CallLogs"]


class CallLogs(Resource):
    """The calls of the organization. Use it as `client.call_logs`."""

    def list(
        self,
        *,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        call_type: Literal["inbound", "outbound"] | None = None,
        call_status: Literal["completed", "missed", "failed"] | None = None,
        product_id: str | None = None,
        limit: int | None = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[CallLog]:
        """List the call logs of the organization.

        Rows without an `id` are identified by all their fields, because newer servers send none; equal rows
        count as different calls. Documented by the service in "Call Logs".

        Args:
            created_from: only calls whose `creation_time` (or else `start_time`) is this time or later, as a
                timezone-aware datetime. The server selects whole days in UTC; the client compares each row
                with the exact time. A row without either time is kept, and counted in `stats.undated`.
            created_to: only calls of this time or earlier, likewise.
            call_type: only "inbound" or only "outbound" calls.
            call_status: only calls with this status; filtered by the server.
            product_id: value of the Product-Id header, which some servers require. Default: the `product_id`
                of the client.
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all.
            start_page: number of the first page to read, counted from 1.
            page_size: rows per request; by default the client's `page_size`.
            on_bad_row: "raise" (default) or "skip", as in `organizations.list`.

        Returns:
            A `Pager`. No request is sent until it is iterated.

        Raises:
            ConfigurationError: the client has no Org-Handle.
            InvalidArgument: an argument is not accepted.
            InvalidRequestError: while iterating: the server requires a `product_id`, and the hint says so.
            UnpodError: while iterating: see `Pager`.

        Example:
            ```python
            since = datetime(2025, 7, 1, tzinfo=UTC)
            async for call in unpod.call_logs.list(created_from=since, call_status="missed"):
                print(call.creation_time, call.duration)
            ```
        """
        window = endpoints.TimeWindow(created_from, created_to, truncated=False)
        query = endpoints.day_bounds(window)
        if call_type is not None:
            query["call_type"] = check_choice("call_type", call_type, ("inbound", "outbound"))
        if call_status is not None:
            query["call_status"] = check_choice("call_status", call_status, ("completed", "missed", "failed"))
        context = self._context
        product = context.settings.product_id if product_id is None else check_id("product_id", product_id)
        if product is not None:
            context = context.with_headers({"Product-Id": product})
        listing = Listing(
            endpoints.call_logs(),
            CallLog,
            key="id",
            query=query,
            window=window if query.keys() & {"start_date", "end_date"} else None,
            needs_org=True,
        )
        return context.pager(listing, start_page, page_size, on_bad_row, limit)
