"""The line of a row has the bytes of the row, except for line breaks between tokens and the user's token."""

from __future__ import annotations

import json
import re
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import each_row
from unpod_async._export import InvalidRow, row_header, row_line, row_lines
from unpod_async.testing import Sandbox

SECRET = "SYNSECRET0000"


class Pairs(list[tuple[str, Any]]):
    """An object with all its members, repeated ones as well."""


def pairs(line: bytes) -> Any:
    # Numbers as they are written: 1e999 and 2e999 are not the same.
    return json.loads(line, object_pairs_hook=Pairs, parse_int=str, parse_float=str)


def expected(row: bytes) -> Any:
    """The reference: every user token is null, and nothing else is another."""
    return without_tokens(pairs(row))


def without_tokens(value: Any) -> Any:
    if isinstance(value, Pairs):
        return Pairs((key, None if is_token_key(key) else without_tokens(inner)) for key, inner in value)
    if isinstance(value, list):
        return [without_tokens(inner) for inner in value]
    return value


def is_token_key(key: str) -> bool:
    return re.fullmatch(r"user[_\-. ]?token", key, re.IGNORECASE | re.ASCII) is not None


def lines_of(*rows: bytes, keep_user_token: bool = False) -> list[bytes | InvalidRow]:
    """The lines of a page, which take a shortcut if they can."""
    body = b'{"data":[%b]}' % b",".join(rows)
    raws = [msgspec.Raw(row) for row in rows]
    return row_lines(body, raws, list(map(row_header, raws)), keep_user_token=keep_user_token)


def without_space(text: bytes) -> bytes:
    """The tokens of a JSON text, one after the other."""
    return b"".join(piece if odd else b"".join(piece.split()) for odd, piece in pieces(text))


def pieces(text: bytes) -> list[tuple[bool, bytes]]:
    """The strings of a JSON text (True) and what is between them."""
    found, start, inside, at = list[tuple[bool, bytes]](), 0, False, 0
    while at < len(text):
        if inside and text[at : at + 1] == b"\\":
            at += 1
        elif text[at : at + 1] == b'"':
            end = at + 1 if inside else at
            found.append((inside, text[start:end]))
            start, inside = end, not inside
        at += 1
    return [*found, (inside, text[start:])]


# --- rows of the server -------------------------------------------------------------------------------------


def test_of_a_sandbox_row_only_the_user_token_changes() -> None:
    for row in Sandbox(runs=20, tasks_per_run=5).task_rows():
        sent = msgspec.json.encode(row)
        token = row["user_info"]["user_token"]
        assert row_line(sent, keep_user_token=True) == sent
        assert row_line(sent, keep_user_token=False) == sent.replace(f'"{token}"'.encode(), b"null")


ROWS = {
    "no token": (rb'{"a":1}', rb'{"a":1}'),
    "no object of the user": (rb'{"user_info":null}', rb'{"user_info":null}'),
    "a text": (rb'{"user_info":{"user_token":"s"}}', rb'{"user_info":{"user_token":null}}'),
    "a number": (rb'{"user_info":{"user_token":-1.5e3}}', rb'{"user_info":{"user_token":null}}'),
    "an object": (rb'{"user_info":{"user_token":{"a":["}"]}}}', rb'{"user_info":{"user_token":null}}'),
    "an array": (rb'{"user_info":{"user_token":[1,"]"],"b":2}}', rb'{"user_info":{"user_token":null,"b":2}}'),
    "null": (rb'{"user_info":{"user_token":null}}', rb'{"user_info":{"user_token":null}}'),
    "a quote in it": (rb'{"user_info":{"user_token":"a\"b\\"}}', rb'{"user_info":{"user_token":null}}'),
    "space around": (
        b'{ "user_info" :\t{ "user_token" :\t"s" } }',
        b'{ "user_info" :\t{ "user_token" :\tnull } }',
    ),
    "line breaks": (
        b'{\r\n"user_info":\n{"user_token":\r\n"s"\n}}',
        b'{  "user_info": {"user_token":  null }}',
    ),
    "an escaped key": (rb'{"user_info":{"user\u005ftoken":"s"}}', rb'{"user_info":{"user\u005ftoken":null}}'),
    "another escaped key": (
        rb'{"\u0075ser_info":{"user_tok\u0065n":"s"}}',
        rb'{"\u0075ser_info":{"user_tok\u0065n":null}}',
    ),
    "upper case in the escape": (
        rb'{"user\u005Finfo":{"user_token":"s"}}',
        rb'{"user\u005Finfo":{"user_token":null}}',
    ),
    "repeated": (
        rb'{"user_info":{"user_token":"s","user_token":1,"user\u005ftoken":"t"}}',
        rb'{"user_info":{"user_token":null,"user_token":null,"user\u005ftoken":null}}',
    ),
    "a repeated object, of which the last has none": (
        rb'{"user_info":{"user_token":"s"},"user_info":{}}',
        rb'{"user_info":{"user_token":null},"user_info":{}}',
    ),
    "a repeated object, of which the last is none": (
        rb'{"user_info":{"user_token":"s"},"user_info":7}',
        rb'{"user_info":{"user_token":null},"user_info":7}',
    ),
    "at another path": (
        rb'{"input":{"user_token":"s"},"user_token":"s","user_info":{"a":{"user_token":"s"}}}',
        rb'{"input":{"user_token":null},"user_token":null,"user_info":{"a":{"user_token":null}}}',
    ),
    "at another path as well": (
        rb'{"input":{"user_info":{"user_token":"s"}},"user_info":{"user_token":"s"}}',
        rb'{"input":{"user_info":{"user_token":null}},"user_info":{"user_token":null}}',
    ),
    "in a list": (rb'{"user_info":[{"user_token":"s"}]}', rb'{"user_info":[{"user_token":null}]}'),
    "in a list of a list": (
        rb'{"user_info":[[1,{"user_token":"s","b":2}]]}',
        rb'{"user_info":[[1,{"user_token":null,"b":2}]]}',
    ),
    "the only one, and not in user_info": (
        rb'{"owner":{"user_token":"s"}}',
        rb'{"owner":{"user_token":null}}',
    ),
    "in camel case": (rb'{"user_info":{"userToken":"s"}}', rb'{"user_info":{"userToken":null}}'),
    "in both cases": (
        rb'{"user_info":{"user_token":"s","userToken":"t"}}',
        rb'{"user_info":{"user_token":null,"userToken":null}}',
    ),
    "in capitals": (
        rb'{"user_info":{"UserToken":"s","USER_TOKEN":"t","User-Token":"u"}}',
        rb'{"user_info":{"UserToken":null,"USER_TOKEN":null,"User-Token":null}}',
    ),
    "in camel case, and not in user_info": (
        rb'{"output":{"userToken":"s"},"user_info":{"id":"1"}}',
        rb'{"output":{"userToken":null},"user_info":{"id":"1"}}',
    ),
    "in camel case, without user_info": (rb'{"usertoken":"s"}', rb'{"usertoken":null}'),
    "in camel case as well": (
        rb'{"output":[{"User-Token":"s"}],"user_info":{"user_token":"s"},"input":{"USER_TOKEN":"s"}}',
        rb'{"output":[{"User-Token":null}],"user_info":{"user_token":null},"input":{"USER_TOKEN":null}}',
    ),
    "in camel case, in JSON inside a string": (
        rb'{"a":"{\"userToken\":\"s\"}","user_info":{}}',
        rb'{"a":"{\"userToken\":null}","user_info":{}}',
    ),
    "in JSON inside a string with escaped quotes": (
        rb'{"a":"{\u0022user_token\u0022:\u0022s\u0022}","user_info":{"user_token":"s"}}',
        rb'{"a":"{\"user_token\":null}","user_info":{"user_token":null}}',
    ),
    "other tokens": (rb'{"space_token":"s","user":"Token","user_info":{}}',) * 2,
    "in camel case and escaped": (
        rb'{"user_info":{"user\u0054oken":"s"}}',
        rb'{"user_info":{"user\u0054oken":null}}',
    ),
    "in JSON inside a string": (
        rb'{"a":"{\"user_info\":{\"user_token\":\"s\"}}","user_info":{}}',
        rb'{"a":"{\"user_info\":{\"user_token\":null}}","user_info":{}}',
    ),
    "the end of a longer key": (rb'{"a \"user_token":"s","user_info":{}}',) * 2,
    "whitespace": (
        b'{"user_info": {"user_token" \t:  \t"s" , "b": 1}}',
        b'{"user_info": {"user_token" \t:  \tnull , "b": 1}}',
    ),
    "another key in a text": (rb'{"a":"the \"user_token\" of","user_tokens":"s"}',) * 2,
    "beyond what can be decoded": (
        rb'{"a":1e999,"user_info":{"b":1e999,"user_token":"s"}}',
        rb'{"a":1e999,"user_info":{"b":1e999,"user_token":null}}',
    ),
    "many digits": (b'{"a":%b}' % (b"9" * 5000), b'{"a":%b}' % (b"9" * 5000)),
    "separators of Unicode": ('{"a":"\u2028\u0085"}'.encode(), '{"a":"\u2028\u0085"}'.encode()),
    "delete": (b'{"a":"\x7f"}', b'{"a":"\x7f"}'),
}


@each_row("name", ROWS)
def test_row_line(name: str) -> None:
    row, line = ROWS[name]
    assert row_line(row, keep_user_token=False) == line
    assert lines_of(row) == [line]
    # Beside rows as the service sends them
    usual = rb'{"user_info":{"id":"1","user_token":"s"}}'
    assert lines_of(usual, row, usual)[1] == line
    kept = row_line(row, keep_user_token=True)
    assert kept == row.replace(b"\n", b" ").replace(b"\r", b" ")


NO_ROWS = {
    b"": "the row is not JSON",
    b"{": "the row is not JSON",
    b'{"a":1}{': "the row is not JSON",
    b'{"a":"x\ny"}': "the row is not JSON",
    b'{"a":NaN}': "the row is not JSON",
    rb'{"a":"\ud800"}': "the row is not JSON",
    b'{"user_info":1,"a":}': "the row is not JSON",
    b"\xef\xbb\xbf{}": "the row is not JSON",
    b"null": "the row is not a JSON object",
    b"[]": "the row is not a JSON object",
    b'"text"': "the row is not a JSON object",
    b"12": "the row is not a JSON object",
    b'{"a":"\xff"}': "the row is not UTF-8",
    b'{"user_info":5,"\xc3":1}': "the row is not UTF-8",
    b'{"a":' + b"[" * 500 + b"]" * 500 + b"}": "the row is nested too deeply",
    b'{"a":' * 501 + b"1" + b',"b":2}' * 501: "the row is nested too deeply",
    b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}": "the row is nested too deeply",
}


@each_row("row", NO_ROWS, ids=lambda row: row[:24].decode("latin-1"))
def test_an_invalid_row_says_why_and_shows_no_data(row: bytes) -> None:
    with pytest.raises(InvalidRow) as caught:
        row_line(row, keep_user_token=False)
    assert caught.value.reason == str(caught.value) == NO_ROWS[row]
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_row_that_raw_accepts_becomes_a_line() -> None:
    page = b'[ {"a":1,\r\n "b": "\xc3\xa9"} ,\n{"user_info":{"user_token":"s"}}\n]'
    lines = [
        row_line(bytes(raw), keep_user_token=False)
        for raw in msgspec.json.decode(page, type=list[msgspec.Raw])
    ]
    assert lines == [b'{"a":1,   "b": "\xc3\xa9"}', b'{"user_info":{"user_token":null}}']


@each_row(
    "row", [b"[" * 498 + b"]" * 498, b'{"b":' * 497 + b"1" + b',"c":[]}' * 497, b'"' + b"{[" * 900 + b'"']
)
def test_500_levels_are_a_line(row: bytes) -> None:
    row = b'{"a":[%b]}' % row
    assert row_line(row, keep_user_token=False) == row
    assert lines_of(row) == [row]


def test_a_row_that_is_too_deep_changes_no_other_row() -> None:
    usual = rb'{"task_id":"T","user_info":{"user_token":"s"}}'
    for levels in (501, 900, 50_000):
        deep = b'{"a":' * levels + b"1" + b"}" * levels
        lines = lines_of(usual, deep, usual)
        assert lines[0] == lines[2] == usual.replace(b'"s"', b"null")
        assert isinstance(lines[1], InvalidRow)


# --- compared with a reference ------------------------------------------------------------------------------

SPACE = st.text(" \t\r\n", max_size=3)


@st.composite
def strings(draw: st.DrawFn, text: st.SearchStrategy[str]) -> str:
    """A JSON string, with some of its characters escaped that need not be."""
    return '"' + "".join(draw(spelled(one)) for one in draw(text)) + '"'


def spelled(character: str) -> st.SearchStrategy[str]:
    plain = json.dumps(character, ensure_ascii=False)[1:-1]
    units = character.encode("utf-16-be").hex()
    escape = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    return st.sampled_from([plain, plain, plain, escape, escape.upper().replace("\\U", "\\u")])


KEYS = strings(
    st.one_of(
        st.sampled_from(["user_info", "user_token", "user_info", "userToken", "input", "a"]),
        st.text(string.printable, max_size=3),
    )
)
SCALARS = st.one_of(
    strings(st.one_of(st.text(max_size=8), st.sampled_from([SECRET, "user_token", "{[,:]}"]))),
    st.sampled_from(["null", "true", "false", "-0", "1e999", "1.5E+3", "12345678901234567890123"]),
)


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    members = draw(
        st.lists(
            st.tuples(SPACE, KEYS, SPACE, SPACE, values, SPACE).map(lambda m: "{}{}{}:{}{}{}".format(*m)),
            max_size=5,
        )
    )
    return "{" + (",".join(members) or draw(SPACE)) + "}"


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    return f"[{','.join(draw(st.lists(values, max_size=3)))}{draw(SPACE)}]"


VALUES = st.recursive(SCALARS, lambda inner: objects(inner) | arrays(inner), max_leaves=12)
ROW = objects(VALUES).map(str.encode)


@given(ROW)
def test_any_row_keeps_everything_but_the_user_tokens(row: bytes) -> None:
    assert msgspec.json.decode(b"[%b]" % row, type=list[msgspec.Raw])  # as it would arrive
    line = row_line(row, keep_user_token=False)
    assert b"\n" not in line
    assert b"\r" not in line
    assert pairs(line) == expected(row)
    assert lines_of(row, row) == [line, line]
    kept = row_line(row, keep_user_token=True)
    assert len(kept) == len(row)
    assert without_space(kept) == without_space(row)
    # The two lines differ only in the removed tokens.
    if pairs(row) == expected(row) and b"oken" not in row.lower() and b"\\u" not in row:
        assert line == kept


HIDDEN = "91375"  # not one of its characters is in a key


def cased(word: str) -> st.SearchStrategy[str]:
    return st.tuples(*(st.sampled_from([one, one.upper()]) for one in word)).map("".join)


def in_string(text: str) -> st.SearchStrategy[str]:
    """A string with this value, in which quotes, backslashes and the characters of keys are often escaped."""
    return st.tuples(*map(written, text)).map(lambda written: f'"{"".join(written)}"')


def written(character: str) -> st.SearchStrategy[str]:
    plain = json.dumps(character)[1:-1]
    if character.lower() not in 'usertokn_-. "\\':
        return st.just(plain)
    code = f"{ord(character):04x}"
    return st.sampled_from([plain] * 6 + [f"\\u{code}", f"\\u{code.upper()}"])


@st.composite
def with_a_token(draw: st.DrawFn) -> str:
    """An object that has a user token."""
    name = draw(cased("user")) + draw(st.sampled_from(["", "_", "_", "-", ".", " "])) + draw(cased("token"))
    key = draw(st.one_of(st.just(f'"{name}"'), in_string(name)))
    value = draw(st.sampled_from([f'"{HIDDEN}"', HIDDEN, f'{{"a":["{HIDDEN}"]}}', f'["}}",{HIDDEN}]']))
    before, after = (
        draw(st.sampled_from(["", '"a":1,', '"a":"user_token",'])),
        draw(st.sampled_from(["", ',"b":"\\n"'])),
    )
    return f"{{{before}{draw(SPACE)}{key}{draw(SPACE)}:{draw(SPACE)}{value}{draw(SPACE)}{after}}}"


def around(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        inner.map("[1,{}]".format),
        inner.map('{{"a":{}}}'.format),
        inner.flatmap(in_string),
        inner.flatmap(in_string),
    )


HIDING = st.recursive(with_a_token(), around, max_leaves=4)
USUAL = st.sampled_from([
    f'{{"task_id":"T","user_info":{{"id":"1","user_token":"{HIDDEN}"}},"output":{{}}}}',
    f'{{"task_id": "T", "user_info": {{"user_token": "{HIDDEN}", "id": "1"}}}}',
    '{"task_id":"T","user_info":{"user_token":null},"input":{"token":"é"}}',
    '{"task_id":"T","user_info":null}',
    '{"task_id":"T","output":{"said":"the user token"}}',
])  # fmt: skip


UNUSUAL = st.one_of(
    HIDING.map('{{"task_id":"T","output":{}}}'.format), HIDING.map('{{"user_info":{}}}'.format)
)


@given(st.lists(st.one_of(USUAL, UNUSUAL), max_size=4))
def test_no_spelling_of_the_key_shows_a_token(rows: list[str]) -> None:
    sent = [row.encode() for row in rows]
    lines = [row_line(row, keep_user_token=False) for row in sent]
    assert lines_of(*sent) == lines
    assert HIDDEN.encode() not in b"".join(lines)


@given(ROW, st.integers(0, 200), st.sampled_from([b"\xff", b"\n", b"\x00", b'"', b"{", b"}", b",", b"\\"]))
def test_a_damaged_row_is_a_line_or_an_invalid_row(row: bytes, place: int, damage: bytes) -> None:
    row = row[:place] + damage + row[place:]
    try:
        line = row_line(row, keep_user_token=False)
    except InvalidRow:
        # msgspec's errors are no ValueErrors in its lowest allowed version.
        with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError, RecursionError)):
            msgspec.json.decode(row.decode(), type=dict[str, msgspec.Raw])
    else:
        assert pairs(line) == expected(row)
