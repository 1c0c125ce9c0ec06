"""One view over both shapes of an output, which no output can break."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tables import each_row
from unpod_async._call_output import Call, TranscriptMessage, read_call

# "Runs API", tasks of a run.
CAMEL_PAGE: dict[str, Any] = {
    "id": "call-uuid-001",
    "assistantId": "assistant-123",
    "phoneNumberId": "phone-456",
    "type": "outbound",
    "startedAt": "2025-11-17T12:05:00.000Z",
    "endedAt": "2025-11-17T12:10:00.000Z",
    "transcript": "Agent: Hello, this is calling to confirm...\nCustomer: Yes, confirmed.",
    "recordingUrl": "https://example.com/recordings/rec123.mp3",
    "summary": "Customer confirmed the appointment for tomorrow at 2 PM",
    "createdAt": "2025-11-17T12:05:00.000Z",
    "updatedAt": "2025-11-17T12:10:00.000Z",
    "orgId": "org-789",
    "cost": 0.45,
    "customer": {"number": "+1234567890", "name": "Alice Smith"},
}
# "Tasks API", tasks of a space.
SNAKE_PAGE: dict[str, Any] = {
    "call_id": "019aa6a9-809f-7ddb-b110-7a16167cb632",
    "customer": "Cust 1",
    "contact_number": "70000380188",
    "call_end_reason": "customer-ended-call",
    "recording_url": "https://store.unpod.ai/media/private/high-call-recordings/...",
    "transcript": [
        {"role": "user", "content": "And reason for calling", "user_id": "unknown", "timestamp": ""},
        {"role": "assistant", "content": "Hello?", "user_id": None, "timestamp": ""},
    ],
    "start_time": "2025-11-21 13:45:20",
    "end_time": "2025-11-21 13:46:36",
    "assistant_number": "+919949883072",
    "call_summary": "An AI representative called regarding the premium project inquiry...",
    "duration": 76.769,
    "cost": 0.139,
    "post_call_data": {
        "classification": {
            "labels": ["Interested"],
            "summary": "The agent called to discuss the project. The user expressed interest.",
        },
        "summary": {
            "status": "Call Back",
            "summary": "The call involved an introduction and inquiry about the project.",
            "name": "N/A",
            "contact": "N/A",
            "callback_datetime": "N/A",
            "hours_from_now": "N/A",
        },
        "success_evaluator": '{"score": 5, "reason": "..."}',
        "call_back": None,
        "follow_up": None,
        "structured_data": '{"customer_name": null, ...}',
        "webhook_data": None,
        "call_evaluation": [],
    },
    "metadata": {"cost": 0.139, "type": "outboundPhoneCall", "usage": {}},
}
# "Get Tasks by Space Token".
NEWER_SNAKE_PAGE: dict[str, Any] = {
    "call_id": "CALL_7dAb3kR9mXvQ2pLw",
    "start_time": "2026-02-07T05:57:45Z",
    "end_time": "2026-02-07T06:02:30Z",
    "duration": 285,
    "recording_url": "https://cdn.unpod.ai/recordings/CALL_7dAb3kR9mXvQ2pLw.mp3",
    "transcript": [
        {"role": "agent", "content": "Hello, this is an AI assistant. Am I speaking with John Doe?"},
        {"role": "user", "content": "Yes, this is John."},
    ],
    "post_call_data": {
        "summary": "The agent successfully connected with John Doe and discussed project requirements.",
        "outcome": "interested",
        "sentiment": "positive",
    },
    "call_type": "outbound",
    "call_status": "completed",
}


def call_of(output: dict[str, Any]) -> Call:
    call = read_call(output)
    assert call is not None
    return call


def after_call(data: object) -> Call:
    return call_of({"call_id": "c", "post_call_data": data})


def test_the_documented_camel_case_output_reads_as_a_call() -> None:
    assert call_of(CAMEL_PAGE) == Call(
        call_id="call-uuid-001",
        direction="outbound",
        started_at=datetime(2025, 11, 17, 12, 5, tzinfo=UTC),
        ended_at=datetime(2025, 11, 17, 12, 10, tzinfo=UTC),
        duration=300.0,
        recording_url="https://example.com/recordings/rec123.mp3",
        transcript="Agent: Hello, this is calling to confirm...\nCustomer: Yes, confirmed.",
        summary="Customer confirmed the appointment for tomorrow at 2 PM",
        cost=0.45,
        customer="Alice Smith",
        customer_number="+1234567890",
    )


def test_the_documented_snake_case_output_reads_as_a_call() -> None:
    assert call_of(SNAKE_PAGE) == Call(
        call_id="019aa6a9-809f-7ddb-b110-7a16167cb632",
        direction="outbound",
        started_at=datetime(2025, 11, 21, 13, 45, 20, tzinfo=UTC),
        ended_at=datetime(2025, 11, 21, 13, 46, 36, tzinfo=UTC),
        duration=76.769,
        recording_url="https://store.unpod.ai/media/private/high-call-recordings/...",
        messages=[
            TranscriptMessage(role="user", content="And reason for calling", user_id="unknown", timestamp=""),
            TranscriptMessage(role="assistant", content="Hello?", timestamp=""),
        ],
        transcript="user: And reason for calling\nassistant: Hello?",
        summary="An AI representative called regarding the premium project inquiry...",
        outcome="Call Back",
        labels=["Interested"],
        cost=0.139,
        customer="Cust 1",
        customer_number="70000380188",
        end_reason="customer-ended-call",
        structured_data='{"customer_name": null, ...}',
    )


def test_the_newer_documented_output_reads_as_a_call() -> None:
    assert call_of(NEWER_SNAKE_PAGE) == Call(
        call_id="CALL_7dAb3kR9mXvQ2pLw",
        direction="outbound",
        status="completed",
        started_at=datetime(2026, 2, 7, 5, 57, 45, tzinfo=UTC),
        ended_at=datetime(2026, 2, 7, 6, 2, 30, tzinfo=UTC),
        duration=285.0,
        recording_url="https://cdn.unpod.ai/recordings/CALL_7dAb3kR9mXvQ2pLw.mp3",
        messages=[
            TranscriptMessage(
                role="agent", content="Hello, this is an AI assistant. Am I speaking with John Doe?"
            ),
            TranscriptMessage(role="user", content="Yes, this is John."),
        ],
        transcript="agent: Hello, this is an AI assistant. Am I speaking with John Doe?\n"
        "user: Yes, this is John.",
        summary="The agent successfully connected with John Doe and discussed project requirements.",
        outcome="interested",
        sentiment="positive",
    )


@each_row("output", [None, {}, [], ["x"], "text", 7, True])
def test_without_an_object_there_is_no_call(output: object) -> None:
    assert read_call(output) is None


def test_a_failed_call_has_the_text_of_its_error() -> None:
    assert call_of({"error": "SIP 486 busy"}) == Call(error="SIP 486 busy")
    assert call_of({"error": {"message": "no route", "code": 3}}).error == "no route"
    assert call_of({"error": {"code": 3}}).error == '{"code":3}'
    assert call_of({"error": ["a", 1]}).error == '["a",1]'
    assert call_of({"error": "N/A"}).error is None
    assert call_of({"error": None}).error is None
    assert call_of({"error": {(): object()}}).error == "dict"


@each_row(
    ("sent", "direction"),
    [
        ("inbound", "inbound"),
        ("inboundPhoneCall", "inbound"),
        ("outbound", "outbound"),
        ("outboundPhoneCall", "outbound"),
        ("Outbound", "outbound"),
        ("webCall", "webCall"),
        ("N/A", None),
        ("", None),
        (3, None),
    ],
)
def test_a_direction_has_one_name_wherever_it_is_said(sent: object, direction: str | None) -> None:
    assert call_of({"call_type": sent}).direction == direction
    assert call_of({"type": sent}).direction == direction
    assert call_of({"metadata": {"type": sent}}).direction == direction


@each_row(
    ("sent", "duration"),
    [
        (285, 285.0),
        (150.5, 150.5),
        (0, 0.0),
        ("0", 0.0),
        ("76.769", 76.769),
        (" 12 ", 12.0),
        ("1e2", 100.0),
        ("NULL", None),
        ("N/A", None),
        ("", None),
        (None, None),
        (True, None),
        ("inf", None),
        ("nan", None),
        ("1_0", None),
        ("١٢", None),
        ("9" * 5000, None),
        ("1e999", None),
        (10**400, None),
        (math.nan, None),
        (math.inf, None),
        ([1], None),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_duration_is_seconds_or_none(sent: object, duration: float | None) -> None:
    read = call_of({"duration": sent}).duration

    assert read == duration
    assert read is None or type(read) is float


def test_structured_data_of_more_than_500_levels_stays_a_string() -> None:
    for levels, is_parsed in ((500, True), (501, False), (900, False), (20_000, False)):
        sent = "[" * levels + "]" * levels
        found = after_call({"structured_data": sent}).structured_data
        assert isinstance(found, list) is is_parsed
        assert is_parsed or found == sent


@each_row(
    ("sent", "duration"),
    [
        ({"start_time": "2026-01-15T10:00:00", "end_time": "2026-01-15T10:01:30.5"}, 90.5),
        ({"startedAt": "2026-01-15T10:00:00Z", "endedAt": "2026-01-15T11:00:00+01:00"}, 0.0),
        ({"start_time": 1768471200, "endedAt": "2026-01-15 10:00:07"}, 7.0),
        ({"start_time": "2026-01-15T10:00:00", "end_time": "2026-01-15T09:59:59"}, None),
        ({"start_time": "2026-01-15T10:00:00", "end_time": "NULL"}, None),
        ({"start_time": "N/A", "end_time": "2026-01-15T10:00:00"}, None),
    ],
)
def test_a_call_without_a_duration_has_the_time_from_start_to_end(
    sent: dict[str, Any], duration: float | None
) -> None:
    for none in ({}, {"duration": None}, {"duration": "NULL"}, {"duration": ""}, {"duration": {"s": 1}}):
        assert call_of({**sent, **none}).duration == duration
    assert call_of({**sent, "duration": 3}).duration == 3
    assert call_of({**sent, "duration": "0"}).duration == 0


@each_row("sent", ["NULL", "None", "N/A", "", None, 12.5, [], True])
def test_times_that_are_none_read_as_none(sent: object) -> None:
    call = call_of({"start_time": sent if sent != 12.5 else "12:30", "endedAt": sent if sent != 12.5 else {}})

    assert call.started_at is None
    assert call.ended_at is None


def test_a_cost_may_stand_in_the_metadata_and_nothing_is_not_zero() -> None:
    assert call_of({"cost": 0, "metadata": {"cost": 5}}).cost == 0.0
    assert call_of({"cost": "NULL", "metadata": {"cost": "0.5"}}).cost == 0.5
    assert call_of({"cost": None}).cost is None


@each_row(
    ("data", "summary"),
    [
        ({"summary": "text"}, "text"),
        ({"summary": {"summary": "inner"}}, "inner"),
        ({"summary": {"summary": "N/A"}, "classification": {"summary": "classified"}}, "classified"),
        ({"summary": ""}, None),
        ("text", None),
        (None, None),
    ],
)
def test_a_summary_is_found_where_it_is(data: object, summary: str | None) -> None:
    assert after_call(data).summary == summary
    assert call_of({"call_summary": "first", "post_call_data": data}).summary == "first"


def test_a_camel_case_summary_may_stand_in_the_analysis() -> None:
    assert call_of({"id": "c", "summary": "", "analysis": {"summary": "analysed"}}).summary == "analysed"


def test_an_outcome_is_the_status_that_the_filter_matches() -> None:
    assert after_call({"summary": {"status": "Interested"}, "outcome": "other"}).outcome == "Interested"
    assert after_call({"summary": "text", "outcome": "interested"}).outcome == "interested"
    assert after_call({"summary": {"status": "N/A"}}).outcome is None


def test_labels_are_texts_only() -> None:
    assert after_call({"classification": {"labels": ["lead", 3, None, "N/A"]}}).labels == ["lead"]
    assert after_call({"labels": ["lead"]}).labels == ["lead"]
    assert call_of({"labels": ["lead"]}).labels == ["lead"]
    assert after_call({"classification": {"labels": "lead"}}).labels == []


@each_row(
    ("sent", "data"),
    [
        ('{"budget": "10"}', {"budget": "10"}),
        ('[{"a": null}]', [{"a": None}]),
        ({"budget": "10"}, {"budget": "10"}),
        ({}, {}),
        ('{"customer_name": null, ...}', '{"customer_name": null, ...}'),
        ("{'a': 1}", "{'a': 1}"),
        ("[" * 5000, "[" * 5000),
        ("\ud800", "\ud800"),
        ("null", None),
        ("N/A", None),
        ("", None),
        (None, None),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_structured_data_is_parsed_where_it_can_be(sent: object, data: object) -> None:
    assert after_call({"structured_data": sent}).structured_data == data
    assert call_of({"analysis": {"structuredData": sent}}).structured_data == data


def test_a_customer_is_a_name_or_an_object_with_one() -> None:
    assert call_of({"customer": "Cust 1", "contact_number": "1"}).customer == "Cust 1"
    named = call_of({"customer": {"name": "Alice", "number": "+1"}, "contact_number": "2"})
    assert (named.customer, named.customer_number) == ("Alice", "+1")
    nameless = call_of({"customer": {"name": None}, "contact_number": "2"})
    assert (nameless.customer, nameless.customer_number) == (None, "2")
    assert call_of({"customer": ["x"]}).customer is None


@pytest.mark.parametrize(
    ("item", "text", "moment"),
    [
        ({"role": "agent", "content": "Hello"}, "Hello", None),
        (
            {"role": "user", "content": "Hi", "user_id": None, "timestamp": "2026-01-15T10:01:05.000000"},
            "Hi",
            datetime(2026, 1, 15, 10, 1, 5, tzinfo=UTC),
        ),
        (
            {"role": "bot", "time": 1.5, "endTime": 2, "message": "Hey", "secondsFromStart": 0.4},
            "Hey",
            None,
        ),
        ({"role": "bot"}, None, None),
        ({"role": "bot", "content": "", "message": "said"}, "said", None),
    ],
)
def test_every_form_of_a_transcript_item_has_a_text_and_a_moment(
    item: dict[str, Any], text: str | None, moment: datetime | None
) -> None:
    decoded = msgspec.json.decode(msgspec.json.encode(item), type=TranscriptMessage)
    [read] = call_of({"transcript": [item]}).messages
    # An item of another type sends the whole transcript the slow way, which must read the same.
    [slowly] = call_of({"transcript": [item, 7]}).messages

    assert decoded == read == slowly
    assert read.text == text
    assert read.timestamp_at == moment


def test_a_transcript_item_keeps_what_the_provider_timed() -> None:
    item = {"role": "bot", "time": 1.5, "endTime": 2, "secondsFromStart": 0.4, "duration": 1.0}

    [message] = call_of({"messages": [item]}).messages

    assert (message.time, message.end_time, message.seconds_from_start, message.duration) == (1.5, 2, 0.4, 1)


def test_a_spoken_none_is_not_the_servers_word_for_nothing() -> None:
    call = call_of({"transcript": [{"role": "user", "content": "None"}]})

    assert call.messages[0].text == "None"
    assert call.transcript == "user: None"


def test_one_odd_transcript_item_does_not_lose_the_others() -> None:
    call = call_of({
        "transcript": [
            {"role": "user", "content": 7, "timestamp": True, "time": "NULL"},
            "text",
            None,
            {"content": "without a role"},
            {"role": "agent", "content": "Hello", "user_id": ["x"], "timestamp": 1900000000},
        ]
    })

    assert call.messages == [
        TranscriptMessage(role="user"),
        TranscriptMessage(content="without a role"),
        TranscriptMessage(role="agent", content="Hello", timestamp=1900000000),
    ]
    assert call.transcript == "without a role\nagent: Hello"


def test_a_transcript_comes_from_the_messages_when_it_was_not_sent() -> None:
    messages = [{"role": "bot", "message": "Hello"}, {"role": "user", "message": "Hi"}]

    assert call_of({"messages": messages}).transcript == "bot: Hello\nuser: Hi"
    both = call_of({"messages": messages, "transcript": "AI: Hello"})
    assert both.transcript == "AI: Hello"
    assert len(both.messages) == 2
    assert call_of({"transcript": "NULL"}).transcript is None
    assert call_of({"transcript": []}).transcript is None


def test_reprs_hold_neither_words_nor_numbers() -> None:
    call = call_of({**SNAKE_PAGE, "error": "+1999 refused"})

    assert repr(call).startswith("Call(call_id='019aa6a9-809f-7ddb-b110-7a16167cb632', direction='outbound'")
    for text in (repr(call), repr(call.__rich_repr__()), repr(call.messages), f"{call}"):
        for private in ("70000380188", "Cust 1", "Hello", "reason", "store.unpod.ai", "+1999"):
            assert private not in text


def test_equal_calls_have_equal_hashes() -> None:
    assert len({call_of(SNAKE_PAGE), call_of(SNAKE_PAGE), call_of(CAMEL_PAGE)}) == 2
    assert len(set(call_of(SNAKE_PAGE).messages)) == 2


TEXTS = st.sampled_from([
    "",
    "N/A",
    "NULL",
    "None",
    "0",
    "1e9",
    "{",
    '{"a": 1}',
    "2026-01-15 10:00:00",
    "\ud800",
])
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=20),
    TEXTS,
    st.binary(max_size=5),
    st.builds(object),
)
KEYS = st.sampled_from(
    sorted(
        {*CAMEL_PAGE, *SNAKE_PAGE, *NEWER_SNAKE_PAGE, *SNAKE_PAGE["post_call_data"]}
        | {
            "error",
            "messages",
            "analysis",
            "structuredData",
            "labels",
            "name",
            "number",
            "status",
            "endedReason",
        }
        | {
            "role",
            "content",
            "message",
            "time",
            "endTime",
            "secondsFromStart",
            "timestamp",
            "user_id",
            "outcome",
        }
    )
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.integers(), inner, max_size=6),
    max_leaves=25,
)


@settings(deadline=None, max_examples=120)
@given(st.dictionaries(KEYS, VALUES, max_size=20) | VALUES)
def test_no_output_raises_and_every_field_keeps_its_type(output: object) -> None:
    call = read_call(output)

    if call is None:
        assert not isinstance(output, dict) or not output
        return
    for name in ("call_id", "direction", "status", "recording_url", "transcript", "summary", "outcome"):
        assert isinstance(getattr(call, name), str | None)
    for name in ("sentiment", "customer", "customer_number", "end_reason", "error"):
        assert isinstance(getattr(call, name), str | None)
    for number in (call.duration, call.cost):
        assert number is None or (type(number) is float and math.isfinite(number))
    for moment in (call.started_at, call.ended_at):
        assert moment is None or moment.tzinfo is UTC
    assert all(isinstance(label, str) for label in call.labels)
    for message in call.messages:
        assert isinstance(message.text, str | None)
        assert message.timestamp_at is None or message.timestamp_at.tzinfo is UTC
        hash(message)
    hash(call)
    assert len(repr(call)) < 500
