"""Calls that the pages name exist and take the arguments that the pages give them."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

import pytest

import unpod_async
import unpod_async.testing
from tests.docs.pages import ROOT, blocks, pages
from unpod_async import Pager, Run, UnpodClient
from unpod_async.testing import Sandbox

CLIENT = UnpodClient("0" * 40, "acme.example")
PAGER: Pager[Run] = CLIENT.runs.list("SPACEMAIN000000000000001")
GROUPS = ("runs", "tasks", "call_logs", "agents", "spaces", "organizations", "recordings")
KNOWN: dict[str, object] = {
    **{name: getattr(unpod_async, name) for name in unpod_async.__all__},
    **{name: getattr(unpod_async.testing, name) for name in unpod_async.testing.__all__},
    **{name: getattr(CLIENT, name) for name in GROUPS},
    "unpod": CLIENT,
    "pager": PAGER,
    "box": Sandbox,
}
"""What the first word of a call is on every page."""

PAGES = {str(page.relative_to(ROOT)): page for page in (ROOT / "README.md", *pages())}


def parsed(code: str) -> ast.AST | None:
    """Return the syntax tree of a call that a page names, or None if it is something else."""
    code = re.sub(r"^async (?:for \w+ in|with) ", "", code).partition(" as ")[0].rstrip(":")
    code = re.sub(r"(?<=\w=)(?=[,)])", "...", code)  # f(a=, b=): arguments without a value
    code = re.sub(r"(?:, |(?<=\())…\)", ")", code)  # f(a, …): arguments that are left out
    try:
        return ast.parse(code.replace("…", "..."), mode="eval")
    except SyntaxError:
        return None


def mistakes(tree: ast.AST) -> Iterator[str]:
    """Yield each call of a known object that does not exist or does not take these arguments."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    assigned = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    known = {name: found for name, found in KNOWN.items() if name not in assigned or name in ("unpod", "box")}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = ast.unparse(node.func).split(".")
        found = known.get(first)
        if found is None or not all(name.isidentifier() for name in rest):
            continue
        owner = None
        for name in rest:
            owner, found = found, getattr(found, name, None)
        if found is None:
            yield f"{ast.unparse(node)}: there is no such method"
        elif callable(found):
            bound = [None] if isinstance(owner, type) and inspect.isfunction(found) else []  # self
            arguments = [None for each in node.args if not isinstance(each, ast.Starred)]
            names = {each.arg: None for each in node.keywords if each.arg is not None}
            try:
                inspect.signature(found).bind_partial(*bound, *arguments, **names)
            except TypeError as error:
                yield f"{ast.unparse(node)}: {error}"


def calls(name: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the calls in the text of a page, and its Python blocks."""
    text = PAGES[name].read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+\([^`\n]*)`", prose):
        tree = parsed(code)
        if tree is not None:
            yield code, tree
    for block in blocks(PAGES[name]):
        if block.language == "python" and "reference" not in PAGES[name].parts:
            source = textwrap.dedent(block.text)
            yield (
                f"line {block.line}",
                compile(source, name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT),
            )


@pytest.mark.parametrize("name", PAGES)
def test_calls_of_a_page_take_the_arguments_that_it_gives(name: str) -> None:
    assert [f"{where}: {text}" for where, tree in calls(name) for text in mistakes(tree)] == []


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("unpod.tasks.list(space, from_ts=…, …)", "unexpected keyword argument 'from_ts'"),
        ("await unpod.runs.find(space, run, 3)", "too many positional arguments"),
        ("unpod.runs.lists(space)", "there is no such method"),
        ("async with pager.prefetch(8, ahead=) as rows", "unexpected keyword argument 'ahead'"),
        ("RetryPolicy(tries=4)", "unexpected keyword argument 'tries'"),
        ("Sandbox(run=, seed=)", "unexpected keyword argument 'run'"),
        ("unpod.runs.list(space, status=…, limit=…)", ""),
        ("box.poison(row_id)", ""),
    ],
)
def test_a_wrong_call_is_found(code: str, text: str) -> None:
    tree = parsed(code)
    assert tree is not None
    found = list(mistakes(tree))
    assert bool(found) == bool(text)
    assert all(text in each for each in found)
