"""One transaction and its repositories."""

from sqlalchemy import Connection

from server.storage.audit import SqlAudit
from server.storage.availability import SqlPresences
from server.storage.campaigns import SqlCampaigns
from server.storage.desk import Desk
from server.storage.envelopes import SqlEnvelopes
from server.storage.fleet import SqlFleet
from server.storage.history import SqlCourses, SqlSavedViews
from server.storage.identities import SqlIdentities
from server.storage.inquiries import SqlInquiries
from server.storage.leases import SqlLeases
from server.storage.logs import SqlLogs
from server.storage.messages import SqlInbox, SqlOrders, SqlOutbox
from server.storage.metrics import SqlMetrics
from server.storage.observing import SqlObservations
from server.storage.packages import SqlHostPackages
from server.storage.past import SqlPast
from server.storage.rehearsals import SqlRehearsals
from server.storage.releases import SqlReleases
from server.storage.replies import SqlReplies
from server.storage.webhooks import SqlWebhooks


class SqlUnit:
    """`server.ports.Unit` on one connection; valid only inside the `read` or `write` that made it."""

    def __init__(self, connection: Connection) -> None:
        self._desk = Desk(connection)
        self.identities = SqlIdentities(connection)
        self.releases = SqlReleases(connection)
        self.fleet = SqlFleet(connection)
        self.campaigns = SqlCampaigns(connection)
        self.inbox = SqlInbox(connection)
        self.outbox = SqlOutbox(connection)
        self.orders = SqlOrders(connection)
        self.envelopes = SqlEnvelopes(connection)
        self.audit = SqlAudit(connection, put_off=self._desk.flush)
        self.logs = SqlLogs(connection)
        self.inquiries = SqlInquiries(connection)
        self.presences = SqlPresences(connection)
        self.leases = SqlLeases(connection)
        self.metrics = SqlMetrics(connection)
        self.packages = SqlHostPackages(connection)
        self.replies = SqlReplies(connection)
        self.courses = SqlCourses(connection)
        self.saved_views = SqlSavedViews(connection)
        self.rehearsals = SqlRehearsals(connection)
        self.past = SqlPast(connection)
        self.webhooks = SqlWebhooks(connection)
        self.observations = SqlObservations(connection)

    def flush(self) -> None:
        """Write what was put off; whoever commits calls it before."""
        self._desk.flush()
        self.audit.flush()
