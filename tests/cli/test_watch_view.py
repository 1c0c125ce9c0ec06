"""The table and the lines of a watch, for handmade events."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.cli.watching import SPACE
from unpod_async import Run, Task
from unpod_async._tables import duration_of, outcome_of
from unpod_async.cli.watch_lines import json_line, text_line
from unpod_async.cli.watch_table import WatchView, draw
from unpod_async.events import (
    CallEnded,
    Disconnected,
    Event,
    Reconnected,
    RunRemoved,
    RunSeen,
    RunSettled,
    RunStatusChanged,
    TaskRemoved,
    TaskSeen,
    TaskStatusChanged,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.text import Text

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


def task(status: str, output: object = None, **fields: Any) -> Task:
    row = {"task_id": "T1", "status": status, "output": output, "input": {"name": "A. Person"}, **fields}
    return msgspec.json.decode(msgspec.json.encode(row), type=Task)


CALL = {
    "call_id": "c",
    "customer": "A. Person",
    "contact_number": "9000000001",
    "duration": 87.4,
    "cost": 0.25,
    "call_end_reason": "customer-ended-call",
    "transcript": [{"role": "user", "content": "a secret"}],
    "post_call_data": {"summary": {"status": "Interested", "summary": "a secret"}},
}
AT: dict[str, Any] = {"space_token": SPACE, "seen_at": NOW}
OF_RUN: dict[str, Any] = {**AT, "run_id": "R1"}
OF_TASK: dict[str, Any] = {**OF_RUN, "task_id": "T1"}
EVENTS: list[Event] = [
    RunSeen(**OF_RUN, new="pending", run=Run(user="A. Person"), existing=True),
    TaskSeen(**OF_TASK, new="pending", task=task("pending")),
    RunStatusChanged(**OF_RUN, old="pending", new="in_progress", run=Run()),
    TaskStatusChanged(**OF_TASK, old="pending", new="in_progress", task=task("in_progress")),
    TaskStatusChanged(**OF_TASK, old="in_progress", new="completed", task=task("completed", CALL)),
    CallEnded(**OF_TASK, old="in_progress", new="completed", task=task("completed", CALL)),
    RunSettled(**OF_RUN, old="in_progress", new="completed", tasks={"completed": 1}),
    Disconnected(**AT, reason="GET /x answered 503"),
    Reconnected(**AT, after=61.23456),
    TaskRemoved(**OF_TASK, old="completed"),
    RunRemoved(**OF_RUN, old="completed"),
]


def table(view: WatchView, now: datetime = NOW, *, width: int = 120, height: int = 40) -> list[str]:
    return [line.plain for line in draw(view, now, width=width, height=height)]


def view_of(events: Iterable[Event], spaces: tuple[str, ...] = (SPACE,), *, tasks: bool = True) -> WatchView:
    view = WatchView(spaces, tasks=tasks)
    for event in events:
        view(event)
    return view


def busy(spaces: tuple[str, ...], *, tasks: bool) -> WatchView:
    """Return a view with many rows and odd statuses."""
    view = view_of([], spaces, tasks=tasks)
    for number, status in enumerate(
        ["completed"] * 30 + ["in_progress"] * 12 + ["\x1b[2Jnew\u202e" * 9, "保留"]
    ):
        where: dict[str, Any] = {
            **AT,
            "space_token": spaces[number % len(spaces)],
            "run_id": f"R{number:032x}",
        }
        view(RunSeen(**where, new=status, run=Run()))
        where["task_id"] = f"T{number:032x}"
        if status == "in_progress":
            view(TaskSeen(**where, new=status, task=task(status)))
        else:
            view(CallEnded(**where, new="failed", task=task("failed", {"error": "busy"})))
    view(Disconnected(**{**AT, "space_token": spaces[-1]}, reason="GET /spaces/ answered 503: " + "x" * 300))
    view.set_polls(1, NOW)
    return view


@pytest.mark.parametrize("tasks", [True, False])
@pytest.mark.parametrize("spaces", [(SPACE,), (SPACE, "保" * 20, "S3")])
def test_the_table_fits_every_size(spaces: tuple[str, ...], tasks: bool) -> None:
    view = busy(spaces, tasks=tasks)
    for width in (*range(1, 70, 3), 100, 160, 300):
        for height in (*range(1, 32), 60):
            lines: list[Text] = draw(view, NOW, width=width, height=height)
            assert 1 <= len(lines) <= height
            assert max(line.cell_len for line in lines) <= width
            assert not any(set(line.plain) & {"\x1b", "\u202e", "\n"} for line in lines)


def test_the_ascii_table_is_ascii() -> None:
    for view in (view_of(EVENTS[:6]), busy((SPACE, "A" * 80), tasks=True)):
        view.set_polls(1, NOW)
        lines = draw(view, NOW, width=60, height=40, ascii_only=True)
        assert all(line.plain.isascii() for line in lines if "保" not in line.plain)


def test_a_call_is_in_progress_and_then_ends() -> None:
    assert "CALLS IN PROGRESS  none" in table(view_of(EVENTS[:2]))

    lines = table(view_of(EVENTS[:4]), NOW + timedelta(seconds=83))
    assert lines[lines.index("CALLS IN PROGRESS  1") + 2].split()[-1] == "1:23"

    lines = table(view_of(EVENTS[:6]))
    assert "CALLS IN PROGRESS  none" in lines
    assert lines[lines.index("CALLS ENDED  1") + 2].split()[:4] == ["T1", "R1", "Interested", "1:27"]


def test_the_start_of_an_existing_call_is_that_of_the_service() -> None:
    row = task("in_progress", modified="2030-01-31T11:58:30Z")
    for existing, length in ((True, "1:30"), (False, "0:00")):
        view = view_of([*EVENTS[:1], TaskSeen(**OF_TASK, new="in_progress", task=row, existing=existing)])
        lines = table(view)
        assert lines[lines.index("CALLS IN PROGRESS  1") + 2].split()[-1] == length


def test_removed_runs_are_not_shown() -> None:
    assert "RUNS  none" in table(view_of(EVENTS))
    assert "CALLS IN PROGRESS  none" in table(view_of([*EVENTS[:4], RunRemoved(**OF_RUN, old="in_progress")]))


def test_an_outage_is_shown_until_its_end() -> None:
    view = view_of(EVENTS[:8], (SPACE, "OTHER"))
    view.set_polls(3, NOW)
    lines = table(view, NOW + timedelta(seconds=62))
    assert lines[1].startswith("● 1 of 2 spaces  connected ")
    assert lines[2].startswith(f"● {SPACE}  disconnected since ")
    assert lines[2].endswith(", 1:02")
    assert lines[3] == "  GET /x answered 503"

    view(EVENTS[8])
    assert table(view)[1].startswith("● 2 of 2 spaces  connected ")


def test_the_state_of_the_connection_before_the_first_complete_poll() -> None:
    view = view_of([])
    assert table(view)[1] == f"● {SPACE}  connecting"
    view.set_polls(0, NOW, is_reading=True)  # there was a response, possibly without anything new
    assert table(view)[1] == f"● {SPACE}  reading"
    view.set_polls(1, NOW, is_reading=True)
    assert table(view)[1].startswith(f"● {SPACE}  connected ")


def test_the_title_names_the_zone_and_each_status_has_its_share() -> None:
    statuses = ["completed"] * 996 + ["failed"] * 3 + ["pending"]
    seen = [RunSeen(**{**OF_RUN, "run_id": f"R{n}"}, new=one, run=Run()) for n, one in enumerate(statuses)]
    view = WatchView((SPACE,), tasks=True, interval=2.5, zone=timezone(timedelta(hours=1), "CET"))
    for event in seen:
        view(event)
    view.set_polls(1, NOW)
    lines = table(view, width=70)
    assert lines[0] == "unpod-async watch  every 2.5 s, times in CET"
    assert lines[1].endswith("polled 13:00:00")
    rows = lines[lines.index("RUNS  1,000") + 1 :][:3]
    assert [row.split()[:3] for row in rows] == [
        ["pending", "1", "<1%"],
        ["completed", "996", ">99%"],
        ["failed", "3", "<1%"],
    ]


def test_a_call_that_did_not_reach_the_person_is_not_green() -> None:
    no_answer = {**CALL, "post_call_data": {"summary": {"status": "No Answer"}}}
    for output, style in ((no_answer, "yellow"), (CALL, "green"), ({"error": "busy"}, "green")):
        row = task("completed", output)
        view = view_of([CallEnded(**OF_TASK, old="in_progress", new="completed", task=row)])
        (line,) = (one for one in draw(view, NOW, width=120, height=40) if one.plain.startswith("T1"))
        assert [str(span.style) for span in line.spans if span.style] == [style], output


def test_without_tasks_the_table_shows_changes_of_runs() -> None:
    lines = table(view_of([EVENTS[0], EVENTS[2], EVENTS[-1]], tasks=False), width=60)
    assert [line.split()[:3] for line in lines[lines.index("LATEST CHANGES  2") + 1 :]] == [
        ["RUN", "BEFORE", "AFTER"],
        ["R1", "completed", "removed"],
        ["R1", "pending", "in_progress"],
    ]


# --- lines -------------------------------------------------------------------------------------------------


def test_lines_of_json_contain_no_data_about_people() -> None:
    lines = [json.loads(json_line(event)) for event in EVENTS]
    assert [line["event"] for line in lines] == [type(event).__name__ for event in EVENTS]
    common = {"space": SPACE, "run": "R1", "task": "T1", "seen_at": "2030-01-31T12:00:00Z"}
    assert lines[5] == common | {
        "event": "CallEnded",
        "old": "in_progress",
        "new": "completed",
        "outcome": "Interested",
        "duration": 87.4,
        "end_reason": "customer-ended-call",
        "cost": 0.25,
    }
    assert (lines[0]["existing"], lines[1]["existing"]) == (True, False)
    assert lines[6]["tasks"] == {"completed": 1}
    assert lines[7] == {
        "event": "Disconnected",
        "space": SPACE,
        "old": None,
        "new": None,
        "seen_at": "2030-01-31T12:00:00Z",
        "reason": "GET /x answered 503",
    }
    assert lines[8]["after"] == 61.235
    everything = json.dumps(lines) + "".join(map(text_line, EVENTS))
    assert "Person" not in everything
    assert "9000000001" not in everything
    assert "a secret" not in everything


def test_an_unreadable_output_leaves_its_fields_empty() -> None:
    row = Task(status="completed", output_json=task("completed", CALL).output_json)
    broken = Task(task_id="T1", status="completed", output_json=msgspec.Raw(b'{"duration": '))
    event = CallEnded(**OF_TASK, old="in_progress", new="completed", task=broken)
    line = json.loads(json_line(event))
    assert (line["outcome"], line["duration"], line["unreadable"]) == (None, None, True)
    assert "(unreadable)" in text_line(event)
    assert (outcome_of(row), duration_of(row)) == ("Interested", 87.4)
    assert duration_of(task("failed", {"error": "busy"})) is None
    times = {"id": "c", "startedAt": "2030-01-31T12:00:00Z", "endedAt": "2030-01-31T12:02:30Z"}
    assert duration_of(task("completed", times)) == 150
