"""The models: the result of every documented and recorded row, and values that must never be shown."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.tables import each_row
from unpod_async._paging import detach_from_body
from unpod_async.errors import DecodeError
from unpod_async.models import (
    Agent,
    Call,
    CreatedRun,
    Organization,
    Run,
    Space,
    Task,
    TranscriptMessage,
    UserInfo,
)

EXCHANGES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "exchanges.json").read_text("utf-8")
)
ANSWERS = [
    exchange for exchange in EXCHANGES if exchange["status"] == 200 and isinstance(exchange["body"], dict)
]
LISTINGS: list[tuple[str, type[msgspec.Struct]]] = [
    (r"spaces/[^/]+/runs/", Run),
    (r"spaces/[^/]+/runs/[^/]+/tasks/", Task),
    (r"spaces/[^/]+/tasks/", Task),
    (r"agents/[^/]+/tasks/", Task),
    (r"agents/", Agent),
    (r"spaces/", Space),
    (r"organizations/", Organization),
]


def model_of(path: str) -> type[msgspec.Struct]:
    return next(model for form, model in LISTINGS if re.fullmatch(rf"/api/v2/platform/{form}", path))


RECORDED_ROWS = [
    pytest.param(model_of(exchange["path"]), row, id=f"{exchange['name']}-{index}")
    for exchange in ANSWERS
    if isinstance(exchange["body"]["data"], list)
    for index, row in enumerate(exchange["body"]["data"])
]
RECORDED_CREATES = [
    pytest.param(exchange["body"]["data"], id=exchange["name"])
    for exchange in ANSWERS
    if exchange["method"] == "POST"
]
RECORDED_TASKS = [
    row
    for exchange in ANSWERS
    if isinstance(exchange["body"]["data"], list) and "/tasks/" in exchange["path"]
    for row in exchange["body"]["data"]
]

PAGE_RUN = """{
  "space_id": "346", "user": "38", "thread_id": null, "run_id": "R40fe5eface1511f082ac156368e7acc4",
  "collection_ref": "collection_data_F1O3QJM1Y7Q1AVVUYNV4VPRB", "run_mode": "dev", "status": "completed",
  "batch_count": 1, "created": "2025-11-30T17:51:52", "modified": "2025-11-30T17:51:52"
}"""
PAGE_NEWER_RUN = """{
  "run_id": "R1", "collection_ref": "collection_data_X", "run_mode": "prod", "status": "running",
  "created": "2026-02-07T05:57:45Z", "modified": "2026-02-07T05:57:45Z"
}"""
PAGE_RUN_TASK = r"""{
  "space_id": "346", "thread_id": null, "user": "261", "user_org_id": "22",
  "user_info": {
    "id": "261", "email": "[email protected]", "full_name": "John Doe", "user_token": "JY60XSSVVPTV5W5A"
  },
  "run_id": "R0e3294d4cc4211f082ac156368e7acc4", "task_id": "T0e3294d5cc4211f082ac156368e7acc4",
  "collection_ref": "collection_data_F1O3QJM1Y7Q1AVVUYNV4VPRB", "execution_type": "call",
  "task": {"objective": "hey"},
  "input": {
    "document_id": "692974344eb028916272c240", "name": "John Doe", "contact_number": "9876688992",
    "created": "2025-11-28T10:06:44", "token": "F1O3QJM1Y7Q1AVVUYNV4VPRB",
    "vapi_agent_id": "6a683958-27ab-4ac5-8b0f-52dae3892efe",
    "number_id": "2d81624a-a0ec-4459-9399-cf71fb21be06", "quality": "high"
  },
  "output": {
    "id": "call-uuid-001", "assistantId": "assistant-123", "phoneNumberId": "phone-456", "type": "outbound",
    "startedAt": "2025-11-17T12:05:00.000Z", "endedAt": "2025-11-17T12:10:00.000Z",
    "transcript": "Agent: Hello, this is calling to confirm...\nCustomer: Yes, confirmed.",
    "recordingUrl": "https://example.com/recordings/rec123.mp3",
    "summary": "Customer confirmed the appointment for tomorrow at 2 PM",
    "createdAt": "2025-11-17T12:05:00.000Z", "updatedAt": "2025-11-17T12:10:00.000Z", "orgId": "org-789",
    "cost": 0.45, "customer": {"number": "+1234567890", "name": "Alice Smith"}
  },
  "created": "2025-11-28T10:07:32", "modified": "2025-11-28T12:04:08"
}"""
PAGE_AGENT_TASK_BARE = """{
  "task_id": "T8ff2ccdffe9a11f0878d43cd8a99e069", "run_id": "R8ff2ccdefe9a11f0878d43cd8a99e069",
  "assignee": "space-agent-8qmk42nslp91wrh3dz7btxc4", "status": "completed", "execution_type": "call"
}"""
PAGE_AGENT_TASK = """{
  "_id": "example123456789", "space_id": "999", "thread_id": null, "user": "101", "user_org_id": "501",
  "user_info": {
    "id": "101", "email": "[email protected]", "full_name": "Demo User", "user_token": "DEMO123TOKEN456"
  },
  "created": "2025-01-10T10:20:30.000000", "modified": "2025-01-10T10:25:30.000000",
  "task_id": "TASK123456789", "run_id": "RUN123456789", "collection_ref": "collection_data_DEMO123456",
  "task": {"objective": "call"},
  "input": {"name": "John Doe", "contact_number": "9876543210", "created": "2025-01-01T12:00:00.000000"},
  "output": {}, "attachments": [], "assignee": "sales-agent-v1", "status": "pending",
  "execution_type": "call", "ref_id": "doc-123456"
}"""
# The fields that the page's table has beyond its example.
PAGE_AGENT_TASK_FIELDS = """{
  "task_id": "T1", "failure_count": 2, "last_failure_reason": "no answer", "retry_attempt": 1,
  "last_status_change": "2026-01-31 11:47:38.067021", "scheduled_timestamp": "1900000000"
}"""
PAGE_SPACE_TASK = """{
  "_id": "space_task_id_001", "space_id": "999", "thread_id": null, "user": "456", "user_org_id": "789",
  "user_info": {
    "id": "456", "email": "[email protected]", "full_name": "Sarah Johnson",
    "user_token": "SPACE_TOKEN_ABC123"
  },
  "created": "2025-01-15T14:30:00.000000", "modified": "2025-01-15T14:35:00.000000",
  "task_id": "TASK_SPACE_456789", "run_id": "RUN_SPACE_987654",
  "collection_ref": "collection_data_SPACE123456",
  "task": {"objective": "Follow up with potential clients for product demo"},
  "input": {"name": "Rajesh Kumar", "contact_number": "+919988776655"},
  "output": {"call_id": "019aa6a9-809f-7ddb-b110-7a16167cb632", "duration": 76.769, "cost": 0.139},
  "attachments": [], "assignee": "sales-bot-v3", "status": "completed", "execution_type": "call",
  "ref_id": "lead_doc_456789"
}"""
PAGE_NEWER_SPACE_TASK = """{
  "_id": "697debb84c27faa892bfa0cc", "thread_id": "thread_9xkL2mQpR7vNwY4sZ3cJ8hF1",
  "user_info": {"email": "user@example.com", "full_name": "John Doe"},
  "task_id": "T8ff2ccdffe9a11f0878d43cd8a99e069", "run_id": "R8ff2ccdefe9a11f0878d43cd8a99e069",
  "task": {"objective": "Call the lead and discuss the project requirements."},
  "input": {"name": "John Doe", "contact_number": "1234567890", "email": "john@example.com"},
  "output": {"call_id": "CALL_7dAb3kR9mXvQ2pLw", "duration": 285, "call_status": "completed"},
  "assignee": "space-agent-8qmk42nslp91wrh3dz7btxc4", "status": "completed", "execution_type": "call",
  "run_mode": "prod", "created": "2026-02-07T05:57:45Z", "modified": "2026-02-07T06:02:35Z"
}"""
PAGE_AGENT = """{
  "handle": "space-agent-8qmk42nslp91wrh3dz7btxc4", "name": "General Agentic", "type": "Voice",
  "state": "published", "description": "Hi,", "purpose": ""
}"""
DOCUMENTED_ROWS = [
    pytest.param(Run, json.loads(PAGE_RUN), id="runs"),
    pytest.param(Run, json.loads(PAGE_NEWER_RUN), id="runs, newer"),
    pytest.param(Task, json.loads(PAGE_RUN_TASK), id="run tasks"),
    pytest.param(Task, json.loads(PAGE_AGENT_TASK_BARE), id="agent tasks, bare"),
    pytest.param(Task, json.loads(PAGE_AGENT_TASK), id="agent tasks"),
    pytest.param(Task, json.loads(PAGE_AGENT_TASK_FIELDS), id="agent tasks, table"),
    pytest.param(Task, json.loads(PAGE_SPACE_TASK), id="space tasks"),
    pytest.param(Task, json.loads(PAGE_NEWER_SPACE_TASK), id="space tasks, newer"),
    pytest.param(Agent, json.loads(PAGE_AGENT), id="agents"),
]
RECORDED_SPACE = next(
    exchange["body"]["data"]
    for exchange in ANSWERS
    if exchange["method"] == "GET" and isinstance(exchange["body"]["data"], dict)
)


def task_with(output: bytes) -> Task:
    return msgspec.json.decode(b'{"task_id": "T1", "output": ' + output + b"}", type=Task)


def as_sent(held: Any, sent: Any) -> Any:
    """`held` as JSON again, without the fields that were not sent: a struct has them all."""
    items = held
    if isinstance(held, list):
        return [as_sent(one, other) for one, other in zip(items, sent, strict=True)]
    if isinstance(held, msgspec.Struct):
        return {
            key: as_sent(value, sent[key]) for key, value in msgspec.to_builtins(held).items() if key in sent
        }
    return held


def shown(row: Any) -> str:
    return f"{row!r} {row} {row.__rich_repr__()!r}"


@each_row(
    ("model", "row"), [*DOCUMENTED_ROWS, *RECORDED_ROWS, pytest.param(Space, RECORDED_SPACE, id="one space")]
)
def test_every_documented_and_recorded_row_comes_out_whole(
    model: type[msgspec.Struct], row: dict[str, Any]
) -> None:
    decoded: Any = msgspec.json.decode(json.dumps(row), type=model)

    names = {field.encode_name: field.name for field in msgspec.structs.fields(model)} | {"output": "output"}
    assert set(row) <= set(names)
    assert {key: as_sent(getattr(decoded, names[key]), sent) for key, sent in row.items()} == row


def test_the_recordings_cover_every_listing() -> None:
    assert {param.values[0] for param in RECORDED_ROWS} == {Run, Task, Agent, Space, Organization}
    assert len(RECORDED_CREATES) == 15


@each_row("data", RECORDED_CREATES)
def test_a_recorded_create_names_its_run_and_each_task(data: dict[str, Any]) -> None:
    created = msgspec.json.decode(json.dumps(data), type=CreatedRun)

    assert created.run_id == data["run_id"]
    assert created.task_ids == data["task_ids"]
    assert created.status == data["status"]
    assert created.created_at is None


def test_the_documented_create_decodes_too() -> None:
    created = msgspec.json.decode(
        """{"run_id": "Rf36292fceaa211ef8e2a91681c5ad3ab", "space_id": "321", "status": "pending",
            "created": "2025-11-17T10:30:00.000000", "_id": "67aeecb2851179ff81e48f64"}""",
        type=CreatedRun,
    )

    assert created.status == "pending"
    assert created.task_ids is None
    assert created.id == "67aeecb2851179ff81e48f64"
    assert created.created_at == datetime(2025, 11, 17, 10, 30, tzinfo=UTC)


@each_row("model", [Agent, CreatedRun, Organization, Run, Space, Task, UserInfo])
def test_every_field_may_be_missing_or_null_and_new_ones_are_skipped(model: type[msgspec.Struct]) -> None:
    nulls = {field.encode_name: None for field in msgspec.structs.fields(model)}

    missing: Any = msgspec.json.decode(b"{}", type=model)
    null: Any = msgspec.json.decode(json.dumps({**nulls, "new_key": {"a": [1]}}), type=model)

    assert missing == null == model()
    held = {name: value for name, value in msgspec.structs.asdict(missing).items() if value is not None}
    assert held == ({"output_json": msgspec.Raw(b"null")} if model is Task else {})


def test_unknown_statuses_pass() -> None:
    assert msgspec.json.decode(b'{"status": "half_done"}', type=Run).status == "half_done"
    assert msgspec.json.decode(b'{"status": "half_done"}', type=Task).status == "half_done"


@pytest.mark.parametrize("sent", ["1900000000", '"1900000000"', "1900000000.0"])
def test_a_scheduled_timestamp_is_a_moment_in_every_form(sent: str) -> None:
    task = msgspec.json.decode(f'{{"scheduled_timestamp": {sent}}}', type=Task)

    assert task.scheduled_timestamp == json.loads(sent)
    assert task.scheduled_timestamp_at == datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)


def test_each_time_has_a_parsed_form() -> None:
    text = "2026-01-31 11:47:38.067021"
    moment = datetime(2026, 1, 31, 11, 47, 38, 67021, tzinfo=UTC)
    task = Task(created=text, modified=text, last_status_change=text)
    run = Run(created=text, modified=text)
    space = Space(created=text, modified=text)

    assert {task.created_at, task.modified_at, task.last_status_change_at} == {moment}
    assert {run.created_at, run.modified_at, space.created_at, space.modified_at} == {moment}
    assert CreatedRun(created=text).created_at == TranscriptMessage(timestamp=text).timestamp_at == moment


@each_row("text", ["", "N/A", "NULL", "None", "soon", None])
def test_a_time_that_is_none_reads_as_none(text: str | None) -> None:
    task = Task(created=text, modified=text, last_status_change=text, scheduled_timestamp=text)

    assert task.created_at is task.modified_at is task.last_status_change_at is None
    assert task.scheduled_timestamp_at is None
    assert Run(created=text).created_at is None
    assert TranscriptMessage(timestamp=text).timestamp_at is None


def test_an_output_is_decoded_only_when_asked_for_and_once() -> None:
    task = task_with(b'{"call_id": "c", "deep": [{"a": null}]}')

    assert bytes(task.output_json) == b'{"call_id": "c", "deep": [{"a": null}]}'
    assert task.output == {"call_id": "c", "deep": [{"a": None}]}
    assert task.output is task.output
    assert task.call is task.call


def test_an_output_of_any_json_value_is_handed_on_as_sent() -> None:
    assert task_with(b"{}").output == {}
    assert task_with(b"null").output is None
    assert Task().output is None
    assert task_with(b'["x", 1]').output == ["x", 1]
    assert task_with(b'"text"').output == "text"


@each_row("output", [b"{}", b"null", b"[]", b'["x"]', b'"text"', b"7", b"true"])
def test_without_an_object_there_is_no_call(output: bytes) -> None:
    assert task_with(output).call is None
    assert Task().call is None


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (b'"secret \xff"', "utf-8"),
        (b'{"a": ' * 200_000 + b"1" + b"}" * 200_000, "nested too deeply"),
        (b'{"a": NaN}', "malformed"),
        (b'{"secret": ', "truncated"),
        (b"", "truncated"),
    ],
)
def test_an_output_that_cannot_be_read_is_a_decode_error_with_its_task(output: bytes, reason: str) -> None:
    task = Task(task_id="T1", output_json=msgspec.Raw(output))

    for name in ("output", "call"):
        with pytest.raises(DecodeError, match="the output of task T1 cannot be decoded") as caught:
            getattr(task, name)
        assert reason in str(caught.value)
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_a_bad_output_spares_the_rest_of_the_page() -> None:
    good, bad = msgspec.json.decode(
        b'[{"task_id": "T1", "output": {"a": 1}}, {"task_id": "T2", "output": "\xff"}]', type=list[Task]
    )

    assert good.output == {"a": 1}
    assert bad.task_id == "T2"
    with pytest.raises(DecodeError):
        _ = bad.output


def test_a_detached_task_lets_go_of_its_page() -> None:
    rows = [{"task_id": f"T{index}", "output": {"call_id": "x" * 100}} for index in range(100)]
    body = json.dumps(rows).encode()
    before = sys.getrefcount(body)

    tasks = msgspec.json.decode(body, type=list[Task])
    assert sys.getrefcount(body) > before
    detach_from_body(tasks)

    assert sys.getrefcount(body) == before
    assert [task.output for task in tasks] == [row["output"] for row in rows]


def test_only_detached_tasks_free_the_buffer_they_came_from() -> None:
    # A bytearray refuses to shrink while anything still looks into it.
    body = bytearray(b'[{"output": {"call_id": "c"}}]')
    tasks = msgspec.json.decode(body, type=list[Task])
    with pytest.raises(BufferError):
        body.clear()

    detach_from_body(tasks)
    body.clear()

    assert tasks[0].output == {"call_id": "c"}


def test_detaching_twice_or_without_an_output_changes_nothing() -> None:
    rows = [Run(run_id="R1"), task_with(b'{"a": 1}'), Task()]

    detach_from_body(rows)
    detach_from_body(rows)

    assert rows == [Run(run_id="R1"), task_with(b'{"a": 1}'), Task()]
    assert Task().output is None


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_task_pickles_before_and_after_its_output_was_used(protocol: int) -> None:
    fresh = msgspec.json.decode(PAGE_RUN_TASK, type=Task)
    used = msgspec.json.decode(PAGE_RUN_TASK, type=Task)
    assert used.call is not None

    for task in (fresh, used):
        again: Task = pickle.loads(pickle.dumps(task, protocol))  # noqa: S301
        assert again == task
        assert again.output == used.output
        assert again.call == used.call


def test_using_the_output_does_not_make_a_pickle_larger() -> None:
    task = msgspec.json.decode(PAGE_RUN_TASK, type=Task)
    before = len(pickle.dumps(task))
    assert task.call is not None

    assert len(pickle.dumps(task)) == before


@pytest.mark.parametrize("name", ["copy", "deepcopy"])
def test_a_copied_task_is_equal_and_works(name: str) -> None:
    task = msgspec.json.decode(PAGE_RUN_TASK, type=Task)
    assert task.call is not None

    again = getattr(copy, name)(task)

    assert again == task
    assert again.call == task.call


@each_row(("model", "row"), [*DOCUMENTED_ROWS, pytest.param(Space, RECORDED_SPACE, id="space")])
def test_equal_rows_have_equal_hashes(model: type[msgspec.Struct], row: dict[str, Any]) -> None:
    body = json.dumps(row)
    one, other = msgspec.json.decode(body, type=model), msgspec.json.decode(body, type=model)

    assert one == other
    assert len({one, other}) == 1


def test_tasks_that_differ_in_anything_sent_are_not_equal() -> None:
    assert task_with(b'{"a": 1}') != task_with(b'{"a": 2}')
    assert Task(task_id="T1", status="pending") != Task(task_id="T1", status="failed")


def test_rows_cannot_be_changed() -> None:
    row: Any = Task(task_id="T1")

    with pytest.raises(AttributeError):
        row.task_id = "T2"


def test_a_task_encodes_to_what_was_sent() -> None:
    task = msgspec.json.decode(PAGE_AGENT_TASK, type=Task)
    sent = json.loads(PAGE_AGENT_TASK)

    encoded = json.loads(msgspec.json.encode(task))

    assert {key: encoded[key] for key in sent if key != "user_info"} == {
        key: value for key, value in sent.items() if key != "user_info"
    }
    assert json.loads(msgspec.json.encode(Task()))["output"] is None


def test_reprs_say_which_row_it_is() -> None:
    task = Task(task_id="T1", run_id="R1", status="hold", created="2026-01-15T10:00:00")

    assert repr(task) == "Task(task_id='T1', run_id='R1', status='hold', created='2026-01-15T10:00:00')"
    assert dict(task.__rich_repr__()) == {
        "task_id": "T1",
        "run_id": "R1",
        "status": "hold",
        "created": "2026-01-15T10:00:00",
    }
    assert repr(Run(run_id="R1")) == "Run(run_id='R1', status=None, created=None)"
    assert repr(UserInfo(id="7", email="a@example.com", user_token="T")) == "UserInfo(id='7')"


def test_the_repr_of_a_created_run_says_how_many_tasks_it_has() -> None:
    assert repr(CreatedRun(run_id="R1", task_ids=["T1", "T2"])) == "CreatedRun(run_id='R1', tasks=2)"
    documented = CreatedRun(run_id="R1", created="2026-01-15T10:00:00")
    assert repr(documented) == "CreatedRun(run_id='R1', created='2026-01-15T10:00:00')"


@each_row("row", RECORDED_TASKS + [param.values[1] for param in DOCUMENTED_ROWS if param.values[0] is Task])
def test_no_repr_shows_whose_call_it_was(row: dict[str, Any]) -> None:
    task = msgspec.json.decode(json.dumps(row), type=Task)
    user: dict[str, Any] = row.get("user_info") or {}
    location: dict[str, Any] = user.get("location") or {}
    given: dict[str, Any] = row.get("input") or {}
    private: list[Any] = [
        *(user.get(key) for key in ("email", "full_name", "user_token")),
        *(location.get(key) for key in ("ip_address", "city", "lat", "lng")),
        *(given.get(key) for key in ("name", "contact_number", "email", "token")),
    ]

    text = shown(task) + (shown(task.user_info) if task.user_info else "")
    if task.call:
        text += shown(task.call) + "".join(shown(message) for message in task.call.messages)
        private += [task.call.customer, task.call.customer_number, task.call.recording_url]
        private += [task.call.transcript, *(message.text for message in task.call.messages)]

    assert not [secret for secret in private if secret and secret in text]


def test_a_repr_stays_short_whatever_was_sent() -> None:
    long = "x" * 100_000
    rows = [
        Task(task_id=long, run_id=long, status=long, created=long, last_failure_reason=long),
        Run(run_id=long, status=long, created=long),
        Space(name=long, slug=long, description=long),
        Agent(handle=long, name=long, description=long),
        Organization(name=long, domain_handle=long),
        UserInfo(id=long),
        CreatedRun(run_id=long, task_ids=[long], status={long: long}),
        Call(call_id=long, status=long, transcript=long, labels=[long]),
        TranscriptMessage(role=long, content=long, timestamp=long),
    ]

    for row in rows:
        assert len(repr(row)) < 500
        assert len(repr(row.__rich_repr__())) < 500


def test_a_repr_is_one_line_without_control_or_direction_marks() -> None:
    text = repr(Run(run_id="R\n\x1b[2J\u202e1"))

    assert text.isprintable()
