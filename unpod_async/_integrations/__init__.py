"""Plugins of other programs. Only these programs import them.

Modules: `pytest_plugin` (entry point `pytest11`).
"""

__all__: list[str] = []
