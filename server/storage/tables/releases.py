"""What can be installed."""

from typing import Any

from sqlalchemy import JSON, BigInteger, LargeBinary
from sqlmodel import Field

from server.storage.tables.stored import Stored, table


class ReleaseTable(Stored, table=True):
    __tablename__ = "release"
    product: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    counter: int = Field(sa_type=BigInteger)
    hardware: list[Any] = Field(sa_type=JSON)
    manifest_path: str
    manifest_length: int = Field(sa_type=BigInteger)
    manifest_sha256: str
    sha256: str = Field(index=True)
    images: list[Any] = Field(sa_type=JSON)
    content_key: bytes | None = Field(sa_type=LargeBinary)
    state: str
    notes: str
    published_at: float
    requires: dict[str, Any] | None = Field(sa_type=JSON(none_as_null=True))


class DeltaTable(Stored, table=True):
    __tablename__ = "delta"
    source_sha256: str = Field(primary_key=True)
    target_sha256: str = Field(primary_key=True)
    source_length: int = Field(sa_type=BigInteger)
    path: str
    length: int = Field(sa_type=BigInteger)
    sha256: str
    salt: str | None
    memory_bytes: int | None = Field(sa_type=BigInteger)


RELEASE = table("release")
DELTA = table("delta")
