"""Placing calls: sent once, and what to say when the outcome is not known."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from unpod_async._common import shorten
from unpod_async._http import Request, Response, SentFlag, message_of, space_tasks
from unpod_async._paging import ClientContext, decode_single
from unpod_async.create import EncodedCreate
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


async def send_create(context: ClientContext, space_token: str, create: EncodedCreate) -> CreatedRun:
    """POST a checked create; see `Tasks.create` for what is raised."""
    endpoint = space_tasks(space_token)
    started_at = datetime.now(UTC)
    sent = SentFlag()
    # Not the answer itself, which would show with this frame.
    answered: tuple[int | None, str] = (None, "")

    def parse(request: Request, response: Response) -> CreatedRun:
        nonlocal answered
        answered = (response.status, message_of(response))
        return decode_single(request, response, CreatedRun)

    try:
        return await context.executor.create(endpoint, create.body, parse, context.executor.deadline(), sent)
    except asyncio.CancelledError as cancelled:
        if sent.sent:
            where = _where_to_look(space_token, create.document_ids, started_at)
            cancelled.add_note(f"cancelled while a create was under way: calls may be queued. {where}")
            _log.warning("a create was cancelled after it was sent: calls may be queued. %s", where)
        raise
    except UnpodError as fault:
        error = fault
    if isinstance(error, TransportError) and not (error.sent or sent.sent):
        raise error
    if isinstance(error, TransportError):
        answered = (None, "")  # what there may be is of an attempt before, which was turned away
    if isinstance(error, TransportError | ServerError | UpstreamError | DecodeError):
        raise _unknown(error, *answered, space_token, create.document_ids, started_at)
    raise error


def _unknown(
    error: UnpodError,
    status: int | None,
    said: str,
    space_token: str,
    document_ids: tuple[str, ...],
    started_at: datetime,
) -> OutcomeUnknown:
    quoted = f" ({shorten(said)})" if said and not isinstance(error, APIError) else ""
    unknown = OutcomeUnknown(
        f"the create was sent and calls may be queued: {error}{quoted}. Do not send it again "
        "before you have looked: " + _where_to_look(space_token, document_ids, started_at),
        space_token=space_token,
        document_ids=document_ids,
        started_at=started_at,
        status=status,
        server_message=said,
    )
    unknown.attempts = error.attempts
    return unknown


def _where_to_look(space_token: str, document_ids: tuple[str, ...], started_at: datetime) -> str:
    return (
        f"tasks.reconcile(error) looks; by hand, runs.list({space_token!r}) for a run created at or after "
        f"{started_at:%Y-%m-%dT%H:%M:%SZ} whose tasks have ref_id {shorten(', '.join(document_ids), 120)}"
    )
