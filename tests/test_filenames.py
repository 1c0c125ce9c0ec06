"""File names for task ids are safe on every file system, and no two ids share one."""

from __future__ import annotations

import itertools
import re

from hypothesis import example, given
from hypothesis import strategies as st

from tests.tables import each_row
from unpod_async._recordings import EXTENSIONS, extension_of, safe_name

SERVICE_ID = "T5a51f748e64411f19e8e02fc00000001"

ids = st.one_of(
    st.text(min_size=1, max_size=120),
    st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True),
    st.from_regex(r"x-[0-9a-fA-F]{32}", fullmatch=True),
)


@each_row("plain", [SERVICE_ID, "T1", "T", "a", "0", "a_b-c", "1-2", "r1", "a" * 100, "con1", "nul0"])
def test_plain_ids_are_their_own_names(plain: str) -> None:
    assert safe_name(plain) == plain


@each_row(
    "odd",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "..",
        ".",
        ".hidden",
        "",
        "a b",
        "a.wav",
        "trailing.",
        "trailing ",
        "a\n",
        "a\x00b",
        "\u202eexe",
        "-rf",
        "_a",
        "é",
        "e\u0301",
        "ａ",
        "\ud800",
        "a" * 101,
        "con",
        "CON",
        "Nul",
        "com1",
        "lpt9",
        "aux",
        "prn",
        "x-" + "0" * 32,
        "ABC",
        "t1",
        "TA",
        "K",  # the Kelvin sign is a "k" in lower case
    ],
)
def test_other_ids_become_hashes(odd: str) -> None:
    assert re.fullmatch(r"x-[0-9a-f]{32}", safe_name(odd))
    assert safe_name(odd) == safe_name(odd)


@given(ids)
@example("T" * 3)
def test_a_name_is_safe_on_every_file_system(task_id: str) -> None:
    name = safe_name(task_id)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name)
    assert name.lower() not in {
        "con",
        "prn",
        "aux",
        "nul",
        *(f"{d}{n}" for d in ("com", "lpt") for n in range(10)),
    }


@given(st.sets(ids, min_size=2, max_size=6))
@example({"T1", "t1"})
@example({"ab", "aB", "Ab", "AB"})
@example({"A", safe_name("A"), safe_name("A").upper(), safe_name(safe_name("A"))})
def test_no_two_ids_share_a_name_on_a_case_insensitive_file_system(several: set[str]) -> None:
    several |= {one.swapcase() for one in several}
    assert len({safe_name(one).casefold() for one in several}) == len(several)


def test_ids_that_differ_only_in_case_have_different_names() -> None:
    twins = {"".join(letters) for letters in itertools.product(*({c.lower(), c.upper()} for c in "T0ab1f"))}
    assert len({safe_name(twin).casefold() for twin in twins}) == len(twins) == 16
    assert safe_name("T0ab1f") == "T0ab1f"


@each_row(
    ("content_type", "paths", "expected"),
    [
        ("audio/mpeg", ("/a.wav",), ".mp3"),
        ("audio/x-wav", ("/a",), ".wav"),
        ("video/mp4", ("/a.exe",), ".mp4"),
        ("application/octet-stream", ("/a/b.OGG",), ".ogg"),
        ("", ("/a.flac",), ".flac"),
        ("", ("/uuid", "/rec/1.wav"), ".wav"),
        ("audio/x-unheard-of", ("/a.m4a",), ".m4a"),
        ("audio/../../x", ("/a",), ".bin"),
        ("", ("/a.exe",), ".bin"),
        ("", ("/a.wav/",), ".bin"),
        ("", ("/a.wav/b",), ".bin"),
        ("", ("/wav",), ".bin"),
        ("", ("/.wav",), ".wav"),
        ("", ("/a.wav.sh",), ".bin"),
        ("", ("/",), ".bin"),
        ("", (), ".bin"),
    ],
)
def test_extensions_for_content_types_and_paths(
    content_type: str, paths: tuple[str, ...], expected: str
) -> None:
    assert extension_of(content_type, *paths) == expected
    assert expected in EXTENSIONS


@given(st.text(), st.text())
def test_only_listed_extensions_are_returned(content_type: str, path: str) -> None:
    assert extension_of(content_type, path) in EXTENSIONS
