"""One page of a listing from the service, as the walk wants it: an answer, or a failure of some kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from unpod_async._http import Deadline, Reader, Request, Response, classify, classify_inside, shown_headers
from unpod_async._paging.commands import PageFailure, PageRequest, PageResult
from unpod_async._paging.decode import Decode, DecodedPage, decode_raw, decode_rows
from unpod_async._paging.listings import Listing
from unpod_async._paging.sliced_decode import MAX_WHOLE_BYTES, Scanned, decode_in_slices, scan
from unpod_async.errors import (
    ConfigurationError,
    DecodeError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    ServerError,
    UnpodError,
    UpstreamError,
)

__all__ = ["Decode", "fetch"]

P = TypeVar("P", DecodedPage, Scanned)


async def fetch(
    caller: Reader,
    listing: Listing[Any],
    read: PageRequest,
    deadline: Deadline,
    *,
    raw: bool = False,
    decode: Decode | None = None,
) -> PageResult | PageFailure:
    """Ask for one page. Errors of the service and the network are returned, never raised.

    Args:
        raw: the rows are to be their bytes, as by `decode_raw`.
        decode: makes rows of the body in another way.

    Raises:
        ConfigurationError: the client cannot be used here.
    """
    query = dict(listing.query)
    if listing.paged:
        query |= {"page": str(read.page), "page_size": str(read.size)}
    rows_of = decode or (decode_raw if raw else decode_rows)

    def parse(request: Request, response: Response) -> DecodedPage | Scanned:
        body, headers = response.body, shown_headers(response.headers)
        if len(body) > MAX_WHOLE_BYTES:
            return parse_page(request, response, lambda: scan(body, read.page, headers))
        return parse_page(request, response, lambda: rows_of(listing, body, read.page, headers))

    try:
        rows = await caller.read(listing.endpoint, query, parse, deadline, single_out=read.single_out)
    except ConfigurationError:
        raise
    except UnpodError as error:
        return _failure(error)
    if isinstance(rows, Scanned):
        rows = await decode_in_slices(rows, listing, read.page, rows_of)
    return PageResult(rows.keys, rows.count, rows.created, rows)


def parse_page(request: Request, response: Response, decode: Callable[[], P]) -> P:
    """What `decode` makes of an answer that is none of an error.

    Raises:
        UnpodError: it is one, or no listing.
    """
    error: UnpodError | None = classify(request, response)
    if error is None:
        try:
            rows = decode()
        except DecodeError as fault:
            fault.args = (f"GET {request.path} answered {response.status}: {fault.args[0]}",)
            error = classify_inside(request, response) or fault
        else:
            if rows.status_code not in (200, None):
                error = classify_inside(request, response)
            if error is None:
                return rows
    raise error


def _failure(error: UnpodError) -> PageFailure:
    return PageFailure(
        error,
        unreadable=isinstance(error, UpstreamError | DecodeError)
        or (isinstance(error, ServerError) and error.status == 500),
        past_end=isinstance(error, NotFoundError | RefusedError)
        or (isinstance(error, InvalidRequestError) and error.status == 206),
    )
