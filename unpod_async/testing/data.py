"""Rows are computed from (seed, ordinal), so the same seed gives the same data, and no row is stored."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

__all__ = [
    "SECOND",
    "Ids",
    "agent_row",
    "call_log_row",
    "failure_reason",
    "is_inbound",
    "iso",
    "mix",
    "output_for",
    "run_row",
    "task_row",
]

SECOND = 1_000_000  # times are in whole microseconds since 1970, UTC

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - rows carry times without a zone
_MASK = 2**64 - 1
_ODD = 0x9E3779B97F4A7C15
_INVERSE = pow(_ODD, -1, 2**64)

Row = dict[str, Any]


def mix(seed: int, number: int) -> int:
    """Return a 64-bit hash of (seed, number)."""
    value = (number * _ODD + seed * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    return value ^ (value >> 31)


class Ids:
    """The ids of one seed: a letter and 32 hex digits. As on the service, the order of ids is not that of
    creation."""

    def __init__(self, seed: int) -> None:
        self._key = mix(seed, -1)
        self._tail = f"11f19e8e02fc{seed & 0xFFFF:04x}"

    def make(self, prefix: str, ordinal: int) -> str:
        """Return the id of the row with this ordinal."""
        return f"{prefix}{(ordinal * _ODD & _MASK) ^ self._key:016x}{self._tail}"

    def ordinal(self, prefix: str, name: str) -> int | None:
        """Return the ordinal of an id made by `make`, or None for any other string."""
        try:
            ordinal = (int(name[1:17], 16) ^ self._key) * _INVERSE & _MASK
        except ValueError:
            return None
        return ordinal if self.make(prefix, ordinal) == name else None


@lru_cache(maxsize=4096)  # rows of a batch share their times, and formatting them is most of a row's cost
def iso(moment: int) -> str:
    """Format a time as in rows: without a time zone, and without a fraction if that is zero."""
    return (_EPOCH + timedelta(microseconds=moment)).isoformat()


# Every form of a time that was seen in outputs. {} is the time in whole seconds; others are no times.
_TIMES: tuple[str | None, ...] = (
    "{}",
    "{}.067021",
    "{}Z",
    "{}.000Z",
    " {}",
    " {}.067021",
    "{}+00:00",
    "",
    "N/A",
    "NULL",
    "None",
    None,
)
_DURATIONS: tuple[object, ...] = (150.5, 150, 61.25, 87, 42.0, "0", "NULL", 0)
_LINES = (
    ("Hello", "नमस्ते ✓"),
    ("Grüß Gott, spreche ich mit der Familie Ängström?", "Ja — worum geht’s?"),
    ("こんにちは、お時間よろしいですか", "はい、大丈夫です 👍🏽"),
    ("Good morning", "Not now, please call back\tlater"),
    ("مرحبا، كيف حالك؟", "بخير، شكرا"),
)
_OUTCOMES = ("Interested", "Not Interested", "Call Back", "Voicemail", "No Answer")
# What is said in the calls of a live sandbox, by outcome: the agent, the customer, the summary.
_SPOKEN = (
    ("Interested", "Would you like a demonstration?", "Yes, next week.", "Wants a demonstration next week."),
    (
        "Interested",
        "Passt Ihnen Donnerstag?",
        "Ja, gern — am Nachmittag.",
        "Wants an appointment on Thursday.",
    ),
    ("Not Interested", "Would you like to hear our offer?", "No, thank you.", "Declined the offer."),
    ("Call Back", "क्या अभी बात हो सकती है?", "बाद में कॉल कीजिए।", "Asked to be called later."),
    ("Voicemail", "Please call us back.", "", "Left a message on the voicemail."),
)
_REASONS = ("SIP 486 busy", "SIP 480 temporarily unavailable", "no answer", "provider error: “trunk down”")
_COSTS = {"stt": 0.01, "llm": 0.02, "tts": 0.03, "vapi": 0.05, "total": 0.123, "llmPromptTokens": 150}


def _odd_time(form: int, moment: int) -> str | None:
    pattern = _TIMES[form % len(_TIMES)]
    if pattern is None:
        return None
    text = iso(moment - moment % SECOND)
    if pattern.startswith(" "):
        return pattern[1:].format(text.replace("T", " "))
    return pattern.format(text)


def failure_reason(bits: int) -> str:
    """Return the reason of a failure, for `output.error` and `last_failure_reason`."""
    return _REASONS[bits % len(_REASONS)]


def output_for(
    status: str, bits: int, started: int, name: str, phone: str, ordinal: int, *, ended: int | None = None
) -> Row:
    """Return the `output` of a call: `{}` before its end, `{error}` if it failed, else one of two shapes.

    Args:
        status: the status of the task.
        bits: a random number, which decides the content.
        started: when the call was answered.
        name: the name of the customer.
        phone: the number of the customer.
        ordinal: the number of the call.
        ended: when it ended, for plausible values. None: every odd value that was seen on the service.
    """
    if status == "failed":
        return {"error": failure_reason(bits)}
    if status != "completed":
        return {}
    if ended is not None:
        is_camel = bits % 16 == 0
        make = _camel_output if is_camel else _snake_output
        return _plausible(make(bits >> 8, started, name, phone, ordinal), bits >> 8, started, ended)
    make = _camel_output if bits % 3 == 0 else _snake_output
    return make(bits >> 8, started, name, phone, ordinal)


def _utc(moment: int) -> str:
    return f"{iso(moment - moment % SECOND)}.{moment % SECOND // 1000:03d}Z"


def _plausible(output: Row, bits: int, started: int, ended: int) -> Row:
    """Replace the odd values of an output by those of a call with these times."""
    outcome, question, response, summary = _SPOKEN[(bits >> 20) % len(_SPOKEN)]
    seconds = round((ended - started) / SECOND, 2)
    cost = round(0.02 + 0.01 * seconds, 4)
    times = _utc(started), _utc(ended)
    said = [("agent", question, started), ("customer", response, (started + ended) // 2)]
    said = [(role, text, moment) for role, text, moment in said if text]
    if "id" in output:
        text = "\n".join(f"{'AI' if role == 'agent' else 'User'}: {text}" for role, text, _ in said)
        return {
            **output,
            "startedAt": times[0],
            "endedAt": times[1],
            "createdAt": times[0],
            "updatedAt": times[1],
            "transcript": text,
            "summary": summary,
            "cost": cost,
            "messages": [
                {
                    "role": "bot" if role == "agent" else "user",
                    "time": moment // 1000,
                    "endTime": moment // 1000,
                    "message": text,
                    "secondsFromStart": round((moment - started) / SECOND, 2),
                }
                for role, text, moment in said
            ],
            "costBreakdown": {"total": cost},
            "analysis": {"summary": summary, "successEvaluation": str(outcome == "Interested").lower()},
            "artifact": {"recordingUrl": output["recordingUrl"], "messages": [], "transcript": text},
        }
    after = {
        **output["post_call_data"],
        "summary": {
            "status": outcome,
            "summary": summary,
            "name": output["customer"],
            "contact": output["contact_number"],
            "callback_datetime": "",
        },
    }
    return {
        **output,
        "transcript": [
            {"role": role, "content": text, "user_id": None, "timestamp": _utc(moment)}
            for role, text, moment in said
        ],
        "start_time": times[0],
        "end_time": times[1],
        "call_summary": summary,
        "duration": seconds,
        "cost": cost,
        "post_call_data": after,
        "metadata": {"cost": cost, "type": output["call_type"], "usage": {}},
    }


def _camel_output(bits: int, started: int, name: str, phone: str, ordinal: int) -> Row:
    question, response = _LINES[bits % len(_LINES)]
    ended = started + 150 * SECOND
    recording = f"https://rec.example.invalid/{ordinal}.wav"
    text = f"AI: {question}\nUser: {response}"
    return {
        "id": f"call-{ordinal:04d}",
        "assistantId": "assistant-1",
        "phoneNumberId": "phone-1",
        "type": "inboundPhoneCall" if is_inbound(bits) else "outboundPhoneCall",
        "startedAt": _odd_time(bits >> 4, started),
        "endedAt": _odd_time(bits >> 4, ended),
        "createdAt": f"{iso(started)[:19]}.000Z",
        "updatedAt": f"{iso(ended)[:19]}.000Z",
        "orgId": "org-1",
        "transcript": text,
        "recordingUrl": recording,
        "summary": "Synthetic summary",
        "cost": 0.123,
        "status": "ended",
        "endedReason": "customer-ended-call",
        "customer": {"number": f"+91{phone}", "name": name},
        "messages": [
            {"role": "bot", "time": 1.5, "endTime": 2.5, "message": question, "secondsFromStart": 0.4},
            {"role": "user", "time": 3, "endTime": 4.25, "message": response, "secondsFromStart": 2},
        ],
        "costBreakdown": _COSTS,
        "analysis": {"summary": "Synthetic", "successEvaluation": "true"},
        "artifact": {"recordingUrl": recording, "messages": [], "transcript": text},
        "transport": {},
        "phoneCallProvider": "example",
    }


def _snake_output(bits: int, started: int, name: str, phone: str, ordinal: int) -> Row:
    question, response = _LINES[bits % len(_LINES)]
    form = (bits >> 4) % 12
    kind = "inboundPhoneCall" if is_inbound(bits) else "outboundPhoneCall"
    transcript: list[Row]
    if form % 3 == 0:
        transcript = [{"role": "agent", "content": question}, {"role": "customer", "content": response}]
    elif form % 3 == 1:
        said = iso(started + 2 * SECOND)
        transcript = [
            {"role": "assistant", "content": question, "user_id": None, "timestamp": said},
            {
                "role": "user",
                "content": response,
                "user_id": None,
                "timestamp": _odd_time(bits >> 12, started),
            },
        ]
    else:
        transcript = [
            {"role": "assistant", "time": 1.5, "endTime": 2.5, "message": question, "secondsFromStart": 0.4},
            {"role": "user", "time": 3, "endTime": 4, "message": response, "secondsFromStart": 2},
        ]
    outcome = _OUTCOMES[(bits >> 20) % len(_OUTCOMES)]
    summary: object = outcome
    if form != 5:
        summary = {
            "status": outcome,
            "summary": "Synthetic",
            "name": name,
            "contact": phone,
            "callback_datetime": "",
        }
    as_text = form % 4 == 1
    return {
        "call_id": f"call-{ordinal:04d}",
        "customer": name,
        "contact_number": phone,
        "call_end_reason": "customer-ended-call",
        "recording_url": f"https://rec.example.invalid/{ordinal}.wav",
        "transcript": transcript,
        "start_time": _odd_time(form, started),
        "end_time": _odd_time(form, started + 150 * SECOND),
        "assistant_number": "+911400000000",
        "call_summary": "Synthetic call summary",
        "duration": _DURATIONS[(bits >> 28) % len(_DURATIONS)],
        "cost": 0.1291,
        "post_call_data": {
            "classification": {"labels": ["lead"]},
            "summary": summary,
            "success_evaluator": '{"score": 1}' if as_text else 1,
            "structured_data": '{"budget": "10"}' if as_text else {"budget": "10"},
            "profile_summary": {},
        },
        "call_type": kind,
        "metadata": {"cost": 0.1291, "type": kind, "usage": {}},
        "call_status": "completed",
    }


def is_inbound(bits: int) -> bool:
    """Return whether the call of a task is inbound."""
    return bits % 16 == 1


def call_log_row(bits: int, ended: int, ordinal: int, *, is_completed: bool, phone: str, names: Row) -> Row:
    """Return a row of the call logs, in one of the forms that servers send.

    Args:
        bits: the hash of the task.
        ended: when the call ended, in microseconds.
        ordinal: the ordinal of the task.
        is_completed: whether the call was answered.
        phone: the phone number of the person.
        names: `agent`, `space` and `bridge`, which only some servers send.
    """
    seconds = 30 + bits % 300 if is_completed else 0
    started = f"{iso(ended - ended % SECOND - seconds * SECOND)}Z"
    numbers = ["+911400000000", f"+91{phone}"]
    source, destination = reversed(numbers) if is_inbound(bits) else numbers
    row: Row = {
        "source_number": source,
        "destination_number": destination,
        "call_type": "inbound" if is_inbound(bits) else "outbound",
        "call_status": "completed" if is_completed else ("missed", "failed")[bits // 16 % 2],
        "creation_time": f"{iso(ended)}Z",
        "start_time": started if is_completed else None,
        "end_time": f"{_whole_second(ended)}Z" if is_completed else None,
        "call_duration": seconds,
        "end_reason": "customer-ended-call" if is_completed else failure_reason(bits),
    }
    match bits // 32 % 4:
        case 0:  # the newest form
            return row
        case 1:
            clock = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
            return {"id": ordinal + 1, **row, "call_duration": clock, "bridge": "bridge-1"}
        case _:
            return {"id": ordinal + 1, **row, "call_duration": float(seconds), **names}


def _whole_second(moment: int) -> str:
    """Format a time as in the rows of a space: the service removes the fraction of a second."""
    return iso(moment - moment % SECOND)


def run_row(
    space: str, user: str, run_id: str, token: str, status: str, count: int, times: tuple[int, int]
) -> Row:
    """Return a row of the runs listing; `times` is (created, modified)."""
    return {
        "space_id": space,
        "user": user,
        "thread_id": None,
        "run_id": run_id,
        "collection_ref": f"collection_data_{token}",
        "run_mode": "default",
        "status": status,
        "batch_count": count,
        "created": _whole_second(times[0]),
        "modified": _whole_second(times[1]),
    }


def task_row(common: Row, status: str, times: tuple[int, int]) -> Row:
    """Complete `common` to a row of the run and space task listings; `times` is (created, modified)."""
    common["run_mode"] = "dev"
    common["status"] = status
    common["created"] = _whole_second(times[0])
    common["modified"] = _whole_second(times[1])
    return common


# In the order of the raw documents.
_DOCUMENT_KEYS = ("collection_ref", "task", "input", "output", "attachments", "assignee")


def agent_row(common: Row, status: str, times: tuple[int, int], ordinal: int, bookkeeping: Row) -> Row:
    """Return a row of the agent task listing: the raw document, without run_mode."""
    return {
        "_id": f"{times[0] // SECOND:08x}{ordinal:016x}",
        "space_id": common["space_id"],
        "thread_id": common["thread_id"],
        "user": common["user"],
        "user_org_id": common["user_org_id"],
        "user_info": common["user_info"],
        "created": iso(times[0]),
        "modified": iso(times[1]),
        "task_id": common["task_id"],
        "run_id": common["run_id"],
        **{key: common[key] for key in _DOCUMENT_KEYS},
        "status": status,
        "execution_type": common["execution_type"],
        "ref_id": common["ref_id"],
        **bookkeeping,
    }
