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


def test_the_table_has_every_row_and_each_passed() -> None:
    """Rows are written by `nox -s fault-table`; what does not depend on a run is compared here."""
    rows = re.findall(r"^\| (\d+) \| (.*)$", (HERE / "README.md").read_text("utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == sorted(ROWS)
    for number, columns in rows:
        fault, expected = ROWS[int(number)]
        assert columns.startswith(f"{fault} | {expected} | "), number
        assert columns.endswith("| – |" if int(number) in LATER else "| yes |"), number
