"""No row of the matrix is missing, and none is left out without a reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.faults.matrix import LATER, ROWS

HERE = Path(__file__).parent


def test_no_row_is_missing() -> None:
    tested: set[int] = set()
    for path in HERE.glob("test_*.py"):
        tested |= {int(number) for number in re.findall(r"def test_row_(\d\d)_", path.read_text("utf-8"))}
    assert set(ROWS) == set(range(1, 57))
    assert tested | set(LATER) == set(ROWS)
    assert not tested & set(LATER)
    assert all(reason.strip() for reason in LATER.values())


def test_nothing_is_skipped_without_a_reason() -> None:
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in {"skip", "xfail", "importorskip"}:
                raise AssertionError(f"{path.name}:{node.lineno}: {node.attr}")
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "skipif":
                assert any(keyword.arg == "reason" for keyword in node.keywords), path.name


def test_the_table_has_every_row() -> None:
    """The one in the repository, written by the last run of the whole directory."""
    path = HERE / "README.md"
    if path.is_file():
        listed = re.findall(r"^\| (\d+) \|", path.read_text("utf-8"), re.MULTILINE)
        assert [int(number) for number in listed] == sorted(ROWS)
