"""Placing calls batch by batch: a job killed at any moment can be run again and dials nobody twice."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, cast

import anyio.to_thread
import msgspec

from unpod_async._create.journal import Entry, Journal
from unpod_async._create.reconcile import reconcile
from unpod_async._create.submit import send_create
from unpod_async._paging import ClientContext
from unpod_async.create import EncodedCreate, Schedule, encode_create
from unpod_async.errors import InvalidArgument, OutcomeUnknown, UnpodError

__all__ = ["BatchResult", "CreateRequest", "create_many"]


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One create of `tasks.create_many`; the arguments of `tasks.create`."""

    pilot: str
    documents: Sequence[Mapping[str, Any]]
    context: str
    schedule: Schedule = "now"


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one request of `tasks.create_many`.

    Attributes:
        number: its place among the requests, from 0.
        state: "created", "partial" (only the documents in `task_ids` have a task), or "not_found": an earlier
            run of the job sent it, no task of it was found, and it was not sent again.
        run_id: the run it made, where known.
        document_ids: ids of its documents, made ones included.
        task_ids: task id by document id, where known.
    """

    number: int
    state: Literal["created", "partial", "not_found"]
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
    """See `Tasks.create_many`."""
    if not _is_iterable(requests):
        raise InvalidArgument("requests must be several CreateRequests, in a list or another iterable")
    if not _is_path(journal):
        raise InvalidArgument("journal must be the path of a file")
    results: list[BatchResult] = []
    with Journal(journal) as kept:
        job = _Job(context, space_token, kept, resend_unknown=resend_unknown)
        for number, request in enumerate(requests):
            results.append(await job.settle(number, request))
    return results


class _Job:
    def __init__(
        self, context: ClientContext, space_token: str, journal: Journal, *, resend_unknown: bool
    ) -> None:
        self._context = context
        self._space = space_token
        self._journal = journal
        self._resend_unknown = resend_unknown

    async def settle(self, number: int, request: CreateRequest) -> BatchResult:
        """Bring request `number` to a state that needs no more sending, and say which."""
        request = _checked(number, request)
        digest = _digest(self._space, request)
        entry = self._journal.entries.get(number)
        if entry is not None and entry.digest != digest:
            raise InvalidArgument(
                f"request {number} is not the one the journal tells of: rerun the job with the same requests "
                "in the same order, or start a new journal"
            )
        if entry is not None and entry.state in ("sending", "not_found"):
            entry = await self._find(entry)
        unsent = entry is None or entry.state == "refused"
        if unsent or (entry is not None and entry.state == "not_found" and self._resend_unknown):
            entry = await self._send(number, digest, request, entry)
        assert entry is not None  # noqa: S101 - one of the branches above has set it
        return BatchResult(
            number=number,
            state=cast("Literal['created', 'partial', 'not_found']", entry.state),
            run_id=entry.run_id,
            document_ids=entry.document_ids,
            task_ids=entry.task_ids,
        )

    async def _find(self, entry: Entry) -> Entry:
        """An earlier run sent this and did not learn what came of it."""
        sent_at = datetime.fromtimestamp(entry.at, UTC)
        found = await reconcile(self._context, self._space, entry.document_ids, sent_at)
        return await self._note(
            msgspec.structs.replace(
                entry, state=found.state, run_id=found.run_id, task_ids=dict(found.task_ids)
            )
        )

    async def _send(self, number: int, digest: str, request: CreateRequest, entry: Entry | None) -> Entry:
        create = _encode(request, iter(entry.document_ids) if entry is not None else None)
        # What an earlier send may have queued stays in doubt, and is looked for from that send on.
        in_doubt = entry if entry is not None and entry.state == "not_found" else None
        sending = Entry(
            number=number,
            state="sending",
            digest=digest,
            document_ids=create.document_ids,
            at=time.time() if in_doubt is None else in_doubt.at,
            space=self._space,
        )
        await self._note(sending)
        try:
            created = await send_create(self._context, self._space, create)
        except OutcomeUnknown:
            raise  # the line before says all that is known; the next run looks for the calls
        except UnpodError:
            await self._note(in_doubt or msgspec.structs.replace(sending, state="refused"))
            raise
        return await self._note(
            msgspec.structs.replace(
                sending,
                state="created",
                run_id=created.run_id,
                task_ids=dict(zip(create.document_ids, created.task_ids or (), strict=False)),
            )
        )

    async def _note(self, entry: Entry) -> Entry:
        await anyio.to_thread.run_sync(self._journal.write, entry)
        return entry


def _is_iterable(value: object) -> bool:
    return isinstance(value, Iterable)


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and bool(str(cast("object", value)))


def _checked(number: int, request: object) -> CreateRequest:
    """A request that can be encoded more than once."""
    if not isinstance(request, CreateRequest):
        raise InvalidArgument(f"request {number} must be a CreateRequest, not {type(request).__name__}")
    if isinstance(request.documents, Iterator):
        return msgspec.structs.replace(request, documents=tuple(request.documents))
    return request


def _encode(request: CreateRequest, ids: Iterator[str] | None) -> EncodedCreate:
    """Encode with ids made here; a request sent again keeps those it had, so that it can still be found."""

    def make_id() -> str:
        return uuid.uuid4().hex

    create = encode_create(
        pilot=request.pilot,
        documents=request.documents,
        context=request.context,
        schedule=request.schedule,
        make_id=make_id if ids is None else None,
    )
    if ids is None:
        return create
    documents = [
        {**document, **({} if document.get("id") or document.get("document_id") else {"document_id": name})}
        for document, name in zip(request.documents, ids, strict=True)
    ]
    return encode_create(
        pilot=request.pilot, documents=documents, context=request.context, schedule=request.schedule
    )


def _digest(space_token: str, request: CreateRequest) -> str:
    plain = encode_create(
        pilot=request.pilot, documents=request.documents, context=request.context, schedule=request.schedule
    )
    return hashlib.sha256(space_token.encode() + b"\0" + plain.body).hexdigest()
