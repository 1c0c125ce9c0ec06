"""A client for synchronous programs: the calls of `UnpodClient`, without `async` and `await`.

::

    from unpod_async.blocking import BlockingClient

    with BlockingClient() as unpod:  # token from UNPOD_PLATFORM_TOKEN
        for run in unpod.runs.list("SPACE_TOKEN"):
            print(run.run_id, run.status)

An `UnpodClient` does the work, in an event loop in another thread. Each method here calls one of its methods,
with the same arguments, results and errors.
"""

# The functions that create methods use the attributes of the classes.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import re
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Concatenate, Final, Generic, NamedTuple, NoReturn, ParamSpec, Self, TypeVar, cast

import anyio
from anyio.from_thread import BlockingPortal

from unpod_async._api import Agents, CallLogs, Organizations, Runs, Spaces, Tasks, UnpodClient
from unpod_async._common import call_site
from unpod_async._http import GRACE, Settings, Stats, check_seconds
from unpod_async._paging import (
    ListingIterator,
    Pager,
    Stream,
    StreamIterator,
    received_items,
    received_rows,
)
from unpod_async._recordings import Recordings
from unpod_async._watch import Watch, WatchState
from unpod_async.errors import ConfigurationError
from unpod_async.events import Event

__all__ = ["BlockingClient", "BlockingIterator", "BlockingPager", "BlockingStream", "BlockingWatch"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

_CHECK_INTERVAL: Final = 0.5
"""Seconds between two checks of a call that is in progress. On Windows, Ctrl-C waits for the next check."""


# --- the event loop ----------------------------------------------------------------------------------------


class _Call(Generic[R]):
    """A call that runs in the event loop while a thread waits for it.

    Attributes:
        notes: the notes of its cancellation, such as the one that calls may be queued.
    """

    def __init__(self, function: Callable[[], Awaitable[R]]) -> None:
        self.notes: Sequence[str] = ()
        self._function = function
        self._scope: anyio.CancelScope | None = None
        self._done = threading.Event()
        self._results: list[R] = []
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Run the call. It never fails; a cancellation of the event loop passes through."""
        try:
            with anyio.CancelScope() as self._scope:
                await self._run()
        except asyncio.CancelledError as cancellation:
            self._error = cancellation
            raise
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._error = error
        finally:
            self._done.set()

    async def _run(self) -> None:
        try:
            self._results.append(await self._function())
        except asyncio.CancelledError as cancellation:
            self.notes = getattr(cancellation, "__notes__", ())
            raise

    def cancel(self) -> None:
        """Cancel the call. The event loop runs this after the first step of `run`, if it ever runs that."""
        if self._scope is None:
            self._done.set()
        else:
            self._scope.cancel()

    def wait(self) -> None:
        """Wait until the call has ended."""
        while not self._done.wait(_CHECK_INTERVAL):
            pass

    def result(self) -> R:
        """Return the result of a call that has ended, or raise its error."""
        error, self._error = self._error, None
        if self._results:
            return self._results.pop()
        if error is None or isinstance(error, asyncio.CancelledError):
            raise _closed_error()  # closing the client has cancelled the call
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame


class _EventLoop(NamedTuple):
    """A running event loop, and what ends it."""

    portal: BlockingPortal
    loop: asyncio.AbstractEventLoop
    end: asyncio.Event

    def stop(self) -> None:
        """Close the client and end the event loop, without waiting for it."""
        self.loop.call_soon_threadsafe(self.end.set)


async def _serve(client: UnpodClient, started: Future[_EventLoop]) -> None:
    async with BlockingPortal() as portal:
        event_loop = _EventLoop(portal, asyncio.get_running_loop(), asyncio.Event())
        started.set_result(event_loop)
        await event_loop.end.wait()
        await client.aclose(0)
        await portal.stop(cancel_remaining=True)


class _LoopThread:
    """The thread with the event loop of a client. It starts with the first call."""

    def __init__(self, client: UnpodClient) -> None:
        self._client = client
        self._created_at = call_site()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._started: Future[_EventLoop] = Future()
        self._thread = threading.Thread(
            target=anyio.run, args=(_serve, client, self._started), name="unpod_async.blocking", daemon=True
        )
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._is_closed = False

    def __reduce_ex__(self, protocol: Any, /) -> NoReturn:
        raise TypeError(
            "a thread cannot be pickled or copied: pickle the BlockingClient itself, without its listings"
        )

    @property
    def is_closed(self) -> bool:
        """Whether the client is closed."""
        return self._is_closed

    def run(self, function: Callable[[], Awaitable[R]]) -> R:
        """Run an async function in the event loop and wait for it.

        If an exception interrupts the wait, such as a KeyboardInterrupt, the function is cancelled first.

        Raises:
            ConfigurationError: the client is closed or cannot be used in this thread or process.
        """
        return _run(self._start().portal, function)

    def close(self, grace: float) -> None:
        """Close the client and end the thread."""
        if os.getpid() != self._process:
            return  # the thread is in the parent
        self._check()
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._finalizer is not None:
                self._finalizer.detach()
        if self._thread.ident is None:
            return
        event_loop = self._started.result()
        try:
            _run(event_loop.portal, lambda: self._client.aclose(grace))
        finally:
            event_loop.stop()
            self._thread.join()

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise ConfigurationError(
                "the client was created before this process was forked, so its thread is in the parent",
                hint="create a new BlockingClient in each process",
            )
        if threading.current_thread() is self._thread:
            raise ConfigurationError(
                "a function or iterator that was passed to a BlockingClient calls this client",
                hint="pass a list; functions that you pass cannot call the client",
            )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise ConfigurationError(
            "an event loop runs in this thread, and a BlockingClient would block it",
            hint="use `async with UnpodClient()` and `await`, in a notebook too",
        )

    def _start(self) -> _EventLoop:
        """Return the event loop. The first call starts it."""
        self._check()
        with self._lock:
            if self._is_closed:
                raise _closed_error()
            # Each step leaves a state from which the next call continues, if Ctrl-C comes after it.
            if self._finalizer is None:
                self._finalizer = weakref.finalize(self, _abandon, self._started, self._created_at)
                self._finalizer.atexit = False
            if self._thread.ident is None:
                self._thread.start()
        return self._started.result()


def _run(portal: BlockingPortal, function: Callable[[], Awaitable[R]]) -> R:
    call = _Call(function)
    is_open = True
    try:
        try:
            portal.start_task_soon(call.run)
        except RuntimeError:  # another thread has just ended the event loop
            is_open = False
        else:
            call.wait()
    except BaseException as interruption:
        _cancel(portal, call)
        for note in call.notes:
            interruption.add_note(note)
        raise
    if not is_open:
        raise _closed_error()
    return call.result()


def _cancel(portal: BlockingPortal, call: _Call[Any]) -> None:
    """Cancel a call and wait until it has ended."""
    try:
        portal.start_task_soon(call.cancel)
    except RuntimeError:
        return  # the event loop has ended, and the call with it
    call.wait()


def _abandon(started: Future[_EventLoop], created_at: str) -> None:
    """Warn about a client that was never closed, and close it. This may run in any thread."""
    warnings.warn(
        f"the BlockingClient created at {created_at or 'an unknown place'} was never closed: use "
        "`with BlockingClient() as unpod`, or `unpod.close()`",
        ResourceWarning,
        stacklevel=2,
    )
    started.add_done_callback(lambda event_loop: event_loop.result().stop())


def _closed_error() -> ConfigurationError:
    return ConfigurationError(
        "the client is closed", hint="create a new BlockingClient, or keep this one open longer"
    )


# --- synchronous methods -----------------------------------------------------------------------------------


class _Facade(Generic[S]):
    """A synchronous object in front of an asynchronous one."""

    def __init__(self, thread: _LoopThread, wrapped: S) -> None:
        self._thread = thread
        self._wrapped = wrapped

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._wrapped!r}>"


_NAMES: Final = {
    "ListingIterator": "BlockingIterator",
    "Pager": "BlockingPager",
    "Stream": "BlockingStream",
    "UnpodClient": "BlockingClient",
    "Watch": "BlockingWatch",
}
_CLASS: Final = re.compile(rf"\b({'|'.join(_NAMES)})\b")
_CLASS_IN_TEXT: Final = re.compile(rf"(?<=`){_CLASS.pattern}")
_KEYWORD: Final = re.compile(r"\basync (?=for|with)|\bawait ")


def _rename(match: re.Match[str]) -> str:
    return _NAMES[match[1]]


def _like(method: Callable[..., Any], function: Callable[P, R]) -> Callable[P, R]:
    """Give a synchronous method the name, the signature and the docstring of an asynchronous one."""
    signature = inspect.signature(method)
    returned = _CLASS.sub(_rename, signature.return_annotation)
    doc = method.__doc__ or ""
    functools.update_wrapper(function, method)
    function.__module__ = __name__
    function.__doc__ = _CLASS_IN_TEXT.sub(_rename, _KEYWORD.sub("", doc))
    function.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
    return function


def _awaited(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Any, P], R]:
    """Return a method that waits for an async one."""

    function: Callable[..., Coroutine[Any, Any, R]] = method

    def call(self: _Facade[S], /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return self._thread.run(_prepared(function, self._wrapped, args, kwargs))
        finally:
            kwargs.clear()  # tracebacks show the variables of this frame, which may be secret headers

    return _like(method, call)


def _prepared(
    function: Callable[..., Coroutine[Any, Any, R]],
    wrapped: object,
    args: Sequence[object],
    kwargs: Mapping[str, object],
) -> Callable[[], Coroutine[Any, Any, R]]:
    """Return a function that calls `function` once. Neither its repr nor a traceback shows `kwargs`."""
    options: dict[str, object] = {}

    def call() -> Coroutine[Any, Any, R]:
        try:
            return function(wrapped, *items, **options)
        finally:
            options.clear()

    try:
        # Iterators that use this client cannot be read in the event loop.
        items = [_collect(argument) for argument in args]
        for name in kwargs:
            options[name] = _collect(kwargs[name])
    except BaseException:
        options.clear()
        raise
    finally:
        kwargs = {}
    return call


def _collect(argument: object) -> object:
    if isinstance(argument, Iterator | BlockingPager):
        return list(cast("Iterable[object]", argument))
    return argument


def _paged(method: Callable[Concatenate[S, P], Pager[T]]) -> Callable[Concatenate[Any, P], BlockingPager[T]]:
    """Return a method that returns a listing."""

    def call(self: _Facade[S], /, *args: P.args, **kwargs: P.kwargs) -> BlockingPager[T]:
        try:
            return BlockingPager(self._thread, method(self._wrapped, *args, **kwargs))
        finally:
            kwargs.clear()  # as in `_awaited`

    return _like(method, call)


def _iterated(
    method: Callable[Concatenate[S, P], ListingIterator[T]],
) -> Callable[Concatenate[Any, P], BlockingIterator[T]]:
    """Return a method that returns an iterator."""

    def call(self: _Facade[S], /, *args: P.args, **kwargs: P.kwargs) -> BlockingIterator[T]:
        return BlockingIterator(self._thread, method(self._wrapped, *args, **kwargs), received_items)

    return _like(method, call)


def _streamed(
    method: Callable[Concatenate[S, P], Stream[T]],
) -> Callable[Concatenate[Any, P], BlockingStream[T]]:
    """Return a method that returns a stream."""

    function: Callable[..., Stream[T]] = method

    def call(self: _Facade[S], /, *args: P.args, **kwargs: P.kwargs) -> BlockingStream[T]:
        items = [_unwrap(argument) for argument in args]
        options = {name: _unwrap(argument) for name, argument in kwargs.items()}
        return BlockingStream(self._thread, function(self._wrapped, *items, **options))

    return _like(method, call)


def _unwrap(argument: object) -> object:
    pager: Any = argument
    return pager._wrapped if isinstance(argument, BlockingPager) else argument


def _watched(method: Callable[Concatenate[S, P], Watch]) -> Callable[Concatenate[Any, P], BlockingWatch]:
    """Return a method that returns a watch."""

    def call(self: _Facade[S], /, *args: P.args, **kwargs: P.kwargs) -> BlockingWatch:
        return BlockingWatch(self._thread, method(self._wrapped, *args, **kwargs))

    return _like(method, call)


def _viewed(
    method: Callable[Concatenate[UnpodClient, P], UnpodClient],
) -> Callable[Concatenate[Any, P], BlockingClient]:
    """Return a method that returns a view of a client."""

    def call(self: BlockingClient, /, *args: P.args, **kwargs: P.kwargs) -> BlockingClient:
        try:
            return BlockingClient._view(self, method(self._wrapped, *args, **kwargs))
        finally:
            kwargs.clear()  # as in `_awaited`

    return _like(method, call)


# --- listings and streams ----------------------------------------------------------------------------------


class BlockingIterator(_Facade[ListingIterator[T] | StreamIterator[T]], Iterator[T]):
    """An iterator over the rows or pages of a listing, or over the rows of a stream.

    It reads one page at a time. Nothing is open between two rows, so it can be abandoned at any point. If
    Ctrl-C interrupts a `next()`, the following one continues: no row is lost or repeated. Several threads can
    share one: each item goes to one of them.
    """

    def __init__(
        self,
        thread: _LoopThread,
        wrapped: ListingIterator[T] | StreamIterator[T],
        received: Callable[[Any], list[T]] | None,
    ) -> None:
        super().__init__(thread, wrapped)
        self._received = received
        self._items: Iterator[T] = iter(())
        # Reentrant, because a signal handler may call `next()` while the main thread waits in it.
        self._lock = threading.RLock()

    def __next__(self) -> T:
        with self._lock:
            for item in self._items:
                return item
            self._thread.run(self._next_items)
            return next(self._items)

    async def _next_items(self) -> None:
        """Get the next item, and those that need no request."""
        try:
            item = await anext(self._wrapped)
        except StopAsyncIteration:
            self._items = iter(())
            return
        # Kept here: a result of this function would be lost if Ctrl-C came just now.
        self._items = iter([item, *(() if self._received is None else self._received(self._wrapped))])


class BlockingPager(_Facade[Pager[T]], Generic[T]):
    """A listing of the service: `for row in pager` yields every row exactly once, or raises an error.

    Creating it sends no request. Each iteration reads the listing from the start, one page at a time. See
    `Pager` for the guarantees and the errors.
    """

    def __iter__(self) -> BlockingIterator[T]:
        return BlockingIterator(self._thread, aiter(self._wrapped), received_items)

    pages: Final = _iterated(Pager[T].pages)
    raw: Final = _iterated(Pager[T].raw)
    collect: Final = _awaited(Pager[T].collect)
    first: Final = _awaited(Pager[T].first)
    count: Final = _awaited(Pager[T].count)
    to_arrow: Final = _awaited(Pager[T].to_arrow)
    to_polars: Final = _awaited(Pager[T].to_polars)
    to_pandas: Final = _awaited(Pager[T].to_pandas)
    prefetch: Final = _streamed(Pager[T].prefetch)


class BlockingStream(_Facade[Stream[T]], Generic[T]):
    """Rows that are read with concurrent requests, in the background.

    Use it with `with`. Leaving the block cancels the requests and waits for them. A stream can be entered
    once.

    Example:
        ```python
        with unpod.runs.tasks_for(space_token) as stream:
            for task in stream:
                print(task.task_id)
        ```
    """

    _received: Callable[[StreamIterator[T]], list[T]] | None = staticmethod(received_rows)
    _is_entered = False

    def __enter__(self) -> Self:
        was_entered = self._is_entered
        try:
            self._thread.run(self._enter)
            return self
        except BaseException:
            # Ctrl-C came when the background tasks had been started, and `with` will not stop them.
            if self._is_entered and not was_entered:
                self._leave()
            raise

    async def _enter(self) -> None:
        await self._wrapped.__aenter__()
        self._is_entered = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._is_entered = False
        if not self._thread.is_closed:  # else the tasks were cancelled
            self._thread.run(lambda: self._wrapped.__aexit__(None, None, None))

    def __iter__(self) -> BlockingIterator[T]:
        if not self._is_entered:
            raise ConfigurationError(
                f"{self._wrapped!r} is iterated outside its `with`",
                hint="use `with ... as stream: for row in stream`",
            )
        return BlockingIterator(self._thread, aiter(self._wrapped), self._received)


class BlockingWatch(BlockingStream[Event]):
    """The events of `runs.watch`: `with unpod.runs.watch(space) as events: for event in events`.

    See `Watch`.
    """

    _wrapped: Watch
    # One event at a time, because `state` has the events that the caller has received.
    _received = None

    @property
    def polls(self) -> int:
        """The number of completed polls of all spaces, for health checks."""
        return self._wrapped.polls

    @property
    def resyncs(self) -> int:
        """The number of completed resyncs of all spaces."""
        return self._wrapped.resyncs

    @property
    def state(self) -> WatchState:
        """The state of the watch: everything reported so far, including the current event.

        A watch that starts with this state reports everything after it. Each access makes a copy.
        """

        async def state() -> WatchState:
            return self._wrapped.state

        return self._thread.run(state)


# --- the client --------------------------------------------------------------------------------------------


class _Organizations(_Facade[Organizations]):
    list: Final = _paged(Organizations.list)


class _Spaces(_Facade[Spaces]):
    list: Final = _paged(Spaces.list)
    get: Final = _awaited(Spaces.get)


class _Agents(_Facade[Agents]):
    list: Final = _paged(Agents.list)
    tasks: Final = _paged(Agents.tasks)
    executions: Final = _paged(Agents.executions)


class _Runs(_Facade[Runs]):
    list: Final = _paged(Runs.list)
    tasks: Final = _paged(Runs.tasks)
    tasks_for: Final = _streamed(Runs.tasks_for)
    watch: Final = _watched(Runs.watch)
    wait: Final = _awaited(Runs.wait)
    find: Final = _awaited(Runs.find)


class _Tasks(_Facade[Tasks]):
    list: Final = _paged(Tasks.list)
    create: Final = _awaited(Tasks.create)
    create_many: Final = _awaited(Tasks.create_many)
    reconcile: Final = _awaited(Tasks.reconcile)


class _CallLogs(_Facade[CallLogs]):
    list: Final = _paged(CallLogs.list)


class _Recordings(_Facade[Recordings]):
    download: Final = _awaited(Recordings.download)


class BlockingClient(_Facade[UnpodClient]):
    """A client for synchronous programs. Several threads can use it at the same time.

    Use it with `with`, or call `close()` at the end. It has the methods of `UnpodClient`, with the same
    arguments, results and errors, but without `async` and `await`. The first call starts a thread with an
    event loop, which sends the requests. Functions that you pass, such as `on_progress`, run in that thread.

    Ctrl-C cancels the call that is in progress and waits until it has cleaned up; a second Ctrl-C does not
    wait. If a create may have been sent, the `KeyboardInterrupt` gets a note, and a warning is logged.

    Example:
        ```python
        with BlockingClient(UnpodClient(deadline=60)) as unpod:
            for run in unpod.runs.list("SPACE_TOKEN", limit=10):
                print(run.run_id, unpod.runs.tasks("SPACE_TOKEN", run.run_id).count())
        ```

    Args:
        client: the client that does the work, with the options of your choice. It must be unused, and
            closing this client closes it. Default: `UnpodClient()`.

    Attributes:
        organizations: `organizations.list`.
        spaces: `spaces.list` and `spaces.get`.
        agents: `agents.list`, `agents.tasks` and `agents.executions`.
        runs: `runs.list`, `runs.tasks`, `runs.tasks_for`, `runs.watch`, `runs.wait` and `runs.find`.
        tasks: `tasks.list`, `tasks.create`, `tasks.create_many` and `tasks.reconcile`.
        call_logs: `call_logs.list`.
        recordings: `recordings.download`.

    Raises:
        ConfigurationError: there is no token, or a setting is not accepted. Every method raises it if an
            event loop runs in the thread that calls it, and after `close`.
    """

    def __init__(self, client: UnpodClient | None = None) -> None:
        if client is None:
            client = UnpodClient()
        elif not isinstance(client, UnpodClient):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"client must be an UnpodClient, not {type(client).__name__}",
                argument="client",
                hint="pass options to it: BlockingClient(UnpodClient(deadline=60))",
            )
        self._set_up(_LoopThread(client), client, owner=True)

    def _set_up(self, thread: _LoopThread, client: UnpodClient, *, owner: bool) -> None:
        super().__init__(thread, client)
        self._owner = owner
        self.organizations: _Organizations = _Organizations(thread, client.organizations)
        self.spaces: _Spaces = _Spaces(thread, client.spaces)
        self.agents: _Agents = _Agents(thread, client.agents)
        self.runs: _Runs = _Runs(thread, client.runs)
        self.tasks: _Tasks = _Tasks(thread, client.tasks)
        self.call_logs: _CallLogs = _CallLogs(thread, client.call_logs)
        self.recordings: _Recordings = _Recordings(thread, client.recordings)

    def _view(self, client: UnpodClient) -> BlockingClient:
        view = object.__new__(BlockingClient)
        view._set_up(self._thread, client, owner=False)
        return view

    def __reduce__(self) -> tuple[type[BlockingClient], tuple[UnpodClient]]:
        # As `UnpodClient`: the settings, without the token.
        return BlockingClient, (self._wrapped,)

    export: Final = _awaited(UnpodClient.export)
    plan_export: Final = _awaited(UnpodClient.plan_export)
    extend_plan: Final = _awaited(UnpodClient.extend_plan)
    export_shard: Final = _awaited(UnpodClient.export_shard)
    request: Final = _awaited(UnpodClient.request)
    paginate: Final = _paged(UnpodClient.paginate)
    with_options: Final = _viewed(UnpodClient.with_options)

    @property
    def stats(self) -> Stats:
        """Counters of the requests and rows of this client and its views."""
        return self._wrapped.stats

    @property
    def settings(self) -> Settings:
        """The settings of this client, without the token."""
        return self._wrapped.settings

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After an exception, the caller does not want to wait.
        self.close(GRACE if kind is None else 0)

    def close(self, grace: float = GRACE) -> None:
        """Wait for the calls of other threads, then close the connections and end the thread.

        From now on, new calls raise `ConfigurationError`. When `grace` is over, the remaining calls are
        cancelled and raise `TransportError`, `OutcomeUnknown` or `ConfigurationError`. Leaving `with` calls
        `close()`, with `grace=0` after an exception. Closing a view, or a closed client, does nothing.

        Args:
            grace: seconds to wait for calls in progress, 5 by default; 0 closes at once.

        Raises:
            ConfigurationError: `grace` is not accepted, or an event loop runs in this thread. The client
                stays open.
        """
        seconds = check_seconds("grace", grace, finite=False, error=ConfigurationError)
        if self._owner:
            self._thread.close(seconds)
