"""Who is told what happens, and what became of it."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Index
from sqlmodel import Field

from server.storage.tables.stored import BIG, Stored, table


class WebhookTable(Stored, table=True):
    """An address that is told what happens. `after`: the last line of the trail that it was given."""

    __tablename__ = "webhook"
    name: str = Field(primary_key=True)
    url: str
    types: list[Any] = Field(sa_type=JSON)
    state: str
    reason: str
    salt: str
    after: int = Field(sa_type=BigInteger)
    made_at: float
    by: str
    failures: int
    failing_since: float | None
    retry_at: float | None
    delivered_at: float | None
    old_salt: str | None
    old_secret_until: float | None


class WebhookDeliveryTable(Stored, table=True):
    """One event for one address; what it says stands in `line` of the trail."""

    __tablename__ = "webhook_delivery"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    webhook: str = Field(foreign_key="webhook.name")
    event: str
    line: int = Field(sa_type=BigInteger)
    type: str
    purpose: str
    state: str
    attempts: int
    made_at: float
    next_at: float
    done_at: float | None
    code: int | None
    said: str
    __table_args__ = (
        Index(None, "webhook", "id"),
        Index(None, "webhook", "state", "next_at"),
        Index(None, "done_at"),
        {"sqlite_autoincrement": True},
    )


WEBHOOK = table("webhook")
WEBHOOK_DELIVERY = table("webhook_delivery")
