"""`ExportPlan`: which runs an export has, and which shard exports each of them.

A plan is a file that every machine reads. A run belongs to a shard by a digest of its id, which is the same
on every machine. Runs that are created later enter a plan when it is extended: they go to shards of their
own, so the shards that have ended stay as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Set
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from unpod_async._common import path_text, replace_file
from unpod_async._export.spec import ExportSpec
from unpod_async.errors import ExportError, InvalidArgument

if TYPE_CHECKING:
    import os

__all__ = [
    "ExportPlan",
    "PlannedRuns",
    "Shard",
    "all_shards",
    "check_plan",
    "listing_spec",
    "new_plan",
    "plan_digests",
    "redact_key_digest",
    "shard_spec",
    "with_new_runs",
]

MAX_SHARDS: Final = 10_000
"""Maximum number of shards of a plan. The names of their directories have five digits."""

_PLAN_VERSION: Final = 1
"""Increases when older versions of this package could misread a plan."""


class PlannedRuns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The runs that one listing added to a plan.

    Attributes:
        first: The first of the shards that export these runs.
        shards: Number of these shards.
        runs: Ids of runs by space, sorted.
        unreadable: Number of rows of the listings that could not be read. Their runs are not in the plan.
    """

    first: int
    shards: int
    runs: dict[str, tuple[str, ...]]
    unreadable: int = 0

    def shard_of(self, run_id: str) -> int:
        """Return the shard that exports a run."""
        digest = hashlib.blake2b(run_id.encode(), digest_size=8).digest()
        return self.first + int.from_bytes(digest, "big") % self.shards

    def by_shard(self) -> dict[int, dict[str, set[str]]]:
        """Return the ids of the runs by shard and space, also for shards and spaces without runs."""
        found: dict[int, dict[str, set[str]]] = {
            number: {space: set() for space in self.runs}
            for number in range(self.first, self.first + self.shards)
        }
        for space, ids in self.runs.items():
            for run_id in ids:
                found[self.shard_of(run_id)][space].add(run_id)
        return found


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """One shard of a plan.

    Attributes:
        number: Counts from 0.
        plan: Digest of the plan when the shard was added to it. It stays the same when the plan is extended.
        runs: Ids of the runs of the shard, by space.
    """

    number: int
    plan: str
    runs: Mapping[str, Set[str]]

    @property
    def count(self) -> int:
        """Number of runs."""
        return sum(map(len, self.runs.values()))


class ExportPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An export that is divided into shards, which can run on different machines.

    `UnpodClient.plan_export` makes one, `UnpodClient.export_shard` exports a shard, and `merge_shards` makes
    one data set of all of them. A plan contains the tokens of the spaces and the ids of the runs, no other
    secret.

    Example:
        ```python
        plan = await unpod.plan_export("SPACE", shards=4, format="parquet")
        plan.save("plan.json")

        # on each machine, with its own number:
        summary = await unpod.export_shard(ExportPlan.load("plan.json"), 0, "data")

        # when all have ended:
        summary = await merge_shards(plan, "data")
        ```

    Attributes:
        platform: Root URL of the API.
        options: The options of `ExportSpec` that decide which rows the data set has, as JSON values.
        listings: The runs of each listing: the first, and one for each extension.
        version: Version of the file format.
        digest: SHA-256 of the other fields, in hex.
    """

    platform: str
    options: dict[str, Any]
    listings: tuple[PlannedRuns, ...]
    version: int = _PLAN_VERSION
    digest: str = ""

    @property
    def shards(self) -> int:
        """Number of shards. They count from 0."""
        return sum(listing.shards for listing in self.listings)

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(len(ids) for listing in self.listings for ids in listing.runs.values())

    @property
    def spaces(self) -> tuple[str, ...]:
        """Tokens of the spaces."""
        return tuple(self.options["spaces"])

    @property
    def unreadable(self) -> int:
        """Number of rows in the listings of runs that could not be read, so their runs are in no shard."""
        return sum(listing.unreadable for listing in self.listings)

    def shard(self, number: object) -> Shard:
        """Return a shard.

        Raises:
            InvalidArgument: the plan has no shard with this number.
        """
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < self.shards:
            raise InvalidArgument(
                f"the plan has no shard {number!r}",
                argument="shard",
                hint=f"shards count from 0, so this plan has the shards 0 to {self.shards - 1}",
            )
        index, listing = next(
            (index, listing)
            for index, listing in enumerate(self.listings)
            if listing.first <= number < listing.first + listing.shards
        )
        return Shard(number=number, plan=plan_digests(self)[index], runs=listing.by_shard()[number])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file, in one step. Blocks.

        Raises:
            OSError: the file cannot be written.
        """
        replace_file(path, msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ExportPlan:
        """Read a plan from a file. Blocks.

        Raises:
            ExportError: the file is not a plan, was changed, or a newer version of this package wrote it.
            OSError: the file cannot be read.
        """
        return _decode(Path(path).read_bytes(), path_text(path))


def check_plan(plan: object) -> ExportPlan:
    """Return a plan, or raise InvalidArgument for anything else."""
    if not isinstance(plan, ExportPlan):
        raise InvalidArgument(
            f"plan must be an ExportPlan, not {type(plan).__name__}",
            argument="plan",
            hint="read a file with ExportPlan.load",
        )
    return plan


def plan_digests(plan: ExportPlan) -> list[str]:
    """Return the digests of a plan and of the plans that it extends, the first plan first."""
    return [_digest(plan, listings) for listings in range(1, len(plan.listings) + 1)]


def all_shards(plan: ExportPlan) -> list[Shard]:
    """Return the shards in the order of their numbers."""
    return [
        Shard(number=number, plan=digest, runs=runs)
        for listing, digest in zip(plan.listings, plan_digests(plan), strict=True)
        for number, runs in listing.by_shard().items()
    ]


def listing_spec(plan: ExportPlan) -> ExportSpec:
    """Return the options that decide which runs an extension of the plan has."""
    names = ("spaces", "runs", "since", "until")
    return ExportSpec(**{name: _planned_fields(plan.options)[name] for name in names})


def shard_spec(plan: ExportPlan, options: Mapping[str, Any]) -> ExportSpec:
    """Return the options of the export of a shard.

    Args:
        options: Fields of `ExportSpec` that the plan does not decide, such as `concurrency`.

    Raises:
        InvalidArgument: a value is not accepted, or the plan decides the option.
    """
    planned = _planned_fields(plan.options)
    for name in options:
        if name in plan.options and name != "redact_key":
            raise InvalidArgument(
                f"{name} is decided by the plan", argument=name, hint="leave it out, or make another plan"
            )
    fields: dict[str, Any] = {**planned, "runs": None, **options}
    spec = ExportSpec(**fields)
    if plan.options["redact"] == "hash" and redact_key_digest(spec) != plan.options["redact_key"]:
        what = "is missing" if spec.redact_key is None else "is not the key of the plan"
        raise InvalidArgument(
            f"redact_key {what}",
            argument="redact_key",
            hint="give every shard the key that the plan was made with: all hashes must use the same key",
        )
    return spec


class _AnyVersion(msgspec.Struct):
    """What the plans of all versions have in common."""

    version: int


def _decode(content: bytes, shown: str) -> ExportPlan:
    try:
        if msgspec.json.decode(content, type=_AnyVersion).version > _PLAN_VERSION:
            raise ExportError(f"a newer version of unpod-async made {shown}", hint="upgrade unpod-async")
        plan = msgspec.json.decode(content, type=ExportPlan)
        if plan.listings and plan.digest == plan_digests(plan)[-1]:
            return plan
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        pass  # the message may quote the content
    raise ExportError(
        f"{shown} is not a plan, or has been changed",
        hint="make it with `unpod-async plan`, and give every machine the same file",
    )


def _digest(plan: ExportPlan, listings: int) -> str:
    """Return the digest of a plan as it was after its first `listings` listings."""
    content = (plan.version, plan.platform, plan.options, plan.listings[:listings])
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


def _finished(plan: ExportPlan) -> ExportPlan:
    return msgspec.structs.replace(plan, digest=_digest(plan, len(plan.listings)))


def _planned_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an `ExportSpec` for the options of a plan."""
    values = {name: value for name, value in options.items() if name not in {"platform", "redact_key"}}
    for name in ("since", "until"):
        if values.get(name) is not None:
            values[name] = msgspec.convert(values[name], datetime)
    return values


def redact_key_digest(spec: ExportSpec) -> str | None:
    """Return the digest of the key of the hashes, as plans store it; None without a key."""
    digest: str | None = spec.dataset_options("").get("redact_key")
    return digest


def new_plan(
    spec: ExportSpec, platform: str, shards: int, runs: Mapping[str, Iterable[str]], unreadable: int
) -> ExportPlan:
    """Return the plan of an export.

    Args:
        platform: Root URL of the API.
        runs: Ids of the selected runs, by space.
        unreadable: Number of rows of the listings that could not be read.

    Raises:
        InvalidArgument: the options do not suit a plan.
    """
    if spec.redact == "hash" and spec.redact_key is None:
        raise InvalidArgument(
            "redact_key is missing",
            argument="redact_key",
            hint="all shards must use the same key: give it here and to every shard",
        )
    options = spec.dataset_options(platform)
    del options["platform"]
    listing = PlannedRuns(first=0, shards=shards, runs=_sorted(runs), unreadable=unreadable)
    return _finished(ExportPlan(platform=platform, options=options, listings=(listing,)))


def with_new_runs(
    plan: ExportPlan, shards: int, runs: Mapping[str, Iterable[str]], unreadable: int
) -> ExportPlan:
    """Return a plan that also has the runs that are new in another listing; the same plan if there are none.

    Args:
        shards: Maximum number of new shards.
    """
    known = {space: set[str]() for space in runs}
    for listing in plan.listings:
        for space, ids in listing.runs.items():
            known.setdefault(space, set()).update(ids)
    new = {space: set(ids) - known[space] for space, ids in runs.items()}
    count = sum(map(len, new.values()))
    if not count:
        return plan
    listing = PlannedRuns(
        first=plan.shards, shards=min(shards, count), runs=_sorted(new), unreadable=unreadable
    )
    if plan.shards + listing.shards > MAX_SHARDS:
        raise InvalidArgument(
            f"the plan would have more than {MAX_SHARDS:,} shards",
            argument="shards",
            hint="make a new plan and export it to another directory",
        )
    return _finished(msgspec.structs.replace(plan, listings=(*plan.listings, listing)))


def _sorted(runs: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {space: tuple(sorted(set(ids))) for space, ids in runs.items()}
