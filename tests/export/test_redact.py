"""Redaction of contact data by its key, by values of the row, and by its shape; and what stays."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tables import each_row
from unpod_async._export import row_line
from unpod_async._export.formats import describe, split_into_cells
from unpod_async._export.redaction import MEASURES, Redactor, kind_of_key
from unpod_async.errors import InvalidArgument
from unpod_async.testing import Sandbox

KEY = b"a key of the tests"
drop, hashed = Redactor("drop"), Redactor("hash", KEY)


def line(row: object) -> bytes:
    return row_line(msgspec.json.encode(row), keep_user_token=False)


def dropped(row: object) -> Any:
    return json.loads(drop(line(row)))


def text(sent: str, **other: object) -> str:
    """Return a redacted string of a row that also has `other`."""
    redacted = dropped({"input": other, "output": {"call_summary": sent}})["output"]["call_summary"]
    assert isinstance(redacted, str)
    return redacted


def h(value: str) -> str:
    return f"h:{hmac.new(KEY, value.encode(), hashlib.sha256).hexdigest()[:16]}"


# --- the sandbox's rows ------------------------------------------------------------------------------------

CONTACT = re.compile(rb"Person|Alice|@|90000\d{5}")


def test_the_rows_of_the_sandbox_have_no_contact_data_left() -> None:
    sandbox = Sandbox(runs=40, tasks_per_run=5)
    lines = [line(row) for row in sandbox.task_rows()]
    assert all(CONTACT.search(one) for one in lines)
    for redactor in (drop, hashed):
        for one in lines:
            assert CONTACT.search(redactor(one)) is None
    for row in sandbox.run_rows():
        assert drop(line(row)) == line(row)


def test_everything_else_in_the_rows_of_the_sandbox_stays() -> None:
    for row in Sandbox(runs=20, tasks_per_run=5).task_rows():
        row["user_info"] |= {"email": None, "full_name": None, "user_token": None}
        row["user_info"]["location"] = dict.fromkeys(row["user_info"]["location"])
        row["input"] |= {"name": None, "contact_number": None}
        output = row["output"]
        after = output.get("post_call_data")
        expected = json.loads(json.dumps(row))
        if isinstance(output.get("customer"), dict):
            expected["output"]["customer"] = {"number": None, "name": None}
        elif "customer" in output:
            expected["output"] |= {"customer": None, "contact_number": None}
        if after and isinstance(after["summary"], dict):
            expected["output"]["post_call_data"]["summary"] |= {"name": None, "contact": None}
        assert dropped(row) == expected


def test_the_same_person_has_the_same_hash_in_both_shapes_of_an_output() -> None:
    seen = set[str]()
    for row in Sandbox(runs=40, tasks_per_run=5).task_rows():
        result = json.loads(hashed(line(row)))
        customer = result["output"].get("customer")
        if isinstance(customer, dict):
            # The output has "+919000000001", the input "9000000001".
            assert customer == {"number": result["input"]["contact_number"], "name": result["input"]["name"]}
            seen.add("camel")
        elif customer is not None:
            assert (customer, result["output"]["contact_number"]) == (
                result["input"]["name"],
                result["input"]["contact_number"],
            )
            seen.add("snake")
        assert result["input"]["name"] == h(row["input"]["name"].lower())
        assert result["input"]["contact_number"] == h(row["input"]["contact_number"])
        assert result["user_info"]["email"] == h("alice@example.com")
    assert seen == {"camel", "snake"}


# --- keys --------------------------------------------------------------------------------------------------

NAMES = """
    name full_name fullName FullName first_name lastName customer customers customer_name
    customerName contact contact_name lead_name username surname nominee_name Name name_1 callee
"""
REACHES = """
    contact_number contactNumber phone phones phone_number phoneNumber PHONE Phone2 mobile mobileNo
    mobile_number number email emails email_id Email_ID emailAddress user_email e-mail mail
    whatsapp_number alternate_number alternate_contact_number to_number from_number telephone
    customer-phone caller_id callerId fax home_phone
"""
OTHERS = """
    user user_id user_org_id token phoneNumberId number_id assistant_number assistantNumber
    agent_name company_name companyName file_name tool_name organization_name invoice_number
    policy_number batch_count created startedAt start_time role customer_id contactId email_status
    phoneCallProvider phone_type objective context summary recording_url collection_ref document_id
    no to from about labels quality model_name space_name 123 नाम
"""


@each_row("key", [*NAMES.split(), *REACHES.split(), "Mobile No.", "Full Name", "E-mail", "Email ID"])
@each_row("value", ["Zed Q", "+15550100", "z@q.example"])
def test_a_value_under_a_contact_key_is_redacted_at_any_depth(key: str, value: str) -> None:
    row = {
        "task_id": "T1",
        "extra": [{"deep": {key: value}}],
        key: value,
        "input": {key: [value, {"x": value}]},
    }
    assert dropped(row) == {
        "task_id": "T1",
        "extra": [{"deep": {key: None}}],
        key: None,
        "input": {key: [None, {"x": None}]},
    }
    assert value not in hashed(line(row)).decode()


@each_row("key", OTHERS.split())
def test_values_under_other_keys_stay(key: str) -> None:
    assert kind_of_key(key) in {"technical", "text"}
    assert dropped({"input": {key: "Zed Q"}}) == {"input": {key: "Zed Q"}}


def test_placeholders_stay_and_numbers_are_redacted() -> None:
    row = {
        "input": {
            "name": "N/A",
            "phone": "",
            "contact": None,
            "mobile": 9876543210,
            "number": 1.5,
            "email": True,
        }
    }
    assert dropped(row)["input"] == {**row["input"], "mobile": None, "number": None}
    assert json.loads(hashed(line(row)))["input"]["mobile"] == h("9876543210")


def test_items_of_a_list_belong_to_the_key_of_the_list() -> None:
    result = dropped({
        "input": {"contacts": [{"id": "7"}, "Zed Q"], "notes": [{"name": "Quix"}, "a note", ["b"]]}
    })
    assert result["input"] == {"contacts": [{"id": "7"}, None], "notes": [{"name": None}, "a note", ["b"]]}


def test_ids_and_times_of_a_contact_stay() -> None:
    row = {
        "output": {
            "customer": {"id": "c-1", "name": "Zed Q", "created": "2026-01-15T10:00:00", "city": "Pune"}
        }
    }
    assert dropped(row)["output"]["customer"] == {
        "id": "c-1",
        "name": None,
        "created": "2026-01-15T10:00:00",
        "city": None,
    }


def test_the_columns_of_the_service_never_change() -> None:
    own = {
        "task_id": "Zed Quix",
        "run_id": "9876543210",
        "status": "Zed Quix",
        "user": "z@q.example",
    }
    row = {
        **own,
        "input": {
            "name": "Zed Quix",
            "phone": "9876543210",
            "email": "z@q.example",
            "task_id": "z@q.example",
        },
    }
    result = dropped(row)
    assert {key: result[key] for key in own} == own
    assert result["input"]["task_id"] == "[redacted]"


def test_json_inside_strings_is_redacted() -> None:
    inner = json.dumps({"Lead Name": "Zed Quix", "score": 1, "more": json.dumps([{"phone": "5550100"}])})
    result = dropped({
        "output": {"post_call_data": {"structured_data": inner}, "summary": "zed quix rang 5550100"}
    })
    assert json.loads(result["output"]["post_call_data"]["structured_data"]) == {
        "Lead Name": None,
        "score": 1,
        "more": '[{"phone":null}]'.replace(":", ": "),
    }
    assert result["output"]["summary"] == "[redacted] rang [redacted]"


# --- values elsewhere in the row ---------------------------------------------------------------------------

MET = [
    ("Am I speaking with John Doe?", "Am I speaking with [redacted]?"),
    ("JOHN  doe's friend", "[redacted]'s friend"),
    ("Yes, this is John.", "Yes, this is [redacted]."),
    ("Mr Doe, John's here", "Mr [redacted], [redacted] here"),
    ("johndoe and a doe", "johndoe and a doe"),
    ("https://rec.example/John%20Doe.wav", "https://rec.example/[redacted].wav"),
    ("john.doe_1.wav", "[redacted]_1.wav"),
    ("call 98765 43210", "call [redacted]"),
    ("call +91-98765-43210 or 09876543210", "call [redacted] or [redacted]"),
    ("https://rec.example/919876543210_2.wav", "https://rec.example/[redacted]_2.wav"),
    ("ph9876543210", "ph[redacted]"),
    ("ph98765_43210", "ph[redacted]"),
    ("ID 4321, not 43211", "ID [redacted], not 43211"),
    ("JD@Mail.example", "[redacted]"),
    ("https://x.example/?m=jd%40mail.example", "https://x.example/?m=[redacted]"),
    ("Will will be late", "[redacted] will be late"),
    ("Ann planned it; ann's plan", "[redacted] planned it; [redacted] plan"),
    ("Zoe\u0308 O\u2019Hara", "[redacted]"),
    ("王伟先生您好", "[redacted]先生您好"),
    ("yes, a vip from Pune", "yes, a vip from Pune"),
]


@each_row(("sent", "left"), MET)
def test_values_of_the_row_are_redacted_in_its_other_strings(sent: str, left: str) -> None:
    known = {
        "name": "John Doe",
        "phone": "+91 98765 43210",
        "extension_number": "x",
        "contact_number": 4321,
        "email": "jd@mail.example",
        "lead_name": "Will Power",
        "caller": "Ann",
        "nominee_name": "Zoë O\u2019Hara",
        "customer_name": "王伟",
        "contact": {"vip": "yes"},
    }
    assert text(sent, **known) == left


def test_a_part_of_a_name_has_the_hash_of_the_name_and_a_number_that_of_the_number() -> None:
    row = {
        "input": {"name": "John Doe", "phone": "+919876543210"},
        "task": {"objective": "Ask John, 98765 43210."},
    }
    assert json.loads(hashed(line(row)))["task"]["objective"] == f"Ask {h('john doe')}, {h('9876543210')}."


def test_technical_strings_are_searched_for_numbers_but_not_for_names() -> None:
    row = {
        "input": {"name": "agent", "phone": "9876543210"},
        "ref_id": "9876543210",
        "output": {
            "transcript": [{"role": "agent", "content": "an agent"}],
            "call_id": "call-9876543210",
            "x_id": "5550100200",
        },
    }
    result = dropped(row)
    assert result["ref_id"] == "[redacted]"
    assert result["output"] == {
        "transcript": [{"role": "agent", "content": "an [redacted]"}],
        "call_id": "call-[redacted]",
        "x_id": "5550100200",
    }


def test_keys_that_are_not_identifiers_are_redacted_like_strings() -> None:
    result = dropped({
        "input": {"name": "Zed Quix", "votes": {"z@q.example": 1, "Zed Quix": 2, "9876543210": 3, "Quix": 4}}
    })
    assert list(result["input"]["votes"]) == ["[redacted]", "Quix"]


REFERENCES = ["ref_id", "refId", "assignee", "call_id", "callId", "thread_id", "document_id"]


@each_row("key", REFERENCES)
@each_row(
    ("sent", "left"),
    [
        ("+919876543210", "[redacted]"),
        ("9876543210", "[redacted]"),
        ("98765 43210", "[redacted]"),
        ("call-9876543210-1", "call-[redacted]"),
        ("ann.9876543210@example.com", "[redacted]"),
        ("lead of Zed Quix", "lead of [redacted]"),
        ("x5550100200y", "x[redacted]y"),  # the row's own number
        ("call-0003", "call-0003"),
        ("space-agent-demo00000000000000001", "space-agent-demo00000000000000001"),
        ("x9999995550100200", "x9999995550100200"),
        ("T8ff2ccdffe9a11f0878d43cd8a99e069", "T8ff2ccdffe9a11f0878d43cd8a99e069"),
        ("2d81624a-a0ec-4459-9399-cf71fb21be06", "2d81624a-a0ec-4459-9399-cf71fb21be06"),
    ],
)
def test_ids_that_may_contain_contact_data_are_searched_like_texts(key: str, sent: str, left: str) -> None:
    own = {"name": "Zed Quix", "phone": "5550100200"}
    assert dropped({"input": own, key: sent})[key] == left
    assert dropped({"input": own, "output": {"a": [{key: sent}]}})["output"] == {"a": [{key: left}]}


def test_the_id_of_an_input_or_output_is_such_an_id() -> None:
    row = {"input": {"id": "lead-9876543210"}, "output": {"id": "9876543210", "x": {"id": "9876543210"}}}
    assert dropped(row) == {
        "input": {"id": "lead-[redacted]"},
        "output": {"id": "[redacted]", "x": {"id": "9876543210"}},
    }
    assert json.loads(hashed(line(row)))["output"]["id"] == h("9876543210")


def test_the_location_of_a_user_is_redacted() -> None:
    place = {
        "ip": "192.0.2.7",
        "city": "Pune",
        "timezone": "Asia/Kolkata",
        "lat": 18.52,
        "geo": {"id": "x", "points": [1, {"token": "t"}]},
        "empty": "",
    }
    nothing = {"ip": None, "city": None, "timezone": None, "lat": None, "empty": ""}
    nothing["geo"] = {"id": None, "points": [None, {"token": None}]}
    for info, left in [
        ({"id": "7", "location": place}, {"id": "7", "location": nothing}),
        ([{"location": "Pune"}], [{"location": None}]),
        ({"location": ["Pune", 1.5]}, {"location": [None, None]}),
        ({"location": json.dumps({"ip": "192.0.2.7"})}, {"location": '{"ip": null}'.replace(" ", " ")}),
    ]:
        row = {"user_info": info, "output": {"summary": "Pune, 192.0.2.7"}, "input": {"location": "Pune"}}
        assert dropped(row) == {**row, "user_info": left}
        assert "192.0.2.7" not in json.dumps(json.loads(hashed(line(row)))["user_info"])
        assert dropped({"userInfo": info})["userInfo"] == left


@each_row(
    "number",
    ["9876543210", "98765432", "919876543210123", "9876543210.0", "9.87654321e9", "9876543210.00", "1e7"],
)
def test_whole_json_numbers_of_8_to_15_digits_are_redacted(number: str) -> None:
    for sent in ('{"callback": %s}', '[{"a": [1, %s]}]', '{"lead_id": %s}', '{"x": "{\\"a\\": %s}"}'):
        row = b'{"output": %b}' % (sent % number).encode()
        left = (sent % "null").encode()
        assert drop(row) == b'{"output": %b}' % left
        assert number.encode() not in hashed(row)
    if "." not in number:
        assert json.loads(hashed(b'{"a": %b}' % number.encode()))["a"].startswith("h:")


@each_row(
    "number", ["1234567", "1234567890123456", "-9876543210", "9876543210.5", "0.12345678", "1e16", "1e400"]
)
def test_other_json_numbers_stay(number: str) -> None:
    row = b'{"output": {"callback": %b, "a": [%b]}}' % (number.encode(), number.encode())
    assert drop(row) == hashed(row) == row


@each_row("key", sorted(MEASURES))
def test_times_durations_costs_and_counts_are_numbers_that_stay(key: str) -> None:
    first, *others = key.split("_")
    for name in (key, first + "".join(map(str.title, others))):
        row = b'{"output": {"a": [{"%b": 1700000000123}], "%b": "1700000000"}}' % ((name.encode(),) * 2)
        assert drop(row) == hashed(row) == row


def test_the_table_of_measures_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "redact.md").read_text()
    (table,) = re.findall(r"<!-- measures -->(.*?)<!-- /measures -->", page, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", table)) == MEASURES


# Columns that may have contact data. All others are the same with redaction.
CONTACT_COLUMNS = {
    *("task", "input", "output", "attachments", "user_info", "extra", "last_failure_reason"),
    *("call_transcript", "call_summary", "call_customer", "call_customer_number", "call_messages"),
    *("call_structured_data", "call_labels", "call_error", "call_recording_url"),
}
NAMES_OF_COLUMNS = [name for name, _, _ in describe("tasks")]
SPEECH = {"role": "user", "time": 1700000000123, "endTime": 1700000001123, "message": "9876543210"}
MESSAGES = [{**SPEECH, "secondsFromStart": 12345678.0, "duration": 123456789}]
STRANGE = [
    {
        "_id": "6543210987654321",
        "thread_id": "thread-7",
        "provider": "livekit",
        "created": 1700000000,
        "modified": "2026-01-15T10:00:00.123456Z",
        "scheduled_timestamp": 1900000000,
        "last_status_change": "1700000000",
        "failure_count": 12345678,
        "retry_attempt": 123456789,
        "output": {
            "start_time": 1700000000,
            "end_time": 1700000012,
            "duration": "12345678",
            "cost": 12345678,
            "post_call_data": {"sentiment": "positive"},
            "transcript": [{"role": "agent", "content": "hello", "timestamp": 1700000000123}],
        },
    },
    {
        "output": {
            "id": "call-0003",
            "startedAt": "2026-01-15T10:00:00Z",
            "endedAt": 1700000000,
            "duration": 12345678,
            "messages": MESSAGES,
            "metadata": {"cost": 12345678.0},
        }
    },
]


def test_all_columns_without_contact_data_are_the_same_with_redaction() -> None:
    rows: list[dict[str, Any]] = [*Sandbox(runs=40, tasks_per_run=5).task_rows(), *STRANGE]
    seen = set[str]()
    for row in rows:
        sent = line(row)
        before = dict(zip(NAMES_OF_COLUMNS, split_into_cells("tasks", sent), strict=True))
        for redactor in (drop, hashed):
            after = dict(zip(NAMES_OF_COLUMNS, split_into_cells("tasks", redactor(sent)), strict=True))
            for name in before.keys() - CONTACT_COLUMNS:
                assert after[name] == before[name], name
            # The transcript has its texts redacted, and its times and roles are the same.
            for one, other in zip(
                *(json.loads(of["call_messages"] or "[]") for of in (before, after)), strict=True
            ):
                assert one.keys() == other.keys()
                assert all(other[key] == one[key] for key in one.keys() - {"content", "message"})
        seen |= {name for name, value in before.items() if value is not None}
    assert seen >= set(NAMES_OF_COLUMNS) - CONTACT_COLUMNS


# --- what looks like contact data --------------------------------------------------------------------------

NUMBERS = [
    "+91 98765 43210", "9876543210", "(555) 010-0199", "0049 30 1234567", "030/1234567", "123-4567",
    "98765.43210", "9 8 7 6 5 4 3 2 1 0", "+1.555.010.0199", "९८७६५४३२१०", "+91-98-7654-3210",
    "98765 43210 98765 43211", "98765_43210", "+91_98765_43210", "98_76_54_32_10",
]  # fmt: skip
MAILS = ["john.doe+x@ex.co.uk", "ÄÖ@exämple.de", "j@x.io"]
LEFT = [
    "2025-11-30T17:51:52", "2025-11-21 13:45:20", "2026-01-31 11:47:38.067021+00:00", "2026-02-07T05:57:45Z",
    "10.12.2025", "31/12/2025 10:30", "20250130", "20250130T101530Z", "2024-2025", "10:30-11:45", "150.5",
    "12.345678", "192.168.100.200", "2d81624a-a0ec-4459-9399-cf71fb21be06",
    "01234567-89ab-cdef-0123-456789012345",
    "INV-2025-001", "2024_01_15", "20250130_101530", "1700000000_12", "x_98765_43210",
    "T8ff2ccdffe9a11f0878d43cd8a99e069", "1234567890123456", "45,000", "12345", "a @ b",
    "@handle",
    "https://rec.example/9876543210.wav?t=1700000000",
]  # fmt: skip


@each_row("found", NUMBERS + MAILS)
@each_row("around", ["{}", "call {}.", "at:{}。", "<{}>, now"])
def test_addresses_and_numbers_are_found_in_free_text(found: str, around: str) -> None:
    assert text(around.format(found)) == around.format("[redacted]")


@each_row("number", NUMBERS)
def test_a_number_is_found_in_scripts_without_spaces(number: str) -> None:
    assert text(f"电话{number}。") == "电话[redacted]。"


@each_row("left", LEFT)
@each_row("around", ["{}", "on {}, now", "({})"])
def test_digits_that_are_not_a_phone_number_stay(left: str, around: str) -> None:
    assert text(around.format(left)) == around.format(left)


def test_an_address_in_a_url_is_redacted_and_the_rest_stays() -> None:
    assert (
        text("see https://x.example/9876543210?to=j@x.io&a=1 now")
        == "see https://x.example/9876543210?to=[redacted]&a=1 now"
    )


def test_the_number_of_the_agent_stays() -> None:
    assert dropped({"output": {"assistant_number": "+911400000000"}})["output"] == {
        "assistant_number": "+911400000000"
    }


# --- any row -----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.sampled_from([
            "John Doe",
            "+91 98765 43210",
            "9876543210",
            "j@x.io",
            '{"name": "Ann"}',
            '["\\u0000"]',
        ]),
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "phone", "id", "a b", "text", "customer", "number"])
            | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
MODES: list[Literal["drop", "hash"]] = ["drop", "hash"]


@given(
    st.dictionaries(st.sampled_from(["input", "output", "task", "name", "run_id"]), JSON),
    st.sampled_from(MODES),
)
def test_a_redacted_row_has_the_same_shape(row: dict[str, Any], mode: Literal["drop", "hash"]) -> None:
    redactor = Redactor(mode, KEY)
    sent = line(row)
    redacted = redactor(sent)
    assert b"\n" not in redacted
    assert redactor(sent) == redacted
    assert_same_shape(json.loads(sent), json.loads(redacted), is_plain=True)


def assert_same_shape(sent: Any, left: Any, *, is_plain: bool) -> None:
    if isinstance(sent, dict):
        # Keys that are not identifiers may be redacted and then be equal.
        plain = {key: value for key, value in sent.items() if re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII)}
        assert plain.keys() <= left.keys()
        for key, value in plain.items():
            assert_same_shape(value, left[key], is_plain=kind_of_key(key) == "text")
    elif isinstance(sent, list):
        assert len(sent) == len(left)
        for one, other in zip(sent, left, strict=True):
            assert_same_shape(one, other, is_plain=False)
    elif isinstance(sent, bool) or sent is None:
        assert left is sent
    elif isinstance(sent, str):
        assert left is None or isinstance(left, str)
    else:
        assert left is None or left == sent or str(left).startswith("h:")


# --- how a row is written ----------------------------------------------------------------------------------

NAMES = ["Anna Schmidt", "O'Brien", "Li", "李小龙", "Zoë Quinn", "Will Smith", "N/A", ""]
NUMBERS = [
    "+49 170 1234567",
    "9876543210",
    "98765_43210",
    "12345",
    "2026-01-15T10:00:00Z",
    "policy 123456789",
]
ADDRESSES = ["anna@example.com", "a.b%40example.org", "https://example.com/?m=anna@example.com&p=9876543210"]
WORDS = st.sampled_from([*NAMES, *NUMBERS, *ADDRESSES, "assistant", "will", "v1.2", "\0", "\t"])
TEXTS = WORDS | st.lists(WORDS, max_size=5).map(" ".join) | st.text(max_size=10)
FIELDS = st.sampled_from([
    *("name", "customerName", "contact_number", "Phone No. 2", "email", "number", "user_info", "location"),
    *(
        "content",
        "role",
        "type",
        "status",
        "id",
        "ref_id",
        "input",
        "output",
        "tags",
        "Anna Schmidt",
        "9876543210",
    ),
    *("cost", "time", "created", "user", "run_id", "assistant_number", "structured_data", "city"),
])
WHOLE = st.sampled_from([0, 12345678, 9876543210, -9876543210, 10**15, 2**70])
SCALARS = st.none() | st.booleans() | WHOLE | st.sampled_from([0.5, 1e7, 98765432.0, 1e22]) | TEXTS


def with_children(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.dictionaries(FIELDS, values, max_size=5)
    return objects | st.lists(values, max_size=4) | objects.map(json.dumps)


ROWS = st.dictionaries(FIELDS, st.recursive(SCALARS, with_children, max_leaves=15), max_size=8)


@given(ROWS, st.sampled_from(MODES))
@settings(max_examples=400)
def test_the_notation_of_a_row_does_not_change_what_is_redacted(
    row: dict[str, Any], mode: Literal["drop", "hash"]
) -> None:
    """The service writes no spaces and no escapes. Rows that have some are read in a slower way."""
    redactor = Redactor(mode, KEY)
    compact = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    redacted = json.loads(redactor(compact))
    for other in (json.dumps(row), json.dumps(row, ensure_ascii=False, indent=1)):
        assert json.loads(redactor(other.encode())) == redacted


SPOKEN = st.fixed_dictionaries(
    {"role": WORDS, "content": TEXTS},
    optional={"user_id": WORDS | st.none(), "timestamp": WORDS, "new": TEXTS},
)
TIMED = st.fixed_dictionaries(
    {"role": WORDS, "message": TEXTS},
    optional={"time": st.sampled_from([1.5, 1700000000123]), "endTime": st.just(2), "name": TEXTS},
)
CALLS = st.fixed_dictionaries({
    "input": st.fixed_dictionaries({"name": TEXTS, "contact_number": TEXTS}),
    "output": st.fixed_dictionaries({
        "transcript": st.lists(SPOKEN, max_size=9),
        "messages": st.lists(TIMED, max_size=9),
    }),
})


@given(CALLS, st.sampled_from(MODES))
@settings(max_examples=400)
def test_the_notation_of_messages_does_not_change_what_is_redacted(
    row: dict[str, Any], mode: Literal["drop", "hash"]
) -> None:
    redactor = Redactor(mode, KEY)
    compact = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    assert json.loads(redactor(compact)) == json.loads(redactor(json.dumps(row).encode()))


@each_row(
    ("sent", "left"),
    [
        ('"role":"Zed Quix","content":"a"', '"role":"Zed Quix","content":"a"'),
        ('"content":"Zed Quix"', '"content":"[redacted]"'),
        ('"content":"{\\"name\\":\\"Li\\"}"', '"content":"{\\"name\\":null}"'),
        ('"content":"a\\u0000Quix"', '"content":"a\\u0000[redacted]"'),
        ('"content":"Quix, \u212aeller"', '"content":"[redacted], [redacted]"'),
        ('"content":"\u0968\u0969\u096a\u096b\u096c\u096d\u096d\u0968"', '"content":"[redacted]"'),
        ('"role":"+1 555 0100200","content":"a"', '"role":"[redacted]","content":"a"'),
        ('"role":"j@x.io","content":"a"', '"role":"[redacted]","content":"a"'),
        ('"content":"a","timestamp":"5550100200"', '"content":"a","timestamp":"[redacted]"'),
        ('"content":"a","timestamp":15550100200.0', '"content":"a","timestamp":15550100200.0'),
        ('"content":"a","name":"Zed"', '"content":"a","name":null'),
        ('"content":null', '"content":null'),
    ],
)
def test_messages_are_redacted_like_other_strings(sent: str, left: str) -> None:
    usual = ",".join(['{"role":"user","content":"a b c","timestamp":"2026-01-15T10:00:00"}'] * 9)
    row = '{"input":{"name":%s,"customer":"Keller","phone":%s},"output":{"transcript":[%s,{%s}]}}'
    sent, left = ('"role":"user",' + one for one in (sent, left))  # a second role is a repeated key
    before = row % ('"Zed Quix"', '"5550100200"', usual, sent)
    after = row % ("null", "null", usual, left)
    assert drop(before.encode()).decode() == after.replace('"Keller"', "null")


@given(
    st.from_regex(r"[A-Z][a-z]{4,9} [A-Z][a-z]{4,9}", fullmatch=True),
    st.from_regex(r"[6-9][0-9]{9}", fullmatch=True),
    st.text(max_size=20),
    st.sampled_from(MODES),
)
def test_a_name_and_a_number_of_the_row_are_nowhere_in_the_redacted_line(
    name: str, number: str, around: str, mode: Literal["drop", "hash"]
) -> None:
    spaced = f"{number[:5]} {number[5:]}"
    texts = [
        f"{around}{name}{around}",
        name.upper(),
        f"{around} {number}",
        f"+91{number}",
        f"x{spaced}",
        f"https://x.example/{number}",
    ]
    row = {
        "input": {"name": name, "contact_number": number},
        "output": {"transcript": [{"role": "user", "content": one} for one in texts]},
    }
    try:
        sent = line(row)
    except UnicodeEncodeError:
        return
    redacted = Redactor(mode, KEY)(sent).decode()
    assert name.lower() not in redacted.lower()
    assert number not in redacted
    assert spaced not in redacted


@each_row(
    "sent",
    [
        b'{"name":"Zed","name":"Quix","a":"Zed Quix"}',
        b'{"a":1e999,"number":1e999,"name":%b}' % (b"9" * 5000),
        b'{"a":' + b'{"name":[' * 200 + b'"Zed"' + b"]}" * 200 + b"}",
        b'{"a":' + b"[" * 490 + b'"j@x.io"' + b"]" * 490 + b"}",
        rb'{"na\u006de":"Z\u0065d Q","a":"\u005aed Q, \ud83d\ude00 \n\u0000"}',
        b'{"name":" ","contact":"-","phone":"+","a":"x - +"}',
        b'{"a":"%b"}' % (b"a." * 50_000 + b"@"),
        b'{"a":"%b"}' % (b"1-" * 50_000),
        b'{"name":"%b"}' % (b"Zed " * 20_000),
    ],
    ids=lambda sent: sent[:30].decode(),
)
def test_unusual_rows_are_redacted_too(sent: bytes) -> None:
    row = row_line(sent, keep_user_token=False)
    for redactor in (drop, hashed):
        redacted = redactor(row)
        assert row_line(redacted, keep_user_token=True) == redacted
        for secret in (b"Zed", b"Quix", b"j@x.io"):
            assert secret not in redacted


@pytest.mark.parametrize(("mode", "key"), [("hash", b""), ("none", KEY)])
def test_a_redactor_without_protection_is_an_error(mode: Any, key: bytes) -> None:
    with pytest.raises(InvalidArgument, match="redact"):
        Redactor(mode, key)


def test_different_keys_give_different_hashes() -> None:
    row = line({"name": "Zed"})
    assert hashed(row) == hashed(line({"name": " zED "})) != Redactor("hash", b"other")(row)
