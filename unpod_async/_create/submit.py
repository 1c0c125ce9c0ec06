"""Send one create, and report an unknown outcome."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from unpod_async._common import shorten
from unpod_async._create.payload import EncodedCreate
from unpod_async._create.server_clock import SentAt, ServerClock, read_clocks
from unpod_async._http import (
    Request,
    Response,
    SentFlag,
    has_unknown_outcome,
    message_of,
    space_tasks,
)
from unpod_async._paging import ClientContext, decode_single
from unpod_async.errors import APIError, DecodeError, OutcomeUnknown, TransportError, UnpodError
from unpod_async.models import CreatedRun

__all__ = ["send_create", "sent_at", "some_ids"]

_log = logging.getLogger("unpod_async")
_SHOWN_IDS = 3
"""Maximum number of document ids in a message."""


class _LastResponse(NamedTuple):
    """The status and the message of the last response. The response itself would appear in tracebacks."""

    status: int | None = None
    message: str = ""


async def send_create(
    context: ClientContext, space_token: str, create: EncodedCreate, clock: ServerClock | None = None
) -> CreatedRun:
    """POST a create that has been checked.

    Args:
        clock: the server's clock; records the `Date` headers of the responses.

    If the call is cancelled after the request may have left, the `CancelledError` gets a note, and a warning
    is logged, because calls may be queued.

    Raises:
        OutcomeUnknown: the request was sent and the response does not say whether calls were queued.
        TransportError: the request did not leave this machine.
        APIError: the server refused the create; no call was queued.
    """
    started_at = read_clocks()
    clock = ServerClock() if clock is None else clock
    sent = SentFlag()
    last = _LastResponse()

    def parse(request: Request, response: Response) -> CreatedRun:
        nonlocal last
        last = _LastResponse(response.status, message_of(response))
        clock.update(response.headers.get("date"))
        created = decode_single(request, response, CreatedRun)
        problem = _describe_missing(created, len(create.document_ids))
        if problem is not None:
            raise DecodeError(f"{request.method} {request.path} answered {response.status}: {problem}")
        return created

    endpoint = space_tasks(space_token)
    try:
        return await context.executor.create(endpoint, create.body, parse, context.executor.deadline(), sent)
    except asyncio.CancelledError as cancelled:
        if sent.sent:
            note = _note_of_cancellation(space_token, create.document_ids, clock.sent_at(started_at))
            cancelled.add_note(note)
            _log.warning("%s", note)
        raise
    except UnpodError as fault:
        error = fault
    if not has_unknown_outcome(error, sent=sent.sent):
        raise error
    if isinstance(error, TransportError):
        last = _LastResponse()  # any earlier response refused an earlier attempt
    raise _outcome_unknown(error, last, space_token, create.document_ids, clock.sent_at(started_at))


def _describe_missing(created: CreatedRun, calls: int) -> str | None:
    """Return why a response does not prove that this number of calls was queued, or None if it does.

    The documented form of the response has the id of the run and lists no tasks.
    """
    if created.task_ids is None:
        return None if created.run_id else "the response names neither a run nor tasks"
    tasks = len({task_id for task_id in created.task_ids if task_id})
    if tasks >= calls:
        return None
    return f"the response lists {tasks} of {calls} task{'' if calls == 1 else 's'}"


def _outcome_unknown(
    error: UnpodError,
    last: _LastResponse,
    space_token: str,
    document_ids: tuple[str, ...],
    sent: SentAt,
) -> OutcomeUnknown:
    quoted = f" ({shorten(last.message)})" if last.message and not isinstance(error, APIError) else ""
    unknown = OutcomeUnknown(
        f"the create was sent and calls may be queued: {error.summary}{quoted}",
        space_token=space_token,
        document_ids=document_ids,
        started_at=sent.wall,
        status=last.status,
        server_message=last.message,
        hint=_search_advice(space_token, document_ids, sent),
        clocks=sent,
    )
    unknown.attempts = error.attempts
    return unknown


def sent_at(error: OutcomeUnknown) -> SentAt:
    """Return when the create of an error was sent: by the wall clock only, if a user created the error."""
    return error.clocks if isinstance(error.clocks, SentAt) else SentAt(error.started_at)


def _search_advice(space_token: str, document_ids: tuple[str, ...], sent: SentAt) -> str:
    """Return what to do before the create is sent again, in lines for a terminal of 80 columns."""
    return (
        "call tasks.reconcile(error) before you send it again, or look in\n"
        f"runs.list({space_token!r}) from {sent.search_start:%Y-%m-%dT%H:%M:%SZ} on\n"
        f"for tasks with ref_id {some_ids(document_ids)}"
    )


def _note_of_cancellation(space_token: str, document_ids: tuple[str, ...], sent: SentAt) -> str:
    """Return what a cancelled create says. There is no error that `tasks.reconcile` could use."""
    return (
        "a create was cancelled after it was sent: calls may be queued; before you send it again, look in "
        f"space {space_token} for tasks with ref_id {some_ids(document_ids)} that were created at or after "
        f"{sent.search_start:%Y-%m-%dT%H:%M:%SZ}"
    )


def some_ids(document_ids: tuple[str, ...]) -> str:
    """Return at most three ids, and the number of the others."""
    some = ", ".join(shorten(one, 40) for one in document_ids[:_SHOWN_IDS])
    others = len(document_ids) - _SHOWN_IDS
    return f"{some} and {others:,} more" if others > 0 else some
