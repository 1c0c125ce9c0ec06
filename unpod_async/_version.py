"""The version of the package, and how to install it. pyproject.toml reads the version from this module.

It is a constant, because a call of `importlib.metadata` took a sixth of the time that importing the client
adds to that of aiohttp.
"""

from typing import Final

__all__ = ["IS_PUBLISHED", "VERSION", "install_command"]

VERSION: Final = "0.1.0"

IS_PUBLISHED: Final = False
"""Whether the package is on PyPI. Hints name it only then; until then, they install from a clone."""


def install_command(extra: str) -> str:
    """Return the command that installs the package with an extra, as hints show it."""
    if IS_PUBLISHED:
        return f"pip install 'unpod-async[{extra}]'"
    return f"pip install '.[{extra}]' in a clone of the repository"
