"""The driver of a walk that asks for pages ahead: `Prefetch` starts a request, `Fetch` waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, cast

import anyio

from unpod_async._http import Deadline, Reader
from unpod_async._paging.collector import Collector
from unpod_async._paging.commands import Discard, Fetch, PageFailure, PageRequest, PageResult, Prefetch
from unpod_async._paging.decode import Decode, Page
from unpod_async._paging.fetch import fetch
from unpod_async._paging.listings import Listing
from unpod_async._paging.traversal import Walk
from unpod_async._paging.unpaged import walk_single
from unpod_async.errors import UnpodError

__all__ = ["PrefetchedPages", "prefetch_pages"]

T = TypeVar("T")

PrefetchedPages: TypeAlias = "dict[PageRequest, asyncio.Task[PageResult | PageFailure]]"
"""Reads that were asked for before their walk began."""


class _Request:
    """A request under way, and what became of it."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.settled = anyio.Event()
        self.outcome: PageResult | PageFailure | None = None
        self.error: Exception | None = None


async def prefetch_pages(
    caller: Reader,
    listing: Listing[T],
    machine: Walk,
    collector: Collector[T],
    put: Callable[[Page[T]], Awaitable[object]],
    deadline: Deadline,
    decode: Decode | None = None,
    started: PrefetchedPages | None = None,
) -> None:
    """Drive `machine` to its end, handing on each page; raises what the walk or `put` raises.

    Args:
        started: asked for after the machine's glance. What is wanted is taken out, the rest cancelled.
    """
    early = {} if started is None else started
    error: Exception | None = None
    async with anyio.create_task_group() as tasks:
        under_way: dict[PageRequest, _Request] = {}

        def forget_early() -> None:
            for task in early.values():
                task.cancel()
            early.clear()

        async def ask(read: PageRequest, request: _Request) -> None:
            with request.scope:
                try:
                    asked = early.pop(read, None) or fetch(caller, listing, read, deadline, decode=decode)
                    request.outcome = await asked
                except Exception as fault:  # noqa: BLE001 - raised to whoever takes this request
                    request.error = fault
            request.settled.set()

        def start(read: PageRequest) -> _Request:
            request = under_way[read] = _Request()
            tasks.start_soon(ask, read, request)
            return request

        async def take(read: PageRequest) -> PageResult | PageFailure:
            request = under_way.get(read) or start(read)
            await request.settled.wait()
            del under_way[read]
            if request.error is not None:
                raise request.error
            return cast("PageResult | PageFailure", request.outcome)

        steps = machine.run() if listing.paged else walk_single()
        reply: Any = None
        try:
            while True:
                command = steps.send(reply)
                reply = None
                if isinstance(command, Fetch):
                    reply = await take(command.read)
                elif isinstance(command, Prefetch):
                    start(command.read)
                elif isinstance(command, Discard):
                    for request in under_way.values():
                        request.scope.cancel()
                    under_way.clear()
                    forget_early()
                else:
                    page = collector.page(command)
                    if page is not None:
                        try:
                            await put(page)
                        except Exception as fault:  # noqa: BLE001 - raised outside the group, which would wrap it
                            error = fault
                            break
        except StopIteration:
            pass
        except UnpodError as fault:
            if fault.listing is None:
                collector.sign(fault, machine.page)
            error = fault
        forget_early()
        tasks.cancel_scope.cancel()
    error = error or collector.bad_rows()
    if error is not None:
        raise error
