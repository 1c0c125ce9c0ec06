"""`UnpodClient.request` and `UnpodClient.paginate`: endpoints that this package does not know."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, overload
from urllib.parse import quote

import msgspec

from unpod_async._common import shorten
from unpod_async._create import check_json
from unpod_async._http import (
    Endpoint,
    Request,
    Response,
    SentFlag,
    check_choice,
    check_query_text,
    check_str,
    classify,
    classify_body,
    endpoints,
    has_unknown_outcome,
    message_of,
    safe_headers,
)
from unpod_async._paging import (
    ClientContext,
    Listing,
    OnBadRow,
    Pager,
    RowKey,
    check_model,
    decode_any,
)
from unpod_async.errors import DecodeError, InvalidArgument, OutcomeUnknown, TransportError, UnpodError

__all__ = ["RawResponse", "Requesting"]

T = TypeVar("T")

Params: TypeAlias = Mapping[str, str | float | bool | None]
"""Parameters of a query. True and False are sent as "true" and "false"; None leaves a parameter out."""

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_NOT_IN_KEY: Final = re.compile(r"[\x00-\x1f\"\\\ud800-\udfff]")
"""What msgspec does not accept in the name of a field."""

_PAGE_PARAMS: Final = frozenset({"page", "page_size"})

_log = logging.getLogger("unpod_async")


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A successful response as `UnpodClient.request(..., response=True)` returns it.

    Attributes:
        status: the HTTP status.
        headers: Date, Retry-After, X-RateLimit-* and X-Request-ID, with lower-case names. Others may contain
            secrets and are left out.
        body: the body as sent, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        # The body may contain personal data.
        return f"RawResponse(status={self.status}, {len(self.body)} bytes)"


class Requesting:
    """The methods of `UnpodClient` for any endpoint."""

    _context: ClientContext

    @overload
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = ...,
        json: Any = ...,
        model: None = ...,
        headers: Mapping[str, str] | None = ...,
        response: Literal[False] = ...,
    ) -> Any: ...
    @overload
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = ...,
        json: Any = ...,
        model: type[T],
        headers: Mapping[str, str] | None = ...,
        response: Literal[False] = ...,
    ) -> T: ...
    @overload
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = ...,
        json: Any = ...,
        model: None = ...,
        headers: Mapping[str, str] | None = ...,
        response: Literal[True],
    ) -> RawResponse: ...
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: Any = None,
        model: Any = None,
        headers: Mapping[str, str] | None = None,
        response: bool = False,
    ) -> Any:
        """Send a request to any endpoint of the API, with the limits, deadline and token of this client.

        A GET is retried as the client's `RetryPolicy` says. A POST, PUT, PATCH or DELETE is sent once, over a
        connection of its own. It is sent again only if it certainly did not leave this machine, or if the
        server answered 401 and the `token_provider` has another token. Redirects are never followed.

        Args:
            method: "GET", "POST", "PUT", "PATCH" or "DELETE".
            path: path relative to the root of the API, such as "call-logs/". Most paths end with a slash.
                Each segment consists of printable ASCII characters, without spaces and `\\ ? # %`. It is
                not "." or "..", and does not begin with ";". Percent-encoding is not accepted.
            params: the query. True and False are sent as "true" and "false"; None leaves a parameter out.
            json: the body of a POST, PUT, PATCH or DELETE: str, int, float, bool, mappings, lists and tuples.
                None (default) sends no body.
            model: a type that msgspec can decode, such as a struct, a dataclass or a `TypedDict`. The `data`
                of the response is decoded into it, or the whole body if it has no `data`.
            headers: headers to add to those of the client, which they override.
            response: return the response as a `RawResponse`, whose body may be something other than JSON.
                False by default.

        Returns:
            The whole body, decoded, or None if it is empty; with `model`, an instance of it; with `response`,
            a `RawResponse`.

        Raises:
            InvalidArgument: an argument is not accepted, or it is a POST to the path that places calls.
                Nothing was sent.
            APIError: the server answered with an error. This includes the status 206, and a 200 whose body
                states an error.
            OutcomeUnknown: a POST, PUT, PATCH or DELETE was sent and may have taken effect, because the
                connection was lost, or the response is a 5xx or not JSON.
            DecodeError: the response is not JSON, or does not fit `model`. A POST, PUT, PATCH or DELETE took
                effect.
            TransportError: the request failed. A POST, PUT, PATCH or DELETE was not sent.

        Example:
            ```python
            body = await unpod.request("GET", "agents/", params={"page_size": 5})
            print(body["count"], [agent["handle"] for agent in body["data"]])
            ```
        """
        try:
            context = self._context.with_headers(headers)
        finally:
            headers = None  # tracebacks of all errors below show the variables of this frame
        method = check_choice("method", check_str("method", method).upper(), _METHODS)
        endpoint = endpoints.custom(path)
        if method == "POST" and endpoints.is_create_path(path):
            raise InvalidArgument(
                "path must not be the one that places phone calls",
                argument="path",
                hint="use tasks.create, which never places a call twice",
            )
        query, body = _query(params), _body(method, json)
        json = None
        if model is not None:
            if response:
                raise InvalidArgument("model cannot be combined with response=True", argument="model")
            check_model(model)

        def parse(request: Request, received: Response) -> _Received:
            return _parse(request, received, is_json=not response)

        executor = context.executor
        if method == "GET":
            received = await executor.read(endpoint, query, parse, executor.deadline())
        else:
            received = await _write(context, method, endpoint, query, body, parse)
        return received.raw if response else _decode(method, endpoint, received, model)

    @overload
    def paginate(
        self,
        path: str,
        *,
        key: RowKey | None = ...,
        model: None = ...,
        params: Params | None = ...,
        limit: int | None = ...,
        start_page: int = ...,
        page_size: int | None = ...,
        on_bad_row: OnBadRow = ...,
        headers: Mapping[str, str] | None = ...,
    ) -> Pager[dict[str, Any]]: ...
    @overload
    def paginate(
        self,
        path: str,
        *,
        key: str | Callable[[T], object] | None = ...,
        model: type[T],
        params: Params | None = ...,
        limit: int | None = ...,
        start_page: int = ...,
        page_size: int | None = ...,
        on_bad_row: OnBadRow = ...,
        headers: Mapping[str, str] | None = ...,
    ) -> Pager[T]: ...
    def paginate(
        self,
        path: str,
        *,
        key: Any = None,
        model: Any = None,
        params: Params | None = None,
        limit: int | None = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
        headers: Mapping[str, str] | None = None,
    ) -> Pager[Any]:
        """List the rows of any endpoint that is paged by `page` and `page_size`, with the rows in `data`.

        With `key`, the listing has the guarantees of a `Pager`, under the same assumptions: the endpoint adds
        rows at the head and keeps their order, and different rows have different keys.

        Without `key`, rows cannot be told apart. Each page is read once, and all its rows are yielded as they
        come, including duplicates. If their number differs from the `count` of the server, or it sends the
        same page again and again, the iteration ends with `IncompleteListing`. **Nothing more is
        guaranteed**: if rows are added or removed meanwhile, some may be yielded twice and others be missing
        without an error. `prefetch` requests one page at a time, and a page that the server cannot send
        raises its error.

        Args:
            path: path relative to the root of the API, as for `request`.
            key: what identifies a row: a key of its JSON object, such as "id", or a function that takes the
                decoded row and returns a str, an int, or a tuple of them. Rows without a key (no such key in
                the object, or None) are identified by all their bytes; equal ones count as different rows.
            model: type of a row, which msgspec can decode. None (default) means a dict. Rows that do not fit
                are bad rows.
            params: the query without `page` and `page_size`, as for `request`.
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all.
            start_page: number of the first page to read, counted from 1.
            page_size: rows per request; by default the client's `page_size`.
            on_bad_row: what happens if some rows cannot be used. "raise" (default): the listing yields all
                other rows and then raises `DecodeError`. "skip": it logs and skips them.
            headers: headers to add to those of the client, which they override.

        Returns:
            A `Pager`. No request is sent until it is iterated.

        Raises:
            InvalidArgument: an argument is not accepted.
            UnpodError: while iterating: see `Pager`.

        Example:
            ```python
            async for row in unpod.paginate("call-logs/", key="id", params={"call_type": "inbound"}):
                print(row["call_status"])
            ```
        """
        try:
            context = self._context.with_headers(headers)
        finally:
            headers = None  # tracebacks of all errors below show the variables of this frame
        if key is not None and not callable(key):
            key = _check_key(key)
        query = _query(params)
        if not _PAGE_PARAMS.isdisjoint(query):
            raise InvalidArgument(
                "params must not contain page and page_size",
                argument="params",
                hint="pass start_page= and page_size=",
            )
        row = dict[str, Any] if model is None else model
        check_model(row)
        listing: Listing[Any] = Listing(
            endpoints.custom(path), row, key=key, keyed=key is not None, query=query
        )
        return context.pager(listing, start_page, page_size, on_bad_row, limit)


def _check_key(key: object) -> str:
    """Return the name of a key as a plain str."""
    text = check_str("key", key)
    if not text or _NOT_IN_KEY.search(text):
        raise InvalidArgument(
            f"key must be a name such as 'id', not {text[:60]!a}",
            argument="key",
            hint="for a name with quotes, '\\' or control characters, pass a function",
        )
    return text


def _query(params: Any) -> dict[str, str]:
    """Return the parameters of a query: encoded names, and values that the transport encodes."""
    if params is None:
        return {}
    given = params
    if not isinstance(params, Mapping):
        raise InvalidArgument(f"params must be a mapping, not {type(params).__name__}", argument="params")
    query: dict[str, str] = {}
    for name, value in given.items():
        text = check_query_text("a name in params", name)
        if not text:
            raise InvalidArgument("params contains an empty name", argument="params")
        if value is not None:
            query[quote(text, safe="")] = _query_value(f"params[{shorten(text, 40)!r}]", value)
    return query


def _query_value(where: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # Numbers of other types may print something else: an enumeration prints the name of the member.
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return int.__repr__(value)
        raise InvalidArgument(
            f"{where} must fit into a signed 64-bit integer",
            argument="params",
            hint="send a longer number as a str",
        )
    if isinstance(value, float) and math.isfinite(value):
        return float.__repr__(value)
    if isinstance(value, str):
        return check_query_text(where, value)
    raise InvalidArgument(f"{where} must be a str, a finite number, a bool or None", argument="params")


def _body(method: str, json: object) -> bytes | None:
    if json is None:
        return None
    if method == "GET":
        raise InvalidArgument("json cannot be sent with a GET", argument="json", hint="pass params=")
    return msgspec.json.encode(check_json("json", json))


class _Received(NamedTuple):
    """A successful response, and its decoded body (None if it is empty or need not be JSON)."""

    raw: RawResponse
    content: Any

    def __repr__(self) -> str:
        # Tracebacks with local variables must not show the content.
        return repr(self.raw)


def _parse(request: Request, response: Response, *, is_json: bool) -> _Received:
    """Return a successful response.

    Args:
        is_json: the body must be JSON or empty.

    Raises:
        APIError: the response is an error.
        DecodeError: the body is not JSON.
    """
    content: Any = None
    error: UnpodError | None = classify(request, response)
    if error is None and is_json and response.body:
        try:
            content = decode_any(response.body)
        except DecodeError as fault:
            error = _decode_error(request.method, request.path, response.status, fault)
    if error is None:
        error = classify_body(request, response)
    if error is not None:
        raise error
    return _Received(RawResponse(response.status, safe_headers(response.headers), response.body), content)


def _decode_error(
    method: str, path: str, status: int, fault: DecodeError, hint: str | None = None
) -> DecodeError:
    return DecodeError(f"{method} {path} answered {status}: {fault.args[0]}", hint=hint)


def _decode(method: str, endpoint: Endpoint, received: _Received, model: Any) -> Any:
    """Return what `request` returns without `response=True`."""
    if model is None:
        return received.content
    raw = received.raw
    try:
        if raw.body:
            return decode_any(raw.body, model)
        fault = DecodeError("the response has no body to decode into the model")
    except DecodeError as error:
        fault = error
    hint = None if method == "GET" else "the request took effect: do not send it again because of this error"
    raise _decode_error(method, f"/{endpoint.path}", raw.status, fault, hint)


async def _write(
    context: ClientContext,
    method: str,
    endpoint: Endpoint,
    query: Mapping[str, str],
    body: bytes | None,
    parse: Callable[[Request, Response], _Received],
) -> _Received:
    """Send a request that changes something, once.

    If the call is cancelled after the request may have left, the `CancelledError` gets a note and a warning
    is logged.

    Raises:
        OutcomeUnknown: it was sent, and the response does not say whether it took effect.
        UnpodError: it was not sent, or the server refused it.
    """
    started_at = datetime.now(UTC)
    sent = SentFlag()
    status, message = None, ""

    def parse_and_note(request: Request, response: Response) -> _Received:
        nonlocal status, message
        status, message = response.status, message_of(response)
        return parse(request, response)

    executor = context.executor
    try:
        return await executor.write(method, endpoint, query, body, parse_and_note, executor.deadline(), sent)
    except asyncio.CancelledError as cancelled:
        if sent.sent:
            note = f"a {method} was cancelled after it was sent, and may have taken effect"
            cancelled.add_note(f"{note}: {endpoint.label}")
            _log.warning("%s: %s", note, endpoint.template)
        raise
    except UnpodError as fault:
        error = fault
    if not has_unknown_outcome(error, sent=sent.sent):
        raise error
    if isinstance(error, TransportError):
        status, message = None, ""
    unknown = OutcomeUnknown(
        f"the {method} was sent and may have taken effect: {error.summary}",
        started_at=started_at,
        status=status,
        server_message=message,
        hint="find out whether it took effect before you send it again",
    )
    unknown.attempts = error.attempts
    raise unknown
