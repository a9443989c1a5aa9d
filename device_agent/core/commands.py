"""What the core wants done. The shell makes the standing and all `Tell`s durable in one write, then does the rest in order."""

from typing import Any

from msgspec import Struct

from device_agent.core.values import Content, Goal, Held, Migration, Phase
from device_agent.ports import Slot
from firmware.protocol.order import Counter, FileRef
from firmware.protocol.report import Reason
from firmware.protocol.words import AgentState


class Tell(Struct, frozen=True, kw_only=True):
    """Put a signed report about `held` into the outbox."""

    state: AgentState
    held: Held | None
    reason: Reason | None = None
    evidence: dict[str, Any] = {}


class CheckOrder(Struct, frozen=True, kw_only=True):
    """Refresh the catalogue and compare the order with it and the manifest → `OrderChecked`, `CheckRefused`, `CheckDelayed`."""

    held: Held


class Stage(Struct, frozen=True, kw_only=True):
    """Write the release into the inactive slot → `StageFinished`, `StageRefused`, `StageDelayed`, `Withheld`."""

    held: Held
    active: Slot


class StopStaging(Struct, frozen=True, kw_only=True):
    """Let running staging end early; its result will be ignored."""


class VerifySlot(Struct, frozen=True, kw_only=True):
    """Read a slot from the medium again → `SlotVerified`."""

    order_hash: str
    slot: Slot
    content: Content


class SendAsk(Struct, frozen=True, kw_only=True):
    """Sign and send an ask now; if there is no link it is lost and a later one follows."""

    order_hash: str
    counter: Counter
    boot_id: str
    nonce: str


class TrySlot(Struct, frozen=True, kw_only=True):
    """Durably ask the boot loader for a trial; an error becomes `ActivationFailed` and ends the commands of this step."""

    slot: Slot
    trial_id: str
    deadline_s: int


class Reboot(Struct, frozen=True, kw_only=True):
    """Restart the device."""


class Migrate(Struct, frozen=True, kw_only=True):
    """Make the data of the trial's schema out of a copy of the old → `Migrated`, `MigrationFailed`."""

    trial_id: str
    held: Held
    migration: Migration


class ShowData(Struct, frozen=True, kw_only=True):
    """Let the data of this schema be found by what runs; make it, empty, where there never was any."""

    schema: int


class RemoveData(Struct, frozen=True, kw_only=True):
    """Remove the data of these schemas, as far as it is there. `retire`: the slot that nothing can go back to without it; the
    boot loader is told first."""

    schemas: tuple[int, ...]
    retire: Slot | None = None


class RunHealth(Struct, frozen=True, kw_only=True):
    """Run the release's health checks → `HealthFinished`."""

    trial_id: str
    goal: Goal


class Clear(Struct, frozen=True, kw_only=True):
    """Ask windows, conditions and hooks of the device → `Cleared`, `Withheld`."""

    held: Held
    phase: Phase


class RunHeartbeat(Struct, frozen=True, kw_only=True):
    """Run the checks of the release in the running slot → `HeartbeatDone`. `manifest` None: only the device's own."""

    slot: Slot
    manifest: FileRef | None


class VerifyPrevious(Struct, frozen=True, kw_only=True):
    """Read the previous slot from the medium, to go back to it → `PreviousVerified`."""

    slot: Slot
    content: Content


class CommitTrial(Struct, frozen=True, kw_only=True):
    """Declare the trial good to the boot loader → `TrialCommitted`, `CommitFailed`, `CommitVetoed`."""

    trial_id: str
    held: Held


class GiveUp(Struct, frozen=True, kw_only=True):
    """Ask the boot loader for the old slot at the next boot."""

    trial_id: str


Work = (
    CheckOrder
    | Clear
    | Stage
    | VerifySlot
    | VerifyPrevious
    | Migrate
    | ShowData
    | RemoveData
    | RunHealth
    | RunHeartbeat
    | CommitTrial
)
"""What takes time: a job each."""
Command = Tell | Work | StopStaging | SendAsk | TrySlot | Reboot | GiveUp
