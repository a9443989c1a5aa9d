"""What can happen to an agent. Signatures were checked before an event is made; randomness is in the event."""

from msgspec import Struct

from device_agent.core.values import Content, Held
from device_agent.ports import BootStatus, Slot
from firmware.manifest import Data
from firmware.protocol.permit import Permit
from firmware.protocol.report import Reason
from firmware.protocol.words import AgentState


class Booted(Struct, frozen=True, kw_only=True):
    """The agent process started; first event of every process, again within one boot after a crash."""

    status: BootStatus


class OrderArrived(Struct, frozen=True, kw_only=True):
    """An order signed by the director for this agent and target. `reject`: why it can't be followed, known from its own words."""

    held: Held
    reject: Reason | None = None


class OrderForeign(Struct, frozen=True, kw_only=True):
    """An order signed by the director for somebody else, found on our topic."""

    held: Held
    reason: Reason


class OrderChecked(Struct, frozen=True, kw_only=True):
    """The order agrees with the catalogue and its manifest. `content` is what the slot will hold, `data` what the release says
    about data beside the slots."""

    order_hash: str
    content: Content
    floor: int
    min_uptime_s: int
    data: Data | None = None


class CheckRefused(Struct, frozen=True, kw_only=True):
    """The catalogue or the manifest contradicts the order."""

    order_hash: str
    reason: Reason
    jitter: float = 0.5


class CheckDelayed(Struct, frozen=True, kw_only=True):
    """Catalogue or manifest could not be had now."""

    order_hash: str
    reason: Reason
    jitter: float = 0.5


class StageFinished(Struct, frozen=True, kw_only=True):
    """Written, flushed and read back. `evidence`: what the installer has to say about it, for the report."""

    order_hash: str
    evidence: dict[str, object] = {}


class StageRefused(Struct, frozen=True, kw_only=True):
    """The bytes were wrong, or the slot can't hold them."""

    order_hash: str
    reason: Reason


class StageDelayed(Struct, frozen=True, kw_only=True):
    """Staging stopped before its end and can be resumed."""

    order_hash: str
    reason: Reason
    jitter: float = 0.5


class SlotVerified(Struct, frozen=True, kw_only=True):
    """A staged or previous slot was read again from the medium. `intact`: it holds exactly what it should.
    `has_data`: what it keeps beside the slots is there."""

    order_hash: str
    intact: bool
    has_data: bool = True


class PermitArrived(Struct, frozen=True, kw_only=True):
    """A permit signed by the director."""

    permit: Permit
    jitter: float = 0.5


class ActivationFailed(Struct, frozen=True, kw_only=True):
    """The boot loader could not be asked for the trial."""

    trial_id: str
    reason: Reason


class HealthFinished(Struct, frozen=True, kw_only=True):
    """The trial's checks ended."""

    trial_id: str
    healthy: bool
    text: str


class Migrated(Struct, frozen=True, kw_only=True):
    """The data that the trial needs is there, durably."""

    trial_id: str


class MigrationFailed(Struct, frozen=True, kw_only=True):
    """It can't be had; what it would have been made of is as it was."""

    trial_id: str
    reason: Reason


class TrialCommitted(Struct, frozen=True, kw_only=True):
    """The boot loader durably holds the commit."""

    trial_id: str


class CommitFailed(Struct, frozen=True, kw_only=True):
    """The boot loader could not be told, or a hook wasn't ready; the trial goes on."""

    trial_id: str
    text: str = ""


class CommitVetoed(Struct, frozen=True, kw_only=True):
    """A hook of the device forbids the commit."""

    trial_id: str
    reason: Reason


class HeartbeatDone(Struct, frozen=True, kw_only=True):
    """The checks of what runs in `slot` ended. `healthy` None: they could not be looked at."""

    slot: Slot
    healthy: bool | None
    text: str


class PreviousVerified(Struct, frozen=True, kw_only=True):
    """The previous slot was read from the medium. `intact`: it holds `sha256`. `has_data`: what it keeps beside the slots is
    there. `nonce` is fresh: the id of a trial."""

    sha256: str
    intact: bool
    nonce: str
    has_data: bool = True


class CommitAsked(Struct, frozen=True, kw_only=True):
    """Somebody at the device wants the trial committed as soon as its checks pass; policy allowed it."""


class RollbackAsked(Struct, frozen=True, kw_only=True):
    """Somebody at the device wants the previous release back; policy allowed it."""

    reason: Reason


class Cleared(Struct, frozen=True, kw_only=True):
    """Windows, conditions and hooks say yes to an order, for the next `valid_s` seconds."""

    order_hash: str
    valid_s: float


class Withheld(Struct, frozen=True, kw_only=True):
    """They say no: to be asked again after `retry_s`, or with `veto` for good."""

    order_hash: str
    reason: Reason
    retry_s: float
    veto: bool = False
    jitter: float = 0.5


class DeferAsked(Struct, frozen=True, kw_only=True):
    """Somebody at the device puts off restarts for so many seconds."""

    seconds: float


class Consented(Struct, frozen=True, kw_only=True):
    """Somebody at the device agrees to an order; an empty hash names the present one."""

    order_hash: str = ""


class FailureLogged(Struct, frozen=True, kw_only=True):
    """The device's hook said something about a failure that was reported in `state` about `held`."""

    state: AgentState
    held: Held
    text: str


class LinkUp(Struct, frozen=True, kw_only=True):
    """The broker is reached again."""

    jitter: float = 0.5


class Woke(Struct, frozen=True, kw_only=True):
    """The time of `wake_at` has come. `nonce` is fresh in every event."""

    nonce: str
    jitter: float = 0.5


Event = (
    Booted
    | OrderArrived
    | OrderForeign
    | OrderChecked
    | CheckRefused
    | CheckDelayed
    | StageFinished
    | StageRefused
    | StageDelayed
    | SlotVerified
    | PermitArrived
    | ActivationFailed
    | HealthFinished
    | Migrated
    | MigrationFailed
    | TrialCommitted
    | CommitFailed
    | CommitVetoed
    | FailureLogged
    | Cleared
    | Withheld
    | DeferAsked
    | Consented
    | HeartbeatDone
    | PreviousVerified
    | CommitAsked
    | RollbackAsked
    | LinkUp
    | Woke
)
