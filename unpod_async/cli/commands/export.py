"""`unpod-async export`: the options of `ExportSpec`, the progress and the summary."""

from __future__ import annotations

import inspect
import math
import os
import types
import typing
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
import typer

from unpod_async._common import os_error_reason, path_text
from unpod_async._export import REDACT_KEY_VARIABLE, ExportSpec, field_types, redact_key_of
from unpod_async.cli.errors import INCOMPLETE, SUCCESS, USAGE, CliError, option_name, with_option_names
from unpod_async.cli.lookup import find_run_ids
from unpod_async.cli.options import Deadline, GlobalOptions, SummaryAsJson, parse_age, parse_time
from unpod_async.cli.output import (
    check_stdout,
    counted,
    echo_command,
    echo_err,
    echo_line,
    has_stdout,
    wants_json,
)
from unpod_async.cli.runner import Interrupted, report_error
from unpod_async.cli.session import open_client, read_secret_file
from unpod_async.cli.tables import Cell, echo_pairs
from unpod_async.errors import APIError, TransportError

if TYPE_CHECKING:
    from unpod_async import ExportPlan, ExportProgress, ExportSummary, UnpodClient

__all__ = [
    "build_spec",
    "export",
    "read_plan",
    "redact_key",
    "report_missing",
    "with_spec_options",
    "write_summary",
]

_MIB: Final = 2**20
_SHOWN_MAX: Final = 1_000_000
"""The help does not show the maximum of an option if it is larger than this."""
_EXAMPLES: Final = 5
"""Maximum number of failed runs, and of bad rows, that are shown. The manifest lists more."""


# -- an option for each field of ExportSpec -----------------------------------------------------------------


def _parse_mebibytes(text: str | int) -> int:
    if isinstance(text, int):
        return text
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size <= _MIB:
        raise typer.BadParameter(f"must be a number of MiB greater than 0 and at most {_MIB:,}")
    return math.ceil(size * _MIB)


_METAVARS: Final = {
    "runs": "RUN",
    "recording_hosts": "HOST",
    "since": "TIME",
    "until": "TIME",
    "settle_after": "DAYS",
    "part_bytes": "MIB",
    "redact_key": "FILE",
    "state_dir": "DIR",
}
_HELP: Final = {
    "runs": "Export only this run: its id, or its first characters. Needs a single space.",
    "recording_hosts": "Allow recordings from this host (HOST or HOST:PORT) although it is not public or "
    "does not use https.",
    "settle_after": "Later exports do not read a run again if it has ended and is at least this old. In "
    "days, or with a unit, such as 12h or 90m.",
    "since": "Export only runs created at or after this time, such as 2030-01-31 (midnight UTC) or "
    "2030-01-31T10:00+05:30.",
    "part_bytes": "Size of one file of tasks, measured as JSON.",
    "redact_key": "File with the key of the hashes, at least 8 bytes; - is stdin. Default: "
    f"{REDACT_KEY_VARIABLE}, or a key that the target generates and keeps.",
}
"""Help for fields that the command line writes in another form. Other fields use their description."""


_GROUPS: Final = {
    "Rows": ("runs", "since", "until", "full", "settle_after"),
    "Files": ("format", "csv_safe", "csv_bom", "part_bytes", "state_dir"),
    "Privacy": ("redact", "redact_key", "keep_user_tokens"),
    "Recordings": ("recordings", "recording_hosts"),
    "Requests": ("concurrency", "page_size"),
}
"""Fields by the heading under which the help shows their options."""


_CONVERSIONS: Final[dict[str, tuple[Callable[[Any], Any], Callable[[Any], str]]]] = {
    "settle_after": (parse_age, lambda age: f"{age / timedelta(days=1):g}"),
    "part_bytes": (_parse_mebibytes, lambda size: f"{size // _MIB}"),
}
"""For fields in other units on the command line: the parser of a value, and the text of the default."""


def _option_for(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """Return the parameter that typer reads to make the option for a field."""
    kind, metadata = _unwrap(annotation)
    settings: dict[str, Any] = {
        "help": _HELP.get(name) or next(meta.description for meta in metadata if meta.description),
        "metavar": _METAVARS.get(name, "N" if kind is int else None),
        "show_default": default not in (None, False, ()),
        "rich_help_panel": next((group for group, names in _GROUPS.items() if name in names), None),
    }
    if name in _CONVERSIONS:
        settings["parser"], default_text = _CONVERSIONS[name]
        default = default_text(default)
    elif kind is datetime:
        settings["parser"] = parse_time
    elif kind is int:
        settings |= _limits(metadata)
    elif typing.get_origin(kind) is tuple:
        kind, default = list[str], None
        settings["help"] = f"{settings['help']} Repeatable."
    elif kind is bytes:
        kind = str  # the name of a file
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[
            kind | None if default is None else kind, typer.Option(option_name(name), **settings)
        ],
    )


def _unwrap(annotation: Any) -> tuple[Any, list[msgspec.Meta]]:
    """Return the type of a field without None, and what its annotation says about it."""
    metadata: list[msgspec.Meta] = []
    while (origin := typing.get_origin(annotation)) in (Annotated, typing.Union, types.UnionType):
        if origin is Annotated:
            metadata += annotation.__metadata__
            annotation = annotation.__origin__
        else:
            (annotation,) = (one for one in typing.get_args(annotation) if one is not types.NoneType)
    return annotation, metadata


def _limits(metadata: Sequence[msgspec.Meta]) -> dict[str, Any]:
    """Return the limits of a number. The help shows them, except a very large maximum."""
    limits: dict[str, Any] = {}
    for meta in metadata:
        limits |= {"min": meta.ge} if meta.ge is not None else {}
        limits |= {"max": meta.le} if meta.le is not None and meta.le < _SHOWN_MAX else {}
    return limits


def with_spec_options(command: Callable[..., int], leave_out: Container[str] = ()) -> Callable[..., int]:
    """Replace `**fields` of a command by an option for each field of `ExportSpec` but `spaces`.

    typer makes options from a signature, so this gives it the signature that the command would have if the
    fields were written out.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters = [one for one in signature.parameters.values() if one.kind != one.VAR_KEYWORD]
    defaults = dict(
        zip(reversed(ExportSpec.__struct_fields__), reversed(ExportSpec.__struct_defaults__), strict=False)
    )
    options = [
        _option_for(name, annotation, defaults[name])
        for name, annotation in field_types().items()
        if name != "spaces" and name not in leave_out
    ]
    positional = [one for one in parameters if one.kind != one.KEYWORD_ONLY]
    keywords = [one for one in parameters if one.kind == one.KEYWORD_ONLY]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*positional, *options, *keywords]
    )
    return command


def build_spec(spaces: Sequence[str], fields: Mapping[str, Any]) -> ExportSpec:
    """Return the spec for options as typer parsed them. Reads the key of the hashes.

    Raises:
        CliError: the key cannot be read.
        InvalidArgument: a value is not accepted.
    """
    # An option that was not given is None, or an empty list if it is repeatable.
    values: dict[str, Any] = {name: value for name, value in fields.items() if value not in (None, [])}
    values["redact_key"] = redact_key(fields.get("redact"), fields.get("redact_key"))
    return ExportSpec(spaces=tuple(spaces), **values)


def redact_key(redact: str | None, file: str | None) -> bytes | None:
    if redact != "hash":
        if file is not None:
            raise CliError("--redact-key-file is only used with --redact hash", status=USAGE)
        return None
    if file is not None:
        return read_secret_file("--redact-key-file", file).strip()
    return redact_key_of(os.environ)


# -- the command --------------------------------------------------------------------------------------------


@with_spec_options
def export(
    context: typer.Context,
    *,
    space: Annotated[
        list[str] | None, typer.Argument(metavar="SPACE", show_default=False, help="Token of the space.")
    ] = None,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            show_default=False,
            help="Directory of the data set, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "az://CONTAINER/PREFIX.",
        ),
    ],
    more_spaces: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            metavar="SPACE",
            show_default=False,
            rich_help_panel="Rows",
            help="Export this space too. Repeatable.",
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="PLAN",
            show_default=False,
            rich_help_panel="Shards",
            help="Export one shard of this plan, which `unpod-async plan` made. Leave out SPACE.",
        ),
    ] = None,
    shard: Annotated[
        int | None,
        typer.Option(
            metavar="N", show_default=False, rich_help_panel="Shards", help="Number of the shard, from 0."
        ),
    ] = None,
    deadline: Deadline = None,
    json_lines: SummaryAsJson = None,
    **fields: Any,
) -> int:
    """Export runs and tasks to files in a directory or an object store.

    If it is stopped or killed, run the same command again: it resumes. Run it again later to fetch only what
    is new or may have changed.
    """
    options: GlobalOptions = context.obj
    if options.token_file == fields["redact_key"] == "-":  # noqa: S105 - stdin
        raise CliError("--token-file and --redact-key-file cannot both be stdin", status=USAGE)
    if json_lines is not None:
        check_stdout()
    spaces = [*(space or ()), *(more_spaces or ())]
    if plan is not None or shard is not None:
        sources = {name: context.get_parameter_source(name) for name in fields}
        given = {
            name: fields[name] for name, source in sources.items() if source and source.name != "DEFAULT"
        }
        job = _shard_job(spaces, target, plan, shard, given)
    elif len(space or ()) != 1:
        # The only argument is the TARGET for typer, but more likely the SPACE.
        hint = "add more spaces with --space SPACE" if space else "such as `unpod-async export SPACE data`"
        raise CliError("give one SPACE and a TARGET", hint=hint, status=USAGE)
    else:
        job = _spaces_job(build_spec(spaces, fields), target)
    command = ["unpod-async", *options.argv]
    with open_client(options, deadline=deadline, max_concurrency=max(8, job.concurrency)) as (
        runner,
        client,
    ):
        try:
            summary = runner.run(_run(job, client, logged=options.verbose > 0))
        except Interrupted as interrupted:
            echo_err("Interrupted.")
            _explain_resuming(job.directory(), command, can_pass=True)
            return interrupted.status
        except (APIError, TransportError) as error:
            from unpod_async._export import is_transient  # here, because it imports aiohttp

            status = report_error(error, verbose=options.verbose)
            _explain_resuming(job.directory(), command, can_pass=is_transient(error))
            return status
    if json_lines is not None or has_stdout():
        write_summary(summary, as_json=wants_json(json_lines))
    report_missing(summary, command)
    return SUCCESS if summary.complete else INCOMPLETE


class _Job(NamedTuple):
    """What the command exports.

    Attributes:
        directory: Returns the directory on this machine with the state.
    """

    run: Callable[[UnpodClient, Callable[[ExportProgress], object]], Awaitable[ExportSummary]]
    concurrency: int
    directory: Callable[[], str]


async def _run(job: _Job, client: UnpodClient, *, logged: bool) -> ExportSummary:
    from unpod_async.cli.export_progress import progress_display

    with progress_display(logged=logged) as show:
        return await job.run(client, show)


def _spaces_job(spec: ExportSpec, target: str) -> _Job:
    """Return the export of spaces."""

    async def run(client: UnpodClient, show: Callable[[ExportProgress], object]) -> ExportSummary:
        chosen = spec
        if spec.runs is not None:
            # Before anything is written: an export of a run that does not exist would be an empty data set.
            found = await find_run_ids(client, spec.spaces[0], spec.runs)
            chosen = msgspec.structs.replace(spec, runs=tuple(found.values()))
        return await client.export(chosen, target, on_progress=show)

    def directory() -> str:
        from unpod_async._export import StoreAddress, state_directory

        address = StoreAddress.parse(target)
        return target if address is None else str(state_directory(address, spec.state_dir) / "data")

    return _Job(run, spec.concurrency, directory)


def _shard_job(
    spaces: Sequence[str], target: str, plan_file: str | None, shard: int | None, fields: Mapping[str, Any]
) -> _Job:
    """Return the export of a shard.

    Args:
        fields: The options of `ExportSpec` that were given.
    """
    if plan_file is None or shard is None:
        raise CliError("--plan and --shard belong together", hint="give both", status=USAGE)
    if spaces:
        raise CliError("SPACE cannot be combined with --plan", hint="leave out SPACE", status=USAGE)
    from unpod_async._export import shard_spec

    plan = read_plan(plan_file)
    options = {name: value for name, value in fields.items() if name != "redact_key"}
    if key := redact_key(plan.options["redact"], fields.get("redact_key")):
        options["redact_key"] = key

    async def run(client: UnpodClient, show: Callable[[ExportProgress], object]) -> ExportSummary:
        return await client.export_shard(plan, shard, target, on_progress=show, **options)

    spec = shard_spec(plan, options)

    def directory() -> str:
        from unpod_async._export import StoreAddress, shard_directory, shard_state_directory

        address = StoreAddress.parse(target)
        if address is None:
            return str(shard_directory(Path(target), shard))
        return str(shard_state_directory(address, shard, spec.state_dir) / "data")

    return _Job(run, spec.concurrency, directory)


def read_plan(path: str) -> ExportPlan:
    """Return the plan in a file.

    Raises:
        CliError: the file cannot be read.
        ExportError: it is not a plan.
    """
    from unpod_async._export import ExportPlan

    try:
        return ExportPlan.load(path)
    except (OSError, ValueError) as error:
        raise CliError(
            f"{path_text(path)} cannot be read: {os_error_reason(error)}",
            hint="give the file that `unpod-async plan` wrote",
        ) from None


def _explain_resuming(target: str, command: Sequence[str], *, can_pass: bool) -> None:
    """Write what is kept and how to continue.

    Args:
        target: the directory with the state.
        can_pass: the same command may succeed later; otherwise the user has to correct something first.
    """
    from unpod_async._export import is_resumable

    is_kept = is_resumable(Path(target))  # an export that stores nothing removes what it created
    # What was fetched after the last checkpoint is not kept.
    kept = f"What was fetched is kept in {target}, except for about the last second."
    kept = kept if is_kept else "Nothing was saved."
    if not can_pass:
        echo_err(f"{kept} Correct the cause and run the command again{': it resumes' if is_kept else ''}.")
        return
    echo_err(f"{kept} To {'resume' if is_kept else 'try again'}, run the same command again:")
    echo_command(command)


# -- the summary --------------------------------------------------------------------------------------------


def write_summary(summary: ExportSummary, *, as_json: bool, is_merge: bool = False) -> None:
    """Write the summary of an export or a merge to stdout."""
    if as_json:
        hints = tuple(map(with_option_names, summary.hints))
        echo_line(msgspec.json.encode(msgspec.structs.replace(summary, hints=hints)))
    else:
        echo_pairs(_summary_pairs(summary, is_merge=is_merge))


def _summary_pairs(summary: ExportSummary, *, is_merge: bool) -> list[tuple[str, str | Cell]]:
    """Return what to show of a summary. A merge fetches nothing: see the summaries of the shards."""
    pairs: list[tuple[str, str | Cell]] = [
        ("Target", summary.target),
        *([("Local copy", summary.local_copy)] if summary.local_copy else []),
        ("Complete", Cell("yes", "green") if summary.complete else Cell("NO, see below", "bold red")),
        ("Data set", f"{counted(summary.runs, 'run')}, {counted(summary.tasks, 'task')}"),
        ("Files", f"{summary.files:,}, {summary.bytes / 1e6:,.1f} MB"),
    ]
    if not is_merge:
        pairs.append((
            "Fetched",
            f"{counted(summary.fetched_runs, 'run')}, {counted(summary.fetched_tasks, 'task')}",
        ))
    if summary.unchanged_runs and not is_merge:
        pairs.append(("Unchanged", f"{counted(summary.unchanged_runs, 'run')}, not read again"))
    if summary.gone_runs:
        pairs.append(("Removed", f"{counted(summary.gone_runs, 'run')}, no longer in the space"))
    if summary.recordings or summary.failed_recordings:
        failed = f", {summary.failed_recordings:,} failed" if summary.failed_recordings else ""
        pairs.append(("Recordings", f"{summary.recordings:,}{failed}"))
    if is_merge:
        return [*pairs, ("Merged", f"in {summary.seconds:,.1f} s")]
    retries = f", {summary.retries:,} of them retries" if summary.retries else ""
    return [*pairs, ("Requests", f"{summary.requests:,}{retries}, in {summary.seconds:,.1f} s")]


def report_missing(
    summary: ExportSummary,
    command: Sequence[str],
    advice: str = "run the same command again to fetch what is missing",
) -> None:
    """Write to stderr what is missing.

    Args:
        command: the command line that fetches it.
        advice: what to do with the command line.
    """
    for run in summary.failed[:_EXAMPLES]:
        echo_err(f"failed: run {run.run_id or '(without an id)'}: {run.reason}")
    _count_more("failed", "run", summary.failed_runs, len(summary.failed))
    _report_bad_rows(summary)
    for reason in summary.reasons:
        echo_err(f"incomplete: {reason}")
    if summary.failed_recordings:
        echo_err(f"incomplete: {counted(summary.failed_recordings, 'recording')} could not be downloaded")
    for hint in summary.hints:
        echo_err(f"hint: {with_option_names(hint)}")
    if summary.bad_rows:
        echo_err("hint: the service cannot deliver the rows that were left out; report them to its support")
    if not summary.complete:
        echo_err(f"hint: everything else was exported; {advice}:")
        echo_command(command)


def _report_bad_rows(summary: ExportSummary) -> None:
    """Write the positions of all known bad rows, on one line for each run and reason."""
    groups: dict[tuple[str | None, str], list[int | None]] = {}
    for row in summary.bad:
        groups.setdefault((row.run_id, row.reason), []).append(row.place)
    for (run_id, reason), places in groups.items():
        listing = "the listing of runs" if run_id is None else f"run {run_id}"
        known = sorted(place for place in places if place is not None)
        rows = "a row" if len(places) == 1 else f"{len(places):,} rows"
        label = ", position " if len(known) == 1 else ", positions "
        positions = label + ", ".join(f"{place:,}" for place in known) if known else ""
        echo_err(f"left out: {rows} of {listing}{positions}: {reason}")
    if others := summary.bad_rows - len(summary.bad):
        echo_err(f"left out: {counted(others, 'more row')}")


def _count_more(label: str, noun: str, total: int, known: int) -> None:
    """Write how many there are beyond the examples."""
    if total > _EXAMPLES:
        echo_err(f"{label}: {counted(total - min(_EXAMPLES, known), f'more {noun}')}")
