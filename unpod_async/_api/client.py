"""The class `UnpodClient`, which creates, connects and closes the parts of a client."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import anyio
import msgspec

from unpod_async._api.agents import Agents
from unpod_async._api.call_logs import CallLogs
from unpod_async._api.exporting import Exporting
from unpod_async._api.organizations import Organizations
from unpod_async._api.requests import Requesting
from unpod_async._api.runs import Runs
from unpod_async._api.spaces import Spaces
from unpod_async._api.tasks import Tasks
from unpod_async._api.telemetry import OpenTelemetry, create_telemetry
from unpod_async._common import AsyncOnly, call_site
from unpod_async._http import (
    DEFAULT_RETRY,
    GRACE,
    AttemptEvent,
    ClientLifecycle,
    Hooks,
    Observers,
    RateGate,
    RateLimiter,
    RequestEvent,
    RequestExecutor,
    RequestLimiter,
    RetryBudget,
    RetryPolicy,
    Settings,
    Stats,
    TokenProvider,
    Transport,
    WaitEvent,
    check_hook,
    check_integer,
    check_rate_limit,
    check_seconds,
    merge_headers,
    request_options,
    resolve,
    resolve_proxy,
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
"""Marks an option that does not change. None cannot mark it, because some options accept None."""

KeepType: TypeAlias = Literal[_Keep.KEEP]


class UnpodClient(AsyncOnly, Exporting, Requesting):
    """Client of the Unpod platform API. One client serves a whole application.

    A client can be created without a running event loop. Its connections are opened by the first request, and
    it belongs to the event loop of that request from then on. Any number of coroutines of that loop can use
    it at the same time.

    Use it with `async with`, or call `aclose()` at the end.

    Example:
        ```python
        async with UnpodClient() as unpod:  # token from UNPOD_PLATFORM_TOKEN
            async for run in unpod.runs.list("SPACE_TOKEN"):
                print(run.run_id, run.status)
        ```

    Args:
        token: API key, or a JWT with auth_scheme "JWT" or "Bearer". Default: UNPOD_PLATFORM_TOKEN.
        org_handle: `domain_handle` of the organization, sent as Org-Handle; `agents`, `spaces` and
            `call_logs` need it. Default: UNPOD_ORG_HANDLE.
        base_url: root URL of the service. A bare host name gets https, or http for this machine. Default:
            UNPOD_PLATFORM_BASE_URL, UNPOD_BASE_URL or "https://unpod.ai".
        auth_scheme: first word of the Authorization header: "Token" (default), "JWT" or "Bearer".
        page_size: rows per request of a listing, 100 by default; calls can override it.
        max_concurrency: maximum number of requests in flight, 8 by default, over all calls of this client.
            The service answers listings one after another, so more than about four requests gain little.
        allow_http: allow `http://` to other machines, which sends the token unencrypted. False by default.
        session: your own `aiohttp.ClientSession`, used for reads. The client does not close it and ignores
            its middlewares. Each create uses a new connection.
        retry: how failed attempts are retried (`RetryPolicy`); None disables retries.
        timeout: seconds for one attempt, 60 by default. It does not include waits for the limits on requests.
        deadline: seconds for everything that one call or one iteration does; None (default) means no limit.
            See `with_options`.
        rate_limit: requests per second, evenly spaced; None (default) means no limit. A `RateLimiter` limits
            several clients together.
        token_provider: async function that returns a new token; called once when the server answers 401. The
            new token follows the rules for `token`. If the function fails, the hint of the
            `AuthenticationError` says so.
        max_response_bytes: size of the largest decompressed response that is read, 256 MiB by default. A
            larger response is dropped while it arrives.
        proxy: URL of an HTTP proxy, "http://host:port" or "http://user:password@host:port". Default:
            UNPOD_PROXY. Other variables, such as HTTPS_PROXY, and .netrc are not used. Recordings are
            downloaded without a proxy.
        ssl_context: TLS settings, as for aiohttp. There is no option to disable certificate checks. Downloads
            of recordings do not use it; `recordings.download` has its own `ssl_context`.
        product_id: value of the Product-Id header of call logs, which some servers require. Default:
            UNPOD_PRODUCT_ID.
        app_name: name of your application, such as "billing" or "billing/1.2", which the User-Agent header
            then begins with.
        headers: headers to add to each request. Their values are treated like the token. Headers that the
            client sends itself, such as Authorization and Org-Handle, are refused.
        on_request: function that is called with a `RequestEvent` when a request has ended: one page of a
            listing, one object, or one create, with its retries.
        on_attempt: function that is called with an `AttemptEvent` when an attempt has ended.
        on_wait: function that is called with a `WaitEvent` when a request has waited.
        opentelemetry: True records traces and metrics with the global providers of OpenTelemetry, which needs
            the extra `otel`; an `OpenTelemetry` sets other providers. False by default.

    Attributes:
        organizations: `organizations.list`.
        spaces: `spaces.list` and `spaces.get`.
        agents: `agents.list`, `agents.tasks` and `agents.executions`.
        runs: `runs.list`, `runs.tasks`, `runs.tasks_for`, `runs.watch`, `runs.wait` and `runs.find`.
        tasks: `tasks.list`, `tasks.create`, `tasks.create_many` and `tasks.reconcile`.
        call_logs: `call_logs.list`.
        recordings: `recordings.download`.

    `request` and `paginate` use endpoints that have no method of their own.

    A client can be pickled and copied. The copy keeps `org_handle`, `base_url`, `auth_scheme`, `page_size`,
    `max_concurrency`, `allow_http`, `product_id` and `app_name`. It reads the token and the proxy from the
    environment, and uses the defaults of all other arguments.

    Raises:
        ConfigurationError: there is no token, or an argument is not accepted.
    """

    _instead_of_for = (
        "iterate over one of its listings, as in `async for run in unpod.runs.list(space_token)`"
    )
    _instead_of_await = "write `async with UnpodClient() as unpod`, or `unpod = UnpodClient()`"
    _instead_of_with = "write `async with UnpodClient() as unpod`"

    organizations: Organizations
    spaces: Spaces
    agents: Agents
    runs: Runs
    tasks: Tasks
    call_logs: CallLogs
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
        rate_limit: float | RateLimiter | None = None,
        token_provider: TokenProvider | None = None,
        max_response_bytes: int = 256 * 2**20,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        product_id: str | None = None,
        app_name: str | None = None,
        headers: Mapping[str, str] | None = None,
        on_request: Callable[[RequestEvent], None] | None = None,
        on_attempt: Callable[[AttemptEvent], None] | None = None,
        on_wait: Callable[[WaitEvent], None] | None = None,
        opentelemetry: bool | OpenTelemetry = False,
    ) -> None:
        try:
            extra = merge_headers(headers, None, error=ConfigurationError)
            settings, secret = resolve(
                token=token,
                org_handle=org_handle,
                base_url=base_url,
                auth_scheme=auth_scheme,
                page_size=page_size,
                max_concurrency=max_concurrency,
                allow_http=allow_http,
                product_id=product_id,
                app_name=app_name,
                environ=os.environ,
            )
            proxy_url = resolve_proxy(proxy, os.environ)
        except ConfigurationError as error:
            # The frames of the functions below contain the token.
            error.__traceback__ = error.__context__ = None
            raise
        finally:
            # Tracebacks of all errors below show the variables of this frame.
            token = proxy = headers = None
        options = request_options(retry, timeout, deadline, extra)
        rate, shared_limit = check_rate_limit(rate_limit)
        check_integer("max_response_bytes", max_response_bytes, error=ConfigurationError)
        hooks = Hooks(
            check_hook("on_request", on_request),
            check_hook("on_attempt", on_attempt),
            check_hook("on_wait", on_wait),
        )
        observers = Observers.create(hooks, create_telemetry(opentelemetry, settings.base_url))
        lifecycle = ClientLifecycle()
        transport = Transport(
            settings,
            secret,
            lifecycle,
            session=session,
            token_provider=token_provider,
            max_response_bytes=max_response_bytes,
            proxy=proxy_url,
            ssl_context=ssl_context,
            created_at=call_site(),
        )
        stats = Stats()
        executor = RequestExecutor(
            lifecycle=lifecycle,
            transport=transport,
            limiter=RequestLimiter(RateGate(rate), stats, shared=shared_limit),
            # A view can retry even if the client itself does not.
            budget=RetryBudget((retry or DEFAULT_RETRY).budget),
            stats=stats,
            semaphores=(anyio.Semaphore(settings.max_concurrency),),
            options=options,
            observers=observers,
        )
        self._set_up(ClientContext(settings, executor), owner=True)

    def _set_up(self, context: ClientContext, *, owner: bool) -> None:
        self._context = context
        self._owner = owner
        self.organizations = Organizations(context)
        self.spaces = Spaces(context)
        self.agents = Agents(context)
        self.runs = Runs(context)
        self.tasks = Tasks(context)
        self.call_logs = CallLogs(context)
        self.recordings = Recordings(context)

    def with_options(
        self,
        *,
        retry: RetryPolicy | KeepType | None = KEEP,
        timeout: float | KeepType = KEEP,
        deadline: float | KeepType | None = KEEP,
        page_size: int | KeepType = KEEP,
        max_concurrency: int | KeepType = KEEP,
        headers: Mapping[str, str] | KeepType = KEEP,
        on_request: Callable[[RequestEvent], None] | KeepType | None = KEEP,
        on_attempt: Callable[[AttemptEvent], None] | KeepType | None = KEEP,
        on_wait: Callable[[WaitEvent], None] | KeepType | None = KEEP,
    ) -> UnpodClient:
        """Return a view of this client with other options.

        The view uses the connections, limits, retry budget and counters of this client. Closing it does
        nothing. Arguments that are left out keep their value. The token, the organization and the base URL
        cannot be changed: for another organization, create a second `UnpodClient(org_handle=...)`.

        ================  ====================================================================================
        What ends a call  What happens
        ================  ====================================================================================
        `timeout`         The attempt fails; `RetryPolicy` says whether it is retried.
        `deadline`        `TransportError`. If the next wait would exceed the deadline, the last error is
                          raised at once, with its `attempts`. For a create that may have been sent:
                          `OutcomeUnknown`.
        cancellation      The requests are dropped and their slots are freed. If a create may have been sent,
                          the `CancelledError` carries a note and a warning is logged. After a cancelled
                          `anext()`, the next one continues.
        `break`           Nothing is open between two rows of a listing. Leaving the `async with` of a stream
                          cancels its tasks and waits for them.
        ================  ====================================================================================

        Args:
            retry: a `RetryPolicy`; None disables retries. The retry budget remains that of the client.
            timeout: seconds for one attempt. It does not include waits for the limits on requests.
            deadline: seconds for one whole call or iteration, counted from its first request, or from its
                start if it imports code first, as exports and `to_arrow` do. This includes waits for limits,
                attempts, delays, decoding, and the time that the caller takes between two pages. None means
                no limit.
            page_size: rows per request of a listing.
            max_concurrency: maximum number of requests of this view in flight. They also count towards the
                limit of the client.
            headers: headers to add to those of the client, which they override.
            on_request: function that is called for the requests of this view, in place of that of the client.
                None removes it.
            on_attempt: as `on_request`.
            on_wait: as `on_request`.

        Returns:
            The view.

        Raises:
            ConfigurationError: an argument is not accepted.

        Example:
            ```python
            patient = unpod.with_options(timeout=300, deadline=3600)
            tasks = await patient.runs.tasks(space_token, run_id).collect()
            ```
        """
        context = self._context
        old = context.executor.options
        try:
            given = None if headers is KEEP else headers
            extra = merge_headers(given, old.headers, error=ConfigurationError)
        finally:
            headers, given = KEEP, None  # as in `__init__`
        options = request_options(
            old.retry if retry is KEEP else retry,
            old.timeout if timeout is KEEP else timeout,
            old.deadline if deadline is KEEP else deadline,
            extra,
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
        executor = context.executor.with_options(options, share)
        hooks = executor.hooks
        hooks = Hooks(
            hooks.on_request if on_request is KEEP else check_hook("on_request", on_request),
            hooks.on_attempt if on_attempt is KEEP else check_hook("on_attempt", on_attempt),
            hooks.on_wait if on_wait is KEEP else check_hook("on_wait", on_wait),
        )
        if hooks != executor.hooks:
            executor = executor.with_hooks(hooks)
        view = object.__new__(UnpodClient)
        view._set_up(ClientContext(settings, executor), owner=False)
        return view

    @property
    def stats(self) -> Stats:
        """Counters of the requests and rows of this client and its views."""
        return self._context.executor.stats

    @property
    def settings(self) -> Settings:
        """The settings of this client, without the token. They can be pickled."""
        return self._context.settings

    def __repr__(self) -> str:
        if not hasattr(self, "_context"):
            return "UnpodClient(not set up)"  # shown in a traceback of __init__
        return f"UnpodClient(base_url={self.settings.base_url!r}, org_handle={self.settings.org_handle!r})"

    def __reduce__(self) -> tuple[Callable[..., UnpodClient], tuple[Any, ...]]:
        return _from_settings, (self.settings,)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After an exception or a cancellation, the caller does not want to wait.
        await self.aclose(GRACE if kind is None else 0)

    async def aclose(self, grace: float = GRACE) -> None:
        """Wait for the calls in progress, then close the client's connections.

        From now on, new calls and the next pages of listings raise `ConfigurationError`. Calls in progress
        continue, with their retries and delays. When `grace` is over, or `aclose` is cancelled, the remaining
        calls raise `TransportError`; creates that may have been sent raise `OutcomeUnknown`. If no call is
        in progress, `aclose` returns at once.

        Leaving `async with UnpodClient()` calls `aclose()`, with `grace=0` after an exception or a
        cancellation. A `session` that was passed in stays open. Downloads of recordings use separate
        connections and are not affected. Closing a view, or a closed client, does nothing.

        Args:
            grace: seconds to wait for calls in progress, 5 by default; 0 closes at once.

        Raises:
            ConfigurationError: `grace` is not accepted. The client stays open.
        """
        seconds = check_seconds("grace", grace, finite=False, error=ConfigurationError)
        if not self._owner:
            return
        executor = self._context.executor
        try:
            await executor.lifecycle.close(seconds)
        finally:  # also when this is cancelled
            await executor.transport.sessions.aclose()


def _from_settings(settings: Settings) -> UnpodClient:
    return UnpodClient(
        org_handle=settings.org_handle,
        base_url=settings.base_url,
        auth_scheme=settings.auth_scheme,
        page_size=settings.page_size,
        max_concurrency=settings.max_concurrency,
        allow_http=settings.allow_http,
        product_id=settings.product_id,
        app_name=settings.app_name,
    )
