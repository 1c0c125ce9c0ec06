"""Configuration of Sphinx. `nox -s docs` builds the pages into `docs/_build`; warnings are errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from unpod_async._version import VERSION

project = "unpod-async"
copyright = "the authors of unpod-async"  # noqa: A001 - the name that Sphinx reads
version = release = VERSION

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "unpod-async"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]


CHANGELOG = "reference/changelog"


def _changelog() -> str:
    return (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")


def setup(app: Any) -> None:
    """Change the pages, which are written to be read as files, into pages for Sphinx."""
    app.connect("source-read", _for_sphinx)
    app.connect("build-finished", _for_language_models)


def _for_sphinx(app: Any, name: str, source: list[str]) -> None:
    text = _changelog() if name == CHANGELOG else source[0]
    if name == "index":
        text += _navigation(text)
    # Files outside of this folder are not part of the built pages, except images, which Sphinx copies.
    outside = r"(?<!!)\[([^\]]*)\]\((?:\.\./)+(?:unpod_async|tests|benchmarks|[A-Z]+\.md)[^)]*\)"
    source[0] = re.sub(outside, r"\1", text)


def _chapters(index: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return each heading of the index with its links: name, path without `.md`, what the page is about."""
    found = re.findall(r"^## (.*)\n((?:\n|- .*\n?)*)", index, re.MULTILINE)
    link = re.compile(r"\[(.*?)\]\(([\w/-]+)\.md\): (.*)")
    return [(title, link.findall(links)) for title, links in found]


def _navigation(index: str) -> str:
    """Return the tables of contents that Sphinx needs, made from the lists of links of the index."""
    parts = []
    for title, links in _chapters(index):
        pages = [path for _, path, _ in links]
        parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```"]))
    return "\n\n" + "\n\n".join(parts) + "\n"


def _for_language_models(app: Any, exception: Exception | None) -> None:
    """Copy each page as Markdown to the built site, and list the pages in llms.txt."""
    if exception is not None:
        return
    source, out = Path(app.srcdir), Path(app.outdir)
    for page in source.rglob("*.md"):
        if "_build" not in page.parts:
            (out / page.relative_to(source)).write_bytes(page.read_bytes())
    (out / f"{CHANGELOG}.md").write_text(_changelog(), encoding="utf-8")
    index = (source / "index.md").read_text(encoding="utf-8")
    title, summary, *_ = index.split("\n\n")
    lines = [title, "", "> " + _without_links(summary), ""]
    for heading, links in _chapters(index):
        lines += [f"## {heading}", ""]
        lines += [f"- [{name}]({path}.md): {about}" for name, path, about in links]
        lines.append("")
    (out / "llms.txt").write_text("\n".join(lines), encoding="utf-8")


def _without_links(text: str) -> str:
    return " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).split())
