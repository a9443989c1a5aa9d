"""Data beside the slots, as the core decides: migrated in the trial before it is judged, kept for the way back, let go after."""

from typing import Any

import pytest
from msgspec.structs import replace

from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core.machine import running_of, step, wake_at
from device_agent.core.states import Data, Failed, Standing, Trial
from device_agent.core.values import DataPolicy, Held, Migration, Tuning
from device_agent.journal import Record, decode, encode
from device_agent.outbox import Outbox
from device_agent.ports import BootOutcome, Slot
from firmware.manifest import Data as Declared
from firmware.protocol.report import Reason
from firmware.protocol.words import Action
from tests.device_agent.core.playbook import NOW, Player, boot, content, held

TO_4 = Declared(schema=4, migrates=[2, 3], argv=["/usr/bin/migrate"], timeout_s=20, room_bytes=100)
MIGRATION = Migration(source=3, schema=4, argv=("/usr/bin/migrate",), timeout_s=20, room_bytes=100)


AT_THREE = DataPolicy(factory_schema=3)


class Keeper(Player):
    """A device that keeps data, of schema 3 from the factory."""

    def __init__(self, standing: Standing | None = None, policy: DataPolicy | None = AT_THREE) -> None:
        self.tuning = Tuning(data=policy)
        super().__init__(standing)

    def tell(self, event: ev.Event) -> "Keeper":
        self.standing, self.last = step(self.standing, event, self.now, self.trusted, self.tuning)
        return self

    def checked(self, data: Declared | None, order: Held | None = None, version: str = "2.0") -> "Keeper":
        order = order or held()
        event = ev.OrderChecked(order_hash=order.hash, content=content(version), floor=0, min_uptime_s=0, data=data)
        self.ordered(order)
        return self.tell(event)

    def on_trial(self, data: Declared | None = TO_4, order: Held | None = None) -> "Keeper":
        order = order or held()
        self.checked(data, order).tell(ev.StageFinished(order_hash=order.hash))
        self.wake().tell(self.permit())
        self.reboot_into_trial()
        return self

    def migrated(self) -> "Keeper":
        return self.tell(ev.Migrated(trial_id=self.trial_id))

    @property
    def trial_id(self) -> str:
        state: Any = self.standing.state
        return str(state.trial_id)

    def at_four(self) -> "Keeper":
        """Committed on schema 4, with 3 kept."""
        self.on_trial().migrated().healthy()
        return self.tell(ev.TrialCommitted(trial_id=self.trial_id))

    def shown(self) -> list[int]:
        return [command.schema for command in self.last if isinstance(command, do.ShowData)]

    def removed(self) -> list[do.RemoveData]:
        return [command for command in self.last if isinstance(command, do.RemoveData)]

    def evidence(self) -> dict[str, object]:
        return next(command.evidence for command in self.last if isinstance(command, do.Tell))


def test_what_runs_is_shown_its_data_at_every_start() -> None:
    keeper = Keeper()
    assert keeper.shown() == [3]
    assert keeper.standing.slots[Slot.A].data_schema == 3
    assert keeper.standing.data.held == (3,)


def test_a_device_without_a_place_for_data_shows_and_takes_none() -> None:
    keeper = Keeper(policy=None)
    assert keeper.shown() == []
    assert keeper.checked(TO_4).told == [("refused", "data-no-place")]


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        (Declared(schema=4, migrates=[2], argv=["m"]), "data-no-path"),
        (Declared(schema=4), "data-no-path"),
        (Declared(schema=2), "data-no-path"),
    ],
)
def test_a_release_that_the_data_here_does_not_lead_to_is_refused_before_anything_is_written(
    declared: Declared, kind: str
) -> None:
    keeper = Keeper().checked(declared)
    assert keeper.told == [("refused", kind)]
    assert "Stage" not in keeper.done


@pytest.mark.parametrize("declared", [None, Declared(schema=3), Declared(schema=3, migrates=[2], argv=["m"])])
def test_a_release_of_the_same_schema_or_of_none_shares_what_is_there(declared: Declared | None) -> None:
    keeper = Keeper().on_trial(declared)
    assert keeper.shown() == [3]
    assert "Migrate" not in keeper.done
    assert "RunHealth" in keeper.done


def test_the_migration_must_fit_into_the_trial() -> None:
    slow = replace(TO_4, timeout_s=60)
    assert Keeper().checked(slow).told == [("refused", "trial-too-short")]


def test_a_trial_is_migrated_before_it_is_judged_and_its_data_is_shown_only_then() -> None:
    keeper = Keeper().on_trial()
    assert keeper.done == ["Migrate"]
    assert keeper.shown() == []
    command = next(command for command in keeper.last if isinstance(command, do.Migrate))
    assert command.migration == MIGRATION
    keeper.migrated()
    assert keeper.done == ["ShowData", "RunHealth"]
    assert keeper.shown() == [4]


def test_an_agent_that_starts_again_in_the_trial_goes_on_where_the_migration_stands() -> None:
    keeper = Keeper().on_trial()
    again = boot("boot-2", Slot.B, outcome=BootOutcome.TRIAL, trial_id=keeper.trial_id)
    assert keeper.tell(again).done == ["Migrate"]
    keeper.migrated()
    stored = decode(encode(Record(standing=keeper.standing, outbox=Outbox(journal="j"))))
    keeper.standing = stored.standing
    assert keeper.tell(again).done == ["ShowData", "RunHealth"]
    second = boot("boot-3", Slot.B, outcome=BootOutcome.TRIAL, trial_id=keeper.trial_id)
    assert keeper.tell(second).done == ["ShowData", "RunHealth"], "the second attempt keeps the data of the first"


def test_the_watch_begins_when_the_data_is_there() -> None:
    keeper = Keeper()
    keeper.checked(TO_4)
    state: Any = keeper.standing.state
    keeper.standing = replace(keeper.standing, state=replace(state, goal=replace(state.goal, min_uptime_s=10)))
    keeper.tell(ev.StageFinished(order_hash=held().hash)).wake().tell(keeper.permit())
    keeper.reboot_into_trial()
    keeper.now += 15
    keeper.migrated()
    assert "CommitTrial" not in keeper.healthy().done, "its up time counts from the migration"
    keeper.wake()
    assert keeper.done == ["RunHealth"]
    assert keeper.healthy().done == ["CommitTrial"]


def test_a_failed_migration_gives_the_trial_up_for_its_own_reason() -> None:
    keeper = Keeper().on_trial()
    reason = Reason(kind="migration-failed", text="The migration ended with 3.")
    assert keeper.tell(ev.MigrationFailed(trial_id=keeper.trial_id, reason=reason)).done == ["GiveUp", "Reboot"]
    fell_back = boot("boot-3", Slot.A, outcome=BootOutcome.FELL_BACK, trial_id=keeper.trial_id, cause="requested")
    keeper.tell(fell_back)
    assert keeper.told == [("fell_back", "migration-failed")]
    assert keeper.shown() == [3]
    assert keeper.removed()[0].schemas == (4,)
    assert keeper.removed()[0].retire is None
    assert "schema 3 is as it was" in str(keeper.evidence()["data"])


def test_late_answers_about_another_trial_change_nothing() -> None:
    keeper = Keeper().on_trial()
    before = keeper.standing
    assert keeper.tell(ev.Migrated(trial_id="other")).standing == before
    reason = Reason(kind="migration-failed")
    assert keeper.tell(ev.MigrationFailed(trial_id="other", reason=reason)).standing == before
    rest = Keeper()
    assert rest.tell(ev.Migrated(trial_id="other")).done == []


def test_a_committed_release_keeps_the_data_it_came_from_for_the_way_back() -> None:
    keeper = Keeper().at_four()
    assert keeper.told == [("committed", None)]
    assert keeper.removed() == []
    assert keeper.standing.data.held == (3, 4)
    keeper.tell(boot("boot-9", Slot.B))
    assert keeper.shown() == [4]
    assert keeper.removed() == []
    assert running_of(keeper.standing).rollback_available


def test_going_back_shows_the_old_data_and_says_what_is_lost() -> None:
    keeper = Keeper().at_four()
    back = held(2, Action.ROLLBACK)
    keeper.ordered(back).tell(ev.SlotVerified(order_hash=back.hash, intact=True))
    keeper.wake().tell(keeper.permit())
    keeper.reboot_into_trial("boot-5")
    assert keeper.shown() == [3]
    keeper.healthy().tell(ev.TrialCommitted(trial_id=keeper.trial_id))
    assert "in schema 4, is not in it" in str(keeper.evidence()["data"])


def test_going_back_without_its_data_is_refused_before_anything_is_switched() -> None:
    keeper = Keeper().at_four()
    back = held(2, Action.ROLLBACK)
    keeper.ordered(back).tell(ev.SlotVerified(order_hash=back.hash, intact=True, has_data=False))
    assert keeper.told == [("refused", "data-gone")]
    assert not running_of(keeper.standing).rollback_available
    assert keeper.ordered(held(3, Action.ROLLBACK)).told == [("refused", "data-gone")]


def test_a_retreat_without_its_data_is_told_and_not_begun() -> None:
    keeper = Keeper().at_four()
    keeper.tell(ev.RollbackAsked(reason=Reason(kind="rolled-back-locally")))
    seen = ev.PreviousVerified(sha256="1" * 64, intact=True, nonce="n", has_data=False)
    assert keeper.tell(seen).told == [("failed", "data-gone")]
    assert "TrySlot" not in keeper.done


def test_staging_over_the_previous_slot_lets_its_data_go() -> None:
    keeper = Keeper().at_four()
    order = held(2)
    keeper.checked(Declared(schema=5, migrates=[4], argv=["m"], timeout_s=20), order, version="3.0")
    assert keeper.removed() == [], "until it is overwritten the boot loader may still take it"
    keeper.tell(ev.StageFinished(order_hash=order.hash))
    assert [command.schemas for command in keeper.removed()] == [(3,)]
    keeper.tell(boot("boot-7", Slot.B))
    assert [command.schemas for command in keeper.removed()] == [(3,)], "what a cut left is removed at the next start"


def test_kept_data_goes_after_its_time_and_the_boot_loader_hears_of_it() -> None:
    keeper = Keeper(policy=DataPolicy(factory_schema=3, keep_s=7200.0)).at_four()
    assert wake_at(keeper.standing) is not None
    keeper.trusted += 7100
    keeper.now = max(keeper.now, keeper.standing.data.look_at or 0)
    keeper.tell(ev.Woke(nonce="n"))
    assert keeper.removed() == []
    keeper.trusted += 200
    keeper.now = max(keeper.now, keeper.standing.data.look_at or 0)
    keeper.tell(ev.Woke(nonce="n"))
    assert keeper.told == [("committed", "data-gone")]
    assert [(command.schemas, command.retire) for command in keeper.removed()] == [((3,), Slot.A)]
    assert keeper.ordered(held(5, Action.ROLLBACK, expires_at=NOW + 90_000)).told == [("refused", "data-gone")]


def test_kept_data_does_not_go_while_something_is_on_its_way_back_to_it() -> None:
    keeper = Keeper(policy=DataPolicy(factory_schema=3, keep_s=7200.0)).at_four()
    back = held(2, Action.ROLLBACK)
    keeper.ordered(back).tell(ev.SlotVerified(order_hash=back.hash, intact=True))
    keeper.trusted += 8000
    keeper.now = max(keeper.now, keeper.standing.data.look_at or 0)
    keeper.tell(ev.Woke(nonce="n"))
    assert keeper.removed() == []
    assert keeper.standing.data.leaving == 3


def test_the_time_of_kept_data_goes_on_over_restarts() -> None:
    keeper = Keeper(policy=DataPolicy(factory_schema=3, keep_s=7200.0)).at_four()
    keeper.standing = decode(encode(Record(standing=keeper.standing, outbox=Outbox(journal="j")))).standing
    keeper.trusted = NOW + 8000.0
    keeper.tell(boot("boot-9", Slot.B))
    keeper.now = keeper.standing.data.look_at or 0
    keeper.tell(ev.Woke(nonce="n"))
    assert keeper.told == [("committed", "data-gone")]


def test_coming_back_to_a_schema_that_was_removed_makes_it_anew() -> None:
    keeper = Keeper().on_trial()
    reason = Reason(kind="migration-failed")
    keeper.tell(ev.MigrationFailed(trial_id=keeper.trial_id, reason=reason))
    keeper.tell(boot("boot-3", Slot.A, outcome=BootOutcome.FELL_BACK, trial_id=keeper.trial_id, cause="requested"))
    assert keeper.standing.data == Data(held=(3,), gone=(4,))
    keeper.on_trial(order=held(2)).migrated()
    assert keeper.standing.data.gone == ()
    assert isinstance(keeper.standing.state, Trial)


def test_an_unknown_trial_is_shown_nothing() -> None:
    keeper = Keeper()
    keeper.tell(boot("boot-2", Slot.B, outcome=BootOutcome.TRIAL, trial_id="whose"))
    assert keeper.done == ["GiveUp", "Reboot"]


def test_a_trial_that_comes_back_from_a_failed_retreat_keeps_the_data_of_what_runs() -> None:
    keeper = Keeper().at_four()
    keeper.tell(ev.RollbackAsked(reason=Reason(kind="rolled-back-locally")))
    keeper.tell(ev.PreviousVerified(sha256="1" * 64, intact=True, nonce="retreat"))
    keeper.reboot_into_trial("boot-5")
    assert keeper.shown() == [3]
    keeper.tell(boot("boot-6", Slot.B, outcome=BootOutcome.FELL_BACK, trial_id="retreat", cause="trial-deadline"))
    assert isinstance(keeper.standing.state, Failed)
    assert keeper.shown() == [4]
    assert keeper.removed() == []
