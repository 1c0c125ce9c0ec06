"""`client.tasks`: list the tasks of a space, and create, check and reconcile calls."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, overload

from unpod_async._create import (
    BatchResult,
    Reconciliation,
    create_many,
    encode_create,
    reconcile,
    send_create,
    sent_at,
)
from unpod_async._http import (
    check_bool,
    check_choice,
    check_id,
    check_query_text,
    check_str,
    check_str_or_list,
    endpoints,
)
from unpod_async._paging import Listing, OnBadRow, Pager, Resource, TaskStatusFilter, status_filter
from unpod_async.create import CreateRequest, Document, Schedule
from unpod_async.errors import InvalidArgument, OutcomeUnknown, UnpodError
from unpod_async.models import CreatedRun, Task

__all__ = ["Tasks"]


class Tasks(Resource):
    """Tasks: single calls. Use it as `client.tasks`."""

    def list(
        self,
        space_token: str,
        *,
        search: str | None = None,
        outcome: str | Sequence[str] | None = None,
        call_type: Literal["inbound", "outbound"] | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        status: TaskStatusFilter = None,
        limit: int | None = None,
        start_page: int = 1,
        page_size: int | None = None,
        on_bad_row: OnBadRow = "raise",
    ) -> Pager[Task]:
        """List the tasks of a space, newest first.

        With `search`, `outcome` or `call_type`, a task whose call ends while the listing is read may or may
        not be yielded, because it enters the listing in the middle. Documented by the service in "Get Tasks
        by Space Token".

        Args:
            space_token: token of the space.
            search: case-insensitive regular expression that the server applies to the name and the phone
                number in the input and the output.
            outcome: only calls with this outcome, such as "Interested", or with one of these; case-sensitive
                and filtered by the server. (The server's parameter is called `status`; it is not the status
                of the task.)
            call_type: only "inbound" or only "outbound" calls.
            created_from: only tasks created at this time or later, as a timezone-aware datetime. The server
                shows whole seconds, so the whole second of this time is included.
            created_to: only tasks created at this time or earlier, as a timezone-aware datetime. The server
                filters by whole seconds; the client filters by fractions of a second.
            status: only tasks with this status, or with one of these statuses; filtered on the client,
                because the server has no such filter.
            limit: maximum number of rows; no more pages than necessary are read. None (default) reads all.
            start_page: number of the first page to read, counted from 1.
            page_size: rows per request; by default the client's `page_size`.
            on_bad_row: what happens if some rows cannot be used. "raise" (default): the listing yields all
                other rows and then raises `DecodeError`. "skip": it logs and skips them.

        Returns:
            A `Pager`. No request is sent until it is iterated.

        Raises:
            InvalidArgument: an argument is not accepted.
            RefusedError: while iterating: the space does not exist or is not yours.
            UnpodError: while iterating: see `Pager`.

        Example:
            ```python
            since = datetime(2025, 7, 1, tzinfo=UTC)
            async for task in unpod.tasks.list(space_token, created_from=since, outcome="Interested"):
                print(task.task_id, task.call and task.call.duration)
            ```
        """
        query = endpoints.unix_bounds(created_from, created_to)
        if search is not None:
            query["search"] = _filter_value("search", search)
        if outcome is not None:
            query["status"] = _outcome_filter(outcome)
        if call_type is not None:
            query["call_type"] = check_choice("call_type", call_type, ("inbound", "outbound"))
        is_bounded = created_from is not None or created_to is not None
        listing = Listing(
            endpoints.space_tasks(space_token),
            Task,
            ("task_id", "id"),
            query=query,
            statuses=status_filter(status),
            window=endpoints.TimeWindow(created_from, created_to) if is_bounded else None,
        )
        return self._context.pager(listing, start_page, page_size, on_bad_row, limit)

    @overload
    async def create(
        self,
        space_token: str,
        *,
        pilot: str,
        documents: Iterable[Document | Mapping[str, Any]],
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
        documents: Iterable[Document | Mapping[str, Any]],
        context: str,
        schedule: Schedule = ...,
        dry_run: Literal[True],
    ) -> bytes: ...
    async def create(
        self,
        space_token: str,
        *,
        pilot: str,
        documents: Iterable[Document | Mapping[str, Any]],
        context: str,
        schedule: Schedule = "now",
        dry_run: bool = False,
    ) -> CreatedRun | bytes:
        """Place phone calls: one for each document, by the agent `pilot`.

        All arguments are validated before anything is sent, because the server queues calls that it has not
        validated. The request uses a connection of its own. It is retried only if it certainly did not leave
        this machine, or if the server answered 429. If the call is cancelled after the request was
        sent, the `CancelledError` carries a note that calls may be queued.

        Documented by the service in "Create a Task in a Space".

        Args:
            space_token: token of the space.
            pilot: handle of the agent. The server does not check it: with a wrong handle, calls are queued
                and never placed.
            documents: a mapping or `Document` for each call, with at least the strings `name` and
                `contact_number`. A number has 3 to 20 ASCII digits, an optional leading plus, and spaces,
                dots, hyphens or round brackets between the digits. The `id` or `document_id` of a document is
                returned as the task's `ref_id`. A document with neither gets a generated `document_id`, so
                that its call can be found again.
            context: what the call is about. The server refuses a create without it.
            schedule: "now" (default), "auto", `ScheduleNow()`, `ScheduleAuto()` or
                `ScheduleCustom(date, time)`.
            dry_run: validate everything, send nothing, and return the request body. False by default.

        Returns:
            The created run; with `dry_run`, the JSON that would be sent.

        Raises:
            InvalidArgument: an argument is not accepted. Nothing was sent. `error.problems` lists every
                document that is refused.
            TransportError: the request failed and `error.sent` is False: nothing was sent.
            OutcomeUnknown: the request was sent and calls may be queued. `reconcile(error)` looks for them.
            APIError: the server refused the request. No call was queued.

        Example:
            ```python
            run = await unpod.tasks.create(
                space_token,
                pilot="sales-agent-x1",
                documents=[{"name": "Asha", "contact_number": "+15550100"}],
                context="Ask whether the delivery arrived.",
            )
            ```
        """
        check_id("space_token", space_token)
        check_bool("dry_run", dry_run)
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
        """Place calls in batches. After a crash, call it again: no call is placed twice.

        All requests are checked before the first is sent or recorded. Before each request, the journal
        records on disk what is about to be sent.

        A second call with the same requests in the same order skips the batches whose calls are all known.
        For every other batch that was sent, it searches for the calls:

        - Some calls are found: the batch is never sent again.
        - No call is found: the batch is reported as "not_found". It is sent again only if `resend_unknown`
          is True.
        - No call is found, but calls may exist: the batch is reported as "unclear" and never sent again. See
          `reconcile`.

        Args:
            space_token: token of the space.
            requests: the batches, in a fixed order. An `id` or `document_id` may occur only once in all of
                them, because `create_many` uses it to find the call.
            journal: path of the journal file; created if it does not exist. It contains ids and digests, no
                contact data.
            resend_unknown: send a batch again if an earlier call sent it and its calls are not found. False
                by default, because the calls may then be placed twice.

        Returns:
            The result of each batch, in the order of `requests`.

        Raises:
            OutcomeUnknown: a batch was sent and its outcome is unknown. Nothing was sent after it.
            InvalidArgument: a request is not accepted, or differs from the one in the journal. Nothing was
                sent. `error.problems` lists everything that is not accepted.
            ConfigurationError: the journal is in use, is not a journal, or cannot be opened or written.
            UnpodError: a batch was refused. The next call sends it again.
        """
        check_id("space_token", space_token)
        return await create_many(self._context, space_token, requests, journal, resend_unknown=resend_unknown)

    async def reconcile(self, error: UnpodError) -> Reconciliation:
        """Look for the calls of a create whose outcome is unknown.

        Reads the runs created since two minutes before the request, by the server's clock, and looks for
        tasks with exactly its document ids. "not_found" and "partial" do not mean that no other call was
        created: the server may still be storing the calls. "unclear" means one of these:

        - A run or task that may belong to the create could not be read.
        - No response had a `Date` header, and a run that may be older than the create has its ids.
        - No response near the create had that header, and the error comes from another machine or an earlier
          boot.

        Args:
            error: the `OutcomeUnknown` that `create` or `create_many` raised.

        Returns:
            A `Reconciliation` with what was found.

        Raises:
            InvalidArgument: `error` is not an `OutcomeUnknown` of a create.
            UnpodError: a listing could not be read.

        Example:
            ```python
            try:
                run = await unpod.tasks.create(space_token, ...)
            except OutcomeUnknown as error:
                found = await unpod.tasks.reconcile(error)
                print(found.state)
            ```
        """
        if not isinstance(error, OutcomeUnknown):
            raise InvalidArgument(
                f"error must be an OutcomeUnknown, not {type(error).__name__}", argument="error"
            )
        if not error.space_token:
            raise InvalidArgument(
                "error must come from a create, not from UnpodClient.request", argument="error"
            )
        return await reconcile(self._context, error.space_token, error.document_ids, sent_at(error))


def _filter_value(name: str, value: object) -> str:
    """Return the value of a filter, checked so that it reaches the server unchanged."""
    if not check_str(name, value).strip():
        raise InvalidArgument(f"{name} must not be empty", argument=name)
    return check_query_text(name, value)


def _outcome_filter(outcome: str | Sequence[str]) -> str:
    outcomes = [_filter_value("outcome", one) for one in check_str_or_list("outcome", outcome)]
    if not outcomes:
        raise InvalidArgument("outcome must not be empty", argument="outcome")
    if any("," in one for one in outcomes):
        raise InvalidArgument(
            "outcome contains a comma, which separates outcomes in the request",
            argument="outcome",
            hint="pass several outcomes as a list",
        )
    return ",".join(outcomes)
