"""The faults that `python -m tests.mutation` puts into the package, and what it leaves alone."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.mutation.mutants import mutants_of
from tests.tables import each_row


def faults(source: str) -> set[str]:
    return {mutant.after for mutant in mutants_of("module.py", source.encode())}


@each_row(
    ("line", "expected"),
    [
        ("x = a < b", {"x = a <= b"}),
        ("x = a is not b", {"x = a is b"}),
        ("x = a and b", {"x = a or b", "x = a", "x = b"}),
        ("x = a + 1", {"x = a - 1", "x = a + 2"}),
        ("x = True", {"x = False"}),
        ("x = 'word'", {"x = 'wordx'"}),
        ("x.y = z", {"pass"}),
        ("x -= y", {"x += y", "pass"}),
        ("if a: pass", {"if not a: pass"}),
        ("if not a: pass", {"if a: pass"}),
        ("f(a, b)", {"pass", "f(b, a)"}),
        ("x = f(a, key=b)", {"x = f(a)"}),
        ("x = f(key=b, other=c)", {"x = f(key=b)", "x = f(other=c)"}),
        ("x = min(a)", {"x = max(a)"}),
        ("raise E(a)", {"pass", "raise ArithmeticError()"}),
        ("try:\n    a()\nexcept E: b()", {"pass", "except (): b()", "except E: pass"}),
        ("async def f():\n    x = await a()", {"x = a()"}),
        ("def f():\n    return a", {"return None"}),
        ("for a in b: break", {"for a in b: continue"}),
        # No behaviour depends on these.
        ("'''A docstring.'''", set()),
        ("import a", set()),
        ("x: int | None", set()),
        ("_log.warning('a', b)", set()),
        ("x = f('a text', f'another {a + 1}')", set()),
        ("def __repr__(self):\n    return a + b", set()),
        ("if TYPE_CHECKING:\n    x = 1", set()),
    ],
)
def test_a_line_has_these_mutants(line: str, expected: set[str]) -> None:
    assert faults(line) == expected


def test_a_mutant_is_known_by_its_text_and_its_function_not_by_its_line() -> None:
    source = "class A:\n    def f(self):\n        return [\n            a,\n            b < c,\n        ]\n"
    (mutant,) = [item for item in mutants_of("m.py", source.encode()) if "<=" in item.after]
    (moved,) = [item for item in mutants_of("m.py", f"# é\n\n{source}".encode()) if "<=" in item.after]
    assert mutant.key == moved.key == ("m.py", "A.f", "b < c,", "b <= c,")
    assert (mutant.line, moved.line) == (5, 7)
    assert mutant.apply(source.encode()).decode() == source.replace("<", "<=")


def test_every_mutant_is_valid_python() -> None:
    source = Path(__file__).read_bytes()
    for mutant in mutants_of("m.py", source):
        ast.parse(mutant.apply(source))
