"""What holds targets back, in all campaigns: budgets with their tokens, and what is said from outside."""

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from server.storage.tables.stored import Stored, table


class GroupTable(Stored, table=True):
    __tablename__ = "budget_group"
    key: str = Field(primary_key=True)
    limit: int
    used: int
    paced_at: float = 0.0
    reserved_by: str = ""
    reserved_for: str = ""
    reserved_until: float = 0.0
    reservable_at: float = 0.0
    bandwidth: int = Field(default=0, sa_type=BigInteger)
    keep: int
    counts_offline: bool
    version: int


class GroupSizeTable(Stored, table=True):
    """How many targets carry a label (`key` is `name=value`), those of agents that are shut out left out; `offline`: how many of
    them are offline and hold no token of it. Kept by `group_sizes`."""

    __tablename__ = "group_size"
    key: str = Field(primary_key=True)
    members: int
    offline: int


class TokenTable(Stored, table=True):
    __tablename__ = "token"
    target: str = Field(primary_key=True, foreign_key="target.id")
    group: str = Field(primary_key=True)
    campaign: str = Field(index=True)
    kind: str
    since: float
    version: int
    __table_args__ = (Index(None, "group", "since"),)


class WordTable(Stored, table=True):
    """What was said from outside about `key`: a target's id, or `label=value`."""

    __tablename__ = "word"
    name: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    good: bool
    by: str
    reason: str
    at: float
    expires_at: float


class InquiryTable(Stored, table=True):
    """A check elsewhere that is asked about `key` until it answers."""

    __tablename__ = "inquiry"
    name: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    campaign: str
    target: str
    asked_at: float
    attempts: int
    next_at: float
    state: str
    reason: str
    __table_args__ = (Index(None, "state", "next_at"),)


GROUP = table("budget_group")
GROUP_SIZE = table("group_size")
TOKEN = table("token")
WORD = table("word")
INQUIRY = table("inquiry")
