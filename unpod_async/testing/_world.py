"""Who and what exists in the sandbox: accounts, organizations, spaces and agents, all synthetic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

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
    "Account",
    "Agent",
    "Org",
    "Space",
]

Role = Literal["owner", "viewer"]


@dataclass(frozen=True, slots=True)
class Org:
    """An organization; `handle` is what the Org-Handle header names."""

    name: str
    handle: str
    token: str

    def row(self, role: Role) -> dict[str, Any]:
        """The row of the organizations listing."""
        return {
            "name": self.name,
            "token": self.token,
            "domain": self.handle,
            "domain_handle": self.handle,
            "is_private_domain": False,
            "role": role,
        }


@dataclass(frozen=True, slots=True)
class Account:
    """A user with an API key (scheme Token) and, for those who log in, a JWT (schemes JWT and Bearer)."""

    number: str
    name: str
    org: str
    key: str = field(repr=False)
    jwt: str | None = field(default=None, repr=False)
    state: Literal["active", "inactive", "blacklisted"] = "active"
    role: Role = "owner"

    @property
    def user_info(self) -> dict[str, Any]:
        """The `user_info` that rows of this account carry."""
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
class Agent:
    """A voice agent. An agent without a space has no tasks."""

    handle: str
    name: str
    space: str | None
    org: str

    def row(self) -> dict[str, Any]:
        """The row of the agents listing."""
        return {
            "handle": self.handle,
            "name": self.name,
            "type": "Voice",
            "state": "published",
            "description": f"{self.name} description",
            "purpose": "Collections",
        }


@dataclass(frozen=True, slots=True)
class Space:
    """A space; `number` is what rows carry as `space_id`."""

    number: str
    token: str
    name: str
    org: str
    content_type: str = "contact"
    privacy: Literal["private", "public"] = "private"
    viewers: frozenset[str] = frozenset()

    def row(self) -> dict[str, Any]:
        """The row of the spaces listing."""
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
        """The answer for this one space: its row, its agents and its times."""
        moment = "2026-01-15T09:00:00.955006Z"
        agents = [
            {"name": agent.name, "handle": agent.handle, "type": "Voice"}
            for agent in AGENTS.values()
            if agent.space == self.token
        ]
        return {**self.row(), "agents": agents, "created": moment, "modified": moment}

    def role_of(self, account: Account) -> Role | None:
        """What `account` may do here: owners everything, viewers read tasks, None nothing."""
        if account.org == self.org and account.role == "owner":
            return "owner"
        return "viewer" if account.number in self.viewers else None


ORGS = {
    org.handle: org
    for org in (
        Org("Acme Example", "acme.example", "ORGACMEEXAMPLE000000"),
        Org("Other Example", "other.example", "ORGOTHEREXAMPLE00000"),
    )
}

ACCOUNTS = (
    Account("1", "Alice Example", "acme.example", "a11ce".ljust(40, "0"), "<jwt-alice>"),
    Account("2", "Bob Example", "acme.example", "b0b".ljust(40, "0"), "<jwt-bob>", role="viewer"),
    Account("3", "Carol Example", "other.example", "ca401".ljust(40, "0"), "<jwt-carol>"),
    Account("4", "Dade Example", "acme.example", "dade".ljust(40, "0"), state="inactive"),
    Account("5", "Blake Example", "acme.example", "b1ac".ljust(40, "0"), state="blacklisted"),
)

SPACES = {
    space.token: space
    for space in (
        Space("1", "SPACEMAIN000000000000001", "Main Calls", "acme.example", viewers=frozenset({"2"})),
        Space("2", "SPACEGENERAL000000000002", "General Notes", "acme.example", content_type="general"),
        Space(
            "3",
            "SPACEPUBLIC0000000000003",
            "Public Board",
            "acme.example",
            content_type="general",
            privacy="public",
        ),
        Space("4", "SPACEPOISON0000000000004", "Poison Calls", "acme.example"),
        Space("5", "SPACEEMPTY00000000000005", "Empty Space", "acme.example"),
        Space("6", "SPACEFOREIGN000000000006", "Foreign Calls", "other.example"),
    )
}

AGENTS = {
    agent.handle: agent
    for agent in (
        Agent("space-agent-demo00000000000000001", "Demo Agent", "SPACEMAIN000000000000001", "acme.example"),
        Agent("space-agent-nospace00000000000003", "Spaceless Agent", None, "acme.example"),
        Agent(
            "space-agent-poison000000000000005", "Poison Agent", "SPACEPOISON0000000000004", "acme.example"
        ),
        Agent(
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
