"""`UnpodClient`, the object users hold."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import anyio
import msgspec

from unpod_async._api.directory import Agents, Organizations, Spaces
from unpod_async._api.exporting import Exporting
from unpod_async._api.runs import Runs
from unpod_async._api.tasks import Tasks
from unpod_async._http import (
    DEFAULT_RETRY,
    GRACE,
    ClientLifecycle,
    RateGate,
    RequestExecutor,
    RequestLimiter,
    RetryBudget,
    RetryPolicy,
    Settings,
    Stats,
    TokenProvider,
    Transport,
    check_integer,
    check_number,
    check_seconds,
    request_options,
    resolve,
)
from unpod_async._paging import ClientContext
from unpod_async._recordings import Recordings
from unpod_async.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

    import aiohttp

__all__ = ["UnpodClient"]


class _Keep(enum.Enum):
    KEEP = "keep"


KEEP: Final = _Keep.KEEP
"""The option stays as it is; None would be a value of its own."""

KeepType: TypeAlias = Literal[_Keep.KEEP]


class UnpodClient(Exporting):
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
        session: an aiohttp session of yours for reads; it is never closed here, and its middlewares are left
            out. Creates use a connection of their own all the same.
        retry: how failed attempts are repeated (`RetryPolicy`), or None to send everything once.
        timeout: seconds for one attempt, counted from the moment a place is free.
        deadline: seconds for everything one call or walk does; see `with_options`.
        rate_limit: requests that may start per second, evenly spaced; None is no limit of ours.
        token_provider: async function that gives a new token; asked once when one is refused with 401.
        max_response_bytes: an answer longer than this, decompressed, is given up while it comes in.
        proxy, ssl_context: as aiohttp takes them. Proxies and .netrc of the environment are not read, and
            there is no switch to turn certificate checks off.

    `async with UnpodClient() as unpod:` closes it at the end, after the calls under way; else
    `await unpod.aclose()`.

    Pickling or copying a client leaves out the token, which the copy takes from the environment, and what
    concerns the sending: `retry` and all arguments after it are the defaults again.

    Raises:
        ConfigurationError: there is no token, or an argument is not accepted.
    """

    organizations: Organizations
    spaces: Spaces
    agents: Agents
    runs: Runs
    tasks: Tasks
    recordings: Recordings

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
        retry: RetryPolicy | None = DEFAULT_RETRY,
        timeout: float = 60,
        deadline: float | None = None,
        rate_limit: float | None = None,
        token_provider: TokenProvider | None = None,
        max_response_bytes: int = 256 * 2**20,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        try:
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
        except ConfigurationError as error:
            # The frames below, and those of a first wording, hold the token.
            error.__traceback__ = error.__context__ = None
            raise
        finally:
            token = None  # and this one is shown where any argument is refused
        options = request_options(retry, timeout, deadline)
        if rate_limit is not None:
            check_number("rate_limit", rate_limit, error=ConfigurationError)
        check_integer("max_response_bytes", max_response_bytes, error=ConfigurationError)
        caller_frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        lifecycle = ClientLifecycle()
        transport = Transport(
            settings,
            secret,
            lifecycle,
            session=session,
            token_provider=token_provider,
            max_response_bytes=max_response_bytes,
            proxy=proxy,
            ssl_context=ssl_context,
            created_at=f"{caller_frame.f_code.co_filename}:{caller_frame.f_lineno}",
        )
        stats = Stats()
        caller = RequestExecutor(
            lifecycle=lifecycle,
            transport=transport,
            limiter=RequestLimiter(RateGate(rate_limit), stats),
            # A view may repeat where the client itself does not.
            budget=RetryBudget((retry or DEFAULT_RETRY).budget),
            stats=stats,
            semaphores=(anyio.Semaphore(settings.max_concurrency, fast_acquire=True),),
            options=options,
        )
        self._set_up(ClientContext(settings, caller), owner=True)

    def _set_up(self, context: ClientContext, *, owner: bool) -> None:
        self._context = context
        self._owner = owner
        self.organizations = Organizations(context)
        self.spaces = Spaces(context)
        self.agents = Agents(context)
        self.runs = Runs(context)
        self.tasks = Tasks(context)
        self.recordings = Recordings(context)

    def with_options(
        self,
        *,
        retry: RetryPolicy | KeepType | None = KEEP,
        timeout: float | KeepType = KEEP,
        deadline: float | KeepType | None = KEEP,
        page_size: int | KeepType = KEEP,
        max_concurrency: int | KeepType = KEEP,
    ) -> UnpodClient:
        """A view of this client with other options, over the same connections, limits, budget and counters.

        Args:
            retry: a `RetryPolicy`, or None to send everything once. The budget stays the client's.
            timeout: seconds for one attempt, from the moment a place is free.
            deadline: seconds for everything that one call or one walk does, from its first request: waiting
                for a place, attempts, sleeps, decoding and the caller's own time between pages. When the next
                wait does not fit, the last error is raised at once. None has no end.
            page_size: rows asked for per page.
            max_concurrency: requests of this view in flight at once, a share of the client's own limit.

        ================  ====================================================================================
        What ends a call  What happens
        ================  ====================================================================================
        `timeout`         the attempt has failed; `RetryPolicy` says what is repeated
        `deadline`        `TransportError`, or the last error when the next wait does not fit, with its
                          `attempts`; a create that may have left: `OutcomeUnknown`
        cancellation      requests are dropped, places given back; a create that may have left puts a note on
                          the `CancelledError` and a warning into the log
        `break`           nothing is open between the rows of a listing; leaving the `async with` of a stream
                          stops its tasks and waits for them
        ================  ====================================================================================

        Closing a view does nothing; close the client.

        Raises:
            ConfigurationError: a value is not accepted.
        """
        context = self._context
        old = context.executor.options
        options = request_options(
            old.retry if retry is KEEP else retry,
            old.timeout if timeout is KEEP else timeout,
            old.deadline if deadline is KEEP else deadline,
        )
        settings = msgspec.structs.replace(
            context.settings,
            page_size=context.settings.page_size
            if page_size is KEEP
            else check_integer("page_size", page_size, error=ConfigurationError),
        )
        share = (
            None
            if max_concurrency is KEEP
            else check_integer("max_concurrency", max_concurrency, error=ConfigurationError)
        )
        view = object.__new__(UnpodClient)
        view._set_up(ClientContext(settings, context.executor.with_options(options, share)), owner=False)
        return view

    @property
    def stats(self) -> Stats:
        """What this client and its views have done so far."""
        return self._context.executor.stats

    @property
    def settings(self) -> Settings:
        """What this client is set up with; holds no token, and pickles."""
        return self._context.settings

    def __repr__(self) -> str:
        if not hasattr(self, "_context"):
            return "UnpodClient(not set up)"  # in a traceback of __init__
        return f"UnpodClient(base_url={self.settings.base_url!r}, org_handle={self.settings.org_handle!r})"

    def __reduce__(self) -> tuple[Callable[..., UnpodClient], tuple[Any, ...]]:
        return _from_settings, (self.settings,)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Whoever leaves by an exception or is cancelled wants to get out.
        await self.aclose(GRACE if kind is None else 0)

    async def aclose(self, grace: float = GRACE) -> None:
        """Let the calls under way end, then close the client's connections. May be called twice.

        From now on new calls are refused with `ConfigurationError`; so is the next page of a walk. Calls
        under way go on as ever, with their repeats and waits. When `grace` is over, or this is cancelled,
        those that are left end in `TransportError`, and creates that may have left in `OutcomeUnknown`. With
        no call under way nothing is waited for. Downloads of recordings have connections of their own, and
        end by themselves.

        The end of `async with UnpodClient()` is this; left by an exception or a cancellation, with `grace=0`.
        A `session=` that was given stays open. Closing a view does nothing.

        Args:
            grace: seconds, 5 by default; 0 closes at once.

        Raises:
            ConfigurationError: `grace` is not accepted; the client stays open.
        """
        seconds = check_seconds("grace", grace, finite=False, error=ConfigurationError)
        if not self._owner:
            return
        caller = self._context.executor
        try:
            await caller.lifecycle.close(seconds)
        finally:  # when cancelled, too
            await caller.transport.sessions.aclose()


def _from_settings(settings: Settings) -> UnpodClient:
    return UnpodClient(
        org_handle=settings.org_handle,
        base_url=settings.base_url,
        auth_scheme=settings.auth_scheme,
        page_size=settings.page_size,
        max_concurrency=settings.max_concurrency,
        allow_http=settings.allow_http,
    )
