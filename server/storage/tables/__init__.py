"""The tables, by subject.

Declared with SQLModel, queried through their SQLAlchemy `Table` (the constants below), so that a statement says exactly
which columns it touches. Enumerations are stored as their words, times as POSIX seconds, whole values nobody searches in
as JSON. `version` columns are for compare-and-set. Nothing here validates: values were parsed before they came.
"""

from server.storage.tables.audit import AUDIT, AUDIT_CHECKPOINT, AUDIT_HEAD
from server.storage.tables.campaigns import (
    ASSIGNMENT,
    BEHIND,
    BLOCK,
    CAMPAIGN,
    COHORT,
    COURSE,
    LEG,
    REHEARSAL,
    REVISION,
    SETTLED_STATES,
    UNSETTLED,
)
from server.storage.tables.constraints import GROUP, GROUP_SIZE, INQUIRY, TOKEN, WORD
from server.storage.tables.fleet import (
    AVAILABILITY,
    HOST,
    HOST_PART,
    METRIC_WEEK,
    PACKAGE_CHUNK,
    SAVED_VIEW,
    TARGET,
    TARGET_LABEL,
    WATCH,
)
from server.storage.tables.identities import AGENT, API_TOKEN, CERTIFICATE, CLAIM_TOKEN, KNOWN_DEVICE, NOT_ACTIVE
from server.storage.tables.messages import INBOX, JOURNAL, LOG_PART, LOG_REQUEST, ORDER, OUTBOX, SIGNED_ENVELOPE
from server.storage.tables.releases import DELTA, RELEASE
from server.storage.tables.serving import LEASE, REPLY
from server.storage.tables.stored import BIG, Stored
from server.storage.tables.webhooks import WEBHOOK, WEBHOOK_DELIVERY

__all__ = [
    "AGENT",
    "API_TOKEN",
    "ASSIGNMENT",
    "AUDIT",
    "AUDIT_CHECKPOINT",
    "AUDIT_HEAD",
    "AVAILABILITY",
    "BEHIND",
    "BIG",
    "BLOCK",
    "CAMPAIGN",
    "CERTIFICATE",
    "CLAIM_TOKEN",
    "COHORT",
    "COURSE",
    "DELTA",
    "GROUP",
    "GROUP_SIZE",
    "HOST",
    "HOST_PART",
    "INBOX",
    "INQUIRY",
    "JOURNAL",
    "KNOWN_DEVICE",
    "LEASE",
    "LEG",
    "LOG_PART",
    "LOG_REQUEST",
    "METRIC_WEEK",
    "NOT_ACTIVE",
    "ORDER",
    "OUTBOX",
    "PACKAGE_CHUNK",
    "REHEARSAL",
    "RELEASE",
    "REPLY",
    "REVISION",
    "SAVED_VIEW",
    "SETTLED_STATES",
    "SIGNED_ENVELOPE",
    "TARGET",
    "TARGET_LABEL",
    "TOKEN",
    "UNSETTLED",
    "WATCH",
    "WEBHOOK",
    "WEBHOOK_DELIVERY",
    "WORD",
    "Stored",
]
