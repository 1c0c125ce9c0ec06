"""Place calls in batches, so that a job that dies can be run again without calling anyone twice."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, cast

import anyio.to_thread
import msgspec

from unpod_async._create.journal import Journal, JournalEntry
from unpod_async._create.payload import CheckedCreate, check_create, combine_problems
from unpod_async._create.reconcile import CreateState, reconcile, search_start
from unpod_async._create.server_clock import ServerClock
from unpod_async._create.submit import send_create
from unpod_async._http import check_bool
from unpod_async._paging import ClientContext
from unpod_async.create import CreateRequest
from unpod_async.errors import ConfigurationError, InvalidArgument, OutcomeUnknown, UnpodError

__all__ = ["BatchResult", "create_many"]


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one request of `tasks.create_many`.

    Attributes:
        number: position of the request, counted from 0.
        state: "created"; "partial" if only the documents in `task_ids` have a task; "not_found" if an
            earlier run of the job sent the request, no task of it was found, and it was not sent again; or
            "unclear" if that is not certain, because a run or task that may belong to it could not be read.
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
    path = _journal_path(journal)
    check_bool("resend_unknown", resend_unknown)
    checked = _check_requests(space_token, requests)
    with _opened(path) as opened:
        _check_entries(checked, opened.entries)
        job = _CreateJob(context, space_token, opened, resend_unknown=resend_unknown)
        return [await job.complete(number, request) for number, request in enumerate(checked)]


class _CheckedRequest(NamedTuple):
    """A request that has been checked.

    Attributes:
        create: the checked arguments.
        digest: a digest of the request without generated ids.
    """

    create: CheckedCreate
    digest: str


class _CreateJob:
    """The requests of one `create_many`, sent one after the other."""

    def __init__(
        self, context: ClientContext, space_token: str, journal: Journal, *, resend_unknown: bool
    ) -> None:
        self._context = context
        self._space = space_token
        self._journal = journal
        self._resend_unknown = resend_unknown
        self._clock = ServerClock()

    async def complete(self, number: int, request: _CheckedRequest) -> BatchResult:
        """Send request `number`, or determine its outcome if an earlier run of the job sent it."""
        entry = self._journal.entries.get(number)
        if entry is not None and entry.state in _UNKNOWN:
            entry = await self._find(entry)
        if entry is None or entry.state == "refused" or (entry.state == "not_found" and self._resend_unknown):
            entry = await self._send(number, request, entry)
        return BatchResult(
            number=number,
            state=cast("CreateState", entry.state),
            run_id=entry.run_id,
            document_ids=entry.document_ids,
            task_ids=entry.task_ids,
        )

    async def _find(self, entry: JournalEntry) -> JournalEntry:
        """Search for the calls of a request that was sent with an unknown outcome."""
        clock = _clock_of(entry)
        found = await reconcile(self._context, self._space, entry.document_ids, _sent_at(entry), clock)
        if entry.clock_offset is None:
            self._clock = clock
        return await self._record(
            msgspec.structs.replace(
                entry, state=found.state, run_id=found.run_id, task_ids=dict(found.task_ids)
            )
        )

    async def _send(self, number: int, request: _CheckedRequest, entry: JournalEntry | None) -> JournalEntry:
        # A request that is sent again keeps its generated ids, so that its calls can still be found.
        known_ids = () if entry is None else entry.document_ids
        if entry is not None and len(known_ids) != len(request.create.documents):
            raise _damaged(number)
        create = request.create.with_ids(
            lambda index: known_ids[index] if known_ids else uuid.uuid4().hex
        ).encode()
        # Calls of an earlier attempt may still appear, so a later search starts at that attempt.
        unresolved = entry if entry is not None and entry.state == "not_found" else None
        offset = self._clock.offset
        sending = JournalEntry(
            number=number,
            state="sending",
            digest=request.digest,
            document_ids=create.document_ids,
            at=time.time(),
            space=self._space,
            clock_offset=None if offset is None else offset.total_seconds(),
        )
        if unresolved is not None:
            sending = msgspec.structs.replace(sending, at=unresolved.at, clock_offset=unresolved.clock_offset)
        await self._record(sending)
        try:
            created = await send_create(self._context, self._space, create, self._clock)
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
        try:
            await anyio.to_thread.run_sync(self._journal.write, entry)
        except OSError as fault:
            outcome = _OUTCOMES.get(
                entry.state, "was sent by an earlier call, and its calls were searched for"
            )
            raise ConfigurationError(
                f"journal cannot be written: {_reason(fault)}; request {entry.number} {outcome}",
                argument="journal",
                hint="fix the cause and run the job again: it sends no request twice",
            ) from None
        return entry


_UNKNOWN: Final = frozenset({"sending", "not_found", "unclear"})
"""States of requests whose calls must be searched for."""

_OUTCOMES: Final = {
    "sending": "was not sent",
    "refused": "was refused by the service or did not leave this machine",
    "created": "was sent and its calls were queued",
}
"""What happened to a request whose entry cannot be written."""


def _check_requests(space_token: str, requests: object) -> list[_CheckedRequest]:
    """Check all requests before the first one is sent or recorded in the journal.

    Raises:
        InvalidArgument: a request is not accepted. The message lists every problem.
    """
    if not isinstance(requests, Iterable):
        raise InvalidArgument("requests must be an iterable of CreateRequest", argument="requests")
    checked: list[_CheckedRequest] = []
    refused: list[InvalidArgument] = []
    for number, request in enumerate(cast("Iterable[object]", requests)):
        try:
            checked.append(_check_request(space_token, request))
        except InvalidArgument as error:
            where = f"requests[{number}]"
            separator = " " if error.argument is None else "."
            problems = [f"{where}{separator}{problem}" for problem in error.problems or (error.summary,)]
            refused.append(
                InvalidArgument(problems[0], argument="requests", hint=error.hint, problems=tuple(problems))
            )
    if refused:
        raise combine_problems("requests", refused, len(checked) + len(refused))
    return checked


def _check_request(space_token: str, request: object) -> _CheckedRequest:
    if not isinstance(request, CreateRequest):
        raise InvalidArgument(f"must be a CreateRequest, not {type(request).__name__}")
    create = check_create(
        pilot=request.pilot,
        documents=request.documents,
        context=request.context,
        schedule=request.schedule,
    )
    digest = hashlib.sha256(space_token.encode() + b"\0" + create.encode().body).hexdigest()
    return _CheckedRequest(create, digest)


def _check_entries(requests: Sequence[_CheckedRequest], entries: Mapping[int, JournalEntry]) -> None:
    """Check that the journal belongs to these requests.

    Raises:
        InvalidArgument: a request differs from the one in the journal.
        ConfigurationError: an entry is damaged.
    """
    for number, request in enumerate(requests):
        entry = entries.get(number)
        if entry is None:
            continue
        if entry.digest != request.digest:
            raise InvalidArgument(
                f"requests[{number}] differs from the request in the journal",
                argument="requests",
                hint="use the same requests in the same order, or start a new journal",
            )
        if entry.state not in _UNKNOWN:
            continue
        try:
            search_start(_sent_at(entry), _clock_of(entry))
        except (ValueError, OverflowError, OSError):
            raise _damaged(number) from None


def _damaged(number: int) -> ConfigurationError:
    return ConfigurationError(
        f"journal is damaged: its entry for request {number} does not fit the request",
        argument="journal",
        hint="restore the journal; before you start a new one, look for the calls",
    )


def _sent_at(entry: JournalEntry) -> datetime:
    return datetime.fromtimestamp(entry.at, UTC)


def _clock_of(entry: JournalEntry) -> ServerClock:
    return ServerClock(None if entry.clock_offset is None else timedelta(seconds=entry.clock_offset))


def _journal_path(value: object) -> str:
    path: object = None
    with suppress(TypeError):  # an int, or an object whose `__fspath__` fails
        path = os.fspath(cast("str", value))
    if isinstance(path, str) and path and "\0" not in path:
        return path
    raise InvalidArgument("journal must be the path of a file", argument="journal")


@contextmanager
def _opened(path: str) -> Generator[Journal]:
    """Open the journal.

    Raises:
        ConfigurationError: it cannot be opened.
    """
    journal = Journal(path)
    try:
        journal.__enter__()
    except (OSError, ValueError) as fault:
        if isinstance(fault, UnpodError):
            raise
        raise ConfigurationError(
            f"journal cannot be opened: {_reason(fault)}; nothing was sent",
            argument="journal",
            hint="pass a file that you can read and write, in an existing folder",
        ) from None
    try:
        yield journal
    finally:
        # Every entry is already on disk, so an error while closing has no effect.
        with suppress(OSError):
            journal.__exit__(None, None, None)


def _reason(fault: Exception) -> str:
    return getattr(fault, "strerror", None) or type(fault).__name__
