"""Whether an answer is a recording that can be had whole. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn

from unpod_async._common import printable
from unpod_async._http import retry_after
from unpod_async._recordings.urls import RecordingUrl
from unpod_async.errors import RecordingError

__all__ = ["Failed", "Head", "Pace", "check_head", "check_length", "check_whole", "refuse"]

_GONE: Final = frozenset({401, 403, 404, 410})
_AGAIN: Final = frozenset({408, 425, 429})
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_RECORDING: Final = re.compile(r"(?:audio|video)/[^/]+|(?:application|binary)/octet-stream|")
_FRESH: Final = "list the task again for a fresh one"


class Failed(Exception):
    """An attempt failed.

    Attributes:
        error: what to raise when it is not repeated.
        status: HTTP status of the answer, or None when there was none.
        hint: seconds the server asked to wait, or None.
    """

    def __init__(self, error: RecordingError, status: int | None = None, hint: float | None = None) -> None:
        super().__init__()
        self.error = error
        self.status = status
        self.hint = hint


class Head(NamedTuple):
    """What an answer says before its body.

    Attributes:
        content_type: in lower case and without parameters, "" when it has none.
        length: bytes that come, or None when they come in chunks, which say where they end.
    """

    content_type: str
    length: int | None


class Pace:
    """Whether bytes come too slowly: fewer than 1,024 a second, over 10 seconds of waiting for them."""

    LEAST: Final = 1024
    SPAN: Final = 10.0

    def __init__(self) -> None:
        self._bytes = 0
        self._waited = 0.0

    def is_too_slow(self, count: int, waited: float) -> bool:
        """After `count` more, waited for `waited` seconds; other time, such as writing, does not count."""
        self._bytes += count
        self._waited += waited
        if self._waited < self.SPAN:
            return False
        is_slow = self._bytes < self.LEAST * self._waited
        self._bytes, self._waited = 0, 0.0
        return is_slow


def check_head(url: RecordingUrl, status: int, headers: Mapping[str, str], most: int) -> Head:
    """What is to come, from an answer that is no redirect; `headers` have lower-case names.

    Raises:
        Failed: it is no recording, or one that is too long or cannot be verified.
    """
    if status in _GONE:
        refuse(url, f"the answer is {status}: it is gone, or its signed URL has expired: {_FRESH}", status)
    if status != 200:
        again = status in _AGAIN or status >= 500
        hint = retry_after(headers) if status in (429, 503) else None
        refuse(url, f"the answer is {status}", status, hint, again=again)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not _RECORDING.fullmatch(kind):
        expired = f"a store answers so when a signed URL has expired: {_FRESH}"
        refuse(url, f"the answer is no recording but {printable(kind)[:60]!r}; {expired}", status)
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        refuse(url, f"the answer is compressed ({printable(coding)[:40]!r}), as was not asked for", status)
    return Head(kind, _announced(url, headers, most))


def _announced(url: RecordingUrl, headers: Mapping[str, str], most: int) -> int | None:
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if coding.strip().lower() != "chunked":
            refuse(url, "the answer has a transfer encoding other than chunked", 200)
        return None
    announced = headers.get("content-length", "")
    if not _LENGTH.fullmatch(announced):
        why = "it would end with the connection, and nobody could see that a part is missing"
        refuse(url, f"the answer does not say how long it is: {why}", 200)
    length = int(announced)
    check_length(url, length, most)
    return length


def check_length(url: RecordingUrl, length: int, most: int) -> None:
    """Raises Failed when `length`, announced or come so far, is more than is accepted."""
    if length > most:
        refuse(url, f"it is longer than {most} bytes; raise max_bytes= if that is meant to be", 200)


def check_whole(url: RecordingUrl, length: int, expected: int | None) -> None:
    """Raises Failed when `length` bytes came, and they are not all."""
    if length == 0:
        refuse(url, "the answer is empty", 200, again=True)
    if expected not in (None, length):
        refuse(url, f"{length} bytes came of {expected}", 200, again=True)


def refuse(
    url: RecordingUrl, why: str, status: int | None = None, hint: float | None = None, *, again: bool = False
) -> NoReturn:
    """Raises Failed; `again` says that it may be repeated."""
    raise Failed(RecordingError(f"{url}: {why}", permanent=not again), status, hint)
