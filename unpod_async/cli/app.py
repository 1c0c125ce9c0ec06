"""The program: its global options, its commands, and how both are put together."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from unpod_async._common import shorten
from unpod_async._version import VERSION
from unpod_async.cli.errors import BROKEN_PIPE, EXIT_STATUSES, USAGE, CliError
from unpod_async.cli.options import (
    GlobalOptions,
    convert_without_pydantic,
    refuse_password,
    refuse_token,
)
from unpod_async.cli.output import check_stdout, echo, echo_error, stdout_error, wrap_command
from unpod_async.cli.runner import log_to_stderr, report_interruption, run_command, shut_down

__all__ = ["run"]

_GLOBAL_OPTIONS_NOTE: Final = (
    "The options of `unpod-async --help` (--token-file, --org-handle, --base-url, --auth-scheme, "
    "--allow-http, --proxy, --timeout, --rate-limit, -v) may follow the command too."
)


class _Entry(NamedTuple):
    """A command: its function in `unpod_async.cli.commands`, and what the help shows.

    Attributes:
        group: the heading under which the help lists it.
        examples: arguments after `unpod-async`.
        is_local: the command sends no requests to the service.
    """

    module: str
    short_help: str
    group: str
    examples: tuple[str, ...]
    is_local: bool = False


_READ: Final = "Read"
_MONITOR: Final = "Export and monitor"
_CALL: Final = "Call"
_SET_UP: Final = "Set up and try"
_COMMANDS: Final = {
    "runs": _Entry(
        "listings",
        "List the runs of a space",
        _READ,
        ("runs SPACE", "runs SPACE --status failed --limit 0", "runs SPACE --json | jq .run_id"),
    ),
    "run": _Entry("details", "Show one run and the results of its calls", _READ, ("run SPACE R09525d28",)),
    "tasks": _Entry(
        "listings",
        "List tasks (calls) of a space, run or agent",
        _READ,
        (
            "tasks SPACE --outcome Interested --from 2030-01-31",
            "tasks SPACE --run R09525d28",
            "tasks --agent HANDLE --status failed",
        ),
    ),
    "task": _Entry(
        "details", "Show one task and the result of its call", _READ, ("task SPACE T35b09426 --transcript",)
    ),
    "recordings": _Entry(
        "details",
        "List or download recordings of calls",
        _READ,
        ("recordings SPACE R09525d28", "recordings SPACE T35b09426 --to recordings"),
    ),
    "call-logs": _Entry(
        "listings",
        "List the calls of the organization",
        _READ,
        ("call-logs --from 2030-01-31 --status missed", "call-logs --json --limit 0 > calls.jsonl"),
    ),
    "agents": _Entry("listings", "List the agents of the organization", _READ, ("agents",)),
    "executions": _Entry("listings", "List the executions of an agent", _READ, ("executions HANDLE",)),
    "spaces": _Entry("listings", "List the spaces of the organization", _READ, ("spaces --auth-scheme JWT",)),
    "organizations": _Entry(
        "listings", "List the organizations of the account", _READ, ("organizations --auth-scheme JWT",)
    ),
    "export": _Entry(
        "export",
        "Export all runs and tasks to files",
        _MONITOR,
        (
            "export SPACE data --format parquet",
            "export SPACE data --since 2030-01-01 --redact hash --recordings",
            "export --plan plan.json --shard 0 data",
        ),
    ),
    "plan": _Entry(
        "shards",
        "Divide an export into shards for several machines",
        _MONITOR,
        ("plan SPACE plan.json --shards 16 --format parquet", "plan --extend plan.json"),
    ),
    "merge": _Entry(
        "shards",
        "Make one data set of the shards of a plan",
        _MONITOR,
        ("merge plan.json data",),
        is_local=True,
    ),
    "report": _Entry(
        "report",
        "Make a web page about an export",
        _MONITOR,
        ("report data", "report data --output calls.html --utc"),
        is_local=True,
    ),
    "watch": _Entry(
        "watch",
        "Watch runs and calls for changes",
        _MONITOR,
        ("watch SPACE", "watch SPACE --state watch.json --json >> events.jsonl"),
    ),
    "wait": _Entry("wait", "Wait until runs have ended", _MONITOR, ("wait SPACE RUN --deadline 1h",)),
    "mcp": _Entry(
        "mcp",
        "Serve tools for AI assistants",
        _MONITOR,
        ("mcp", "mcp --show-contact-data --allow-create"),
    ),
    "create": _Entry(
        "create",
        "Place phone calls",
        _CALL,
        (
            "create SPACE --agent HANDLE --context 'Ask for the date' --documents calls.csv",
            "create SPACE --agent HANDLE --context Hello --documents calls.csv --journal calls.journal",
            "create SPACE --agent HANDLE --context 'Ask for the date' --name A.Person --number 9000000001",
        ),
    ),
    "doctor": _Entry("doctor", "Check the setup and suggest fixes", _SET_UP, ("doctor", "doctor SPACE")),
    "demo": _Entry(
        "demo",
        "Kill an export, run it again and compare",
        _SET_UP,
        ("demo --quick", "demo --runs 5000 --out demo"),
        is_local=True,
    ),
    "sandbox": _Entry(
        "sandbox",
        "Serve a simulated platform",
        _SET_UP,
        ("sandbox --live", "sandbox --runs 1000 --port 0"),
        is_local=True,
    ),
}
"""The commands by name. The module of a command is imported when it is used, so that others start faster."""


_NEED_NO_STDOUT: Final = {"export", "wait"}
"""Commands that run even if stdout is closed, because their exit status is enough. Others end at once."""


class CliGroup(TyperGroup):
    """The commands. The options of the program may be given before the command or after it.

    Each command gets a hidden copy of them. The copy changes `GlobalOptions`, which the callback of the group
    has filled in before the arguments of the command are parsed.
    """

    def make_context(self, *args: Any, **extra: Any) -> Any:
        return _report_interruption(_parse, super().make_context, *args, **extra)

    def invoke(self, ctx: Any) -> Any:
        # This imports the module of the command too.
        return _report_interruption(super().invoke, ctx)

    def get_params(self, ctx: Any) -> Any:
        return _quick(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in _COMMANDS:
            command = _load(cmd_name)
            command.params += [_hidden_copy(option) for option in self.params if not option.is_eager]
            self.commands[cmd_name] = command
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in _COMMANDS and (similar := _similar(args[0])):
            ctx.fail(f"No such command {shorten(args[0], 40)!r}. Did you mean {similar}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, _COMMANDS))
        for group in dict.fromkeys(entry.group for entry in _COMMANDS.values()):
            with formatter.section(group):
                formatter.write_dl([
                    (name.ljust(width), entry.short_help)
                    for name, entry in _COMMANDS.items()
                    if entry.group == group
                ])


def _similar(name: str) -> str:
    import difflib

    return " or ".join(f"`{one}`" for one in difflib.get_close_matches(name, _COMMANDS, n=2))


def _load(name: str) -> Any:
    """Import the module of a command and return the command."""
    entry = _COMMANDS[name]
    module = importlib.import_module(f"unpod_async.cli.commands.{entry.module}")
    single = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    single.command(name, cls=CliCommand, short_help=entry.short_help)(getattr(module, name.replace("-", "_")))
    return typer.main.get_command(single)


def _report_interruption(call: Callable[..., Any], *args: Any, **extra: Any) -> Any:
    """Call a function. After Ctrl-C, the parser alone would end without a message."""
    try:
        return call(*args, **extra)
    except KeyboardInterrupt:
        raise typer.Exit(report_interruption()) from None


def _parse(make_context: Callable[..., Any], *args: Any, **extra: Any) -> Any:
    """Parse arguments, which also shows the help."""
    try:
        return make_context(*args, **extra)
    except BrokenPipeError:
        raise typer.Exit(BROKEN_PIPE) from None
    except OSError as error:
        raise stdout_error(error) from None


def _quick(params: list[Any]) -> list[Any]:
    for param in params:
        convert_without_pydantic(param)
    return params


def _hidden_copy(option: Any) -> Any:
    hidden: Any = copy.copy(option)
    hidden.hidden, hidden.expose_value = True, False
    hidden.__dict__.pop("process_value", None)  # it converts for the original
    checked = option.callback  # --token and --proxy have one, which rejects values

    def override(context: Any, option: Any, value: Any) -> None:
        if checked is not None:
            checked(context, option, value)
        context.obj.override(option.name, value)

    hidden.callback = override
    return hidden


class CliCommand(TyperCommand):
    """A command whose callback returns an exit status, and whose errors become messages."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for argument in self.params:
            if argument.param_type_name == "argument":
                # The help would show Python types, such as <list[str]>.
                vars(argument)["display_type_rich"] = _no_type

    def make_context(self, *args: Any, **extra: Any) -> Any:
        return _parse(super().make_context, *args, **extra)

    def get_params(self, ctx: Any) -> Any:
        return _quick(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, the options in groups."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            is_argument = param.param_type_name == "argument"
            group = "Arguments" if is_argument else getattr(param, "rich_help_panel", None) or "Options"
            sections.setdefault(group, []).append(record)
        # --help, which has no group, comes last.
        options = sections.pop("Options")
        for title, records in {**sections, "Options": options}.items():
            if records:
                with formatter.section(title):
                    # A long option stands on a line of its own, so that the texts are not squeezed.
                    formatter.write_dl(records, col_max=min(max(formatter.width // 3, 20), 30))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        entry = _COMMANDS.get(self.name or "")
        if entry is None:
            return
        with formatter.section("Examples" if len(entry.examples) > 1 else "Example"):
            for example in entry.examples:
                parts = re.findall(r"(?:>>? |--\S+ (?![>|]))?(?:'[^']*'|\S+)", f"unpod-async {example}")
                for line in wrap_command(parts, formatter.width - formatter.current_indent):
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")
        if not entry.is_local:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(_GLOBAL_OPTIONS_NOTE)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        # typer writes {SPACE}, which is not the usual notation, and [SPACE]... if it may be left out.
        pieces = super().collect_usage_pieces(ctx)
        return [piece.removesuffix("...").replace("{", "").replace("}", "") for piece in pieces]

    def invoke(self, ctx: Any) -> Any:
        options: GlobalOptions = ctx.obj
        callback = super().invoke

        def command() -> int | None:
            if self.name not in _NEED_NO_STDOUT:
                check_stdout()
            status: int | None = callback(ctx)
            return status

        with log_to_stderr(options.verbose):
            raise typer.Exit(
                run_command(command, verbose=options.verbose, usage_hint=f"see `{ctx.command_path} --help`")
            )


app: typer.Typer = typer.Typer(
    name="unpod-async",
    cls=CliGroup,
    add_completion=True,
    # The panels of rich leave too little room in 60 columns.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    epilog=f"\b\n{EXIT_STATUSES}",
)


def _show_version(value: bool) -> None:
    if value:
        raise typer.Exit(run_command(lambda: echo(f"unpod-async {VERSION}")))


@app.callback()
def main(
    context: typer.Context,
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Read the API key from FILE, or from stdin for -. Default: UNPOD_PLATFORM_TOKEN.",
        ),
    ] = None,
    org_handle: Annotated[
        str | None,
        typer.Option(
            metavar="HANDLE",
            show_default=False,
            help="Handle of the organization; needed for agents, executions, spaces and call logs. Default: "
            "UNPOD_ORG_HANDLE.",
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default=False,
            help="URL of the service. Default: UNPOD_PLATFORM_BASE_URL, UNPOD_BASE_URL or https://unpod.ai.",
        ),
    ] = None,
    auth_scheme: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEME",
            show_default=False,
            help="Token (for API keys), JWT or Bearer. Default: Token.",
        ),
    ] = None,
    allow_http: Annotated[
        bool,
        typer.Option(
            "--allow-http",
            show_default=False,
            help="Allow http:// to other machines. The token is sent unencrypted.",
        ),
    ] = False,
    proxy: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default=False,
            callback=refuse_password,
            help="HTTP proxy for the API, as http://host:port; recordings are downloaded without it. "
            "Default: UNPOD_PROXY. HTTPS_PROXY is not read.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", show_default=False, help="Timeout of one attempt of a request. Default: 60."
        ),
    ] = None,
    rate_limit: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            show_default=False,
            help="Maximum number of requests per second of this process. Default: no limit.",
        ),
    ] = None,
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            show_default=False,
            help="Show the log on stderr; -vv adds details and tracebacks.",
        ),
    ] = 0,
    token: Annotated[
        str | None, typer.Option("--token", "--api-key", hidden=True, callback=refuse_token)
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            show_default=False,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """List, export and monitor runs and tasks of the Unpod platform, and place calls.

    The API key is read from UNPOD_PLATFORM_TOKEN or from --token-file. Without either, the command prompts
    for it if it runs on a terminal.
    """
    options: GlobalOptions = context.obj
    options.token_file, options.org_handle, options.base_url = token_file, org_handle, base_url
    options.auth_scheme, options.allow_http = auth_scheme, allow_http
    options.proxy, options.timeout, options.rate_limit = proxy, timeout, rate_limit
    options.verbose = verbose


def _no_type(ctx: Any) -> str:
    return ""


_UsageError: Final[Any] = typer.BadParameter.__base__  # typer does not export it


def _command_path(error: Any, argv: Sequence[str]) -> str:
    """Return the command whose arguments are wrong. The parser knows it only for some errors."""
    if error.ctx is not None:
        return str(error.ctx.command_path)
    command = next((one for one in argv if one in _COMMANDS), "")
    return f"unpod-async {command}".strip()


def run(argv: Sequence[str]) -> int:
    """Run one command line and return the exit status."""
    try:
        status = typer.main.get_command(app).main(
            args=list(argv) or ["--help"],
            prog_name="unpod-async",
            obj=GlobalOptions(argv=tuple(argv)),
            standalone_mode=False,
        )
    except _UsageError as error:
        message = error.format_message().removesuffix(".")
        # The messages about choices and numbers are those of pydantic.
        message = message.replace(": Value error, ", ": ").replace(": Input should be ", ": must be ")
        echo_error(f"{message[:1].lower()}{message[1:]}", f"see `{_command_path(error, argv)} --help`")
        status = USAGE
    except CliError as error:  # the help cannot be written
        echo_error(error.message, error.hint)
        status = error.status
    return shut_down(status if argv else USAGE)
