"""Blocks that need more than the package: a Postgres server, dlt, schedulers, cron and systemd.

`nox -s docs-extra` installs what they need and runs this file; pytest does not collect it by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import DOCS, Block, Step, blocks, pages
from tests.docs.running import environment, run, sandbox_for
from unpod_async.testing import Sandbox

EXPORT = DOCS / "howto" / "export.md"
LOAD = DOCS / "howto" / "load.md"


def extra(page: Path, name: str) -> Block:
    """Return the block of a page with this mark."""
    (found,) = [block for block in blocks(page) if (block.mark, block.value) == ("extra", name)]
    return found


def test_every_block_is_tested_here() -> None:
    marks = {block.value for page in pages() for block in blocks(page) if block.mark == "extra"}
    units = {"unpod-export.service", "unpod-export.timer"}
    assert marks == {"postgres", "crontab", *units, "airflow", "dagster", "prefect", "dlt"}


# -- Postgres -----------------------------------------------------------------------------------------------


@contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """Run a new Postgres server. Yields the variables that name it."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    # The server refuses to run as root; Debian's package has a user for it.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    options: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL}
    if os.geteuid() == 0:
        options |= {"user": user, "group": user, "extra_groups": []}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if os.geteuid() == 0:
            shutil.chown(folder, user, user)
        data = str(Path(folder, "data"))
        options["cwd"] = folder
        initdb = [str(programs / "initdb"), "-D", data, "-U", "reader", "--auth=trust", "--encoding=UTF8"]
        subprocess.run(initdb, **options)  # noqa: S603
        server = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        control = [str(programs / "pg_ctl"), "-D", data, "-w"]
        subprocess.run([*control, "-l", f"{folder}/log", "-o", server, "start"], **options)  # noqa: S603
        try:
            yield {"PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": "reader", "PGDATABASE": "postgres"}
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **options)  # noqa: S603


@pytest.mark.timeout(300)
async def test_the_files_load_into_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(LOAD)
    compared = 0
    with postgres() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        async with sandbox_for(LOAD) as sandbox:
            export = next(block for block in found if block.language == "shell" and not block.mark)
            await run(Step(export, None), tmp_path, sandbox)
            for block, after in itertools.pairwise(found):
                if (block.mark, block.value) == ("extra", "postgres"):
                    output = await run(Step(block, after.text), tmp_path, sandbox)
                    print(output)  # noqa: T201 - `pytest -s` shows what to put into the page
                    assert output == after.text, f"line {block.line}"
                    compared += 1
    assert compared == 3


# -- dlt ----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
async def test_dlt_loads_new_tasks_and_merges_recent_ones(tmp_path: Path) -> None:
    import duckdb

    found = blocks(LOAD)
    (place,) = [place for place, block in enumerate(found) if (block.mark, block.value) == ("extra", "dlt")]
    (tmp_path / "block.py").write_text(found[place].text, encoding="utf-8")

    async def load(sandbox: Sandbox) -> str:
        local = {"DLT_DATA_DIR": str(tmp_path / "dlt"), "RUNTIME__DLTHUB_TELEMETRY": "false"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "block.py"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={**environment(sandbox), **local},
        )
        output, diagnostics = await process.communicate()
        assert process.returncode == 0, diagnostics.decode()
        return output.decode()

    async with sandbox_for(LOAD) as sandbox:
        assert await load(sandbox) == found[place + 1].text
        requests = sandbox.requests
        recent, old = sandbox.task_ids(sandbox.run_ids()[20])[0], sandbox.task_ids()[-1]
        for task in (recent, old):
            sandbox.set_status(task, "a new status")
        sandbox.insert_run(3)
        assert await load(sandbox) == "[(2247, 2247)]\n"
        # An hour of the sandbox has 60 of its 200 runs.
        assert sandbox.requests - requests < requests / 2
        expected = {row["task_id"]: row["status"] for row in sandbox.task_rows()}
        with duckdb.connect(str(tmp_path / "unpod.duckdb"), read_only=True) as database:
            rows = database.execute("SELECT task_id, status FROM calls.tasks").fetchall()
        assert dict(rows).keys() == expected.keys()
        assert {task for task, status in rows if status != expected[task]} == {old}


# -- schedulers ---------------------------------------------------------------------------------------------

FACTS = {
    "airflow": """
from airflow.sdk import DAG
dags = [found for found in vars(block).values() if isinstance(found, DAG)]
made = block.unpod_export()
print(made.dag_id, [task.task_id for task in made.tasks], [task.skip_on_exit_code for task in made.tasks])
""",
    "dagster": """
import dagster
repository = dagster.Definitions(assets=[block.unpod_calls]).get_repository_def()
print([key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()])
""",
    "prefect": """
print(block.unpod_export.name, block.unpod_export.retries, block.unpod_export.retry_delay_seconds)
""",
}
EXPECTED = {
    "airflow": "unpod_export ['export'] [[75]]",
    "dagster": "['unpod_calls']",
    "prefect": "unpod-export 3 600",
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FACTS)
def test_the_scheduler_accepts_the_job(name: str, tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(extra(EXPORT, name).text, encoding="utf-8")
    home = {"AIRFLOW_HOME": "airflow", "DAGSTER_HOME": "dagster", "PREFECT_HOME": "prefect"}
    for folder in home.values():
        (tmp_path / folder).mkdir()
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", f"import block\n{FACTS[name]}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **{variable: str(tmp_path / folder) for variable, folder in home.items()}},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == EXPECTED[name]


# -- cron and systemd ---------------------------------------------------------------------------------------


def test_cron_accepts_the_line() -> None:
    from crontab import CronTab

    (job,) = CronTab(tab=extra(EXPORT, "crontab").text)
    assert job.is_valid()
    assert (str(job.slices), job.frequency_per_day()) == ("15 2 * * *", 1)
    # cron ends a command at the first %.
    assert "%" not in job.command
    subprocess.run(["bash", "-n", "-c", job.command], check=True)  # noqa: S603, S607


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for name in ("unpod-export.service", "unpod-export.timer"):
        text = extra(EXPORT, name).text
        # systemd-analyze also checks that the program exists.
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text, encoding="utf-8")
    verify = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "unpod-export.timer")]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)  # noqa: S603
    complaints = [line for line in done.stderr.splitlines() if "unpod-export" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
    (when,) = re.findall(r"^OnCalendar=(.*)$", extra(EXPORT, "unpod-export.timer").text, re.MULTILINE)
    subprocess.run(["systemd-analyze", "calendar", when], check=True, stdout=subprocess.DEVNULL)  # noqa: S603, S607
