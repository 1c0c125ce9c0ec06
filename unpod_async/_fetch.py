"""One page of a listing from the service, as the walk wants it: an answer, or a failure of some kind."""

from __future__ import annotations

from typing import Any

from unpod_async._decode import Rows, decode_raw, decode_rows
from unpod_async._listing import Listing
from unpod_async._response import Response, classify, classify_inside, shown_headers
from unpod_async._transport import Transport
from unpod_async._wire import Answer, Failure, Read
from unpod_async.errors import (
    APIError,
    ConfigurationError,
    DecodeError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    ServerError,
    UnpodError,
    UpstreamError,
)

__all__ = ["fetch"]


async def fetch(transport: Transport, listing: Listing[Any], read: Read, *, raw: bool) -> Answer | Failure:
    """Ask for one page. Errors of the service and the network are returned, never raised.

    Raises:
        ConfigurationError: the client cannot be used here.
    """
    query = dict(listing.query)
    if listing.paged:
        query |= {"page": str(read.page), "page_size": str(read.size)}
    try:
        response = await transport.get(listing.endpoint.path, query)
    except ConfigurationError:
        raise
    except UnpodError as error:
        return _failure(error)
    rows = _rows(transport, listing, read, response, raw=raw)
    if isinstance(rows, UnpodError):
        return _failure(rows)
    return Answer(rows.keys, rows.count, rows.created, rows)


def _rows(
    transport: Transport, listing: Listing[Any], read: Read, response: Response, *, raw: bool
) -> Rows | UnpodError:
    request = transport.request("GET", listing.endpoint.path)
    error: APIError | None = classify(request, response)
    if error is not None:
        return error
    decode = decode_raw if raw else decode_rows
    try:
        rows = decode(listing, response.body, read.page, shown_headers(response.headers))
    except DecodeError as fault:
        fault.args = (f"GET {request.path} answered 200: {fault.args[0]}",)
        return classify_inside(request, response) or fault
    if rows.status_code in (200, None):
        return rows
    return classify_inside(request, response) or rows


def _failure(error: UnpodError) -> Failure:
    return Failure(
        error,
        unreadable=isinstance(error, UpstreamError | DecodeError)
        or (isinstance(error, ServerError) and error.status == 500),
        past_end=isinstance(error, NotFoundError | RefusedError)
        or (isinstance(error, InvalidRequestError) and error.status == 206),
    )
