"""The URLs from which recordings may be fetched. A URL comes from a server, so it can name anything.

Only https on port 443 of a public address is allowed. `is_public` checks the address of the actual
connection, because a host name can resolve to any address; everything else is checked in the URL. Hosts that
the caller names are exempt from both rules.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from yarl import URL

from unpod_async._common import printable, shorten
from unpod_async.errors import InvalidArgument, RecordingError

__all__ = ["NAME_HOST", "RecordingHosts", "RecordingUrl", "is_public"]

_HTTPS_PORT: Final = 443
_MAX_HOST: Final = 253
"""Length of the longest host name. A shortened host could not be named in `recording_hosts`."""
_MAX_SHOWN: Final = 60
"""Number of characters of a path that are shown."""

NAME_HOST: Final = "add the host to recording_hosts= if the store is yours"
"""The hint for a URL that is refused unless the caller names its host."""

_BLANKS: Final = "".join(map(chr, range(0x21)))
_SENDABLE: Final = re.compile(r"[!-~]*")
_UNSENDABLE: Final = re.compile(r"[^!-~]+")
_ORIGIN_AND_REST: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:)?(?P<authority>//[^/?#]*)?(?P<rest>.*)", re.DOTALL
)
_HOST: Final = re.compile(r"[a-z0-9._:-]+")

_ALLOCATED: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# Older versions of `ipaddress` call these addresses public; one of them is a cloud's metadata service.
_SPECIAL: Final = ipaddress.IPv4Network("192.0.0.0/24")


class RecordingUrl:
    """A URL that passed the checks.

    A signed URL is a secret, so `str` and `repr` show only its host, its port and the end of its path.

    Attributes:
        is_named: whether the caller named its host, so that private addresses are allowed.
    """

    __slots__ = ("_url", "is_named")

    def __init__(self, url: URL, *, is_named: bool) -> None:
        self._url = url
        self.is_named = is_named

    @property
    def path(self) -> str:
        """The path of the URL, decoded."""
        return self._url.path

    def error(self, problem: str, *, permanent: bool = True, hint: str | None = None) -> RecordingError:
        """Return an error that shows no more of the URL than `str`."""
        return _error(self._url, problem, permanent=permanent, hint=hint)

    def reveal(self) -> URL:
        """Return the complete URL with its signature."""
        return self._url

    def __str__(self) -> str:
        return _summary(self._url)

    def __repr__(self) -> str:
        return f"RecordingUrl({str(self)!r})"


class RecordingHosts:
    """The hosts that are exempt from the rules: "host" for any port, or "host:port".

    Raises:
        InvalidArgument: an entry is neither.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        if not _is_sequence(hosts):
            raise InvalidArgument(
                "recording_hosts must be a sequence of hosts",
                argument="recording_hosts",
                hint='for example ["store.example", "10.0.0.7:9000"]',
            )
        self._named = frozenset(_host_and_port(host) for host in hosts)

    def __repr__(self) -> str:
        return f"RecordingHosts({sorted(self._named, key=str)})"

    def check(self, text: str) -> RecordingUrl:
        """Return the URL if a recording may be fetched from it.

        Raises:
            RecordingError: permanent. The message shows neither the query nor the user name of the URL.
        """
        return self._allow(_parse(text))

    def follow(self, url: RecordingUrl, location: str) -> RecordingUrl:
        """Return the target of a redirect, checked like the first URL.

        Raises:
            RecordingError: as for `check`.
        """
        target = _parse(location) if location else None
        if target is None:
            raise url.error("the response is a redirect without a target")
        return self._allow(url.reveal().join(target))

    def _allow(self, url: URL) -> RecordingUrl:
        host = _normalise(url.raw_host or "")
        is_named = bool({(host, None), (host, url.port)} & self._named)
        hint: str | None = None
        if not host or url.scheme not in {"http", "https"}:
            problem = "this is not an https URL with a host"
        elif "@" in url.raw_authority:
            problem = "the URL must not contain a user name or password"
        elif url.scheme != "https" and not is_named:
            problem, hint = "http is not accepted", NAME_HOST
        elif url.port != _HTTPS_PORT and not is_named:
            problem, hint = f"only port {_HTTPS_PORT} is accepted", NAME_HOST
        else:
            return RecordingUrl(url, is_named=is_named)
        raise _error(url, problem, hint=hint)


def _error(url: URL, problem: str, *, permanent: bool = True, hint: str | None = None) -> RecordingError:
    return RecordingError(
        f"{_summary(url)}: {problem}", permanent=permanent, problem=f"{_origin(url)}: {problem}", hint=hint
    )


def _origin(url: URL) -> str:
    """Return the host and the port as printable text, as `RecordingHosts` accepts them."""
    if not url.raw_host:
        return "a URL without a host"
    host = printable(url.raw_host)[:_MAX_HOST]
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() else f"{host}:{url.port}"


def _summary(url: URL) -> str:
    """Return the host, the port and the last part of the path as printable text."""
    if not url.raw_host:
        return _origin(url)  # what looks like its path may be a secret
    head, _, tail = url.raw_path.rpartition("/")
    return f"{_origin(url)}{'/…' if head else ''}/{printable(tail)[-_MAX_SHOWN:]}"


def is_public(address: str) -> bool:
    """Return whether an IP address, and any address embedded in it, belongs to the public internet.

    Tunnel addresses (6to4, Teredo) do not count: no store uses one, and they can lead to any address.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip in _NAT64:  # how an IPv6-only network reaches hosts that have IPv4 only
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            return ip in _ALLOCATED and ip.is_global and ip.sixtofour is None and ip.teredo is None
    return ip.is_global and not ip.is_multicast and ip not in _SPECIAL


def _is_sequence(hosts: object) -> bool:
    return isinstance(hosts, Sequence) and not isinstance(hosts, str | bytes)


def _parse(text: str) -> URL:
    """Parse a URL without changing it: quoting it again would invalidate its signature.

    Only spaces and non-ASCII characters are percent-encoded, because a request line cannot contain them.
    """
    try:
        url = URL(_encode(text.strip(_BLANKS)), encoded=True)
        _ = url.port  # parsed on access, and out of range for some URLs
    except ValueError:
        pass
    else:
        return url
    # Raised outside the handler, or the exception would keep the URL in its context.
    raise RecordingError("the URL is not valid", permanent=True)


def _encode(text: str) -> str:
    parts = _ORIGIN_AND_REST.match(text)
    if parts is None or _SENDABLE.fullmatch(text):
        return text
    scheme, authority, rest = parts["scheme"] or "", parts["authority"] or "", parts["rest"]
    if not _SENDABLE.fullmatch(authority):  # a name with non-ASCII characters
        authority = f"//{URL(f'https:{authority}/').raw_authority}"
        if not _SENDABLE.fullmatch(authority):
            raise ValueError("the host is not valid")
    return scheme + authority + _UNSENDABLE.sub(_percent_encode, rest)


def _percent_encode(found: re.Match[str]) -> str:
    # surrogateescape, because a Location header may have bytes that are not UTF-8.
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape"))


def _host_and_port(given: object) -> tuple[str, int | None]:
    if isinstance(given, str) and given.isprintable():  # the parser drops unprintable characters
        bare = f"[{given}]" if given.count(":") > 1 and not given.startswith("[") else given
        try:
            url = URL(f"https://{bare}/")
        except ValueError:
            url = URL()
        host = _normalise(url.raw_host or "")
        nothing_else = url.raw_path_qs == "/" and not url.raw_fragment and "@" not in url.raw_authority
        if _HOST.fullmatch(host) and nothing_else:
            return host, url.explicit_port
    raise InvalidArgument(
        f"recording_hosts: {shorten(ascii(given), 80)} is not a host",
        argument="recording_hosts",
        hint='use a name or an address, with or without a port, such as\n"store.example", "10.0.0.7:9000" or '
        '"[::1]:9000"',
    )


def _normalise(host: str) -> str:
    """Return the canonical form of a host."""
    bare = host.lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare
