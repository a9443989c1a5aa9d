"""One transaction, the database that runs it, and the clock."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from server.ports.audit import Audit
from server.ports.campaigns import Campaigns
from server.ports.envelopes import Envelopes
from server.ports.fleet import Fleet
from server.ports.history import Courses, SavedViews
from server.ports.identity import Identities
from server.ports.inquiries import Inquiries
from server.ports.leading import Leases
from server.ports.logs import Logs
from server.ports.messages import Inbox, Orders, Outbox
from server.ports.metrics import MetricHours
from server.ports.observing import Observations
from server.ports.packages import HostPackages
from server.ports.past import Past
from server.ports.presence import Presences
from server.ports.rehearsals import Rehearsals
from server.ports.releases import Releases
from server.ports.replies import Replies
from server.ports.webhooks import Webhooks

T = TypeVar("T")


class Clock(Protocol):
    """The server's only source of time."""

    def now(self) -> float: ...


class Unit(Protocol):
    """One transaction."""

    @property
    def identities(self) -> Identities: ...
    @property
    def releases(self) -> Releases: ...
    @property
    def fleet(self) -> Fleet: ...
    @property
    def campaigns(self) -> Campaigns: ...
    @property
    def inbox(self) -> Inbox: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def orders(self) -> Orders: ...
    @property
    def envelopes(self) -> Envelopes: ...
    @property
    def audit(self) -> Audit: ...
    @property
    def logs(self) -> Logs: ...
    @property
    def inquiries(self) -> Inquiries: ...
    @property
    def presences(self) -> Presences: ...
    @property
    def leases(self) -> Leases: ...
    @property
    def metrics(self) -> MetricHours: ...
    @property
    def packages(self) -> HostPackages: ...
    @property
    def rehearsals(self) -> Rehearsals: ...
    @property
    def past(self) -> Past: ...
    @property
    def replies(self) -> Replies: ...
    @property
    def courses(self) -> Courses: ...
    @property
    def saved_views(self) -> SavedViews: ...
    @property
    def webhooks(self) -> Webhooks: ...
    @property
    def observations(self) -> Observations: ...


class Database(Protocol):
    """Transactions for async callers. `work` runs in a thread, so it must not touch the event loop."""

    async def read(self, work: Callable[[Unit], T]) -> T: ...
    async def write(self, work: Callable[[Unit], T]) -> T:
        """Run `work` in one serialised write transaction; an exception rolls all of it back."""
        ...

    async def close(self) -> None: ...
