"""Recordings of calls, downloaded whole or not at all."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio

from unpod_async._common import shorten
from unpod_async._http import (
    Deadline,
    RequestExecutor,
    RetrySchedule,
    check_instance,
    check_integer,
)
from unpod_async._paging import Resource
from unpod_async._recordings.filenames import extension_of, safe_name
from unpod_async._recordings.files import RecordingFolder
from unpod_async._recordings.http import RecordingHttp
from unpod_async._recordings.responses import Failed
from unpod_async._recordings.urls import RecordingHosts, RecordingUrl
from unpod_async.errors import Attempt, InvalidArgument, RecordingError, UnpodError
from unpod_async.models import Task

__all__ = ["MAX_BYTES", "RecordingLoader", "Recordings"]

MAX_BYTES: Final = 512 * 2**20

_log = logging.getLogger("unpod_async")


class Recordings(Resource):
    """Recordings of calls."""

    async def download(
        self,
        task: Task,
        directory: str | os.PathLike[str],
        *,
        recording_hosts: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        ssl_context: ssl.SSLContext | None = None,
    ) -> Path:
        """Download the recording of a task's call into a directory, and return the file.

        The file is named by the task's id, made safe, with an extension by its content type (mode 0600). It
        appears when it is whole and synced; until then it is hidden, and removed if anything goes wrong. One
        that is already there is returned without a request.

        Neither the token nor the Org-Handle is sent, nor is `proxy=` used. It comes over https, from port 443
        of a public address, which is checked on the address really connected to; so are the targets of
        redirects, three of which are followed.

        Faults are repeated by the client's `retry`, apart from its budget. `timeout` is for the head of an
        answer; after it, 30 s without a byte or less than 1 kB/s over 10 s are a fault. `deadline` is for all
        of it; without one, a slow server can take long.

        Args:
            directory: made when it is missing.
            recording_hosts: hosts of yours that are excepted, "host" or "host:port": they may speak http, on
                any port and at private addresses.
            max_bytes: a longer recording is not accepted.
            ssl_context: as aiohttp takes it, for a store with a private CA. The client's is not used: it may
                hold a certificate of yours.

        Raises:
            RecordingError: the task has no recording, or it did not come whole; `permanent` says whether to
                try again.
            InvalidArgument: an argument is not accepted, or the task has no id.
            DecodeError: the task's output cannot be read.
            TransportError: the deadline ended.
            ExportError: the file or directory cannot be written.
        """
        check_instance("task", task, Task)
        if not task.task_id:
            raise InvalidArgument("the task has no task_id, by which its recording would be named")
        path = _directory(directory)
        async with RecordingLoader(
            self._context.executor,
            recording_hosts=recording_hosts,
            max_bytes=max_bytes,
            ssl_context=ssl_context,
        ) as loader:
            call = task.call
            if call is None or call.recording_url is None:
                raise RecordingError(f"task {shorten(task.task_id, 80)} has no recording", permanent=True)
            return await loader.fetch(
                task.task_id, call.recording_url, path, self._context.executor.deadline()
            )


class RecordingLoader:
    """Downloads recordings over connections of its own, closed at the end of the `async with`.

    Args:
        caller: of the client or view whose options count; none of its connections is used.
        recording_hosts, max_bytes, ssl_context: as in `Recordings.download`.
        clock: monotonic seconds, to measure how fast bytes come.

    Raises:
        InvalidArgument: an argument is not accepted.
    """

    def __init__(
        self,
        caller: RequestExecutor,
        *,
        recording_hosts: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_integer("max_bytes", max_bytes, maximum=None)
        if ssl_context is not None:
            check_instance("ssl_context", ssl_context, ssl.SSLContext)  # False would switch the checks off
        self._caller = caller
        self._hosts = RecordingHosts(recording_hosts)
        self._most = max_bytes
        self._http = RecordingHttp(
            self._hosts, head_within=caller.options.timeout, ssl_context=ssl_context, clock=clock
        )
        self._folders: dict[Path, RecordingFolder] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def fetch(self, task_id: str, url: str, directory: Path, deadline: Deadline) -> Path:
        """The file of a recording, downloaded unless it is there; see `Recordings.download`.

        Several may be fetched at a time. `deadline` starts with the first request and ends them all.

        Raises:
            RecordingError: refused, or the error of the last attempt, with `attempts`.
            TransportError: the deadline ended.
            ExportError: the file or directory cannot be written.
        """
        what = f"the recording of task {shorten(task_id, 80)}"
        address = self._checked(url)
        del url  # tracebacks show what is in a frame
        name = safe_name(task_id)
        folder = self._folders.setdefault(directory, RecordingFolder(directory))
        found = await folder.find(name)
        if found is not None:
            return found
        if isinstance(address, RecordingError):
            raise _of(what, address)
        deadline.start()
        with anyio.move_on_after(deadline.left()):
            return await self._repeat(what, address, folder, name, deadline)
        raise deadline.error(f"while {what} was downloaded", sent=True)

    def _checked(self, url: str) -> RecordingUrl | RecordingError:
        try:
            return self._hosts.check(url)
        except RecordingError as error:
            return error.with_traceback(None)

    async def _repeat(
        self, what: str, address: RecordingUrl, folder: RecordingFolder, name: str, deadline: Deadline
    ) -> Path:
        stats = self._caller.stats
        schedule = RetrySchedule.from_policy(
            self._caller.options.retry, jitter=self._caller.jitter, deadline=deadline
        )
        made: list[Attempt] = []
        stats.requests += 1
        while True:
            try:
                return await self._attempt(what, address, folder, name)
            except Failed as fault:
                failed = fault
            except UnpodError as fault:
                # Of the disk. The frames below hold the URL.
                raise fault.with_traceback(None) from None
            error = failed.error
            made.append(Attempt(failed.status, type(error).__name__, 0.0))
            error.attempts = tuple(made)
            wait = schedule.next_delay(retryable=not error.permanent, retry_after=failed.hint)
            if wait is None:
                break
            made[-1] = made[-1]._replace(wait=wait)
            cause = type(error).__name__ if failed.status is None else str(failed.status)
            stats.retries[cause] += 1
            _log.warning("%s: %s, attempt %d; again in %.2f s", what, cause, len(made), wait)
            began = time.monotonic()
            await anyio.sleep(wait)
            stats.waited += time.monotonic() - began
        raise _of(what, failed.error)

    async def _attempt(self, what: str, address: RecordingUrl, folder: RecordingFolder, name: str) -> Path:
        stats = self._caller.stats
        stats.attempts += 1
        began = time.monotonic()
        length = 0
        async with folder.part(name) as part:

            async def write(piece: bytes) -> None:
                nonlocal length
                length += len(piece)
                stats.bytes += len(piece)
                await part.add(piece)

            head = await self._http.fetch(address, self._most, write)
            path = await part.keep(extension_of(head.content_type, address.path, head.path))
        _log.debug("%s: %d bytes in %.0f ms", what, length, (time.monotonic() - began) * 1000)
        return path


def _of(what: str, error: RecordingError) -> RecordingError:
    error.args = (f"{what} was not downloaded: {error.args[0]}",)
    return error


def _directory(given: str | os.PathLike[str]) -> Path:
    try:
        path = Path(given or "\0")
    except TypeError:
        path = Path("\0")
    if "\0" in str(path):
        raise InvalidArgument("directory must be the path of a directory, as text or a Path")
    return path
