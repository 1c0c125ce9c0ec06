"""The token shows itself to nobody who does not ask by name."""

from __future__ import annotations

import base64
import copy
import html
import json
import math
import pickle
import string
import traceback
from typing import Any, cast
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from tests.tables import each_row
from unpod_async._http import Secret
from unpod_async.errors import ConfigurationError

VALUE = 'k"e/y\\+%41.~&<0123456789>'
# No "*": the mask itself may then hold the token.
PRINTABLE = "".join(c for c in string.printable if "!" <= c <= "~" and c != "*")
values = st.text(PRINTABLE, min_size=8, max_size=60)


@each_row("show", [repr, str, format, "{}".format, "{!r:>40}".format, "{:.3}".format, "%s".__mod__])
def test_every_way_to_show_it_gives_the_mask(show: Any) -> None:
    assert show(Secret(VALUE)) in {"***", f"{'***':>40}"}


def test_it_is_shown_as_the_mask_inside_other_objects() -> None:
    assert repr({"token": [Secret(VALUE)]}) == "{'token': [***]}"


def test_reveal_gives_the_value() -> None:
    assert Secret(VALUE).reveal() == VALUE


def test_it_is_no_text_and_has_no_dict() -> None:
    secret = Secret(VALUE)
    assert not isinstance(secret, str)
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError):
        vars(secret)
    with pytest.raises(TypeError):
        "".join(cast("list[str]", [secret]))
    assert all(getattr(secret, name, None) != VALUE for name in dir(secret) if not name.startswith("_Secret"))


@each_row("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_is_not_pickled_and_the_refusal_says_why(protocol: int) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied") as caught:
        pickle.dumps({"deep": [Secret(VALUE)]}, protocol)
    assert VALUE not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda secret: secret.__getstate__()])
def test_it_is_not_copied(duplicate: Any) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        duplicate(Secret(VALUE))


@pytest.mark.parametrize(
    "encode", [json.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins]
)
def test_no_encoder_takes_it(encode: Any) -> None:
    with pytest.raises(TypeError):
        encode({"token": Secret(VALUE)})


def test_equality_is_by_value_and_with_secrets_only() -> None:
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret(VALUE + "x")
    assert Secret(VALUE) != VALUE


def test_it_is_not_hashable() -> None:
    with pytest.raises(TypeError):
        hash(Secret(VALUE))


@each_row("value", ["", " ", "a b", "a\n", "é", None, b"bytes", 7])
def test_what_could_not_be_a_header_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="printable ASCII"):
        Secret(value)


@given(values, st.sampled_from(["", "<", "text ", "\x00\ud800é"]))
def test_no_form_of_the_value_survives_redaction(value: str, around: str) -> None:
    secret = Secret(value)
    slashed = json.dumps(value)[1:-1].replace("/", "\\/")
    percent = [quote(value), quote(value, safe=""), quote_plus(value), quote(value, safe="").lower()]
    url = str(URL("http://h/").with_query(t=value)).partition("=")[2]
    entities = [
        html.escape(value),
        html.escape(html.escape(value)),
        "".join(f"&#{ord(character)};" for character in value),
        "".join(one if one.isalnum() else f"&#x{ord(one):02X};" for one in value),
        "".join(one if one.isalnum() else f"&#x{ord(one):x};" for one in value),
        value.replace("&", "&amp;").replace("+", "&plus;").replace("/", "&sol;").replace("=", "&equals;"),
    ]
    forms = (value, json.dumps(value)[1:-1], slashed, *percent[:3], url.replace("+", "%20"), *entities)
    for form in forms:
        assert secret.redact(f"{around}{form}{around}") == f"{around}***{around}"
    if value == value.lower():
        assert secret.redact(percent[3]) == "***"


@given(values, st.binary(max_size=30))
def test_redaction_of_bytes_leaves_the_other_bytes_alone(value: str, around: bytes) -> None:
    data = around + b"\xff" + value.encode() + b"\xff" + around
    redact_response = Secret(value).redact_bytes(data)
    assert value.encode() not in redact_response
    if value.encode() not in around:
        assert redact_response == around + b"\xff***\xff" + around


def test_text_without_the_secret_is_unchanged() -> None:
    assert Secret("abcdefgh").redact("abcdefg h ABCDEFGH") == "abcdefg h ABCDEFGH"


def jwt(claims: object, tail: str = "c2ln") -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, tail])


@each_row(
    ("value", "expiry"),
    [
        (jwt({"exp": 1768474800}), 1768474800.0),
        (jwt({"user": "é", "exp": 1768474800.5}), 1768474800.5),
        (jwt({"exp": -1}), -1.0),
        (jwt({}), math.inf),
        (jwt({"exp": "1768474800"}), math.inf),
        (jwt({"exp": True}), math.inf),
        (jwt({"exp": None}), math.inf),
        (jwt({"exp": 10**30}), math.inf),
        (jwt([]), math.inf),
        ("eyJ.e30.x", math.inf),
        ("eyJ.!!!.x", math.inf),
        ("eyJ.QQ.x", math.inf),
        ("eyJ..", math.inf),
        ("eyJhbGciOiJIUzI1NiJ9.e30", None),
        ("a.b.c", None),
        ("0123456789abcdef0123456789abcdef01234567", None),
    ],
)
def test_the_expiry_of_a_jwt(value: str, expiry: float | None) -> None:
    assert Secret(value).jwt_expiry() == expiry


@given(values)
def test_any_secret_has_an_expiry_or_none(value: str) -> None:
    for text in (value, f"eyJ.{value}.x", f"eyJ{value}"):
        assert isinstance(Secret(text).jwt_expiry(), float | None)
