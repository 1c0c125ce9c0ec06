"""The version of the package: the only place it stands; pyproject.toml reads it from here.

A constant, because asking `importlib.metadata` took a sixth of what importing the client adds to aiohttp.
"""

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.1.0"
