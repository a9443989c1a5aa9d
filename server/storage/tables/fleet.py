"""Targets, and what is known of each."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Index, LargeBinary
from sqlmodel import Field

from server.storage.tables.stored import BIG, Stored, table


class TargetTable(Stored, table=True):
    """A target. The planner's columns change by compare-and-set; `presence`, `progress`, `echoed_*` and what only
    people look at change without touching `version`. `last_campaign` is the last that held it."""

    __tablename__ = "target"
    id: str = Field(primary_key=True)
    agent: str = Field(foreign_key="agent.id", index=True)
    hardware: str
    running_version: str | None
    running_sha256: str | None
    rollback_available: bool
    holder: str | None
    settled: bool
    version: int
    last_campaign: str | None
    running_slot: str | None
    running_product: str | None
    running_counter: int | None = Field(sa_type=BigInteger)
    previous_version: str | None
    last_report_at: float | None
    presence: bool
    presence_at: float | None
    progress: str
    capabilities: list[Any] = Field(sa_type=JSON)
    encryption_key: str | None
    echoed_epoch: int | None = Field(sa_type=BigInteger)
    echoed_n: int | None = Field(sa_type=BigInteger)
    endpoint: str | None
    services_cas: list[Any] | None = Field(sa_type=JSON)
    __table_args__ = (
        Index(None, "hardware", "id"),
        Index(None, "running_version", "id"),
        Index(None, "presence", "id"),
    )


class TargetLabelTable(Stored, table=True):
    __tablename__ = "target_label"
    target: str = Field(primary_key=True, foreign_key="target.id")
    name: str = Field(primary_key=True)
    value: str
    __table_args__ = (Index(None, "name", "value", "target"),)


class AvailabilityTable(Stored, table=True):
    """What presence taught of one agent. `bins`: its hours of the week and lengths of absences."""

    __tablename__ = "availability"
    agent: str = Field(primary_key=True, foreign_key="agent.id")
    online: bool
    told_at: float
    learned_to: float = Field(index=True)
    first_seen: float
    last_seen: float | None
    away_s: float
    bins: bytes = Field(sa_type=LargeBinary)


class WatchTable(Stored, table=True):
    """From when until when the server had a link to its broker; the newest may still last."""

    __tablename__ = "presence_watch"
    since: float = Field(primary_key=True)
    until: float


class MetricWeekTable(Stored, table=True):
    """One metric of one target in one week (`week`: whole weeks since 1970 UTC). `hours`: its 168 numbers, and from how many
    samples each is."""

    __tablename__ = "metric_week"
    target: str = Field(primary_key=True, foreign_key="target.id")
    week: int = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    hours: bytes = Field(sa_type=LargeBinary)
    __table_args__ = (Index(None, "week"),)


class PackageChunkTable(Stored, table=True):
    """Some of the packages of hosts (`firmware.host_packages`), compressed; `uses`: how often hosts name it."""

    __tablename__ = "package_chunk"
    id: int | None = Field(default=None, primary_key=True, sa_type=BIG)
    sha256: str = Field(unique=True)
    uses: int
    data: bytes = Field(sa_type=LargeBinary)


class HostTable(Stored, table=True):
    """A host's packages. `chunks`: their ids in 4 bytes each, 0 for an empty one; `digest` names all of it."""

    __tablename__ = "host"
    target: str = Field(primary_key=True, foreign_key="target.id")
    digest: str
    facts: dict[str, Any] = Field(sa_type=JSON)
    pending: int
    security: int
    told_at: float
    chunks: bytes = Field(sa_type=LargeBinary)


class HostPartTable(Stored, table=True):
    """Parts of a telling whose last isn't there yet."""

    __tablename__ = "host_part"
    target: str = Field(primary_key=True, foreign_key="target.id")
    number: int = Field(primary_key=True)
    now: str
    parts: int
    data: bytes = Field(sa_type=LargeBinary)


class SavedViewTable(Stored, table=True):
    __tablename__ = "saved_view"
    name: str = Field(primary_key=True)
    query: str
    by: str
    at: float


TARGET = table("target")
TARGET_LABEL = table("target_label")
AVAILABILITY = table("availability")
WATCH = table("presence_watch")
METRIC_WEEK = table("metric_week")
PACKAGE_CHUNK = table("package_chunk")
HOST = table("host")
HOST_PART = table("host_part")
SAVED_VIEW = table("saved_view")
