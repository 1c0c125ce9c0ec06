"""The data set of the benchmarks: which runs and tasks a space has, and the bytes of any page of them.

A space is named for what it holds: `r2000` has 2,000 runs; `r2000t10000` lists the first 10,000 of their
tasks; `r2000l50` answers after 50 ms; `r2000q240` answers one request after another and takes 240 us for each
row and 1 ms for each request; `r2000v` has texts that differ from row to row; `r2000n` has no space-wide
listing of tasks, so that a client has to go run by run; `r20s1`, `r20s2` and so on are spaces alike. Rows are
cut from a few templates of about 3.8 kB, each with ids of its own, so that 20,000 runs with 213,740 tasks
(800 MB) need next to no memory and no time. Rows with varied texts take the service 0.2 ms each, once.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["REQUEST_TIME", "DataSet", "Space", "data_set", "run_id", "space_of", "task_id"]

ROW_BYTES = 3_800
REQUEST_TIME = 1_000
"""Microseconds for each request of a space that answers one after another."""
TASKS_PER_RUN = 10.687  # 2,000 runs have 21,374 tasks

_ODD = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_TAIL = "11f19e8e02fc0001"
_SPACE = re.compile(
    r"r(?P<runs>\d+)(?:t(?P<tasks>\d+))?(?:l(?P<latency>\d+))?(?:q(?P<row_time>\d+))?(?P<varied>v)?(?P<no_flat>n)?(?:s\d+)?"
)


class Space(NamedTuple):
    """The properties of a space that its name encodes.

    Attributes:
        latency: milliseconds, the same for all requests and at the same time.
        row_time: microseconds for each row of a response, one response after another; 0 is no such limit.
        varied: the texts of few rows are equal, so that files compress as real ones do.
    """

    runs: int
    tasks: int | None
    latency: int
    row_time: int
    varied: bool
    no_flat: bool


def space_of(token: str) -> Space:
    found = _SPACE.fullmatch(token)
    if found is None:
        raise ValueError(f"no space is called {token!r}")
    tasks = found["tasks"]
    return Space(
        int(found["runs"]),
        None if tasks is None else int(tasks),
        int(found["latency"] or 0),
        int(found["row_time"] or 0),
        varied=bool(found["varied"]),
        no_flat=bool(found["no_flat"]),
    )


def run_id(run: int) -> str:
    return f"R{run * _ODD & _MASK:016x}{_TAIL}"


def task_id(task: int) -> str:
    return f"T{task * _ODD & _MASK:016x}{_TAIL}"


def run_sizes(runs: int) -> list[int]:
    """Return the number of tasks of each run: 1 to 20, and 150 for every 250th run, more than a page."""
    sizes = [150 if run % 250 == 0 else run * 7 % 19 + 1 for run in range(runs)]
    missing = round(runs * TASKS_PER_RUN) - sum(sizes)
    step = 1 if missing > 0 else -1
    for run in range(runs):
        if not missing:
            break
        if 1 < sizes[run] < 150:
            sizes[run] += step
            missing -= step
    return sizes


class DataSet:
    """The runs and tasks of a space with a given number of runs; row 0 is the newest."""

    def __init__(self, runs: int, *, varied: bool = False) -> None:
        self.runs = runs
        self._varied = varied
        self.sizes = run_sizes(runs)
        self.starts = list(itertools.accumulate(self.sizes, initial=0))
        self.tasks = self.starts[-1]
        self.number = {run_id(run): run for run in range(runs)}
        self._run_of = array("I", (run for run, size in enumerate(self.sizes) for _ in range(size)))
        self._ids = [run_id(run).encode() for run in range(runs)]

    def task_rows(self, start: int, stop: int) -> bytes:
        """Return the tasks from start to stop - 1 of the space, as members of a JSON array."""
        pieces: list[bytes] = []
        for task in range(start, stop):
            before, middle, after = (
                _varied_template(task) if self._varied else _TEMPLATES[task % len(_TEMPLATES)]
            )
            pieces += (
                before,
                self._ids[self._run_of[task]],
                middle,
                b"T%016x" % (task * _ODD & _MASK),
                after,
            )
        return b"".join(pieces)[:-1]

    def run_rows(self, start: int, stop: int) -> bytes:
        return b",".join(_RUN % (self._ids[run], self.sizes[run]) for run in range(start, stop))


@functools.cache
def data_set(runs: int, *, varied: bool = False) -> DataSet:
    return DataSet(runs, varied=varied)


# -- rows ---------------------------------------------------------------------------------------------------

_RUN = (
    b'{"space_id":"7","user":"11","thread_id":null,"run_id":"%b","collection_ref":"collection_data_SPACE",'
    b'"run_mode":"default","status":"completed","batch_count":%d,"created":"2025-06-01T10:00:00",'
    b'"modified":"2025-06-01T10:05:00"}'
)
_ASCII_LETTERS = "eeeettaaoinshrdlucmfwypvbgkqjxz"
_OTHER_LETTERS = "अआइईउऊएऐओऔकखगघचछजझटठडढतथदधनपफबभमयरलवशसह"
_SAID = (
    ("Good morning, am I speaking with the owner of the house?", "Yes, what is it about? I have a minute."),
    ("Our records say that the offer ends on Friday.", "Please call back later, I am driving right now."),
    ("Grüß Gott, spreche ich mit der Familie Ängström?", "Ja — worum geht’s denn, bitte?"),
    ("नमस्ते, क्या मैं आपसे एक मिनट बात कर सकता हूँ?", "जी हाँ, बताइए, मैं सुन रहा हूँ।"),
    ('He said "not before noon", is that right?', "That is right.\nNoon or later."),
    ("Shall I book the appointment for Tuesday at ten?", "Tuesday is fine, thank you very much."),
)


def _snake(number: int) -> dict[str, Any]:
    return {
        "call_id": f"call-{number:04d}",
        "customer": f"Person {number}",
        "contact_number": f"90000{number:05d}",
        "call_end_reason": "customer-ended-call",
        "recording_url": f"https://rec.example.invalid/{number}.wav",
        "transcript": [],
        "start_time": "2025-06-01 10:01:00.067021",
        "end_time": "2025-06-01 10:03:30.067021",
        "assistant_number": "+911400000000",
        "call_summary": "The customer asked to be called back and agreed to an appointment.",
        "duration": 150.5,
        "cost": 0.1291,
        "post_call_data": {
            "classification": {"labels": ["lead"]},
            "summary": {"status": "Interested", "summary": "Wants an appointment", "callback_datetime": ""},
            "success_evaluator": '{"score": 1}',
            "structured_data": '{"budget": "10"}',
            "profile_summary": {},
        },
        "call_type": "outboundPhoneCall",
        "metadata": {"cost": 0.1291, "type": "outboundPhoneCall", "usage": {}},
        "call_status": "completed",
    }


def _camel(number: int) -> dict[str, Any]:
    return {
        "id": f"call-{number:04d}",
        "assistantId": "assistant-1",
        "type": "outboundPhoneCall",
        "startedAt": "2025-06-01T10:01:00.000Z",
        "endedAt": "2025-06-01T10:03:30.000Z",
        "transcript": "AI: Good morning.\nUser: Not now, please call back\tlater.",
        "recordingUrl": f"https://rec.example.invalid/{number}.wav",
        "summary": "The customer asked to be called back.",
        "cost": 0.123,
        "status": "ended",
        "endedReason": "customer-ended-call",
        "customer": {"number": f"+9190000{number:05d}", "name": f"Person {number}"},
        "messages": [],
        "costBreakdown": {"stt": 0.01, "llm": 0.02, "tts": 0.03, "total": 0.123, "llmPromptTokens": 150},
        "analysis": {"summary": "Asked to be called back", "successEvaluation": "true"},
        "artifact": {"recordingUrl": f"https://rec.example.invalid/{number}.wav", "transcript": ""},
        "phoneCallProvider": "example",
    }


def _row(number: int, said: Sequence[tuple[str, str]] = _SAID) -> dict[str, Any]:
    camel = number % 3 == 0
    output = _camel(number) if camel else _snake(number)
    row: dict[str, Any] = {
        "space_id": "7",
        "thread_id": None,
        "user": "11",
        "user_org_id": "1",
        "user_info": {
            "id": "11",
            "email": "alice@example.invalid",
            "full_name": "Alice Example",
            "user_token": f"secret-of-alice-{number:04d}",
            "location": {"ip": "192.0.2.7", "city": "Pune", "country": "India"},
        },
        "run_id": "@RUN@",
        "task_id": "@TASK@",
        "collection_ref": "collection_data_SPACE",
        "execution_type": "call",
        "task": {"objective": "Call the lead and ask for an appointment"},
        "input": {
            "name": f"Person {number}",
            "contact_number": f"90000{number:05d}",
            "document_id": f"doc{number:06d}",
            "token": "SPACE",
            "quality": "high",
        },
        "output": output,
        "attachments": [],
        "ref_id": f"doc{number:06d}",
        "assignee": "sales-agent",
        "run_mode": "dev",
        "status": "completed",
        "created": "2025-06-01T10:00:00.067021",
        "modified": "2025-06-01T10:05:00",
    }
    messages = output["messages"] if camel else output["transcript"]
    # Half of the rows are ASCII and half are not, which matters to clients that check the encoding.
    lines = said if number % 2 else [pair for pair in said if "".join(pair).isascii()]
    line, size = number, len(_json(row))
    while size < ROW_BYTES - 80:
        text = lines[line // 2 % len(lines)][line % 2]
        line += 1
        message: dict[str, Any] = {"role": ("assistant", "user")[line % 2]}
        if camel:
            message |= {"time": line + 0.5, "endTime": line + 1.5, "message": text}
        else:
            message |= {"content": text, "user_id": None, "timestamp": "2025-06-01T10:01:02"}
        size += len(_json(message)) + bool(messages)  # the comma
        messages.append(message)
    return row


def _json(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()


def _template(row: dict[str, Any]) -> tuple[bytes, bytes, bytes]:
    before, rest = _json(row).split(b"@RUN@")
    middle, after = rest.split(b"@TASK@")
    return before, middle, _TAIL.encode() + after + b","


_TEMPLATES = [_template(_row(number)) for number in range(12)]


@functools.cache
def _texts() -> tuple[str, str]:
    """Return two long texts of random words, in ASCII and not, for spaces with varied texts."""
    chance = random.Random(1)
    texts: list[str] = []
    for letters, length in ((_ASCII_LETTERS, 2_000_000), (_OTHER_LETTERS, 500_000)):
        words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(3_000)]
        texts.append(" ".join(chance.choices(words, k=length)))
    return texts[0], texts[1]


def _varied_template(task: int) -> tuple[bytes, bytes, bytes]:
    chance = random.Random(task)

    def text(pair: int) -> str:
        words = _texts()[pair % 3 == 2]
        start = chance.randrange(len(words))
        spoken = words[start : start + chance.randint(20, 80)]
        return f'"{spoken}",\n' if pair % 6 == 4 else f"{spoken}."

    return _template(_row(task % len(_TEMPLATES), [(text(pair), text(pair)) for pair in range(30)]))
