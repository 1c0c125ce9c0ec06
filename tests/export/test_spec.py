"""`ExportSpec`: what it accepts, what identifies a data set, and that its three uses agree."""

from __future__ import annotations

import typing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.tables import each_row
from unpod_async import ExportSpec, InvalidArgument, UnpodClient
from unpod_async._export import ExportOptions, differing_options, field_types

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)


def spec(**options: Any) -> ExportSpec:
    values: dict[str, Any] = {"spaces": "S", **options}
    return ExportSpec(**values)


def test_the_keyword_arguments_are_the_fields() -> None:
    fields = list(ExportSpec.__struct_fields__)
    assert fields[0] == "spaces"
    assert list(ExportOptions.__annotations__) == fields[1:]


def test_each_field_is_documented_for_help() -> None:
    for name, annotation in field_types().items():
        (description,) = (meta.description for meta in annotation.__metadata__ if meta.description)
        assert description.endswith("."), name
        assert f"{name}: {description[:40]}" in str(ExportSpec.__doc__)


def test_keyword_arguments_accept_more_types_than_the_fields_hold() -> None:
    found = spec(runs=["R2", "R1", "R2"], settle_after=3600, redact="hash", redact_key="12345678")
    assert found.spaces == ("S",)
    assert found.runs == ("R1", "R2")
    assert found.settle_after == timedelta(hours=1)
    assert found.redact_key == b"12345678"
    assert spec(recording_hosts="store").recording_hosts == ("store",)
    assert spec(spaces=["B", "A", "B"]).spaces == ("B", "A")


@each_row(
    ("options", "message"),
    [
        ({"spaces": []}, "spaces must contain at least one"),
        ({"spaces": 3}, "spaces must be"),
        ({"spaces": ["a/b"]}, "spaces"),
        ({"format": "xml"}, "format must be 'jsonl', 'jsonl.gz', 'csv' or 'parquet'"),
        ({"runs": 5}, "runs must be"),
        ({"runs": []}, "runs must contain at least one"),
        ({"runs": ["R1"], "spaces": ["A", "B"]}, "runs can only be selected in a single space"),
        ({"since": datetime(2030, 1, 1)}, "since must be a timezone-aware datetime"),  # noqa: DTZ001 - the fault
        ({"until": "2030-01-31"}, "until must be a timezone-aware datetime"),
        ({"since": NOON, "until": NOON - timedelta(1)}, "since is after until"),
        ({"full": 1}, "full must be True or False"),
        ({"csv_safe": "yes"}, "csv_safe must be True or False"),
        ({"csv_bom": "yes"}, "csv_bom must be True or False"),
        ({"keep_user_tokens": None}, "keep_user_tokens must be True or False"),
        ({"recordings": "all"}, "recordings must be True or False"),
        ({"redact": "mask"}, "redact must be 'drop', 'hash' or None"),
        ({"redact_key": b"12345678"}, "redact_key is only used with redact='hash'"),
        ({"redact": "hash", "redact_key": "short"}, "redact_key must have at least 8 bytes"),
        ({"recording_hosts": [1]}, "recording_hosts must be"),
        ({"settle_after": -1}, "settle_after must be"),
        ({"settle_after": float("inf")}, "settle_after must be"),
        ({"settle_after": True}, "settle_after must be"),
        ({"settle_after": 1e300}, "settle_after must be"),
        ({"concurrency": 0}, "concurrency must be an integer from 1 to 1024"),
        ({"concurrency": True}, "concurrency must be an integer"),
        ({"page_size": 1.5}, "page_size must be an integer"),
        ({"part_bytes": 0}, "part_bytes must be an integer"),
    ],
)
def test_other_values_are_refused_with_the_name_of_the_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as raised:
        spec(**options)
    assert raised.value.argument in options


def test_the_redaction_key_is_neither_shown_nor_stored() -> None:
    found = spec(redact="hash", redact_key=b"very-secret-key")
    assert "very-secret" not in repr(found)
    assert "very-secret" not in str(found.dataset_options("https://unpod.ai/"))


def test_how_an_export_runs_does_not_identify_the_data_set() -> None:
    options = spec().dataset_options("https://unpod.ai/")
    running = spec(full=True, settle_after=1, concurrency=9, page_size=7, part_bytes=8, recording_hosts="h")
    assert running.dataset_options("https://unpod.ai/") == options


def test_what_identifies_the_data_set_is_compared_by_value() -> None:
    stored = spec(since=NOON, runs=["R2", "R1"]).dataset_options("P")
    same = spec(since=NOON.astimezone(timezone(timedelta(hours=5))), runs=["R1", "R2"]).dataset_options("P")
    assert differing_options(stored, same) == []
    other = spec(format="csv", redact="drop").dataset_options("Q")
    assert differing_options(stored, other) == ["platform", "runs", "since", "format", "redact"]


def test_an_option_that_is_newer_than_the_target_counts_as_its_default() -> None:
    stored = spec().dataset_options("P")
    del stored["recordings"]
    assert differing_options(stored, spec().dataset_options("P")) == []
    assert differing_options(stored, spec(recordings=True).dataset_options("P")) == ["recordings"]


async def test_options_next_to_a_spec_are_refused() -> None:
    async with UnpodClient("k" * 40) as unpod:
        with pytest.raises(InvalidArgument, match="full"):
            await unpod.export(spec(), "data", full=True)
        with pytest.raises(TypeError, match="formats"):
            await unpod.export("S", "data", **typing.cast("Any", {"formats": "csv"}))
