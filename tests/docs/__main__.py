"""Write the real output of the blocks into pages: `python -m tests.docs docs/howto/load.md …`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.docs.pages import Step, steps
from tests.docs.running import run, sandbox_for


async def outputs(page: Path) -> list[tuple[Step, str]]:
    """Run a page. Returns its blocks with their outputs."""
    with tempfile.TemporaryDirectory() as folder:
        async with sandbox_for(page) as sandbox:
            return [(step, await run(step, Path(folder), sandbox)) for step in steps(page)]


def replaced(text: str, step: Step, output: str) -> str:
    """Return the text of a page with another output after one block."""
    before, block, after = text.partition(step.block.text + "```\n")
    expected = f"```text\n{step.output}```\n"
    return before + block + after.replace(expected, f"```text\n{output}```\n", 1)


for name in sys.argv[1:]:
    page = Path(name)
    for step, output in asyncio.run(outputs(page)):
        if step.output is not None and step.output != output:
            page.write_text(replaced(page.read_text(encoding="utf-8"), step, output), encoding="utf-8")
            print(f"{page}, line {step.block.line}: new output")  # noqa: T201
