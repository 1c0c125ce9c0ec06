"""Update docs/explain/performance.md: the tables between two marks, and the plots in `images/`."""

from __future__ import annotations

from typing import Any

from measuring import HERE
from plots import draw
from report import sections

__all__ = ["write"]

_PAGE = HERE.parent / "docs" / "explain" / "performance.md"
_IMAGES = HERE / "images"
_BEGIN = "<!-- {}: `python -m nox -s bench -- --write` writes what is between these two lines -->"
_END = "<!-- end of {} -->"
_PLOTS = {"approaches": ("runs", "latency", "approaches"), "formats": ("formats", "serial")}
"""The plots of each section."""
_ALT = {
    "runs": "Seconds and memory against the number of runs, for four approaches",
    "latency": "Tasks per second against latency, for four approaches",
    "formats": "Tasks per second of processor time by format and by approach, as bars",
    "serial": "Requests and seconds against a service that answers one request after another, as bars",
    "approaches": "Processor time per task and memory of every approach, as bars",
}


def write(found: dict[str, Any]) -> None:
    """Draw the plots and put the tables into the page, in each section that was measured.

    Raises:
        ValueError: the marks of a section are not there.
    """
    text = _PAGE.read_text(encoding="utf-8")
    drawn = {path.stem.removeprefix("bench-"): path.name for path in draw(found, _IMAGES, "bench")}
    for name, (*paragraphs, targets) in sections(found).items():
        begin, end = _BEGIN.format(name), _END.format(name)
        before, _, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        if not found_end:
            raise ValueError(f"{_PAGE.name} has no place for what was measured: {begin}")
        plots = [
            f"![{_ALT[plot]}](../../benchmarks/images/{drawn[plot]})"
            for plot in _PLOTS[name]
            if plot in drawn
        ]
        details = ["<details><summary>Targets and results</summary>", targets, "</details>"]
        text = "\n\n".join([before + begin, *paragraphs, *plots, *details, end + after])
    _PAGE.write_text(text, encoding="utf-8")
