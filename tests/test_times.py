"""What counts as a time, and that nothing else ever gets in the way of a row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tables import each_row
from unpod_async._common import parse_time

WIRE_FORMS = [
    ("2025-11-30T17:51:52", datetime(2025, 11, 30, 17, 51, 52, tzinfo=UTC)),
    ("2025-01-15T14:30:00.000000", datetime(2025, 1, 15, 14, 30, tzinfo=UTC)),
    ("2026-01-15T10:03:31.000001", datetime(2026, 1, 15, 10, 3, 31, 1, tzinfo=UTC)),
    ("2026-02-07T05:57:45Z", datetime(2026, 2, 7, 5, 57, 45, tzinfo=UTC)),
    ("2025-11-17T12:05:00.000Z", datetime(2025, 11, 17, 12, 5, tzinfo=UTC)),
    ("2026-11-22T07:10:12.955006Z", datetime(2026, 11, 22, 7, 10, 12, 955006, tzinfo=UTC)),
    ("2025-11-21 13:45:20", datetime(2025, 11, 21, 13, 45, 20, tzinfo=UTC)),
    ("2026-01-31 11:47:38.067021", datetime(2026, 1, 31, 11, 47, 38, 67021, tzinfo=UTC)),
    ("2026-01-15T10:03:00+00:00", datetime(2026, 1, 15, 10, 3, tzinfo=UTC)),
    ("2026-01-15T10:01:00.123456+00:00", datetime(2026, 1, 15, 10, 1, 0, 123456, tzinfo=UTC)),
    ("2026-01-15 10:03:00+05:30", datetime(2026, 1, 15, 4, 33, tzinfo=UTC)),
    ("2026-01-15T10:03:00-0800", datetime(2026, 1, 15, 18, 3, tzinfo=UTC)),
    ("2026-01-15t10:03:00z", datetime(2026, 1, 15, 10, 3, tzinfo=UTC)),
    (" 2026-01-15T10:03:00\n", datetime(2026, 1, 15, 10, 3, tzinfo=UTC)),
    ("2026-01-15T10:03:00.123456789Z", datetime(2026, 1, 15, 10, 3, 0, 123456, tzinfo=UTC)),
    ("2026-01-15T10+05:30", datetime(2026, 1, 15, 4, 30, tzinfo=UTC)),
    ("2026-01-15T10:03:00.12345Z", datetime(2026, 1, 15, 10, 3, 0, 123450, tzinfo=UTC)),
    ("2026-01-15", datetime(2026, 1, 15, tzinfo=UTC)),
    (1900000000, datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)),
    (1795332669.5, datetime(2026, 11, 22, 7, 31, 9, 500000, tzinfo=UTC)),
    ("1900000000", datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)),
    (" 1900000000 ", datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)),
    ("1795332669.5", datetime(2026, 11, 22, 7, 31, 9, 500000, tzinfo=UTC)),
    (0, datetime(1970, 1, 1, tzinfo=UTC)),
    (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
]

NOT_TIMES: list[Any] = [
    None,
    "",
    " ",
    "N/A",
    "NULL",
    "None",
    "null",
    "now",
    True,
    False,
    float("nan"),
    float("inf"),
    float("-inf"),
    "nan",
    "inf",
    10**30,
    -(10**30),
    10**400,
    1e300,
    "9" * 12,
    "9" * 5000,
    "-",
    "1_000",
    "١٧٦٨٤٧٤٨٠٠",
    "1700000000000",
    1768474800000,
    "2026-02-30T00:00:00",
    "2026-01-15T10:00:60",
    "2026-13-01",
    "2026-01-15T10:03:00+24:00",
    "2026-01-15T10:03:00\x00",
    "2026-01-15x10:03:00",
    "2026-01-15T10:03:00 UTC",
    "2026-W05",
    "２０２６-01-15",
    "2026-01-15T\ud800",
    "0001-01-01T00:00:00+05:00",
    "9999-12-31T23:59:59-05:00",
    b"2026-01-15T10:03:00",
    1j,
    [],
    {},
    pytest.param(object(), id="object"),
]


@each_row(("value", "moment"), WIRE_FORMS)
def test_every_form_of_the_wire_becomes_one_moment_in_utc(value: object, moment: datetime) -> None:
    parsed = parse_time(value)

    assert parsed == moment
    assert parsed is not None
    assert parsed.tzinfo is UTC


@each_row("value", NOT_TIMES, ids=lambda value: ascii(value)[:30])
def test_what_is_not_a_time_is_none(value: object) -> None:
    assert parse_time(value) is None


def test_digits_are_unix_seconds_and_never_a_compact_date() -> None:
    assert parse_time("20251130") == datetime(1970, 8, 23, 9, 18, 50, tzinfo=UTC)
    assert parse_time("20260115100") == datetime.fromtimestamp(20260115100, UTC)


ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.complex_numbers(),
    st.decimals(),
    st.text(alphabet="0123456789-:T .+Z", max_size=40),
    st.text(alphabet=st.characters()),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.integers()),
    st.builds(object),
)


@settings(deadline=None)
@given(ANYTHING)
def test_no_value_raises_and_every_answer_is_aware(value: object) -> None:
    moment = parse_time(value)

    assert moment is None or moment.tzinfo is UTC


ZONES: st.SearchStrategy[Any] = st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=30))])


@settings(deadline=None)
@given(
    st.datetimes(
        # A day of room, so that every offset stays inside the years 1 to 9999.
        min_value=datetime(1, 1, 2),  # noqa: DTZ001
        max_value=datetime(9999, 12, 30),  # noqa: DTZ001
        timezones=ZONES,
    ),
    st.sampled_from(["T", " "]),
)
def test_every_moment_that_is_written_as_iso_is_read_back(moment: datetime, separator: str) -> None:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    assert parse_time(moment.isoformat(separator)) == aware


@settings(deadline=None)
@given(st.integers(min_value=-62_135_596_800, max_value=253_402_300_799))
def test_unix_seconds_are_the_same_as_number_and_as_text(seconds: int) -> None:
    assert parse_time(seconds) == parse_time(str(seconds)) == datetime.fromtimestamp(seconds, UTC)
