"""Read a listing with several requests at a time: `Prefetch` starts a request, `Fetch` waits for its page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, cast

import anyio
import anyio.abc

from unpod_async._http import Deadline, Reader
from unpod_async._paging.commands import Discard, Fetch, PageFailure, PageRequest, Prefetch, Steps
from unpod_async._paging.decode import Decode, decode_rows
from unpod_async._paging.fetch import fetch
from unpod_async._paging.listings import Listing
from unpod_async._paging.page import Collector, DecodedPage, Page
from unpod_async._paging.traversal import Walk, walk_unpaged
from unpod_async.errors import UnpodError

__all__ = ["PrefetchedPages", "prefetch_pages"]

T = TypeVar("T")

PrefetchedPages: TypeAlias = "dict[PageRequest, asyncio.Task[DecodedPage | PageFailure]]"
"""Pages that were requested before their walk began."""


class _PendingPage:
    """A page that was requested."""

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()
        self._page: DecodedPage | PageFailure | None = None
        self._error: Exception | None = None

    async def receive(self, page: Awaitable[DecodedPage | PageFailure]) -> None:
        """Wait for the page, and keep it or its error."""
        with self._scope:
            try:
                self._page = await page
            except Exception as error:  # noqa: BLE001 - raised by `get`
                self._error = error
        self._done.set()

    def cancel(self) -> None:
        """Drop the request."""
        self._scope.cancel()

    async def get(self) -> DecodedPage | PageFailure:
        """Wait until the page is there and return it, or raise its error."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return cast("DecodedPage | PageFailure", self._page)


class _PendingPages:
    """The pages of one walk that were requested and not used yet.

    Args:
        tasks: runs the requests.
        send_request: sends the request for a page.
        prefetched: pages requested before the walk began.
    """

    def __init__(
        self,
        tasks: anyio.abc.TaskGroup,
        send_request: Callable[[PageRequest], Awaitable[DecodedPage | PageFailure]],
        prefetched: PrefetchedPages,
    ) -> None:
        self._tasks = tasks
        self._send_request = send_request
        self._prefetched = prefetched
        self._pending: dict[PageRequest, _PendingPage] = {}

    def start(self, request: PageRequest) -> _PendingPage:
        """Request a page."""
        page = self._pending[request] = _PendingPage()
        self._tasks.start_soon(self._receive, request, page)
        return page

    async def _receive(self, request: PageRequest, page: _PendingPage) -> None:
        prefetched = self._prefetched.pop(request, None)
        await page.receive(self._send_request(request) if prefetched is None else prefetched)

    async def take(self, request: PageRequest) -> DecodedPage | PageFailure:
        """Wait for a page and return it; request it first if necessary."""
        page = await (self._pending.get(request) or self.start(request)).get()
        del self._pending[request]
        return page

    def discard(self) -> None:
        """Cancel all requests."""
        for page in self._pending.values():
            page.cancel()
        self._pending.clear()
        for task in self._prefetched.values():
            task.cancel()
        self._prefetched.clear()


async def prefetch_pages(
    executor: Reader,
    listing: Listing[T],
    walk: Walk,
    collector: Collector[T],
    send: Callable[[Page[T]], Awaitable[object]],
    deadline: Deadline,
    decode: Decode = decode_rows,
    prefetched: PrefetchedPages | None = None,
) -> None:
    """Run `walk` to its end with as many concurrent requests as it asks for, and send each page.

    Args:
        executor: sends the requests.
        listing: the listing to read.
        walk: decides which pages to request.
        collector: builds the pages.
        send: receives each page; the walk continues when it returns.
        deadline: the time limit of the walk.
        decode: decodes the pages; by default into rows of the listing's model.
        prefetched: pages requested after the walk's preview of the listing. Pages are removed when they are
            used; requests that are not used are cancelled.

    Raises:
        UnpodError: as for iterating over a `Pager`.
        Exception: the exception of `send`.
    """

    def send_request(page: PageRequest) -> Awaitable[DecodedPage | PageFailure]:
        return fetch(executor, listing, page, deadline, decode=decode)

    error: Exception | None = None
    async with anyio.create_task_group() as tasks:
        pages = _PendingPages(tasks, send_request, {} if prefetched is None else prefetched)
        try:
            steps = walk.run() if listing.paged else walk_unpaged()
            error = await _deliver_all(steps, pages, collector, send)
        except UnpodError as walk_error:
            collector.locate(walk_error, walk.page)
            error = walk_error
        pages.discard()
        tasks.cancel_scope.cancel()
    error = error or collector.bad_rows()
    if error is not None:
        raise error


async def _deliver_all(
    steps: Steps[None],
    pages: _PendingPages,
    collector: Collector[T],
    send: Callable[[Page[T]], Awaitable[object]],
) -> Exception | None:
    """Carry out all commands of a walk.

    Returns:
        The exception of `send`, which the caller raises outside its task group, or None.

    Raises:
        UnpodError: the error of the walk.
    """
    reply: Any = None
    while True:
        try:
            command = steps.send(reply)
        except StopIteration:
            return None
        reply = None
        if isinstance(command, Fetch):
            reply = await pages.take(command.request)
            if isinstance(reply, PageFailure):
                collector.note_failure(reply)
        elif isinstance(command, Prefetch):
            pages.start(command.request)
        elif isinstance(command, Discard):
            pages.discard()
        elif (page := collector.page(command)) is not None:
            try:
                await send(page)
            except Exception as error:  # noqa: BLE001 - raised outside the task group, which would wrap it
                return error
