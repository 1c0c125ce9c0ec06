"""`ExportSpec`: every option of an export, validated.

To add an option, add a field to `ExportSpec` and the code that uses it. The command line derives its options
from the same fields, and `ExportOptions` lists them once more for type checkers.
"""

from __future__ import annotations

import functools
import hashlib
import math
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypedDict, cast

import msgspec

from unpod_async.errors import InvalidArgument

if TYPE_CHECKING:
    from unpod_async._http import TimeWindow
    from unpod_async.models import Run

__all__ = [
    "ExportFormat",
    "ExportOptions",
    "ExportSpec",
    "Redaction",
    "differing_options",
    "field_types",
]

ExportFormat: TypeAlias = Literal["jsonl", "jsonl.gz", "csv", "parquet"]
Redaction: TypeAlias = Literal["drop", "hash"]

_DATASET = msgspec.Meta(extra={"dataset": True})
"""Marks the fields that decide which rows the data set has, and in which form.

They are stored in the target. A later export into the same target must have the same values.
"""

_SHORTEST_KEY = 8
"""Bytes. A shorter key can be guessed."""


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
        msgspec.Meta(description="Export only runs created at or after this time."),
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
        msgspec.Meta(description="Read every run again, also those that are settled."),
    ] = False
    settle_after: Annotated[
        timedelta,
        msgspec.Meta(
            description="Age from which a run that has ended is settled: later exports do not read it again. "
            "A timedelta or seconds."
        ),
    ] = timedelta(days=7)
    concurrency: Annotated[
        int,
        msgspec.Meta(ge=1, le=1024, description="Maximum number of requests in flight."),
    ] = 4
    page_size: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None,
        msgspec.Meta(description="Rows per page of every listing. By default each listing has its own size."),
    ] = None
    part_bytes: Annotated[
        int,
        msgspec.Meta(ge=1, le=2**40, description="Size of one file of tasks, in bytes of its rows as JSON."),
    ] = 64 * 2**20

    def __post_init__(self) -> None:
        for name, convert in _CONVERSIONS.items():
            msgspec.structs.force_setattr(self, name, convert(name, getattr(self, name)))
        for name, annotation in field_types().items():
            _check(name, getattr(self, name), annotation)
        self._check_together()

    def _check_together(self) -> None:
        if self.runs is not None and len(self.spaces) > 1:
            raise InvalidArgument("runs can be chosen in one space only: export each space on its own")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise InvalidArgument("since is later than until")
        if self.redact_key is not None and self.redact != "hash":
            raise InvalidArgument("redact_key is only used with redact='hash'")

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        if self.redact_key is not None:
            shown["redact_key"] = "***"
        return f"ExportSpec({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def window(self) -> TimeWindow | None:
        """`since` and `until`; None if neither is set."""
        from unpod_async._http import TimeWindow

        return None if self.since is self.until is None else TimeWindow(self.since, self.until)

    @property
    def selects_all_runs(self) -> bool:
        return self.runs is None and self.since is None and self.until is None

    def dataset_options(self, platform: str) -> dict[str, Any]:
        """Return what identifies the data set, as plain JSON values. Holds a digest of the redaction key.

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

    Some accept more types than the field holds.
    """

    runs: Iterable[str | Run] | None
    since: datetime | None
    until: datetime | None
    format: ExportFormat
    keep_user_tokens: bool
    csv_safe: bool
    redact: Redaction | None
    redact_key: str | bytes | None
    recordings: bool
    recording_hosts: Sequence[str]
    full: bool
    settle_after: timedelta | float
    concurrency: int
    page_size: int | None
    part_bytes: int


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


def differing_options(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that differ between two results of `dataset_options`.

    An option that did not exist when `stored` was written counts as its default.
    """
    defaults = dict(
        zip(reversed(ExportSpec.__struct_fields__), reversed(ExportSpec.__struct_defaults__), strict=False)
    )
    return [name for name, value in current.items() if stored.get(name, defaults.get(name)) != value]


@functools.cache
def _dataset_fields() -> tuple[str, ...]:
    return tuple(
        name
        for name, annotation in field_types().items()
        if any(meta.extra == _DATASET.extra for meta in annotation.__metadata__)
    )


# -- validation ---------------------------------------------------------------------------------------------


def _check(name: str, value: object, annotation: Any) -> None:
    """Raise `InvalidArgument` unless the value has the annotated type, choices and bounds."""
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        pass
    else:
        return
    *most, last = _accepted(annotation)
    raise InvalidArgument(f"{name} must be {', '.join(most)}{' or ' if most else ''}{last}")


def _accepted(annotation: Any) -> list[str]:
    """Describe each kind of value that an annotation accepts, such as ["True", "False"]."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        for meta in annotation.__metadata__:
            if meta.ge is not None and meta.le is not None:
                return [f"a whole number from {meta.ge} to {meta.le}"]
        return _accepted(annotation.__origin__)
    if origin is Literal:
        return [repr(choice) for choice in typing.get_args(annotation)]
    if origin in (typing.Union, types.UnionType):
        return [text for one in typing.get_args(annotation) for text in _accepted(one)]
    if annotation is bool:
        return ["True", "False"]
    return ["None" if annotation is types.NoneType else f"a {annotation.__name__}"]


def _space_tokens(name: str, value: object) -> tuple[str, ...]:
    tokens = tuple(dict.fromkeys(_id(name, token) for token in _strings(name, value)))
    if not tokens:
        raise InvalidArgument(f"{name} must be the token of a space, or several of them")
    return tokens


def _run_ids(name: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidArgument(f"{name} must be several run ids, such as ['R1', 'R2']")
    ids = {_id(name, getattr(run, "run_id", run)) for run in cast("Iterable[object]", value)}
    if not ids:
        raise InvalidArgument(f"{name} is empty: leave it out to export every run")
    return tuple(sorted(ids))


def _id(name: str, value: object) -> str:
    from unpod_async._http import check_id

    return check_id(name, value)


def _strings(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Iterable):
        strings = tuple(cast("Iterable[object]", value))
        if all(isinstance(one, str) for one in strings):
            return cast("tuple[str, ...]", strings)
    raise InvalidArgument(f"{name} must be a str or several of them")


def _aware(name: str, value: object) -> datetime | None:
    if value is None or (isinstance(value, datetime) and value.utcoffset() is not None):
        return value
    raise InvalidArgument(f"{name} must be a timezone-aware datetime")


def _age(name: str, value: object) -> timedelta:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        try:
            value = timedelta(seconds=value)
        except OverflowError:
            value = None
    if not isinstance(value, timedelta) or value < timedelta(0):
        raise InvalidArgument(f"{name} must be a timedelta or seconds, and not negative")
    return value


def _key(name: str, value: object) -> bytes | None:
    if value is None:
        return None
    key = value.encode() if isinstance(value, str) else value
    if not isinstance(key, bytes) or len(key) < _SHORTEST_KEY:
        raise InvalidArgument(f"{name} must be a str or bytes with at least {_SHORTEST_KEY} bytes")
    return key


_CONVERSIONS = {
    "spaces": _space_tokens,
    "runs": _run_ids,
    "since": _aware,
    "until": _aware,
    "settle_after": _age,
    "recording_hosts": _strings,
    "redact_key": _key,
}
"""How the values that a field accepts become the one that it holds."""
