"""What went wrong below HTTP, in our words: of a fault its class, of its text only what the system said."""

from __future__ import annotations

import aiohttp

from unpod_async.errors import TransportError

__all__ = ["ConnectionLost", "explain", "spoke_otherwise"]

_NEVER_LEFT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


class ConnectionLost(aiohttp.ClientError):
    """A lost connection as a class that aiohttp does not answer by sending the request once more."""


def spoke_otherwise(fault: Exception) -> bool:
    """Whether a server that expects TLS may be what made this of a plain request."""
    lost = isinstance(fault, aiohttp.ClientOSError) and not isinstance(fault, aiohttp.ClientConnectorError)
    return lost or isinstance(
        fault, ConnectionLost | aiohttp.ServerDisconnectedError | aiohttp.ClientResponseError
    )


def explain(method: str, path: str, fault: Exception, *, sent: bool | None) -> TransportError:
    """The error to raise; `sent` is None where only the fault can tell."""
    if sent is None:
        sent = not isinstance(fault, _NEVER_LEFT)
    name = str(fault) if isinstance(fault, ConnectionLost) else type(fault).__name__
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        reason = getattr(fault.certificate_error, "verify_message", "") or "not trusted"
        what = f"the certificate of {fault.host} is refused: {reason}; check base_url and the CAs"
    elif isinstance(fault, aiohttp.ClientConnectorDNSError):
        what = "the host name cannot be resolved; check base_url and the network"
    elif isinstance(fault, aiohttp.ClientConnectorError):
        what = f"no connection: {fault.os_error.strerror or 'refused'}; check base_url and the network"
    elif isinstance(fault, TimeoutError):
        what = "no connection in time" if not sent else "no answer in time"
    elif isinstance(fault, aiohttp.ClientPayloadError):
        what = "the answer was cut short or damaged"
    elif isinstance(fault, aiohttp.ClientHttpProxyError):
        what = f"the proxy does not let it through: it answered {fault.status}; check proxy="
    elif isinstance(fault, aiohttp.ClientResponseError):
        what = "the answer is not valid HTTP"
    else:
        what = "the connection was lost before an answer"
    left = "" if sent else "; nothing was sent"
    return TransportError(
        f"{method} /{path}: {what} ({name}){left}",
        sent=sent,
        timed_out=isinstance(fault, TimeoutError),
        permanent=isinstance(fault, aiohttp.ClientConnectorCertificateError | aiohttp.InvalidURL),
    )
