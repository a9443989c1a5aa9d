"""The trail."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Index, LargeBinary
from sqlmodel import Field

from server.storage.tables.stored import BIG, Stored, table


class AuditTable(Stored, table=True):
    __tablename__ = "audit"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    at: float
    kind: str
    text: str
    actor: str
    change_id: str | None
    campaign: str | None
    target: str | None
    data: dict[str, Any] = Field(sa_type=JSON)
    partition: str
    number: int = Field(sa_type=BigInteger)
    previous: bytes = Field(sa_type=LargeBinary)
    hash: bytes = Field(sa_type=LargeBinary)
    __table_args__ = (
        Index(None, "campaign", "id"),
        Index(None, "target", "id"),
        Index("uq_audit_partition_number", "partition", "number", unique=True),
        {"sqlite_autoincrement": True},
    )


class AuditHeadTable(Stored, table=True):
    """Where a partition of the trail ends, and up to where its records were removed. Whoever appends holds its row."""

    __tablename__ = "audit_head"
    partition: str = Field(primary_key=True)
    number: int = Field(sa_type=BigInteger)
    hash: bytes = Field(sa_type=LargeBinary)
    gone_number: int = Field(sa_type=BigInteger)
    gone_hash: bytes = Field(sa_type=LargeBinary)


class AuditCheckpointTable(Stored, table=True):
    __tablename__ = "audit_checkpoint"
    number: int = Field(primary_key=True, sa_type=BIG)
    at: float
    hash: str
    envelope: bytes = Field(sa_type=LargeBinary)


AUDIT = table("audit")
AUDIT_HEAD = table("audit_head")
AUDIT_CHECKPOINT = table("audit_checkpoint")
