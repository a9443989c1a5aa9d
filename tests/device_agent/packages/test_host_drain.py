"""A host is out of service while its packages change, and comes back whatever happens: by real apt and dpkg."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from device_agent.drain.port import failed
from device_agent.effects import FileEffects
from device_agent.packages.ladder import Ledger, Phase, Route, Transaction
from device_agent.packages.survey import Survey
from device_agent.ports import BootOutcome, Slot
from tests.device_agent.packages.bed import Bed
from tests.device_agent.packages.faults import CutEffects, PowerCut

OLD = {"alpha": "1.0", "beta": "1.0", "conf": "1.0", "gamma": "1.0"}
NEW = OLD | {"gamma": "2.0"}


class Service:
    """`Drainer` over something that remembers: outlives the agent, as a load balancer does."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.is_in = True
        self.told: list[tuple[str, str, str]] = []
        self.fails: set[str] = set()
        self.meanwhile: Callable[[], None] = lambda: None

    def drain(self, trial_id: str) -> None:
        self._one("drain", trial_id, False)

    def undrain(self, trial_id: str) -> None:
        self._one("undrain", trial_id, True)

    def _one(self, verb: str, trial_id: str, is_in: bool) -> None:
        self.told.append((verb, trial_id, self._bed.versions()["gamma"]))
        if verb in self.fails:
            raise failed(f"{verb} does not work today")
        self.is_in = is_in
        self.meanwhile()


@pytest.fixture
def service(bed: Bed) -> Service:
    one = Service(bed)
    bed.drainer = one
    bed.open()
    return one


def look(bed: Bed) -> dict[str, str]:
    survey = Survey(bed.transactions)
    survey.look()
    return survey.labels({})


def begun(bed: Bed) -> None:
    bed.stage(bed.set_of("gamma=2.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    assert bed.boot.switch(lambda share, text: None)


def test_it_goes_before_anything_changes_and_comes_back_after_the_commit(bed: Bed, service: Service) -> None:
    begun(bed)
    assert (service.is_in, bed.versions()) == (False, NEW)
    assert Survey(bed.transactions).look(), "nothing is to be brought back"
    assert not service.is_in, "the trial isn't over"
    bed.boot.commit("one")
    assert look(bed)["drained"] == "no"
    assert service.told == [("drain", "one", "1.0"), ("undrain", "one", "2.0")]
    look(bed)
    assert len(service.told) == 2


def test_who_can_not_be_drained_is_not_touched_and_comes_back(bed: Bed, service: Service) -> None:
    service.fails = {"drain"}
    begun(bed)
    status = bed.boot.status()
    assert (status.outcome, status.cause) == (BootOutcome.FELL_BACK, "drain-failed")
    assert "does not work today" in status.text
    assert bed.versions() == OLD
    look(bed)
    assert service.told == [("drain", "one", "1.0"), ("undrain", "one", "1.0")]


def test_who_is_led_back_comes_back_afterwards(bed: Bed, service: Service) -> None:
    begun(bed)
    bed.boot.give_up("one")
    bed.open()
    assert bed.boot.resume()
    look(bed)
    assert service.told == [("drain", "one", "1.0"), ("undrain", "one", "1.0")]
    assert (service.is_in, bed.versions()) == (True, OLD)


def test_what_can_not_be_brought_back_is_tried_again_and_shows(bed: Bed, service: Service) -> None:
    begun(bed)
    bed.boot.commit("one")
    service.fails = {"undrain"}
    assert look(bed)["drained"] == "yes"
    assert not Survey(bed.transactions).look(), "it is to be tried again soon"
    service.fails = set()
    bed.open()
    assert look(bed)["drained"] == "no"
    assert service.is_in


def test_what_is_neither_the_new_set_nor_the_old_stays_out(bed: Bed, service: Service) -> None:
    route = Route(slot=Slot.B, document="", plan="", moves=())
    ended = Transaction(trial_id="one", route=route, phase=Phase.STUCK)
    bed.transactions.change(lambda ledger: replace(ledger, ended=ended, drained="one"))
    assert look(bed)["drained"] == "yes"
    assert service.told == []


def test_a_slot_that_is_retired_forgets_no_debt(bed: Bed, service: Service) -> None:
    bed.transactions.change(lambda ledger: Ledger(slot=ledger.slot, drained="one"))
    bed.boot.retire(Slot.B)
    assert bed.transactions.ledger.drained == "one"


@pytest.mark.parametrize("after", [False, True])
def test_whenever_the_agent_is_killed_the_host_ends_in_service_with_one_whole_set(
    bed: Bed, service: Service, after: bool
) -> None:
    """At every write of the ledger, until there is one that is never reached."""
    for moment in range(1, 40):
        bed.stage(bed.set_of("gamma=2.0"))
        bed.effects = CutEffects(bed.folder / "cut", at=moment, after=after)
        bed.open()
        name = f"trial-{moment}"
        try:
            bed.boot.try_slot(Slot.B, name, deadline_s=60)
            bed.boot.switch(lambda share, text: None)
            bed.boot.commit(name)
            look(bed)
            is_over = True
        except PowerCut:
            is_over = False
        bed.effects = FileEffects()
        bed.open()
        bed.boot.resume()
        ledger = bed.transactions.ledger
        if ledger.transaction is not None and ledger.transaction.phase is Phase.ARMED:
            bed.boot.switch(lambda share, text: None)
        if bed.boot.status().outcome is BootOutcome.TRIAL:
            assert not service.is_in, moment
            bed.boot.commit(name)
        look(bed)
        assert service.is_in, moment
        assert bed.transactions.ledger.drained == "", moment
        assert bed.versions() in (OLD, NEW), moment
        if bed.versions() == NEW:
            assert bed.transactions.ledger.slot is Slot.B
            bed.boot.try_slot(Slot.A, f"back-{moment}", deadline_s=60)
            bed.boot.switch(lambda share, text: None)
            bed.boot.commit(f"back-{moment}")
            look(bed)
        if is_over:
            assert moment > 6
            return
    raise AssertionError("it never ran to its end")
