"""Accepted arguments of a create are sent as given; what the server mishandles is refused."""

from __future__ import annotations

import copy
import enum
import json
import math
import pickle
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import each_row
from unpod_async._create import encode_create
from unpod_async.create import ScheduleAuto, ScheduleCustom, ScheduleNow
from unpod_async.errors import InvalidArgument

EXCHANGES = json.loads((Path(__file__).parent / "data" / "exchanges.json").read_text("utf-8"))
SENT = [
    pytest.param(exchange["request_body"], exchange["status"], id=exchange["name"])
    for exchange in EXCHANGES
    if exchange["name"].startswith("create:") and isinstance(exchange["request_body"], dict)
]
NUMBER = "+919876543210"
PERSON = "Ada Lovelace"


def document(**more: Any) -> dict[str, Any]:
    return {"name": PERSON, "contact_number": NUMBER} | more


def encode(**more: Any) -> tuple[bytes, tuple[str, ...]]:
    return encode_create(**{"pilot": "agent-1", "documents": [document()], "context": "Call."} | more)


def refusal(**more: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        encode(**more)
    assert NUMBER not in str(caught.value)
    assert PERSON not in str(caught.value)
    text = caught.value.summary
    assert text.isprintable()
    assert len(text) < 400
    assert caught.value.argument in {"pilot", "documents", "context", "schedule"}
    assert caught.value.argument in text
    return text


def wire(schedule: Any) -> Any:
    return json.loads(encode(schedule=schedule)[0])["schedule"]


def test_the_body_has_the_documented_keys_and_nothing_else() -> None:
    body, ids = encode(documents=[document(document_id="d1")])
    assert json.loads(body) == {
        "pilot": "agent-1",
        "documents": [{"name": PERSON, "contact_number": NUMBER, "document_id": "d1"}],
        "context": "Call.",
        "schedule": {"type": "now"},
    }
    assert list(json.loads(body)) == ["pilot", "documents", "context", "schedule"]
    assert ids == ("d1",)


@each_row(("body", "status"), SENT)
def test_recorded_bodies_are_sent_unchanged_or_refused_for_a_reason(
    body: dict[str, Any], status: int
) -> None:
    schedule = body.get("schedule", {"type": "now"})
    if isinstance(schedule, dict) and schedule["type"] == "custom":
        arguments: Any = (schedule.get("calling_date"), schedule.get("calling_time"))
        if None in arguments:
            assert status != 200
            return
        given: Any = ScheduleCustom(*arguments)
    else:
        given = schedule if isinstance(schedule, str) else schedule["type"]
    refused, encoded = "", b""
    try:
        encoded, _ = encode_create(
            pilot=body["pilot"],
            documents=body["documents"],
            context=body.get("context"),  # type: ignore[arg-type]
            schedule=given,
        )
    except InvalidArgument as error:
        refused = str(error)
    if refused:
        # The server accepts documents without a name or number, although the API documents them as required.
        assert status != 200 or "must have 'name'" in refused
    else:
        assert json.loads(encoded) == body | {
            "schedule": {"type": given} if isinstance(given, str) else schedule
        }


@each_row(
    ("schedule", "sent"),
    [
        ("now", {"type": "now"}),
        ("auto", {"type": "auto"}),
        (ScheduleNow(), {"type": "now"}),
        (ScheduleAuto(), {"type": "auto"}),
        (
            ScheduleCustom("2030-01-01", "10:00 PM"),
            {"type": "custom", "calling_date": "2030-01-01", "calling_time": "10:00 PM"},
        ),
        (
            ScheduleCustom(date(2030, 1, 1), time(10)),
            {"type": "custom", "calling_date": "2030-01-01", "calling_time": "10:00"},
        ),
    ],
)
def test_a_schedule_is_tagged_by_its_type(schedule: Any, sent: dict[str, str]) -> None:
    assert wire(schedule) == sent


@each_row("schedule", [None, "", "NOW", "custom", {"type": "now"}, 5, date(2030, 1, 1), ScheduleNow])
def test_any_other_schedule_is_refused(schedule: Any) -> None:
    assert refusal(schedule=schedule).startswith("schedule must be 'now', 'auto'")


@each_row(
    "value",
    [
        "2030-1-1",
        "20300101",
        "2030-02-29",
        "2030-13-01",
        "01-01-2030",
        "2030-W01-1",
        "2030-01-01\n",
        "٢٠٣٠-01-01",
        "",
        "tomorrow",
        None,
        20300101,
        datetime(2030, 1, 1, tzinfo=UTC),
    ],
)
def test_a_calling_date_is_a_valid_date(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="calling_date must be a date") as caught:
        ScheduleCustom(value, "10:00")
    assert caught.value.argument == "calling_date"


@each_row(
    "value",
    [
        "10:00",
        "00:00",
        "23:59",
        "07:31:09",
        "10:00+05:30",
        "07:31:09-03:00",
        "10:00 PM",
        "12:30 am",
        "01:02:03 AM",
    ],
)
def test_every_time_format_of_the_server_is_sent_as_written(value: str) -> None:
    assert ScheduleCustom("2030-01-01", value).calling_time == value


@each_row(
    "value",
    [
        "",
        "10",
        "9:30",
        "24:00",
        "10:60",
        "10:00:60",
        "10.00",
        "13:00 PM",
        "00:30 AM",
        "10:00PM",
        "10:00 PM+05:30",
        "10:00+5",
        "10:00+24:00",
        "10:00 Europe/Berlin",
        "10:00\n",
        " 10:00",
        "noon",
        "١٠:٠٠",
        None,
        10,
        time(10, 0, 0, 1),
        time(10, tzinfo=timezone(timedelta(seconds=1))),
    ],
)
def test_any_other_time_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="calling_time must be HH:MM") as caught:
        ScheduleCustom("2030-01-01", value)
    assert caught.value.argument == "calling_time"


def test_a_time_keeps_its_seconds_and_its_offset() -> None:
    assert ScheduleCustom("2030-01-01", time(7, 31, 9)).calling_time == "07:31:09"
    assert (
        ScheduleCustom("2030-01-01", time(10, tzinfo=timezone(timedelta(hours=5.5)))).calling_time
        == "10:00+05:30"
    )


def test_a_time_whose_offset_depends_on_the_date_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"use ScheduleCustom\.at") as caught:
        ScheduleCustom("2030-01-01", time(10, tzinfo=ZoneInfo("Asia/Kolkata")))
    assert caught.value.argument == "calling_time"


@pytest.mark.parametrize(
    ("moment", "day", "clock"),
    [
        (datetime(2030, 1, 1, 10, tzinfo=ZoneInfo("Asia/Kolkata")), "2030-01-01", "10:00+05:30"),
        (datetime(2030, 1, 1, 10, 0, 5, tzinfo=UTC), "2030-01-01", "10:00:05+00:00"),
        (
            datetime(2030, 1, 1, 23, 59, 59, 1, tzinfo=ZoneInfo("America/Caracas")),
            "2030-01-02",
            "00:00-04:00",
        ),
        (datetime(2030, 7, 1, 10, tzinfo=ZoneInfo("Europe/Berlin")), "2030-07-01", "10:00+02:00"),
    ],
)
def test_a_datetime_is_sent_with_the_offset_of_its_day(moment: datetime, day: str, clock: str) -> None:
    schedule = ScheduleCustom.at(moment)
    assert (schedule.calling_date, schedule.calling_time) == (day, clock)


@given(st.datetimes(timezones=st.timezones()))
def test_a_datetime_is_never_early_and_at_most_a_second_late(moment: datetime) -> None:
    try:
        schedule = ScheduleCustom.at(moment)
    except InvalidArgument:
        assert not 2 < moment.year < 9998
        return
    read = datetime.fromisoformat(f"{schedule.calling_date}T{schedule.calling_time}")
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert timedelta(0) <= (read - epoch) - (moment - epoch) < timedelta(seconds=1)


@pytest.mark.parametrize("moment", [datetime(2030, 1, 1), date(2030, 1, 1), "2030-01-01T10:00Z", None])  # noqa: DTZ001
def test_a_naive_datetime_is_refused(moment: Any) -> None:
    with pytest.raises(InvalidArgument, match="must be a timezone-aware datetime") as caught:
        ScheduleCustom.at(moment)
    assert caught.value.argument == "moment"


def test_a_datetime_at_the_end_of_the_range_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="first or last datetime") as caught:
        ScheduleCustom.at(datetime.max.replace(tzinfo=UTC))
    assert caught.value.argument == "moment"


def test_schedules_compare_by_what_is_sent_and_can_be_pickled() -> None:
    schedule = ScheduleCustom(date(2030, 1, 1), time(10))
    assert schedule == ScheduleCustom("2030-01-01", "10:00")
    assert pickle.loads(pickle.dumps(schedule)) == schedule  # noqa: S301
    with pytest.raises(AttributeError):
        schedule.calling_time = "11:00"  # type: ignore[misc]


@each_row("context", [None, "", " \n", "a\x00b", "\ud800", 5, ["a"], b"bytes"])
def test_a_context_is_a_str_that_is_not_blank(context: Any) -> None:
    assert refusal(context=context).startswith("context must")


def test_the_context_is_sent_as_written() -> None:
    assert json.loads(encode(context="  hé \n")[0])["context"] == "  hé \n"


@each_row("pilot", ["", " ", "a/b", "..", None, 5])
def test_a_pilot_is_an_id(pilot: Any) -> None:
    assert refusal(pilot=pilot).startswith("pilot ")


@each_row("documents", ["text", b"bytes", document(), MappingProxyType(document()), None, 5, object()])
def test_documents_are_a_sequence(documents: Any) -> None:
    assert (
        refusal(documents=documents)
        == f"documents must be a sequence of mappings, not {type(documents).__name__}"
    )


@pytest.mark.parametrize("documents", [[], (), iter(())])
def test_no_documents_are_refused(documents: Any) -> None:
    assert "at least one" in refusal(documents=documents)


@pytest.mark.parametrize("item", [None, "text", 5, [("name", PERSON)]])
def test_a_document_is_a_mapping(item: Any) -> None:
    assert refusal(documents=[document(), item]).startswith("documents[1] must be a mapping, not ")


@pytest.mark.parametrize(
    "make",
    [iter, tuple, lambda items: (item for item in items), lambda items: dict(enumerate(items)).values()],
)
def test_any_iterable_of_mappings_is_taken(make: Any) -> None:
    items = [document(id="1"), MappingProxyType(document(id="2")), OrderedDict(document(id="3"))]
    body, ids = encode(documents=make(items))
    assert json.loads(body)["documents"] == [dict(item) for item in items]
    assert ids == ("1", "2", "3")


@pytest.mark.parametrize("key", ["name", "contact_number"])
def test_name_and_number_are_required(key: str) -> None:
    without = document()
    del without[key]
    assert refusal(documents=[without]) == f"documents[0] must have {key!r}, a non-empty string"


@each_row("key", ["name", "contact_number"])
@each_row("value", [None, 919876543210, True, ["x"]])
def test_name_and_number_are_str(key: str, value: Any) -> None:
    assert refusal(documents=[document(**{key: value})]).startswith(f"documents[0].{key} must be a str, not ")


@each_row("key", ["name", "contact_number"])
@each_row("value, problem", [("", "empty"), (" ", "only whitespace"), ("\u2003\n", "only whitespace")])
def test_name_and_number_are_not_empty(key: str, value: str, problem: str) -> None:
    assert refusal(documents=[document(**{key: value})]) == f"documents[0].{key} must not be {problem}"


@each_row("key", ["id", "document_id"])
@each_row("value", [5, True, 1.5, ["x"], {"$oid": "x"}])
def test_an_id_of_a_document_is_a_str(key: str, value: Any) -> None:
    assert refusal(documents=[document(**{key: value})]).startswith(f"documents[0].{key} must be a str, not ")


def test_the_ids_are_those_that_the_tasks_will_have() -> None:
    documents = [
        document(id="a", document_id="b"),
        document(document_id="c"),
        document(id=None, document_id="d"),
        document(id="", document_id="e"),
        document(id=None),
        document(),
    ]
    assert encode(documents=documents)[1] == ("a", "c", "d", "e")


@pytest.mark.parametrize("first", ["id", "document_id"])
@pytest.mark.parametrize("second", ["id", "document_id"])
def test_two_documents_with_one_id_are_refused(first: str, second: str) -> None:
    text = refusal(
        documents=[document(**{first: "secret-id"}), document(), document(**{second: "secret-id"})]
    )
    assert text.startswith("documents[2] has the same id as documents[0]")
    assert "secret-id" not in text


def test_two_documents_without_ids_are_two_calls() -> None:
    assert encode(documents=[document(), document(), document(id=""), document(id="")])[1] == ()


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**4000])
def test_an_integer_beyond_64_bits_is_refused_with_its_path(value: int) -> None:
    documents = [document(), document(), document(), document(nested={"ages": [1, {"age": value}]})]
    assert refusal(documents=documents).startswith(
        "documents[3].nested.ages[1].age must fit into a signed 64-bit integer"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_is_finite(value: float) -> None:
    assert refusal(documents=[document(score=value)]).startswith("documents[0].score must be a finite number")


class Plain(enum.Enum):
    ONE = 1


@each_row(
    "value",
    [
        b"x",
        bytearray(b"x"),
        {1, 2},
        datetime(2030, 1, 1, tzinfo=UTC),
        Decimal(1),
        1j,
        object(),
        Plain.ONE,
        range(3),
        ScheduleNow(),
        msgspec.Raw(b"1"),
        iter([]),
    ],
)
def test_only_json_types_are_taken(value: Any) -> None:
    assert refusal(documents=[document(deep=[{"field": value}])]).startswith(
        "documents[0].deep[0].field must be a JSON value"
    )


@pytest.mark.parametrize("value", ["a\x00b", "\ud800", "ok \udfff"])
def test_a_str_that_cannot_be_sent_is_refused_also_as_a_key(value: str) -> None:
    assert refusal(documents=[document(about=value)]).startswith("documents[0].about must not contain a NUL")
    assert refusal(documents=[document(deep={value: 1})]).startswith(
        "key 0 of documents[0].deep must not contain a NUL"
    )


@pytest.mark.parametrize("key", [1, None, True, b"x", ("a",)])
def test_keys_are_str(key: Any) -> None:
    assert refusal(documents=[document() | {key: 1}]).startswith("key 2 of documents[0] must be a str, not ")


def test_a_key_that_may_be_personal_is_named_by_its_index() -> None:
    text = refusal(documents=[document(calls={"x": 1, NUMBER: {PERSON: math.nan}})])
    assert text.startswith("documents[0].calls.<key 1>.<key 0> must be a finite")


def nested(depth: int, kind: str) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"k": value}
    return value


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_a_document_may_be_nested_a_hundred_levels_deep(kind: str) -> None:
    encode(documents=[document(deep=nested(99, kind))])
    assert "more than 100 levels deep" in refusal(documents=[document(deep=nested(100, kind))])
    assert "more than 100 levels deep" in refusal(documents=[document(deep=nested(100_000, kind))])


def test_a_document_that_contains_itself_is_refused() -> None:
    loop = document()
    loop["self"] = [loop]
    assert "more than 100 levels deep" in refusal(documents=[loop])


def test_true_and_false_are_not_sent_as_numbers() -> None:
    body, _ = encode(documents=[document(vip=True, tags=[False])])
    assert b'"vip":true,"tags":[false]' in body


def test_members_of_str_and_int_enumerations_are_sent_as_values() -> None:
    class Label(str, enum.Enum):  # noqa: UP042 - format() of this form returns the name
        HOT = "hot"

    class Level(enum.IntEnum):
        TOP = 3

    sent = json.loads(encode(documents=[document(label=Label.HOT, level=Level.TOP)])[0])["documents"][0]
    assert (sent["label"], sent["level"]) == ("hot", 3)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
filled = texts.filter(lambda text: bool(text.strip()))
# The keys with a special meaning are overwritten below.
bags = st.dictionaries(texts.filter(lambda key: key not in {"id", "document_id"}), trees, max_size=5)
numbers = st.from_regex(r"\A\+?[0-9]{3,20}\Z")
documents_given = st.lists(
    st.builds(
        lambda bag, name, number: bag | {"name": name, "contact_number": number}, bags, filled, numbers
    ),
    min_size=1,
    max_size=4,
)


@given(documents_given, filled)
def test_an_accepted_body_decodes_back_to_what_was_given(
    documents: list[dict[str, Any]], context: str
) -> None:
    before = copy.deepcopy(documents)
    body, _ = encode(documents=documents, context=context)
    for decoded in (json.loads(body), msgspec.json.decode(body)):
        assert decoded["documents"] == documents
        assert decoded["context"] == context
    assert documents == before


anything = st.recursive(
    leaves
    | st.text(max_size=6)
    | st.integers()
    | st.floats()
    | st.binary(max_size=4)
    | st.dates()
    | st.sets(st.integers()),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(anything)
def test_anything_else_is_refused_before_it_is_sent(value: Any) -> None:
    refused, body = "", b""
    try:
        body, _ = encode(documents=[document(extra=value)])
    except InvalidArgument as error:
        refused = str(error)
    if refused:
        assert "documents[0].extra" in refused
        assert all(line.isprintable() for line in refused.splitlines())
    else:
        assert json.loads(body)["documents"][0]["extra"] == value
