"""`Pager`: a listing as something to iterate. The sequential walk, and everything built from it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Generic, Literal, TypeVar, cast

from unpod_async._http import Deadline, Reader, check_integer
from unpod_async._paging.collector import Collector, OnBadRow, check_on_bad_row
from unpod_async._paging.commands import Command, Deliver, Fetch, PageFailure, PageRequest, PageResult
from unpod_async._paging.decode import Decode, Page, decode_raw
from unpod_async._paging.fetch import fetch
from unpod_async._paging.listings import Listing
from unpod_async._paging.prefetch import prefetch_pages
from unpod_async._paging.stream import Stream
from unpod_async._paging.traversal import Walk
from unpod_async._paging.unpaged import walk_single
from unpod_async.errors import UnpodError

__all__ = ["Pager", "SequentialWalk"]

T = TypeVar("T")


class Pager(Generic[T]):
    """A listing of the service. Nothing is sent before it is iterated; each iteration is a new walk.

    `async for item in pager` yields every row of the listing, newest first, each exactly once, while rows
    enter and leave it; otherwise the walk ends in `IncompleteListing` after yielding what it has. A `break`
    leaves nothing behind: no request, task or scope is open while the caller has a row.

    That promise rests on what the service does: rows enter at the head, keep their order (tasks of an agent:
    except rows of one and the same `created`), and rows and `count` of one answer are of one moment. What no
    client can see stays outside it: a server that cuts pages shorter than asked *and* counts only what it
    sends; a count that lies while rows come and go; with `outcome`, `call_type` or `search`, old rows that
    enter the filtered listing in its middle when their call ends; with `start_page`, rows before that page.

    Raises (while iterating):
        IncompleteListing: rows may be missing.
        StalledListing: the server ignores `page`.
        DecodeError: with on_bad_row="raise", at the end, when rows could not be used.
        APIError, TransportError: a request failed. `error.page` is the `start_page` to go on from.
    """

    def __init__(
        self,
        caller: Reader,
        listing: Listing[T],
        *,
        page_size: int,
        start_page: int = 1,
        on_bad_row: OnBadRow = "raise",
        deadline: Deadline | None = None,
    ) -> None:
        self._caller = caller
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
        """The listing page by page; see `Page`. A page holds only rows that were not yielded before."""
        walk = self._walk()
        while (page := await walk.next_page()) is not None:
            yield page

    async def raw(self) -> AsyncGenerator[bytes, None]:
        """Each row's exact JSON bytes as the server sent them, keys this library does not know included.

        No row of the wrong type stops it. Rows that cannot be read, or that belong to another run, are left
        out and end it as `on_bad_row` says.
        """
        walk = self._walk(raw=True)
        while (page := await walk.next_page()) is not None:
            # Kept in no name while the next page is asked for: the bytes show in tracebacks with locals.
            rows = page.items[::-1]
            while rows:
                yield cast("bytes", rows.pop())

    async def collect(self, limit: int | None = None) -> list[T]:
        """All rows as a list, or the first `limit` of them (then the rest is not asked for)."""
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
        """The row that iterating yields first (the newest, from page 1), or None.

        Asks for one row only, unless rows are filtered on the client or `start_page` skips some.
        """
        one = self._start_page == 1 and not self._listing.filters_here
        walk = self._walk(page_size=1 if one else None)
        while (page := await walk.next_page()) is not None:
            if page.items:
                return page.items[0]
        return None

    async def count(self) -> int:
        """How many rows the whole listing has, whatever `start_page` is.

        The server's count; a walk where it has none, where it may have counted its own page only, or where
        rows are filtered on the client.
        """
        if not self._listing.filters_here:
            size = 1 if self._listing.paged else self._page_size
            answer = await fetch(
                self._caller, self._listing, PageRequest(1, size), self._caller.deadline(), raw=True
            )
            if isinstance(answer, PageResult) and answer.count is not None:
                rows = len(answer.keys)
                if answer.count > rows or (answer.count == rows and not (rows and self._listing.paged)):
                    return answer.count
            if isinstance(answer, PageFailure) and not answer.unreadable:
                answer.error.listing, answer.error.page = self._listing.endpoint.label, 1
                raise answer.error
        found = 0
        walk = self._walk(raw=True, start_page=1)
        while (page := await walk.next_page()) is not None:
            found += len(page.items) + len(page.rejected) + len(page.unreadable)
        return found

    def prefetch(self, n: int) -> Stream[T]:
        """The same rows with up to `n` pages asked for ahead of the one being read; at most `n` are held.

        It owns tasks, so it is entered: `async with pager.prefetch(4) as stream: async for item in stream`.
        """
        ahead = check_integer("n", n)
        return Stream(
            f"prefetch({n}) of {self._listing.endpoint.label}",
            lambda put: prefetch_pages(
                self._caller,
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
                    stats=self._caller.stats,
                ),
                lambda page: put(page.items),
                self._deadline or self._caller.deadline(),
            ),
        )

    def _walk(
        self, *, raw: bool = False, page_size: int | None = None, start_page: int | None = None
    ) -> SequentialWalk[T]:
        return SequentialWalk(
            self._caller,
            self._listing,
            page_size=page_size or self._page_size,
            start_page=start_page or self._start_page,
            on_bad_row=self._on_bad_row,
            raw=raw,
            deadline=self._deadline,
        )


class SequentialWalk(Generic[T]):
    """A walk advanced one page at a time by whoever awaits it.

    Between two calls nothing is open, so it can be dropped at any moment.
    """

    def __init__(
        self,
        caller: Reader,
        listing: Listing[T],
        *,
        page_size: int,
        start_page: int = 1,
        on_bad_row: OnBadRow = "raise",
        raw: bool = False,
        decode: Decode | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self._caller = caller
        self._deadline = deadline or caller.deadline()
        self._listing = listing
        self._decode = decode or (decode_raw if raw else None)
        self._machine = Walk(page_size=page_size, start_page=start_page, tied=listing.tied)
        self._collector: Collector[T] = Collector(
            listing, page_size=page_size, on_bad_row=on_bad_row, stats=caller.stats
        )
        self._steps = self._machine.run() if listing.paged else walk_single()
        self._coming: Command | UnpodError | Literal["end"] | None = None  # what `at_end` had the machine say

    @property
    def passes(self) -> int:
        """As `Walk.passes`."""
        return self._machine.passes

    @property
    def at_end(self) -> bool:
        """Whether the page handed out last was the last.

        False as well where only a request can tell, and where an error is to come.
        """
        if self._coming is None:
            self._coming = self._advance(None)
        return self._coming == "end"

    async def next_page(self) -> Page[T] | None:
        """The next page with anything in it, or None at the end."""
        coming, self._coming = self._coming or self._advance(None), None
        while coming != "end":
            if isinstance(coming, UnpodError):
                raise coming
            reply: Any = None
            if isinstance(coming, Fetch):
                try:
                    reply = await fetch(
                        self._caller, self._listing, coming.read, self._deadline, decode=self._decode
                    )
                except UnpodError as error:
                    self._sign(error)
                    raise
            elif isinstance(coming, Deliver):
                page = self._collector.page(coming)
                if page is not None:
                    return page
            coming = self._advance(reply)
        return None

    def _advance(self, reply: Any) -> Command | UnpodError | Literal["end"]:
        """What the machine says next, or how it ended."""
        try:
            return self._steps.send(reply)
        except StopIteration:
            return self._collector.bad_rows() or "end"
        except UnpodError as error:
            self._sign(error)
            return error

    def _sign(self, error: UnpodError) -> None:
        if error.listing is None:
            self._collector.sign(error, self._machine.page)
