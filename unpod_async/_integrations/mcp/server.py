"""The tools as an MCP server: their names, descriptions and schemas, and how their errors are reported."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from mcp.server import Server, ServerRequestContext
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from unpod_async._integrations.mcp.confirmations import Confirmations
from unpod_async._integrations.mcp.contact_data import ContactData
from unpod_async._integrations.mcp.placing import CreateTool
from unpod_async._integrations.mcp.problems import ToolProblem, explain
from unpod_async._integrations.mcp.reading import ReadTools
from unpod_async._integrations.mcp.schemas import (
    Create,
    CreateResult,
    FindCalls,
    FoundCalls,
    FoundRuns,
    FoundSpaces,
    ListRuns,
    ListSpaces,
    RunTotals,
    SummarizeRun,
    Transcript,
    TranscriptPage,
    WaitForRun,
    WaitResult,
    schema_of,
)
from unpod_async._version import VERSION
from unpod_async.errors import UnpodError

if TYPE_CHECKING:
    from unpod_async import UnpodClient

__all__ = ["make_server"]

_INSTRUCTIONS: Final = (
    "Voice agents make phone calls. A space holds runs, and a run is a batch of calls. Get the token of a "
    "space from list_spaces or from the user, then use list_runs, run_summary, find_calls and transcript. "
    "Do not shorten ids."
)
_REDACTED: Final = (
    " Names, phone numbers and e-mail addresses are redacted; the user can start the server with "
    "--show-contact-data."
)
_PLACING: Final = " create places real phone calls: never use its confirmation before the user has agreed."

_log = logging.getLogger("unpod_async.mcp")


class _Entry(NamedTuple):
    """A tool.

    Attributes:
        run: takes an object of the class `arguments` and returns one of the class `result`.
        places_calls: the tool changes something.
    """

    title: str
    description: str
    arguments: type[msgspec.Struct]
    result: type[msgspec.Struct]
    run: Callable[[Any], Awaitable[msgspec.Struct]]
    places_calls: bool = False


def make_server(
    client: UnpodClient,
    *,
    show_contact_data: bool,
    confirmations: Confirmations | None,
    hint_of: Callable[[UnpodError], str],
    report: Callable[[str], None],
) -> Server[Any]:
    """Return the MCP server.

    Args:
        show_contact_data: return names, phone numbers and addresses instead of redacting them.
        confirmations: what the tool create remembers; None for a server without this tool.
        hint_of: returns what the person who runs the server can do about an error, or "".
        report: shows a line to that person.
    """
    contact_data = ContactData(shown=show_contact_data)
    tools = _read_tools(ReadTools(client, contact_data))
    if confirmations is not None:
        tools["create"] = _create_tool(CreateTool(client, confirmations, report))
    listed = ListToolsResult(tools=[_describe(name, tool) for name, tool in tools.items()])

    async def list_tools(
        context: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return listed

    async def call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        try:
            return await _call(tools, params)
        except ToolProblem as problem:
            return _error(problem, contact_data)
        except UnpodError as error:
            return _error(explain(error, hint_of(error)), contact_data)
        except Exception as error:  # noqa: BLE001 - a fault of this program, whose text may contain a row
            _log.debug("%s failed", params.name, exc_info=True)
            report(f"the tool {params.name} failed: {type(error).__name__}")
            return _error(ToolProblem("the tool failed", "report this as a bug of unpod-async"), contact_data)

    instructions = _INSTRUCTIONS
    if not show_contact_data:
        instructions += _REDACTED
    if confirmations is not None:
        instructions += _PLACING
    return Server(
        "unpod-async",
        version=VERSION,
        title="Unpod",
        instructions=instructions,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _read_tools(read: ReadTools) -> dict[str, _Entry]:
    return {
        "list_spaces": _Entry(
            "List spaces",
            "List the spaces of the organization. Other tools need the token of a space. Some servers do not "
            "let API keys list spaces; in that case, ask the user for the token.",
            ListSpaces,
            FoundSpaces,
            read.list_spaces,
        ),
        "list_runs": _Entry(
            "List runs",
            "List the runs of a space, newest first. A run is a batch of calls that were created together.",
            ListRuns,
            FoundRuns,
            read.list_runs,
        ),
        "run_summary": _Entry(
            "Summarize a run",
            "Count the calls of a run by status and by outcome, and add up their duration and cost. For "
            "every question about totals, use this tool instead of find_calls.",
            SummarizeRun,
            RunTotals,
            read.run_summary,
        ),
        "find_calls": _Entry(
            "Find calls",
            "Find calls of a space by run, status, outcome, time, name or number, newest first. Each call "
            "has its outcome, duration, cost and summary.",
            FindCalls,
            FoundCalls,
            read.find_calls,
        ),
        "transcript": _Entry(
            "Read a transcript",
            "Read what was said in one call, in order. A long transcript is split into several results.",
            Transcript,
            TranscriptPage,
            read.transcript,
        ),
        "wait_for_run": _Entry(
            "Wait for a run",
            "Wait until a run and all its calls have ended, or until timeout_seconds have passed. If ended "
            "is false, call this tool again, or tell the user which calls are open. A call with the status "
            "hold stays so until somebody resumes it.",
            WaitForRun,
            WaitResult,
            read.wait_for_run,
        ),
    }


def _create_tool(tool: CreateTool) -> _Entry:
    return _Entry(
        "Place phone calls",
        "Place real phone calls to people, in two steps. First call this tool without a confirmation: the "
        "arguments are checked, nothing is sent, and the result has a confirmation. Show the user who would "
        "be called and why. Only after the user has agreed, call it again with the same arguments and the "
        "confirmation, which works once. If the state of the result is neither dry_run nor created, calls "
        "may be queued: never send them again.",
        Create,
        CreateResult,
        tool.create,
        places_calls=True,
    )


def _describe(name: str, tool: _Entry) -> Tool:
    return Tool(
        name=name,
        title=tool.title,
        description=tool.description,
        input_schema=schema_of(tool.arguments),
        output_schema=schema_of(tool.result),
        annotations=ToolAnnotations(
            read_only_hint=not tool.places_calls,
            destructive_hint=tool.places_calls,
            idempotent_hint=not tool.places_calls,
            open_world_hint=True,
        ),
    )


async def _call(tools: dict[str, _Entry], params: CallToolRequestParams) -> CallToolResult:
    tool = tools.get(params.name)
    if tool is None:
        raise ToolProblem("there is no tool with this name", f"use one of: {', '.join(tools)}")
    try:
        arguments = msgspec.convert(params.arguments or {}, type=tool.arguments)
    except msgspec.ValidationError as error:
        raise ToolProblem(
            f"the arguments are not accepted: {error}", "see the input schema of the tool"
        ) from None
    result = await tool.run(arguments)
    return CallToolResult(
        content=[TextContent(type="text", text=msgspec.json.encode(result).decode())],
        structured_content=msgspec.to_builtins(result),
    )


def _error(problem: ToolProblem, contact_data: ContactData) -> CallToolResult:
    lines = [problem.message] + ([f"hint: {problem.hint}"] if problem.hint else [])
    text = contact_data.text("\n".join(lines))
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
