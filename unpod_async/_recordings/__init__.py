"""_recordings"""

from __future__ import annotations

from unpod_async._recordings.download import RecordingLoader, Recordings
from unpod_async._recordings.filenames import EXTENSIONS, extension_of, safe_name
from unpod_async._recordings.http import _bare_session, public_socket
from unpod_async._recordings.responses import Failed, Pace, check_whole
from unpod_async._recordings.urls import RecordingHosts, is_public

__all__ = [
    "EXTENSIONS",
    "Failed",
    "Pace",
    "RecordingHosts",
    "RecordingLoader",
    "Recordings",
    "_bare_session",
    "check_whole",
    "extension_of",
    "is_public",
    "public_socket",
    "safe_name",
]
