"""What is not a phone number is refused before anything is sent or written to a journal."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import each_row
from unpod_async import CreateRequest, InvalidArgument, UnpodClient
from unpod_async._create import encode_create
from unpod_async.testing import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NUMBERS = [
    "9000000001",
    "+919000000001",
    "+91 90000 00001",
    "(022) 1234-5678",
    "+(91) 22 1234 5678",
    "+91 (22) 1234 (5678)",
    "022.1234.5678",
    "022.1234.000",
    "022.1234",
    "1-800 - 555.(0100)",
    "00919000000001",
    "100",
    "000",
    "1" * 20,
    "+" + "1 " * 19 + "1",
]
NOT_NUMBERS = [
    # Number of digits.
    ("", "must not be empty"),
    ("12", "2 digits"),
    ("1", "1 digit"),
    ("1" * 21, "21 digits"),
    ("-", "0 digits"),
    ("+", "0 digits"),
    ("().- ", "0 digits"),
    # What spreadsheets and data frames make of numbers.
    ("9.19E+11", "scientific notation"),
    ("9e10", "scientific notation"),
    ("9,19E+11", "scientific notation"),
    ("9000000001.0", "decimal point and zeros"),
    ("+919000000001.00", "decimal point and zeros"),
    ("(9000000001.0)", "decimal point and zeros"),
    ("+91 90000 00001.000", "decimal point and zeros"),
    ("'+919000000001", "an apostrophe"),
    ("nan", "a letter"),
    ("#N/A", "the character #"),
    ("N/A", "a letter"),
    ("null", "a letter"),
    ("=9000000001", "the character ="),
    ("9,000,000,001", "the character ,"),
    # Letters and extensions.
    ("abc", "a letter"),
    ("1-800-FLOWERS", "a letter"),
    ("9000000001x12", "a letter"),
    ("9000000001;9000000002", "the character ;"),
    ("9000000001/2", "the character /"),
    ("tel:+919000000001", "a letter"),
    ("9000000001#", "the character #"),
    # Signs and separators at the wrong position.
    ("9000000001+", "plus sign"),
    ("(+91) 9000000001", "plus sign"),
    ("++919000000001", "plus sign"),
    (" 9000000001", "before its first or after its last digit"),
    ("9000000001 ", "before its first or after its last digit"),
    ("-9000000001", "before its first or after its last digit"),
    ("+ 91 9000000001", "before its first or after its last digit"),
    (".9000000001", "before its first or after its last digit"),
    ("9000000001.", "before its first or after its last digit"),
    ("9000000001\n", "a tab or a line break"),
    ("\t9000000001", "a tab or a line break"),
    # Characters that are not what they look like.
    ("\u202a+919000000001\u202c", "an invisible character (U+202A)"),
    ("+91\u200b9000000001", "an invisible character (U+200B)"),
    ("\ufeff9000000001", "an invisible character (U+FEFF)"),
    ("90000\xa000001", "an invisible character (U+00A0)"),
    ("90000\u200900001", "an invisible character (U+2009)"),
    ("90000\x1b00001", "an invisible character (U+001B)"),
    ("\u096f" * 10, "a digit that is not ASCII (U+096F)"),
    ("９000000001", "a digit that is not ASCII (U+FF19)"),
    ("9000000001²", "a digit that is not ASCII (U+00B2)"),
    ("\uff0b919000000001", "a character that is not ASCII (U+FF0B)"),
    ("90000\u201300001", "a character that is not ASCII (U+2013)"),
    ("9000000001\u0301", "a letter or a mark that is not ASCII (U+0301)"),
    ("9000000001\ufe0f", "a letter or a mark that is not ASCII (U+FE0F)"),
    ("٩٠٠٠٠٠٠٠٠١", "a digit that is not ASCII"),
    ("9000О0001", "a letter or a mark that is not ASCII (U+041E)"),
]


def document(number: str = "9000000001", **more: Any) -> dict[str, Any]:
    return {"name": "A. Example", "contact_number": number, **more}


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Sandbox, UnpodClient]]:
    async with (
        Sandbox(runs=1, tasks_per_run=1) as sandbox,
        UnpodClient(sandbox.token, sandbox.org_handle, sandbox.base_url, retry=None) as unpod,
    ):
        yield sandbox, unpod


@each_row("number", NUMBERS)
def test_a_number_is_sent_as_it_is_written(number: str) -> None:
    body, _ = encode_create(pilot="agent", documents=[document(number)], context="Call.")
    assert f'"contact_number":"{number}"'.encode() in body


@each_row(("number", "reason"), NOT_NUMBERS)
def test_anything_else_is_refused_with_its_reason(number: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        encode_create(pilot="agent", documents=[document(), document(number)], context="Call.")
    error = caught.value
    assert error.summary.startswith("documents[1].contact_number ")
    assert reason in error.summary
    assert error.problems == (error.summary,)
    assert error.argument == "documents"
    # The number is personal data.
    assert len(number) < 3 or number not in str(error).replace(reason, "")


@given(st.text(alphabet="0123456789+ .-()", max_size=26))
def test_an_accepted_number_is_digits_with_separators_between_them(number: str) -> None:
    digits = sum(character.isdigit() for character in number)
    inner = number.removeprefix("+").removeprefix("(").removesuffix(")")
    whole, dot, zeros = number.removesuffix(")").partition(".")
    expected = (
        3 <= digits <= 20
        and "+" not in inner
        and inner[0].isdigit()
        and inner[-1].isdigit()
        and not (dot and zeros and not zeros.strip("0"))
    )
    assert not expected or whole
    try:
        encode_create(pilot="agent", documents=[document(number)], context="Call.")
    except InvalidArgument:
        assert not expected
    else:
        assert expected


@given(st.text(max_size=20))
def test_a_number_is_ascii(number: str) -> None:
    try:
        encode_create(pilot="agent", documents=[document(number)], context="Call.")
    except InvalidArgument as error:
        shown = error.summary
    else:
        shown = ""
        assert set(number) <= set("0123456789+ .-()")
    assert not shown or shown.isprintable()


BAD = [
    document(),
    document("nan"),
    document("9000000001.0"),
    {"name": "B"},
    document(id="a"),
    document(id="a"),
]
LISTED = [
    "documents[1].contact_number is not a phone number: it contains a letter",
    "documents[2].contact_number is not a phone number: it ends in a decimal point and zeros",
    "documents[3] must have 'contact_number'",
    "documents[5] has the same id as documents[4]",
]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_every_bad_document_is_listed_and_nothing_is_sent(*, dry_run: bool) -> None:
    async with serving() as (sandbox, unpod):
        with pytest.raises(InvalidArgument) as caught:
            await unpod.tasks.create(
                sandbox.space_token, pilot="agent", documents=BAD, context="Call.", dry_run=dry_run
            )
        error = caught.value
        assert error.summary.startswith("documents: 4 of 6 cannot be sent: ")
        for problem, listed in zip(error.problems, LISTED, strict=True):
            assert problem.startswith(listed)
            assert listed in error.summary
        assert "3 to 20 ASCII digits" in str(error.hint)
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert (str(again), again.problems) == (str(error), error.problems)
        assert sandbox.requests == 0


def test_a_message_has_an_end() -> None:
    with pytest.raises(InvalidArgument) as caught:
        encode_create(pilot="agent", documents=[document("x")] * 10_000, context="Call.")
    assert len(caught.value.problems) == 10_000
    assert len(str(caught.value)) < 10_000
    assert "; and 9900 more" in caught.value.summary


async def test_the_whole_job_is_checked_before_its_first_request(tmp_path: Path) -> None:
    def request(**more: Any) -> CreateRequest:
        return CreateRequest(**{"pilot": "agent", "documents": [document()], "context": "Call.", **more})

    requests: list[Any] = [
        request(),
        request(documents=BAD),
        request(pilot="../x"),
        request(context=" "),
        request(documents=iter([document(), document("N/A")])),
        "request",
        request(schedule="later"),
        request(documents=[]),
    ]
    journal = tmp_path / "j"
    async with serving() as (sandbox, unpod):
        with pytest.raises(InvalidArgument) as caught:
            await unpod.tasks.create_many(sandbox.space_token, iter(requests), journal=journal)
        error = caught.value
        expected = [
            *(f"requests[1].{listed}" for listed in LISTED),
            "requests[2].pilot ",
            "requests[3].context ",
            "requests[4].documents[1].contact_number ",
            "requests[5] must be a CreateRequest, not str",
            "requests[6].schedule ",
            "requests[7].documents must contain at least one mapping",
        ]
        for problem, start in zip(error.problems, expected, strict=True):
            assert problem.startswith(start)
            assert start in error.summary
        assert error.summary.startswith("requests: 7 of 8 cannot be sent: ")
        assert error.argument == "requests"
        assert not journal.exists()
        assert sandbox.requests == 0
        # Without them the same job runs, with one request for each request.
        results = await unpod.tasks.create_many(sandbox.space_token, [request(), request()], journal=journal)
        assert [result.state for result in results] == ["created", "created"]
        assert sandbox.requests == 2


async def test_what_is_sent_is_what_was_checked(tmp_path: Path) -> None:
    """The caller changes a document while an earlier request is under way."""
    mine = document()
    request = CreateRequest(pilot="agent", documents=[mine], context="Call.")
    async with serving() as (sandbox, unpod):

        async def spoil() -> None:
            await sandbox.arrived(1)
            mine["contact_number"] = "nan"

        spoiling = asyncio.ensure_future(spoil())
        await unpod.tasks.create_many(sandbox.space_token, [request, request], journal=tmp_path / "j")
        await spoiling
        assert [call.document["contact_number"] for call in sandbox.ledger] == ["9000000001"] * 2
