"""Errors of aiohttp, described in the words of this package.

An error of aiohttp may contain the headers of the request, and so the token. Only its class is used, and
texts that come from the operating system or the TLS library.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong
from yarl import URL

from unpod_async._common import shorten
from unpod_async._http.responses import PROXY_LOGIN, PROXY_LOGIN_HINT
from unpod_async._http.settings import is_loopback
from unpod_async.errors import TransportError

__all__ = [
    "MOCK_HINT",
    "ConnectionLost",
    "FaultDescription",
    "HeadTooLong",
    "InvalidHead",
    "MockFailed",
    "UndecodableBody",
    "describe_fault",
    "name_fault",
    "send_once",
    "to_transport_error",
]

_WRONG_PROTOCOL: Final = (
    aiohttp.ClientOSError,
    aiohttp.ClientResponseError,
    aiohttp.ServerDisconnectedError,
)
"""Errors of a plain HTTP request to a server that expects TLS."""

_NEVER_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)


_NOT_TLS: Final = frozenset({
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",  # OpenSSL 3.2 and newer
    "PACKET_LENGTH_TOO_LONG",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
})
"""OpenSSL's reasons for bytes that are not TLS."""

_INSTALL: Final = {"br": "Brotli", "zstd": "backports.zstd"}
"""The package with which aiohttp decodes a Content-Encoding."""

_TOO_MANY_HEADERS: Final = "Too many headers"


MOCK_HINT: Final = "check the mock or the recording, or use unpod_async.testing.Sandbox in tests"
"""The hint for an exception of code that replaces aiohttp."""


class ConnectionLost(aiohttp.ClientError):
    """A lost connection, as a class after which aiohttp does not send the request again."""


class HeadTooLong(aiohttp.ClientError):
    """A response with too long or too many headers. The message names the header."""


class InvalidHead(aiohttp.ClientError):
    """A response whose headers contradict each other. The message says how."""


class UndecodableBody(aiohttp.ClientError):
    """A response whose body is compressed with an unknown method. The message is its Content-Encoding."""


class MockFailed(aiohttp.ClientError):
    """An exception of a mock, a recorder or another library that replaces aiohttp. The message names it."""


def name_fault(fault: Exception) -> str:
    """Return the class name of an exception from outside aiohttp; for a wrong type, with its message."""
    name = type(fault).__name__
    return f"{name}: {shorten(str(fault))}" if isinstance(fault, AttributeError | TypeError) else name


class FaultDescription(NamedTuple):
    """The description of an error, and whether the error is permanent."""

    text: str
    permanent: bool = False


async def send_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Middleware that keeps aiohttp from sending a GET again when the connection is lost."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as lost:
        if isinstance(lost, aiohttp.ClientConnectorError):
            raise
        name = type(lost).__name__
    raise ConnectionLost(name)


_CUT_SHORT: Final = FaultDescription("the response was cut short or damaged")


def describe_fault(fault: Exception, *, connecting: bool = False, of_proxy: bool = False) -> FaultDescription:
    """Describe an error of aiohttp.

    Args:
        connecting: the error certainly occurred before the request was sent.
        of_proxy: the error concerns the connection to the proxy.
    """
    name = str(fault) if isinstance(fault, ConnectionLost | MockFailed) else type(fault).__name__
    text, permanent = _describe(fault, connecting=connecting, of_proxy=of_proxy)
    # The text about a refused connection says all that the class name would.
    says_all = name in {"ClientConnectorError", "ClientProxyConnectionError"}
    return FaultDescription(text if says_all else f"{text} ({name})", permanent)


def _describe(fault: Exception, *, connecting: bool, of_proxy: bool) -> FaultDescription:
    if isinstance(fault, aiohttp.ClientConnectorError):
        return _describe_no_connection(fault, "the proxy " if of_proxy else "")
    if isinstance(fault, TimeoutError):
        return FaultDescription("no connection in time" if connecting else "no response in time")
    if isinstance(fault, aiohttp.ClientPayloadError):
        return _CUT_SHORT
    if isinstance(fault, aiohttp.ClientHttpProxyError):
        return FaultDescription(f"the proxy answered {fault.status}", fault.status == PROXY_LOGIN)
    if isinstance(fault, aiohttp.InvalidURL):
        return FaultDescription("the URL is not valid", permanent=True)
    if isinstance(fault, MockFailed):
        return FaultDescription(
            "a mock, a recorder or another library that replaces aiohttp failed", permanent=True
        )
    if isinstance(fault, HeadTooLong):
        return FaultDescription(str(fault), permanent=True)
    if isinstance(fault, InvalidHead):
        return FaultDescription(f"the response is not valid HTTP: {fault}")
    if (coding := _undecodable_coding(fault)) is not None:
        return FaultDescription(
            f"the response has the Content-Encoding {coding}, which cannot be decoded here", permanent=True
        )
    if isinstance(fault, aiohttp.ClientResponseError):
        return _describe_unreadable(fault)
    return FaultDescription("the connection was lost before a response")


def _describe_no_connection(fault: aiohttp.ClientConnectorError, kind: str) -> FaultDescription:
    """Describe why there is no connection to a host. `kind` is put in front of the host."""
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        reason = getattr(fault.certificate_error, "verify_message", "") or "not trusted"
        return FaultDescription(f"the certificate of {kind}{fault.host} is refused: {reason}", permanent=True)
    if isinstance(fault, aiohttp.ClientConnectorDNSError):
        owner = " of the proxy" if kind else ""
        return FaultDescription(f"the host name {fault.host}{owner} cannot be resolved")
    if speaks_no_tls(fault):
        return FaultDescription(
            f"port {fault.port} of {kind}{fault.host} does not use TLS, so https:// does not work",
            permanent=True,
        )
    host = f"[{fault.host}]" if ":" in fault.host else fault.host
    return FaultDescription(f"no connection to {kind}{host}:{fault.port} ({_reason(fault.os_error)})")


def _reason(error: OSError) -> str:
    """Return why there is no connection. The text of an error of asyncio repeats the address instead."""
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ssl.SSLError) or error.errno is None:
        return error.strerror or "refused"
    return os.strerror(error.errno)


def speaks_no_tls(fault: Exception) -> bool:
    """Return whether a server answered a TLS handshake with something other than TLS."""
    # No check of the class is needed: only errors of the ssl module have one of these reasons.
    return getattr(getattr(fault, "os_error", None), "reason", None) in _NOT_TLS


def _describe_unreadable(fault: aiohttp.ClientResponseError) -> FaultDescription:
    """Describe a response that aiohttp could not parse. Its own message quotes the response."""
    cause = fault.__cause__
    if isinstance(cause and cause.__cause__, LineTooLong):
        return FaultDescription("a header of the response is longer than the session accepts", permanent=True)
    if isinstance(cause and cause.__cause__, ContentEncodingError):
        # aiohttp checks the end of a body with `deflate`, which may arrive with the head.
        return _CUT_SHORT
    if _TOO_MANY_HEADERS in fault.message:
        return FaultDescription("the response has more headers than the session accepts", permanent=True)
    return FaultDescription("the response is not valid HTTP")


def _undecodable_coding(fault: Exception) -> str | None:
    """Return the Content-Encoding of a response that cannot be decoded; None for another error."""
    if isinstance(fault, UndecodableBody):
        return str(fault)
    cause = fault.__cause__ and fault.__cause__.__cause__
    if not isinstance(cause, ContentEncodingError):
        return None
    return next((coding for coding in _INSTALL if f"({coding})" in cause.message), None)


def to_transport_error(
    method: str, path: str, fault: Exception, *, root: URL, proxied: bool = False, sent: bool | None = None
) -> TransportError:
    """Return the error to raise for an error of aiohttp.

    Args:
        root: base URL of the API, for the hint.
        proxied: whether requests are sent through a proxy.
        sent: whether the request may have left this machine; None to decide by the class of the error.
    """
    if sent is None:
        sent = not isinstance(fault, _NEVER_SENT)
    of_proxy = proxied and _is_of_proxy(fault, root)
    text, permanent = describe_fault(fault, connecting=not sent, of_proxy=of_proxy)
    return TransportError(
        f"{method} /{path}: {text}" + ("" if sent else "; nothing was sent"),
        sent=sent,
        timed_out=isinstance(fault, TimeoutError),
        permanent=permanent,
        hint=_proxy_hint(fault) if of_proxy else _hint(fault, permanent, root=root, proxied=proxied),
    )


def _hint(fault: Exception, permanent: bool, *, root: URL, proxied: bool) -> str | None:
    if isinstance(fault, MockFailed):
        return MOCK_HINT
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        return "check base_url, and pass a private certificate authority with ssl_context="
    if speaks_no_tls(fault):
        return "check the port in base_url; without TLS, use http:// and allow_http=True"
    if isinstance(fault, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        if proxied:
            return "check base_url, proxy= and the network"
        ignored = ignored_proxy_variable(os.environ)
        if ignored is not None and not is_loopback(root.host or ""):
            return f"{ignored} is set but not read; if the network needs it, pass proxy= or\nset UNPOD_PROXY"
        return "check base_url and the network"
    if (coding := _undecodable_coding(fault)) is not None:
        package = f"install {_INSTALL[coding]}, or " if coding in _INSTALL else ""
        return f"{package}have the server or proxy follow Accept-Encoding"
    if isinstance(fault, HeadTooLong | aiohttp.ClientResponseError) and permanent:
        return (
            "shorten the headers of the server or its proxy, or pass a session= with\n"
            "larger max_line_size=, max_field_size= and max_headers="
        )
    if root.scheme == "http" and isinstance(fault, (ConnectionLost, *_WRONG_PROTOCOL)):
        return "if the server expects https, use https:// in base_url"
    return None


def _proxy_hint(fault: Exception) -> str:
    """Return the hint for an error that concerns the connection to the proxy."""
    if isinstance(fault, aiohttp.ClientHttpProxyError) and fault.status == PROXY_LOGIN:
        return PROXY_LOGIN_HINT
    if speaks_no_tls(fault):
        return "write http:// in proxy= or UNPOD_PROXY"
    return "check proxy= or UNPOD_PROXY, and that the proxy runs"


def ignored_proxy_variable(environ: Mapping[str, str]) -> str | None:
    """Return the first variable that names a proxy for other programs, or None. This package ignores it."""
    names = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    return next((name for name in names if environ.get(name, "").strip()), None)


def _is_of_proxy(fault: Exception, root: URL) -> bool:
    """Return whether an error concerns the connection to the proxy, not the one to the server."""
    if isinstance(fault, aiohttp.ClientHttpProxyError | aiohttp.ClientProxyConnectionError):
        return True
    return isinstance(fault, aiohttp.ClientConnectorError) and (fault.host, fault.port) != (
        root.host,
        root.port,
    )
