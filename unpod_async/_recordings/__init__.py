"""Downloading the recordings of calls, each one completely or not at all.

`download` retries and names the files, `http` sends the requests, `urls` decides which hosts may be reached,
and `files` stores the recordings.
"""

from __future__ import annotations

from unpod_async._recordings.download import RecordingLoader, Recordings
from unpod_async._recordings.files import EXTENSIONS, extension_of, safe_name
from unpod_async._recordings.http import (
    DownloadFailed,
    ThroughputCheck,
    check_complete,
    new_session,
    public_socket,
)
from unpod_async._recordings.urls import RecordingHosts, is_public

__all__ = [
    "EXTENSIONS",
    "DownloadFailed",
    "RecordingHosts",
    "RecordingLoader",
    "Recordings",
    "ThroughputCheck",
    "check_complete",
    "extension_of",
    "is_public",
    "new_session",
    "public_socket",
    "safe_name",
]
