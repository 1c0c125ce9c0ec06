"""The program: its global options, its commands, and how both are put together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from unpod_async._version import VERSION
from unpod_async.cli.commands import create, doctor, export, listings, sandbox, wait, watch
from unpod_async.cli.errors import BROKEN_PIPE, ERROR, EXIT_STATUSES, USAGE, os_error_text
from unpod_async.cli.options import GlobalOptions, refuse_token
from unpod_async.cli.output import check_stdout, echo, echo_error
from unpod_async.cli.runner import log_to_stderr, run_command, shut_down

__all__ = ["run"]

_GLOBAL_OPTIONS_NOTE: Final = (
    "The options of `unpod-async --help` (--token-file, --org-handle, --base-url, --auth-scheme, "
    "--allow-http, --timeout, -v) may follow the command too."
)


_NEED_NO_STDOUT: Final = {"export", "wait"}
"""Commands that also run if stdout is closed, because their exit status is enough. Others end at once."""


class _CannotWrite(Exception):
    """The help could not be written."""


class CliGroup(TyperGroup):
    """A group of commands whose own options may be given before the command or after it.

    Each command gets a hidden copy of them. The copy changes `GlobalOptions`, which the callback of the group
    has filled in before the arguments of the command are parsed.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for command in self.commands.values():
            command.params += [_hidden_copy(option) for option in self.params if not option.is_eager]

    def make_context(self, *args: Any, **extra: Any) -> Any:
        return _parse(super().make_context, *args, **extra)


def _parse(make_context: Callable[..., Any], *args: Any, **extra: Any) -> Any:
    """Parse arguments, which also shows the help."""
    try:
        return make_context(*args, **extra)
    except BrokenPipeError:
        raise typer.Exit(BROKEN_PIPE) from None
    except OSError as error:
        raise _CannotWrite(os_error_text(error)) from None


def _hidden_copy(option: Any) -> Any:
    hidden = copy.copy(option)
    hidden.hidden, hidden.expose_value = True, False
    # --token has a callback already, which rejects it.
    hidden.callback = option.callback or _override_global_option
    return hidden


def _override_global_option(context: Any, option: Any, value: Any) -> None:
    context.obj.override(option.name, value)


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

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        # typer writes {SPACE}, which is not the usual notation.
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def invoke(self, ctx: Any) -> Any:
        options: GlobalOptions = ctx.obj
        callback = super().invoke

        def command() -> int | None:
            if self.name not in _NEED_NO_STDOUT:
                check_stdout()
            status: int | None = callback(ctx)
            return status

        with log_to_stderr(options.verbose):
            raise typer.Exit(run_command(command, verbose=options.verbose))


app = typer.Typer(
    name="unpod-async",
    cls=CliGroup,
    add_completion=False,
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
            help="Organization; needed for agents and spaces. Default: UNPOD_ORG_HANDLE.",
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
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", show_default=False, help="Timeout of one attempt of a request. Default: 60."
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

    The API key is read from UNPOD_PLATFORM_TOKEN or from --token-file. Without either, a terminal prompts
    for it.
    """
    options: GlobalOptions = context.obj
    options.token_file, options.org_handle, options.base_url = token_file, org_handle, base_url
    options.auth_scheme, options.allow_http = auth_scheme, allow_http
    options.timeout, options.verbose = timeout, verbose


command = partial(app.command, cls=CliCommand, epilog=_GLOBAL_OPTIONS_NOTE)
command(short_help="List the runs of a space")(listings.runs)
command(short_help="List tasks (calls) of a space, run or agent")(listings.tasks)
command(short_help="List the agents of the organization")(listings.agents)
command(short_help="List the spaces of the organization")(listings.spaces)
command(short_help="List the organizations of the account")(listings.organizations)
command(short_help="Export all runs and tasks to files")(export.export)
command(short_help="Place phone calls")(create.create)
command(short_help="Watch runs and calls for changes")(watch.watch)
command(short_help="Wait until runs have ended")(wait.wait)
app.command(cls=CliCommand, short_help="Serve a simulated platform")(sandbox.sandbox)
command(short_help="Check the setup and suggest fixes")(doctor.doctor)


def _no_type(ctx: Any) -> str:
    return ""


_UsageError: Final[Any] = typer.BadParameter.__base__  # typer does not export it


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
        echo_error(f"{message[:1].lower()}{message[1:]}", f"see `{error.ctx.command_path} --help`")
        status = USAGE
    except _CannotWrite as error:
        echo_error(f"cannot write to stdout: {error}")
        status = ERROR
    return shut_down(status if argv else USAGE)
