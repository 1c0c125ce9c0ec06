"""Place calls in batches, so that an interrupted job can be run again without calling anyone twice."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, cast

import anyio.to_thread
import msgspec

from unpod_async._common import is_fault_of_disk, os_error_advice, os_error_reason
from unpod_async._create.journal import Journal, JournalEntry
from unpod_async._create.payload import CheckedCreate, check_create, combine_problems, id_of_document
from unpod_async._create.reconcile import CreateState, Reconciliation, reconcile
from unpod_async._create.server_clock import Instant, SentAt, ServerClock, read_clocks
from unpod_async._create.submit import send_create
from unpod_async._http import check_bool
from unpod_async._paging import ClientContext
from unpod_async.create import CreateRequest
from unpod_async.errors import ConfigurationError, InvalidArgument, OutcomeUnknown, UnpodError

__all__ = ["BatchResult", "create_many", "open_journal"]


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one request of `tasks.create_many`.

    Attributes:
        number: position of the request, counted from 0.
        state: "created": every document has a task. "partial": only the documents in `task_ids` have one.
            "not_found": an earlier run of the job sent the request, no task of it was found, and it was not
            sent again. "unclear": its calls may exist although they were not found; see `Reconciliation`.
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
    with open_journal(path) as opened:
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
        if entry is not None and entry.state in _UNRESOLVED_STATES:
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
        found = await reconcile(
            self._context, self._space, entry.document_ids, _send_time(entry), self._clock
        )
        return await self._record(_add_found(entry, found))

    async def _send(self, number: int, request: _CheckedRequest, entry: JournalEntry | None) -> JournalEntry:
        # A request that is sent again keeps its generated ids, so that its calls can still be found.
        known_ids = () if entry is None else entry.document_ids
        if entry is not None and len(known_ids) != len(request.create.documents):
            raise _damaged_entry(number)
        create = request.create.with_ids(
            lambda index: known_ids[index] if known_ids else uuid.uuid4().hex
        ).encode()
        # Calls of an earlier attempt may still appear, so a later search starts at that attempt.
        unresolved = entry if entry is not None and entry.state == "not_found" else None
        moment = read_clocks()
        sending = JournalEntry(
            number=number,
            state="sending",
            digest=request.digest,
            document_ids=create.document_ids,
            at=moment.wall.timestamp(),
            space=self._space,
            clock_offset=self._offset_at(moment),
            uptime=moment.uptime,
            boot=moment.boot,
        )
        if unresolved is not None:
            sending = msgspec.structs.replace(
                sending,
                at=unresolved.at,
                clock_offset=unresolved.clock_offset,
                uptime=unresolved.uptime,
                boot=unresolved.boot,
            )
        await self._record(sending)
        try:
            created = await send_create(self._context, self._space, create, self._clock)
        except OutcomeUnknown:
            # The "sending" entry makes the next run of the job search for the calls. The response may have
            # shown the server's clock, which the search needs if it runs on another machine.
            offset = self._offset_at(moment)
            if unresolved is None and sending.clock_offset is None and offset is not None:
                with suppress(ConfigurationError):
                    await self._record(msgspec.structs.replace(sending, clock_offset=offset))
            raise
        except UnpodError:
            await self._record(unresolved or msgspec.structs.replace(sending, state="refused"))
            raise
        task_ids = created.task_ids or ()
        is_one_each = len(task_ids) == len(create.document_ids)
        return await self._record(
            msgspec.structs.replace(
                sending,
                state="created",
                run_id=created.run_id,
                task_ids=dict(zip(create.document_ids, task_ids, strict=True)) if is_one_each else {},
            )
        )

    def _offset_at(self, moment: Instant) -> float | None:
        """Return the seconds by which the server's clock was ahead of the wall clock, if they are known."""
        server = self._clock.at(moment)
        return None if server is None else (server - moment.wall).total_seconds()

    async def _record(self, entry: JournalEntry) -> JournalEntry:
        try:
            await anyio.to_thread.run_sync(self._journal.write, entry)
        except OSError as fault:
            outcome = _OUTCOMES.get(
                entry.state, "was sent by an earlier job, and its calls were searched for"
            )
            raise ConfigurationError(
                f"journal cannot be written: {os_error_reason(fault)}; request {entry.number} {outcome}",
                argument="journal",
                hint=f"{os_error_advice(fault)} and run the job again: no request is sent twice",
            ) from None
        return entry


_UNRESOLVED_STATES: Final = frozenset({"sending", "partial", "not_found", "unclear"})
"""States of requests whose calls must be searched for: the server may have stored more of them meanwhile."""

_OUTCOMES: Final = {
    "sending": "was not sent",
    "refused": "was refused by the service or did not leave this machine",
    "created": "was sent and its calls were queued",
}
"""The text that describes a request whose entry cannot be written, by its state."""


def _add_found(entry: JournalEntry, found: Reconciliation) -> JournalEntry:
    """Return the entry with the result of a search.

    A call that was found once was placed, even if it is not found again. So a request of which a call is
    known never becomes "not_found", which may be sent again.
    """
    task_ids = {**entry.task_ids, **found.task_ids}
    state = found.state
    if all(document_id in task_ids for document_id in entry.document_ids):
        state = "created"
    elif state == "not_found" and (task_ids or entry.state == "partial"):
        state = "partial"
    return msgspec.structs.replace(entry, state=state, run_id=found.run_id or entry.run_id, task_ids=task_ids)


def _check_requests(space_token: str, requests: object) -> list[_CheckedRequest]:
    """Check all requests before the first one is sent or recorded in the journal.

    Raises:
        InvalidArgument: a request is not accepted. The message lists every problem.
    """
    if not isinstance(requests, Iterable):
        raise InvalidArgument("requests must be an iterable of CreateRequest", argument="requests")
    checked: list[_CheckedRequest] = []
    refused: list[InvalidArgument] = []
    position_of: dict[object, str] = {}
    for number, request in enumerate(cast("Iterable[object]", requests)):
        where = f"requests[{number}]"
        try:
            one = _check_request(space_token, request)
            _check_ids(where, one.create, position_of)
        except InvalidArgument as error:
            separator = " " if error.argument is None else "."
            problems = [f"{where}{separator}{problem}" for problem in error.problems or (error.summary,)]
            refused.append(
                InvalidArgument(problems[0], argument="requests", hint=error.hint, problems=tuple(problems))
            )
        else:
            checked.append(one)
    if refused:
        raise combine_problems("requests", refused, len(checked) + len(refused))
    return checked


def _check_ids(where: str, create: CheckedCreate, position_of: dict[object, str]) -> None:
    """Record the ids of a request's documents. Raises InvalidArgument if an earlier request has one of them.

    A search finds a call by its id. If two requests had the same id, the call of one could be found for the
    other, and a call that was never placed would be recorded as created.
    """
    problems: list[str] = []
    for index, document in enumerate(create.documents):
        document_id = id_of_document(document)
        if not document_id:
            continue
        position = f"documents[{index}]"
        if document_id in position_of:
            problems.append(f"{position} has the same id as {position_of[document_id]}")
        else:
            position_of[document_id] = f"{where}.{position}"
    if problems:
        raise InvalidArgument(
            problems[0],
            argument="documents",
            hint="use a different id for each call. To call somebody twice, change the id\n"
            'of the second call ("42-evening"), and keep your own id in another field',
            problems=tuple(problems),
        )


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
        if entry.state not in _UNRESOLVED_STATES:
            continue
        try:
            _send_time(entry)
        except (ValueError, OverflowError, OSError):
            raise _damaged_entry(number) from None


def _damaged_entry(number: int) -> ConfigurationError:
    return ConfigurationError(
        f"journal is damaged: its entry for request {number} does not match the request",
        argument="journal",
        hint="restore the journal; before you start a new one, look for the calls",
    )


def _send_time(entry: JournalEntry) -> SentAt:
    """Return when a request was first sent. Raises ValueError, OverflowError or OSError for a bad time."""
    wall = datetime.fromtimestamp(entry.at, UTC)
    offset = entry.clock_offset
    server = None if offset is None else wall + timedelta(seconds=offset)
    return SentAt(wall, entry.uptime, entry.boot, server)


def _journal_path(value: object) -> str:
    path: object = None
    with suppress(TypeError):  # an int, or an object whose `__fspath__` fails
        path = os.fspath(cast("str", value))
    if isinstance(path, str) and path and "\0" not in path:
        return path
    raise InvalidArgument("journal must be the path of a file", argument="journal")


@contextmanager
def open_journal(path: str) -> Generator[Journal]:
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
            f"journal cannot be opened: {os_error_reason(fault)}; nothing was sent",
            argument="journal",
            hint=f"{os_error_advice(fault)} and run the job again"
            if is_fault_of_disk(fault)
            else "pass a file that you can read and write, in an existing folder",
        ) from None
    try:
        yield journal
    finally:
        # Every entry is already on disk, so an error while closing has no effect.
        with suppress(OSError):
            journal.__exit__(None, None, None)
