"""Update the figures of README.md: the tables between two marks, and the plots in `images/`."""

from __future__ import annotations

from typing import Any

from measuring import HERE
from plots import draw
from report import ceiling, claims, setting, table

__all__ = ["write"]

_README = HERE.parent / "README.md"
_IMAGES = HERE / "images"
_BEGIN = "<!-- measured: `python -m nox -s bench -- --readme` writes what is between these two lines -->"
_END = "<!-- end of what was measured -->"
_ALT = {
    "runs": "Seconds and memory against the number of runs, for four approaches",
    "latency": "Tasks per second against latency, for four approaches",
    "approaches": "Processor time per task and memory of every approach, as bars",
}


def write(found: dict[str, Any]) -> None:
    """Draw the plots and put the tables into the README.

    Raises:
        ValueError: the marks are not there.
    """
    text = _README.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{_README.name} has no place for what was measured: {_BEGIN}")
    drawn = draw(found, _IMAGES, "bench")
    plots = [f"![{_ALT[path.stem.removeprefix('bench-')]}](benchmarks/images/{path.name})" for path in drawn]
    parts = [
        setting(found),
        table(found, "exports"),
        "Tasks for a loop to use, 1 is the same reference:",
        table(found, "walks"),
        *plots,
        "<details><summary>What was to be reached, and what was measured</summary>",
        claims(found),
        "</details>",
        ceiling(found),
    ]
    _README.write_text("\n\n".join([before + begin, *parts, end + after]), encoding="utf-8")
