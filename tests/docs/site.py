"""The built site: `nox -s docs` builds it into docs/_build and runs this file."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.pages import DOCS, ROOT, pages

SITE = DOCS / "_build"
CHANGELOG = Path("reference", "changelog.md")
"""The site has the whole changelog on this page."""


def test_every_page_has_a_markdown_twin() -> None:
    for page in pages():
        path = page.relative_to(DOCS)
        source = ROOT / "CHANGELOG.md" if path == CHANGELOG else page
        assert (SITE / path).read_bytes() == source.read_bytes()
        assert (SITE / path.with_suffix(".html")).is_file()


def test_llms_txt_lists_every_page_with_a_line_about_it() -> None:
    text = (SITE / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# unpod-async\n\n> ")
    listed = re.findall(r"^- \[.+\]\((.+)\): .{10,}$", text, re.MULTILINE)
    assert sorted([*listed, "index.md"]) == sorted(str(page.relative_to(DOCS)) for page in pages())


def test_pages_show_their_images() -> None:
    shown = 0
    for page in pages():
        html = SITE / page.relative_to(DOCS).with_suffix(".html")
        images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        sources = re.findall(r'<img[^>]* src="([^"]+)"', html.read_text(encoding="utf-8"))
        for image in images:
            (source,) = [each for each in sources if Path(each).name == Path(image).name]
            assert (html.parent / source).is_file()
            shown += 1
    assert shown
