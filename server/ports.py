"""Ports of the server: the small protocols between its parts, and the values that cross them.

Storage implements `Database` and `Unit`; nothing outside `server.storage` sees SQL. All times are POSIX seconds (UTC).
Every method of a repository runs inside the one transaction of its `Unit`.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from firmware.contents import ROOT_SET, contents_sha256
from firmware.protocol.metrics import MetricHour
from firmware.protocol.order import Counter
from firmware.protocol.words import Action
from server.planner.availability import Availability
from server.planner.comparing import Pair
from server.planner.decision import Decision
from server.planner.revision_rows import RevisionRow
from server.planner.rows import AssignmentRow, CampaignRow, CohortRow, TokenRow
from server.planner.selection import EVERYBODY, Selection
from server.planner.slices import Footprint, Slice
from server.planner.strategy import Strategy
from server.planner.surroundings import BehindRow, Word
from server.planner.words import AssignmentState

T = TypeVar("T")


class Clock(Protocol):
    """The server's only source of time."""

    def now(self) -> float: ...


# Identity


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUDITOR = "auditor"
    ADMIN = "admin"


class AgentStatus(StrEnum):
    ACTIVE = "active"
    QUARANTINED = "quarantined"
    REVOKED = "revoked"
    DECOMMISSIONED = "decommissioned"

    @property
    def shut_out(self) -> bool:
        """Whether it is out of the fleet for ever."""
        return self in (AgentStatus.REVOKED, AgentStatus.DECOMMISSIONED)


@dataclass(frozen=True, kw_only=True)
class ClaimToken:
    """A right to enrol. Only the sha256 of its secret is kept. `labels` are given to every agent enrolled with it."""

    id: str
    secret_sha256: str
    expires_at: float
    uses_left: int
    labels: Mapping[str, str] = field(default_factory=dict)
    created_by: str = ""


@dataclass(frozen=True, kw_only=True)
class AgentRecord:
    """An enrolled agent. `report_key` is the public report key as a TUF key dict; `keyid` its key id."""

    id: str
    status: AgentStatus
    report_keyid: str
    report_key: Mapping[str, Any]
    certificate_serial: str
    enrolled_at: float
    claim_token: str = ""


@dataclass(frozen=True, kw_only=True)
class CertificateRecord:
    """A certificate given to an agent. `serial`: lower-case hex. `issuer`: sha256 (hex) of its CA's DER, empty for those from
    before this was noted. `replaces`: the serial of the one it was renewed from."""

    serial: str
    agent: str
    issuer: str
    issued_at: float
    expires_at: float
    replaces: str | None = None


@dataclass(frozen=True, kw_only=True)
class ApiToken:
    """A person's or script's access; only the sha256 of the secret is kept."""

    secret_sha256: str
    name: str
    role: Role
    expires_at: float | None = None


class Identities(Protocol):
    def add_claim(self, token: ClaimToken) -> None: ...
    def claims(self) -> Sequence[ClaimToken]: ...
    def spend_claim(self, token_id: str, secret_sha256: str, now: float) -> ClaimToken:
        """Use one of its uses. Raises `RefusedError` (`claim-unknown`, `claim-expired`, `claim-used-up`)."""
        ...

    def add_agent(self, agent: AgentRecord, *, hardware: str, labels: Mapping[str, str]) -> None:
        """Add an agent and its target of the same id."""
        ...

    def agent(self, agent_id: str) -> AgentRecord | None: ...
    def agent_by_report_key(self, keyid: str) -> AgentRecord | None:
        """The agent enrolled with this report key; a key belongs to one agent, so that a retried enrolment finds itself."""
        ...

    def set_agent_status(self, agent_id: str, status: AgentStatus) -> None: ...
    def add_certificate(self, certificate: CertificateRecord) -> None:
        """Note a certificate and make it its agent's current one; the same serial again replaces what was noted."""
        ...

    def certificate(self, serial: str) -> CertificateRecord | None: ...
    def issuers(self) -> Mapping[str, int]:
        """Number of agents that are not shut out, by the issuer of their current certificate (empty: not noted)."""
        ...

    def shut_out_serials(self, now: float) -> Sequence[CertificateRecord]:
        """The certificates of agents that are shut out for ever and that have not expired, by serial."""
        ...

    def set_evicting(self, agent_id: str, evicting: bool) -> None:
        """Whether the agent's live session and retained messages are still to be ended."""
        ...

    def evicting(self, limit: int) -> Sequence[str]: ...
    def add_api_token(self, token: ApiToken) -> None: ...
    def api_token(self, secret_sha256: str) -> ApiToken | None: ...
    def api_tokens(self) -> Sequence[ApiToken]:
        """All of them, by name."""
        ...

    def remove_api_tokens(self, name: str) -> int:
        """Remove every token of this name; how many there were."""
        ...


# Releases


class ReleaseState(StrEnum):
    ACTIVE = "active"
    SUSPECT = "suspect"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A catalogue file: its path, length in bytes and sha256."""

    path: str
    length: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """From where a release may be installed, in release counters of its product; as its manifest's `requires` has it."""

    min_counter: int = 0
    through: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EncryptedImage:
    """What is stored and fetched in an encrypted image's place; `salt` and `key_check` as in the manifest."""

    file: StoredFile
    salt: str
    key_check: str


@dataclass(frozen=True, kw_only=True)
class ReleaseImage:
    """A release's image for one slot set. `file` is the plain one, which nobody has to fetch when there is `encrypted`."""

    slot: str = ROOT_SET
    file: StoredFile
    encrypted: EncryptedImage | None = None

    @property
    def stored(self) -> StoredFile:
        """What is in the store and fetched."""
        return self.encrypted.file if self.encrypted else self.file


@dataclass(frozen=True, kw_only=True)
class ReleaseRecord:
    """A published release: what its manifest says, and where the manifest is. `images`: one for each slot set. `requires` is None
    for a release that was published before the server kept it, until its manifest is read again."""

    product: str
    version: str
    counter: int
    hardware: tuple[str, ...]
    manifest: StoredFile
    images: tuple[ReleaseImage, ...]
    state: ReleaseState = ReleaseState.ACTIVE
    notes: str = ""
    published_at: float = 0.0
    requires: Requirements | None = None

    @property
    def sha256(self) -> str:
        """The hash of what a target's slot holds with this release in it, as reports have it."""
        return contents_sha256((image.slot, image.file.sha256) for image in self.images)

    @property
    def length(self) -> int:
        """Plain bytes of all its images."""
        return sum(image.file.length for image in self.images)

    @property
    def encrypted_sha256(self) -> str | None:
        """What its key is for, as in its manifest; None when nothing of it is encrypted."""
        files = [(image.slot, image.encrypted.file.sha256) for image in self.images if image.encrypted]
        return contents_sha256(files) if files else None

    def image(self, slot: str) -> ReleaseImage | None:
        """Its image for a slot set."""
        return next((image for image in self.images if image.slot == slot), None)


MAX_DELTA_MEMORY = 8 << 20
"""What any delta of the format may ask of who applies it, in bytes."""


@dataclass(frozen=True, kw_only=True)
class DeltaRecord:
    """A delta in the catalogue from one image to another. With `salt` its file is encrypted, by the key of the later release.
    `memory_bytes`: what its header asks of who applies it."""

    file: StoredFile
    source_sha256: str
    source_length: int
    target_sha256: str
    salt: str | None = None
    memory_bytes: int = MAX_DELTA_MEMORY


class Releases(Protocol):
    def add(self, release: ReleaseRecord, *, content_key: bytes | None = None) -> None:
        """Idempotent for an equal record; raises `RefusedError` (`release-exists`) for another of the same version.

        `content_key`: the key of an encrypted release, wrapped for this server."""
        ...

    def content_key(self, product: str, version: str) -> bytes | None:
        """The wrapped key of an encrypted release, apart from its record so that nothing shows it."""
        ...

    def get(self, product: str, version: str) -> ReleaseRecord | None: ...
    def holding(self, sha256: str) -> ReleaseRecord | None:
        """A release with this content (`ReleaseRecord.sha256`), whichever of several."""
        ...

    def list(self) -> Sequence[ReleaseRecord]: ...
    def set_state(self, product: str, version: str, state: ReleaseState) -> None: ...
    def set_requirements(self, product: str, version: str, requires: Requirements) -> None: ...
    def add_delta(self, delta: DeltaRecord) -> None: ...
    def delta(self, source_sha256: str, target_sha256: str) -> DeltaRecord | None: ...
    def deltas(self) -> Sequence[DeltaRecord]: ...


# Fleet


@dataclass(frozen=True, kw_only=True)
class TargetView:
    """A target as people see it. `presence` is a hint; `last_report_at` is evidence. `endpoint`: the server address it said
    it uses; `services_cas`: the services CAs it said it trusts (sha256 of the DER)."""

    id: str
    agent: str
    hardware: str
    labels: Mapping[str, str]
    status: AgentStatus
    running_version: str | None = None
    running_slot: str | None = None
    running_sha256: str | None = None
    running_product: str | None = None
    running_counter: int | None = None
    previous_version: str | None = None
    rollback_available: bool = False
    presence: bool = False
    presence_at: float | None = None
    last_report_at: float | None = None
    campaign: str | None = None
    state: AssignmentState | None = None
    progress: str = ""
    reason_kind: str = "none"
    reason: str = ""
    capabilities: tuple[str, ...] = ()
    encryption_key: str | None = None
    """The public key that it announced for encrypted releases."""
    endpoint: str | None = None
    services_cas: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A counter of a group's members, or of those that are offline, that was not what it should be."""

    key: str
    members: int
    members_counted: int
    offline: int
    offline_counted: int


@dataclass(frozen=True, kw_only=True)
class Page:
    """Rows and the cursor of the next page (None: this was the last)."""

    rows: Sequence[Any]
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """One line of the trail: what happened to whom, under which change."""

    id: int
    at: float
    kind: str
    text: str
    actor: str = "planner"
    change_id: str | None = None
    campaign: str | None = None
    target: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


class Fleet(Protocol):
    def page(self, *, cursor: str | None = None, limit: int = 100, query: Mapping[str, str] | None = None) -> Page:
        """Targets by id. `query` filters by `version`, `hardware`, `campaign`, `state` or `label.NAME`."""
        ...

    def target(self, target_id: str) -> TargetView | None: ...
    def versions(self) -> Mapping[str, int]:
        """Number of targets per running version ("unknown" for none yet)."""
        ...

    def images(self) -> Mapping[str, int]:
        """Number of targets per sha256 of the running image, where that is known."""
        ...

    def count(self) -> int: ...
    def drifted(self) -> int:
        """Number of targets whose version was changed by hand, by the last campaign that held them."""
        ...

    def set_presence(self, agent: str, *, online: bool, at: float) -> None: ...
    def forget_presence(self) -> None:
        """Nobody is known to be online: the broker's word for it is about to come anew."""
        ...

    def set_progress(self, target: str, text: str) -> None: ...
    def note_report(
        self,
        target: str,
        *,
        at: float,
        slot: str,
        previous_version: str | None,
        product: str | None = None,
        counter: int | None = None,
    ) -> None:
        """Note what a stored report says that the planner does not look at; its own columns change through `commit`."""
        ...

    def set_inventory(
        self,
        target: str,
        *,
        labels: Mapping[str, str],
        capabilities: Sequence[str],
        encryption_key: str | None = None,
    ) -> None:
        """Replace the capabilities, the encryption key and the agent's own labels, kept as `agent.NAME` below what the server
        gave."""
        ...

    def set_way(self, target: str, *, endpoint: str | None, services_cas: Sequence[str]) -> None:
        """Note by which address a target said it comes, and which services CAs it trusts."""
        ...

    def put_word(self, word: Word) -> None:
        """Keep a word from outside, in place of one of the same name about the same."""
        ...

    def labels(self, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """The labels of these names, by target, of all targets that are not shut out and have any."""
        ...

    def recount_groups(self) -> Sequence[Drift]:
        """Count the members of every group anew, and repair what was counted wrong; returns what that was."""
        ...

    def endpoints(self) -> Mapping[str, int]:
        """Number of targets that are not shut out, by the address they said they use (empty: none said yet)."""
        ...

    def without_services_ca(self, fingerprint: str) -> int:
        """Number of targets that are not shut out and have not said that they trust this services CA."""
        ...


class Waiting(Struct, frozen=True, kw_only=True):
    """An undecided assignment, as far as a forecast looks at it. `zone`: what a label calls its time zone."""

    target: str
    agent: str
    state: AssignmentState
    wake_at: float | None
    zone: str | None


class Presences(Protocol):
    """When agents are there, as their unsigned presence taught (`server.planner.availability`), and when that was watched."""

    def linked(self, at: float) -> None:
        """The server has a new link to its broker."""
        ...

    def watching(self, at: float) -> None:
        """The link is still there; told about once a minute."""
        ...

    def heard(self, agent: str, *, online: bool, at: float) -> None:
        """The broker said that an agent is there or not. Writes only when that is news."""
        ...

    def of(self, agents: Sequence[str], now: float) -> Mapping[str, Availability]:
        """What is known of these agents, learned up to now; nothing of those that were never heard."""
        ...

    def refresh(self, before: float, now: float, limit: int) -> int:
        """Learn up to now what some agents did that neither came nor went since `before`, and forget watches that no row needs
        any more; returns how many agents."""
        ...

    def waiting(self, campaign: str, cohort: int, states: Sequence[AssignmentState], step: int) -> Sequence[Waiting]:
        """Every `step`-th undecided assignment of a cohort by rank, which is random, with its agent and time zone."""
        ...

    def agents(self, targets: Sequence[str]) -> Mapping[str, str]:
        """The agent of each target."""
        ...

    def labels(self, targets: Sequence[str], names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """The labels of these names that these targets have."""
        ...


class MetricHours(Protocol):
    """What targets measured, by hour, as their signed reports told it."""

    def put(self, target: str, hours: Sequence[MetricHour], now: float) -> int:
        """Store hours; told again, or in another order, they are the same. Returns how many numbers were left out: of hours too
        long ago or yet to come, or of more metrics than a target may have."""
        ...

    def of(
        self, targets: Sequence[str], names: Sequence[str], hours: Sequence[range]
    ) -> Mapping[tuple[str, str], Mapping[int, float]]:
        """What these targets told of these metrics in these hours (since 1970 UTC); by target and metric, those without any left
        out."""
        ...

    def forget(self, now: float, limit: int) -> int:
        """Forget weeks that nothing is compared with any more; returns how many rows."""
        ...

    def telling(self, targets: Sequence[str], name: str, now: float) -> int:
        """How many of these targets told this metric in this week or the one before."""
        ...


# Campaigns


@dataclass(frozen=True, kw_only=True)
class CampaignSpec:
    """A parsed campaign file."""

    name: str
    product: str
    version: str
    strategy: Strategy
    selection: Selection = EVERYBODY
    start_at: float | None = None
    """POSIX seconds; once started and approved it waits for this time."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a target sets out from: its hardware, what it runs (as it says), and what it can do."""

    hardware: str
    sha256: str | None
    product: str | None
    counter: int | None
    capabilities: tuple[str, ...]


class DeltaNeed(StrEnum):
    """What became of a delta that a campaign needs: still to be made, made, not to be had, or not worth making (beyond the
    strategy's number, or nobody could apply it)."""

    WANTED = "wanted"
    MADE = "made"
    REFUSED = "refused"
    LEFT_OUT = "left_out"


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One image that targets of a campaign need, planned when it was started: from what a slot set holds to a release's. `rank`
    orders the deltas to be made; `capable` of the `targets` can apply one. `source_sha256` is empty for images that no release
    has. `delta_bytes` is the length of the delta that is there by now."""

    campaign: str
    rank: int
    slot: str = ROOT_SET
    source_sha256: str
    source_version: str
    target_sha256: str
    target_version: str
    image_bytes: int
    targets: int
    capable: int
    need: DeltaNeed
    reason: str = ""
    delta_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class CampaignView:
    """A campaign as people see it, with its cohorts and their counters; `legs` only where one campaign is looked at."""

    row: CampaignRow
    name: str
    cohorts: Sequence[CohortRow]
    created_at: float
    created_by: str
    selection: Selection = EVERYBODY
    legs: Sequence[Leg] = ()
    proposal: RevisionRow | None = None
    """The revision that waits for approvals; only where one campaign is looked at."""
    warnings: Sequence[str] = ()
    """What of it can never come to an end, what is left out, and what its gates lack power for; told when it is made."""


@dataclass(frozen=True, kw_only=True)
class Before:
    """What a target had before its campaign's release: the version in its other slot (None: nothing that could run), and the
    sha256 of what it ran when it got its permit."""

    version: str | None
    sha256: str | None = None


class Campaigns(Protocol):
    def create(
        self,
        campaign: CampaignRow,
        name: str,
        cohorts: Sequence[CohortRow],
        *,
        created_at: float,
        created_by: str,
        selection: Selection | None = None,
    ) -> None:
        """Store the campaign, its cohorts and its revision, and no assignments yet. Raises `RefusedError`
        (`campaign-exists`)."""
        ...

    def redraft(
        self,
        campaign: CampaignRow,
        name: str,
        cohorts: Sequence[CohortRow],
        *,
        created_at: float,
        created_by: str,
        selection: Selection | None = None,
    ) -> None:
        """Put a new draft in the place of one that never began: its revisions stay, all else is replaced. Raises
        `ConflictError` when the draft changed since it was loaded."""
        ...

    def revisions(self, campaign_id: str) -> Sequence[RevisionRow]:
        """All of a campaign's revisions, oldest first."""
        ...

    def set_selection(self, campaign_id: str, selection: Selection) -> None:
        """Note whom the campaign selects since its newest revision."""
        ...

    def add_assignments(self, rows: Iterable[AssignmentRow], *, page: int = 2_000) -> None:
        """Store new assignments, so many at a time: a million of them are never in memory as values."""
        ...

    def add_behind(self, rows: Sequence[BehindRow]) -> None:
        """Store the counters of the campaign's gateways."""
        ...

    def eligible(self, product: str, hardware: Sequence[str], selection: Selection) -> Sequence[str]:
        """Ids of the active targets that fit, sorted."""
        ...

    def newcomers(self, campaign_id: str, hardware: Sequence[str], selection: Selection, limit: int) -> Sequence[str]:
        """Ids of active targets that fit and aren't the campaign's, sorted."""
        ...

    def returners(self, campaign_id: str, hardware: Sequence[str], selection: Selection, limit: int) -> Sequence[str]:
        """Ids of active targets that fit and dropped out of the campaign because they didn't, sorted."""
        ...

    def leavers(self, campaign_id: str, selection: Selection, limit: int) -> Sequence[str]:
        """Ids of the campaign's planned targets that don't fit, sorted."""
        ...

    def traits(
        self, hardware: Sequence[str], selection: Selection, names: Sequence[str]
    ) -> Mapping[str, dict[str, str]]:
        """Of each target that `eligible` finds: `hardware`, `version`, and its labels of these names."""
        ...

    def origins(self, campaign_id: str) -> Mapping[Origin, int]:
        """From where the campaign's targets that are still planned set out, and how many from each."""
        ...

    def set_legs(self, campaign_id: str, legs: Sequence[Leg]) -> None:
        """Replace the campaign's legs."""
        ...

    def legs(self, campaign_id: str) -> Sequence[Leg]:
        """The campaign's legs by rank, with the deltas that are there."""
        ...

    def settle_leg(self, leg: Leg, need: DeltaNeed, reason: str = "") -> None:
        """Note what became of the delta of one leg."""
        ...

    def next_leg(self) -> Leg | None:
        """The next delta to make: the first that is wanted of the oldest campaign that is not over."""
        ...

    def awaiting_deltas(self) -> Sequence[str]:
        """Campaigns that wait for deltas and want none any more."""
        ...

    def list(self) -> Sequence[CampaignView]: ...
    def view(self, campaign_id: str) -> CampaignView | None: ...
    def assignments(
        self,
        campaign_id: str,
        *,
        states: Sequence[AssignmentState] | None = None,
        cohort: int | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Assignments by (cohort, rank)."""
        ...

    def candidates(self, campaign_id: str, cohort: int, limit: int) -> Sequence[AssignmentRow]:
        """The first planned assignments of a cohort that wait for nothing (no `wake_at`), by rank."""
        ...

    def in_states(
        self,
        campaign_id: str,
        states: Sequence[AssignmentState],
        limit: int,
        *,
        cohort: int | None = None,
        action: Action | None = None,
    ) -> Sequence[AssignmentRow]:
        """Some assignments in these states, of this cohort and with this action if given, in no promised order."""
        ...

    def with_release(self, product: str, version: str) -> Sequence[CampaignRow]:
        """The campaigns of this release, by id."""
        ...

    def to_undo(self, limit: int) -> Sequence[CampaignRow]:
        """Some campaigns for which nothing was proposed yet: completed or aborted ones of a suspect release, and those that were
        rolled back and have targets that couldn't go back."""
        ...

    def to_rouse(self) -> CampaignRow | None:
        """A campaign under way of which targets are to be told to ask again (`rouse`)."""
        ...

    def waiting_for_windows(self, campaign_id: str, after: str, limit: int) -> Sequence[AssignmentRow]:
        """Its assignments, by target after this one, that were told to wait for a window or the end of a freeze."""
        ...

    def to_remind(self, now: float, limit: int) -> Sequence[str]:
        """Some campaigns whose owed approvals are to be asked for again (`remind_at`)."""
        ...

    def running_release(self, campaign_id: str) -> Mapping[str, Before]:
        """The campaign's targets that run its release and are not shut out, with what they had before."""
        ...

    def holders(self, groups: Sequence[str], limit: int) -> Sequence[TokenRow]:
        """Some tokens of these groups, oldest first, whoever holds them."""
        ...

    def first_in_line(self, group: str) -> TokenRow | None:
        """Who comes next in the line of a group (`download_line`), of the campaigns that admit; None when nobody waits."""
        ...

    def assigned(self, campaign_id: str, selection: Selection) -> Sequence[str]:
        """Ids of the campaign's targets that fit, sorted."""
        ...

    def given_out(self, campaign_id: str, now: float, after: str, limit: int) -> Sequence["StoredOrder"]:
        """The current orders of the campaign that are given out for unattended use and may still be followed, by target."""
        ...

    def pairs(
        self, campaign_id: str, cohort: int, release_sha256: str, after: int, limit: int, *, target: str | None = None
    ) -> Sequence[Pair]:
        """Verified targets of a cohort that have a control and were not compared yet, with it, by rank above `after`; only this
        target if given."""
        ...

    def waiting_for(self, target: str) -> str | None:
        """The oldest live campaign that has planned this target and not admitted it; else the newest one that ended before
        the target's turn came and is younger than the campaign that holds it."""
        ...

    def open_for(self, target: str) -> Sequence[str]:
        """Ids of the campaigns in which this target's part is not over: undecided, or missing."""
        ...

    def due(self, now: float, limit: int) -> tuple[Sequence[CampaignRow], Sequence[AssignmentRow]]:
        """Rows whose `wake_at` has passed, oldest first."""
        ...

    def next_wake(self) -> float | None: ...
    def load(self, footprint: Footprint) -> Slice: ...
    def commit(self, decision: Decision) -> None:
        """Apply the changes by compare-and-set. Raises `ConflictError` when a row did not match; nothing is kept then."""
        ...


# Messages in and out


@dataclass(frozen=True, kw_only=True)
class InboxItem:
    """A verified message, stored before it is acked. `body` is the verified payload (JSON object)."""

    id: int
    kind: str
    target: str
    hash: str
    received_at: float
    body: Mapping[str, Any]


class SeqVerdict(StrEnum):
    """What a report's (journal, seq, hash) is: new, a repeat of what is stored, too early, a clone's, or of one journal more
    than an agent may begin."""

    NEW = "new"
    NEW_AFTER_GAP = "new_after_gap"
    REPEAT = "repeat"
    EARLY = "early"
    CLONE = "clone"
    TOO_MANY_JOURNALS = "too_many_journals"


class Inbox(Protocol):
    def sequence(self, agent: str, journal: str, seq: int, oldest: int, digest: str) -> SeqVerdict: ...
    def add_report(
        self, target: str, agent: str, journal: str, seq: int, digest: str, body: Mapping[str, Any], received_at: float
    ) -> None:
        """Store a report and advance the sequence of its journal."""
        ...

    def add_ask(self, target: str, digest: str, body: Mapping[str, Any], received_at: float) -> None:
        """Store an ask, in the place of the target's own that waits."""
        ...

    def unprocessed(self, limit: int) -> Sequence[InboxItem]: ...
    def latest(self, kind: str, target: str) -> InboxItem | None:
        """The newest message of this kind from a target that is still known."""
        ...

    def mark_processed(self, item_id: int) -> None: ...
    def forget(self, before: float, now: float, limit: int) -> int:
        """Forget of the first `limit` processed messages those received before (or, by a clock that was wrong, in the
        future); returns how many."""
        ...


@dataclass(frozen=True, kw_only=True)
class OutboxItem:
    """A message to publish. It stays until the broker took it."""

    id: int
    topic: str
    payload: bytes
    retain: bool
    expires_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class StoredOrder:
    """The current order of a target, as signed."""

    target: str
    agent: str
    counter: Counter
    hash: str
    envelope: bytes
    campaign: str | None


class Outbox(Protocol):
    def add(self, topic: str, payload: bytes, *, retain: bool = False, expires_at: float | None = None) -> None: ...
    def pending(self, limit: int) -> Sequence[OutboxItem]: ...
    def done(self, item_ids: Sequence[int]) -> None: ...
    def take_back(self, topic: str) -> None:
        """Forget what waits for this topic."""
        ...


class Orders(Protocol):
    def current(self, target: str) -> StoredOrder | None: ...
    def put(self, order: StoredOrder) -> None: ...
    def forget(self, target: str) -> None:
        """Forget the target's order: there will be no other."""
        ...

    def echoed(self, target: str) -> Counter | None:
        """The highest counter the target echoed in a signed report."""
        ...

    def set_echoed(self, target: str, counter: Counter) -> None: ...
    def page(self, *, cursor: str | None = None, limit: int = 500) -> Page:
        """Current orders of active targets, by target, for republishing after the broker lost its retained messages."""
        ...


class Audit(Protocol):
    def add(
        self,
        *,
        at: float,
        kind: str,
        text: str,
        actor: str = "planner",
        change_id: str | None = None,
        campaign: str | None = None,
        target: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None: ...
    def page(
        self, *, after: int = 0, limit: int = 100, campaign: str | None = None, target: str | None = None
    ) -> Sequence[AuditRecord]: ...
    def latest(
        self, *, limit: int = 100, campaign: str | None = None, target: str | None = None
    ) -> Sequence[AuditRecord]:
        """The newest, newest first."""
        ...


class LogState(StrEnum):
    """Where a request for a target's logs stands."""

    WAITING = "waiting"
    ANSWERED = "answered"
    REFUSED = "refused"
    EXPIRED = "expired"


@dataclass(frozen=True, kw_only=True)
class LogAsk:
    """A request for a target's logs. `counter`: of what was signed last, at `sent_at`; parts of an earlier one count no more.
    `campaign`: the one that it is evidence for; None: a person asked."""

    id: str
    target: str
    agent: str
    what: Sequence[str]
    max_bytes: int
    asked_by: str
    asked_at: float
    expires_at: float
    counter: Counter
    sent_at: float
    state: LogState = LogState.WAITING
    reason_kind: str = "none"
    reason: str = ""
    answered_at: float | None = None
    size_bytes: int = 0
    campaign: str | None = None
    change_id: str | None = None


class Logs(Protocol):
    def add(self, ask: LogAsk) -> None: ...
    def get(self, ask_id: str) -> LogAsk | None: ...
    def text(self, ask_id: str) -> str | None:
        """What came in answer, or None."""
        ...

    def of_target(self, target: str, limit: int) -> Sequence[LogAsk]:
        """The target's requests, the newest first."""
        ...

    def of_campaign(self, campaign: str, after: str, limit: int) -> Sequence[LogAsk]:
        """The campaign's evidence, by id, after this one."""
        ...

    def waiting(self, agent: str) -> Sequence[LogAsk]:
        """The agent's requests without an answer, the oldest first."""
        ...

    def highest(self, target: str) -> Counter | None:
        """The highest counter of any request that is known."""
        ...

    def sent_again(self, ask_id: str, counter: Counter, at: float) -> None:
        """It was signed anew; what came in parts before is forgotten."""
        ...

    def add_part(self, ask_id: str, index: int, data: bytes) -> Sequence[bytes]:
        """Store a part; all parts so far, by index. One that is there already stays."""
        ...

    def close(self, ask_id: str, state: LogState, at: float, *, text: str, reason_kind: str, reason: str) -> None:
        """Make it one that waits no more; changes nothing when it did not wait. Its parts are forgotten."""
        ...

    def expire(self, now: float, limit: int) -> int:
        """Close those whose time is over; returns how many."""
        ...

    def forget(self, before: float, keep: int, limit: int) -> int:
        """Forget those that people asked for before, and of each target's closed ones all but the latest `keep`; returns how
        many. Evidence stays."""
        ...


class OpenInquiry(Struct, frozen=True, kw_only=True):
    """A check elsewhere that is asked until it answers: `name` about `key`, on behalf of a campaign and one of its targets."""

    name: str
    key: str
    campaign: str
    target: str
    asked_at: float
    attempts: int = 0
    next_at: float
    reason: str = ""


class Inquiries(Protocol):
    def open(self, inquiry: OpenInquiry) -> bool:
        """Keep one that is to be asked, unless one about the same waits; whether it is new."""
        ...

    def due(self, now: float, limit: int) -> Sequence[OpenInquiry]:
        """Some that are to be asked now, the longest due first."""
        ...

    def next_at(self) -> float | None: ...
    def put_off(self, inquiry: OpenInquiry, next_at: float, reason: str) -> bool:
        """It wasn't answered: ask again then. Whether it was still as it is given."""
        ...

    def answered(self, inquiry: OpenInquiry) -> bool:
        """It is asked no more. Whether it was still as it is given."""
        ...

    def drop(self, inquiry: OpenInquiry) -> None: ...
    def forget(self, before: float, limit: int) -> int:
        """Forget answered ones from before; returns how many."""
        ...


# Leading


class Lease(Struct, frozen=True, kw_only=True):
    """Something that one holder at a time may call its own. `token` rises by one whenever it is taken, and fences off who had it
    before; `renewals` rises while the holder lives. `address`: where people reach the holder."""

    name: str
    holder: str = ""
    token: int = 0
    renewals: int = 0
    is_free: bool = True
    address: str = ""


class Leases(Protocol):
    def get(self, name: str) -> Lease:
        """The lease as it stands; free and with token 0 when nobody ever had it."""
        ...

    def take(self, seen: Lease, *, holder: str, address: str) -> Lease:
        """Make it this holder's, under the next token. Raises `ConflictError` when it is not as it was seen."""
        ...

    def hold(self, mine: Lease) -> None:
        """Make sure, for this transaction, that it is still the holder's; raises `NotLeaderError` when it isn't."""
        ...

    def renew(self, mine: Lease) -> None:
        """Show that the holder lives; raises `NotLeaderError` when it isn't the holder's any more."""
        ...

    def give_back(self, mine: Lease) -> None:
        """Let whoever wants it have it at once; changes nothing when it isn't the holder's any more."""
        ...


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


class Database(Protocol):
    """Transactions for async callers. `work` runs in a thread, so it must not touch the event loop."""

    async def read(self, work: Callable[[Unit], T]) -> T: ...
    async def write(self, work: Callable[[Unit], T]) -> T:
        """Run `work` in one serialised write transaction; an exception rolls all of it back."""
        ...

    async def close(self) -> None: ...


# Monitoring


class SliPort(Protocol):
    """Service level indicators of a monitoring system, by the names that the server's configuration gives them."""

    async def read(self, name: str) -> float:
        """The indicator's value now.

        Raises `RefusedError` (`sli-unknown`, `sli-unusable`) or `UnavailableError` (`sli-unavailable`).
        """
        ...


class Answer(Struct, frozen=True, kw_only=True):
    """What a check says: `good` or `bad`, which holds for `lives_s` (None: for as long as is usual); or `wait`, and to be asked
    again after `retry_s` (None: likewise)."""

    verdict: str
    reason: str = ""
    lives_s: float | None = None
    retry_s: float | None = None


class CheckPort(Protocol):
    """Checks elsewhere, by the names that the server's configuration gives them."""

    async def ask(self, name: str, question: Mapping[str, Any]) -> Answer:
        """The answer of the check to a question (JSON values).

        Raises `RefusedError` (`check-unknown`, `check-unusable`) or `UnavailableError` (`check-unavailable`).
        """
        ...


# Transport


class Transport(Protocol):
    """The broker as the server sees it. Reconnects by itself."""

    async def run(self) -> None:
        """Connect, subscribe, hand every message to the callback given at construction; until cancelled."""
        ...

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """QoS 1; returns once the broker took it. Raises `UnavailableError` while there is no connection."""
        ...

    @property
    def connected(self) -> bool: ...
    def connections(self) -> AsyncIterator[int]:
        """Yields the number of each new connection (1, 2, …): the moment to republish what the broker may have lost."""
        ...
