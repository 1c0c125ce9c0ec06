"""`_plan.json`: which plan the shards in a target belong to, and where each of them is.

A target of shards has `_plan.json` and, in `_shards/`, a target of its own for each shard, which can be
resumed and has a manifest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from unpod_async._common import path_text, replace_file, sync_folder
from unpod_async._export.manifest import MANIFEST, PLAN, WORK
from unpod_async._export.plan import ExportPlan, plan_digests
from unpod_async.errors import ExportError

__all__ = [
    "SHARDS",
    "TargetText",
    "check_mergeable",
    "claim_directory",
    "decode_claim",
    "new_claim",
    "other_files_error",
    "read_claim",
    "shard_directory",
    "shard_folder",
]

SHARDS: Final = "_shards"
"""The folder of the shards. Tools that read a directory skip names with an underscore."""


class TargetText(NamedTuple):
    """How messages name a target.

    Attributes:
        shown: Its path or its URL.
    """

    shown: str
    kind: Literal["directory", "prefix"] = "directory"


class _Claim(msgspec.Struct, frozen=True):
    """The content of `_plan.json`.

    Attributes:
        digests: The digests of the plan and of the plans that it extends; see `plan_digests`.
    """

    digests: list[str]
    version: int = 1


def shard_folder(number: int) -> str:
    """Return the name of the folder of a shard in its target."""
    return f"{SHARDS}/{number:05}"


def shard_directory(target: Path, number: int) -> Path:
    """Return the directory of a shard."""
    return target / shard_folder(number)


# -- the content --------------------------------------------------------------------------------------------


def decode_claim(content: bytes, target: TargetText) -> list[str]:
    """Return the digests in `_plan.json`.

    Raises:
        ExportError: the file was changed.
    """
    try:
        return msgspec.json.decode(content, type=_Claim).digests
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise ExportError(
        f"{target.shown}/{PLAN} is damaged or has been changed",
        hint=f"export the shards to another {target.kind}",
    )


def new_claim(stored: Sequence[str] | None, plan: ExportPlan, target: TargetText) -> bytes | None:
    """Return the content that `_plan.json` must get before a shard is exported; None to leave it as it is.

    Args:
        stored: The digests in `_plan.json`; None without the file.

    Raises:
        ExportError: the target belongs to another plan.
    """
    digests, known = plan_digests(plan), list(stored or ())
    common = min(len(known), len(digests))
    if known[:common] != digests[:common]:
        raise ExportError(
            f"{target.shown} belongs to another plan",
            hint=f"use the plan that its other shards were exported with, or another {target.kind}",
        )
    return msgspec.json.encode(_Claim(digests)) if len(digests) > len(known) else None


def check_mergeable(stored: Sequence[str] | None, plan: ExportPlan, target: TargetText) -> None:
    """Check that the shards in a target belong to a plan.

    Raises:
        ExportError: the target has no shards, or they belong to another plan or an extension of this one.
    """
    if stored is None:
        raise ExportError(
            f"{target.shown} has no shards",
            hint=f"give the {target.kind} that the shards were exported to",
        )
    known, digests = list(stored), plan_digests(plan)
    if len(known) > len(digests) and known[: len(digests)] == digests:
        raise ExportError(
            f"the shards in {target.shown} belong to an extension of this plan",
            hint="merge with the newest file of the plan",
        )
    if digests[: len(known)] != known:
        raise ExportError(
            f"the shards in {target.shown} belong to another plan",
            hint="merge with the plan that they were exported with",
        )


def other_files_error(target: TargetText, name: str) -> ExportError:
    """Return the error for a target that is not empty and has no `_plan.json`."""
    is_new = "is empty or does not exist" if target.kind == "directory" else "has no objects"
    return ExportError(
        f"{target.shown} contains {name}, but no {PLAN}",
        hint=f"export the shards to a {target.kind} that {is_new}",
    )


# -- in a directory -----------------------------------------------------------------------------------------


def claim_directory(target: Path, plan: ExportPlan) -> None:
    """Note in a directory that it belongs to a plan. Blocks.

    Raises:
        ExportError: it belongs to another plan, or contains something else.
        OSError: it cannot be written.
    """
    text = TargetText(path_text(target))
    other = _other_files(target)
    # A shard writes its files after `_plan.json`. So without the file, the files found before are others.
    stored = read_claim(target)
    if stored is None:
        if other is not None:
            raise other_files_error(text, other)
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        (target / SHARDS).mkdir(mode=0o700, exist_ok=True)
        stored = _write_first_claim(target, plan, text)
    content = new_claim(stored, plan, text)
    if content is not None:
        replace_file(target / PLAN, content)


def read_claim(target: Path) -> list[str] | None:
    """Return the digests in `_plan.json`; None without the file. Blocks.

    Raises:
        ExportError: the file was changed.
        OSError: the file cannot be read.
    """
    try:
        content = (target / PLAN).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return decode_claim(content, TargetText(path_text(target)))


def _write_first_claim(target: Path, plan: ExportPlan, text: TargetText) -> list[str]:
    """Write `_plan.json`. Return the digests in it, which are those of another worker if it was faster."""
    content = new_claim(None, plan, text) or b""
    temporary = target / f".{PLAN}-{os.getpid()}-{os.urandom(4).hex()}"
    replace_file(temporary, content)
    try:
        os.link(temporary, target / PLAN)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        temporary.replace(target / PLAN)
    temporary.unlink(missing_ok=True)
    sync_folder(target)
    return read_claim(target) or []


def _other_files(target: Path) -> str | None:
    """Return the name of a file or folder that may belong to an export; None without one.

    Raises:
        ExportError: the target is not a directory.
    """
    if target.exists() and not target.is_dir():
        raise ExportError(
            f"{path_text(target)} is not a directory",
            hint="export the shards to a directory that is empty or does not exist",
        )
    for name in (WORK, MANIFEST, SHARDS, "tasks", "runs", "recordings"):
        if (target / name).exists() and not (name == SHARDS and not any((target / name).iterdir())):
            return name
    return None
