"""A new agent with another journal schema, and the old one again, with the power cut at every durable operation.

Whatever is cut, nobody begins a new journal: all reports come from one, each number once, and no counter falls (the world's
server checks that). In its trial the new agent leaves the journal in the old one's schema.
"""

import json
import os
from functools import partial

import pytest

from device_agent.core.states import Committed, FellBack
from device_agent.journal import JOURNAL_FILE
from device_agent.lineage import OWN
from device_agent.ports import BootOutcome, Link
from device_agent.runtime import Runtime
from firmware.protocol.words import Action
from tests.crash.disk import Cut, Disk, PowerCut
from tests.crash.world import BOARD, World
from tests.device_agent.test_journal_lineage import TWO

HOWS = ("before", "torn", "after")
KEEPS = ("none", "all", "but-one", "odd")
DEEP = os.environ.get("CRASH") == "deep"
JOURNAL = BOARD.agent / JOURNAL_FILE


class TwoAgents(World):
    """The agent in the slot with version 2.0 writes schema 2."""

    def _agent(self, link: Link | None = None) -> Runtime:
        lineage = TWO if self.running_version() == "2.0" else OWN
        self.runtime_class = partial(Runtime, lineage=lineage)  # type: ignore[assignment]
        return super()._agent(link)

    def _one_boot(self, ended):  # type: ignore[no-untyped-def]
        over = super()._one_boot(ended)
        if self.boots[-1].outcome is BootOutcome.TRIAL and self._state().trial is not None:
            assert json.loads(self.disk.files[JOURNAL])["record"]["schema"] == 1, "a trial that isn't committed"
        return over


def there_and_back(*, faulty: bool = False) -> TwoAgents:
    return TwoAgents(faulty={"2.0"} if faulty else set())


def run(world: TwoAgents) -> None:
    """To 2.0; and where that is good, back again."""
    if not world.server.orders:
        world.server.order(Action.INSTALL, world.new)
    if len(world.server.orders) == 1:
        world.run()
        if "2.0" in world.faulty:
            return
        assert world.running_version() == "2.0"
        held = json.loads(world.disk.files[JOURNAL])
        assert (held["record"]["schema"], held["later"]["schema"]) == (1, 2)
        world.server.order(Action.ROLLBACK)
    world.run()


def assert_whole(world: TwoAgents) -> None:
    assert world.running_version() == "1.0"
    assert world.runtime is not None
    assert isinstance(world.runtime.standing.state, FellBack if "2.0" in world.faulty else Committed)
    assert len({report.journal for report in world.server.told}) == 1, "nobody began a new journal"
    held = json.loads(world.disk.files[JOURNAL])
    assert held["record"]["schema"] == 1


@pytest.mark.parametrize("faulty", [False, True])
def test_clean_run_goes_there_and_back_on_one_journal(faulty: bool) -> None:
    world = there_and_back(faulty=faulty)
    run(world)
    assert_whole(world)


@pytest.mark.parametrize("faulty", [False, True])
def test_power_cut_at_every_operation_leaves_a_journal_that_the_agent_in_the_slot_reads(faulty: bool) -> None:
    clean = there_and_back(faulty=faulty)
    run(clean)
    for at in range(1, len(clean.disk.trace) + 1):
        for number, how in enumerate(HOWS):
            if not DEEP and number != at % len(HOWS):
                continue
            world = there_and_back(faulty=faulty)
            world.disk = Disk(world.disk.files, Cut(at=at, how=how))
            try:
                run(world)
            except PowerCut:
                world.after_cut(KEEPS[(at // 2 + number) % len(KEEPS)])
                run(world)
            assert_whole(world)
