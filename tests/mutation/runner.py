"""Runs the tests of an area on mutants: collects them once, then forks a process for each mutant.

The process exchanges the code of the mutated function and runs the tests that execute the changed line, until
one fails twice: fast tests first, and tests that killed many mutants before. Code outside of functions has
run when the process starts: for a fault there, it sets the constant, or else it starts pytest anew. Each
process works in its own copy of the tree, which has the fault on disk, because some tests start the package
as a process.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TypeAlias

import coverage
import pytest

from tests.mutation.mutants import Mutant

__all__ = ["OPTIONS", "Runner", "Verdict"]

TEST_SECONDS = 120
"""On an idle machine, no test takes a tenth of it."""
MUTANT_SECONDS = 600
MEMORY = 6 * 2**30
"""Bytes of address space of a process: a loop without an end must not take the memory of the machine."""
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--tb=short", f"--timeout={TEST_SECONDS}")

Send: TypeAlias = Callable[[Any], None]


class Verdict(NamedTuple):
    """What the tests say about a mutant: "killed", "time-out" or "survived"; and which test."""

    word: str
    test: str = ""


class Record(NamedTuple):
    """A run without a fault.

    Attributes:
        seconds: how long each test takes.
        tests: the tests that execute each line of a module, by the path of the module.
    """

    seconds: dict[str, float]
    tests: dict[str, dict[int, list[str]]]


class Runner:
    """A plugin of pytest that runs mutants instead of the tests.

    Args:
        mutants: each path is relative to the working directory, which is a copy of the tree, too.
        trees: copies of the tree; as many mutants run at a time.
        report: is called with every verdict.
        limit: seconds until no further mutant is started.
    """

    def __init__(
        self, mutants: Sequence[Mutant], trees: Sequence[Path], report: Callable[[Mutant, Verdict], None]
    ) -> None:
        self._mutants = mutants
        self._trees = list(trees)
        self._report = report
        self._failure = ""
        self._items: dict[str, pytest.Item] = {}
        self._files: list[str] = []
        # The tests that killed mutants of a function are the first to try on the next mutant of it.
        self._killers: dict[tuple[str, str], list[str]] = {}
        self._tries: Counter[str] = Counter()
        self._kills: Counter[str] = Counter()
        self._kills_in_module: Counter[tuple[str, str]] = Counter()
        # It also records, under an empty name, what runs while the package is imported.
        self._watch = coverage.Coverage(
            data_file=None, include=[f"{Path.cwd()}/unpod_async/*"], config_file=False
        )
        self._watch.start()

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Do not shrink examples: one that fails is enough."""
        # pytest has to import it first, as a plugin.
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutation", settings.get_profile("ci"), phases=phases)
        settings.load_profile("mutation")
        self._files = list(config.args)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failure = self._failure or str(report.longrepr)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("the tests cannot be collected")
        self._items = {item.nodeid: item for item in session.items}
        record = _Process(self._record).result()
        self._watch.stop()
        if record is None:
            raise session.Failed("the tests fail without a fault")
        self._run_mutants(record)
        return True

    # Without a fault

    def _record(self, send: Send) -> None:
        watch = self._watch
        seconds: dict[str, float] = {}
        began = time.monotonic()

        def start(name: str) -> None:
            nonlocal began
            began = time.monotonic()
            watch.switch_context(name)

        def end(name: str) -> None:
            seconds[name] = time.monotonic() - began

        failed = self._run_tests(list(self._items), start, end)
        watch.stop()
        if failed is not None:
            print(f"{failed} fails without a fault:\n{self._failure}", file=sys.stderr)
            return
        data = watch.get_data()
        send(
            Record(
                seconds,
                {
                    str(Path(file).relative_to(Path.cwd())): data.contexts_by_lineno(file)
                    for file in data.measured_files()
                },
            )
        )

    def _run_tests(
        self, names: Sequence[str], start: Send, end: Callable[[str], None] = lambda _name: None
    ) -> str | None:
        """Run tests in this process. Return the first that fails."""
        for name, following in zip(names, [*names[1:], None], strict=True):
            start(name)
            item, next_item = self._items[name], None if following is None else self._items[following]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
            end(name)
            if self._failure:
                return name
        return None

    # With a fault

    def _run_mutants(self, record: Record) -> None:
        functions = _functions()
        running: dict[_Process, tuple[Mutant, Path]] = {}
        waiting = list(reversed(self._mutants))
        while waiting or running:
            while waiting and self._trees:
                mutant, tree = waiting.pop(), self._trees.pop()
                process = _Process(self._job(mutant, tree, record, functions))
                running[process] = mutant, tree
            for process in _ready(running):
                mutant, tree = running.pop(process)
                self._trees.append(tree)
                verdict = process.verdict()
                self._tries.update(process.tests)
                if verdict.word == "killed":
                    self._kills[verdict.test] += 1
                    self._kills_in_module[mutant.path, verdict.test] += 1
                    known = self._killers.setdefault((mutant.path, mutant.scope), [])
                    known[:] = [verdict.test, *(name for name in known if name != verdict.test)][:4]
                self._report(mutant, verdict)

    def _job(
        self, mutant: Mutant, tree: Path, record: Record, functions: dict[_Place, FunctionType]
    ) -> Callable[[Send], None]:
        """Return the work of a process that runs tests on a mutant: it sends each test, then the verdict."""
        root, source = Path.cwd(), Path(mutant.path).read_bytes()

        def work(send: Send) -> None:
            os.chdir(tree)
            # Processes that tests start import the package from here.
            os.environ["PYTHONPATH"] = str(tree)
            old = compile(source, mutant.path, "exec", dont_inherit=True)
            new = compile(mutant.apply(source), mutant.path, "exec", dont_inherit=True)
            with _on_disk(tree / mutant.path, mutant):
                if _exchange(old, new, mutant.path, functions):
                    names = self._choose(mutant, old, record)
                    if names is None:
                        send(Verdict("survived", "no test executes it"))
                        return
                else:
                    names = _by_seconds(_set_constant(root, source, mutant, record), record)
                if not names:
                    in_module = {name for found in record.tests[mutant.path].values() for name in found}
                    send(_run_anew(_by_seconds(in_module - {""}, record) or self._files))
                    return
                send(self._verdict_of(names, send))

        return work

    def _verdict_of(self, names: Sequence[str], send: Send) -> Verdict:
        """Run tests until one fails twice: on a busy machine, a test may fail without a fault."""
        while (failed := self._run_tests(names, send)) is not None:
            if "Timeout (>" in self._failure:
                return Verdict("time-out", failed)
            self._failure = ""
            if self._run_tests([failed], send) is not None:
                return Verdict("killed", failed)
            names = names[names.index(failed) + 1 :]
        return Verdict("survived")

    def _choose(self, mutant: Mutant, module: CodeType, record: Record) -> list[str] | None:
        """Return the tests that execute a line of the fault, in the order in which to run them.

        The list is empty if the lines are executed only while the package is imported. None: they are never.
        """
        lines = _lines(module)
        first = max((line for line in lines if line <= mutant.line), default=mutant.line)
        by_line = record.tests.get(mutant.path, {})
        span = {first, *range(mutant.line, mutant.line + mutant.lines)}
        found = {name for line in span for name in by_line.get(line, ())}
        if not found:
            return None
        found.discard("")
        known = [name for name in self._killers.get((mutant.path, mutant.scope), ()) if name in found]
        return known + sorted(found - {*known}, key=lambda name: self._seconds_per_kill(name, mutant, record))

    def _seconds_per_kill(self, name: str, mutant: Mutant, record: Record) -> float:
        """Return how many seconds of a test probably kill one mutant of this module."""
        kills = self._kills[name] + 4 * self._kills_in_module[mutant.path, name]
        return record.seconds[name] * (2 + self._tries[name]) / (0.2 + kills)


def _by_seconds(names: Iterable[str], record: Record) -> list[str]:
    return sorted(names, key=lambda name: record.seconds[name])


def _run_anew(tests: Sequence[str]) -> Verdict:
    """Start pytest on the tree in the working directory."""
    options = [*OPTIONS, f"--rootdir={Path.cwd()}", f"--basetemp={Path.cwd() / 'tmp'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return Verdict("survived")
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", done.stdout, re.MULTILINE)
    if failed is None:
        return Verdict("killed", done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "")
    return Verdict("time-out" if "Timeout (>" in done.stdout else "killed", failed[1])


@contextlib.contextmanager
def _on_disk(path: Path, mutant: Mutant) -> Iterator[None]:
    """Put the fault into the file for the time of the block."""
    original, times = path.read_bytes(), path.stat()
    path.write_bytes(mutant.apply(original))
    # Python compares the seconds and the size with those in the bytecode file.
    os.utime(path, (1, 1))
    try:
        yield
    finally:
        path.write_bytes(original)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# --- processes ---------------------------------------------------------------------------------------------


class _Process:
    """A fork of this process. It sends objects, and ends without the usual clean-up."""

    def __init__(self, work: Callable[[Send], None]) -> None:
        self.connection, sender = multiprocessing.Pipe(duplex=False)
        self.ends_at = time.monotonic() + MUTANT_SECONDS
        self.tests: list[str] = []
        """The tests that it started."""
        self._last: Any = None
        self._pid = os.fork()
        if self._pid == 0:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            try:
                work(sender.send)
            except BaseException as error:  # noqa: BLE001 - any exception that escapes a test run is a failure
                sender.send(Verdict("killed", repr(error)))
            finally:
                os._exit(0)
        sender.close()

    def read(self) -> bool:
        """Read what the process sent. Return whether it has ended."""
        try:
            self._last = self.connection.recv()
            if isinstance(self._last, str):
                self.tests.append(self._last)
        except EOFError:
            os.waitpid(self._pid, 0)
            self.kill()  # processes of its tests that a time-out has left behind
            self.connection.close()
            return True
        return False

    def result(self) -> Any:
        """Wait for the end of the process, and return the last object that it sends."""
        while not self.read():
            pass
        return self._last

    def verdict(self) -> Verdict:
        if isinstance(self._last, Verdict):
            return self._last
        if time.monotonic() >= self.ends_at:
            return Verdict("time-out", str(self._last))
        return Verdict("killed", f"{self._last} ends the process")

    def kill(self) -> None:
        """End it and the processes that its tests have started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)


def _ready(running: dict[_Process, Any]) -> list[_Process]:
    """Wait, and return the processes that have ended. Kills those that exceed their time."""
    by_connection = {process.connection: process for process in running}
    pause = max(0, min(process.ends_at for process in running) - time.monotonic())
    found = multiprocessing.connection.wait(list(by_connection), pause)
    if not found:
        for process in running:
            if time.monotonic() >= process.ends_at:
                process.kill()
        return []
    return [
        process for connection, process in by_connection.items() if connection in found and process.read()
    ]


# --- code --------------------------------------------------------------------------------------------------

_Place: TypeAlias = tuple[str, str, int]
"""Where a function is defined: the path of the module, its qualified name, its first line."""

_FUNCTION = 1
"""Code of a function has this flag, CO_OPTIMIZED; that of a module or a class has not."""


def _functions() -> dict[_Place, FunctionType]:
    """Return the functions of the package that are loaded from the working directory."""
    root = f"{Path.cwd()}/"
    return {
        (code.co_filename.removeprefix(root), code.co_qualname, code.co_firstlineno): item
        for item in gc.get_objects()
        if type(item) is FunctionType and (code := item.__code__).co_filename.startswith(root)
    }


def _exchange(old: CodeType, new: CodeType, path: str, functions: dict[_Place, FunctionType]) -> bool:
    """Exchange the code of the functions that differ. Return False if other code differs as well."""
    try:
        changed = list(_differences(old, new))
        targets = [(functions[path, code.co_qualname, code.co_firstlineno], by) for code, by in changed]
        for function, by in targets:
            function.__code__ = by
    except (KeyError, ValueError):
        # The function is not loaded, or uses other variables of the function around it.
        return False
    return bool(targets)


def _set_constant(root: Path, source: bytes, mutant: Mutant, record: Record) -> set[str]:
    """Set a constant to its value in the mutant, in every loaded module that has it.

    Returns:
        The tests that execute a line with its name; none if the fault is not in a constant.
    """
    before, after = (ast.parse(text).body for text in (source, mutant.apply(source)))
    changed = [new for old, new in zip(before, after, strict=True) if ast.dump(old) != ast.dump(new)]
    match changed:
        case [ast.Assign(targets=[ast.Name(id=name)], value=value)]:
            pass
        case [ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)]:
            pass
        case _:
            return set()
    modules = {
        str(Path(file).relative_to(root)): module.__dict__
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None) or "").startswith(f"{root}/unpod_async/")
    }
    own = modules[mutant.path]
    old_value = own[name]
    own[name] = eval(compile(ast.Expression(value), mutant.path, "eval"), own)  # noqa: S307 - our own source
    found: set[str] = set()
    for path, names in modules.items():
        if path == mutant.path or names.get(name) is old_value:
            names[name] = own[name]
            tree = ast.walk(ast.parse((root / path).read_bytes()))
            lines = {node.lineno for node in tree if isinstance(node, ast.Name) and node.id == name}
            found.update(test for line in lines for test in record.tests[path].get(line, ()) if test)
    return found


def _differences(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Yield the outermost functions whose code differs.

    Raises:
        ValueError: code outside of functions differs.
    """
    if _without_lines(old) == _without_lines(new):
        return
    if old.co_flags & _FUNCTION:
        yield old, new
        return
    if _without_lines(old, nested=False) != _without_lines(new, nested=False):
        raise ValueError("code outside of functions differs")
    for before, after in zip(_nested(old), _nested(new), strict=True):
        yield from _differences(before, after)


def _nested(code: CodeType) -> list[CodeType]:
    return [item for item in code.co_consts if isinstance(item, CodeType)]


def _without_lines(code: CodeType, *, nested: bool = True) -> CodeType:
    constants = tuple(
        (_without_lines(item) if nested else None) if isinstance(item, CodeType) else item
        for item in code.co_consts
    )
    return code.replace(co_firstlineno=1, co_linetable=b"", co_consts=constants)


def _lines(code: CodeType) -> set[int]:
    """Return the numbers of the lines that have code."""
    own = {line for _, _, line in code.co_lines() if line is not None}
    return own.union(*(_lines(item) for item in _nested(code)))
