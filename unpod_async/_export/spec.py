"""What an export was asked, checked: which rows in which form, and how to go about it.

What decides the rows and the form of the files is kept with the target; asked otherwise, it is refused.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, cast

import msgspec

from unpod_async._http import TimeWindow, check_id
from unpod_async._paging import several
from unpod_async.errors import InvalidArgument
from unpod_async.models import Run

__all__ = ["Asked", "ExportFormat", "Options", "Redaction", "asked_of", "options_of"]

ExportFormat: TypeAlias = Literal["jsonl", "jsonl.gz", "csv", "parquet"]
Redaction: TypeAlias = Literal["drop", "hash"]

_FORMATS: tuple[ExportFormat, ...] = ("jsonl", "jsonl.gz", "csv", "parquet")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The question that a target answers; its fields are what the manifest tells of it.

    Attributes:
        platform: root of the API.
        spaces: tokens of the spaces, in the order they were given.
        runs: ids of the runs, sorted; None is every run.
        since, until: bounds of a run's `created`, ISO 8601, both inclusive; None leaves a side open.
        redact_key: digest of the key that was given for hashes; None where none was.
    """

    platform: str
    spaces: tuple[str, ...]
    runs: tuple[str, ...] | None
    since: datetime | None
    until: datetime | None
    format: ExportFormat
    user_token: Literal["null", "keep"]
    csv_safe: bool
    redact: Redaction | None
    redact_key: str | None
    recordings: bool

    @property
    def window(self) -> TimeWindow | None:
        if self.since is None and self.until is None:
            return None
        return TimeWindow(self.since, self.until)

    @property
    def wants_all_runs(self) -> bool:
        return self.runs is None and self.window is None

    @property
    def keeps_user_token(self) -> bool:
        return self.user_token == "keep"  # noqa: S105 - a choice, no password

    def differences(self, other: Asked) -> list[str]:
        """Names of what is asked otherwise."""
        return [name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True, slots=True)
class Options:
    """How an export goes about it; may change from one run to the next.

    Attributes:
        settle_after: seconds; a run that has ended and is older is not asked for again.
        page_size: rows per page of every listing, or None for a size that suits each.
        redact_key: the key for hashes; None is one of the target's own.
        part_bytes: size of a part, in bytes of the rows as JSON.
    """

    full: bool
    settle_after: float
    concurrency: int
    page_size: int | None
    redact_key: bytes | None
    recording_hosts: tuple[str, ...]
    part_bytes: int
    on_progress: Callable[[Any], object] | None


def asked_of(
    platform: str,
    space_token: str | Iterable[str],
    *,
    form: object,
    runs: Iterable[str | Run] | None,
    since: datetime | None,
    until: datetime | None,
    user_token: object,
    csv_safe: object,
    redact: object,
    redact_key: bytes | None,
    recordings: object,
) -> Asked:
    """The question, checked.

    Raises:
        InvalidArgument: an argument is not accepted.
    """
    spaces = tuple(dict.fromkeys(check_id("space_token", one) for one in several("space_token", space_token)))
    if not spaces:
        raise InvalidArgument("space_token must be the token of a space, or several of them")
    if user_token not in ("null", "keep"):
        raise InvalidArgument("user_token must be 'null' or 'keep'")
    if redact not in (None, "drop", "hash"):
        raise InvalidArgument("redact must be 'drop', 'hash' or None")
    if redact_key is not None and redact != "hash":
        raise InvalidArgument("redact_key goes with redact='hash'")
    for name, flag in (("csv_safe", csv_safe), ("recordings", recordings)):
        if not isinstance(flag, bool):
            raise InvalidArgument(f"{name} must be True or False")
    TimeWindow(since, until)
    wanted = None if runs is None else _run_ids(runs)
    if wanted is not None and len(spaces) > 1:
        raise InvalidArgument("runs can be chosen in one space only: export each space on its own")
    return Asked(
        platform=platform,
        spaces=spaces,
        runs=wanted,
        since=since,
        until=until,
        format=_format(form),
        user_token=user_token,
        csv_safe=bool(csv_safe),
        redact=redact,
        redact_key=None if redact_key is None else hashlib.sha256(redact_key).hexdigest()[:16],
        recordings=bool(recordings),
    )


def options_of(
    *,
    full: object,
    settle_after: object,
    concurrency: object,
    page_size: int | None,
    redact_key: str | bytes | None,
    recording_hosts: Sequence[str],
    part_bytes: object,
    on_progress: Callable[[Any], object] | None,
) -> Options:
    """The options, checked.

    Raises:
        InvalidArgument: an argument is not accepted.
    """
    seconds = settle_after.total_seconds() if isinstance(settle_after, timedelta) else settle_after
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise InvalidArgument("settle_after must be a timedelta, or seconds, 0 or more")
    if not isinstance(full, bool):
        raise InvalidArgument("full must be True or False")
    if on_progress is not None and not callable(on_progress):
        raise InvalidArgument("on_progress must be a function that takes an ExportProgress")
    return Options(
        full=full,
        settle_after=float(seconds),
        concurrency=_whole("concurrency", concurrency, 1024),
        page_size=None if page_size is None else _whole("page_size", page_size, 2**31 - 1),
        redact_key=key_of(redact_key),
        recording_hosts=tuple(several("recording_hosts", recording_hosts)),
        part_bytes=_whole("part_bytes", part_bytes, 2**40),
        on_progress=on_progress,
    )


def key_of(redact_key: object) -> bytes | None:
    """A key for hashes as bytes; 8 of them at least, for what is short is guessed."""
    if redact_key is None:
        return None
    key = redact_key.encode() if isinstance(redact_key, str) else redact_key
    if not isinstance(key, bytes) or len(key) < 8:
        raise InvalidArgument("redact_key must be text or bytes, 8 bytes or more; keep it secret")
    return key


def new_key() -> bytes:
    """A key for a target's own hashes."""
    return secrets.token_bytes(32)


def _format(value: object) -> ExportFormat:
    for one in _FORMATS:
        if value == one:
            return one
    raise InvalidArgument(f"format must be one of {', '.join(_FORMATS)}")


def _run_ids(runs: object) -> tuple[str, ...]:
    if isinstance(runs, str) or not isinstance(runs, Iterable):
        raise InvalidArgument("runs must be several run ids")
    several_runs = cast("Iterable[object]", runs)
    ids = {check_id("run_id", run.run_id if isinstance(run, Run) else run) for run in several_runs}
    if not ids:
        raise InvalidArgument("runs holds no run id; None is every run")
    return tuple(sorted(ids))


def _whole(name: str, value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidArgument(f"{name} must be a whole number from 1 to {most}")
    return value
