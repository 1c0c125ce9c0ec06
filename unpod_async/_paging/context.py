"""What every group of calls shares: settings, the caller, and the few ways a call is made."""

from __future__ import annotations

from typing import TypeVar

from unpod_async._http import (
    Deadline,
    Endpoint,
    Request,
    RequestExecutor,
    Response,
    Settings,
    classify,
    classify_inside,
)
from unpod_async._paging.collector import OnBadRow
from unpod_async._paging.decode import decode_one
from unpod_async._paging.listings import Listing
from unpod_async._paging.pager import Pager
from unpod_async.errors import ConfigurationError, DecodeError, UnpodError

__all__ = ["ClientContext", "Resource", "decode_single"]

T = TypeVar("T")


class ClientContext:
    """Settings and executor of one client or of a view of it."""

    def __init__(self, settings: Settings, executor: RequestExecutor) -> None:
        self.settings = settings
        self.executor = executor

    def page_size(self, page_size: int | None) -> int:
        return self.settings.page_size if page_size is None else page_size

    def pager(
        self,
        listing: Listing[T],
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
        deadline: Deadline | None = None,
    ) -> Pager[T]:
        if listing.needs_org:
            self._need_org(listing.endpoint)
        return Pager(
            self.executor,
            listing,
            page_size=self.page_size(page_size),
            start_page=start_page,
            on_bad_row=on_bad_row,
            deadline=deadline,
        )

    async def get_one(self, endpoint: Endpoint, model: type[T]) -> T:
        self._need_org(endpoint)

        def parse(request: Request, response: Response) -> T:
            return decode_single(request, response, model)

        return await self.executor.read(endpoint, {}, parse, self.executor.deadline())

    def _need_org(self, endpoint: Endpoint) -> None:
        if self.settings.org_handle is None:
            raise ConfigurationError(
                f"{endpoint.label}: the Org-Handle is needed and not known: pass org_handle= or set "
                "UNPOD_ORG_HANDLE (it is the `domain_handle` of an organization)"
            )


class Resource:
    """Calls that belong together, such as those about runs."""

    def __init__(self, context: ClientContext) -> None:
        self._context = context


def decode_single(request: Request, response: Response, model: type[T]) -> T:
    """The object of a single answer.

    Raises:
        APIError, DecodeError: the error the answer is.
    """
    error: UnpodError | None = classify(request, response)
    if error is None:
        try:
            found, stated = decode_one(model, response.body)
        except DecodeError as fault:
            fault.args = (f"{request.method} {request.path} answered {response.status}: {fault.args[0]}",)
            error = classify_inside(request, response) or fault
        else:
            if stated not in (200, 201, None):
                error = classify_inside(request, response)
            if error is None:
                return found
    raise error
