"""The metadata of this checkout, as an installation would write it.

The package that is installed beside a checkout may be an older one, without the entry points of this one.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "search_path"]

ROOT: Final = Path(__file__).parents[1]


def search_path(folder: Path) -> str:
    """Write the metadata into a folder. Returns the PYTHONPATH of a process that uses this checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / "unpod_async-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: 0\n", "utf-8")
    lines = ["[console_scripts]", *(f"{name} = {target}" for name, target in project["scripts"].items())]
    for group, targets in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in targets.items())]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return os.pathsep.join([str(folder), str(ROOT)])
