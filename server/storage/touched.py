"""Which tables a transaction has changed, as its statements say, whoever made them."""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Engine, event

APART = frozenset({"audit", "audit_head", "audit_checkpoint", "alembic_version", "kept_reply"})
"""The trail itself, and what was answered to whoever may ask the same again."""
BOOKKEEPING = frozenset(
    {
        "availability",  # learned from presence
        "campaign_leg",  # how far the deltas are, which tell of themselves
        "course",  # what is drawn over time
        "group_size",  # counts
        "host",  # what hosts have, as they told it in reports
        "host_part",  # pieces of that
        "inbox",  # what was said; reports are recorded by their hashes
        "inquiry",  # when to ask again; answers are recorded
        "journal",  # up to where reports are stored
        "lease",  # that the leader lives; that it changed is recorded
        "log_part",  # pieces of logs; that they were asked for is recorded
        "metric_week",  # what devices measured
        "outbox",  # what is on its way; orders are in a table of their own
        "package_chunk",  # what hosts have
        "presence_watch",  # since when the broker is heard
        "rehearsal",  # what is known so far; that it began and ended is recorded
        "signed_envelope",  # what was said and sent, as it was signed; reports and orders are recorded
        "target",  # hints of presence and progress; what moves an assignment is in others as well
        "target_label",  # what a device says of itself, in a report
        "webhook",  # up to where its receiver was told; what people do to it is recorded
        "webhook_delivery",  # how far an event is
    }
)
"""Tables that may change without a record: what devices said, what is on its way, what the server remembers for itself. A new
table isn't among them until somebody puts it here and says why."""
_KEY = "otaria-touched"
_CHANGES = re.compile(r"\b(?:INSERT INTO|(?<!FOR )UPDATE|DELETE FROM)\s+\"?(\w+)", re.IGNORECASE)


def watch(engine: Engine) -> None:
    """Note from now on what the transactions of an engine change."""

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.info[_KEY] = set()

    @event.listens_for(engine, "after_cursor_execute")
    def after(connection: Connection, cursor: Any, statement: str, *_: object) -> None:
        tables = _changed(statement)
        if tables and cursor.rowcount != 0:
            connection.info[_KEY] |= tables


def touched(connection: Connection, *, bookkeeping: bool) -> Collection[str]:
    """The tables that this transaction has changed so far; with or without those of mere bookkeeping."""
    tables: set[str] = connection.info.get(_KEY, set())
    return sorted(tables if bookkeeping else tables - BOOKKEEPING)


@lru_cache(maxsize=2048)
def _changed(statement: str) -> frozenset[str]:
    return frozenset(_CHANGES.findall(statement)) - APART
