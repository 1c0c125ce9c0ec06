"""The import rule of CONTRIBUTING.md: packages import only from the layers below them, never in a circle."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "unpod_async"

LAYERS = (
    {"cli", "__main__"},
    {"_integrations.mcp", "_integrations.otel", "_integrations.pytest_plugin", "_integrations.report"},
    {"blocking", "distributed"},
    {"_api"},
    {"_export"},
    {"_create", "_recordings", "_watch"},
    {"_paging"},
    {"create"},
    {"_tables"},
    {"_http"},
    {"events"},
    {"models"},
    {"_call_output"},
    {"errors"},
    {"_common"},
    {"_version"},
)
"""From the top down. Packages in one layer do not import each other."""

RANK = {room: len(LAYERS) - index for index, layer in enumerate(LAYERS) for room in layer}

HTTP_CLIENT = {
    "_http.transport",
    "_http.sessions",
    "_http.transport_errors",
    "_recordings.http",
}
"""The modules that may import aiohttp's client."""


class Import(NamedTuple):
    """`from module import name` somewhere in a file; `name` is None for `import module`."""

    importer: str
    module: str
    name: str | None
    line: int
    for_types: bool
    """It stands under `if TYPE_CHECKING:`, so it is not run."""
    in_function: bool = False

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.module}{f'.{self.name}' if self.name else ''}"


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_in(path: Path, importer: str) -> Iterator[Import]:
    yield from _imports_below(ast.parse(path.read_text(encoding="utf-8")), importer, False, False)


def _imports_below(node: ast.AST, importer: str, for_types: bool, in_function: bool) -> Iterator[Import]:
    where = (for_types, in_function)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(importer, alias.name, None, child.lineno, *where)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{importer}:{child.lineno} has a relative import"
            for alias in child.names:
                yield Import(importer, str(child.module), alias.name, child.lineno, *where)
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            # Imports are statements, so expressions need no visit.
            is_guard = isinstance(child, ast.If) and ast.unparse(child.test).lstrip("_") == "TYPE_CHECKING"
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _imports_below(child, importer, for_types or is_guard, in_function or is_function)


MODULES = {module_name(path, PACKAGE): path for path in sorted(PACKAGE.rglob("*.py"))}


def internal(found: Import) -> str | None:
    """The module that an import of this project loads, without the project's name; None for other imports."""
    if found.module.partition(".")[0] != "unpod_async":
        return None
    target = found.module.partition(".")[2]
    if found.name is not None and f"{target}.{found.name}".lstrip(".") in MODULES:
        target = f"{target}.{found.name}".lstrip(".")
    return target


IMPORTS = [found for name, path in MODULES.items() for found in imports_in(path, name)]
INTERNAL = [(found, target) for found in IMPORTS if (target := internal(found)) is not None]


def room(module: str) -> str:
    """The package at the root that a module belongs to. Each integration is a package of its own."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "_integrations" else 1])


def test_each_module_belongs_to_a_layer() -> None:
    rooms = {room(name) for name in MODULES if name not in {"", "_integrations"}}
    assert rooms == {*RANK, "testing"}


def test_packages_import_only_from_the_layers_below() -> None:
    upward = [
        str(found)
        for found, target in INTERNAL
        if room(found.importer) in RANK
        and room(target) != room(found.importer)
        and room(found.importer) != "__main__"
        and target  # the public namespace itself: see the next test
        and not (room(found.importer) in {"cli", "_integrations.pytest_plugin"} and room(target) == "testing")
        and RANK[room(found.importer)] <= RANK.get(room(target), 99)
    ]
    assert not upward, "\n".join(upward)


def test_testing_imports_nothing_of_the_client() -> None:
    """The sandbox is a second implementation to compare with; only its demos use the public namespace.

    A method of the sandbox may import `unpod_async` too, but only when it is called.
    """
    found = [
        str(found)
        for found, target in INTERNAL
        if room(found.importer) == "testing"
        and room(target) != "testing"
        and not (target in {"", "_version", "distributed"} and found.importer.startswith("testing.demos."))
        and not (
            target == "" and found.importer == "testing.sandbox" and (found.in_function or found.for_types)
        )
    ]
    assert not found, "\n".join(found)


def offered(package: str) -> set[str]:
    """The names in `__all__` of a package."""
    tree = ast.parse(MODULES[package].read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}
PRIVATE = {
    name
    for name in PACKAGES
    if any(part.startswith("_") for part in name.split(".")) and name != "_integrations"
}
OFFERED = {package: offered(package) for package in PRIVATE}


def enclosing(module: str) -> list[str]:
    """The private packages that a module lies in or is, the outermost first."""
    parts = module.split(".")
    return [p for n in range(1, len(parts) + 1) if (p := ".".join(parts[:n])) in PRIVATE]


def reaches_into(found: Import, importer: str) -> bool:
    """Whether an import takes from another package something that its `__init__` does not offer."""
    target = found.module.removeprefix("unpod_async").lstrip(".")
    others = [package for package in enclosing(target) if package not in enclosing(importer)]
    if not others:
        return False
    # `from package import name` of the outermost package that the importer is not in, and nothing deeper.
    return not (others == [target] and found.name in OFFERED[target])


def test_other_packages_are_used_by_the_names_that_they_offer() -> None:
    assert not [str(found) for found, _ in INTERNAL if reaches_into(found, found.importer)]


def test_packages_offer_what_they_have() -> None:
    for package in PRIVATE:
        module = sys.modules.get(f"unpod_async.{package}") or importlib.import_module(
            f"unpod_async.{package}"
        )
        assert not [name for name in OFFERED[package] if not hasattr(module, name)], package


def test_tests_import_packages_not_their_modules() -> None:
    found = [
        str(found)
        for folder in ("tests", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for found in imports_in(path, path.relative_to(ROOT).as_posix())
        if (target := internal(found)) is not None
        and enclosing(target)
        and not (target in PRIVATE and (found.name is None or found.name in OFFERED[target]))
        and not ((package := found.module.partition(".")[2]) in PRIVATE and found.name in OFFERED[package])
    ]
    assert not found, "\n".join(found)


def test_no_modules_import_each_other_in_a_circle() -> None:
    # A name from a package is a use of the package's own module; the rest is what that module imports.
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found, target in INTERNAL:
        base = found.module.partition(".")[2]
        is_name = base in OFFERED and base not in enclosing(found.importer)
        graph[found.importer].add(base if is_name else target)
    graph.pop("", None)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done or module not in graph:
            return
        for imported in sorted(graph[module]):
            visit(imported, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_the_http_client_is_imported_in_four_modules_only() -> None:
    users = {
        found.importer
        for found in IMPORTS
        if found.module.partition(".")[0] == "aiohttp"
        and room(found.importer) != "testing"
        and not found.for_types
    }
    assert users <= HTTP_CLIENT


def assigned_attributes(path: Path) -> Iterator[str]:
    """Assignments to an attribute of anything but `self` or `cls`, as "file:line text"."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = list(node.targets)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Delete):
            targets = list(node.targets)
        for target in targets:
            for part in ast.walk(target):
                if (
                    isinstance(part, ast.Attribute)
                    and isinstance(part.ctx, ast.Store | ast.Del)
                    and not (isinstance(part.value, ast.Name) and part.value.id in {"self", "cls"})
                ):
                    yield f"{path.name}:{node.lineno} {ast.unparse(node)}"


def test_no_attribute_is_assigned_from_outside_its_class_in_the_paging_package() -> None:
    """The guarantee that no row is lost is checked class by class, so each class owns its state."""
    found = [
        text
        for name, path in MODULES.items()
        if room(name) == "_paging"
        for text in assigned_attributes(path)
    ]
    assert not found, "\n".join(found)


def test_assignments_from_outside_a_class_are_found(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("a.b = 1\nself.b = 1\na.b += 1\nself.a.b: int = 1\n(x, a.b) = 1, 2\ndel a.b\na[0] = 1\n")
    assert [int(text.split(":")[1].split()[0]) for text in assigned_attributes(path)] == [1, 3, 4, 5, 6]
