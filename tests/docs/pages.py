"""The blocks of a documentation page, and how each is to be tested.

A comment before a block says what a test does with it. Without a comment, Python and shell blocks are run,
and the `text` block that follows one is its expected output:

- `<!-- not run: reason -->`: only the syntax is checked.
- `<!-- extra: name -->`: the session `docs-extra` runs, imports or parses it; see extra.py.
- `<!-- file: name -->`: the block is written to this file, and only its syntax is checked.
- `<!-- status: 3 -->`: the block ends with this exit status.
- `<!-- output: varies -->`, before a `text` block: it is an example and is not compared.

With `<!-- sandbox: live -->` anywhere in a page, its blocks run against a live sandbox.

`python -m tests.docs PAGE…` writes the real outputs into pages.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A block of code of a page."""

    language: str
    text: str
    line: int
    mark: str
    """The kind of the comment before it, such as "file"; "" without a comment."""

    value: str
    """The rest of the comment."""


class Step(NamedTuple):
    """A block to run, and its expected output."""

    block: Block
    output: str | None
    """Expected on stdout; None if it is not compared."""


def pages() -> list[Path]:
    """Return the pages of the documentation."""
    return sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)


def is_live(page: Path) -> bool:
    """Return whether the blocks of a page need a live sandbox."""
    return "<!-- sandbox: live -->" in page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        kind, _, value = (match["mark"] or "").partition(": ")
        line = text.count("\n", 0, match.start("language")) + 1
        found.append(Block(match["language"], match["text"], line, kind, value))
    return found


def steps(page: Path) -> Iterator[Step]:
    """Yield the blocks of a page that are run or written to files, with their expected output."""
    found = blocks(page)
    for block, after in itertools.zip_longest(found, found[1:]):
        if (
            block.language not in ("python", "shell")
            or block.mark in ("not run", "extra")
            or "reference" in page.parts
        ):
            continue
        output = after.text if after is not None and after.language == "text" else None
        if after is not None and after.mark == "output":
            output = None
        yield Step(block, output)
