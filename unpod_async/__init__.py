"""Asyncio-first client for the Unpod platform API: voice-agent runs and their tasks, which are phone calls.

How the package is laid out; imports go down only, and one module owns each decision::

    cli                the command line; imports the rest when a command runs
    _client            UnpodClient: settings from arguments and environment, groups of calls
    _export            bulk export into files; its own picture stands there
    _watch events      watching and waiting, and what a watch tells; its own picture stands there
    _recordings        downloads of recordings, with _recording_file _recording_http (the second module
                       that speaks HTTP: it shares nothing with the API's) _recording_answer
                       _recording_urls _filenames
    _resources _runs _tasks   the calls: which listing, which arguments, what is documented
    _many _journal     creates batch by batch, noted on disk before they are sent
    _creating _reconcile   a create that is sent once; looking for what became of it
    _context              what the calls share
    _fanout  _pager    many runs at once; one listing as a Pager, walked sequentially
    _prefetch _ahead   the same walk with pages asked for ahead; one page ahead of who takes its rows
    _stream _waiting   rows from tasks that an `async with` owns; waiting for what must have ended
    _collect           rows into pages; bad rows kept until the end
    _fetch _slices     one page: request, classify, decode; a large one in slices
    _walk _single      state machines, no I/O: which page next, which rows are new, is it complete
    _parts _split _cut   what a page brings; rows that break it; how the server cuts pages
    _pass _sightings _verdicts   a pass and its counts; when rows were seen; how to say that rows may be
                       missing
    _wire              the words between the machine and its drivers
    _decode _listing   a page's bytes into rows; what a listing is
    _caller            the one loop that decides about every attempt
    _admission _deadline   a place for each request; one clock for all that a call does
    _policy _budget _gate _options _stats   the decisions and figures of that loop, no I/O
    _transport _prepared   the only modules that speak HTTP with the API; GETs put together once
    _expiry _explain   when an attempt is given up; faults below HTTP in our words
    _sessions _lifetime   what a client holds open; its loop, its calls under way and its end
    _response          status, headers and body into an exception, no I/O
    create             checks and encodes a create
    models _call _times   rows, the typed view of a call's output, times
    _paths _settings _secret _files   ids and addresses; set-up; the token; files that survive a crash
    errors _text       the exceptions, with their tree; text fit to show
    testing            a sandbox server that behaves like the service
"""

import importlib as _importlib
import logging as _logging
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from unpod_async._api import UnpodClient
    from unpod_async._call_output import Call
    from unpod_async._create import BatchResult, Reconciliation
    from unpod_async._export import BadRow, ExportProgress, ExportSpec, ExportSummary, FailedRun
    from unpod_async._http import RetryPolicy, Settings, Stats
    from unpod_async._paging import Failed, Ok, Page, Pager, RejectedRow, Stream
    from unpod_async._watch import Watch, WatchedRun, WatchState
    from unpod_async.create import CreateRequest, ScheduleAuto, ScheduleCustom, ScheduleNow
    from unpod_async.errors import (
        APIError,
        Attempt,
        AuthenticationError,
        ConfigurationError,
        DecodeError,
        ExportError,
        IncompleteListing,
        InvalidArgument,
        InvalidRequestError,
        NotFoundError,
        OutcomeUnknown,
        PermissionDeniedError,
        RateLimitedError,
        RecordingError,
        RefusedError,
        RunNotFound,
        ServerError,
        StalledListing,
        TargetLockedError,
        TransportError,
        UnpodError,
        UpstreamError,
        WaitTimeout,
    )
    from unpod_async.events import (
        CallEnded,
        Disconnected,
        Reconnected,
        RunRemoved,
        RunSeen,
        RunSettled,
        RunStatusChanged,
        TaskRemoved,
        TaskSeen,
        TaskStatusChanged,
    )
    from unpod_async.models import (
        Agent,
        CreatedRun,
        Organization,
        Run,
        Space,
        Task,
        TranscriptMessage,
        UserInfo,
    )

__all__ = [
    "APIError",
    "Agent",
    "Attempt",
    "AuthenticationError",
    "BadRow",
    "BatchResult",
    "Call",
    "CallEnded",
    "ConfigurationError",
    "CreateRequest",
    "CreatedRun",
    "DecodeError",
    "Disconnected",
    "ExportError",
    "ExportProgress",
    "ExportSpec",
    "ExportSummary",
    "Failed",
    "FailedRun",
    "IncompleteListing",
    "InvalidArgument",
    "InvalidRequestError",
    "NotFoundError",
    "Ok",
    "Organization",
    "OutcomeUnknown",
    "Page",
    "Pager",
    "PermissionDeniedError",
    "RateLimitedError",
    "Reconciliation",
    "Reconnected",
    "RecordingError",
    "RefusedError",
    "RejectedRow",
    "RetryPolicy",
    "Run",
    "RunNotFound",
    "RunRemoved",
    "RunSeen",
    "RunSettled",
    "RunStatusChanged",
    "ScheduleAuto",
    "ScheduleCustom",
    "ScheduleNow",
    "ServerError",
    "Settings",
    "Space",
    "StalledListing",
    "Stats",
    "Stream",
    "TargetLockedError",
    "Task",
    "TaskRemoved",
    "TaskSeen",
    "TaskStatusChanged",
    "TranscriptMessage",
    "TransportError",
    "UnpodClient",
    "UnpodError",
    "UpstreamError",
    "UserInfo",
    "WaitTimeout",
    "Watch",
    "WatchState",
    "WatchedRun",
]

# Where each name lives. Imported on first use, so that `unpod-async --help` waits for no HTTP client.
_HOMES = {
    "_api": "UnpodClient",
    "_call_output": "Call",
    "_create": "BatchResult Reconciliation",
    "_export": "BadRow ExportProgress ExportSpec ExportSummary FailedRun",
    "_http": "RetryPolicy Settings Stats",
    "_paging": "Failed Ok Page Pager RejectedRow Stream",
    "_watch": "Watch WatchState WatchedRun",
    "create": "CreateRequest ScheduleAuto ScheduleCustom ScheduleNow",
    "errors": (
        "APIError Attempt AuthenticationError ConfigurationError DecodeError ExportError "
        "IncompleteListing InvalidArgument InvalidRequestError NotFoundError OutcomeUnknown "
        "PermissionDeniedError RateLimitedError RecordingError RefusedError RunNotFound ServerError "
        "StalledListing TargetLockedError TransportError UnpodError UpstreamError WaitTimeout"
    ),
    "events": (
        "CallEnded Disconnected Reconnected RunRemoved RunSeen RunSettled RunStatusChanged TaskRemoved "
        "TaskSeen TaskStatusChanged"
    ),
    "models": "Agent CreatedRun Organization Run Space Task TranscriptMessage UserInfo",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
_MODULES = frozenset({"create", "errors", "events", "models", "testing"})


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        return _importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


_logging.getLogger("unpod_async").addHandler(_logging.NullHandler())
