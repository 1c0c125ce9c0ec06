"""`UnpodClient`, the object users hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from unpod_async._core import Core
from unpod_async._resources import Agents, Organizations, Runs, Spaces, Tasks
from unpod_async._settings import Settings, resolve
from unpod_async._transport import Transport

if TYPE_CHECKING:
    import aiohttp

__all__ = ["UnpodClient"]


class UnpodClient:
    """A client of the Unpod platform API; one serves a whole application.

    Made without a running event loop; the connections are made on the loop of the first request, and the
    client belongs to that loop from then on. Safe for concurrent use from many tasks of it.

    Args:
        token: API key (or JWT, with auth_scheme "JWT" or "Bearer"); else UNPOD_PLATFORM_TOKEN.
        org_handle: `domain_handle` of the organization, sent as Org-Handle; else UNPOD_ORG_HANDLE. Needed by
            agents and spaces.
        base_url: service or platform root; else UNPOD_PLATFORM_BASE_URL, UNPOD_BASE_URL, "https://unpod.ai".
            A bare host gets https (loopback http).
        auth_scheme: first word of the Authorization header: "Token", "JWT" or "Bearer".
        page_size: rows asked for per page unless a call says otherwise.
        max_concurrency: requests in flight at once, over all calls of this client. The service reads listings
            one after another: more than about four at a time gain nothing on one server.
        allow_http: let `http://` go beyond this machine, with the token unencrypted.
        session: an aiohttp session of yours for reads; it is never closed here. Creates use a connection of
            their own all the same.

    `async with UnpodClient() as unpod:` closes it at the end; else `await unpod.aclose()`.

    Pickling a client leaves the token out: the copy takes it from the environment.

    Raises:
        ConfigurationError: there is no token, or an argument is not accepted.
    """

    organizations: Organizations
    spaces: Spaces
    agents: Agents
    runs: Runs
    tasks: Tasks

    def __init__(
        self,
        token: str | None = None,
        org_handle: str | None = None,
        base_url: str | None = None,
        *,
        auth_scheme: str = "Token",
        page_size: int = 100,
        max_concurrency: int = 8,
        allow_http: bool = False,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        settings, secret = resolve(
            token=token,
            org_handle=org_handle,
            base_url=base_url,
            auth_scheme=auth_scheme,
            page_size=page_size,
            max_concurrency=max_concurrency,
            allow_http=allow_http,
            environ=os.environ,
        )
        self._settings = settings
        self._transport = Transport(settings, secret, session)
        core = Core(settings, self._transport)
        self.organizations = Organizations(core)
        self.spaces = Spaces(core)
        self.agents = Agents(core)
        self.runs = Runs(core)
        self.tasks = Tasks(core)

    @property
    def settings(self) -> Settings:
        """What this client is set up with; holds no token, and pickles."""
        return self._settings

    def __repr__(self) -> str:
        return f"UnpodClient(base_url={self._settings.base_url!r}, org_handle={self._settings.org_handle!r})"

    def __reduce__(self) -> tuple[Callable[..., UnpodClient], tuple[Any, ...]]:
        return _from_settings, (self._settings,)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client's connections. A `session=` that was given stays open. May be called twice."""
        await self._transport.aclose()


def _from_settings(settings: Settings) -> UnpodClient:
    return UnpodClient(
        org_handle=settings.org_handle,
        base_url=settings.base_url,
        auth_scheme=settings.auth_scheme,
        page_size=settings.page_size,
        max_concurrency=settings.max_concurrency,
        allow_http=settings.allow_http,
    )
