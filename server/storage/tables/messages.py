"""What came from agents and goes to them."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Index, LargeBinary, UniqueConstraint
from sqlmodel import Field

from server.storage.tables.stored import BIG, Stored, table


class JournalTable(Stored, table=True):
    """The sequence of one journal of an agent: `last_seq` is stored, and everything below `floor` is either stored or,
    by the agent's own signed word, gone."""

    __tablename__ = "journal"
    agent: str = Field(primary_key=True)
    journal: str = Field(primary_key=True)
    last_seq: int = Field(sa_type=BigInteger)
    floor: int = Field(sa_type=BigInteger)


class InboxTable(Stored, table=True):
    __tablename__ = "inbox"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    kind: str
    target: str
    hash: str
    received_at: float
    body: dict[str, Any] = Field(sa_type=JSON)
    pending: bool
    agent: str | None
    journal: str | None
    seq: int | None = Field(sa_type=BigInteger)
    __table_args__ = (
        UniqueConstraint("agent", "journal", "seq"),
        Index(None, "target", "hash"),
        Index(None, "pending", "id"),
        {"sqlite_autoincrement": True},
    )


class OutboxTable(Stored, table=True):
    __tablename__ = "outbox"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    topic: str
    payload: bytes = Field(sa_type=LargeBinary)
    retain: bool
    expires_at: float | None
    __table_args__ = ({"sqlite_autoincrement": True},)


class OrderTable(Stored, table=True):
    __tablename__ = "current_order"
    target: str = Field(primary_key=True, foreign_key="target.id")
    agent: str
    epoch: int = Field(sa_type=BigInteger)
    n: int = Field(sa_type=BigInteger)
    hash: str
    envelope: bytes = Field(sa_type=LargeBinary)
    campaign: str | None


class SignedEnvelopeTable(Stored, table=True):
    """What was signed by the director for a target, or by an agent about it."""

    __tablename__ = "signed_envelope"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    target: str
    kind: str
    at: float
    hash: str
    campaign: str | None
    envelope: bytes = Field(sa_type=LargeBinary)
    __table_args__ = (Index(None, "target", "id"), {"sqlite_autoincrement": True})


class LogAskTable(Stored, table=True):
    __tablename__ = "log_request"
    id: str = Field(primary_key=True)
    target: str = Field(foreign_key="target.id")
    agent: str
    what: list[str] = Field(sa_type=JSON)
    max_bytes: int
    asked_by: str
    asked_at: float
    expires_at: float
    epoch: int = Field(sa_type=BigInteger)
    n: int = Field(sa_type=BigInteger)
    sent_at: float
    state: str
    reason_kind: str
    reason: str
    answered_at: float | None
    size_bytes: int
    campaign: str | None
    change_id: str | None
    text: str
    __table_args__ = (
        Index(None, "campaign", "id"),
        Index(None, "target", "asked_at"),
        Index(None, "agent", "state"),
        Index(None, "state", "expires_at"),
    )


class LogPartTable(Stored, table=True):
    __tablename__ = "log_part"
    request: str = Field(primary_key=True, foreign_key="log_request.id")
    number: int = Field(primary_key=True)
    data: bytes = Field(sa_type=LargeBinary)


JOURNAL = table("journal")
INBOX = table("inbox")
OUTBOX = table("outbox")
ORDER = table("current_order")
SIGNED_ENVELOPE = table("signed_envelope")
LOG_REQUEST = table("log_request")
LOG_PART = table("log_part")
