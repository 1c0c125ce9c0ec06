"""An asyncio client for the Unpod platform API: runs of voice agents and their tasks, which are phone calls.

Quick start, with the token in the environment variable UNPOD_PLATFORM_TOKEN and the handle of the
organization in UNPOD_ORG_HANDLE::

    import asyncio

    from unpod_async import UnpodClient


    async def main() -> None:
        async with UnpodClient() as unpod:
            async for run in unpod.runs.list("SPACE_TOKEN"):
                print(run.run_id, run.status, run.created_at)

            # Every task of every run, with 8 runs read at a time.
            async with unpod.runs.tasks_for("SPACE_TOKEN", concurrency=8) as tasks:
                async for task in tasks:
                    print(task.task_id, task.status, task.call and task.call.outcome)


    asyncio.run(main())

What a client offers:

- `organizations`, `spaces`, `agents`, `runs` and `tasks` list rows, page by page. A listing returns every row
  exactly once or raises `IncompleteListing`.
- `tasks.create` places calls. A create whose result is unknown raises `OutcomeUnknown` and is not repeated;
  `tasks.reconcile` searches for its calls. `tasks.create_many` places many, with a journal.
- `runs.watch` reports changes as events, and `runs.wait` waits until runs have ended.
- `export` writes runs and tasks to JSON Lines, CSV or Parquet files, and resumes an interrupted export.
- `recordings.download` saves the recording of a call, and `call_logs` lists the calls of the organization.
- `request` and `paginate` use endpoints of the platform that have no method of their own.

Every error is an `UnpodError`; `unpod_async.errors` shows the class hierarchy. `unpod_async.events` describes
the events of a watch, `unpod_async.create` the schedules of calls, `unpod_async.blocking` a client for
synchronous programs, `unpod_async.distributed` exports on a Dask cluster, and `unpod_async.testing` a sandbox
server for tests.
The command `unpod-async` offers the same on the command line: see `unpod-async --help`.
"""

import importlib as _importlib
import logging as _logging
import typing as _typing
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from unpod_async._version import VERSION as _VERSION

if _TYPE_CHECKING:
    from unpod_async._api import OpenTelemetry, RawResponse, UnpodClient
    from unpod_async._call_output import Call
    from unpod_async._create import BatchResult, Reconciliation
    from unpod_async._export import (
        BadRow,
        ExportPlan,
        ExportProgress,
        ExportSpec,
        ExportSummary,
        FailedRun,
        merge_shards,
    )
    from unpod_async._http import (
        AttemptEvent,
        RateLimiter,
        RequestEvent,
        RetryPolicy,
        Settings,
        Stats,
        WaitEvent,
    )
    from unpod_async._paging import (
        Failed,
        ListingIterator,
        Ok,
        Page,
        Pager,
        RejectedRow,
        Stream,
        StreamIterator,
    )
    from unpod_async._watch import Watch, WatchedRun, WatchState
    from unpod_async.create import CreateRequest, Document, ScheduleAuto, ScheduleCustom, ScheduleNow
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
        AgentExecution,
        CallLog,
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
    "AgentExecution",
    "Attempt",
    "AttemptEvent",
    "AuthenticationError",
    "BadRow",
    "BatchResult",
    "Call",
    "CallEnded",
    "CallLog",
    "ConfigurationError",
    "CreateRequest",
    "CreatedRun",
    "DecodeError",
    "Disconnected",
    "Document",
    "ExportError",
    "ExportPlan",
    "ExportProgress",
    "ExportSpec",
    "ExportSummary",
    "Failed",
    "FailedRun",
    "IncompleteListing",
    "InvalidArgument",
    "InvalidRequestError",
    "ListingIterator",
    "NotFoundError",
    "Ok",
    "OpenTelemetry",
    "Organization",
    "OutcomeUnknown",
    "Page",
    "Pager",
    "PermissionDeniedError",
    "RateLimitedError",
    "RateLimiter",
    "RawResponse",
    "Reconciliation",
    "Reconnected",
    "RecordingError",
    "RefusedError",
    "RejectedRow",
    "RequestEvent",
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
    "StreamIterator",
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
    "WaitEvent",
    "WaitTimeout",
    "Watch",
    "WatchState",
    "WatchedRun",
    "merge_shards",
]

__version__ = _VERSION

# The module of each public name. It is imported on first use, so that `unpod-async --help` starts fast.
_HOMES = {
    "_api": "OpenTelemetry RawResponse UnpodClient",
    "_call_output": "Call",
    "_create": "BatchResult Reconciliation",
    "_export": "BadRow ExportPlan ExportProgress ExportSpec ExportSummary FailedRun merge_shards",
    "_http": "AttemptEvent RateLimiter RequestEvent RetryPolicy Settings Stats WaitEvent",
    "_paging": "Failed ListingIterator Ok Page Pager RejectedRow Stream StreamIterator",
    "_watch": "Watch WatchState WatchedRun",
    "create": "CreateRequest Document ScheduleAuto ScheduleCustom ScheduleNow",
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
    "models": (
        "Agent AgentExecution CallLog CreatedRun Organization Run Space Task TranscriptMessage UserInfo"
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
_MODULES = frozenset({"blocking", "create", "distributed", "errors", "events", "models", "testing"})


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        return _importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _importlib.import_module(f"{__name__}.{_HOME_OF[name]}")
    # All names of a module at once, so that an error shows the same name wherever it is raised.
    for public in _HOMES[_HOME_OF[name]].split():
        value = globals()[public] = getattr(home, public)
        _set_module(value)
    return globals()[name]


def _set_module(value: _Any) -> None:
    """Make a class or a function show as `unpod_async.Name`, the name under which users import it."""
    annotations = value.__annotations__
    if annotations:
        # Resolve the names first: msgspec looks them up in the module of the class.
        try:
            hints = _typing.get_type_hints(value, include_extras=True)
        except NameError:  # a name that is imported only for type checkers
            pass
        else:
            value.__annotations__ = {name: hints[name] for name in annotations}
    value.__module__ = __name__


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


_logging.getLogger("unpod_async").addHandler(_logging.NullHandler())
