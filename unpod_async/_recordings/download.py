"""Download recordings, with retries."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import anyio

from unpod_async._common import TimeLimit, shorten
from unpod_async._http import Deadline, RequestExecutor, RetrySchedule, check_instance, check_integer
from unpod_async._paging import Resource
from unpod_async._recordings.files import RecordingFolder, extension_of, safe_name
from unpod_async._recordings.http import DownloadFailed, RecordingHttp
from unpod_async._recordings.urls import RecordingHosts, RecordingUrl
from unpod_async.errors import Attempt, InvalidArgument, RecordingError, UnpodError
from unpod_async.models import Task

__all__ = ["MAX_BYTES", "RecordingLoader", "Recordings"]

MAX_BYTES: Final = 512 * 2**20
"""The default of `max_bytes`: 512 MiB."""

_log = logging.getLogger("unpod_async")


class Recordings(Resource):
    """Recordings of calls. Use it as `client.recordings`."""

    async def download(
        self,
        task: Task,
        directory: str | os.PathLike[str],
        *,
        recording_hosts: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        ssl_context: ssl.SSLContext | None = None,
    ) -> Path:
        """Download the recording of a task's call into a directory.

        The file name is the id of the task, made safe for every file system, with an extension for the
        content type; its permissions are 0600. The file appears only when it is complete and synced to disk.
        Until then it is hidden, and it is removed if the download fails. An existing recording is returned
        without a request.

        The URL comes from a server, so the request contains neither the token nor the Org-Handle, and does
        not use the client's `proxy`. Only https on port 443 of a public address is accepted. The check
        applies to the address of the actual connection, and to each of up to three redirects.

        Failed attempts follow the client's `retry` policy but do not use its budget. `timeout` limits the
        wait for the head of a response. After that, an attempt fails if no byte arrives for 30 seconds, or
        less than 1 kB per second over 10 seconds. `deadline` limits the whole download; without one, a slow
        download can take a long time.

        Args:
            task: the task whose recording is downloaded.
            directory: where to store it; created if it does not exist.
            recording_hosts: your own hosts, as "host" or "host:port". They may use http, any port and
                private addresses. None by default.
            max_bytes: refuse a longer recording. 512 MiB by default.
            ssl_context: TLS settings for a store with a private CA. The `ssl_context` of the client is not
                used, because it may contain a client certificate.

        Returns:
            The path of the file.

        Raises:
            RecordingError: the task has no recording, or it could not be downloaded completely. If
                `permanent` is False, another attempt may succeed.
            InvalidArgument: an argument is not accepted, or the task has no id.
            DecodeError: the output of the task cannot be read.
            TransportError: the deadline passed.
            ExportError: the file or the directory cannot be written.
        """
        check_instance("task", task, Task)
        if not task.task_id:
            raise InvalidArgument("task must have a task_id, which names the file", argument="task")
        path = _check_directory(directory)
        executor = self._context.executor
        async with RecordingLoader(
            executor, recording_hosts=recording_hosts, max_bytes=max_bytes, ssl_context=ssl_context
        ) as loader:
            call = task.call
            if call is None or call.recording_url is None:
                raise RecordingError(f"task {shorten(task.task_id, 80)} has no recording", permanent=True)
            return await loader.fetch(task.task_id, call.recording_url, path, executor.deadline())


class _Download(NamedTuple):
    """One recording to download; `description` names it in messages."""

    description: str
    url: RecordingUrl
    folder: RecordingFolder
    name: str


class RecordingLoader:
    """Downloads recordings over its own connections; use it with `async with`.

    Args:
        executor: provides the options and the statistics of its client. Its connections are not used.
        recording_hosts, max_bytes, ssl_context: see `Recordings.download`.
        clock: returns monotonic seconds, to measure the throughput.

    Raises:
        InvalidArgument: an argument is not accepted.
    """

    def __init__(
        self,
        executor: RequestExecutor,
        *,
        recording_hosts: Sequence[str] = (),
        max_bytes: int = MAX_BYTES,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = check_integer("max_bytes", max_bytes, maximum=None)
        if ssl_context is not None:
            check_instance("ssl_context", ssl_context, ssl.SSLContext)  # False would disable verification
        self._executor = executor
        self._hosts = RecordingHosts(recording_hosts)
        self._http = RecordingHttp(
            self._hosts, head_timeout=executor.options.timeout, ssl_context=ssl_context, clock=clock
        )
        self._folders: dict[Path, RecordingFolder] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def fetch(self, task_id: str, url: str, directory: Path, deadline: Deadline) -> Path:
        """Return the file of a recording, and download it if it does not exist yet.

        Several recordings can be fetched at the same time.

        Args:
            deadline: starts with the first request and limits all attempts together.

        Raises:
            RecordingError: the URL is refused, or the last attempt failed. `error.attempts` lists the failed
                attempts.
            TransportError: the deadline passed.
            ExportError: the file or the directory cannot be written.
        """
        description = f"the recording of task {shorten(task_id, 80)}"
        checked = self._check(url)
        del url  # tracebacks can show the variables of a frame
        name = safe_name(task_id)
        folder = self._folders.setdefault(directory, RecordingFolder(directory))
        found = await folder.find(name)
        if found is not None:
            return found
        if isinstance(checked, RecordingError):
            raise _describe(checked, description)
        deadline.start()
        async with TimeLimit(deadline.left()):
            return await self._download(_Download(description, checked, folder, name), deadline)
        raise deadline.error(f"while {description} was downloaded", sent=True)

    def _check(self, url: str) -> RecordingUrl | RecordingError:
        try:
            return self._hosts.check(url)
        except RecordingError as error:
            return error.with_traceback(None)

    async def _download(self, download: _Download, deadline: Deadline) -> Path:
        """Attempt a download until it succeeds or the retry policy gives up."""
        stats = self._executor.stats
        schedule = RetrySchedule.from_policy(
            self._executor.options.retry, jitter=self._executor.jitter, deadline=deadline
        )
        attempts: list[Attempt] = []
        stats.requests += 1
        while True:
            try:
                return await self._attempt(download)
            except DownloadFailed as fault:
                failed = fault
            except UnpodError as fault:
                # The disk failed. The frames below contain the URL.
                raise fault.with_traceback(None) from None
            error = failed.error
            delay = schedule.next_delay(retryable=not error.permanent, retry_after=failed.retry_after)
            attempts.append(Attempt(failed.status, type(error).__name__, delay or 0.0))
            if delay is None:
                error.attempts = tuple(attempts)
                raise _describe(error, download.description)
            cause = type(error).__name__ if failed.status is None else str(failed.status)
            stats.retries[cause] += 1
            _log.warning(
                "%s: attempt %d failed: %s; next attempt in %.2f s",
                download.description,
                len(attempts),
                cause,
                delay,
            )
            began = time.monotonic()
            await anyio.sleep(delay)
            stats.waited += time.monotonic() - began

    async def _attempt(self, download: _Download) -> Path:
        stats = self._executor.stats
        stats.attempts += 1
        began = time.monotonic()
        length = 0
        async with download.folder.partial_file(download.name) as file:

            async def write(data: bytes) -> None:
                nonlocal length
                length += len(data)
                stats.bytes += len(data)
                await file.write(data)

            fetched = await self._http.fetch(download.url, self._max_bytes, write)
            path = await file.publish(extension_of(fetched.content_type, download.url.path, fetched.path))
        seconds = time.monotonic() - began
        _log.debug("%s: %d bytes in %.0f ms", download.description, length, seconds * 1000)
        return path


def _describe(error: RecordingError, description: str) -> RecordingError:
    error.args = (f"{description} was not downloaded: {error.args[0]}",)
    return error


def _check_directory(given: str | os.PathLike[str]) -> Path:
    try:
        path = Path(given or "\0")
    except TypeError:
        path = Path("\0")
    if "\0" in str(path):
        raise InvalidArgument("directory must be the path of a directory", argument="directory")
    return path
