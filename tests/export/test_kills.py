"""An export that is killed at any moment and run again gives the same data set as an undisturbed one.

The tests send 20 real SIGKILLs at random moments, for all formats and both ways to read tasks, and 200 with
`python -m nox -s torture` (UNPOD_KILLS).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import unpod_async
from tests.export.dataset import assert_holds
from unpod_async.testing import Sandbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL"),
]

KILLS = int(os.environ.get("UNPOD_KILLS", "20"))
FORMS = ["jsonl", "jsonl.gz", "csv", "parquet"]
VICTIM = Path(__file__).with_name("victim.py")
PAGE_SIZE = 7  # so small that reading run by run is cheaper, or that the space-wide listing has many pages


async def run_victim(
    sandbox: Sandbox,
    target: str | Path,
    kill_at: int,
    *,
    counted: Sequence[str] | None = None,
    **options: object,
) -> int | None:
    """Export in another process. Returns the number of counted calls, or None if it was killed.

    Args:
        counted: The names of the functions to count; None for those of `victim.py`.
    """
    job = {
        "token": sandbox.token,
        "base_url": sandbox.base_url,
        "space": sandbox.space_token,
        "target": str(target),
        "kill_at": kill_at,
        "counted": counted,
        "export": {"part_bytes": 40_000, **options},
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(VICTIM), json.dumps(job)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(unpod_async.__file__).parents[1])},
    )
    output, errors = await process.communicate()
    if process.returncode == -9:
        return None
    assert process.returncode == 0, errors.decode()
    return int(output)


@pytest.mark.timeout(60 + 10 * KILLS)
@pytest.mark.parametrize("form", FORMS)
async def test_killed_at_random_moments(tmp_path: Path, form: str) -> None:
    async with Sandbox(runs=40, tasks_per_run=(0, 9)) as sandbox:
        options = {"format": form, "page_size": PAGE_SIZE}
        calls = await run_victim(sandbox, tmp_path / "whole", 0, **options)
        assert calls is not None
        assert calls > 100
        assert_holds(tmp_path / "whole", sandbox, form)
        moments = random.Random(f"{form} {KILLS}")
        kills, number = 0, 0
        while kills < KILLS / len(FORMS):
            number += 1
            target = tmp_path / f"set{number}"
            # One target is killed several times, each time later at best.
            while await run_victim(sandbox, target, moments.randint(1, calls), **options) is None:
                kills += 1
            assert_holds(target, sandbox, form)


@pytest.mark.timeout(60 + 10 * KILLS)
async def test_killed_while_a_changed_space_is_exported_again(tmp_path: Path) -> None:
    moments = random.Random(1)
    async with Sandbox(runs=30, tasks_per_run=(1, 6)) as sandbox:
        calls = await run_victim(sandbox, tmp_path / "set", 0)
        assert calls is not None
        for _ in range(max(3, KILLS // 10)):
            sandbox.insert_run(3)
            sandbox.delete_run(sandbox.run_ids()[1])
            sandbox.advance()
            while await run_victim(sandbox, tmp_path / "set", moments.randint(1, calls)) is None:
                pass
            assert_holds(tmp_path / "set", sandbox)


@pytest.mark.parametrize("page_size", [PAGE_SIZE, None])
async def test_rows_on_the_disk_are_not_fetched_again(tmp_path: Path, page_size: int | None) -> None:
    """After a kill while the last rows are written, no task is requested again."""
    async with Sandbox(runs=40, tasks_per_run=(1, 9)) as sandbox:
        options = {"page_size": page_size}
        calls = await run_victim(sandbox, tmp_path / "whole", 0, **options)
        assert calls is not None
        whole = sandbox.requests
        assert await run_victim(sandbox, tmp_path / "set", calls - 25, **options) is None
        before = sandbox.requests
        assert before - whole == whole
        assert await run_victim(sandbox, tmp_path / "set", 0, **options) is not None
        again = [received.path for received in sandbox.log[before:]]
        assert all(path.endswith("/runs/") for path in again), again
        assert_holds(tmp_path / "set", sandbox)
