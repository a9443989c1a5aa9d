"""Who may do what on the people's listener: a bearer token names a person, the person's role allows a need.

Every route states its need where it is made; there is no route without one.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from aiohttp import web

from server.errors import DeniedError
from server.ports import ApiToken, Role

MAX_TOKEN_CHARS = 256


class Need(StrEnum):
    """What a route takes. Everybody with a token reads; operators publish releases and run campaigns, approvers
    agree to them, and only administrators let new devices in."""

    READ = "read"
    OPERATE = "operate"
    APPROVE = "approve"
    ADMINISTER = "administer"


_ALLOWED: dict[Need, frozenset[Role]] = {
    Need.READ: frozenset(Role),
    Need.OPERATE: frozenset({Role.OPERATOR, Role.ADMIN}),
    Need.APPROVE: frozenset({Role.APPROVER, Role.ADMIN}),
    Need.ADMINISTER: frozenset({Role.ADMIN}),
}


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A person or script that showed a good token."""

    name: str
    role: Role

    def may(self, need: Need) -> bool:
        return self.role in _ALLOWED[need]


class Tokens(Protocol):
    """Knows API tokens by their secret. Raises `DeniedError` (`unauthenticated`) for one that is unknown or expired."""

    async def authenticate(self, secret: str) -> ApiToken: ...


async def caller_of(tokens: Tokens, secret: str) -> Caller:
    """Authenticate a token secret; raises `DeniedError` (`unauthenticated`)."""
    if not 1 <= len(secret) <= MAX_TOKEN_CHARS or not secret.isascii():
        raise unauthenticated()
    token = await tokens.authenticate(secret)
    return Caller(name=token.name, role=token.role)


async def bearer(request: web.Request, tokens: Tokens) -> Caller:
    """The caller of an API request, by its `Authorization: Bearer` header alone (never by a cookie)."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise unauthenticated()
    return await caller_of(tokens, secret.strip())


def roles_for(need: Need) -> frozenset[Role]:
    """Who may do what takes this."""
    return _ALLOWED[need]


def require(caller: Caller, need: Need) -> None:
    """Raises `DeniedError` (`forbidden`) when the caller's role does not allow it."""
    if not caller.may(need):
        roles = " or ".join(sorted(_ALLOWED[need]))
        raise DeniedError("forbidden", f"Your token has the role {caller.role}; this needs {roles}.")


def unauthenticated() -> DeniedError:
    return DeniedError("unauthenticated", "Send a valid API token as `Authorization: Bearer TOKEN`.")
