"""File names made of ids and content types that came from a server: safe on every file system. No I/O."""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["EXTENSIONS", "extension_of", "safe_name"]

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)
_MADE: Final = re.compile(r"x-[0-9a-f]{32}")

_BY_TYPE: Final = {
    "audio/aac": ".aac",
    "audio/amr": ".amr",
    "audio/basic": ".au",
    "audio/flac": ".flac",
    "audio/m4a": ".m4a",
    "audio/mp3": ".mp3",
    "audio/mp4": ".m4a",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
    "audio/opus": ".opus",
    "audio/vnd.wave": ".wav",
    "audio/wav": ".wav",
    "audio/wave": ".wav",
    "audio/webm": ".webm",
    "audio/x-flac": ".flac",
    "audio/x-m4a": ".m4a",
    "audio/x-wav": ".wav",
    "video/mp4": ".mp4",
    "video/ogg": ".ogv",
    "video/webm": ".webm",
}
_UNKNOWN: Final = ".bin"

EXTENSIONS: Final = (*sorted(set(_BY_TYPE.values())), _UNKNOWN)
"""Every extension that `extension_of` gives."""


def safe_name(task_id: str) -> str:
    """A file name without extension for an id: the id where it is plain, else "x-" and 32 hex digits.

    Plain is 1 to 100 ASCII letters, digits, "-" and "_" with a letter or digit in front, no name of a Windows
    device, and written as the service writes its ids: lower-case, or with the one capital "T" in front. So of
    all ids that differ in case only, one at most is plain, and no two ids share a file where case does not
    count.
    """
    usual = task_id.lower()
    if usual.startswith("t"):
        usual = f"T{usual[1:]}"
    if (
        task_id == usual
        and _PLAIN.fullmatch(task_id)
        and not _DEVICE.fullmatch(task_id)
        and not _MADE.fullmatch(task_id)  # else an id could be made that has the name of another
    ):
        return task_id
    return f"x-{hashlib.sha256(task_id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def extension_of(content_type: str, *paths: str) -> str:
    """The extension that a content type names, else the first known one of these URL paths, else ".bin"."""
    known = _BY_TYPE.get(content_type)
    if known is not None:
        return known
    for path in paths:
        _, dot, last = path.rpartition("/")[2].rpartition(".")
        if f"{dot}{last.lower()}" in EXTENSIONS:
            return f".{last.lower()}"
    return _UNKNOWN
