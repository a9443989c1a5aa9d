"""A whole update through the real runtime, with the power cut before, in and after every durable operation, with every boot
loader; and a second time at every operation of the recovery.

Every medium that a cut may leave is looked at. `CRASH=deep` also goes on from every one, and cuts twice everywhere in the small
scenario; otherwise a fixed share is gone on from.
"""

import pytest

from tests.crash.conftest import DEEP, Tally
from tests.crash.disk import Cut, Medium, Op, PowerCut, System
from tests.crash.explore import Explorer, every
from tests.crash.loaders import LOADERS
from tests.crash.scenarios import SCENARIOS

MAIN = "full"
FIRST_SHARE = 1 if DEEP else 3
LARGE_SHARE = 1 if DEEP else 4
TWICE = ["full", "over the previous", "ordered rollback", "faulty", "offline bundle"]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.timeout(3600)
def test_a_power_cut_anywhere(scenario: str, loader: str, tally: Tally) -> None:
    wanted = SCENARIOS[scenario]
    share = FIRST_SHARE if wanted.cost == 1 else wanted.cost * LARGE_SHARE
    explorer = Explorer(wanted, LOADERS[loader]())
    tally(scenario, loader, explorer.explore(every(share)))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("scenario", [name for name, one in SCENARIOS.items() if one.cost == 1] if DEEP else TWICE)
@pytest.mark.timeout(7200)
def test_a_second_power_cut_while_it_recovers(scenario: str, loader: str, tally: Tally) -> None:
    explorer = Explorer(SCENARIOS[scenario], LOADERS[loader]())
    if DEEP and scenario == MAIN:
        count = explorer.explore(seconds=every(1))
    elif DEEP:
        count = explorer.explore(every(20, seed=7), seconds=every(10, seed=3))
    else:
        count = explorer.explore(every(60, seed=7), seconds=every(30, seed=3))
    tally(f"{scenario}, twice", loader, count)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("scenario", ["full", "over the previous"])
def test_what_is_noted_in_passing_is_what_a_machine_leaves_whose_power_goes(scenario: str, loader: str) -> None:
    """The machine's port is dead then: what `finally` blocks still try changes nothing."""
    explorer = Explorer(SCENARIOS[scenario], LOADERS[loader]())
    noted: dict[Cut, dict[str, Medium]] = {}

    def note(system: System, op: Op, is_done: bool) -> None:
        outcomes = dict(system.outcomes(None if is_done else op, op.at))
        how = "after" if is_done else "half" if op.kind == "half a rename" else "before"
        noted[Cut(at=op.at, how=how)] = {label: medium for label, medium in outcomes.items() if "torn" not in label}
        for label, medium in outcomes.items():
            if label.startswith("torn-") and how == "before":
                noted[Cut(at=op.at, how="torn", torn=int(label[5:]))] = {"all": medium}

    explorer.lay(explorer.origin)
    explorer.world.disk.system.watch = note
    explorer.world.run()
    tried = 0
    for number, (cut, outcomes) in enumerate(noted.items()):
        if number % (1 if DEEP else 4):
            continue
        explorer.lay(explorer.origin)
        system = explorer.world.disk.system
        system.cut = cut
        with pytest.raises(PowerCut):
            explorer.world.run()
        left = dict(system.outcomes(None, cut.at))
        left.setdefault("all", left["none"])
        assert outcomes.items() <= left.items(), cut
        tried += system.calls_when_off
        with pytest.raises(PowerCut):
            system.stat("/board")
        assert dict(system.outcomes(None, cut.at)).items() <= left.items()
    assert tried, "no finally block tried anything"
