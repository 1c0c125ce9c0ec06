"""Runs a block of a page as a reader would: in its own folder, with the variables that the pages name."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import unpod_async
from tests.docs.pages import Step, is_live
from tests.metadata import search_path
from unpod_async.testing import Sandbox

PACKAGE: Final = Path(unpod_async.__file__).parents[1]


def sandbox_for(page: Path) -> Sandbox:
    """Return a sandbox like that of `unpod-async sandbox`, live if the page needs it."""
    return Sandbox(runs=200, tasks_per_run=(1, 20), live=is_live(page))


def environment(sandbox: Sandbox) -> dict[str, str]:
    """Return the variables for a block: those of the sandbox, and the package and command that are tested."""
    return {
        **os.environ,
        "UNPOD_PLATFORM_TOKEN": sandbox.token,
        "UNPOD_ORG_HANDLE": sandbox.org_handle,
        "UNPOD_BASE_URL": sandbox.base_url,
        "SPACE": sandbox.space_token,
        "AGENT": sandbox.agent_handle,
        "JWT": sandbox.jwt,
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": str(PACKAGE),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


async def run(step: Step, folder: Path, sandbox: Sandbox) -> str:
    """Run a block in the folder of its page, or write it to its file. Returns its output."""
    block = step.block
    if block.mark == "file":
        (folder / block.value).write_text(block.text, encoding="utf-8")
        return ""
    if block.language == "python":
        script = folder / "block.py"
        script.write_text(block.text, encoding="utf-8")
        command = [sys.executable, "-W", "error", str(script)]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**environment(sandbox), "PYTHONPATH": search_path(folder / ".metadata")},
    )
    output, diagnostics = await process.communicate()
    status = int(block.value) if block.mark == "status" else 0
    assert process.returncode == status, f"line {block.line}: {diagnostics.decode()}"
    return output.decode()
