"""`unpod-async sandbox`: a simulated platform to try commands against."""

from __future__ import annotations

import asyncio
import errno
import shlex
from contextlib import AsyncExitStack
from typing import Annotated, Any, Final

import typer

from unpod_async._common import os_error_reason
from unpod_async.cli.errors import SUCCESS, CliError
from unpod_async.cli.options import parse_range, refuse_nan
from unpod_async.cli.output import counted, echo, echo_err
from unpod_async.cli.runner import Interrupted, InterruptibleRunner

__all__ = ["sandbox"]

_IN_USE: Final = (errno.EADDRINUSE, 10048)  # the second is that of Windows


def sandbox(
    context: typer.Context,
    runs: Annotated[int, typer.Option(min=0, metavar="N", help="Number of runs.")] = 200,
    tasks_per_run: Annotated[
        Any,
        typer.Option(metavar="N", parser=parse_range, help="Tasks per run, such as 5 or 1..20."),
    ] = "1..20",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the generated data.")] = 0,
    live: Annotated[
        bool, typer.Option("--live", help="Keep starting runs and placing calls while the sandbox runs.")
    ] = False,
    speed: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1000,
            callback=refuse_nan,
            metavar="N",
            help="With --live: how many times faster than normal.",
        ),
    ] = 1.0,
    latency: Annotated[
        float, typer.Option(min=0, callback=refuse_nan, metavar="SECONDS", help="Delay before each response.")
    ] = 0.0,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port to listen on; 0 picks a free one.")
    ] = 8765,
) -> int:
    """Serve a simulated platform until Ctrl-C.

    It prints variables to paste into another terminal. All data is generated, and no real call is placed.
    Without --live, rows change only when calls are created.
    """
    if speed != 1 and not live:
        raise typer.BadParameter("needs --live", param_hint="--speed")
    with InterruptibleRunner() as runner:
        try:
            runner.run(
                _serve(
                    host,
                    port,
                    runs=runs,
                    tasks_per_run=tasks_per_run,
                    seed=seed,
                    live=live,
                    speed=speed,
                    latency=latency,
                )
            )
        except Interrupted:
            echo_err("The sandbox has stopped. Its data is gone.")
    return SUCCESS


async def _serve(host: str, port: int, **data: Any) -> None:
    from unpod_async.testing import Sandbox

    server = Sandbox(host=host, port=port, **data)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server)
        except OSError as error:
            raise _listen_error(error, host, port) from None
        variables = {
            "UNPOD_PLATFORM_TOKEN": server.token,
            "UNPOD_ORG_HANDLE": server.org_handle,
            "UNPOD_BASE_URL": server.base_url,
            "SPACE": server.space_token,
            "AGENT": server.agent_handle,
            "JWT": server.jwt,
        }
        echo("\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()))
        echo_err(
            f"Sandbox with {counted(data['runs'], 'run')} and {counted(server.task_count, 'task')} at "
            f"{server.base_url}"
        )
        if data["live"]:
            echo_err("It is live: runs start, and calls ring and end, within seconds.")
        echo_err("Paste the lines above into another terminal to use it. Ctrl-C stops it.")
        echo_err("Spaces need a JWT: UNPOD_PLATFORM_TOKEN=$JWT unpod-async spaces --auth-scheme JWT")
        await asyncio.Event().wait()


def _listen_error(error: OSError, host: str, port: int) -> CliError:
    if error.errno in _IN_USE:
        return CliError(
            f"port {port} of {host} is in use", hint="choose another with --port; 0 picks a free one"
        )
    return CliError(
        f"cannot listen on {host}, port {port}: {os_error_reason(error)}",
        hint="choose an address of this machine with --host, and a port from 1024 on with --port",
    )
