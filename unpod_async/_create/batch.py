"""Place calls in batches, so that a job that dies can be run again without calling anyone twice."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import cast

import anyio.to_thread
import msgspec

from unpod_async._create.journal import Journal, JournalEntry
from unpod_async._create.payload import EncodedCreate, encode_create, own_id
from unpod_async._create.reconcile import CreateState, reconcile
from unpod_async._create.submit import send_create
from unpod_async._paging import ClientContext
from unpod_async.create import CreateRequest
from unpod_async.errors import InvalidArgument, OutcomeUnknown, UnpodError

__all__ = ["BatchResult", "create_many"]


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one request of `tasks.create_many`.

    Attributes:
        number: position of the request, counted from 0.
        state: "created"; "partial" if only the documents in `task_ids` have a task; or "not_found" if an
            earlier run of the job sent the request, no task of it was found, and it was not sent again.
        run_id: the run it created, if known.
        document_ids: the ids of its documents, given or generated.
        task_ids: task id by document id, as far as known.
    """

    number: int
    state: CreateState
    run_id: str | None
    document_ids: tuple[str, ...]
    task_ids: Mapping[str, str]


async def create_many(
    context: ClientContext,
    space_token: str,
    requests: Iterable[CreateRequest],
    journal: str | os.PathLike[str],
    *,
    resend_unknown: bool,
) -> list[BatchResult]:
    """Send each request that the journal does not list as done. See `Tasks.create_many`."""
    if not _is_iterable(requests):
        raise InvalidArgument("requests must be an iterable of CreateRequest", argument="requests")
    if not _is_path(journal):
        raise InvalidArgument("journal must be the path of a file", argument="journal")
    results: list[BatchResult] = []
    with Journal(journal) as opened:
        job = _CreateJob(context, space_token, opened, resend_unknown=resend_unknown)
        for number, request in enumerate(requests):
            results.append(await job.complete(number, request))
    return results


class _CreateJob:
    """The requests of one `create_many`, sent one after the other."""

    def __init__(
        self, context: ClientContext, space_token: str, journal: Journal, *, resend_unknown: bool
    ) -> None:
        self._context = context
        self._space = space_token
        self._journal = journal
        self._resend_unknown = resend_unknown

    async def complete(self, number: int, request: CreateRequest) -> BatchResult:
        """Send request `number`, or determine its outcome if an earlier run of the job sent it."""
        request = _check(number, request)
        digest = _digest(self._space, request)
        entry = self._journal.entries.get(number)
        if entry is not None and entry.digest != digest:
            raise InvalidArgument(
                f"request {number} is not the request that the journal has at this position",
                argument="requests",
                hint="run the job with the same requests in the same order, or start a new journal",
            )
        if entry is not None and entry.state in ("sending", "not_found"):
            entry = await self._find(entry)
        if entry is None or entry.state == "refused" or (entry.state == "not_found" and self._resend_unknown):
            entry = await self._send(number, digest, request, entry)
        return BatchResult(
            number=number,
            state=cast("CreateState", entry.state),
            run_id=entry.run_id,
            document_ids=entry.document_ids,
            task_ids=entry.task_ids,
        )

    async def _find(self, entry: JournalEntry) -> JournalEntry:
        """Search for the calls of a request that was sent with an unknown outcome."""
        sent_at = datetime.fromtimestamp(entry.at, UTC)
        found = await reconcile(self._context, self._space, entry.document_ids, sent_at)
        return await self._record(
            msgspec.structs.replace(
                entry, state=found.state, run_id=found.run_id, task_ids=dict(found.task_ids)
            )
        )

    async def _send(
        self, number: int, digest: str, request: CreateRequest, entry: JournalEntry | None
    ) -> JournalEntry:
        create = _encode(request, entry)
        # Calls of an earlier attempt may still appear, so a later search starts at that attempt.
        unresolved = entry if entry is not None and entry.state == "not_found" else None
        sending = JournalEntry(
            number=number,
            state="sending",
            digest=digest,
            document_ids=create.document_ids,
            at=time.time() if unresolved is None else unresolved.at,
            space=self._space,
        )
        await self._record(sending)
        try:
            created = await send_create(self._context, self._space, create)
        except OutcomeUnknown:
            raise  # the "sending" entry makes the next run of the job search for the calls
        except UnpodError:
            await self._record(unresolved or msgspec.structs.replace(sending, state="refused"))
            raise
        return await self._record(
            msgspec.structs.replace(
                sending,
                state="created",
                run_id=created.run_id,
                task_ids=dict(zip(create.document_ids, created.task_ids or (), strict=False)),
            )
        )

    async def _record(self, entry: JournalEntry) -> JournalEntry:
        await anyio.to_thread.run_sync(self._journal.write, entry)
        return entry


def _is_iterable(value: object) -> bool:
    return isinstance(value, Iterable)


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and bool(str(cast("object", value)))


def _check(number: int, request: object) -> CreateRequest:
    """Return a request that can be encoded more than once."""
    if not isinstance(request, CreateRequest):
        kind = type(request).__name__
        raise InvalidArgument(f"request {number} must be a CreateRequest, not {kind}", argument="requests")
    if isinstance(request.documents, Iterator):
        return msgspec.structs.replace(request, documents=tuple(request.documents))
    return request


def _encode(request: CreateRequest, entry: JournalEntry | None) -> EncodedCreate:
    """Encode a request with an id for each document.

    A request that is sent again keeps the generated ids of `entry`, so that its calls can still be found.
    """
    if entry is None:
        return _encode_documents(request, request.documents, generate_ids=True)
    documents = [
        document if own_id(document) else {**document, "document_id": document_id}
        for document, document_id in zip(request.documents, entry.document_ids, strict=True)
    ]
    return _encode_documents(request, documents)


def _encode_documents(
    request: CreateRequest, documents: Iterable[Mapping[str, object]], *, generate_ids: bool = False
) -> EncodedCreate:
    return encode_create(
        pilot=request.pilot,
        documents=documents,
        context=request.context,
        schedule=request.schedule,
        make_id=(lambda: uuid.uuid4().hex) if generate_ids else None,
    )


def _digest(space_token: str, request: CreateRequest) -> str:
    body = _encode_documents(request, request.documents).body
    return hashlib.sha256(space_token.encode() + b"\0" + body).hexdigest()
