"""Small faults in a module: one wherever an operator, a constant, a call or a statement can be wrong.

Docstrings, annotations, decorators, imports, log calls, `__repr__`, `__str__` and f-strings stay as they are,
and so do texts that are passed to a function, which are mostly messages.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["Mutant", "mutants_of"]


class Mutant(NamedTuple):
    """One fault: the bytes `first` to `last` of the module at `path` are replaced by `text`."""

    path: str
    scope: str
    """The function that contains it, such as `Gate.close`; empty for the top of the module."""
    line: int
    lines: int
    """How many lines it changes."""
    before: str
    """The changed lines joined to one, without indentation: equal when the lines move."""
    after: str
    first: int
    last: int
    text: bytes

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.path, self.scope, self.before, self.after

    def apply(self, source: bytes) -> bytes:
        """Return the source of the module with the fault."""
        return source[: self.first] + self.text + source[self.last :]


def mutants_of(path: str, source: bytes) -> list[Mutant]:
    """Return every mutant of a module, in the order of its text."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    found: list[Mutant] = []
    for scope, first, last, text in sorted(set(finder.edits), key=lambda edit: edit[1:]):
        start, end = source.rfind(b"\n", 0, first) + 1, (source + b"\n").index(b"\n", last)
        changed = source[start:first] + text + source[last:end]
        line, before, after = _difference(source[start:end].decode(), changed.decode())
        line += source.count(b"\n", 0, start) + 1
        if before != after:
            lines = source.count(b"\n", first, last) + 1
            found.append(Mutant(path, scope, line, lines, before, after, first, last, text))
    return found


def _difference(old: str, new: str) -> tuple[int, str, str]:
    """Return how many lines are equal before the first changed one, and the changed lines of both texts."""
    before, after = ([line.strip() for line in text.splitlines()] for text in (old, new))
    start = 0
    while before and after and before[0] == after[0]:
        start += 1
        del before[0], after[0]
    while before and after and before[-1] == after[-1]:
        del before[-1], after[-1]
    return start, " ".join(before), " ".join(after)


COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
NEGATIONS = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
"""Comparisons whose replacement is their negation."""
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}
LOGGERS = {"_log", "log", "logger", "warnings"}
TEXTS = {"__repr__", "__str__", "__rich_repr__"}
WEAK = (
    *(ast.BoolOp, ast.Compare, ast.IfExp, ast.BinOp, ast.Lambda, ast.UnaryOp, ast.NamedExpr),
    *(ast.Yield, ast.YieldFrom),
)
"""They need brackets where a neighbour binds stronger."""
NAMES = {"__all__", "__slots__", "__match_args__"}


_Node: TypeAlias = ast.expr | ast.stmt | ast.keyword


class _Finder(ast.NodeVisitor):
    """Collects edits of a module: the scope, the first and last byte, and the new text."""

    def __init__(self, source: bytes) -> None:
        self.edits: list[tuple[str, int, int, bytes]] = []
        self._source = source
        self._scope: list[str] = []
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    # What is left alone

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        overloaded = any(isinstance(item, ast.Name) and item.id == "overload" for item in node.decorator_list)
        if node.name in TEXTS or overloaded:
            return
        self._scope.append(node.name)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self._body(node.body)
        self._scope.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scope.append(node.name)
        self._body(node.body)
        self._scope.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._attribute_removed(node, node.target)
            self._value(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave f-strings alone: they are texts."""

    def visit_Import(self, node: ast.Import) -> None:
        """Leave imports alone."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Leave imports alone."""

    # Statements

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._condition(test)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call):
            if _root(call.func) in LOGGERS:
                return
            self._replace(node, "pass")
        self.visit(call if call is not node.value else node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id in NAMES:
            return
        self._attribute_removed(node, target)
        self._value(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._operator(node.target, node.value, ARITHMETIC.get(type(node.op)))
        self._replace(node, "pass")
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not _is_none(node.value):
            self._replace(node, "return None")
            self._value(node.value)
        elif node.value is None:
            self._replace(node, "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")
        if isinstance(node.exc, ast.Call):
            self._replace(node.exc, "ArithmeticError()")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue")

    def visit_Delete(self, node: ast.Delete) -> None:
        self._replace(node, "pass")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if node.type is not None:
            self._replace(node.type, "()")
        if isinstance(node.type, ast.Tuple) and len(kinds) > 1:
            for index in range(len(kinds)):
                self._removed(node.type.elts, index)
        self._body(node.body)

    # Expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        items = [node.left, *node.comparators]
        for (left, right), operator in zip(itertools.pairwise(items), node.ops, strict=True):
            self._operator(left, right, COMPARISONS[type(operator)])
        for item in items:
            self._value(item)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in itertools.pairwise(node.values):
            self._operator(left, right, words)
        for item in node.values:
            rest = [self._text(other) for other in node.values if other is not item]
            self._replace(node, f" {words[0]} ".join(rest))
            self.visit(item)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            self._replace(node, self._text(node.operand))
        self.visit(node.operand)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not _is_text(node.left) and not _is_text(node.right):
            self._operator(node.left, node.right, ARITHMETIC.get(type(node.op)))
        self.generic_visit(node)

    def visit_Await(self, node: ast.Await) -> None:
        self._replace(node, self._text(node.value))
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        name = _root(node.func)
        if name in LOGGERS or name in {"cast", "TypeVar", "ParamSpec", "NewType"}:
            return
        if isinstance(node.func, ast.Name) and node.func.id in TWINS:
            self._replace(node.func, TWINS[node.func.id])
        odd = any(isinstance(item, ast.Starred) or _is_text(item) for item in node.args[:2])
        if len(node.args) > 1 and not odd and name not in {*TWINS, "isinstance"}:
            (first, middle), (after, last) = self._span(node.args[0]), self._span(node.args[1])
            swapped = (self._source[after:last], self._source[middle:after], self._source[first:middle])
            self._edit(first, last, b"".join(swapped))
        for index, keyword in enumerate(node.keywords):
            if keyword.arg is not None and keyword.arg != "hint":
                self._removed([*node.args, *node.keywords], len(node.args) + index)
        self.visit(node.func)
        for item in (*node.args, *(keyword.value for keyword in node.keywords)):
            if not (isinstance(item, ast.Constant) and _is_text(item)):
                self.visit(item)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if _root(node.value) not in {"Callable", "Literal", "dict", "list", "tuple", "set", "type"}:
            self.visit(node.value)
            self._value(node.slice)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace(node, str(not value))
        elif isinstance(value, (int, float)):
            self._replace(node, repr(value + 1))

    def _value(self, node: ast.expr) -> None:
        """Visit an expression whose texts are keys or values, not messages."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            self._replace(node, repr(f"{node.value}x"))
        else:
            self.visit(node)

    # Helpers

    def _body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def _condition(self, node: ast.expr) -> None:
        simple = isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], NEGATIONS)
        negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
        if not simple and not negated and not isinstance(node, ast.Constant):
            self._replace(node, f"not {self._text(node)}")

    def _attribute_removed(self, node: ast.stmt, target: ast.expr) -> None:
        if isinstance(target, (ast.Attribute, ast.Subscript)):
            self._replace(node, "pass")

    def _operator(self, left: ast.expr, right: ast.expr, words: tuple[str, str] | None) -> None:
        """Add an edit of the operator between two expressions, if it has a counterpart."""
        if words is not None:
            first, last = self._span(left)[1], self._span(right)[0]
            old, new = (word.encode() for word in words)
            self._edit(first, last, self._source[first:last].replace(old, new, 1))

    def _removed(self, items: Sequence[_Node], index: int) -> None:
        """Add an edit that takes one item out of a list with commas."""
        first, last = self._span(items[index])
        if index > 0:
            first = self._span(items[index - 1])[1]
        elif len(items) > 1:
            last = self._span(items[1])[0]
        self._edit(first, last, b"")

    def _text(self, node: ast.expr) -> str:
        first, last = self._span(node)
        text = self._source[first:last].decode()
        return f"({text})" if isinstance(node, WEAK) or "\n" in text else text

    def _replace(self, node: _Node, text: str) -> None:
        self._edit(*self._span(node), text.encode())

    def _edit(self, first: int, last: int, text: bytes) -> None:
        self.edits.append((".".join(self._scope), first, last, text))

    def _span(self, node: _Node) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )


def _root(node: ast.expr) -> str:
    """Return the first name of an expression such as `_log.warning`."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
