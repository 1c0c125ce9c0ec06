"""Send the request for one page and decode the response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from unpod_async._http import (
    Deadline,
    Reader,
    Request,
    Response,
    classify,
    classify_body,
    is_internal_error,
    safe_headers,
)
from unpod_async._paging.commands import PageFailure, PageRequest
from unpod_async._paging.decode import (
    MAX_WHOLE_BYTES,
    Decode,
    ScannedPage,
    decode_in_slices,
    decode_object,
    decode_rows,
    decode_unless_known,
    number_equal_rows,
    scan_page,
)
from unpod_async._paging.listings import Listing
from unpod_async._paging.page import DecodedPage
from unpod_async.errors import (
    ConfigurationError,
    DecodeError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    UnpodError,
    UpstreamError,
)

__all__ = ["decode_single", "fetch", "parse_page"]

T = TypeVar("T")


async def fetch(
    executor: Reader,
    listing: Listing[Any],
    request: PageRequest,
    deadline: Deadline,
    *,
    decode: Decode = decode_rows,
    are_known: Callable[[Sequence[str]], bool] | None = None,
) -> DecodedPage | PageFailure:
    """Send the request for one page.

    Args:
        decode: decodes the body; by default into rows of the listing's model.
        are_known: see `Fetch`. A page whose rows are all known is returned without rows.

    Returns:
        The page, or a `PageFailure` with the error of the service or the network.

    Raises:
        ConfigurationError: the client is closed, or cannot be used here.
    """
    query = dict(listing.query)
    if listing.paged:
        query |= {"page": str(request.page), "page_size": str(request.size)}

    is_custom = not listing.identity
    if are_known is None or is_custom:
        decode_known = decode
    else:
        decode_known = partial(decode_unless_known, are_known, decode)

    def parse(sent: Request, response: Response) -> DecodedPage | ScannedPage:
        return parse_page(sent, response, listing, request.page, decode_known)

    try:
        page = await executor.read(
            listing.endpoint,
            query,
            parse,
            deadline,
            single_out=request.single_out,
            can_split=listing.paged and listing.keyed and not request.patient,
        )
    except ConfigurationError:
        raise
    except UnpodError as error:
        return _to_page_failure(error)
    if isinstance(page, ScannedPage):
        page = await decode_in_slices(page, listing, request.page, decode)
    if is_custom:
        page = number_equal_rows(page)
    if page.drift:
        executor.count_drift(listing.model.__name__, page.drift)
    return page


def parse_page(
    request: Request, response: Response, listing: Listing[Any], page: int, decode: Decode
) -> DecodedPage | ScannedPage:
    """Return the decoded page; a page larger than `MAX_WHOLE_BYTES` is only scanned.

    Raises:
        APIError: the response is an error.
        DecodeError: the response is not a listing.
    """
    error: UnpodError | None = classify(request, response)
    if error is None:
        headers, body = safe_headers(response.headers), response.body
        result: DecodedPage | ScannedPage
        try:
            if len(body) > MAX_WHOLE_BYTES:
                result = scan_page(body, page, headers)
            else:
                result = decode(listing, body, page, headers)
        except DecodeError as fault:
            error = classify_body(request, response) or _decode_error(request, response, fault)
        else:
            if result.status_code not in (200, None):
                error = classify_body(request, response)
            if error is None:
                return result
    raise error


def decode_single(request: Request, response: Response, model: type[T]) -> T:
    """Return the object of a response that contains a single one.

    Raises:
        APIError: the response is an error.
        DecodeError: the response does not contain such an object.
    """
    error: UnpodError | None = classify(request, response)
    if error is None:
        try:
            found, status_code = decode_object(model, response.body)
        except DecodeError as fault:
            error = classify_body(request, response) or _decode_error(request, response, fault)
        else:
            if status_code not in (200, 201, None):
                error = classify_body(request, response)
            if error is None:
                return found
    raise error


def _decode_error(request: Request, response: Response, fault: DecodeError) -> DecodeError:
    return DecodeError(f"{request.method} {request.path} answered {response.status}: {fault.args[0]}")


def _to_page_failure(error: UnpodError) -> PageFailure:
    """Return a `PageFailure` for an error of a page."""
    return PageFailure(
        error,
        unreadable=isinstance(error, UpstreamError | DecodeError) or is_internal_error(error),
        past_end=isinstance(error, NotFoundError | RefusedError)
        or (isinstance(error, InvalidRequestError) and error.status == 206),
    )
