"""The common parts of all resources of a client: settings, request executor, and common kinds of calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

from unpod_async._common import AsyncOnly
from unpod_async._http import Deadline, Endpoint, Request, RequestExecutor, Response, Settings
from unpod_async._paging.fetch import decode_single
from unpod_async._paging.listings import Listing
from unpod_async._paging.page import OnBadRow
from unpod_async._paging.pager import Pager
from unpod_async.errors import ConfigurationError

__all__ = ["ClientContext", "Resource"]

T = TypeVar("T")


class ClientContext:
    """Settings and request executor of one client, or of a view of it."""

    def __init__(self, settings: Settings, executor: RequestExecutor) -> None:
        self.settings = settings
        self.executor = executor

    def with_headers(self, headers: Mapping[str, str] | None) -> ClientContext:
        """Return a context whose requests have more headers, which take precedence over those of this one.

        Raises:
            InvalidArgument: a header is not accepted.
        """
        if headers is None:
            return self
        try:
            options = self.executor.options.with_headers(headers)
        finally:
            headers = None  # tracebacks show the variables of this frame
        return ClientContext(self.settings, self.executor.with_options(options, None))

    def page_size(self, page_size: int | None) -> int:
        """Return `page_size`, or the default of the client if it is None."""
        return self.settings.page_size if page_size is None else page_size

    def pager(
        self,
        listing: Listing[T],
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
        limit: int | None = None,
        deadline: Deadline | None = None,
    ) -> Pager[T]:
        """Return a pager for a listing.

        Args:
            page_size: None means the default of the client.
            limit: maximum number of rows; None means all.
            deadline: the time limit of each walk; None means that of the client's options.

        Raises:
            ConfigurationError: the listing needs an Org-Handle and the client has none.
            InvalidArgument: an argument is not accepted.
        """
        if listing.needs_org:
            self._check_org(listing.endpoint)
        return Pager(
            self.executor,
            listing,
            page_size=self.page_size(page_size),
            start_page=start_page,
            on_bad_row=on_bad_row,
            limit=limit,
            deadline=deadline,
        )

    async def get_one(self, endpoint: Endpoint, model: type[T]) -> T:
        """Request a single object of the organization.

        Raises:
            ConfigurationError: the client has no Org-Handle.
            UnpodError: the request failed.
        """
        self._check_org(endpoint)

        def parse(request: Request, response: Response) -> T:
            return decode_single(request, response, model)

        return await self.executor.read(endpoint, {}, parse, self.executor.deadline())

    def _check_org(self, endpoint: Endpoint) -> None:
        if self.settings.org_handle is None:
            raise ConfigurationError(
                f"{endpoint.label}: the request needs an Org-Handle",
                argument="org_handle",
                hint="pass org_handle=, or set UNPOD_ORG_HANDLE to your domain_handle",
            )


class Resource(AsyncOnly):
    """Base class of the resources of a client, such as `client.runs`."""

    def __init_subclass__(cls) -> None:
        calls = [f"`.{name}(...)`" for name in vars(cls) if not name.startswith("_")]
        cls._instead_of_for = cls._instead_of_await = cls._instead_of_with = f"use {_either(calls)}"

    if not TYPE_CHECKING:  # as in `AsyncOnly`

        def __aiter__(self) -> NoReturn:
            raise self._not_iterable()

    def __init__(self, context: ClientContext) -> None:
        self._context = context

    def __repr__(self) -> str:
        name = type(self).__name__
        if not hasattr(self, "_context"):
            return f"{name}(not set up)"  # shown in a traceback of __init__
        settings = self._context.settings
        return f"{name}(base_url={settings.base_url!r}, org_handle={settings.org_handle!r})"


def _either(calls: Sequence[str]) -> str:
    return " or ".join((", ".join(calls[:-1]), calls[-1])) if len(calls) > 1 else "".join(calls)
