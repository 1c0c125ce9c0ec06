"""Send one create, and report an unknown outcome."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import NamedTuple

from unpod_async._common import shorten
from unpod_async._create.payload import EncodedCreate
from unpod_async._create.server_clock import ServerClock
from unpod_async._http import Request, Response, SentFlag, message_of, space_tasks
from unpod_async._paging import ClientContext, decode_single
from unpod_async.errors import (
    APIError,
    DecodeError,
    OutcomeUnknown,
    ServerError,
    TransportError,
    UnpodError,
    UpstreamError,
)
from unpod_async.models import CreatedRun

__all__ = ["send_create"]

_log = logging.getLogger("unpod_async")


class _LastResponse(NamedTuple):
    """The status and the message of the last response; the response itself would show in tracebacks."""

    status: int | None = None
    message: str = ""


async def send_create(
    context: ClientContext, space_token: str, create: EncodedCreate, clock: ServerClock | None = None
) -> CreatedRun:
    """POST a create that has been checked.

    Args:
        clock: records the `Date` headers of the responses.

    If the call is cancelled after the request may have left, the `CancelledError` gets a note, and a warning
    is logged, because calls may be queued.

    Raises:
        OutcomeUnknown: the request was sent and the response does not say whether calls were queued.
        TransportError: the request did not leave this machine.
        APIError: the server refused the create; no call was queued.
    """
    started_at = datetime.now(UTC)
    sent = SentFlag()
    last = _LastResponse()

    def parse(request: Request, response: Response) -> CreatedRun:
        nonlocal last
        last = _LastResponse(response.status, message_of(response))
        if clock is not None:
            clock.note(response.headers.get("date"))
        return decode_single(request, response, CreatedRun)

    endpoint = space_tasks(space_token)
    try:
        return await context.executor.create(endpoint, create.body, parse, context.executor.deadline(), sent)
    except asyncio.CancelledError as cancelled:
        if sent.sent:
            advice = " ".join(_how_to_look(space_token, create.document_ids, started_at).split())
            cancelled.add_note(f"a create was cancelled after it was sent: calls may be queued; {advice}")
            _log.warning("a create was cancelled after it was sent: calls may be queued; %s", advice)
        raise
    except UnpodError as fault:
        error = fault
    if isinstance(error, TransportError):
        if not (error.sent or sent.sent):
            raise error
        last = _LastResponse()  # any earlier response refused an earlier attempt
    if isinstance(error, TransportError | ServerError | UpstreamError | DecodeError):
        raise _outcome_unknown(error, last, space_token, create.document_ids, started_at)
    raise error


def _outcome_unknown(
    error: UnpodError,
    last: _LastResponse,
    space_token: str,
    document_ids: tuple[str, ...],
    started_at: datetime,
) -> OutcomeUnknown:
    quoted = f" ({shorten(last.message)})" if last.message and not isinstance(error, APIError) else ""
    unknown = OutcomeUnknown(
        f"the create was sent and calls may be queued: {error.summary}{quoted}",
        space_token=space_token,
        document_ids=document_ids,
        started_at=started_at,
        status=last.status,
        server_message=last.message,
        hint=_how_to_look(space_token, document_ids, started_at),
    )
    unknown.attempts = error.attempts
    return unknown


def _how_to_look(space_token: str, document_ids: tuple[str, ...], started_at: datetime) -> str:
    """Return what to do before the create is sent again, in lines for a terminal of 80 columns."""
    return (
        "call tasks.reconcile(error) before you send it again, or look in\n"
        f"runs.list({space_token!r}) from {started_at:%Y-%m-%dT%H:%M:%SZ} on\n"
        f"for tasks with ref_id {shorten(', '.join(document_ids), 50)}"
    )
