"""The version of the package, defined only here; pyproject.toml reads it from this module.

It is a constant, because a call of `importlib.metadata` took a sixth of the time that importing the client
adds to that of aiohttp.
"""

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.1.0"
