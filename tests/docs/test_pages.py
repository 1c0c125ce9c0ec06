"""The documentation: blocks run unchanged and print what the page shows; links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, pages, steps
from tests.docs.running import run, sandbox_for

PAGES = {str(page.relative_to(ROOT)): page for page in pages()}
RUNNABLE = [name for name, page in PAGES.items() if list(steps(page))]


@pytest.mark.timeout(300)  # A page starts up to ten interpreters, one after the other.
@pytest.mark.parametrize("name", RUNNABLE)
async def test_the_blocks_of_a_page_print_what_it_shows(name: str, tmp_path: Path) -> None:
    async with sandbox_for(PAGES[name]) as sandbox:
        for step in steps(PAGES[name]):
            output = await run(step, tmp_path, sandbox)
            if step.output is not None:
                assert output == step.output, f"line {step.block.line}"


@pytest.mark.parametrize("name", [name for name in PAGES if not name.startswith("docs/reference/")])
def test_blocks_are_valid(name: str) -> None:
    for block in blocks(PAGES[name]):
        where = f"{name}, line {block.line}"
        if block.language == "python":
            compile(block.text, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "shell":
            check = ["bash", "-n", "-c", block.text]
            done = subprocess.run(check, text=True, capture_output=True, check=False)  # noqa: S603
            assert not done.returncode, f"{where}: {done.stderr}"
        assert block.mark in ("", "not run", "extra", "file", "status", "output"), where


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/reference/")])
def test_names_that_share_a_line_of_a_docstring_are_all_names(name: str) -> None:
    text = PAGES[name].read_text(encoding="utf-8")
    assert re.findall(r"^- (?:\*\*\w+,\*\*|`\().*", text, re.MULTILINE) == []


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    page = PAGES[name]
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path)
        assert file.exists(), f"{name}: {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{name}: {target}"


def slug(heading: str) -> str:
    """Return the anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
