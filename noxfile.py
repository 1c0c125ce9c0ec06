"""The checks of the project, one nox session each. `python -m nox -l` lists them.

    python -m pip install nox && python -m nox -s tests

This needs Python 3.11 or newer, pip and git, and nothing else: the environments are made by virtualenv, which
nox depends on, and pyright's node is installed from PyPI. The requirements are read from pyproject.toml, so
each is stated only once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nox
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator

nox.needs_version = ">=2025.5.1"
# virtualenv brings its own pip, so it also works on Debian, where `ensurepip` is a separate package.
nox.options.default_venv_backend = "virtualenv"
# A reused environment keeps packages that pyproject.toml no longer names, so it can pass where a clean
# clone fails. `nox -r` reuses environments when speed matters more.
nox.options.reuse_venv = "no"
nox.options.sessions = ["lint", "types", "tests", "tests-slow", "docs", "wheel", "gate"]

ROOT = Path(__file__).resolve().parent
PROJECT: dict[str, Any] = nox.project.load_toml(ROOT / "pyproject.toml")
EVERYTHING = ".[cli,parquet,otel,mcp,store,dask]"
RUNNING = f"3.{sys.version_info.minor}"


def group(*names: str) -> tuple[str, ...]:
    """Return the requirements of dependency groups. `pip install --group` needs pip 25.1 or newer."""
    return tuple(nox.project.dependency_groups(PROJECT, *names))


def workers() -> int:
    """Return how many processes run tests: one more than there are cores, because many tests wait for I/O."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available + 1, 8)


def run_pytest(session: nox.Session, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run pytest in parallel. The arguments after `--` come last, so they override the ones given here."""
    # Tests start the package in hundreds of processes, each of which would compile it without bytecode files.
    env = {"PYTHONDONTWRITEBYTECODE": "", **(env or {})}
    # -m pytest instead of the script: it is certainly the one of this environment.
    command = ("python", "-m", "pytest", f"--numprocesses={workers()}", "--dist=worksteal")
    session.run(*command, *arguments, *session.posargs, env=env)


# Use the versions of pyproject.toml, neither a node on PATH nor a newer pyright from npm.
PYRIGHT = {"PYRIGHT_PYTHON_GLOBAL_NODE": "0", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}

FAST = ("-m", "not slow", "--ignore=tests/docs")


# --- tests -----------------------------------------------------------------------------------------------


def candidates(version: str) -> Iterator[Path]:
    """Yield the paths where a Python of this version may be: the folders of pyenv, then those on PATH.

    The first match on PATH is not enough: it may be a pyenv shim that refuses to run, with a working
    interpreter in a later folder.
    """
    name = f"python{version}"
    for home in sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*"), reverse=True):
        yield home / "bin" / name
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for suffix in ("", ".exe"):
            yield Path(folder, name + suffix)


def find_python(version: str) -> str | None:
    """Return the path of an interpreter of this version that runs, or None."""
    if version == RUNNING:
        return sys.executable
    code = "import sys; print('3.%d' % sys.version_info[1], sys.executable, sep='|')"
    for candidate in candidates(version):
        if not candidate.is_file():
            continue
        try:
            # The pyenv shim of a version that is not activated is an executable file, and exits with 127.
            result = subprocess.run(
                [candidate, "-I", "-c", code],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        found, _, executable = result.stdout.strip().partition("|")
        if found == version and executable:
            return executable
    return None


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, without the slow ones. Arguments after `--` go to pytest."""
    session.install("-e", EVERYTHING, *group("test"))
    run_pytest(session, *FAST)


@nox.session(name="tests-slow")
def tests_slow(session: nox.Session) -> None:
    """Run the tests that kill processes or run whole demos, and more of the random histories."""
    session.install("-e", EVERYTHING, *group("test"))
    run_pytest(session, "-m", "slow")
    if not session.posargs:
        run_pytest(session, *HISTORIES, env={"UNPOD_HISTORIES": "100"})


HISTORIES = ("tests/export/test_incremental.py", "tests/watch/test_watch_promise.py")


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Run the tests without the slow ones, and fail if they cover less than 94 % of lines and branches."""
    session.install("-e", EVERYTHING, *group("test", "coverage"))
    report = ("--cov=unpod_async", "--cov-branch", "--cov-report=term-missing:skip-covered")
    run_pytest(session, *FAST, *report, "--cov-fail-under=94")


@nox.session(name="fault-table", default=False)
def fault_table(session: nox.Session) -> None:
    """Write tests/faults/README.md from a run of tests/faults; with `-- check`, fail if it would change."""
    session.install("-e", EVERYTHING, *group("test"))
    mode = "check" if "check" in session.posargs else "write"
    # In one process: the table is collected while the tests run.
    arguments = ["tests/faults"] if mode == "check" else ["tests/faults", f"--deselect={TABLE_TEST}"]
    session.run("python", "-m", "pytest", *arguments, env={"UNPOD_FAULT_TABLE": mode})


# It compares the table as it was before the run.
TABLE_TEST = "tests/faults/test_matrix.py::test_the_table_has_every_row_and_each_passed"


def define_tests(version: str) -> None:
    """Define the session `tests-3.X`. `nox -t matrix` runs all of them."""
    name, python = f"tests-{version}", find_python(version)

    if python is None:
        # The session is defined anyway, so that nox names the missing interpreter, not a missing session.
        @nox.session(name=name, tags=["matrix"], venv_backend="none", default=False)
        def skip_tests(session: nox.Session) -> None:
            session.skip(f"no working Python {version} in ~/.pyenv/versions or on PATH")

        skip_tests.__doc__ = f"Skipped: this machine has no Python {version}."
    else:

        @nox.session(name=name, tags=["matrix"], python=python, default=False)
        def tests_on(session: nox.Session) -> None:
            session.install("-e", EVERYTHING, *group("test"))
            run_pytest(session)

        tests_on.__doc__ = f"Run all tests on Python {version}."


VERSIONS = nox.project.python_versions(PROJECT)
for _version in VERSIONS:
    define_tests(_version)


@nox.session(name="tests-ends", venv_backend="none", default=False)
def tests_ends(session: nox.Session) -> None:
    """Run the fast tests on the oldest and the newest Python that is installed, except on the running one.

    The properties are left out: they take long, and what they check hardly depends on the version.
    `nox -t matrix` runs all tests on all versions.
    """
    found = {version: python for version in VERSIONS if (python := find_python(version))}
    ends = {version for version in (next(iter(found)), next(reversed(found))) if version != RUNNING}
    for version in VERSIONS:
        if version in found:
            line = subprocess.run([found[version], "-VV"], capture_output=True, text=True, check=True).stdout
            what = "tested now" if version in ends else "see `tests`" if version == RUNNING else "skipped"
            session.log(f"{what}: {line.strip()}")
        else:
            session.log(f"skipped: no Python {version} in ~/.pyenv/versions or on PATH")
    for version in sorted(ends):
        session.notify(f"tests-{version}", posargs=("-m", "not slow and not hypothesis", *FAST[2:]))


@nox.session(default=False)
def mutation(session: nox.Session) -> None:
    """Put small faults into the package and count how many the tests notice; see `-- --help`."""
    session.install("-e", EVERYTHING, *group("test", "coverage"))
    session.run("python", "-m", "tests.mutation", *session.posargs)


@nox.session(tags=["matrix"], default=False)
def floors(session: nox.Session) -> None:
    """Run the tests with the lowest version of each run-time dependency that pyproject.toml allows."""
    pins: list[str] = []
    extras = PROJECT["project"]["optional-dependencies"]
    tested = [line for name in ("cli", "parquet", "otel", "mcp", "store", "dask") for line in extras[name]]
    for line in [*PROJECT["project"]["dependencies"], *tested]:
        requirement = Requirement(line)
        lowest = [item.version for item in requirement.specifier if item.operator == ">="]
        if len(lowest) != 1:
            session.error(f"{line!r} must name its lowest version with exactly one >=")
        pins.append(f"{requirement.name}=={lowest[0]}")
    # In one call, so that pip fails on a version that cannot be installed instead of choosing a newer one.
    session.install("-e", EVERYTHING, *group("test"), *pins)
    session.run("python", "-m", "pip", "list")
    run_pytest(session, *FAST)


# --- lint and types ----------------------------------------------------------------------------------------

# ASYNC119 is a preview rule: a release of ruff may rename or drop it, and then it finds nothing. So the
# session first checks that the rule still flags these functions.
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
    """Check format and rules with ruff, and that nothing yields inside a task group or a deadline."""
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
    flagged, expected = str(seen).count('"ASYNC119"'), YIELDS.count("yield")
    if flagged != expected:
        session.error(f"ASYNC119 flags {flagged} of {expected} yields inside task groups and deadlines")
    # A noqa comment has no effect here: a yield inside a task group or a deadline can cancel other code, and
    # no reason excuses that in the package.
    session.run("ruff", "check", "--select=ASYNC119", "--ignore-noqa", "unpod_async")


@nox.session
def types(session: nox.Session) -> None:
    """Check the package and uses of its public API with mypy --strict and pyright (strict)."""
    # The extra [nodejs] installs node as a wheel. Without it, pyright downloads node on first use.
    session.install("-e", EVERYTHING, *group("types"))
    # tests/typing is checked and never run. Strict types would add little to the other tests.
    where = ["unpod_async", *(["tests/typing"] if any((ROOT / "tests/typing").glob("*.py")) else [])]
    session.run("mypy", "--strict", *where)
    session.run("pyright", *where, env=PYRIGHT)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build, and run its examples; warnings are errors."""
    session.install("-e", EVERYTHING, *group("test", "docs"))
    session.run("python", "docs/generate.py", "--check")
    session.run("python", "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", "docs/_build")
    # By itself: pytest drops a file that is in a folder it is given, and does not collect this one there.
    session.run("python", "-m", "pytest", "tests/docs/site.py")
    run_pytest(session, "tests/docs")


@nox.session(name="docs-extra", default=False)
def docs_extra(session: nox.Session) -> None:
    """Run the examples for databases; parse or import those for cron and schedulers. Needs Debian."""
    missing = [package for package, path in SERVERS.items() if not list(Path("/").glob(path))]
    if missing:
        command = ("apt-get", "install", "-y", "-q", *missing)
        if os.geteuid() != 0:
            session.error(f"these packages of Debian are missing; as root: {' '.join(command)}")
        session.run("apt-get", "update", "-q", external=True)
        session.run(*command, external=True)
    session.install("-e", EVERYTHING, *group("test", "docs-extra"))
    session.run("python", "-m", "pytest", "tests/docs/extra.py", *session.posargs)


@nox.session(default=False)
def stores(session: nox.Session) -> None:
    """Export into S3, Google Cloud Storage and Azure; the last is Azurite, installed with npm."""
    session.install("-e", EVERYTHING, *group("test"))
    with tempfile.TemporaryDirectory(prefix="unpod-azurite-") as folder:
        command = ("npm", "install", "--no-audit", "--no-fund", "--prefix", folder, AZURITE)
        session.run(*command, external=True, silent=True)
        env = {"UNPOD_TEST_STORES": "s3,gs,az", "AZURITE": f"{folder}/node_modules/.bin/azurite-blob"}
        run_pytest(session, "tests/export/test_object_store.py", "tests/export/test_store_shards.py", env=env)


AZURITE = "azurite@3.37.0"
SERVERS = {"postgresql": "usr/lib/postgresql/*/bin/initdb", "systemd": "usr/bin/systemd-analyze"}


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Decode 100,000 mutated pages; each must give rows or one of the package's own errors."""
    session.install("-e", EVERYTHING, *group("test"))
    env = {"UNPOD_FUZZ": "100000"}
    session.run(
        "python", "-m", "pytest", "tests/faults/test_fuzz.py", "--timeout=600", *session.posargs, env=env
    )


@nox.session(default=False)
def torture(session: nox.Session) -> None:
    """Kill 200 exports and 20 workers; export and watch 1,000 random histories, and walk 1,000,000."""
    session.install("-e", EVERYTHING, *group("test"))
    session.run(
        *("python", "-m", "pytest", "--timeout=3600", "tests/export/test_kills.py"),
        *(*HISTORIES, "tests/test_distributed.py", *session.posargs),
        env={"UNPOD_KILLS": "200", "UNPOD_WORKER_KILLS": "20", "UNPOD_HISTORIES": "1000"},
    )
    if not session.posargs:
        session.run("python", "-m", "tests.walk_histories", "1000000")


# --- promises ----------------------------------------------------------------------------------------------


@nox.session(default=False)
def promises(session: nox.Session) -> None:
    """Measure over real sockets that limits and deadlines hold as documented; fail if one does not."""
    session.install(".")
    session.run("python", "benchmarks/promises.py", *session.posargs)


# --- benchmarks --------------------------------------------------------------------------------------------


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks of benchmarks/README.md: table, targets, JSON and plots. Takes 40 minutes."""
    session.install("-e", ".[parquet,speed]", *group("bench"))
    session.run("python", "benchmarks/bench.py", *session.posargs)


@nox.session(name="bench-quick", default=False)
def bench_quick(session: nox.Session) -> None:
    """Run the benchmarks with little data, in under a minute."""
    session.install("-e", ".[parquet,speed]", *group("bench"))
    session.run("python", "benchmarks/bench.py", "--quick", *session.posargs)


@nox.session
def gate(session: nox.Session) -> None:
    """Compare the cost of exports and walks with benchmarks/gate.json, relative to hand-written aiohttp."""
    session.install("-e", ".[parquet]")
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
(plugin,) = importlib.metadata.entry_points(group="pytest11", name="unpod_async")
assert (package.parent / plugin.value.replace(".", "/")).with_suffix(".py").is_file(), plugin
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


def build(session: nox.Session, folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it. Returns both."""
    # Without --wheel or --sdist, `build` makes the wheel from the sdist: a file missing there fails here.
    session.run("python", "-m", "build", "--installer=pip", "--outdir", str(folder))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def install_elsewhere(session: nox.Session, folder: Path, *requirements: str) -> str:
    """Install into a new environment and use the package there. Returns the Python of the environment."""
    session.run("python", "-m", "virtualenv", "--quiet", str(folder / "env"))
    python = str(folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python")
    session.run(python, "-m", "pip", "install", "--quiet", *requirements, external=True)
    (folder / "elsewhere").mkdir()
    (folder / "smoke.py").write_text(SMOKE, encoding="utf-8")
    with session.chdir(folder / "elsewhere"):
        # -I: no module comes from the working directory or PYTHONPATH. -W error: no warning.
        session.run(python, "-I", "-W", "error", str(folder / "smoke.py"), str(ROOT), external=True)
    return python


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the sdist, and the wheel from it; install only the wheel in another place, and use it."""
    session.install(*group("wheel"))
    # session.create_tmp() would be in .nox, that is, inside the source tree.
    with tempfile.TemporaryDirectory(prefix="unpod-wheel-") as folder:
        tmp = Path(folder).resolve()
        built, _ = build(session, tmp / "dist")
        install_elsewhere(session, tmp, str(built))


# pyright looks for the package in the environment of the first Python on PATH. nox puts that of the session
# there.
VERIFY_TYPES = """
import os, subprocess, sys

os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
command = [sys.executable, "-m", "pyright", "--verifytypes", "unpod_async", "--ignoreexternal"]
sys.exit(subprocess.call(command))
"""


@nox.session(name="release-check", default=False)
def release_check(session: nox.Session) -> None:
    """Check that the package can be published: metadata, contents, installation, use and types.

    `-- --unpublished` leaves out what needs the address of the repository: that pyproject.toml names it, that
    the description on PyPI has no relative links, that the changelog has this version with a date, and that
    hints install from PyPI. Without it, these checks come first.
    """
    unpublished = "--unpublished" in session.posargs
    if not unpublished and (missing := missing_for_release()):
        session.error("the package cannot be published yet:\n- " + "\n- ".join(missing))
    session.install(*group("release"))
    with tempfile.TemporaryDirectory(prefix="unpod-release-") as folder:
        tmp = Path(folder).resolve()
        built, source = build(session, tmp / "dist")
        session.run("python", "-m", "twine", "check", "--strict", str(built), str(source))
        session.run("check-wheel-contents", str(built))
        if not unpublished and (links := relative_links(built)):
            session.error(f"the description on PyPI has relative links: {', '.join(links)}")
        for name, artifact in (("sdist", source), ("wheel", built)):
            (tmp / name).mkdir()
            types = group("types") if artifact == built else ()
            python = install_elsewhere(session, tmp / name, f"{artifact}[cli,parquet,dask]", *types)
            session.run(python, "-I", "-m", "unpod_async", "--version", external=True)
        shutil.copytree(ROOT / "tests" / "typing", tmp / "wheel" / "elsewhere" / "typing")
        with session.chdir(tmp / "wheel" / "elsewhere"):
            session.run(python, "-m", "mypy", "--strict", "typing", external=True)
            session.run(python, "-c", VERIFY_TYPES, env=PYRIGHT, external=True)


def missing_for_release() -> list[str]:
    """Return what is missing for a release, each as a sentence that says what to do."""
    missing: list[str] = []
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    if not hook["substitutions"][-1]["replacement"].startswith("https://"):
        missing.append(
            "The address of the repository is empty: set it in pyproject.toml, in the last substitution of "
            "fancy-pypi-readme, and add it to [project.urls]."
        )
    text = (ROOT / "unpod_async" / "_version.py").read_text(encoding="utf-8")
    version = re.findall(r'^VERSION: Final = "(.+)"$', text, re.MULTILINE)[0]
    if "IS_PUBLISHED: Final = True" not in text:
        missing.append("Hints install from a clone: set IS_PUBLISHED to True in unpod_async/_version.py.")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE) is None:
        missing.append(f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD`.")
    return missing


def relative_links(built: Path) -> list[str]:
    """Return the relative links of the description in a wheel."""
    with zipfile.ZipFile(built) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        description = archive.read(metadata).decode().partition("\n\n")[2]
    return [link for link in re.findall(r"\]\(([^)#][^)]*)\)", description) if "://" not in link]


@nox.session
def demo(session: nox.Session) -> None:
    """Export from a local sandbox, kill the export, resume it and compare. Needs no key and no network."""
    session.install(".[cli]")
    session.run("unpod-async", "demo", *session.posargs)


@nox.session(name="demo-watch", default=False)
def demo_watch(session: nox.Session) -> None:
    """Watch a local sandbox through changes, an outage and a kill. Needs no key and no network."""
    session.install(".[cli]")
    session.run("python", "-m", "unpod_async.testing.demos.watch", *session.posargs)


@nox.session(name="demo-dask", default=False)
def demo_dask(session: nox.Session) -> None:
    """Export on a Dask cluster within one rate limit, kill a worker, then export with four processes."""
    session.install(".[cli,dask]")
    session.run("python", "-m", "unpod_async.testing.demos.cluster", *session.posargs)
