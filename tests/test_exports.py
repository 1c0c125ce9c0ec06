"""The public names: importable from the package itself, hidden modules behind them, and all type-checked."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import unpod_async
import unpod_async.blocking
import unpod_async.testing

TYPING = Path(__file__).parent / "typing"
PACKAGES = [unpod_async, unpod_async.blocking, unpod_async.testing]
PUBLIC_MODULES = {"blocking", "cli", "create", "distributed", "errors", "events", "models", "testing"}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_all_names_are_there_sorted_and_documented(package: object) -> None:
    names = package.__all__
    assert names == sorted(names)
    for name in names:
        value = getattr(package, name)
        assert inspect.getdoc(value), name


def test_nothing_else_is_public() -> None:
    visible = {
        name
        for name, value in vars(unpod_async).items()
        # What is imported from elsewhere and not in __all__ is no name of ours, checkers say so too.
        if not name.startswith("_") and not (inspect.ismodule(value) and "unpod" not in value.__name__)
    }
    assert visible - set(unpod_async.__all__) <= PUBLIC_MODULES
    modules = {module.name for module in pkgutil.iter_modules(unpod_async.__path__)}
    assert {name for name in modules if not name.startswith("_")} == PUBLIC_MODULES


@pytest.mark.parametrize("name", ["errors", "models"])
def test_public_names_of_public_modules_are_names_of_the_package(name: str) -> None:
    module = importlib.import_module(f"unpod_async.{name}")
    assert set(module.__all__) <= set(unpod_async.__all__)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_is_in_the_typing_test(package: object) -> None:
    file = "blocking.py" if package is unpod_async.blocking else "api.py"
    tree = ast.parse((TYPING / file).read_text(encoding="utf-8"))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == package.__name__
        for alias in node.names
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert imported == set(package.__all__)
    assert imported <= used


def test_downloads_of_recordings_share_no_session_and_no_token_with_the_api() -> None:
    """They fetch from any host that a server names: a mistake must not send the token there."""
    path = Path(unpod_async.__file__).parent / "_recordings" / "http.py"
    shared = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith(("unpod_async._http", "unpod_async._paging"))
        for alias in node.names
    }
    # Functions without state and numbers: none of them can reach a session, a setting or the token.
    assert shared == {
        "HEAD_LIMITS",
        "MOCK_HINT",
        "MockFailed",
        "describe_fault",
        "is_plain",
        "is_mocked",
        "retry_after",
        "send_once",
    }
