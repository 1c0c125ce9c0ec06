"""Tasks: single calls; listing, placing and finding them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, overload

from unpod_async._create import (
    BatchResult,
    CreateRequest,
    Reconciliation,
    create_many,
    encode_create,
    reconcile,
    send_create,
)
from unpod_async._http import check_choice, check_id, check_str_or_list
from unpod_async._http import endpoints as _paths
from unpod_async._paging import Listing, OnBadRow, Pager, Resource, Status, status_filter
from unpod_async.create import Schedule
from unpod_async.errors import InvalidArgument, OutcomeUnknown, UnpodError
from unpod_async.models import CreatedRun, Task

__all__ = ["Tasks"]


class Tasks(Resource):
    """Tasks: single calls."""

    def list(
        self,
        space_token: str,
        *,
        search: str | None = None,
        outcome: str | Sequence[str] | None = None,
        call_type: Literal["inbound", "outbound"] | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        status: Status = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Task]:
        """Tasks of a space, newest first.

        Args:
            search: regular expression, case ignored, over name and phone of input and output.
            outcome: what the call came to, such as "Interested", or several; case counts. (On the wire this
                is `status`, which is not the task's status.)
            call_type: "inbound" or "outbound".
            created_from, created_to: aware datetimes, both inclusive; the server gets whole seconds, and
                every row is checked again.
            status: the task's status; filtered on the client, the server has no such filter.

        With `search`, `outcome` or `call_type`, rows whose call ends during the walk enter the listing in
        its middle; they may be met or not. Documented in "Get Tasks by Space Token".

        Raises:
            InvalidArgument: an argument is not accepted.
            RefusedError: the space is unknown or not yours.
        """
        query = _paths.unix_bounds(created_from, created_to)
        if search is not None:
            query["search"] = _filled("search", search)
        if outcome is not None:
            outcomes = check_str_or_list("outcome", outcome)
            query["status"] = ",".join(_outcome(one) for one in outcomes) or _filled("outcome", "")
        if call_type is not None:
            query["call_type"] = check_choice("call_type", call_type, ("inbound", "outbound"))
        bounded = created_from is not None or created_to is not None
        listing = Listing(
            _paths.space_tasks(space_token),
            Task,
            ("task_id", "id"),
            query=query,
            statuses=status_filter(status),
            window=_paths.TimeWindow(created_from, created_to) if bounded else None,
        )
        return self._context.pager(listing, start_page, page_size, on_bad_row)

    @overload
    async def create(
        self,
        space_token: str,
        *,
        pilot: str,
        documents: Iterable[Mapping[str, Any]],
        context: str,
        schedule: Schedule = ...,
        dry_run: Literal[False] = ...,
    ) -> CreatedRun: ...
    @overload
    async def create(
        self,
        space_token: str,
        *,
        pilot: str,
        documents: Iterable[Mapping[str, Any]],
        context: str,
        schedule: Schedule = ...,
        dry_run: Literal[True],
    ) -> bytes: ...
    async def create(
        self,
        space_token: str,
        *,
        pilot: str,
        documents: Iterable[Mapping[str, Any]],
        context: str,
        schedule: Schedule = "now",
        dry_run: bool = False,
    ) -> CreatedRun | bytes:
        """Place phone calls: one per document, by the agent `pilot`.

        Everything is checked before sending, because the server queues calls it has not checked. The request
        goes over a connection of its own, is sent again only when it certainly never left or was turned away
        by a 429, and never after it may have reached the server. Cancelled after it was sent, the
        CancelledError carries a note that calls may be queued.

        Args:
            pilot: handle of the agent. The server does not check it: a wrong one queues calls nobody makes.
            documents: one mapping per call with `name` and `contact_number` as text; `id` or `document_id`
                comes back as the task's `ref_id`. A document without one gets a `document_id` made here, so
                that its call can be found again.
            context: what the call is about; the server refuses a create without it.
            schedule: "now", "auto", `ScheduleNow()`, `ScheduleAuto()` or `ScheduleCustom(date, time)`.
            dry_run: check everything and return the JSON that would be sent; nothing is sent.

        Documented in "Create a Task in a Space".

        Raises:
            InvalidArgument: an argument is not accepted; nothing was sent.
            TransportError: with `sent` False: nothing was sent.
            OutcomeUnknown: it was sent and the calls may be queued; the text says where to look.
            APIError: the server refused (3xx, 4xx, 206 refusal or validation); no call was queued.
        """
        check_id("space_token", space_token)
        create = encode_create(
            pilot=pilot,
            documents=documents,
            context=context,
            schedule=schedule,
            make_id=lambda: uuid.uuid4().hex,
        )
        if dry_run:
            return create.body
        return await send_create(self._context, space_token, create)

    async def create_many(
        self,
        space_token: str,
        requests: Iterable[CreateRequest],
        *,
        journal: str | os.PathLike[str],
        resend_unknown: bool = False,
    ) -> Sequence[BatchResult]:
        """Place calls batch by batch, so that a job that dies can be run again and dials nobody twice.

        Before each POST the journal says on disk what is about to be sent, ids included. Run again with the
        same requests in the same order: what is done is left out, and the one batch whose outcome is not
        known is looked for. Created or partly created, it is noted; not seen, it is reported and not sent.

        Args:
            requests: the creates, in a fixed order.
            journal: path of the journal, made if it is not there. It holds ids and digests, no contact data.
            resend_unknown: send a batch again that an earlier run sent and that was not seen.

        Raises:
            OutcomeUnknown: a batch was sent and its outcome is not known; nothing after it was sent.
            InvalidArgument: a request is not accepted, or is another than the journal tells of.
            ConfigurationError: the journal is in use, or is none.
            OSError: the journal cannot be opened or written.
            UnpodError: a batch was refused; a rerun sends it again.
        """
        check_id("space_token", space_token)
        return await create_many(self._context, space_token, requests, journal, resend_unknown=resend_unknown)

    async def reconcile(self, error: UnpodError) -> Reconciliation:
        """Look through the newest runs for the calls of a create whose outcome is not known.

        Looks at runs from two minutes before it was sent on, for tasks with exactly its document ids. Not
        seen is not the same as not created: the server may still be storing.

        Raises:
            InvalidArgument: `error` is no `OutcomeUnknown`.
            UnpodError: a listing could not be read.
        """
        if not isinstance(error, OutcomeUnknown):
            raise InvalidArgument("reconcile takes the OutcomeUnknown that a create raised")
        return await reconcile(self._context, error.space_token, error.document_ids, error.started_at)


def _filled(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidArgument(f"{name} must be text that is not empty")
    # A lone surrogate would vanish on its way into the URL, and the filter with it.
    if "\0" in value or value != value.encode("utf-8", "ignore").decode("utf-8"):
        raise InvalidArgument(f"{name} holds a character that cannot be sent: a lone surrogate or NUL")
    return value


def _outcome(value: object) -> str:
    text = _filled("outcome", value)
    if "," in text:
        raise InvalidArgument("an outcome holds no comma, which parts several of them: pass a list")
    return text
