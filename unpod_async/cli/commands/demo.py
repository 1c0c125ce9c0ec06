"""`unpod-async demo`: an export that is killed, run again and compared."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer

from unpod_async._common import os_error_advice, os_error_reason
from unpod_async.cli.errors import ERROR, SUCCESS, CliError
from unpod_async.cli.options import parse_range, refuse_nan
from unpod_async.cli.output import CheckedStdout, echo_err
from unpod_async.cli.runner import Interrupted, InterruptibleRunner

__all__ = ["demo"]


def demo(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIRECTORY",
            help="Directory to export to. Files of an earlier demo are removed first.",
        ),
    ] = Path("demo-output", "data-set"),
    quick: Annotated[bool, typer.Option("--quick", help="Use a small data set: a few seconds.")] = False,
    runs: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", show_default=False, help="Number of runs. Default: 2000, with --quick 300."
        ),
    ] = None,
    tasks_per_run: Annotated[
        Any,
        typer.Option(metavar="N", parser=parse_range, help="Tasks per run, such as 5 or 1..20."),
    ] = "1..20",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the generated data.")] = 0,
    latency: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=60,
            callback=refuse_nan,
            metavar="SECONDS",
            show_default=False,
            help="Delay before each response. Default: 0.1, with --quick 0.25.",
        ),
    ] = None,
    page_size: Annotated[
        int | None,
        typer.Option(
            min=2,  # pages of one row cannot be told from a request for the number of rows
            metavar="N",
            show_default=False,
            help="Rows per page. Default: the export decides; with --quick 50.",
        ),
    ] = None,
    truncate: Annotated[
        bool,
        typer.Option("--truncate", help="Remove a row first, to check that the comparison detects it."),
    ] = False,
) -> int:
    """Kill an export of a sandbox halfway, run it again, and compare every row.

    It needs no account and no network. Rows up to the last checkpoint, at most about one second before the
    kill, are not fetched again. The exit status is 1 if a row is missing or a number is wrong.
    """
    from unpod_async.testing.demos.export import ExportDemo, run_export_demo

    default = ExportDemo(out=out, runs=300, latency=0.25, page_size=50) if quick else ExportDemo(out=out)
    options = ExportDemo(
        out=out,
        runs=default.runs if runs is None else runs,
        tasks_per_run=parse_range(tasks_per_run),
        latency=default.latency if latency is None else latency,
        page_size=page_size or default.page_size,
        seed=seed,
        truncate=truncate,
    )
    with InterruptibleRunner() as runner:
        try:
            return (
                SUCCESS if runner.run(run_export_demo(options, cast("IO[str]", CheckedStdout()))) else ERROR
            )
        except Interrupted as interruption:
            echo_err("The demo has stopped. Its files are removed.")
            return interruption.status
        except BrokenPipeError:
            raise
        except (OSError, RuntimeError) as error:
            message, _, hint = str(error).partition("\nhint: ")
            if isinstance(error, OSError) and error.errno is not None:
                message = f"cannot write to {out}: {os_error_reason(error)}"
                hint = f"{os_error_advice(error)} and run the demo again"
            raise CliError(message.removesuffix("."), hint=hint) from None
