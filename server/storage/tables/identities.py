"""Who may come in: people and agents, with what they show."""

from typing import Any

from sqlalchemy import JSON, Index, text
from sqlmodel import Field

from server.storage.tables.stored import Stored, table

NOT_ACTIVE = text("status <> 'active'")


class ClaimTokenTable(Stored, table=True):
    __tablename__ = "claim_token"
    id: str = Field(primary_key=True)
    secret_sha256: str
    expires_at: float
    uses_left: int
    labels: dict[str, Any] = Field(sa_type=JSON)
    created_by: str


class AgentTable(Stored, table=True):
    __tablename__ = "agent"
    id: str = Field(primary_key=True)
    status: str
    report_keyid: str = Field(unique=True)
    report_key: dict[str, Any] = Field(sa_type=JSON)
    certificate_serial: str
    enrolled_at: float
    claim_token: str
    evicting: bool
    __table_args__ = (Index(None, "status", "id", sqlite_where=NOT_ACTIVE, postgresql_where=NOT_ACTIVE),)


class CertificateTable(Stored, table=True):
    """Every certificate that an agent was given; `agent.certificate_serial` says which is current."""

    __tablename__ = "certificate"
    serial: str = Field(primary_key=True)
    agent: str = Field(foreign_key="agent.id", index=True)
    issuer: str
    issued_at: float
    expires_at: float
    replaces: str | None


class KnownDeviceTable(Stored, table=True):
    """Who may enrol without a claim token."""

    __tablename__ = "known_device"
    id: str = Field(primary_key=True)
    key_sha256: str | None = Field(unique=True)
    serial: str | None = Field(unique=True)
    labels: dict[str, Any] = Field(sa_type=JSON)
    agent: str | None = Field(foreign_key="agent.id")
    again: bool
    created_at: float
    created_by: str


class ApiTokenTable(Stored, table=True):
    __tablename__ = "api_token"
    id: str = Field(primary_key=True)
    secret_sha256: str = Field(unique=True)
    name: str
    role: str
    expires_at: float | None
    __table_args__ = (Index(None, "name", "id"),)


CLAIM_TOKEN = table("claim_token")
AGENT = table("agent")
CERTIFICATE = table("certificate")
KNOWN_DEVICE = table("known_device")
API_TOKEN = table("api_token")
