"""`unpod-async mcp`: tools for AI assistants, over stdin and stdout."""

from __future__ import annotations

import secrets
import sys
from typing import Annotated

import typer

from unpod_async._tables import import_package
from unpod_async._version import install_command
from unpod_async.cli.errors import SUCCESS, USAGE, CliError, hint_of
from unpod_async.cli.options import GlobalOptions
from unpod_async.cli.output import echo_err, stdout_error
from unpod_async.cli.session import open_client

__all__ = ["mcp"]


def mcp(
    context: typer.Context,
    show_contact_data: Annotated[
        bool,
        typer.Option(
            "--show-contact-data",
            show_default=False,
            help="Return names, phone numbers and e-mail addresses. Default: they are redacted.",
        ),
    ] = False,
    allow_create: Annotated[
        bool,
        typer.Option(
            "--allow-create",
            show_default=False,
            help="Offer a tool that places phone calls, after a dry run. Default: the tools only read.",
        ),
    ] = False,
) -> int:
    """Serve tools for AI assistants with the Model Context Protocol (MCP), over stdin and stdout.

    A program such as an editor or a chat application starts this command. The tools list spaces and runs,
    sum up a run, find calls, read transcripts and wait for a run. The command ends when stdin is closed.
    """
    options: GlobalOptions = context.obj
    if options.token_file == "-":  # noqa: S105 - a file name
        raise CliError(
            "--token-file: stdin carries the protocol",
            hint="set UNPOD_PLATFORM_TOKEN or use --token-file FILE",
            status=USAGE,
        )
    import_package("mcp", "unpod-async mcp", install_command("mcp"))
    from unpod_async._integrations.mcp import Confirmations, make_server, serve_stdio

    with open_client(options) as (runner, client):
        server = make_server(
            client,
            show_contact_data=show_contact_data,
            confirmations=Confirmations(lambda: secrets.token_hex(8)) if allow_create else None,
            hint_of=hint_of,
            report=echo_err,
        )
        if sys.stdin.isatty():
            echo_err("Waiting for MCP messages on stdin, from a program with an assistant. Ctrl-C ends it.")
        try:
            runner.run(serve_stdio(server))
        except OSError as error:
            raise stdout_error(error) from None
    return SUCCESS
