"""Patch sets on a private dpkg root: staged, installed, committed, led back; by real apt and dpkg."""

import pytest

from device_agent.packages.ladder import Phase
from device_agent.ports import BootOutcome, Slot
from firmware.errors import RefusedError
from simulator.debs import build_deb
from tests.device_agent.packages.bed import Bed

OLD = {"alpha": "1.0", "beta": "1.0", "conf": "1.0", "gamma": "1.0"}


def test_a_set_is_installed_committed_and_gone_back_from(bed: Bed) -> None:
    bed.mark("auto", "alpha")
    bed.stage(bed.set_of("alpha=2.0", "beta=2.0", "extra=1.0", install=["extra"]))
    assert bed.versions() == OLD
    bed.boot.try_slot(Slot.B, "first", deadline_s=60)
    seen: list[float] = []
    assert bed.boot.switch(lambda share, text: seen.append(share))
    status = bed.boot.status()
    assert (status.outcome, status.slot, status.trial_id) == (BootOutcome.TRIAL, Slot.B, "first")
    assert bed.versions() == OLD | {"alpha": "2.0", "beta": "2.0", "extra": "1.0"}
    assert seen == sorted(seen)
    assert seen[-1] > 0.5
    assert bed.mark("showauto").split() == ["alpha"]
    bed.boot.commit("first")
    assert (bed.boot.status().outcome, bed.boot.status().slot) == (BootOutcome.NORMAL, Slot.B)
    assert bed.boot.committed("first")
    bed.boot.try_slot(Slot.A, "second", deadline_s=60)
    assert bed.boot.switch(lambda share, text: None)
    assert bed.versions() == OLD
    bed.boot.commit("second")
    assert bed.boot.status().slot is Slot.A
    assert bed.store.names() == []
    assert bed.audit() == ""


def test_a_failing_postinst_leads_back_and_says_what_failed(bed: Bed) -> None:
    bed.offer(build_deb(bed.folder, "beta", "3.0", scripts={"postinst": "echo no good; exit 7"}))
    bed.stage(bed.set_of("alpha=2.0", "beta=3.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    assert bed.boot.switch(lambda share, text: None)
    status = bed.boot.status()
    assert (status.outcome, status.slot, status.cause) == (BootOutcome.FELL_BACK, Slot.A, "package-failed")
    assert "beta" in status.text
    assert "exit status 7" in status.text
    assert bed.versions() == OLD
    assert bed.audit() == ""
    assert bed.store.names() == []


def test_a_trial_that_is_given_up_leads_back(bed: Bed) -> None:
    bed.stage(bed.set_of("alpha=2.0", "beta=2.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    bed.boot.switch(lambda share, text: None)
    bed.boot.give_up("one")
    bed.open()
    assert bed.boot.resume()
    assert bed.boot.status().outcome is BootOutcome.FELL_BACK
    assert bed.versions() == OLD
    ended = bed.transactions.ledger.ended
    assert ended is not None
    assert ended.phase is Phase.FELL_BACK


@pytest.mark.parametrize(
    ("named", "kind"), [(["beta=2.0"], "plan-differs"), (["alpha=2.0", "hater=1.0"], "plan-differs")]
)
def test_what_wants_more_than_the_set_is_refused_before_anything_is_fetched(
    bed: Bed, named: list[str], kind: str
) -> None:
    bed.offer(build_deb(bed.folder, "hater", "1.0", fields="Conflicts: gamma\n"))
    with pytest.raises(RefusedError) as caught:
        bed.stage(bed.set_of(*named, install=["hater"]))
    assert caught.value.kind == kind
    assert bed.store.names() == []
    assert bed.versions() == OLD


@pytest.mark.parametrize(("is_certain", "outcome"), [(True, BootOutcome.FELL_BACK), (False, BootOutcome.TRIAL)])
def test_a_restart_in_vain_counts_only_where_it_is_certain(bed: Bed, is_certain: bool, outcome: BootOutcome) -> None:
    bed.host.why_restart, bed.host.is_certain, bed.host.services = "a new kernel", is_certain, ["ssh.service"]
    bed.stage(bed.set_of("alpha=2.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    assert not bed.boot.switch(lambda share, text: None)
    assert bed.host.restarted == []
    bed.host.boot += 1
    bed.open()
    assert bed.boot.resume()
    assert bed.boot.status().outcome is outcome
    assert bed.host.restarted == ([] if is_certain else ["ssh.service"])
    assert bed.host.restarts == 1
