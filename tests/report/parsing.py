"""Reads the page of a report back: its elements, texts, tables and columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["Page", "Section", "parse"]

_WITHOUT_END = {"meta"}


@dataclass
class Section:
    """A part of the page under one heading."""

    text: str = ""
    tables: list[list[list[str]]] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    """The texts of the columns or bars of its plot."""


@dataclass
class Page(HTMLParser):
    """A parsed page. Fails if the elements do not nest.

    Attributes:
        tiles: the numbers at the top, by name.
        sections: by heading; "" is what is above the first one.
    """

    title: str = ""
    notes: list[str] = field(default_factory=list)
    tiles: dict[str, list[str]] = field(default_factory=dict)
    sections: dict[str, Section] = field(default_factory=dict)
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    style: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[tuple[str, list[str]]] = []
        self._section = self.sections[""] = Section()
        self._tile = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in _WITHOUT_END:
            return
        self._open.append((tag, []))
        if tag == "section":
            self._section = Section()
        if tag == "table":
            self._section.tables.append([])
        if tag == "tr":
            self._section.tables[-1].append([])

    def handle_data(self, data: str) -> None:
        for _, texts in self._open:
            texts.append(data)
        if not self._open or self._open[-1][0] != "style":
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        opened, texts = self._open.pop()
        assert opened == tag, f"</{tag}> after <{opened}>"
        text = "".join(texts)
        if tag in {"th", "td"}:
            self._section.tables[-1][-1].append(text)
        elif tag == "h2":
            self.sections[text] = self._section
        elif tag == "p":
            self._section.text += text
            if self.elements[-1][1].get("role") == "note" or any(name == "header" for name, _ in self._open):
                self.notes.append(text)
        elif tag == "dt":
            self._tile = text
            self.tiles[text] = []
        elif tag == "dd":
            self.tiles[self._tile].append(text)
        elif tag == "style":
            self.style = text
        elif tag == "title" and self._open[-1][0] == "head":
            self.title = text
        elif tag == "title":
            self._section.hints.append(text)

    def handle_decl(self, decl: str) -> None:
        assert decl == "doctype html"

    def handle_comment(self, data: str) -> None:
        raise AssertionError("the page has no comments")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError("the page has no other declarations")


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert not page._open, page._open
    return page
