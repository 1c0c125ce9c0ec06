"""`Pager`: a listing that users iterate; and the walk that reads it one page at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Generic, Literal, TypeVar, cast

from unpod_async._http import Deadline, Reader, check_integer
from unpod_async._paging.collector import Collector, OnBadRow, check_on_bad_row
from unpod_async._paging.commands import Command, Deliver, Fetch, PageFailure, PageRequest
from unpod_async._paging.decode import Decode, decode_raw, decode_rows
from unpod_async._paging.fetch import fetch
from unpod_async._paging.listings import Listing
from unpod_async._paging.page import Page
from unpod_async._paging.prefetch import prefetch_pages
from unpod_async._paging.stream import Stream
from unpod_async._paging.traversal import Walk, walk_unpaged
from unpod_async.errors import UnpodError

__all__ = ["Pager", "SequentialWalk"]

T = TypeVar("T")


class Pager(Generic[T]):
    """A listing of the service. Creating one sends nothing; each iteration reads the listing from the start.

    `async for row in pager` yields every row of the listing, newest first and each exactly once, even if rows
    are added and deleted during the iteration. If that cannot be guaranteed, the iteration raises
    `IncompleteListing`
    after it has yielded all rows it could read. No request, task or cancel scope is open while the caller
    processes a row, so it is safe to `break` at any point.

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
        DecodeError: with on_bad_row="raise", after all other rows: some rows could not be used.
        APIError: the server answered with an error. `start_page=error.page` resumes the listing.
        TransportError: a request failed. `start_page=error.page` resumes the listing.
    """

    def __init__(
        self,
        executor: Reader,
        listing: Listing[T],
        *,
        page_size: int,
        start_page: int = 1,
        on_bad_row: OnBadRow = "raise",
        deadline: Deadline | None = None,
    ) -> None:
        self._executor = executor
        self._listing = listing
        self._page_size = check_integer("page_size", page_size)
        self._start_page = check_integer("start_page", start_page)
        self._on_bad_row: OnBadRow = check_on_bad_row(on_bad_row)
        self._deadline = deadline

    def __repr__(self) -> str:
        return f"Pager({self._listing.endpoint.label})"

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        walk = self._walk()
        while (page := await walk.next_page()) is not None:
            for item in page.items:
                yield item

    async def pages(self) -> AsyncGenerator[Page[T], None]:
        """Iterate over the listing page by page.

        Yields:
            Each `Page`, with only the rows that were not yielded before.

        Raises:
            UnpodError: as for iterating over the pager itself.
        """
        walk = self._walk()
        while (page := await walk.next_page()) is not None:
            yield page

    async def raw(self) -> AsyncGenerator[bytes, None]:
        """Iterate over the rows as the server sent them, including fields that this library does not know.

        Rows with fields of the wrong type are included. Rows that the server cannot send, and rows of another
        run, are left out; `on_bad_row` says whether the iteration then ends with an error.

        Yields:
            The exact JSON bytes of each row.

        Raises:
            UnpodError: as for iterating over the pager itself.
        """
        walk = self._walk(decode=decode_raw)
        while (page := await walk.next_page()) is not None:
            # No variable refers to the rows during the next request: tracebacks with locals would show them.
            rows = page.items[::-1]
            while rows:
                yield cast("bytes", rows.pop())

    async def collect(self, limit: int | None = None) -> list[T]:
        """Read the listing into a list.

        Args:
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all.

        Returns:
            The rows, newest first.

        Raises:
            InvalidArgument: `limit` is not an integer of at least 0.
            UnpodError: as for iterating over the pager itself; the rows that were read are lost.
        """
        if limit is not None:
            check_integer("limit", limit, minimum=0, maximum=None)
        items: list[T] = []
        walk = self._walk()
        while limit is None or len(items) < limit:
            page = await walk.next_page()
            if page is None:
                break
            items += page.items
        return items if limit is None else items[:limit]

    async def first(self) -> T | None:
        """Return the first row (without `start_page`: the newest one), or None if the listing is empty.

        Requests a single row, unless rows are filtered on the client or `start_page` is not 1.

        Raises:
            UnpodError: as for iterating over the pager itself.
        """
        one_row = self._start_page == 1 and not self._listing.is_filtered
        walk = self._walk(page_size=1 if one_row else None)
        while (page := await walk.next_page()) is not None:
            if page.items:
                return page.items[0]
        return None

    async def count(self) -> int:
        """Return the number of rows in the whole listing, regardless of `start_page`.

        This is the server's count, in one request. The whole listing is read instead if the server sends no
        count, if its count may be that of one page only, or if rows are filtered on the client.

        Raises:
            UnpodError: as for iterating over the pager itself.
        """
        if not self._listing.is_filtered:
            count = await self._server_count()
            if count is not None:
                return count
        found = 0
        walk = self._walk(decode=decode_raw, start_page=1)
        while (page := await walk.next_page()) is not None:
            found += len(page.items) + len(page.rejected) + len(page.unreadable)
        return found

    async def _server_count(self) -> int | None:
        """Return the server's count, or None if there is none or it may be that of one page only."""
        size = 1 if self._listing.paged else self._page_size
        page = await fetch(
            self._executor,
            self._listing,
            PageRequest(1, size, patient=True),
            self._executor.deadline(),
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
                memory.

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
        return Stream(
            f"prefetch({n}) of {self._listing.endpoint.label}",
            lambda send: prefetch_pages(
                self._executor,
                self._listing,
                Walk(
                    page_size=self._page_size,
                    start_page=self._start_page,
                    ahead=ahead,
                    tied=self._listing.tied,
                ),
                Collector(
                    self._listing,
                    page_size=self._page_size,
                    on_bad_row=self._on_bad_row,
                    executor=self._executor,
                ),
                lambda page: send(page.items),
                self._deadline or self._executor.deadline(),
            ),
        )

    def _walk(
        self, *, decode: Decode = decode_rows, page_size: int | None = None, start_page: int | None = None
    ) -> SequentialWalk[T]:
        return SequentialWalk(
            self._executor,
            self._listing,
            page_size=page_size or self._page_size,
            start_page=start_page or self._start_page,
            on_bad_row=self._on_bad_row,
            decode=decode,
            deadline=self._deadline,
        )


class SequentialWalk(Generic[T]):
    """Reads a listing one page at a time.

    Nothing is open between two calls, so the walk can be dropped at any time.

    Args:
        executor: sends the requests.
        listing: the listing to read.
        page_size: number of rows to request per page.
        start_page: number of the first page.
        on_bad_row: "raise" ends the walk with a `DecodeError` if rows could not be used; "skip" logs them.
        decode: decodes the pages; by default into rows of the listing's model.
        deadline: the time limit of the walk; by default that of the executor's options, from now on.
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
        deadline: Deadline | None = None,
    ) -> None:
        self._executor = executor
        self._deadline = deadline or executor.deadline()
        self._listing = listing
        self._decode = decode
        self._walk = Walk(page_size=page_size, start_page=start_page, tied=listing.tied)
        self._collector: Collector[T] = Collector(
            listing, page_size=page_size, on_bad_row=on_bad_row, executor=executor
        )
        self._steps = self._walk.run() if listing.paged else walk_unpaged()
        # The command that `at_end` has taken from the walk already.
        self._next: Command | UnpodError | Literal["end"] | None = None

    @property
    def passes(self) -> int:
        """Number of passes over the listing, as `Walk.passes`."""
        return self._walk.passes

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

        Raises:
            UnpodError: as for iterating over a `Pager`.
        """
        command, self._next = self._next or self._advance(None), None
        while command != "end":
            if isinstance(command, UnpodError):
                raise command
            reply: Any = None
            if isinstance(command, Fetch):
                try:
                    reply = await fetch(
                        self._executor, self._listing, command.read, self._deadline, decode=self._decode
                    )
                except UnpodError as error:
                    self._collector.locate(error, self._walk.page)
                    raise
            elif isinstance(command, Deliver):
                page = self._collector.page(command)
                if page is not None:
                    return page
            command = self._advance(reply)
        return None

    def _advance(self, reply: Any) -> Command | UnpodError | Literal["end"]:
        """Send the reply to the walk; return its next command, its error, or "end"."""
        try:
            return self._steps.send(reply)
        except StopIteration:
            return self._collector.bad_rows() or "end"
        except UnpodError as error:
            self._collector.locate(error, self._walk.page)
            return error
