"""Two agents on one journal: until its commit the new one writes what the old one reads; after a rollback the old one reads
what the new one left, up to the last report."""

import json

import msgspec
import pytest
from msgspec.structs import replace

from device_agent.core.states import Committed, Standing
from device_agent.core.values import Content, Goal
from device_agent.journal import Record, decode, encode
from device_agent.lineage import OWN, Body, Lineage, Reader, Step, forms_of, on_trial
from device_agent.outbox import Outbox
from device_agent.ports import BootOutcome, BootStatus, Slot
from firmware.errors import RefusedError
from tests.device_agent.core.playbook import Player, content

OLD_IMAGE, NEW_IMAGE = "a" * 64, "b" * 64


def _up(body: Body) -> Body:
    return {**body, "inventory_hash": f"two:{body['inventory_hash']}"}


def _down(body: Body) -> Body:
    return {**body, "inventory_hash": body["inventory_hash"].removeprefix("two:")}


TWO = Lineage(schema=2, steps={2: Step(up=_up, down=_down)})
THREE = Lineage(
    schema=3,
    steps={
        **TWO.steps,
        3: Step(up=lambda body: {**body, "trusted_time": body["trusted_time"] + 0.5}, down=lambda body: dict(body)),
    },
)


def standing(slot: Slot, outcome: BootOutcome = BootOutcome.NORMAL, **slots: Content) -> Standing:
    status = BootStatus(
        boot_id="boot", slot=slot, outcome=outcome, trial_id="t" if outcome is BootOutcome.TRIAL else None
    )
    return Standing(boot=status, slots={Slot(name): one for name, one in slots.items()})


def old_image() -> Content:
    return replace(content("1.0", 1), sha256=OLD_IMAGE, good=True)


def new_image(*, good: bool) -> Content:
    return replace(content("2.0", 2), sha256=NEW_IMAGE, good=good)


def record(stands: Standing, **values: object) -> Record:
    return Record(standing=stands, outbox=Outbox(journal="j", next_seq=7), trusted_time=5.0, **values)


def schemas(data: bytes) -> tuple[int, int | None]:
    """The schema that an old agent reads in the file, and the later one beside it."""
    held = json.loads(data)
    later = held.get("later")
    return held["record"]["schema"], None if later is None else later["schema"]


def left_by_one() -> bytes:
    """What the old agent has in slot A when it has staged the new image in B."""
    stands = standing(Slot.A, A=old_image(), B=new_image(good=False))
    return encode(record(stands, inventory_hash="h"))


def in_trial() -> bytes:
    found = decode(left_by_one(), TWO)
    stands = standing(Slot.B, BootOutcome.TRIAL, A=old_image(), B=new_image(good=False))
    return encode(replace(found, standing=stands), TWO, found=1)


def committed(**slots: Content) -> bytes:
    found = decode(in_trial(), TWO)
    stands = standing(Slot.B, **(slots or {"A": old_image(), "B": new_image(good=True)}))
    box = replace(found.outbox, next_seq=9)
    return encode(replace(found, standing=stands, outbox=box, inventory_hash="two:new"), TWO, found=1)


def test_in_its_trial_a_new_agent_writes_only_what_the_old_one_reads() -> None:
    assert decode(left_by_one(), TWO).inventory_hash == "two:h"
    assert schemas(in_trial()) == (1, None)
    assert decode(in_trial()).inventory_hash == "h"


def test_after_the_commit_both_read_it_and_the_old_one_finds_the_last_report() -> None:
    data = committed()
    assert schemas(data) == (1, 2)
    assert decode(data).inventory_hash == "new"
    assert decode(data, TWO).inventory_hash == "two:new"
    assert decode(data).outbox.next_seq == decode(data, TWO).outbox.next_seq == 9


def test_what_both_have_is_stored_once() -> None:
    data = committed()
    assert b"next_seq" in data
    assert data.count(b"next_seq") == 1


def test_old_form_goes_once_the_old_slot_holds_another_image() -> None:
    still = {"B": new_image(good=True)}
    assert schemas(committed(**still)) == (1, 2), "being overwritten, it may still be booted"
    staged = {"A": replace(old_image(), sha256="c" * 64, good=False), "B": new_image(good=True)}
    assert schemas(committed(**staged)) == (2, None)


def test_the_old_agent_goes_on_from_what_the_new_one_left_and_the_new_one_from_that() -> None:
    found = decode(committed())
    back = encode(
        replace(found, standing=standing(Slot.A, A=old_image(), B=new_image(good=True)), inventory_hash="old")
    )
    assert schemas(back) == (1, None)
    assert decode(back, TWO).inventory_hash == "two:old"


def test_a_step_is_passed_over_for_an_agent_two_schemas_older() -> None:
    found = decode(left_by_one(), THREE)
    assert found.trusted_time == 5.5
    stands = standing(Slot.B, A=old_image(), B=new_image(good=True))
    data = encode(replace(found, standing=stands), THREE, found=1)
    assert schemas(data) == (1, 3)
    assert decode(data, THREE) == replace(found, standing=stands, readers=decode(data, THREE).readers)
    assert decode(data).inventory_hash == "h"


def test_an_agent_between_the_two_takes_the_older_form() -> None:
    found = decode(left_by_one(), THREE)
    stands = standing(Slot.B, A=old_image(), B=new_image(good=True))
    data = encode(replace(found, standing=stands), THREE, found=1)
    assert decode(data, TWO).inventory_hash == "two:h"


def test_two_parts_that_do_not_belong_together_are_refused() -> None:
    held, other = json.loads(committed()), json.loads(committed())
    other["later"]["changes"]["inventory_hash"] = "two:forged"
    for swapped in ({**held, "later": {**held["later"], "checksum": "0" * 64}}, other):
        with pytest.raises(RefusedError, match="belong together"):
            decode(msgspec.json.encode(swapped), TWO)


def test_a_journal_that_tells_of_no_readers_is_kept_as_it_was_found() -> None:
    trial = standing(Slot.B, BootOutcome.TRIAL, A=old_image(), B=new_image(good=False))
    assert forms_of({}, trial, 2, found=1) == (1,)
    assert forms_of({Slot.A: Reader(schema=3)}, trial, 2, found=2) == (2,), (
        "a later schema than our own can't be written"
    )
    assert forms_of({}, standing(Slot.A), 2, found=2) == (2,)


def test_what_is_on_trial() -> None:
    assert on_trial(standing(Slot.B, BootOutcome.TRIAL, A=old_image(), B=new_image(good=False)))
    assert on_trial(standing(Slot.B, BootOutcome.TRIAL)), "of an unknown trial nothing is known"
    player = Player().trial()
    assert on_trial(player.standing)
    done = Player().committed().standing
    assert isinstance(done.state, Committed)
    assert done.boot.outcome is BootOutcome.TRIAL
    assert not on_trial(done)
    assert isinstance(done.state.goal, Goal)


def test_a_rollback_into_a_slot_that_ran_well_is_on_trial_too() -> None:
    state = Player().trial().standing
    good = {slot: replace(one, good=True) for slot, one in state.slots.items()}
    assert on_trial(replace(state, slots=good))


def test_a_lineage_without_a_step_is_a_defect() -> None:
    with pytest.raises(ValueError, match="schema 2"):
        Lineage(schema=2, steps={})
    assert OWN.schema == 1 or set(OWN.steps) == set(range(2, OWN.schema + 1))
