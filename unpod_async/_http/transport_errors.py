"""Errors of aiohttp, described in the words of this package.

An error of aiohttp may contain the headers of the request, and so the token. Only its class is used, and
texts that come from the operating system or the TLS library.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import aiohttp

from unpod_async.errors import TransportError

__all__ = ["ConnectionLost", "FaultDescription", "describe_fault", "send_once", "to_transport_error"]

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


class ConnectionLost(aiohttp.ClientError):
    """A lost connection, as a class after which aiohttp does not send the request again."""


class FaultDescription(NamedTuple):
    """What happened, and whether another attempt cannot help."""

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


def describe_fault(fault: Exception, *, connecting: bool = False) -> FaultDescription:
    """Describe an error of aiohttp.

    Args:
        connecting: the error certainly occurred before the request was sent.
    """
    name, permanent = type(fault).__name__, False
    if isinstance(fault, ConnectionLost):
        name = str(fault)
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        reason = getattr(fault.certificate_error, "verify_message", "") or "not trusted"
        text, permanent = f"the certificate of {fault.host} is refused: {reason}", True
    elif isinstance(fault, aiohttp.ClientConnectorDNSError):
        text = "the host name cannot be resolved"
    elif isinstance(fault, aiohttp.ClientConnectorError):
        text = f"no connection: {fault.os_error.strerror or 'refused'}"
    elif isinstance(fault, TimeoutError):
        text = "no connection in time" if connecting else "no response in time"
    elif isinstance(fault, aiohttp.ClientPayloadError):
        text = "the response was cut short or damaged"
    elif isinstance(fault, aiohttp.ClientHttpProxyError):
        text = f"the proxy answered {fault.status}"
    elif isinstance(fault, aiohttp.InvalidURL):
        text, permanent = "the URL is not valid", True
    elif isinstance(fault, aiohttp.ClientResponseError):
        text = "the response is not valid HTTP"
    else:
        text = "the connection was lost before a response"
    return FaultDescription(f"{text} ({name})", permanent)


def to_transport_error(
    method: str, path: str, fault: Exception, *, plain_http: bool, sent: bool | None = None
) -> TransportError:
    """Return the error to raise for an error of aiohttp.

    Args:
        plain_http: whether base_url is an http:// URL, for the hint.
        sent: whether the request may have left this machine; None to decide by the class of the error.
    """
    if sent is None:
        sent = not isinstance(fault, _NEVER_SENT)
    text, permanent = describe_fault(fault, connecting=not sent)
    return TransportError(
        f"{method} /{path}: {text}" + ("" if sent else "; nothing was sent"),
        sent=sent,
        timed_out=isinstance(fault, TimeoutError),
        permanent=permanent,
        hint=_hint(fault, plain_http=plain_http),
    )


def _hint(fault: Exception, *, plain_http: bool) -> str | None:
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        return "check base_url, and pass a private certificate authority with ssl_context="
    if isinstance(fault, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return "check base_url and the network"
    if isinstance(fault, aiohttp.ClientHttpProxyError):
        return "check proxy="
    if plain_http and isinstance(fault, (ConnectionLost, *_WRONG_PROTOCOL)):
        return "if the server expects https, use https:// in base_url"
    return None
