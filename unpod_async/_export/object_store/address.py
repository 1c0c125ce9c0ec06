"""The URL of a target in an object store, and where its state is kept on this machine."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from unpod_async.errors import InvalidArgument

__all__ = ["StoreAddress", "state_directory"]

_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<rest>.*)", re.DOTALL)
_COLLAPSED_URL: Final = re.compile(r"(s3|gs|az):[/\\]", re.IGNORECASE)
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_SCHEMES: Final = ("s3", "gs", "az")
_MAX_PREFIX_BYTES: Final = 900
"""A key has up to 1,024 bytes, and the names of the files come after the prefix."""


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A target in an object store: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.

    Attributes:
        prefix: The names of all objects begin with it and a slash; "" for the whole bucket.
    """

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    def below(self, folder: str) -> Self:
        """Return the address of a folder in the target."""
        return replace(self, prefix=f"{self.prefix}/{folder}".removeprefix("/"))

    @classmethod
    def parse(cls, target: str | os.PathLike[str]) -> Self | None:
        """Return the address that a target names; None if the target is the path of a directory.

        Raises:
            InvalidArgument: The target is a URL of another kind, or has credentials, or no bucket. The
                message does not repeat the URL, because it may contain a secret.
        """
        if not isinstance(target, str):
            if _COLLAPSED_URL.match(os.fsdecode(target)):
                raise InvalidArgument(
                    "target must be a str if it is an object store: a Path joins the slashes",
                    argument="target",
                    hint="pass 's3://bucket/prefix' as it is",
                )
            return None
        url = _URL.fullmatch(target)
        if url is None:
            return None
        scheme, rest = url["scheme"].lower(), url["rest"]
        if scheme not in _SCHEMES:
            raise InvalidArgument(
                "target must be a directory, or a URL that begins with s3://, gs:// or az://",
                argument="target",
                hint="write s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
            )
        _check_secrets(rest)
        bucket, _, prefix = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise InvalidArgument(
                f"target must name a bucket: {scheme}://bucket/prefix",
                argument="target",
                hint="write the name of the bucket or container after ://",
            )
        _check_prefix(prefix)
        prefix = prefix.removesuffix("/")
        return cls(scheme, bucket, prefix)


def _check_secrets(rest: str) -> None:
    """Raise InvalidArgument for the parts of a URL in which credentials are written."""
    if "@" in rest.partition("/")[0] or "?" in rest or "#" in rest:
        raise InvalidArgument(
            "target must not contain credentials, a query or a fragment",
            argument="target",
            hint="write only the bucket and the prefix; credentials come from the environment,\n"
            "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )


def _check_prefix(prefix: str) -> None:
    names = prefix.removesuffix("/").split("/") if prefix else []
    if any(name in {"", ".", ".."} for name in names):
        raise InvalidArgument(
            "target must not have empty names, '.' or '..' in its prefix",
            argument="target",
            hint="write names that are separated by one slash",
        )
    if "\\" in prefix or any(ord(character) < 32 or ord(character) == 127 for character in prefix):
        raise InvalidArgument(
            "target must not have backslashes or control characters in its prefix", argument="target"
        )
    try:
        length = len(prefix.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("target must be valid Unicode", argument="target") from None
    if length > _MAX_PREFIX_BYTES:
        raise InvalidArgument(
            f"target must have a prefix of at most {_MAX_PREFIX_BYTES} bytes", argument="target"
        )


def state_directory(address: StoreAddress, state_dir: str | None) -> Path:
    """Return the directory on this machine that an export into an object store uses.

    Args:
        state_dir: The directory that the caller chose; None for one below the user's folder for caches.
    """
    if state_dir is not None:
        return Path(state_dir)
    digest = hashlib.sha256(str(address).encode()).hexdigest()[:24]
    return _cache_folder() / "unpod-async" / "exports" / digest


def _cache_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return Path(chosen) if chosen.startswith("/") else Path.home() / ".cache"
