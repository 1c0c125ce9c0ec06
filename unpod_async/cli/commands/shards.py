"""`unpod-async plan` and `unpod-async merge`: exports that run on several machines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from unpod_async._common import os_error_advice, os_error_reason, path_text
from unpod_async.cli.commands.export import (
    build_spec,
    read_plan,
    report_missing,
    with_spec_options,
    write_summary,
)
from unpod_async.cli.errors import INCOMPLETE, SUCCESS, USAGE, CliError
from unpod_async.cli.lookup import find_run_ids
from unpod_async.cli.options import Deadline, GlobalOptions, SummaryAsJson, parse_seconds
from unpod_async.cli.output import check_stdout, counted, echo, echo_command, echo_err, wants_json
from unpod_async.cli.runner import InterruptibleRunner
from unpod_async.cli.session import open_client

if TYPE_CHECKING:
    from unpod_async import ExportPlan, ExportSpec, UnpodClient

__all__ = ["merge", "plan"]

_OF_A_SHARD: Final = ("recording_hosts", "full", "settle_after", "part_bytes", "state_dir")
"""Fields of `ExportSpec` that are given to `unpod-async export --plan`, not to the plan."""

PlanFile = Annotated[str, typer.Argument(metavar="PLAN", show_default=False, help="File of the plan.")]


@functools.partial(with_spec_options, leave_out=_OF_A_SHARD)
def plan(
    context: typer.Context,
    *,
    spaces: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPACE...", show_default=False, help="Tokens of the spaces."),
    ] = None,
    plan_file: PlanFile,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            metavar="N",
            show_default=False,
            help="Number of shards. With --extend, the maximum number of new ones.",
        ),
    ] = None,
    extend: Annotated[
        bool,
        typer.Option("--extend", show_default=False, help="Add runs that are not in PLAN, in new shards."),
    ] = False,
    deadline: Deadline = None,
    **fields: Any,
) -> int:
    """Divide an export into shards, which can run on different machines.

    PLAN is a file with the ids of all runs. Give it to `unpod-async export --plan` on every machine, and then
    to `unpod-async merge`. The exit status is 3 if rows of the listing of runs cannot be read.
    """
    options: GlobalOptions = context.obj
    before: ExportPlan | None = None
    make: Callable[[UnpodClient], Coroutine[Any, Any, ExportPlan]]
    if extend:
        if spaces:
            raise CliError("SPACE cannot be combined with --extend", hint="leave out SPACE", status=USAGE)
        before = read_plan(plan_file)
        make = functools.partial(_extend, before=before, shards=shards)
    elif not spaces or shards is None:
        raise CliError("give SPACE, PLAN and --shards N", hint="see `unpod-async plan --help`", status=USAGE)
    elif Path(plan_file).exists():
        raise CliError(
            f"{path_text(plan_file)} exists", hint="add new runs to it with --extend, or choose another file"
        )
    else:
        make = functools.partial(_make, spec=build_spec(spaces, fields), shards=shards)
    with open_client(options, deadline=deadline) as (runner, client):
        made = runner.run(make(client))
    try:
        made.save(plan_file)
    except (OSError, ValueError) as error:
        raise CliError(
            f"{path_text(plan_file)} cannot be written: {os_error_reason(error)}",
            hint=f"{os_error_advice(error, 'check the path')} and run the command again",
        ) from None
    return _report(made, before, plan_file)


async def _make(client: UnpodClient, spec: ExportSpec, shards: int) -> ExportPlan:
    options = {name: getattr(spec, name) for name in spec.__struct_fields__ if name != "spaces"}
    if spec.runs is not None:
        options["runs"] = tuple((await find_run_ids(client, spec.spaces[0], spec.runs)).values())
    return await client.plan_export(spec.spaces, shards=shards, **options)


async def _extend(client: UnpodClient, before: ExportPlan, shards: int | None) -> ExportPlan:
    return await client.extend_plan(before, shards=shards)


def _report(made: ExportPlan, before: ExportPlan | None, plan_file: str) -> int:
    echo(f"{counted(made.runs, 'run')} in {counted(made.shards, 'shard')}")
    first = 0 if before is None else before.shards
    if first == made.shards:
        echo_err("There are no new runs: the plan has not changed.")
    else:
        echo_err(f"Export the shards {first} to {made.shards - 1}, on any machines:")
        echo_command(["unpod-async", "export", "--plan", plan_file, "--shard", str(first), "TARGET"])
        echo_err("When all shards have been exported, join them:")
        echo_command(["unpod-async", "merge", plan_file, "TARGET"])
    if not made.unreadable:
        return SUCCESS
    echo_err(f"incomplete: {counted(made.unreadable, 'row')} of the listing of runs cannot be read")
    return INCOMPLETE


def merge(
    context: typer.Context,
    plan_file: PlanFile,
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", show_default=False, help="Directory or URL of the shards."),
    ],
    state_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            rich_help_panel="Object stores",
            help="Directory on this machine for temporary files. By default it is in the user's folder for "
            "caches.",
        ),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            show_default=False,
            parser=parse_seconds,
            rich_help_panel="Object stores",
            help="Stop after this many seconds, or after a duration such as 10m or 2h.",
        ),
    ] = None,
    json_lines: SummaryAsJson = None,
) -> int:
    """Make one data set of the shards of a plan, after all of them have been exported.

    Each run must be in exactly one shard, and each file must be as its shard wrote it. Otherwise nothing is
    changed. After a shard was exported again, run this command again. The exit status is 3 if the data set is
    incomplete.
    """
    if json_lines is not None:
        check_stdout()
    made = read_plan(plan_file)
    from unpod_async import merge_shards

    with InterruptibleRunner() as runner:
        summary = runner.run(merge_shards(made, target, state_dir=state_dir, deadline=deadline))
    write_summary(summary, as_json=wants_json(json_lines), is_merge=True)
    command = ["unpod-async", *context.obj.argv]
    report_missing(summary, command, "export the shards again to fetch what is missing, then merge them")
    return SUCCESS if summary.complete else INCOMPLETE
