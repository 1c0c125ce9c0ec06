"""An MCP server: tools with which AI assistants read runs and calls, and, if it is allowed, place calls.

Modules: `schemas` (arguments and results of the tools), `contact_data` (what is redacted), `reading` and
`placing` (the tools), `confirmations` (which calls may be sent), `problems` (errors as texts), `server` (the
tools as an MCP server) and `stdio` (the transport). Only the last two import the package `mcp`.
"""

from __future__ import annotations

from unpod_async._integrations.mcp.confirmations import Confirmations
from unpod_async._integrations.mcp.problems import ToolProblem
from unpod_async._integrations.mcp.server import make_server
from unpod_async._integrations.mcp.stdio import serve_lines, serve_stdio

__all__ = ["Confirmations", "ToolProblem", "make_server", "serve_lines", "serve_stdio"]
