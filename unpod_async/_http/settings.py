"""The settings of a client: from arguments, then environment variables, then defaults.

No I/O: the environment is passed in as a mapping. No error message contains the token.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from unpod_async._common import shorten
from unpod_async._http.extra_headers import ExtraHeaders, merge_headers
from unpod_async._http.retry import RetryPolicy
from unpod_async._http.secret import Secret
from unpod_async._http.validate import check_bool, check_integer, check_seconds, check_str
from unpod_async.errors import ConfigurationError

__all__ = [
    "DEFAULT_BASE_URL",
    "PLATFORM_PATH",
    "RequestOptions",
    "Settings",
    "is_loopback",
    "renewed_token",
    "request_options",
    "resolve",
    "resolve_proxy",
]

DEFAULT_BASE_URL: Final = "https://unpod.ai"
PLATFORM_PATH: Final = "/api/v2/platform/"

_TOKEN_VARIABLES: Final = ("UNPOD_PLATFORM_TOKEN",)
_ORG_VARIABLES: Final = ("UNPOD_ORG_HANDLE",)
_PRODUCT_VARIABLES: Final = ("UNPOD_PRODUCT_ID",)
_PROXY_VARIABLES: Final = ("UNPOD_PROXY",)
_URL_VARIABLES: Final = ("UNPOD_PLATFORM_BASE_URL", "UNPOD_BASE_URL")

# Allowed in a header value: aiohttp refuses line breaks but sends everything else unchanged.
_HEADER_TEXT: Final = re.compile(r"[\x21-\x7e]+")
# A product of a User-Agent: a name, and optionally a version.
_APP_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}(?:/[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64})?")
_SCHEME_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_WITH_SCHEME: Final = re.compile(
    r"(authorization\s*:\s*)?(token|bearer|jwt|basic|digest|api-?key)(\s.*)?", re.IGNORECASE | re.DOTALL
)
# A line of a .env file or of a shell. Base64 has "=" only at its end.
_ASSIGNMENT: Final = re.compile(
    r"(?:export\s+|set\s+|\$env:)?[A-Z_][A-Z0-9_]*\s*=\s*[^=\s].*", re.IGNORECASE | re.DOTALL
)
_QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"
_BYTE_ORDER_MARK: Final = "\ufeff"
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# A last label that inet_aton reads as a number: "127.1" and "0x7f000001" are loopback addresses.
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)")
# No percent-encoding: some servers treat "%2e%2e" as a dot segment, others do not.
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a client, without the token, so they can be shown and pickled.

    Attributes:
        base_url: the platform root; it ends with "/api/v2/platform/".
        org_handle: value of the Org-Handle header, or None.
        auth_scheme: first word of the Authorization header.
        page_size: rows requested per page.
        max_concurrency: maximum number of requests in flight.
        allow_http: whether the token may be sent unencrypted to other machines.
        product_id: value of the Product-Id header of call logs, or None.
        app_name: name of the application in the User-Agent header, or None.
    """

    base_url: str
    org_handle: str | None
    auth_scheme: str
    page_size: int
    max_concurrency: int
    allow_http: bool
    product_id: str | None = None
    app_name: str | None = None


def resolve(
    *,
    token: str | None = None,
    org_handle: str | None = None,
    base_url: str | None = None,
    auth_scheme: str = "Token",
    page_size: int = 100,
    max_concurrency: int = 8,
    allow_http: bool = False,
    product_id: str | None = None,
    app_name: str | None = None,
    environ: Mapping[str, str],
) -> tuple[Settings, Secret]:
    """Return settings and token from arguments, `environ` and defaults, in this order.

    The variables are UNPOD_PLATFORM_TOKEN, UNPOD_ORG_HANDLE, UNPOD_PRODUCT_ID, and UNPOD_PLATFORM_BASE_URL
    before UNPOD_BASE_URL. An empty value counts as unset. The default base URL is https://unpod.ai.

    Raises:
        ConfigurationError: an argument or variable is missing, of the wrong type, or cannot work.
    """
    secret = _token(token, environ)
    try:
        scheme = check_str("auth_scheme", auth_scheme, error=ConfigurationError)
        if _SCHEME_NAME.fullmatch(scheme) is None:
            raise ConfigurationError(
                "auth_scheme must be one word of letters, digits and '-', such as 'Token'",
                argument="auth_scheme",
            )
        http = check_bool("allow_http", allow_http, error=ConfigurationError)
        settings = Settings(
            base_url=_base_url(base_url, environ, allow_http=http),
            org_handle=_header_value(
                "org_handle", org_handle, _ORG_VARIABLES, environ, "pass the domain handle of an organization"
            ),
            auth_scheme=scheme,
            page_size=check_integer("page_size", page_size, error=ConfigurationError),
            max_concurrency=check_integer("max_concurrency", max_concurrency, error=ConfigurationError),
            allow_http=http,
            product_id=_header_value(
                "product_id", product_id, _PRODUCT_VARIABLES, environ, "pass the id of a product"
            ),
            app_name=None if app_name is None else _app_name(app_name),
        )
    except ConfigurationError as error:
        # If arguments were swapped, the part of a URL that is shown may be the token.
        hint = None if error.hint is None else secret.redact(error.hint)
        raise ConfigurationError(secret.redact(error.summary), argument=error.argument, hint=hint) from None
    return settings, secret


def resolve_proxy(argument: object, environ: Mapping[str, str]) -> Secret | None:
    """Return the URL of the proxy from an argument or UNPOD_PROXY, or None. It may contain a password.

    Raises:
        ConfigurationError: it is not a URL that starts with http:// or https://. The message does not show
            it.
    """
    found = _first("proxy", argument, _PROXY_VARIABLES, environ)
    if found is None:
        return None
    value = found.unwrap()
    scheme, separator, rest = value.partition("://")
    if not separator or scheme.lower() not in {"http", "https"} or _HEADER_TEXT.fullmatch(value) is None:
        raise found.error(
            "must be a URL that starts with http:// or https://", hint="write it as http://host:port"
        )
    address = rest.partition("/")[0].rpartition("@")[2]
    try:
        _authority(address)
    except _UrlProblem as problem:
        error = found.error(
            str(problem),
            hint="write it as http://host:port or http://user:password@host:port;\n"
            "in the user name and password, write / as %2F, : as %3A and @ as %40",
        )
    else:
        return Secret(value)
    raise error


class RequestOptions(NamedTuple):
    """How requests are sent: see `UnpodClient.with_options`."""

    retry: RetryPolicy | None
    timeout: float
    deadline: float | None
    headers: ExtraHeaders | None = None

    def with_headers(self, given: Mapping[str, str] | None) -> RequestOptions:
        """Return the options with more headers, which take precedence over those that it has.

        Raises:
            InvalidArgument: a header is not accepted.
        """
        try:
            return self._replace(headers=merge_headers(given, self.headers))
        finally:
            given = None  # tracebacks show the variables of this frame


def request_options(
    retry: object, timeout: object, deadline: object, headers: ExtraHeaders | None = None
) -> RequestOptions:
    """Return the checked options. The headers were checked before.

    Raises:
        ConfigurationError: a value is not accepted.
    """
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise ConfigurationError(
            f"retry must be a RetryPolicy or None, not {type(retry).__name__}",
            argument="retry",
            hint="pass a RetryPolicy, or retry=None to send each request once",
        )
    seconds = check_seconds("timeout", timeout, error=ConfigurationError)
    end = None if deadline is None else check_seconds("deadline", deadline, error=ConfigurationError)
    return RequestOptions(retry, seconds, end, headers)


def _token(argument: object, environ: Mapping[str, str]) -> Secret:
    found = _first("token", argument, _TOKEN_VARIABLES, environ)
    if found is None:
        raise ConfigurationError(
            "no token", hint=f"pass token=, or set the environment variable {_TOKEN_VARIABLES[0]}"
        )
    return _secret(found)


def renewed_token(value: object) -> Secret:
    """Return the token that a `token_provider` returned, by the rules for `token=`.

    Raises:
        ConfigurationError: it is not accepted.
    """
    source = "the result of token_provider"
    return _secret(_Setting(source, check_str(source, value, error=ConfigurationError)))


def _secret(found: _Setting) -> Secret:
    value = found.unwrap()
    if any(quote in value for quote in _QUOTES):
        raise found.error("must not contain a quote", hint="pass the key alone, without quotes")
    if _WITH_SCHEME.fullmatch(value):
        raise found.error(
            "must not include the scheme",
            hint="pass the key alone, and the scheme with auth_scheme=",
        )
    if not value:
        raise found.error("is empty")
    if "\0" in value:
        raise found.error("contains NUL characters", hint="decode it as UTF-16, or save it as UTF-8")
    if _HEADER_TEXT.fullmatch(value) is None:
        raise found.error(
            "contains a space, a line break or a character outside ASCII",
            hint="pass the key alone; its scheme belongs to auth_scheme=",
        )
    return Secret(value)


def _header_value(
    name: str, argument: object, variables: tuple[str, ...], environ: Mapping[str, str], hint: str
) -> str | None:
    found = _first(name, argument, variables, environ)
    if found is None:
        return None
    value = found.unwrap()
    if _HEADER_TEXT.fullmatch(value) is None:
        raise found.error("must be printable ASCII without spaces", hint=hint)
    return value


def _app_name(value: object) -> str:
    name = check_str("app_name", value, error=ConfigurationError)
    if _APP_NAME.fullmatch(name) is None:
        raise ConfigurationError(
            "app_name must be a name of ASCII letters, digits and -_., or a name and a version",
            argument="app_name",
            hint="write it as 'billing' or 'billing/1.2', without spaces",
        )
    return name


def _base_url(argument: object, environ: Mapping[str, str], *, allow_http: bool) -> str:
    found = _first("base_url", argument, _URL_VARIABLES, environ) or _Setting("base_url", DEFAULT_BASE_URL)
    found.unwrap()  # it may be in quotes
    try:
        return _normalize(found.value.removeprefix(_BYTE_ORDER_MARK), allow_http=allow_http)
    except _UrlProblem as problem:
        error = found.error(str(problem), hint=problem.hint)
    raise error


class _UrlProblem(Exception):
    """A problem of a URL, with a hint."""

    def __init__(self, text: str, hint: str | None = None) -> None:
        super().__init__(text)
        self.hint = hint


def _normalize(url: str, *, allow_http: bool) -> str:
    # The messages show at most a scheme, a host or a port: user info, path and query may contain secrets.
    if not url or _HEADER_TEXT.fullmatch(url) is None or "\\" in url:
        raise _UrlProblem("must be a URL of printable ASCII without spaces and backslashes")
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    elif scheme.lower() not in {"http", "https"}:
        raise _UrlProblem("must start with https://, or http:// for this machine")
    if "?" in rest or "#" in rest:
        raise _UrlProblem("must not have a query or a fragment")
    authority, _, path = rest.partition("/")
    if "@" in authority:
        raise _UrlProblem("must not contain a user name or password", "pass the token with token=")
    host, port = _authority(authority)
    loopback = is_loopback(host)
    scheme = scheme.lower() or ("http" if loopback else "https")
    if scheme == "http" and not (loopback or allow_http):
        raise _UrlProblem(
            f"would send the token unencrypted to {shorten(host, 80)}",
            "use https://, or allow_http=True if the network is trusted",
        )
    if port is not None and port != {"http": 80, "https": 443}[scheme]:
        host = f"{host}:{port}"
    return f"{scheme}://{host}{_path(path)}"


def _authority(authority: str) -> tuple[str, int | None]:
    if authority.startswith("["):
        inside, closing, tail = authority[1:].partition("]")
        if not closing or (tail and not tail.startswith(":")):
            raise _UrlProblem("must have nothing but a port or a path after the host in brackets")
        try:
            host = (
                f"[{ipaddress.IPv6Address(inside.replace('%', '/')).compressed}]"  # no zone such as "%eth0"
            )
        except ValueError:
            raise _UrlProblem("must have an IPv6 address between '[' and ']'") from None
        return host, _port(tail[1:]) if tail else None
    name, separator, port = authority.partition(":")
    if not name:
        raise _UrlProblem("must contain a host", "an IPv6 address needs brackets: [::1]")
    if len(name) > 253 or _HOST_NAME.fullmatch(name) is None:
        raise _UrlProblem(
            "must have a host name of letters, digits, '-', '_' and '.'", "write an IDNA name as xn--…"
        )
    if _NUMERIC.fullmatch(name):
        try:
            name = str(ipaddress.IPv4Address(name))
        except ValueError:
            raise _UrlProblem("must contain an IPv4 address as four decimal numbers") from None
    return name.lower(), _port(port) if separator else None


def _port(text: str) -> int:
    # int() would also accept "+80", "8_0" and digits of other scripts.
    if re.fullmatch(r"[0-9]{1,5}", text) and 1 <= int(text) <= 65535:
        return int(text)
    raise _UrlProblem("must have a port from 1 to 65535")


def is_loopback(host: str) -> bool:
    """Return whether a host name or an IP address is this machine."""
    if host in {"localhost", "[::1]", "::1"} or host.endswith(".localhost"):
        return True
    return _NUMERIC.fullmatch(host) is not None and ipaddress.IPv4Address(host).is_loopback


def _path(path: str) -> str:
    segments = [segment for segment in path.split("/") if segment]
    for segment in segments:
        if segment in {".", ".."}:
            raise _UrlProblem("must not have '.' or '..' in its path")
        if _SEGMENT.fullmatch(segment) is None:
            raise _UrlProblem("must have a path without '%' and without characters that need encoding")
    path = "".join(f"/{segment}" for segment in segments) + "/"
    return path if path.endswith(PLATFORM_PATH) else path[:-1] + PLATFORM_PATH


class _Setting(NamedTuple):
    """A value, and the argument or environment variable that it comes from."""

    source: str
    value: str

    def unwrap(self) -> str:
        """Return the value without whitespace and a byte order mark around it.

        Editors, shells and `docker --env-file` add them.

        Raises:
            ConfigurationError: the value is in quotes, or is a whole line NAME=value.
        """
        value = self.value.strip().removeprefix(_BYTE_ORDER_MARK).strip()
        if _ASSIGNMENT.fullmatch(value):
            raise self.error(
                "must not be a whole line NAME=value", hint="pass only the part after the = sign"
            )
        if value.startswith(tuple(_QUOTES)) or value.endswith(tuple(_QUOTES)):
            raise self.error("must not be in quotes", hint="pass it without the quotes")
        return value

    def error(self, problem: str, *, hint: str | None = None) -> ConfigurationError:
        is_argument = self.source.isidentifier()
        return ConfigurationError(
            f"{self.source} {problem}", argument=self.source if is_argument else None, hint=hint
        )


def _first(
    name: str, argument: object, variables: tuple[str, ...], environ: Mapping[str, str]
) -> _Setting | None:
    """Return the argument if there is one, else the first variable that is set."""
    if argument is not None:
        return _Setting(name, check_str(name, argument, error=ConfigurationError))
    for variable in variables:
        value = environ.get(variable, "")
        if value.strip():
            return _Setting(f"the environment variable {variable}", value)
    return None
