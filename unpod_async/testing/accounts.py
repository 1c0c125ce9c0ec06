"""The synthetic accounts, organizations, spaces and agents of the sandbox, and authentication."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from unpod_async.testing.answers import ImmediateResponse, json_response, translate, unauthorized

__all__ = [
    "ACCOUNTS",
    "AGENTS",
    "FOREIGN_AGENT",
    "FOREIGN_SPACE",
    "MAIN_AGENT",
    "MAIN_SPACE",
    "ORGS",
    "POISON_AGENT",
    "POISON_SPACE",
    "SPACES",
    "FakeAccount",
    "FakeAgent",
    "FakeOrg",
    "FakeSpace",
    "authenticate",
    "is_blacklisted",
    "organization",
]

Role = Literal["owner", "viewer"]


@dataclass(frozen=True, slots=True)
class FakeOrg:
    """An organization. The header Org-Handle names its `handle`."""

    name: str
    handle: str
    token: str

    def row(self, role: Role) -> dict[str, Any]:
        """Return the row of the organizations listing."""
        return {
            "name": self.name,
            "token": self.token,
            "domain": self.handle,
            "domain_handle": self.handle,
            "is_private_domain": False,
            "role": role,
        }


@dataclass(frozen=True, slots=True)
class FakeAccount:
    """A user with an API key (scheme Token) and, if the user can log in, a JWT (schemes JWT and Bearer)."""

    number: str
    name: str
    org: str
    key: str = field(repr=False)
    jwt: str | None = field(default=None, repr=False)
    state: Literal["active", "inactive", "blacklisted"] = "active"
    role: Role = "owner"

    @property
    def user_info(self) -> dict[str, Any]:
        """The `user_info` in the rows of this account."""
        first = self.name.split(maxsplit=1)[0]
        return {
            "id": self.number,
            "email": f"{first.lower()}@example.com",
            "full_name": self.name,
            "user_token": f"SYN{first.upper():0<13}",
            "location": {
                "zip": "000000",
                "city": "Exampleton",
                "state": "Example State",
                "country": "IN",
                "timezone": "Asia/Kolkata",
                "ip_address": f"192.0.2.{10 * int(self.number)}",
                "lat": "12.34",
                "lng": "56.78",
            },
        }


@dataclass(frozen=True, slots=True)
class FakeAgent:
    """A voice agent. An agent without a space has no tasks."""

    handle: str
    name: str
    space: str | None
    org: str

    def row(self) -> dict[str, Any]:
        """Return the row of the agents listing."""
        return {
            "handle": self.handle,
            "name": self.name,
            "type": "Voice",
            "state": "published",
            "description": f"{self.name} description",
            "purpose": "Collections",
        }


@dataclass(frozen=True, slots=True)
class FakeSpace:
    """A space. Rows have its `number` as `space_id`."""

    number: str
    token: str
    name: str
    org: str
    content_type: str = "contact"
    privacy: Literal["private", "public"] = "private"
    viewers: frozenset[str] = frozenset()

    @property
    def execution_type(self) -> str:
        """The `execution_type` of its tasks."""
        return {"contact": "call", "email": "email"}.get(self.content_type, "answer")

    def row(self) -> dict[str, Any]:
        """Return the row of the spaces listing."""
        org = ORGS[self.org]
        return {
            "name": self.name,
            "slug": self.name.lower().replace(" ", "-"),
            "token": self.token,
            "description": f"{self.name} description",
            "logo": None,
            "privacy_type": self.privacy,
            "space_type": "general",
            "content_type": self.content_type,
            "organization": {"name": org.name, "domain_handle": org.handle},
        }

    def detail(self) -> dict[str, Any]:
        """Return the details of the space: its row, agents and times."""
        moment = "2026-01-15T09:00:00.955006Z"
        agents = [
            {"name": agent.name, "handle": agent.handle, "type": "Voice"}
            for agent in AGENTS.values()
            if agent.space == self.token
        ]
        return {**self.row(), "agents": agents, "created": moment, "modified": moment}

    def role_of(self, account: FakeAccount) -> Role | None:
        """Return the role of an account, or None without access. Viewers may only read agent tasks."""
        if account.org == self.org and account.role == "owner":
            return "owner"
        return "viewer" if account.number in self.viewers else None


ORGS = {
    org.handle: org
    for org in (
        FakeOrg("Acme Example", "acme.example", "ORGACMEEXAMPLE000000"),
        FakeOrg("Other Example", "other.example", "ORGOTHEREXAMPLE00000"),
    )
}

ACCOUNTS = (
    FakeAccount("1", "Alice Example", "acme.example", "a11ce".ljust(40, "0"), "jwt-a11ce".ljust(40, "0")),
    FakeAccount(
        "2", "Bob Example", "acme.example", "b0b".ljust(40, "0"), "jwt-b0b".ljust(40, "0"), role="viewer"
    ),
    FakeAccount("3", "Carol Example", "other.example", "ca401".ljust(40, "0"), "jwt-ca401".ljust(40, "0")),
    FakeAccount("4", "Dade Example", "acme.example", "dade".ljust(40, "0"), state="inactive"),
    FakeAccount("5", "Blake Example", "acme.example", "b1ac".ljust(40, "0"), state="blacklisted"),
)

SPACES = {
    space.token: space
    for space in (
        FakeSpace("1", "SPACEMAIN000000000000001", "Main Calls", "acme.example", viewers=frozenset({"2"})),
        FakeSpace("2", "SPACEGENERAL000000000002", "General Notes", "acme.example", content_type="general"),
        FakeSpace(
            "3",
            "SPACEPUBLIC0000000000003",
            "Public Board",
            "acme.example",
            content_type="general",
            privacy="public",
        ),
        FakeSpace("4", "SPACEPOISON0000000000004", "Poison Calls", "acme.example"),
        FakeSpace("5", "SPACEEMPTY00000000000005", "Empty Space", "acme.example"),
        FakeSpace("6", "SPACEFOREIGN000000000006", "Foreign Calls", "other.example"),
    )
}

AGENTS = {
    agent.handle: agent
    for agent in (
        FakeAgent(
            "space-agent-demo00000000000000001", "Demo Agent", "SPACEMAIN000000000000001", "acme.example"
        ),
        FakeAgent("space-agent-nospace00000000000003", "Spaceless Agent", None, "acme.example"),
        FakeAgent(
            "space-agent-poison000000000000005", "Poison Agent", "SPACEPOISON0000000000004", "acme.example"
        ),
        FakeAgent(
            "space-agent-foreign00000000000004", "Foreign Agent", "SPACEFOREIGN000000000006", "other.example"
        ),
    )
}

MAIN_SPACE = SPACES["SPACEMAIN000000000000001"]
POISON_SPACE = SPACES["SPACEPOISON0000000000004"]
MAIN_AGENT = AGENTS["space-agent-demo00000000000000001"]
POISON_AGENT = AGENTS["space-agent-poison000000000000005"]
FOREIGN_SPACE = SPACES["SPACEFOREIGN000000000006"]
FOREIGN_AGENT = AGENTS["space-agent-foreign00000000000004"]

_KEYS = {account.key: account for account in ACCOUNTS}
_JWTS = {account.jwt: account for account in ACCOUNTS if account.jwt is not None}


def is_blacklisted(headers: Mapping[str, str]) -> bool:
    """Return whether the key was revoked."""
    account = _KEYS.get(headers.get("authorization", "").rpartition(" ")[2])
    return account is not None and account.state == "blacklisted"


def authenticate(headers: Mapping[str, str], language: str, *, keys: bool) -> FakeAccount:
    """Return the account of the Authorization header.

    Args:
        headers: the headers of the request, with lower-case names.
        language: the language of a refusal.
        keys: whether the view accepts the scheme Token; those of spaces and organizations do not.

    Raises:
        ImmediateResponse: the 401 of the service.
    """

    def refused(message: str) -> ImmediateResponse:
        challenge = "Token" if keys else 'JWT realm="api"'
        return ImmediateResponse(unauthorized(translate(language, message), challenge))

    scheme, *words = headers.get("authorization", "").split() or [""]
    scheme = scheme.lower()
    if scheme in {"jwt", "bearer"}:
        if not words:
            raise refused("Invalid Authorization header. No credentials provided.")
        if len(words) > 1:
            raise refused("Invalid Authorization header. Credentials string should not contain spaces.")
        account = _JWTS.get(words[0])
        if account is None:
            raise refused("Invalid or expired token.")
        return account
    if scheme != "token" or not keys:
        raise refused("Authentication credentials were not provided.")
    if not words:
        raise refused("Invalid token header. No credentials provided.")
    if len(words) > 1:
        raise refused("Invalid token header. Token string should not contain spaces.")
    account = _KEYS.get(words[0])
    if account is None:
        raise refused("Invalid token.")
    if account.state == "inactive":
        raise refused("User inactive or deleted.")
    return account


def organization(headers: Mapping[str, str]) -> FakeOrg:
    """Return the organization of the header Org-Handle. Raises ImmediateResponse with a 400 or 404."""
    handle = headers.get("org-handle", "")
    if not handle:
        message = "Organization handle is required in Org-Handle header"
        raise ImmediateResponse(json_response(400, {"status_code": 400, "message": message, "data": {}}))
    org = ORGS.get(handle)
    if org is None:
        raise ImmediateResponse(json_response(404, {"message": "Organization not found"}))
    return org
