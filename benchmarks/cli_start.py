"""Measure the processor time of `unpod-async runs SPACE --limit 5`, which is mostly the start.

    python benchmarks/cli_start.py [FOLDER]

It is compared, in the same run, with a script that imports aiohttp and typer and fetches the same page, and
with the package in FOLDER, another checkout. Each number is the median of nine processes: user and system
time. The bytecode of all of them is compiled before, as for an installed package.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from unpod_async.testing import Sandbox

ROUNDS: Final = 9
ELSEWHERE: Final = tempfile.gettempdir()
SCRIPT: Final = """\
import asyncio, json, os
import aiohttp, typer

def runs(space: str, limit: int = 5) -> None:
    async def fetch() -> None:
        headers = {"Authorization": f"Token {os.environ['UNPOD_PLATFORM_TOKEN']}"}
        url = f"{os.environ['UNPOD_BASE_URL']}/api/v2/platform/spaces/{space}/runs/"
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.get(url, params={"page": "1", "page_size": str(limit)}) as response:
                for row in (await response.json())["data"]:
                    print(json.dumps(row))
    asyncio.run(fetch())

typer.run(runs)
"""


def processor_time(command: list[str], environment: dict[str, str]) -> float:
    """Return the seconds of processor time that a process takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Not in the folder of a checkout, which `python -m` would import.
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment, cwd=ELSEWHERE)  # noqa: S603 - our own programs
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(environment: dict[str, str], space: str, folders: dict[str, Path]) -> dict[str, float]:
    """Return the median of each command, measured in turns."""
    arguments = [space, "--limit", "5"]
    commands = {"script": ([sys.executable, "-c", SCRIPT, *arguments], environment)}
    for name, folder in folders.items():
        command = [sys.executable, "-m", "unpod_async", "runs", *arguments]
        commands[name] = (command, {**environment, "PYTHONPATH": str(folder)})
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(ROUNDS + 1):
        for name, (command, variables) in commands.items():
            seconds = processor_time(command, variables)
            if number:  # the first process compiles the modules
                times[name].append(seconds)
    return {name: statistics.median(found) for name, found in times.items()}


async def main(other: str | None) -> None:
    folders = {"unpod-async": Path(__file__).parents[1]}
    if other is not None:
        folders["the other checkout"] = Path(other)
    async with Sandbox(runs=200) as sandbox:
        with tempfile.TemporaryDirectory() as cache:
            environment = {
                **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
                "PYTHONPYCACHEPREFIX": cache,
                "UNPOD_PLATFORM_TOKEN": sandbox.token,
                "UNPOD_BASE_URL": sandbox.base_url,
            }
            found = await asyncio.to_thread(measure, environment, sandbox.space_token, folders)
    for name, seconds in found.items():
        print(f"{name:20} {seconds:6.3f} s  {found['unpod-async'] / seconds:5.2f}")


if __name__ == "__main__":
    asyncio.run(main(os.path.realpath(sys.argv[1]) if len(sys.argv) > 1 else None))
