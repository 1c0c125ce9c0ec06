"""Every check of the project, by one name each; `python -m nox -l` lists them.

    python -m pip install nox && python -m nox -s tests

needs Python 3.11+, pip and git, nothing else: the backend is virtualenv (which nox brings along), and
pyright's node comes from PyPI. What is installed is read from pyproject.toml, so that nothing is said twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nox
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator

nox.needs_version = ">=2025.5.1"
# virtualenv carries its own pip, so this works where Debian has split `ensurepip` off the interpreter.
nox.options.default_venv_backend = "virtualenv"
# A reused environment keeps what a change of pyproject.toml has dropped, and so passes where a clean clone
# fails. `nox -r` reuses them when only speed matters.
nox.options.reuse_venv = "no"
nox.options.sessions = ["lint", "types", "tests", "wheel"]

ROOT = Path(__file__).resolve().parent
PROJECT: dict[str, Any] = nox.project.load_toml(ROOT / "pyproject.toml")
EVERYTHING = ".[cli,parquet]"
RUNNING = f"3.{sys.version_info.minor}"


def group(*names: str) -> tuple[str, ...]:
    """The requirements of dependency groups: `pip install --group` would need a pip of 2025."""
    return tuple(nox.project.dependency_groups(PROJECT, *names))


def run_pytest(session: nox.Session) -> None:
    # -m pytest, not the script: it has to be the one of this environment.
    session.run("python", "-m", "pytest", *session.posargs)


# --- tests -----------------------------------------------------------------------------------------------


def candidates(version: str) -> Iterator[Path]:
    """Where a Python of this version may be: pyenv's own folders, then every folder of PATH.

    Not just the first hit on PATH: that may be a shim which refuses to run, with a real one further on.
    """
    name = f"python{version}"
    for home in sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*"), reverse=True):
        yield home / "bin" / name
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for suffix in ("", ".exe"):
            yield Path(folder, name + suffix)


def find_python(version: str) -> str | None:
    """The path of an interpreter of this version that has really been run, or None."""
    if version == RUNNING:
        return sys.executable
    ask = "import sys; print('3.%d' % sys.version_info[1], sys.executable, sep='|')"
    for candidate in candidates(version):
        if not candidate.is_file():
            continue
        try:
            # A pyenv shim of a version that is not activated exists, is executable, and exits with 127.
            answer = subprocess.run(
                [candidate, "-I", "-c", ask],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        found, _, executable = answer.stdout.strip().partition("|")
        if found == version and executable:
            return executable
    return None


@nox.session
def tests(session: nox.Session) -> None:
    """The tests on the running Python; arguments after `--` go to pytest."""
    session.install("-e", EVERYTHING, *group("test"))
    run_pytest(session)


def define_tests(version: str) -> None:
    """A session `tests-3.X`. All of them: `nox -t matrix`."""
    name, python = f"tests-{version}", find_python(version)

    if python is None:
        # Defined all the same, so that asking for it says what is missing rather than "no such session".
        @nox.session(name=name, tags=["matrix"], venv_backend="none", default=False)
        def skip_tests(session: nox.Session) -> None:
            session.skip(f"no Python {version} that runs was found in ~/.pyenv/versions or on PATH")

        skip_tests.__doc__ = f"Skipped: no Python {version} on this machine."
    else:

        @nox.session(name=name, tags=["matrix"], python=python, default=False)
        def tests_on(session: nox.Session) -> None:
            session.install("-e", EVERYTHING, *group("test"))
            run_pytest(session)

        tests_on.__doc__ = f"The tests on Python {version}."


for _version in nox.project.python_versions(PROJECT):
    define_tests(_version)


@nox.session
def floors(session: nox.Session) -> None:
    """The tests with the lowest release of every run-time dependency that pyproject.toml allows."""
    pins: list[str] = []
    extras = PROJECT["project"]["optional-dependencies"]
    for line in [*PROJECT["project"]["dependencies"], *extras["cli"], *extras["parquet"]]:
        requirement = Requirement(line)
        lowest = [item.version for item in requirement.specifier if item.operator == ">="]
        if len(lowest) != 1:
            session.error(f"{line!r} does not name its lowest release with exactly one >=")
        pins.append(f"{requirement.name}=={lowest[0]}")
    # One call, so that pip refuses a floor which cannot be had, instead of raising it silently.
    session.install("-e", EVERYTHING, *group("test"), *pins)
    session.run("python", "-m", "pip", "list")
    run_pytest(session)


# --- lint and types ----------------------------------------------------------------------------------------

# ASYNC119 is a preview rule, which a release of ruff may rename or drop, and a rule that is gone finds
# nothing. So it is asked first whether it still sees what it is there for.
YIELDS = """
import asyncio

import anyio


async def a():
    async with anyio.create_task_group():
        yield


async def b():
    with anyio.move_on_after(1):
        yield


async def c():
    with anyio.fail_after(1):
        yield


async def d():
    async with asyncio.timeout(1):
        yield


async def e():
    async with asyncio.TaskGroup():
        yield
"""


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: the format, the rules, and no `yield` inside a task group or a deadline."""
    session.install(*group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")

    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder, "probe.py")
        probe.write_text(YIELDS, encoding="utf-8")
        config = f"--config={ROOT / 'pyproject.toml'}"
        seen = session.run(
            *("ruff", "check", config, "--select=ASYNC119", "--output-format=json", str(probe)),
            silent=True,
            success_codes=[1],
        )
    flagged, meant = str(seen).count('"ASYNC119"'), YIELDS.count("yield")
    if flagged != meant:
        session.error(f"ASYNC119 saw {flagged} of {meant} yields inside task groups and deadlines")
    # No excuse is accepted in the package: not even a noqa.
    session.run("ruff", "check", "--select=ASYNC119", "--ignore-noqa", "unpod_async")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict and pyright (strict, in pyproject.toml): the package, and uses of its public API."""
    # The [nodejs] extra in the group brings node as a wheel; else pyright would download one on first use.
    session.install("-e", EVERYTHING, *group("types"))
    # tests/typing is checked and never run; the rest of the tests would gain little from types.
    where = ["unpod_async", *(["tests/typing"] if any((ROOT / "tests/typing").glob("*.py")) else [])]
    session.run("mypy", "--strict", *where)
    # Neither a node that happens to be on PATH nor a newer pyright from npm: what pyproject.toml pins.
    env = {"PYRIGHT_PYTHON_GLOBAL_NODE": "0", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    session.run("pyright", *where, env=env)


@nox.session
def fuzz(session: nox.Session) -> None:
    """100,000 mutated pages, which may end in the errors of the package only."""
    session.install("-e", EVERYTHING, *group("test"))
    env = {"UNPOD_FUZZ": "100000"}
    session.run(
        "python", "-m", "pytest", "tests/faults/test_fuzz.py", "--timeout=600", *session.posargs, env=env
    )


@nox.session(default=False)
def torture(session: nox.Session) -> None:
    """200 exports killed at random moments; 1,000 histories of a space, exported and watched."""
    session.install("-e", EVERYTHING, *group("test"))
    session.run(
        *("python", "-m", "pytest", "--timeout=3600", "tests/export/test_kills.py"),
        *("tests/export/test_incremental.py", "tests/watch/test_watch_promise.py", *session.posargs),
        env={"UNPOD_KILLS": "200", "UNPOD_HISTORIES": "1000"},
    )


# --- promises ----------------------------------------------------------------------------------------------


@nox.session(default=False)
def promises(session: nox.Session) -> None:
    """What the README promises of limits and deadlines, measured over real sockets; red when not kept."""
    session.install(".")
    session.run("python", "benchmarks/promises.py", *session.posargs)


# --- benchmarks --------------------------------------------------------------------------------------------


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """The benchmarks of benchmarks/README.md: table, targets, JSON and plots; about half an hour."""
    session.install("-e", ".", *group("bench"))
    session.run("python", "benchmarks/bench.py", *session.posargs)


@nox.session(name="bench-quick", default=False)
def bench_quick(session: nox.Session) -> None:
    """The same with little data in under a minute."""
    session.install("-e", ".", *group("bench"))
    session.run("python", "benchmarks/bench.py", "--quick", *session.posargs)


@nox.session(default=False)
def gate(session: nox.Session) -> None:
    """Whether exports and walks cost more than kept in benchmarks/gate.json, next to aiohttp by hand."""
    session.install("-e", ".")
    session.run("python", "benchmarks/bench.py", "--gate", *session.posargs)


@nox.session(name="call-path", default=False)
def call_path(session: nox.Session) -> None:
    """Count the modules that one page and one export pass through, against their limits."""
    session.install("-e", EVERYTHING)
    session.run("python", "benchmarks/call_path.py", *session.posargs)


# --- wheel and demo ----------------------------------------------------------------------------------------

SMOKE = """
import asyncio, importlib.metadata, pathlib, sys

import unpod_async
from unpod_async import UnpodClient
from unpod_async.testing import Sandbox

source = pathlib.Path(sys.argv[1])
package = pathlib.Path(unpod_async.__file__).resolve().parent
assert source not in package.parents, f"imported from the source tree: {package}"
assert (package / "py.typed").is_file(), "py.typed is not in the wheel"
files = importlib.metadata.files("unpod-async")
scripts = {file.stem for file in files if file.parts[0] == ".."}
assert scripts == {"unpod-async"}, scripts
top = {file.parts[0] for file in files} - {".."}
assert all(name == "unpod_async" or name.endswith(".dist-info") for name in top), top


async def main():
    async with (
        Sandbox() as sandbox,
        UnpodClient(sandbox.token, sandbox.org_handle, sandbox.base_url) as unpod,
    ):
        runs = await unpod.runs.list(sandbox.space_token).collect()
        assert [run.run_id for run in runs] == sandbox.run_ids(), runs
        return runs


runs = asyncio.run(main())
assert runs, "the sandbox lists no runs"
print(importlib.metadata.version("unpod-async"), "from", package, "lists", len(runs), "runs")
"""


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the sdist and from it the wheel; install the wheel alone, elsewhere; use it."""
    session.install(*group("wheel"))
    # Not session.create_tmp(): that lies in .nox, hence inside the source tree.
    with tempfile.TemporaryDirectory(prefix="unpod-wheel-") as folder:
        tmp = Path(folder).resolve()
        # Without --wheel or --sdist, `build` makes the wheel from the sdist: what that lacks, fails here.
        session.run("python", "-m", "build", "--installer=pip", "--outdir", str(tmp / "dist"))
        (built,) = (tmp / "dist").glob("*.whl")
        session.run("python", "-m", "virtualenv", "--quiet", str(tmp / "clean"))
        python = str(tmp / "clean" / ("Scripts" if os.name == "nt" else "bin") / "python")
        session.run(python, "-m", "pip", "install", "--quiet", str(built), external=True)
        (tmp / "elsewhere").mkdir()
        (tmp / "smoke.py").write_text(SMOKE, encoding="utf-8")
        with session.chdir(tmp / "elsewhere"):
            # -I: neither working directory nor PYTHONPATH lends a module. -W error: no warning.
            session.run(python, "-I", "-W", "error", str(tmp / "smoke.py"), str(ROOT), external=True)


@nox.session
def demo(session: nox.Session) -> None:
    """The package at work against its own sandbox; needs no key and no network."""
    session.install(".[cli]")
    session.run("python", "-m", "unpod_async.testing.demos.export", *session.posargs)


@nox.session(name="demo-watch", default=False)
def demo_watch(session: nox.Session) -> None:
    """A watch through changes, an outage and a kill: every change told once; needs no key and no network."""
    session.install(".[cli]")
    session.run("python", "-m", "unpod_async.testing.demos.watch", *session.posargs)
