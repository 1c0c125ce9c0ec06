"""`Pager`, a listing that users iterate; its iterators; and the walk that reads it one page at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeAlias, TypeVar

from unpod_async._common import AsyncOnly, cancel_and_wait, ignore_error
from unpod_async._http import Deadline, Reader, check_integer
from unpod_async._paging.commands import Command, Deliver, Fetch, PageFailure, PageRequest, PageResult
from unpod_async._paging.decode import Decode, decode_lines, decode_raw, decode_rows
from unpod_async._paging.fetch import fetch
from unpod_async._paging.listings import Listing
from unpod_async._paging.page import Collector, DecodedPage, OnBadRow, Page, check_on_bad_row
from unpod_async._paging.prefetch import prefetch_pages
from unpod_async._paging.stream import SendBatch, Stream
from unpod_async._paging.traversal import Walk, deliver_whole_listing, walk_unpaged
from unpod_async._tables import RowKind, TableBuilder, import_package
from unpod_async._version import install_command
from unpod_async.errors import ConfigurationError, UnpodError
from unpod_async.models import Run, Task

__all__ = ["ListingIterator", "Pager", "SequentialWalk", "received_items"]

T = TypeVar("T")


class Pager(AsyncOnly, Generic[T]):
    """A listing of the service. Each iteration reads it from the start; creating a pager sends no request.

    `async for row in pager` yields every row of the listing, newest first and each exactly once, even if rows
    are added and deleted during the iteration. If that cannot be guaranteed, the iteration raises
    `IncompleteListing` after it has yielded all rows it could read. No request, task or cancel scope is open
    while the caller processes a row, so it is safe to `break` at any point.

    If an `anext()` is cancelled, the next one continues: no row is lost or repeated. So you can call
    `asyncio.wait_for(anext(rows), seconds)` until a row arrives: see `ListingIterator`.

    Example:
        ```python
        pager = unpod.runs.tasks(space_token, run_id)
        async for task in pager:
            print(task.task_id, task.status)

        newest = await pager.first()
        everything = await pager.collect()
        ```

    The guarantee assumes that the service adds rows at the head and keeps their order (for tasks of an agent:
    except among rows with the same `created`). The `count` of a response comes from a second query, so a
    listing of several pages costs one more request, which reads the first page or all rows again. The
    guarantee does not cover:

    * a server that returns shorter pages than requested *and* counts only the rows of that page;
    * a late or wrong count while rows are added and deleted;
    * two or more unreadable rows while another row is added and deleted between two responses;
    * with the filters `outcome`, `call_type` and `search`: old rows that enter the filtered listing in its
      middle when their call ends;
    * with `start_page`: the rows before that page.

    Raises:
        IncompleteListing: rows may be missing.
        StalledListing: the server returns the same page for every page number.
        DecodeError: with on_bad_row="raise", some rows could not be used. All other rows are yielded first.
        APIError: the server answered with an error. `start_page=error.page` resumes the listing.
        TransportError: a request failed. `start_page=error.page` resumes the listing.
    """

    _instead_of_for = "write `async for row in pager`, or `await pager.collect()` for a list"
    _instead_of_await = "write `await pager.collect()` for a list, or `async for row in pager`"
    _instead_of_with = "write `async for row in pager`, without a `with`"

    if not TYPE_CHECKING:  # as in `AsyncOnly`

        async def __aenter__(self) -> NoReturn:
            raise TypeError(
                f"'{type(self).__name__}' object does not support `async with`: {self._instead_of_with}; "
                "only a stream, such as `pager.prefetch(4)`, needs one"
            )

        async def __aexit__(self, *exception: Any) -> None:
            """Do nothing: `__aenter__` always raises."""

        def __len__(self) -> NoReturn:
            raise TypeError(
                f"'{type(self).__name__}' object has no len(): write `await pager.count()`, "
                "which asks the service"
            )

        def __bool__(self) -> bool:
            """Return True, as for other objects: without this method, Python would call `__len__`."""
            return True

    def __init__(
        self,
        executor: Reader,
        listing: Listing[T],
        *,
        page_size: int,
        start_page: int,
        on_bad_row: OnBadRow,
        limit: int | None,
        deadline: Deadline | None,
    ) -> None:
        self._executor = executor
        self._listing = listing
        self._page_size = check_integer("page_size", page_size)
        self._start_page = check_integer("start_page", start_page)
        self._on_bad_row: OnBadRow = check_on_bad_row(on_bad_row)
        self._limit = _check_limit(limit)
        self._deadline = deadline

    def __repr__(self) -> str:
        return f"Pager({self._listing.endpoint.label})"

    def __aiter__(self) -> ListingIterator[T]:
        return ListingIterator(self._walk())

    def pages(self) -> ListingIterator[Page[T]]:
        """Iterate over the listing page by page.

        Returns:
            An iterator over each `Page`, with only the rows that were not yielded before.

        Raises:
            UnpodError: as for iterating over the pager itself.
        """
        return ListingIterator(self._walk(), by_page=True)

    def raw(self) -> ListingIterator[bytes]:
        """Iterate over the rows as the server sent them, including fields that this library does not know.

        Rows with fields of the wrong type are included. Rows that the server cannot send, and rows of another
        run, are left out; `on_bad_row` says whether the iteration then ends with an error.

        Returns:
            An iterator over the exact JSON bytes of each row.

        Raises:
            UnpodError: as for iterating over the pager itself.
        """
        return ListingIterator(self._walk(decode=decode_raw))

    async def collect(self, limit: int | None = None) -> list[T]:
        """Read the listing into a list.

        Args:
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all,
                or as many as the `limit` of the listing allows.

        Returns:
            The rows, newest first.

        Raises:
            InvalidArgument: `limit` is not an integer of at least 0.
            UnpodError: as for iterating over the pager itself; the rows that were read are lost.
        """
        items: list[T] = []
        walk = self._walk(limit=limit)
        try:
            while (page := await walk.next_page()) is not None:
                items += page.items
        except BaseException:
            items.clear()  # tracebacks with locals would show rows that are dicts
            raise
        return items

    async def first(self) -> T | None:
        """Return the first row (without `start_page`: the newest one), or None if the listing is empty.

        Requests a single row, unless rows are filtered on the client or `start_page` is not 1.

        Raises:
            UnpodError: as for iterating over the pager itself.
        """
        one_row = self._start_page == 1 and not self._listing.is_filtered
        walk = self._walk(page_size=1 if one_row else None, limit=1)
        while (page := await walk.next_page()) is not None:
            if page.items:
                return page.items[0]
        return None

    async def to_arrow(self) -> Any:
        """Read the listing of runs or tasks into a `pyarrow.Table`.

        Its columns are those of a Parquet export, even without rows: nested data is JSON in strings, the
        `call_` columns are read from `output`, and times are UTC timestamps. Access tokens of users are left
        out. The whole table is in memory; `UnpodClient.export` has no such limit.

        pyarrow is imported and the table is made in threads, within the deadline.

        Raises:
            ConfigurationError: pyarrow is not installed, or these are not runs or tasks. Nothing was sent.
            UnpodError: as for iterating over the pager itself; the rows that were read are lost.
        """
        return await self._frame("to_arrow", TableBuilder.to_arrow, "pyarrow", install_command("parquet"))

    async def to_polars(self) -> Any:
        """Read the listing of runs or tasks into a `polars.DataFrame`. For its columns see `to_arrow`.

        Raises:
            ConfigurationError: Polars is not installed, or these are not runs or tasks. Nothing was sent.
            UnpodError: as for iterating over the pager itself; the rows that were read are lost.
        """
        return await self._frame("to_polars", TableBuilder.to_polars, "polars", "pip install polars")

    async def to_pandas(self) -> Any:
        """Read the listing of runs or tasks into a `pandas.DataFrame`. For its columns see `to_arrow`.

        Their types are string, Int64, Float64 and datetime64[us, UTC], whether or not values are missing.

        Raises:
            ConfigurationError: pandas is not installed, or these are not runs or tasks. Nothing was sent.
            UnpodError: as for iterating over the pager itself; the rows that were read are lost.
        """
        return await self._frame("to_pandas", TableBuilder.to_pandas, "pandas", "pip install pandas")

    def _kind(self, method: str) -> RowKind:
        model: object = self._listing.model
        if model is Run:
            return "runs"
        if model is Task:
            return "tasks"
        raise ConfigurationError(
            f"{method} reads runs and tasks, not {self._listing.endpoint.label}",
            hint="build the table from [row.to_dict() async for row in pager]",
        )

    async def _frame(
        self, method: str, make: Callable[[TableBuilder, Any], Any], package: str, install: str
    ) -> Any:
        """Read the listing and return what `make` makes of it with `package`, all within one deadline."""
        table = TableBuilder(self._kind(method))
        deadline = self._deadline or self._executor.deadline()
        # In threads, so that other tasks of the event loop can run meanwhile: the first import takes up to a
        # second, and so does a table of many rows.
        library = await deadline.run_in_thread(
            lambda: import_package(package, method, install),
            f"while {package} was being imported",
            sent=False,
        )
        walk = self._walk(decode=decode_lines, deadline=deadline)
        while (page := await walk.next_page()) is not None:
            lines: list[Any] = page.items
            # Splitting a page into cells takes milliseconds, in which other tasks of the event loop can run.
            await asyncio.to_thread(table.add, lines)
        return await deadline.run_in_thread(
            lambda: make(table, library), "while the table was being made", sent=True
        )

    async def count(self) -> int:
        """Return the number of rows in the whole listing, regardless of `start_page` and `limit`.

        This is the server's count, in one request. The whole listing is read instead if the server sends no
        count, if its count may be that of one page only, or if rows are filtered on the client.

        Raises:
            UnpodError: as for iterating over the pager itself.
        """
        deadline = self._deadline or self._executor.deadline()
        if not self._listing.is_filtered:
            count = await self._server_count(deadline)
            if count is not None:
                return count
        found = 0
        walk = SequentialWalk(
            self._executor,
            self._listing,
            page_size=self._page_size,
            on_bad_row=self._on_bad_row,
            decode=decode_raw,
            deadline=deadline,
        )
        while (page := await walk.next_page()) is not None:
            found += len(page.items) + len(page.rejected) + len(page.unreadable)
        return found

    async def _server_count(self, deadline: Deadline) -> int | None:
        """Return the server's count, or None if there is none or it may be that of one page only."""
        size = 1 if self._listing.paged else self._page_size
        page = await fetch(
            self._executor,
            self._listing,
            PageRequest(1, size, patient=True),
            deadline,
            decode=decode_raw,
        )
        if isinstance(page, PageFailure):
            if page.unreadable:
                return None
            page.error.locate(self._listing.endpoint.label, 1)
            raise page.error
        rows = len(page.keys)
        if page.count is None or page.count < rows:
            return None
        counts_page_only = page.count == rows and rows > 0 and self._listing.paged
        return None if counts_page_only else page.count

    def prefetch(self, n: int) -> Stream[T]:
        """Read the listing with concurrent requests.

        Args:
            n: number of pages that are requested ahead of the one being processed; at most `n` pages are in
                memory. If the listing has a `limit`, up to `n` pages that are not needed may be requested.

        Returns:
            A `Stream` of the same rows, in the same order. It runs background tasks; use it with
            `async with`.

        Raises:
            InvalidArgument: `n` is not an integer of at least 1.

        Example:
            ```python
            async with unpod.tasks.list(space_token).prefetch(4) as stream:
                async for task in stream:
                    print(task.task_id)
            ```
        """
        ahead = check_integer("n", n)
        if self._limit and not self._listing.is_filtered:
            ahead = min(ahead, -(-self._limit // self._page_size))

        return Stream(
            f"prefetch({n}) of {self._listing.endpoint.label}", lambda send: self._prefetch(ahead, send)
        )

    async def _prefetch(self, ahead: int, send: SendBatch[T]) -> None:
        """Send the rows of the listing, up to its limit."""
        if self._limit == 0:
            return
        limited = None if self._limit is None else _LimitedBatches(send, self._limit)
        with contextlib.suppress(_LimitReached):
            await prefetch_pages(
                self._executor,
                self._listing,
                Walk(
                    page_size=self._page_size,
                    start_page=self._start_page,
                    ahead=ahead,
                    tied=self._listing.tied,
                    keyed=self._listing.keyed,
                ),
                Collector(
                    self._listing,
                    page_size=self._page_size,
                    on_bad_row=self._on_bad_row,
                    executor=self._executor,
                ),
                (lambda page: send(page.items)) if limited is None else limited.send,
                self._deadline or self._executor.deadline(),
            )

    def _walk(
        self,
        *,
        decode: Decode = decode_rows,
        page_size: int | None = None,
        limit: int | None = None,
        deadline: Deadline | None = None,
    ) -> SequentialWalk[T]:
        """Return a walk that ends at `limit` or at the limit of the listing, whichever is lower."""
        limits = [one for one in (self._limit, _check_limit(limit)) if one is not None]
        return SequentialWalk(
            self._executor,
            self._listing,
            page_size=page_size or self._page_size,
            start_page=self._start_page,
            on_bad_row=self._on_bad_row,
            decode=decode,
            limit=min(limits, default=None),
            deadline=deadline or self._deadline,
        )


def _check_limit(limit: int | None) -> int | None:
    return None if limit is None else check_integer("limit", limit, minimum=0, maximum=None)


class _LimitReached(Exception):
    """Ends a walk of `Pager.prefetch`."""


class _LimitedBatches(Generic[T]):
    """Sends the rows of pages until a limit is reached."""

    def __init__(self, send: SendBatch[T], limit: int) -> None:
        self._send = send
        self._left = limit

    async def send(self, page: Page[T]) -> None:
        """Send the rows of a page.

        Raises:
            _LimitReached: these were the last rows.
        """
        items = page.items[: self._left]
        self._left -= len(items)
        await self._send(items)
        if not self._left:
            raise _LimitReached


class ListingIterator(AsyncOnly, AsyncIterator[T]):
    """An iterator over the rows or pages of a `Pager`.

    `aiter(pager)` returns one, and so do `pager.pages()` and `pager.raw()`. Only one task at a time can wait
    for its next item.

    If an `anext()` is cancelled, as by `asyncio.wait_for(anext(rows), 5)` after 5 seconds, the next one
    continues: no item is lost or repeated. The first cancelled `anext()` drops its request, and the next one
    sends it again. From then on, the request of a cancelled `anext()` continues in the background, so that
    timeouts shorter than a response make progress. Such a request ends when the iterator is closed or no
    longer referenced.

    Raises:
        ConfigurationError: another task waits for the next item of this iterator.
        UnpodError: as for iterating over the `Pager`. Each further `anext()` raises the same error.
    """

    _instead_of_for = "write `async for`, or `[item async for item in iterator]` for a list"
    _instead_of_await = "write `await anext(iterator)` for the next item, or `async for`"
    _instead_of_with = "write `async for`, without a `with`"

    def __init__(self, walk: SequentialWalk[Any], *, by_page: bool = False) -> None:
        self._walk = walk
        self._by_page = by_page
        self._items: Iterator[T] = iter(())
        self._is_waiting = False
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._walk.label}>"

    async def __anext__(self) -> T:
        while True:
            # No variable refers to an item during the next request: tracebacks with locals would show it.
            for item in self._items:
                return item
            if self._is_closed:
                raise StopAsyncIteration
            if self._is_waiting:
                raise ConfigurationError(
                    "another task waits for the next item of this iterator",
                    hint="use an iterator in one task at a time, or create one for each task",
                )
            self._is_waiting = True
            try:
                page = await self._walk.next_page()
            finally:
                self._is_waiting = False
            if page is None:
                raise StopAsyncIteration
            if not self._is_closed:
                items: Any = (page,) if self._by_page else page.items
                self._items = iter(items)

    async def aclose(self) -> None:
        """End the iteration, and drop a request that continues in the background.

        Afterwards the iterator has no more items. Closing it is optional, and closing it twice has no effect.
        """
        self._is_closed = True
        self._items = iter(())
        if not self._is_waiting:
            await self._walk.aclose()


def received_items(iterator: ListingIterator[T]) -> list[T]:
    """Return the items of an iterator that were received and not yet returned."""
    return list(iterator._items)  # pyright: ignore[reportPrivateUsage]


_Next: TypeAlias = Command | Exception | Literal["end"]


class SequentialWalk(Generic[T]):
    """Reads a listing one page at a time.

    Nothing is open between two calls, unless calls of `next_page` were cancelled. The walk can be dropped at
    any time.

    Args:
        executor: sends the requests.
        listing: the listing to read.
        page_size: number of rows to request per page.
        start_page: number of the first page.
        on_bad_row: "raise" ends the walk with a `DecodeError` if rows could not be used; "skip" logs them.
        decode: decodes the pages; by default into rows of the listing's model.
        limit: maximum number of rows; the walk ends after them, without reading more pages.
        deadline: the time limit of the walk; by default that of the executor's options, starting now.
    """

    def __init__(
        self,
        executor: Reader,
        listing: Listing[T],
        *,
        page_size: int,
        start_page: int = 1,
        on_bad_row: OnBadRow = "raise",
        decode: Decode = decode_rows,
        limit: int | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self._executor = executor
        self._deadline = deadline or executor.deadline()
        self._listing = listing
        self._decode = decode
        self._first = PageRequest(start_page, page_size)
        self._walk: Walk | None = None  # until the first response shows that there are more rows
        self._steps = None if listing.paged else walk_unpaged()
        self._collector: Collector[T] = Collector(
            listing, page_size=page_size, on_bad_row=on_bad_row, executor=executor
        )
        # The start of the next call: a command of the walk that is not yet executed, or the end of the walk.
        self._next: _Next | None = "end" if limit == 0 else Fetch(self._first) if listing.paged else None
        self._left = limit
        self._was_cancelled = False
        self._background: _BackgroundFetch | None = None

    @property
    def label(self) -> str:
        """The listing, as in error messages."""
        return self._listing.endpoint.label

    @property
    def passes(self) -> int:
        """Number of passes over the listing, as `Walk.passes`."""
        return 1 if self._walk is None else self._walk.passes

    @property
    def _page(self) -> int:
        """The page that is being read, as `Walk.page`."""
        return self._first.page if self._walk is None else self._walk.page

    @property
    def at_end(self) -> bool:
        """Whether the page returned last was the last one.

        False if another request is needed to know, or if the walk is about to raise an error.
        """
        if self._next is None:
            self._next = self._advance(None)
        return self._next == "end"

    async def next_page(self) -> Page[T] | None:
        """Return the next page that is not empty, or None at the end of the listing.

        After a cancelled call, the next one continues; after an error, it raises the error again.

        Raises:
            UnpodError: as for iterating over a `Pager`.
        """
        if isinstance(self._next, Exception):
            raise self._next.with_traceback(None)  # otherwise the traceback would grow each time
        command = self._next or self._advance(None)
        while command != "end":
            self._next = command
            if isinstance(command, Exception):
                raise command
            reply: Any = None
            if isinstance(command, Fetch):
                try:
                    if self._was_cancelled:
                        reply = await self._fetch_in_background(command)
                    else:
                        reply = await fetch(
                            self._executor,
                            self._listing,
                            command.request,
                            self._deadline,
                            decode=self._decode,
                            are_known=command.are_known,
                        )
                except Exception as error:
                    if isinstance(error, UnpodError):
                        self._collector.locate(error, self._page)
                    self._next = error
                    raise
                except BaseException:
                    self._was_cancelled = True
                    raise
                if isinstance(reply, PageFailure):
                    self._collector.note_failure(reply)
            elif isinstance(command, Deliver):
                page = self._collector.page(command)
                if page is not None:
                    self._next = None
                    return page if self._left is None else self._up_to_limit(page, self._left)
            command = self._advance(reply)
        self._next = command
        return None

    def _up_to_limit(self, page: Page[T], left: int) -> Page[T]:
        """Return a page with at most as many rows as are left, and end the walk after the last one."""
        items = page.items[:left]
        self._left = left - len(items)
        if not self._left:
            self._next = "end"
        return page if len(items) == len(page.items) else replace(page, items=items)

    async def aclose(self) -> None:
        """Drop a request that continues in the background, and wait for its end."""
        background, self._background = self._background, None
        if background is not None:
            await background.aclose()

    async def _fetch_in_background(self, command: Fetch) -> DecodedPage | PageFailure:
        """Fetch a page with a request that continues if this call is cancelled.

        Otherwise, calls that are cancelled before the response arrives would send the same request forever.
        """
        while True:
            if self._background is None:
                self._background = _BackgroundFetch(
                    fetch(self._executor, self._listing, command.request, self._deadline, decode=self._decode)
                )
            await self._background.wait()
            task, self._background = self._background.task, None
            if not task.cancelled():  # otherwise other code has cancelled all tasks of the loop
                return task.result()

    def _advance(self, reply: Any) -> _Next:
        """Send the reply to the walk; return its next command, its error, or "end"."""
        try:
            if self._steps is not None:
                return self._steps.send(reply)
            if reply is not None:
                return deliver_whole_listing(self._first, reply) or self._start_walk(reply)
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001 - raised by `next_page`, now and whenever it is called again
            if isinstance(error, UnpodError):
                self._collector.locate(error, self._page)
            return error
        return self._collector.bad_rows() or "end"

    def _start_walk(self, first: PageResult | PageFailure) -> Command:
        """Start the walk with the first response; return its next command."""
        request = self._first
        self._walk = Walk(
            page_size=request.size,
            start_page=request.page,
            tied=self._listing.tied,
            keyed=self._listing.keyed,
            first=first,
        )
        self._steps = self._walk.run()
        return next(self._steps)


class _BackgroundFetch:
    """A request in a task of its own, which ends with this object.

    Attributes:
        task: the task.
    """

    def __init__(self, page: Coroutine[Any, Any, DecodedPage | PageFailure]) -> None:
        self._loop = asyncio.get_running_loop()
        self.task = self._loop.create_task(page)
        self.task.add_done_callback(ignore_error)  # the object may be dropped before

    async def wait(self) -> None:
        """Wait until the task is done. It continues if this is cancelled."""
        if not self.task.done():
            await asyncio.wait([self.task])

    async def aclose(self) -> None:
        """Drop the request and wait for its end."""
        cancelled = await cancel_and_wait([self.task])
        if cancelled is not None:
            raise cancelled

    def __del__(self) -> None:
        # The garbage collector may run in another thread.
        if not self.task.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.task.cancel)
