"""Agents, their certificates, claim tokens, people and scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUDITOR = "auditor"
    ADMIN = "admin"


class AgentStatus(StrEnum):
    ACTIVE = "active"
    QUARANTINED = "quarantined"
    REVOKED = "revoked"
    DECOMMISSIONED = "decommissioned"

    @property
    def shut_out(self) -> bool:
        """Whether it is out of the fleet for ever."""
        return self in (AgentStatus.REVOKED, AgentStatus.DECOMMISSIONED)


@dataclass(frozen=True, kw_only=True)
class ClaimToken:
    """A right to enrol. Only the sha256 of its secret is kept. `labels` are given to every agent enrolled with it."""

    id: str
    secret_sha256: str
    expires_at: float
    uses_left: int
    labels: Mapping[str, str] = field(default_factory=dict)
    created_by: str = ""


@dataclass(frozen=True, kw_only=True)
class AgentRecord:
    """An enrolled agent. `report_key` is the public report key as a TUF key dict; `keyid` its key id."""

    id: str
    status: AgentStatus
    report_keyid: str
    report_key: Mapping[str, Any]
    certificate_serial: str
    enrolled_at: float
    claim_token: str = ""


@dataclass(frozen=True, kw_only=True)
class CertificateRecord:
    """A certificate given to an agent. `serial`: lower-case hex. `issuer`: sha256 (hex) of its CA's DER, empty for those from
    before this was noted. `replaces`: the serial of the one it was renewed from."""

    serial: str
    agent: str
    issuer: str
    issued_at: float
    expires_at: float
    replaces: str | None = None


@dataclass(frozen=True, kw_only=True)
class KnownDevice:
    """A device that may enrol without a claim token. It is known by its key (sha256 (hex) of the DER of its
    SubjectPublicKeyInfo), or by the serial in its factory certificate until it enrols with one, and by both from then on.
    `agent`: what it enrolled as. `again`: it may enrol once more, with new keys."""

    id: str
    key_sha256: str | None = None
    serial: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    agent: str | None = None
    again: bool = False
    created_at: float = 0.0
    created_by: str = ""

    @property
    def name(self) -> str:
        """As people are told of it."""
        return self.serial or f"{(self.key_sha256 or '')[:16]}…"


@dataclass(frozen=True, kw_only=True)
class ApiToken:
    """A person's or script's access; only the sha256 of the secret is kept. One name may have several."""

    id: str
    secret_sha256: str
    name: str
    role: Role
    expires_at: float | None = None


class Identities(Protocol):
    def add_claim(self, token: ClaimToken) -> None: ...
    def claims(self, *, after: str = "", limit: int | None = None) -> Sequence[ClaimToken]:
        """Claim tokens by id; `after` this one, so many (None: all)."""
        ...

    def spend_claim(self, token_id: str, secret_sha256: str, now: float) -> ClaimToken:
        """Use one of its uses. Raises `RefusedError` (`claim-unknown`, `claim-expired`, `claim-used-up`)."""
        ...

    def add_agent(self, agent: AgentRecord, *, hardware: str, labels: Mapping[str, str]) -> None:
        """Add an agent and its target of the same id."""
        ...

    def expect(self, agents: Sequence[str]) -> None:
        """Fetch these agents at once."""
        ...

    def agent(self, agent_id: str) -> AgentRecord | None: ...
    def agent_by_report_key(self, keyid: str) -> AgentRecord | None:
        """The agent enrolled with this report key; a key belongs to one agent, so that a retried enrolment finds itself."""
        ...

    def set_agent_status(self, agent_id: str, status: AgentStatus) -> None: ...
    def add_certificate(self, certificate: CertificateRecord) -> None:
        """Note a certificate and make it its agent's current one; the same serial again replaces what was noted."""
        ...

    def certificate(self, serial: str) -> CertificateRecord | None: ...
    def issuers(self) -> Mapping[str, int]:
        """Number of agents that are not shut out, by the issuer of their current certificate (empty: not noted)."""
        ...

    def shut_out_serials(self, now: float) -> Sequence[CertificateRecord]:
        """The certificates of agents that are quarantined or shut out for ever and that have not expired, by serial."""
        ...

    def set_evicting(self, agent_id: str, evicting: bool) -> None:
        """Whether the agent's live session and retained messages are still to be ended."""
        ...

    def evicting(self, limit: int) -> Sequence[str]: ...
    def add_known_device(self, device: KnownDevice) -> None: ...
    def known_device(self, *, key_sha256: str | None = None, serial: str | None = None) -> KnownDevice | None:
        """The device with this key, else the one with this serial."""
        ...

    def known_device_by_id(self, known_id: str) -> KnownDevice | None: ...
    def known_devices(self, *, after: str = "", limit: int | None = None) -> Sequence[KnownDevice]:
        """By id; `after` this one, so many (None: all)."""
        ...

    def bind_known_device(self, known_id: str, *, agent: str, key_sha256: str) -> None:
        """It enrolled as this agent, with this key; it may not do so again."""
        ...

    def allow_known_device(self, known_id: str) -> None:
        """It may enrol once more."""
        ...

    def remove_known_device(self, known_id: str) -> None: ...
    def add_api_token(self, token: ApiToken) -> None: ...
    def api_token(self, secret_sha256: str) -> ApiToken | None: ...
    def api_tokens(self, *, after: tuple[str, str] | None = None, limit: int | None = None) -> Sequence[ApiToken]:
        """By name and id; those after that one, so many (None: all)."""
        ...

    def change_api_tokens(self, name: str, role: Role) -> int:
        """Give every token of this name a role; how many there were."""
        ...

    def expire_api_tokens(self, at: float, *, name: str | None = None, token: str | None = None) -> int:
        """Let tokens that would be good after then end there: all of this name, or the one with this id; how many did."""
        ...

    def remove_api_tokens(self, name: str) -> int:
        """Remove every token of this name; how many there were."""
        ...
