"""Which addresses a recording may be fetched from. A URL comes from a server, so it may name anything.

That is https on port 443 of a public address. Whether it is public is asked of the address that is really
connected to (`is_public`), for a name says nothing about it; the rest is seen from the URL. Hosts that the
caller names are excepted from both.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from yarl import URL

from unpod_async._common import printable, shorten
from unpod_async.errors import InvalidArgument, RecordingError

__all__ = ["EXCEPT_IT", "RecordingHosts", "RecordingUrl", "is_public"]

_HTTPS_PORT: Final = 443
_SHOWN: Final = 60

EXCEPT_IT: Final = "name the host in recording_hosts= if the store is yours"

_AS_IT_IS: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[a-z0-9._:-]+")

_ALLOCATED: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# The ipaddress modules of older interpreters call these public; one holds a cloud's metadata service.
_SPECIAL: Final = ipaddress.IPv4Network("192.0.0.0/24")


class RecordingUrl:
    """A URL that passed the checks. A signed one is a secret: it shows its host and the end of its path."""

    __slots__ = ("_url", "is_named")

    def __init__(self, url: URL, *, is_named: bool) -> None:
        self._url = url
        self.is_named = is_named
        """Whether the caller named its host: private addresses are then allowed."""

    @property
    def path(self) -> str:
        return self._url.path

    def reveal(self) -> URL:
        return self._url

    def __str__(self) -> str:
        return shown(self._url)

    def __repr__(self) -> str:
        return f"RecordingUrl({str(self)!r})"


class RecordingHosts:
    """The hosts a caller excepts from the rules: "host" with any port, or "host:port".

    Raises:
        InvalidArgument: an entry is neither.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        if not _are_several(hosts):
            raise InvalidArgument(
                'recording_hosts must be several hosts, such as ["store.example", "10.0.0.7:9000"]'
            )
        self._named = frozenset(_host_and_port(host) for host in hosts)

    def __repr__(self) -> str:
        return f"RecordingHosts({sorted(self._named, key=str)})"

    def check(self, text: str) -> RecordingUrl:
        """The URL, when something may be fetched from there.

        Raises:
            RecordingError: permanent; the text shows neither query nor user info.
        """
        return self._allow(_parse(text))

    def follow(self, url: RecordingUrl, location: str) -> RecordingUrl:
        """Where a redirect leads, checked as the first URL was.

        Raises:
            RecordingError: as in `check`.
        """
        target = _parse(location) if location else None
        if target is None:
            raise RecordingError(f"{url}: the answer is a redirect to nowhere", permanent=True)
        return self._allow(url.reveal().join(target))

    def _allow(self, url: URL) -> RecordingUrl:
        host = _plain(url.raw_host or "")
        is_named = bool({(host, None), (host, url.port)} & self._named)
        if not host or url.scheme not in {"http", "https"}:
            why = "this is no https URL with a host"
        elif "@" in url.raw_authority:
            why = "a user name or password in the URL is not accepted"
        elif url.scheme != "https" and not is_named:
            why = f"http is not accepted; {EXCEPT_IT}"
        elif url.port != _HTTPS_PORT and not is_named:
            why = f"only port {_HTTPS_PORT} is accepted; {EXCEPT_IT}"
        else:
            return RecordingUrl(url, is_named=is_named)
        raise RecordingError(f"{shown(url)}: {why}", permanent=True)


def shown(url: URL) -> str:
    """Host and last part of the path, fit to be read."""
    if not url.raw_host:
        return "a URL without a host"  # what looks like a path may be anything
    head, _, tail = url.raw_path.rpartition("/")
    return f"{printable(url.raw_host)[:_SHOWN]}{'/…' if head else ''}/{printable(tail)[-_SHOWN:]}"


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, by all that is embedded in it as well.

    Tunnels (6to4, Teredo) do not count: no store is behind one, and they can lead to any address.
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


def _are_several(hosts: object) -> bool:
    return isinstance(hosts, Sequence) and not isinstance(hosts, str | bytes)


def _parse(text: str) -> URL:
    """The URL of a text, as it is where possible: to quote it anew can make its signature wrong."""
    try:
        url = URL(text, encoded=_AS_IT_IS.fullmatch(text) is not None)
        _ = url.port  # read late, and out of range for some
    except ValueError:
        pass
    else:
        return url
    # Outside the handler, or the exception would keep the text through its context.
    raise RecordingError("the URL cannot be read", permanent=True)


def _host_and_port(given: object) -> tuple[str, int | None]:
    if isinstance(given, str) and given.isprintable():  # what is not, the parser would drop
        bare = f"[{given}]" if given.count(":") > 1 and not given.startswith("[") else given
        try:
            url = URL(f"https://{bare}/")
        except ValueError:
            url = URL()
        host = _plain(url.raw_host or "")
        nothing_else = url.raw_path_qs == "/" and not url.raw_fragment and "@" not in url.raw_authority
        if _HOST.fullmatch(host) and nothing_else:
            return host, url.explicit_port
    raise InvalidArgument(
        f"recording_hosts: {shorten(ascii(given), 80)} is not a host; a name or an address is accepted, "
        'with a port if need be: "store.example", "10.0.0.7:9000", "[::1]:9000"'
    )


def _plain(host: str) -> str:
    """A host written in one way."""
    bare = host.lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare
