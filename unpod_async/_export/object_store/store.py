"""Requests to an object store. Nothing else in the package imports obstore.

obstore retries failed requests. Its error messages contain URLs, which may be signed. So a message
of this module has only the status and the code of the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import re
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, TypeAlias, TypeVar

import anyio

from unpod_async._common import TimeLimit, ignore_error, join_shielded, os_error_reason
from unpod_async._export.object_store.address import StoreAddress
from unpod_async._http import Deadline
from unpod_async._tables import import_package
from unpod_async._version import install_command
from unpod_async.errors import ExportError

__all__ = ["Job", "ObjectStore", "StoredObject", "Version", "open_store"]

T = TypeVar("T")

Version: TypeAlias = dict[str, str]
"""Identifies the content of an object: its ETag, or the generation in Google Cloud Storage."""

Job: TypeAlias = Literal["export", "merge"]
"""What uses the store. Messages name it."""

_CHUNK: Final = 5 * 2**20
_CHUNKS_AT_ONCE: Final = 2
"""One upload has this many chunks in memory."""
_MAX_CHUNKS: Final = 9_000
"""A store accepts at most 10,000 chunks in one object."""
_READ_BYTES: Final = 2**20

_CANCELLED_SECONDS: Final = 0.1
"""How long obstore may take to drop a request that was cancelled."""
_HAND_OVERS: Final = 1_000
_HAND_OVER_SECONDS: Final = 0.001

_STORE_CLASSES: Final = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
_CREDENTIALS: Final = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_ALLOW_HTTP: Final = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}

_CODE: Final = re.compile(r"<Code>([A-Za-z]{3,60})</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3})\b")
_OF_THE_STORE: Final = "Object at location"
"""Begins the message of a FileNotFoundError about an object; others are about a file of this machine."""
_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})
_CREDENTIAL_SERVERS: Final = ("169.254.169.254", "metadata.google.internal")
"""Machines in a cloud get credentials there. obstore asks them if the environment has none."""
_DENIED: Final = frozenset({"401", "403"})
_NO_CONDITIONS: Final = frozenset({"NotImplemented", "UnsupportedHeader"})
_NO_COPY: Final = frozenset({"InvalidRequest", "EntityTooLarge", "NotImplemented"})
"""S3 answers the first to the copy of an object of more than 5 GB."""


class StoredObject(NamedTuple):
    """A small object and its version.

    Attributes:
        modified: Unix time at which it was written, by the clock of the store.
    """

    content: bytes
    version: Version
    modified: float


@contextlib.asynccontextmanager
async def open_store(
    address: StoreAddress, deadline: Deadline, job: Job = "export"
) -> AsyncGenerator[ObjectStore, None]:
    """Open a store without blocking, and close it at the end of the block.

    Raises:
        ConfigurationError: obstore is not installed.
        ExportError: A setting is missing or invalid.
        TransportError: The deadline ended.
    """
    await deadline.run_in_thread(
        functools.partial(_import_obstore, address, job),
        "while the code of the object store was being imported",
        sent=False,
    )
    store = await _run_in_thread(functools.partial(ObjectStore, address, deadline, job))
    try:
        yield store
    finally:
        await store.aclose()


class ObjectStore:
    """One prefix of a bucket. The deadline of the export ends every request.

    All methods raise:
        ExportError: The store refuses the request, cannot be reached, or has no such bucket.
        TransportError: The deadline ended.
    """

    def __init__(self, address: StoreAddress, deadline: Deadline, job: Job = "export") -> None:
        self.address = address
        self.job: Final = job
        self._deadline = deadline
        self._was_cancelled = False
        self._obstore, self._store_module = _import_obstore(address, job)
        make = getattr(self._store_module, _STORE_CLASSES[address.scheme])
        try:
            self._store = make(address.bucket, prefix=address.prefix or None)
            return
        except Exception as error:  # noqa: BLE001 - obstore has no common class for wrong settings
            failure = self._to_own_error(error, "opened")
        raise failure

    # -- small objects ------------------------------------------------------------------------------------

    async def read(self, name: str) -> StoredObject | None:
        """Return a small object; None if it does not exist."""
        try:
            found = await self._send("read", lambda: self._obstore.get_async(self._store, name))
        except _Missing:
            return None
        content = bytes(await self._send("read", found.bytes_async))
        return StoredObject(content, _version(found.meta), found.meta["last_modified"].timestamp())

    async def write(self, name: str, content: bytes, replaced: Version | None) -> Version | None:
        """Write a small object if no other export has written it.

        Args:
            content: Must differ from the content of all earlier versions.
            replaced: The version that is replaced; None if the object must not exist.

        Returns:
            Its new version; None if the object exists, or has another version.
        """
        version = await self.write_once(name, content, replaced)
        if version is None:
            # The answer to an earlier attempt may have been lost.
            found = await self.read(name)
            if found is not None and found.content == content:
                return found.version
        return version

    async def write_once(self, name: str, content: bytes, replaced: Version | None) -> Version | None:
        """Do what `write` does, without looking at the object afterwards."""
        mode = "create" if replaced is None else replaced
        try:
            return _version(
                await self._send(
                    "written", lambda: self._obstore.put_async(self._store, name, content, mode=mode)
                )
            )
        except _Conflict:
            return None

    # -- files --------------------------------------------------------------------------------------------

    async def upload(self, path: Path, name: str, size: int) -> None:
        """Upload a file, some chunks at a time. The object appears when all of it is there."""
        chunk = max(_CHUNK, -(-size // _MAX_CHUNKS))
        await self._send(
            "written",
            lambda: self._obstore.put_async(
                self._store, name, path, chunk_size=chunk, max_concurrency=_CHUNKS_AT_ONCE
            ),
        )

    async def download(self, name: str, path: Path | None) -> str | None:
        """Download an object and return its SHA-256 in hex; None if it does not exist.

        Args:
            path: The new file for its content; None if only the digest is needed.

        Raises:
            OSError: The file cannot be written.
        """
        digest = hashlib.sha256()
        try:
            found = await self._send("read", lambda: self._obstore.get_async(self._store, name))
        except _Missing:
            return None
        chunks = aiter(found.stream(min_chunk_size=_READ_BYTES))
        with contextlib.ExitStack() as opened:
            file = None
            if path is not None:
                file = await _run_in_thread(functools.partial(_open_new, path, opened))
            while (chunk := await self._send("read", lambda: _next(chunks))) is not None:
                digest.update(chunk)
                if file is not None:
                    await _run_in_thread(functools.partial(file.write, chunk))
        return digest.hexdigest()

    async def copy(self, source: str, name: str) -> bool:
        """Let the store copy an object.

        Returns:
            False if the object does not exist, or the store does not copy it, for example because of its
            size. Azure may still be copying when it answers.
        """
        try:
            await self._send("copied", lambda: self._obstore.copy_async(self._store, source, name))
        except (_Missing, _CannotCopy):
            return False
        return True

    async def list_names(self, folder: str) -> list[str]:
        """Return the names of all objects in a folder and below it."""
        names: list[str] = []
        batches = aiter(self._obstore.list(self._store, prefix=folder))
        while (batch := await self._send("listed", lambda: _next(batches))) is not None:
            names += [found["path"] for found in batch]
        return names

    async def first_names(self, folder: str) -> list[str]:
        """Return the names of two objects in a folder or below it, or of fewer if there are not so many."""
        batches = aiter(self._obstore.list(self._store, prefix=folder, chunk_size=2))
        batch = await self._send("listed", lambda: _next(batches))
        return [found["path"] for found in batch or ()]

    async def delete(self, name: str) -> None:
        """Delete an object if it exists."""
        with contextlib.suppress(_Missing):
            await self._send("deleted", lambda: self._obstore.delete_async(self._store, name))

    async def aclose(self) -> None:
        """Wait until the threads of obstore have left Python. No request may be under way.

        A thread of obstore hands over a result with `call_soon_threadsafe`, which lets other threads run
        while it wakes the event loop. If the interpreter ended at that moment, the thread would abort the
        process: so did 2 of 120 programs on a busy machine.
        """
        with anyio.CancelScope(shield=True):
            if self._was_cancelled:
                await asyncio.sleep(_CANCELLED_SECONDS)
            for _ in range(_HAND_OVERS):
                if not _is_handing_over():
                    break
                await asyncio.sleep(_HAND_OVER_SECONDS)

    # -- deadline and errors ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def clean_up(self, seconds: float) -> Generator[None, None, None]:
        """Give the requests of a block this time, although the caller was cancelled or the deadline ended."""
        before, self._deadline = self._deadline, Deadline(None)
        try:
            with anyio.move_on_after(seconds, shield=True):
                yield
        finally:
            self._deadline = before

    async def _send(self, verb: str, request: Callable[[], Awaitable[T]]) -> T:
        """Send a request and return its result.

        Args:
            verb: What the request does with the object.
            request: Sends it. Tracebacks show variables: one with the awaitable would show the error of
                obstore.

        Raises:
            _Missing: There is no such object.
            _Conflict: The condition of a write does not hold.
            _CannotCopy: The store does not copy this object.
        """
        try:
            async with TimeLimit(max(0.0, self._deadline.left())):
                try:
                    return await request()
                except asyncio.CancelledError:
                    self._was_cancelled = True
                    raise
            failure: Exception = self._deadline.error("while the object store was being used", sent=True)
        except Exception as error:  # noqa: BLE001 - obstore also raises errors of Python
            failure = self._to_own_error(error, verb)
        # Outside of the block, because an error of obstore would be the context of this one.
        raise failure

    def no_conditions_error(self) -> ExportError:
        return ExportError(
            f"the store of {self.address} does not support conditional writes",
            hint="without them, two exports can overwrite each other: use another store, or\n"
            "export to a directory and copy it",
        )

    def _to_own_error(self, error: Exception, verb: str) -> Exception:
        """Return the error to raise for an error of obstore."""
        text = str(error)
        code = found[1] if (found := _CODE.search(text)) else ""
        status = found[1] if (found := _STATUS.search(text)) else ""
        exceptions = self._obstore.exceptions
        if code in _NO_BUCKET:
            return self._no_bucket_error()
        if isinstance(error, exceptions.AlreadyExistsError | exceptions.PreconditionError):
            return _Conflict()
        if isinstance(error, NotImplementedError) or (verb == "written" and code in _NO_CONDITIONS):
            return self.no_conditions_error()
        if verb == "copied" and code in _NO_COPY:
            return _CannotCopy()
        if isinstance(error, OSError):
            return self._os_error(error, verb, text)
        return self._failed_request(verb, text, status, code)

    def _os_error(self, error: OSError, verb: str, text: str) -> Exception:
        """Return the error for one of a missing object or of a file of this machine."""
        if _OF_THE_STORE not in text:
            return ExportError(
                f"a file to upload cannot be read: {os_error_reason(error)}",
                hint=f"run the same {self.job} again",
            )
        return self._no_bucket_error() if verb == "written" else _Missing()

    def _no_bucket_error(self) -> ExportError:
        kind = "container" if self.address.scheme == "az" else "bucket"
        return ExportError(
            f"the {kind} {self.address.bucket} does not exist",
            hint=f"create it, or check the name, the account and the endpoint of {self.address}",
        )

    def _failed_request(self, verb: str, text: str, status: str, code: str) -> ExportError:
        scheme, answer = self.address.scheme, " ".join(filter(None, [status, code]))
        if any(server in text for server in _CREDENTIAL_SERVERS):
            return ExportError(
                f"there are no credentials for {self.address}", hint=f"set {_CREDENTIALS[scheme]}"
            )
        if status in _DENIED:
            return ExportError(
                f"the store denies access to {self.address} ({answer})",
                hint=f"check {_CREDENTIALS[scheme]},\n"
                "and the permissions to read, write, list and delete objects",
            )
        if "BadScheme" in text:
            return ExportError(
                f"the endpoint of {self.address} does not use https",
                hint=f"set {_ALLOW_HTTP[scheme]}=true if it is on this machine or in your network",
            )
        if status:
            return ExportError(
                f"{self.address} cannot be {verb}: the store answered {answer}",
                hint=f"check the endpoint, the region and the bucket; run the same {self.job} again",
            )
        return ExportError(
            f"{self.address} cannot be {verb}: {_reason(text)}",
            hint=f"check the network and the endpoint, and {_CREDENTIALS[scheme]};\n"
            f"then run the same {self.job} again",
        )


class _Missing(Exception):
    """There is no such object."""


class _Conflict(Exception):
    """The object exists already, or has another version."""


class _CannotCopy(Exception):
    """The store does not copy this object."""


def _import_obstore(address: StoreAddress, job: Job) -> tuple[Any, Any]:
    """Return the modules `obstore` and `obstore.store`."""
    use = "an export to" if job == "export" else "a merge in"
    return (
        import_package("obstore", f"{use} {address.scheme}://", install_command("store")),
        import_package("obstore.store", "an object store", install_command("store")),
    )


def _open_new(path: Path, opened: contextlib.ExitStack) -> BinaryIO:
    """Open a new file, which `opened` closes."""
    return opened.enter_context(path.open("xb"))


async def _run_in_thread(work: Callable[[], T]) -> T:
    """Run blocking work. A cancelled caller waits until it has ended, because its file is closed next."""
    running = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled = await join_shielded(running)
    if cancelled is not None:
        ignore_error(running)
        raise cancelled
    return running.result()


async def _next(items: AsyncIterator[T]) -> T | None:
    """Return the next item; None after the last one."""
    return await anext(items, None)


def _is_handing_over() -> bool:
    """Return whether a thread that is not one of Python's is handing over a result to an event loop."""
    own = {thread.ident for thread in threading.enumerate()}
    # Nothing public shows these threads.
    frames = sys._current_frames().items()  # pyright: ignore[reportPrivateUsage]
    for thread, frame in frames:
        if thread not in own:
            while frame.f_back is not None:
                frame = frame.f_back
            if frame.f_code.co_name == "call_soon_threadsafe":
                return True
    return False


def _reason(text: str) -> str:
    """Return why there was no answer, in words of this module."""
    if "error sending request" in text:
        return "the store does not respond"
    if "not found" in text or "Configuration" in text or "missing" in text.lower():
        return "a setting is missing or invalid"
    return "the store does not answer as expected"


def _version(result: Any) -> Version:
    """Return the version in the answer to a request. obstore does not accept None in it."""
    return {name: result[name] for name in ("e_tag", "version") if result.get(name) is not None}
