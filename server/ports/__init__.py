"""Ports of the server: the small protocols between its parts, and the values that cross them.

Storage implements `Database` and `Unit`; nothing outside `server.storage` sees SQL. All times are POSIX seconds (UTC).
Every method of a repository runs inside the one transaction of its `Unit`.
"""

from server.ports.audit import Audit as Audit
from server.ports.audit import AuditRecord as AuditRecord
from server.ports.campaigns import Before as Before
from server.ports.campaigns import Campaigns as Campaigns
from server.ports.campaigns import CampaignSpec as CampaignSpec
from server.ports.campaigns import CampaignView as CampaignView
from server.ports.campaigns import DeltaNeed as DeltaNeed
from server.ports.campaigns import Leg as Leg
from server.ports.campaigns import Origin as Origin
from server.ports.fleet import Drift as Drift
from server.ports.fleet import Fleet as Fleet
from server.ports.fleet import Page as Page
from server.ports.fleet import TargetView as TargetView
from server.ports.identity import AgentRecord as AgentRecord
from server.ports.identity import AgentStatus as AgentStatus
from server.ports.identity import ApiToken as ApiToken
from server.ports.identity import CertificateRecord as CertificateRecord
from server.ports.identity import ClaimToken as ClaimToken
from server.ports.identity import Identities as Identities
from server.ports.identity import Role as Role
from server.ports.indicators import SliPort as SliPort
from server.ports.inquiries import Answer as Answer
from server.ports.inquiries import CheckPort as CheckPort
from server.ports.inquiries import Inquiries as Inquiries
from server.ports.inquiries import OpenInquiry as OpenInquiry
from server.ports.leading import Lease as Lease
from server.ports.leading import Leases as Leases
from server.ports.logs import LogAsk as LogAsk
from server.ports.logs import Logs as Logs
from server.ports.logs import LogState as LogState
from server.ports.messages import Inbox as Inbox
from server.ports.messages import InboxItem as InboxItem
from server.ports.messages import Orders as Orders
from server.ports.messages import Outbox as Outbox
from server.ports.messages import OutboxItem as OutboxItem
from server.ports.messages import SeqVerdict as SeqVerdict
from server.ports.messages import StoredOrder as StoredOrder
from server.ports.metrics import MetricHours as MetricHours
from server.ports.presence import Presences as Presences
from server.ports.presence import Waiting as Waiting
from server.ports.releases import MAX_DELTA_MEMORY as MAX_DELTA_MEMORY
from server.ports.releases import DeltaRecord as DeltaRecord
from server.ports.releases import EncryptedImage as EncryptedImage
from server.ports.releases import ReleaseImage as ReleaseImage
from server.ports.releases import ReleaseRecord as ReleaseRecord
from server.ports.releases import Releases as Releases
from server.ports.releases import ReleaseState as ReleaseState
from server.ports.releases import Requirements as Requirements
from server.ports.releases import StoredFile as StoredFile
from server.ports.replies import KeptReply as KeptReply
from server.ports.replies import Replies as Replies
from server.ports.transport import Transport as Transport
from server.ports.unit import Clock as Clock
from server.ports.unit import Database as Database
from server.ports.unit import Unit as Unit
from server.ports.webhooks import Delivery as Delivery
from server.ports.webhooks import DeliveryState as DeliveryState
from server.ports.webhooks import Purpose as Purpose
from server.ports.webhooks import Webhook as Webhook
from server.ports.webhooks import Webhooks as Webhooks
from server.ports.webhooks import WebhookState as WebhookState
