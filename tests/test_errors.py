"""The exceptions: their tree, attributes and pickling; and the public names of the package."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import re
import textwrap
import typing
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

import unpod_async
from tests.tables import each_row
from unpod_async import Attempt, RejectedRow, Run, Task, UserInfo, WatchedRun, errors
from unpod_async.errors import (
    APIError,
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
from unpod_async.testing import Sandbox

# --- the tree ----------------------------------------------------------------------------------------------

TREE = {
    "ConfigurationError": "UnpodError",
    "InvalidArgument": "UnpodError",
    "TransportError": "UnpodError",
    "APIError": "UnpodError",
    "RefusedError": "APIError",
    "InvalidRequestError": "APIError",
    "UpstreamError": "APIError",
    "AuthenticationError": "APIError",
    "PermissionDeniedError": "APIError",
    "NotFoundError": "APIError",
    "RateLimitedError": "APIError",
    "ServerError": "APIError",
    "DecodeError": "UnpodError",
    "IncompleteListing": "UnpodError",
    "StalledListing": "IncompleteListing",
    "OutcomeUnknown": "UnpodError",
    "RunNotFound": "UnpodError",
    "WaitTimeout": "UnpodError",
    "RecordingError": "UnpodError",
    "ExportError": "UnpodError",
    "TargetLockedError": "ExportError",
}


def drawn_tree() -> dict[str, str]:
    """Child and parent, off the drawing in the docstring."""
    found: dict[str, str] = {}
    above = ["UnpodError"]
    for line in (errors.__doc__ or "").splitlines():
        branch = re.match(r"    ((?:│   |    )*)[├└]── (\w+)", line)
        if branch is not None:
            depth = len(branch[1]) // 4
            del above[depth + 1 :]
            found[branch[2]] = above[-1]
            above.append(branch[2])
    return found


def classes() -> dict[str, type[UnpodError]]:
    return {
        name: found
        for name, found in vars(errors).items()
        if inspect.isclass(found) and issubclass(found, UnpodError)
    }


def test_the_drawn_tree_is_the_tree_of_classes() -> None:
    assert "\n    UnpodError\n" in (errors.__doc__ or "")
    assert drawn_tree() == TREE
    assert {name: found.__bases__[0].__name__ for name, found in classes().items()} == {
        **TREE,
        "UnpodError": "Exception",
    }
    assert set(errors.__all__) == set(classes())


def test_what_else_they_are() -> None:
    assert issubclass(InvalidArgument, ValueError)
    assert issubclass(StalledListing, IncompleteListing)
    assert not issubclass(UnpodError, ValueError | OSError)
    for kind in classes().values():
        assert kind.__doc__
        assert kind is UnpodError or kind.__bases__[0].__name__ == TREE[kind.__name__]


# --- pickling ----------------------------------------------------------------------------------------------

STARTED = datetime(2026, 1, 15, 11, tzinfo=UTC)
API: dict[str, Any] = {
    "message": "Task Creation Failed",
    "errors": {"documents": {"0": ["No name."]}},
    "headers": {"date": "Thu, 15 Jan 2026 11:00:00 GMT", "x-request-id": "abc"},
    "body": b'{"message": "\xff"}',
    "method": "POST",
    "path": "/spaces/S1/tasks/",
    "hint": "Look again",
}
STATUS = {
    APIError: 301,
    RefusedError: 206,
    InvalidRequestError: 422,
    UpstreamError: 206,
    AuthenticationError: 401,
    PermissionDeniedError: 403,
    NotFoundError: 404,
    RateLimitedError: 429,
    ServerError: 500,
}


def limited() -> RateLimitedError:
    error = RateLimitedError(429, **API)
    error.retry_after = 7.5
    return error


def tried() -> TransportError:
    error = TransportError("GET /x: the connection was lost", sent=True)
    error.attempts = (Attempt(503, "ServerError", 0.5), Attempt(None, "TransportError", 0.0))
    return error


EXAMPLES: list[tuple[UnpodError, dict[str, Any]]] = [
    (UnpodError("m"), {}),
    (ConfigurationError("no token"), {}),
    (
        ConfigurationError("page_size must be …", argument="page_size"),
        {"argument": "page_size", "hint": None},
    ),
    (InvalidArgument("page_size must be an integer"), {"argument": None, "hint": None}),
    (
        InvalidArgument("page_size must be …", argument="page_size", hint="pass 100"),
        {"argument": "page_size", "hint": "pass 100"},
    ),
    (TransportError("GET /x: the connection was lost", sent=True), {"sent": True}),
    (TransportError("GET /x: no connection", sent=False), {"sent": False}),
    (TransportError("t", sent=True, timed_out=True), {"sent": True, "timed_out": True, "permanent": False}),
    (TransportError("c", sent=False, permanent=True), {"timed_out": False, "permanent": True}),
    (tried(), {"attempts": (Attempt(503, "ServerError", 0.5), Attempt(None, "TransportError", 0.0))}),
    *((kind(status, **API), {"status": status, **API}) for kind, status in STATUS.items()),
    (APIError(418), {"status": 418, "message": "", "errors": None, "headers": {}, "body": b"", "hint": None}),
    (limited(), {"status": 429, "retry_after": 7.5, **API}),
    (RateLimitedError(429), {"retry_after": None}),
    (DecodeError("the answer is no JSON listing"), {"rejected": (), "unreadable": ()}),
    (
        DecodeError("2 rows", rejected=[RejectedRow(b"7\xff", "$.data[0]", "r")], unreadable=[3]),
        {"rejected": (RejectedRow(b"7\xff", "$.data[0]", "r"),), "unreadable": (3,)},
    ),
    (IncompleteListing("rows may be missing", seen=4, expected=5), {"seen": 4, "expected": 5}),
    (StalledListing("the listing stalls", seen=4, expected=None), {"seen": 4, "expected": None}),
    (
        OutcomeUnknown(
            "the create was sent",
            space_token="S1",
            document_ids=["d1", "d2"],
            started_at=STARTED,
            status=500,
            server_message="Task Creation Failed",
        ),
        {
            "space_token": "S1",
            "document_ids": ("d1", "d2"),
            "started_at": STARTED,
            "status": 500,
            "message": "Task Creation Failed",
        },
    ),
    (
        OutcomeUnknown("the create was sent", space_token="S1", document_ids=(), started_at=STARTED),
        {"space_token": "S1", "document_ids": (), "started_at": STARTED, "status": None, "message": ""},
    ),
    (RunNotFound("S1", ["R1", "R2"]), {"space_token": "S1", "run_ids": ("R1", "R2")}),
    (WaitTimeout("after 600 s 1 of 1 runs are not settled"), {"runs": (), "holding": ()}),
    (
        WaitTimeout(
            "late", runs=[WatchedRun(Run(run_id="R1"), [Task(task_id="T1")])], holding=[Task(task_id="T1")]
        ),
        {"runs": (WatchedRun(Run(run_id="R1"), [Task(task_id="T1")]),), "holding": (Task(task_id="T1"),)},
    ),
    (RecordingError("the recording of task T1: gone", permanent=True), {"permanent": True}),
    (ExportError("data cannot be written: no space left"), {}),
    (TargetLockedError("another export is writing to data"), {}),
]


def test_each_kind_has_an_example() -> None:
    assert {type(error) for error, _ in EXAMPLES} == set(classes().values())


def through_pickle(protocol: int) -> Any:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))  # noqa: S301


COPIES = {
    **{f"pickle {protocol}": through_pickle(protocol) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@each_row("how", COPIES)
@each_row("walked", [False, True], ids=["plain", "walked"])
@each_row(("example", "told"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_an_error_survives(example: UnpodError, told: dict[str, Any], walked: bool, how: str) -> None:
    error = copy.copy(example)
    if walked:
        error.listing, error.page = "tasks of space S1", 7
        error.add_note("2 rows could not be used")
        error.add_note("é")
    again = COPIES[how](error)

    assert type(again) is type(error)
    assert again is not error
    assert again.args == error.args
    assert vars(again) == vars(error)
    for name, value in told.items():
        assert getattr(error, name) == getattr(again, name) == value, name
    assert str(again) == str(error)
    assert repr(again) == repr(error)
    assert (again.listing, again.page) == (("tasks of space S1", 7) if walked else (None, None))
    notes = ["2 rows could not be used", "é"] if walked else []
    assert getattr(again, "__notes__", []) == notes
    # It can be raised and caught as before.
    with pytest.raises(type(error)):
        raise again


def test_a_copy_has_notes_of_its_own() -> None:
    error = UnpodError("m")
    error.add_note("one")
    copy.deepcopy(error).add_note("two")
    assert error.__notes__ == ["one"]


# --- texts -------------------------------------------------------------------------------------------------


def test_a_walk_is_named_in_the_text() -> None:
    error = NotFoundError(404, "Agent not found", method="GET", path="/agents/a/tasks/")
    assert str(error) == "GET /agents/a/tasks/ answered 404: Agent not found"
    error.listing, error.page = "tasks of agent a", 3
    assert str(error) == (
        "GET /agents/a/tasks/ answered 404: Agent not found [while reading tasks of agent a, page 3]"
    )


def test_a_hint_is_a_line_of_its_own_after_the_context() -> None:
    error = TransportError("GET /x: no connection", sent=False, hint="check base_url")
    error.listing, error.page = "tasks of agent a", 3
    assert error.summary == "GET /x: no connection [while reading tasks of agent a, page 3]"
    assert str(error) == f"{error.summary}\nhint: check base_url"
    assert error.args == ("GET /x: no connection",)
    assert UnpodError("m", hint="").hint is None
    assert all(kind.hint is None for kind in classes().values())


def test_several_attempts_are_counted_in_the_text() -> None:
    error = tried()
    assert str(error) == "GET /x: the connection was lost [2 attempts]"
    error.attempts = error.attempts[:1]
    assert str(error) == "GET /x: the connection was lost"
    assert UnpodError("m").attempts == ()


def test_runs_that_are_not_listed_are_named() -> None:
    assert str(RunNotFound("S", ["R1"])) == (
        "run R1 is not listed in space S\nhint: check the run ids and the space token"
    )
    assert str(RunNotFound("S", ["R1", "R2", "R3", "R4"])).startswith("4 runs (R1, R2, R3, …) are not listed")


def test_an_error_made_by_hand_has_a_text() -> None:
    assert str(APIError(500)) == "the request answered 500: no message"
    assert str(APIError(500, "m.", hint="Look again")) == "the request answered 500: m.\nhint: Look again"
    assert str(APIError(400, "m", {1: object})).startswith("the request answered 400: m ({")
    assert str(APIError(400, "m", "")) == "the request answered 400: m"


def test_headers_are_a_copy() -> None:
    sent = {"date": "x"}
    error = APIError(500, headers=sent)
    sent["date"] = "y"
    assert error.headers == {"date": "x"}


# --- the names of the package ------------------------------------------------------------------------------

FUNCTIONS = ["merge_shards"]

PUBLIC = [
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
]


def test_the_public_names() -> None:
    assert sorted(unpod_async.__all__) == sorted([*PUBLIC, *FUNCTIONS])
    package = importlib.import_module("unpod_async")
    for name in PUBLIC:
        assert inspect.isclass(getattr(package, name)), name
        assert getattr(package, name).__doc__, name
    for name in FUNCTIONS:
        assert inspect.isfunction(getattr(package, name)), name
        assert getattr(package, name).__module__ == "unpod_async"
        assert getattr(package, name).__doc__, name
    assert set(errors.__all__) <= set(PUBLIC)


def test_public_classes_show_the_name_under_which_they_are_imported() -> None:
    package = importlib.import_module("unpod_async")
    for name in PUBLIC:
        kind = getattr(package, name)
        assert (kind.__module__, kind.__qualname__) == ("unpod_async", name)
        if hasattr(kind, "__struct_fields__") and name != "OpenTelemetry":
            # The annotations, which msgspec reads, can be resolved in any module. Those of OpenTelemetry name
            # classes of an extra, and no JSON is decoded as one.
            assert set(typing.get_type_hints(kind)) >= set(kind.__struct_fields__)
    row = msgspec.json.decode(b'{"user_info": {"id": "u"}}', type=Task)
    assert row == pickle.loads(pickle.dumps(row)) == Task(user_info=UserInfo(id="u"))  # noqa: S301


async def test_the_quick_start_of_the_package_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docstring = unpod_async.__doc__ or ""
    example = docstring.split("::\n\n", 1)[1].split("\n    asyncio.run(main())")[0]
    async with Sandbox(runs=2, tasks_per_run=3) as sandbox:
        monkeypatch.setenv("UNPOD_PLATFORM_TOKEN", sandbox.token)
        monkeypatch.setenv("UNPOD_ORG_HANDLE", sandbox.org_handle)
        monkeypatch.setenv("UNPOD_BASE_URL", sandbox.base_url)
        names: dict[str, Any] = {}
        exec(textwrap.dedent(example).replace("SPACE_TOKEN", sandbox.space_token), names)  # noqa: S102
        await names["main"]()
    assert len(capsys.readouterr().out.splitlines()) == 2 + 6


def test_a_star_import_brings_all_of_them() -> None:
    names: dict[str, Any] = {}
    exec("from unpod_async import *", names)  # noqa: S102
    assert set(names) - {"__builtins__"} == {*PUBLIC, *FUNCTIONS}


def test_the_sandbox_is_imported_from_its_own_module() -> None:
    assert inspect.isclass(importlib.import_module("unpod_async.testing").Sandbox)
