"""What servers keep for themselves: who leads, and answers that were given."""

from sqlalchemy import BigInteger, LargeBinary
from sqlmodel import Field

from server.storage.tables.stored import Stored, table


class LeaseTable(Stored, table=True):
    """Who leads. `token` rises with each hand-over, `renewals` while the holder lives. A server of any version reads this before
    it changes any other table, so its columns stay as they are."""

    __tablename__ = "lease"
    name: str = Field(primary_key=True)
    holder: str
    token: int = Field(sa_type=BigInteger)
    renewals: int = Field(sa_type=BigInteger)
    is_free: bool
    address: str


class ReplyTable(Stored, table=True):
    """An answer to a request with an idempotency key, sealed by that key; none while it is being done."""

    __tablename__ = "kept_reply"
    id: str = Field(primary_key=True)
    request_sha256: str
    run: str
    expires_at: float = Field(index=True)
    answer: bytes | None = Field(sa_type=LargeBinary)


LEASE = table("lease")
REPLY = table("kept_reply")
