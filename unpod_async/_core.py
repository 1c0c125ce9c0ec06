"""What every group of calls shares: settings, transport, and the few ways a call is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from unpod_async._collect import OnBadRow
from unpod_async._decode import decode_one
from unpod_async._listing import Listing
from unpod_async._pager import Pager
from unpod_async._paths import Endpoint, space_tasks
from unpod_async._response import Request, Response, classify, classify_inside
from unpod_async._settings import Settings
from unpod_async._text import shorten
from unpod_async._transport import Transport
from unpod_async.create import Schedule, encode_create
from unpod_async.errors import (
    APIError,
    ConfigurationError,
    DecodeError,
    OutcomeUnknown,
    ServerError,
    TransportError,
    UpstreamError,
)
from unpod_async.models import CreatedRun

__all__ = ["Core"]

T = TypeVar("T")


class Core:
    """Settings and transport of one client."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self.settings = settings
        self.transport = transport

    def page_size(self, page_size: int | None) -> int:
        return self.settings.page_size if page_size is None else page_size

    def pager(
        self, listing: Listing[T], start_page: int, page_size: int | None, on_bad_row: OnBadRow
    ) -> Pager[T]:
        if listing.needs_org:
            self._need_org(listing.endpoint)
        return Pager(
            self.transport,
            listing,
            page_size=self.page_size(page_size),
            start_page=start_page,
            on_bad_row=on_bad_row,
        )

    async def get_one(self, endpoint: Endpoint, model: type[T]) -> T:
        self._need_org(endpoint)
        response = await self.transport.get(endpoint.path, {})
        request = self.transport.request("GET", endpoint.path)
        found = _single(request, response, model)
        if isinstance(found, APIError | DecodeError):
            raise found
        return found

    async def create(
        self,
        space_token: str,
        *,
        pilot: str,
        documents: Iterable[Mapping[str, Any]],
        context: str,
        schedule: Schedule,
    ) -> CreatedRun:
        endpoint = space_tasks(space_token)
        body, ids = encode_create(pilot=pilot, documents=documents, context=context, schedule=schedule)
        started_at = datetime.now(UTC)

        def unknown(why: str, answer: APIError | None = None) -> OutcomeUnknown:
            return _outcome_unknown(why, space_token, ids, started_at, answer)

        answer: Response | TransportError
        try:
            answer = await self.transport.post(endpoint.path, body)
        except TransportError as error:
            if not error.sent:
                raise
            answer = error
        if isinstance(answer, TransportError):
            raise unknown(str(answer))
        created = _single(self.transport.request("POST", endpoint.path), answer, CreatedRun)
        if isinstance(created, ServerError | UpstreamError):
            raise unknown(str(created), created)
        if isinstance(created, DecodeError):
            raise unknown(str(created))
        if isinstance(created, APIError):
            raise created
        return created

    def _need_org(self, endpoint: Endpoint) -> None:
        if self.settings.org_handle is None:
            raise ConfigurationError(
                f"{endpoint.label}: the Org-Handle is needed and not known: pass org_handle= or set "
                "UNPOD_ORG_HANDLE (it is the `domain_handle` of an organization)"
            )


def _single(request: Request, response: Response, model: type[T]) -> T | APIError | DecodeError:
    """The object of a single answer, or the error the answer is."""
    error = classify(request, response)
    if error is not None:
        return error
    try:
        found, stated = decode_one(model, response.body)
    except DecodeError as fault:
        fault.args = (f"{request.method} {request.path} answered 200: {fault.args[0]}",)
        return classify_inside(request, response) or fault
    if stated in (200, 201, None):
        return found
    return classify_inside(request, response) or found


def _outcome_unknown(
    why: str,
    space_token: str,
    ids: tuple[str, ...],
    started_at: datetime,
    answer: APIError | None,
) -> OutcomeUnknown:
    named = f" with ref_id {shorten(', '.join(ids), 120)}" if ids else ""
    return OutcomeUnknown(
        f"the create was sent and calls may be queued: {why}. Do not send it again before you have looked: "
        f"runs.list({space_token!r}) for a run created at or after {started_at:%Y-%m-%dT%H:%M:%SZ}, and its "
        f"tasks{named}",
        space_token=space_token,
        document_ids=ids,
        started_at=started_at,
        status=None if answer is None else answer.status,
        server_message="" if answer is None else answer.message,
    )
