"""Who is asking: the Authorization and Org-Handle headers."""

from __future__ import annotations

from collections.abc import Mapping

from unpod_async.testing import _world as world
from unpod_async.testing._answers import Refusal, json_answer, unauthorized

__all__ = ["authenticate", "is_blacklisted", "organization"]

_KEYS = {account.key: account for account in world.ACCOUNTS}
_JWTS = {account.jwt: account for account in world.ACCOUNTS if account.jwt is not None}


def is_blacklisted(headers: Mapping[str, str]) -> bool:
    """Whether the key is one that was withdrawn."""
    account = _KEYS.get(headers.get("authorization", "").rpartition(" ")[2])
    return account is not None and account.state == "blacklisted"


def authenticate(headers: Mapping[str, str], *, keys: bool) -> world.Account:
    """The account behind the Authorization header; raises Refusal with the 401 that the service gives.

    `keys`: whether the view takes the scheme Token; spaces and organizations do not.
    """
    challenge = "Token" if keys else 'JWT realm="api"'
    scheme, *words = headers.get("authorization", "").split() or [""]
    scheme = scheme.lower()
    if scheme in {"jwt", "bearer"}:
        account = _JWTS.get(words[0]) if len(words) == 1 else None
        if account is None:
            raise Refusal(unauthorized("Invalid or expired token.", challenge))
        return account
    if scheme != "token" or not keys:
        raise Refusal(unauthorized("Authentication credentials were not provided.", challenge))
    if not words:
        raise Refusal(unauthorized("Invalid token header. No credentials provided.", challenge))
    if len(words) > 1:
        text = "Invalid token header. Token string should not contain spaces."
        raise Refusal(unauthorized(text, challenge))
    account = _KEYS.get(words[0])
    if account is None:
        raise Refusal(unauthorized("Invalid token.", challenge))
    if account.state == "inactive":
        raise Refusal(unauthorized("User inactive or deleted.", challenge))
    return account


def organization(headers: Mapping[str, str]) -> world.Org:
    """The organization that Org-Handle names (case-sensitive); raises Refusal with the 400 or 404."""
    handle = headers.get("org-handle", "")
    if not handle:
        message = "Organization handle is required in Org-Handle header"
        raise Refusal(json_answer(400, {"status_code": 400, "message": message, "data": {}}))
    org = world.ORGS.get(handle)
    if org is None:
        raise Refusal(json_answer(404, {"message": "Organization not found"}))
    return org
