"""`ExportSpec`: every option of an export, validated.

To add an option, add a field to `ExportSpec` and the code that uses it. The command line derives its options
from the same fields, and `ExportOptions` lists them once more for type checkers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, TypedDict, cast

import msgspec

from unpod_async.errors import InvalidArgument

if TYPE_CHECKING:
    from unpod_async._http import TimeWindow
    from unpod_async.models import Run

__all__ = [
    "REDACT_KEY_VARIABLE",
    "ExportFormat",
    "ExportOptions",
    "ExportSpec",
    "Redaction",
    "check_directory",
    "check_target",
    "differing_options",
    "field_types",
    "redact_key_of",
]

ExportFormat: TypeAlias = Literal["jsonl", "jsonl.gz", "csv", "parquet"]
Redaction: TypeAlias = Literal["drop", "hash"]

_DATASET = msgspec.Meta(extra={"dataset": True})
"""Marks the fields that decide which rows the data set has, and in which form.

They are stored in the target. A later export into the same target must have the same values.
"""

REDACT_KEY_VARIABLE: Final = "UNPOD_REDACT_KEY"
"""The environment variable with the key of the hashes, for the command line and the workers of a cluster."""

_SHORTEST_KEY = 8
"""Minimum length of the key in bytes. A shorter key can be guessed."""


class ExportSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The options of an export, validated. Times must be timezone-aware.

    `UnpodClient.export` builds one from its keyword arguments, and the command line from its options.

    Raises:
        InvalidArgument: a value is not accepted. `argument` names the field.
    """

    spaces: Annotated[
        tuple[str, ...],
        _DATASET,
        msgspec.Meta(description="Tokens of the spaces to export."),
    ]
    runs: Annotated[
        tuple[str, ...] | None,
        _DATASET,
        msgspec.Meta(description="Export only the runs with these ids. Needs a single space."),
    ] = None
    since: Annotated[
        datetime | None,
        _DATASET,
        msgspec.Meta(
            description="Export only runs created at or after this time. The server shows whole seconds, so "
            "the whole second of this time is included."
        ),
    ] = None
    until: Annotated[
        datetime | None,
        _DATASET,
        msgspec.Meta(description="Export only runs created at or before this time."),
    ] = None
    format: Annotated[
        ExportFormat,
        _DATASET,
        msgspec.Meta(
            description="File format. jsonl keeps each row as the server sent it; csv and parquet have flat "
            "columns. parquet needs the extra `parquet`."
        ),
    ] = "jsonl"
    keep_user_tokens: Annotated[
        bool,
        _DATASET,
        msgspec.Meta(
            description="Keep the users' access tokens in the rows. They are secrets; null replaces them by "
            "default."
        ),
    ] = False
    csv_safe: Annotated[
        bool,
        _DATASET,
        msgspec.Meta(description="In CSV, put ' before values that a spreadsheet would run as formulas."),
    ] = False
    csv_bom: Annotated[
        bool,
        _DATASET,
        msgspec.Meta(description="Begin CSV files with a byte order mark, so that Excel recognizes UTF-8."),
    ] = False
    redact: Annotated[
        Redaction | None,
        _DATASET,
        msgspec.Meta(description="Drop or hash names, phone numbers and e-mail addresses."),
    ] = None
    redact_key: Annotated[
        bytes | None,
        _DATASET,
        msgspec.Meta(
            description="Key of the hashes, at least 8 bytes. By default the target generates and keeps one."
        ),
    ] = None
    recordings: Annotated[
        bool,
        _DATASET,
        msgspec.Meta(description="Also download the recordings of the calls, into recordings/."),
    ] = False
    recording_hosts: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Hosts (host or host:port) that recordings may be downloaded from although they are "
            "not public or do not use https."
        ),
    ] = ()
    full: Annotated[
        bool,
        msgspec.Meta(description="Read every run again, including settled ones."),
    ] = False
    settle_after: Annotated[
        timedelta,
        msgspec.Meta(
            description="Later exports do not read a run again if it has ended and is at least this old. "
            "A timedelta or seconds."
        ),
    ] = timedelta(days=7)
    concurrency: Annotated[
        int,
        msgspec.Meta(ge=1, le=1024, description="Maximum number of requests in flight."),
    ] = 4
    page_size: Annotated[
        int | None,
        msgspec.Meta(description="Rows per page of every listing. By default each listing has its own size."),
    ] = None
    part_bytes: Annotated[
        int,
        msgspec.Meta(ge=1, le=2**40, description="Size of one file of tasks, in bytes of its rows as JSON."),
    ] = 64 * 2**20
    state_dir: Annotated[
        str | None,
        msgspec.Meta(
            description="Directory on this machine for the state and a copy of the files, if the target is "
            "in an object store. By default it is in the user's folder for caches."
        ),
    ] = None

    def __post_init__(self) -> None:
        for name, annotation in field_types().items():
            value = getattr(self, name)
            if value is _DEFAULTS.get(name, msgspec.UNSET):
                continue
            if name in _CONVERSIONS:
                msgspec.structs.force_setattr(self, name, _CONVERSIONS[name](name, value))
            else:
                _check(name, value, annotation)
        self._check_together()

    def _check_together(self) -> None:
        if self.runs is not None and len(self.spaces) > 1:
            raise InvalidArgument(
                "runs can only be selected in a single space",
                argument="runs",
                hint="export each space into a directory of its own",
            )
        if self.since is not None and self.until is not None and _epoch(self.since) > _epoch(self.until):
            raise InvalidArgument("since is after until", argument="since")
        if self.redact_key is not None and self.redact != "hash":
            raise InvalidArgument(
                "redact_key is only used with redact='hash'", argument="redact_key", hint="leave it out"
            )

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        if self.redact_key is not None:
            shown["redact_key"] = "***"
        return f"ExportSpec({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def window(self) -> TimeWindow | None:
        """`since` and `until`; None if neither is set."""
        from unpod_async._http import TimeWindow

        if self.since is None and self.until is None:
            return None
        return TimeWindow(self.since, self.until)

    @property
    def selects_all_runs(self) -> bool:
        """Whether the export includes every run of its spaces."""
        return self.runs is None and self.since is None and self.until is None

    def dataset_options(self, platform: str) -> dict[str, Any]:
        """Return the options that identify the data set, as JSON values, with a digest of the redaction key.

        Args:
            platform: Root URL of the API.
        """
        options: dict[str, Any] = {"platform": platform}
        for name in _dataset_fields():
            value = getattr(self, name)
            options[name] = value.astimezone(UTC) if isinstance(value, datetime) else value
        if self.redact_key is not None:
            options["redact_key"] = hashlib.sha256(self.redact_key).hexdigest()[:16]
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(options))
        return plain


class ExportOptions(TypedDict, total=False):
    """The keyword arguments of `UnpodClient.export`: the fields of `ExportSpec` without `spaces`.

    Some arguments accept more types than their field holds.
    """

    runs: Iterable[str | Run] | None
    since: datetime | None
    until: datetime | None
    format: ExportFormat
    keep_user_tokens: bool
    csv_safe: bool
    csv_bom: bool
    redact: Redaction | None
    redact_key: str | bytes | None
    recordings: bool
    recording_hosts: Sequence[str]
    full: bool
    settle_after: timedelta | float
    concurrency: int
    page_size: int | None
    part_bytes: int
    state_dir: str | os.PathLike[str] | None


_DEFAULTS: dict[str, Any] = dict(
    zip(reversed(ExportSpec.__struct_fields__), reversed(ExportSpec.__struct_defaults__), strict=False)
)
"""The default of each field that has one."""


def redact_key_of(environ: Mapping[str, str]) -> bytes | None:
    """Return the key of the hashes in the environment; None if there is none."""
    return environ.get(REDACT_KEY_VARIABLE, "").encode("utf-8", "surrogateescape") or None


@functools.cache
def field_types() -> Mapping[str, Any]:
    """Return the annotation of each field of `ExportSpec`, with its `msgspec.Meta`."""
    return typing.get_type_hints(ExportSpec, include_extras=True)


def _document_fields() -> None:
    """List the fields with their descriptions in the docstring of `ExportSpec`, for `help`."""
    before, raises, after = str(ExportSpec.__doc__).partition("    Raises:")
    lines = ["    Attributes:"]
    for name, annotation in field_types().items():
        (description,) = (meta.description for meta in annotation.__metadata__ if meta.description)
        lines += textwrap.wrap(
            f"{name}: {description}", 100, initial_indent=" " * 8, subsequent_indent=" " * 12
        )
    ExportSpec.__doc__ = "".join([before, "\n".join(lines), "\n\n", raises, after])


_document_fields()


def check_target(spec: ExportSpec, *, is_directory: bool) -> None:
    """Raise InvalidArgument for an option that does not fit the kind of the target.

    Args:
        is_directory: The target is a directory, not in an object store.
    """
    if is_directory and spec.state_dir is not None:
        raise InvalidArgument(
            "state_dir is only used if the target is in an object store",
            argument="state_dir",
            hint="leave it out: the state is in the directory of the export",
        )
    if not is_directory and spec.recordings:
        raise InvalidArgument(
            "recordings cannot be exported into an object store",
            argument="recordings",
            hint="export them into a directory and copy it",
        )


def differing_options(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that differ between two results of `dataset_options`.

    An option that one of them does not have counts as its default.
    """
    options = {name: _DEFAULTS.get(name) for name in {**stored, **current}}
    return [
        name for name, default in options.items() if stored.get(name, default) != current.get(name, default)
    ]


@functools.cache
def _dataset_fields() -> tuple[str, ...]:
    return tuple(
        name
        for name, annotation in field_types().items()
        if any(meta.extra == _DATASET.extra for meta in annotation.__metadata__)
    )


# -- validation ---------------------------------------------------------------------------------------------
# The checks are imported when an object is made: a program that only lists the options, such as `--help`,
# needs no HTTP client.


def _check(name: str, value: object, annotation: Any) -> None:
    """Raise `InvalidArgument` unless a value has the annotated choices, or is a bool or int as annotated."""
    from unpod_async import _http

    kinds, bounds = _parts(annotation)
    choices = [
        choice for kind in kinds for choice in typing.get_args(kind) if typing.get_origin(kind) is Literal
    ]
    if value is None and types.NoneType in kinds:
        return
    if choices:
        _http.check_choice(name, value, [*choices, *([None] if types.NoneType in kinds else [])])
    elif bool in kinds:
        _http.check_bool(name, value)
    elif int in kinds:
        _http.check_integer(name, value, minimum=bounds[0], maximum=bounds[1])


def _parts(annotation: Any) -> tuple[list[Any], tuple[int, int]]:
    """Return the types of a union without their `Annotated`, and the bounds in `msgspec.Meta`."""
    bounds = (1, 2**31 - 1)
    if typing.get_origin(annotation) is Annotated:
        for meta in annotation.__metadata__:
            if meta.ge is not None and meta.le is not None:
                bounds = (meta.ge, meta.le)
        annotation = annotation.__origin__
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return [annotation], bounds
    return list(typing.get_args(annotation)), bounds


def _space_tokens(name: str, value: object) -> tuple[str, ...]:
    from unpod_async._http import check_ids

    tokens = tuple(dict.fromkeys(check_ids(name, value)))
    if not tokens:
        raise InvalidArgument(f"{name} must contain at least one space token", argument=name)
    return tokens


def _run_ids(name: str, value: object) -> tuple[str, ...] | None:
    from unpod_async._http import check_run_ids

    return None if value is None else tuple(sorted(set(check_run_ids(name, value))))


def _hosts(name: str, value: object) -> tuple[str, ...]:
    from unpod_async._http import check_str, check_str_or_list

    return tuple(check_str(name, host) for host in check_str_or_list(name, value))


def _time(name: str, value: object) -> datetime | None:
    from unpod_async._http import check_aware_datetime

    if value is None:
        return None
    time = check_aware_datetime(name, value)
    try:
        time.astimezone(UTC)
    except OverflowError:  # the first or last day of the calendar, in another zone
        return datetime.min.replace(tzinfo=UTC) if time.year == 1 else datetime.max.replace(tzinfo=UTC)
    return time


def _epoch(time: datetime) -> timedelta:
    """Return the time since 1970. Datetimes of one zone compare by wall clock, which may be ambiguous."""
    return time - datetime(1970, 1, 1, tzinfo=UTC)


def _age(name: str, value: object) -> timedelta:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = timedelta(seconds=value) if abs(value) < timedelta.max.total_seconds() else None
    if not isinstance(value, timedelta) or value < timedelta(0):
        raise InvalidArgument(f"{name} must be a timedelta or seconds, and not negative", argument=name)
    return value


def _key(name: str, value: object) -> bytes | None:
    if value is None:
        return None
    key = value.encode() if isinstance(value, str) else value
    if not isinstance(key, bytes):
        raise InvalidArgument(
            f"{name} must be a str or bytes, not {type(value).__name__}",
            argument=name,
            hint=f"use a random key of at least {_SHORTEST_KEY} bytes and keep it secret",
        )
    if len(key) < _SHORTEST_KEY:
        raise InvalidArgument(
            f"{name} must have at least {_SHORTEST_KEY} bytes",
            argument=name,
            hint="a short key can be guessed: use a random one and keep it secret",
        )
    return key


def check_directory(name: str, value: object) -> str:
    """Return the path of a directory as a str, or raise InvalidArgument."""
    if isinstance(value, str | os.PathLike) and value:
        with contextlib.suppress(UnicodeEncodeError):  # a surrogate that does not represent a byte
            path = os.fsencode(cast("str | os.PathLike[str]", value))
            if path and b"\0" not in path:
                return os.fsdecode(path)
    raise InvalidArgument(f"{name} must be the path of a directory", argument=name)


def _directory(name: str, value: object) -> str | None:
    return None if value is None else check_directory(name, value)


_CONVERSIONS = {
    "spaces": _space_tokens,
    "runs": _run_ids,
    "since": _time,
    "until": _time,
    "redact_key": _key,
    "recording_hosts": _hosts,
    "settle_after": _age,
    "state_dir": _directory,
}
"""By field, the function that converts an accepted value to the value that the field holds."""
