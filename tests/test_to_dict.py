"""`to_dict` and `to_json` of rows, calls and events: standard types, everything decoded, no user tokens."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unpod_async.errors import DecodeError
from unpod_async.events import Event, RunSettled, TaskSeen
from unpod_async.models import Agent, Call, CreatedRun, Organization, Run, Space, Task, UserInfo
from unpod_async.testing import Sandbox

SECRET = "JY60XSSVVPTV5W5A"
TASK = rb"""{
  "_id": "5f1", "task_id": "T1", "user_info": {"id": "261", "user_token": "JY60XSSVVPTV5W5A"},
  "input": {"name": "Asha", "contact_number": "+15550100", "userToken": "JY60XSSVVPTV5W5A"},
  "attachments": [[{"User-Token": {"a": "JY60XSSVVPTV5W5A"}}], 1],
  "output": {"call_id": "c1", "start_time": "2025-11-17T12:05:00Z", "cost": 0.10,
             "big": 123456789012345678901234567890,
             "args": "{\"user_token\": \"JY60XSSVVPTV5W5A\", \"n\": 1}"}
}"""
MODELS = [Agent, Call, CreatedRun, Organization, Run, Space, Task, UserInfo]


def task() -> Task:
    return msgspec.json.decode(TASK, type=Task)


def test_a_task_becomes_plain_data_without_user_tokens() -> None:
    data = task().to_dict()
    assert {name: value for name, value in data.items() if value is not None} == {
        "id": "5f1",
        "task_id": "T1",
        "user_info": {"id": "261", "email": None, "full_name": None, "location": None},
        "input": {"name": "Asha", "contact_number": "+15550100", "userToken": None},
        "attachments": [[{"User-Token": None}], 1],
        "output": {
            "call_id": "c1",
            "start_time": "2025-11-17T12:05:00Z",
            "cost": 0.1,
            "big": 123456789012345678901234567890,
            "args": '{"user_token": null, "n": 1}',
        },
    }
    text = task().to_json()
    assert json.loads(text) == data
    assert "\n" not in text
    assert '"cost": 0.10' in text  # the output is as it was sent
    assert SECRET not in text


def test_user_tokens_are_kept_on_request() -> None:
    data = task().to_dict(keep_user_tokens=True)
    assert data["user_info"]["user_token"] == SECRET
    assert data["input"]["userToken"] == SECRET
    assert json.loads(data["output"]["args"]) == {"user_token": SECRET, "n": 1}
    assert json.loads(task().to_json(keep_user_tokens=True)) == data
    # A value that merely counts as true discloses nothing.
    doubtful: Any = "no"
    assert SECRET not in task().to_json(keep_user_tokens=doubtful)


@pytest.mark.parametrize("model", MODELS)
def test_the_keys_are_the_names_of_the_attributes(model: type[Any]) -> None:
    names = {field.name for field in msgspec.structs.fields(model)}
    expected = {"output" if name == "output_json" else name for name in names} - {"user_token"}
    data = model().to_dict()
    assert set(data) == expected
    for name, value in data.items():
        assert getattr(model(), name) == value


def test_the_result_shares_nothing_with_the_row() -> None:
    row = task()
    row.to_dict()["output"]["call_id"] = row.to_dict()["input"]["name"] = "changed"
    assert row.output["call_id"] == "c1"
    assert row.input is not None
    assert row.input["name"] == "Asha"


def test_a_call_and_rows_inside_rows_become_plain_data_too() -> None:
    call = task().call
    assert call is not None
    assert call.to_dict()["started_at"] == "2025-11-17T12:05:00Z"
    assert json.loads(call.to_json()) == call.to_dict()
    space = Space(name="S", organization=Organization(name="O"), agents=[Agent(handle="a"), Agent()])
    assert space.to_dict()["organization"]["name"] == "O"
    assert [agent["handle"] for agent in space.to_dict()["agents"]] == ["a", None]
    created = CreatedRun(run_id="R", status={"T1": "pending"}, task_ids=["T1"])
    assert created.to_dict()["status"] == {"T1": "pending"}


def test_events_have_their_name_and_no_token() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    event = TaskSeen(
        space_token="S", seen_at=at, run_id="R1", task_id="T1", task=task(), existing=False, new="pending"
    )
    data = event.to_dict()
    assert (data["event"], data["seen_at"]) == ("TaskSeen", "2026-01-01T00:00:00Z")
    assert data["task"]["output"]["call_id"] == "c1"
    assert SECRET not in event.to_json()
    assert SECRET in event.to_json(keep_user_tokens=True)
    assert issubclass(RunSettled, Event)


@pytest.mark.parametrize("depth", [498, 499, 2_000])
def test_a_row_that_is_nested_too_deeply_is_a_decode_error_that_shows_nothing(depth: int) -> None:
    row = Task(
        task_id="T1",
        output_json=msgspec.Raw(b'[{"a":"%b"},' % b"private" + b"[" * depth + b"]" * depth + b"]"),
    )
    if depth == 498:
        assert row.to_dict()["output"] == row.output
        return
    for convert in (row.to_dict, row.to_json):
        with pytest.raises(DecodeError, match=r"Task\(task_id='T1', .*nested too deeply") as caught:
            convert()
        captured = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert "private" not in "".join(captured.format())
        assert caught.value.__context__ is None
    with pytest.raises(DecodeError):
        _ = row.output


def test_an_output_that_is_not_json_is_a_decode_error() -> None:
    row = Task(task_id="T1", output_json=msgspec.Raw(b'{"a": private'))
    with pytest.raises(DecodeError, match="malformed") as caught:
        row.to_dict()
    assert "private" not in str(caught.value)
    assert caught.value.__context__ is None


async def test_every_row_of_the_sandbox_is_what_it_serves() -> None:
    async with Sandbox(runs=3, tasks_per_run=4) as sandbox, sandbox.client() as unpod:
        served = [*sandbox.task_rows()]
        tasks = await unpod.tasks.list(sandbox.space_token).collect()
        for row, sent in zip(tasks, served, strict=True):
            kept = row.to_dict(keep_user_tokens=True)
            assert {name: kept[name] for name in sent} == {
                name: msgspec.json.decode(msgspec.json.encode(value)) for name, value in sent.items()
            } | {"user_info": kept["user_info"]}
            assert kept["user_info"]["user_token"] == sent["user_info"]["user_token"]
            assert sent["user_info"]["user_token"] not in row.to_json()


def test_the_documentation_is_right_about_msgspec() -> None:
    """The docstring of `models` says what to use instead, and why."""
    with pytest.raises(TypeError):
        msgspec.to_builtins(task())
    assert SECRET.encode() in msgspec.json.encode(task())
    text = (Path(__file__).parent.parent / "unpod_async" / "models.py").read_text("utf-8")
    assert "`msgspec.to_builtins` does not support" in text
