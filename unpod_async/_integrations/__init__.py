"""Connections with other programs. None of them is imported before it is used, and none imports another.

`mcp` (tools for AI assistants), `otel` (OpenTelemetry), `pytest_plugin` (entry point `pytest11`) and `report`
(a page about an export).
"""

__all__: list[str] = []
